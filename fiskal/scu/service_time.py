"""How long a simulated TSE takes: constant, log-normal, or drawn from measured times.

A service time is described by a number of milliseconds or by one of the structures below, in Python or as
JSON; :func:`sampler` makes it a stream of seconds that a seed determines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Annotated, Final

import msgspec

MAX_MS: Final = 600_000.0
"""Ten minutes: no call to a TSE takes longer, and a slip of the pen should not look like a hanging program."""

Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=MAX_MS)]

Sampler = Callable[[], float]
"""Returns the seconds the next call takes."""


class Constant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="constant", tag_field="kind"):
    """Every call takes ``ms``."""

    ms: Milliseconds


class LogNormal(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="lognormal", tag_field="kind", kw_only=True
):
    """A log-normal time with this mean and coefficient of variation (standard deviation / mean).

    Draws above ``max_ms`` are cut to it, which lowers the mean a little.
    """

    mean_ms: Annotated[float, msgspec.Meta(gt=0, le=MAX_MS)]
    cv: Annotated[float, msgspec.Meta(ge=0, le=10)]
    max_ms: Annotated[float, msgspec.Meta(gt=0, le=MAX_MS)] = MAX_MS


class Empirical(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="empirical", tag_field="kind"):
    """Every call takes one of these measured times; all are equally likely."""

    ms: Annotated[Sequence[Milliseconds], msgspec.Meta(min_length=1, max_length=1_000_000)]


ServiceTime = Milliseconds | Constant | LogNormal | Empirical


def sampler(service_time: ServiceTime, seed: str) -> Sampler:
    """Return a stream of service times in seconds; the same seed gives the same stream on every machine."""
    if isinstance(service_time, int | float):
        service_time = Constant(service_time)
    if isinstance(service_time, Constant):
        seconds = service_time.ms / 1000
        return lambda: seconds
    random = Random(seed)
    if isinstance(service_time, LogNormal):
        variance = math.log1p(service_time.cv**2)
        mu = math.log(service_time.mean_ms / 1000) - variance / 2
        sigma = math.sqrt(variance)
        longest = service_time.max_ms / 1000
        return lambda: min(random.lognormvariate(mu, sigma), longest)
    times = tuple(ms / 1000 for ms in service_time.ms)
    return lambda: random.choice(times)


def mean_s(service_time: ServiceTime) -> float:
    """The mean in seconds, of a log-normal time without its limit."""
    if isinstance(service_time, int | float):
        return service_time / 1000
    if isinstance(service_time, Constant):
        return service_time.ms / 1000
    if isinstance(service_time, LogNormal):
        return service_time.mean_ms / 1000
    return math.fsum(service_time.ms) / len(service_time.ms) / 1000
