"""Receipts that are interrupted more than once, at SCUs that remember little: signed once, and nothing forgotten."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fiskal.errors import ReceiptRejected
from fiskal.export.verify import verify_journal
from fiskal.pos.prepared import prepare
from fiskal.queue.receipts.reconcile import DOUBTFUL
from fiskal.queue.receipts.transactions import DROPPED
from fiskal.queue.work import ABORTED_BASE64
from fiskal.scu.callstore import SqliteCallStore
from fiskal.scu.contract import (
    EMPTY_GUID,
    Deadline,
    FinishTransactionRequest,
    StartTransactionRequest,
    TseStates,
)
from fiskal.scu.core import ScuCore
from fiskal.scu.driver import Call, Remembered, Signed, Verdict
from fiskal.scu.errors import OutcomeUnknown, TseRejected, Unreachable
from fiskal.scu.software import SoftwareTse
from tests.queue.test_switch import two_scus
from tests.support.shop import DE, DyingStore, FaultyScu, Shop

CLOSE_ALL = 0x2_0000_0000
BYPASS_TAR_EXPORT = 0x0400_0000
DOWN = Unreachable("CONNECT_FAILED", "The TSE is not available.")
LOST = OutcomeUnknown("NO_RESPONSE", "no answer came")
REFUSED = TseRejected("MEMORY_FULL", "The TSE refuses to sign.")


class Death(BaseException):
    """The process dies here."""


class ForgetfulTse(SoftwareTse):
    """A TSE without a record of its calls: the SCU notes in a store of its own what it sends."""

    remembers_calls = False
    needs_open_numbers = True
    dies_over: str | None = None
    """The call that the process dies over, when it was noted and has not reached the TSE."""

    def start(self, call: Call, deadline: Deadline | None) -> Signed:
        self._die(call)
        return super().start(call, deadline)

    def finish(self, call: Call, deadline: Deadline | None) -> Signed:
        self._die(call)
        return super().finish(call, deadline)

    def _die(self, call: Call) -> None:
        if ForgetfulTse.dies_over == call.op:
            ForgetfulTse.dies_over = None
            raise Death

    def recall(self, call: Call) -> Remembered | None:
        raise AssertionError("a driver without memory is not asked")

    def reconcile(
        self, call: Call, open_before: frozenset[int] | None, deadline: Deadline | None
    ) -> Signed | Verdict:
        remembered = SoftwareTse.recall(self, call)
        return Verdict.NOT_EXECUTED if remembered is None else remembered.signed


@pytest.fixture
def forgetful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """A shop on such a TSE."""

    def open_tse(folder: Path, *, clock: Any) -> ScuCore:
        tse = ForgetfulTse(folder, clock=clock)
        return ScuCore(tse, calls=SqliteCallStore(folder / "calls.sqlite"), clock=clock)

    monkeypatch.setattr("tests.support.shop.open_software_tse", open_tse)
    made = Shop(tmp_path)
    yield made
    made.close()


def zero(shop: Shop) -> Any:
    return shop.send(0x02, "Z")


def daily(shop: Shop) -> Any:
    return shop.send(0x07 | CLOSE_ALL | BYPASS_TAR_EXPORT, "D")


def signatures(shop: Shop) -> int:
    return int(shop.tse.scu.get_tse_info().current_number_of_signatures)


def check(shop: Shop, errors: int) -> None:
    report = verify_journal(shop.middleware.store, shop.row)
    assert report.ok, report.problems
    assert report.counts["errors"] == errors


def unplug(tse: FaultyScu) -> None:
    tse.down = DOWN


def undecided(shop: Shop, send: Callable[[Shop], Any]) -> None:
    """The process dies over a receipt, and starts again without its TSE; then the TSE is back."""
    with pytest.raises(Death):
        send(shop)
    shop.close()
    shop.open(unplug)
    shop.tse.calm()


def close_elsewhere(shop: Shop) -> None:
    (number,) = shop.open_on_tse()
    shop.tse.scu.finish_transaction(
        FinishTransactionRequest(
            client_id="POS-1",
            transaction_number=number,
            process_type="Kassenbeleg-V1",
            process_data_base64=ABORTED_BASE64,
            queue_item_id=EMPTY_GUID,
        )
    )


@pytest.mark.parametrize("noted", [True, False], ids=["its finish was sent", "its finish was not sent"])
def test_a_closing_of_everything_that_is_sent_again_is_signed(forgetful: Shop, noted: bool) -> None:
    """What it closes besides is its own transaction, for which the SCU may have another finish noted."""
    forgetful.send(0x08, "A")
    if noted:
        forgetful.tse.ignore("finish_transaction", 1)
        _die_in_second_finish(forgetful)
    else:
        forgetful.tse.ignore("finish_transaction", 1)
        forgetful.tse.fail_before("finish_transaction", Death())
    undecided(forgetful, daily)
    assert daily(forgetful)["ftState"] == DE
    assert forgetful.row.DailyClosingNumber == 1
    assert forgetful.row.SSCDFailCount == 0
    assert forgetful.open_on_tse() == forgetful.open_references() == []
    check(forgetful, 1)


def _die_in_second_finish(shop: Shop) -> None:
    finish = shop.tse.scu.finish_transaction

    def first(*args: Any) -> Any:
        answer = finish(*args)
        ForgetfulTse.dies_over = "finish"
        shop.tse.scu.finish_transaction = finish  # type: ignore[method-assign]
        return answer

    shop.tse.scu.finish_transaction = first  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", [zero, lambda shop: shop.sale("S")], ids=["zero", "sale"])
def test_an_end_that_the_process_died_over_is_made_up_for(
    forgetful: Shop, kind: Callable[[Shop], Any]
) -> None:
    """The start-up pass died while it closed the transaction as aborted. It is open, though the SCU has a finish of
    it noted, and the receipt that comes again must not leave it so."""
    forgetful.tse.fail_after("start_transaction", Death())
    with pytest.raises(Death):
        kind(forgetful)
    forgetful.close()
    ForgetfulTse.dies_over = "finish"
    with pytest.raises(Death):
        forgetful.open()
    forgetful.open(unplug)
    forgetful.tse.calm()
    (number,) = forgetful.open_on_tse()
    before = signatures(forgetful)
    answer = kind(forgetful)
    assert answer["ftState"] == DE
    assert answer["ftReceiptIdentification"] == f"ft1#IT{number + 1}"
    assert signatures(forgetful) == before + 3
    assert forgetful.open_on_tse() == forgetful.open_references() == []
    check(forgetful, 1)


def test_an_end_that_cannot_be_made_up_for_leaves_an_orphan_that_is_known(forgetful: Shop) -> None:
    forgetful.tse.fail_after("start_transaction", Death())
    with pytest.raises(Death):
        forgetful.sale("S")
    forgetful.close()
    ForgetfulTse.dies_over = "finish"
    with pytest.raises(Death):
        forgetful.open()
    forgetful.open(unplug)
    forgetful.tse.calm()
    forgetful.tse.ignore("finish_transaction", 1)
    forgetful.tse.fail_before("finish_transaction", DOWN)
    assert forgetful.sale("S")["ftState"] == DE + 2
    assert len(forgetful.open_on_tse()) == len(forgetful.open_references()) == 1
    assert zero(forgetful)["ftState"] == DE
    assert forgetful.send(0x07, "D")["ftState"] == DE
    assert forgetful.open_on_tse() == forgetful.open_references() == []
    check(forgetful, 1)


@pytest.mark.parametrize("kind", [zero, lambda shop: shop.sale("S")], ids=["zero", "sale"])
@pytest.mark.parametrize("deaths", [1, 2, 3])
def test_what_begins_anew_is_signed_once_however_often_it_is_interrupted(
    shop: Shop, kind: Callable[[Shop], Any], deaths: int
) -> None:
    """The transaction of the first item is closed by somebody else. The second item is signed, and its answer lost:
    the third one gets what the second one signed."""
    shop.tse.fail_after("start_transaction", Death())
    undecided(shop, kind)
    close_elsewhere(shop)
    before = signatures(shop)
    for _ in range(deaths):
        shop.tse.ignore("finish_transaction", 1)
        shop.tse.fail_after("finish_transaction", Death())
        if signatures(shop) > before:
            shop.tse.calm()
            queue = shop.middleware.queue(shop.queue_id)
            queue.journal.store = DyingStore(queue.journal.store, 1, Death())  # type: ignore[assignment]
        undecided(shop, kind)
    answer = kind(shop)
    assert answer["ftState"] == DE
    assert answer["ftQueueRow"] == 3 + deaths
    assert signatures(shop) == before + 2
    assert shop.open_on_tse() == shop.open_references() == []
    assert any("begins anew" in message for message in shop.actions())
    check(shop, 1 + deaths)


def test_a_new_beginning_the_disk_does_not_take_is_none(shop: Shop) -> None:
    """The TSE must not hear of it before the disk did."""
    shop.tse.fail_after("start_transaction", Death())
    undecided(shop, zero)
    close_elsewhere(shop)
    before = signatures(shop)
    queue = shop.middleware.queue(shop.queue_id)
    queue.journal.store = DyingStore(queue.journal.store, 1, Death())  # type: ignore[assignment]
    undecided(shop, zero)
    assert signatures(shop) == before
    assert zero(shop)["ftState"] == DE
    assert signatures(shop) == before + 2
    check(shop, 2)


# ---- what an undecided receipt began itself is found, whatever the queue has open by now ---------------


def test_an_undecided_closing_does_not_take_what_was_opened_since_for_its_own(shop: Shop) -> None:
    """Working through it once more ends at a transaction that came later, before its own start."""
    shop.tse.fail_after("start_transaction", Death())
    undecided(shop, daily)
    (own,) = shop.open_on_tse()
    queue = shop.middleware.queue(shop.queue_id)
    queue.interruptions.items, kept = (
        {},
        queue.interruptions.items,
    )
    shop.send(0x08, "E")
    queue.interruptions.items = kept
    shop.sale("S")
    assert own not in shop.open_on_tse()
    assert len(shop.open_on_tse()) == 1
    assert shop.open_references() == ["E"]
    check(shop, 1)


def test_an_undecided_closing_that_is_refused_when_it_comes_again_is_not_forgotten(shop: Shop) -> None:
    closing = {"case": 0x07 | 0x1000_0000 | BYPASS_TAR_EXPORT, "reference": "D"}
    shop.tse.fail_after("start_transaction", Death())
    undecided(shop, lambda shop: shop.send(**closing))
    (own,) = shop.open_on_tse()
    queue = shop.middleware.queue(shop.queue_id)
    queue.interruptions.items, kept = {}, queue.interruptions.items
    shop.send(0x08, "E")
    queue.interruptions.items = kept
    with pytest.raises(ReceiptRejected, match="open transactions"):
        shop.send(**closing)
    assert own in shop.open_on_tse()
    shop.sale("S")
    assert own not in shop.open_on_tse()
    assert shop.open_references() == ["E"]
    check(shop, 2)


def test_what_was_signed_of_a_closing_that_would_be_rejected_for_a_while_is_found(shop: Shop) -> None:
    """It was signed, and is undecided. When the TSE is asked, something is open that the closing does not allow: that
    says nothing about what was signed, and the closing that comes when all is closed must not be signed again."""
    closing = {"case": 0x07 | 0x1000_0000 | BYPASS_TAR_EXPORT, "reference": "D"}
    shop.tse.fail_after("finish_transaction", Death())
    undecided(shop, lambda shop: shop.send(**closing))
    signed = signatures(shop)
    shop.send(0x08, "E")
    assert any("would be rejected" in message for message in shop.actions())
    shop.sale("E", flow="explicit")
    assert signatures(shop) == signed + 2
    answer = shop.send(**closing)
    assert answer["ftState"] == DE
    assert answer["ftReceiptIdentification"] == "ft3#IT2"
    assert signatures(shop) == signed + 2
    assert shop.row.DailyClosingNumber == 1
    assert shop.open_on_tse() == shop.open_references() == []
    check(shop, 1)


@pytest.mark.parametrize("dies", [False, True], ids=["refused", "dies over the refusal"])
def test_a_signed_closing_is_found_after_it_was_refused_in_between(shop: Shop, dies: bool) -> None:
    """It comes again while something is open that it does not allow, and once more when all is closed."""
    closing = {"case": 0x07 | 0x1000_0000 | BYPASS_TAR_EXPORT, "reference": "D"}
    shop.tse.fail_after("finish_transaction", Death())
    undecided(shop, lambda shop: shop.send(**closing))
    signed = signatures(shop)
    shop.send(0x08, "E")
    if dies:
        queue = shop.middleware.queue(shop.queue_id)
        queue.journal.store = DyingStore(queue.journal.store, 1, Death())  # type: ignore[assignment]
        with pytest.raises(Death):
            shop.send(**closing)
        shop.reopen()
    else:
        with pytest.raises(ReceiptRejected, match="open transactions"):
            shop.send(**closing)
    shop.sale("E", flow="explicit")
    assert signatures(shop) == signed + 2
    assert shop.send(**closing)["ftReceiptIdentification"] == "ft3#IT2"
    assert signatures(shop) == signed + 2
    assert shop.row.DailyClosingNumber == 1
    assert shop.open_on_tse() == shop.open_references() == []
    check(shop, 2)


@pytest.mark.parametrize("failed", [False, True], ids=["normal", "failed mode"])
def test_a_stop_closes_what_undecided_receipts_have_begun(shop: Shop, failed: bool) -> None:
    shop.tse.fail_after("start_transaction", Death())
    undecided(shop, lambda shop: shop.sale("S"))
    if failed:
        shop.tse.down = DOWN
        assert shop.sale("other")["ftState"] == DE + 2
        shop.tse.calm()
    assert len(shop.open_on_tse()) == 1
    assert shop.send(0x04 | BYPASS_TAR_EXPORT, "STOP")["ftSignatures"]
    assert shop.open_on_tse() == []
    assert shop.tse.scu.get_tse_info().current_client_ids == []
    check(shop, 1)


def test_a_stop_does_not_forget_what_nobody_can_decide(shop: Shop) -> None:
    """The SCU keeps no record: what the sale began stays in the list, for whoever looks at the transactions."""
    shop.tse.fail_after("start_transaction", Death())
    with pytest.raises(Death):
        shop.sale("S")
    shop.close()
    shop.open(lambda tse: tse.keep_no_record())
    assert shop.send(0x04 | 0x100_0000 | BYPASS_TAR_EXPORT, "STOP")["ftSignatures"]
    assert len(shop.open_on_tse()) == 1
    assert [each.kind for each in shop.middleware.queue(shop.queue_id).interruptions.items.values()] == [
        "undecided"
    ]
    check(shop, 1)


def test_a_stop_that_comes_again_goes_on_with_its_own_transaction(shop: Shop) -> None:
    shop.tse.fail_after("start_transaction", Death())
    undecided(shop, lambda shop: shop.send(0x04 | BYPASS_TAR_EXPORT, "STOP"))
    (own,) = shop.open_on_tse()
    stop = shop.send(0x04 | BYPASS_TAR_EXPORT, "STOP")
    assert len(stop["ftSignatures"]) == 17
    assert stop["ftReceiptIdentification"] == f"ft1#IT{own}"
    check(shop, 1)


@pytest.mark.parametrize("case", [0x04, 0x17 | 0x4000_0000], ids=["stop", "initiate switch"])
def test_finding_out_about_a_leave_takes_no_tse_away(tmp_path: Path, case: int) -> None:
    """It was signed, and is undecided; the shop sells on. To look at it again must not deregister the client or
    terminate the TSE: the queue has not left."""
    shop = Shop(tmp_path, prepare=two_scus)
    shop.tse.fail_before("unregister_client_id", Death())
    undecided(shop, lambda shop: shop.send(case | BYPASS_TAR_EXPORT, "LEAVE"))
    assert shop.sale("S-1")["ftState"] == DE
    info = shop.tse.scu.get_tse_info()
    assert info.current_state is TseStates.INITIALIZED
    assert info.current_client_ids == ["POS-1"]
    assert shop.sale("S-2")["ftState"] == DE
    leave = shop.send(case | BYPASS_TAR_EXPORT, "LEAVE")
    assert len(leave["ftSignatures"]) == 17
    assert shop.tse.scu.get_tse_info().current_state is TseStates.TERMINATED
    check(shop, 1)
    shop.close()


def test_a_closing_whose_lost_start_had_been_ended_elsewhere_is_completed(shop: Shop) -> None:
    """The TSE refused to end that transaction once more: not executed does not mean that the closing broke off."""
    shop.tse.fail_after("start_transaction", LOST)
    shop.sale("lost")
    close_elsewhere(shop)
    shop.tse.fail_before("get_tse_info", DOWN)
    assert zero(shop)["ftState"] == DE
    shop.tse.scu.start_transaction(
        StartTransactionRequest(client_id="POS-1", queue_item_id="00000000-0000-4000-8000-000000000001")
    )  # a stranger, so that the closing asks for the lost start
    queue = shop.middleware.queue(shop.queue_id)
    queue.journal.store = DyingStore(queue.journal.store, 1, Death())  # type: ignore[assignment]
    with pytest.raises(Death):
        shop.send(0x07 | BYPASS_TAR_EXPORT, "D")
    shop.reopen()
    before = signatures(shop)
    assert shop.send(0x07 | BYPASS_TAR_EXPORT, "D")["ftState"] == DE
    assert signatures(shop) == before
    assert shop.row.DailyClosingNumber == 1
    check(shop, 0)


# ---- what a receipt did besides says nothing about its own signature ----------------------------------


def a_lost_start(shop: Shop) -> None:
    """A sale whose start had no answer; the zero receipt after it could not compare."""
    shop.tse.fail_after("start_transaction", LOST)
    shop.sale("lost")
    shop.tse.fail_before("get_tse_info", DOWN)
    assert zero(shop)["ftState"] == DE
    assert len(shop.middleware.store.doubtful_starts(shop.row.queue_no)) == 1


def test_a_signed_closing_that_could_not_compare_is_completed(shop: Shop) -> None:
    """It was signed although the TSE did not say what it has open. The pass gets that answer, and finds that the
    closing has not ended what a lost start left open: it did not have to."""
    a_lost_start(shop)
    (lost,) = shop.open_on_tse()
    shop.tse.fail_before("get_tse_info", DOWN)
    shop.tse.fail_after("finish_transaction", Death())
    with pytest.raises(Death):
        shop.send(0x05 | BYPASS_TAR_EXPORT, "M")
    signed = signatures(shop)
    shop.reopen()
    assert signatures(shop) == signed
    assert shop.open_on_tse() == [lost]
    answer = shop.send(0x05 | BYPASS_TAR_EXPORT, "M")
    assert answer["ftReceiptIdentification"] == f"ft3#IT{lost + 2}"
    assert signatures(shop) == signed
    assert daily(shop)["ftState"] == DE
    assert shop.open_on_tse() == shop.open_references() == []
    check(shop, 0)


def test_a_zero_receipt_that_died_while_it_compared_is_completed(shop: Shop) -> None:
    """It had signed and recovered everything; what the lost start has begun is known, and the next closing ends it."""
    shop.tse.fail_after("start_transaction", LOST)
    shop.sale("lost")
    (lost,) = shop.open_on_tse()
    shop.tse.ignore("finish_transaction", 1)
    shop.tse.fail_before("finish_transaction", Death())
    with pytest.raises(Death):
        zero(shop)
    shop.reopen()
    assert shop.row.SSCDFailCount == 0
    assert shop.open_on_tse() == [lost]
    assert shop.open_references() == [f"lost#{lost}"]
    assert zero(shop)["ftReceiptIdentification"] == f"ft2#IT{lost + 1}"
    assert daily(shop)["ftState"] == DE
    assert shop.open_on_tse() == shop.open_references() == []
    check(shop, 0)


def test_a_lost_start_that_is_known_as_open_is_ended_once(shop: Shop) -> None:
    """A closing found what the lost start had begun, and could not end it. The next one looks after the start again,
    because there is a stranger, and must not take one transaction for two."""
    a_lost_start(shop)
    (lost,) = shop.open_on_tse()
    shop.tse.fail_before("finish_transaction", DOWN)
    assert shop.send(0x05 | BYPASS_TAR_EXPORT, "M")["ftState"] == DE
    assert shop.open_references() == [f"lost#{lost}"]
    shop.tse.scu.start_transaction(
        StartTransactionRequest(client_id="POS-1", queue_item_id="00000000-0000-4000-8000-000000000001")
    )
    assert shop.send(0x07 | BYPASS_TAR_EXPORT, "D")["ftState"] == DE
    assert shop.open_references() == []
    assert not shop.actions_of(DROPPED)
    check(shop, 0)


@pytest.mark.parametrize("later", [False, True], ids=["decided at the start", "decided later"])
def test_a_signed_closing_is_not_signed_again_whatever_it_left_undone(shop: Shop, later: bool) -> None:
    """The TSE said nothing of what a lost start had begun, and signed the closing. So there is something that looks
    as if the closing had not come to its own start."""

    def closing(shop: Shop) -> Any:
        return shop.send(0x07 | BYPASS_TAR_EXPORT, "D")

    a_lost_start(shop)
    (lost,) = shop.open_on_tse()
    shop.tse.fail_before("start_transaction", REFUSED)
    shop.tse.fail_after("finish_transaction", Death())
    if later:
        undecided(shop, closing)
        assert shop.sale("S")["ftState"] == DE
    else:
        with pytest.raises(Death):
            closing(shop)
        shop.reopen()
    before = shop.row.ftReceiptNumerator
    answer = closing(shop)
    assert answer["ftReceiptIdentification"] == f"ft{before:X}#IT{lost + 2}"
    assert shop.row.DailyClosingNumber == 1
    assert shop.open_on_tse() == shop.open_references() == []
    check(shop, 1)


@pytest.mark.parametrize("kind", [daily, lambda shop: shop.sale("E")], ids=["closing", "sale"])
def test_a_signed_receipt_is_found_behind_what_was_opened_since(
    shop: Shop, kind: Callable[[Shop], Any]
) -> None:
    """It was signed, and is undecided. When the TSE is asked, a transaction is open that would have to be out of its
    way first."""
    shop.tse.fail_after("finish_transaction", Death())
    undecided(shop, kind)
    signed = signatures(shop)
    shop.send(0x08, "E")
    assert signatures(shop) == signed + 1
    shop.sale("E", flow="explicit")
    assert signatures(shop) == signed + 2
    answer = kind(shop)
    assert answer["ftReceiptIdentification"] == "ft3#IT2"
    assert signatures(shop) == signed + 2
    assert shop.open_on_tse() == shop.open_references() == []
    check(shop, 1)


def test_what_somebody_else_ended_of_an_undecided_receipt_was_not_signed(shop: Shop) -> None:
    """The transaction of the closing is not open any more, and yet it has no signature that could be fetched."""
    shop.tse.fail_after("start_transaction", Death())
    undecided(shop, daily)
    close_elsewhere(shop)
    shop.send(0x08, "E")
    assert shop.middleware.queue(shop.queue_id).interruptions.items == {}
    before = signatures(shop)
    assert daily(shop)["ftState"] == DE
    assert signatures(shop) == before + 3
    check(shop, 1)


# ---- failed starts that a zero receipt may have begun ------------------------------------------------


@pytest.mark.parametrize("end", [0x01, 0x0B], ids=["finish", "fail"])
@pytest.mark.parametrize("fault", [Death(), LOST], ids=["dies", "answer lost"])
def test_a_recovered_start_without_an_answer_that_is_ended_in_failed_mode_is_settled(
    shop: Shop, fault: BaseException, end: int
) -> None:
    """The receipt that ends it takes the failed start away; its transaction is open on the TSE all the same."""
    shop.tse.down = DOWN
    shop.send(0x08, "E")
    shop.tse.calm()
    shop.tse.ignore("start_transaction", 1)
    shop.tse.fail_after("start_transaction", fault)
    if fault is LOST:
        assert zero(shop)["ftState"] == DE + 2
        errors = 0
    else:
        undecided(shop, zero)
        errors = 1
    assert len(shop.open_on_tse()) == 1
    shop.send(end, "E", flow="explicit")
    assert shop.middleware.store.failed_starts(shop.row.queue_no) == []
    assert shop.send(0x02, "another")["ftState"] == DE
    assert shop.open_on_tse() == shop.open_references() == []
    assert len(shop.actions_of(DOUBTFUL)) == 1
    assert shop.middleware.store.doubtful_starts(shop.row.queue_no) == []
    check(shop, errors)


def test_a_recovered_start_that_was_not_executed_is_not_in_doubt(shop: Shop) -> None:
    shop.tse.down = DOWN
    shop.send(0x08, "E")
    shop.tse.calm()
    shop.tse.ignore("start_transaction", 1)
    shop.tse.fail_before("start_transaction", DOWN)
    assert zero(shop)["ftState"] == DE + 2
    assert shop.middleware.store.doubtful_starts(shop.row.queue_no) == []
    assert zero(shop)["ftState"] == DE
    assert shop.open_references() == ["E"]
    check(shop, 0)


# ---- lost starts of a queue that leaves its TSE --------------------------------------------------------


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "implicit"])
def test_a_stop_ends_what_a_lost_start_left_open(shop: Shop, explicit: bool) -> None:
    """A TSE deregisters no client that has a transaction open."""
    shop.tse.fail_after("start_transaction", LOST)
    (shop.send(0x08, "E") if explicit else shop.sale("S"))
    assert len(shop.open_on_tse()) == 1
    assert shop.send(0x04 | BYPASS_TAR_EXPORT, "STOP")["ftState"] == DE
    assert shop.open_on_tse() == []
    assert "POS-1" not in json.dumps(shop.tse.scu.get_tse_info().current_client_ids)
    assert shop.middleware.store.failed_starts(shop.row.queue_no) == []
    check(shop, 0)


# ---- texts that are read differently after an update --------------------------------------------------


@pytest.fixture
def update(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Gives what an update does: stored texts are read as other requests. Called again, it takes the update back."""
    updated = False

    def read(text: bytes, **options: Any) -> Any:
        return prepare(text.replace(b'"T1"', b'"T2"') if updated else text, **options)

    def turn() -> None:
        nonlocal updated
        updated = not updated

    monkeypatch.setattr("fiskal.queue.interruptions.prepare", read)
    return turn


@pytest.mark.parametrize("later", [False, True], ids=["decided at the start", "decided later"])
@pytest.mark.parametrize("kind", [zero, daily, lambda shop: shop.sale("S")], ids=["zero", "closing", "sale"])
def test_what_a_receipt_began_that_is_read_differently_is_ended(
    shop: Shop, update: Callable[[], None], kind: Callable[[Shop], Any], later: bool
) -> None:
    shop.tse.fail_after("start_transaction", Death())
    with pytest.raises(Death):
        kind(shop)
    shop.close()
    own = 2
    update()
    shop.open(unplug if later else None)
    shop.tse.calm()
    if later:
        assert shop.open_on_tse() == [own]
        shop.sale("other")
    assert shop.open_on_tse() == shop.open_references() == []
    assert any("is read differently now" in message for message in shop.actions())
    check(shop, 1)


@pytest.mark.parametrize("later", [False, True], ids=["decided at the start", "decided later"])
def test_what_was_signed_of_a_receipt_that_is_read_differently_is_found_when_it_comes_again(
    shop: Shop, update: Callable[[], None], later: bool
) -> None:
    """The POS sends the very text that is stored; only the hash that was stored with it is another one."""
    shop.tse.fail_after("finish_transaction", Death())
    with pytest.raises(Death):
        shop.sale("S")
    shop.close()
    update()
    shop.open(unplug if later else None)
    shop.tse.calm()
    if later:
        shop.sale("other")
    update()
    before = signatures(shop)
    assert shop.sale("S")["ftReceiptIdentification"].endswith("#IT2")
    assert signatures(shop) == before
    check(shop, 1)
