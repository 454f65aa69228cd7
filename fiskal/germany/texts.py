"""Texts a POS prints or compares. They are part of the wire contract: change none of them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from fiskal.germany.codes import ReceiptCase

TSE_FAILED: Final = "Kommunikation mit der technischen Sicherheitseinrichtung (TSE) fehlgeschlagen"
SYSTEM_FAILED: Final = "Elektronisches Aufzeichnungssystem ausgefallen"
TRAINING: Final = "Trainingsbuchung"
UNCAUGHT_EXCEPTION: Final = "uncaught-exeption"
INTERRUPTED: Final = "interrupted"
SANDBOX: Final = "S A N D B O X"
START_RECEIPT: Final = "In-Betriebnahme-Beleg"
STOP_RECEIPT: Final = "Außer-Betriebnahme-Beleg"
DISCONNECT_RECEIPT: Final = "TSE-Trennungs-Beleg"
CONNECT_RECEIPT: Final = "TSE-Verbindungs-Beleg"
DISCONNECTED: Final = "SCU von Queue getrennt"
CONNECTED: Final = "SCU mit Queue verbunden"
QR_CAPTION: Final = "www.fiskaltrust.de"

ABORTED_TRANSACTION: Final = "AVBelegabbruch^0.00_0.00_0.00_0.00_0.00^"
"""processData of a transaction that is closed without a receipt (DSFinV-K Anhang I)."""

SONSTIGER_VORGANG: Final[dict[int, str]] = {
    ReceiptCase.ZERO: "zero-receipt",
    ReceiptCase.INITIAL_OPERATION: "initial operation receipt / start-receipt",
    ReceiptCase.OUT_OF_OPERATION: "out of operation receipt / stop-receipt",
    ReceiptCase.MONTHLY_CLOSING: "monthly-closing",
    ReceiptCase.YEARLY_CLOSING: "yearly-closing",
    ReceiptCase.DAILY_CLOSING: "daily-closing",
    ReceiptCase.INITIATE_SCU_SWITCH: "initiate-scu-switch",
    ReceiptCase.FINISH_SCU_SWITCH: "finish-scu-switch",
    ReceiptCase.MIGRATION: "migration",
}

RECEIPT_NAMES: Final[dict[int, str]] = {
    ReceiptCase.ZERO: "Zero receipt",
    ReceiptCase.INITIAL_OPERATION: "Initial-operation receipt",
    ReceiptCase.OUT_OF_OPERATION: "Out-of-operation receipt",
    ReceiptCase.MONTHLY_CLOSING: "Monthly-closing receipt",
    ReceiptCase.YEARLY_CLOSING: "Yearly-closing receipt",
    ReceiptCase.DAILY_CLOSING: "Daily-closing receipt",
    ReceiptCase.START_TRANSACTION: "Start-transaction receipt",
    ReceiptCase.UPDATE_TRANSACTION: "Update-transaction receipt",
    ReceiptCase.DELTA_TRANSACTION: "Delta-transaction receipt",
    ReceiptCase.FAIL_TRANSACTION: "Fail-transaction receipt",
    ReceiptCase.INITIATE_SCU_SWITCH: "Initiate-SCU-switch receipt",
    ReceiptCase.FINISH_SCU_SWITCH: "Finish-SCU-switch receipt",
    ReceiptCase.MIGRATION: "Migration receipt",
}


def long_date(ticks: int) -> str:
    """``dd.MM.yyyy HH:mm:ss`` in UTC: the dates inside captions, the same on every machine."""
    return (_YEAR_ONE + timedelta(microseconds=ticks // 10)).strftime("%d.%m.%Y %H:%M:%S")


_YEAR_ONE: Final = datetime(1, 1, 1)  # naive: ticks are UTC already
