"""In which mode is each queue, since when, why, and what to do about it: from the journal, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Literal

import msgspec

from fiskal.clock import TICKS_PER_SECOND
from fiskal.core import format_ticks
from fiskal.host.events import TseReport
from fiskal.queue.modes import WHY
from fiskal.queue.receipts import closings, switch
from fiskal.store import QueueRow, Store

Level = Literal["good", "note", "bad"]
Mode = Literal["new", "active", "failed", "late signing", "switching", "stopped", "migrated"]

CLOSING_EXPECTED_S = 36 * 3600
"""A day's business and the night after it."""

MOST_ACTIONS = 10_000
"""Journal entries that are searched for a reason."""


class Finding(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One thing found. ``bad`` needs somebody to act, a ``note`` should be known. ``since`` is a moment in
    ISO 8601 or None; ``why`` and ``todo`` may be empty."""

    level: Level
    code: str
    text: str
    since: str | None = None
    why: str = ""
    todo: str = ""


class QueueDiagnosis(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One queue. ``modes`` are all that hold: failed mode and late signing may at the same time."""

    queue_id: str
    client_id: str
    scu_id: str | None
    modes: list[Mode]
    findings: list[Finding]
    tse: TseReport | None = None

    @property
    def bad(self) -> bool:
        return any(finding.level == "bad" for finding in self.findings)


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A whole host. ``ok`` means that nothing is bad."""

    ok: bool
    findings: list[Finding]
    queues: list[QueueDiagnosis]


def diagnosis(findings: list[Finding], queues: list[QueueDiagnosis]) -> Diagnosis:
    ok = not any(found.level == "bad" for found in findings) and not any(queue.bad for queue in queues)
    return Diagnosis(ok=ok, findings=findings, queues=queues)


def failure_reasons(store: Store, row: QueueRow) -> tuple[str, str]:
    """Why the queue entered failed mode, and why it could not leave it the last time; empty if unknown."""
    first = last = ""
    if row.SSCDFailMoment is not None:
        for action in islice(store.iter_actions(row.ftQueueId, row.SSCDFailMoment), MOST_ACTIONS):
            if action.Message.startswith(WHY):
                last = action.Message[len(WHY) :].partition("): ")[2]
                first = first or last
    return first, last if last != first else ""


def examine(
    store: Store, now: int, reports: Mapping[str, TseReport], scu_names: Mapping[str, str]
) -> list[QueueDiagnosis]:
    """All queues of a store at the moment ``now`` (ticks). ``reports`` are what the TSEs answered, by SCU id."""
    return [_examine(store, row, now, reports, scu_names) for row in store.queues()]


def _examine(
    store: Store, row: QueueRow, now: int, reports: Mapping[str, TseReport], scu_names: Mapping[str, str]
) -> QueueDiagnosis:
    scu_id = row.ftSignaturCreationUnitDEId
    report = None if scu_id is None else reports.get(scu_id)
    modes: list[Mode] = []
    findings: list[Finding] = []
    if store.last_action(row.ftQueueId, closings.MIGRATION_TYPE) is not None:
        modes.append("migrated")
        findings.append(_migrated())
    elif row.StopMoment is not None:
        modes.append("stopped")
        findings.append(_stopped(row))
    elif row.StartMoment is None:
        modes.append("new")
        findings.append(_new(row))
    elif scu_id is None:
        modes.append("switching")
        findings.append(_switching(store, row))
    else:
        if row.SSCDFailCount > 0:
            modes.append("failed")
            findings.append(_failed(store, row, report))
        if row.UsedFailedCount > 0:
            modes.append("late signing")
            findings.append(_late(row))
        if not modes:
            modes.append("active")
            findings.append(_active(row, scu_names.get(scu_id, ""), report))
        findings += _open(store, row, now)
        findings += _closing(store, row, now)
    return QueueDiagnosis(
        queue_id=row.ftQueueId,
        client_id=row.CashBoxIdentification,
        scu_id=scu_id,
        modes=modes,
        findings=findings,
        tse=report,
    )


def _moment(ticks: int | None) -> str | None:
    return None if ticks is None else format_ticks(ticks)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _new(row: QueueRow) -> Finding:
    used = row.ftCurrentRow > 0
    return Finding(
        level="bad" if used else "note",
        code="NEW",
        text="The queue is not in operation yet: receipts are journalled, none is signed."
        + (f" It has already got {row.ftCurrentRow}." if used else ""),
        todo="Send the start receipt (0x0003), once in the life of a queue.",
    )


def _stopped(row: QueueRow) -> Finding:
    return Finding(
        level="note",
        code="STOPPED",
        text="The queue was taken out of operation for good: it signs nothing more.",
        since=_moment(row.StopMoment),
        todo="To sell on, put a new queue into fiskal.json and send its start receipt.",
    )


def _migrated() -> Finding:
    return Finding(
        level="note",
        code="MIGRATED",
        text="The queue was migrated: it goes on in another installation and signs nothing here.",
        todo="Keep this installation for its journals.",
    )


def _switching(store: Store, row: QueueRow) -> Finding:
    action = store.last_action(row.ftQueueId, switch.INITIATED)
    return Finding(
        level="bad",
        code="SCU_SWITCH",
        text="An SCU switch is in progress: receipts are journalled, none is signed.",
        since=_moment(action.Moment if action else None),
        why="An initiate-SCU-switch receipt was processed, and no finish-SCU-switch receipt yet.",
        todo="Send the finish-SCU-switch receipt (0x0018), or go back with 0x0017 and the flag 0x00040000.",
    )


def _failed(store: Store, row: QueueRow, report: TseReport | None) -> Finding:
    why, last = failure_reasons(store, row)
    if last:
        why = f"{why} The last attempt to leave it failed: {last}"
    zero = "send a zero receipt (0x0002): only that leaves failed mode"
    if report is None or report.reachable is None:
        todo = f"See that the TSE is connected and powered, then {zero}."
    elif report.ready:
        todo = f"The TSE answers again: {zero}."
    elif report.reachable:
        todo = f"The TSE answers, but cannot sign: {report.text} Put that right, then {zero}."
    else:
        told = "" if report.text in why else f": {report.text}"
        todo = f"The TSE still does not answer{told or '.'} Bring it back, then {zero}."
    return Finding(
        level="bad",
        code="FAILED_MODE",
        text=f"The queue is in failed mode: {_count(row.SSCDFailCount, 'receipt')} got no signature of the TSE, "
        "and it is not asked any more. Selling goes on, every receipt is journalled.",
        since=_moment(row.SSCDFailMoment),
        why=why,
        todo=todo,
    )


def _late(row: QueueRow) -> Finding:
    first, last = _moment(row.UsedFailedMomentMin), _moment(row.UsedFailedMomentMax)
    return Finding(
        level="bad",
        code="LATE_SIGNING",
        text=f"Late signing is open: {_count(row.UsedFailedCount, 'receipt')} came with the flag 0x00010000.",
        since=first,
        why=f"The POS could not reach the middleware for its receipts from {first} to {last}.",
        todo="When all of them are sent, send a zero receipt (0x0002).",
    )


def _active(row: QueueRow, driver: str, report: TseReport | None) -> Finding:
    if report is not None and report.reachable is not None and not report.ready:
        return Finding(
            level="bad",
            code="TSE_UNREACHABLE" if not report.reachable else "TSE_NOT_READY",
            text="The queue is in operation, but its TSE cannot sign: the next receipt enters failed mode.",
            why=report.text,
            todo="Bring the TSE back before the next receipt.",
        )
    test = " Its TSE is the software TSE, which is not certified." if driver == "software" else ""
    return Finding(
        level="good",
        code="ACTIVE",
        text=f"The queue is in operation and signs; {_count(row.ftReceiptNumerator, 'receipt')} so far.{test}",
        since=_moment(row.StartMoment),
    )


def _open(store: Store, row: QueueRow, now: int) -> list[Finding]:
    found = []
    rows = store.open_transactions(row.queue_no)
    orphans = [each for each in rows if each.implicit]
    if orphans:
        found.append(
            Finding(
                level="note",
                code="ORPHANS",
                text=f"{_count(len(orphans), 'transaction')} may be open on the TSE whose receipt failed after "
                "the start.",
                todo="The next daily closing (0x0007) ends them.",
            )
        )
    doubts = store.doubtful_starts(row.queue_no)
    if doubts:
        found.append(
            Finding(
                level="note",
                code="DOUBTFUL_STARTS",
                text=f"No answer came to {_count(len(doubts), 'start')}: the TSE may have a transaction open.",
                since=_moment(doubts[0].Moment),
                todo="The next zero receipt in failed mode or the next closing finds out and ends them.",
            )
        )
    old = [each for each in rows if not each.implicit and now - each.StartMoment > 86_400 * TICKS_PER_SECOND]
    if old:
        found.append(
            Finding(
                level="note",
                code="OLD_TRANSACTIONS",
                text=f"Open for more than a day: {_count(len(old), 'transaction')}.",
                since=_moment(min(each.StartMoment for each in old)),
                todo="Finish them, fail them (0x000B), or let the daily closing (0x0007) end them; 'fiskal "
                "transactions' lists them.",
            )
        )
    return found


def _closing(store: Store, row: QueueRow, now: int) -> list[Finding]:
    action = store.last_action(row.ftQueueId, *closings.DAILY_TYPES)
    since = row.StartMoment if action is None else action.Moment
    if since is None or now - since <= CLOSING_EXPECTED_S * TICKS_PER_SECOND:
        return []
    if action is None:
        sold = row.ftReceiptNumerator > 1  # the first is the start receipt
    else:
        sold = next(store.iter_receipts(row.queue_no, since + 1, -1), None) is not None
    if not sold:
        return []
    return [
        Finding(
            level="note",
            code="NO_CLOSING",
            text="There was no daily closing for more than 36 hours, but there were receipts.",
            since=_moment(since),
            todo="Send a daily closing (0x0007) at the end of every day of business: DSFinV-K needs it.",
        )
    ]
