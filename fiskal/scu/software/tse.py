"""The software TSE: genuine log messages and signatures by a key in a file. For development and testing."""

from __future__ import annotations

import base64
import contextlib
import itertools
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from fiskal.clock import TICKS_PER_MILLISECOND, UNIX_EPOCH_TICKS, Clock, from_unix, now, to_unix
from fiskal.errors import ConfigurationError
from fiskal.files import staged_path, write_atomically
from fiskal.scu.contract import Deadline, TseInfo, TseStates
from fiskal.scu.driver import Call, Remembered, Selection, Signed, Turn, Verdict, request_sha256
from fiskal.scu.errors import ClientError, Misconfigured, TseRejected
from fiskal.scu.refusals import (
    client_has_open_transactions,
    client_limit,
    client_not_registered,
    logging_locked,
    secure_state,
    terminated,
    transaction_not_open,
    wrong_state,
)
from fiskal.scu.software import log as records
from fiskal.scu.software.folder import (
    FORMAT,
    Checkpoint,
    Description,
    FolderLock,
    read_checkpoint,
    write_checkpoint,
)
from fiskal.scu.software.limits import (
    DEFAULT_LIMITS,
    MAX_CLIENTS,
    MAX_COUNTER,
    MAX_LOG_MEMORY_BYTES,
    MAX_OPEN_TRANSACTIONS,
    MAX_SIGNATURES,
    Limits,
)
from fiskal.scu.software.log import Record, RecordLog, Snapshot
from fiskal.tse._native import (
    LOG_FINISH,
    LOG_START,
    LOG_UPDATE,
    MessageBuilder,
    TimeFormat,
    plain_signature,
)
from fiskal.tse.algorithms import Curve, KeyNotUsable, curve_by_name, point_of, serial_of_point
from fiskal.tse.certificates import CertificateError, Chain, create_test_chain, load_chain
from fiskal.tse.encode_events import (
    Component,
    Event,
    EventEncoder,
    SelfTestResult,
    components_csv,
)
from fiskal.tse.logmessage import build_file_name, parse
from fiskal.tse.tar import Sink, info_csv, write_archive

log = logging.getLogger(__name__)

NOT_CERTIFIED_WARNING: Final = (
    "This is the software TSE of fiskal: it is NOT CERTIFIED, its signatures have no legal value, and it "
    "must not be used for real sales. It is meant for development, testing and training."
)
CERTIFICATION: Final = "fiskal-simulation (NOT CERTIFIED)"
FIRMWARE: Final = "fiskal software TSE 1.0"
MANUFACTURER: Final = "fiskal (NOT CERTIFIED)"
VERSION: Final = "1.0.0"

COMPONENTS: Final = tuple(
    Component(name, MANUFACTURER, FIRMWARE, VERSION, CERTIFICATION)
    for name in ("device", "storage", "integration-interface", "CSP", "SMA")
)

MAX_PROCESS_TYPE_CHARACTERS: Final = 100
MAX_PROCESS_DATA_BYTES: Final = 65_536
AUDIT_SECURE_STATE: Final = 1
"""The kind of an audit log about entering the secure state."""
CHECKPOINT_EVERY: Final = 4096
RECENT_CALLS: Final = 1024
"""Calls that are found again without a search in the log: at least this many, at most twice as many."""

_CLIENT_ID: Final = re.compile(r"[A-Za-z0-9 '()+,\-.=]{1,64}")
"""TR-03151-1 Annex A: PrintableString without what file names cannot hold."""

_Key = tuple[int, str, str, int]
_OPS: Final = {"start": records.OP_START, "update": records.OP_UPDATE, "finish": records.OP_FINISH}


class SoftwareTse:
    """The :class:`fiskal.scu.driver.Driver` of a software TSE in a folder.

    Opening creates the TSE if the folder holds none and ``create`` allows it; ``curve``, ``log_version`` and
    ``time_format`` count then only. ``durable`` syncs every signature to the disk before it is answered;
    without it answered signatures survive the death of the process, not that of the machine.

    Raises ``Misconfigured``: DEVICE_IN_USE, NOT_PERSONALISED (nothing there and not ``create``), LOG_DAMAGED
    (also for unreadable key or certificates), TSE_NOT_AVAILABLE (the disk refuses); and
    :class:`fiskal.errors.ConfigurationError` for an unknown curve or version.
    """

    key_in_process = True
    remembers_calls = True
    needs_open_numbers = False
    terminates_uninitialized = False
    filters_exports = True
    erases_with_open_transactions = False

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        curve: str = "secp256r1",
        durable: bool = False,
        log_version: int = 2,
        time_format: TimeFormat = TimeFormat.UNIX,
        clock: Clock = now,
        create: bool = True,
        max_clients: int = MAX_CLIENTS,
        max_open_transactions: int = MAX_OPEN_TRANSACTIONS,
        max_signatures: int = MAX_SIGNATURES,
        max_log_memory_bytes: int = MAX_LOG_MEMORY_BYTES,
        checkpoint_every: int = CHECKPOINT_EVERY,
    ) -> None:
        self.directory = Path(directory)
        self.computes_only = not durable
        self._clock = clock
        self._limits = Limits(
            max_clients=max_clients,
            max_open_transactions=max_open_transactions,
            max_signatures=min(max_signatures, MAX_COUNTER),
            max_log_memory_bytes=max_log_memory_bytes,
        ).over(DEFAULT_LIMITS)
        self._checkpoint_every = checkpoint_every
        if log_version not in (2, 3):
            raise ConfigurationError(f"log_version is {log_version}; there are 2 and 3.")
        try:
            new_curve = curve_by_name(curve)
        except KeyNotUsable as error:
            raise ConfigurationError(str(error)) from error
        with _disk_errors(self.directory), contextlib.ExitStack() as stack:
            if create:
                self.directory.mkdir(parents=True, exist_ok=True)
            if not self.directory.is_dir():
                raise Misconfigured("NOT_PERSONALISED", f"There is no software TSE in {self.directory}.")
            lock = FolderLock(self.directory / "lock")
            stack.callback(lock.release)
            if not (self.directory / "tse.json").exists():
                if not create:
                    raise Misconfigured("NOT_PERSONALISED", f"There is no software TSE in {self.directory}.")
                _create(self.directory, new_curve, log_version, time_format, clock)
            self.description, self._curve, self._time_format = _description(self.directory)
            self._resolution_ms = 1 if self._time_format is TimeFormat.GENERALIZED_MS else 1000
            self._key, self._chain = _credentials(self.directory, self.description)
            self._prehashed = ec.ECDSA(utils.Prehashed(self._curve.algorithm.hash))
            self._scalar_size = self._curve.scalar_size
            self._builder = MessageBuilder(
                serial=self._chain.serial,
                algorithm=self._curve.algorithm.arcs,
                hash_name=self._curve.algorithm.hash_name,
                version=self.description.log_version,
                time_format=self._time_format,
            )
            self._events = EventEncoder(self.description.log_version, self._time_format)
            self._log = RecordLog(self.directory / "messages.log", durable=durable)
            staged_path(self.directory / "checkpoint").unlink(
                missing_ok=True
            )  # of a process that died over it
            stack.callback(self._log.close)
            self._apply_limits()
            self._recover()
            self._resources = stack.pop_all()
        self._closed = False
        log.warning("%s (%s)", NOT_CERTIFIED_WARNING, self.directory)

    # ---- limits -------------------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        """What the TSE holds at most. Set it while no call is in progress; what is there already stays."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits.over(self._limits)
        self._apply_limits()

    def _apply_limits(self) -> None:
        limits = self._limits
        assert limits.max_clients is not None
        assert limits.max_open_transactions is not None
        assert limits.max_signatures is not None
        assert limits.max_log_memory_bytes is not None
        self._max_clients = limits.max_clients
        self._max_open = limits.max_open_transactions
        self._max_signatures = limits.max_signatures
        self._full_at = self._log.first + limits.max_log_memory_bytes
        self._static = self._static_info()

    def _memory_full(self) -> TseRejected:
        return TseRejected(
            "MEMORY_FULL",
            f"The log of the TSE has {self._log.end - self._log.first} of at most "
            f"{self._limits.max_log_memory_bytes} bytes: export and erase it.",
        )

    # ---- state --------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Rebuild what is in memory from the checkpoint and the log behind it."""
        checkpoint = read_checkpoint(self.directory / "checkpoint")
        if checkpoint is not None and checkpoint.erasures > self._log.erasures:
            raise records.damaged(
                f"{self._log.path} is older than the checkpoint: signatures have been lost."
            )
        if checkpoint is None or checkpoint.erasures != self._log.erasures:
            # None, or one of the log before it was erased.
            checkpoint = Checkpoint() if self._log.base is None else self._log.base.checkpoint
        self._counter = checkpoint.counter
        self._number = checkpoint.number
        self._last_ms = checkpoint.last_unix_ms
        self._state = checkpoint.state
        self._locked = checkpoint.locked
        self._secure = checkpoint.secure
        self._device_description = checkpoint.device_description
        self._clients: dict[str, bytes] = {client: client.encode() for client in checkpoint.clients}
        self._open: dict[int, tuple[str, int]] = dict(checkpoint.open)
        self._recent: dict[_Key, int] = {}
        self._older: dict[_Key, int] = {}
        with _disk_errors(self.directory):
            for record in self._log.recover(checkpoint.offset):
                if record.counter != self._counter + 1:
                    raise records.damaged(
                        f"Signature counter {record.counter} follows {self._counter} at byte {record.offset} "
                        f"of {self._log.path}."
                    )
                self._apply(record)
        self._checkpoint_at = checkpoint.counter + self._checkpoint_every
        assert self._limits.max_log_memory_bytes is not None
        self._full_at = self._log.first + self._limits.max_log_memory_bytes
        self._judge()
        self._in_doubt = False

    def _apply(self, record: Record) -> None:
        """What a record changes; the same as the operations below do after they wrote it."""
        self._counter = record.counter
        self._last_ms = record.unix_ms
        op = record.op
        if op <= records.OP_FINISH:
            if record.queue_item_id:
                number = 0 if op == records.OP_START else record.number
                self._remember((op, record.client_id, record.queue_item_id, number), record.offset)
            if op == records.OP_START:
                self._number = record.number
                self._open[record.number] = (record.client_id, record.unix_ms)
            elif op == records.OP_FINISH:
                self._open.pop(record.number, None)
        elif op == records.OP_REGISTER:
            self._clients[record.client_id] = record.client_id.encode()
        elif op == records.OP_UNREGISTER:
            self._clients.pop(record.client_id, None)
        else:
            self._switch(op, record.client_id)

    def _switch(self, op: int, text: str) -> None:
        """What a system event changes at the TSE itself."""
        if op == records.OP_INITIALIZE:
            self._state = TseStates.INITIALIZED
            if text:
                self._device_description = text
        elif op == records.OP_TERMINATE:
            self._state = TseStates.TERMINATED
        elif op in (records.OP_LOCK, records.OP_UNLOCK):
            self._locked = op == records.OP_LOCK
        elif op in (records.OP_ENTER_SECURE_STATE, records.OP_EXIT_SECURE_STATE):
            self._secure = op == records.OP_ENTER_SECURE_STATE
        elif op == records.OP_DESCRIBE:
            self._device_description = text
        self._judge()

    def _judge(self) -> None:
        """Find out once whether transactions are refused, and not at every one."""
        self._refusal: Callable[[], TseRejected] | None = None
        if self._state is not TseStates.INITIALIZED:
            self._refusal = partial(wrong_state, self._state)
        elif self._secure:
            self._refusal = secure_state
        elif self._locked:
            self._refusal = logging_locked

    def _remember(self, key: _Key, offset: int) -> None:
        recent = self._recent
        recent[key] = offset
        if len(recent) >= RECENT_CALLS:
            self._older = recent
            self._recent = {}

    def _state_now(self) -> Checkpoint:
        return Checkpoint(
            erasures=self._log.erasures,
            offset=self._log.end,
            counter=self._counter,
            number=self._number,
            last_unix_ms=self._last_ms,
            state=self._state,
            locked=self._locked,
            secure=self._secure,
            device_description=self._device_description,
            clients=list(self._clients),
            open=self._open,
        )

    def _checkpoint(self) -> None:
        """Shorten the next start. A disk that does not take it costs nothing else."""
        self._checkpoint_at = self._counter + self._checkpoint_every
        try:
            write_checkpoint(self.directory / "checkpoint", self._state_now())
        except OSError as error:
            log.warning("the checkpoint of %s could not be written: %s", self.directory, error)

    # ---- signing ------------------------------------------------------------------------------

    def _now_ms(self) -> int:
        """The time of the TSE: that of the host, but never before the last message."""
        unix_ms = (self._clock() - UNIX_EPOCH_TICKS) // TICKS_PER_MILLISECOND
        unix_ms -= unix_ms % self._resolution_ms
        return unix_ms if unix_ms > self._last_ms else self._last_ms

    def _next_counter(self) -> int:
        if self._in_doubt:
            self._recover()
        if self._counter >= self._max_signatures:
            raise TseRejected(
                "SIGNATURE_LIMIT",
                f"The TSE has made {self._counter} of at most {self._max_signatures} signatures.",
            )
        return self._counter + 1

    def _commit(
        self,
        op: int,
        counter: int,
        number: int,
        unix_ms: int,
        start_unix_ms: int,
        queue_item_id: bytes,
        client_id: bytes,
        digest: bytes,
    ) -> tuple[int, bytes]:
        """Sign what was built last and write it; return the record's offset and the signature.

        Until the caller has taken over the change in memory the TSE is in doubt about it: should the thread
        be interrupted in between, the next call reads the log again.
        """
        signature = plain_signature(self._key.sign(digest, self._prehashed), self._scalar_size)
        message = self._builder.seal(signature)
        self._in_doubt = True
        try:
            offset = self._log.append(
                op, counter, number, unix_ms, start_unix_ms, queue_item_id, client_id, message
            )
        except TseRejected:
            self._in_doubt = False
            raise
        self._counter = counter
        self._last_ms = unix_ms
        return offset, signature

    def _settle(self) -> None:
        self._in_doubt = False
        if self._counter >= self._checkpoint_at:
            self._checkpoint()

    def _check_transaction(self, call: Call) -> tuple[bytes, bytes, bytes]:
        """Refuse what the TSE must not execute; return client, process type and queue item as bytes."""
        if self._refusal is not None:
            raise self._refusal()
        client_id = self._clients.get(call.client_id)
        if client_id is None:
            raise client_not_registered(call.client_id)
        if self._log.end >= self._full_at:
            raise self._memory_full()
        if len(call.process_type) > MAX_PROCESS_TYPE_CHARACTERS:
            raise ClientError(
                "INVALID_PROCESS_DATA",
                f"ProcessType has {len(call.process_type)} characters, at most "
                f"{MAX_PROCESS_TYPE_CHARACTERS} are allowed.",
            )
        if len(call.process_data) > MAX_PROCESS_DATA_BYTES:
            raise ClientError(
                "INVALID_PROCESS_DATA",
                f"The process data has {len(call.process_data)} bytes, at most {MAX_PROCESS_DATA_BYTES} "
                "are allowed.",
            )
        try:
            return client_id, call.process_type.encode(), call.queue_item_id.encode()
        except UnicodeEncodeError as error:
            raise ClientError("INVALID_PROCESS_DATA", "A text of the request is not Unicode.") from error

    def start(self, call: Call, deadline: Deadline | None, external_data: bytes | None = None) -> Signed:
        counter = self._next_counter()
        client_id, process_type, item = self._check_transaction(call)
        if len(self._open) >= self._max_open:
            raise TseRejected(
                "TRANSACTION_LIMIT",
                f"The TSE has {len(self._open)} of at most {self._max_open} open transactions.",
            )
        if self._number >= MAX_COUNTER:
            raise TseRejected(
                "TRANSACTION_LIMIT",
                f"The TSE has given out {self._number} of at most {MAX_COUNTER} transaction numbers.",
            )
        number = self._number + 1
        unix_ms = self._now_ms()
        digest = self._builder.transaction(
            LOG_START,
            client_id,
            call.process_data,
            process_type,
            number,
            counter,
            unix_ms,
            external_data=external_data,
        )
        offset, signature = self._commit(
            records.OP_START, counter, number, unix_ms, 0, item, client_id, digest
        )
        self._number = number
        self._open[number] = (call.client_id, unix_ms)
        if item:
            self._remember((records.OP_START, call.client_id, call.queue_item_id, 0), offset)
        self._settle()
        return Signed(number, counter, _ticks(unix_ms), signature)

    def update(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._continue(call, LOG_UPDATE, records.OP_UPDATE)

    def finish(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._continue(call, LOG_FINISH, records.OP_FINISH)

    update_variant = "signed"
    """What getSupportedTransactionUpdateVariants answers."""

    def flush(self, number: int) -> Signed | None:
        """Sign what updates left unsigned; None if there is nothing."""
        return None

    def unsigned(self, number: int) -> Signed:
        """The answer to an update that is kept for later."""
        return Signed(number, 0, _ticks(self._now_ms()), b"")

    def _continue(self, call: Call, operation: int, op: int, chunks: Sequence[int] | None = None) -> Signed:
        counter = self._next_counter()
        client_id, process_type, item = self._check_transaction(call)
        number = call.transaction_number
        opened = self._open.get(number)
        if opened is None:
            raise transaction_not_open(number)
        started_ms = opened[1]
        unix_ms = self._now_ms()
        digest = self._builder.transaction(
            operation,
            client_id,
            call.process_data,
            process_type,
            number,
            counter,
            unix_ms,
            chunks=chunks,
        )
        offset, signature = self._commit(op, counter, number, unix_ms, started_ms, item, client_id, digest)
        if op == records.OP_FINISH:
            del self._open[number]
        if item:
            self._remember((op, call.client_id, call.queue_item_id, number), offset)
        self._settle()
        return Signed(number, counter, _ticks(unix_ms), signature, _ticks(started_ms))

    # ---- administration -----------------------------------------------------------------------

    def write_event(
        self,
        event: Event,
        op: int = records.OP_OTHER,
        *,
        subject: str = "",
        user: str | None = "admin",
        unix_ms: int | None = None,
    ) -> None:
        """Sign and write one system log; ``op`` is what it changes, ``subject`` the client or text in it.

        ``user`` None is for what the TSE does by itself.
        """
        counter = self._next_counter()
        if unix_ms is None:
            unix_ms = self._now_ms()
        digest = self._builder.system(
            event.name.encode(),
            event.data,
            counter,
            unix_ms,
            origin=b"integration-interface" if user is not None else b"device",
            user=None if user is None else user.encode(),
        )
        self._commit(op, counter, 0, unix_ms, 0, b"", subject.encode(), digest)
        if op == records.OP_REGISTER:
            self._clients[subject] = subject.encode()
        elif op == records.OP_UNREGISTER:
            del self._clients[subject]
        else:
            self._switch(op, subject)
        self._settle()

    def write_audit(self, kind: int, result: int) -> None:
        """Sign and write one audit log."""
        counter = self._next_counter()
        unix_ms = self._now_ms()
        digest = self._builder.audit(self._events.audit(unix_ms, kind, result), counter, unix_ms)
        self._commit(records.OP_OTHER, counter, 0, unix_ms, 0, b"", b"", digest)
        self._settle()

    def set_state(self, target: TseStates, deadline: Deadline | None) -> None:
        if target is TseStates.INITIALIZED and self._state is TseStates.UNINITIALIZED:
            # The state changes with the last message: dying in between leaves the TSE uninitialised.
            self.write_event(self._events.start_audit(), user=None)
            self.update_time()
            self.write_event(self._events.initialize(FIRMWARE), records.OP_INITIALIZE)
        elif target is TseStates.TERMINATED and self._state is TseStates.INITIALIZED:
            unix_ms = self._now_ms()
            self.write_event(self._events.disable(unix_ms), records.OP_TERMINATE, unix_ms=unix_ms)
        elif target is not self._state:
            raise terminated() if self._state is TseStates.TERMINATED else wrong_state(self._state)
        self._checkpoint()

    def validate_client_id(self, client_id: str) -> None:
        if not _CLIENT_ID.fullmatch(client_id):
            raise ClientError(
                "INVALID_CLIENT_ID",
                f"The client id {client_id!r} must have 1 to 64 characters out of A-Z a-z 0-9 space "
                "' ( ) + , - . = (TR-03151-1 Annex A).",
            )

    def register(self, client_id: str, deadline: Deadline | None, *, user: str | None = "admin") -> None:
        self.validate_client_id(client_id)
        self._require_initialized()
        if client_id in self._clients:
            return
        if len(self._clients) >= self._max_clients:
            raise client_limit(len(self._clients), self._max_clients)
        if self._log.end >= self._full_at:
            raise self._memory_full()
        self.write_event(
            self._events.register_client(client_id), records.OP_REGISTER, subject=client_id, user=user
        )

    def unregister(self, client_id: str, deadline: Deadline | None, *, user: str | None = "admin") -> None:
        self._require_initialized()
        if client_id not in self._clients:
            return
        numbers = self.opened_by(client_id)
        if numbers:
            raise client_has_open_transactions(client_id, numbers)
        if self._log.end >= self._full_at:
            raise self._memory_full()
        self.write_event(
            self._events.deregister_client(client_id), records.OP_UNREGISTER, subject=client_id, user=user
        )

    def _require_initialized(self) -> None:
        if self._state is not TseStates.INITIALIZED:
            raise wrong_state(self._state)
        if self._secure:
            raise secure_state()

    def set_time(self, deadline: Deadline | None) -> None:
        """Set the time of the TSE to that of the host; does nothing unless initialised.

        The one way to make logTime go back after the host's clock was wrong (TR-03151-1 §4.4.4).
        """
        if self._state is TseStates.INITIALIZED:
            self._require_initialized()
            self.update_time()

    def update_time(self, *, user: str | None = "admin", before_ms: int | None = None) -> None:
        """Write an updateTime and go on with the time of the clock, which was ``before_ms`` before."""
        host_ms = (self._clock() - UNIX_EPOCH_TICKS) // TICKS_PER_MILLISECOND
        host_ms -= host_ms % self._resolution_ms
        before_ms = self._now_ms() if before_ms is None else before_ms
        self.write_event(self._events.update_time(before_ms, host_ms), unix_ms=host_ms, user=user)

    def self_test(self, deadline: Deadline | None) -> None:
        """Test key and log. Raises ``TseRejected`` SECURE_STATE."""
        results = self.run_self_test()
        for result in results:
            if not result.passed:
                raise TseRejected("SECURE_STATE", f"The self test of {result.component}: {result.message}")

    def run_self_test(
        self, *, user: str | None = None, log_success: bool = False, failure: str = ""
    ) -> list[SelfTestResult]:
        """Test the parts of the TSE. What fails brings it into the secure state, what passes out of it.

        ``failure`` makes the test of the key fail with this message. Failures are logged, successes on demand;
        a terminated TSE logs nothing.
        """
        if self._in_doubt:
            self._recover()
        results = [
            SelfTestResult("CSP", not (found := failure or self._test_key()), found),
            SelfTestResult("storage", not (found := self._test_log()), found),
        ]
        passed = all(result.passed for result in results)
        if self._state is TseStates.TERMINATED:
            return results
        if log_success or not passed:
            for event in self._events.self_test(results):
                self.write_event(event, user=user)
        if not passed and not self._secure:
            self.write_event(self._events.enter_secure_state(), records.OP_ENTER_SECURE_STATE, user=None)
            self.write_audit(AUDIT_SECURE_STATE, 1)
        elif passed and self._secure:
            self.write_event(self._events.exit_secure_state(), records.OP_EXIT_SECURE_STATE, user=None)
        return results

    def _test_key(self) -> str:
        """Sign and verify something that is no log message."""
        digest = os.urandom(self._curve.algorithm.hash.digest_size)
        try:
            self._chain.public_key.verify(self._key.sign(digest, self._prehashed), digest, self._prehashed)
        except InvalidSignature:
            return "The key of the TSE does not fit its certificate."
        return ""

    def _test_log(self) -> str:
        """Read the last message back."""
        try:
            with contextlib.closing(self._log.backwards()) as walk:
                record = next(walk, None)
        except (OSError, Misconfigured) as error:
            return str(error)
        if record is not None and record.counter != self._counter:
            return f"The last message has counter {record.counter} instead of {self._counter}."
        return ""

    # ---- reading ------------------------------------------------------------------------------

    def info(self, deadline: Deadline | None) -> TseInfo:
        if self._in_doubt:
            self._recover()
        return msgspec.structs.replace(
            self._static,
            current_number_of_clients=len(self._clients),
            current_client_ids=list(self._clients),
            current_number_of_started_transactions=len(self._open),
            current_started_transaction_numbers=list(self._open),
            current_number_of_signatures=self._counter,
            current_log_memory_size=self._log.end - self._log.first,
            current_state=self._state,
        )

    @property
    def state(self) -> TseStates:
        return self._state

    @property
    def locked(self) -> bool:
        """Transactions are refused until somebody unlocks them."""
        return self._locked

    @property
    def secure(self) -> bool:
        """A self test failed, and none has passed since."""
        return self._secure

    @property
    def clients(self) -> Collection[str]:
        return self._clients.keys()

    @property
    def open_transactions(self) -> Collection[int]:
        return self._open.keys()

    def opened_by(self, client_id: str) -> list[int]:
        """The open transactions that one client has started."""
        return [number for number, (owner, _) in self._open.items() if owner == client_id]

    @property
    def counter(self) -> int:
        """The last signatureCounter, 0 before the first signature."""
        return self._counter

    @property
    def transaction_counter(self) -> int:
        """The last transaction number, 0 before the first start."""
        return self._number

    @property
    def memory_is_full(self) -> bool:
        return self._log.end >= self._full_at

    @property
    def device_description(self) -> str:
        """What initialize or setDescription said, empty without."""
        return self._device_description

    @property
    def time_format(self) -> TimeFormat:
        return self._time_format

    @property
    def created(self) -> int:
        """When the TSE was made, in ticks."""
        return from_unix(int(datetime.fromisoformat(self.description.created_utc).timestamp()))

    @property
    def valid_until(self) -> int:
        """The last moment of the certificate, in ticks."""
        return from_unix(int(self._chain.leaf.not_valid_after_utc.timestamp()))

    @property
    def events(self) -> EventEncoder:
        return self._events

    def now(self) -> int:
        """The time of the TSE's clock in ticks."""
        return self._clock()

    def now_ms(self) -> int:
        """logTime of a message that is signed now, in milliseconds since 1970."""
        return self._now_ms()

    def last_record(self, number: int | None = None, *, transactions_only: bool = False) -> Record | None:
        """The last record, or the last of a transaction (of all transactions), that was not erased."""
        with contextlib.closing(self._log.backwards()) as walk:
            for record in walk:
                if record.offset < self._log.first:
                    break
                is_transaction = record.op <= records.OP_FINISH
                if number is not None and not (is_transaction and record.number == number):
                    continue
                if is_transaction or not transactions_only:
                    return record
        return None

    def records_after(self, counter: int) -> list[Record]:
        """The records with a greater signatureCounter that were not erased, in their order; quick for the last ones."""
        found: list[Record] = []
        with contextlib.closing(self._log.backwards()) as walk:
            for record in walk:
                if record.offset < self._log.first or record.counter <= counter:
                    break
                found.append(record)
        found.reverse()
        return found

    def count(self, selection: Selection, at_most: int) -> int:
        """How many messages a selection means; counting ends with ``at_most``."""
        with self._log.snapshot() as snapshot:
            return sum(1 for _ in itertools.islice(_choose(snapshot, selection), at_most))

    def _static_info(self) -> TseInfo:
        """What does not change while the TSE is open, with zeros for the rest."""
        return TseInfo(
            max_number_of_clients=self._max_clients,
            current_number_of_clients=0,
            current_client_ids=[],
            max_number_of_started_transactions=self._max_open,
            current_number_of_started_transactions=0,
            current_started_transaction_numbers=[],
            max_number_of_signatures=self._max_signatures,
            current_number_of_signatures=0,
            max_log_memory_size=self._full_at - self._log.first,
            current_log_memory_size=0,
            current_state=TseStates.UNINITIALIZED,
            firmware_identification=FIRMWARE,
            certification_identification=CERTIFICATION,
            signature_algorithm=self._curve.algorithm.name,
            log_time_format=self._time_format.text,
            serial_number_octet=self._chain.serial.hex(),
            public_key_base64=base64.b64encode(self._chain.point).decode("ascii"),
            certificates_base64=[base64.b64encode(der).decode("ascii") for der in self._chain.der],
            info={"tse_description": FIRMWARE, "notice": NOT_CERTIFIED_WARNING},
        )

    def recall(self, call: Call) -> Remembered | None:
        if self._in_doubt:
            self._recover()
        op = _OPS[call.op]
        key = (op, call.client_id, call.queue_item_id, call.transaction_number)
        offset = self._recent.get(key)
        if offset is None:
            offset = self._older.get(key)
        if offset is not None:
            record: Record | None = self._log.read(offset)
        else:
            record = self._log.find_last(
                op,
                call.queue_item_id.encode(),
                call.client_id.encode(),
                None if op == records.OP_START else call.transaction_number,
            )
        if record is None:
            return None
        message = parse(record.message)
        process_data = message.process_data or b""
        if message.process_data_chunks:  # what the caller sent is the last; updates left the others
            process_data = process_data[len(process_data) - message.process_data_chunks[-1] :]
        executed = Call(
            call.op,
            record.client_id,
            call.transaction_number,
            message.process_type or "",
            process_data,
            record.queue_item_id,
        )
        signed = Signed(
            record.number,
            record.counter,
            _ticks(record.unix_ms),
            message.signature,
            None if op == records.OP_START else _ticks(record.start_unix_ms),
            record.message,
        )
        return Remembered(request_sha256(executed), signed)

    def reconcile(
        self, call: Call, open_before: frozenset[int] | None, deadline: Deadline | None
    ) -> Signed | Verdict:
        remembered = self.recall(call)
        return Verdict.NOT_EXECUTED if remembered is None else remembered.signed

    # ---- exports ------------------------------------------------------------------------------

    def export(self, selection: Selection, out: Sink, turn: Turn) -> int:
        with turn():
            if self._in_doubt:
                self._recover()
            snapshot = self._log.snapshot()
            mtime = to_unix(self._clock())
        last_counter = 0

        def chosen() -> Iterator[tuple[str, bytes]]:
            nonlocal last_counter
            for record in _choose(snapshot, selection):
                last_counter = record.counter
                yield build_file_name(parse(record.message)), record.message

        with snapshot:
            write_archive(out, info=self.info_csv(), chain=self._chain, messages=chosen(), mtime=mtime)
        return last_counter

    def info_csv(self) -> bytes:
        """Return info.csv as the version of the log messages asks for."""
        if self.description.log_version == 2:
            return info_csv(self._device_description or FIRMWARE, MANUFACTURER, VERSION)
        return components_csv(COMPONENTS, self._device_description)

    def erase(self, last_counter: int, deadline: Deadline | None, *, user: str = "admin") -> None:
        """Delete the messages up to ``last_counter``; the system log that says so is the first of the next ones.

        The new log takes the place of the old one in one step, with the message in it: who dies before has
        erased nothing, who dies behind it everything. Raises ``TseRejected`` OPEN_TRANSACTIONS, WRONG_STATE,
        ERASE_FAILED.
        """
        counter = self._next_counter()
        self._require_initialized()
        if self._open:
            raise TseRejected("OPEN_TRANSACTIONS", f"The TSE has {len(self._open)} open transactions.")
        if self._log.read(self._log.first).counter > last_counter:
            return  # it was erased before
        unix_ms = self._now_ms()
        event = self._events.delete_logs(user)
        digest = self._builder.system(
            event.name.encode(),
            event.data,
            counter,
            unix_ms,
            origin=b"integration-interface",
            user=user.encode(),
        )
        signature = plain_signature(self._key.sign(digest, self._prehashed), self._scalar_size)
        message = self._builder.seal(signature)
        record = records.encode(records.OP_OTHER, counter, 0, unix_ms, 0, b"", b"", message)
        self._in_doubt = True
        try:
            self._log.erase(last_counter, self._state_now(), RECENT_CALLS, record)
        except OSError as error:
            raise TseRejected("ERASE_FAILED", f"The log of the TSE cannot be erased: {error}.") from error
        self._recover()
        self._checkpoint()

    # ---- the log ------------------------------------------------------------------------------

    def messages(self, from_counter: int = 1) -> Iterator[tuple[int, bytes]]:
        """Read the log: signatureCounter and DER of every message from ``from_counter`` on.

        Without what was erased. May be called while others sign; ends with what was written at the call. Raises
        ``Misconfigured`` LOG_DAMAGED.
        """
        for record in self._log.records():
            if record.counter >= from_counter:
                yield record.counter, record.message

    @property
    def chain(self) -> Chain:
        """The certificates of the TSE."""
        return self._chain

    def close(self) -> None:
        """Write a checkpoint and give the folder free. Closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        with self._resources:
            self._log.sync()  # first: a checkpoint must not reach the disk before what it counts
            if not self._in_doubt:
                self._checkpoint()


def _choose(snapshot: Snapshot, selection: Selection) -> Iterator[Record]:
    """The records that a selection means; read twice if the first and last of them have to be found."""
    first_ms = _first_ms(selection.first_time)
    last_ms = _last_ms(selection.last_time)

    def in_time() -> Iterator[Record]:
        for record in snapshot.records():
            if first_ms <= record.unix_ms <= last_ms and record.counter > selection.after_counter:
                yield record

    if not selection.by_transaction:
        yield from in_time()
        return
    first_number = selection.first_number or 0
    last_number = MAX_COUNTER if selection.last_number is None else selection.last_number

    def matches(record: Record) -> bool:
        return (
            record.op <= records.OP_FINISH
            and first_number <= record.number <= last_number
            and selection.client_id in (None, record.client_id)
        )

    first = last = 0
    for record in in_time():
        if matches(record):
            first = first or record.counter
            last = record.counter
    for record in in_time():
        if record.counter > last:
            return
        if matches(record) or (record.op > records.OP_FINISH and record.counter >= first):
            yield record


def _first_ms(ticks: int | None) -> int:
    """The first whole millisecond that is not before a moment."""
    return -(2**63) if ticks is None else -((UNIX_EPOCH_TICKS - ticks) // TICKS_PER_MILLISECOND)


def _last_ms(ticks: int | None) -> int:
    """The last whole millisecond that is not after a moment."""
    return 2**63 if ticks is None else (ticks - UNIX_EPOCH_TICKS) // TICKS_PER_MILLISECOND


@contextlib.contextmanager
def _disk_errors(directory: Path) -> Iterator[None]:
    """What the disk refuses while a TSE is opened is for a person to put right."""
    try:
        yield
    except OSError as error:
        raise Misconfigured(
            "TSE_NOT_AVAILABLE", f"The TSE is not available. {directory} cannot be used: {error}."
        ) from error


def _ticks(unix_ms: int) -> int:
    return UNIX_EPOCH_TICKS + unix_ms * TICKS_PER_MILLISECOND


def _create(directory: Path, curve: Curve, log_version: int, time_format: TimeFormat, clock: Clock) -> None:
    """Make key, certificates and description. A folder with a log but no description is left alone."""
    log_path = directory / "messages.log"
    if log_path.exists() and log_path.stat().st_size > 0:
        raise records.damaged(f"{directory} holds a log, but no tse.json to it.")
    created = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
        milliseconds=(clock() - UNIX_EPOCH_TICKS) // TICKS_PER_MILLISECOND
    )
    key = ec.generate_private_key(curve.curve)
    chain = create_test_chain(key.public_key(), created)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    description = Description(
        format=FORMAT,
        serial=serial_of_point(point_of(key.public_key())).hex(),
        curve=curve.name,
        log_version=log_version,
        time_format=time_format.text,
        created_utc=created.isoformat(timespec="seconds"),
        notice=NOT_CERTIFIED_WARNING,
    )
    log_path.touch(mode=0o600)
    write_atomically(directory / "key.pem", pem, 0o600)
    write_atomically(directory / "chain.pem", chain.pem)
    write_atomically(
        directory / "tse.json", msgspec.json.format(msgspec.json.encode(description), indent=2) + b"\n"
    )


def _description(directory: Path) -> tuple[Description, Curve, TimeFormat]:
    """Read what the TSE is."""
    path = directory / "tse.json"
    try:
        description = msgspec.json.decode(path.read_bytes(), type=Description)
        curve = curve_by_name(description.curve)
    except (OSError, msgspec.DecodeError, KeyNotUsable) as error:
        raise records.damaged(f"{path} cannot be read: {error}") from error
    time_format = next((item for item in TimeFormat if item.text == description.time_format), None)
    if description.format != FORMAT or description.log_version not in (2, 3) or time_format is None:
        raise records.damaged(f"{path} describes a TSE that this version cannot be.")
    return description, curve, time_format


def _credentials(directory: Path, description: Description) -> tuple[ec.EllipticCurvePrivateKey, Chain]:
    """Read key and certificates, and check that they belong together."""
    try:
        key = serialization.load_pem_private_key((directory / "key.pem").read_bytes(), None)
        chain = load_chain([(directory / "chain.pem").read_bytes()])
    except (OSError, ValueError, TypeError, CertificateError) as error:
        raise records.damaged(f"Key or certificates in {directory} cannot be read: {error}.") from error
    if (
        not isinstance(key, ec.EllipticCurvePrivateKey)
        or point_of(key.public_key()) != chain.point
        or chain.serial.hex() != description.serial
    ):
        raise records.damaged(f"Key, certificates and tse.json in {directory} do not belong together.")
    return key, chain
