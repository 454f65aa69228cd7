"""What has to stand on the paper: the printable receipt as data, without any drawing.

:func:`printable` turns a request and its answer into a :class:`PrintableReceipt`; ``fiskal.export.render``
draws it. :func:`printable_items` is for a POS that draws its own receipts. Sources: § 6 KassenSichV (content
of a receipt), AEAO on § 146a 2.4 (form of the values), § 14 UStG and § 33 UStDV (VAT).

Nothing here knows a clock, a file or a font; :func:`orders_before` alone reads something, the journal. All
texts of a :class:`PrintableReceipt` are safe to send to a terminal, a printer or a browser; only ``qr`` is
raw, because a code must carry the exact bytes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from fiskal.germany import texts
from fiskal.germany.cases import charge_case
from fiskal.germany.codes import (
    CASE_MASK,
    COUNTRY_MASK,
    DE,
    PRINTING_OPTIONAL,
    ItemFlag,
    ReceiptCase,
    ReceiptFlag,
    SignatureFormat,
    SignatureType,
    State,
    to_int64,
)
from fiskal.pos.embedded import json_object
from fiskal.pos.models import ChargeItem, PayItem, ReceiptRequest, ReceiptResponse, SignaturItem
from fiskal.store import Store, StoredItem

Mode = Literal["qr", "text"]

BERLIN: Final = ZoneInfo("Europe/Berlin")
_CENT: Final = Decimal("0.01")

QR_BYTES_MAX: Final = 2331
"""The largest QR code (version 40) at error correction M. A longer payload is printed as text instead."""

ORDERS_LOOKED_AT: Final = 1_000
"""How many items of one reference :func:`orders_before` looks at, newest first."""

_T = SignatureType
_ERROR = State.ERROR & 0xFFFF_FFFF

# The items to print when there is no QR code, in the order of the German reference tables, 8.3.
_TEXT_MODE = (
    _T.CERTIFICATION_ID, _T.TSE_SERIAL_NUMBER, _T.POS_SERIAL_NUMBER, _T.PROCESS_TYPE, _T.PROCESS_DATA,
    _T.TRANSACTION_NUMBER, _T.SIGNATURE_COUNTER, _T.START_TIME, _T.LOG_TIME, _T.SIGNATURE_ALGORITHM,
    _T.LOG_TIME_FORMAT, _T.SIGNATURE, _T.ACTION_START,
)  # fmt: skip

# Always printed, and under their German names; the other items keep the caption of the wire.
_TSE_LABELS = {
    _T.POS_SERIAL_NUMBER: "Kassen-Seriennr.",
    _T.TSE_SERIAL_NUMBER: "TSE-Seriennr.",
    _T.CERTIFICATION_ID: "TSE-Zertifikat",
    _T.TRANSACTION_NUMBER: "Transaktionsnr.",
    _T.SIGNATURE_COUNTER: "Signaturzähler",
}

_TITLES: dict[int, str] = {
    ReceiptCase.ZERO: "Nullbeleg",
    ReceiptCase.INITIAL_OPERATION: texts.START_RECEIPT,
    ReceiptCase.OUT_OF_OPERATION: texts.STOP_RECEIPT,
    ReceiptCase.MONTHLY_CLOSING: "Monatsabschluss",
    ReceiptCase.YEARLY_CLOSING: "Jahresabschluss",
    ReceiptCase.DAILY_CLOSING: "Tagesabschluss",
    ReceiptCase.START_TRANSACTION: "Vorgangsbeginn",
    ReceiptCase.UPDATE_TRANSACTION: "Vorgangsaktualisierung",
    ReceiptCase.DELTA_TRANSACTION: "Vorgangsergänzung",
    ReceiptCase.FAIL_TRANSACTION: "Vorgangsabbruch",
    ReceiptCase.B2B_INVOICE: "Rechnung",
    ReceiptCase.B2C_INVOICE: "Rechnung",
    ReceiptCase.INFO_INVOICE: "Rechnung (Zahlung offen)",
    ReceiptCase.INFO_DELIVERY_NOTE: "Lieferschein",
    ReceiptCase.INFO_ORDER: "Bestellung",
    ReceiptCase.CASH_DEPOSIT: "Kassenbewegung",
    ReceiptCase.MATERIAL_CONSUMPTION: "Sachbezug",
    ReceiptCase.INFO_INTERNAL: "Interner Beleg",
    ReceiptCase.PROTOCOL: "Protokoll",
    ReceiptCase.FOREIGN_SALES: "Auslandsumsatz",
    ReceiptCase.VOID_RECEIPT: "Belegstorno",
    ReceiptCase.INITIATE_SCU_SWITCH: "TSE-Trennungs-Beleg",
    ReceiptCase.FINISH_SCU_SWITCH: "TSE-Verbindungs-Beleg",
    ReceiptCase.MIGRATION: "Migrationsbeleg",
}

_PAYMENTS = {
    0x0002: "Bar (Fremdwährung)",
    0x0003: "Scheck",
    0x0004: "Girokarte",
    0x0005: "Kreditkarte",
    0x0006: "Online-Zahlung",
    0x0007: "Kundenkarte",
    0x0008: "SEPA-Überweisung",
    0x0009: "Überweisung",
    0x000A: "Eigenverbrauch",
    0x000B: "Rückgeld",
    0x000C: "Rückgeld (Fremdwährung)",
    0x000D: "Gutschein",
    0x000E: "Forderung",
    0x000F: "Anzahlung",
    0x0010: "Trinkgeld",
    0x0011: "Zuschuss",
    0x0012: "Anfangsbestand",
    0x0013: "Privatentnahme/-einlage",
    0x0014: "Geldtransit",
    0x0015: "Lohnzahlung",
    0x0016: "Ein-/Auszahlung",
    0x0017: "Kassendifferenz",
}
_CHANGE = (0x000B, 0x000C)

# Said only when the answer carries no text of its own for the state.
_STATE_TEXTS = (
    (State.OUT_OF_SERVICE, "Kasse nicht in Betrieb genommen oder außer Betrieb"),
    (State.SCU_FAILED, texts.TSE_FAILED),
    (State.LATE_SIGNING, "Ausfallsnacherfassung"),
    (State.SCU_SWITCH, "Wechsel der technischen Sicherheitseinrichtung (TSE) nicht abgeschlossen"),
)
_ERROR_TEXT = "Fehler bei der Verarbeitung, kein gültiger Beleg"
_TRAINING_TEXT = "TRAINING - KEIN GÜLTIGER BELEG"
_SMALL_BUSINESS_TEXT = "Keine Umsatzsteuer nach § 19 UStG"

# VAT groups as UST_SCHLUESSEL has them: the rate of one that the POS sent no rate for, and what has none.
_GROUP_RATES = {1: Decimal(19), 2: Decimal(7), 3: Decimal("10.7"), 4: Decimal("5.5")}
_COLUMN_REST = 5
_GROUP_NAMES = {5: "nicht steuerbar", 6: "steuerfrei"}

# Wide enough for every sum of 64-bit amounts to be exact, and free of traps: a receipt is never refused
# because of a number.
_EXACT = Context(prec=120, rounding=ROUND_HALF_UP, Emin=-9999, Emax=9999, traps=[])
_EXPONENT_MAX = 60


class Item(NamedTuple):
    """A caption and what belongs to it; either may be empty."""

    caption: str
    data: str


class ReceiptLine(msgspec.Struct, frozen=True, kw_only=True):
    """One charge item. ``amount`` is gross, in EUR, with its effective sign."""

    description: str
    quantity: Decimal
    unit: str
    unit_price: Decimal | None
    """Gross price of one, in EUR; None when the quantity is 1 (or 0)."""
    amount: Decimal
    vat_letter: str


class VatLine(msgspec.Struct, frozen=True, kw_only=True):
    """One rate of the receipt; ``gross == net + vat`` exactly."""

    letter: str
    label: str
    """``19 %``, or the reason why there is no VAT."""
    gross: Decimal
    net: Decimal
    vat: Decimal
    """In whole cents, half up, computed once from the sum of the rate, unless the POS gave VATAmount."""


class PaymentLine(msgspec.Struct, frozen=True, kw_only=True):
    """One payment. ``amount`` is in EUR with its effective sign."""

    description: str
    amount: Decimal
    note: str
    """The amount in foreign currency or the voucher number, or empty."""


class TimeLine(msgspec.Struct, frozen=True, kw_only=True):
    """A moment: as printed in local time, and as it came over the wire (ISO 8601, UTC)."""

    label: str
    local: str
    wire: str


class PrintableReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """Everything to print, from top to bottom. Build it with :func:`printable`."""

    header: tuple[str, ...]
    title: str
    training: bool
    notices: tuple[Item, ...]
    """To be printed unmistakably: training, failed TSE, late signing, handwritten, alerts."""
    details: tuple[Item, ...]
    """Receipt identification, reference, terminal, operator, area, customer."""
    lines: tuple[ReceiptLine, ...]
    charge_texts: tuple[str, ...]
    total: Decimal
    """Exact sum of ``lines``, EUR."""
    vat: tuple[VatLine, ...]
    vat_hint: str
    payments: tuple[PaymentLine, ...]
    payment_texts: tuple[str, ...]
    times: tuple[TimeLine, ...]
    time_note: str
    tse: tuple[Item, ...]
    """Serial numbers, transaction number, signature counter."""
    items: tuple[Item, ...]
    """The remaining signature items that must be printed."""
    qr: str | None
    """Exact content of the QR code; None when there is none or when texts replace it."""
    footer: tuple[str, ...]


# --- texts -------------------------------------------------------------------------------------------------

_ESCAPE_SEQUENCES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\|$)|[ -/]*[0-~])|\x9b[0-?]*[ -/]*[@-~]", re.DOTALL
)


def clean(text: str | None) -> str:
    """``text`` on one line and harmless: no escape sequence, no control, no character that turns direction.

    A description comes from whoever maintains the articles, and must be able neither to operate the terminal
    or printer it is sent to nor to rearrange the amounts beside it.
    """
    if not text:
        return ""
    if text.isascii() and text.isprintable():
        return text.strip()
    kept = []
    for char in unicodedata.normalize("NFC", _ESCAPE_SEQUENCES.sub("", text)):
        category = unicodedata.category(char)
        if category[0] == "Z" or char in "\t\n\v\f\r":
            kept.append(" ")
        elif category[0] != "C":
            kept.append(char)
    return " ".join("".join(kept).split())


def _clean_all(lines: Iterable[str | None] | None) -> tuple[str, ...]:
    return tuple(clean(line) for line in lines or ())


def _items(pairs: Iterable[tuple[str, str | None]]) -> tuple[Item, ...]:
    """Cleaned items, without those that have no data."""
    cleaned = (Item(caption, clean(data)) for caption, data in pairs)
    return tuple(item for item in cleaned if item.data)


def _customer(text: str | None) -> str:
    """Name and address out of cbCustomer, whose members are defined by DSFinV-K; other text as it is."""
    customer = json_object(text, number=str)
    if not customer:
        return clean(text)

    def part(*names: str) -> str:
        return " ".join(str(customer[name]) for name in names if customer.get(name))

    parts = part("CustomerName"), part("CustomerStreet"), part("CustomerZip", "CustomerCity")
    vat_id = part("CustomerVATId")
    return ", ".join(clean(text) for text in (*parts, vat_id and f"USt-IdNr. {vat_id}") if text)


# --- amounts -----------------------------------------------------------------------------------------------


def _number(value: Decimal | None) -> Decimal:
    """``value``, with 0 for what is not a number of money at all (NaN, infinity, exponents beyond reason)."""
    if value is None or not value.is_finite() or abs(value.adjusted()) > _EXPONENT_MAX:
        return Decimal(0)
    return value


def _effective(amount: Decimal, quantity: Decimal, case: int) -> Decimal:
    """The amount with the sign that counts: a negative quantity makes it negative, unless the position is a
    cancellation, whose amount already carries the sign."""
    if not case & ItemFlag.POSITION_CANCELLATION and quantity < 0 <= amount:
        return _EXACT.minus(amount)
    return amount


def _total(amounts: Iterable[Decimal]) -> Decimal:
    total = Decimal(0)
    for amount in amounts:
        total = _EXACT.add(total, amount)
    return total


def _cents(amount: Decimal) -> Decimal:
    return amount.quantize(_CENT, context=_EXACT)


def format_amount(amount: Decimal) -> str:
    """German notation: ``1.234,50``. At least two decimals, and never fewer than the value has."""
    sign, digits, exponent = amount.as_tuple()
    if not isinstance(exponent, int):
        return str(amount)
    plain = f"{amount if any(digits) else abs(amount):f}".lstrip("-")
    whole, _, fraction = plain.partition(".")
    fraction = fraction.rstrip("0").ljust(2, "0")
    grouped = f"{int(whole):,}".replace(",", ".")
    return f"{'-' if sign and any(digits) else ''}{grouped},{fraction}"


def format_quantity(quantity: Decimal) -> str:
    """German notation without trailing zeros: ``3``, ``0,532``."""
    whole, _, fraction = format_amount(quantity).partition(",")
    fraction = fraction.rstrip("0")
    return f"{whole},{fraction}" if fraction else whole


def _vat_group(item: ChargeItem) -> int:
    """VAT group 1..7 of an item: normal, reduced, special 1 and 2, not taxable, tax free, unknown."""
    case = charge_case(to_int64(item.ft_charge_item_case), _number(item.vat_rate))
    # A case that leaves the group open may still have found its column, by the rate.
    return case.column if case.column < _COLUMN_REST else case.ust_key


def _vat_key(item: ChargeItem) -> tuple[int, Decimal]:
    """What makes two items share a line of the VAT table: the group of the case and the rate charged.

    The rate is the POS's, because § 14 UStG asks for the rate applied (16 % in 2020 was still "normal"); the
    rate of the group stands in when the POS sent none.
    """
    group = _vat_group(item)
    if group in _GROUP_NAMES:
        return group, Decimal(0)
    return group, max(_number(item.vat_rate), Decimal(0)) or _GROUP_RATES.get(group, Decimal(0))


def _vat_letters(keys: Iterable[tuple[int, Decimal]]) -> dict[tuple[int, Decimal], str]:
    """A..D for the taxed columns of the process data, E for the rest; what shares a column goes on at F."""
    letters: dict[tuple[int, Decimal], str] = {}
    used: set[str] = set()
    following = ord("F")
    for key in sorted(set(keys), key=lambda key: (key[0], -key[1])):
        letter = "ABCDE"[min(key[0], _COLUMN_REST) - 1]
        if letter in used:
            ordinal = following - ord("A")
            letter = chr(following) if following <= ord("Z") else f"Z{ordinal}"
            following += 1
        used.add(letter)
        letters[key] = letter
    return letters


def _vat_label(key: tuple[int, Decimal]) -> str:
    group, rate = key
    return _GROUP_NAMES.get(group) or f"{format_quantity(rate)} %"


def _vat_table(items: Sequence[ChargeItem], letters: dict[tuple[int, Decimal], str]) -> tuple[VatLine, ...]:
    """One line per rate. VAT is taken out of the sum of a rate, not line by line, so that rounding happens
    once; a VATAmount sent by the POS is taken as it is."""
    table = []
    for key, letter in sorted(letters.items()):
        gross = open_gross = given_vat = Decimal(0)
        for item in items:
            if _vat_key(item) != key:
                continue
            quantity, case = _number(item.quantity), item.ft_charge_item_case
            amount = _effective(_number(item.amount), quantity, case)
            gross = _EXACT.add(gross, amount)
            if item.vat_amount is None:
                open_gross = _EXACT.add(open_gross, amount)
            else:
                vat = _effective(_number(item.vat_amount), quantity, case)
                given_vat = _EXACT.add(given_vat, vat)
        rate = key[1]
        computed = _EXACT.divide(_EXACT.multiply(open_gross, rate), _EXACT.add(rate, Decimal(100)))
        vat = _cents(_EXACT.add(given_vat, _cents(computed)))
        net = _EXACT.subtract(gross, vat)
        table.append(VatLine(letter=letter, label=_vat_label(key), gross=gross, net=net, vat=vat))
    return tuple(sorted(table, key=lambda line: line.letter))


def _line(item: ChargeItem, letter: str) -> ReceiptLine:
    quantity = _number(item.quantity)
    amount = _effective(_number(item.amount), quantity, item.ft_charge_item_case)
    unit_price = None
    if quantity not in (0, 1):
        if item.unit_price is not None:
            unit_price = _number(item.unit_price)
        else:
            unit_price = _cents(_EXACT.abs(_EXACT.divide(amount, quantity)))
    return ReceiptLine(
        description=clean(item.description) or clean(item.product_number) or "Artikel",
        quantity=quantity,
        unit=clean(item.unit),
        unit_price=unit_price,
        amount=amount,
        vat_letter=letter,
    )


def _payment(item: PayItem) -> PaymentLine:
    case = item.ft_pay_item_case & CASE_MASK
    name = _PAYMENTS.get(case, "Bar")
    description = clean(item.description) or name
    if case in _CHANGE and description != name:
        description = f"Rückgeld {description}"
    data = json_object(item.ft_pay_item_case_data, number=str)
    notes = []
    if data.get("CurrencyCode") and data.get("ForeignCurrencyAmount") is not None:
        foreign = str(data["ForeignCurrencyAmount"])
        # A value that is no number is shown as it was sent: it is the POS's, and hiding it helps nobody.
        if re.fullmatch(r"-?\d{1,30}(\.\d{1,10})?", foreign):
            foreign = format_amount(Decimal(foreign))
        notes.append(f"{clean(foreign)} {clean(str(data['CurrencyCode']))}")
    if data.get("VoucherNr"):
        notes.append(f"Gutschein-Nr. {clean(str(data['VoucherNr']))}")
    amount = _effective(_number(item.amount), _number(item.quantity), item.ft_pay_item_case)
    return PaymentLine(description=description, amount=amount, note=", ".join(notes))


# --- times -------------------------------------------------------------------------------------------------

_WIRE_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d)?(?:[.,](\d{1,9}))?\s*(Z|[+-]\d\d:?\d\d)?", re.IGNORECASE
)


def _parse(wire: str) -> tuple[datetime, str] | None:
    """The moment to the second in UTC, and the digits of its fraction; None when ``wire`` is no moment."""
    match = _WIRE_TIME.fullmatch(wire.strip())
    if match is None:
        return None
    date, minute, second, fraction, zone = match.groups()
    # A moment without zone is UTC by the interface's definition.
    zone = "+00:00" if zone in (None, "z", "Z") else zone
    try:
        moment = datetime.fromisoformat(f"{date}T{minute}{second or ':00'}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment, fraction or ""


def _offset(moment: datetime) -> str:
    minutes = (moment.utcoffset() or timedelta()) // timedelta(minutes=1)
    return f"UTC{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def _local(wire: str, tz: tzinfo) -> tuple[str, str]:
    """``2020-05-22T10:47:40.960Z`` as ``22.05.2020 12:47:40,960``, and its offset from UTC.

    Local, and neither rounded nor shortened; only a fraction of zero is left out. A text that is no moment
    comes back cleaned, without an offset.
    """
    parsed = _parse(wire)
    if parsed is None:
        return clean(wire), ""
    moment, fraction = parsed
    try:
        local = moment.astimezone(tz)
    except OverflowError:
        local = moment
    fraction = fraction.rstrip("0")
    text = f"{local:%d.%m.}{local.year:04}{local:%H:%M:%S}"
    text = f"{text[:10]} {text[10:]}"
    return text + (f",{fraction.ljust(3, '0')}" if fraction else ""), _offset(local)


def _times(moments: Iterable[tuple[str, str | None]], tz: tzinfo) -> tuple[tuple[TimeLine, ...], str]:
    """The lines, and one remark on the zone for all of them; when summer time begins or ends between the
    moments, each line names its own offset instead, because the hour would be ambiguous."""
    rows = [(label, wire, *_local(wire, tz)) for label, wire in moments if wire]
    offsets = {offset for *_, offset in rows if offset}
    each = len(offsets) > 1
    lines = tuple(
        TimeLine(label=label, local=f"{local} {offset}" if each and offset else local, wire=clean(wire))
        for label, wire, local, offset in rows
    )
    return lines, f"Zeiten in Ortszeit ({offsets.pop()})" if len(offsets) == 1 else ""


def _first_moment(request: ReceiptRequest) -> str | None:
    """The earliest moment the POS recorded for the action: what ``<vorgangsbeginn>`` would have said."""
    items = (*(request.cb_charge_items or ()), *(request.cb_pay_items or ()))
    known = []
    for moment in (request.cb_receipt_moment, *(item.moment for item in items if item is not None)):
        parsed = _parse(moment) if moment else None
        # A POS that has no moment may send the year 1 of .NET's default value.
        if parsed is not None and parsed[0].year > 1:
            known.append((parsed[0], parsed[1].ljust(9, "0"), moment))
    return min(known)[2] if known else None


# --- signature items ---------------------------------------------------------------------------------------


def _tse_type(item: SignaturItem) -> int:
    """The low word of a German TSE item (0x10..0x23), 0 for every other item."""
    low = item.ft_signature_type & CASE_MASK
    is_german = item.ft_signature_type & COUNTRY_MASK == DE
    return low if is_german and _T.START_TRANSACTION_RESULT <= low <= _T.TSE_SERIAL_NUMBER else 0


def _format(item: SignaturItem) -> int:
    return item.ft_signature_format & 0xFFFF


def _is_qr(item: SignaturItem) -> bool:
    return _format(item) == SignatureFormat.QR_CODE


def _is_optional(item: SignaturItem) -> bool:
    """Flagged as optional; or an item that is always optional, sent by a queue that does not set the flag
    (before version 1.3.23, or with FlagOptionalSignatures off)."""
    if item.ft_signature_format & PRINTING_OPTIONAL or _format(item) == SignatureFormat.BASE64:
        return True
    return _tse_type(item) not in (0, _T.CERTIFICATION_ID, _T.ACTION_START)


def qr_payload(response: ReceiptResponse) -> str | None:
    """The exact content of the receipt's QR code, or None."""
    return next((item.data for item in response.ft_signatures or () if _is_qr(item) and item.data), None)


def _must_print(response: ReceiptResponse, mode: Mode) -> list[SignaturItem]:
    signatures = response.ft_signatures or []
    if mode == "qr":
        return [item for item in signatures if not _is_optional(item)]
    if mode != "text":
        raise ValueError(f"mode must be 'qr' or 'text', not {mode!r}")
    of_type: dict[int, SignaturItem] = {}
    for item in signatures:
        of_type.setdefault(_tse_type(item), item)
    listed = [of_type[number] for number in _TEXT_MODE if number in of_type]
    rest = [item for item in signatures if not _is_optional(item) and not _is_qr(item) and item not in listed]
    return listed + rest


def printable_items(response: ReceiptResponse, mode: Mode = "qr") -> list[tuple[str, str]]:
    """Caption and data of exactly the signature items that must be printed, raw as on the wire.

    ``"qr"``: every item without the optional flag; the one whose data equals :func:`qr_payload` is drawn as
    a code. ``"text"``: the texts that replace the code, then all other items without the flag. The texts
    are not escaped: process data of an order contain CR, article texts whatever a POS sent.
    """
    return [(item.caption or "", item.data or "") for item in _must_print(response, mode)]


def _notices(request: ReceiptRequest, response: ReceiptResponse, notes: Sequence[Item]) -> tuple[Item, ...]:
    """What must not be overlooked. The text is that of the signature item; the state speaks for itself only
    when no item does."""
    notices = list(notes)
    state = response.ft_state
    if _is_error(state):
        notices.insert(0, Item(_ERROR_TEXT, ""))
    elif not notes:
        notices += [Item(text, "") for bit, text in _STATE_TEXTS if state & bit]
    if request.ft_receipt_case & ReceiptFlag.TRAINING:
        notices.insert(0, Item(_TRAINING_TEXT, ""))
    return tuple(notices)


def _is_error(state: int) -> bool:
    return state & 0xFFFF_FFFF == _ERROR


# --- the journal -------------------------------------------------------------------------------------------


class _RequestCase(msgspec.Struct):
    ft_receipt_case: int = msgspec.field(name="ftReceiptCase", default=0)


class _ResponseState(msgspec.Struct):
    ft_state: int = msgspec.field(name="ftState", default=0)


_decode_case = msgspec.json.Decoder(_RequestCase).decode
_decode_state = msgspec.json.Decoder(_ResponseState).decode


def _is_order(stored: StoredItem) -> bool:
    """A recorded order: one that ended in an error is not part of any action."""
    if stored.answer is None:
        return False
    case = _decode_case(stored.item.request).ft_receipt_case
    return case & CASE_MASK == ReceiptCase.INFO_ORDER and not _is_error(
        _decode_state(stored.answer.response).ft_state
    )


def orders_before(store: Store, queue_no: int, request: ReceiptRequest, row: int) -> bool:
    """Does the journal hold an order of the action that ``request`` (at ``row`` of its queue) belongs to?

    The orders of an action have its cbReceiptReference, or the one it names as cbPreviousReceiptReference.
    Of a reference that is used over and over, the newest ``ORDERS_LOOKED_AT`` items are looked at.
    """
    for reference in {request.cb_receipt_reference, request.cb_previous_receipt_reference}:
        if not reference:
            continue
        # An order mostly stands right before its receipt.
        for limit in (8, ORDERS_LOOKED_AT):
            items = store.items_by_reference(queue_no, reference, None, limit)
            if any(stored.item.ftQueueRow < row and _is_order(stored) for stored in items):
                return True
            if len(items) < limit:
                break
    return False


# --- the whole ---------------------------------------------------------------------------------------------


def printable(
    request: ReceiptRequest,
    response: ReceiptResponse,
    *,
    header: Sequence[str] = (),
    mode: Mode = "qr",
    tz: tzinfo = BERLIN,
    orders_before: bool = False,
) -> PrintableReceipt:
    """The receipt of ``request`` as answered by ``response``.

    ``header``: the merchant's lines (name, address, tax number: § 6 no. 1 KassenSichV), not known to a
    queue. ``mode``: ``"qr"`` prints the code and leaves the TSE texts out, ``"text"`` prints the texts of
    the verification instead; a payload too long for a code is printed as text in either mode. ``tz``: the
    zone of the printed times. ``orders_before``: orders of the same action were signed before, see
    :func:`orders_before`; in the implicit flow the action then began with the TSE's transaction, and the
    start of the first order is printed in addition.
    """
    qr = qr_payload(response) if mode == "qr" else None
    if qr is not None and len(qr.encode("utf-8", "surrogatepass")) > QR_BYTES_MAX:
        qr, mode = None, "text"

    values: dict[int, str] = {}
    for item in response.ft_signatures or ():
        values.setdefault(_tse_type(item), item.data or "")
    # The register has its serial number even when no TSE answered.
    if not values.get(_T.POS_SERIAL_NUMBER):
        values[_T.POS_SERIAL_NUMBER] = response.ft_cash_box_identification

    shown = {*_TSE_LABELS, _T.ACTION_START}
    remaining = [
        (_tse_type(item), Item(clean(item.caption).strip("<>"), clean(item.data)))
        for item in _must_print(response, mode)
        if _tse_type(item) not in shown and not _is_qr(item)
    ]
    notes = [item for number, item in remaining if not number]

    start, first = values.get(_T.START_TIME), values.get(_T.ACTION_START)
    if not start and not first:
        # Without the TSE the register's own record gives the beginning (AEAO on § 146a, outage of the TSE).
        first = _first_moment(request)
    long_lasting = bool(orders_before and start and request.ft_receipt_case & ReceiptFlag.IMPLICIT_FLOW)
    if long_lasting:
        began, ordered, tse_began = start, first, None
    elif first:
        began, ordered, tse_began = first, None, start
    else:
        began, ordered, tse_began = start, None, None
    times, time_note = _times(
        (
            ("Belegausgabe", request.cb_receipt_moment),
            ("Vorgangsbeginn", began),
            ("Vorgangsende", values.get(_T.LOG_TIME)),
            ("Erste Bestellung", ordered),
            ("TSE-Beginn", tse_began),
        ),
        tz,
    )

    charge_items = [item for item in request.cb_charge_items or () if item is not None]
    keys = [_vat_key(item) for item in charge_items]
    letters = _vat_letters(keys)
    lines = tuple(_line(item, letters[key]) for item, key in zip(charge_items, keys, strict=True))
    vat = _vat_table(charge_items, letters)
    small_business = bool(request.ft_receipt_case & ReceiptFlag.SMALL_BUSINESS)
    if small_business and not any(line.vat for line in vat):
        vat = ()

    title = _TITLES.get(request.ft_receipt_case & CASE_MASK, "Kassenbeleg")
    if request.ft_receipt_case & ReceiptFlag.VOID:
        title = f"Storno {title}"
    return PrintableReceipt(
        header=_clean_all((*header, *(response.ft_receipt_header or ()))),
        title=title,
        training=bool(request.ft_receipt_case & ReceiptFlag.TRAINING),
        notices=_notices(request, response, notes),
        details=_items(
            (
                ("Beleg-Nr.", response.ft_receipt_identification),
                ("Referenz", request.cb_receipt_reference or response.cb_receipt_reference),
                ("Bezug auf", request.cb_previous_receipt_reference),
                ("Terminal", request.cb_terminal_id or response.cb_terminal_id),
                ("Bedienung", request.cb_user),
                ("Bereich", request.cb_area),
                ("Kunde", _customer(request.cb_customer)),
            )
        ),
        lines=lines,
        charge_texts=_clean_all(response.ft_charge_lines),
        total=_total(line.amount for line in lines),
        vat=vat,
        vat_hint=_SMALL_BUSINESS_TEXT if small_business else "",
        payments=tuple(_payment(item) for item in request.cb_pay_items or () if item is not None),
        payment_texts=_clean_all(response.ft_pay_lines),
        times=times,
        time_note=time_note,
        tse=_items((label, values.get(number)) for number, label in _TSE_LABELS.items()),
        items=tuple(item for number, item in remaining if number),
        qr=qr,
        footer=_clean_all(response.ft_receipt_footer),
    )
