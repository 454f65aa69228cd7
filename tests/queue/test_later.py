"""Receipts that are put in line: the POS goes on, and a finish waits for its own start."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fiskal.errors import ReceiptRejected
from fiskal.fairlock import QueueBusy
from fiskal.pos import ReceiptRequest, decode_response
from fiskal.queue.settings import QueueSettings
from tests.support.shop import DE, Shop


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path, settings=QueueSettings(max_waiting=3))
    yield shop
    shop.close()


class SlowStart:
    """Holds back every start at the TSE until it is let go."""

    def __init__(self, shop: Shop) -> None:
        self.began, self.go = threading.Event(), threading.Event()
        real = shop.tse.scu.start_transaction

        def start(*args: Any) -> Any:
            self.began.set()
            assert self.go.wait(30)
            return real(*args)

        shop.tse.scu.start_transaction = start  # type: ignore[method-assign]


def later(shop: Shop, case: int, reference: str, **members: Any) -> Any:
    return shop.middleware.sign_later_json(json.dumps(shop.request(case, reference, **members)).encode())


def identification(response: bytes) -> str | None:
    return decode_response(response).ft_receipt_identification


def test_scanning_goes_on_while_the_tse_signs_the_start_and_the_finish_waits_for_it(shop: Shop) -> None:
    slow = SlowStart(shop)
    start = later(shop, 0x08, "A")
    assert slow.began.wait(30)
    assert not start.done()
    with ThreadPoolExecutor(1) as pos:
        finish = pos.submit(shop.sale, "A", flow="explicit")
        assert not finish.done()
        slow.go.set()
        assert finish.result(30)["ftReceiptIdentification"] == "ft2#T2"
    assert identification(start.result()) == "ft1#ST2"


def test_what_is_put_in_line_keeps_its_order(shop: Shop) -> None:
    slow = SlowStart(shop)
    first = later(shop, 0x08, "A")
    second, third = later(shop, 0x08, "B"), later(shop, 0x0B, "A")
    with pytest.raises(QueueBusy, match="3 receipts wait"):
        later(shop, 0x08, "C")
    slow.go.set()
    assert [identification(each.result(30)) for each in (first, second, third)] == [
        "ft1#ST2",
        "ft2#ST3",
        "ft3#T2",
    ]
    assert later(shop, 0x08, "C").result(30)


def test_a_receipt_in_line_fails_like_any_other_and_holds_nobody_up(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    failing = later(shop, 0x01, "never started", flow="explicit")
    with pytest.raises(ReceiptRejected, match="No transactionnumber found"):
        failing.result(30)
    assert shop.sale("next")["ftState"] == DE
    shop.middleware.queue(shop.queue_id).close()  # waits for what is logged after the result
    assert "put in line failed: ReceiptRejected" in caplog.text


def test_what_can_be_refused_at_once_is(shop: Shop) -> None:
    with pytest.raises(ReceiptRejected):
        shop.middleware.sign_later_json(b"{")
    with pytest.raises(ReceiptRejected, match="CashBox"):
        later(shop, 0x08, "A", ftCashBoxID="d4a62055-ca6c-4372-ae4d-f835a88e4a5d")


def test_a_typed_request_can_be_put_in_line(shop: Shop) -> None:
    request = ReceiptRequest(
        ft_cash_box_id=shop.config.cash_box_id,
        cb_terminal_id="T1",
        cb_receipt_reference="A",
        cb_receipt_moment="2023-11-14T22:13:20Z",
        cb_charge_items=[],
        cb_pay_items=[],
        ft_receipt_case=DE | 0x08,
    )
    assert identification(shop.middleware.sign_later(request).result(30)) == "ft1#ST2"


def test_closing_signs_what_is_in_line(shop: Shop) -> None:
    futures = [later(shop, 0x08, str(n)) for n in range(3)]
    shop.middleware.close()
    assert [identification(each.result(0)) for each in futures] == ["ft1#ST2", "ft2#ST3", "ft3#ST4"]
    with pytest.raises(QueueBusy, match="closing"):
        later(shop, 0x08, "late")


def test_an_implicit_receipt_is_not_interrupted_at_the_tse(tmp_path: Path) -> None:
    """Two queues on one TSE: start and finish of each follow each other in the TSE's log."""

    def second_queue(config: Any) -> None:
        queue = config.queues[0]
        config.queues.append(type(queue)(id="2" * 8 + queue.id[8:], client_id="POS-2", scu_id=queue.scu_id))

    shop = Shop(tmp_path, prepare=second_queue)
    try:
        ids = [queue.id for queue in shop.config.queues]
        shop.queue_id = ids[1]
        shop.send(0x03)
        shop.middleware._bindings[shop.scu_id].in_process = False  # or the host's turns would see to it
        real = shop.tse.scu.start_transaction

        def slow_start(*args: Any) -> Any:
            started = real(*args)
            time.sleep(0.001)
            return started

        shop.tse.scu.start_transaction = slow_start  # type: ignore[method-assign]

        def sell(number: int) -> list[int]:
            counters = []
            for n in range(20):
                request = shop.request(0x01, f"{number}-{n}", ftQueueID=ids[number % 2])
                calls = shop.post(request)["ftSignatures"]
                counters.append(int(next(i["Data"] for i in calls if i["Caption"] == "<signatur-zaehler>")))
            return counters

        with ThreadPoolExecutor(4) as pool:
            finishes = sorted(counter for each in pool.map(sell, range(4)) for counter in each)
        assert finishes == list(range(finishes[0], finishes[0] + 160, 2))
    finally:
        shop.close()
