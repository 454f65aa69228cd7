"""Who makes short calls in fibers for callers of many threads: one thread."""

from __future__ import annotations

import contextlib
import threading
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from fiskal.fairlock import QueueBusy
from fiskal.fibers import Hub

_T = TypeVar("_T")


class Crew:
    """Makes calls in the fibers of one thread, which exists from the first call on.

    A caller that gives up (Ctrl-C) does not stop a call that has begun.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.hub = Hub(self._ring, self._answer)
        """Its calls in work count."""
        self._answered: deque[LockType] = deque()
        """What callers wait at whose calls have ended. They are woken when this thread is about to give the
        interpreter away: who is woken before only fights for it."""
        self._bell = allocate_lock()
        self._bell.acquire()
        self._begin = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def call(self, function: Callable[[], _T]) -> _T:
        """What ``function`` returns or raises. QueueBusy when the crew was closed."""
        waiting = allocate_lock()
        waiting.acquire()
        outcome: list[Any] = []

        def done(result: Any, error: BaseException | None) -> None:
            outcome.append(result)
            outcome.append(error)
            self._answered.append(waiting)

        with self._begin:  # or the thread could end between the look at it and the call
            self._start()
            self.hub.call(function, done)
        waiting.acquire()
        result, error = outcome
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def close(self) -> None:
        """Bring to an end what was called, and end the thread."""
        with self._begin:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            self._ring()
            thread.join()

    def _start(self) -> None:
        if self._closed:
            raise QueueBusy("the host is closing")
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    def _answer(self) -> None:
        while self._answered:
            self._answered.popleft().release()

    def _ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # it was rung already
            self._bell.release()

    def _work(self) -> None:
        bell, hub = self._bell, self.hub
        while True:
            wait_s = hub.run()
            if self._closed and hub.is_idle:
                return
            bell.acquire(timeout=-1 if wait_s is None else wait_s)
