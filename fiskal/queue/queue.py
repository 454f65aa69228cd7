"""One queue of a host: its line of callers, and what others may ask of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from fiskal.clock import Clock
from fiskal.conversation import Conversation, drive
from fiskal.core import format_ticks
from fiskal.errors import FiskalError, StoreError
from fiskal.germany.codes import DE, ReceiptCase, ReceiptFlag
from fiskal.pos import ReceiptRequest, encode_request
from fiskal.pos.prepared import Prepared, prepare
from fiskal.queue import checks, identity
from fiskal.queue.binding import ScuBinding, no_scu
from fiskal.queue.dispatch import kind_of
from fiskal.queue.effects import Action
from fiskal.queue.exports import ExportRunner, TarExports
from fiskal.queue.facts import Lookups
from fiskal.queue.ids import GuidSource
from fiskal.queue.journal import PROCESSING_VERSION, QueueJournal
from fiskal.queue.line import Line, Place
from fiskal.queue.pipeline import NOT_FOUND, Pipeline
from fiskal.queue.settings import QueueSettings
from fiskal.queue.state import QueueState
from fiskal.scu.client import pause
from fiskal.scu.contract import EMPTY_GUID, Deadline
from fiskal.scu.fetch import ExportCancelled, Pause
from fiskal.store import JournalDERow, QueueItemRow, Store

_log = logging.getLogger("fiskal.queue")

RECOVERY_REFERENCE: Final = "fiskal-recovery-"
"""How the cbReceiptReference of a zero receipt begins that a queue sends itself."""

PROBE_S: Final = 5.0
"""How long a TSE may take to say that it is there again."""

IDLE_TIMEOUT_MS: Final = 5_000
IDLE_BUDGET_S: Final = 1.0
"""What a recovery in a quiet moment may take of the TSE's time, because a customer may come any moment."""

_AFTERWARDS: Final = int(ReceiptFlag.FAILED_RECEIPT | ReceiptFlag.HANDWRITTEN)
_RECEIPT_REQUEST: Final = int(ReceiptFlag.RECEIPT_REQUEST)


class Queue:
    """One queue of a host. All methods may be called from many threads.

    ``cash_box_id`` is the configured cash box; ``bindings`` gives an SCU of the host by its id, None if there
    is no such: which one the queue uses is part of its stored state. ``master_data`` is the configured text,
    which a closing may bring into effect. Items that were interrupted are answered before anything else;
    ``recover_by`` is until when that may wait for a TSE (:mod:`fiskal.queue.interruptions`). ``export_runner`` runs
    the TAR exports that closings leave behind, by default before :meth:`sign` returns; ``export_folder`` is where
    their files are kept if the settings ask for them. Raises StoreError when the store does not hold ``queue_id``,
    or cannot take the answers.
    """

    def __init__(
        self,
        queue_id: str,
        cash_box_id: str,
        store: Store,
        bindings: Callable[[str], ScuBinding | None],
        settings: QueueSettings,
        *,
        clock: Clock,
        new_guid: GuidSource,
        master_data: str | None = None,
        recover_by: Deadline | None = None,
        export_runner: ExportRunner | None = None,
        export_folder: Path | None = None,
        sleep: Callable[[float], None] = pause,
        on_mode: Callable[[Queue], None] | None = None,
        on_alarm: Callable[[Queue, str], None] | None = None,
    ) -> None:
        self.queue_id = queue_id
        self.cash_box_id = cash_box_id
        self.settings = settings
        self.journal = QueueJournal(queue_id, cash_box_id, store, settings, clock=clock, new_guid=new_guid)
        self.line = Line(settings.max_waiting)
        self.export_runner = export_runner or ExportRunner(background=False)
        self.exports = TarExports(
            store,
            queue_id,
            self.journal.row().CashBoxIdentification,
            settings,
            export_folder,
            clock=clock,
            new_guid=new_guid,
        )
        self._bindings = bindings
        self._pipeline = Pipeline(
            self.journal,
            Lookups(
                bindings,
                lambda *types: self.journal.store.last_action(queue_id, *types),
                lambda: self.journal.store.count_actions(queue_id),
                lambda: self.journal.store.count_exports(queue_id),
                self._open_elsewhere,
                master_data,
            ),
            self.exports,
            sleep=sleep,
            on_mode=lambda: None if on_mode is None else on_mode(self),
            on_alarm=lambda text: None if on_alarm is None else on_alarm(self, text),
        )
        self.interruptions = self._pipeline.interruptions
        self._in_work: Prepared | None = None
        """The request in work, once it is accepted."""
        self._abandoned = False
        """A row that was accepted ahead may have no answer."""
        self._used_at = time.monotonic()
        self._closed = False
        self._pipeline.due, messages = self.exports.take_up()
        self._left_over = {row.ftJournalDEId for row in self._pipeline.due}
        """Exports of an earlier run; they have waited long enough."""
        self._pipeline.archived = frozenset(item_id for item_id, _ in messages)
        drive(self.interruptions.load(recover_by))
        for item_id, message in messages:
            self.journal.note_aside([Action(None, message)], item_id)

    # ---- signing --------------------------------------------------------------------------------

    def sign(self, request: Prepared) -> bytes | None:
        """Sign one request in this thread. As :meth:`receipt`."""
        return drive(self.receipt(request))

    async def receipt(self, request: Prepared, place: Place | None = None) -> bytes | None:
        """Sign one request; the response text, exactly as it was stored and hashed.

        None only for a receipt request (flag 0x0000_8000_0000_0000) without a match. ``place`` is its place in the
        line if it was put there before (:meth:`put_in_line`). Raises ReceiptRejected, QueueBusy, StoreError; ScuError
        for a receipt that takes up work at a TSE which fails.
        """
        if place is None:
            self._check_address(request)
            place = self.line.join()
        item: QueueItemRow | None = None
        try:
            if not place.done:
                item = await self._accept_ahead(request, place)
                await place
            try:
                text, due = await self._in_turn(request, item)
            finally:
                self._in_work = None
        except BaseException:
            self._abandoned = self._abandoned or item is not None
            raise
        finally:
            if item is not None:
                self.interruptions.ahead.discard(item.ftQueueRow)
            self.line.leave(place)
        for row in due:
            await self._export(row)
        return text

    def put_in_line(self, request: Prepared) -> Conversation[bytes | None]:
        """Take the next place in the line for a request and return its conversation, which is to be driven.

        Every request that comes afterwards, by whatever way, is served after it: a finish never before its own start.
        The one that comes next may be accepted while this one is at the TSE. Raises ReceiptRejected for another cash
        box or queue, QueueBusy.
        """
        self._check_address(request)
        return self.receipt(request, self.line.join(ahead_may_accept=True))

    def _check_address(self, request: Prepared) -> None:
        identity.check_cash_box(request, self.cash_box_id)
        if not self.settings.ignore_queue_id:
            identity.check_queue(request, self.queue_id)

    async def _accept_ahead(self, request: Prepared, place: Place) -> QueueItemRow | None:
        """T1 while the one ahead is at the TSE, so that nobody comes in between and the next row is this one's.

        What a caller leaves who gives up is an interrupted receipt, which whoever comes next sees to. Raises
        StoreError.
        """
        ahead = self._in_work
        served = self.line.served
        if (
            ahead is None
            or served is None
            or not served.ahead_may_accept
            or not self.line.is_next(place)
            or ahead.canonical == request.canonical
            or not (self._is_plain(ahead) and self._is_plain(request))
        ):
            return None
        item = self.journal.item(request)
        self.interruptions.ahead.add(item.ftQueueRow)
        try:
            await self.journal.accept(item)
        except BaseException:
            self.interruptions.ahead.discard(item.ftQueueRow)
            self._abandoned = True
            raise
        return item

    def _is_plain(self, request: Prepared) -> bool:
        """Whether ``request`` is a receipt that a customer waits for, and the queue in order, so that there is
        nothing to look up, to make good or to recover before it is signed."""
        state = self.journal.state
        return (
            state.active
            and not (self.interruptions.items or state.fail_count or state.migrated)
            and not self.settings.duplicate_window_s
            and not request.receipt_case & (_RECEIPT_REQUEST | _AFTERWARDS)
            and not kind_of(request.receipt_case).is_special
        )

    async def _in_turn(
        self, request: Prepared, item: QueueItemRow | None
    ) -> tuple[bytes | None, list[JournalDERow]]:
        """Sign at the head of the line; also what is to be exported afterwards."""
        self._used_at = time.monotonic()
        if self.journal.stale or self._abandoned:
            await self._catch_up()
        pipeline, state = self._pipeline, self.journal.state
        if item is None:
            if (
                state.migrated
                or self.interruptions.items
                or request.receipt_case & _RECEIPT_REQUEST
                or self.settings.duplicate_window_s
            ):
                found, request = await pipeline.look_back(request)
                if found is not NOT_FOUND:
                    return found, []
            if state.fail_count and self.settings.recover_before_closing:
                await self._recover_before(request)
            if self.interruptions.items and kind_of(request.receipt_case).leaves_tse:
                await self.interruptions.close_begun(request)
            item = self.journal.item(request)
            await self.journal.accept(item)
        self._in_work = request
        text = await pipeline.process(request, item)
        due, pipeline.due = pipeline.due, []
        return text, due

    async def _catch_up(self) -> None:
        """Read the state again: memory may differ from the disk. Raises StoreError."""
        self._abandoned = False
        await self.interruptions.load()

    # ---- a zero receipt of the queue's own -------------------------------------------------------

    def recover(self, *, when_idle: bool = False) -> bytes | None:
        """Sign a zero receipt of the queue's own, under a reference of its own, and return its answer.

        With ``when_idle`` it gives way to the POS: None if a receipt is in work, and it holds nobody up for
        longer than a few seconds, even if the TSE hangs; what is not recovered then takes another call.
        Raises as :meth:`sign`.
        """
        settings = self.settings
        if not when_idle:
            place: Place | None = self.line.join()
        else:
            place = self.line.join_if_free()
            settings = msgspec.structs.replace(
                settings,
                scu_max_retries=1,
                scu_timeout_ms=min(settings.scu_timeout_ms, IDLE_TIMEOUT_MS),
                recovery_budget_s=min(settings.recovery_budget_s, IDLE_BUDGET_S),
            )
        return None if place is None else drive(self._recover(place, settings))

    async def _recover(self, place: Place, settings: QueueSettings) -> bytes:
        try:
            await place
            if self.journal.stale or self._abandoned:
                await self._catch_up()
            if self.journal.state.migrated:
                raise checks.migrated()
            return await self._sign_own(self._zero_request(), settings)
        finally:
            self.line.leave(place)

    async def _sign_own(self, request: Prepared, settings: QueueSettings) -> bytes:
        item = self.journal.item(request)
        await self.journal.accept(item)
        return await self._pipeline.process(request, item, settings)

    async def _recover_before(self, request: Prepared) -> None:
        """Leave failed mode ahead of a closing, if it is to be and the TSE answers. Raises StoreError."""
        case, state = request.receipt_case & 0xFFFF, self.journal.state
        closes = kind_of(case).is_closing or case == ReceiptCase.MIGRATION
        if not closes or request.receipt_case & _AFTERWARDS or not state.active or state.scu_id is None:
            return
        try:
            await self._pipeline.probe(PROBE_S)
            await self._sign_own(self._zero_request(), self.settings)
        except StoreError:
            raise
        except FiskalError as error:
            _log.warning("queue %s: no recovery before the closing: %s", self.queue_id, error)

    def _zero_request(self) -> Prepared:
        """A zero receipt that the queue sends itself."""
        now = self.journal.clock()
        return prepare(
            encode_request(
                ReceiptRequest(
                    ft_cash_box_id=self.cash_box_id,
                    ft_queue_id=self.queue_id,
                    cb_terminal_id="",
                    cb_receipt_reference=f"{RECOVERY_REFERENCE}{self.journal.state.queued_row + 1}-{now}",
                    cb_receipt_moment=format_ticks(now),
                    cb_charge_items=[],
                    cb_pay_items=[],
                    ft_receipt_case=DE | ReceiptFlag.IMPLICIT_FLOW | ReceiptCase.ZERO,
                )
            )
        )

    @property
    def due(self) -> list[JournalDERow]:
        """The exports that the next receipt hands over to the runner."""
        return self._pipeline.due

    # ---- TAR exports ------------------------------------------------------------------------------

    async def _export(self, row: JournalDERow) -> None:
        at_once = row.ftJournalDEId in self._left_over
        await self.export_runner.submit(row.scu_id, partial(self._run_export, row), at_once=at_once)

    def _run_export(self, row: JournalDERow, pause: Pause) -> None:
        """Run the export a receipt left behind, beside the receipts of the queue."""
        binding = self._bindings(row.scu_id) or no_scu(row.scu_id)
        try:
            message = self.exports.run(row, binding, pause)
        except ExportCancelled:
            _log.info("queue %s: the TAR export %s waits for the next start", self.queue_id, row.FileName)
            return
        if message is not None:
            try:
                self.journal.note_aside([Action(None, message)], row.ftQueueItemId)
            except StoreError as error:
                _log.error("queue %s: %s This is not in the journal: %s", self.queue_id, message, error)

    # ---- what others may ask ----------------------------------------------------------------------

    def journal_start(self) -> None:
        """Note in the action journal that a host serves the queue from now on, and how it is set; not if it was
        migrated. Never fails: a disk that does not take the note refuses the first receipt, and says why."""
        state = self.journal.state
        if state.migrated:
            return
        summary = {
            "ProcessingVersion": PROCESSING_VERSION,
            "QueueId": self.queue_id,
            "CashBoxId": self.cash_box_id,
            "CashBoxIdentification": self.client_id,
            "SCUId": state.scu_id,
            "Settings": msgspec.to_builtins(self.settings),
        }
        text = msgspec.json.encode(summary).decode()
        started = Action("MiddlewareConfiguration", "Queue started", text, item_id=EMPTY_GUID)
        try:
            self.journal.note_aside([started], EMPTY_GUID)
        except StoreError as error:
            _log.error("queue %s: its start is not in the journal: %s", self.queue_id, error)

    @property
    def failure(self) -> str:
        """Why the TSE failed last, in plain words; empty if it did not since the queue was opened."""
        return self._pipeline.failure

    @failure.setter
    def failure(self, text: str) -> None:
        self._pipeline.failure = text

    @property
    def failed(self) -> bool:
        """The queue is in failed mode."""
        return self.journal.state.fail_count > 0

    @property
    def active(self) -> bool:
        """The queue signs: it is in operation, has an SCU, and was not migrated."""
        return _condition(self.journal.state) == "active"

    @property
    def scu_id(self) -> str | None:
        """The SCU the queue signs with, None during an SCU switch."""
        return self.journal.state.scu_id

    @property
    def client_id(self) -> str:
        """What the TSE knows the queue by."""
        return self.journal.state.cash_box_identification

    @property
    def left_behind(self) -> int:
        """How many transactions a zero receipt has to make good."""
        transactions = self.journal.transactions
        return len(transactions.failed_finishes) + len(transactions.failed_starts)

    def idle_s(self) -> float:
        """How long ago the last request of a POS came, in seconds."""
        return time.monotonic() - self._used_at

    def settle(self) -> None:
        """Wait for the receipt in work: what it has begun on the TSE is then finished, or in the store.

        Raises QueueBusy.
        """
        place = self.line.join()
        try:
            place.call()
        finally:
            self.line.leave(place)

    def status(self) -> dict[str, Any]:
        """The queue's condition in plain values; waits for nobody, may be a receipt behind."""
        state = self.journal.state
        return {
            "ftQueueId": self.queue_id,
            "ftCashBoxIdentification": state.cash_box_identification,
            "state": _condition(state),
            "ftSignaturCreationUnitDEId": state.scu_id,
            "ftCurrentRow": state.current_row,
            "ftQueuedRow": state.queued_row,
            "ftReceiptNumerator": state.receipt_numerator,
            "SSCDFailCount": state.fail_count,
            "SSCDFailMoment": None if state.fail_moment is None else format_ticks(state.fail_moment),
            "SSCDFailReason": self.failure if state.fail_count else None,
            "UsedFailedCount": state.used_failed_count,
            "openTransactions": len(self.journal.transactions.open),
        }

    def _open_elsewhere(self, scu_id: str) -> set[int]:
        """The numbers that the other queues of the host have open at an SCU."""
        store = self.journal.store
        return {
            open_.TransactionNumber
            for row in store.queues()
            if row.ftQueueId != self.queue_id
            for open_ in store.open_transactions(row.queue_no)
            if open_.scu_id == scu_id
        }


def _condition(state: QueueState) -> str:
    if state.migrated:
        return "migrated"
    if not state.active:
        return "stopped" if state.stopped else "new"
    return "active" if state.scu_id is not None else "switching"
