"""What a TSE family has to bring: a driver with small primitives. The rest is :mod:`fiskal.scu.core`.

The core calls a driver from one thread at a time (but for ``export``), under its lock, and has checked state,
client and number before. A driver raises :class:`fiskal.scu.errors.ScuError` and chooses the class by what is
known: a call that may have been executed is ``OutcomeUnknown``, everything else certainly was not.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal, Protocol

import msgspec

from fiskal.scu.contract import Deadline, Mismatch, TseInfo, TseStates
from fiskal.tse.tar import Sink

Op = Literal["start", "update", "finish"]


class Call(msgspec.Struct, frozen=True, gc=False):
    """One transaction call. ``transaction_number`` is 0 for a start.

    ``queue_item_id`` is lower case, and "" if the call must not be deduplicated. ``generation`` counts the
    executions of one key from 0; together they name a call for vendors that want an id of the caller's.
    """

    op: Op
    client_id: str
    transaction_number: int
    process_type: str
    process_data: bytes
    queue_item_id: str
    generation: int = 0


class Signed(msgspec.Struct, frozen=True, gc=False):
    """What a TSE answered. Times are ticks, ``signature`` the bytes as they stand in the log message.

    An update that the TSE keeps for later has ``signature_counter`` 0 and an empty signature.
    ``start_time_stamp`` is given with a finish if the driver knows it. ``log_message`` is the complete
    message if the driver has it; otherwise it is rebuilt where a signature is checked. ``mismatch`` is set by
    the core.
    """

    transaction_number: int
    signature_counter: int
    time_stamp: int
    signature: bytes
    start_time_stamp: int | None = None
    log_message: bytes | None = None
    mismatch: Mismatch | None = None


class Remembered(msgspec.Struct, frozen=True):
    """A call that was executed before: the hash of its request and its answer."""

    request_sha256: bytes
    signed: Signed


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of the log is exported; all limits are inclusive, None is no limit.

    Within the times (ticks) and behind the counter ``after_counter`` everything is part of it. A client or
    transaction numbers select transaction logs, and with them the system and audit logs between the first and
    the last of these (TR-03151-1 §4.5).
    """

    client_id: str | None = None
    first_time: int | None = None
    last_time: int | None = None
    first_number: int | None = None
    last_number: int | None = None
    after_counter: int = 0
    erase: bool = False
    """What is exported is to be erased afterwards: a device that can only erase right behind an export waits for it."""

    @property
    def by_transaction(self) -> bool:
        return self.client_id is not None or self.first_number is not None or self.last_number is not None

    @property
    def whole(self) -> bool:
        """Nothing is left out."""
        unlimited = self.first_time is None and self.last_time is None and self.after_counter == 0
        return unlimited and not self.by_transaction


Turn = Callable[[], AbstractContextManager[None]]
"""``with turn():`` waits for the TSE and has it alone until the end of the block."""


class Verdict(enum.Enum):
    """What :meth:`Driver.reconcile` found if it is not the answer itself."""

    NOT_EXECUTED = "not executed"
    STILL_UNKNOWN = "still unknown"


def request_sha256(call: Call) -> bytes:
    """Return the 32 bytes that tell two requests with one key apart: everything but the retry mark."""
    text = f"{call.op}\0{call.client_id}\0{call.transaction_number}\0{call.process_type}\0"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass") + call.process_data).digest()


class Driver(Protocol):
    """The primitives of one TSE. Deadlines are None or the moment after which nobody waits any more."""

    key_in_process: bool
    """The signing key lives in this process."""
    computes_only: bool
    """Transaction calls wait for nothing: no device, no network, no flush of a disk."""
    remembers_calls: bool
    """The driver's own log remembers every call durably, in the act of signing: see :meth:`recall`."""
    needs_open_numbers: bool
    """:meth:`reconcile` of a start needs the open numbers from before the call."""
    terminates_uninitialized: bool
    """The vendor allows to disable a TSE that was never initialised."""
    filters_exports: bool
    """:meth:`export` can leave out a part of the log."""
    erases_with_open_transactions: bool
    """:meth:`erase` is allowed while transactions are open."""

    def start(self, call: Call, deadline: Deadline | None) -> Signed: ...
    def update(self, call: Call, deadline: Deadline | None) -> Signed: ...
    def finish(self, call: Call, deadline: Deadline | None) -> Signed: ...

    def info(self, deadline: Deadline | None) -> TseInfo:
        """Return the state of the TSE, read from it; the lists are complete."""
        ...

    def set_state(self, target: TseStates, deadline: Deadline | None) -> None:
        """Initialise or disable; called only for a change that the core allows."""
        ...

    def validate_client_id(self, client_id: str) -> None:
        """Raise ``ClientError`` INVALID_CLIENT_ID for an id this TSE cannot register; touches nothing."""
        ...

    def register(self, client_id: str, deadline: Deadline | None) -> None: ...
    def unregister(self, client_id: str, deadline: Deadline | None) -> None: ...
    def set_time(self, deadline: Deadline | None) -> None: ...
    def self_test(self, deadline: Deadline | None) -> None: ...

    def export(self, selection: Selection, out: Sink, turn: Turn) -> int:
        """Write the log as a TAR archive to ``out``; return its greatest signatureCounter, 0 without any.

        The one method that is called beside others, from a thread of its own, one at a time: it takes the TSE
        with ``turn`` in pieces no longer than about a signature. An error that ``out`` raises ends it.
        """
        ...

    def erase(self, last_counter: int, deadline: Deadline | None) -> None:
        """Delete the messages up to ``last_counter``, and none behind it.

        A driver whose device can only delete everything raises ``TseRejected`` if there are newer ones.
        """
        ...

    def recall(self, call: Call) -> Remembered | None:
        """Return the last execution of the call's key (op, client, queue item, number), if there is one.

        Asked only if ``remembers_calls``.
        """
        ...

    def reconcile(
        self, call: Call, open_before: frozenset[int] | None, deadline: Deadline | None
    ) -> Signed | Verdict:
        """Find out whether a call without an answer was executed.

        ``open_before`` are the open numbers from before a start and those that other calls have opened since, None
        if unknown. Asked only if not ``remembers_calls``.
        """
        ...

    def close(self) -> None: ...
