"""The queueing formulas: checkouts as a finite source of calls for one TSE.

Two pieces are put together.

*How many calls does a call meet?* N checkouts with exponential thinking in front of one server are the queue
M/G/1//N. Seen at the ends of services it is a Markov chain, which is solved exactly. What a departing call
leaves behind is also what an arriving one meets.

*How long are they?* A call that meets n others waits for the rest of the first and for n - 1 whole ones. Under
strict priority a finish meets a geometric number of such rests (Cobham's queue, written as a sum); with the
earliest deadline first, a start is overtaken only as long as its allowance lasts, which lies between priority
and first come first served in the share of waits that exceed it.

Approximate are: the rest of a service as if it did not depend on n, sums of services as log-normal, thinking as
exponential, and of priorities everything that goes beyond the open queue. What that costs is measured by
comparing with the simulation, which assumes none of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Final

import msgspec

from fiskal.sizing.service import ServiceTime
from fiskal.sizing.simulation import EDF, Cycle, Flow, Scheduling

_COARSE: Final = 25
"""Points of a service time where a sum over all of them is taken very often."""
_FINE: Final = 100
"""The same where its tail shows in the answer."""
_NORMAL: Final = NormalDist()
_SHORTEST_THINKING: Final = 0.05
"""In service times: below that a checkout is always at the TSE, and probabilities leave the range of floats."""
_SMALLEST: Final = 1e-100

Tail = Callable[[float], float]
"""The share of all durations that exceed the given seconds."""


class Prediction(msgspec.Struct, kw_only=True):
    """What the formulas say of one TSE in steady state; seconds, and per second.

    ``wait_quantile`` and ``response_quantile`` are of what the customer waits for, as in the simulation.
    """

    receipts_per_s: float
    utilisation: float
    wait_mean_s: float
    start_wait_p95_s: float
    wait: Tail
    response: Tail

    def wait_quantile(self, share: float) -> float:
        return _quantile(self.wait, share)

    def response_quantile(self, share: float) -> float:
        return _quantile(self.response, share)


def predict(
    checkouts: int,
    cycle: Cycle,
    flow: Flow,
    start: ServiceTime,
    finish: ServiceTime,
    *,
    scheduling: Scheduling = EDF,
) -> Prediction:
    """Predict one TSE with ``checkouts`` checkouts, each with a queue of its own.

    The two calls of an implicit receipt are taken as back to back: without that only the simulation is right.
    """
    think_s = cycle.total_s + cycle.overhead_s
    if flow == "implicit":
        return _implicit(checkouts, think_s, start, finish)
    return _explicit(checkouts, think_s, start, finish, scheduling)


def open_quantile(wait_s: float, utilisation: float, share: float) -> float:
    """The quantile of a wait with an exponential tail, from its mean (M/M/1): (W/ρ)·ln(ρ/(1-p))."""
    if utilisation <= 1 - share:
        return 0.0
    return wait_s / utilisation * math.log(utilisation / (1 - share))


# ---- flows --------------------------------------------------------------------------------------


def _implicit(checkouts: int, think_s: float, start: ServiceTime, finish: ServiceTime) -> Prediction:
    both = [a + b for a in _coarse(start.points) for b in _coarse(finish.points)]
    service = _Service(
        both,
        start.mean_s + finish.mean_s,
        start.variance + finish.variance,
        start.third_central_moment + finish.third_central_moment,
    )
    met, rate = _finite_source(checkouts, think_s, service)
    wait = _waits(met, service)
    return Prediction(
        receipts_per_s=rate,
        utilisation=rate * service.mean,
        wait_mean_s=_mean_wait(met, service),
        start_wait_p95_s=0.0,
        wait=wait,
        response=_after(wait, _coarse(both, _FINE)),
    )


def _explicit(
    checkouts: int, think_s: float, start: ServiceTime, finish: ServiceTime, scheduling: Scheduling
) -> Prediction:
    service = _either(start, finish)
    response = service.mean
    met, rate = [1.0], 0.0
    for _ in range(30):
        # Two calls per cycle; the start's answer is waited for only by the finish, so it costs no time.
        met, rate = _finite_source(checkouts, (think_s - response) / 2, service)
        wait_s = _mean_wait(met, service)
        if abs(wait_s + service.mean - response) < 1e-6:
            break
        response = (response + wait_s + service.mean) / 2
    receipts = rate / 2
    utilisation = rate * service.mean
    fifo = _waits(met, service)
    fifo_mean = _mean_wait(met, service)
    others = (checkouts - 1) / checkouts
    first = min(receipts * finish.mean_s * others, 0.999)
    strict_met = _priority_met(1 - met[0], first)
    strict = _rests(strict_met, service)
    strict_mean = sum(n * share for n, share in enumerate(strict_met)) * service.rest_mean
    if scheduling.start_s == 0:
        weight = 1.0
    elif math.isinf(scheduling.start_s):
        weight = 0.0
    else:
        weight = fifo(scheduling.start_s) / max(fifo(0.0), 1e-12)

    def wait(seconds: float) -> float:
        return weight * fifo(seconds) + (1 - weight) * strict(seconds)

    mean = weight * fifo_mean + (1 - weight) * strict_mean
    # Whatever the order, the waits weighted with their service times add up to the same (Kleinrock).
    start_mean = max(2 * fifo_mean - mean, fifo_mean)
    return Prediction(
        receipts_per_s=receipts,
        utilisation=utilisation,
        wait_mean_s=mean,
        start_wait_p95_s=open_quantile(start_mean, min(utilisation, 1.0), 0.95),
        wait=wait,
        response=_after(wait, _coarse(finish.points, _FINE)),
    )


# ---- pieces -------------------------------------------------------------------------------------


class _Service:
    """Equally likely service times with the moments of what is left of one when somebody arrives."""

    def __init__(self, points: Sequence[float], mean: float, variance: float, third: float) -> None:
        self.points = _stretch(_coarse(points), mean, variance)
        self.mean = mean
        self.variance = variance
        second_moment = variance + mean**2
        third_moment = third + 3 * mean * variance + mean**3
        self.rest_mean = second_moment / (2 * mean)
        self.rest_variance = max(0.0, third_moment / (3 * mean) - self.rest_mean**2)

    def rest_exceeds(self, seconds: float) -> float:
        """P(rest > t), the integral of the tail of the service time divided by its mean."""
        if seconds <= 0:
            return 1.0
        left = math.fsum(max(0.0, point - seconds) for point in self.points)
        return left / len(self.points) / self.mean


def _either(start: ServiceTime, finish: ServiceTime) -> _Service:
    """The service time of a call that is a start or a finish, equally likely."""
    mean = (start.mean_s + finish.mean_s) / 2
    apart = (start.mean_s - finish.mean_s) / 2
    variance = (start.variance + finish.variance) / 2 + apart**2
    third = (start.third_central_moment + finish.third_central_moment) / 2
    third += 3 * apart * (start.variance - finish.variance) / 2
    return _Service([*_coarse(start.points), *_coarse(finish.points)], mean, variance, third)


def _coarse(points: Sequence[float], count: int = _COARSE) -> list[float]:
    """At most ``count`` equally likely points with the same mean: the means of as many slices."""
    if len(points) <= count:
        return list(points)
    ordered = sorted(points)
    size = len(ordered) / count
    slices = [ordered[round(n * size) : round((n + 1) * size)] for n in range(count)]
    coarse = [math.fsum(part) / len(part) for part in slices]
    scale = math.fsum(ordered) / len(ordered) * count / math.fsum(coarse)
    return [point * scale for point in coarse]


def _stretch(points: list[float], mean: float, variance: float) -> list[float]:
    """The same points with the variance that was lost when they were made; none becomes negative."""
    lost = math.fsum((point - mean) ** 2 for point in points) / len(points)
    if not 0 < lost < variance:
        return points
    factor = min(math.sqrt(variance / lost), mean / (mean - min(points)) * 0.99)
    return [mean + (point - mean) * factor for point in points]


def _finite_source(checkouts: int, think_s: float, service: _Service) -> tuple[list[float], float]:
    """The queue M/G/1//N: the distribution of how many calls an arriving one meets, and calls per second.

    Balance over each cut: what goes up past n from below is what comes down from n to n - 1.
    """
    think_s = max(think_s, service.mean * _SHORTEST_THINKING)
    joined = [1 - math.exp(-point / think_s) for point in service.points]
    rises: list[list[float]] = []
    met = [1.0]
    for n in range(1, checkouts):
        thinking = checkouts - max(n - 1, 1)
        rises.append(_rise(thinking, joined))
        # From n' the next departure leaves max(n', 1) - 1 + k behind: at least n with k >= n - max(n', 1) + 1.
        up = 0.0
        for lower in range(n):
            k = n - max(lower, 1) + 1
            if k < len(rises[lower]):
                up += met[lower] * rises[lower][k]
        nobody = math.fsum((1 - p) ** (checkouts - n) for p in joined) / len(joined)
        met.append(up / max(nobody, _SMALLEST))
        largest = max(met)
        if largest > 1 / _SMALLEST:
            met = [share / largest for share in met]
            largest = 1.0
        if met[-1] < 1e-12 * largest:
            break
    total = math.fsum(met)
    met = [share / total for share in met]
    return met, 1 / (service.mean + met[0] * think_s / checkouts)


def _rise(thinking: int, joined: Sequence[float]) -> list[float]:
    """P(at least k of ``thinking`` checkouts want something during one service), for k = 0, 1, …"""
    exactly = [0.0]
    for p in joined:
        term = (1 - p) ** thinking
        if term == 0.0:  # too small for a float: nearly all of them do
            k = round(thinking * p)
            exactly += [0.0] * (k + 1 - len(exactly))
            exactly[k] += 1.0
            continue
        ratio = p / (1 - p)
        for k in range(thinking + 1):
            if k == len(exactly):
                exactly.append(0.0)
            exactly[k] += term
            term *= (thinking - k) / (k + 1) * ratio
            if term < 1e-15 and k > thinking * p:
                break
    tail, at_least = 0.0, []
    for share in reversed(exactly):
        tail += share / len(joined)
        at_least.append(min(1.0, tail))
    at_least.reverse()
    while len(at_least) > 1 and at_least[-1] < 1e-15:
        at_least.pop()
    return at_least


def _mean_wait(met: Sequence[float], service: _Service) -> float:
    return math.fsum(share * (service.rest_mean + (n - 1) * service.mean) for n, share in enumerate(met) if n)


def _waits(met: Sequence[float], service: _Service) -> Tail:
    """The tail of the wait of a call that meets n others with probability ``met[n]``, first come first served."""
    behind = _sums(
        [
            (
                share,
                service.rest_mean + (n - 1) * service.mean,
                service.rest_variance + (n - 1) * service.variance,
            )
            for n, share in enumerate(met)
            if n > 1
        ]
    )
    one = met[1] if len(met) > 1 else 0.0
    return lambda seconds: one * service.rest_exceeds(seconds) + behind(seconds)


def _rests(met: Sequence[float], service: _Service) -> Tail:
    """The tail of a sum of n rests of services with probability ``met[n]``."""
    more = _sums(
        [(share, n * service.rest_mean, n * service.rest_variance) for n, share in enumerate(met) if n > 1]
    )
    one = met[1] if len(met) > 1 else 0.0
    return lambda seconds: one * service.rest_exceeds(seconds) + more(seconds)


def _priority_met(busy: float, first: float) -> list[float]:
    """How many rests a call of the first class waits for, of which ``first`` is the utilisation.

    Its wait is that of a queue with its own class alone, a geometric sum of rests, and if something of another
    class is in work, one rest more.
    """
    other = max(0.0, busy - first) / (1 - first)
    met = [(1 - first) * (1 - other)]
    own = 1 - first
    for _ in range(200):
        met.append(own * first * (1 - other) + own * other)
        own *= first
        if own < 1e-9:
            break
    return met


def _sums(terms: Sequence[tuple[float, float, float]]) -> Tail:
    """The tail of a mixture of log-normal durations, each given as (share, mean, variance)."""
    fitted = []
    for share, mean, variance in terms:
        spread = math.log1p(variance / mean**2)
        fitted.append((share, math.log(mean) - spread / 2, math.sqrt(spread)))

    def tail(seconds: float) -> float:
        if seconds <= 0:
            return math.fsum(share for share, _, _ in fitted)
        logarithm = math.log(seconds)
        return math.fsum(
            share * (_NORMAL.cdf((mu - logarithm) / sigma) if sigma else float(mu > logarithm))
            for share, mu, sigma in fitted
        )

    return tail


def _after(wait: Tail, points: Sequence[float]) -> Tail:
    """The tail of a wait and a service after it."""

    def tail(seconds: float) -> float:
        return math.fsum(1.0 if point > seconds else wait(seconds - point) for point in points) / len(points)

    return tail


def _quantile(tail: Tail, share: float) -> float:
    """The smallest t with tail(t) <= 1 - share, by bisection."""
    wanted = 1 - share
    if tail(0.0) <= wanted:
        return 0.0
    high = 1.0
    while tail(high) > wanted:
        high *= 2
    low = 0.0
    for _ in range(40):
        middle = (low + high) / 2
        if tail(middle) > wanted:
            low = middle
        else:
            high = middle
    return high
