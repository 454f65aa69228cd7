"""Rehearsing a real TSE with the software TSE: its speed, its limits, its failures.

:class:`RehearsedTse` stands before a :class:`SoftwareTse` and makes it behave like a device: a call takes its
time, one after the other, and fails when it is told to. What is rehearsed comes from the SCU's options and from
``rehearse.json`` in the folder of the TSE, whose members win; the file is read again when it changes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn, TypeVar

import msgspec

from fiskal.errors import ConfigurationError
from fiskal.files import write_atomically
from fiskal.scu.contract import Deadline, TseInfo, TseStates
from fiskal.scu.driver import Call, Driver, Remembered, Selection, Signed, Turn
from fiskal.scu.errors import OutcomeUnknown, ScuError, TseRejected, Unreachable
from fiskal.scu.refusals import certificate_expired, secure_state
from fiskal.scu.service_time import Sampler, ServiceTime, sampler
from fiskal.scu.software.folder import FolderLock
from fiskal.scu.software.forwarding import ForwardingDriver
from fiskal.scu.software.limits import Limits
from fiskal.scu.software.tse import SoftwareTse
from fiskal.tse.tar import Sink

log = logging.getLogger(__name__)

FILE_NAME: Final = "rehearse.json"
"""Written by people and by ``fiskal tse rehearse``; only read here."""
USED_NAME: Final = "rehearsed.json"
"""How often which fault happened; only written here."""
LOCK_NAME: Final = "rehearsing"
"""Held by the process that rehearses the TSE."""

Operation = Literal[
    "start", "update", "finish", "info", "state", "clients", "set_time", "self_test", "export", "erase"
]
TRANSACTIONS: Final = frozenset({"start", "update", "finish"})
_SIGNING: Final = TRANSACTIONS | {"state", "clients", "set_time", "erase"}
_ALL: Final = _SIGNING | {"info", "self_test", "export"}

FaultKind = Literal[
    "unreachable",
    "time_out",
    "lose_answer",
    "wrong_signature",
    "memory_full",
    "certificate_expired",
    "time_not_set",
    "secure_state",
    "self_test_fails",
]
FAULT_KINDS: Final[dict[FaultKind, tuple[frozenset[str], str]]] = {
    "unreachable": (_ALL, "the TSE cannot be reached: nothing is executed"),
    "time_out": (TRANSACTIONS, "the TSE never answers: nothing is executed, the caller cannot know"),
    "lose_answer": (TRANSACTIONS, "the call is executed, its answer is lost"),
    "wrong_signature": (
        TRANSACTIONS,
        "the call is executed and answered with a signature that does not hold",
    ),
    "memory_full": (TRANSACTIONS, "the TSE refuses: its log memory is full"),
    "certificate_expired": (
        frozenset({"start"}),
        "the TSE starts no transaction: its certificate has expired",
    ),
    "time_not_set": (TRANSACTIONS, "the TSE refuses: its time is not set"),
    "secure_state": (_SIGNING, "the TSE refuses: it is in the secure state"),
    "self_test_fails": (
        frozenset({"self_test"}),
        "the self test fails; the TSE is in the secure state until one passes",
    ),
}
"""What each kind happens to when a fault names no operation, and what it is."""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Something that goes wrong in the next ``times`` calls it applies to; None is until it is taken away.

    ``operation`` None is what the kind usually happens to. How often a fault with an ``id`` happened is
    remembered beyond the end of the process; one without counts anew at every start.
    """

    kind: FaultKind
    operation: Operation | Literal["transaction", "any"] | None = None
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    id: str = ""

    @property
    def operations(self) -> frozenset[str]:
        """The operations it happens to."""
        if self.operation is None or self.kind == "self_test_fails":
            return FAULT_KINDS[self.kind][0]
        if self.operation == "transaction":
            return TRANSACTIONS
        return _ALL if self.operation == "any" else frozenset({self.operation})


class ServiceTimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long each operation takes; None takes what the computer takes. ``export`` is for one slice."""

    start: ServiceTime | None = None
    update: ServiceTime | None = None
    finish: ServiceTime | None = None
    info: ServiceTime | None = None
    state: ServiceTime | None = None
    clients: ServiceTime | None = None
    set_time: ServiceTime | None = None
    self_test: ServiceTime | None = None
    export: ServiceTime | None = None
    erase: ServiceTime | None = None


class Rehearsal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What is rehearsed. None is a member that was not set."""

    seed: int | None = None
    """Of the service times; each operation has a stream of its own."""
    service_time: ServiceTimes | None = None
    export_slice_bytes: Annotated[int, msgspec.Meta(ge=512)] | None = None
    """How much of an export the TSE delivers in one call, 65536 if not set."""
    limits: Limits | None = None
    faults: list[Fault] | None = None


def decode(data: bytes) -> Rehearsal:
    """Read a rehearsal from JSON. Raises :class:`fiskal.errors.ConfigurationError`."""
    try:
        return msgspec.json.decode(data, type=Rehearsal)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"this is no rehearsal: {error}") from error


def convert(options: Any) -> Rehearsal:
    """Read a rehearsal from plain values, or check one. Raises :class:`fiskal.errors.ConfigurationError`."""
    try:
        return msgspec.convert(msgspec.to_builtins(options), Rehearsal)
    except (msgspec.ValidationError, TypeError) as error:
        raise ConfigurationError(f"'rehearse' of the software TSE: {error}") from error


def read(folder: Path) -> Rehearsal | None:
    """Read the file in a TSE's folder; None if there is none. Raises as :func:`decode`."""
    path = folder / FILE_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    try:
        return decode(data)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def read_used(folder: Path) -> dict[str, int]:
    """How often each fault that has an id happened."""
    try:
        return msgspec.json.decode((folder / USED_NAME).read_bytes(), type=dict[str, int])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


def merge(base: Rehearsal, over: Rehearsal | None) -> Rehearsal:
    """``base`` with the members that ``over`` has."""
    if over is None:
        return base
    return msgspec.structs.replace(
        base,
        **{name: value for name in over.__struct_fields__ if (value := getattr(over, name)) is not None},
    )


_T = TypeVar("_T")


class RehearsedTse(ForwardingDriver):
    """A :class:`fiskal.scu.driver.Driver` before the software TSE that plays a device.

    It counts as one outside this process: to call it is to wait. The waiting is a sleep without the
    interpreter's lock. ``inner`` is what stands before the TSE already. A call whose time is longer than its
    deadline is executed all the same, is answered with ``OutcomeUnknown``, and keeps the TSE busy until its
    time is over. ``monotonic`` and ``sleep`` are for simulations. Raises
    :class:`fiskal.errors.ConfigurationError` for a rehearsal that cannot be.
    """

    def __init__(
        self,
        tse: SoftwareTse,
        rehearsal: Rehearsal | None = None,
        *,
        inner: Driver | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(tse if inner is None else inner)
        self.key_in_process = False
        self.computes_only = False
        self.tse = tse
        self._options = convert(rehearsal or Rehearsal())
        self._given_limits = tse.limits
        self._monotonic = monotonic
        self._sleep = sleep
        self._path = tse.directory / FILE_NAME
        self._free_at = monotonic()
        self._used = read_used(tse.directory)
        self._anonymous: dict[int, int] = {}
        self._forged: set[int] = set()
        self._seen: tuple[int, int, int] | None = None
        self._plan = Rehearsal()
        self._samplers: dict[str, Sampler] = {}
        self._lock = FolderLock(tse.directory / LOCK_NAME)
        try:
            self._seen = self._stamp()
            self._take(merge(self._options, read(tse.directory)))
            log.warning("the TSE in %s rehearses a device", tse.directory)
        except BaseException:
            self._lock.release()
            raise

    # ---- what is rehearsed --------------------------------------------------------------------

    def _stamp(self) -> tuple[int, int, int] | None:
        """What tells one version of the file from another."""
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _reread(self) -> None:
        """Take over a file that has changed; one that cannot be read changes nothing."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            plan = merge(self._options, read(self.tse.directory))
        except ConfigurationError as error:
            log.warning("the rehearsal stays as it is: %s", error)
            return
        self._take(plan)

    def _take(self, plan: Rehearsal) -> None:
        previous, self._plan = self._plan, plan
        self._anonymous = {}
        times = plan.service_time or ServiceTimes()
        if not self._samplers or (times, plan.seed) != (
            previous.service_time or ServiceTimes(),
            previous.seed,
        ):
            self._samplers = {
                name: sampler(service_time, f"{plan.seed or 0}/{name}")
                for name in times.__struct_fields__
                if (service_time := getattr(times, name)) is not None
            }
        self.tse.limits = (plan.limits or Limits()).over(self._given_limits)

    def _fault(self, operation: Operation) -> FaultKind | None:
        """The fault that happens to the call that begins; it is used up a little."""
        for index, fault in enumerate(self._plan.faults or ()):
            if operation not in fault.operations:
                continue
            if fault.times is None:
                return fault.kind
            used = self._used.get(fault.id, 0) if fault.id else self._anonymous.get(index, 0)
            if used >= fault.times:
                continue
            if fault.id:
                self._used[fault.id] = used + 1
                self._save_used()
            else:
                self._anonymous[index] = used + 1
            return fault.kind
        return None

    def _save_used(self) -> None:
        path = self.tse.directory / USED_NAME
        known = {fault.id for fault in self._plan.faults or ()}
        self._used = {key: used for key, used in self._used.items() if key in known}
        with contextlib.suppress(OSError):
            write_atomically(path, msgspec.json.encode(self._used), durable=False)

    # ---- calls --------------------------------------------------------------------------------

    def _call(self, operation: Operation, deadline: Deadline | None, action: Callable[[], _T]) -> _T:
        """Execute ``action`` as a device would: after the one before, in its time, or not at all."""
        self._reread()
        arrival = self._monotonic()
        limit = None if deadline is None else arrival + deadline.remaining()
        begin = max(arrival, self._free_at)
        if limit is not None and limit < begin:
            self._wait_until(limit)
            raise Unreachable("BUSY", "The TSE was busy with an earlier call until the deadline passed.")
        fault = self._fault(operation)
        if fault == "unreachable":
            raise _unreachable()
        if fault == "self_test_fails":
            action = self._fail_self_test
        sample = self._samplers.get(operation)
        end = begin + (0.0 if sample is None else sample())
        self._free_at = end
        if fault == "time_out":
            self._wait_until(end if limit is None else limit)
            raise _no_answer(operation)
        try:
            refusal = _refusal(fault)
            if refusal is not None:
                raise refusal
            answer = action()
        finally:
            if limit is None or end <= limit:
                self._wait_until(end)
        if limit is not None and end > limit:
            self._wait_until(limit)
            raise _no_answer(operation)
        if fault == "lose_answer":
            raise _no_answer(operation)
        if fault == "wrong_signature" and isinstance(answer, Signed) and answer.signature:
            self._forged.add(answer.signature_counter)
        return answer

    def _said(self, signed: Signed) -> Signed:
        """What this TSE says of a signature, now and whenever it is asked again."""
        if signed.signature_counter not in self._forged:
            return signed
        wrong = signed.signature[:-1] + bytes([signed.signature[-1] ^ 1])
        return msgspec.structs.replace(signed, signature=wrong, log_message=None)

    def _wait_until(self, moment: float) -> None:
        while (seconds := moment - self._monotonic()) > 0:
            self._sleep(seconds)

    def start(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._said(self._call("start", deadline, lambda: self.inner.start(call, deadline)))

    def update(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._said(self._call("update", deadline, lambda: self.inner.update(call, deadline)))

    def finish(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._said(self._call("finish", deadline, lambda: self.inner.finish(call, deadline)))

    def info(self, deadline: Deadline | None) -> TseInfo:
        return self._call("info", deadline, lambda: self.inner.info(deadline))

    def set_state(self, target: TseStates, deadline: Deadline | None) -> None:
        self._call("state", deadline, lambda: self.inner.set_state(target, deadline))

    def register(self, client_id: str, deadline: Deadline | None) -> None:
        self._call("clients", deadline, lambda: self.inner.register(client_id, deadline))

    def unregister(self, client_id: str, deadline: Deadline | None) -> None:
        self._call("clients", deadline, lambda: self.inner.unregister(client_id, deadline))

    def set_time(self, deadline: Deadline | None) -> None:
        self._call("set_time", deadline, lambda: self.inner.set_time(deadline))

    def self_test(self, deadline: Deadline | None) -> None:
        self._call("self_test", deadline, lambda: self.inner.self_test(deadline))

    def _fail_self_test(self) -> NoReturn:
        self.tse.run_self_test(failure="This is rehearsed.")
        raise secure_state()

    def erase(self, last_counter: int, deadline: Deadline | None) -> None:
        self._call("erase", deadline, lambda: self.inner.erase(last_counter, deadline))

    def export(self, selection: Selection, out: Sink, turn: Turn) -> int:
        """Export in slices, each of them a call of its own that others wait for."""
        with turn():
            self._reread()
            fault = self._fault("export")
            size = self._plan.export_slice_bytes or 65_536
        if fault == "unreachable":
            raise _unreachable()
        refusal = _refusal(fault)
        if refusal is not None:
            raise refusal
        if fault is not None:
            raise _no_answer("export")
        if "export" not in self._samplers:
            return self.inner.export(selection, out, turn)
        slices = _Slices(out, size, lambda: self._deliver(turn))
        last_counter = self.inner.export(selection, slices, turn)
        slices.finish()
        return last_counter

    def _deliver(self, turn: Turn) -> None:
        """Take the time of one slice."""
        with turn():
            sample = self._samplers.get("export")
            if sample is not None:
                self._free_at = max(self._monotonic(), self._free_at) + sample()
                self._wait_until(self._free_at)

    def recall(self, call: Call) -> Remembered | None:
        """What the device remembers; nothing comes from one that cannot be reached."""
        self._reread()
        for fault in self._plan.faults or ():
            if fault.kind == "unreachable" and fault.times is None and call.op in fault.operations:
                raise _unreachable()
        found = super().recall(call)
        return None if found is None else Remembered(found.request_sha256, self._said(found.signed))

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._lock.release()


class _Slices:
    """A sink that calls ``deliver`` before each slice of an export goes on."""

    def __init__(self, out: Sink, size: int, deliver: Callable[[], None]) -> None:
        self._out = out
        self._size = size
        self._deliver = deliver
        self._pending = bytearray()

    def write(self, data: bytes) -> None:
        self._pending += data
        while len(self._pending) >= self._size:
            self._send(self._size)

    def _send(self, size: int) -> None:
        self._deliver()
        self._out.write(bytes(self._pending[:size]))
        del self._pending[:size]

    def finish(self) -> None:
        if self._pending:
            self._send(len(self._pending))


def _unreachable() -> Unreachable:
    return Unreachable("TSE_NOT_AVAILABLE", "The TSE is not available. This is rehearsed.")


def _no_answer(operation: str) -> OutcomeUnknown:
    return OutcomeUnknown("NO_RESPONSE", f"The TSE did not answer the {operation}. This is rehearsed.")


def _refusal(fault: FaultKind | None) -> ScuError | None:
    if fault == "memory_full":
        return TseRejected("MEMORY_FULL", "The log memory of the TSE is full. This is rehearsed.")
    if fault == "certificate_expired":
        return certificate_expired()
    if fault == "time_not_set":
        return TseRejected("TIME_NOT_SET", "The time of the TSE is not set. This is rehearsed.")
    if fault == "secure_state":
        return secure_state()
    return None
