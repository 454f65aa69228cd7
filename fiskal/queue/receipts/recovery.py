"""The way out of failed mode: what could not be done on the TSE while it was out of reach is made good.

Every finished step is durable at once, together with its signatures, and stands in exactly one answer: that of
the zero receipt that worked, or of the next one if that had to be answered without it.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from fiskal.germany import notifications, signatures
from fiskal.germany.codes import ReceiptFlag
from fiskal.pos import SignaturItem
from fiskal.pos.prepared import prepare
from fiskal.queue.effects import Action
from fiskal.queue.receipts import reconcile, transactions
from fiskal.queue.work import Work, start_time
from fiskal.scu.contract import Deadline, TseInfo
from fiskal.scu.errors import ClientError, OutcomeUnknown, ScuError, TseRejected
from fiskal.store.interface import FailedTransactionRow, RecoveredRow

_log = logging.getLogger("fiskal.queue")


class Recovery:
    """What one zero receipt recovered. ``complete`` is False if there is more left than its budget allowed.

    ``info`` is the TseInfo that was asked for on the way, if any.
    """

    __slots__ = ("complete", "info", "notes", "updates")

    def __init__(self) -> None:
        self.complete = True
        self.info: TseInfo | None = None
        self.notes: list[SignaturItem] = []
        self.updates: dict[str, Any] = {}


async def recover(work: Work) -> Recovery:
    """Finish and start on the TSE what is missing there, oldest first and finishes before starts, until all is
    done or the budget is used up; then leave failed mode, or say how far it came. Raises ScuError."""
    made = Recovery()
    finishes = _oldest_first(work, work.transactions.failed_finishes)
    starts = _oldest_first(work, work.transactions.failed_starts)
    if work.flags & ReceiptFlag.REMOVE_TRANSACTIONS_NOT_ON_TSE:
        made.info = await work.tse_info()
    budget = Deadline(work.settings.recovery_budget_s)
    total, done = len(finishes) + len(starts), 0
    for row in finishes:
        if done and budget.expired:
            break
        await _finish(work, row)
        done += 1
    for row in starts:
        if done and budget.expired:
            break
        await _start(work, row)
        done += 1
    if done < total:
        made.complete = False
        made.notes.append(journalled(work, signatures.recovery_goes_on(done, total, work.clock())))
        return made
    await reconcile.if_needed(work)
    state, now = work.state, work.clock()
    note = signatures.recovered(state.fail_count, state.fail_moment or now, now)
    made.notes.append(journalled(work, note))
    made.updates.update(fail_count=0, fail_moment=None, fail_queue_item_id=None)
    return made


def deliver(work: Work) -> list[SignaturItem]:
    """The signatures of everything recovered that stands in no answer yet: this answer is theirs.

    Called last, when nothing can keep this receipt from its answer any more.
    """
    items: list[SignaturItem] = []
    for row in sorted(work.undelivered(), key=lambda row: (row.tse_calls[:1] != "F", row.Moment)):
        items += msgspec.json.decode(row.Signatures, type=list[SignaturItem])
        if not set(row.tse_calls.split()) <= set((work.calls or "").split()):
            work.note_calls(row.tse_calls)  # of an earlier receipt, or of this one before it was interrupted
        work.effects.recovered[row.ftQueueItemId] = row._replace(DeliveredBy=work.item_id)
    return items


async def _finish(work: Work, row: FailedTransactionRow) -> None:
    known = work.open_transaction(row.cbReceiptReference)
    if known is not None:
        request = prepare(row.Request.encode(), strict=work.settings.process_data_strict)
        before = work.calls
        try:
            finish = await work.finish(
                known.TransactionNumber,
                request.process_type,
                request.process_data_base64 or "",
                item_id=row.ftQueueItemId,
                client_id=row.CashBoxIdentification,
                is_retry=True,
            )
        except (TseRejected, ClientError):
            if known.TransactionNumber in (await work.tse_info()).current_started_transaction_numbers:
                raise
            work.effects.failed_finishes[row.cbReceiptReference] = None
            # Closed by somebody else, or by a call whose answer is lost for good, or signed with other data under
            # other settings: waiting would never end.
            flagged = work.flags & ReceiptFlag.REMOVE_TRANSACTIONS_NOT_ON_TSE
            transactions.drop(work, known, "failed finish-transaction" if flagged else "open transaction")
            return
        work.effects.open[row.cbReceiptReference] = None
        items = work.signatures.transaction(
            known.StartTransactionSignatureBase64,
            finish,
            start_time(finish, known.StartMoment),
            work.binding.certification_id,
            (request.process_data or b"").decode(),
        )
        _keep(work, row, items, before)
    work.effects.failed_finishes[row.cbReceiptReference] = None
    await work.persist()


async def _start(work: Work, row: FailedTransactionRow) -> None:
    item_id = row.ftQueueItemId
    before = work.calls
    in_doubt = item_id in work.transactions.doubtful_starts
    if not in_doubt:
        # On the disk before the TSE is asked: a receipt that ends this transaction in failed mode takes the row of
        # the failed start away, and the transaction may be open all the same if this zero receipt is interrupted.
        work.note_doubt(row.cbReceiptReference, item_id, row.CashBoxIdentification)
        await work.persist()
    try:
        started = await work.start_for(item_id, row.CashBoxIdentification, is_retry=True)
    except ScuError as error:
        if not in_doubt and not isinstance(error, OutcomeUnknown):
            work.effects.doubtful_starts[item_id] = None
        raise
    work.note_open(row.cbReceiptReference, started)
    work.effects.failed_starts[row.cbReceiptReference] = None
    work.effects.doubtful_starts[item_id] = None
    _keep(work, row, work.signatures.start(started.signature_data), before)
    await work.persist()


def _keep(work: Work, row: FailedTransactionRow, items: list[SignaturItem], before: str | None) -> None:
    calls = (work.calls or "")[len(before or "") :].strip()
    work.effects.recovered[row.ftQueueItemId] = RecoveredRow(
        row.queue_no,
        row.ftQueueItemId,
        row.cbReceiptReference,
        work.clock(),
        notifications.to_json(items),
        calls,
        work.item_id,
        None,
    )


def _oldest_first(work: Work, rows: dict[str, FailedTransactionRow]) -> list[FailedTransactionRow]:
    """What is to be made good at this TSE; another one has other transactions under the same numbers."""
    scu_id = work.binding.scu_id
    return sorted((row for row in rows.values() if row.scu_id == scu_id), key=lambda row: row.Moment)


def journalled(work: Work, note: SignaturItem) -> SignaturItem:
    """The note, which goes into the action journal as well."""
    text = f"{note.caption}{note.data}"
    work.actions.append(Action("4445000000000002-String", text, notifications.to_json(text), priority=-1))
    return note
