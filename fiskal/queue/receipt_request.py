"""Flag 0x0000_8000_0000_0000: has this receipt been signed already? (The answer may have been lost.)"""

from __future__ import annotations

from fiskal.core import parse_moment
from fiskal.germany.codes import CASE_MASK, ReceiptFlag, State
from fiskal.pos import ReceiptRequest, decode_request, decode_response, encode_request
from fiskal.pos.prepared import Prepared, prepare
from fiskal.store import Store, StoredItem

_FLAG = int(ReceiptFlag.RECEIPT_REQUEST)
_ERROR = 0xEEEE_EEEE
_NOT_PROCESSED = 0x2000_0000_0000 | State.OUT_OF_SERVICE | State.SCU_SWITCH
"""Bits of the ftState of an error or of a receipt that came while the queue could not sign."""

CANDIDATES = 1_000
"""How many receipts of one reference are compared, newest first."""


def lookup(store: Store, queue_no: int, request: Prepared) -> StoredItem | None:
    """The stored receipt the request asks for: same reference, terminal, kind and items.

    A candidate with the same flags and moment is preferred; without one the newest counts, because a POS may
    ask with the flag for late signing, say. The kind must be the same always: a start-transaction and an
    order have no items both, and the answer to one must not pass for the other's. Receipts that ended in an
    error are passed over.
    """
    wanted = decode_request(request.canonical)
    key = _key(wanted)
    fallback: StoredItem | None = None
    for stored in store.items_by_reference(
        queue_no, request.receipt_reference or "", request.terminal_id, CANDIDATES
    ):
        answer = stored.answer
        if answer is None or decode_response(answer.response.encode()).ft_state & 0xFFFF_FFFF == _ERROR:
            continue
        candidate = decode_request(stored.item.request.encode())
        if _key(candidate) != key:
            continue
        if (
            candidate.ft_receipt_case & ~_FLAG == wanted.ft_receipt_case & ~_FLAG
            and stored.item.cbReceiptMoment == request.receipt_moment_ticks
        ):
            return stored
        if fallback is None:
            fallback = stored
    return fallback


def duplicate(store: Store, queue_no: int, request: Prepared, since: int) -> StoredItem | None:
    """The receipt that ``request`` repeats: same reference, terminal, case, moment and items.

    Only one that was answered at or after ``since`` (ticks) counts, and not with an error or because the
    queue was out of service. Unlike in a lookup the items are compared with all their members: two sales of
    one moment may differ in a description only.
    """
    wanted: ReceiptRequest | None = None
    for stored in store.items_by_reference(
        queue_no, request.receipt_reference or "", request.terminal_id, CANDIDATES
    ):
        item, answer = stored
        if answer is None or answer.ftDoneMoment < since:
            break
        if (
            item.cbReceiptMoment != request.receipt_moment_ticks
            or (item.cbTerminalID or "") != (request.terminal_id or "")
            or decode_response(answer.response.encode()).ft_state & _NOT_PROCESSED
        ):
            continue
        if item.requestHash == request.request_hash_base64:
            return stored
        wanted = wanted or decode_request(request.canonical)
        candidate = decode_request(item.request.encode())
        if (
            candidate.ft_receipt_case == wanted.ft_receipt_case
            and candidate.cb_charge_items == wanted.cb_charge_items
            and candidate.cb_pay_items == wanted.cb_pay_items
        ):
            return stored
    return None


def without_flag(request: Prepared, *, strict: bool) -> Prepared:
    """The same request as a new receipt: the stored text does not carry the flag."""
    message = decode_request(request.canonical)
    message.ft_receipt_case &= ~_FLAG
    return prepare(encode_request(message), strict=strict)


def _key(request: ReceiptRequest) -> tuple[object, ...]:
    """What the lookup compares: the kind, amounts by value, moments as instants."""
    return (
        request.ft_receipt_case & CASE_MASK,
        tuple(
            (item.amount, item.ft_charge_item_case, item.moment and parse_moment(item.moment))
            for item in request.cb_charge_items
        ),
        tuple(
            (item.amount, item.ft_pay_item_case, item.moment and parse_moment(item.moment))
            for item in request.cb_pay_items
        ),
    )
