"""What a POS says and hears: the messages of ifPOS v1 as msgspec structs.

Attributes are snake_case; on the wire the names are the interface's, and members stand in its field order.
Amounts are :class:`decimal.Decimal` and keep the scale they were sent with. Moments are ISO 8601 text with
up to seven fractional digits, because a ``datetime`` cannot hold the wire's 100 ns.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec
from msgspec import field

ONE = Decimal("1.0")
ZERO = Decimal("0.0")


class ChargeItem(msgspec.Struct, kw_only=True, omit_defaults=False):
    """One line of goods or services. ``amount`` is the gross total of the line, not a unit price."""

    position: int = field(name="Position", default=0)
    quantity: Decimal = field(name="Quantity", default=ONE)
    description: str | None = field(name="Description", default="")
    amount: Decimal = field(name="Amount", default=ZERO)
    vat_rate: Decimal = field(name="VATRate", default=ZERO)
    ft_charge_item_case: int = field(name="ftChargeItemCase", default=0)
    ft_charge_item_case_data: str | None = field(name="ftChargeItemCaseData", default="")
    vat_amount: Decimal | None = field(name="VATAmount", default=None)
    account_number: str | None = field(name="AccountNumber", default="")
    cost_center: str | None = field(name="CostCenter", default="")
    product_group: str | None = field(name="ProductGroup", default="")
    product_number: str | None = field(name="ProductNumber", default="")
    product_barcode: str | None = field(name="ProductBarcode", default="")
    unit: str | None = field(name="Unit", default="")
    unit_quantity: Decimal | None = field(name="UnitQuantity", default=None)
    unit_price: Decimal | None = field(name="UnitPrice", default=None)
    moment: str | None = field(name="Moment", default=None)


class PayItem(msgspec.Struct, kw_only=True, omit_defaults=False):
    """One payment. ``amount`` is its total in EUR."""

    position: int = field(name="Position", default=0)
    quantity: Decimal = field(name="Quantity", default=ONE)
    description: str | None = field(name="Description", default="")
    amount: Decimal = field(name="Amount", default=ZERO)
    ft_pay_item_case: int = field(name="ftPayItemCase", default=0)
    ft_pay_item_case_data: str | None = field(name="ftPayItemCaseData", default="")
    account_number: str | None = field(name="AccountNumber", default="")
    cost_center: str | None = field(name="CostCenter", default="")
    money_group: str | None = field(name="MoneyGroup", default="")
    money_number: str | None = field(name="MoneyNumber", default="")
    moment: str | None = field(name="Moment", default=None)


class ReceiptRequest(msgspec.Struct, kw_only=True, omit_defaults=False):
    """One business action or special function handed over for signing."""

    ft_cash_box_id: str | None = field(name="ftCashBoxID", default="")
    ft_queue_id: str | None = field(name="ftQueueID", default=None)
    ft_pos_system_id: str | None = field(name="ftPosSystemId", default=None)
    cb_terminal_id: str | None = field(name="cbTerminalID", default="")
    cb_receipt_reference: str | None = field(name="cbReceiptReference", default="")
    cb_receipt_moment: str = field(name="cbReceiptMoment")
    cb_charge_items: list[ChargeItem] = field(name="cbChargeItems", default_factory=list)
    cb_pay_items: list[PayItem] = field(name="cbPayItems", default_factory=list)
    ft_receipt_case: int = field(name="ftReceiptCase", default=0)
    ft_receipt_case_data: str | None = field(name="ftReceiptCaseData", default=None)
    cb_receipt_amount: Decimal | None = field(name="cbReceiptAmount", default=None)
    cb_user: str | None = field(name="cbUser", default=None)
    cb_area: str | None = field(name="cbArea", default=None)
    cb_customer: str | None = field(name="cbCustomer", default=None)
    cb_settlement: str | None = field(name="cbSettlement", default=None)
    cb_previous_receipt_reference: str | None = field(name="cbPreviousReceiptReference", default=None)


class SignaturItem(msgspec.Struct):
    """One thing to print or archive (the field's name has no second "e" in v0 and v1)."""

    ft_signature_format: int = field(name="ftSignatureFormat", default=0)
    ft_signature_type: int = field(name="ftSignatureType", default=0)
    caption: str | None = field(name="Caption", default="")
    data: str | None = field(name="Data", default="")


class ReceiptResponse(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The answer to a ReceiptRequest. Members without default are always on the wire."""

    ft_cash_box_id: str | None = field(name="ftCashBoxID")
    ft_queue_id: str = field(name="ftQueueID")
    ft_queue_item_id: str = field(name="ftQueueItemID")
    ft_queue_row: int = field(name="ftQueueRow")
    cb_terminal_id: str | None = field(name="cbTerminalID")
    cb_receipt_reference: str | None = field(name="cbReceiptReference")
    ft_cash_box_identification: str = field(name="ftCashBoxIdentification")
    ft_receipt_identification: str = field(name="ftReceiptIdentification")
    ft_receipt_moment: str = field(name="ftReceiptMoment")
    ft_receipt_header: list[str] | None = field(name="ftReceiptHeader", default=None)
    ft_charge_items: list[ChargeItem] | None = field(name="ftChargeItems", default=None)
    ft_charge_lines: list[str] | None = field(name="ftChargeLines", default=None)
    ft_pay_items: list[PayItem] | None = field(name="ftPayItems", default=None)
    ft_pay_lines: list[str] | None = field(name="ftPayLines", default=None)
    ft_signatures: list[SignaturItem] = field(name="ftSignatures")
    ft_receipt_footer: list[str] | None = field(name="ftReceiptFooter", default=None)
    ft_state: int = field(name="ftState")
    ft_state_data: str | None = field(name="ftStateData", default=None)


class EchoRequest(msgspec.Struct):
    message: str | None = field(name="Message", default=None)


class EchoResponse(msgspec.Struct):
    message: str | None = field(name="Message", default=None)


class JournalRequest(msgspec.Struct, kw_only=True):
    """``from_`` and ``to`` are ticks; ``to`` 0 is an open end, a negative ``to`` a number of entries."""

    ft_journal_type: int = field(name="ftJournalType", default=0)
    from_: int = field(name="From", default=0)
    to: int = field(name="To", default=0)
    max_chunk_size: int = field(name="MaxChunkSize", default=4096)
