"""Requests and answers as a POS and a queue exchange them, for the tests of the printable receipt."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any

from fiskal.pos.models import ChargeItem, PayItem, ReceiptRequest, ReceiptResponse, SignaturItem

DE = 0x4445_0000_0000_0000
IMPLICIT, OPTIONAL = 0x1_0000_0000, 0x1_0000
TRAINING, VOID, SMALL_BUSINESS = 0x2_0000, 0x4_0000, 0x10_0000
KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAENFFPGk1vDk92IL6tjsVQ6kpwc4TCsYNNGGoc0cN4dUPQZwOo2tuQlrQAVvMfO+XHWsnp"
    "hAtN5cUbIwdtMk/Z6g=="
)
SIGNATURE = "HSmIZw0g6tpJ/UeNYutHic5PXORANAH5V9+Fon9SfCvx3A/gO7Dguaxd8Mn/YKadgfLTV7s1VzWPe/QolS6dAg=="
CASH_BOX = "220130d5-9060-4e26-b75c-35968f49aae3"
TSE_SERIAL = "74b3f9c0de6a0d8a2f1b9f8b0a0d5b0a7c0f1e2d3c4b5a69788796a5b4c3d2e1"
CERTIFICATION = "BSI-K-TR-0362-2019"


def item(low: int, caption: str, data: str, kind: int = 1, *, optional: bool = True, de: bool = True) -> Any:
    return SignaturItem(
        ft_signature_format=kind | (OPTIONAL if optional else 0),
        ft_signature_type=low | (DE if de else 0),
        caption=caption,
        data=data,
    )


def charge(description: str | None, amount: str, case: int = 1, rate: str = "19", **more: Any) -> ChargeItem:
    return ChargeItem(
        description=description,
        amount=Decimal(amount),
        vat_rate=Decimal(rate),
        ft_charge_item_case=DE | case,
        **more,
    )


def pay(description: str, amount: str, case: int = 1, **more: Any) -> PayItem:
    return PayItem(description=description, amount=Decimal(amount), ft_pay_item_case=DE | case, **more)


def request(case: int = IMPLICIT | 1, **more: Any) -> ReceiptRequest:
    defaults: dict[str, Any] = {
        "cb_terminal_id": "T1",
        "cb_receipt_reference": "4747847",
        "cb_receipt_moment": "2020-05-22T11:33:00.260Z",
    }
    return ReceiptRequest(ft_receipt_case=DE | case, **(defaults | more))


def response(signatures: list[SignaturItem] | None, state: int = 0, **more: Any) -> ReceiptResponse:
    defaults: dict[str, Any] = {
        "ft_cash_box_id": "cashboxid-guid",
        "ft_queue_id": "b6c9f13b-b987-43cd-ab08-3f5cb2a850d6",
        "ft_queue_item_id": "beada6fc-fbc3-4371-9330-f80c16e3035e",
        "ft_queue_row": 14,
        "cb_terminal_id": "T1",
        "cb_receipt_reference": "4747847",
        "ft_cash_box_identification": CASH_BOX,
        "ft_receipt_identification": "ftD#IT11",
        "ft_receipt_moment": "2020-05-22T11:33:01.1497618Z",
    }
    return ReceiptResponse(ft_signatures=signatures, ft_state=DE | state, **(defaults | more))  # type: ignore[arg-type]


def kassenbeleg(
    number: int = 11,
    counter: int = 21,
    start: str = "2020-05-22T11:33:01.000Z",
    end: str = "2020-05-22T11:33:02.000Z",
    action: str | None = "2020-05-22T10:47:40.960Z",
    *,
    data: str = "Beleg^7.50_0.00_0.00_0.00_0.00^7.50:Bar",
    kind: str = "Kassenbeleg-V1",
    flagged: bool = True,
) -> list[SignaturItem]:
    """The items of a finished receipt; ``flagged`` False is the early version of the published samples."""
    parts = [
        (0x13, "<qr-code-version>", "V0"),
        (0x14, "<kassen-seriennummer>", CASH_BOX),
        (0x15, "<processType>", kind),
        (0x16, "<processData>", data),
        (0x17, "<transaktions-nummer>", str(number)),
        (0x18, "<signatur-zaehler>", str(counter)),
        (0x19, "<start-zeit>", start),
        (0x1A, "<log-time>", end),
        (0x1B, "<sig-alg>", "ecdsa-plain-SHA256"),
        (0x1C, "<log-time-format>", "utcTime"),
        (0x1D, "<signatur>", SIGNATURE),
        (0x1E, "<public-key>", KEY),
    ]
    payload = base64.b64encode(data.encode()).decode()
    items = [
        item(0x01, "www.fiskaltrust.de", ";".join(part[2] for part in parts), 3, optional=False),
        item(0x10, "start-transaction-signature", SIGNATURE, 13, optional=flagged),
        item(0x11, "finish-transaction-payload", payload, 13, optional=flagged),
        item(0x12, "finish-transaction-signature", SIGNATURE, 13, optional=flagged),
    ]
    if flagged:
        items.append(item(0x22, "<certification-id>", CERTIFICATION, optional=False))
        items.append(item(0x23, "<tse-seriennummer>", TSE_SERIAL))
    items += [item(low, caption, text, optional=flagged) for low, caption, text in parts]
    if action is not None:
        items.append(item(0x1F, "<vorgangsbeginn>", action, optional=False))
    return items


def transaction(data: str) -> list[SignaturItem]:
    """The items of a closing or a zero receipt: other order, no QR code."""
    return [
        item(0x10, "start-transaction-result", SIGNATURE, 13),
        item(0x11, "finish-transaction-payload", base64.b64encode(data.encode()).decode(), 13),
        item(0x12, "finish-transaction-result", SIGNATURE, 13),
        item(0x15, "<processType>", "SonstigerVorgang"),
        item(0x14, "<kassen-seriennummer>", CASH_BOX),
        item(0x16, "<processData>", data),
        item(0x17, "<transaktions-nummer>", "1"),
        item(0x18, "<signatur-zaehler>", "2"),
        item(0x19, "<start-zeit>", "2020-05-22T11:33:01.000Z"),
        item(0x1A, "<log-time>", "2020-05-22T11:33:02.000Z"),
        item(0x1D, "<signatur>", SIGNATURE),
        item(0x1B, "<sig-alg>", "ecdsa-plain-SHA256"),
        item(0x1C, "<log-time-format>", "utcTime"),
        item(0x22, "<certification-id>", CERTIFICATION, optional=False),
        item(0x1E, "<public-key>", KEY),
    ]


SODA = charge("0,5 Soda Zitrone", "3.50", moment="2020-05-22T10:47:40.960Z")
KAFFEE = charge("Kaffe Hag", "4.00", moment="2020-05-22T10:58:03.960Z")
CASH = pay("Cash", "7.50", moment="2020-05-22T11:33:00.260Z")

HEADER = ("Gasthaus Zum Löwen", "Marktstraße 4, 97070 Würzburg", "St.-Nr. 257/123/45678")


def restaurant() -> tuple[ReceiptRequest, ReceiptResponse]:
    """A rich receipt: several rates, quantities, deposit, discount, foreign money, change."""
    charges = [
        charge(
            "Käsespätzle mit Röstzwiebeln und Bergkäse aus dem Allgäu", "29.80", 2, "7", quantity=Decimal(2)
        ),
        charge("Apfelschorle 0,5 l", "9.00", quantity=Decimal(2)),
        charge(
            "Emmentaler", "5.31", 2, "7", quantity=Decimal("0.532"), unit="kg", unit_price=Decimal("9.99")
        ),
        charge("Pfand Mehrweg", "0.30", 0x21),
        charge("Stammgast-Rabatt", "-2.00", 0x31),
        charge("Gutschein Frühstück", "25.00", 0x60, "0"),
    ]
    foreign = '{"CurrencyCode":"CHF","ForeignCurrencyAmount":20.00,"BaseCurrencyAmount":21.25}'
    payments = [
        pay("Girokarte", "40.00", 4),
        pay("Bar", "21.25", 2, ft_pay_item_case_data=foreign),
        pay("Bar", "10.00"),
        pay("", "-3.84", 0x0B),
    ]
    sale = request(
        cb_charge_items=charges,
        cb_pay_items=payments,
        cb_user="Frau Weiß",
        cb_area="Tisch 19",
        cb_receipt_reference="2026-000417",
        cb_receipt_moment="2026-06-12T18:42:07.260Z",
    )
    signatures = kassenbeleg(
        94,
        168,
        "2026-06-12T18:42:08.000Z",
        "2026-06-12T18:42:09.000Z",
        "2026-06-12T17:05:31.960Z",
        data="Beleg^7.30_35.11_0.00_0.00_25.00^20.00:Bar:CHF_6.16:Bar_40.00:Unbar",
    )
    return sale, response(signatures, ft_receipt_identification="ft3F#IT94")
