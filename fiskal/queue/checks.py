"""Checks of a request that need no TSE. All are made before the TSE is asked anything."""

from __future__ import annotations

from fiskal.errors import ReceiptRejected
from fiskal.germany import texts
from fiskal.germany.codes import LAST_RECEIPT_CASE
from fiskal.queue.facts import Facts, Flow

MAX_PROCESS_DATA_BYTES = 65_536
"""Most processData one transaction may have; a TSE takes no more (an order has a line for every item)."""

_IMPLICIT_HINT = "Add 0x0000000100000000 to ftReceiptCase."


def name(work: Facts) -> str:
    return texts.RECEIPT_NAMES.get(work.case, "POS receipt")


def known_case(work: Facts) -> None:
    if work.case > LAST_RECEIPT_CASE:
        request = work.request
        raise ReceiptRejected(
            "UNKNOWN_RECEIPT_CASE",
            f"ReceiptCase {work.case_text} unknown. ProcessType {request.process_type}, "
            f"ProcessData {work.process_data}",
            field="ftReceiptCase",
            hint="Use one of the cases 0x0000 to 0x0019 in the low 16 bits.",
        )


def payload(work: Facts) -> None:
    """The processData could be built."""
    error = work.request.payload_error()
    if error is not None:
        raise error


def size(work: Facts) -> None:
    """The TSE can take the processData: found out before a transaction is started for it."""
    length = len(work.request.process_data or b"")
    if length > MAX_PROCESS_DATA_BYTES:
        raise ReceiptRejected(
            "PROCESS_DATA_TOO_LARGE",
            f"The processData of this receipt has {length} bytes, at most {MAX_PROCESS_DATA_BYTES} can be "
            "signed.",
            field="cbChargeItems",
            hint="Send the items in several orders, or shorten their descriptions.",
        )


def flow(work: Facts) -> None:
    """E-IMPL, E-EXPL, E-TRAIN, E-ITEMS: flags and items that contradict the case."""
    flow = work.kind.flow
    if flow is Flow.IMPLICIT:
        if not work.implicit:
            raise ReceiptRejected(
                "IMPLICIT_FLOW_REQUIRED",
                f"ReceiptCase {work.case_text} ({name(work)}) must use implicit-flow flag.",
                field="ftReceiptCase",
                hint=_IMPLICIT_HINT,
            )
        if work.training and not work.kind.may_train:
            raise ReceiptRejected(
                "TRAINING_NOT_ALLOWED",
                f"ReceiptCase {work.case_text} can not use 'TrainingMode' flag.",
                field="ftReceiptCase",
                hint="Remove 0x0000000000020000 from ftReceiptCase.",
            )
        if work.request.charge_count or work.request.pay_count:
            raise ReceiptRejected(
                "ITEMS_NOT_ALLOWED",
                f"ReceiptCase {work.case_text} ({name(work)}) must not have Charge- or PayItems.",
                field="cbChargeItems" if work.request.charge_count else "cbPayItems",
                hint="Send empty arrays; sell with a receipt of its own.",
            )
    elif flow is Flow.EXPLICIT:
        if work.implicit:
            raise ReceiptRejected(
                "EXPLICIT_FLOW_REQUIRED",
                f"ReceiptCase {work.case_text} ({name(work)}) can not use implicit-flow flag.",
                field="ftReceiptCase",
                hint="Remove 0x0000000100000000 from ftReceiptCase.",
            )
    elif flow is Flow.FAIL:
        _fail_transaction_flow(work)


def _fail_transaction_flow(work: Facts) -> None:
    if work.reference and work.implicit:
        raise ReceiptRejected(
            "EXPLICIT_FLOW_REQUIRED",
            f"ReceiptCase {work.case_text} (fail-transaction-receipt) cannot use implicit-flow flag when a "
            "single transaction should be failed.",
            field="ftReceiptCase",
            hint="Remove 0x0000000100000000, or leave cbReceiptReference empty and list the numbers in "
            "ftReceiptCaseData.",
        )
    if not work.reference and not work.implicit:
        raise ReceiptRejected(
            "IMPLICIT_FLOW_REQUIRED",
            f"ReceiptCase {work.case_text} (fail-transaction-receipt) must use implicit-flow flag when "
            "multiple transactions should be failed.",
            field="ftReceiptCase",
            hint=f"{_IMPLICIT_HINT} To fail one transaction, set its cbReceiptReference.",
        )


def already_started(reference: str, number: int) -> ReceiptRejected:
    return ReceiptRejected(
        "TRANSACTION_ALREADY_STARTED",
        f"Transactionnumber {number} was already started using cbReceiptReference '{reference}'.",
        field="cbReceiptReference",
        hint="Finish it first, or use another cbReceiptReference.",
    )


def no_transaction(reference: str) -> ReceiptRejected:
    return ReceiptRejected(
        "TRANSACTION_NOT_FOUND",
        f"No transactionnumber found for cbReceiptReference '{reference}'.",
        field="cbReceiptReference",
        hint="Send a start-transaction (0x0008) with this reference first, or use the implicit flow "
        "(0x0000000100000000).",
    )


def migrated() -> ReceiptRejected:
    return ReceiptRejected(
        "MIGRATED",
        "The Middleware is currently in migration mode after a 'start migration' receipt was processed. Please "
        "continue the migration process in the Portal and use the migrated instance of the Middleware to "
        "continue signing, either on another machine or in the CloudCashbox.",
        hint="This installation keeps its journals but signs nothing more.",
    )
