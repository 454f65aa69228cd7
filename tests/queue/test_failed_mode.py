"""A TSE that fails never stops the shop: failed mode, its counters and texts, and the way out of it."""

from __future__ import annotations

import pytest

from fiskal.errors import ReceiptRejected
from fiskal.scu.errors import (
    ClientError,
    Misconfigured,
    NotSupported,
    OutcomeUnknown,
    ScuError,
    TseRejected,
    Unreachable,
)
from tests.queue.test_healthy import SIG_START, SIG_TX, shape
from tests.support.shop import DE, Shop, captions, data_of

FAILED = "Kommunikation mit der technischen Sicherheitseinrichtung (TSE) fehlgeschlagen"
DOWN = Unreachable("CONNECT_FAILED", "The TSE is not available. Nobody answers.")


@pytest.mark.parametrize("kind", [Unreachable, OutcomeUnknown, Misconfigured, TseRejected])
def test_any_tse_failure_opens_the_circuit(shop: Shop, kind: type[ScuError]) -> None:
    shop.tse.fail_before("start_transaction", kind("CODE", "it hurts"))
    answer = shop.sale("S-1")
    assert answer["ftState"] == DE + 2
    assert answer["ftReceiptIdentification"] == "ft1#"
    assert shape(answer) == [(FAILED, 0x1000, 1)]
    assert answer["ftSignatures"][0]["ftSignatureType"] == 0x1000
    since = answer["ftSignatures"][0]["Data"]
    assert since.startswith("Fehlerzähler seit 2023-11-14T")
    assert since.endswith("Z: 1")
    assert any("it hurts" in message for message in shop.actions())
    calls = len(shop.tse.calls)
    second = shop.sale("S-2")
    third = shop.send(0x10, "S-3")
    assert len(shop.tse.calls) == calls
    assert second["ftSignatures"][0]["Data"] == since.replace("Z: 1", "Z: 2")
    assert third["ftSignatures"][0]["Data"] == since.replace("Z: 1", "Z: 3")
    assert shop.row.SSCDFailCount == 3
    assert shop.row.SSCDFailQueueItemId == answer["ftQueueItemID"]
    assert shop.row.ftReceiptNumerator == 4


@pytest.mark.parametrize("kind", [ClientError, NotSupported])
def test_a_bug_in_the_request_to_the_tse_is_no_failed_mode(shop: Shop, kind: type[ScuError]) -> None:
    shop.tse.fail_before("start_transaction", kind("CODE", "wrong"))
    with pytest.raises(kind):
        shop.sale()
    assert shop.row.SSCDFailCount == 0
    assert shop.sale()["ftState"] == DE


def test_an_implicit_finish_the_tse_will_never_take_leaves_nothing_open(shop: Shop) -> None:
    shop.tse.fail_before("finish_transaction", ClientError("CODE", "wrong"))
    with pytest.raises(ClientError):
        shop.sale("S-1")
    assert shop.open_on_tse() == []
    assert shop.open_references() == []
    assert shop.row.SSCDFailCount == 0


def test_implicit_finish_that_fails_leaves_an_orphan_the_pos_can_ignore(shop: Shop) -> None:
    shop.tse.fail_before("finish_transaction", DOWN)
    assert shop.sale("S-1")["ftState"] == DE + 2
    assert shop.open_references() == ["S-1"]
    zero = shop.send(0x02, "Z")
    assert zero["ftState"] == DE
    again = shop.sale("S-1")
    assert again["ftState"] == DE
    assert shop.open_references() == []
    assert shop.open_on_tse() == []


def test_implicit_orphan_does_not_block_an_explicit_start(shop: Shop) -> None:
    shop.tse.fail_before("finish_transaction", DOWN)
    shop.sale("S-1")
    shop.send(0x02, "Z")
    start = shop.send(0x08, "S-1")
    assert shape(start) == SIG_START
    assert len(shop.open_on_tse()) == 1


def test_explicit_finish_that_fails_is_finished_by_the_zero_receipt(shop: Shop) -> None:
    shop.send(0x08, "E-1")
    shop.tse.fail_before("finish_transaction", DOWN)
    failed = shop.sale("E-1", flow="explicit")
    assert failed["ftState"] == DE + 2
    assert shop.open_references() == ["E-1"]
    shop.sale("X-1")
    shop.sale("X-2")
    assert shop.row.SSCDFailCount == 3
    zero = shop.send(0x02, "Z")
    assert zero["ftState"] == DE
    assert shape(zero)[:30] == SIG_TX + SIG_TX
    assert len(zero["ftSignatures"]) == 31
    recovered = zero["ftSignatures"][15:30]
    assert [item["Data"] for item in recovered if item["Caption"] == "<processData>"] == [
        "Beleg^7.50_0.00_0.00_0.00_0.00^7.50:Bar"
    ]
    note = zero["ftSignatures"][30]
    assert note["ftSignatureType"] == DE | 0x02
    assert note["Caption"].startswith("TSE Kommunikation wiederhergestellt am 14.11.2023 ")
    assert note["Data"].startswith("3 Aktionen ohne TSE Kommunikation im Zeitraum von 14.11.2023 ")
    assert shop.open_references() == []
    assert shop.row.SSCDFailCount == 0
    assert shop.row.SSCDFailMoment is None
    retried = [request for request in shop.tse.requests if getattr(request, "is_retry", False)]
    assert [request.queue_item_id for request in retried] == [failed["ftQueueItemID"]]
    assert shop.sale()["ftState"] == DE


def test_start_in_failed_mode_is_started_by_the_zero_receipt(shop: Shop) -> None:
    shop.tse.down = DOWN
    assert shop.send(0x08, "E-1")["ftState"] == DE + 2
    shop.tse.down = None
    zero = shop.send(0x02, "Z")
    assert shape(zero)[15:16] == SIG_START
    assert shop.open_references() == ["E-1"]
    number = shop.open_on_tse()[0]
    assert shop.sale("E-1", flow="explicit")["ftReceiptIdentification"].endswith(f"#T{number}")


def test_start_and_finish_in_failed_mode_never_reach_the_tse(shop: Shop) -> None:
    shop.tse.down = DOWN
    shop.send(0x08, "E-1")
    assert shop.sale("E-1", flow="explicit")["ftState"] == DE + 2
    shop.tse.down = None
    zero = shop.send(0x02, "Z")
    assert len(zero["ftSignatures"]) == 16
    assert shop.open_on_tse() == []


def test_fail_transaction_of_a_failed_start_needs_no_tse(shop: Shop) -> None:
    shop.tse.down = DOWN
    shop.send(0x08, "E-1")
    count = shop.row.SSCDFailCount
    calls = len(shop.tse.calls)
    answer = shop.send(0x0B, "E-1")
    assert answer["ftState"] == DE
    assert answer["ftSignatures"] == []
    assert len(shop.tse.calls) == calls
    assert shop.row.SSCDFailCount == count


def test_zero_receipt_that_fails_keeps_failed_mode_and_counts(shop: Shop) -> None:
    shop.tse.down = DOWN
    shop.sale()
    assert shop.send(0x02, "Z")["ftState"] == DE + 2
    assert shop.row.SSCDFailCount == 2
    assert "start_transaction" in shop.tse.calls[-1:]


@pytest.mark.parametrize(("case", "number"), [(0x05, -1), (0x06, -1), (0x07, 1)])
def test_closings_in_failed_mode_are_journalled_and_counted(shop: Shop, case: int, number: int) -> None:
    shop.tse.down = DOWN
    shop.sale()
    answer = shop.send(case, "C")
    assert answer["ftState"] == DE + 2
    assert "ftStateData" not in answer
    (row,) = [row for row in shop.journal(1) if row["Type"] == f"444500000000{case:04X}"]
    assert row["Message"].endswith("receipt was processed. However TSE was not reachable.")
    assert f'"closingNumber":{number}' in row["DataJson"]
    assert "transactionNumber" not in row["DataJson"]
    assert shop.row.DailyClosingNumber == max(number, 0)


def test_late_signing_in_failed_mode_counts_only_there_and_one_zero_ends_both(shop: Shop) -> None:
    shop.tse.down = DOWN
    shop.sale()
    late = shop.sale("L-1", case=0x01 | 0x1_0000)
    assert late["ftState"] == DE + 8
    assert shop.row.SSCDFailCount == 1
    shop.tse.down = None
    zero = shop.send(0x02, "Z")
    assert captions(zero)[15].startswith("TSE Kommunikation wiederhergestellt")
    assert captions(zero)[16].startswith("Ausfallsnacherfassung abgeschlossen")


def test_start_receipt_whose_tse_fails_is_an_error_and_repeatable(new_shop: Shop) -> None:
    new_shop.tse.fail_before("register_client_id", DOWN)
    with pytest.raises(Unreachable):
        new_shop.send(0x03)
    assert new_shop.row.StartMoment is None
    assert new_shop.row.SSCDFailCount == 0
    assert new_shop.row.ftCurrentRow == 1
    assert new_shop.row.ftReceiptNumerator == 0
    assert new_shop.send(0x03)["ftReceiptIdentification"] == "ft0#IT1"


def test_stop_receipt_without_tse_stops_all_the_same(shop: Shop) -> None:
    shop.tse.down = DOWN
    answer = shop.send(0x04, "END")
    assert answer["ftState"] == DE
    assert answer["ftSignatures"] == []
    assert answer["ftReceiptIdentification"] == "ft1#"
    assert shop.sale()["ftState"] == DE + 1


def test_a_failing_info_never_fails_a_signed_receipt(shop: Shop) -> None:
    shop.tse.fail_before("get_tse_info", DOWN)
    answer = shop.sale()
    assert answer["ftState"] == DE
    assert data_of(answer, "<certification-id>") != ""


def test_failed_extras_of_a_zero_receipt_leave_the_answer_good(shop: Shop) -> None:
    shop.tse.fail_before("execute_self_test", DOWN)
    answer = shop.send(0x02 | 0x0100_0000, "Z")
    assert answer["ftState"] == DE
    assert shop.row.SSCDFailCount == 0
    assert any(message.startswith("Self test failed") for message in shop.actions())


def test_request_checks_still_hold_in_failed_mode(shop: Shop) -> None:
    shop.tse.down = DOWN
    shop.sale()
    with pytest.raises(ReceiptRejected, match="must use implicit-flow"):
        shop.send(0x07, "C", flow="explicit")
    assert shop.sale("unknown start", flow="explicit")["ftState"] == DE + 2


def test_mode_survives_a_restart(shop: Shop) -> None:
    shop.send(0x08, "E-1")
    shop.tse.fail_before("finish_transaction", DOWN)
    shop.sale("E-1", flow="explicit")
    shop.reopen()
    assert shop.sale()["ftState"] == DE + 2
    zero = shop.send(0x02, "Z")
    assert len(zero["ftSignatures"]) == 31


def test_lost_answer_of_a_finish_is_fetched_not_signed_again(shop: Shop) -> None:
    shop.send(0x08, "E-1")
    shop.tse.fail_after("finish_transaction", OutcomeUnknown("NO_RESPONSE", "lost"))
    assert shop.sale("E-1", flow="explicit")["ftState"] == DE + 2
    before = shop.tse.scu.get_tse_info().current_number_of_signatures
    zero = shop.send(0x02, "Z")
    assert len(zero["ftSignatures"]) == 31
    after = shop.tse.scu.get_tse_info().current_number_of_signatures
    assert after - before == 2  # the zero receipt's own start and finish, nothing else
