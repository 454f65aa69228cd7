"""Requests that are put in line and answered later, one after the other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from fiskal.fairlock import QueueBusy

_log = logging.getLogger("fiskal.queue")


class Later:
    """A line of calls with a thread of its own, which exists from the first call on.

    At most ``max_waiting`` calls are in line; more get :class:`QueueBusy`.
    """

    def __init__(self, name: str, max_waiting: int) -> None:
        self._name = name
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._pending = 0
        self._closed = False
        self.last: Future[bytes | None] | None = None
        """The call that came last, None when all are done."""
        self.last_subject: object = None
        """What it is about."""

    def submit(self, call: Callable[[], bytes | None], subject: object) -> Future[bytes | None]:
        with self._lock:
            if self._closed:
                raise QueueBusy("the host is closing; nothing more is put in line")
            if self._pending >= self._max_waiting:
                raise QueueBusy(f"{self._pending} receipts wait for this queue already; try again")
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, thread_name_prefix=self._name)
            self._pending += 1
            future = self.last = self._executor.submit(_told, call)
            self.last_subject = subject
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Future[bytes | None]) -> None:
        with self._lock:
            self._pending -= 1
            if self.last is future:
                self.last = self.last_subject = None

    def close(self) -> None:
        """Wait until everything in line is done; refuse what comes then."""
        with self._lock:
            self._closed = True
            executor = self._executor
        if executor is not None:
            executor.shutdown(wait=True)


def _told(call: Callable[[], bytes | None]) -> bytes | None:
    """The call; a failure is logged, because whoever put it in line may not look."""
    try:
        return call()
    except BaseException as error:
        _log.warning("a receipt that was put in line failed: %s: %s", type(error).__name__, error)
        raise
