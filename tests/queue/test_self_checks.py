"""The fifteen things whoever writes a queue for Germany should check first, in their order."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest

from fiskal.errors import ReceiptRejected, StoreError
from fiskal.export.verify import verify_journal
from fiskal.queue.settings import QueueSettings
from fiskal.scu.contract import FinishTransactionRequest
from fiskal.scu.errors import Unreachable
from tests.queue.test_healthy import SIG_FIN, SIG_POS, SIG_START, SIG_TX, SIG_UPDATE, VORGANGSBEGINN, shape
from tests.queue.test_switch import SwitchShop, two_scus
from tests.support.shop import DE, DyingStore, Shop, captions

DOWN = Unreachable("CONNECT_FAILED", "Nobody answers.")
LATE, RECEIPT_REQUEST = 0x1_0000, 0x8000_0000_0000
CLIENT_ONLY, FORCE = 0x100_0000, 0x4000_0000


def verified(shop: Shop) -> None:
    report = verify_journal(shop.middleware.store, shop.row)
    assert report.ok, report.problems


def chain_input(shop: Shop, number: int) -> bytes:
    """What the hash of a receipt is made of."""
    (item,) = [row for row in shop.journal(3) if row["ftQueueRow"] == number]
    receipts = {
        each.ftReceiptNumber: each
        for each in shop.middleware.store.iter_receipts_by_number(shop.row.queue_no)
    }
    previous = b"" if number == 1 else base64.b64decode(receipts[number - 1].ftReceiptHash)
    receipt = receipts[number]
    return (
        previous
        + uuid.UUID(receipt.ftReceiptJournalId).bytes_le
        + receipt.ftReceiptMoment.to_bytes(8, "little")
        + number.to_bytes(8, "little")
        + base64.b64decode(item["requestHash"])
        + base64.b64decode(item["responseHash"])
    )


def test_01_first_receipt_of_a_queue(new_shop: Shop) -> None:
    answer = new_shop.send(0x03)
    assert answer["ftReceiptIdentification"] == "ft0#IT1"
    (receipt,) = new_shop.journal(2)
    assert receipt["ftReceiptNumber"] == 1
    data = chain_input(new_shop, 1)
    assert len(data) == 96
    assert receipt["ftReceiptHash"] == base64.b64encode(hashlib.sha256(data).digest()).decode()
    new_shop.sale()
    data = chain_input(new_shop, 2)
    assert len(data) == 128
    assert new_shop.row.ftReceiptHash == base64.b64encode(hashlib.sha256(data).digest()).decode()


def test_02_error_takes_a_row_and_no_number(shop: Shop) -> None:
    before = shop.row
    with pytest.raises(ReceiptRejected):
        shop.sale(flow="explicit")
    after = shop.row
    assert (after.ftCurrentRow, after.ftReceiptNumerator) == (2, 1)
    assert (after.ftReceiptHash, after.ftReceiptTotalizer) == (
        before.ftReceiptHash,
        before.ftReceiptTotalizer,
    )
    answer = shop.sale()
    assert (answer["ftQueueRow"], answer["ftReceiptIdentification"]) == (3, "ft1#IT2")
    verified(shop)


def test_03_implicit_receipt(shop: Shop) -> None:
    calls = len(shop.tse.calls)
    answer = shop.sale()
    assert shop.tse.calls[calls:] == ["start_transaction", "finish_transaction"]
    assert shape(answer) == [*SIG_POS, VORGANGSBEGINN]
    assert len(answer["ftSignatures"]) == 19
    assert shop.open_references() == []


def test_04_explicit_start_update_finish(shop: Shop) -> None:
    answers = [shop.send(0x08, "E"), shop.send(0x09, "E"), shop.sale("E", flow="explicit")]
    suffixes = [answer["ftReceiptIdentification"].partition("#")[2] for answer in answers]
    assert suffixes == ["ST2", "UT2", "T2"]
    assert [shape(answer) for answer in answers] == [SIG_START, SIG_UPDATE, [*SIG_POS, VORGANGSBEGINN]]
    assert [len(answer["ftSignatures"]) for answer in answers] == [1, 3, 19]


def test_05_tse_down_at_the_finish(shop: Shop) -> None:
    shop.send(0x08, "E")
    shop.tse.down = DOWN
    assert shop.sale("E", flow="explicit")["ftState"] == DE + 2
    number = shop.row.queue_no
    (failed,) = shop.middleware.store.failed_finishes(number)
    assert (failed.cbReceiptReference, failed.TransactionNumber) == ("E", 2)
    assert shop.open_references() == ["E"]
    shop.tse.down = None
    calls = len(shop.tse.calls)
    for reference in ("S-1", "S-2"):
        assert shop.sale(reference)["ftState"] == DE + 2
    assert shop.row.SSCDFailCount == 3
    assert len(shop.tse.calls) == calls
    zero = shop.send(0x02, "Z")
    assert zero["ftState"] == DE
    assert shape(zero)[:30] == SIG_TX + SIG_TX
    assert len(zero["ftSignatures"]) == 31
    assert captions(zero)[30].startswith("TSE Kommunikation wiederhergestellt")
    assert shop.open_references() == shop.middleware.store.failed_finishes(number) == []
    verified(shop)


def test_06_start_in_failed_mode(shop: Shop) -> None:
    shop.tse.down = DOWN
    assert shop.send(0x08, "E")["ftState"] == DE + 2
    shop.tse.down = None
    zero = shop.send(0x02, "Z")
    assert shape(zero)[:16] == SIG_TX + SIG_START
    assert captions(zero)[15] == "start-transaction-signature"
    (number,) = shop.open_on_tse()
    assert shop.sale("E", flow="explicit")["ftReceiptIdentification"].endswith(f"#T{number}")


def test_07_start_and_finish_in_failed_mode(shop: Shop) -> None:
    shop.tse.down = DOWN
    shop.send(0x08, "E")
    shop.sale("E", flow="explicit")
    shop.tse.down = None
    zero = shop.send(0x02, "Z")
    assert len(zero["ftSignatures"]) == 16
    assert captions(zero)[15].startswith("TSE Kommunikation wiederhergestellt")
    assert shop.open_on_tse() == []


def test_08_daily_closing_with_open_transactions(shop: Shop) -> None:
    for reference in ("A", "B", "C"):
        shop.send(0x08, reference)
    (_, _, third) = shop.open_on_tse()
    shop.tse.scu.finish_transaction(
        FinishTransactionRequest(client_id="POS-1", transaction_number=third, process_type="SonstigerVorgang")
    )
    answer = shop.send(0x07, "Z")
    assert shape(answer) == SIG_TX + SIG_FIN + SIG_FIN
    (removed,) = shop.actions_of("4445000020000000-OpenTransaction")
    assert json.loads(removed.DataJson)["TransactionNumber"] == third
    assert json.loads(removed.DataJson)["cbReceiptReference"] == "C"
    assert json.loads(answer["ftStateData"])["DailyClosingNumber"] == 1
    (closing,) = shop.actions_of("4445000000000007")
    assert json.loads(closing.DataJson)["closingNumber"] == 1
    assert shop.open_on_tse() == []


@pytest.mark.parametrize(("flags", "down"), [(FORCE, False), (0, True)])
def test_09_scu_switch(tmp_path: Path, flags: int, down: bool) -> None:
    shop = SwitchShop(tmp_path, prepare=two_scus)
    shop.close_day()
    shop.sale("one receipt later")
    with pytest.raises(ReceiptRejected, match="can only be called right after a daily-closing receipt"):
        shop.initiate(CLIENT_ONLY)
    shop.tse.down = DOWN if down else None
    assert shop.initiate(CLIENT_ONLY | flags)["ftState"] == DE
    for case in (0x01, 0x02, 0x07, 0x08, 0x01 | LATE):
        assert shop.send(case)["ftState"] == DE + 0x100
    finish = shop.finish()
    assert (finish["ftState"], len(finish["ftSignatures"])) == (DE, 17)
    verified(shop)
    shop.close()


def test_10_stop_with_the_tse_down(shop: Shop) -> None:
    shop.tse.down = DOWN
    answer = shop.send(0x04)
    assert (answer["ftState"], answer["ftSignatures"]) == (DE, [])
    assert shop.sale()["ftState"] == DE + 1


def test_11_late_receipt_in_failed_mode(shop: Shop) -> None:
    shop.tse.fail_before("start_transaction", DOWN)
    shop.sale()
    assert shop.sale(case=0x01 | LATE)["ftState"] == DE + 8
    assert shop.row.SSCDFailCount == 1
    notes = captions(shop.send(0x02))[15:]
    assert [note.partition(" am ")[0] for note in notes] == [
        "TSE Kommunikation wiederhergestellt",
        "Ausfallsnacherfassung abgeschlossen",
    ]


@pytest.mark.parametrize("mode", [0, 1])
def test_12_receipt_request(tmp_path: Path, mode: int) -> None:
    shop = Shop(tmp_path, settings=QueueSettings(receipt_request_mode=mode))

    def text(reference: str, flag: int = 0) -> bytes | None:
        body = json.dumps(shop.request(0x14 | flag, reference)).encode()
        return shop.middleware.sign_json(body)

    answer = text("S")
    assert text("S", RECEIPT_REQUEST) == answer
    assert shop.row.ftCurrentRow == 2
    other = json.loads(text("T", RECEIPT_REQUEST) or "")
    assert (other is None) == (mode == 0)
    assert shop.row.ftCurrentRow == 2 + mode
    shop.close()


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_13_journal_ranges(shop: Shop, kind: int) -> None:
    for number in range(9):
        shop.sale(f"S-{number}")
        shop.send(0x02, f"Z-{number}")
    rows = shop.journal(kind)
    assert len(rows) >= 10
    stamps = [row["TimeStamp"] for row in rows]
    assert stamps == sorted(stamps)
    assert shop.journal(kind, stamps[3], -5) == rows[3:8]
    assert shop.journal(kind, stamps[3], 0) == rows[3:]
    assert shop.journal(kind, 0, 0) == rows
    assert shop.journal(kind, stamps[2], stamps[4]) == [
        row for row in rows if stamps[2] <= row["TimeStamp"] <= stamps[4]
    ]


def test_14_two_threads(shop: Shop) -> None:
    numbers: list[Any] = []

    def sell(name: str) -> None:
        numbers.extend(shop.sale(f"{name}-{number}")["ftQueueRow"] for number in range(100))

    threads = [threading.Thread(target=sell, args=(name,)) for name in "AB"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(2, 202))
    receipts = [row["ftReceiptNumber"] for row in shop.journal(2)]
    assert sorted(receipts) == list(range(1, 202))
    verified(shop)


def test_15_death_between_acceptance_and_answer(shop: Shop) -> None:
    """The real death of a process is the kill campaign's; here the disk takes the request and nothing more."""
    shop.sale("S-1")
    queue = shop.middleware.queue()
    queue.journal.store = DyingStore(queue.journal.store, 1, StoreError("power cut"))  # type: ignore[assignment]
    with pytest.raises(StoreError):
        shop.sale("S-2")
    shop.reopen()
    (item,) = [row for row in shop.journal(3) if row["cbReceiptReference"] == "S-2"]
    assert item["response"] is not None
    assert shop.row.ftCurrentRow == shop.row.ftQueuedRow == 3
    asked = shop.sale("S-2", case=0x01 | RECEIPT_REQUEST)
    answer = shop.sale("S-2") if asked is None else asked
    assert answer["ftState"] == DE
    shop.sale("S-3")
    numbers = [row["ftReceiptNumber"] for row in shop.journal(2)]
    assert numbers == [1, 2, 3, 4]
    assert shop.tse.scu.get_tse_info().current_number_of_signatures == 2 * 4 + signatures_of_start(shop)
    verified(shop)


def signatures_of_start(shop: Shop) -> int:
    """What the TSE signed that is no transaction: its initialization and the like."""
    (first, *_) = (
        answer.tse_calls for _, answer in shop.middleware.store.iter_items_by_row(shop.row.queue_no) if answer
    )
    assert first is not None
    return int(first.split(":")[1]) - 1
