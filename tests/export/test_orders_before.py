"""Whether orders of the same action stand in the journal before a receipt."""

from __future__ import annotations

from typing import Any

import pytest

from fiskal.export.receipt import ORDERS_LOOKED_AT, orders_before
from fiskal.pos import decode_canonical
from tests.support.shop import Shop

ORDER, INTERNAL = 0x10, 0x13


def before(
    shop: Shop, answer: dict[str, Any], *, row: int | None = None, queue_no: int | None = None
) -> bool:
    """Of the receipt that got ``answer``, as if it stood in another row or queue."""
    store = shop.middleware.store
    stored = store.item(answer["ftQueueItemID"])
    assert stored is not None
    item = stored.item
    return orders_before(
        store,
        item.queue_no if queue_no is None else queue_no,
        decode_canonical(item.request.encode()),
        item.ftQueueRow if row is None else row,
    )


def test_order_of_the_same_reference(shop: Shop) -> None:
    assert not before(shop, shop.sale("A"))
    order = shop.send(ORDER, "A")
    assert not before(shop, order), "an order does not stand before itself"
    assert not before(shop, shop.sale("B"))
    sale = shop.sale("A", cbTerminalID="T2")
    assert before(shop, sale)
    assert before(shop, sale, row=order["ftQueueRow"] + 1)
    assert not before(shop, sale, row=order["ftQueueRow"]), "an order that came later"
    assert not before(shop, sale, queue_no=99), "an order of another queue"


def test_order_of_the_previous_reference(shop: Shop) -> None:
    shop.send(ORDER, "table")
    assert before(shop, shop.sale("bill-1", cbPreviousReceiptReference="table"))
    assert not before(shop, shop.sale("bill-2", cbPreviousReceiptReference="bill-1"))


def test_receipts_without_a_reference_belong_to_nothing(shop: Shop) -> None:
    shop.send(ORDER, "")
    assert not before(shop, shop.sale("", cbPreviousReceiptReference=""))


def test_order_that_ended_in_an_error_does_not_count(shop: Shop) -> None:
    with pytest.raises(Exception, match="No transactionnumber"):
        shop.send(ORDER, "A", flow="explicit")
    assert not before(shop, shop.sale("A"))


def test_order_far_behind_its_receipt(shop: Shop) -> None:
    shop.send(ORDER, "A")
    for _ in range(20):
        shop.send(INTERNAL, "A")
    assert ORDERS_LOOKED_AT > 22
    assert before(shop, shop.sale("A"))
