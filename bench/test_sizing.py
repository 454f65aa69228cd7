"""What recording, predicting and simulating cost.

python -m pytest bench/test_sizing.py --benchmark-only --benchmark-enable
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from fiskal.histogram import Histogram
from fiskal.sizing.analytic import predict
from fiskal.sizing.plan import plan, run
from fiskal.sizing.profiles import PROFILES
from fiskal.sizing.shop import Shop, preset

SHOP = Shop(checkouts=40, **preset("supermarket"))
TSE = PROFILES["swissbit"]
CALLS = 1000


def test_record(benchmark: Any) -> None:
    """Durations as a TSE has them, a thousand per round."""
    random = Random(1)
    durations = [int(random.lognormvariate(12.4, 0.2)) for _ in range(CALLS)]
    histogram = Histogram()

    def record() -> None:
        for duration in durations:
            histogram.record_us(duration)

    benchmark(record)
    if benchmark.stats is not None:
        benchmark.extra_info["us_per_value"] = round(benchmark.stats.stats.min / CALLS * 1e6, 3)


@pytest.mark.parametrize("checkouts", [10, 100])
def test_formulas(benchmark: Any, checkouts: int) -> None:
    cycle = SHOP.cycle(TSE)
    benchmark(lambda: predict(checkouts, cycle, "explicit", TSE.start, TSE.finish).wait_quantile(0.95))


def test_simulation_of_a_thousand_receipts(benchmark: Any) -> None:
    benchmark(lambda: run(SHOP, TSE, 40, receipts=1000))


def test_a_whole_plan(benchmark: Any) -> None:
    benchmark.pedantic(lambda: plan(SHOP, TSE), rounds=3)
