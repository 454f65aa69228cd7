"""0x0003 and 0x0004: the start receipt that puts a queue into operation and the stop receipt that ends it."""

from __future__ import annotations

import logging

from fiskal.errors import FiskalError, ReceiptRejected
from fiskal.germany import notifications, signatures, texts
from fiskal.germany.codes import ReceiptFlag, SignatureType
from fiskal.queue.receipts.transactions import close_open
from fiskal.queue.work import Action, Outcome, Work
from fiskal.scu.contract import (
    RegisterClientIdRequest,
    TseInfo,
    TseState,
    TseStates,
    UnregisterClientIdRequest,
)
from fiskal.scu.errors import ScuError

_log = logging.getLogger("fiskal.queue")


class NotInitialized(FiskalError):
    """The TSE is not in the state a start receipt needs."""

    code = "TSE_NOT_INITIALIZED"


def start(work: Work) -> Outcome:
    """Register the queue at its TSE and sign. A failing TSE is an error here, and the receipt repeatable."""
    if work.state.active:
        return _start_again(work)
    scu = work.binding.scu
    client_id = work.state.cash_box_identification
    if not work.flags & ReceiptFlag.CLIENT_ONLY:
        scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED), work.deadline())
    if work.tse_info().current_state != TseStates.INITIALIZED:
        raise NotInitialized(
            "TSE device is not in awaited lifecycle state 'Initialized'. Can not process 'Initial Operations "
            "Receipt'."
        )
    scu.register_client_id(RegisterClientIdRequest(client_id=client_id), work.deadline())
    start_response, finish, text = work.special_transaction()
    info = _info_after(work)
    items = work.special_signatures(start_response, finish, text)
    note_text = (
        f"Kassenseriennummer: {finish.client_id}, TSE-Seriennummer: {finish.tse_serial_number_octet}, "
        f"Queue-ID: {work.state.queue_id}"
    )
    message = f"{texts.START_RECEIPT}. {note_text}"
    notification = _notification(
        work, "IsStartReceipt", finish.client_id, finish.tse_serial_number_octet, info
    )
    items.append(signatures.note(texts.START_RECEIPT, note_text))
    items.append(signatures.notification(message, notification))
    work.actions.append(Action("4445000000000003-ActivateQueueSCU", message, notification, priority=-1))
    return Outcome(
        items,
        f"IT{finish.transaction_number}",
        state_data=_state_data(info),
        updates={"start_moment": work.clock()},
    )


def _start_again(work: Work) -> Outcome:
    work.actions.append(
        Action(
            None,
            f"Queue {work.state.queue_id} is activated, initial-operations-receipt can not be executed.",
        )
    )
    start_response, finish, text = work.special_transaction()
    return Outcome(work.special_signatures(start_response, finish, text), f"IT{finish.transaction_number}")


def stop(work: Work) -> Outcome:
    """Sign, deregister and stop. The queue is stopped even when the TSE is out of reach.

    The TSE is terminated only when this queue is its last client, or when the settings allow it.
    """
    terminate = not work.flags & ReceiptFlag.CLIENT_ONLY
    if terminate:
        _check_nobody_else(work)
    try:
        outcome = _sign_stop(work)
    except ScuError as error:
        _log.warning("queue %s stops without its TSE: %s", work.state.queue_id, error)
        work.actions.append(Action(None, f"The queue was stopped without its TSE: {error}"))
        outcome = Outcome([])
    else:
        _leave_tse(work, terminate)
    info = work.binding.info
    serial = info.serial_number_octet if info else ""
    note_text = (
        f"Kassenseriennummer: {work.state.cash_box_identification}, TSE-Seriennummer: {serial}, "
        f"Queue-ID: {work.state.queue_id}"
    )
    message = f"{texts.STOP_RECEIPT}. {note_text}"
    notification = _notification(work, "IsStopReceipt", work.state.cash_box_identification, serial, info)
    if outcome.suffix:
        outcome.signatures.append(signatures.note(texts.STOP_RECEIPT, note_text))
        outcome.signatures.append(
            signatures.notification(message, notification, SignatureType.OUT_OF_OPERATION_NOTIFICATION)
        )
    work.actions.append(Action("4445000000000004-DeactivateQueueSCU", message, notification, priority=-1))
    outcome.updates = {"stop_moment": work.clock()}
    return outcome


def _sign_stop(work: Work) -> Outcome:
    close_open(work)
    start_response, finish, text = work.special_transaction()
    return Outcome(
        work.special_signatures(start_response, finish, text),
        f"IT{finish.transaction_number}",
        state_data=_state_data(_info_after(work)),
    )


def _check_nobody_else(work: Work) -> None:
    """A stop receipt must never take the TSE away from others (terminating is irreversible)."""
    if work.settings.terminate_shared_tse:
        return
    try:
        info = work.tse_info()
    except ScuError:
        return  # out of reach: it cannot be terminated either
    others = [client for client in info.current_client_ids if client != work.state.cash_box_identification]
    if others:
        raise ReceiptRejected(
            "TSE_SHARED",
            f"The TSE {info.serial_number_octet} is also used by {', '.join(others)}. A stop receipt "
            "terminates the TSE, which is irreversible.",
            field="ftReceiptCase",
            hint="Add 0x0000000001000000 to ftReceiptCase to deregister only this client.",
        )


def _leave_tse(work: Work, terminate: bool) -> None:
    """After the signed stop everything is best effort: the receipt stands whatever happens here."""
    scu = work.binding.scu
    try:
        scu.unregister_client_id(
            UnregisterClientIdRequest(client_id=work.state.cash_box_identification), work.deadline()
        )
        if terminate:
            scu.set_tse_state(TseState(current_state=TseStates.TERMINATED), work.deadline())
    except ScuError as error:
        _log.warning("the TSE did not let queue %s go: %s", work.state.queue_id, error)
        work.actions.append(Action(None, f"The TSE did not deregister the client: {error}"))


def _info_after(work: Work) -> TseInfo | None:
    """TseInfo for the answer; the signature exists already, so its failure must not fail the receipt."""
    work.binding.refresh()
    return work.binding.info


def _state_data(info: TseInfo | None) -> str | None:
    return None if info is None else notifications.to_json({"TseInfo": notifications.tse_info(info)})


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
