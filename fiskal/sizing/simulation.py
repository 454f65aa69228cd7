"""Discrete-event simulation of checkouts in front of one TSE.

A *checkout* serves one customer after the other: it waits for the customer, scans, takes the money, and prints
when the TSE has answered. Its *queue*, maybe shared with other checkouts, has one call in work at a time. The
*TSE* does one call after the other, the one with the earliest deadline first, and interrupts none. Time is in
seconds; nothing here sleeps or reads a clock, and a seed decides everything.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Final, Literal

import msgspec

from fiskal.histogram import Histogram
from fiskal.sizing.service import ServiceTime

Flow = Literal["implicit", "explicit"]


class Scheduling(msgspec.Struct, frozen=True, kw_only=True):
    """In which order calls get the TSE: the earliest deadline first, which is arrival plus an allowance.

    A finish, and the first call of a receipt in implicit flow, has no allowance. ``start_s`` is that of a start
    in explicit flow: 0 is first come first served, infinity is strict priority. ``back_to_back`` runs the two
    calls of an implicit receipt without another one between them.
    """

    start_s: float = 1.0
    back_to_back: bool = True


EDF: Final = Scheduling()
"""A finish is due now, a start within a second."""
FIFO: Final = Scheduling(start_s=0.0, back_to_back=False)
"""First come, first served, call by call: a plain lock."""
PRIORITY: Final = Scheduling(start_s=math.inf)
"""Finishes always first; only to compare with."""


class Cycle(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkout does between two customers' receipts, in seconds, all means.

    ``gap_s`` until the first item, ``scan_s`` (with a geometric number of ``items``) until the last, ``pay_s``
    until the receipt is wanted; gap and payment are gamma with the coefficients of variation ``gap_cv`` and
    ``pay_cv``. ``overhead_s`` is what the middleware itself takes per receipt, without keeping the TSE.
    """

    gap_s: float
    scan_s: float
    pay_s: float
    items: float = 12.0
    gap_cv: float = 1.0
    pay_cv: float = 0.5
    overhead_s: float = 0.0

    @property
    def total_s(self) -> float:
        return self.gap_s + self.scan_s + self.pay_s


class Stall(msgspec.Struct, frozen=True):
    """The TSE is taken for ``length_s`` from ``at_s`` on: a self test, an export in one piece."""

    at_s: float
    length_s: float


class Outcome(msgspec.Struct, kw_only=True):
    """What was observed after the warm-up. Durations are histograms of seconds.

    ``response`` is what the customer waits for: from the wish for a receipt to its last signature. Its parts:
    ``queue_wait`` for the checkout's own queue, so also for the receipt's own start; ``wait`` for the TSE (of
    an implicit receipt for both calls together); and ``tse_response`` is ``wait`` and the TSE's own time.
    ``total_wait`` is ``queue_wait`` and ``wait``; ``start_wait`` is what the starts of the explicit flow wait
    for the TSE.
    """

    seconds: float
    receipts: int
    signatures: int
    busy_s: float
    response: Histogram
    wait: Histogram
    tse_response: Histogram
    start_wait: Histogram
    queue_wait: Histogram
    total_wait: Histogram
    slowest: list[tuple[float, float]] = msgspec.field(default_factory=list)
    """(moment, response) of the receipts that a stall hit; filled only if there was one."""

    @property
    def receipts_per_s(self) -> float:
        return self.receipts / self.seconds

    @property
    def utilisation(self) -> float:
        return self.busy_s / self.seconds


_GAP, _SCANNED, _DONE, _STALL = range(4)


class _Checkout:
    __slots__ = ("queue", "wanted_at")

    def __init__(self, queue: _Queue) -> None:
        self.queue = queue
        self.wanted_at = 0.0


class _Queue:
    __slots__ = ("busy", "waiting")

    def __init__(self) -> None:
        self.busy = False
        self.waiting: deque[_Call] = deque()


class _Call:
    """A call, or with ``calls`` 2 a whole implicit receipt."""

    __slots__ = ("asked_at", "calls", "checkout", "entered_at", "first_entered_at", "is_start", "waited")

    def __init__(self, checkout: _Checkout, is_start: bool, calls: int, asked_at: float) -> None:
        self.checkout = checkout
        self.is_start = is_start
        self.calls = calls
        self.asked_at = asked_at
        self.entered_at = self.first_entered_at = asked_at
        self.waited = 0.0


def simulate(
    checkouts: int,
    cycle: Cycle,
    flow: Flow,
    start: ServiceTime,
    finish: ServiceTime,
    *,
    scheduling: Scheduling = EDF,
    checkouts_per_queue: int = 1,
    seconds: float,
    warmup_s: float | None = None,
    stall: Stall | None = None,
    seed: int = 1,
) -> Outcome:
    """Run ``seconds`` of business after a warm-up (default: a tenth, at least three cycles)."""
    return _Simulation(
        checkouts, cycle, flow, start, finish, scheduling, checkouts_per_queue, stall, Random(seed)
    ).run(seconds, max(seconds / 10, 3 * cycle.total_s) if warmup_s is None else warmup_s)


class _Simulation:
    def __init__(
        self,
        checkouts: int,
        cycle: Cycle,
        flow: Flow,
        start: ServiceTime,
        finish: ServiceTime,
        scheduling: Scheduling,
        checkouts_per_queue: int,
        stall: Stall | None,
        random: Random,
    ) -> None:
        self._cycle = cycle
        self._implicit = flow == "implicit"
        self._scheduling = scheduling
        self._random = random
        self._start = start.sampler(random)
        self._finish = finish.sampler(random)
        self._items = geometric(cycle.items, random)
        self._gap = gamma(cycle.gap_s, cycle.gap_cv, random)
        self._pay = gamma(cycle.pay_s, cycle.pay_cv, random)
        self._stall = stall
        self._number = 0
        self._events: list[tuple[float, int, int, _Checkout | _Call | None]] = []
        self._ready: list[tuple[float, int, _Call]] = []
        self._serving = False
        self._now = 0.0
        self._from = 0.0
        self._stalled_until = -1.0
        queues = [_Queue() for _ in range(math.ceil(checkouts / checkouts_per_queue))]
        self._checkouts = [_Checkout(queues[n // checkouts_per_queue]) for n in range(checkouts)]
        self._outcome = Outcome(
            seconds=0.0,
            receipts=0,
            signatures=0,
            busy_s=0.0,
            response=Histogram(),
            wait=Histogram(),
            tse_response=Histogram(),
            start_wait=Histogram(),
            queue_wait=Histogram(),
            total_wait=Histogram(),
        )

    def run(self, seconds: float, warmup_s: float) -> Outcome:
        for checkout in self._checkouts:
            self._at(self._random.random() * self._cycle.total_s, _GAP, checkout)
        if self._stall is not None:
            self._at(warmup_s + self._stall.at_s, _STALL, None)
        self._from = warmup_s
        end = warmup_s + seconds
        events = self._events
        while events and events[0][0] < end:
            self._now, _, kind, what = heapq.heappop(events)
            if kind == _GAP:
                assert isinstance(what, _Checkout)
                self._first_item(what)
            elif kind == _SCANNED:
                assert isinstance(what, _Checkout)
                self._want_receipt(what)
            elif kind == _DONE:
                assert what is None or isinstance(what, _Call)
                self._answered(what)
            else:
                assert self._stall is not None
                self._stalled_until = self._now + self._stall.length_s
                if not self._serving:
                    self._serve_next()
        self._outcome.seconds = seconds
        return self._outcome

    def _at(self, moment: float, kind: int, what: _Checkout | _Call | None) -> None:
        self._number += 1
        heapq.heappush(self._events, (moment, self._number, kind, what))

    # ---- a checkout ---------------------------------------------------------------------------------

    def _first_item(self, checkout: _Checkout) -> None:
        cycle = self._cycle
        scan = cycle.scan_s * self._items() / cycle.items if cycle.scan_s else 0.0
        self._at(self._now + scan + self._pay(), _SCANNED, checkout)
        if not self._implicit:
            self._ask(_Call(checkout, True, 1, self._now))

    def _want_receipt(self, checkout: _Checkout) -> None:
        checkout.wanted_at = self._now
        self._ask(_Call(checkout, False, 2 if self._implicit else 1, self._now))

    def _ask(self, call: _Call) -> None:
        queue = call.checkout.queue
        if queue.busy:
            queue.waiting.append(call)
        else:
            queue.busy = True
            self._enter(call)

    # ---- the TSE ------------------------------------------------------------------------------------

    def _enter(self, call: _Call) -> None:
        call.first_entered_at = self._now
        self._line_up(call)
        if not self._serving:
            self._serve_next()

    def _line_up(self, call: _Call) -> None:
        call.entered_at = self._now
        due = self._now + self._scheduling.start_s if call.is_start else self._now
        self._number += 1
        heapq.heappush(self._ready, (due, self._number, call))

    def _serve_next(self) -> None:
        now = self._now
        if now < self._stalled_until:
            self._serving = True
            self._at(self._stalled_until, _DONE, None)
            return
        if not self._ready:
            self._serving = False
            return
        self._serving = True
        call = heapq.heappop(self._ready)[2]
        call.waited += now - call.entered_at
        outcome = self._outcome
        if call.is_start or call.calls == 2:
            takes = self._start()
            signatures = 1
            if call.calls == 2 and self._scheduling.back_to_back:
                takes += self._finish()
                signatures = 2
                call.calls = 1
        else:
            takes, signatures = self._finish(), 1
        if now >= self._from:
            outcome.busy_s += takes
            outcome.signatures += signatures
        self._at(now + takes, _DONE, call)

    def _answered(self, call: _Call | None) -> None:
        if call is None:
            self._serve_next()
            return
        if call.calls == 2:  # the start of an implicit receipt, whose finish takes its turn again
            call.calls = 1
            self._line_up(call)
            self._serve_next()
            return
        self._record(call)
        queue = call.checkout.queue
        if queue.waiting:
            following = queue.waiting.popleft()
            following.first_entered_at = self._now
            self._line_up(following)
        else:
            queue.busy = False
        self._serve_next()
        if not call.is_start:
            self._at(self._now + self._cycle.overhead_s + self._gap(), _GAP, call.checkout)

    def _record(self, call: _Call) -> None:
        outcome = self._outcome
        if call.is_start:
            if self._now >= self._from:
                outcome.start_wait.record(call.waited)
            return
        if self._now < self._from:
            return
        checkout = call.checkout
        response = self._now - checkout.wanted_at + self._cycle.overhead_s
        outcome.receipts += 1
        outcome.response.record(response)
        outcome.wait.record(call.waited)
        outcome.tse_response.record(self._now - call.first_entered_at)
        in_line = call.first_entered_at - call.asked_at
        outcome.queue_wait.record(in_line)
        outcome.total_wait.record(in_line + call.waited)
        if self._stall is not None and checkout.wanted_at < self._stalled_until <= self._now:
            outcome.slowest.append((checkout.wanted_at - self._from, response))


def geometric(mean: float, random: Random) -> Callable[[], int]:
    """Numbers 1, 2, 3 … with this mean."""
    if mean <= 1:
        return lambda: 1
    scale = 1 / math.log(1 - 1 / mean)
    return lambda: 1 + int(math.log(1.0 - random.random()) * scale)


TICK_S = 1e-9
"""A duration below this is none: its spread cannot be told from zero."""


def gamma(mean: float, cv: float, random: Random) -> Callable[[], float]:
    """Durations with this mean and coefficient of variation."""
    if mean < TICK_S or cv == 0:
        return lambda: mean
    shape = 1 / cv**2
    if shape == 1:
        return lambda: random.expovariate(1 / mean)
    return lambda: random.gammavariate(shape, mean / shape)
