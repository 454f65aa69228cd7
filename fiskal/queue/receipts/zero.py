"""0x0002: the zero receipt. It proves that the TSE works and is the only way out of failed mode."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from fiskal.core import prepare
from fiskal.germany import notifications, signatures
from fiskal.germany.codes import ReceiptFlag
from fiskal.pos import SignaturItem
from fiskal.queue.receipts import transactions
from fiskal.queue.work import Action, Outcome, Work, start_time
from fiskal.scu.contract import TseInfo
from fiskal.scu.errors import ScuError, TseRejected
from fiskal.store.interface import FailedTransactionRow

_log = logging.getLogger("fiskal.queue")
_T = TypeVar("_T")


def zero(work: Work) -> Outcome:
    """Sign, recover what failed mode left behind, end late signing, then the extras the flags ask for."""
    start, finish, text = work.special_transaction()
    items = work.special_signatures(start, finish, text)
    updates: dict[str, Any] = {}
    if work.state.fail_count > 0:
        items += _recover(work, updates)
    if work.state.used_failed_count > 0:
        items += _end_late_signing(work, updates)
    state_data: dict[str, Any] = {}
    info: TseInfo | None = None
    if work.flags & ReceiptFlag.TSE_INFO:
        info = _extra(work, "TseInfo", work.tse_info)
        state_data["TseInfo"] = None if info is None else notifications.tse_info(info)
        state_data["TransactionNumberDictionary"] = notifications.transaction_numbers(
            {row.cbReceiptReference: row.TransactionNumber for row in work.open_transactions()}
        )
    if work.flags & ReceiptFlag.SELF_TEST:
        _extra(work, "Self test", work.scu.execute_self_test)
        _extra(work, "Set time", work.scu.execute_set_tse_time)
    if work.training:
        items.append(signatures.training(work.clock()))
    work.actions.append(
        Action(
            "2",
            "Zero receipt was processed.",
            notifications.to_json({"TseInfo": None if info is None else notifications.tse_info(info)}),
            priority=-1,
        )
    )
    return Outcome(
        items,
        f"IT{finish.transaction_number}",
        state_data=notifications.to_json(state_data) if state_data else None,
        updates=updates,
    )


def _extra(work: Work, what: str, call: Callable[[], _T]) -> _T | None:
    """Something asked for beside the signature: its failure is journalled, the signed answer stands."""
    try:
        return call()
    except ScuError as error:
        _log.warning("%s failed: %s", what, error)
        work.actions.append(Action(None, f"{what} failed: {error}"))
        return None


def _recover(work: Work, updates: dict[str, Any]) -> list[SignaturItem]:
    """Finish and start on the TSE what could not be while it was out of reach, then leave failed mode."""
    items: list[SignaturItem] = []
    for row in _oldest_first(work, work.transactions.failed_finishes):
        known = work.open_transaction(row.cbReceiptReference)
        if known is not None:
            request = prepare(row.Request.encode(), strict=work.settings.process_data_strict)
            try:
                finish = work.finish(
                    known.TransactionNumber,
                    request.process_type,
                    request.process_data_base64 or "",
                    item_id=row.ftQueueItemId,
                    client_id=row.CashBoxIdentification,
                    is_retry=True,
                )
            except TseRejected:
                if known.TransactionNumber in work.tse_info().current_started_transaction_numbers:
                    raise
                transactions.drop(work, known)  # closed by somebody else; waiting for it would never end
            else:
                work.effects.open[row.cbReceiptReference] = None
                items += work.signatures.transaction(
                    known.StartTransactionSignatureBase64,
                    finish,
                    start_time(finish, known.StartMoment),
                    work.binding.certification_id,
                    (request.process_data or b"").decode(),
                )
        work.effects.failed_finishes[row.cbReceiptReference] = None
        work.persist()
    for row in _oldest_first(work, work.transactions.failed_starts):
        started = work.start_for(row.ftQueueItemId, row.CashBoxIdentification, is_retry=True)
        work.note_open(row.cbReceiptReference, started)
        work.effects.failed_starts[row.cbReceiptReference] = None
        items += work.signatures.start(started.signature_data)
        work.persist()
    now = work.clock()
    note = signatures.recovered(work.state.fail_count, work.state.fail_moment or now, now)
    items.append(note)
    _journal_note(work, note)
    updates.update(fail_count=0, fail_moment=None, fail_queue_item_id=None)
    return items


def _oldest_first(work: Work, rows: dict[str, FailedTransactionRow]) -> list[FailedTransactionRow]:
    """What is to be made good at this TSE; another one has other transactions under the same numbers."""
    scu_id = work.binding.scu_id
    return sorted((row for row in rows.values() if row.scu_id == scu_id), key=lambda row: row.Moment)


def _end_late_signing(work: Work, updates: dict[str, Any]) -> list[SignaturItem]:
    state = work.state
    now = work.clock()
    note = signatures.late_signing_closed(
        state.used_failed_count, state.used_failed_min or now, state.used_failed_max or now, now
    )
    _journal_note(work, note)
    updates.update(
        used_failed_count=0, used_failed_min=None, used_failed_max=None, used_failed_queue_item_id=None
    )
    return [note]


def _journal_note(work: Work, note: SignaturItem) -> None:
    text = f"{note.caption}{note.data}"
    work.actions.append(Action("4445000000000002-String", text, notifications.to_json(text), priority=-1))
