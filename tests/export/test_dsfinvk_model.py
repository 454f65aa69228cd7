"""Random shops: the sums of a closing as a slow and obvious model computes them from the requests, and a check of
the whole export that finds nothing."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiskal.export.dsfinvk import check
from fiskal.germany.codes import DE
from fiskal.germany.masterdata import MasterData
from tests.support.dsfinvk import MASTER_DATA, export, tables_of
from tests.support.shop import Shop

VECTORS = Path(__file__).parent.parent / "vectors"
with (VECTORS / "charge_cases.csv").open(encoding="utf-8") as lines:
    CHARGES = {int(row["case"], 16): row for row in csv.DictReader(lines)}
with (VECTORS / "pay_cases.csv").open(encoding="utf-8") as lines:
    PAYS = {int(row["case"], 16): row for row in csv.DictReader(lines)}

VOID, TRAINING, LATE, CANCELLED = 0x4_0000, 0x2_0000, 0x1_0000, 0x20_0000
BELEG = (0x00, 0x01, 0x0C, 0x0D, 0x11)
OTHER = (0x0E, 0x0F, 0x10, 0x12, 0x13, 0x15)
RATES = {1: "19", 2: "7", 3: "9", 4: "5.5"}

amounts = st.integers(-50_000, 50_000).map(lambda cents: Decimal(cents) / 100)
quantities = st.sampled_from([Decimal(each) for each in ("1", "2", "-1", "3", "0.5", "1.125")])


@st.composite
def charges(draw: st.DrawFn) -> dict[str, Any]:
    case = draw(st.sampled_from(sorted(set(CHARGES) - {0})))
    key = int(CHARGES[case]["ust_key"])
    rate = RATES.get(key, "0")
    if key == 7:
        rate = draw(st.sampled_from(["0", "14.25", "16"]))
    return {
        "Quantity": draw(quantities),
        "Description": draw(st.sampled_from(["Ware", 'x"y;z', "Öl", ""])),
        "Amount": draw(amounts),
        "VATRate": Decimal(rate),
        "ftChargeItemCase": case,
        "ftChargeItemCaseData": draw(st.sampled_from(["", '{"AgencyId":"a-2"}', '{"AgencyId":"zz"}'])),
    }


@st.composite
def pays(draw: st.DrawFn) -> dict[str, Any]:
    case = draw(st.sampled_from(sorted(PAYS)))
    data: dict[str, Any] = {}
    if PAYS[case]["class"] == "F" or draw(st.booleans()):
        data = {
            "CurrencyCode": draw(st.sampled_from(["CHF", "USD", "EUR"])),
            "ForeignCurrencyAmount": str(draw(amounts)),
        }
    amount = draw(amounts)
    if data.get("CurrencyCode") == "EUR":  # two amounts of one currency would contradict each other
        data["ForeignCurrencyAmount"] = str(amount)
    return {
        "Quantity": draw(st.sampled_from([Decimal(1), Decimal(-1)])),
        "Description": draw(st.sampled_from(["Bar", "Karte"])),
        "Amount": amount,
        "ftPayItemCase": case | draw(st.sampled_from([0, CANCELLED])),
        "ftPayItemCaseData": json.dumps(data) if data else "",
    }


@st.composite
def receipts(draw: st.DrawFn) -> dict[str, Any]:
    case = draw(st.sampled_from([*BELEG, *OTHER]))
    charge_items = draw(st.lists(charges(), min_size=1, max_size=4))
    pay_items = draw(st.lists(pays(), max_size=3))
    if not (case == 0x10 and not pay_items):
        for item in charge_items:
            item["ftChargeItemCase"] |= draw(st.sampled_from([0, CANCELLED, 0x1_0000]))
    return {
        "case": case | draw(st.sampled_from([0, 0, 0, VOID, TRAINING, LATE])),
        "cbReceiptReference": draw(st.sampled_from("ABCD")),
        "cbPreviousReceiptReference": draw(st.sampled_from([None, "A", "B", "nowhere"])),
        "cbChargeItems": charge_items,
        "cbPayItems": pay_items,
    }


# ---- the model ------------------------------------------------------------------------------------------


def effective(item: dict[str, Any], case: str, amount: Decimal | None = None) -> Decimal:
    value = item["Amount"] if amount is None else amount
    if not item[case] & CANCELLED and item["Quantity"] < 0 and value > 0:
        return Decimal(-value)
    return Decimal(value)


def rounded(value: Decimal, places: str) -> Decimal:
    return value.quantize(Decimal(places), ROUND_HALF_UP)


class Model:
    """The sums of one closing."""

    def __init__(self, requests: list[dict[str, Any]]) -> None:
        self.business: dict[tuple[str, str], list[Decimal]] = defaultdict(lambda: [Decimal(0)] * 3)
        self.payments: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        self.cash: dict[str, Decimal] = defaultdict(Decimal)
        self.gross: list[Decimal] = []
        for request in requests:
            counted = request["case"] & 0xFFFF in BELEG and not request["case"] & TRAINING
            self.add(request, counted=counted)

    def add(self, request: dict[str, Any], *, counted: bool) -> None:
        found: list[tuple[str, str, Decimal, Decimal]] = []
        for item in request["cbChargeItems"]:
            row = CHARGES[item["ftChargeItemCase"] & 0xFFFF]
            key, rate = row["ust_key"], item["VATRate"]
            if key == "7" and rate:
                key = str(int(1000 + rate * 100))
            gross = effective(item, "ftChargeItemCase")
            if key in ("5", "6", "7"):
                rate = Decimal(0)
            found.append((row["gv_typ"], key, gross, rounded(gross / (1 + rate / 100), "0.00001")))
        void = bool(request["case"] & VOID)
        paid = False
        for item in request["cbPayItems"]:
            row = PAYS[item["ftPayItemCase"] & 0xFFFF]
            amount = effective(item, "ftPayItemCase")
            if row["case"] == "000A":
                gross = item["Amount"] if void else -item["Amount"]
                found.append(("Umsatz", "5", gross, gross))
                if counted:
                    self.payments["Keine", item["Description"]] += 0
                paid = True
            elif row["class"] == "X":
                is_negative = amount < 0 if not void else amount > 0
                found.append((row["negative" if is_negative else "positive"], "5", -amount, -amount))
            else:
                paid = True
                if counted:
                    self.pay(item, row, amount)
        if counted and not paid:
            self.payments["Keine", ""] += 0
        self.gross.append(rounded(sum((gross for _, _, gross, _ in found), Decimal(0)), "0.01"))
        if counted:
            for gv_typ, key, gross, net in found:
                sums = self.business[gv_typ, key]
                self.business[gv_typ, key] = [sums[0] + gross, sums[1] + net, sums[2] + gross - net]

    def pay(self, item: dict[str, Any], row: dict[str, str], amount: Decimal) -> None:
        self.payments[row["zahlart"], item["Description"]] += amount
        if row["zahlart"] != "Bar":
            return
        data = json.loads(item["ftPayItemCaseData"] or "{}")
        if row["class"] == "F" and data["CurrencyCode"] != "EUR":
            foreign = effective(item, "ftPayItemCase", Decimal(data["ForeignCurrencyAmount"]))
            self.cash[data["CurrencyCode"]] += foreign
        else:
            self.cash["EUR"] += amount


def number(text: str) -> Decimal:
    return Decimal(text.replace(",", "."))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    def prepare(config: Any) -> None:
        config.master_data = msgspec.convert(MASTER_DATA, MasterData)
        for agency in config.master_data.agencies:
            agency.tax_id = "1"

    made = Shop(tmp_path_factory.mktemp("shop"), prepare=prepare)
    yield made
    made.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(receipts(), max_size=8))
def test_the_closing_is_what_the_requests_say(shop: Shop, requests: list[dict[str, Any]]) -> None:
    for request in requests:
        # Decimals go over the wire as they are, and the codes with their country.
        body = {
            **shop.request(request["case"], cbUser="Anna"),
            **{name: value for name, value in request.items() if name != "case"},
            "cbChargeItems": [
                {**item, "ftChargeItemCase": DE | item["ftChargeItemCase"]}
                for item in request["cbChargeItems"]
            ],
            "cbPayItems": [
                {**item, "ftPayItemCase": DE | item["ftPayItemCase"]} for item in request["cbPayItems"]
            ],
        }
        assert shop.middleware.sign_json(msgspec.json.encode(body))
    shop.send(0x07, "Z", cbReceiptMoment="2023-11-14T23:00:00Z")
    stamp = list(shop.middleware.store.iter_receipts(shop.row.queue_no))[-1].TimeStamp
    data = export(shop, stamp, stamp)
    found = tables_of(data)
    model = Model(requests)

    assert [number(row["UMS_BRUTTO"]) for row in found["transactions"]] == model.gross
    sums: dict[tuple[str, str], list[Decimal]] = defaultdict(lambda: [Decimal(0)] * 3)
    for row in found["businesscases"]:
        key = row["GV_TYP"], row["UST_SCHLUESSEL"]
        values = [number(row[name]) for name in ("Z_UMS_BRUTTO", "Z_UMS_NETTO", "Z_UST")]
        sums[key] = [one + other for one, other in zip(sums[key], values, strict=True)]
    assert dict(sums) == dict(model.business)
    assert {
        (row["ZAHLART_TYP"], row["ZAHLART_NAME"]): number(row["Z_ZAHLART_BETRAG"]) for row in found["payment"]
    } == dict(model.payments)
    cash = {row["ZAHLART_WAEH"]: number(row["ZAHLART_BETRAG_WAEH"]) for row in found["cash_per_currency"]}
    assert cash == (dict(model.cash) or ({"EUR": Decimal(0)} if model.payments else {}))
    (closing,) = found["cashpointclosing"]
    assert number(closing["Z_SE_ZAHLUNGEN"]) == sum(model.payments.values())
    assert number(closing["Z_SE_BARZAHLUNGEN"]) == sum(
        amount for (kind, _), amount in model.payments.items() if kind == "Bar"
    )

    report = check(io.BytesIO(data))
    allowed = {"UNBALANCED"} | ({"EMPTY", "TAX_NUMBER"} if any_empty(requests) else set())
    assert set(report.totals) <= allowed, report.findings
    # An unknown agency has no address, and a line without a text has none either: the check says so.
    assert report.ok or "EMPTY" in report.totals


def any_empty(requests: list[dict[str, Any]]) -> bool:
    return any(
        not item["Description"] or '"zz"' in item["ftChargeItemCaseData"]
        for request in requests
        for item in request["cbChargeItems"]
    )
