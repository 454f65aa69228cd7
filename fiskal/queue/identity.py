"""Is this request for us? Checked before anything is stored."""

from __future__ import annotations

import re
import uuid

from fiskal.errors import ReceiptRejected
from fiskal.germany.codes import COUNTRY, VERSION_MASK, ReceiptFlag
from fiskal.pos.prepared import Prepared

_GUID_HEX = re.compile(
    r"\{\s*0x([0-9a-f]{1,8})\s*,\s*0x([0-9a-f]{1,4})\s*,\s*0x([0-9a-f]{1,4})\s*,\s*\{\s*"
    + r"\s*,\s*".join([r"0x([0-9a-f]{1,2})"] * 8)
    + r"\s*\}\s*\}"
)
_GUID = re.compile(
    r"[0-9a-f]{32}|(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
    r"|\{[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\}|\([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\)"
)


def parse_guid(text: str) -> str | None:
    """The lower-case dashed form of a GUID in any of .NET's forms N, D, B, P, X; None if it is none."""
    text = text.strip().lower()
    if _GUID.fullmatch(text):
        return str(uuid.UUID(text.strip("{}()")))
    hexed = _GUID_HEX.fullmatch(text)
    if hexed:
        widths = (8, 4, 4, *([2] * 8))
        return str(uuid.UUID("".join(part.zfill(w) for part, w in zip(hexed.groups(), widths, strict=True))))
    return None


def check_cash_box(request: Prepared, cash_box_id: str) -> None:
    """ftCashBoxID is a GUID and the configured one."""
    given = request.cash_box_id
    if given == cash_box_id:
        return
    parsed = parse_guid(given or "")
    if parsed is None:
        raise ReceiptRejected(
            "CASH_BOX_ID_INVALID",
            f"Cannot parse CashBoxId {given or ''}",
            field="ftCashBoxID",
            hint="Send the GUID that 'fiskal init' printed.",
        )
    if parsed != cash_box_id:
        raise ReceiptRejected(
            "CASH_BOX_ID_MISMATCH",
            "Provided CashBoxId does not match current CashBoxId",
            field="ftCashBoxID",
            hint="Send the GUID that 'fiskal init' printed.",
        )


def check_queue(request: Prepared, queue_id: str) -> None:
    """ftQueueID is absent, empty or this queue's."""
    given = request.queue_id
    if not given or given == queue_id or parse_guid(given) == queue_id:
        return
    raise ReceiptRejected(
        "QUEUE_ID_MISMATCH",
        "Provided QueueId does not match current QueueId",
        field="ftQueueID",
        hint="Leave ftQueueID out, or send this queue's id.",
    )


_OTHER_VERSION = VERSION_MASK & ~ReceiptFlag.RECEIPT_REQUEST


def check_case(request: Prepared) -> None:
    """The case is German, or names no country, and is tagged for version 1 of the interface."""
    receipt_case = request.receipt_case & 0xFFFF_FFFF_FFFF_FFFF
    country = receipt_case >> 48
    if country not in (0, COUNTRY):
        raise ReceiptRejected(
            "WRONG_COUNTRY",
            f"ReceiptCase {receipt_case:X} is not a German one: the top 16 bits are {country:04X}, not 4445.",
            field="ftReceiptCase",
            hint="Start ftReceiptCase with 0x4445.",
        )
    if receipt_case & _OTHER_VERSION:
        raise ReceiptRejected(
            "WRONG_TAGGING_VERSION",
            f"ReceiptCase {receipt_case:X} is tagged for another version of the interface; this queue speaks "
            "version 1.",
            field="ftReceiptCase",
            hint="Use the version 1 case numbers: bits 44 to 46 must be 0.",
        )
