"""Threads for calls that block, behind an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from fiskal.queue.line import QueueBusy

_T = TypeVar("_T")


class Lane:
    """Threads for calls that block, with a limit on how many may wait for one of them.

    A caller that gives up does not stop a call that has begun: a receipt once accepted is always brought to
    its end. Made for many short calls: an executor of the standard library costs two futures and a wake-up of the
    loop for each, which is more than a receipt takes.
    """

    def __init__(self, name: str, threads: int, max_pending: int) -> None:
        self._name = f"fiskal-{name}"
        self._most = threads
        self._max_pending = max_pending
        self.pending = 0
        """Calls that are in work or wait."""
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._answers: _Answers | None = None
        self._closed = False

    async def run(self, function: Callable[..., _T], *args: Any) -> _T:
        """Call ``function`` in a thread. Raises QueueBusy if too many wait already, and what it raises."""
        if self.pending >= self._max_pending:
            raise QueueBusy(f"{self.pending} requests wait for this host already; try again")
        return await self.go_on(function, *args)

    async def go_on(self, function: Callable[..., _T], *args: Any) -> _T:
        """Like :meth:`run`, for the later calls of a request that was let in: they are never refused."""
        if self._closed:
            raise QueueBusy("the host is closing")
        loop = asyncio.get_running_loop()
        answers = self._answers
        if answers is None or answers.loop is not loop:
            answers = self._answers = _Answers(loop)
        future: asyncio.Future[_T] = loop.create_future()
        self.pending += 1
        try:
            self._jobs.put(_Job(future, answers, function, args))
            if self.pending > len(self._threads) < self._most:
                self._start_thread()
            return await future
        finally:
            self.pending -= 1

    def close(self) -> None:
        """Wait for the calls that have begun; forget those that have not, nobody waits for them any more."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _start_thread(self) -> None:
        number = len(self._threads)
        thread = threading.Thread(target=self._work, name=f"{self._name}_{number}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._closed:
                job.answers.put(job.future, None, asyncio.CancelledError())
            elif not job.future.cancelled():
                try:
                    result = job.function(*job.args)
                except BaseException as error:
                    job.answers.put(job.future, None, error)
                else:
                    job.answers.put(job.future, result, None)
                    del result
            del job  # a thread that waits keeps nothing alive


class _Job(NamedTuple):
    future: asyncio.Future[Any]
    answers: _Answers
    function: Callable[..., Any]
    args: tuple[Any, ...]


class _Answers:
    """Results on their way from threads to the loop, which is woken once for all that lie there."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._done: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._woken = False

    def put(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        """Called in a thread."""
        self._done.append((future, result, error))
        if self._woken:
            return  # the loop has not begun to look
        self._woken = True
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False  # first: what is put from here on wakes the loop again
        done = self._done
        while done:
            future, result, error = done.popleft()
            if future.cancelled():
                continue
            if error is None:
                future.set_result(result)
            elif isinstance(error, asyncio.CancelledError):
                future.cancel()
            elif isinstance(error, Exception) and not isinstance(error, StopIteration):
                future.set_exception(error)
            else:
                future.set_exception(RuntimeError(f"a call ended with {error!r}"))
