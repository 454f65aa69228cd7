"""The steps of the explicit flow: start, update, delta and fail transaction."""

from __future__ import annotations

import logging

import msgspec

from fiskal.core import format_ticks
from fiskal.errors import ReceiptRejected
from fiskal.germany import notifications, signatures
from fiskal.pos import SignaturItem
from fiskal.queue import checks
from fiskal.queue.effects import Action, Outcome
from fiskal.queue.work import Work, start_time
from fiskal.scu.contract import FinishTransactionResponse
from fiskal.scu.errors import TseRejected
from fiskal.store.interface import OpenTransactionRow

_log = logging.getLogger("fiskal.queue")

_SEVERAL_HINT = (
    "If you want to close multiple transactions, pass an array value for 'CurrentStartedTransactionNumbers' "
    "via ftReceiptCaseData."
)
_SEVERAL_TEXT = f"CbReceiptReference must be set for one transaction! {_SEVERAL_HINT}"


DROPPED = "4445000020000000-OpenTransaction"
"""Type of the journal entry of a row that was removed without a signature."""


class _CaseData(msgspec.Struct):
    numbers: list[int] = msgspec.field(name="CurrentStartedTransactionNumbers")


async def start(work: Work) -> Outcome:
    """0x0008: begin a transaction under this cbReceiptReference."""
    known = work.open_transaction(work.reference)
    if known is not None:
        await clear_orphan(work, known)
    response = await work.start(work.reference)
    return _step(work, work.signatures.start(response.signature_data), f"ST{response.transaction_number}")


async def update(work: Work) -> Outcome:
    """0x0009 and 0x000A: sign that the action goes on. The TSE gets empty data (DSFinV-K Anhang I)."""
    known = work.open_transaction(work.reference)
    if known is None:
        raise checks.no_transaction(work.reference)
    try:
        response = await work.update(known.TransactionNumber)
    except TseRejected:
        await _check_still_open(work, known)
        raise
    prefix = "UT" if work.case == 0x09 else "DT"
    return _step(work, work.signatures.update(response), f"{prefix}{response.transaction_number}")


async def fail(work: Work) -> Outcome:
    """0x000B: abort one transaction by its reference, or several by their numbers."""
    return await _fail_one(work) if work.reference else await _fail_several(work)


def check_case_data(work: Work) -> None:
    """A multiple fail-transaction names the transactions it closes; checked before anything is signed."""
    if not work.reference:
        _numbers(work)


def _step(work: Work, items: list[SignaturItem], suffix: str) -> Outcome:
    if work.training:
        items.append(signatures.training(work.clock()))
    return Outcome(items, suffix)


async def _fail_one(work: Work) -> Outcome:
    reference = work.reference
    if reference in work.transactions.failed_starts:
        work.effects.failed_starts[reference] = None
        return Outcome([])  # its start never reached the TSE: there is nothing to sign
    known = work.open_transaction(reference)
    if known is None:
        raise ReceiptRejected(
            "TRANSACTION_NOT_FOUND",
            f"No open transaction found for cbReceiptReference '{reference}'. {_SEVERAL_HINT}",
            field="cbReceiptReference",
            hint="Nothing is open under this reference, so there is nothing to fail.",
        )
    finish = await finish_open(work, known)
    work.effects.open[reference] = None
    items = work.signatures.receipt(
        known.StartTransactionSignatureBase64,
        finish,
        start_time(finish, known.StartMoment),
        work.binding.certification_id,
        work.process_data,
    )
    return _step(work, items, f"T{finish.transaction_number}")


async def _fail_several(work: Work) -> Outcome:
    request = work.request
    closed: list[SignaturItem] = []
    refused: list[str] = []
    for number in _numbers(work):
        try:
            closed += await _close(work, number)
        except TseRejected as error:
            refused.append(f"{number}: {error}")
    if refused:
        work.actions.append(
            Action(
                None,
                f"{len(refused)} transactions were not closed by the TSE. {' '.join(refused)}",
            )
        )
    start_response, finish = await work.implicit_transaction(
        work.reference, request.process_type, work.process_data_base64
    )
    items = work.signatures.receipt(
        start_response.signature_data.signature_base64,
        finish,
        start_time(finish, start_response.time_stamp),
        work.binding.certification_id,
        work.process_data,
    )
    return _step(work, items + closed, f"IT{finish.transaction_number}")


async def _close(work: Work, number: int) -> list[SignaturItem]:
    """Close one transaction as aborted. Until the answer is stored, the record of the SCU remembers that."""
    finish = await work.abort(number)
    for row in work.open_transactions():
        if row.TransactionNumber == number:
            work.effects.open[row.cbReceiptReference] = None
    return work.signatures.closed(finish)


def _numbers(work: Work) -> list[int]:
    data = work.request.receipt_case_data
    try:
        return msgspec.json.decode(data or "", type=_CaseData, strict=False).numbers
    except msgspec.DecodeError as error:
        raise ReceiptRejected(
            "TRANSACTION_NUMBERS_MISSING",
            _SEVERAL_TEXT,
            field="ftReceiptCaseData",
            hint='For example "{\\"CurrentStartedTransactionNumbers\\":[17,18]}".',
        ) from error


async def clear_orphan(work: Work, known: OpenTransactionRow) -> None:
    """Make room for a receipt whose reference is taken by ``known``.

    A transaction the POS started itself is an error of the POS. One that an implicit receipt left behind
    when its finish failed is closed as aborted, so that the POS can simply send its receipt again.
    """
    if not known.implicit:
        raise checks.already_started(work.reference, known.TransactionNumber)
    try:
        await work.abort(known.TransactionNumber)
    except TseRejected as error:
        if await _is_open(work, known):
            raise
        _log.warning("transaction %d was closed elsewhere: %s", known.TransactionNumber, error)
    work.effects.open[work.reference] = None


async def finish_open(work: Work, row: OpenTransactionRow) -> FinishTransactionResponse:
    """Finish an open transaction with this receipt."""
    request = work.request
    try:
        return await work.finish(row.TransactionNumber, request.process_type, work.process_data_base64)
    except TseRejected:
        await _check_still_open(work, row)
        raise


async def _check_still_open(work: Work, row: OpenTransactionRow) -> None:
    """A transaction that the TSE does not have open any more was closed by somebody else: the row is dropped
    and the receipt rejected, because trying again would never help."""
    if not await _is_open(work, row):
        drop(work, row)
        raise checks.no_transaction(row.cbReceiptReference)


async def _is_open(work: Work, row: OpenTransactionRow) -> bool:
    """Is a transaction still open that the TSE did not continue? It may refuse for other reasons."""
    info = await work.tse_info()
    return row.TransactionNumber in info.current_started_transaction_numbers


async def close_open(work: Work) -> list[SignaturItem]:
    """Close all open transactions of the queue as aborted; one the TSE no longer knows is dropped.

    Raises TseRejected if the TSE knows it and does not close it.
    """
    closed: list[SignaturItem] = []
    for row in work.open_transactions():
        try:
            closed += await _close(work, row.TransactionNumber)
        except TseRejected as error:
            if await _is_open(work, row):
                raise
            _log.warning("transaction %d: %s", row.TransactionNumber, error)
            drop(work, row)
    return closed


def drop(work: Work, row: OpenTransactionRow, what: str = "open transaction") -> None:
    """Remove a row whose transaction the TSE does not have open, and journal that."""
    work.effects.open[row.cbReceiptReference] = None
    work.actions.append(
        Action(
            DROPPED,
            f"Removed {what} {row.TransactionNumber} from the database, which was not open on the TSE anymore.",
            open_transaction_json(row),
            priority=-1,
        )
    )


def open_transaction_json(row: OpenTransactionRow) -> str:
    """The row as the DataJson of a journal entry."""
    return notifications.to_json(
        {
            "TransactionNumber": row.TransactionNumber,
            "StartTransactionSignatureBase64": row.StartTransactionSignatureBase64,
            "StartMoment": format_ticks(row.StartMoment),
            "cbReceiptReference": row.cbReceiptReference,
        }
    )
