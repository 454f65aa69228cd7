"""A request made ready: from the bytes of a POS to everything a queue needs, in one call of the core."""

from __future__ import annotations

import threading
from enum import IntEnum
from typing import Final

from fiskal.core import ffi, layout, lib
from fiskal.errors import ReceiptRejected

MAX_REQUEST_BYTES: Final = 16 * 1024 * 1024
"""Largest request :func:`prepare` accepts."""

MAX_ITEMS: Final = 10_000
"""Most charge and pay items of one request, together."""

_FIRST_ARENA: Final = 64 * 1024
_KEPT_ARENA: Final = 1024 * 1024  # one huge request must not hold memory of its thread for ever
_new_arena: Final = ffi.new_allocator(should_clear_after_alloc=False)


class Kind(IntEnum):
    """What a receipt does: one of three process types, or a special function."""

    RECEIPT = lib.FK_KIND_RECEIPT
    ORDER = lib.FK_KIND_ORDER
    OTHER = lib.FK_KIND_OTHER
    ZERO = lib.FK_KIND_ZERO
    INITIAL_OPERATION = lib.FK_KIND_INITIAL_OPERATION
    OUT_OF_OPERATION = lib.FK_KIND_OUT_OF_OPERATION
    MONTHLY_CLOSING = lib.FK_KIND_MONTHLY_CLOSING
    YEARLY_CLOSING = lib.FK_KIND_YEARLY_CLOSING
    DAILY_CLOSING = lib.FK_KIND_DAILY_CLOSING
    START_TRANSACTION = lib.FK_KIND_START_TRANSACTION
    UPDATE_TRANSACTION = lib.FK_KIND_UPDATE_TRANSACTION
    DELTA_TRANSACTION = lib.FK_KIND_DELTA_TRANSACTION
    FAIL_TRANSACTION = lib.FK_KIND_FAIL_TRANSACTION
    INITIATE_SCU_SWITCH = lib.FK_KIND_INITIATE_SCU_SWITCH
    FINISH_SCU_SWITCH = lib.FK_KIND_FINISH_SCU_SWITCH
    MIGRATION = lib.FK_KIND_MIGRATION


PROCESS_TYPES: Final = ("", "Kassenbeleg-V1", "Bestellung-V1", "SonstigerVorgang")
"""processType by fk_process_type (DSFinV-K Anhang I; the last one has no suffix)."""

WARN_UNBALANCED: Final[int] = lib.FK_WARN_UNBALANCED
WARN_PAYMENT_NOT_ALLOWED: Final[int] = lib.FK_WARN_PAYMENT_NOT_ALLOWED
WARN_UNKNOWN_RECEIPT_CASE: Final[int] = lib.FK_WARN_UNKNOWN_RECEIPT_CASE
WARN_UNKNOWN_CHARGE_CASE: Final[int] = lib.FK_WARN_UNKNOWN_CHARGE_CASE
WARN_UNKNOWN_PAY_CASE: Final[int] = lib.FK_WARN_UNKNOWN_PAY_CASE
WARN_CURRENCY_CODE: Final[int] = lib.FK_WARN_CURRENCY_CODE


class _Scratch(threading.local):
    """The buffers of one thread. As in :mod:`fiskal.core`: not to be used from a signal handler."""

    def __init__(self) -> None:
        self.prepared = ffi.new("fk_prepared *")
        self.prepared_bytes = ffi.buffer(self.prepared)
        self.error = ffi.new("fk_error *")
        self.set_arena(_FIRST_ARENA)

    def set_arena(self, size: int) -> None:
        self.arena = _new_arena("uint8_t[]", size)
        self.arena_bytes = ffi.buffer(self.arena)
        self.arena_size = size


_scratch = _Scratch()

_SYNTAX_HINT: Final = "send one JSON object, encoded in UTF-8"

# status: code, message, hint. The message is completed by path, offset and detail.
_PARSE_ERRORS: Final[dict[int, tuple[str, str, str]]] = {
    lib.FK_E_OVERFLOW: (
        "DECIMAL_OVERFLOW",
        "an amount is larger than a decimal can hold",
        "amounts have at most 28 digits before the decimal point",
    ),
    lib.FK_E_SYNTAX: ("JSON_SYNTAX", "the request is not valid JSON", _SYNTAX_HINT),
    lib.FK_E_TRUNCATED: (
        "JSON_TRUNCATED",
        "the request ends in the middle",
        "check Content-Length and that the whole body was sent",
    ),
    lib.FK_E_UTF8: (
        "JSON_UTF8",
        "the request is not valid UTF-8",
        "encode the request in UTF-8; surrogates must come in pairs",
    ),
    lib.FK_E_DUPLICATE: (
        "JSON_DUPLICATE_KEY",
        "a member appears twice in one object",
        "send each member once; names are compared without regard to letter case",
    ),
    lib.FK_E_TYPE: (
        "JSON_TYPE",
        "a value has the wrong type",
        "see the interface for the type of the member",
    ),
    lib.FK_E_RANGE: (
        "JSON_NUMBER_RANGE",
        "a number is not an integer of 64 bits",
        "send cases and positions as decimal integers",
    ),
    lib.FK_E_NOT_A_NUMBER: ("JSON_NOT_A_NUMBER", "NaN and Infinity are no amounts", "send a decimal number"),
    lib.FK_E_DEPTH: (
        "JSON_DEPTH",
        "the request is nested too deep",
        f"at most {lib.FK_MAX_DEPTH} levels are allowed",
    ),
    lib.FK_E_ITEMS: (
        "TOO_MANY_ITEMS",
        "the request has too many items",
        f"at most {MAX_ITEMS} charge and pay items fit in one receipt",
    ),
    lib.FK_E_NULL: (
        "NULL_NOT_ALLOWED",
        "a member that needs a value is null",
        "leave the member out to get its default",
    ),
    lib.FK_E_MOMENT: (
        "MOMENT_INVALID",
        "a moment is not a date and time",
        "write moments as 2020-05-22T10:47:40.960Z",
    ),
    lib.FK_E_MOMENT_MISSING: (
        "MOMENT_MISSING",
        "cbReceiptMoment is missing",
        "send the time at which the receipt was made, in UTC",
    ),
}

# status: code, message, hint. The first three messages are the interface's own, word for word.
_PAYLOAD_ERRORS: Final[dict[int, tuple[str, str, str]]] = {
    lib.FK_E_QUANTITY_ZERO: (
        "QUANTITY_ZERO",
        "The quantity property of charge item entries must not be 0.00, unless the amount is 0.00 as well.",
        "send the quantity that was ordered",
    ),
    lib.FK_E_CURRENCY_MISSING: (
        "CURRENCY_DATA_MISSING",
        "ftPayItemCaseData must not be empty when using ftPayItemCase {case:x}.",
        'send {"CurrencyCode":"USD","ForeignCurrencyAmount":5.00} as a JSON string',
    ),
    lib.FK_E_CURRENCY_INVALID: (
        "CURRENCY_DATA_INVALID",
        "ftPayItemCaseData must contain a JSON object with 'ForeignCurrencyAmount' and 'CurrencyCode' "
        "when using ftPayItemCase {case:x}.",
        'send {"CurrencyCode":"USD","ForeignCurrencyAmount":5.00} as a JSON string',
    ),
    lib.FK_E_CURRENCIES: (
        "TOO_MANY_CURRENCIES",
        f"the receipt has more than {lib.FK_MAX_PAYMENT_KEYS} kinds of payment",
        "split the receipt",
    ),
    lib.FK_E_STRICT_DECIMALS: (
        "STRICT_DECIMALS",
        "a tax or payment sum has more than two decimals",
        "round amounts to cents before they are sent and printed",
    ),
    lib.FK_E_STRICT_CURRENCY: (
        "STRICT_CURRENCY_CODE",
        "CurrencyCode is not an ISO 4217 code when using ftPayItemCase {case:x}",
        "send three capital letters",
    ),
    lib.FK_E_STRICT_VOID: (
        "STRICT_VOID_RECEIPT",
        "receipt case 0x0016 must not be used with a TSE",
        "send a second receipt with reversed amounts and the void flag 0x0000000000040000",
    ),
    lib.FK_E_STRICT_RECEIPT_CASE: (
        "STRICT_RECEIPT_CASE",
        "the receipt case is not defined",
        "send a receipt case between 0x0000 and 0x0019",
    ),
    lib.FK_E_STRICT_CHARGE_CASE: (
        "STRICT_CHARGE_CASE",
        "ftChargeItemCase {case:x} is not defined",
        "send a charge item case of the German tables",
    ),
    lib.FK_E_STRICT_PAY_CASE: (
        "STRICT_PAY_CASE",
        "ftPayItemCase {case:x} is not defined",
        "send a pay item case of the German tables",
    ),
}


class Prepared:
    """A request as the queue needs it. Moments are ticks, sums are exact decimal texts.

    ``canonical`` is the text that is stored and hashed. ``process_data`` is None if the items are at fault;
    then :meth:`payload_error` says why, and everything else is valid all the same. ``action_start_ticks`` is
    the earliest of cbReceiptMoment and the Moments of the items; ``moments_complete`` says that both arrays
    have items and every item a Moment, so that the time of processing need not be considered (DSFinV-K 2.7).
    ``total`` is cbReceiptAmount, or the sum of the charge Amounts as they are; ``charge_sum`` and ``pay_sum``
    follow the sign rule of processData. ``raw_hash`` is the SHA-256 of the bytes as they came.
    """

    __slots__ = (
        "_payload",
        "action_start_ticks",
        "canonical",
        "cash_box_id",
        "charge_count",
        "charge_sum",
        "kind",
        "moments_complete",
        "pay_count",
        "pay_sum",
        "pos_system_id",
        "previous_receipt_reference",
        "process_data",
        "process_data_base64",
        "process_type",
        "queue_id",
        "raw_hash",
        "receipt_case",
        "receipt_case_data",
        "receipt_moment_ticks",
        "receipt_reference",
        "request_hash",
        "request_hash_base64",
        "terminal_id",
        "total",
        "warnings",
    )

    receipt_case: int
    receipt_moment_ticks: int
    action_start_ticks: int
    moments_complete: bool
    charge_count: int
    pay_count: int
    kind: int
    process_type: str
    warnings: int
    canonical: bytes
    cash_box_id: str | None
    queue_id: str | None
    pos_system_id: str | None
    terminal_id: str | None
    receipt_reference: str | None
    receipt_case_data: str | None
    previous_receipt_reference: str | None
    total: str
    charge_sum: str
    pay_sum: str
    process_data: bytes | None
    process_data_base64: str | None
    request_hash: bytes
    raw_hash: bytes
    request_hash_base64: str
    _payload: tuple[int, int, int, int] | None

    @property
    def balanced(self) -> bool:
        """True if charge items and pay items have the same sum, or the receipt needs no balance."""
        return not self.warnings & WARN_UNBALANCED

    def payload_error(self) -> ReceiptRejected | None:
        """Return why there is no processData, None if there is."""
        if self._payload is None:
            return None
        status, index, is_pay, case = self._payload
        code, message, hint = _PAYLOAD_ERRORS[status]
        field = ""
        if index >= 0:
            field = f"cbPayItems[{index}]" if is_pay else f"cbChargeItems[{index}]"
        case &= 0xFFFF_FFFF_FFFF_FFFF
        return ReceiptRejected(code, message.format(case=case), field=field, hint=hint)


_unpack = layout("=39q32s32s44s4x", "fk_prepared").unpack
_new = Prepared.__new__


def _rejected(status: int, scratch: _Scratch) -> ReceiptRejected:
    code, message, hint = _PARSE_ERRORS[status]
    field = ffi.string(scratch.error.path).decode("ascii")
    detail = ffi.string(scratch.error.detail).decode("ascii")
    where = f" in {field}" if field and field not in message else ""
    if status == lib.FK_E_MOMENT_MISSING:  # what is not there has no place
        text = message
    else:
        text = f"{message}{where} at byte {scratch.error.offset}: {detail}"
    return ReceiptRejected(code, text, field=field, hint=hint)


def prepare(
    data: bytes, *, strict: bool = False, historic_rates: bool = False, max_items: int = MAX_ITEMS
) -> Prepared:
    """Read a ReceiptRequest and return everything the queue needs to know about it.

    ``data`` is JSON in the tolerant dialect of the interface. ``strict`` refuses or repairs what DSFinV-K
    does not allow; ``historic_rates`` sorts "unknown VAT" items with 19, 16, 7, 5, 10.7 or 5.5 % into the
    column of their class. Raises :class:`ReceiptRejected` if the JSON cannot be accepted; trouble with the
    items themselves is left to :meth:`Prepared.payload_error`, so that the identity stays readable.
    """
    size = len(data)
    if size > MAX_REQUEST_BYTES:
        raise ReceiptRejected(
            "JSON_TOO_LARGE",
            f"the request has {size} bytes, at most {MAX_REQUEST_BYTES} are allowed",
            hint="split the receipt or shorten its texts",
        )
    scratch = _scratch
    options = strict | historic_rates << 1
    status = lib.fk_prepare(
        data, size, options, max_items, scratch.arena, scratch.arena_size, scratch.prepared, scratch.error
    )
    if status:
        while status == lib.FK_E_SPACE:
            scratch.set_arena(max(scratch.error.offset, 2 * scratch.arena_size))
            status = lib.fk_prepare(
                data,
                size,
                options,
                max_items,
                scratch.arena,
                scratch.arena_size,
                scratch.prepared,
                scratch.error,
            )
        if status:
            if scratch.arena_size > _KEPT_ARENA:
                scratch.set_arena(_FIRST_ARENA)
            raise _rejected(status, scratch)

    arena = scratch.arena_bytes
    p = _new(Prepared)
    (
        p.receipt_case,
        p.receipt_moment_ticks,
        p.action_start_ticks,
        moments_complete,
        p.charge_count,
        p.pay_count,
        p.kind,
        process_type,
        p.warnings,
        payload_status,
        payload_item,
        payload_item_is_pay,
        payload_item_case,
        canonical_at,
        canonical_length,
        cash_box_at,
        cash_box_length,
        queue_at,
        queue_length,
        pos_system_at,
        pos_system_length,
        terminal_at,
        terminal_length,
        reference_at,
        reference_length,
        case_data_at,
        case_data_length,
        previous_at,
        previous_length,
        total_at,
        total_length,
        charge_sum_at,
        charge_sum_length,
        pay_sum_at,
        pay_sum_length,
        process_data_at,
        process_data_length,
        base64_at,
        base64_length,
        p.request_hash,
        p.raw_hash,
        request_hash_base64,
    ) = _unpack(scratch.prepared_bytes)
    p.moments_complete = moments_complete != 0
    p.process_type = PROCESS_TYPES[process_type]
    p.canonical = arena[canonical_at : canonical_at + canonical_length]
    p.cash_box_id = (
        None if cash_box_length < 0 else str(arena[cash_box_at : cash_box_at + cash_box_length], "utf-8")
    )
    p.queue_id = None if queue_length < 0 else str(arena[queue_at : queue_at + queue_length], "utf-8")
    p.pos_system_id = (
        None
        if pos_system_length < 0
        else str(arena[pos_system_at : pos_system_at + pos_system_length], "utf-8")
    )
    p.terminal_id = (
        None if terminal_length < 0 else str(arena[terminal_at : terminal_at + terminal_length], "utf-8")
    )
    p.receipt_reference = (
        None if reference_length < 0 else str(arena[reference_at : reference_at + reference_length], "utf-8")
    )
    p.receipt_case_data = (
        None if case_data_length < 0 else str(arena[case_data_at : case_data_at + case_data_length], "utf-8")
    )
    p.previous_receipt_reference = (
        None if previous_length < 0 else str(arena[previous_at : previous_at + previous_length], "utf-8")
    )
    p.total = str(arena[total_at : total_at + total_length], "ascii")
    p.charge_sum = str(arena[charge_sum_at : charge_sum_at + charge_sum_length], "ascii")
    p.pay_sum = str(arena[pay_sum_at : pay_sum_at + pay_sum_length], "ascii")
    p.request_hash_base64 = str(request_hash_base64, "ascii")
    if payload_status:
        p.process_data = p.process_data_base64 = None
        p._payload = (payload_status, payload_item, payload_item_is_pay, payload_item_case)
    else:
        p.process_data = arena[process_data_at : process_data_at + process_data_length]
        p.process_data_base64 = str(arena[base64_at : base64_at + base64_length], "ascii")
        p._payload = None
    if scratch.arena_size > _KEPT_ARENA:
        scratch.set_arena(_FIRST_ARENA)
    return p
