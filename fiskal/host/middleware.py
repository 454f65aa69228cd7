"""A host in one process: its queues, its signature creation units and the journal they share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any

from fiskal import clock as clocks
from fiskal.clock import Clock
from fiskal.core import Prepared, prepare
from fiskal.errors import ConfigurationError, ReceiptRejected
from fiskal.export import journal as journals
from fiskal.fairlock import Turn
from fiskal.germany.masterdata import canonical
from fiskal.host import config as configs
from fiskal.host.config import HostConfig, QueueConfig, ScuConfig
from fiskal.pos import (
    ReceiptRequest,
    ReceiptResponse,
    decode_echo,
    decode_journal_request,
    decode_response,
    encode_echo,
    encode_request,
)
from fiskal.queue.binding import ScuBinding
from fiskal.queue.identity import parse_guid
from fiskal.queue.ids import GuidSource, new_guid
from fiskal.queue.queue import Queue
from fiskal.scu.contract import Scu
from fiskal.scu.software import open_software_tse
from fiskal.store import Change, MasterDataRow, QueueRow, ScuRow, Store, open_store

_log = logging.getLogger("fiskal.host")

NULL = b"null"
"""The JSON answer of a receipt request without a match."""

Bytes = bytes | bytearray | memoryview


def open_software_scu(folder: Path, options: dict[str, Any], clock: Clock) -> Scu:
    """The driver ``software``: the embedded TSE for development and testing, in ``folder``."""
    allowed = {"curve", "durable", "log_version"}
    unknown = sorted(set(options) - allowed)
    if unknown:
        raise ConfigurationError(
            f"the software TSE does not know the option {unknown[0]!r}; it knows {', '.join(sorted(allowed))}"
        )
    return open_software_tse(folder, clock=clock, **options)


DRIVERS: dict[str, Callable[[Path, dict[str, Any], Clock], Scu]] = {"software": open_software_scu}
"""Drivers by the name they have in ``fiskal.json``."""


class Middleware:
    """Echo, Sign and Journal for all queues of one host. Thread-safe; close it when done.

    Made by :func:`fiskal.open`. ``store`` and ``scus`` (by SCU id) may be given instead of what the
    configuration names, for tests and for a host that brings its own.
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
    ) -> None:
        self.config = config
        self.folder = folder
        self.store = open_store(folder / configs.STORE_NAME) if store is None else store
        self._bindings: dict[str, ScuBinding] = {}
        self._queues: dict[str, Queue] = {}
        self._only: Queue | None = None
        self._turn = Turn()
        try:
            self._check_drivers(scus or {})
            self._bind(self._merge(clock()), scus or {}, clock)
            self._open_queues(clock, new_guid)
        except BaseException:
            self.close()
            raise

    def _check_drivers(self, given: dict[str, Scu]) -> None:
        for scu in self.config.scus:
            if scu.driver not in DRIVERS and scu.id not in given:
                raise ConfigurationError(
                    f"SCU {scu.id}: there is no driver {scu.driver!r}; there is {', '.join(sorted(DRIVERS))}"
                )

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
            self._bindings[scu.id] = ScuBinding(
                scu.id,
                _opener(scu, self.folder, given.get(scu.id), clock),
                rows[scu.id],
            )

    def _open_queues(self, clock: Clock, new_guid: GuidSource) -> None:
        data = self.config.master_data
        master_data = None if data is None else canonical(data)
        for queue in self.config.queues:
            self._queues[queue.id] = Queue(
                queue.id,
                self.config.cash_box_id,
                self.store,
                self._bindings.get,
                queue.settings,
                self._turn,
                clock=clock,
                new_guid=new_guid,
                master_data=master_data,
            )
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
        queue, request = self._prepare(body)
        text = queue.sign(request)
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
        return queue.sign_later(prepared)

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
        end, a negative one a number of entries. Raises JournalError before the first chunk.
        """
        queue = self.queue(queue_id)
        row = self.store.queue(queue.queue_id)
        assert row is not None  # the queue was opened from it
        source = journals.Source(self.store, row.queue_no, queue.queue_id, self.config.cash_box_id)
        return journals.stream(source, journal_type, from_ticks, to_ticks, max_chunk_size)

    def journal_json(self, body: Bytes) -> Iterator[bytes]:
        """The journal a JournalRequest asks for. Raises as :meth:`journal`, ReceiptRejected for bad JSON."""
        request = decode_journal_request(bytes(body))
        return self.journal(request.ft_journal_type, request.from_, request.to, request.max_chunk_size)

    # ---- life -----------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What a health check wants to know, from memory: no TSE and no disk is touched."""
        return {
            "status": "ok",
            "ftCashBoxId": self.config.cash_box_id,
            "queues": [queue.status() for queue in self._queues.values()],
        }

    def close(self) -> None:
        """Sign what was put in line, close the TSEs and the journal. What was answered is durable already."""
        for queue in self._queues.values():
            queue.close()
        for binding in self._bindings.values():
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
    return Middleware(configs.load(folder), folder, clock=clock)


def _opener(scu: ScuConfig, folder: Path, given: Scu | None, clock: Clock) -> Callable[[], Scu]:
    if given is not None:
        return lambda: given
    driver = DRIVERS[scu.driver]
    return lambda: driver(folder / "scu" / scu.id, scu.options, clock)


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
