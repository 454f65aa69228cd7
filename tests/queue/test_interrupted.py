"""A process that dies between the acceptance of a receipt and its answer: what the TSE signed gets its answer, and
what it did not sign is not signed behind the POS's back."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fiskal.errors import ReceiptRejected
from fiskal.export.verify import verify_journal
from fiskal.host.middleware import Middleware
from fiskal.queue.binding import ScuBinding
from fiskal.queue.interruptions import RESEND_WITHIN_TICKS
from fiskal.queue.work import ABORTED_BASE64
from fiskal.scu.contract import EMPTY_GUID, FinishTransactionRequest, Scu, TseStates
from fiskal.scu.errors import Unreachable
from fiskal.tse.verify import verify_qr
from tests.support.shop import DE, DyingStore, FaultyScu, Shop, captions, data_of

BYPASS_TAR_EXPORT = 0x0400_0000
DOWN = Unreachable("CONNECT_FAILED", "The TSE is not available.")


class Death(BaseException):
    """The process dies here."""


def die(shop: Shop, call: str, *, after: bool, send: Callable[[], Any]) -> None:
    (shop.tse.fail_after if after else shop.tse.fail_before)(call, Death())
    with pytest.raises(Death):
        send()
    shop.reopen()


@contextlib.contextmanager
def die_in_store(shop: Shop, commits: int) -> Iterator[None]:
    """The process dies at a commit, after so many others."""
    queue = shop.middleware.queue(shop.queue_id)
    queue.journal.store = DyingStore(queue.journal.store, commits, Death())  # type: ignore[assignment]
    with pytest.raises(Death):
        yield
    shop.reopen()


def signatures(shop: Shop) -> int:
    return int(shop.tse.scu.get_tse_info().current_number_of_signatures)


def check(shop: Shop, errors: int) -> None:
    report = verify_journal(shop.middleware.store, shop.row)
    assert report.ok, report.problems
    assert report.counts["errors"] == errors


def sale(shop: Shop) -> dict[str, Any]:
    return shop.sale("S-1")


def order(shop: Shop) -> dict[str, Any]:
    return shop.send(0x10, "O-1")


def zero(shop: Shop) -> dict[str, Any]:
    return shop.send(0x02, "Z-1")


def daily(shop: Shop) -> dict[str, Any]:
    return shop.send(0x07 | BYPASS_TAR_EXPORT, "D-1")  # erasing would be one signature more


KINDS = pytest.mark.parametrize("kind", [sale, order, zero, daily])


def ask(shop: Shop, request: dict[str, Any]) -> Any:
    """The receipt request for ``request``."""
    return shop.post({**request, "ftReceiptCase": request["ftReceiptCase"] | 0x8000_0000_0000})


def last_request(shop: Shop) -> dict[str, Any]:
    return dict(json.loads(shop.journal(3)[-1]["request"]))


# ---- what the TSE signed gets its answer -------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("asks", [True, False], ids=["asks", "sends again"])
def test_a_receipt_the_tse_had_signed_gets_its_answer(
    shop: Shop, kind: Callable[[Shop], dict[str, Any]], asks: bool
) -> None:
    before = signatures(shop)
    die(shop, "finish_transaction", after=True, send=lambda: kind(shop))
    check(shop, 0)
    answer = ask(shop, last_request(shop)) if asks else kind(shop)
    assert answer["ftState"] == DE
    assert answer["ftQueueRow"] == 2
    assert answer["ftReceiptIdentification"] == "ft1#IT2"
    assert json.loads(shop.journal(3)[-1]["response"]) == answer
    assert signatures(shop) == before + 2
    assert shop.open_on_tse() == shop.open_references() == []
    assert kind(shop)["ftReceiptIdentification"] == "ft2#IT3"  # once heard, the same request is a new one
    check(shop, 0)


def test_the_completed_answer_is_the_one_that_was_lost(shop: Shop) -> None:
    heard = shop.sale("S-1")
    die(shop, "finish_transaction", after=True, send=lambda: shop.sale("S-2"))
    found = shop.sale("S-2")
    assert captions(found) == captions(heard)
    assert data_of(found, "<transaktions-nummer>") == "3"
    assert verify_qr(data_of(found, "www.fiskaltrust.de")).valid


@pytest.mark.parametrize("step", ["start", "update", "finish", "fail"])
def test_an_explicit_step_the_tse_had_signed_gets_its_answer(shop: Shop, step: str) -> None:
    steps: dict[str, tuple[str, Callable[[], Any], str]] = {
        "start": ("start_transaction", lambda: shop.send(0x08, "E"), "ft1#ST2"),
        "update": ("update_transaction", lambda: shop.send(0x09, "E"), "ft2#UT2"),
        "finish": ("finish_transaction", lambda: shop.sale("E", flow="explicit"), "ft2#T2"),
        "fail": ("finish_transaction", lambda: shop.send(0x0B, "E"), "ft2#T2"),
    }
    call, send, identification = steps[step]
    if step != "start":
        shop.send(0x08, "E")
    die(shop, call, after=True, send=send)
    before = signatures(shop)
    assert ask(shop, last_request(shop))["ftReceiptIdentification"] == identification
    assert shop.open_references() == (["E"] if step in ("start", "update") else [])
    if step in ("start", "update"):
        assert shop.sale("E", flow="explicit")["ftState"] == DE
    assert signatures(shop) == before + (step in ("start", "update"))
    check(shop, 0)


def test_a_daily_closing_gets_its_answer_with_everything_it_closed(shop: Shop) -> None:
    for reference in ("A", "B"):
        shop.send(0x08, reference)
    heard = shop.send(0x07, "D-1")
    for reference in ("A", "B"):
        shop.send(0x08, reference)
    shop.tse.ignore("finish_transaction", 2)
    die(shop, "finish_transaction", after=True, send=lambda: shop.send(0x07, "D-2"))
    found = shop.send(0x07, "D-2")
    assert captions(found) == captions(heard)
    assert json.loads(found["ftStateData"])["DailyClosingNumber"] == 2
    assert shop.row.DailyClosingNumber == 2
    assert shop.open_references() == shop.open_on_tse() == []
    check(shop, 0)


def test_a_start_receipt_gets_its_answer(new_shop: Shop) -> None:
    die(new_shop, "finish_transaction", after=True, send=lambda: new_shop.send(0x03))
    assert new_shop.row.StartMoment is not None
    assert captions(new_shop.send(0x03))[-2] == "In-Betriebnahme-Beleg"
    assert sale(new_shop)["ftReceiptIdentification"] == "ft1#IT2"
    check(new_shop, 0)


def test_a_stop_receipt_that_was_signed_is_carried_through(shop: Shop) -> None:
    die(shop, "unregister_client_id", after=False, send=lambda: shop.send(0x04))
    assert shop.row.StopMoment is not None
    assert shop.tse.scu.get_tse_info().current_state == TseStates.TERMINATED
    assert captions(shop.send(0x04))[-2] == "Außer-Betriebnahme-Beleg"
    assert shop.sale()["ftState"] == DE + 1
    check(shop, 0)


def test_a_zero_receipt_that_left_failed_mode_gets_its_answer(shop: Shop) -> None:
    shop.tse.down = DOWN
    shop.send(0x08, "late")
    shop.tse.down = None
    shop.tse.ignore("start_transaction", 1)
    die(shop, "start_transaction", after=True, send=lambda: zero(shop))
    found = zero(shop)
    assert found["ftState"] == DE
    assert captions(found)[15:17] == ["start-transaction-signature", captions(found)[16]]
    assert shop.row.SSCDFailCount == 0
    assert shop.open_references() == ["late"]
    check(shop, 0)


def test_a_zero_receipt_that_was_interrupted_keeps_what_it_started(shop: Shop) -> None:
    """A finish in failed mode must not take a start for one that never reached the TSE."""
    shop.tse.down = DOWN
    shop.send(0x08, "A")
    shop.send(0x08, "B")
    shop.tse.down = None
    shop.tse.ignore("start_transaction", 2)  # its own, and A's
    die(shop, "start_transaction", after=False, send=lambda: zero(shop))
    assert shop.open_on_tse() == [3]
    assert shop.open_references() == ["A"]
    assert shop.sale("A", flow="explicit")["ftState"] == DE + 2
    again = zero(shop)
    assert again["ftReceiptIdentification"].endswith("#IT2")  # its own transaction was signed
    assert again["ftState"] == DE
    assert shop.open_references() == ["B"]
    check(shop, 1)


@pytest.mark.parametrize(
    ("flag", "state"), [(0x1_0000, 8), (0x8_0000, 0)], ids=["late signing", "handwritten"]
)
def test_a_receipt_that_needs_no_tse_gets_its_answer(shop: Shop, flag: int, state: int) -> None:
    with die_in_store(shop, commits=1):
        shop.sale("L", case=0x01 | flag)
    assert shop.sale("L", case=0x01 | flag)["ftQueueRow"] == 2
    assert json.loads(shop.journal(3)[-1]["response"])["ftState"] == DE + state
    assert shop.row.UsedFailedCount == (state == 8)
    assert "start_transaction" not in shop.tse.calls
    check(shop, 0)


def test_a_receipt_in_failed_mode_gets_its_answer(shop: Shop) -> None:
    shop.tse.down = DOWN
    shop.sale("first")
    with die_in_store(shop, commits=1):
        shop.sale("second")
    assert shop.row.SSCDFailCount == 2
    assert shop.sale("second")["ftState"] == DE + 2
    assert shop.row.SSCDFailCount == 2
    check(shop, 0)


def test_a_receipt_that_is_wrong_gets_its_error(shop: Shop) -> None:
    with die_in_store(shop, commits=1):
        shop.sale("nothing open", flow="explicit")
    assert "TRANSACTION_NOT_FOUND" in shop.journal(3)[-1]["response"]
    check(shop, 1)


# ---- what it had not signed is not signed later --------------------------------------------------------


@KINDS
@pytest.mark.parametrize(
    ("call", "after"),
    [("start_transaction", False), ("start_transaction", True), ("finish_transaction", False)],
)
@pytest.mark.parametrize("deaths", [1, 2])
def test_a_receipt_the_tse_had_not_signed_is_interrupted(
    shop: Shop, kind: Callable[[Shop], dict[str, Any]], call: str, after: bool, deaths: int
) -> None:
    before = signatures(shop)
    started = call == "finish_transaction" or after
    for _ in range(deaths):
        die(shop, call, after=after, send=lambda: kind(shop))
        assert ask(shop, last_request(shop)) is None
    assert shop.open_on_tse() == shop.open_references() == []
    aborted = [each for each in shop.actions() if "was closed as aborted" in each]
    assert len(aborted) == deaths * started
    answer = kind(shop)
    assert answer["ftState"] == DE
    assert answer["ftReceiptIdentification"] == f"ft1#IT{2 + deaths * started}"
    assert signatures(shop) == before + 2 + 2 * deaths * started
    check(shop, deaths)


def test_an_aborted_orphan_is_aborted_once(shop: Shop) -> None:
    """The process dies again while it closes what it left open."""
    shop.tse.fail_before("finish_transaction", Death())
    with pytest.raises(Death):
        shop.sale("S-1")
    before = signatures(shop)
    for _ in range(2):
        shop.close()
        with pytest.raises(Death):
            shop.open(lambda tse: tse.fail_after("finish_transaction", Death()))
    shop.reopen()
    assert signatures(shop) == before + 1
    assert shop.open_on_tse() == shop.open_references() == []
    check(shop, 1)


def test_an_orphan_that_cannot_be_closed_is_kept(shop: Shop) -> None:
    shop.tse.fail_before("finish_transaction", Death())
    with pytest.raises(Death):
        shop.sale("S-1")
    shop.close()
    shop.open(lambda tse: tse.fail_before("finish_transaction", DOWN))
    assert shop.open_references() == ["S-1"]
    assert shop.sale("S-1")["ftReceiptIdentification"] == "ft1#IT3"
    assert shop.open_on_tse() == shop.open_references() == []
    check(shop, 1)


@pytest.mark.parametrize("call", ["finish_transaction", "update_transaction"])
def test_what_the_pos_has_open_stays_open(shop: Shop, call: str) -> None:
    shop.send(0x08, "E")
    if call == "finish_transaction":
        die(shop, call, after=False, send=lambda: shop.sale("E", flow="explicit"))
    else:
        die(shop, call, after=False, send=lambda: shop.send(0x09, "E"))
    assert shop.open_references() == ["E"]
    assert shop.sale("E", flow="explicit")["ftReceiptIdentification"] == "ft2#T2"
    check(shop, 1)


def test_a_daily_closing_that_was_not_signed_keeps_what_it_closed(shop: Shop) -> None:
    for reference in ("A", "B"):
        shop.send(0x08, reference)
    die(shop, "finish_transaction", after=True, send=lambda: shop.send(0x07, "D"))
    assert shop.open_references() == ["B"]
    assert shop.row.DailyClosingNumber == 0
    assert json.loads(shop.send(0x07, "D")["ftStateData"])["DailyClosingNumber"] == 1
    assert shop.open_on_tse() == shop.open_references() == []
    check(shop, 1)


def test_a_closing_of_everything_that_was_not_signed_leaves_nothing_open(shop: Shop) -> None:
    """Its own transaction is open on the TSE as well, and is not one of those it closes."""
    shop.send(0x08, "A")
    shop.tse.ignore("finish_transaction", 1)
    die(shop, "finish_transaction", after=False, send=lambda: shop.send(0x07 | 0x2_0000_0000, "D"))
    assert shop.open_on_tse() == shop.open_references() == []
    assert shop.send(0x07 | 0x2_0000_0000, "D")["ftState"] == DE
    assert shop.row.DailyClosingNumber == 1
    check(shop, 1)


def test_another_request_is_no_repetition(shop: Shop) -> None:
    die(shop, "finish_transaction", after=True, send=lambda: shop.sale("S-1"))
    assert shop.sale("S-1", amount="8.00")["ftReceiptIdentification"] == "ft2#IT3"
    assert shop.sale("S-1")["ftReceiptIdentification"] == "ft1#IT2"
    check(shop, 0)


def test_deaths_of_two_registers(shop: Shop) -> None:
    for reference in ("A", "B"):
        die(shop, "finish_transaction", after=True, send=lambda reference=reference: shop.sale(reference))  # type: ignore[misc]
    before = signatures(shop)
    assert shop.sale("A")["ftReceiptIdentification"] == "ft1#IT2"
    assert shop.sale("B")["ftReceiptIdentification"] == "ft2#IT3"
    assert signatures(shop) == before
    check(shop, 0)


def test_after_a_while_a_repetition_is_a_new_receipt(shop: Shop) -> None:
    die(shop, "finish_transaction", after=True, send=lambda: shop.sale("S-1"))
    shop.clock.ticks += RESEND_WITHIN_TICKS
    assert shop.sale("S-1")["ftReceiptIdentification"] == "ft2#IT3"


def test_the_answer_is_remembered_over_restarts_until_it_is_heard(shop: Shop) -> None:
    die(shop, "finish_transaction", after=True, send=lambda: shop.sale("S-1"))
    shop.reopen()
    shop.sale("other")
    shop.reopen()
    assert shop.sale("S-1")["ftReceiptIdentification"] == "ft1#IT2"
    shop.reopen()
    assert shop.sale("S-1")["ftReceiptIdentification"] == "ft3#IT4"


# ---- the TSE cannot be asked ---------------------------------------------------------------------------


def die_and_open_without_tse(shop: Shop, call: str, *, after: bool, send: Callable[[], Any]) -> None:
    (shop.tse.fail_after if after else shop.tse.fail_before)(call, Death())
    with pytest.raises(Death):
        send()
    shop.close()

    def unplug(tse: FaultyScu) -> None:
        tse.down = DOWN

    shop.open(unplug)


@KINDS
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", ["start_transaction", "finish_transaction"])
@pytest.mark.parametrize("deaths", [1, 2])
def test_an_undecided_receipt_sent_again_is_signed_once(
    shop: Shop, kind: Callable[[Shop], dict[str, Any]], call: str, after: bool, deaths: int
) -> None:
    before = signatures(shop)
    for _ in range(deaths):
        die_and_open_without_tse(shop, call, after=after, send=lambda: kind(shop))
        shop.tse.down = None
    answer = kind(shop)
    assert answer["ftState"] == DE
    assert answer["ftQueueRow"] == 2 + deaths
    assert answer["ftReceiptIdentification"] == "ft1#IT2"
    assert signatures(shop) == before + 2
    assert shop.open_on_tse() == []
    check(shop, deaths)
    assert kind(shop)["ftReceiptIdentification"] == "ft2#IT3"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", ["start_transaction", "finish_transaction"])
def test_an_undecided_receipt_is_decided_when_the_tse_is_back(shop: Shop, call: str, after: bool) -> None:
    before = signatures(shop)
    die_and_open_without_tse(shop, call, after=after, send=lambda: shop.sale("S-1"))
    assert shop.sale("S-2")["ftState"] == DE + 2
    shop.tse.down = None
    assert zero(shop)["ftState"] == DE
    assert shop.open_on_tse() == []
    signed = 0 if call == "start_transaction" and not after else 2
    assert signatures(shop) == before + 2 + signed
    again = shop.sale("S-1")
    assert again["ftState"] == DE
    finished = call == "finish_transaction" and after
    assert signatures(shop) == before + 2 + signed + (0 if finished else 2)
    check(shop, 1)


@pytest.mark.parametrize("elsewhere", [True, False], ids=["by another", "by an earlier pass"])
def test_an_undecided_receipt_whose_transaction_was_closed_begins_anew(shop: Shop, elsewhere: bool) -> None:
    die_and_open_without_tse(shop, "start_transaction", after=True, send=lambda: shop.sale("S-1"))
    shop.tse.down = None
    (item,) = [row["ftQueueItemId"] for row in shop.journal(3) if row["cbReceiptReference"] == "S-1"]
    (number,) = shop.open_on_tse()
    shop.tse.scu.finish_transaction(
        FinishTransactionRequest(
            client_id="POS-1",
            transaction_number=number,
            process_type="Kassenbeleg-V1",
            process_data_base64=ABORTED_BASE64,
            queue_item_id=EMPTY_GUID if elsewhere else item,
        )
    )
    assert shop.sale("S-1")["ftReceiptIdentification"] == "ft1#IT3"
    assert shop.row.SSCDFailCount == 0
    check(shop, 1)


def test_an_undecided_receipt_that_is_answered_without_the_tse_is_not_forgotten(shop: Shop) -> None:
    die_and_open_without_tse(shop, "start_transaction", after=True, send=lambda: shop.sale("S-1"))
    assert shop.sale("S-1")["ftState"] == DE + 2
    shop.reopen()
    assert shop.open_on_tse() == [2]
    assert zero(shop)["ftState"] == DE
    assert shop.open_on_tse() == []
    check(shop, 1)


def test_an_undecided_start_recovered_by_a_zero_receipt_is_not_closed(shop: Shop) -> None:
    die_and_open_without_tse(shop, "start_transaction", after=True, send=lambda: shop.send(0x08, "E"))
    assert shop.send(0x08, "E")["ftState"] == DE + 2
    shop.tse.down = None
    assert zero(shop)["ftState"] == DE
    assert shop.open_on_tse() == [2]
    assert shop.sale("E", flow="explicit")["ftReceiptIdentification"].endswith("#T2")
    check(shop, 1)


def test_an_undecided_start_is_closed_when_nobody_sends_it_again(shop: Shop) -> None:
    die_and_open_without_tse(shop, "start_transaction", after=True, send=lambda: shop.send(0x08, "E"))
    shop.tse.down = None
    shop.reopen()
    assert shop.open_on_tse() == [2]
    shop.sale("S-1")
    assert shop.open_on_tse() == []
    assert shop.send(0x08, "E")["ftReceiptIdentification"] == "ft2#ST4"
    check(shop, 1)


def test_an_scu_without_a_record_leaves_receipts_undecided(shop: Shop) -> None:
    shop.tse.fail_after("finish_transaction", Death())
    with pytest.raises(Death):
        shop.sale("S-1")
    shop.close()
    shop.open(lambda tse: tse.keep_no_record())
    assert any("keeps no record" in each for each in shop.actions())
    check(shop, 1)


def test_a_tse_that_hangs_does_not_keep_the_host_from_starting(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.tse.fail_after("finish_transaction", Death())
    with pytest.raises(Death):
        shop.sale("S-1")
    config, scus, clock = shop.config, shop.tses, shop.clock
    shop.middleware.store.close()
    release = threading.Event()

    connect = ScuBinding._connect

    def hang(self: ScuBinding) -> Scu:
        if "remembering" in getattr(self._open, "__qualname__", ""):
            return connect(self)  # what asks the TSE within the deadline
        release.wait(60)
        raise DOWN

    monkeypatch.setattr(ScuBinding, "_connect", hang)
    monkeypatch.setattr("fiskal.host.middleware.START_UP_S", 0.05)
    began = time.monotonic()
    with Middleware(config, shop.folder, scus=dict(scus), clock=clock) as middleware:  # type: ignore[arg-type]
        row = middleware.store.queue(shop.queue_id)
        assert row is not None
        assert row.ftCurrentRow == row.ftQueuedRow == 2
        assert time.monotonic() - began < 30
        release.set()


@pytest.mark.parametrize("call", ["start_transaction", "finish_transaction"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_undecided_explicit_steps_sent_again(shop: Shop, call: str, after: bool) -> None:
    before = signatures(shop)
    if call == "start_transaction":
        die_and_open_without_tse(shop, call, after=after, send=lambda: shop.send(0x08, "E"))
        shop.tse.down = None
    start = shop.send(0x08, "E")
    assert start["ftReceiptIdentification"] == "ft1#ST2"
    if call == "finish_transaction":
        die_and_open_without_tse(shop, call, after=after, send=lambda: shop.sale("E", flow="explicit"))
        shop.tse.down = None
    finish = shop.sale("E", flow="explicit")
    assert finish["ftReceiptIdentification"] == "ft2#T2"
    assert finish["ftState"] == start["ftState"] == DE
    assert signatures(shop) == before + 2
    assert shop.open_on_tse() == []
    assert shop.open_references() == []
    check(shop, 1)


def test_an_interrupted_finish_that_comes_again_in_failed_mode_is_recovered_once(shop: Shop) -> None:
    shop.send(0x08, "E")
    die_and_open_without_tse(
        shop, "finish_transaction", after=True, send=lambda: shop.sale("E", flow="explicit")
    )
    before = signatures(shop)
    shop.sale("other")
    assert shop.sale("E", flow="explicit")["ftState"] == DE + 2
    shop.tse.down = None
    zeroed = zero(shop)
    assert zeroed["ftState"] == DE
    assert len(zeroed["ftSignatures"]) == 31  # its own, the recovered finish and the note
    assert signatures(shop) == before + 2  # the zero receipt's own
    check(shop, 1)


# ---- transactions that somebody else closed ---------------------------------------------------------------


def close_elsewhere(shop: Shop) -> None:
    (number,) = shop.open_on_tse()
    shop.tse.scu.finish_transaction(
        FinishTransactionRequest(client_id="POS-1", transaction_number=number, process_type="Kassenbeleg-V1")
    )


@pytest.mark.parametrize("case", [0x01, 0x0B])
def test_a_finish_the_tse_will_never_take_is_no_failed_mode(shop: Shop, case: int) -> None:
    shop.send(0x08, "E")
    close_elsewhere(shop)
    with pytest.raises(ReceiptRejected) as caught:
        shop.send(case, "E", flow="explicit")
    assert caught.value.code == "TRANSACTION_NOT_FOUND"
    assert shop.open_references() == []
    assert shop.row.SSCDFailCount == 0
    assert any(message.startswith("Removed open transaction 2") for message in shop.actions())
    assert shop.send(0x08, "E")["ftReceiptIdentification"].endswith("#ST3")


def test_a_failed_finish_closed_elsewhere_does_not_keep_failed_mode(shop: Shop) -> None:
    shop.send(0x08, "E")
    shop.tse.fail_before("finish_transaction", DOWN)
    assert shop.sale("E", flow="explicit")["ftState"] == DE + 2
    close_elsewhere(shop)
    answer = zero(shop)
    assert answer["ftState"] == DE
    assert captions(answer)[15].startswith("TSE Kommunikation wiederhergestellt")
    assert shop.open_references() == []
    assert any(message.startswith("Removed open transaction 2") for message in shop.actions())
    assert sale(shop)["ftState"] == DE
    check(shop, 0)
