"""processData of random baskets against a slow model, and the rows of strict mode one by one."""

from __future__ import annotations

import json
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiskal.pos.prepared import (
    WARN_CURRENCY_CODE,
    WARN_PAYMENT_NOT_ALLOWED,
    WARN_UNBALANCED,
    WARN_UNKNOWN_CHARGE_CASE,
    WARN_UNKNOWN_PAY_CASE,
    WARN_UNKNOWN_RECEIPT_CASE,
    Prepared,
    prepare,
)

DE = 0x4445_0000_0000_0000
IMPLICIT, VOID, TRAINING, CANCELLATION = 0x1_0000_0000, 0x4_0000, 0x2_0000, 0x20_0000
EXACT = Context(prec=200)

COLUMNS = {
    first + group: group + 1
    for first in (0x01, 0x11, 0x19, 0x21, 0x29, 0x31, 0x39, 0x41, 0x51, 0x61, 0x69, 0x71, 0x79, 0x81, 0x89)
    for group in range(4)
}
RATES = {Decimal("19"): 1, Decimal("7"): 2, Decimal("10.7"): 3, Decimal("5.5"): 4}
BON_TYP = {
    0x0B: "AVBelegabbruch",
    0x0E: "AVRechnung",
    0x0F: "AVTransfer",
    0x10: "AVBestellung",
    0x12: "AVSachbezug",
    0x13: "AVSonstige",
    0x15: "AVSonstige",
    0x16: "AVBelegstorno",
}


def signed(item: dict[str, Any], amount: Decimal) -> Decimal:
    if item["case"] & CANCELLATION or item["Quantity"] >= 0 or amount < 0:
        return amount
    return -amount


def two_places(value: Decimal) -> str:
    rounded = value.quantize(Decimal("0.01"), ROUND_HALF_UP)
    return format(rounded if rounded else abs(rounded), "f")


def model_receipt(case: int, charges: list[dict[str, Any]], pays: list[dict[str, Any]]) -> str:
    columns = dict.fromkeys(range(1, 6), Decimal(0))
    for item in charges:
        number = item["case"] & 0xFFFF
        column = COLUMNS.get(number, 5) if number else RATES.get(item["VATRate"], 5)
        columns[column] += signed(item, item["Amount"])
    payments: dict[tuple[bool, str, str], Decimal] = {}
    for item in pays:
        number = item["case"] & 0xFFFF
        if number == 0x0A:
            columns[5] += item["Amount"] if case & VOID else -item["Amount"]
        elif 0x0D <= number <= 0x17:
            columns[5] -= signed(item, item["Amount"])
        else:
            non_cash = 3 <= number <= 9
            code, amount = "", item["Amount"]
            if number in {2, 0x0C} or (non_cash and item["currency"] and item["currency"].upper() != "EUR"):
                code, amount = item["currency"], item["foreign"]
            key = (non_cash, code.lower(), code)
            payments[key] = payments.get(key, Decimal(0)) + signed(item, amount)
    bon_typ = "AVTraining" if case & TRAINING else BON_TYP.get(case & 0xFFFF, "Beleg")
    parts = [
        f"{two_places(total)}:{'Unbar' if non_cash else 'Bar'}{':' if code else ''}{code}"
        for (non_cash, _, code), total in sorted(payments.items())
        if total
    ]
    return f"{bon_typ}^{'_'.join(two_places(columns[i]) for i in range(1, 6))}^{'_'.join(parts)}"


def model_order(charges: list[dict[str, Any]]) -> str:
    lines = []
    for item in charges:
        quantity, amount = item["Quantity"], item["Amount"]
        price = abs(EXACT.divide(amount, quantity)) if quantity else Decimal(0)
        shown = -quantity if amount < 0 and quantity > 0 else quantity
        rounded = format(shown.quantize(Decimal("1e-10"), ROUND_HALF_UP), "f").rstrip("0").rstrip(".")
        text = item["Description"].replace('"', '""')
        lines.append(f'{"0" if rounded == "-0" else rounded};"{text}";{two_places(price)}')
    return "\r".join(lines)


amounts = st.one_of(
    st.decimals(-1000, 1000, places=2),
    st.decimals(-10, 10, places=3),
    st.decimals(-(10**20), 10**20, places=6),
    st.sampled_from(
        [Decimal(0), Decimal("0.004"), Decimal("-0.005"), Decimal("0.6067226890756302521008403361")]
    ),
)
quantities = st.one_of(st.sampled_from([Decimal(1), Decimal(-1), Decimal(0)]), st.decimals(-50, 50, places=4))
flags = st.sampled_from([0, CANCELLATION, 0x1_0000])
charge_items = st.lists(
    st.fixed_dictionaries(
        {
            "case": st.builds(lambda number, flag: DE | flag | number, st.integers(0, 0xB0), flags),
            "Quantity": quantities,
            "Amount": amounts,
            "VATRate": st.sampled_from(
                [Decimal(r) for r in ("19", "19.00", "7", "10.7", "10.70", "5.5", "16", "0")]
            ),
            "Description": st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        }
    ),
    max_size=5,
)
pay_items = st.lists(
    st.fixed_dictionaries(
        {
            "case": st.builds(lambda number, flag: DE | flag | number, st.integers(0, 0x1A), flags),
            "Quantity": quantities,
            "Amount": amounts,
            "currency": st.sampled_from(["USD", "CHF", "EUR", "eur", "usd", "X"]),
            "foreign": amounts,
        }
    ),
    max_size=5,
)


def encode(case: int, charges: list[dict[str, Any]], pays: list[dict[str, Any]]) -> bytes:
    def item(values: dict[str, Any], case_name: str) -> str:
        members = [f'"{case_name}":{values["case"]}']
        members += [f'"{n}":{values[n]:f}' for n in ("Quantity", "Amount", "VATRate") if n in values]
        if "Description" in values:
            members.append(f'"Description":{json.dumps(values["Description"])}')
        if values.get("currency"):
            data = f'{{"ForeignCurrencyAmount":{values["foreign"]:f},"CurrencyCode":"{values["currency"]}"}}'
            members.append(f'"ftPayItemCaseData":{json.dumps(data)}')
        return f"{{{','.join(members)}}}"

    charge_text = ",".join(item(values, "ftChargeItemCase") for values in charges)
    pay_text = ",".join(item(values, "ftPayItemCase") for values in pays)
    return (
        f'{{"cbReceiptMoment":"2024-01-02","ftReceiptCase":{case},"cbChargeItems":[{charge_text}],'
        f'"cbPayItems":[{pay_text}]}}'
    ).encode()


@given(
    st.sampled_from([0x00, 0x01, 0x0B, 0x0C, 0x0E, 0x0F, 0x11, 0x12, 0x15, 0x16, 0x19, 0x77]),
    st.sampled_from([0, VOID, TRAINING, IMPLICIT]),
    charge_items,
    pay_items,
)
def test_receipt(number: int, flag: int, charges: list[dict[str, Any]], pays: list[dict[str, Any]]) -> None:
    case = DE | flag | number
    prepared = prepare(encode(case, charges, pays))
    assert prepared.payload_error() is None
    assert prepared.process_type == "Kassenbeleg-V1"
    with localcontext(EXACT):
        assert (prepared.process_data or b"").decode() == model_receipt(case, charges, pays)
        total = sum((signed(item, item["Amount"]) for item in charges), Decimal(0))
        assert Decimal(prepared.charge_sum) == total
        assert prepared.balanced == (
            total == sum((signed(item, item["Amount"]) for item in pays), Decimal(0))
        )


@given(charge_items)
def test_order(charges: list[dict[str, Any]]) -> None:
    prepared = prepare(encode(DE | IMPLICIT | 0x10, charges, []))
    if any(not item["Quantity"] and item["Amount"] for item in charges):
        error = prepared.payload_error()
        assert error is not None
        assert error.code == "QUANTITY_ZERO"
        return
    with localcontext(EXACT):
        assert prepared.process_data == model_order(charges).encode()


# ---- strict mode -----------------------------------------------------------------------------------------


def charge(
    amount: str, case: int = 0x11, quantity: str = "1", rate: str = "19", text: str = "A"
) -> dict[str, Any]:
    return {
        "case": DE | case,
        "Quantity": Decimal(quantity),
        "Amount": Decimal(amount),
        "VATRate": Decimal(rate),
        "Description": text,
    }


def pay(
    amount: str, case: int = 1, quantity: str = "1", currency: str = "", foreign: str = "0"
) -> dict[str, Any]:
    return {
        "case": DE | case,
        "Quantity": Decimal(quantity),
        "Amount": Decimal(amount),
        "currency": currency,
        "foreign": Decimal(foreign),
    }


STRICT_REFUSED = [
    ("STRICT_DECIMALS", "", 0x01, [charge("1.005")], [pay("1.00")]),
    ("STRICT_DECIMALS", "", 0x01, [charge("1.00")], [pay("1.005")]),
    (
        "STRICT_CURRENCY_CODE",
        "cbPayItems[0]",
        0x01,
        [charge("1.00")],
        [pay("1.00", 2, currency="usd", foreign="1")],
    ),
    ("STRICT_VOID_RECEIPT", "", 0x16, [charge("-1.00")], [pay("-1.00")]),
    ("STRICT_RECEIPT_CASE", "", 0xEE, [], []),
    ("STRICT_CHARGE_CASE", "cbChargeItems[1]", 0x01, [charge("1.00"), charge("1.00", 0xF3)], []),
    ("STRICT_CHARGE_CASE", "cbChargeItems[0]", 0x10, [charge("1.00", 0xF3)], []),
    ("STRICT_PAY_CASE", "cbPayItems[0]", 0x01, [], [pay("1.00", 0x99)]),
]


@pytest.mark.parametrize(("code", "field", "case", "charges", "pays"), STRICT_REFUSED)
def test_strict_refuses(
    code: str, field: str, case: int, charges: list[dict[str, Any]], pays: list[dict[str, Any]]
) -> None:
    data = encode(DE | IMPLICIT | case, charges, pays)
    assert prepare(data).payload_error() is None
    error = prepare(data, strict=True).payload_error()
    assert error is not None
    assert (error.code, error.field) == (code, field)


STRICT_REPAIRED = [
    # sums of several lines may have more decimals in between
    (0x01, [charge("0.995"), charge("0.005")], [pay("1.00")], "Beleg^1.00_0.00_0.00_0.00_0.00^1.00:Bar"),
    (
        0x01,
        [charge("3.00")],
        [pay("3.00", 2, currency="EUR", foreign="9")],
        "Beleg^3.00_0.00_0.00_0.00_0.00^3.00:Bar",
    ),
    (0x10, [charge("4.00", quantity="0.4516", text="a\r\nb")], [], '0.451;"a  b";8.86'),
    (0x10, [charge("4.00", quantity="-0.4519")], [], '-0.451;"A";8.85'),
    (0x10, [charge("4.00", quantity="0.0004")], [], '0;"A";10000.00'),
    (0x0B, [charge("3.50")], [pay("3.50")], "AVBelegabbruch^0.00_0.00_0.00_0.00_0.00^"),
    (0x12, [charge("4.50")], [pay("4.50", 0x0A, "-1")], "AVSachbezug^4.50_0.00_0.00_0.00_4.50^"),
    (0x19, [], [], "migration"),
]


@pytest.mark.parametrize(("case", "charges", "pays", "expected"), STRICT_REPAIRED)
def test_strict_repairs(
    case: int, charges: list[dict[str, Any]], pays: list[dict[str, Any]], expected: str
) -> None:
    prepared = prepare(encode(DE | IMPLICIT | case, charges, pays), strict=True)
    assert prepared.payload_error() is None
    assert (prepared.process_data or b"").decode() == expected


def test_strict_ignores_the_void_exception_of_internal_payments() -> None:
    data = encode(DE | VOID | 0x12, [charge("-4.50")], [pay("-4.50", 0x0A)])
    assert prepare(data).process_data == b"AVSachbezug^-4.50_0.00_0.00_0.00_-4.50^"
    assert prepare(data, strict=True).process_data == b"AVSachbezug^-4.50_0.00_0.00_0.00_4.50^"


@pytest.mark.parametrize(
    ("case", "charges", "pays", "warning"),
    [
        (0x01 | TRAINING, [charge("1")], [pay("1")], WARN_PAYMENT_NOT_ALLOWED),
        (0x12, [charge("1")], [pay("1")], WARN_PAYMENT_NOT_ALLOWED),
        (0x0B, [charge("1")], [pay("1")], WARN_PAYMENT_NOT_ALLOWED),
        (0x01, [charge("1")], [], WARN_UNBALANCED),
        (0xEE, [], [], WARN_UNKNOWN_RECEIPT_CASE),
        (0x01, [charge("1", 0xF3)], [pay("1")], WARN_UNKNOWN_CHARGE_CASE),
        (0x01, [charge("1")], [pay("1", 0x99)], WARN_UNKNOWN_PAY_CASE),
        (0x01, [charge("1")], [pay("1", 2, currency="usd", foreign="1")], WARN_CURRENCY_CODE),
        (0x01, [charge("1")], [pay("1")], 0),
    ],
)
def test_warnings(case: int, charges: list[dict[str, Any]], pays: list[dict[str, Any]], warning: int) -> None:
    assert prepare(encode(DE | case, charges, pays)).warnings == warning


@pytest.mark.parametrize(
    ("rate", "column"),
    [("19", 0), ("16", 0), ("7", 1), ("5", 1), ("10.7", 2), ("5.5", 3), ("0", 4), ("20", 4)],
)
def test_historic_rates_are_optional(rate: str, column: int) -> None:
    data = encode(DE | 1, [charge("1.00", 0x17, rate=rate)], [pay("1.00")])
    assert (prepare(data).process_data or b"").split(b"^")[1].split(b"_")[4] == b"1.00"
    columns = (prepare(data, historic_rates=True).process_data or b"").split(b"^")[1].split(b"_")
    assert columns[column] == b"1.00"


# ---- ftPayItemCaseData -----------------------------------------------------------------------------------


def payment(case: int, data: str | None) -> Prepared:
    item = {"Amount": "3.00", "ftPayItemCase": DE | case, "ftPayItemCaseData": data}
    return prepare(
        json.dumps({"cbReceiptMoment": "2024-01-02", "ftReceiptCase": DE | 1, "cbPayItems": [item]}).encode()
    )


@pytest.mark.parametrize(
    ("case", "data", "expected"),
    [
        (2, '{"CurrencyCode":"USD","ForeignCurrencyAmount":"5.00"}', "5.00:Bar:USD"),
        (
            2,
            '{"ForeignCurrencyAmount":5e0,"x":[1,{"CurrencyCode":"CHF"}],"CurrencyCode":"\\u0055SD"}',
            "5.00:Bar:USD",
        ),
        (5, None, "3.00:Unbar"),
        (5, "", "3.00:Unbar"),
        (5, " ", "3.00:Unbar"),
        (5, "{}", "3.00:Unbar"),
        (5, '{"CurrencyCode":"USD"}', "3.00:Unbar"),
        (5, '{"CurrencyCode":"USD","ForeignCurrencyAmount":null}', "3.00:Unbar"),
        (5, '{"CurrencyCode":"USD","foreigncurrencyamount":5}', "3.00:Unbar"),
        (1, "no json at all", "3.00:Bar"),
    ],
)
def test_currency_data(case: int, data: str | None, expected: str) -> None:
    process_data = payment(case, data).process_data
    assert process_data is not None
    assert process_data.decode().split("^")[2] == expected


@pytest.mark.parametrize(
    ("case", "data", "code"),
    [
        (2, None, "CURRENCY_DATA_MISSING"),
        (0x0C, "", "CURRENCY_DATA_MISSING"),
        (2, "{}", "CURRENCY_DATA_INVALID"),
        (2, "5", "CURRENCY_DATA_INVALID"),
        (2, "USD", "CURRENCY_DATA_INVALID"),
        (2, '{"CurrencyCode":"USD","ForeignCurrencyAmount":"five"}', "CURRENCY_DATA_INVALID"),
        (2, '{"CurrencyCode":"USD","ForeignCurrencyAmount":true}', "CURRENCY_DATA_INVALID"),
        (2, '{"CurrencyCode":5,"ForeignCurrencyAmount":5}', "CURRENCY_DATA_INVALID"),
        (
            2,
            '{"CurrencyCode":"USD","ForeignCurrencyAmount":1,"ForeignCurrencyAmount":2}',
            "CURRENCY_DATA_INVALID",
        ),
        (2, '{"CurrencyCode":"USD","ForeignCurrencyAmount":1} x', "CURRENCY_DATA_INVALID"),
        (2, f'{{"CurrencyCode":"{"U" * 32}","ForeignCurrencyAmount":1}}', "CURRENCY_DATA_INVALID"),
        (5, "card", "CURRENCY_DATA_INVALID"),
        (5, "[]", "CURRENCY_DATA_INVALID"),
    ],
)
def test_bad_currency_data(case: int, data: str | None, code: str) -> None:
    error = payment(case, data).payload_error()
    assert error is not None
    assert error.code == code
    assert f"{DE | case:x}" in error.message


def test_too_many_currencies() -> None:
    pays = [pay("1", 2, currency=f"C{i:02}", foreign="1") for i in range(65)]
    assert prepare(encode(DE | 1, [], pays[:64])).payload_error() is None
    error = prepare(encode(DE | 1, [], pays)).payload_error()
    assert error is not None
    assert (error.code, error.field) == ("TOO_MANY_CURRENCIES", "cbPayItems[64]")
