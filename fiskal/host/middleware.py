"""A host in one process: its queues, its signature creation units and the journal they share."""

from __future__ import annotations

import logging
import time
from _thread import allocate_lock, get_ident
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from fiskal import clock as clocks
from fiskal.clock import Clock
from fiskal.conversation import Call, drive
from fiskal.core import format_ticks
from fiskal.errors import ConfigurationError, FiskalError, ReceiptRejected
from fiskal.export import journal as journals
from fiskal.germany.masterdata import canonical
from fiskal.host import config as configs
from fiskal.host import doctor
from fiskal.host import timings as host_timings
from fiskal.host.config import HostConfig, QueueConfig, ScuConfig
from fiskal.host.drivers import check_driver, open_scu
from fiskal.host.events import Event, EventKind, Listener, TseReport
from fiskal.host.monitor import Monitor
from fiskal.host.rounds import Stepper
from fiskal.host.timings import TseTimings
from fiskal.host.transactions import (
    TransactionEntry,
    TseTransactions,
    abort_request,
    choose,
    entries_of,
)
from fiskal.host.upkeep import Upkeep, Window
from fiskal.lazy import LazyModule
from fiskal.pos import (
    ReceiptRequest,
    ReceiptResponse,
    decode_echo,
    decode_journal_request,
    decode_response,
    encode_echo,
    encode_request,
)
from fiskal.pos.prepared import Prepared, prepare
from fiskal.queue.binding import ScuBinding, no_scu
from fiskal.queue.exports import ExportRunner
from fiskal.queue.identity import parse_guid
from fiskal.queue.ids import GuidSource, new_guid
from fiskal.queue.interruptions import START_UP_S
from fiskal.queue.queue import PROBE_S, Queue
from fiskal.queue.settings import QueueSettings
from fiskal.scu.client import INFO_S, pause
from fiskal.scu.contract import Deadline, Scu, TseInfo, TseStates
from fiskal.scu.errors import ScuError
from fiskal.store import Change, MasterDataRow, QueueRow, ScuRow, Store, open_store

if TYPE_CHECKING:
    from fiskal.export import dsfinvk
else:  # large, and needed by few hosts
    dsfinvk = LazyModule("fiskal.export.dsfinvk")

_log = logging.getLogger("fiskal.host")

NULL = b"null"
"""The JSON answer of a receipt request without a match."""

IDLE_S = 10.0
"""A queue that no receipt came to for so long is idle."""

LONGEST_WAIT_S = 3_600.0
"""The longest pause between two recoveries that failed."""

LONG_BYTES = 65_536
"""A request that is longer is read in a thread of its own where receipts share one."""

Bytes = bytes | bytearray | memoryview


class Middleware:
    """Echo, Sign and Journal for all queues of one host. Thread-safe; close it when done.

    Made by :func:`fiskal.open`. ``store`` and ``scus`` (by SCU id) may be given instead of what the
    configuration names, for tests and for a host that brings its own. With ``background_exports`` a closing is
    answered before its TAR export is made, which waits for ``upkeep_window``, and TSEs are tested when it is time.
    """

    def __init__(
        self,
        config: HostConfig,
        folder: Path,
        *,
        store: Store | None = None,
        scus: dict[str, Scu] | None = None,
        clock: Clock = clocks.now,
        new_guid: GuidSource = new_guid,
        background_exports: bool = False,
        sleep: Callable[[float], None] = pause,
    ) -> None:
        self.config = config
        self.folder = folder
        self.store = open_store(folder / configs.STORE_NAME) if store is None else store
        self.bindings: dict[str, ScuBinding] = {}
        self._queues: dict[str, Queue] = {}
        self._only: Queue | None = None
        self._stepper = Stepper(self.store, "fiskal-sign")
        self._alone = allocate_lock()
        """Held by a caller who found nobody else and signs in its own thread,"""
        self._alone_in = 0
        """which is this one."""
        self._clock = clock
        window = Window.parse(config.upkeep_window)
        self._export_runner = ExportRunner(
            background=background_exports,
            hold_s=lambda: 0.0 if window is None else window.wait_s(clock()),
        )
        self._listeners: list[Listener] = []
        self._reports: dict[str, TseReport] = {}
        self._attempts: dict[str, _Attempts] = {}
        self._monitor = Monitor(self.look_after, self._is_failed, config.probe_interval_s, self._listeners)
        self.upkeep = Upkeep(
            self.bindings.values(),
            self._has_failed,
            config.self_test_interval_h * 3600,
            window,
            clock,
        )
        """Self tests when nobody is in their way; :meth:`fiskal.host.upkeep.Upkeep.look` is one round of it."""
        try:
            self._check_drivers(scus or {})
            self._bind(self._merge(clock()), scus or {}, clock)
            self._open_queues(clock, new_guid, sleep)
        except BaseException:
            self.close()
            raise
        self._monitor.wake()
        if background_exports:
            self.upkeep.start()

    def _check_drivers(self, given: dict[str, Scu]) -> None:
        for scu in self.config.scus:
            if scu.id not in given:
                check_driver(scu)

    def _merge(self, now: int) -> dict[str, ScuRow]:
        """Bring the configuration into the store, as far as it counts there; the rows of the SCUs.

        The store is the truth about a queue in operation: only SCU switch receipts change its SCU, and only
        closings its master data.
        """
        change = Change()
        rows = {row.ftSignaturCreationUnitDEId: row for row in self.store.scus()}
        for scu in self.config.scus:
            row = rows.get(scu.id) or ScuRow(scu.id, "", 0, None, 0, None)
            wanted = row._replace(
                Url=f"{scu.driver}:", Mode=scu.mode, ModeConfigurationJson=scu.mode_configuration_text
            )
            if rows.get(scu.id) != wanted:
                rows[scu.id] = wanted._replace(TimeStamp=now)
                change.scus.append(rows[scu.id])
        known = {row.ftQueueId: row for row in self.store.queues()}
        next_no = max((row.queue_no for row in known.values()), default=0) + 1
        for queue in self.config.queues:
            stored = known.get(queue.id)
            if stored is None:
                change.queues.append(_new_queue(next_no, queue, self.config.cash_box_id, now))
                if self.config.master_data is not None:
                    change.master_data.append(MasterDataRow(next_no, canonical(self.config.master_data), now))
                next_no += 1
            else:
                changed = self._merge_queue(queue, stored, now)
                if changed is not None:
                    change.queues.append(changed)
        if change.queues or change.scus:
            self.store.commit(change)
        return rows

    def _merge_queue(self, queue: QueueConfig, row: QueueRow, now: int) -> QueueRow | None:
        """What the configuration changes at a stored queue, None if nothing. Raises ConfigurationError."""
        if row.CashBoxIdentification != queue.client_id:
            raise ConfigurationError(
                f"queue {queue.id} was created with the client id {row.CashBoxIdentification!r}; it "
                f"cannot become {queue.client_id!r}. Put the old one back into {configs.FILE_NAME}."
            )
        scu_id = row.ftSignaturCreationUnitDEId
        if row.StopMoment is not None:
            return None
        if row.StartMoment is None and scu_id != queue.scu_id:
            return row._replace(ftSignaturCreationUnitDEId=queue.scu_id, DeTimeStamp=now)
        if scu_id is not None and not any(scu.id == scu_id for scu in self.config.scus):
            raise ConfigurationError(
                f"queue {queue.id} signs with SCU {scu_id}, which {configs.FILE_NAME} does not list. Put it back "
                "into 'scus'; another one is taken with the SCU switch receipts 0x0017 and 0x0018."
            )
        if scu_id is not None and scu_id != queue.scu_id:
            _log.warning(
                "queue %s signs with SCU %s; %s names %s, which counts only before the start receipt",
                queue.id,
                scu_id,
                configs.FILE_NAME,
                queue.scu_id,
            )
        return None

    def _bind(self, rows: dict[str, ScuRow], given: dict[str, Scu], clock: Clock) -> None:
        for scu in self.config.scus:
            self.bindings[scu.id] = ScuBinding(
                scu.id,
                _opener(scu, self.folder, given.get(scu.id), clock),
                rows[scu.id],
            )

    def _open_queues(self, clock: Clock, new_guid: GuidSource, sleep: Callable[[float], None]) -> None:
        data = self.config.master_data
        master_data = None if data is None else canonical(data)
        recover_by = Deadline(START_UP_S)  # one for all: many queues may have to wait for one TSE
        for queue in self.config.queues:
            self._queues[queue.id] = Queue(
                queue.id,
                self.config.cash_box_id,
                self.store,
                self.bindings.get,
                queue.settings,
                clock=clock,
                new_guid=new_guid,
                master_data=master_data,
                recover_by=recover_by,
                export_runner=self._export_runner,
                export_folder=self.folder / "exports" / queue.id / "TAR",
                sleep=sleep,
                on_mode=self._mode_changed,
                on_alarm=self._alarmed,
            )
            if self._queues[queue.id].failed:
                row = self.store.queue(queue.id)
                assert row is not None  # the queue was opened from it
                first, last = doctor.failure_reasons(self.store, row)
                self._queues[queue.id].failure = last or first
            self._queues[queue.id].journal_start()
        if len(self._queues) == 1:
            (self._only,) = self._queues.values()

    # ---- Echo -----------------------------------------------------------------------------------

    def echo(self, message: str | None) -> str | None:
        """Return ``message`` unchanged. No storage, no TSE."""
        return message

    def echo_json(self, body: Bytes) -> bytes:
        """Echo over JSON: an object with ``Message`` or a plain string, answered in the same form."""
        return encode_echo(decode_echo(bytes(body)))

    # ---- Sign -----------------------------------------------------------------------------------

    def sign(self, request: ReceiptRequest) -> ReceiptResponse | None:
        """Sign one receipt. None only for a receipt request without a match.

        Raises ReceiptRejected for what the POS did wrong and StoreError for what the disk did. A TSE that
        fails is no error: the response then carries ftState bit 0x2.
        """
        text = self.sign_json(encode_request(request))
        return None if text == NULL else decode_response(text)

    def sign_json(self, body: Bytes) -> bytes:
        """Sign one receipt, JSON in, JSON out: the very text that was stored and hashed. Raises as sign."""
        stepper = self._stepper
        if stepper.idle and self._alone.acquire(False):
            self._alone_in = get_ident()
            try:
                return drive(self.receipt(body))
            finally:
                self._alone_in = 0
                self._alone.release()
        if self._alone_in == get_ident() or stepper.is_here:
            # A call within a call, as a driver or a simulation may make it: the outer one goes on when it is done.
            return drive(self.receipt(body))
        return stepper.call(self.receipt(body))

    async def receipt(self, body: Bytes) -> bytes:
        """The conversation of one receipt, JSON in, JSON out, to be driven (:mod:`fiskal.conversation`). Raises as
        :meth:`sign_json`."""
        if len(body) > LONG_BYTES:  # to read it takes so long that others would feel it
            queue, request = await Call(partial(self._prepare, body))
        else:
            queue, request = self._prepare(body)
        text = await queue.receipt(request)
        return NULL if text is None else text

    def _prepare(self, body: Bytes) -> tuple[Queue, Prepared]:
        """The queue a request is for, and the request as that queue reads it."""
        data = bytes(body)
        request = prepare(data)
        queue = self._only or self.queue(request.queue_id)
        if queue.settings.process_data_strict:
            request = prepare(data, strict=True)
        return queue, request

    def sign_later(self, request: ReceiptRequest) -> Future[bytes | None]:
        """Put one receipt in line and return at once: for the start of a transaction, so that scanning goes on
        while the TSE signs.

        Every receipt of the queue that is signed afterwards comes after it, so a finish waits for its own
        start. The future gives the JSON of the response (see :func:`fiskal.pos.decode_response`), None for a
        receipt request without a match, or raises what :meth:`sign` raises. The receipt is durable when its turn
        has come, not yet when this returns. Raises ReceiptRejected, QueueBusy.
        """
        return self.sign_later_json(encode_request(request))

    def sign_later_json(self, body: Bytes) -> Future[bytes | None]:
        """As :meth:`sign_later`, for a request in JSON."""
        queue, prepared = self._prepare(body)
        return self._stepper.submit(queue.put_in_line(prepared))

    def queue(self, queue_id: str | None = None) -> Queue:
        """The queue ``queue_id``, or the only one. Raises ReceiptRejected if that is not clear."""
        if not queue_id:
            if self._only is not None:
                return self._only
            raise ReceiptRejected(
                "QUEUE_ID_REQUIRED",
                f"this host has {len(self._queues)} queues, and the request does not say which one",
                field="ftQueueID",
                hint=f"Send one of {', '.join(self._queues)}.",
            )
        queue = self._queues.get(queue_id) or self._queues.get(parse_guid(queue_id) or "")
        if queue is None:
            raise ReceiptRejected(
                "QUEUE_ID_MISMATCH",
                "Provided QueueId does not match current QueueId",
                field="ftQueueID",
                hint=f"This host has {', '.join(self._queues)}.",
            )
        return queue

    @property
    def queues(self) -> list[Queue]:
        return list(self._queues.values())

    # ---- Journal --------------------------------------------------------------------------------

    def journal(
        self,
        journal_type: int,
        from_ticks: int = 0,
        to_ticks: int = 0,
        max_chunk_size: int = journals.DEFAULT_CHUNK_SIZE,
        *,
        queue_id: str | None = None,
    ) -> Iterator[bytes]:
        """A journal as a stream of chunks; their concatenation is the document, maybe empty.

        ``from_ticks`` and ``to_ticks`` are .NET ticks compared with TimeStamp; ``to_ticks`` 0 is an open
        end, a negative one a number of entries. Raises JournalError here, and what
        :func:`fiskal.export.journal.stream` says while chunks are taken.
        """
        queue = self.queue(queue_id)
        row = self.store.queue(queue.queue_id)
        assert row is not None  # the queue was opened from it
        scu_id = row.ftSignaturCreationUnitDEId or ""
        source = journals.Source(
            self.store,
            row.queue_no,
            queue.queue_id,
            self.config.cash_box_id,
            lambda: (self.bindings.get(scu_id) or no_scu(scu_id)).scu,
            dsfinvk_options(queue.settings),
        )
        return journals.stream(source, journal_type, from_ticks, to_ticks, max_chunk_size)

    def journal_json(self, body: Bytes) -> Iterator[bytes]:
        """The journal a JournalRequest asks for. Raises as :meth:`journal`, ReceiptRejected for bad JSON."""
        request = decode_journal_request(bytes(body))
        return self.journal(request.ft_journal_type, request.from_, request.to, request.max_chunk_size)

    # ---- looking after the queues ---------------------------------------------------------------

    def on_event(self, listener: Listener) -> None:
        """Call ``listener`` with every :class:`fiskal.host.events.Event` from here on.

        It runs in a thread of the host, one event after the other; no receipt waits for it.
        """
        self._listeners.append(listener)

    def probe(self) -> list[TseReport]:
        """Ask every TSE of a queue in operation whether it can sign: a short question, and only if nobody uses
        the TSE at that moment. Changes no mode."""
        in_use = {queue.scu_id: None for queue in self._queues.values() if queue.active}
        return [self._ask(scu_id) for scu_id in in_use if scu_id is not None]

    def recover(self, queue_id: str | None = None) -> ReceiptResponse:
        """Send a zero receipt of the queue's own, the way out of failed mode; the answer as it was journalled.

        Its cbReceiptReference begins with ``fiskal-recovery-``. Raises as :meth:`sign`.
        """
        text = self.queue(queue_id).recover()
        assert text is not None  # it waited for its turn
        return decode_response(text)

    def look_after(self) -> list[Event]:
        """One round of the monitor: ask the TSEs of the queues in failed mode, and recover where the settings
        say so and the queue is idle. What has changed since the last round.

        The monitor calls this every ``probe_interval_s`` seconds while a queue is in failed mode. A host with
        its own schedule sets that to 0 and calls it itself.
        """
        events: list[Event] = []
        failed: dict[str, list[Queue]] = {}
        for queue in self._queues.values():
            if queue.failed and queue.active and queue.scu_id is not None:
                failed.setdefault(queue.scu_id, []).append(queue)
        for scu_id, queues in failed.items():
            report = self._ask(scu_id, recent_s=self.config.probe_interval_s)
            before = self._reports.get(scu_id)
            if report.reachable is None and before is not None:
                continue
            self._reports[scu_id] = report
            if before is None or before.ready != report.ready:
                kind: EventKind = "tse_reachable" if report.ready else "tse_unreachable"
                events += [self._event(kind, queue, report.text) for queue in queues]
            if report.ready:
                for queue in queues:
                    self._recover_idle(queue)
        return events

    def diagnose(self, *, probe: bool = True) -> doctor.Diagnosis:
        """In which mode is each queue, since when, why, and what to do. With ``probe`` the TSEs are asked, as
        by :meth:`probe`. Raises StoreError."""
        reports = {report.scu_id: report for report in self.probe()} if probe else {}
        drivers = {scu.id: scu.driver for scu in self.config.scus}
        return doctor.diagnosis(
            host_timings.findings(self.timings()), doctor.examine(self.store, self._clock(), reports, drivers)
        )

    def timings(self) -> list[TseTimings]:
        """How busy each TSE is and how long calls wait for it, since the host was opened. From memory."""
        return [
            host_timings.of_scheduler(scu_id, binding.scheduler) for scu_id, binding in self.bindings.items()
        ]

    def transactions(self) -> list[TseTransactions]:
        """What the queues and their TSEs have open, side by side, for every SCU in use.

        Waits for the receipts in work, so that none of theirs is taken for an orphan. A TSE that does not
        answer is no error. Raises QueueBusy, StoreError.
        """
        rows = self.store.queues()
        return [
            self._transactions(scu_id, binding, rows)
            for scu_id, binding in self.bindings.items()
            if any(row.ftSignaturCreationUnitDEId == scu_id for row in rows)
        ]

    def close_orphans(
        self, numbers: list[int] | None = None, *, scu_id: str | None = None
    ) -> list[ReceiptResponse]:
        """End as aborted what a TSE has open and no queue knows: all of that, or ``numbers`` of it.

        Each TSE gets a multiple fail-transaction receipt (0x000B), journalled like any other; the answers.
        Raises OrphanError if it would not be safe, otherwise as :meth:`sign`.
        """
        made = []
        for queue_id, orphans in choose(self.transactions(), numbers, scu_id):
            request = abort_request(self.config.cash_box_id, queue_id, orphans, self._clock())
            response = self.sign(request)
            assert response is not None  # only a receipt request is answered with None
            made.append(response)
        return made

    def _report_of(self, queue: Queue) -> TseReport | None:
        """What the monitor found last about the TSE of a queue in failed mode."""
        return self._reports.get(queue.scu_id or "") if queue.failed else None

    def _is_failed(self) -> bool:
        return any(queue.failed and queue.active for queue in self._queues.values())

    def _has_failed(self, scu_id: str) -> bool:
        return any(queue.failed and queue.scu_id == scu_id for queue in self._queues.values())

    def _mode_changed(self, queue: Queue) -> None:
        """Called by a queue between two receipts."""
        self._attempts.pop(queue.queue_id, None)
        if queue.failed:
            self._reports.pop(queue.scu_id or "", None)
            self._monitor.wake(self._event("failed_mode_entered", queue, queue.failure))
        else:
            self._monitor.wake(self._event("failed_mode_left", queue, "A zero receipt was signed."))

    def _alarmed(self, queue: Queue, text: str) -> None:
        """Called by a queue whose TSE signed something that does not verify."""
        self._monitor.wake(self._event("signature_mismatch", queue, text))

    def _event(self, kind: EventKind, queue: Queue, text: str) -> Event:
        return Event(
            kind=kind,
            moment=format_ticks(self._clock()),
            queue_id=queue.queue_id,
            scu_id=queue.scu_id,
            text=text,
        )

    def _ask(self, scu_id: str, *, recent_s: float = 0) -> TseReport:
        """Ask one TSE, unless it has signed for somebody in the last ``recent_s`` seconds or is in use."""
        binding = self.bindings.get(scu_id)
        reachable: bool | None = False
        ready = False
        if binding is None:
            text = "The SCU is not in the configuration any more."
        elif binding.signed_at is not None and time.monotonic() - binding.signed_at < recent_s:
            reachable = ready = True
            text = "The TSE answers."
        else:
            try:
                info = binding.probe(PROBE_S)
            except ScuError as error:
                text = str(error)
            else:
                reachable = None if info is None else True
                text = "The TSE is in use." if info is None else self._what_lacks(scu_id, info)
                ready = info is not None and not text
                text = text or "The TSE answers."
        return TseReport(
            scu_id=scu_id, moment=format_ticks(self._clock()), reachable=reachable, ready=ready, text=text
        )

    def _what_lacks(self, scu_id: str, info: TseInfo) -> str:
        """Why a TSE that answers cannot sign; empty if it can."""
        if info.current_state != TseStates.INITIALIZED:
            return f"It is in the state {info.current_state.name.lower()}, not initialized."
        for queue in self._queues.values():
            if queue.scu_id == scu_id and queue.active and queue.client_id not in info.current_client_ids:
                return f"The client {queue.client_id!r} is not registered on it."
        return ""

    def _recover_idle(self, queue: Queue) -> None:
        """Try to leave failed mode in a quiet moment, if the settings say so; wait longer after every failure."""
        if not queue.settings.recover_when_idle:
            return
        tried = self._attempts.setdefault(queue.queue_id, _Attempts())
        while queue.failed and queue.idle_s() >= IDLE_S and time.monotonic() >= tried.not_before:
            left = queue.left_behind
            try:
                if queue.recover(when_idle=True) is None:
                    return
            except FiskalError as error:
                _log.warning("queue %s: the recovery failed: %s", queue.queue_id, error)
            if queue.failed and queue.left_behind >= left:
                tried.failures += 1
                wait_s = min(self.config.probe_interval_s * 2**tried.failures, LONGEST_WAIT_S)
                tried.not_before = time.monotonic() + wait_s
                return

    def _transactions(self, scu_id: str, binding: ScuBinding, rows: list[QueueRow]) -> TseTransactions:
        """Compare one TSE with the queues while these go on selling.

        When a queue has settled, what was in work is over or in the store. So the TSE is asked before and
        after: an orphan was open both times and in no table between, and what a queue has open and the TSE
        does not was in its table before and is still there after.
        """
        error = ""
        first: set[int] = set()
        known: set[int] = set()
        info: TseInfo | None = None
        try:
            first.update(self._open_at(binding).current_started_transaction_numbers)
            self._settle()
            for row in rows:
                known |= {
                    each.TransactionNumber
                    for each in self.store.open_transactions(row.queue_no)
                    if each.scu_id == scu_id
                }
            info = self._open_at(binding)
            self._settle()
        except ScuError as failure:
            error = str(failure)
        listed = None if info is None else set(info.current_started_transaction_numbers)
        entries: list[TransactionEntry] = []
        for row in rows:
            entries += entries_of(
                self.store, row, scu_id, lambda n: None if listed is None else n in listed or n not in known
            )
        if listed is not None:
            for number in first & listed - known - {entry.number for entry in entries}:
                entries.append(TransactionEntry(kind="orphan", number=number, on_tse=True))
        entries.sort(key=lambda entry: (entry.number is None, entry.number or 0, entry.since or ""))
        own = {row.CashBoxIdentification for row in rows}
        able = [queue for queue in self._queues.values() if queue.active and queue.scu_id == scu_id]
        able.sort(key=lambda queue: queue.failed)
        return TseTransactions(
            scu_id=scu_id,
            error=error,
            entries=entries,
            foreign_clients=[] if info is None else [c for c in info.current_client_ids if c not in own],
            closing_queue_id=able[0].queue_id if able else None,
        )

    def _settle(self) -> None:
        for queue in self._queues.values():
            queue.settle()

    @staticmethod
    def _open_at(binding: ScuBinding) -> TseInfo:
        return binding.scu.get_tse_info(Deadline(INFO_S))

    # ---- life -----------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What a health check wants to know, from memory: no TSE and no disk is touched."""
        return {
            "status": "ok",
            "ftCashBoxId": self.config.cash_box_id,
            "queues": [
                {**queue.status(), "tse": msgspec.to_builtins(self._report_of(queue))}
                for queue in self._queues.values()
            ],
        }

    def wait_for_exports(self, timeout_s: float | None = None) -> bool:
        """Wait for the TAR exports that closings left behind, also for their window; False if they took longer
        than ``timeout_s``."""
        return self._export_runner.wait(timeout_s)

    def close(self) -> None:
        """Sign what was put in line, close the TSEs and the journal. What was answered is durable already.

        A TAR export that is not finished goes on with the first receipt after the next start.
        """
        self.upkeep.close()
        self._monitor.close()
        self._stepper.close()
        self._export_runner.close()
        for binding in self.bindings.values():
            binding.close()
        self.store.close()

    def __enter__(self) -> Middleware:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_middleware(data: str | Path, *, create: bool = False, clock: Clock = clocks.now) -> Middleware:
    """Open the host in the folder ``data``. ``create`` makes a new one with one queue if there is none.

    Raises ConfigurationError or StoreError, both saying what to do.
    """
    folder = Path(data)
    if create and not (folder / configs.FILE_NAME).exists():
        configs.save(folder, configs.new_config())
    return Middleware(configs.load(folder), folder, clock=clock, background_exports=True)


class _Attempts:
    """How the recoveries of one queue in quiet moments went."""

    __slots__ = ("failures", "not_before")

    def __init__(self) -> None:
        self.failures = 0
        self.not_before = 0.0


def _opener(scu: ScuConfig, folder: Path, given: Scu | None, clock: Clock) -> Callable[[], Scu]:
    if given is not None:
        return lambda: given
    return lambda: open_scu(scu, folder, clock)


def dsfinvk_options(settings: QueueSettings) -> dsfinvk.Options:
    """What the settings of a queue say about its DSFinV-K export."""
    return dsfinvk.Options(
        version=settings.dsfinvk_version,
        references=not settings.disable_dsfinvk_export_references,
        orders=not settings.exclude_dsfinvk_orders,
    )


def _new_queue(queue_no: int, queue: QueueConfig, cash_box_id: str, now: int) -> QueueRow:
    return QueueRow(
        queue_no=queue_no,
        ftQueueId=queue.id,
        ftCashBoxId=cash_box_id,
        ftCurrentRow=0,
        ftQueuedRow=0,
        ftReceiptNumerator=0,
        ftReceiptTotalizer="0.0",
        ftReceiptHash=None,
        StartMoment=None,
        StopMoment=None,
        CountryCode="DE",
        Timeout=queue.settings.timeout_ms,
        TimeStamp=now,
        ftSignaturCreationUnitDEId=queue.scu_id,
        CashBoxIdentification=queue.client_id,
        SSCDFailCount=0,
        SSCDFailMoment=None,
        SSCDFailQueueItemId=None,
        UsedFailedCount=0,
        UsedFailedMomentMin=None,
        UsedFailedMomentMax=None,
        UsedFailedQueueItemId=None,
        DailyClosingNumber=0,
        DeTimeStamp=now,
    )
