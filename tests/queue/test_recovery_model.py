"""Random days with a TSE that fails at random calls: at the end every transaction is accounted for."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiskal.errors import ReceiptRejected
from fiskal.export.verify import verify_journal
from fiskal.queue.settings import QueueSettings
from fiskal.scu.errors import OutcomeUnknown, Unreachable
from tests.support.shop import DE, Shop

DOWN = Unreachable("CONNECT_FAILED", "The TSE is not available.")
LOST = OutcomeUnknown("NO_RESPONSE", "no answer came")

REFERENCES = st.sampled_from("ABC")
FAULTS = st.sampled_from([(DOWN, False), (LOST, False), (LOST, True)])
STEPS = st.one_of(
    st.tuples(st.sampled_from(["sale", "start", "update", "finish", "fail"]), REFERENCES),
    st.tuples(st.sampled_from(["zero", "monthly", "daily", "restart"]), st.just("")),
    st.tuples(st.just("fault"), st.tuples(st.integers(0, 3), FAULTS)),
)


def do(shop: Shop, what: str, given_: Any) -> dict[str, Any] | None:
    match what:
        case "fault":
            number, (error, after) = given_
            shop.tse.fail_nth(number, error, after=after)
            return None
        case "restart":
            shop.reopen()
            return None
        case "sale":
            return shop.sale(f"S-{given_}")
        case "start":
            return shop.send(0x08, given_)
        case "update":
            return shop.send(0x09, given_)
        case "finish":
            return shop.sale(given_, flow="explicit")
        case "fail":
            return shop.send(0x0B, given_)
        case _:
            return shop.send({"zero": 0x02, "monthly": 0x05, "daily": 0x07}[what], what)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, max_size=14), budget=st.sampled_from([0, 60]))
def test_no_day_leaves_a_transaction_behind(steps: list[tuple[str, Any]], budget: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop(Path(folder), settings=QueueSettings(recovery_budget_s=budget))
        try:
            errors = 0
            for what, given_ in steps:
                failed = shop.row.SSCDFailCount
                try:
                    answer = do(shop, what, given_)
                except ReceiptRejected:
                    errors += 1
                    continue
                if answer is None:
                    continue
                assert answer["ftState"] in (DE, DE + 2)
                if failed and not shop.row.SSCDFailCount:
                    assert what == "zero"  # nothing else leaves failed mode
                    assert answer["ftState"] == DE
            shop.tse.calm()
            for _ in range(10):
                if shop.send(0x02, "last")["ftState"] == DE:
                    break
            assert shop.row.SSCDFailCount == 0
            assert shop.send(0x07, "end of day")["ftState"] == DE
            store, row = shop.middleware.store, shop.row
            assert shop.open_on_tse() == []
            assert store.open_transactions(row.queue_no) == []
            assert store.failed_starts(row.queue_no) == store.failed_finishes(row.queue_no) == []
            assert store.doubtful_starts(row.queue_no) == []
            assert store.undelivered(row.queue_no) == []
            report = verify_journal(store, row)
            assert report.ok, report.problems
            assert report.counts["errors"] == errors
        finally:
            shop.close()
