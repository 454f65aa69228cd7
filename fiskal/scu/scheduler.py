"""Who may use a TSE next: earliest deadline first, one call at a time, measured.

A TSE does one thing at a time, and a call that it began cannot be taken back. What can be decided is who comes
next. A customer waits for a finish, so it is due at once. A start may take about a second, no more, or the
start time of the transaction would no longer document when its first item was entered. Information may take
some seconds. Export chunks and self tests nobody asked for run when nobody else wants the TSE.

Strict priority would push starts away from their first items when the TSE is overloaded; with due times every
waiting call gets its turn in the end.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import time
from _thread import allocate_lock, get_ident
from collections.abc import Callable
from typing import Final, NamedTuple

from fiskal.histogram import Histogram
from fiskal.scu.contract import Deadline
from fiskal.scu.errors import Unreachable

MAX_WAITING: Final = 1000
"""Calls that may wait for one TSE; more are refused."""

BACKGROUND_LIMIT_S: Final = 30.0
"""A call of the background that waited so long is due: a TSE that is never idle must be exported as well."""

CLIENT_STEP_S: Final = 0.25
"""What each further waiting call of the same client is put off by, so that one client cannot crowd out others."""


QUARTER_S: Final = 900.0
"""How busy a TSE is counts by the quarter of an hour."""


class Urgency(enum.Enum):
    """When a call is due after it came, in seconds."""

    FINISH = 0.0
    """A customer waits: finish, both calls of an implicit receipt, a self test that was asked for."""
    START = 1.0
    """Start and update of a transaction."""
    INFO = 5.0
    """Information, clients, state, time."""
    BACKGROUND = BACKGROUND_LIMIT_S
    """Export chunks, probes and self tests that nobody waits for: when the TSE is idle."""


class Timing(NamedTuple):
    """What the calls of one operation took, in seconds: ``wait`` for the TSE, ``service`` by it.

    A call within another one, as a start in an implicit receipt, did not wait: only its service is counted.
    """

    wait: Histogram
    service: Histogram


class _Waiter:
    __slots__ = ("background", "client_id", "due", "gate", "granted")

    def __init__(self, due: float, client_id: str, background: bool) -> None:
        self.due = due
        self.client_id = client_id
        self.background = background
        self.granted = False
        self.gate = allocate_lock()
        self.gate.acquire()


class Scheduler:
    """The line in front of one TSE.

    Who has the TSE may enter again (:meth:`enter` nests), so that several calls go back to back. ``clock``
    gives seconds that never go back.
    """

    __slots__ = (
        "_background",
        "_calls",
        "_clock",
        "_due",
        "_max_waiting",
        "_mutex",
        "_numbers",
        "_owner",
        "_per_client",
        "_quarter_busy_s",
        "_quarter_ends",
        "_quarter_most_s",
        "_since",
        "_waited",
        "busy_s",
        "client_step_s",
        "timings",
    )

    def __init__(
        self, *, max_waiting: int = MAX_WAITING, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._max_waiting = max_waiting
        self._mutex = allocate_lock()
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, _Waiter]] = []
        self._background: list[tuple[float, int, _Waiter]] = []
        self._per_client: dict[str, int] = {}
        self._owner: int | None = None
        """The thread that has the TSE."""
        self._calls: list[tuple[str, float]] = []
        """What the owner does, the innermost last, and since when."""
        self._waited = 0.0
        self._since = clock()
        self.client_step_s = CLIENT_STEP_S
        """0 while many checkouts share one client id, as in a benchmark."""
        self.busy_s = 0.0
        """Seconds the TSE was in use."""
        self._quarter_ends = self._since + QUARTER_S
        self._quarter_busy_s = self._quarter_most_s = 0.0
        """The use up to the beginning of this quarter of an hour, and in the busiest one before."""
        self.timings: dict[str, Timing] = {}
        """By operation. Read it as a copy (:meth:`snapshot`) while calls come in."""

    # ---- in and out -------------------------------------------------------------------------

    def enter(
        self, operation: str, urgency: Urgency, client_id: str, deadline: Deadline | None, limit_s: float
    ) -> None:
        """Return when the TSE is this thread's; then :meth:`leave`.

        Raises Unreachable BUSY when ``deadline`` (None: ``limit_s`` seconds) passes before, or when too many
        wait. A call that gave up leaves no trace in the line.
        """
        owner = get_ident()
        if self._owner == owner:
            self._calls.append((operation, self._clock()))
            return
        arrived = self._clock()
        waiter: _Waiter | None = None
        with self._mutex:
            if self._owner is None:
                # Nobody can wait while nobody has it: who leaves hands it on.
                self._owner = owner
            else:
                waiter = self._line_up(urgency, client_id, arrived)
        if waiter is not None:
            self._wait(waiter, owner, limit_s if deadline is None else deadline.remaining())
            began = self._clock()
            self._waited = began - arrived
        else:
            began = arrived
            self._waited = 0.0
        self._calls.append((operation, began))

    def enter_if_idle(self, operation: str) -> bool:
        """Enter if nobody uses the TSE, else False at once."""
        owner = get_ident()
        with self._mutex:
            if self._owner is not None:
                return False
            self._owner = owner
        self._waited = 0.0
        self._calls.append((operation, self._clock()))
        return True

    def leave(self) -> None:
        """Give the TSE to whoever is due first."""
        operation, began = self._calls.pop()
        now = self._clock()
        taken = now - began
        timing = self.timings.get(operation)
        if timing is None:
            timing = self.timings[operation] = Timing(Histogram(), Histogram())
        timing.service.record(taken)
        if self._calls:
            return
        timing.wait.record(self._waited)
        if now >= self._quarter_ends:
            self._end_quarter(now)
        self.busy_s += taken
        self._hand_on(now)

    # ---- the line ---------------------------------------------------------------------------

    def _line_up(self, urgency: Urgency, client_id: str, now: float) -> _Waiter:
        if len(self._due) + len(self._background) >= self._max_waiting:
            raise Unreachable("BUSY", f"{self._max_waiting} calls wait for the TSE already.")
        others = self._per_client.get(client_id, 0)
        self._per_client[client_id] = others + 1
        due = now + urgency.value + others * self.client_step_s
        background = urgency is Urgency.BACKGROUND
        waiter = _Waiter(due, client_id, background)
        heapq.heappush(self._background if background else self._due, (due, next(self._numbers), waiter))
        return waiter

    def _wait(self, waiter: _Waiter, owner: int, seconds: float) -> None:
        try:
            if waiter.gate.acquire(timeout=max(seconds, 0.0)):
                self._owner = owner
                return
        except BaseException:
            self._give_up(waiter)
            raise
        self._give_up(waiter)
        raise Unreachable("BUSY", "The TSE was busy with other calls until the deadline passed.")

    def _give_up(self, waiter: _Waiter) -> None:
        """Step out of the line; if the TSE was handed over in the meantime, hand it on."""
        with self._mutex:
            if not waiter.granted:
                line = self._background if waiter.background else self._due
                line[:] = [entry for entry in line if entry[2] is not waiter]
                heapq.heapify(line)
                self._count_out(waiter)
                return
        self._hand_on(self._clock())

    def _count_out(self, waiter: _Waiter) -> None:
        left = self._per_client[waiter.client_id] - 1
        if left:
            self._per_client[waiter.client_id] = left
        else:
            del self._per_client[waiter.client_id]

    def _hand_on(self, now: float) -> None:
        with self._mutex:
            line = self._due
            if self._background and (not line or self._background[0][0] <= min(now, line[0][0])):
                line = self._background
            if not line:
                self._owner = None
                return
            waiter = heapq.heappop(line)[2]
            self._count_out(waiter)
            waiter.granted = True
            self._owner = _HANDED_OVER
            waiter.gate.release()

    # ---- what it measured -------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nobody uses the TSE and nobody waits for it."""
        return self._owner is None

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._due) + len(self._background)

    @property
    def utilisation(self) -> float:
        """The share of the time since the beginning in which the TSE was in use."""
        elapsed = self._clock() - self._since
        return min(self.busy_s / elapsed, 1.0) if elapsed > 0 else 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._since

    @property
    def busiest_quarter(self) -> float:
        """The greatest share of a quarter of an hour in which the TSE was in use. The quarters follow each
        other from the beginning; a call counts with the one it ended in."""
        return min(max(self._quarter_most_s, self.busy_s - self._quarter_busy_s) / QUARTER_S, 1.0)

    def _end_quarter(self, now: float) -> None:
        self._quarter_most_s = max(self._quarter_most_s, self.busy_s - self._quarter_busy_s)
        self._quarter_busy_s = self.busy_s
        self._quarter_ends += (1 + (now - self._quarter_ends) // QUARTER_S) * QUARTER_S

    def snapshot(self) -> dict[str, Timing]:
        """The timings so far, undisturbed by the calls that go on."""
        result = {}
        for operation, timing in list(self.timings.items()):
            copy = Timing(Histogram(), Histogram())
            copy.wait.merge(timing.wait)
            copy.service.merge(timing.service)
            result[operation] = copy
        return result


_HANDED_OVER: Final = 0
"""The owner while the next one is being woken; no thread has this number."""
