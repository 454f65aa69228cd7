"""What the German cases mean, as the tables of the core (csrc/cases.c) have it, in the words of DSFinV-K."""

from __future__ import annotations

import threading
from decimal import Decimal
from enum import IntEnum
from typing import Final, NamedTuple

from fiskal.core import check, ffi, lib
from fiskal.pos.prepared import PROCESS_TYPES

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


class _Scratch(threading.local):
    """The buffers of one thread. As in :mod:`fiskal.core`: not to be used from a signal handler."""

    def __init__(self) -> None:
        self.decimal = ffi.new("fk_decimal *")
        self.receipt_case = ffi.new("fk_receipt_case *")
        self.charge_case = ffi.new("fk_charge_case *")
        self.pay_case = ffi.new("fk_pay_case *")


_scratch = _Scratch()


class BonType(NamedTuple):
    """What DSFinV-K calls a receipt: BON_TYP (empty where there is none) and processType; ``kind`` as in
    :class:`fiskal.pos.prepared.Kind`."""

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
