"""What becomes of every kind of receipt in the DSFinV-K export, field by field."""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fiskal.germany.masterdata import MasterData
from fiskal.host import config as configs
from fiskal.queue.settings import QueueSettings
from fiskal.scu.errors import Unreachable
from tests.support.dsfinvk import MASTER_DATA, Rows, charge, export, pay, tables
from tests.support.shop import Shop, data_of

DAILY, ORDER, INVOICE = 0x07, 0x10, 0x0E
LATE, TRAINING, VOID, HANDWRITTEN, UPDATE = 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x0800_0000
DOWN = Unreachable("CONNECT_FAILED", "The TSE is not available.")


def with_master_data(config: configs.HostConfig) -> None:
    config.master_data = msgspec.convert(MASTER_DATA, MasterData)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path, prepare=with_master_data)
    yield made
    made.close()


@pytest.fixture
def closed(shop: Shop) -> Callable[..., dict[str, Rows]]:
    """Close the day, and what the export of it holds."""

    def close(**members: Any) -> dict[str, Rows]:
        shop.send(DAILY, "CLOSING", **members)
        return tables(shop)

    return close


def row(rows: Rows, **wanted: str) -> dict[str, str]:
    """The only row with these values."""
    (found,) = [each for each in rows if all(each[name] == value for name, value in wanted.items())]
    return found


def values(rows: Rows, *names: str) -> list[tuple[str, ...]]:
    return [tuple(each[name] for name in names) for each in rows]


def bon(answer: dict[str, Any]) -> str:
    return str(answer["ftReceiptIdentification"])


# ---- the example of the reference -----------------------------------------------------------------------


def test_the_worked_example(shop: Shop, closed: Callable[..., dict[str, Rows]]) -> None:
    """A closing with an order, its bill, a voucher redeemed with a tip, a way to the bank and a TSE outage."""
    data = '{"UserId": "7"}'
    common: dict[str, Any] = {"cbUser": "Anna", "ftReceiptCaseData": data}
    coffee = charge("Kaffee", 5, ProductNumber="A10", quantity=2, Moment="2023-11-14T18:01:10Z")
    rolls = charge("Broetchen", 2.40, 7, 0x02, ProductNumber="A20", quantity=3)
    order = shop.send(ORDER, "B-1", cbArea="Tisch 4", cbChargeItems=[coffee], **common)
    bill = shop.send(
        0x01, "B-1", cbArea="Tisch 4", cbChargeItems=[coffee, rolls], cbPayItems=[pay("Bar", 7.40)], **common
    )
    menu = shop.send(
        0x01,
        "B-2",
        cbChargeItems=[charge("Menue", 30, ProductNumber="A30")],
        cbPayItems=[
            pay("Visa", 7, 0x05),
            pay("Gutschein G-1", 25, 0x0D, ftPayItemCaseData='{"VoucherNr":"G-1"}'),
            pay("Trinkgeld", -2, 0x10),
        ],
        **common,
    )
    bank = shop.send(0x11, "B-3", cbPayItems=[pay("Bank", 50, 0x14), pay("Bar", -50)], **common)
    shop.tse.down = DOWN
    failed = shop.sale("B-4", "3.57", **common)
    found = closed()

    ids = [bon(each) for each in (order, bill, menu, bank, failed)]
    assert [each["BON_ID"] for each in found["transactions"]] == ids
    assert values(
        found["transactions"], "BON_TYP", "BEDIENER_ID", "BEDIENER_NAME", "UMS_BRUTTO", "BON_STORNO"
    ) == [
        ("AVBestellung", "7", "Anna", "5,00", "0"),
        ("Beleg", "7", "Anna", "7,40", "0"),
        ("Beleg", "7", "Anna", "7,00", "0"),
        ("Beleg", "7", "Anna", "-50,00", "0"),
        ("Beleg", "7", "Anna", "3,57", "0"),
    ]
    assert found["transactions"][1]["BON_START"] == "2023-11-14T18:01:10Z"
    lines = (
        "POS_ZEILE",
        "GUTSCHEIN_NR",
        "ARTIKELTEXT",
        "GV_TYP",
        "INHAUS",
        "P_STORNO",
        "ART_NR",
        "MENGE",
        "STK_BR",
    )
    assert values(found["lines"], *lines) == [
        ("1", "", "Kaffee", "Umsatz", "1", "0", "A10", "2,000", "2,50000"),
        ("1", "", "Kaffee", "Umsatz", "1", "0", "A10", "2,000", "2,50000"),
        ("2", "", "Broetchen", "Umsatz", "1", "0", "A20", "3,000", "0,80000"),
        ("1", "", "Menue", "Umsatz", "1", "0", "A30", "1,000", "30,00000"),
        ("2", "G-1", "Gutschein G-1", "MehrzweckgutscheinEinloesung", "0", "0", "", "-1,000", "25,00000"),
        ("3", "", "Trinkgeld", "TrinkgeldAN", "0", "0", "", "1,000", "2,00000"),
        ("1", "", "Bank", "Geldtransit", "0", "0", "", "-1,000", "50,00000"),
        ("1", "", "Ware", "Umsatz", "1", "0", "", "1,000", "3,57000"),
    ]
    assert values(found["lines_vat"], "UST_SCHLUESSEL", "POS_BRUTTO", "POS_NETTO", "POS_UST") == [
        ("1", "5,00000", "4,20168", "0,79832"),
        ("1", "5,00000", "4,20168", "0,79832"),
        ("2", "2,40000", "2,24299", "0,15701"),
        ("1", "30,00000", "25,21008", "4,78992"),
        ("5", "-25,00000", "-25,00000", "0,00000"),
        ("5", "2,00000", "2,00000", "0,00000"),
        ("5", "-50,00000", "-50,00000", "0,00000"),
        ("1", "3,57000", "3,00000", "0,57000"),
    ]
    assert values(
        found["transactions_vat"], "BON_ID", "UST_SCHLUESSEL", "BON_BRUTTO", "BON_NETTO", "BON_UST"
    ) == [
        (ids[0], "1", "5,00000", "4,20168", "0,79832"),
        (ids[1], "1", "5,00000", "4,20168", "0,79832"),
        (ids[1], "2", "2,40000", "2,24299", "0,15701"),
        (ids[2], "1", "30,00000", "25,21008", "4,78992"),
        (ids[2], "5", "-23,00000", "-23,00000", "0,00000"),
        (ids[3], "5", "-50,00000", "-50,00000", "0,00000"),
        (ids[4], "1", "3,57000", "3,00000", "0,57000"),
    ]
    assert values(found["transactions_tse"], "TSE_TA_VORGANGSART", "TSE_TA_FEHLER", "TSE_VORGANGSDATEN") == [
        ("Bestellung-V1", "", '2;"Kaffee";2.50'),
        ("Kassenbeleg-V1", "", "Beleg^5.00_2.40_0.00_0.00_0.00^7.40:Bar"),
        ("Kassenbeleg-V1", "", "Beleg^30.00_0.00_0.00_0.00_-23.00^7.00:Unbar"),
        ("Kassenbeleg-V1", "", "Beleg^0.00_0.00_0.00_0.00_-50.00^-50.00:Bar"),
        ("Kassenbeleg-V1", "TSE ausgefallen", ""),
    ]
    assert values(
        found["datapayment"], "BON_ID", "ZAHLART_TYP", "ZAHLART_NAME", "ZAHLWAEH_BETRAG", "BASISWAEH_BETRAG"
    ) == [
        (ids[1], "Bar", "Bar", "", "7,40"),
        (ids[2], "Kreditkarte", "Visa", "", "7,00"),
        (ids[3], "Bar", "Bar", "", "-50,00"),
        (ids[4], "Bar", "Bar", "", "3,57"),
    ]
    groups = values(found["allocation_groups"], "BON_ID", "ABRECHNUNGSKREIS")
    assert groups[:4] == [(ids[0], "B-1"), (ids[0], "Tisch 4"), (ids[1], "B-1"), (ids[1], "Tisch 4")]
    assert values(
        found["references"], "BON_ID", "REF_TYP", "REF_DATUM", "REF_Z_KASSE_ID", "REF_Z_NR", "REF_BON_ID"
    ) == [(ids[1], "Transaktion", found["transactions"][0]["Z_ERSTELLUNG"], "POS-1", "1", ids[0])]
    assert values(
        found["businesscases"],
        "GV_TYP",
        "AGENTUR_ID",
        "UST_SCHLUESSEL",
        "Z_UMS_BRUTTO",
        "Z_UMS_NETTO",
        "Z_UST",
    ) == [
        ("Geldtransit", "0", "5", "-50,00000", "-50,00000", "0,00000"),
        ("MehrzweckgutscheinEinloesung", "0", "5", "-25,00000", "-25,00000", "0,00000"),
        ("TrinkgeldAN", "0", "5", "2,00000", "2,00000", "0,00000"),
        ("Umsatz", "0", "1", "38,57000", "32,41176", "6,15824"),
        ("Umsatz", "0", "2", "2,40000", "2,24299", "0,15701"),
    ]
    assert values(found["payment"], "ZAHLART_TYP", "ZAHLART_NAME", "Z_ZAHLART_BETRAG") == [
        ("Bar", "Bar", "-39,03"),
        ("Kreditkarte", "Visa", "7,00"),
    ]
    assert values(found["cash_per_currency"], "ZAHLART_WAEH", "ZAHLART_BETRAG_WAEH") == [("EUR", "-39,03")]
    (closing,) = found["cashpointclosing"]
    assert closing == {
        "Z_KASSE_ID": "POS-1",
        "Z_ERSTELLUNG": "2023-11-14T22:13:20Z",
        "Z_NR": "1",
        "Z_BUCHUNGSTAG": "",
        "TAXONOMIE_VERSION": "2.4",
        "Z_START_ID": ids[0],
        "Z_ENDE_ID": ids[4],
        "NAME": "Muster GmbH",
        "STRASSE": "Weg 1",
        "PLZ": "10115",
        "ORT": "Berlin",
        "LAND": "DEU",
        "STNR": "12/345/67890",
        "USTID": "DE123456789",
        "Z_SE_ZAHLUNGEN": "-32,03",
        "Z_SE_BARZAHLUNGEN": "-39,03",
    }


# ---- kinds of receipts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "bon_typ", "name"),
    [
        (0x00, "Beleg", ""),
        (0x01, "Beleg", ""),
        (0x01 | TRAINING, "AVTraining", ""),
        (0x0C, "Beleg", ""),
        (0x0D, "Beleg", ""),
        (0x0E, "AVRechnung", ""),
        (0x0E | TRAINING, "AVTraining", ""),
        (0x0F, "AVTransfer", ""),
        (0x10, "AVBestellung", ""),
        (0x11, "Beleg", ""),
        (0x12, "AVSachbezug", ""),
        (0x13, "AVSonstige", "Interner Vorgang"),
        (0x14, "AVSonstige", "Protokoll"),
        (0x15, "AVSonstige", "Auslandsumsatz"),
        (0x16, "AVBelegstorno", ""),
    ],
)
def test_bon_typ(
    shop: Shop, closed: Callable[..., dict[str, Rows]], case: int, bon_typ: str, name: str
) -> None:
    answer = shop.sale(case=case)
    found = closed()
    (head,) = found["transactions"]
    assert (head["BON_ID"], head["BON_TYP"], head["BON_NAME"]) == (bon(answer), bon_typ, name)
    assert head["UMS_BRUTTO"] == "7,50"
    assert values(found["datapayment"], "BASISWAEH_BETRAG") == [("7,50",)]
    counted = bon_typ == "Beleg"
    assert (
        bool(found["businesscases"]) == bool(found["payment"]) == bool(found["cash_per_currency"]) == counted
    )
    assert found["cashpointclosing"][0]["Z_SE_ZAHLUNGEN"] == ("7,50" if counted else "0,00")


@pytest.mark.parametrize(
    ("case", "process_type", "bon_typ", "name"),
    [
        (ORDER, "Bestellung-V1", "AVBestellung", ""),
        (ORDER | TRAINING, "Bestellung-V1", "AVBestellung", "Trainingsbuchung"),
        (0x13, "SonstigerVorgang", "AVSonstige", "Interner Vorgang"),
        (0x14, "SonstigerVorgang", "AVSonstige", "Protokoll"),
    ],
)
def test_receipts_without_payment(
    shop: Shop, closed: Callable[..., dict[str, Rows]], case: int, process_type: str, bon_typ: str, name: str
) -> None:
    shop.send(case, cbChargeItems=[charge("Bier", 3)])
    found = closed()
    (head,) = found["transactions"]
    assert (head["BON_TYP"], head["BON_NAME"], head["UMS_BRUTTO"]) == (bon_typ, name, "3,00")
    assert found["transactions_tse"][0]["TSE_TA_VORGANGSART"] == process_type
    assert found["datapayment"] == found["businesscases"] == found["payment"] == []


def test_a_name_and_a_note_of_the_pos(shop: Shop, closed: Callable[..., dict[str, Rows]]) -> None:
    shop.sale(case=0x13, ftReceiptCaseData=json.dumps({"ReceiptName": "Umbuchung", "receiptnote": "x" * 300}))
    (head,) = closed()["transactions"]
    assert (head["BON_NAME"], head["BON_NOTIZ"]) == ("Umbuchung", "x" * 255)


def test_technical_receipts_are_no_vorgang(shop: Shop, closed: Callable[..., dict[str, Rows]]) -> None:
    for case in (0x02, 0x05, 0x06):
        shop.send(case, "T")
    shop.send(0x08, "X")
    shop.send(0x09, "X")
    shop.send(0x0A, "X")
    finish = shop.sale("X", flow="explicit")
    found = closed()
    assert values(found["transactions"], "BON_ID") == [(bon(finish),)]
    assert found["references"] == []  # what precedes it under this reference is no Vorgang
    assert (
        found["cashpointclosing"][0]["Z_START_ID"] == found["cashpointclosing"][0]["Z_ENDE_ID"] == bon(finish)
    )


def test_the_explicit_flow_has_the_start_of_its_start(
    shop: Shop, closed: Callable[..., dict[str, Rows]]
) -> None:
    shop.send(0x08, "X")
    shop.clock.advance(120)
    finish = shop.sale("X", flow="explicit")
    (signed,) = closed()["transactions_tse"]
    assert signed["TSE_TANR"] == data_of(finish, "<transaktions-nummer>") == "2"
    assert signed["TSE_TA_START"] == data_of(finish, "<start-zeit>") < signed["TSE_TA_ENDE"]
    assert signed["TSE_TA_SIG"] == data_of(finish, "<signatur>")
    assert signed["TSE_TA_SIGZ"] == data_of(finish, "<signatur-zaehler>")


def test_an_aborted_receipt(shop: Shop, closed: Callable[..., dict[str, Rows]]) -> None:
    shop.send(0x08, "X")
    shop.send(0x0B, "X")
    found = closed()
    assert values(found["transactions"], "BON_TYP", "UMS_BRUTTO") == [("AVBelegabbruch", "0,00")]
    (signed,) = found["transactions_tse"]
    assert signed["TSE_VORGANGSDATEN"] == "AVBelegabbruch^0.00_0.00_0.00_0.00_0.00^"


def test_several_aborted_at_once(shop: Shop, closed: Callable[..., dict[str, Rows]]) -> None:
    for reference in "AB":
        shop.send(0x08, reference)
    shop.clock.advance(60)
    shop.send(0x0B | 0x1_0000_0000, "", ftReceiptCaseData='{"CurrentStartedTransactionNumbers":[2,3]}')
    found = closed()
    assert len(found["transactions"]) == 1
    signed = found["transactions_tse"]
    assert values(signed, "TSE_TANR") == [("4",), ("2",), ("3",)]
    assert all(each["TSE_TA_START"] < each["TSE_TA_ENDE"] for each in signed[1:])
    assert {each["TSE_VORGANGSDATEN"] for each in signed} == {"AVBelegabbruch^0.00_0.00_0.00_0.00_0.00^"}
    assert len({each["TSE_TA_SIG"] for each in signed}) == 3


@pytest.mark.parametrize(
    ("flag", "error"),
    [
        (LATE, "Elektronisches Aufzeichnungssystem ausgefallen - Nacherfassung"),
        (HANDWRITTEN, "Handschriftlicher Beleg - Nacherfassung"),
    ],
)
def test_receipts_recorded_later(
    shop: Shop, closed: Callable[..., dict[str, Rows]], flag: int, error: str
) -> None:
    answer = shop.sale(case=0x01 | flag, cbReceiptMoment="2023-11-13T10:00:00Z")
    found = closed()
    assert found["transactions"][0]["BON_ID"] == bon(answer)
    assert bon(answer).endswith("#")
    assert found["transactions"][0]["BON_ENDE"] == "2023-11-13T10:00:00Z"
    (signed,) = found["transactions_tse"]
    assert signed["TSE_ID"] == "1"
    assert signed["TSE_TA_FEHLER"] == error
    empty = ("TSE_TANR", "TSE_TA_START", "TSE_TA_ENDE", "TSE_TA_SIGZ", "TSE_TA_SIG", "TSE_VORGANGSDATEN")
    assert {signed[name] for name in empty} == {""}


def test_a_closing_without_its_tse(shop: Shop) -> None:
    shop.tse.down = DOWN
    shop.sale(case=ORDER | 0x1_0000_0000)
    shop.send(DAILY)
    found = tables(shop)
    assert found["tse"][0]["TSE_SERIAL"] == shop.tse.scu.get_tse_info().serial_number_octet
    assert found["cashpointclosing"][0]["NAME"] == "Muster GmbH"
    assert found["transactions_tse"][0]["TSE_TA_FEHLER"] == "TSE ausgefallen"


def test_a_queue_that_is_not_in_operation(tmp_path: Path) -> None:
    shop = Shop(tmp_path, start=False)
    shop.sale("EARLY")
    shop.send(0x03)
    shop.send(DAILY)
    (signed,) = tables(shop)["transactions_tse"]
    assert signed["TSE_TA_FEHLER"] == "Kasse nicht in Betrieb genommen oder außer Betrieb"
    shop.close()


def test_a_void_receipt(shop: Shop, closed: Callable[..., dict[str, Rows]]) -> None:
    first = shop.sale("V-1", "10")
    items = [charge("Ware", -10, quantity=-1)]
    second = shop.send(
        0x01 | VOID,
        "V-2",
        cbPreviousReceiptReference="V-1",
        cbChargeItems=items,
        cbPayItems=[pay("Bar", -10)],
    )
    found = closed()
    assert values(found["transactions"], "BON_TYP", "BON_STORNO", "UMS_BRUTTO") == [
        ("Beleg", "0", "10,00"),
        ("Beleg", "1", "-10,00"),
    ]
    assert values(found["lines"], "MENGE", "STK_BR", "P_STORNO")[1] == ("-1,000", "10,00000", "0")
    assert values(found["references"], "BON_ID", "REF_BON_ID") == [(bon(second), bon(first))]
    assert values(found["payment"], "Z_ZAHLART_BETRAG") == [("0,00",)]
    assert values(found["businesscases"], "Z_UMS_BRUTTO", "Z_UST") == [("0,00000", "0,00000")]


# ---- lines ----------------------------------------------------------------------------------------------


def lines_of(
    shop: Shop, *charges: dict[str, Any], pays: list[dict[str, Any]] | None = None, case: int = 1
) -> Any:
    shop.send(case, "L", cbChargeItems=list(charges), cbPayItems=pays or [])
    shop.send(DAILY)
    return tables(shop)


@pytest.mark.parametrize(
    ("quantity", "amount", "unit_price", "menge", "price"),
    [
        (2, 5, None, "2,000", "2,50000"),
        (2, 5, 2.5, "2,000", "2,50000"),
        (3, 10, None, "3,000", "3,33333"),
        (3, 10, 3.33, "3,000", "3,33000"),
        (2, 5, 5, "2,000", "2,50000"),
        (-2, 5, None, "-2,000", "2,50000"),
        (2, -5, None, "-2,000", "2,50000"),
        (-2, -5, -2.5, "-2,000", "2,50000"),
        (0.451, 4.51, None, "0,451", "10,00000"),
        (0.0004, 4.51, None, "1,000", "4,51000"),
        (1, 0, None, "1,000", "0,00000"),
        (-1, 0, None, "-1,000", "0,00000"),
        (0, 0, None, "0,000", "0,00000"),
        (0, -4, None, "-1,000", "4,00000"),
    ],
)
def test_quantity_and_price(
    shop: Shop, quantity: float, amount: float, unit_price: float | None, menge: str, price: str
) -> None:
    more = {} if unit_price is None else {"UnitPrice": unit_price}
    found = lines_of(shop, charge("X", amount, quantity=quantity, **more))
    assert values(found["lines"], "MENGE", "STK_BR") == [(menge, price)]


def test_a_cancelled_position_has_the_sign_of_its_amount(shop: Shop) -> None:
    found = lines_of(shop, charge("X", 5, quantity=-1, case=0x20_0001), charge("X", -5, case=0x20_0001))
    assert values(found["lines"], "MENGE", "P_STORNO") == [("1,000", "0"), ("-1,000", "0")]
    assert values(found["lines_vat"], "POS_BRUTTO") == [("5,00000",), ("-5,00000",)]


@pytest.mark.parametrize(
    ("case", "rate", "gv_typ", "key", "net"),
    [
        (0x00, 19, "Umsatz", "1", "8,40336"),
        (0x00, 7, "Umsatz", "2", "9,34579"),
        (0x00, 10.7, "Umsatz", "3", "9,03342"),
        (0x00, 5.5, "Umsatz", "4", "9,47867"),
        (0x00, 16, "Umsatz", "2600", "8,62069"),
        (0x00, 0, "Umsatz", "7", "10,00000"),
        (0x01, 16, "Umsatz", "21", "8,62069"),
        (0x02, 5, "Umsatz", "22", "9,52381"),
        (0x05, 19, "Umsatz", "5", "10,00000"),
        (0x06, 0, "Umsatz", "6", "10,00000"),
        (0x07, 0, "Umsatz", "7", "10,00000"),
        (0x17, 14.25, "Umsatz", "2425", "8,75274"),
        (0x21, 19, "Pfand", "1", "8,40336"),
        (0x29, 19, "PfandRueckzahlung", "1", "8,40336"),
        (0x32, 7, "Rabatt", "2", "9,34579"),
        (0x39, 19, "Aufschlag", "1", "8,40336"),
        (0x41, 19, "ZuschussUnecht", "1", "8,40336"),
        (0x49, 0, "ZuschussEcht", "5", "10,00000"),
        (0x51, 19, "TrinkgeldAG", "1", "8,40336"),
        (0x59, 0, "TrinkgeldAN", "5", "10,00000"),
        (0x60, 0, "MehrzweckgutscheinKauf", "5", "10,00000"),
        (0x61, 19, "EinzweckgutscheinKauf", "1", "8,40336"),
        (0x68, 0, "MehrzweckgutscheinEinloesung", "5", "10,00000"),
        (0x6A, 7, "EinzweckgutscheinEinloesung", "2", "9,34579"),
        (0x77, 0, "Forderungsentstehung", "7", "10,00000"),
        (0x79, 19, "Forderungsaufloesung", "1", "8,40336"),
        (0x81, 19, "Anzahlungseinstellung", "1", "8,40336"),
        (0x89, 19, "Anzahlungsaufloesung", "1", "8,40336"),
        (0x90, 0, "Anfangsbestand", "5", "10,00000"),
        (0x97, 0, "DifferenzSollIst", "5", "10,00000"),
        (0xA1, 0, "Umsatz", "5", "10,00000"),
        (0xA2, 19, "Umsatz", "5", "10,00000"),
    ],
)
def test_business_cases_and_vat_keys(
    shop: Shop, case: int, rate: float, gv_typ: str, key: str, net: str
) -> None:
    found = lines_of(shop, charge("X", 10, rate, case))
    assert values(found["lines"], "GV_TYP") == [(gv_typ,)]
    assert values(found["lines_vat"], "UST_SCHLUESSEL", "POS_BRUTTO", "POS_NETTO") == [(key, "10,00000", net)]
    expected = "1" if gv_typ == "Forderungsentstehung" and key == "7" else "0"
    assert found["cashregister"][0]["KEINE_UST_ZUORDNUNG"] == expected
    table = {each["UST_SCHLUESSEL"]: each["UST_SATZ"] for each in found["vat"]}
    assert set(table) == {*"1234567", key}
    rates = {"21": "16,00", "22": "5,00", "2600": "16,00", "2425": "14,25"}
    assert table[key] == rates.get(key, table[key])
    assert table["3"] == ("10,70" if key == "3" else "9,00")


def test_a_vat_amount_of_the_pos_counts(shop: Shop) -> None:
    found = lines_of(
        shop,
        charge("Altteil", 119, 0, 0x07, VATAmount=1.9),
        charge("zurück", -119, 19, VATAmount=19.01),
        charge("frei", 0, 19, VATAmount=0.5),
    )
    assert values(found["lines_vat"], "POS_BRUTTO", "POS_NETTO", "POS_UST") == [
        ("119,00000", "117,10000", "1,90000"),
        ("-119,00000", "-99,99000", "-19,01000"),
        ("0,00000", "-0,50000", "0,50000"),
    ]


def test_the_members_of_a_charge_item(shop: Shop) -> None:
    data = {"VoucherNr": "G", "AgencyId": "A-2", "ProductGroupId": 12, "TerminalId": "T9"}
    found = lines_of(
        shop,
        charge(
            'Öl; "fein"\nneu',
            5,
            case=0x01_0001,
            ProductNumber="N",
            ProductBarcode="4012345678901",
            ProductGroup="Gruppe",
            Unit="kg",
            UnitQuantity=0.5,
            ftChargeItemCaseData=json.dumps(data),
        ),
        charge("x" * 300, 5, ProductGroup="Gruppe", ftChargeItemCaseData="{broken"),
    )
    first, second = found["lines"]
    assert first | {"Z_ERSTELLUNG": ""} == {
        "Z_KASSE_ID": "POS-1",
        "Z_ERSTELLUNG": "",
        "Z_NR": "1",
        "BON_ID": first["BON_ID"],
        "POS_ZEILE": "1",
        "GUTSCHEIN_NR": "G",
        "ARTIKELTEXT": 'Öl; "fein"\nneu',
        "POS_TERMINAL_ID": "T9",
        "GV_TYP": "Umsatz",
        "GV_NAME": "",
        "INHAUS": "0",
        "P_STORNO": "0",
        "AGENTUR_ID": "2",
        "ART_NR": "N",
        "GTIN": "4012345678901",
        "WARENGR_ID": "12",
        "WARENGR": "Gruppe",
        "MENGE": "1,000",
        "FAKTOR": "0,500",
        "EINHEIT": "kg",
        "STK_BR": "5,00000",
    }
    assert second["ARTIKELTEXT"] == "x" * 255
    assert second["WARENGR_ID"] == f"{zlib.crc32(b'Gruppe'):08X}"
    assert (second["POS_TERMINAL_ID"], second["INHAUS"], second["AGENTUR_ID"]) == ("T1", "1", "0")


def test_agencies_are_numbered_by_the_master_data(shop: Shop) -> None:
    def of(agency: str) -> dict[str, Any]:
        return charge("X", 1, case=0xA2, ftChargeItemCaseData=json.dumps({"AgencyId": agency}))

    voucher = pay("G", -1, 0x0D, ftPayItemCaseData='{"AgencyId":"a-1"}')
    found = lines_of(shop, of("new-1"), of("a-2"), of("new-2"), of("new-1"), pays=[voucher])
    assert values(found["lines"], "AGENTUR_ID") == [("3",), ("2",), ("4",), ("3",), ("1",)]
    assert values(
        found["pa"], "AGENTUR_ID", "AGENTUR_NAME", "AGENTUR_LAND", "AGENTUR_STNR", "AGENTUR_USTID"
    ) == [
        ("1", "Erste", "AUT", "", "U1"),
        ("2", "Zweite", "DEU", "2", ""),
        ("3", "new-1", "", "", ""),
        ("4", "new-2", "", "", ""),
    ]
    assert sorted(values(found["businesscases"], "AGENTUR_ID", "Z_UMS_BRUTTO")) == [
        ("1", "1,00000"),
        ("2", "1,00000"),
        ("3", "2,00000"),
        ("4", "1,00000"),
    ]


def test_positions_of_the_pos_if_all_are_there(shop: Shop) -> None:
    items = [charge("A", 1, Position=10), charge("B", 1, Position=20)]
    found = lines_of(shop, *items, pays=[pay("Trinkgeld", -1, 0x10, Position=5), pay("Bar", 3)])
    assert values(found["lines"], "POS_ZEILE") == [("10",), ("20",), ("5",)]


@pytest.mark.parametrize("positions", [(1, 1), (2, 0), (0, 0), (-1, 2)])
def test_otherwise_lines_are_counted(shop: Shop, positions: tuple[int, int]) -> None:
    found = lines_of(shop, *(charge("A", 1, Position=each) for each in positions))
    assert values(found["lines"], "POS_ZEILE") == [("1",), ("2",)]


def test_subitems(shop: Shop) -> None:
    subitems = [
        {
            "ProductNumber": 7,
            "GTIN": "G",
            "Description": "Cola",
            "ProductGroup": {"ProductGroupId": "9", "ProductGroupName": "Getränke"},
            "Quantity": 2,
            "UnitQuantity": 0.33,
            "Unit": "l",
            "ftSubChargeItemCase": 4919338167972134914,
            "Amount": 2.14,
        },
        {"Name": "Pommes", "Amount": "1.19"},
        "nonsense",
    ]
    found = lines_of(shop, charge("Menü", 5, ftChargeItemCaseData=json.dumps({"SubItems": subitems})))
    first, second = found["subitems"]
    names = [name for name in first if name.startswith("ZI_")]
    assert [first[name] for name in names] == [
        "7", "G", "Cola", "9", "Getränke", "2,000", "0,330", "l", "2", "2,14000", "1,79832", "0,34168",
    ]  # fmt: skip
    assert [second[name] for name in ("ZI_NAME", "ZI_MENGE", "ZI_UST_SCHLUESSEL", "ZI_BASISPREIS_NETTO")] == [
        "Pommes", "1,000", "1", "1,00000",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "amount", "void", "gv_typ"),
    [
        (0x0D, -10, False, "MehrzweckgutscheinKauf"),
        (0x0D, 10, False, "MehrzweckgutscheinEinloesung"),
        (0x0D, -10, True, "MehrzweckgutscheinEinloesung"),
        (0x0D, 10, True, "MehrzweckgutscheinKauf"),
        (0x0E, -10, False, "Forderungsaufloesung"),
        (0x0E, 10, False, "Forderungsentstehung"),
        (0x0F, -10, False, "Anzahlungseinstellung"),
        (0x0F, 10, False, "Anzahlungsaufloesung"),
        (0x10, -10, False, "TrinkgeldAN"),
        (0x11, 10, False, "ZuschussEcht"),
        (0x12, -10, False, "Anfangsbestand"),
        (0x13, -10, False, "Privateinlage"),
        (0x13, 10, False, "Privatentnahme"),
        (0x14, 10, False, "Geldtransit"),
        (0x14, -10, False, "Geldtransit"),
        (0x15, 10, False, "Lohnzahlung"),
        (0x16, -10, False, "Einzahlung"),
        (0x16, 10, False, "Auszahlung"),
        (0x17, 10, False, "DifferenzSollIst"),
    ],
)
def test_pay_items_that_are_business_cases(
    shop: Shop, case: int, amount: float, void: bool, gv_typ: str
) -> None:
    found = lines_of(
        shop,
        pays=[pay("Sache", amount, case), pay("Bar", -amount)],
        case=0x11 | (VOID if void else 0),
    )
    (line,) = found["lines"]
    assert (line["GV_TYP"], line["ARTIKELTEXT"], line["INHAUS"]) == (gv_typ, "Sache", "0")
    assert line["MENGE"] == ("-1,000" if amount > 0 else "1,000")
    assert values(found["lines_vat"], "UST_SCHLUESSEL", "POS_BRUTTO", "POS_UST") == [
        ("5", f"{-amount},00000", "0,00000")
    ]
    assert values(found["datapayment"], "ZAHLART_TYP", "BASISWAEH_BETRAG") == [("Bar", f"{-amount},00")]


@pytest.mark.parametrize(("void", "quantity"), [(False, 1), (True, 1), (False, -1)])
def test_internal_consumption_is_taken_back_in_a_line(shop: Shop, void: bool, quantity: int) -> None:
    """0x000A is no payment: processData has it in column 5 with the opposite sign, and so have the tables."""
    amount = 4.5 if not void else -4.5
    shop.send(
        0x12 | (VOID if void else 0),
        "L",
        cbChargeItems=[charge("Kaffee", amount, 7, 0x02)],
        cbPayItems=[pay("Eigenverbrauch", 4.5, 0x0A, quantity=quantity)],
    )
    shop.send(DAILY)
    found = tables(shop)
    back = "4,50000" if void else "-4,50000"
    assert values(found["lines_vat"], "UST_SCHLUESSEL", "POS_BRUTTO")[1] == ("5", back)
    assert back[:-3].replace(",", ".") in found["transactions_tse"][0]["TSE_VORGANGSDATEN"]
    assert found["transactions"][0]["UMS_BRUTTO"] == "0,00"
    assert values(found["datapayment"], "ZAHLART_TYP", "ZAHLART_NAME", "BASISWAEH_BETRAG") == [
        ("Keine", "Eigenverbrauch", "0,00")
    ]


# ---- payments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        (0x00, "Bar"), (0x01, "Bar"), (0x03, "Unbar"), (0x04, "ECKarte"), (0x05, "Kreditkarte"),
        (0x06, "ElZahlungsdienstleister"), (0x07, "Guthabenkarte"), (0x08, "Unbar"), (0x09, "Unbar"),
        (0x0B, "Bar"), (0x99, "Bar"),
    ],
)  # fmt: skip
def test_kinds_of_payment(shop: Shop, case: int, kind: str) -> None:
    found = lines_of(shop, charge("X", 7), pays=[pay("Name", 7, case)])
    assert values(found["datapayment"], "ZAHLART_TYP", "ZAHLART_NAME", "ZAHLWAEH_CODE") == [
        (kind, "Name", "EUR")
    ]
    assert values(found["payment"], "ZAHLART_TYP", "Z_ZAHLART_BETRAG") == [(kind, "7,00")]
    assert values(found["cash_per_currency"], "ZAHLART_BETRAG_WAEH") == [
        ("7,00" if kind == "Bar" else "0,00",)
    ]
    assert found["cashpointclosing"][0]["Z_SE_BARZAHLUNGEN"] == ("7,00" if kind == "Bar" else "0,00")


def test_foreign_currency(shop: Shop) -> None:
    chf = json.dumps({"CurrencyCode": "CHF", "ForeignCurrencyAmount": "12.00", "BaseCurrencyAmount": 11.11})
    usd = json.dumps({"CurrencyCode": "USD", "ForeignCurrencyAmount": 5})
    found = lines_of(
        shop,
        charge("X", 20),
        pays=[
            pay("CHF", 11, 0x02, ftPayItemCaseData=chf),
            pay("zurück", 2, 0x0C, quantity=-1, ftPayItemCaseData=usd),
            pay("Karte", 4, 0x05, ftPayItemCaseData=json.dumps({**json.loads(usd), "ItemCaseName": "Visa"})),
            pay("Bar", 6.89, 0x01, ftPayItemCaseData=usd),
        ],
    )
    names = ("ZAHLART_TYP", "ZAHLART_NAME", "ZAHLWAEH_CODE", "ZAHLWAEH_BETRAG", "BASISWAEH_BETRAG")
    assert values(found["datapayment"], *names) == [
        ("Bar", "CHF", "CHF", "12,00", "11,11"),
        ("Bar", "zurück", "USD", "-5,00", "-2,00"),
        ("Kreditkarte", "Visa", "USD", "5,00", "4,00"),
        ("Bar", "Bar", "EUR", "", "6,89"),
    ]
    assert values(found["cash_per_currency"], "ZAHLART_WAEH", "ZAHLART_BETRAG_WAEH") == [
        ("CHF", "12,00"),
        ("EUR", "6,89"),
        ("USD", "-5,00"),
    ]
    (closing,) = found["cashpointclosing"]
    assert (closing["Z_SE_ZAHLUNGEN"], closing["Z_SE_BARZAHLUNGEN"]) == ("20,00", "16,00")


def test_a_receipt_without_payment(shop: Shop) -> None:
    found = lines_of(shop, charge("X", 0))
    assert values(found["datapayment"], "ZAHLART_TYP", "ZAHLWAEH_CODE", "BASISWAEH_BETRAG") == [
        ("Keine", "EUR", "0,00")
    ]


# ---- head -----------------------------------------------------------------------------------------------


def test_who_served_whom(shop: Shop, closed: Callable[..., dict[str, Rows]]) -> None:
    customer = {
        "CustomerName": "N" * 60, "customerId": 17, "CustomerType": "Mitarbeiter", "CustomerStreet": "S",
        "CustomerZip": "1010", "CustomerCity": "Wien", "CustomerCountry": "at", "CustomerVATId": "ATU1",
    }  # fmt: skip
    shop.sale("A", cbUser="Änne", cbCustomer=json.dumps(customer))
    shop.sale("B", cbUser="x", ftReceiptCaseData='{"UserId":42}', cbCustomer="Herr Meier")
    shop.sale("C", ftReceiptCaseData="no json", cbCustomer='["list"]')
    first, second, third = closed()["transactions"]
    assert first["BEDIENER_ID"] == f"{zlib.crc32('Änne'.encode()):08X}"
    names = [name for name in first if name.startswith("KUNDE_")]
    assert [first[name] for name in names] == [
        "N" * 50,
        "17",
        "Mitarbeiter",
        "S",
        "1010",
        "Wien",
        "AUT",
        "ATU1",
    ]
    assert (second["BEDIENER_ID"], second["BEDIENER_NAME"]) == ("42", "x")
    assert {each[name] for each in (second, third) for name in names} == {""}
    assert third["BEDIENER_ID"] == third["BEDIENER_NAME"] == ""


def test_times_are_those_of_the_pos(shop: Shop, closed: Callable[..., dict[str, Rows]]) -> None:
    item = charge("X", 1, Moment="2023-11-14T20:15:00.999+02:00")
    shop.send(0x01, "A", cbChargeItems=[item], cbPayItems=[pay("Bar", 1)])
    shop.send(ORDER, "B", cbChargeItems=[item])
    shop.send(ORDER, "C", cbChargeItems=[charge("X", 1)], cbReceiptMoment="2033-01-01T00:00:00Z")
    found = closed(cbReceiptMoment="2023-11-14T23:59:59.999Z")
    assert values(found["transactions"], "BON_START", "BON_ENDE") == [
        ("2023-11-14T18:15:00Z", "2023-11-14T22:13:20Z"),
        ("2023-11-14T18:15:00Z", "2023-11-14T22:13:20Z"),
        ("2023-11-14T22:13:20Z", "2033-01-01T00:00:00Z"),
    ]
    assert {each["Z_ERSTELLUNG"] for rows in found.values() for each in rows} == {"2023-11-14T23:59:59Z"}


def test_allocation_groups(shop: Shop, closed: Callable[..., dict[str, Rows]]) -> None:
    shop.sale("A", cbArea="T" * 60, cbPreviousReceiptReference="P")
    shop.sale("B", cbArea="B", cbPreviousReceiptReference="B")
    found = closed()
    assert [each["ABRECHNUNGSKREIS"] for each in found["allocation_groups"]] == ["P", "A", "T" * 50, "B"]


# ---- references -----------------------------------------------------------------------------------------


def test_references(shop: Shop) -> None:
    first = shop.sale("A")
    shop.send(DAILY, "Z1", cbReceiptMoment="2023-11-14T23:00:00Z")
    shop.send(0x02, "A")
    second = shop.send(ORDER, "A", cbChargeItems=[charge("X", 1)])
    third = shop.sale("A")
    other = shop.sale("B", cbPreviousReceiptReference="A")
    shop.sale("C", cbPreviousReceiptReference="nowhere")
    shop.sale("D", cbPreviousReceiptReference="D")
    shop.send(DAILY, "Z2")
    names = ("BON_ID", "REF_TYP", "REF_DATUM", "REF_Z_NR", "REF_BON_ID")
    rows = tables(shop)["references"]
    second_closing = rows[-1]["Z_ERSTELLUNG"]
    assert values(rows, *names) == [
        (bon(second), "Transaktion", "2023-11-14T23:00:00Z", "1", bon(first)),
        (bon(third), "Transaktion", second_closing, "2", bon(second)),
        (bon(other), "Transaktion", second_closing, "2", bon(third)),
    ]


def test_a_reference_that_was_used_often(shop: Shop, closed: Callable[..., dict[str, Rows]]) -> None:
    first = shop.sale("A")
    for _ in range(40):
        shop.send(0x02, "A")
    last = shop.sale("A")
    assert values(closed()["references"], "BON_ID", "REF_BON_ID") == [(bon(last), bon(first))]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"RefType": "Transaktion", "RefMoment": "2023-01-01T01:00:00+01:00", "RefCashBoxIdentification": "K2",
             "RefClosingNr": 5, "RefReceiptId": "ft1#"},
            ("Transaktion", "", "2023-01-01T00:00:00Z", "K2", "5", "ft1#"),
        ),
        ({"RefType": "ExterneRechnung", "RefReceiptId": "R1"}, ("ExterneRechnung", "", "", "", "", "R1")),
        (
            {"RefType": "ExterneSonstige", "RefName": "Brief", "RefReceiptId": "R1", "RefClosingNr": "x"},
            ("ExterneSonstige", "Brief", "", "", "", "R1"),
        ),
        ({"RefType": "Anruf", "RefReceiptId": "R1"}, ("ExterneSonstige", "Anruf", "", "", "", "R1")),
    ],
)  # fmt: skip
def test_references_to_other_papers(
    shop: Shop, closed: Callable[..., dict[str, Rows]], given: dict[str, Any], expected: tuple[str, ...]
) -> None:
    shop.sale("A", ftReceiptCaseData=json.dumps(given))
    shop.sale("A", ftReceiptCaseData=json.dumps(given))  # has a predecessor in the journal, which counts
    names = ("REF_TYP", "REF_NAME", "REF_DATUM", "REF_Z_KASSE_ID", "REF_Z_NR", "REF_BON_ID")
    external, internal = closed()["references"]
    assert values([external], *names) == [expected]
    assert internal["REF_BON_ID"] == external["BON_ID"]


def test_without_references_and_orders(tmp_path: Path) -> None:
    settings = QueueSettings(disable_dsfinvk_export_references=True, dsfinvk_version="3.0")
    shop = Shop(tmp_path, settings=settings)
    shop.send(ORDER, "A", cbChargeItems=[charge("X", 1)])
    shop.sale("A")
    shop.send(DAILY)
    found = tables(shop)
    assert found["references"] == []
    assert len(found["transactions"]) == 2
    assert found["cashpointclosing"][0]["TAXONOMIE_VERSION"] == "3.0"

    def orders(config: configs.HostConfig) -> None:
        config.queues[0].settings = QueueSettings(exclude_dsfinvk_orders=True)

    shop.reopen(orders)
    found = tables(shop)
    assert values(found["transactions"], "BON_TYP") == [("Beleg",)]
    assert found["references"] == []
    shop.close()


# ---- closings and master data ---------------------------------------------------------------------------


def test_master_data_of_each_closing(shop: Shop) -> None:
    def renamed(config: configs.HostConfig) -> None:
        assert config.master_data is not None
        assert config.master_data.account is not None
        config.master_data.account.account_name = "Neu GmbH"

    shop.sale("A")
    shop.send(DAILY, "Z1")
    shop.reopen(renamed)
    shop.sale("B")
    shop.tse.down = DOWN
    shop.send(DAILY | UPDATE, "Z2")  # in failed mode a closing does not show its master data
    shop.sale("C")
    shop.send(DAILY, "Z3")
    found = tables(shop)["cashpointclosing"]
    assert values(found, "Z_NR", "NAME") == [("1", "Muster GmbH"), ("2", "Muster GmbH"), ("3", "Neu GmbH")]


def test_registers_and_terminals(shop: Shop, closed: Callable[..., dict[str, Rows]]) -> None:
    shop.sale("A", cbTerminalID="T1", ftPosSystemId="P-2")
    shop.sale("B", cbTerminalID="T2", ftPosSystemId="unknown")
    shop.sale("C", cbTerminalID="T1", ftPosSystemId="p-1")
    found = closed()
    (register,) = found["cashregister"]
    assert list(register.values())[3:] == ["Andere", "M2", "POS-1", "POS 2", "2.0", "EUR", "0"]
    assert [list(each.values())[3:] for each in found["slaves"]] == [
        ["T1", "Andere", "M2", "T1", "POS 2", "2.0"],
        ["T2", "Marke", "M1", "T2", "Marke", "1.0"],
    ]
    (place,) = found["location"]
    assert list(place.values())[3:] == ["Café Muster", "Weg 2", "10117", "Berlin", "DEU", "DE123456789"]


def test_the_tse_is_shown_with_its_certificate(shop: Shop, closed: Callable[..., dict[str, Rows]]) -> None:
    info = shop.tse.scu.get_tse_info()
    (tse,) = closed()["tse"]
    assert (tse["TSE_ID"], tse["TSE_SERIAL"]) == ("1", info.serial_number_octet)
    assert (tse["TSE_SIG_ALGO"], tse["TSE_ZEITFORMAT"]) == (info.signature_algorithm, info.log_time_format)
    assert (tse["TSE_PD_ENCODING"], tse["TSE_PUBLIC_KEY"]) == ("UTF-8", info.public_key_base64)
    certificate = tse["TSE_ZERTIFIKAT_I"] + tse["TSE_ZERTIFIKAT_II"]
    assert base64.b64decode(certificate) == base64.b64decode(info.certificates_base64[0])


def test_ranges_take_whole_closings(shop: Shop) -> None:
    for number in range(1, 4):
        shop.sale(f"A{number}")
        shop.send(DAILY, f"Z{number}")
    stamps = [row["TimeStamp"] for row in shop.journal(2)]  # start, sale, closing, sale, …

    def found(first: int, last: int) -> list[tuple[str, ...]]:
        data = tables(shop, first, last)
        assert len(data["transactions"]) == len(data["cashpointclosing"])
        return values(data["cashpointclosing"], "Z_NR")

    assert found(0, 0) == [("1",), ("2",), ("3",)]
    assert found(stamps[2], stamps[4]) == [("1",), ("2",)]
    assert found(stamps[2] + 1, 0) == [("2",), ("3",)]
    assert found(0, stamps[4] - 1) == [("1",)]
    assert found(stamps[4], -1) == [("2",)]
    assert found(0, -5) == [("1",), ("2",)]
    assert export(shop, stamps[6] + 1) == export(shop, 0, -2) == b""


def test_receipts_behind_the_last_closing_wait_for_the_next(
    shop: Shop, closed: Callable[..., dict[str, Rows]]
) -> None:
    assert export(shop) == b""
    closed()
    before = export(shop)
    shop.sale("LATER")
    assert export(shop) == before  # the same journal gives the same bytes


def test_an_empty_closing_is_exported_too(closed: Callable[..., dict[str, Rows]]) -> None:
    found = closed()
    (closing,) = found["cashpointclosing"]
    assert (closing["Z_NR"], closing["Z_START_ID"], closing["Z_SE_ZAHLUNGEN"]) == ("1", "", "0,00")
    assert [stem for stem, rows in found.items() if rows] == [
        "cashpointclosing",
        "location",
        "cashregister",
        "tse",
        "vat",
    ]


def test_error_answers_are_left_out(shop: Shop, closed: Callable[..., dict[str, Rows]]) -> None:
    with pytest.raises(Exception, match="cbReceiptReference"):
        shop.sale("X", flow="explicit")
    shop.sale("Y")
    assert len(closed()["transactions"]) == 1


def test_long_process_data_is_left_out_whole(shop: Shop, closed: Callable[..., dict[str, Rows]]) -> None:
    shop.send(ORDER, cbChargeItems=[charge("x" * 200, 1) for _ in range(6)])
    (signed,) = closed()["transactions_tse"]
    assert (signed["TSE_VORGANGSDATEN"], signed["TSE_TA_FEHLER"]) == ("", "")
    assert signed["TSE_TA_SIG"]


def test_each_receipt_has_the_tse_that_signed_it(tmp_path: Path) -> None:
    """Also after a switch to another TSE within a closing, and when the one in use does not answer."""

    def two_scus(config: configs.HostConfig) -> None:
        source = config.scus[0]
        target = configs.ScuConfig(id=str(uuid.uuid4()), mode=0x2_0000)
        target.mode_configuration_json = {"SourceScuId": source.id}
        source.mode, source.mode_configuration_json = 0x1_0000, json.dumps({"TargetScuId": target.id})
        config.scus.append(target)

    shop = Shop(tmp_path, prepare=two_scus)
    shop.send(DAILY, "Z1")
    shop.sale("A")
    shop.send(DAILY, "Z2")
    shop.send(0x17 | 0x0100_0000, "SW-1")
    shop.sale("B")
    shop.send(0x18, "SW-2")
    shop.sale("C")
    for tse in shop.tses.values():
        tse.down = DOWN
    shop.sale("D")
    shop.send(DAILY, "Z3")
    old, new = (shop.tses[scu.id].scu.get_tse_info().serial_number_octet for scu in shop.config.scus)
    found = tables(shop)
    shop.close()
    assert values(found["tse"], "Z_NR", "TSE_ID", "TSE_SERIAL") == [
        ("1", "1", old),
        ("2", "1", old),
        ("3", "1", old),
        ("3", "2", new),
    ]
    assert all(each["TSE_ZERTIFIKAT_I"] for each in found["tse"])
    assert values(found["transactions_tse"], "TSE_ID", "TSE_TA_FEHLER") == [
        ("1", ""),
        ("1", "Wechsel der TSE nicht abgeschlossen"),
        ("2", ""),
        ("2", "TSE ausgefallen"),
    ]
