"""What the queue believes to be open on the TSE, compared with the TSE's own list."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Final

from fiskal.germany import notifications
from fiskal.queue.effects import Action
from fiskal.queue.receipts import transactions
from fiskal.queue.replay import NotExecuted
from fiskal.queue.work import Work
from fiskal.scu.contract import TseInfo
from fiskal.scu.errors import ScuError, TseRejected
from fiskal.store.interface import DoubtfulStartRow

_log = logging.getLogger("fiskal.queue")

DOUBTFUL: Final = "4445000020000000-DoubtfulStart"
"""Type of the journal entry that says what became of a start whose answer was lost."""

MOST_DOUBTS: Final = 50
"""Starts that one receipt looks after; the next one goes on."""


async def compare(work: Work) -> TseInfo:
    """Ask the TSE what is open there, drop the rows of what is not, and settle the starts without an answer.

    The only thing signed is the end of a transaction that a lost start has left behind. Raises ScuError.
    """
    info = await work.tse_info()
    on_tse = set(info.current_started_transaction_numbers)
    for row in work.open_transactions():
        if row.TransactionNumber not in on_tse:
            transactions.drop(work, row)
    await _settle(work, on_tse)
    return info


async def if_needed(work: Work) -> None:
    """Compare, unless there is nothing that could differ. The receipt does not depend on it: if the TSE fails
    here, the next one compares. An interrupted receipt was signed with the comparison or without it."""
    if work.open_transactions() or work.doubtful_starts():
        try:
            await compare(work)
        except (ScuError, NotExecuted) as error:
            _log.warning("queue %s: no comparison with the TSE: %s", work.state.queue_id, error)


async def _settle(work: Work, on_tse: Collection[int]) -> None:
    """Find out about starts that nobody will finish; those a zero receipt makes good are good by now, or the queue
    leaves its TSE.

    What is open on the TSE and known to no queue may be theirs.
    """
    doubts = work.doubtful_starts()[:MOST_DOUBTS]
    if not doubts:
        return
    known = {row.TransactionNumber for row in work.open_transactions()}
    strangers = sorted(set(on_tse) - known - work.lookups.open_elsewhere(work.binding.scu_id))
    recognised = work.binding.capabilities.deduplicates
    for row in doubts:
        if strangers and recognised:
            if not await _end(work, row):
                continue
        elif strangers:
            _journal(
                work,
                f"The start for queue item {row.ftQueueItemId} had no answer. {len(strangers)} transactions are "
                "open on the TSE that no queue of this host knows; one of them may be its.",
                strangers,
            )
        # Durable with the answer that says so: a receipt that is interrupted before it settles them once more.
        work.effects.doubtful_starts[row.ftQueueItemId] = None


async def _end(work: Work, row: DoubtfulStartRow) -> bool:
    """Let the SCU say which transaction the start opened, and end it. False if the TSE refuses.

    An SCU that has never heard of the start opens one now: that is ended all the same.
    """
    try:
        started = await work.start_for(row.ftQueueItemId, row.CashBoxIdentification, is_retry=True)
        number = started.transaction_number
    except TseRejected as error:
        _log.warning("the start for queue item %s stays in doubt: %s", row.ftQueueItemId, error)
        return False
    key = f"{row.cbReceiptReference}#{number}"
    orphan = work.open_transaction(key)
    if orphan is None or orphan.TransactionNumber != number:  # else an earlier receipt could not end it
        work.note_open(key, started, implicit=True)
    try:
        await work.abort(number)
    except TseRejected as error:
        _log.warning("transaction %d was not closed: %s", number, error)
        if error.code == "TRANSACTION_NOT_OPEN":
            work.effects.open[key] = None  # somebody else did it
        return True  # no doubt is left: it stands as an orphan, which a daily closing ends
    work.effects.open[key] = None
    failed = work.transactions.failed_starts.get(row.cbReceiptReference)
    if failed is not None and failed.ftQueueItemId == row.ftQueueItemId:
        work.effects.failed_starts[row.cbReceiptReference] = None
    _journal(
        work,
        f"Transaction {number}, whose start for queue item {row.ftQueueItemId} had no answer, was closed as "
        "aborted.",
        [number],
    )
    return True


def _journal(work: Work, message: str, numbers: list[int]) -> None:
    work.actions.append(Action(DOUBTFUL, message, notifications.to_json(numbers)))
