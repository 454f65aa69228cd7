"""Receipts that share one thread: what has to wait lets the next one go on.

A thread that waits costs two switches between threads, and the one that wakes it up fights it for the interpreter.
For a receipt that waits for the disk twice that is more than all its own work. Fibers (greenlets) of one thread
change places in a microsecond, at points they choose, and the code that runs in them need not know: it waits at a
gate (:func:`new_gate`), which holds up a thread outside of fibers and only the fiber within one.

What blocks a fiber in any other way blocks all of its hub. So only calls that are known to be short are made there.
"""

from __future__ import annotations

import heapq
import itertools
import time
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol, TypeVar

from greenlet import getcurrent, greenlet

_T = TypeVar("_T")

Done = Callable[[Any, BaseException | None], None]
"""Told how a call ended: what it returned, or what it raised."""


class Gate(Protocol):
    """A gate that is closed until somebody opens it, from whichever thread."""

    def acquire(self, blocking: bool = ..., timeout: float = ...) -> bool:
        """Wait until it is open, and close it behind oneself. False after ``timeout`` seconds (-1: never)."""

    def release(self) -> None:
        """Open it. RuntimeError if it is open."""


def new_gate() -> Gate:
    """A closed gate for the caller to wait at."""
    fiber = getcurrent()
    if type(fiber) is _Fiber:
        return _FiberGate(fiber)
    gate: LockType = allocate_lock()
    gate.acquire()
    return gate


def in_fiber() -> bool:
    """Whether the caller runs in a fiber."""
    return type(getcurrent()) is _Fiber


def let_others_go_first() -> None:
    """In a fiber: go on when no other fiber of the hub can. Elsewhere nothing."""
    fiber = getcurrent()
    if type(fiber) is _Fiber:
        gate = _FiberGate(fiber)
        gate.parked = True
        fiber.hub.last.append(gate)
        fiber.home.switch()


def may_block(call: Callable[..., _T], *args: Any) -> _T:
    """What ``call`` returns or raises; the hub of a fiber may have it made elsewhere meanwhile."""
    fiber = getcurrent()
    return fiber.hub.may_block(call, *args) if type(fiber) is _Fiber else call(*args)


def wait_for(future: Future[Any]) -> None:
    """Return when ``future`` is done."""
    gate = new_gate()
    future.add_done_callback(lambda _: gate.release())
    gate.acquire()


class Hub:
    """Runs calls in fibers, in whichever one thread calls :meth:`run`.

    ``wake`` is called, in any thread, when there is something to run and nobody is about to look; ``lull`` in the
    hub's thread, when every fiber waits, if only to be the last: before the disk is written to, and before ``run``
    returns.
    """

    def __init__(self, wake: Callable[[], None], lull: Callable[[], None] = lambda: None) -> None:
        self._wake = wake
        self._lull = lull
        self._looking = False
        self._ready: deque[_FiberGate | _Call] = deque()
        self.resting: list[_Fiber] = []
        """Fibers without a call: to make one takes longer than a short call."""
        self.last: deque[_FiberGate] = deque()
        """Fibers that go on when no other can."""
        self._timers: list[tuple[float, int, _FiberGate]] = []
        self._numbers = itertools.count()
        self.pending = 0
        """Calls that have begun and not ended."""

    @property
    def is_idle(self) -> bool:
        """No call is in work, and none waits to begin."""
        return not (self.pending or self._ready)

    def call(self, function: Callable[[], Any], done: Done) -> None:
        """Call ``function`` in a fiber, then ``done`` there. From any thread."""
        self._post(_Call(function, done))

    def run(self) -> float | None:
        """Go on with every fiber until all of them wait. In how many seconds it has to be called again, None if not
        before ``wake`` is."""
        ready, last = self._ready, self.last
        self._looking = True
        try:
            if self._timers:
                self._expire()
            home = getcurrent()
            while True:
                while ready:
                    each = ready.popleft()
                    if isinstance(each, _FiberGate):
                        if each.parked:
                            each.parked = False
                            each.fiber.switch()
                    else:
                        self.pending += 1
                        fiber = self.resting.pop() if self.resting else _Fiber(self, home)
                        fiber.next = each
                        fiber.switch()
                self._lull()
                if not last:
                    break
                ready.append(last.popleft())
        finally:
            self._looking = False
        if ready:  # it came while nobody looked any more, and its wake may be lost
            return 0.0
        return max(self._timers[0][0] - time.monotonic(), 0.0) if self._timers else None

    def _post(self, entry: _FiberGate | _Call) -> None:
        self._ready.append(entry)
        if not self._looking:
            self._wake()

    def _expire(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            self._ready.append(heapq.heappop(self._timers)[2])

    def may_block(self, call: Callable[..., _T], *args: Any) -> _T:
        """Make a call that may wait for a disk. Called in a fiber."""
        return call(*args)

    def open(self, gate: _FiberGate) -> None:
        """Let the fiber at ``gate`` go on. From any thread."""
        self._post(gate)

    def limit(self, gate: _FiberGate, until: float) -> None:
        """Let the fiber at ``gate`` go on at ``until`` on the monotonic clock at the latest."""
        heapq.heappush(self._timers, (until, next(self._numbers), gate))


class _Call(NamedTuple):
    function: Callable[[], Any]
    done: Done


class _Fiber(greenlet):
    """Makes calls, one after the other. ``home`` is the greenlet that runs the hub."""

    def __init__(self, hub: Hub, home: greenlet) -> None:
        super().__init__(parent=home)
        self.hub = hub
        self.home = home
        self.next: _Call | None = None

    def run(self) -> None:
        hub = self.hub
        while self.next is not None:
            function, done = self.next
            self.next = None
            try:
                result = function()
            except BaseException as error:
                hub.pending -= 1
                done(None, error)
            else:
                hub.pending -= 1
                done(result, None)
                del result
            del function, done  # a fiber at rest keeps nothing alive
            hub.resting.append(self)
            self.home.switch()


class _FiberGate:
    """A gate that one fiber waits at; the others of its thread go on."""

    __slots__ = ("_is_open", "fiber", "parked")

    def __init__(self, fiber: _Fiber) -> None:
        self.fiber = fiber
        self.parked = False
        self._is_open = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        fiber = self.fiber
        until = time.monotonic() + timeout if timeout >= 0 else None
        if until is not None:
            fiber.hub.limit(self, until)
        while not self._is_open:
            if not blocking or (until is not None and time.monotonic() >= until):
                return False
            # Whoever opens it from another thread posts it to the hub, which only this thread runs: nothing is lost.
            self.parked = True
            fiber.home.switch()
        self._is_open = False
        return True

    def release(self) -> None:
        if self._is_open:
            raise RuntimeError("release unlocked gate")
        self._is_open = True
        self.fiber.hub.open(self)
