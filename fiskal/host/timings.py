"""How busy each TSE is, and how long calls wait for it: what the schedulers measured since the host was opened.

A TSE should be in use at most half of the time in its busiest quarter of an hour, because waits grow fast beyond
(docs/sizing.md); from 30 % on it is worth a look.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from fiskal.histogram import Histogram
from fiskal.host.doctor import Finding
from fiskal.scu.scheduler import Scheduler

WORTH_A_LOOK: Final = 0.3
TOO_BUSY: Final = 0.5


class Durations(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Some durations in milliseconds, exact to 0.1 %. All 0 if there were none."""

    count: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class OperationTimings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One operation of a TSE: how long its calls waited for the TSE, and how long they kept it.

    ``receipt`` are the two calls of an implicit receipt together; its ``start`` and ``finish`` are counted as
    service too, but they did not wait.
    """

    operation: str
    wait: Durations
    service: Durations


class TseTimings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One TSE since ``seconds`` seconds. Shares are between 0 and 1.

    ``busiest_quarter`` is the greatest share of a quarter of an hour in which the TSE was in use, and ``waiting``
    how many calls wait now. A TSE that was not needed yet, or is served by another process, has no operations.
    """

    scu_id: str
    seconds: float
    utilisation: float
    busiest_quarter: float
    waiting: int
    operations: list[OperationTimings]


def of_scheduler(scu_id: str, scheduler: Scheduler | None) -> TseTimings:
    """What was measured in front of one TSE."""
    if scheduler is None:
        return TseTimings(
            scu_id=scu_id, seconds=0, utilisation=0, busiest_quarter=0, waiting=0, operations=[]
        )
    return TseTimings(
        scu_id=scu_id,
        seconds=round(scheduler.elapsed_s, 1),
        utilisation=round(scheduler.utilisation, 4),
        busiest_quarter=round(scheduler.busiest_quarter, 4),
        waiting=scheduler.waiting,
        operations=[
            OperationTimings(
                operation=operation, wait=_durations(timing.wait), service=_durations(timing.service)
            )
            for operation, timing in sorted(scheduler.snapshot().items())
        ],
    )


def findings(timings: Iterable[TseTimings]) -> list[Finding]:
    """What somebody should know of the TSEs' load."""
    found = []
    for tse in timings:
        if tse.busiest_quarter <= WORTH_A_LOOK:
            continue
        too_busy = tse.busiest_quarter > TOO_BUSY
        found.append(
            Finding(
                level="bad" if too_busy else "note",
                code="TSE_BUSY",
                text=f"In its busiest quarter of an hour the TSE of SCU {tse.scu_id} was in use "
                f"{tse.busiest_quarter:.0%} of the time.",
                why="Beyond a half, customers wait longer and longer for each other's signatures."
                if too_busy
                else "",
                todo="Plan another TSE, or send starts early (docs/sizing.md). 'fiskal tse timings' shows the waits.",
            )
        )
    return found


def _durations(histogram: Histogram) -> Durations:
    p50, p95, p99 = (round(value * 1000, 3) for value in histogram.quantiles((0.5, 0.95, 0.99)))
    return Durations(
        count=histogram.count,
        mean_ms=round(histogram.mean * 1000, 3),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=round(histogram.max * 1000, 3),
    )
