"""Which kind of receipt it is: one table from the case to what is true of it and to the function that works it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from fiskal.germany.codes import ReceiptCase, ReceiptFlag
from fiskal.queue import checks, identity, modes
from fiskal.queue.effects import Outcome
from fiskal.queue.facts import Flow, Kind
from fiskal.queue.receipts import business, closings, lifecycle, switch, transactions, zero
from fiskal.queue.work import Work
from fiskal.scu.errors import ClientError, NotSupported, ScuError

_log = logging.getLogger("fiskal.queue")

Handler = Callable[[Work], Awaitable[Outcome]]


class Row(NamedTuple):
    """A line of the table; ``check`` is made before anything is signed."""

    kind: Kind
    handler: Handler
    check: Callable[[Work], None] | None = None


def _special(**facts: bool) -> Kind:
    return Kind(flow=Flow.IMPLICIT, is_special=True, **{"may_train": False, **facts})


_STEP: Final = Kind(flow=Flow.EXPLICIT)

CASES: Final[dict[int, Row]] = {
    ReceiptCase.ZERO: Row(_special(may_train=True, asks_in_failed_mode=True), zero.zero),
    ReceiptCase.INITIAL_OPERATION: Row(_special(must_reach_tse=True, bound_to_tse=True), lifecycle.start),
    ReceiptCase.OUT_OF_OPERATION: Row(
        _special(asks_in_failed_mode=True, leaves_tse=True, bound_to_tse=True), lifecycle.stop
    ),
    ReceiptCase.MONTHLY_CLOSING: Row(_special(is_closing=True), closings.monthly_or_yearly),
    ReceiptCase.YEARLY_CLOSING: Row(_special(is_closing=True), closings.monthly_or_yearly),
    ReceiptCase.DAILY_CLOSING: Row(_special(is_closing=True), closings.daily),
    ReceiptCase.START_TRANSACTION: Row(_STEP._replace(bound_to_tse=True), transactions.start),
    ReceiptCase.UPDATE_TRANSACTION: Row(_STEP, transactions.update),
    ReceiptCase.DELTA_TRANSACTION: Row(_STEP, transactions.update),
    ReceiptCase.FAIL_TRANSACTION: Row(
        Kind(flow=Flow.FAIL, asks_in_failed_mode=True), transactions.fail, transactions.check_case_data
    ),
    ReceiptCase.INITIATE_SCU_SWITCH: Row(
        _special(asks_in_failed_mode=True, must_reach_tse=True, leaves_tse=True, bound_to_tse=True),
        switch.initiate,
    ),
    ReceiptCase.FINISH_SCU_SWITCH: Row(
        _special(asks_in_failed_mode=True, must_reach_tse=True, bound_to_tse=True), switch.finish
    ),
    ReceiptCase.MIGRATION: Row(_special(bound_to_tse=True), closings.migration),
}

BUSINESS: Final = Kind()
"""Every other case: receipts, invoices, orders, other actions."""


def kind_of(receipt_case: int) -> Kind:
    """What is true of the case in the low 16 bits of an ftReceiptCase."""
    row = CASES.get(receipt_case & 0xFFFF)
    return BUSINESS if row is None else row.kind


_AFTERWARDS: Final = ReceiptFlag.FAILED_RECEIPT | ReceiptFlag.HANDWRITTEN


async def decide(work: Work) -> Outcome:
    """Find the kind of a receipt and let it work; the first matching rule wins (dispatch order of the reference).

    Raises ReceiptRejected for what the POS did wrong, ScuError for a call that a TSE will never take or a receipt that
    must reach its TSE, StoreError.
    """
    state = work.state
    case, flags, kind = work.case, work.flags, work.kind
    if not state.active and (case != ReceiptCase.INITIAL_OPERATION or state.stopped):
        return modes.disabled_queue(work)
    row = CASES.get(case)
    identity.check_case(work.request)
    checks.known_case(work)
    if row is not None and row.check is not None:
        row.check(work)
    checks.payload(work)
    connects = switch.connects(work)
    if state.scu_id is None and not connects:
        return modes.disabled_scu(work)
    if flags & _AFTERWARDS:
        return modes.late_signing(work) if flags & ReceiptFlag.FAILED_RECEIPT else modes.handwritten(work)
    checks.flow(work)
    checks.size(work)
    if state.fail_count > 0 and not kind.asks_in_failed_mode:
        return modes.failed(work)
    if connects:
        work.switch = switch.bind(work)
    if row is not None:
        handler = row.handler
    else:
        handler = business.pos if work.request.process_type == "Kassenbeleg-V1" else business.other
    try:
        return await handler(work)
    except (ClientError, NotSupported):
        raise
    except ScuError as error:
        if kind.must_reach_tse:
            raise
        _log.warning("queue %s: TSE failed: %s %s", state.queue_id, error.code, error)
        work.binding.signed_at = None
        return modes.failed(work, error)
