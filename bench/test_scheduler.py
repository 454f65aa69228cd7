"""What the line in front of a TSE costs a call that finds it empty.

python -m pytest bench/test_scheduler.py --benchmark-only --benchmark-enable
"""

from __future__ import annotations

import threading
from typing import Any

from fiskal.histogram import Histogram
from fiskal.scu.contract import Deadline
from fiskal.scu.scheduler import Scheduler, Urgency

CALLS = 1000


def test_bare_lock(benchmark: Any) -> None:
    """The least anybody could take: a lock, a thousand times per round."""
    lock = threading.Lock()

    def calls() -> None:
        for _ in range(CALLS):
            lock.acquire()
            lock.release()

    benchmark(calls)


def test_enter_and_leave(benchmark: Any) -> None:
    """One call with its wait and its service time recorded, a thousand times per round."""
    scheduler = Scheduler()
    deadline = Deadline(3600)

    def calls() -> None:
        for _ in range(CALLS):
            scheduler.enter("finish", Urgency.FINISH, "KASSE-1", deadline, 60.0)
            scheduler.leave()

    benchmark(calls)
    if benchmark.stats is not None:
        benchmark.extra_info["us_per_call"] = round(benchmark.stats.stats.min / CALLS * 1e6, 3)


def test_what_recording_is_of_it(benchmark: Any) -> None:
    """Two durations into histograms, as each call records them, a thousand times per round."""
    wait, service = Histogram(), Histogram()

    def calls() -> None:
        for n in range(CALLS):
            wait.record(0.0)
            service.record(0.2 + n * 1e-5)

    benchmark(calls)
    if benchmark.stats is not None:
        benchmark.extra_info["us_per_call"] = round(benchmark.stats.stats.min / CALLS * 1e6, 3)
