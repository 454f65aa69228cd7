"""0x0003 and 0x0004: the start receipt that puts a queue into operation and the stop receipt that ends it.

Taking up work at a TSE and leaving it is the same for an SCU switch; :mod:`.switch` uses what is here.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from fiskal.errors import FiskalError, ReceiptRejected
from fiskal.germany import notifications, signatures, texts
from fiskal.germany.codes import ReceiptFlag, SignatureType
from fiskal.pos import SignaturItem
from fiskal.queue import checks
from fiskal.queue.effects import Action, Outcome
from fiskal.queue.receipts import reconcile
from fiskal.queue.receipts.transactions import close_open
from fiskal.queue.work import Work
from fiskal.scu.contract import (
    RegisterClientIdRequest,
    TseInfo,
    TseState,
    TseStates,
    UnregisterClientIdRequest,
)
from fiskal.scu.errors import ScuError, TseRejected

_log = logging.getLogger("fiskal.queue")


class NotInitialized(FiskalError):
    """The TSE is not in the state a start receipt needs."""

    code = "TSE_NOT_INITIALIZED"


class Connection(NamedTuple):
    """What taking up work at a TSE gave: SIG-TX of its first transaction and who signed it for whom."""

    signatures: list[SignaturItem]
    suffix: str
    client_id: str
    serial: str
    info: TseInfo | None


# ---- taking up work ---------------------------------------------------------------------------------


async def start(work: Work) -> Outcome:
    """Register the queue at its TSE and sign. A failing TSE is an error here, and the receipt repeatable."""
    if work.state.active:
        return await _start_again(work)
    made = await connect(work)
    text = describe(work, made.client_id, made.serial)
    message = f"{texts.START_RECEIPT}. {text}"
    notification = _notification(work, "IsStartReceipt", made.client_id, made.serial, made.info)
    work.actions.append(Action("4445000000000003-ActivateQueueSCU", message, notification, priority=-1))
    return Outcome(
        [
            *made.signatures,
            signatures.note(texts.START_RECEIPT, text),
            signatures.notification(message, notification),
        ],
        made.suffix,
        state_data=state_data(made.info),
        updates={"start_moment": work.clock()},
    )


async def connect(work: Work) -> Connection:
    """Bring the TSE into operation, register the queue there and prove it with a transaction.

    With the flag client-id-only the TSE must be in operation already. Every step may be repeated. Raises
    ScuError or NotInitialized.
    """
    client_id = work.state.cash_box_identification
    if not work.flags & ReceiptFlag.CLIENT_ONLY:
        await work.ask("set_tse_state", TseState(current_state=TseStates.INITIALIZED))
    if (await work.tse_info()).current_state != TseStates.INITIALIZED:
        raise NotInitialized(
            "TSE device is not in awaited lifecycle state 'Initialized'. Can not process 'Initial Operations "
            "Receipt'."
        )
    await work.ask("register_client_id", RegisterClientIdRequest(client_id=client_id))
    start_response, finish, text = await work.special_transaction()
    info = await _info_after(work)
    return Connection(
        work.special_signatures(start_response, finish, text),
        f"IT{finish.transaction_number}",
        finish.client_id,
        finish.tse_serial_number_octet,
        info,
    )


async def _start_again(work: Work) -> Outcome:
    work.actions.append(
        Action(
            None,
            f"Queue {work.state.queue_id} is activated, initial-operations-receipt can not be executed.",
        )
    )
    start_response, finish, text = await work.special_transaction()
    return Outcome(work.special_signatures(start_response, finish, text), f"IT{finish.transaction_number}")


# ---- leaving ----------------------------------------------------------------------------------------


async def stop(work: Work) -> Outcome:
    """Sign, deregister and stop. The queue is stopped even when the TSE is out of reach."""
    outcome = await leave(work)
    info = work.binding.info
    client_id = work.state.cash_box_identification
    serial = info.serial_number_octet if info else ""
    text = describe(work, client_id, serial)
    message = f"{texts.STOP_RECEIPT}. {text}"
    notification = _notification(work, "IsStopReceipt", client_id, serial, info)
    if outcome.suffix:
        outcome.signatures.append(signatures.note(texts.STOP_RECEIPT, text))
        outcome.signatures.append(
            signatures.notification(message, notification, SignatureType.OUT_OF_OPERATION_NOTIFICATION)
        )
    work.actions.append(Action("4445000000000004-DeactivateQueueSCU", message, notification, priority=-1))
    outcome.updates = {"stop_moment": work.clock()}
    return outcome


async def leave(work: Work) -> Outcome:
    """Close what is open, sign for the last time, archive the TSE's log and deregister.

    The outcome is empty if the TSE cannot sign. Unless the flag client-id-only is set the TSE is terminated,
    which is irreversible: only when no other client is registered on it, or when the settings allow it.
    Raises ReceiptRejected before anything is done if there are others.
    """
    terminate = not work.flags & ReceiptFlag.CLIENT_ONLY
    if terminate:
        await _check_nobody_else(work)
    try:
        outcome = await _sign_last(work)
    except ScuError as error:
        _log.warning("queue %s leaves without a signature: %s", work.state.queue_id, error)
        what = checks.name(work)
        work.actions.append(Action(None, f"{what} was processed without a signature of the TSE: {error}"))
        if isinstance(error, TseRejected):  # it answers, so that it can let the client go
            await _export_last(work)
            await _deregister(work, terminate)
        return Outcome([])
    await _export_last(work)
    await _deregister(work, terminate)
    return outcome


async def _export_last(work: Work) -> None:
    """Archive the log before the queue has no TSE any more; a terminated one erases nothing."""
    if not work.flags & ReceiptFlag.BYPASS_TAR_EXPORT:
        await work.export()


async def _sign_last(work: Work) -> Outcome:
    await reconcile.if_needed(work)  # what a lost start left open would keep the client registered
    await close_open(work)
    start_response, finish, text = await work.special_transaction()
    return Outcome(
        work.special_signatures(start_response, finish, text),
        f"IT{finish.transaction_number}",
        state_data=state_data(await _info_after(work)),
    )


async def _check_nobody_else(work: Work) -> None:
    """Refuse to take the TSE away from others."""
    if work.settings.terminate_shared_tse:
        return
    try:
        info = await work.tse_info()
    except ScuError:
        return  # whether it is terminated is decided when it lists who is left
    others = [client for client in info.current_client_ids if client != work.state.cash_box_identification]
    if others:
        raise ReceiptRejected(
            "TSE_SHARED",
            f"The TSE {info.serial_number_octet} is also used by {', '.join(others)}. {checks.name(work)}s "
            "terminate the TSE, which is irreversible.",
            field="ftReceiptCase",
            hint="Add 0x0000000001000000 to ftReceiptCase to deregister only this client.",
        )


async def _deregister(work: Work, terminate: bool) -> None:
    """After the signature everything is best effort: the receipt stands whatever happens here."""
    try:
        left: list[str] = (
            await work.ask(
                "unregister_client_id",
                UnregisterClientIdRequest(client_id=work.state.cash_box_identification),
            )
        ).client_ids
        if not terminate:
            return
        if left and not work.settings.terminate_shared_tse:
            work.actions.append(
                Action(None, f"The TSE was not terminated: it is also used by {', '.join(left)}.")
            )
            return
        await work.ask("set_tse_state", TseState(current_state=TseStates.TERMINATED))
    except ScuError as error:
        _log.warning("the TSE did not let queue %s go: %s", work.state.queue_id, error)
        work.actions.append(Action(None, f"The TSE did not deregister the client: {error}"))


# ---- texts ------------------------------------------------------------------------------------------


def describe(work: Work, client_id: str, serial: str) -> str:
    """Which register, which TSE, which queue: the text of every life cycle receipt."""
    return f"Kassenseriennummer: {client_id}, TSE-Seriennummer: {serial}, Queue-ID: {work.state.queue_id}"


def state_data(info: TseInfo | None) -> str | None:
    """ftStateData of a life cycle receipt."""
    return None if info is None else notifications.to_json({"TseInfo": notifications.tse_info(info)})


async def _info_after(work: Work) -> TseInfo | None:
    """TseInfo for the answer; the signature exists already, so its failure must not fail the receipt."""
    await work.refresh()
    return work.binding.info


def _notification(work: Work, kind: str, client_id: str, serial: str, info: TseInfo | None) -> str:
    return notifications.activation(
        kind,
        cash_box_id=work.request.cash_box_id or "",
        queue_id=work.state.queue_id,
        moment=work.clock(),
        client_id=client_id,
        scu_id=work.binding.scu_id,
        algorithm=info.signature_algorithm if info else "",
        public_key_base64=info.public_key_base64 if info else "",
        serial=serial,
    )
