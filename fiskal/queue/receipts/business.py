"""Receipts that finish a transaction with what happened: POS receipts, invoices, orders, other actions."""

from __future__ import annotations

import logging

from fiskal.germany import signatures
from fiskal.pos import SignaturItem
from fiskal.queue import checks
from fiskal.queue.effects import Outcome
from fiskal.queue.receipts import transactions
from fiskal.queue.work import Work, start_time

_log = logging.getLogger("fiskal.queue")


async def pos(work: Work) -> Outcome:
    """Kassenbeleg-V1: SIG-POS and the start of the action."""
    request = work.request
    if not request.balanced:
        _log.warning(
            "queue %s, reference %r: charge items and pay items do not have the same total",
            work.state.queue_id,
            work.reference,
        )
    suffix, items = await _finish(work)
    items.append(signatures.action_start(min(request.action_start_ticks, work.now)))
    return _answer(work, suffix, items)


async def other(work: Work) -> Outcome:
    """Bestellung-V1 and SonstigerVorgang of the POS: SIG-POS without the start of the action."""
    suffix, items = await _finish(work)
    return _answer(work, suffix, items)


def _answer(work: Work, suffix: str, items: list[SignaturItem]) -> Outcome:
    if work.training:
        items.append(signatures.training(work.clock()))
    return Outcome(items, suffix)


async def _finish(work: Work) -> tuple[str, list[SignaturItem]]:
    """Finish the transaction of this receipt, having started it if the flow is implicit."""
    request = work.request
    reference = work.reference
    known = work.open_transaction(reference)
    if work.implicit:
        if known is not None:
            await transactions.clear_orphan(work, known)
        start, finish = await work.implicit_transaction(
            reference, request.process_type, work.process_data_base64
        )
        start_signature, started = start.signature_data.signature_base64, start.time_stamp
        suffix = f"IT{finish.transaction_number}"
    else:
        if known is None:
            raise checks.no_transaction(reference)
        finish = await transactions.finish_open(work, known)
        work.effects.open[reference] = None
        start_signature, started = known.StartTransactionSignatureBase64, known.StartMoment
        suffix = f"T{finish.transaction_number}"
    items = work.signatures.receipt(
        start_signature,
        finish,
        start_time(finish, started),
        work.binding.certification_id,
        work.process_data,
    )
    return suffix, items
