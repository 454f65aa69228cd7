"""The only door to the compiled core: Python types in, Python types out, C errors as exceptions.

Every function may be called from many threads at once. Each thread owns one scratch area that its calls
reuse, because on the way of a receipt allocating buffers would cost more than the work itself. The one
place they must not be called from is a signal handler, which could cut into such a call of its own thread.
"""

from __future__ import annotations

import struct
import threading
from decimal import Decimal
from enum import IntEnum
from typing import Final, NamedTuple

from fiskal._core import ffi, lib
from fiskal.errors import CoreError, ReceiptRejected

SHA256_ACCELERATED: Final[bool] = bool(lib.fk_sha256_accelerated())
"""True if SHA-256 runs on the SHA instructions of this CPU."""

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

BON_TYPES: Final = (
    "", "Beleg", "AVTransfer", "AVBestellung", "AVTraining", "AVBelegstorno", "AVBelegabbruch", "AVSachbezug",
    "AVSonstige", "AVRechnung",
)  # fmt: skip
"""BON_TYP by fk_bon_typ (DSFinV-K Anhang B)."""

GV_TYPES: Final = (
    "Umsatz", "Pfand", "PfandRueckzahlung", "Rabatt", "Aufschlag", "ZuschussUnecht", "ZuschussEcht", "TrinkgeldAG",
    "TrinkgeldAN", "MehrzweckgutscheinKauf", "MehrzweckgutscheinEinloesung", "EinzweckgutscheinKauf",
    "EinzweckgutscheinEinloesung", "Forderungsentstehung", "Forderungsaufloesung", "Anzahlungseinstellung",
    "Anzahlungsaufloesung", "Anfangsbestand", "Privatentnahme", "Privateinlage", "Geldtransit", "Lohnzahlung",
    "Einzahlung", "Auszahlung", "DifferenzSollIst", "",
)  # fmt: skip
"""GV_TYP by fk_gv_typ (DSFinV-K Anhang C)."""

ZAHLART_TYPES: Final = (
    "Bar", "Unbar", "Keine", "ECKarte", "Kreditkarte", "ElZahlungsdienstleister", "Guthabenkarte",
)  # fmt: skip
"""ZAHLART_TYP by fk_zahlart (DSFinV-K Anhang D)."""


class PayClass(IntEnum):
    """What a pay item is: a payment of one of three kinds, or a business case in disguise."""

    CASH = lib.FK_PAY_CASH
    CASH_FOREIGN = lib.FK_PAY_CASH_FOREIGN
    NON_CASH = lib.FK_PAY_NON_CASH
    BUSINESS_CASE = lib.FK_PAY_BUSINESS_CASE
    INTERNAL = lib.FK_PAY_INTERNAL


WARN_UNBALANCED: Final[int] = lib.FK_WARN_UNBALANCED
WARN_PAYMENT_NOT_ALLOWED: Final[int] = lib.FK_WARN_PAYMENT_NOT_ALLOWED
WARN_UNKNOWN_RECEIPT_CASE: Final[int] = lib.FK_WARN_UNKNOWN_RECEIPT_CASE
WARN_UNKNOWN_CHARGE_CASE: Final[int] = lib.FK_WARN_UNKNOWN_CHARGE_CASE
WARN_UNKNOWN_PAY_CASE: Final[int] = lib.FK_WARN_UNKNOWN_PAY_CASE
WARN_CURRENCY_CODE: Final[int] = lib.FK_WARN_CURRENCY_CODE


def check(status: int) -> None:
    """Raise :class:`CoreError` unless ``status`` is ``FK_OK``."""
    if status != lib.FK_OK:
        raise CoreError(status)


class _Scratch(threading.local):
    """The buffers of one thread."""

    def __init__(self) -> None:
        self.hash = ffi.new("uint8_t[32]")
        self.hash_bytes = ffi.buffer(self.hash)
        self.completed = ffi.new("fk_completed *")
        self.completed_bytes = ffi.buffer(self.completed)
        self.text = ffi.new("char[]", 128)
        self.text_bytes = ffi.buffer(self.text)
        self.ticks = ffi.new("int64_t *")
        self.decimal = ffi.new("fk_decimal *")
        self.receipt_case = ffi.new("fk_receipt_case *")
        self.charge_case = ffi.new("fk_charge_case *")
        self.pay_case = ffi.new("fk_pay_case *")
        self.prepared = ffi.new("fk_prepared *")
        self.prepared_bytes = ffi.buffer(self.prepared)
        self.error = ffi.new("fk_error *")
        self.set_arena(_FIRST_ARENA)

    def set_arena(self, size: int) -> None:
        self.arena = _new_arena("uint8_t[]", size)
        self.arena_bytes = ffi.buffer(self.arena)
        self.arena_size = size


_scratch = _Scratch()

# ---- hashes -----------------------------------------------------------------------------------------


def sha256(data: bytes) -> bytes:
    """Return the 32 bytes of SHA-256 over ``data`` (FIPS 180-4)."""
    scratch = _scratch
    lib.fk_sha256(data, len(data), scratch.hash)
    return scratch.hash_bytes[:]


def chain_hash(
    previous: bytes | None,
    journal_id_le: bytes,
    moment_ticks: int,
    number: int,
    request_hash: bytes,
    response_hash: bytes,
) -> bytes:
    """Return the 32 bytes of ftReceiptHash for one receipt.

    ``previous`` is the 32-byte hash of the receipt before, None for the first. ``journal_id_le`` is the
    ftReceiptJournalId in .NET byte order (``uuid.bytes_le``). Raises ValueError on a wrong length.
    """
    if (
        len(journal_id_le) != 16
        or len(request_hash) != 32
        or len(response_hash) != 32
        or (previous is not None and len(previous) != 32)
    ):
        raise ValueError("chain_hash takes 32-byte hashes and a 16-byte journal id")
    scratch = _scratch
    lib.fk_chain_hash(
        ffi.NULL if previous is None else previous,
        journal_id_le,
        moment_ticks,
        number,
        request_hash,
        response_hash,
        scratch.hash,
    )
    return scratch.hash_bytes[:]


def complete(
    previous: bytes | None,
    journal_id_le: bytes,
    moment_ticks: int,
    number: int,
    request_hash: bytes,
    response: bytes,
) -> tuple[bytes, str, bytes, str]:
    """Hash a response and chain its receipt.

    Arguments as for :func:`chain_hash`, ``response`` is the stored text in UTF-8. Returns the response hash
    and the chain hash, each as 32 bytes and as Base64: ``(raw, base64, chain_raw, chain_base64)``.
    """
    if len(journal_id_le) != 16 or len(request_hash) != 32 or (previous is not None and len(previous) != 32):
        raise ValueError("complete takes 32-byte hashes and a 16-byte journal id")
    scratch = _scratch
    lib.fk_complete(
        ffi.NULL if previous is None else previous,
        journal_id_le,
        moment_ticks,
        number,
        request_hash,
        response,
        len(response),
        scratch.completed,
    )
    out = scratch.completed_bytes[:]
    return out[:32], str(out[64:108], "ascii"), out[32:64], str(out[108:], "ascii")


# ---- points in time ------------------------------------------------------------------------------------


def format_ticks(ticks: int) -> str:
    """Return ISO 8601 in UTC with as many fraction digits as needed: ``2020-05-22T10:47:40.96Z``.

    Raises ValueError outside of the years 1 to 9999.
    """
    scratch = _scratch
    length = lib.fk_moment_iso(ticks, scratch.text)
    if not length:
        raise ValueError(f"{ticks} ticks lie outside of the years 1 to 9999")
    return str(scratch.text_bytes[:length], "ascii")


def format_ticks_ms(ticks: int) -> str:
    """Return ``yyyy-MM-ddTHH:mm:ss.fffZ``, milliseconds cut off, as DSFinV-K texts have it."""
    scratch = _scratch
    length = lib.fk_moment_milliseconds(ticks, scratch.text)
    if not length:
        raise ValueError(f"{ticks} ticks lie outside of the years 1 to 9999")
    return str(scratch.text_bytes[:length], "ascii")


def parse_moment(text: str) -> int:
    """Return the ticks of a moment as a POS may write it: ISO 8601 or ``/Date(milliseconds)/``.

    An offset is converted to UTC, no suffix means UTC. Raises ValueError if it is neither.
    """
    scratch = _scratch
    data = text.encode()
    if lib.fk_moment_parse(data, len(data), scratch.ticks) != lib.FK_OK:
        raise ValueError(f"not a date and time: {text!r}")
    ticks: int = scratch.ticks[0]
    return ticks


# ---- cases -----------------------------------------------------------------------------------------------


class BonType(NamedTuple):
    """What DSFinV-K calls a receipt: ``kind`` as in :class:`Kind`, BON_TYP (empty where there is none),
    processType."""

    kind: int
    bon_typ: str
    process_type: str


def bon_type(receipt_case: int, charge_count: int, pay_count: int) -> BonType:
    """Decode an ftReceiptCase, a signed 64-bit number; the counts of items decide orders and internal ones."""
    out = _scratch.receipt_case
    check(lib.fk_case_decode(receipt_case, charge_count, pay_count, 0, out))
    return BonType(out.kind, BON_TYPES[out.bon_typ], PROCESS_TYPES[out.process_type])


class PayCase(NamedTuple):
    """What a pay item means: ZAHLART_TYP, and the GV_TYP of a business case by the sign of its amount."""

    pay_class: int
    zahlart: str
    gv_positive: str
    gv_negative: str


def pay_case(item_case: int) -> PayCase:
    """Decode an ftPayItemCase, a signed 64-bit number."""
    out = _scratch.pay_case
    check(lib.fk_pay_case_decode(item_case, out))
    return PayCase(
        out.pay_class,
        ZAHLART_TYPES[out.zahlart],
        GV_TYPES[out.gv_typ_positive],
        GV_TYPES[out.gv_typ_negative],
    )


class ChargeCase(NamedTuple):
    """How a charge item is taxed.

    ``column`` is its place in the tax block of processData (1 to 5), ``ust_key`` the UST_SCHLUESSEL of its
    case (1 to 7; 7 when the case does not say), ``gv_typ`` its GV_TYP.
    """

    column: int
    ust_key: int
    gv_typ: str


def charge_case(item_case: int, vat_rate: Decimal) -> ChargeCase:
    """Decode an ftChargeItemCase, a signed 64-bit number; case 0x0000 goes by ``vat_rate``.

    A rate that is no number, or too large to be a decimal of the interface, counts as 0.
    """
    scratch = _scratch
    rate = str(vat_rate).encode()
    if lib.fk_decimal_parse(rate, len(rate), scratch.decimal) != lib.FK_OK:
        lib.fk_decimal_parse(b"0", 1, scratch.decimal)
    check(lib.fk_charge_case_decode(item_case, scratch.decimal, scratch.charge_case))
    case = scratch.charge_case
    return ChargeCase(case.column, case.ust_key, GV_TYPES[case.gv_typ])


# ---- the request -----------------------------------------------------------------------------------------

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


_unpack = struct.Struct("=39q32s32s44s4x").unpack
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
