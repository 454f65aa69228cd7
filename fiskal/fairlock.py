"""Locks that serve their callers in the order they came."""

from __future__ import annotations

from _thread import allocate_lock
from collections import deque
from types import TracebackType

from fiskal.errors import FiskalError
from fiskal.fibers import Gate, new_gate


class QueueBusy(FiskalError):
    """More callers wait for a queue than it allows; try again in a moment."""

    code = "QUEUE_BUSY"


class FairLock:
    """First come, first served; ``threading.Lock`` wakes any waiter, which would reorder receipts.

    The holder hands the lock over to the oldest waiter. Not reentrant. Raises :class:`QueueBusy` when
    ``max_waiting`` callers wait already.
    """

    __slots__ = ("_held", "_max_waiting", "_mutex", "_waiting")

    def __init__(self, max_waiting: int) -> None:
        self._mutex = allocate_lock()
        self._held = False
        self._waiting: deque[Gate] = deque()
        self._max_waiting = max_waiting

    def __enter__(self) -> None:
        with self._mutex:
            if not self._held:
                self._held = True
                return
            if len(self._waiting) >= self._max_waiting:
                raise QueueBusy(f"{len(self._waiting)} receipts wait for this queue already; try again")
            gate = new_gate()
            self._waiting.append(gate)
        self.wait(gate)

    @property
    def is_free(self) -> bool:
        """Nobody is inside."""
        return not self._held

    def join_next(self) -> Gate | None:
        """Become the next one behind whoever is inside, without waiting; then :meth:`wait`. None if nobody is inside,
        or somebody waits already."""
        with self._mutex:
            if not self._held or self._waiting:
                return None
            gate = new_gate()
            self._waiting.append(gate)
            return gate

    def wait(self, gate: Gate) -> None:
        """Enter when the turn of ``gate`` has come."""
        try:
            gate.acquire()
        except BaseException:  # Ctrl-C while waiting
            self.abandon(gate)
            raise

    def enter_if_free(self) -> bool:
        """Enter without waiting; False if somebody else is inside."""
        with self._mutex:
            if self._held:
                return False
            self._held = True
            return True

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Hand the lock to the oldest waiter."""
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False

    def abandon(self, gate: Gate) -> None:
        """Leave the line, or pass on what was handed over in the meantime."""
        with self._mutex:
            if gate in self._waiting:
                self._waiting.remove(gate)
                return
        self.leave()


class Turn(FairLock):
    """The right to run Python, which the receipts of a host have one after the other.

    Under the interpreter lock only one thread runs Python anyhow. When many are woken at once, as by a group
    commit, they fight for it at every call that releases it, and each lost fight is a thread switch that costs
    more than the call. So a thread that has nothing to do but wait, for the disk or for a TSE outside this
    process, leaves the turn, and whoever may go on is woken when the turn is its own. It is advice and
    protects nothing: without it everything works as well, only slower.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(max_waiting=1_000_000)

    def grant(self, gates: list[Gate]) -> None:
        """Wake the waiters behind ``gates`` one after the other, each when the turn is its own."""
        with self._mutex:
            self._waiting.extend(gates)
            if not self._held and self._waiting:
                self._held = True
                self._waiting.popleft().release()
