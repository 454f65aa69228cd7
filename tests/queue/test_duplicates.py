"""duplicate_window_s: a business receipt that comes again gets its first answer instead of a second signature."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fiskal.errors import ReceiptRejected
from fiskal.queue.settings import QueueSettings
from fiskal.scu.errors import Unreachable
from tests.support.shop import DE, Shop

DOWN = Unreachable("CONNECT_FAILED", "Nobody answers.")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path, settings=QueueSettings(duplicate_window_s=60))
    yield made
    made.close()


def goods(description: str = "Ware", **members: Any) -> list[dict[str, Any]]:
    return [{"Quantity": 1, "Description": description, "Amount": 1.5, "ftChargeItemCase": DE | 1, **members}]


def test_the_same_receipt_gets_the_same_answer(shop: Shop) -> None:
    answer = shop.sale("S-1")
    rows = shop.row.ftCurrentRow
    assert shop.sale("S-1") == answer
    assert shop.row.ftCurrentRow == rows
    assert shop.actions()[-1] == f'Queue {shop.queue_id} found cbReceiptReference "S-1"'
    shop.reopen()
    assert shop.sale("S-1", amount="7.500") == answer


def test_off_by_default(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    assert shop.sale("S-1")["ftQueueRow"] != shop.sale("S-1")["ftQueueRow"]
    shop.close()


@pytest.mark.parametrize(
    "changed",
    [
        {"cbTerminalID": "T2"},
        {"cbTerminalID": ""},
        {"reference": "S-2"},
        {"case": 0x0C},
        {"cbReceiptMoment": "2023-11-14T22:13:21Z"},
        {"cbChargeItems": goods("another")},
        {"cbChargeItems": goods(Quantity=2)},
        {"cbChargeItems": goods() * 2},
        {"cbPayItems": [{"Amount": 1.5, "ftPayItemCase": DE | 1}]},
    ],
)
def test_what_differs_is_signed(shop: Shop, changed: dict[str, Any]) -> None:
    def send(reference: str = "S-1", case: int = 0x01, **members: Any) -> Any:
        return shop.send(case, reference, **{"cbChargeItems": goods(), **members})

    answer = send()
    assert send() == answer
    assert send(**changed)["ftQueueRow"] == answer["ftQueueRow"] + 1


def test_only_within_the_window(shop: Shop) -> None:
    answer = shop.sale("S-1")
    shop.clock.advance(61)
    assert shop.sale("S-1")["ftQueueRow"] == answer["ftQueueRow"] + 1


def test_special_receipts_are_never_duplicates(shop: Shop) -> None:
    shop.tse.down = DOWN
    assert shop.send(0x02, "Z")["ftState"] == DE + 2
    shop.tse.down = None
    assert shop.send(0x02, "Z")["ftState"] == DE


def test_a_receipt_of_failed_mode_is_not_booked_twice(shop: Shop) -> None:
    shop.tse.down = DOWN
    answer = shop.sale("S-1")
    assert answer["ftState"] == DE + 2
    assert shop.sale("S-1") == answer
    assert shop.row.SSCDFailCount == 1


def test_errors_and_answers_of_a_queue_out_of_service_do_not_count(tmp_path: Path) -> None:
    shop = Shop(tmp_path, start=False, settings=QueueSettings(duplicate_window_s=60))
    assert shop.sale("S-1")["ftState"] == DE + 1
    shop.send(0x03)
    assert shop.sale("S-1")["ftState"] == DE
    for _ in range(2):
        with pytest.raises(ReceiptRejected):
            shop.sale("E-1", flow="explicit")
    shop.send(0x08, "E-1")
    assert shop.sale("E-1", flow="explicit")["ftState"] == DE
    shop.close()
