"""Embed fiskal in your own process: one Middleware, many threads, typed requests instead of JSON.

A Middleware is thread-safe. Receipts of one queue are signed one after the other, in the order in which
they came; the calling thread does the work, there is nothing to start and nothing to poll.

With --url the same threads use a host over HTTP instead.
"""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal

from _common import POS_SYSTEM_ID, Embedded, Register, open_register, options

import fiskal
from fiskal.pos import decode_response, encode_request

DE = 0x4445_0000_0000_0000
POS_RECEIPT = DE | 0x0001
IMPLICIT_FLOW = 0x1_0000_0000

REGISTERS = 4
SALES = 5


def sale(cash_box_id: str, terminal: str, number: int) -> fiskal.ReceiptRequest:
    """One coffee, paid in cash."""
    return fiskal.ReceiptRequest(
        ft_cash_box_id=cash_box_id,
        ft_pos_system_id=POS_SYSTEM_ID,
        cb_terminal_id=terminal,
        cb_receipt_reference=f"{terminal}-{number}",
        cb_receipt_moment=datetime.now(UTC).isoformat(),
        cb_charge_items=[
            fiskal.ChargeItem(
                description="Kaffee",
                amount=Decimal("2.50"),
                vat_rate=Decimal("19"),
                ft_charge_item_case=DE | 1,
            )
        ],
        cb_pay_items=[fiskal.PayItem(description="Bar", amount=Decimal("2.50"), ft_pay_item_case=DE | 1)],
        ft_receipt_case=POS_RECEIPT | IMPLICIT_FLOW,
    )


def sign(register: Register, request: fiskal.ReceiptRequest) -> fiskal.ReceiptResponse:
    """Sign in this process, or over HTTP when the example was told so."""
    if isinstance(register, Embedded):
        response = register.middleware.sign(request)
        assert response is not None  # None is only answered to receipt requests
        return response
    return decode_response(register.post(encode_request(request)))


def work(register: Register, terminal: str) -> list[fiskal.ReceiptResponse]:
    """What one register does: sell one coffee after the other."""
    return [sign(register, sale(register.cash_box_id, terminal, number)) for number in range(SALES)]


def main() -> None:
    with open_register(options()) as register, ThreadPoolExecutor(REGISTERS) as pool:
        terminals = [f"Kasse {number}" for number in range(1, REGISTERS + 1)]
        responses = [each for done in pool.map(lambda name: work(register, name), terminals) for each in done]
    for each in sorted(responses, key=lambda response: response.ft_queue_row):
        print(f"row {each.ft_queue_row}: {each.cb_terminal_id}, {each.ft_receipt_identification}")
    rows = [each.ft_queue_row for each in responses]
    assert sorted(rows) == list(range(min(rows), min(rows) + len(rows))), "the queue has no gaps"


if __name__ == "__main__":
    main()
