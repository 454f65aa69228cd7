"""Driving a TSE with many checkouts and measuring where their customers' time goes."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, Literal

import msgspec

from fiskal.errors import FiskalError
from fiskal.histogram import Histogram
from fiskal.scu.driver import Op
from fiskal.sizing.measurement import Point
from fiskal.sizing.shop import FlowName
from fiskal.sizing.simulation import Cycle, gamma, geometric
from fiskal.sizing.tills import ReceiptFailed, Till

Arrival = Literal["closed", "poisson", "trace"]

GIVE_UP_AFTER: Final = 20
"""Failed receipts in a row, over all checkouts, after which the TSE counts as failed."""
AFTER_ERROR_S: Final = 0.2
"""A checkout pauses so long after a failure, for a dead TSE answers very fast."""


class Customer(msgspec.Struct, frozen=True):
    """One line of a recorded trace: when the first item is scanned, in seconds from its beginning."""

    at_s: float
    items: int


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How one point is measured.

    ``cycle`` are the pauses of a checkout; None is without any, which shows what the TSE can do. With ``poisson``
    ``rate_per_s`` customers come for each checkout, whether one is free or not; ``trace`` replays ``customers``.
    """

    flow: FlowName
    items: int
    orders_per_bill: float
    arrival: Arrival
    cycle: Cycle | None
    rate_per_s: float
    customers: tuple[Customer, ...]
    warmup_s: float
    duration_s: float
    seed: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """How a point is going: for people who watch."""

    checkouts: int
    elapsed_s: float
    total_s: float
    warming_up: bool
    receipts: int
    receipts_per_s: float
    errors: int


Watcher = Callable[[Snapshot], None]


class _Tally:
    """What one checkout measured. Only its own thread writes."""

    def __init__(self) -> None:
        self.receipts = 0
        self.signatures = 0
        self.busy_ns = 0
        self.latency = Histogram()
        self.in_line = Histogram()
        self.wait = Histogram()
        self.tse = Histogram()
        self.middleware = Histogram()
        self.start_wait = Histogram()
        self.service: dict[Op, Histogram] = {}
        self.errors: Counter[str] = Counter()
        self.waited_ns = 0
        self.served_ns = 0


class Clockwork:
    """The observer of an SCU during a benchmark: books every call to the checkout whose thread made it."""

    def __init__(self) -> None:
        self._here = threading.local()
        self.window_ns = (0, 0)

    def attach(self, tally: _Tally) -> None:
        """Book the calls of this thread to ``tally`` from now on."""
        self._here.tally = tally

    def __call__(self, op: Op, waited_ns: int, served_ns: int, answered: bool) -> None:
        tally: _Tally | None = getattr(self._here, "tally", None)
        if tally is None:
            return
        tally.waited_ns += waited_ns
        tally.served_ns += served_ns
        ended = time.perf_counter_ns()
        first, last = self.window_ns
        # Work that began before the window, or ends behind it, counts with the part that lies within.
        tally.busy_ns += max(0, min(ended, last) - max(ended - served_ns, first))
        if answered and first <= ended < last:
            tally.signatures += 1
            tally.service.setdefault(op, Histogram()).record_us(served_ns // 1000)


class Result(msgspec.Struct, kw_only=True):
    """A point, the service times in it by operation, and why it ended early if it did."""

    point: Point
    service: dict[str, Histogram]
    stopped: str


def measure(
    tills: Sequence[Till],
    settings: Settings,
    clockwork: Clockwork,
    *,
    watch: Watcher | None = None,
    stop: threading.Event | None = None,
) -> Result:
    """Let every till work for warm-up and duration, and measure the duration.

    ``clockwork`` must observe the SCU that the tills reach. Setting ``stop``, or a KeyboardInterrupt in this
    thread, ends the run at once: receipts in work are finished, what was measured is returned. A trace ends when
    its last customer is served.
    """
    return _Run(tills, settings, clockwork, stop or threading.Event()).run(watch)


class _Run:
    def __init__(
        self, tills: Sequence[Till], settings: Settings, clockwork: Clockwork, stop: threading.Event
    ) -> None:
        self._tills = tills
        self._settings = settings
        self._clockwork = clockwork
        self._stop = stop
        self._tallies = [_Tally() for _ in tills]
        self._lock = threading.Lock()
        self._failed_in_a_row = 0
        self._why = ""
        self._to_serve = len(settings.customers) if settings.arrival == "trace" else -1
        self._arrivals: queue.SimpleQueue[tuple[float, int]] = queue.SimpleQueue()
        self._begin = self._measure_from = self._end = 0.0

    def run(self, watch: Watcher | None) -> Result:
        settings = self._settings
        self._begin = time.perf_counter()
        self._measure_from = self._begin + settings.warmup_s
        self._end = self._measure_from + settings.duration_s
        self._clockwork.window_ns = (int(self._measure_from * 1e9), int(self._end * 1e9))
        threads = [
            threading.Thread(target=self._checkout, args=(number,), daemon=True, name=f"checkout {number}")
            for number in range(len(self._tills))
        ]
        if settings.arrival != "closed":
            threads.append(threading.Thread(target=self._customers, daemon=True, name="customers"))
        for thread in threads:
            thread.start()
        try:
            while self._to_serve and not self._stop.wait(0.25) and time.perf_counter() < self._end:
                if watch is not None:
                    watch(self._snapshot())
        except KeyboardInterrupt:
            self._say("interrupted")
        ended = min(time.perf_counter(), self._end)
        if self._stop.is_set() and not self._why:
            self._say("interrupted")
        self._stop.set()
        # What is signed after the end of the window belongs to nobody's measurement.
        self._clockwork.window_ns = (self._clockwork.window_ns[0], int(ended * 1e9))
        for thread in threads:
            thread.join()
        return self._result(max(0.0, ended - self._measure_from))

    def _say(self, why: str) -> None:
        with self._lock:
            self._why = self._why or why

    def _snapshot(self) -> Snapshot:
        now = time.perf_counter()
        receipts = sum(tally.receipts for tally in self._tallies)
        measured = now - self._measure_from
        return Snapshot(
            checkouts=len(self._tills),
            elapsed_s=now - self._begin,
            total_s=self._end - self._begin,
            warming_up=measured < 0,
            receipts=receipts,
            receipts_per_s=receipts / measured if measured > 0 else 0.0,
            errors=sum(tally.errors.total() for tally in self._tallies),
        )

    def _result(self, seconds: float) -> Result:
        whole = _Tally()
        for tally in self._tallies:
            whole.receipts += tally.receipts
            whole.signatures += tally.signatures
            whole.busy_ns += tally.busy_ns
            whole.errors += tally.errors
            for name in ("latency", "in_line", "wait", "tse", "middleware", "start_wait"):
                getattr(whole, name).merge(getattr(tally, name))
            for op, histogram in tally.service.items():
                whole.service.setdefault(op, Histogram()).merge(histogram)
        return Result(
            point=Point(
                checkouts=len(self._tills),
                seconds=seconds,
                receipts=whole.receipts,
                signatures=whole.signatures,
                utilisation=whole.busy_ns / 1e9 / seconds if seconds else 0.0,
                latency=whole.latency.dump(),
                in_line=whole.in_line.dump(),
                wait=whole.wait.dump(),
                tse=whole.tse.dump(),
                middleware=whole.middleware.dump(),
                start_wait=whole.start_wait.dump(),
                errors=dict(whole.errors),
            ),
            service={str(op): histogram for op, histogram in whole.service.items()},
            stopped=self._why,
        )

    # ---- customers ------------------------------------------------------------------------------

    def _customers(self) -> None:
        """Let customers come when they come, whether or not a checkout is free."""
        settings = self._settings
        random = Random(f"{settings.seed} customers")
        if settings.arrival == "trace":
            for customer in settings.customers:
                moment = self._begin + customer.at_s
                if self._sleep_until(moment):
                    return
                self._arrivals.put((moment, customer.items))
            return
        items = geometric(settings.items, random)
        moment = self._begin
        while True:
            moment += random.expovariate(settings.rate_per_s * len(self._tills))
            if self._sleep_until(moment):
                return
            self._arrivals.put((moment, items()))

    def _sleep_until(self, moment: float) -> bool:
        """True if there is no need to go on."""
        left = moment - time.perf_counter()
        return self._stop.wait(left) if left > 0 else self._stop.is_set()

    # ---- a checkout -----------------------------------------------------------------------------

    def _checkout(self, number: int) -> None:
        settings, till, tally = self._settings, self._tills[number], self._tallies[number]
        self._clockwork.attach(tally)
        random = Random(f"{settings.seed} checkout {number}")
        cycle = settings.cycle
        draw_items = geometric(settings.items, random)
        gap = gamma(cycle.gap_s, cycle.gap_cv, random) if cycle else None
        pay = gamma(cycle.pay_s, cycle.pay_cv, random) if cycle else None
        first = cycle is not None and settings.arrival == "closed"
        while not self._stop.is_set():
            if settings.arrival == "closed":
                items, pause = draw_items(), gap() if gap is not None else 0.0
                first_item = time.perf_counter() + pause
            else:
                pause = 0.0
                try:
                    first_item, items = self._arrivals.get(timeout=0.1)
                except queue.Empty:
                    continue
            wanted = first_item
            if cycle is not None and pay is not None:
                wanted += cycle.scan_s * items / cycle.items + pay()
            if first:
                # Begins somewhere in a cycle, as if the shop had been open for a while. A start that lies before
                # that is made up for when it suits, because all of them at once would be a rush.
                now = time.perf_counter()
                gone = random.random() * (wanted - first_item + pause)
                wanted -= gone
                first_item = max(first_item - gone, now + random.random() * (wanted - now))
                first = False
            if settings.arrival == "closed" and self._sleep_until(first_item):
                return
            self._serve(till, tally, random, items, wanted)
            with self._lock:
                self._to_serve -= 1

    def _serve(self, till: Till, tally: _Tally, random: Random, items: int, wanted: float) -> None:
        """One customer, from the first item to the answer."""
        settings = self._settings
        if settings.flow == "explicit":
            if not self._call(till.start, tally, None):
                return
            if time.perf_counter() >= self._measure_from:
                tally.start_wait.record_us(tally.waited_ns // 1000)
            self._sleep_until(wanted)
            self._call(lambda: till.finish(items), tally, wanted)
            return
        if self._sleep_until(wanted):
            return
        if settings.flow == "orders" and random.random() >= 1 / (1 + settings.orders_per_bill):
            self._call(lambda: till.order(items), tally, wanted)
        else:
            self._call(lambda: till.receipt(items), tally, wanted)

    def _call(self, call: Callable[[], None], tally: _Tally, wanted: float | None) -> bool:
        """Make a call; if it ends a receipt, ``wanted`` is when the customer began to wait for it."""
        tally.waited_ns = tally.served_ns = 0
        began = time.perf_counter()
        try:
            call()
        except FiskalError as error:
            self._failed(error, tally)
            return False
        ended = time.perf_counter()
        if wanted is None:
            return True
        self._failed_in_a_row = 0
        if not self._measure_from <= ended < self._end:
            return True
        waited, served = tally.waited_ns / 1e9, tally.served_ns / 1e9
        in_line = max(0.0, began - wanted)
        tally.receipts += 1
        tally.latency.record(ended - began + in_line)
        tally.in_line.record(in_line)
        tally.wait.record(waited)
        tally.tse.record(served)
        tally.middleware.record(ended - began - waited - served)
        return True

    def _failed(self, error: FiskalError, tally: _Tally) -> None:
        tally.errors[error.code] += 1
        with self._lock:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= GIVE_UP_AFTER or isinstance(error, ReceiptFailed):
                self._why = self._why or f"the TSE failed: {error}"
                self._stop.set()
        self._stop.wait(AFTER_ERROR_S)
