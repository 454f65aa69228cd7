"""Sample business of a small café and a bakery: the flows a POS developer meets first."""

from __future__ import annotations

from decimal import Decimal
from typing import Final, NamedTuple

from fiskal.clock import TICKS_PER_MILLISECOND, TICKS_PER_SECOND
from fiskal.core import format_ticks
from fiskal.germany.codes import DE, ReceiptCase, ReceiptFlag
from fiskal.germany.masterdata import Account, MasterData, Outlet, PosSystem
from fiskal.pos import ChargeItem, PayItem, ReceiptRequest

POS_SYSTEM_ID: Final = "d4a62055-ca6c-4372-ae4d-f835a88e4a5d"
"""Identifies the POS software; made up for the samples."""

_ADDRESS: Final = {"street": "Musterstraße 1", "zip": "12345", "city": "Berlin", "country": "DEU"}

ACCOUNT: Final = Account(
    account_id="00000acc-0000-4000-8000-000000000acc",
    account_name="Café Muster GmbH",
    tax_id="12/345/67890",
    **_ADDRESS,
)

MASTER_DATA: Final = MasterData(
    account=ACCOUNT,
    outlet=Outlet(
        outlet_id="000000b1-0000-4000-8000-0000000000b1",
        outlet_name="Café Muster",
        location_id="F001",
        **_ADDRESS,
    ),
    agencies=[],
    pos_systems=[
        PosSystem(
            pos_system_id=POS_SYSTEM_ID,
            brand="Muster",
            model="K1",
            software_version="1.0",
            base_currency="EUR",
            type="Kasse",
        )
    ],
)
"""Who sells in the samples; all of it is made up."""

HEADER: Final = (
    f"{ACCOUNT.account_name}",
    f"{ACCOUNT.street}, {ACCOUNT.zip} {ACCOUNT.city}",
    f"St.-Nr. {ACCOUNT.tax_id}",
)
"""The first lines of their receipts."""

TERMINAL: Final = "Kasse 1"

CASH: Final = DE | 0x01
DEBIT_CARD: Final = DE | 0x04
VAT_19: Final = DE | 0x01
VAT_7: Final = DE | 0x02

_DAY: Final = 86_400 * TICKS_PER_SECOND


class Step(NamedTuple):
    """One request; ``printed`` says that the customer gets a receipt of it."""

    title: str
    request: ReceiptRequest
    printed: bool


class Flow(NamedTuple):
    """One way of doing business, as a title and its requests in order."""

    title: str
    steps: list[Step]


class Samples:
    """Requests for the cash box ``cash_box_id`` around the moment ``now`` (ticks).

    References carry the moment, so that samples made at different times never meet.
    """

    def __init__(self, cash_box_id: str, now: int) -> None:
        self._cash_box_id = cash_box_id
        self._now = now - now % TICKS_PER_MILLISECOND
        self._mark = format(now // TICKS_PER_SECOND % 100_000_000, "08d")

    # ---- single requests ------------------------------------------------------------------------

    def start(self) -> ReceiptRequest:
        """The start receipt: registers the queue at its TSE. The first request of every queue."""
        return self._implicit(ReceiptCase.INITIAL_OPERATION, "start")

    def zero(self) -> ReceiptRequest:
        """A zero receipt with TSE information: is everything well, and if not, make it well again."""
        return self._request(
            ReceiptCase.ZERO | ReceiptFlag.IMPLICIT_FLOW | ReceiptFlag.TSE_INFO, self._reference("zero")
        )

    def sale(self) -> ReceiptRequest:
        """Two items, paid in cash, in one request."""
        return self._implicit(
            ReceiptCase.POS_RECEIPT,
            "sale",
            [item("Feuerzeug", "3.50"), item("Kaffee Hag", "4.00")],
            [pay("Bar", "7.50")],
        )

    def order(self) -> ReceiptRequest:
        """An order at a table; it is signed, but not paid yet."""
        return self._implicit(ReceiptCase.INFO_ORDER, "order", [item("Pils 0,5 l", "9.00", quantity="2")])

    def closing(self) -> ReceiptRequest:
        """The daily closing."""
        return self._implicit(ReceiptCase.DAILY_CLOSING, "closing")

    # ---- flows ----------------------------------------------------------------------------------

    def flows(self) -> list[Flow]:
        """All sample flows, the daily closing last. The queue must be in operation."""
        return [
            Flow("Short sale, implicit flow", [Step("Sale", self.sale(), True)]),
            self.long_lasting_orders(),
            self.scanner_checkout(),
            self.bakery(),
            Flow("Daily closing", [Step("Daily closing", self.closing(), False)]),
        ]

    def long_lasting_orders(self) -> Flow:
        """Orders on two days, paid on the third: the receipt tells when the first order began."""
        first, second = self._now - 2 * _DAY, self._now - _DAY
        room = [item("Frühstück", "7.90", VAT_7, moment=first), item("Pils 0,5 l", "4.50", moment=first)]
        dinner = [
            item("Wiener Schnitzel", "21.90", moment=second),
            item("Riesling 0,2 l", "7.80", moment=second),
        ]
        case = ReceiptCase.INFO_ORDER
        area = "Zimmer 12"
        paid = self._implicit(
            ReceiptCase.POS_RECEIPT,
            "room",
            [*room, *dinner],
            [pay("EC-Karte", "42.10", DEBIT_CARD)],
            area=area,
        )
        return Flow(
            "Orders over three days, paid on the last",
            [
                Step("Day 1: order", self._implicit(case, "room", room, moment=first, area=area), False),
                Step("Day 2: order", self._implicit(case, "room", dinner, moment=second, area=area), False),
                Step("Day 3: receipt", paid, True),
            ],
        )

    def scanner_checkout(self) -> Flow:
        """Explicit flow: the transaction starts with the first scan and ends with the payment."""
        reference = self._reference("scan")
        area = "Scannerkasse 14"
        items = [item("Feuerzeug BigRed", "3.50"), item("Milch 1 l", "1.19", VAT_7)]
        return Flow(
            "Scanner checkout, explicit flow",
            [
                Step(
                    "First scan: start transaction",
                    self._request(ReceiptCase.START_TRANSACTION, reference, area=area),
                    False,
                ),
                Step(
                    "Payment: receipt",
                    self._request(ReceiptCase.POS_RECEIPT, reference, items, [pay("Bar", "4.69")], area=area),
                    True,
                ),
            ],
        )

    def bakery(self) -> Flow:
        """Durchbedienen: an empty order at the first register secures the time at which serving began."""
        began = self._now - 90 * TICKS_PER_SECOND
        items = [item("Bauernbrot", "4.80", VAT_7, moment=began), item("Butterbrezel", "2.10", VAT_7)]
        return Flow(
            "Bakery, served along several registers",
            [
                Step(
                    "First register: empty order",
                    self._implicit(ReceiptCase.INFO_ORDER, "bakery", terminal="Kasse 1", moment=began),
                    False,
                ),
                Step(
                    "Last register: receipt",
                    self._implicit(
                        ReceiptCase.POS_RECEIPT, "bakery", items, [pay("Bar", "6.90")], terminal="Kasse 3"
                    ),
                    True,
                ),
            ],
        )

    # ---- making requests ------------------------------------------------------------------------

    def _reference(self, name: str) -> str:
        return f"{name}-{self._mark}"

    def _implicit(
        self,
        case: int,
        name: str,
        charges: list[ChargeItem] | None = None,
        pays: list[PayItem] | None = None,
        *,
        terminal: str = TERMINAL,
        moment: int | None = None,
        area: str | None = None,
    ) -> ReceiptRequest:
        case |= ReceiptFlag.IMPLICIT_FLOW
        reference = self._reference(name)
        return self._request(case, reference, charges, pays, terminal=terminal, moment=moment, area=area)

    def _request(
        self,
        case: int,
        reference: str,
        charges: list[ChargeItem] | None = None,
        pays: list[PayItem] | None = None,
        *,
        terminal: str = TERMINAL,
        moment: int | None = None,
        area: str | None = None,
    ) -> ReceiptRequest:
        return ReceiptRequest(
            ft_cash_box_id=self._cash_box_id,
            ft_pos_system_id=POS_SYSTEM_ID,
            cb_terminal_id=terminal,
            cb_receipt_reference=reference,
            cb_receipt_moment=format_ticks(self._now if moment is None else moment),
            cb_charge_items=charges or [],
            cb_pay_items=pays or [],
            ft_receipt_case=DE | case,
            cb_user="Anna",
            cb_area=area,
        )


def item(
    description: str, amount: str, case: int = VAT_19, *, quantity: str = "1", moment: int | None = None
) -> ChargeItem:
    """A charge item; ``amount`` is the gross total of the line."""
    return ChargeItem(
        quantity=Decimal(quantity),
        description=description,
        amount=Decimal(amount),
        vat_rate=Decimal("7.00" if case == VAT_7 else "19.00"),
        ft_charge_item_case=case,
        moment=None if moment is None else format_ticks(moment),
    )


def pay(description: str, amount: str, case: int = CASH) -> PayItem:
    """A payment in EUR."""
    return PayItem(description=description, amount=Decimal(amount), ft_pay_item_case=case)
