"""Moments as a POS writes them, and as they are stored and printed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiskal import core

LAST_TICK = 3_155_378_975_999_999_999


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2020-05-22T10:47:42.3247875Z", "2020-05-22T10:47:42.3247875Z"),
        ("2020-05-22T10:47:40.960Z", "2020-05-22T10:47:40.96Z"),
        ("2020-05-22T10:47:40.000Z", "2020-05-22T10:47:40Z"),
        ("2020-05-22T10:47:40", "2020-05-22T10:47:40Z"),
        ("2020-05-22T10:47", "2020-05-22T10:47:00Z"),
        ("2020-05-22", "2020-05-22T00:00:00Z"),
        ("2020-05-22 10:47:40z", "2020-05-22T10:47:40Z"),
        ("2024-03-05T19:15:00+02:00", "2024-03-05T17:15:00Z"),
        ("2024-03-05T19:15:00-0530", "2024-03-06T00:45:00Z"),
        ("2024-03-05T19:15:00+02", "2024-03-05T17:15:00Z"),
        ("2020-05-22T10:47:42.1234567890123456Z", "2020-05-22T10:47:42.1234567Z"),
        ("/Date(1590144460960)/", "2020-05-22T10:47:40.96Z"),
        ("/Date(1590144460960+0200)/", "2020-05-22T10:47:40.96Z"),
        ("\\/Date(1590144460960)\\/", "2020-05-22T10:47:40.96Z"),
        ("/Date(-1000)/", "1969-12-31T23:59:59Z"),
        ("0001-01-01T00:00:00", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59.9999999Z"),
        ("2000-02-29T00:00:00Z", "2000-02-29T00:00:00Z"),
    ],
)
def test_forms(text: str, iso: str) -> None:
    assert core.format_ticks(core.parse_moment(text)) == iso


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2020",
        "2020-13-01",
        "2020-00-01",
        "2020-02-30",
        "1900-02-29",
        "0000-01-01",
        "2020-05-22T24:00:00Z",
        "2020-05-22T10:60:00Z",
        "2020-05-22T10:47:60Z",
        "2020-05-22T10:47:40.Z",
        "2020-05-22T10:47:40.12345678901234567Z",
        "2020-05-22T10:47:40+15:00",
        "2020-05-22T10:47:40+2:00",
        "2020-05-22T10:47:40ZZ",
        "2020-05-22T10",
        "22.05.2020 10:47",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "/Date()/",
        "/Date(1)",
        "/Date(1)/x",
        "/Date(1+02)/",
        "/Date(999999999999999)/",
        "/Date(9999999999999999999)/",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a date and time"):
        core.parse_moment(text)


@given(st.integers(0, LAST_TICK))
def test_round_trip(ticks: int) -> None:
    assert core.parse_moment(core.format_ticks(ticks)) == ticks
    expected = datetime(1, 1, 1, tzinfo=UTC) + timedelta(microseconds=ticks // 10)
    milliseconds = core.format_ticks_ms(ticks)
    assert milliseconds == f"{expected:%H:%M:%S}".join(
        (f"{expected.year:04}-{expected:%m-%d}T", f".{expected.microsecond // 1000:03}Z")
    )


def test_milliseconds_are_cut_off() -> None:
    assert (
        core.format_ticks_ms(core.parse_moment("2024-03-05T17:59:59.9999999Z")) == "2024-03-05T17:59:59.999Z"
    )


@pytest.mark.parametrize("ticks", [-1, LAST_TICK + 1])
def test_out_of_range(ticks: int) -> None:
    with pytest.raises(ValueError, match="years 1 to 9999"):
        core.format_ticks(ticks)
    with pytest.raises(ValueError, match="years 1 to 9999"):
        core.format_ticks_ms(ticks)
