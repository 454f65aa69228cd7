"""The histogram against a sorted list of everything that was recorded."""

from __future__ import annotations

import math
import statistics

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiskal.histogram import RELATIVE_ERROR, Histogram, HistogramData

MICROSECONDS = st.lists(st.integers(0, 2000) | st.integers(0, 10**12), min_size=1, max_size=200)
SHARES = st.floats(0, 1)


def recorded(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record_us(value)
    return histogram


@given(MICROSECONDS, SHARES)
def test_a_quantile_is_the_value_a_sorted_list_has_there(values: list[int], share: float) -> None:
    exact = sorted(values)[max(1, math.ceil(share * len(values) - 1e-9)) - 1] / 1e6
    assert recorded(values).quantile(share) == pytest.approx(exact, rel=RELATIVE_ERROR * 1.0001, abs=1e-12)


@given(MICROSECONDS)
def test_mean_count_and_maximum_are_those_of_the_values(values: list[int]) -> None:
    histogram = recorded(values)
    assert histogram.count == len(values)
    assert histogram.mean == pytest.approx(statistics.fmean(values) / 1e6)
    assert histogram.max == pytest.approx(max(values) / 1e6, rel=RELATIVE_ERROR * 1.0001)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=100))
def test_variance_is_that_of_the_values(values: list[int]) -> None:
    expected = statistics.pvariance(values) / 1e12
    assert recorded(values).variance == pytest.approx(expected, abs=1e-18)


@given(MICROSECONDS, MICROSECONDS)
def test_merging_is_recording_both(one: list[int], other: list[int]) -> None:
    merged = recorded(one)
    merged.merge(recorded(other))
    assert merged.dump() == recorded(one + other).dump()


@given(MICROSECONDS)
def test_a_file_keeps_everything(values: list[int]) -> None:
    histogram = recorded(values)
    read = msgspec.json.decode(msgspec.json.encode(histogram.dump()), type=HistogramData)
    assert Histogram.load(read).dump() == histogram.dump()
    assert Histogram.load(read).values() == histogram.values()


@given(MICROSECONDS, SHARES)
def test_quantiles_agree_with_quantile_and_share_above(values: list[int], share: float) -> None:
    histogram = recorded(values)
    shares = sorted([share, 0.5, 0.95])
    found = histogram.quantiles(shares)
    assert found == [histogram.quantile(each) for each in shares]
    assert found == sorted(found)
    assert histogram.share_above(histogram.quantile(share)) <= 1 - share + 1e-9


def test_up_to_a_millisecond_every_microsecond_is_kept() -> None:
    assert [value for value, _ in recorded(list(range(1024))).values()] == [n / 1e6 for n in range(1024)]


def test_seconds_are_rounded_to_microseconds_and_negative_ones_count_as_nothing() -> None:
    histogram = Histogram([0.0002504, -1.0])
    assert histogram.values() == [(0.0, 1), (0.00025, 1)]


def test_an_empty_histogram_answers_zero() -> None:
    histogram = Histogram()
    assert (histogram.mean, histogram.variance, histogram.quantile(0.5), histogram.max) == (0, 0, 0, 0)
    assert histogram.share_above(0) == 0


@pytest.mark.parametrize(
    "data",
    [
        HistogramData(slots=[1, 2], counts=[1], sum_us=1),
        HistogramData(slots=[1, 1], counts=[1, 1], sum_us=1),
        HistogramData(slots=[-1], counts=[1], sum_us=1),
        HistogramData(slots=[1], counts=[0], sum_us=1),
        HistogramData(slots=[1], counts=[1], sum_us=-1),
    ],
)
def test_data_of_no_histogram_are_refused(data: HistogramData) -> None:
    with pytest.raises(ValueError, match="not the data of a histogram"):
        Histogram.load(data)
