"""0x0002: the zero receipt. It proves that the TSE works and is the only way out of failed mode."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any, TypeVar

from fiskal.germany import notifications, signatures
from fiskal.germany.codes import ReceiptFlag, State
from fiskal.pos import SignaturItem
from fiskal.queue.effects import Action, Outcome
from fiskal.queue.receipts.recovery import Recovery, deliver, journalled, recover
from fiskal.queue.work import Work
from fiskal.scu.errors import ScuError

_log = logging.getLogger("fiskal.queue")
_T = TypeVar("_T")


async def zero(work: Work) -> Outcome:
    """Sign, recover what failed mode left behind, end late signing, then the extras the flags ask for.

    A recovery that takes longer than its budget is answered like failed mode, but for the signatures: the next
    zero receipt goes on with it.
    """
    # Also when the TSE cannot sign: one whose memory is full can still be exported and erased.
    work.export_due = bool(work.flags & ReceiptFlag.TAR_EXPORT)
    start, finish, text = await work.special_transaction()
    recovery = await recover(work) if work.state.fail_count > 0 else Recovery()
    updates = recovery.updates
    notes = recovery.notes
    if work.state.used_failed_count > 0 and recovery.complete:
        notes += _end_late_signing(work, updates)
    state_data: dict[str, Any] = {}
    info = recovery.info
    if work.flags & ReceiptFlag.TSE_INFO:
        info = await _extra(work, "TseInfo", work.tse_info())
        state_data["TseInfo"] = None if info is None else notifications.tse_info(info)
        state_data["TransactionNumberDictionary"] = notifications.transaction_numbers(
            {row.cbReceiptReference: row.TransactionNumber for row in work.open_transactions()}
        )
    if work.flags & ReceiptFlag.SELF_TEST:
        await _extra(work, "Self test", work.ask("execute_self_test"))
        await _extra(work, "Set time", work.ask("execute_set_tse_time"))
    if work.training:
        notes.append(signatures.training(work.clock()))
    work.actions.append(
        Action(
            "2",
            "Zero receipt was processed.",
            notifications.to_json({"TseInfo": None if info is None else notifications.tse_info(info)}),
            priority=-1,
        )
    )
    return Outcome(
        [*work.special_signatures(start, finish, text), *deliver(work), *notes],
        f"IT{finish.transaction_number}",
        state=State.READY if recovery.complete else State.SCU_FAILED,
        state_data=notifications.to_json(state_data) if state_data else None,
        updates=updates,
    )


async def _extra(work: Work, what: str, call: Awaitable[_T]) -> _T | None:
    """Something asked for beside the signature: its failure is journalled, the signed answer stands."""
    try:
        return await call
    except ScuError as error:
        _log.warning("%s failed: %s", what, error)
        work.actions.append(Action(None, f"{what} failed: {error}"))
        return None


def _end_late_signing(work: Work, updates: dict[str, Any]) -> list[SignaturItem]:
    state = work.state
    now = work.clock()
    note = journalled(
        work,
        signatures.late_signing_closed(
            state.used_failed_count, state.used_failed_min or now, state.used_failed_max or now, now
        ),
    )
    updates.update(
        used_failed_count=0, used_failed_min=None, used_failed_max=None, used_failed_queue_item_id=None
    )
    return [note]
