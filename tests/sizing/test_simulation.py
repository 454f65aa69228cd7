"""The simulation against published results, against exact formulas, and against its own bookkeeping."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiskal.histogram import Histogram
from fiskal.sizing.service import ServiceTime
from fiskal.sizing.simulation import EDF, FIFO, PRIORITY, Cycle, Flow, Outcome, Scheduling, Stall, simulate
from tests.sizing import published

RECEIPTS = 20_000


def run(row: published.Row, flow: Flow, scheduling: Scheduling = EDF) -> Outcome:
    cycle = published.CYCLES[row.kind]
    return simulate(
        row.checkouts,
        cycle,
        flow,
        published.SERVICE,
        published.SERVICE,
        scheduling=scheduling,
        seconds=RECEIPTS * (cycle.total_s + 0.5) / row.checkouts,
    )


def ms(histogram: Histogram, *shares: float) -> list[float]:
    return [value * 1000 for value in histogram.quantiles(shares)]


def near(expected: tuple[float, ...]) -> object:
    # Where less than a twentieth waits at all, p95 is 0 or next to it: a few milliseconds are no difference.
    return pytest.approx(expected, rel=0.10, abs=8)


@pytest.mark.parametrize("row", published.TABLE, ids=lambda row: f"{row.kind}-{row.checkouts}")
def test_the_published_table_is_reproduced_within_ten_percent(row: published.Row) -> None:
    implicit = run(row, "implicit")
    assert implicit.utilisation == pytest.approx(row.utilisation, abs=0.02)
    assert ms(implicit.response, 0.5, 0.95, 0.99) == near(row.implicit_response)
    assert ms(run(row, "explicit", FIFO).wait, 0.95, 0.99) == near(row.fifo_wait)
    priority = run(row, "explicit", PRIORITY)
    assert ms(priority.wait, 0.95, 0.99) == near(row.priority_wait)
    assert ms(priority.tse_response, 0.95) == near((row.priority_response,))
    assert ms(priority.start_wait, 0.95) == near((row.priority_start_wait,))


@pytest.mark.parametrize("allowance_s", published.EDF)
def test_the_published_effect_of_the_starts_allowance_is_reproduced(allowance_s: float) -> None:
    *response, start_wait = published.EDF[allowance_s]
    outcome = run(published.TABLE[6], "explicit", Scheduling(start_s=allowance_s))
    assert ms(outcome.tse_response, 0.5, 0.95, 0.99) == near(tuple(response))
    assert ms(outcome.start_wait, 0.95) == near((start_wait,))


@pytest.mark.parametrize(("mean_s", "checkouts"), published.OTHER_SPEEDS)
def test_the_published_results_of_faster_and_slower_tses_are_reproduced(
    mean_s: float, checkouts: int
) -> None:
    *response, wait = published.OTHER_SPEEDS[mean_s, checkouts]
    service = ServiceTime(mean_s=mean_s, cv=0.2)
    cycle = published.CYCLES["grocery"]
    seconds = RECEIPTS * cycle.total_s / checkouts
    implicit = simulate(checkouts, cycle, "implicit", service, service, seconds=seconds)
    assert ms(implicit.response, 0.5, 0.95, 0.99) == near(tuple(response))
    explicit = simulate(checkouts, cycle, "explicit", service, service, scheduling=PRIORITY, seconds=seconds)
    assert ms(explicit.wait, 0.95) == near((wait,))


def test_calls_that_are_not_back_to_back_wait_longer() -> None:
    row = published.TABLE[6]
    apart = run(row, "implicit", FIFO)
    assert apart.response.quantile(0.95) > 1.1 * run(row, "implicit").response.quantile(0.95)


def test_a_lone_checkout_never_waits() -> None:
    cycle = published.CYCLES["bakery"]
    for flow in ("implicit", "explicit"):
        outcome = simulate(1, cycle, flow, published.SERVICE, published.SERVICE, seconds=20_000)  # type: ignore[arg-type]
        assert outcome.wait.max == 0


def test_a_shared_queue_delays_but_loses_nothing() -> None:
    cycle = published.CYCLES["bar"]
    shared = simulate(
        8, cycle, "explicit", published.SERVICE, published.SERVICE, checkouts_per_queue=8, seconds=20_000
    )
    alone = simulate(8, cycle, "explicit", published.SERVICE, published.SERVICE, seconds=20_000)
    assert shared.queue_wait.mean > alone.queue_wait.mean
    assert shared.wait.max == 0  # one queue has one call in work: nobody else is at the TSE
    assert shared.receipts == pytest.approx(alone.receipts, rel=0.05)


@settings(deadline=None, max_examples=40)
@given(
    checkouts=st.integers(1, 12),
    per_queue=st.integers(1, 4),
    flow=st.sampled_from(["implicit", "explicit"]),
    start_s=st.sampled_from([0.0, 0.5, math.inf]),
    back_to_back=st.booleans(),
    mean_s=st.floats(0.01, 2.0),
    pay_s=st.floats(0.0, 5.0),
    seed=st.integers(0, 1000),
)
def test_busy_time_signatures_and_receipts_add_up(
    checkouts: int,
    per_queue: int,
    flow: Flow,
    start_s: float,
    back_to_back: bool,
    mean_s: float,
    pay_s: float,
    seed: int,
) -> None:
    service = ServiceTime(mean_s=mean_s, cv=0)
    outcome = simulate(
        checkouts,
        Cycle(gap_s=0.5, scan_s=1.0, pay_s=pay_s, items=3),
        flow,
        service,
        service,
        scheduling=Scheduling(start_s=start_s, back_to_back=back_to_back),
        checkouts_per_queue=per_queue,
        seconds=300,
        warmup_s=0,
        seed=seed,
    )
    assert outcome.busy_s == pytest.approx(outcome.signatures * mean_s)
    assert outcome.busy_s <= outcome.seconds + 2 * mean_s
    # Every receipt has two signatures; what is open at the end is at most one per checkout and call.
    assert 0 <= outcome.signatures - 2 * outcome.receipts <= 3 * checkouts
    least = mean_s if flow == "explicit" else 2 * mean_s
    assert outcome.receipts == outcome.response.count == outcome.wait.count
    if outcome.receipts:
        assert outcome.response.quantile(0) >= least * 0.999
        parts = outcome.queue_wait.mean + outcome.wait.mean + least
        assert outcome.response.mean == pytest.approx(parts, abs=1e-5)


def test_the_same_seed_gives_the_same_shop() -> None:
    one, two, other = (
        simulate(
            9,
            published.CYCLES["bar"],
            "explicit",
            published.SERVICE,
            published.SERVICE,
            seconds=900,
            seed=seed,
        )
        for seed in (5, 5, 6)
    )
    assert one.response.dump() == two.response.dump()
    assert one.response.dump() != other.response.dump()


def test_a_stall_makes_those_wait_who_come_while_it_lasts() -> None:
    cycle = published.CYCLES["grocery"]
    outcome = simulate(
        10, cycle, "implicit", published.SERVICE, published.SERVICE, seconds=3600, stall=Stall(1800, 60)
    )
    hit = outcome.slowest
    assert 5 <= len(hit) <= 10  # about 8.8 receipts come within a minute, but a checkout sends only one
    assert all(1700 < moment < 1861 for moment, _ in hit)
    assert 30 < max(response for _, response in hit) < 70
