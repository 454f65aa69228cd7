"""Answers that need no TSE: queue not in service, failed mode, late signing, handwritten."""

from __future__ import annotations

import logging
from typing import Any

from fiskal.germany import signatures
from fiskal.germany.codes import ReceiptCase, State
from fiskal.queue.effects import Action, Outcome
from fiskal.queue.facts import Facts
from fiskal.queue.receipts import closings
from fiskal.scu.errors import ScuError
from fiskal.store.interface import FailedTransactionRow

_log = logging.getLogger("fiskal.queue")

WHY = "TSE communication failed ("
"""How the journal entry begins that says why failed mode was entered, or why it could not be left."""


def disabled_queue(work: Facts) -> Outcome:
    """A queue that was not started or is stopped: journalled, not signed. Said once in each run of the process."""
    state = work.state
    if work.case == ReceiptCase.INITIAL_OPERATION:
        work.actions.append(
            Action(
                None,
                f"Queue {state.queue_id} is de-activated, initial-operations-receipt can not be executed.",
            )
        )
    if not state.told_disabled:
        state.told_disabled = True
        work.actions.append(
            Action(None, f"QueueId {work.state.queue_id} was not activated or already deactivated")
        )
    return Outcome([], state=State.OUT_OF_SERVICE)


def disabled_scu(work: Facts) -> Outcome:
    """An SCU switch was initiated and not finished: journalled, not signed, whatever it is."""
    if work.kind.is_closing:
        _log.warning(
            "queue %s: a closing came while an SCU switch is in progress; it closes and counts nothing. Finish "
            "the switch and send it again",
            work.state.queue_id,
        )
    work.actions.append(Action(None, "SCU switching process initiated, but not yet finished."))
    return Outcome([], state=State.SCU_SWITCH)


def late_signing(work: Facts) -> Outcome:
    """Flag 0x10000: a receipt from the time the middleware was out of reach."""
    state, moment = work.state, work.request.receipt_moment_ticks
    first = moment if state.used_failed_min is None else min(state.used_failed_min, moment)
    last = moment if state.used_failed_max is None else max(state.used_failed_max, moment)
    return Outcome(
        [signatures.late_signing(moment)],
        state=State.LATE_SIGNING,
        updates={
            "used_failed_count": state.used_failed_count + 1,
            "used_failed_min": first,
            "used_failed_max": last,
            "used_failed_queue_item_id": state.used_failed_queue_item_id or work.item_id,
        },
    )


def handwritten(work: Facts) -> Outcome:
    """Flag 0x80000: a receipt written by hand while the register was down."""
    return Outcome([signatures.handwritten(work.request.receipt_moment_ticks)])


def failed(work: Facts, error: ScuError | None = None) -> Outcome:
    """The circuit breaker is open: journal and answer without the TSE.

    ``error`` is what opened it, None for a receipt that came later. Nothing is ever refused because a TSE
    is down, and nothing recorded here is signed later.
    """
    state = work.state
    updates: dict[str, Any] = {"fail_count": state.fail_count + 1}
    since = state.fail_moment
    if state.fail_count == 0 or since is None:
        since = work.clock()
        updates["fail_moment"] = since
        updates["fail_queue_item_id"] = work.item_id
    if error is not None:
        work.actions.append(Action(None, f"{WHY}{type(error).__name__} {error.code}): {error}"))
    if not work.implicit:
        _remember(work)
    if work.kind.is_closing:
        updates.update(closings.without_tse(work))
    return Outcome(
        [signatures.failed(since, state.fail_count + 1)],
        state=State.SCU_FAILED,
        updates=updates,
        failure="" if error is None else str(error),
    )


def _remember(work: Facts) -> None:
    """Note what the zero receipt has to make good on the TSE for the explicit flow."""
    reference, case, effects = work.reference, work.case, work.effects
    if case == ReceiptCase.START_TRANSACTION:
        effects.failed_starts[reference] = _row(work, None)
    elif case in (ReceiptCase.UPDATE_TRANSACTION, ReceiptCase.DELTA_TRANSACTION):
        return
    elif reference in work.transactions.failed_starts:
        effects.failed_starts[reference] = None  # begun and ended while failed: never reaches the TSE
    else:
        known = work.open_transaction(reference)
        if known is not None and not known.implicit:
            effects.failed_finishes[reference] = _row(work, known.TransactionNumber)


def _row(work: Facts, number: int | None) -> FailedTransactionRow:
    return FailedTransactionRow(
        work.state.queue_no,
        work.reference,
        number,
        work.clock(),
        work.tse_item_id,
        work.state.cash_box_identification,
        work.request.canonical.decode(),
        work.binding.scu_id,
    )
