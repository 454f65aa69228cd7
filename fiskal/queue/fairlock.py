"""A lock that serves its callers in the order they came."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType

from fiskal.errors import FiskalError


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
        self._mutex = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Lock] = deque()
        self._max_waiting = max_waiting

    def __enter__(self) -> None:
        with self._mutex:
            if not self._held:
                self._held = True
                return
            if len(self._waiting) >= self._max_waiting:
                raise QueueBusy(f"{len(self._waiting)} receipts wait for this queue already; try again")
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        try:
            gate.acquire()
        except BaseException:  # Ctrl-C while waiting: leave the line, or pass on what was just handed over
            with self._mutex:
                if gate in self._waiting:
                    self._waiting.remove(gate)
                    raise
            self._release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False
