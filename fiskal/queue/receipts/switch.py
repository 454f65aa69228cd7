"""0x0017 and 0x0018: the queue leaves one SCU and takes up work at another, or goes back.

Between the two receipts the queue has no SCU. The answer of a receipt and the SCU of the queue are stored
together, so a receipt that fails or is interrupted changes neither and can simply be sent again.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from fiskal.core import format_ticks
from fiskal.errors import ReceiptRejected
from fiskal.germany import notifications, signatures, texts
from fiskal.germany.codes import ReceiptCase, ReceiptFlag
from fiskal.queue.effects import Action, Outcome, Switch
from fiskal.queue.identity import parse_guid
from fiskal.queue.receipts import closings, lifecycle, transactions
from fiskal.queue.work import Work
from fiskal.scu.contract import TseInfo
from fiskal.scu.errors import ScuError
from fiskal.store.interface import DoubtfulStartRow, FailedTransactionRow

_log = logging.getLogger("fiskal.queue")

INITIATED: Final = "4445000000000003-InitiateSCUSwitch"
FINISHED: Final = "4445000000000003-FinishSCUSwitch"

SOURCE_MODE: Final = 0x1_0000
TARGET_MODE: Final = 0x2_0000


class _Initiated(msgspec.Struct):
    source_id: str = msgspec.field(name="SourceSCUId")
    target_id: str = msgspec.field(name="TargetSCUId")


class _Closing(msgspec.Struct):
    number: int = msgspec.field(name="ftReceiptNumerator")


_SWITCHES = frozenset({ReceiptCase.INITIATE_SCU_SWITCH, ReceiptCase.FINISH_SCU_SWITCH})


def connects(work: Work) -> bool:
    """Does this receipt take up work at an SCU: is it a finish, or the void of an initiate receipt?"""
    if work.case not in _SWITCHES:
        return False
    return work.case == ReceiptCase.FINISH_SCU_SWITCH or bool(work.flags & ReceiptFlag.VOID)


def bind(work: Work) -> Switch:
    """Let a receipt that connects work at the SCU it is about. Raises ReceiptRejected if there is no switch."""
    found = work.lookups.last_action(INITIATED)
    switch = None
    if found is not None and found.DataJson:
        data = msgspec.json.decode(found.DataJson, type=_Initiated)
        switch = Switch(data.source_id, data.target_id)
    voids = work.case == ReceiptCase.INITIATE_SCU_SWITCH
    scu_id = None if switch is None else switch.source_id if voids else switch.target_id
    if switch is None or scu_id is None or work.state.scu_id not in (None, scu_id):
        if voids:
            raise ReceiptRejected(
                "SCU_SWITCH_NOT_IN_PROGRESS",
                "The SCU switch can't be voided because it is not in progress.",
                field="ftReceiptCase",
                hint="Only between initiate-scu-switch (0x0017) and finish-scu-switch (0x0018) is there "
                "something to void.",
            )
        raise ReceiptRejected(
            "SCU_SWITCH_NOT_INITIATED",
            "The SCU switch must be initiated with a initiate-scu-switch receipt.",
            field="ftReceiptCase",
            hint="Send a daily closing (0x0007), then initiate-scu-switch (0x0017).",
        )
    binding = work.lookups.binding(scu_id)
    if binding is None:
        raise ReceiptRejected(
            "SCU_NOT_CONFIGURED",
            f"The SCU {scu_id} of the SCU switch is not in the local configuration.",
            hint="Put it back into 'scus' of fiskal.json and restart; then send this receipt again.",
        )
    work.use(binding)
    return switch


# ---- leaving the source -----------------------------------------------------------------------------


async def initiate(work: Work) -> Outcome:
    """0x0017: sign for the last time at the source and let it go. It may be out of reach."""
    if connects(work):
        return await _void(work)
    await _check_moment(work)
    target_id = _check_modes(work)
    outcome = await lifecycle.leave(work)
    binding = work.binding
    info = binding.info
    serial = info.serial_number_octet if info else ""
    text = lifecycle.describe(work, work.state.cash_box_identification, serial)
    message = f"{texts.DISCONNECTED}. {text}, SCU-ID: {binding.scu_id}"
    notification = _notification(
        work,
        "SourceSCU",
        Switch(binding.scu_id, target_id),
        work.state.cash_box_identification,
        serial,
        info,
    )
    if outcome.suffix:
        outcome.signatures.append(signatures.note(texts.DISCONNECT_RECEIPT, text))
        outcome.signatures.append(signatures.notification(message, notification))
    work.actions.append(Action(INITIATED, message, notification, priority=-1))
    outcome.updates = {"scu_id": None}
    return outcome


async def _check_moment(work: Work) -> None:
    """Right after a daily closing, unless forced or the source is out of reach."""
    if work.flags & ReceiptFlag.FORCE_SCU_SWITCH:
        return
    closing = work.lookups.last_action(*closings.DAILY_TYPES)
    if closing is not None and closing.DataJson:
        number = msgspec.json.decode(closing.DataJson, type=_Closing).number
        if number == work.state.receipt_numerator:
            return
    try:
        await work.tse_info()
    except ScuError as error:
        _log.warning("queue %s: the source of the SCU switch does not answer: %s", work.state.queue_id, error)
        return
    raise ReceiptRejected(
        "SCU_SWITCH_WITHOUT_CLOSING",
        f"ReceiptCase {work.case_text} (initiate-scu-switch-receipt) can only be called right after a "
        "daily-closing receipt.If no daily-closing receipt can be done or the tse is not reachable use the "
        "Initiate-ScuSwitch-Force-Flag.",
        field="ftReceiptCase",
        hint="Send a daily closing (0x0007) first, or add 0x0000000040000000 to ftReceiptCase.",
    )


def _check_modes(work: Work) -> str:
    """Both SCUs were prepared in the configuration and name each other. The id of the target."""
    source = work.binding.row
    source_id = work.binding.scu_id
    target_id = _partner(source.ModeConfigurationJson, "TargetScuId")
    if not source.Mode & SOURCE_MODE or target_id is None:
        raise ReceiptRejected(
            "SCU_SWITCH_SOURCE",
            "The source SCU is not set up correctly for an SCU switch in the local configuration. "
            f"(Source SCU: {source_id}, Mode: {source.Mode}, "
            f"ModeConfigurationJson: {source.ModeConfigurationJson or ''})",
            hint=f'Give this SCU "mode": {SOURCE_MODE} and "mode_configuration_json": '
            '{"TargetScuId": "…"} in fiskal.json and restart.',
        )
    binding = work.lookups.binding(target_id)
    target = None if binding is None else binding.row
    if (
        target is None
        or not target.Mode & TARGET_MODE
        or _partner(target.ModeConfigurationJson, "SourceScuId") != source_id
    ):
        mode = "" if target is None else target.Mode
        configuration = (target and target.ModeConfigurationJson) or ""
        raise ReceiptRejected(
            "SCU_SWITCH_TARGET",
            "The target SCU is not set up correctly for an SCU switch in the local configuration. "
            f"(Target SCU: {target_id}, Mode: {mode}, ModeConfigurationJson: {configuration})",
            hint=f'Give the target SCU "mode": {TARGET_MODE} and "mode_configuration_json": '
            f'{{"SourceScuId": "{source_id}"}} in fiskal.json and restart.',
        )
    return target_id


def _partner(configuration: str | None, member: str) -> str | None:
    """The SCU id that ModeConfigurationJson names, None if it names none."""
    try:
        found = msgspec.json.decode(configuration or "", type=dict[str, object])
    except msgspec.DecodeError:
        return None
    for name, value in found.items():
        if name.lower() == member.lower() and isinstance(value, str):
            return parse_guid(value)
    return None


# ---- taking up work at the target, or at the source again -------------------------------------------


async def finish(work: Work) -> Outcome:
    """0x0018: take up work at the target; what was open at the source is forgotten."""
    switch = _switch(work)
    made = await lifecycle.connect(work)
    if work.state.scu_id is None:
        _drop_recovered(work, switch.source_id)
    return _connected(work, switch, made)


async def _void(work: Work) -> Outcome:
    """0x0017 with the flag void: take up work at the source again, as if nothing had been."""
    initiated = _switch(work)
    switch = Switch(initiated.source_id, initiated.source_id)
    try:
        made = await lifecycle.connect(work)
    except (ScuError, lifecycle.NotInitialized) as error:
        if not work.flags & ReceiptFlag.FORCE_SCU_SWITCH:
            raise
        _log.warning("queue %s goes back to its SCU without the TSE: %s", work.state.queue_id, error)
        work.actions.append(Action(None, f"The SCU switch was voided without its TSE: {error}"))
        message = f"{texts.CONNECTED}. Queue-ID: {work.state.queue_id}, SCU-ID: {switch.target_id}"
        client_id = work.state.cash_box_identification
        notification = _notification(work, "TargetSCU", switch, client_id, "", None)
        _drop_foreign(work)
        work.actions.append(Action(FINISHED, message, notification, priority=-1))
        return Outcome([signatures.notification(message, notification)], updates={"scu_id": switch.target_id})
    return _connected(work, switch, made)


def _connected(work: Work, switch: Switch, made: lifecycle.Connection) -> Outcome:
    _drop_foreign(work)
    text = lifecycle.describe(work, made.client_id, made.serial)
    message = f"{texts.CONNECTED}. {text}, SCU-ID: {switch.target_id}"
    notification = _notification(work, "TargetSCU", switch, made.client_id, made.serial, made.info)
    work.actions.append(Action(FINISHED, message, notification, priority=-1))
    return Outcome(
        [
            *made.signatures,
            signatures.note(texts.CONNECT_RECEIPT, text),
            signatures.notification(message, notification),
        ],
        made.suffix,
        state_data=lifecycle.state_data(made.info),
        updates={"scu_id": switch.target_id},
    )


def _switch(work: Work) -> Switch:
    assert work.switch is not None  # the queue binds every receipt that connects
    return work.switch


def _drop_foreign(work: Work) -> None:
    """Drop the rows of other SCUs: their numbers could meet transactions of others at this one."""
    scu_id = work.binding.scu_id
    effects, table = work.effects, work.transactions
    for row in list(table.open.values()):
        if row.scu_id != scu_id:
            effects.open[row.cbReceiptReference] = None
            _journal_dropped(
                work,
                f"open transaction {row.TransactionNumber}",
                row.scu_id,
                transactions.open_transaction_json(row),
            )
    for failed in list(table.failed_finishes.values()):
        if failed.scu_id != scu_id:
            effects.failed_finishes[failed.cbReceiptReference] = None
            what = f"failed finish-transaction {failed.TransactionNumber}"
            _journal_dropped(work, what, failed.scu_id, _failed_json(failed, "FinishMoment"))
    for failed in list(table.failed_starts.values()):
        if failed.scu_id != scu_id:
            effects.failed_starts[failed.cbReceiptReference] = None
            what = f"failed start-transaction '{failed.cbReceiptReference}'"
            _journal_dropped(work, what, failed.scu_id, _failed_json(failed, "StartMoment"))
    for doubt in list(table.doubtful_starts.values()):
        if doubt.scu_id != scu_id:
            effects.doubtful_starts[doubt.ftQueueItemId] = None
            what = f"start for queue item {doubt.ftQueueItemId}, which had no answer,"
            _journal_dropped(work, what, doubt.scu_id, _doubtful_json(doubt))


def _drop_recovered(work: Work, scu_id: str) -> None:
    """What was recovered at the source and stands in no answer yet: it is signed, and the journal entry keeps its
    signatures. An answer of another TSE, which has the same numbers for other transactions, is no place for them."""
    for row in work.undelivered():
        work.effects.recovered[row.ftQueueItemId] = row._replace(DeliveredBy=work.item_id)
        what = "start" if row.tse_calls.startswith("S") else "finish"
        _journal_dropped(work, f"recovered {what} for queue item {row.ftQueueItemId}", scu_id, row.Signatures)


def _journal_dropped(work: Work, what: str, scu_id: str, row: str) -> None:
    message = f"Removed {what} from the database, which belongs to SCU {scu_id}."
    work.actions.append(Action(transactions.DROPPED, message, row, priority=-1))


def _failed_json(row: FailedTransactionRow, moment: str) -> str:
    data = {} if moment == "StartMoment" else {"TransactionNumber": row.TransactionNumber}
    return notifications.to_json(
        {
            **data,
            moment: format_ticks(row.Moment),
            "ftQueueItemId": row.ftQueueItemId,
            "CashBoxIdentification": row.CashBoxIdentification,
            "Request": row.Request,
            "cbReceiptReference": row.cbReceiptReference,
        }
    )


def _doubtful_json(row: DoubtfulStartRow) -> str:
    return notifications.to_json(
        {
            "StartMoment": format_ticks(row.Moment),
            "ftQueueItemId": row.ftQueueItemId,
            "CashBoxIdentification": row.CashBoxIdentification,
            "cbReceiptReference": row.cbReceiptReference,
        }
    )


def _notification(
    work: Work, side: str, switch: Switch, client_id: str, serial: str, info: TseInfo | None
) -> str:
    return notifications.scu_switch(
        side,
        cash_box_id=work.request.cash_box_id or "",
        queue_id=work.state.queue_id,
        moment=work.clock(),
        client_id=client_id,
        source_id=switch.source_id,
        target_id=switch.target_id,
        algorithm=info.signature_algorithm if info else "",
        public_key_base64=info.public_key_base64 if info else "",
        serial=serial,
    )
