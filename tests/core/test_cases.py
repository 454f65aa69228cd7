"""Cases and flags, row by row of the German tables."""

from __future__ import annotations

import csv
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from fiskal import core
from fiskal._core import ffi, lib
from fiskal.germany import cases
from fiskal.germany.codes import LAST_RECEIPT_CASE, ItemFlag, ReceiptCase, ReceiptFlag
from fiskal.pos.prepared import PROCESS_TYPES, Kind

VECTORS = Path(__file__).parents[1] / "vectors"
DE = 0x4445_0000_0000_0000
IMPLICIT, EXPLICIT, EITHER = lib.FK_FLOW_IMPLICIT, lib.FK_FLOW_EXPLICIT, lib.FK_FLOW_EITHER
BON_TYP = (
    "-",
    "Beleg",
    "AVTransfer",
    "AVBestellung",
    "AVTraining",
    "AVBelegstorno",
    "AVBelegabbruch",
    "AVSachbezug",
    "AVSonstige",
    "AVRechnung",
)
GV_TYP = (
    "Umsatz",
    "Pfand",
    "PfandRueckzahlung",
    "Rabatt",
    "Aufschlag",
    "ZuschussUnecht",
    "ZuschussEcht",
    "TrinkgeldAG",
    "TrinkgeldAN",
    "MehrzweckgutscheinKauf",
    "MehrzweckgutscheinEinloesung",
    "EinzweckgutscheinKauf",
    "EinzweckgutscheinEinloesung",
    "Forderungsentstehung",
    "Forderungsaufloesung",
    "Anzahlungseinstellung",
    "Anzahlungsaufloesung",
    "Anfangsbestand",
    "Privatentnahme",
    "Privateinlage",
    "Geldtransit",
    "Lohnzahlung",
    "Einzahlung",
    "Auszahlung",
    "DifferenzSollIst",
    "",
)
ZAHLART = ("Bar", "Unbar", "Keine", "ECKarte", "Kreditkarte", "ElZahlungsdienstleister", "Guthabenkarte")

# case, charge items, pay items, processType, BON_TYP, flow, kind
RECEIPTS = [
    (0x00, 1, 1, "Kassenbeleg-V1", "Beleg", EITHER, "RECEIPT"),
    (0x01, 1, 1, "Kassenbeleg-V1", "Beleg", EITHER, "RECEIPT"),
    (0x01, 0, 0, "Kassenbeleg-V1", "Beleg", EITHER, "RECEIPT"),
    (0x02, 0, 0, "SonstigerVorgang", "-", IMPLICIT, "ZERO"),
    (0x03, 0, 0, "SonstigerVorgang", "-", IMPLICIT, "INITIAL_OPERATION"),
    (0x04, 0, 0, "SonstigerVorgang", "-", IMPLICIT, "OUT_OF_OPERATION"),
    (0x05, 0, 0, "SonstigerVorgang", "-", IMPLICIT, "MONTHLY_CLOSING"),
    (0x06, 0, 0, "SonstigerVorgang", "-", IMPLICIT, "YEARLY_CLOSING"),
    (0x07, 0, 0, "SonstigerVorgang", "-", IMPLICIT, "DAILY_CLOSING"),
    (0x08, 0, 0, "", "-", EXPLICIT, "START_TRANSACTION"),
    (0x09, 1, 1, "", "-", EXPLICIT, "UPDATE_TRANSACTION"),
    (0x0A, 1, 1, "", "-", EXPLICIT, "DELTA_TRANSACTION"),
    (0x0B, 0, 0, "Kassenbeleg-V1", "AVBelegabbruch", EITHER, "FAIL_TRANSACTION"),
    (0x0C, 1, 1, "Kassenbeleg-V1", "Beleg", EITHER, "RECEIPT"),
    (0x0D, 1, 1, "Kassenbeleg-V1", "Beleg", EITHER, "RECEIPT"),
    (0x0E, 1, 1, "Kassenbeleg-V1", "AVRechnung", EITHER, "RECEIPT"),
    (0x0F, 1, 0, "Kassenbeleg-V1", "AVTransfer", EITHER, "RECEIPT"),
    (0x10, 1, 1, "Kassenbeleg-V1", "AVBestellung", EITHER, "RECEIPT"),
    (0x10, 1, 0, "Bestellung-V1", "-", EITHER, "ORDER"),
    (0x11, 1, 1, "Kassenbeleg-V1", "Beleg", EITHER, "RECEIPT"),
    (0x12, 1, 1, "Kassenbeleg-V1", "AVSachbezug", EITHER, "RECEIPT"),
    (0x13, 1, 1, "Kassenbeleg-V1", "AVSonstige", EITHER, "RECEIPT"),
    (0x13, 1, 0, "SonstigerVorgang", "-", EITHER, "OTHER"),
    (0x13, 0, 1, "SonstigerVorgang", "-", EITHER, "OTHER"),
    (0x14, 1, 1, "SonstigerVorgang", "-", EITHER, "OTHER"),
    (0x15, 1, 1, "Kassenbeleg-V1", "AVSonstige", EITHER, "RECEIPT"),
    (0x16, 1, 1, "Kassenbeleg-V1", "AVBelegstorno", EITHER, "RECEIPT"),
    (0x17, 0, 0, "SonstigerVorgang", "-", IMPLICIT, "INITIATE_SCU_SWITCH"),
    (0x18, 0, 0, "SonstigerVorgang", "-", IMPLICIT, "FINISH_SCU_SWITCH"),
    (0x19, 0, 0, "Kassenbeleg-V1", "Beleg", IMPLICIT, "MIGRATION"),
    (0x1A, 1, 1, "Kassenbeleg-V1", "Beleg", EITHER, "RECEIPT"),
    (0xFFFF, 1, 1, "Kassenbeleg-V1", "Beleg", EITHER, "RECEIPT"),
]


def decode(receipt_case: int, charges: int = 1, pays: int = 1, strict: int = 0) -> Any:
    out = ffi.new("fk_receipt_case *")
    core.check(lib.fk_case_decode(receipt_case, charges, pays, strict, out))
    return out


@pytest.mark.parametrize(("number", "charges", "pays", "process_type", "bon_typ", "flow", "kind"), RECEIPTS)
def test_receipt_case(
    number: int, charges: int, pays: int, process_type: str, bon_typ: str, flow: int, kind: str
) -> None:
    case = decode(DE | number, charges, pays)
    assert (case.country, case.version, case.number) == (0x4445, 0, number)
    assert PROCESS_TYPES[case.process_type] == process_type
    assert BON_TYP[case.bon_typ] == bon_typ
    assert case.flow == flow
    assert Kind(case.kind).name == kind
    assert case.known == (number < 0x1A)
    assert cases.bon_type(DE | number, charges, pays) == (case.kind, bon_typ.strip("-"), process_type)
    training = decode(DE | number | ReceiptFlag.TRAINING, charges, pays)
    assert BON_TYP[training.bon_typ] == ("AVTraining" if process_type == "Kassenbeleg-V1" else "-")
    assert training.kind == case.kind


def test_strict_migration_is_no_receipt() -> None:
    case = decode(DE | 0x19, 0, 0, strict=1)
    assert PROCESS_TYPES[case.process_type] == "SonstigerVorgang"
    assert case.kind == Kind.MIGRATION


@pytest.mark.parametrize("flag", ReceiptFlag)
def test_flag(flag: int) -> None:
    case = decode(DE | flag | 1)
    assert (case.flags, case.unknown_flags, case.number, case.version) == (flag, 0, 1, 0)


@pytest.mark.parametrize(
    ("prefix", "names"), [("FK_CASE_", ReceiptCase), ("FK_FLAG_", ReceiptFlag), ("FK_ITEM_", ItemFlag)]
)
def test_a_code_has_one_name(prefix: str, names: type[IntEnum]) -> None:
    """In csrc/cases.h and in fiskal/germany/codes.py, the second names of a flag among them."""
    in_c = {name.removeprefix(prefix): getattr(lib, name) for name in dir(lib) if name.startswith(prefix)}
    in_c.pop("COUNT", None)
    assert in_c == {name: int(member) for name, member in names.__members__.items()}
    assert lib.FK_CASE_COUNT == LAST_RECEIPT_CASE + 1


def enumerators(prefix: str) -> int:
    """How many the core has; their values have no gaps."""
    values = sorted(getattr(lib, name) for name in dir(lib) if name.startswith(prefix))
    assert values == list(range(len(values)))
    return len(values)


def test_the_texts_stand_where_the_core_counts_them() -> None:
    assert enumerators("FK_BON_") == len(cases.BON_TYPES)
    assert enumerators("FK_GV_") == len(cases.GV_TYPES)
    assert enumerators("FK_ZAHLART_") == len(cases.ZAHLART_TYPES)
    assert enumerators("FK_PROCESS_") == len(PROCESS_TYPES)
    assert enumerators("FK_KIND_") == len(Kind)
    assert cases.GV_TYPES[lib.FK_GV_DIFFERENZ_SOLL_IST] == "DifferenzSollIst"
    assert cases.ZAHLART_TYPES[lib.FK_ZAHLART_GUTHABENKARTE] == "Guthabenkarte"
    assert cases.BON_TYPES[lib.FK_BON_AVRECHNUNG] == "AVRechnung"


def test_unknown_flags_and_other_tagging() -> None:
    case = decode(DE | 0x0000_8000_0000 | 1)
    assert case.flags == case.unknown_flags == 0x8000_0000
    assert decode(DE | 0x2000_0000_0001).version == 2
    negative = decode(-1)
    assert (negative.country, negative.number, negative.version) == (0xFFFF, 0xFFFF, 7)


def decimal_of(text: str) -> Any:
    out = ffi.new("fk_decimal *")
    core.check(lib.fk_decimal_parse(text.encode(), len(text), out))
    return out


def charge_case(case: int, rate: str = "0") -> Any:
    out = ffi.new("fk_charge_case *")
    core.check(lib.fk_charge_case_decode(case, decimal_of(rate), out))
    return out


with (VECTORS / "charge_cases.csv").open(encoding="utf-8") as lines:
    CHARGE_ROWS = list(csv.DictReader(lines))
with (VECTORS / "pay_cases.csv").open(encoding="utf-8") as lines:
    PAY_ROWS = list(csv.DictReader(lines))


@pytest.mark.parametrize("row", CHARGE_ROWS, ids=[row["case"] for row in CHARGE_ROWS])
def test_charge_case(row: dict[str, str]) -> None:
    assert int(row["value"]) == DE | int(row["case"], 16)
    for flags in (0, 0x1_0000, 0x20_0000):
        case = charge_case(int(row["value"]) | flags, "19")
        if row["column"]:
            assert case.column == int(row["column"])
        assert case.ust_key == int(row["ust_key"])
        assert GV_TYP[case.gv_typ] == row["gv_typ"]
        assert case.known == 1
        assert cases.charge_case(int(row["value"]) | flags, Decimal(19)) == (
            case.column,
            case.ust_key,
            row["gv_typ"],
        )


def test_every_other_charge_case_is_unknown_and_in_column_5() -> None:
    known = {int(row["case"], 16) for row in CHARGE_ROWS}
    for number in range(0x200):
        if number not in known:
            case = charge_case(DE | number, "19")
            assert (case.known, case.column, case.ust_key, GV_TYP[case.gv_typ]) == (0, 5, 7, "Umsatz"), hex(
                number
            )


@pytest.mark.parametrize(
    ("rate", "column"),
    [
        ("19", 1),
        ("19.0", 1),
        ("19.0000000000000000000000000", 1),
        ("7", 2),
        ("7.00", 2),
        ("10.7", 3),
        ("10.70", 3),
        ("5.5", 4),
        ("5.50000000000000000000", 4),
        ("16", 5),
        ("5", 5),
        ("0", 5),
        ("-19", 5),
        ("19.0000000000000000000000001", 5),
        ("1.9", 5),
        ("190", 5),
        ("79228162514264337593543950335", 5),
    ],
)
def test_undefined_service_goes_by_rate(rate: str, column: int) -> None:
    assert charge_case(DE, rate).column == column
    assert cases.charge_case(DE, Decimal(rate)) == (column, 7, "Umsatz")


@pytest.mark.parametrize("rate", ["NaN", "Infinity", "1E+50"])
def test_rate_that_cannot_be(rate: str) -> None:
    assert cases.charge_case(DE, Decimal(rate)) == (5, 7, "Umsatz")
    assert cases.charge_case(DE | 2, Decimal(rate)) == (2, 2, "Umsatz")


@pytest.mark.parametrize("row", PAY_ROWS, ids=[row["case"] for row in PAY_ROWS])
def test_pay_case(row: dict[str, str]) -> None:
    assert int(row["value"]) == DE | int(row["case"], 16)
    out = ffi.new("fk_pay_case *")
    core.check(lib.fk_pay_case_decode(int(row["value"]) | 0x20_0000, out))
    classes = {
        lib.FK_PAY_CASH: "C",
        lib.FK_PAY_CASH_FOREIGN: "F",
        lib.FK_PAY_NON_CASH: "N",
        lib.FK_PAY_BUSINESS_CASE: "X",
        lib.FK_PAY_INTERNAL: "X",
    }
    assert classes[out.pay_class] == row["class"]
    assert (out.pay_class == lib.FK_PAY_INTERNAL) == (row["case"] == "000A")
    assert ZAHLART[out.zahlart] == row["zahlart"]
    assert (GV_TYP[out.gv_typ_positive], GV_TYP[out.gv_typ_negative]) == (row["positive"], row["negative"])
    assert out.known == 1
    decoded = cases.pay_case(int(row["value"]))
    assert decoded == (out.pay_class, row["zahlart"], row["positive"].strip("-"), row["negative"].strip("-"))


@pytest.mark.parametrize("number", [0x18, 0x99, 0xFFFF])
def test_every_other_pay_case_is_cash(number: int) -> None:
    out = ffi.new("fk_pay_case *")
    core.check(lib.fk_pay_case_decode(DE | number, out))
    assert (out.pay_class, out.known) == (lib.FK_PAY_CASH, 0)
