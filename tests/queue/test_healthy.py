"""Every kind of receipt while everything works: identification, signature lists, state, journals."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from fiskal.errors import ReceiptRejected
from fiskal.queue.settings import QueueSettings
from fiskal.scu.contract import FinishTransactionRequest, RegisterClientIdRequest
from fiskal.tse.verify import verify_qr
from tests.support.shop import DE, IMPLICIT, TRAINING, Shop, captions, data_of

SIG_POS = [
    ("www.fiskaltrust.de", 0x01, 3),
    ("start-transaction-signature", 0x10, 0x1000D),
    ("finish-transaction-payload", 0x11, 0x1000D),
    ("finish-transaction-signature", 0x12, 0x1000D),
    ("<certification-id>", 0x22, 1),
    ("<tse-seriennummer>", 0x23, 0x10001),
    ("<qr-code-version>", 0x13, 0x10001),
    ("<kassen-seriennummer>", 0x14, 0x10001),
    ("<processType>", 0x15, 0x10001),
    ("<processData>", 0x16, 0x10001),
    ("<transaktions-nummer>", 0x17, 0x10001),
    ("<signatur-zaehler>", 0x18, 0x10001),
    ("<start-zeit>", 0x19, 0x10001),
    ("<log-time>", 0x1A, 0x10001),
    ("<sig-alg>", 0x1B, 0x10001),
    ("<log-time-format>", 0x1C, 0x10001),
    ("<signatur>", 0x1D, 0x10001),
    ("<public-key>", 0x1E, 0x10001),
]
SIG_TX = [
    ("start-transaction-result", 0x10, 0x1000D),
    ("finish-transaction-payload", 0x11, 0x1000D),
    ("finish-transaction-result", 0x12, 0x1000D),
    ("<processType>", 0x15, 0x10001),
    ("<kassen-seriennummer>", 0x14, 0x10001),
    ("<processData>", 0x16, 0x10001),
    ("<transaktions-nummer>", 0x17, 0x10001),
    ("<signatur-zaehler>", 0x18, 0x10001),
    ("<start-zeit>", 0x19, 0x10001),
    ("<log-time>", 0x1A, 0x10001),
    ("<signatur>", 0x1D, 0x10001),
    ("<sig-alg>", 0x1B, 0x10001),
    ("<log-time-format>", 0x1C, 0x10001),
    ("<certification-id>", 0x22, 1),
    ("<public-key>", 0x1E, 0x10001),
]
SIG_FIN = [
    ("finish-transaction-payload", 0x11, 0x1000D),
    ("finish-transaction-signature", 0x12, 0x1000D),
    ("<processType>", 0x15, 0x10001),
]
SIG_START = [("start-transaction-signature", 0x10, 0x1000D)]
SIG_UPDATE = [
    ("update-transaction-payload", 0x20, 0x1000D),
    ("update-transaction-signature", 0x21, 0x1000D),
    ("<processType>", 0x15, 0x10001),
]
VORGANGSBEGINN = ("<vorgangsbeginn>", 0x1F, 1)


def shape(response: dict[str, Any]) -> list[tuple[str, int, int]]:
    """(caption, type without country, format) of every item."""
    return [
        (
            item["Caption"],
            item["ftSignatureType"] & 0xFFFF_FFFF_FFFF & ~(0x4445 << 48),
            item["ftSignatureFormat"],
        )
        for item in response["ftSignatures"]
    ]


def test_start_receipt_is_the_first_and_has_seventeen_items(new_shop: Shop) -> None:
    answer = new_shop.send(0x03, "INIT")
    assert answer["ftReceiptIdentification"] == "ft0#IT1"
    assert answer["ftState"] == DE
    assert shape(answer)[:15] == SIG_TX
    assert shape(answer)[15][1:] == (0x02, 1)
    assert captions(answer)[15] == "In-Betriebnahme-Beleg"
    assert shape(answer)[16][1:] == (0x03, 8)
    assert len(answer["ftSignatures"]) == 17
    assert data_of(answer, "<processData>") == "initial operation receipt / start-receipt"
    info = new_shop.tse.scu.get_tse_info()
    expected = f"Kassenseriennummer: POS-1, TSE-Seriennummer: {info.serial_number_octet}, Queue-ID: "
    assert data_of(answer, "In-Betriebnahme-Beleg") == expected + new_shop.queue_id
    notification = json.loads(answer["ftSignatures"][16]["Data"])
    assert list(notification) == [
        "CashBoxId",
        "QueueId",
        "Moment",
        "CashBoxIdentification",
        "SCUId",
        "SCUPackageName",
        "SCUSignatureAlgorithm",
        "SCUPublicKeyBase64",
        "SCUSerialNumberBase64",
        "IsStartReceipt",
        "Version",
    ]
    assert json.loads(answer["ftStateData"])["TseInfo"]["CurrentClientIds"] == ["POS-1"]
    assert new_shop.row.StartMoment is not None
    assert new_shop.row.ftReceiptNumerator == new_shop.row.ftCurrentRow == 1


def test_implicit_sale(shop: Shop) -> None:
    before = len(shop.tse.calls)
    answer = shop.sale("S-1")
    assert shop.tse.calls[before:] == ["start_transaction", "finish_transaction"]
    assert answer["ftReceiptIdentification"] == "ft1#IT2"
    assert shape(answer) == [*SIG_POS, VORGANGSBEGINN]
    assert answer["ftState"] == DE
    assert "ftStateData" not in answer
    assert data_of(answer, "<processData>") == "Beleg^7.50_0.00_0.00_0.00_0.00^7.50:Bar"
    assert verify_qr(data_of(answer, "www.fiskaltrust.de")).valid
    qr = data_of(answer, "www.fiskaltrust.de").split(";")
    assert qr == [item["Data"] for item in answer["ftSignatures"][6:18]]
    assert shop.open_references() == []
    assert shop.open_on_tse() == []


def test_explicit_start_update_delta_finish(shop: Shop) -> None:
    start = shop.send(0x08, "E-1")
    assert start["ftReceiptIdentification"] == "ft1#ST2"
    assert shape(start) == SIG_START
    assert shop.open_references() == ["E-1"]
    update = shop.send(0x09, "E-1")
    assert update["ftReceiptIdentification"] == "ft2#UT2"
    assert shape(update) == SIG_UPDATE
    assert data_of(update, "update-transaction-payload") == ""
    delta = shop.send(0x0A, "E-1")
    assert delta["ftReceiptIdentification"] == "ft3#DT2"
    assert shape(delta) == SIG_UPDATE
    finish = shop.sale("E-1", flow="explicit")
    assert finish["ftReceiptIdentification"] == "ft4#T2"
    assert shape(finish) == [*SIG_POS, VORGANGSBEGINN]
    assert data_of(finish, "start-transaction-signature") == data_of(start, "start-transaction-signature")
    assert verify_qr(data_of(finish, "www.fiskaltrust.de")).valid
    assert shop.open_references() == []


@pytest.mark.parametrize(
    ("case", "process_type", "bon_typ", "begins"),
    [
        (0x00, "Kassenbeleg-V1", "Beleg", True),
        (0x0C, "Kassenbeleg-V1", "Beleg", True),
        (0x0D, "Kassenbeleg-V1", "Beleg", True),
        (0x0E, "Kassenbeleg-V1", "AVRechnung", True),
        (0x0F, "Kassenbeleg-V1", "AVTransfer", True),
        (0x10, "Kassenbeleg-V1", "AVBestellung", True),
        (0x11, "Kassenbeleg-V1", "Beleg", True),
        (0x12, "Kassenbeleg-V1", "AVSachbezug", True),
        (0x13, "Kassenbeleg-V1", "AVSonstige", True),
        (0x14, "SonstigerVorgang", "protocol", False),
        (0x15, "Kassenbeleg-V1", "AVSonstige", True),
        (0x16, "Kassenbeleg-V1", "AVBelegstorno", True),
    ],
)
@pytest.mark.parametrize("explicit", [False, True])
def test_business_receipts(
    shop: Shop, case: int, process_type: str, bon_typ: str, begins: bool, explicit: bool
) -> None:
    flow = {}
    if explicit:
        shop.send(0x08, "B-1")
        flow["flow"] = "explicit"
    answer = shop.sale("B-1", case=case, **flow)
    assert shape(answer) == (SIG_POS + [VORGANGSBEGINN] * begins)
    assert data_of(answer, "<processType>") == process_type
    assert data_of(answer, "<processData>").split("^")[0] == bon_typ
    assert answer["ftReceiptIdentification"].split("#")[1] == ("T2" if explicit else "IT2")
    assert verify_qr(data_of(answer, "www.fiskaltrust.de")).valid


def test_order_without_payment(shop: Shop) -> None:
    item = {"Quantity": 2, "Description": 'Bier "Pils"', "Amount": 9, "ftChargeItemCase": DE | 1}
    answer = shop.send(0x10, "O-1", cbChargeItems=[item])
    assert shape(answer) == SIG_POS
    assert data_of(answer, "<processType>") == "Bestellung-V1"
    assert data_of(answer, "<processData>") == '2;"Bier ""Pils""";4.50'
    assert verify_qr(data_of(answer, "www.fiskaltrust.de")).valid
    empty = shop.send(0x10, "O-2")
    assert data_of(empty, "<processData>") == ""
    assert data_of(empty, "finish-transaction-payload") == ""
    assert verify_qr(data_of(empty, "www.fiskaltrust.de")).valid


def test_fail_transaction_single(shop: Shop) -> None:
    shop.send(0x08, "F-1")
    answer = shop.send(0x0B, "F-1")
    assert answer["ftReceiptIdentification"] == "ft2#T2"
    assert shape(answer) == SIG_POS
    assert data_of(answer, "<processData>") == "AVBelegabbruch^0.00_0.00_0.00_0.00_0.00^"
    assert shop.open_references() == []


def test_fail_transaction_several_goes_on_after_a_refused_number(shop: Shop) -> None:
    for reference in ("A", "B", "C"):
        shop.send(0x08, reference)
    answer = shop.post(
        shop.request(0x0B | IMPLICIT, "", ftReceiptCaseData='{"CurrentStartedTransactionNumbers":[2,99,"3"]}')
    )
    assert answer["ftReceiptIdentification"] == "ft4#IT5"
    assert shape(answer) == SIG_POS + SIG_FIN + SIG_FIN
    assert shop.open_references() == ["C"]
    assert shop.open_on_tse() == [4]
    assert any("1 transactions were not closed" in message for message in shop.actions())


def test_zero_receipt_with_info_and_self_test(shop: Shop) -> None:
    shop.send(0x08, "A1")
    answer = shop.send(0x02 | 0x0180_0000, "Z")
    assert shape(answer) == SIG_TX
    state = json.loads(answer["ftStateData"])
    assert list(state) == ["TseInfo", "TransactionNumberDictionary"]
    assert state["TransactionNumberDictionary"] == {"A1": {"Key": "A1", "Value": 2}}
    assert state["TseInfo"]["CurrentStartedTransactionNumbers"] == [2]
    assert "execute_self_test" in shop.tse.calls
    assert "Zero receipt was processed." in shop.actions()


@pytest.mark.parametrize(
    ("case", "text", "name"),
    [
        (0x05, "monthly-closing", "Monthly"),
        (0x06, "yearly-closing", "Yearly"),
        (0x07, "daily-closing", "Daily"),
    ],
)
def test_closings(shop: Shop, case: int, text: str, name: str) -> None:
    answer = shop.send(case, "Z")
    assert shape(answer) == SIG_TX
    assert data_of(answer, "<processData>") == text
    state = json.loads(answer["ftStateData"])
    assert state["MasterData"] == {"Account": None, "Outlet": None, "Agencies": [], "PosSystems": []}
    assert state.get("DailyClosingNumber") == (1 if case == 0x07 else None)
    rows = [row for row in shop.journal(1) if row["Type"] == f"444500000000{case:04X}"]
    assert [row["Message"] for row in rows] == [f"{name}-closing receipt was processed."]
    assert json.loads(rows[0]["DataJson"]) == {
        "ftReceiptNumerator": 2,
        "transactionNumber": 2,
        "masterDataChanged": False,
        "closingNumber": 1 if case == 0x07 else -1,
    }
    assert rows[0]["Priority"] == -1


def test_daily_closing_closes_what_is_open_and_drops_what_the_tse_does_not_know(shop: Shop) -> None:
    for reference in ("A", "B", "C"):
        shop.send(0x08, reference)
    shop.tse.scu.finish_transaction(  # somebody else closed B
        FinishTransactionRequest(client_id="POS-1", transaction_number=3, process_type="SonstigerVorgang")
    )
    answer = shop.send(0x07, "Z")
    assert shape(answer) == SIG_TX + SIG_FIN + SIG_FIN
    assert shop.open_references() == []
    assert any(message.startswith("Removed open transaction 3") for message in shop.actions())
    assert json.loads(answer["ftStateData"])["DailyClosingNumber"] == 1
    assert shop.row.DailyClosingNumber == 1


def test_daily_closing_that_must_not_find_open_transactions(shop: Shop) -> None:
    shop.send(0x08, "A")
    with pytest.raises(ReceiptRejected, match="1 open transactions exist") as caught:
        shop.send(0x07 | 0x1000_0000, "Z")
    assert caught.value.code == "OPEN_TRANSACTIONS"
    assert shop.row.SSCDFailCount == 0
    assert shop.row.DailyClosingNumber == 0
    assert shop.open_references() == ["A"]


def test_training(shop: Shop) -> None:
    answer = shop.sale("T-1", case=0x01 | TRAINING)
    assert data_of(answer, "<processData>").startswith("AVTraining^7.50")
    assert shape(answer) == [*SIG_POS, VORGANGSBEGINN, ("Trainingsbuchung", 0x1000, 1)]
    assert answer["ftSignatures"][-1]["ftSignatureType"] == 0x1000
    assert shape(shop.send(0x08 | TRAINING, "T-2")) == [*SIG_START, ("Trainingsbuchung", 0x1000, 1)]


def test_stop_terminates_a_tse_of_its_own_and_the_queue_is_out_of_service(shop: Shop) -> None:
    shop.send(0x08, "A")
    answer = shop.send(0x04, "END")
    assert answer["ftState"] == DE
    assert shape(answer)[:15] == SIG_TX
    assert captions(answer)[15] == "Außer-Betriebnahme-Beleg"
    assert shape(answer)[16][1:] == (0x04, 8)
    assert shop.tse.scu.get_tse_info().current_state == 2
    assert shop.open_references() == []
    after = shop.sale("S-9")
    assert after["ftState"] == DE + 1
    assert after["ftSignatures"] == []
    assert after["ftReceiptIdentification"] == "ft3#"
    again = shop.send(0x03, "INIT")
    assert again["ftState"] == DE + 1
    assert shop.row.SSCDFailCount == 0


def test_stop_never_takes_the_tse_from_others(shop: Shop) -> None:
    shop.tse.scu.register_client_id(RegisterClientIdRequest(client_id="POS-2"))
    with pytest.raises(ReceiptRejected, match="POS-2") as caught:
        shop.send(0x04, "END")
    assert caught.value.code == "TSE_SHARED"
    assert shop.row.StopMoment is None
    answer = shop.send(0x04 | 0x0100_0000, "END")
    assert answer["ftState"] == DE
    info = shop.tse.scu.get_tse_info()
    assert info.current_state == 1
    assert info.current_client_ids == ["POS-2"]


def test_new_queue_answers_out_of_service_but_journals(new_shop: Shop) -> None:
    for number in range(3):
        answer = new_shop.sale(f"S-{number}")
        assert answer["ftState"] == DE + 1
        assert answer["ftReceiptIdentification"] == f"ft{number}#"
    assert new_shop.tse.calls == []
    assert sum("was not activated" in message for message in new_shop.actions()) == 1
    assert new_shop.row.ftReceiptNumerator == 3


def test_second_start_receipt_changes_nothing(shop: Shop) -> None:
    started = shop.row.StartMoment
    answer = shop.send(0x03, "INIT")
    assert shape(answer) == SIG_TX
    assert shop.row.StartMoment == started
    assert any("is activated, initial-operations-receipt" in message for message in shop.actions())


def test_late_signing_and_handwritten_notes_and_the_zero_receipt_that_ends_them(shop: Shop) -> None:
    calls = len(shop.tse.calls)
    late = shop.sale("L-1", case=0x01 | 0x1_0000, cbReceiptMoment="2024-01-02T07:30:00Z")
    assert late["ftState"] == DE + 8
    assert data_of(late, "Ausfallsnacherfassung vom 02.01.2024 07:30:00") == (
        "Elektronisches Aufzeichnungssystem ausgefallen"
    )
    shop.sale("L-2", case=0x01 | 0x1_0000, cbReceiptMoment="2024-01-02T07:35:00Z")
    hand = shop.sale("H-1", case=0x01 | 0x8_0000, cbReceiptMoment="2024-01-02T12:00:00Z")
    assert hand["ftState"] == DE
    assert captions(hand) == ["Handschriftbelegerfassung vom 02.01.2024 12:00:00"]
    assert shop.tse.calls[calls:] == []
    zero = shop.send(0x02, "Z")
    assert zero["ftState"] == DE
    assert captions(zero)[15].startswith("Ausfallsnacherfassung abgeschlossen am ")
    assert zero["ftSignatures"][15]["Data"] == (
        "2 Aktionen im Zeitraum von 02.01.2024 07:30:00 bis 02.01.2024 07:35:00"
    )
    assert shop.row.UsedFailedCount == 0


def test_formats_without_the_optional_flag(tmp_path: Path) -> None:
    shop = Shop(tmp_path, settings=QueueSettings(flag_optional_signatures=False))
    answer = shop.sale()
    assert {item["ftSignatureFormat"] for item in answer["ftSignatures"]} == {1, 3, 13}
    shop.close()


def test_sandbox_marks_every_response(tmp_path: Path) -> None:
    shop = Shop(tmp_path, settings=QueueSettings(sandbox=True))
    answer = shop.sale()
    assert captions(answer)[-1] == "S A N D B O X"
    assert answer["ftSignatures"][-1] == {
        "ftSignatureFormat": 1,
        "ftSignatureType": 0,
        "Caption": "S A N D B O X",
        "Data": shop.queue_id,
    }
    shop.close()


def test_payload_of_the_tse_is_the_base64_of_process_data(shop: Shop) -> None:
    answer = shop.sale()
    payload = base64.b64decode(data_of(answer, "finish-transaction-payload"))
    assert payload.decode() == data_of(answer, "<processData>")
