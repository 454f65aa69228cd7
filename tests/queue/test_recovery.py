"""The way out of failed mode in bounded steps: whatever interrupts it, every signature stands in one answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fiskal.export.verify import verify_journal
from fiskal.queue.receipts.reconcile import DOUBTFUL
from fiskal.queue.settings import QueueSettings
from fiskal.scu.contract import FinishTransactionRequest
from fiskal.scu.errors import ClientError, OutcomeUnknown, TseRejected, Unreachable
from tests.support.shop import DE, Shop, captions

DOWN = Unreachable("CONNECT_FAILED", "The TSE is not available.")
LOST = OutcomeUnknown("NO_RESPONSE", "no answer came")


class Death(BaseException):
    """The process dies here."""


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Shop]:
    """A shop whose zero receipts recover one transaction each."""
    made = Shop(tmp_path, settings=QueueSettings(recovery_budget_s=0))
    yield made
    made.close()


def leave_behind(shop: Shop, finishes: int, starts: int) -> None:
    """Failed mode, with so many finishes and starts to be made good."""
    for number in range(finishes):
        shop.send(0x08, f"F-{number}")
    shop.tse.down = DOWN
    for number in range(finishes):
        shop.clock.advance(1)
        assert shop.sale(f"F-{number}", flow="explicit", amount=f"{number + 1}.00")["ftState"] == DE + 2
    for number in range(starts):
        assert shop.send(0x08, f"S-{number}")["ftState"] == DE + 2
    shop.tse.down = None


def zero(shop: Shop, flags: int = 0) -> Any:
    return shop.send(0x02 | flags, "Z")


def paid(answer: Any) -> list[str]:
    """The amounts of the recovered finishes in an answer."""
    data = [item["Data"] for item in answer["ftSignatures"] if item["Caption"] == "<processData>"]
    return [each.rpartition("^")[2] for each in data if each.startswith("Beleg")]


def started(answer: Any) -> int:
    return captions(answer).count("start-transaction-signature")


def check(shop: Shop, errors: int = 0) -> None:
    report = verify_journal(shop.middleware.store, shop.row)
    assert report.ok, report.problems
    assert report.counts["errors"] == errors
    assert shop.middleware.store.undelivered(shop.row.queue_no) == []


def test_a_zero_receipt_stops_when_its_budget_is_used_up_and_the_next_one_goes_on(hasty: Shop) -> None:
    leave_behind(hasty, 2, 2)
    hasty.sale("L", case=0x01 | 0x1_0000)
    left = hasty.row.SSCDFailCount
    seen: list[str] = []
    for done in range(1, 4):
        answer = zero(hasty)
        assert answer["ftState"] == DE + 2
        assert answer["ftReceiptIdentification"].startswith(f"ft{answer['ftQueueRow'] - 1:X}#IT")
        note = answer["ftSignatures"][-1]
        assert note["Caption"].startswith("TSE Kommunikation wird wiederhergestellt, Stand 14.11.2023 ")
        assert note["Data"] == f"1 von {5 - done} Transaktionen nachgeholt. Der nächste Nullbeleg setzt fort."
        assert note["Caption"] + note["Data"] in hasty.actions()
        assert hasty.row.SSCDFailCount == left
        assert hasty.row.UsedFailedCount == 1
        assert hasty.sale("X")["ftState"] == DE + 2
        left += 1
        seen += paid(answer) + ["start"] * started(answer)
    last = zero(hasty)
    seen += paid(last) + ["start"] * started(last)
    assert last["ftState"] == DE
    assert seen == ["1.00:Bar", "2.00:Bar", "start", "start"]
    assert captions(last)[-2].startswith("TSE Kommunikation wiederhergestellt am ")
    assert captions(last)[-1].startswith("Ausfallsnacherfassung abgeschlossen am ")
    assert hasty.open_references() == ["S-0", "S-1"]
    assert hasty.row.SSCDFailCount == 0
    check(hasty)


def test_without_a_limit_everything_is_recovered_at_once(shop: Shop) -> None:
    leave_behind(shop, 3, 2)
    answer = zero(shop)
    assert answer["ftState"] == DE
    assert paid(answer) == ["1.00:Bar", "2.00:Bar", "3.00:Bar"]
    assert started(answer) == 2
    check(shop)


@pytest.mark.parametrize("budget", [0, 60])
@pytest.mark.parametrize(
    ("fault", "after"), [(DOWN, False), (LOST, False), (LOST, True), (Death(), False), (Death(), True)]
)
@pytest.mark.parametrize("call", range(6))
def test_wherever_a_recovery_breaks_off_each_signature_stands_in_one_answer(
    tmp_path: Path, budget: float, fault: BaseException, after: bool, call: int
) -> None:
    shop = Shop(tmp_path, settings=QueueSettings(recovery_budget_s=budget))
    leave_behind(shop, 2, 2)
    before = shop.tse.scu.get_tse_info().current_number_of_signatures
    shop.tse.fail_nth(call, fault, after=after)
    answers = []
    errors = zeros = 0
    while not answers or answers[-1]["ftState"] != DE:
        assert zeros < 8
        zeros += 1
        try:
            answers.append(zero(shop))
        except Death:
            shop.reopen()
            completed = shop.send(0x02 | 0x8000_0000_0000, "Z")  # the register asks for its answer
            if completed is not None and completed not in answers:
                answers.append(completed)
            else:
                errors += 1
    assert [amount for answer in answers for amount in paid(answer)] == ["1.00:Bar", "2.00:Bar"]
    assert sum(map(started, answers)) == 2
    assert [name for name in shop.open_references() if name.startswith("S")] == ["S-0", "S-1"]
    spent = shop.tse.scu.get_tse_info().current_number_of_signatures - before
    assert spent <= 2 * zeros + 4 + 2  # two of each zero receipt, one of each recovery, an orphan's end
    shop.send(0x07, "D")
    assert shop.open_on_tse() == []
    check(shop, errors)
    shop.close()


def test_a_finish_that_was_executed_elsewhere_is_removed_under_the_flag(shop: Shop) -> None:
    leave_behind(shop, 2, 0)
    number = shop.open_on_tse()[0]
    shop.tse.scu.finish_transaction(
        FinishTransactionRequest(client_id="POS-1", transaction_number=number, process_type="Kassenbeleg-V1")
    )
    answer = zero(shop, 0x2000_0000)
    assert answer["ftState"] == DE
    assert paid(answer) == ["2.00:Bar"]
    text = f"Removed failed finish-transaction {number} from the database, which was not open on the TSE anymore."
    (row,) = shop.actions_of("4445000020000000-OpenTransaction")
    assert row.Message == text
    (row,) = shop.actions_of("2")
    assert '"CurrentStartedTransactionNumbers":[' in row.DataJson
    assert shop.open_references() == []
    check(shop)


def test_a_finish_that_was_signed_with_other_data_does_not_keep_failed_mode(shop: Shop) -> None:
    leave_behind(shop, 1, 0)
    number = shop.open_on_tse()[0]
    shop.tse.scu.finish_transaction(
        FinishTransactionRequest(client_id="POS-1", transaction_number=number, process_type="Kassenbeleg-V1")
    )
    shop.tse.fail_nth(2, ClientError("IDEMPOTENCY_MISMATCH", "was sent before with other data"))
    assert zero(shop)["ftState"] == DE
    assert shop.open_references() == []
    assert any(message.startswith(f"Removed open transaction {number}") for message in shop.actions())


# ---- calls without an answer ------------------------------------------------------------------------


def signatures(shop: Shop) -> int:
    return int(shop.tse.scu.get_tse_info().current_number_of_signatures)


def test_a_start_that_was_executed_without_an_answer_is_ended_by_the_zero_receipt(shop: Shop) -> None:
    shop.tse.fail_after("start_transaction", LOST)
    assert shop.sale("S-1")["ftState"] == DE + 2
    (number,) = shop.open_on_tse()
    shop.reopen()
    before = signatures(shop)
    answer = zero(shop)
    assert answer["ftState"] == DE
    assert len(answer["ftSignatures"]) == 16
    assert signatures(shop) == before + 3
    assert shop.open_on_tse() == []
    assert shop.open_references() == []
    (row,) = shop.actions_of(DOUBTFUL)
    assert row.Message.startswith(f"Transaction {number}, whose start for queue item ")
    assert shop.middleware.store.doubtful_starts(shop.row.queue_no) == []
    check(shop)


def test_an_explicit_start_without_an_answer_that_is_finished_in_failed_mode_leaves_nothing_open(
    shop: Shop,
) -> None:
    shop.tse.fail_after("start_transaction", LOST)
    assert shop.send(0x08, "E")["ftState"] == DE + 2
    assert shop.sale("E", flow="explicit")["ftState"] == DE + 2
    assert len(shop.open_on_tse()) == 1
    assert zero(shop)["ftState"] == DE
    assert shop.open_on_tse() == []
    check(shop)


def test_an_explicit_start_without_an_answer_is_found_by_the_zero_receipt(shop: Shop) -> None:
    shop.tse.fail_after("start_transaction", LOST)
    shop.send(0x08, "E")
    before = signatures(shop)
    assert started(zero(shop)) == 1
    assert signatures(shop) == before + 2
    assert shop.middleware.store.doubtful_starts(shop.row.queue_no) == []
    assert shop.sale("E", flow="explicit")["ftState"] == DE
    assert shop.open_on_tse() == []
    check(shop)


def test_a_comparison_that_fails_keeps_nobody_in_failed_mode(shop: Shop) -> None:
    shop.tse.fail_after("start_transaction", LOST)
    shop.sale("S-1")
    shop.tse.fail_before("get_tse_info", DOWN)
    assert zero(shop)["ftState"] == DE
    assert len(shop.open_on_tse()) == 1
    shop.tse.fail_before("get_tse_info", DOWN)
    assert shop.send(0x06, "Y")["ftState"] == DE
    assert shop.send(0x05, "M")["ftState"] == DE
    assert shop.open_on_tse() == []


def test_a_start_that_was_not_executed_costs_no_signature(shop: Shop) -> None:
    shop.send(0x08, "E")
    shop.tse.fail_before("start_transaction", LOST)
    assert shop.sale("S-1")["ftState"] == DE + 2
    before = signatures(shop)
    assert zero(shop)["ftState"] == DE
    assert signatures(shop) == before + 2
    assert shop.actions_of(DOUBTFUL) == []
    assert shop.middleware.store.doubtful_starts(shop.row.queue_no) == []
    assert shop.open_references() == ["E"]


def test_at_an_scu_that_recognises_no_repetition_the_numbers_are_journalled_and_nothing_is_closed(
    shop: Shop,
) -> None:
    shop.tse.capabilities = msgspec.structs.replace(shop.tse.capabilities, deduplicates=False)
    shop.tse.fail_after("start_transaction", LOST)
    shop.sale("S-1")
    (number,) = shop.open_on_tse()
    assert zero(shop)["ftState"] == DE
    (row,) = shop.actions_of(DOUBTFUL)
    assert row.DataJson == f"[{number}]"
    assert shop.open_on_tse() == [number]
    assert zero(shop)["ftState"] == DE
    assert len(shop.actions_of(DOUBTFUL)) == 1


def test_a_tse_that_refuses_to_tell_does_not_keep_failed_mode(shop: Shop) -> None:
    shop.tse.fail_after("start_transaction", LOST)
    shop.sale("S-1")
    shop.tse.fail_nth(3, TseRejected("TRANSACTION_LIMIT", "too many"))  # start, finish, info, start
    assert zero(shop)["ftState"] == DE
    assert len(shop.open_on_tse()) == 1
    assert len(shop.middleware.store.doubtful_starts(shop.row.queue_no)) == 1
    shop.send(0x05, "M")
    assert shop.open_on_tse() == []


def test_an_implicit_finish_without_an_answer_is_found_closed(shop: Shop) -> None:
    shop.tse.fail_after("finish_transaction", LOST)
    assert shop.sale("S-1")["ftState"] == DE + 2
    assert shop.open_references() == ["S-1"]
    assert zero(shop)["ftState"] == DE
    assert shop.open_references() == []
    assert any(message.startswith("Removed open transaction 2") for message in shop.actions())


@pytest.mark.parametrize("case", [0x05, 0x06, 0x07, 0x19])
def test_closings_compare_with_the_tse_first(shop: Shop, case: int) -> None:
    shop.send(0x08, "E-1")
    shop.send(0x08, "E-2")
    first, second = shop.open_on_tse()
    shop.tse.scu.finish_transaction(
        FinishTransactionRequest(client_id="POS-1", transaction_number=first, process_type="Kassenbeleg-V1")
    )
    assert shop.send(case, "C")["ftState"] == DE
    assert shop.open_on_tse() == ([second] if case < 0x07 else [])
    assert shop.open_references() == (["E-2"] if case < 0x07 else [])
    (row,) = shop.actions_of("4445000020000000-OpenTransaction")
    assert row.Message.startswith(f"Removed open transaction {first} ")
