"""Order, numbers, chain and crash safety of the pipeline; what is stored."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import uuid
from decimal import Decimal

import pytest

from fiskal.errors import ReceiptRejected, StoreError
from fiskal.export.verify import verify_journal
from fiskal.queue.line import Line, QueueBusy
from tests.support.shop import DyingStore, Shop, captions


def test_chain_by_a_slow_obvious_model(shop: Shop) -> None:
    for number in range(5):
        shop.sale(f"S-{number}")
    items = {row["ftQueueItemId"]: row for row in shop.journal(3)}
    previous = b""
    for number, row in enumerate(shop.journal(2), 1):
        item = items[row["ftQueueItemId"]]
        assert row["ftReceiptNumber"] == number
        for text, stored in ((item["request"], "requestHash"), (item["response"], "responseHash")):
            assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() == item[stored]
        moment = next(
            each.ftReceiptMoment
            for each in shop.middleware.store.iter_receipts_by_number(1)
            if each.ftReceiptNumber == number
        )
        data = (
            previous
            + uuid.UUID(row["ftReceiptJournalId"]).bytes_le
            + moment.to_bytes(8, "little")
            + number.to_bytes(8, "little")
            + base64.b64decode(item["requestHash"])
            + base64.b64decode(item["responseHash"])
        )
        previous = hashlib.sha256(data).digest()
        assert base64.b64encode(previous).decode() == row["ftReceiptHash"]
    assert shop.row.ftReceiptHash == base64.b64encode(previous).decode()
    assert Decimal(shop.row.ftReceiptTotalizer) == Decimal("37.50")


def test_the_answer_is_the_stored_text(shop: Shop) -> None:
    text = shop.middleware.sign_json(json.dumps(shop.request(0x14, "P-1")).encode()).decode()
    stored = shop.middleware.store.item(json.loads(text)["ftQueueItemID"])
    assert stored is not None
    assert stored.answer is not None
    assert stored.answer.response == text


def test_rejected_receipt_keeps_its_row_but_gets_no_number(shop: Shop) -> None:
    with pytest.raises(ReceiptRejected) as caught:
        shop.sale("nobody started this", flow="explicit")
    assert caught.value.code == "TRANSACTION_NOT_FOUND"
    stored = json.loads(caught.value.response or "")
    assert stored["ftState"] == 0x4445_2000_EEEE_EEEE
    assert stored["ftReceiptIdentification"] == ""
    assert stored["ftQueueRow"] == 2
    (item,) = stored["ftSignatures"]
    assert item["ftSignatureType"] == 0x4445_2000_0000_3000
    assert item["Caption"] == "uncaught-exeption"
    assert "No transactionnumber found for cbReceiptReference" in item["Data"]
    assert "Traceback" not in item["Data"]
    assert shop.row.ftCurrentRow == 2
    assert shop.row.ftReceiptNumerator == 1
    types = [row["Type"] for row in shop.journal(1)]
    assert types[-1] == "44452000EEEEEEEE"
    assert shop.sale()["ftReceiptIdentification"] == "ft1#IT2"


def test_second_start_with_the_same_reference(shop: Shop) -> None:
    shop.send(0x08, "E-1")
    with pytest.raises(ReceiptRejected, match="Transactionnumber 2 was already started using") as caught:
        shop.send(0x08, "E-1")
    assert caught.value.code == "TRANSACTION_ALREADY_STARTED"
    with pytest.raises(ReceiptRejected, match="was already started"):
        shop.sale("E-1")
    assert shop.open_on_tse() == [2]


def test_a_line_serves_in_order_and_refuses_a_crowd() -> None:
    line = Line(max_waiting=3)
    order: list[int] = []
    threads = []

    def enter(number: int) -> None:
        place = line.join()
        place.call()
        order.append(number)
        line.leave(place)

    first = line.join()
    assert first.done
    for number in range(3):
        thread = threading.Thread(target=enter, args=(number,))
        thread.start()
        while line.waiting <= number:
            pass
        threads.append(thread)
    with pytest.raises(QueueBusy):
        line.join()
    assert line.join_if_free() is None
    line.leave(first)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2]
    assert line.served is None


def test_a_place_that_is_given_up_keeps_nobody_waiting() -> None:
    line = Line(max_waiting=3)
    first, second, third = line.join(), line.join(), line.join()
    told: list[str] = []
    third.then(lambda: told.append("third"))
    line.leave(second)
    line.leave(first)
    assert told == ["third"]
    assert third.done
    fourth = line.join()
    line.leave(third)
    fourth.then(lambda: told.append("fourth"))
    assert told == ["third", "fourth"]


# ---- crashes and the disk -----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [StoreError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("commits", [0, 1])
def test_failed_commit_leaves_no_trace_or_a_receipt_that_is_completed(
    shop: Shop, commits: int, error: BaseException
) -> None:
    queue = shop.middleware.queue()
    store = queue.journal.store
    queue.journal.store = DyingStore(store, commits, error)
    with pytest.raises(type(error)):
        shop.sale("S-1")
    queue.journal.store = store
    answer = shop.sale("S-2")
    assert answer["ftQueueRow"] == 2 + commits
    assert answer["ftReceiptIdentification"].startswith(f"ft{1 + commits}#")
    if commits:
        (item,) = [row for row in shop.journal(3) if row["ftQueueRow"] == 2]
        assert json.loads(item["response"]) == shop.sale("S-1", case=0x01 | 0x8000_0000_0000)
    report = verify_journal(shop.middleware.store, shop.row)
    assert report.ok, report.problems


def test_crash_between_t1_and_the_tse_is_closed_at_the_next_start(shop: Shop) -> None:
    shop.sale("S-1")
    shop.tse.fail_before("start_transaction", StoreError("power cut"))
    with pytest.raises(StoreError):
        shop.sale("S-2")
    shop.reopen()
    (item,) = [row for row in shop.journal(3) if row["cbReceiptReference"] == "S-2"]
    assert captions(json.loads(item["response"])) == ["interrupted"]
    assert shop.sale("S-3")["ftReceiptIdentification"].startswith("ft2#")
    report = verify_journal(shop.middleware.store, shop.row)
    assert report.ok, report.problems
    assert report.counts["errors"] == 1
