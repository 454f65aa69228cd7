"""The state tables of a queue, row by row.

The first table is the queue with its two special modes: whether the TSE is given up (failed mode, S) and whether
receipts were handed in late (L). The second one is the life of one cbReceiptReference in the explicit flow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fiskal.errors import FiskalError
from fiskal.export.verify import verify_journal
from fiskal.scu.contract import FinishTransactionRequest
from fiskal.scu.errors import Unreachable
from tests.queue.test_switch import SwitchShop, two_scus
from tests.support.shop import DE, IMPLICIT, TRAINING

DOWN = Unreachable("CONNECT_FAILED", "The TSE is not available. Nobody answers.")
LATE, HANDWRITTEN, VOID = 0x1_0000, 0x8_0000, 0x4_0000
CLIENT_ONLY, FORCE = 0x100_0000, 0x4000_0000

REJECTED = "rejected"
"""The answer is an error: the receipt keeps its row and gets no number."""
REFUSED = "refused"
"""The answer is an error and nothing is stored."""

Event = Callable[[SwitchShop], Any]


def receipt(case: int) -> Event:
    """A receipt without items, implicit unless it is a step of a transaction, which is then that of O."""
    return lambda shop: shop.send(case, "O" if case & 0xFFFF in (0x09, 0x0A, 0x0B) else "X")


def sale(case: int = 0x01) -> Event:
    return lambda shop: shop.sale("X", case=case)


def fail_several(shop: SwitchShop) -> Any:
    data = '{"CurrentStartedTransactionNumbers":[]}'
    return shop.send(0x0B | IMPLICIT, "", ftReceiptCaseData=data)


EVENTS: dict[str, Event] = {
    "sale": sale(),
    "unknown case": sale(0x00),
    "invoice": sale(0x0C),
    "order": receipt(0x10),
    "protocol": receipt(0x14),
    "training": sale(0x01 | TRAINING),
    "voided sale": sale(0x01 | VOID),
    "start-tx": receipt(0x08),
    "update-tx": receipt(0x09),
    "delta-tx": receipt(0x0A),
    "finish": lambda shop: shop.sale("O", flow="explicit"),
    "fail-tx": receipt(0x0B),
    "fail several": fail_several,
    "zero": receipt(0x02),
    "start": receipt(0x03),
    "stop": receipt(0x04 | CLIENT_ONLY),
    "monthly": receipt(0x05),
    "yearly": receipt(0x06),
    "daily": receipt(0x07),
    "initiate": receipt(0x17 | FORCE | CLIENT_ONLY),
    "void switch": receipt(0x17 | VOID),
    "void switch by force": receipt(0x17 | VOID | FORCE),
    "finish switch": receipt(0x18),
    "migration": receipt(0x19),
    "late": sale(0x01 | LATE),
    "late zero": receipt(0x02 | LATE),
    "late closing": receipt(0x07 | LATE),
    "late finish": lambda shop: shop.sale("O", case=0x01 | LATE, flow="explicit"),
    "late and handwritten": sale(0x01 | LATE | HANDWRITTEN),
    "handwritten": sale(0x01 | HANDWRITTEN),
    "handwritten zero": receipt(0x02 | HANDWRITTEN),
    "handwritten closing": receipt(0x07 | HANDWRITTEN),
}

BUSINESS = ("sale", "unknown case", "invoice", "order", "protocol", "training", "voided sale")
STEPS = ("start-tx", "update-tx", "delta-tx", "finish")
FAILS = ("fail-tx", "fail several")
CLOSINGS = ("monthly", "yearly", "daily")
LATES = ("late", "late zero", "late closing", "late finish", "late and handwritten")
BY_HAND = ("handwritten", "handwritten zero", "handwritten closing")
CONNECTING = ("void switch", "void switch by force", "finish switch")


def all_but(*names: str) -> tuple[str, ...]:
    return tuple(name for name in EVENTS if name not in names)


class Row(NamedTuple):
    """One row. ``s`` and ``late`` are OK/FAIL and off/on, "any" for both."""

    q: str
    s: str
    events: tuple[str, ...]
    tse: str
    """ok or ko: whether the TSE works; "-" if it must not be asked."""
    answer: int | str
    """Bits of ftState, or how the receipt is refused."""
    next_q: str = "same"
    next_s: str = "same"
    """same, OK, or FAIL: then the counter goes up by one."""
    next_l: str = "same"
    """same, off, or on: then the counter goes up by one."""


TABLE = [
    Row("NEW", "OK", ("start",), "ok", 0, "ACTIVE"),
    Row("NEW", "OK", ("start",), "ko", REJECTED),
    Row("NEW", "OK", all_but("start"), "-", 0x1),
    Row("ACTIVE", "OK", BUSINESS + STEPS + CLOSINGS, "ok", 0),
    Row("ACTIVE", "OK", (*BUSINESS, *STEPS, *CLOSINGS, "zero"), "ko", 0x2, next_s="FAIL"),
    Row("ACTIVE", "FAIL", (*BUSINESS, *STEPS, *CLOSINGS, "start", "migration"), "-", 0x2, next_s="FAIL"),
    Row("ACTIVE", "any", ("zero",), "ok", 0, next_s="OK", next_l="off"),
    Row("ACTIVE", "FAIL", ("zero",), "ko", 0x2, next_s="FAIL"),
    Row("ACTIVE", "any", FAILS, "ok", 0),
    Row("ACTIVE", "any", FAILS, "ko", 0x2, next_s="FAIL"),
    Row("ACTIVE", "any", LATES, "-", 0x8, next_l="on"),
    Row("ACTIVE", "any", BY_HAND, "-", 0),
    Row("ACTIVE", "OK", ("start",), "ok", 0),
    Row("ACTIVE", "OK", ("start",), "ko", REJECTED),
    Row("ACTIVE", "any", ("stop",), "ok", 0, "STOPPED"),
    Row("ACTIVE", "any", ("stop",), "ko", 0, "STOPPED"),
    Row("ACTIVE", "any", ("initiate",), "ok", 0, "SWITCH"),
    Row("ACTIVE", "any", ("initiate",), "ko", 0, "SWITCH"),
    Row("ACTIVE", "any", CONNECTING, "-", REJECTED),
    Row("SWITCH", "any", ("finish switch",), "ok", 0, "ACTIVE"),
    Row("SWITCH", "any", ("finish switch",), "ko", REJECTED),
    Row("SWITCH", "any", ("void switch", "void switch by force"), "ok", 0, "ACTIVE"),
    Row("SWITCH", "any", ("void switch by force",), "ko", 0, "ACTIVE"),
    Row("SWITCH", "any", ("void switch",), "ko", REJECTED),
    Row("SWITCH", "any", all_but(*CONNECTING), "-", 0x100),
    Row("STOPPED", "any", tuple(EVENTS), "-", 0x1),
    Row("ACTIVE", "OK", ("migration",), "ok", 0, "MIGRATED"),
    Row("ACTIVE", "OK", ("migration",), "ko", 0x2, next_s="FAIL"),
    Row("MIGRATED", "OK", tuple(EVENTS), "-", REFUSED),
]

CONDITIONS = {
    "NEW": "new",
    "ACTIVE": "active",
    "SWITCH": "switching",
    "STOPPED": "stopped",
    "MIGRATED": "migrated",
}


def cases() -> Iterator[Any]:
    for row in TABLE:
        for event in row.events:
            for s in ("OK", "FAIL") if row.s == "any" else (row.s,):
                # a queue has both modes only after it was started
                for late in ("off",) if row.q == "NEW" else ("off", "on"):
                    yield pytest.param(row, event, s, late, id=f"{row.q}-{s}-{late}-{event}-{row.tse}")


def bring_to(shop: SwitchShop, q: str, s: str, late: str) -> None:
    """The state a row begins in, reached by receipts alone."""
    if q == "NEW":
        return
    shop.send(0x03)
    shop.send(0x08, "O")
    if s == "FAIL":
        shop.tse.fail_before("start_transaction", DOWN)
        assert shop.sale("F-1")["ftState"] == DE + 2
        assert shop.sale("F-2")["ftState"] == DE + 2
    if late == "on":
        assert shop.sale("L-1", case=0x01 | LATE)["ftState"] == DE + 8
    if q == "SWITCH":
        assert shop.initiate(FORCE | CLIENT_ONLY)["ftState"] == DE
    elif q == "STOPPED":
        assert shop.send(0x04 | CLIENT_ONLY)["ftState"] == DE
    elif q == "MIGRATED":
        assert shop.send(0x19)["ftState"] == DE


def tse_calls(shop: SwitchShop) -> int:
    return sum(len(tse.calls) for tse in shop.tses.values())


@pytest.mark.parametrize(("row", "event", "s", "late"), list(cases()))
def test_queue(tmp_path: Path, row: Row, event: str, s: str, late: str) -> None:
    shop = SwitchShop(tmp_path, start=False, prepare=two_scus)
    try:
        bring_to(shop, row.q, s, late)
        assert shop.middleware.queue().status()["state"] == CONDITIONS[row.q]
        before, calls, actions = shop.row, tse_calls(shop), len(shop.actions())
        for tse in shop.tses.values():
            tse.down = DOWN if row.tse == "ko" else None

        if row.answer in (REJECTED, REFUSED):
            with pytest.raises(FiskalError):
                EVENTS[event](shop)
        else:
            answer = EVENTS[event](shop)
            assert answer["ftState"] == DE + row.answer  # type: ignore[operator]

        after = shop.row
        assert (tse_calls(shop) == calls) == (row.tse == "-")
        assert after.ftReceiptNumerator == before.ftReceiptNumerator + (row.answer not in (REJECTED, REFUSED))
        assert after.ftCurrentRow == before.ftCurrentRow + (row.answer != REFUSED)
        assert after.ftQueuedRow == after.ftCurrentRow
        assert (len(shop.actions()) == actions) or row.answer != REFUSED
        next_q = row.q if row.next_q == "same" else row.next_q
        assert shop.middleware.queue().status()["state"] == CONDITIONS[next_q]
        fails = {"same": before.SSCDFailCount, "OK": 0, "FAIL": before.SSCDFailCount + 1}[row.next_s]
        assert after.SSCDFailCount == fails
        assert (after.SSCDFailMoment is None) == (after.SSCDFailQueueItemId is None) == (fails == 0)
        used = {"same": before.UsedFailedCount, "off": 0, "on": before.UsedFailedCount + 1}[row.next_l]
        assert after.UsedFailedCount == used
        assert (after.UsedFailedMomentMin is None) == (after.UsedFailedQueueItemId is None) == (used == 0)

        shop.reopen()  # all of it is on disk
        assert shop.row == after
        assert shop.middleware.queue().status()["state"] == CONDITIONS[next_q]
        report = verify_journal(shop.middleware.store, shop.row)
        assert report.ok, report.problems
    finally:
        shop.close()


def test_the_table_has_every_event_in_every_state() -> None:
    """No receipt is forgotten: every event is in a row of every state that can be reached."""
    seen = {
        (row.q, s, event)
        for row in TABLE
        for event in row.events
        for s in (("OK", "FAIL") if row.s == "any" else (row.s,))
    }
    reachable = [("NEW", "OK"), ("MIGRATED", "OK")]
    reachable += [(q, s) for q in ("ACTIVE", "SWITCH", "STOPPED") for s in ("OK", "FAIL")]
    missing = [(q, s, event) for q, s in reachable for event in EVENTS if (q, s, event) not in seen]
    assert missing == []


# ---- one cbReceiptReference ---------------------------------------------------------------------------


class Step(NamedTuple):
    """One row of the life of a reference."""

    state: str
    """- unknown, O open, FS failed start, FF failed finish; i is an orphan of an implicit receipt."""
    event: str
    mode: str
    """normal or failed: the mode of the queue; ok or ko: whether the TSE works."""
    answer: int | str
    tse: str
    """What the TSE did: S start, U update, F finish."""
    next: str


EXPLICIT: dict[str, Event] = {
    "start": lambda shop: shop.send(0x08, "R"),
    "update": lambda shop: shop.send(0x09, "R"),
    "delta": lambda shop: shop.send(0x0A, "R"),
    "finish": lambda shop: shop.sale("R", flow="explicit"),
    "fail": lambda shop: shop.send(0x0B, "R"),
    "implicit": lambda shop: shop.sale("R"),
    "zero": lambda shop: shop.send(0x02, "Z"),
    "daily": lambda shop: shop.send(0x07 | 0x0400_0000, "D"),
    "monthly": lambda shop: shop.send(0x05, "M"),
    "yearly": lambda shop: shop.send(0x06, "Y"),
    "late": lambda shop: shop.sale("R", case=0x01 | LATE, flow="explicit"),
    "late implicit": lambda shop: shop.sale("R", case=0x01 | LATE),
    "handwritten": lambda shop: shop.sale("R", case=0x01 | HANDWRITTEN, flow="explicit"),
}

LIFE = [
    Step("-", "start", "normal ok", 0, "S", "O"),
    Step("-", "start", "normal ko", 0x2, "", "FS"),
    Step("-", "start", "failed ok", 0x2, "", "FS"),
    Step("-", "implicit", "normal ok", 0, "SF", "-"),
    Step("-", "implicit", "normal ko", 0x2, "", "-"),
    Step("-", "implicit", "normal finish ko", 0x2, "S", "i"),
    Step("-", "implicit", "failed ok", 0x2, "", "-"),
    Step("-", "update", "normal ok", REJECTED, "", "-"),
    Step("-", "delta", "normal ok", REJECTED, "", "-"),
    Step("-", "finish", "normal ok", REJECTED, "", "-"),
    Step("-", "fail", "normal ok", REJECTED, "", "-"),
    Step("-", "update", "failed ok", 0x2, "", "-"),
    Step("-", "delta", "failed ok", 0x2, "", "-"),
    Step("-", "finish", "failed ok", 0x2, "", "-"),
    Step("-", "fail", "failed ok", REJECTED, "", "-"),
    Step("-", "late", "normal ok", 0x8, "", "-"),
    Step("O", "start", "normal ok", REJECTED, "", "O"),
    Step("O", "start", "failed ok", 0x2, "", "O+FS"),
    Step("O", "update", "normal ok", 0, "U", "O"),
    Step("O", "delta", "normal ok", 0, "U", "O"),
    Step("O", "update", "normal ko", 0x2, "", "O"),
    Step("O", "update", "failed ok", 0x2, "", "O"),
    Step("O", "finish", "normal ok", 0, "F", "-"),
    Step("O", "fail", "normal ok", 0, "F", "-"),
    Step("O", "finish", "normal ko", 0x2, "", "O+FF"),
    Step("O", "fail", "normal ko", 0x2, "", "O+FF"),
    Step("O", "finish", "failed ok", 0x2, "", "O+FF"),
    Step("O", "fail", "failed ok", 0, "F", "-"),
    Step("O", "fail", "failed ko", 0x2, "", "O+FF"),
    Step("O", "implicit", "normal ok", REJECTED, "", "O"),
    Step("O", "implicit", "failed ok", 0x2, "", "O"),
    Step("O", "daily", "normal ok", 0, "FSF", "-"),
    Step("O", "daily", "failed ok", 0x2, "", "O"),
    Step("O", "monthly", "normal ok", 0, "SF", "O"),
    Step("O", "yearly", "normal ok", 0, "SF", "O"),
    Step("O", "zero", "normal ok", 0, "SF", "O"),
    Step("O", "late", "normal ok", 0x8, "", "O"),
    Step("O", "late implicit", "normal ok", 0x8, "", "O"),
    Step("O", "handwritten", "normal ok", 0, "", "O"),
    Step("O+FS", "finish", "failed ok", 0x2, "", "O"),
    Step("O+FS", "fail", "failed ok", 0, "", "O"),
    Step("O+FS", "zero", "failed ok", 0, "SFS", "O"),
    Step("FS", "start", "failed ok", 0x2, "", "FS"),
    Step("FS", "update", "failed ok", 0x2, "", "FS"),
    Step("FS", "finish", "failed ok", 0x2, "", "-"),
    Step("FS", "fail", "failed ok", 0, "", "-"),
    Step("FS", "fail", "failed ko", 0, "", "-"),
    Step("FS", "implicit", "failed ok", 0x2, "", "FS"),
    Step("FS", "daily", "failed ok", 0x2, "", "FS"),
    Step("FS", "zero", "failed ok", 0, "SFS", "O"),
    Step("FS", "zero", "failed ko", 0x2, "", "FS"),
    Step("FS", "late", "failed ok", 0x8, "", "FS"),
    Step("O+FF", "zero", "failed ok", 0, "SFF", "-"),
    Step("O+FF", "zero", "failed ko", 0x2, "", "O+FF"),
    Step("O+FF", "finish", "failed ok", 0x2, "", "O+FF"),
    Step("O+FF", "fail", "failed ok", 0, "F", "FF"),
    Step("O+FF", "fail", "failed ko", 0x2, "", "O+FF"),
    Step("O+FF", "daily", "failed ok", 0x2, "", "O+FF"),
    Step("FF", "zero", "failed ok", 0, "SF", "-"),
    Step("i", "start", "normal ok", 0, "FS", "O"),
    Step("i", "implicit", "normal ok", 0, "FSF", "-"),
    Step("i", "daily", "normal ok", 0, "FSF", "-"),
    Step("i", "finish", "failed ok", 0x2, "", "i"),
]


def life_of(shop: SwitchShop, state: str, mode: str) -> None:
    """Bring the reference R into a state, and the queue into a mode."""

    def lose(method: str, event: str) -> None:
        shop.tse.fail_before(method, DOWN)
        assert EXPLICIT[event](shop)["ftState"] == DE + 2

    if state in ("O", "O+FF", "FF", "O+FS"):
        EXPLICIT["start"](shop)
    if state == "i":
        lose("finish_transaction", "implicit")
        if mode == "normal":
            EXPLICIT["zero"](shop)
    elif state == "FS":
        lose("start_transaction", "start")
    elif state in ("O+FF", "FF"):
        lose("finish_transaction", "finish")
    elif mode == "failed":
        shop.tse.fail_before("start_transaction", DOWN)
        shop.sale("another")
    if state == "FF":
        assert EXPLICIT["fail"](shop)["ftState"] == DE
    if state == "O+FS":
        assert EXPLICIT["start"](shop)["ftState"] == DE + 2
    assert (shop.row.SSCDFailCount > 0) == (mode == "failed")


def state_of(shop: SwitchShop) -> str:
    store, number = shop.middleware.store, shop.row.queue_no
    opened = [row for row in store.open_transactions(number) if row.cbReceiptReference == "R"]
    found = ["i" if row.implicit else "O" for row in opened]
    found += ["FS" for row in store.failed_starts(number) if row.cbReceiptReference == "R"]
    found += ["FF" for row in store.failed_finishes(number) if row.cbReceiptReference == "R"]
    return "+".join(found) or "-"


def done_by_tse(shop: SwitchShop) -> str:
    """What the TSE did for the last receipt."""
    *_, (_, answer) = shop.middleware.store.iter_items_by_row(shop.row.queue_no)
    assert answer is not None
    return "".join(call[0] for call in (answer.tse_calls or "").split())


@pytest.mark.parametrize("step", LIFE, ids=lambda step: f"{step.state} {step.event} {step.mode}")
def test_reference(tmp_path: Path, step: Step) -> None:
    shop = SwitchShop(tmp_path, prepare=two_scus)
    try:
        mode, _, tse = step.mode.partition(" ")
        life_of(shop, step.state, mode)
        assert state_of(shop) == step.state
        signed = shop.tse.scu.get_tse_info().current_number_of_signatures
        if tse == "ko":
            shop.tse.down = DOWN
        elif tse == "finish ko":
            shop.tse.fail_before("finish_transaction", DOWN)
        if step.answer == REJECTED:
            with pytest.raises(FiskalError):
                EXPLICIT[step.event](shop)
        else:
            assert EXPLICIT[step.event](shop)["ftState"] == DE + step.answer  # type: ignore[operator]
        assert state_of(shop) == step.next
        assert done_by_tse(shop) == step.tse
        assert shop.tse.scu.get_tse_info().current_number_of_signatures == signed + len(step.tse)
        noted = [row.TransactionNumber for row in shop.middleware.store.open_transactions(shop.row.queue_no)]
        assert shop.open_on_tse() == sorted(noted)

        # whatever happened, a zero receipt and a closing leave nothing behind
        shop.tse.down = None
        assert EXPLICIT["zero"](shop)["ftState"] == DE
        assert EXPLICIT["daily"](shop)["ftState"] == DE
        assert state_of(shop) == "-"
        assert shop.open_on_tse() == []
        report = verify_journal(shop.middleware.store, shop.row)
        assert report.ok, report.problems
    finally:
        shop.close()


def test_a_closing_removes_what_somebody_else_closed_with_a_journal_entry(shop: Any) -> None:
    shop.send(0x08, "R")
    shop.send(0x08, "S")
    (number, _) = shop.open_on_tse()
    shop.tse.scu.finish_transaction(
        FinishTransactionRequest(
            client_id="POS-1", transaction_number=number, process_type="SonstigerVorgang"
        )
    )
    shop.send(0x07, "D")
    (entry,) = shop.actions_of("4445000020000000-OpenTransaction")
    assert entry.Priority == -1
    assert entry.Message == (
        f"Removed open transaction {number} from the database, which was not open on the TSE anymore."
    )
    assert shop.open_references() == []


def test_a_second_finish_in_failed_mode_replaces_the_first(shop: Any) -> None:
    shop.send(0x08, "R")
    shop.tse.fail_before("finish_transaction", DOWN)
    shop.sale("R", "1.00", flow="explicit")
    shop.sale("R", "2.00", flow="explicit")
    zero = shop.send(0x02, "Z")
    finished = [item["Data"] for item in zero["ftSignatures"] if item["Caption"] == "<processData>"]
    assert finished == ["zero-receipt", "Beleg^2.00_0.00_0.00_0.00_0.00^2.00:Bar"]


def test_a_fail_transaction_that_failed_is_made_good_as_an_abort(shop: Any) -> None:
    shop.send(0x08, "R")
    shop.tse.fail_before("finish_transaction", DOWN)
    assert shop.send(0x0B, "R")["ftState"] == DE + 2
    zero = shop.send(0x02, "Z")
    finished = [item["Data"] for item in zero["ftSignatures"] if item["Caption"] == "<processData>"]
    assert finished == ["zero-receipt", "AVBelegabbruch^0.00_0.00_0.00_0.00_0.00^"]
