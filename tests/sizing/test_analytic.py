"""The formulas against exact solutions, and against the simulation where nothing exact is known."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiskal.sizing.analytic import open_quantile, predict
from fiskal.sizing.service import ServiceTime
from fiskal.sizing.simulation import EDF, FIFO, PRIORITY, Cycle, Scheduling, simulate
from tests.sizing import published


def thinking(seconds: float) -> Cycle:
    """A checkout whose cycle is one exponential pause."""
    return Cycle(gap_s=seconds, scan_s=0, pay_s=0)


def pollaczek_khinchine(rate: float, service_s: float, scv: float) -> float:
    rho = rate * service_s
    return rate * service_s**2 * (1 + scv) / (2 * (1 - rho))


@pytest.mark.parametrize("cv", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("rho", [0.1, 0.5, 0.8])
def test_with_very_many_checkouts_the_mean_wait_is_that_of_pollaczek_and_khinchine(
    cv: float, rho: float
) -> None:
    checkouts, s = 3000, 0.25
    rate = rho / (2 * s)
    service = ServiceTime(mean_s=s, cv=cv)
    prediction = predict(checkouts, thinking(checkouts / rate), "implicit", service, service)
    assert prediction.wait_mean_s == pytest.approx(pollaczek_khinchine(rate, 2 * s, cv**2 / 2), rel=0.04)


@pytest.mark.parametrize(("checkouts", "think_s"), [(1, 5.0), (2, 1.0), (5, 0.5), (20, 6.0), (40, 15.0)])
def test_throughput_is_that_of_the_simulation_with_exponential_thinking(
    checkouts: int, think_s: float
) -> None:
    service = published.SERVICE
    prediction = predict(checkouts, thinking(think_s), "implicit", service, service)
    outcome = simulate(
        checkouts,
        thinking(think_s),
        "implicit",
        service,
        service,
        seconds=20_000 * (think_s + 0.5) / checkouts,
    )
    assert prediction.receipts_per_s == pytest.approx(outcome.receipts_per_s, rel=0.02)
    assert prediction.wait_mean_s == pytest.approx(outcome.wait.mean, rel=0.08, abs=0.002)


def test_a_lone_checkout_never_waits() -> None:
    prediction = predict(1, thinking(3), "implicit", published.SERVICE, published.SERVICE)
    assert prediction.wait_mean_s == 0
    assert prediction.wait_quantile(0.99) == 0
    assert prediction.receipts_per_s == pytest.approx(1 / 3.5)


def test_too_many_checkouts_take_all_the_tse_has() -> None:
    prediction = predict(200, thinking(1), "implicit", published.SERVICE, published.SERVICE)
    assert prediction.receipts_per_s == pytest.approx(2.0, rel=1e-6)
    assert prediction.utilisation == pytest.approx(1.0)


@pytest.mark.parametrize(
    "row",
    [row for row in published.TABLE if row.utilisation <= 0.5],
    ids=lambda row: f"{row.kind}-{row.checkouts}",
)
def test_up_to_half_load_published_waits_are_met(row: published.Row) -> None:
    """With 30 % for the explicit flow of the bar, whose pauses are the least exponential ones."""
    cycle = published.CYCLES[row.kind]
    implicit = predict(row.checkouts, cycle, "implicit", published.SERVICE, published.SERVICE)
    shares = (0.5, 0.95, 0.99)
    assert [implicit.response_quantile(share) * 1000 for share in shares] == pytest.approx(
        row.implicit_response, rel=0.12
    )
    for scheduling, expected in ((FIFO, row.fifo_wait), (PRIORITY, row.priority_wait)):
        explicit = predict(
            row.checkouts, cycle, "explicit", published.SERVICE, published.SERVICE, scheduling=scheduling
        )
        assert [explicit.wait_quantile(share) * 1000 for share in (0.95, 0.99)] == pytest.approx(
            expected, rel=0.30 if row.kind == "bar" else 0.12, abs=8
        )


@pytest.mark.parametrize("allowance_s", published.EDF)
def test_the_allowance_of_a_start_lies_between_order_and_priority(allowance_s: float) -> None:
    prediction = predict(
        30,
        published.CYCLES["bakery"],
        "explicit",
        published.SERVICE,
        published.SERVICE,
        scheduling=Scheduling(start_s=allowance_s),
    )
    *response, start_wait = published.EDF[allowance_s]
    assert [prediction.response_quantile(share) * 1000 for share in (0.5, 0.95, 0.99)] == pytest.approx(
        response, rel=0.15
    )
    assert prediction.start_wait_p95_s * 1000 == pytest.approx(start_wait, rel=0.30)


@settings(deadline=None, max_examples=40)
@given(
    checkouts=st.integers(1, 40),
    think_s=st.floats(0.5, 100),
    mean_s=st.floats(0.02, 1.0),
    cv=st.floats(0, 1.5),
    flow=st.sampled_from(["implicit", "explicit"]),
)
def test_tails_fall_and_nothing_exceeds_what_the_tse_can_do(
    checkouts: int, think_s: float, mean_s: float, cv: float, flow: str
) -> None:
    service = ServiceTime(mean_s=mean_s, cv=cv)
    prediction = predict(checkouts, thinking(think_s), flow, service, service, scheduling=EDF)  # type: ignore[arg-type]
    assert 0 < prediction.utilisation <= 1 + 1e-9
    assert prediction.receipts_per_s <= checkouts / think_s + 1e-9
    for tail in (prediction.wait, prediction.response):
        values = [tail(n * mean_s / 3) for n in range(30)]
        assert all(0 <= value <= 1 + 1e-9 for value in values)
        assert all(later <= earlier + 1e-9 for earlier, later in pairwise(values))


def test_the_quantile_of_an_exponential_tail() -> None:
    assert open_quantile(1.0, 0.04, 0.95) == 0
    assert open_quantile(1.0, 0.5, 0.95) == pytest.approx(2 * math.log(10))
