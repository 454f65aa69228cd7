"""From a queue item to DSFinV-K: what a receipt is called, its lines, VAT, payments and customer.

Pure functions over a stored request and its answer. Whatever a POS left out or wrote wrongly stays visible in the
export; nothing is made up and nothing ends the export.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final, NamedTuple

from fiskal.core import format_ticks_ms, parse_moment
from fiskal.export.dsfinvk import schema
from fiskal.export.dsfinvk.amounts import cents, divided, net, scaled, signed
from fiskal.export.dsfinvk.casedata import lowered, members, number, text
from fiskal.germany import vat
from fiskal.germany.cases import PayClass, bon_type, charge_case, pay_case
from fiskal.germany.codes import (
    CASE_MASK,
    DE,
    ItemFlag,
    ReceiptCase,
    ReceiptFlag,
    SignatureType,
    State,
    to_int64,
)
from fiskal.pos import ReceiptRequest, ReceiptResponse, decode_response
from fiskal.pos.codec import decode_canonical
from fiskal.pos.models import ChargeItem, PayItem
from fiskal.pos.prepared import Kind, prepare
from fiskal.store import StoredItem

EXPORTED: Final = frozenset({Kind.RECEIPT, Kind.ORDER, Kind.OTHER, Kind.FAIL_TRANSACTION})
"""Kinds of receipts that are a Vorgang of DSFinV-K. The others are technical: zero, start and stop receipts, closings,
SCU switches, migration, the steps of a transaction before its end."""

ORDER_TYPE: Final = "AVBestellung"
OTHER_TYPE: Final = "AVSonstige"

NAMES: Final[dict[int, str]] = {
    ReceiptCase.INFO_INTERNAL: "Interner Vorgang",
    ReceiptCase.PROTOCOL: "Protokoll",
    ReceiptCase.FOREIGN_SALES: "Auslandsumsatz",
}
"""BON_NAME of AVSonstige, which must have one, where the POS gives no ReceiptName."""

TRAINING_NAME: Final = "Trainingsbuchung"
"""BON_NAME of training orders, whose BON_TYP cannot say it."""

MAX_PROCESS_DATA: Final = 1000
"""Characters of TSE_VORGANGSDATEN. What is longer is left out: a part of it would not verify."""

_NO_TAX: Final = frozenset({5, 6, 7})
_T: Final = SignatureType
_DATE: Final = slice(0, 19)


class Line(NamedTuple):
    """A row of lines.csv with its VAT. Amounts in units of 10⁻⁵, ``quantity`` and ``factor`` of 10⁻³."""

    number: str
    gv_typ: str
    key: int
    rate: Decimal
    gross: int
    net: int
    vat: int
    quantity: int
    factor: int | None
    unit_price: int
    text: str
    voucher: str = ""
    terminal: str = ""
    in_house: bool = False
    agency: str = ""
    article: str = ""
    gtin: str = ""
    group_id: str = ""
    group: str = ""
    unit: str = ""
    subitems: tuple[SubItem, ...] = ()


class SubItem(NamedTuple):
    """A row of subitems.csv; units as in :class:`Line`."""

    article: str
    gtin: str
    name: str
    group_id: str
    group: str
    quantity: int
    factor: int | None
    unit: str
    key: int
    gross: int
    net: int
    vat: int


class Payment(NamedTuple):
    """A row of datapayment.csv, amounts in cents; ``currency`` is empty for the base currency."""

    type: str
    name: str
    currency: str
    foreign: int | None
    amount: int


class Signed(NamedTuple):
    """A transaction of a TSE, or what is known of one that did not come to its end."""

    serial: str
    """Hex serial number of the TSE; empty if the receipt does not say."""
    number: str
    start: str
    end: str
    process_type: str
    counter: str
    signature: str
    error: str
    process_data: str
    algorithm: str = ""
    time_format: str = ""
    public_key: str = ""


class Reference(NamedTuple):
    """A row of references.csv to something outside of this journal."""

    type: str
    name: str
    date: str
    cash_box: str
    closing: str
    receipt: str


class Receipt(NamedTuple):
    """A Vorgang: a receipt of the journal that DSFinV-K knows."""

    row: int
    item_id: str
    bon_id: str
    bon_nr: int
    bon_typ: str
    bon_name: str
    cash_box: str
    terminal: str
    void: bool
    start: str
    end: str
    user_id: str
    user_name: str
    customer: tuple[str, ...]
    note: str
    lines: tuple[Line, ...]
    payments: tuple[Payment, ...]
    signed: tuple[Signed, ...]
    groups: tuple[str, ...]
    external: Reference | None
    reference: str
    previous: str
    pos_system: str

    @property
    def gross(self) -> int:
        """Sum of the lines, in units of 10⁻⁵."""
        return sum(line.gross for line in self.lines)


class Identity(NamedTuple):
    """What is asked of a receipt that another one refers to."""

    row: int
    bon_id: str
    cash_box: str


def second(ticks: int) -> str:
    """``YYYY-MM-DDThh:mm:ssZ``, cut off."""
    return f"{format_ticks_ms(ticks)[_DATE]}Z"


def crc(value: str) -> str:
    """CRC-32 of a text as eight hex digits: an id for something that the POS gave only a name."""
    return f"{zlib.crc32(value.encode()):08X}" if value else ""


def identity(stored: StoredItem, *, orders: bool = True) -> Identity | None:
    """Who a stored receipt is, None if it is no Vorgang (or an order, unless ``orders``)."""
    if stored.answer is None or stored.answer.receipt is None:
        return None
    request = decode_canonical(stored.item.request.encode())
    kind = _bon_type(request).kind
    if kind not in EXPORTED or (kind == Kind.ORDER and not orders):
        return None
    response = decode_response(stored.answer.response)
    return Identity(
        stored.item.ftQueueRow, response.ft_receipt_identification, response.ft_cash_box_identification
    )


def receipt(stored: StoredItem, in_force: int, *, orders: bool = True) -> Receipt | None:
    """What DSFinV-K wants to know of a stored item, None if it is no Vorgang (or an order, unless ``orders``).

    ``in_force`` (ticks) is when the closing was made, which decides the keys of VAT rates.
    """
    item, answer = stored
    if answer is None or answer.receipt is None:
        return None
    request = decode_canonical(item.request.encode())
    kind, bon_typ, process_type = _bon_type(request)
    if kind not in EXPORTED or (kind == Kind.ORDER and not orders):
        return None
    response = decode_response(answer.response)
    case_data = members(request.ft_receipt_case_data)
    case = request.ft_receipt_case
    name = text(case_data, "receiptname")
    if not bon_typ:
        bon_typ = ORDER_TYPE if kind == Kind.ORDER else OTHER_TYPE
        if case & ReceiptFlag.TRAINING:
            name = name or TRAINING_NAME
    if bon_typ == OTHER_TYPE:
        name = name or NAMES.get(case & CASE_MASK, "Sonstiger Vorgang")
    signatures = [(each.ft_signature_type & 0xFFFF, each.data or "") for each in response.ft_signatures]
    start, end = _times(stored, signatures)
    bon_id = response.ft_receipt_identification
    user = request.cb_user or ""
    return Receipt(
        row=item.ftQueueRow,
        item_id=item.ftQueueItemId,
        bon_id=bon_id,
        bon_nr=answer.receipt.ftReceiptNumber - 1,
        bon_typ=bon_typ,
        bon_name=name,
        cash_box=response.ft_cash_box_identification,
        terminal=request.cb_terminal_id or "",
        void=bool(case & ReceiptFlag.VOID),
        start=start,
        end=end,
        user_id=text(case_data, "userid") or crc(user),
        user_name=user,
        customer=_customer(request.cb_customer),
        note=text(case_data, "receiptnote"),
        lines=tuple(_lines(request, in_force)),
        payments=tuple(_payments(request, bon_typ)),
        signed=tuple(_signed(request, response, answer.tse_calls or "", signatures, process_type)),
        groups=_groups(request),
        external=_external(case_data),
        reference=request.cb_receipt_reference or "",
        previous=request.cb_previous_receipt_reference or "",
        pos_system=request.ft_pos_system_id or "",
    )


def _bon_type(request: ReceiptRequest) -> Any:
    return bon_type(
        to_int64(request.ft_receipt_case), len(request.cb_charge_items), len(request.cb_pay_items)
    )


def _times(stored: StoredItem, signatures: list[tuple[int, str]]) -> tuple[str, str]:
    """BON_START and BON_ENDE, by the clock of the POS (DSFinV-K 2.7)."""
    item, answer = stored
    assert answer is not None  # asked before
    assert answer.receipt is not None
    known = next((data for kind, data in signatures if kind == _T.ACTION_START), None)
    try:
        start = parse_moment(known or "")
    except ValueError:
        request = prepare(item.request.encode())
        start = request.action_start_ticks
        if not request.moments_complete:  # an item without a Moment is of now
            start = min(start, answer.receipt.ftReceiptMoment)
    return second(start), second(max(start, item.cbReceiptMoment))


def _groups(request: ReceiptRequest) -> tuple[str, ...]:
    given = (request.cb_previous_receipt_reference, request.cb_receipt_reference, request.cb_area)
    return tuple(dict.fromkeys(each for each in given if each))


# ---- the customer and other papers ----------------------------------------------------------------------

_CUSTOMER: Final = ("name", "id", "type", "street", "zip", "city", "country", "vatid")
NO_CUSTOMER: Final = ("",) * len(_CUSTOMER)


def _customer(given: str | None) -> tuple[str, ...]:
    """KUNDE_NAME, _ID, _TYP, _STRASSE, _PLZ, _ORT, _LAND, _USTID."""
    if not given:
        return NO_CUSTOMER
    data = members(given)
    return tuple(text(data, f"customer{name}") for name in _CUSTOMER)


def _external(data: dict[str, Any]) -> Reference | None:
    """The paper outside of this journal that ftReceiptCaseData names."""
    receipt_id = text(data, "refreceiptid")
    if not receipt_id:
        return None
    kind, name = text(data, "reftype"), text(data, "refname")
    if kind not in schema.REF_TYPES:
        kind, name = "ExterneSonstige", name or kind
    date = text(data, "refmoment")
    try:
        date = second(parse_moment(date))
    except ValueError:
        pass  # shown as it came
    closing = text(data, "refclosingnr")
    return Reference(
        kind,
        name,
        date,
        text(data, "refcashboxidentification"),
        closing if closing.isdecimal() else "",
        receipt_id,
    )


# ---- lines ----------------------------------------------------------------------------------------------


def _lines(request: ReceiptRequest, in_force: int) -> Iterator[Line]:
    """The charge items, then the pay items that are business cases."""
    business = [(pay, pay_case(to_int64(pay.ft_pay_item_case))) for pay in request.cb_pay_items]
    business = [each for each in business if each[1].pay_class in (PayClass.BUSINESS_CASE, PayClass.INTERNAL)]
    positions = [item.position for item in request.cb_charge_items]
    positions += [pay.position for pay, _ in business]
    if len(set(positions)) != len(positions) or min(positions, default=0) <= 0:
        positions = list(range(1, len(positions) + 1))
    numbers = map(str, positions)
    for item in request.cb_charge_items:
        yield _charge_line(item, next(numbers), in_force)
    void = bool(request.ft_receipt_case & ReceiptFlag.VOID)
    for pay, case in business:
        amount = signed(pay.amount, pay.quantity, cancellation=_is_cancellation(pay.ft_pay_item_case))
        if case.pay_class == PayClass.INTERNAL:
            # processData takes the amount as it is, and the other way round in a void receipt.
            gross, gv_typ = (pay.amount if void else -pay.amount), "Umsatz"
        else:
            gross = -amount
            gv_typ = case.gv_negative if (amount < 0) != (void and amount != 0) else case.gv_positive
        yield _business_line(pay, next(numbers), gv_typ, scaled(gross))


def _is_cancellation(case: int) -> bool:
    return bool(case & ItemFlag.POSITION_CANCELLATION)


def _charge_line(item: ChargeItem, number_: str, in_force: int) -> Line:
    case = item.ft_charge_item_case
    gross = scaled(signed(item.amount, item.quantity, cancellation=_is_cancellation(case)))
    key, rate, gv_typ = _taxed(case, item.vat_rate, in_force)
    if item.vat_amount is None:
        without = net(gross, rate)
    else:
        given = scaled(item.vat_amount)
        without = gross - (abs(given) if gross > 0 else -abs(given) if gross < 0 else given)
    data = members(item.ft_charge_item_case_data)
    quantity, unit_price = _quantity(item.quantity, gross, item.unit_price)
    group = item.product_group or ""
    return Line(
        number=number_,
        gv_typ=gv_typ,
        key=key,
        rate=rate,
        gross=gross,
        net=without,
        vat=gross - without,
        quantity=quantity,
        factor=None if item.unit_quantity is None else scaled(item.unit_quantity, 3),
        unit_price=unit_price,
        text=item.description or "",
        voucher=text(data, "vouchernr"),
        terminal=text(data, "terminalid"),
        in_house=not case & ItemFlag.TAKE_AWAY,
        agency=text(data, "agencyid"),
        article=item.product_number or "",
        gtin=item.product_barcode or "",
        group_id=text(data, "productgroupid") or crc(group),
        group=group,
        unit=item.unit or "",
        subitems=tuple(_subitems(data, case, item.vat_rate, in_force)),
    )


def _business_line(pay: PayItem, number_: str, gv_typ: str, gross: int) -> Line:
    data = members(pay.ft_pay_item_case_data)
    quantity, unit_price = _quantity(pay.quantity or Decimal(1), gross, None)
    group = pay.money_group or ""
    return Line(
        number=number_,
        gv_typ=gv_typ,
        key=5,
        rate=Decimal(0),
        gross=gross,
        net=gross,
        vat=0,
        quantity=quantity,
        factor=None,
        unit_price=unit_price,
        text=pay.description or "",
        voucher=text(data, "vouchernr"),
        agency=text(data, "agencyid"),
        group_id=text(data, "moneygroupid") or crc(group),
        group=group,
    )


def _quantity(given: Decimal, gross: int, unit_price: Decimal | None) -> tuple[int, int]:
    """MENGE in units of 10⁻³, which has the sign of the amount, and STK_BR in units of 10⁻⁵, which has none.

    Their product is the amount. A UnitPrice that says something else by more than half a cent is wrong.
    """
    quantity = abs(scaled(given, 3))
    if not gross:
        return quantity if given >= 0 else -quantity, 0
    quantity = quantity or 1000
    price = divided(abs(gross) * 1000, quantity)
    if unit_price is not None and abs(abs(scaled(unit_price)) - price) <= 500:
        price = abs(scaled(unit_price))
    return quantity if gross > 0 else -quantity, price


def _taxed(case: int, rate: Decimal, in_force: int) -> tuple[int, Decimal, str]:
    """UST_SCHLUESSEL, the rate that counts, and GV_TYP of a charge item."""
    found = charge_case(to_int64(case), rate)
    key = found.ust_key
    if found.column < 5:
        key = found.column  # case 0x0000 goes by the rate, as in processData
        if rate != vat.rate_at(key, in_force):
            key = vat.HISTORIC.get((key, rate), key)
        return key, rate, found.gv_typ
    if key == 7 and rate > 0:
        return vat.individual_key(rate), rate, found.gv_typ
    return key, Decimal(0), found.gv_typ


def _subitems(data: dict[str, Any], parent: int, rate: Decimal, in_force: int) -> Iterator[SubItem]:
    given = data.get("subitems")
    for each in given if isinstance(given, list) else ():
        item = lowered(each)
        if not item:
            continue
        group = lowered(item.get("productgroup"))
        case = text(item, "ftsubchargeitemcase")
        own = int(case) if case.isdecimal() and len(case) < 20 else parent
        key, own_rate, _ = _taxed(own | DE, rate, in_force)
        gross = scaled(number(item, "amount") or Decimal(0))
        without = net(gross, own_rate)
        quantity, factor = number(item, "quantity"), number(item, "unitquantity")
        name = text(group, "productgroupname")
        yield SubItem(
            article=text(item, "productnumber"),
            gtin=text(item, "gtin"),
            name=text(item, "description") or text(item, "name"),
            group_id=text(group, "productgroupid") or crc(name),
            group=name,
            quantity=scaled(Decimal(1) if quantity is None else quantity, 3),
            factor=None if factor is None else scaled(factor, 3),
            unit=text(item, "unit"),
            key=key,
            gross=gross,
            net=without,
            vat=gross - without,
        )


# ---- payments -------------------------------------------------------------------------------------------


def _payments(request: ReceiptRequest, bon_typ: str) -> Iterator[Payment]:
    found = False
    for pay in request.cb_pay_items:
        case = pay_case(to_int64(pay.ft_pay_item_case))
        if case.pay_class == PayClass.BUSINESS_CASE:
            continue
        found = True
        yield _payment(pay, case.zahlart, case.pay_class)
    if not found and bon_typ == "Beleg":  # which must have a payment
        yield Payment("Keine", "", "", None, 0)


def _payment(pay: PayItem, kind: str, pay_class: int) -> Payment:
    data = members(pay.ft_pay_item_case_data)
    name = text(data, "itemcasename") or pay.description or ""
    if pay_class == PayClass.INTERNAL:
        return Payment(kind, name, "", None, 0)
    cancellation = _is_cancellation(pay.ft_pay_item_case)
    currency, foreign = "", None
    if pay_class in (PayClass.CASH_FOREIGN, PayClass.NON_CASH):
        code, given = text(data, "currencycode"), number(data, "foreigncurrencyamount")
        if code and code.upper() != "EUR" and given is not None:
            currency = code
            foreign = cents(scaled(signed(given, pay.quantity, cancellation=cancellation)))
    base = number(data, "basecurrencyamount")
    amount = signed(pay.amount if base is None else base, pay.quantity, cancellation=cancellation)
    return Payment(kind, name, currency, foreign, cents(scaled(amount)))


# ---- signatures -----------------------------------------------------------------------------------------


def _signed(
    request: ReceiptRequest,
    response: ReceiptResponse,
    tse_calls: str,
    signatures: list[tuple[int, str]],
    process_type: str,
) -> Iterator[Signed]:
    """The transaction of the receipt, then those that a fail-transaction closed; or why there is none."""
    first = dict(reversed(signatures))
    if _T.SIGNATURE_COUNTER not in first:
        error = _missing(request.ft_receipt_case, response.ft_state)
        yield Signed("", "", "", "", process_type, "", "", error, "")
        return
    yield Signed(
        serial=first.get(_T.TSE_SERIAL_NUMBER, "").lower(),
        number=first.get(_T.TRANSACTION_NUMBER, ""),
        start=first.get(_T.START_TIME, ""),
        end=first.get(_T.LOG_TIME, ""),
        process_type=first.get(_T.PROCESS_TYPE, ""),
        counter=first[_T.SIGNATURE_COUNTER],
        signature=first.get(_T.FINISH_TRANSACTION_RESULT) or first.get(_T.SIGNATURE, ""),
        error="",
        process_data=fitting(first.get(_T.PROCESS_DATA, "")),
        algorithm=first.get(_T.SIGNATURE_ALGORITHM, ""),
        time_format=first.get(_T.LOG_TIME_FORMAT, ""),
        public_key=first.get(_T.PUBLIC_KEY, ""),
    )
    yield from _closed(first, signatures, tse_calls)


def _closed(first: dict[int, str], signatures: list[tuple[int, str]], tse_calls: str) -> Iterator[Signed]:
    """The transactions that a multiple fail-transaction closed, each with three signature items behind its own.

    What these do not say is in the record of the TSE's calls, in the same order.
    """
    results = [index for index, (kind, _) in enumerate(signatures) if kind == _T.FINISH_TRANSACTION_RESULT][
        1:
    ]
    own = first.get(_T.TRANSACTION_NUMBER)
    finishes = [call for call in calls(tse_calls) if call.operation == "F" and str(call.number) != own]
    for index, call in zip(results, finishes, strict=False):
        payload = signatures[index - 1][1]
        yield Signed(
            serial=first.get(_T.TSE_SERIAL_NUMBER, "").lower(),
            number=str(call.number),
            start="",
            end=format_ticks_ms(call.time),
            process_type=signatures[index + 1][1],
            counter=str(call.counter),
            signature=signatures[index][1],
            error="",
            process_data=fitting(base64.b64decode(payload).decode(errors="replace")),
            algorithm=first.get(_T.SIGNATURE_ALGORITHM, ""),
            time_format=first.get(_T.LOG_TIME_FORMAT, ""),
            public_key=first.get(_T.PUBLIC_KEY, ""),
        )


class Call(NamedTuple):
    """A call that the TSE executed: S, U or F, transaction number, signature counter, log time in ticks."""

    operation: str
    number: int
    counter: int
    time: int


def calls(text_: str | None) -> list[Call]:
    """The record of an answer's calls to the TSE."""
    found = []
    for each in (text_ or "").split():
        number_, counter, time = map(int, each[1:].split(":"))
        found.append(Call(each[0], number_, counter, time))
    return found


def fitting(process_data: str) -> str:
    """processData as TSE_VORGANGSDATEN: whole or not at all."""
    return process_data if len(process_data) <= MAX_PROCESS_DATA else ""


def _missing(case: int, state: int) -> str:
    """TSE_TA_FEHLER of a receipt that no TSE signed."""
    if state & State.OUT_OF_SERVICE:
        return "Kasse nicht in Betrieb genommen oder außer Betrieb"
    if case & ReceiptFlag.HANDWRITTEN:
        return "Handschriftlicher Beleg - Nacherfassung"
    if case & ReceiptFlag.FAILED_RECEIPT:
        return "Elektronisches Aufzeichnungssystem ausgefallen - Nacherfassung"
    if state & State.SCU_FAILED:
        return "TSE ausgefallen"
    if state & State.SCU_SWITCH:
        return "Wechsel der TSE nicht abgeschlossen"
    return "Vorgang hat die TSE nicht erreicht"
