"""Service times: moments, samples and points agree."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiskal.histogram import Histogram
from fiskal.sizing.service import ServiceTime


@given(st.floats(0.001, 10), st.just(0.0) | st.floats(0.001, 2))
def test_points_have_the_mean_and_nearly_the_variation(mean_s: float, cv: float) -> None:
    points = ServiceTime(mean_s=mean_s, cv=cv).points
    mean = math.fsum(points) / len(points)
    assert mean == pytest.approx(mean_s)
    deviation = math.sqrt(math.fsum((point - mean) ** 2 for point in points) / len(points))
    assert deviation / mean == pytest.approx(cv, rel=0.25, abs=1e-6)


@pytest.mark.parametrize("cv", [0.0, 0.2, 1.0])
def test_samples_have_mean_and_variation(cv: float) -> None:
    draw = ServiceTime(mean_s=0.25, cv=cv).sampler(Random(1))
    drawn = Histogram(draw() for _ in range(40_000))
    assert drawn.mean == pytest.approx(0.25, rel=0.02)
    assert math.sqrt(drawn.variance) / drawn.mean == pytest.approx(cv, rel=0.05, abs=1e-3)


def test_measured_times_keep_their_shape() -> None:
    random = Random(2)
    measured = Histogram(0.1 if random.random() < 0.9 else 1.0 for _ in range(10_000))
    service = ServiceTime.measured(measured)
    assert service.mean_s == pytest.approx(measured.mean)
    assert service.quantile(0.5) == pytest.approx(0.1, rel=0.02)
    assert service.quantile(0.97) == pytest.approx(1.0, rel=0.02)
    drawn = Histogram(draw() for draw in [service.sampler(random)] * 20_000)
    assert drawn.mean == pytest.approx(measured.mean, rel=0.03)


@given(st.floats(0.01, 1), st.floats(0, 1), st.floats(0.1, 10))
def test_scaling_keeps_the_variation(mean_s: float, cv: float, factor: float) -> None:
    service = ServiceTime(mean_s=mean_s, cv=cv)
    scaled = service.scaled(factor)
    assert scaled.cv == cv
    assert scaled.variance == pytest.approx(service.variance * factor**2)
    assert scaled.third_central_moment == pytest.approx(service.third_central_moment * factor**3)


def test_moments_are_those_of_what_is_drawn() -> None:
    service = ServiceTime(mean_s=1.0, cv=0.5)
    draw = service.sampler(Random(3))
    drawn = [draw() for _ in range(200_000)]
    assert math.fsum((value - 1) ** 2 for value in drawn) / len(drawn) == pytest.approx(
        service.variance, rel=0.02
    )
    third = math.fsum((value - 1) ** 3 for value in drawn) / len(drawn)
    assert third == pytest.approx(service.third_central_moment, rel=0.1)


@pytest.mark.parametrize(("mean_s", "cv"), [(0, 0.2), (-1, 0.2), (math.nan, 0), (math.inf, 0), (1, -0.1)])
def test_impossible_times_are_refused(mean_s: float, cv: float) -> None:
    with pytest.raises(ValueError, match=r"cannot be|longer than nothing"):
        ServiceTime(mean_s=mean_s, cv=cv)


def test_nothing_measured_is_no_distribution() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        ServiceTime.measured(Histogram())
