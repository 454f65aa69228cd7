"""Who makes short calls in fibers for the requests of an event loop: the thread of the loop itself."""

from __future__ import annotations

import asyncio
import contextlib
import time
from _thread import get_ident
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

from fiskal.fairlock import QueueBusy
from fiskal.fibers import Hub, new_gate

_T = TypeVar("_T")

SLOW_S: Final = 0.002
"""Writes that take so long on average would be felt by everything else the event loop does."""

_SHARE: Final = 1 / 8
"""How much the last write counts in the average."""


class LoopCrew:
    """Makes calls in fibers of the thread of the running event loop, so that no thread has to be woken.

    As long as the disk is fast, the loop stands still while it is written to: handing a write to a thread and back
    takes longer. A caller that gives up does not stop a call that has begun.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hub: _LoopHub | None = None
        self._closed = False
        self.pending = 0
        """Calls that are in work or wait."""

    async def call(self, function: Callable[[], _T]) -> _T:
        """What ``function`` returns or raises. QueueBusy when the crew was closed."""
        if self._closed:
            raise QueueBusy("the host is closing")
        loop = asyncio.get_running_loop()
        if self._hub is None or self._loop is not loop:
            self._loop, self._hub = loop, _LoopHub(loop)
        future: asyncio.Future[_T] = loop.create_future()
        self.pending += 1
        self._hub.call(function, partial(self._done, future))
        return await future

    async def close(self) -> None:
        """Wait for the calls in work; refuse what comes then."""
        self._closed = True
        while self.pending:
            await asyncio.sleep(0.001)

    def _done(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self.pending -= 1
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            future.set_exception(error)
        else:
            future.set_exception(RuntimeError(f"a call ended with {error!r}"))


class _LoopHub(Hub):
    """Runs when the loop has taken in everything that lies ready: receipts that came together go together, through
    every step with the code of that step still in the caches, and with one flush."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(self._plan)
        self._loop = loop
        self._thread = get_ident()
        self._planned = False
        self._alarm: asyncio.TimerHandle | None = None
        self._usual_s = 0.0
        """What a write takes on average."""

    def _plan(self) -> None:
        """Run soon. From any thread."""
        if self._planned:
            return
        self._planned = True
        if get_ident() == self._thread:
            # The second turn: what has arrived by the end of this one is read in the next, and comes along.
            self._loop.call_soon(self._loop.call_soon, self._go)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                self._loop.call_soon_threadsafe(self._go)

    def _go(self) -> None:
        self._planned = False  # first: what comes from here on is seen by this run, or plans another one
        wait_s = self.run()
        if wait_s == 0:
            self._plan()
        elif wait_s is not None:
            until = self._loop.time() + wait_s
            if self._alarm is not None and not self._alarm.cancelled():
                if self._loop.time() < self._alarm.when() <= until:
                    return
                self._alarm.cancel()
            self._alarm = self._loop.call_at(until, self._plan)

    def may_block(self, call: Callable[..., _T], *args: Any) -> _T:
        if self._usual_s > SLOW_S:
            return self._elsewhere(call, *args)
        return self._measured(call, *args)

    def _measured(self, call: Callable[..., _T], *args: Any) -> _T:
        begun = time.monotonic()
        try:
            return call(*args)
        finally:
            self._usual_s += (time.monotonic() - begun - self._usual_s) * _SHARE

    def _elsewhere(self, call: Callable[..., _T], *args: Any) -> _T:
        """One at a time: only who leads a group commit comes here."""
        gate = new_gate()
        results: list[_T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(self._measured(call, *args))
            except BaseException as error:
                errors.append(error)
            finally:
                gate.release()

        self._loop.run_in_executor(None, work)
        gate.acquire()
        if errors:
            raise errors[0]
        return results[0]
