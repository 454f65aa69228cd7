"""JSON that goes into ftStateData, AZTEC items and the DataJson of action journals."""

from __future__ import annotations

from typing import Any

import msgspec

from fiskal.core import format_ticks
from fiskal.scu.contract import TseInfo

_ENCODER = msgspec.json.Encoder()


def to_json(value: Any) -> str:
    """Compact JSON, UTF-8 unescaped, members in insertion order."""
    return _ENCODER.encode(value).decode()


def master_data(text: str) -> msgspec.Raw:
    """Stored master data as a member of ftStateData."""
    return msgspec.Raw(text.encode())


def activation(
    kind: str,
    *,
    cash_box_id: str,
    queue_id: str,
    moment: int,
    client_id: str,
    scu_id: str,
    algorithm: str,
    public_key_base64: str,
    serial: str,
) -> str:
    """ActivateQueueSCU (``kind`` IsStartReceipt) or DeactivateQueueSCU (IsStopReceipt).

    ``SCUSerialNumberBase64`` holds the hex serial, despite its name: that is what readers expect.
    """
    return to_json(
        {
            "CashBoxId": cash_box_id,
            "QueueId": queue_id,
            "Moment": format_ticks(moment),
            "CashBoxIdentification": client_id,
            "SCUId": scu_id,
            "SCUPackageName": None,
            "SCUSignatureAlgorithm": algorithm,
            "SCUPublicKeyBase64": public_key_base64,
            "SCUSerialNumberBase64": serial,
            kind: True,
            "Version": "V0",
        }
    )


def scu_switch(
    side: str,
    *,
    cash_box_id: str,
    queue_id: str,
    moment: int,
    client_id: str,
    source_id: str,
    target_id: str,
    algorithm: str,
    public_key_base64: str,
    serial: str,
) -> str:
    """InitiateSCUSwitch (``side`` SourceSCU) or FinishSCUSwitch (TargetSCU): the TSE it tells about."""
    return to_json(
        {
            "CashBoxId": cash_box_id,
            "QueueId": queue_id,
            "Moment": format_ticks(moment),
            "CashBoxIdentification": client_id,
            "SourceSCUId": source_id,
            "TargetSCUId": target_id,
            f"{side}PackageName": None,
            f"{side}SignatureAlgorithm": algorithm,
            f"{side}PublicKeyBase64": public_key_base64,
            f"{side}SerialNumberOctet": serial,
            "Version": "V0",
        }
    )


def tse_info(info: TseInfo) -> dict[str, Any]:
    """TseInfo as ftStateData shows it: nulls are written."""
    result: dict[str, Any] = msgspec.to_builtins(info)
    return result


def transaction_numbers(open_transactions: dict[str, int]) -> dict[str, Any]:
    """TransactionNumberDictionary: each value is an object that repeats its key (wire-visible quirk)."""
    return {reference: {"Key": reference, "Value": number} for reference, number in open_transactions.items()}
