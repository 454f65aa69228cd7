"""How long a TSE is busy with one signature: a distribution with what the models need of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from statistics import NormalDist
from typing import Final

import msgspec

from fiskal.histogram import Histogram

MAX_CV: Final = 10.0
"""More variation than that is no service time any more."""
_CONSTANT_BELOW: Final = 1e-6
"""A coefficient of variation that makes no difference to anybody."""

_PIECES: Final = 400
"""Into how many equally likely pieces a distribution is cut where a model needs points."""


class ServiceTime(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds per signature: log-normal with this mean and coefficient of variation, or as measured.

    ``samples`` are equally likely durations in ascending order; without any the time is log-normal, and
    constant for ``cv`` 0. Mean and ``cv`` are always those of the samples.
    """

    mean_s: float
    cv: float
    samples: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not (self.mean_s > 0 and math.isfinite(self.mean_s)):
            raise ValueError(f"a service time must be longer than nothing, not {self.mean_s} s")
        if not 0 <= self.cv <= MAX_CV:
            raise ValueError(f"a coefficient of variation cannot be {self.cv}")

    @classmethod
    def measured(cls, histogram: Histogram) -> ServiceTime:
        """The distribution of recorded durations. Raises ValueError without any."""
        if not histogram.count:
            raise ValueError("nothing was measured")
        mean = histogram.mean
        samples = tuple(histogram.quantiles([(n + 0.5) / _PIECES for n in range(_PIECES)]))
        return cls(mean_s=mean, cv=math.sqrt(histogram.variance) / mean if mean else 0.0, samples=samples)

    @property
    def variance(self) -> float:
        """Seconds squared."""
        return (self.mean_s * self.cv) ** 2

    @property
    def third_central_moment(self) -> float:
        """E[(S - E[S])³] in seconds cubed."""
        if self.samples:
            return math.fsum((sample - self.mean_s) ** 3 for sample in self.samples) / len(self.samples)
        square = self.cv**2
        return self.mean_s**3 * square**2 * (square + 3)

    def sampler(self, random: Random) -> Callable[[], float]:
        """A stream of service times."""
        if self.samples:
            samples = self.samples
            return lambda: random.choice(samples)
        if self.cv < _CONSTANT_BELOW:
            mean = self.mean_s
            return lambda: mean
        mu, sigma = self._parameters
        return lambda: random.lognormvariate(mu, sigma)

    @property
    def points(self) -> tuple[float, ...]:
        """Equally likely durations that stand for the distribution; their mean is exact."""
        if self.samples:
            points = self.samples
        elif self.cv < _CONSTANT_BELOW:
            return (self.mean_s,)
        else:
            mu, sigma = self._parameters
            normal = NormalDist(mu, sigma)
            points = tuple(math.exp(normal.inv_cdf((n + 0.5) / _PIECES)) for n in range(_PIECES))
        scale = self.mean_s * len(points) / math.fsum(points)
        return tuple(point * scale for point in points)

    def quantile(self, share: float) -> float:
        """Seconds that ``share`` of all signatures do not exceed."""
        points = self.points
        return points[min(len(points) - 1, int(share * len(points)))]

    def scaled(self, factor: float) -> ServiceTime:
        """The same shape, ``factor`` times as long."""
        return ServiceTime(
            mean_s=self.mean_s * factor,
            cv=self.cv,
            samples=tuple(sample * factor for sample in self.samples),
        )

    @property
    def _parameters(self) -> tuple[float, float]:
        variance = math.log1p(self.cv**2)
        return math.log(self.mean_s) - variance / 2, math.sqrt(variance)
