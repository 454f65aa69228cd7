"""VAT rates by UST_SCHLUESSEL and by the time they are in force (DSFinV-K Anlage 2; § 12 and § 24 UStG, § 28 UStG)."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Final, NamedTuple

from fiskal.core import parse_moment


class _Rate(NamedTuple):
    since: int
    """Ticks; changes come at midnight in Germany."""
    rate: Decimal


def _rates(*pairs: tuple[str, str]) -> tuple[_Rate, ...]:
    return tuple(_Rate(parse_moment(since), Decimal(rate)) for since, rate in pairs)


_BEGINNING: Final = "2007-01-01T00:00:00+01:00"

IN_FORCE: Final[dict[int, tuple[_Rate, ...]]] = {
    1: _rates(
        (_BEGINNING, "19"),
        ("2020-07-01T00:00:00+02:00", "16"),
        ("2021-01-01T00:00:00+01:00", "19"),
    ),
    2: _rates(
        (_BEGINNING, "7"),
        ("2020-07-01T00:00:00+02:00", "5"),
        ("2021-01-01T00:00:00+01:00", "7"),
    ),
    3: _rates(
        (_BEGINNING, "10.7"),
        ("2022-01-01T00:00:00+01:00", "9.5"),
        ("2023-01-01T00:00:00+01:00", "9.0"),
        ("2024-12-06T00:00:00+01:00", "8.4"),
        ("2025-01-01T00:00:00+01:00", "7.8"),
    ),
    4: _rates((_BEGINNING, "5.5")),
}
"""The keys whose rate the law changes: standard, reduced, § 24 (1) no. 3 and no. 1."""

HISTORIC: Final = {
    (1, Decimal(19)): 11,
    (2, Decimal(7)): 12,
    (1, Decimal(16)): 21,
    (2, Decimal(5)): 22,
}
"""Keys of rates that are not in force any more or again, by the key of their class."""

FIXED: Final = {
    5: Decimal(0),
    6: Decimal(0),
    7: Decimal(0),
    11: Decimal(19),
    12: Decimal(7),
    21: Decimal(16),
    22: Decimal(5),
}
"""Keys whose rate never changes."""

INDIVIDUAL: Final = 1000
"""Keys from here on are given by the business; ours are 1000 + 100 times the rate."""

DESCRIPTIONS: Final = {
    1: "Allgemeiner Steuersatz (§ 12 Abs. 1 UStG)",
    2: "Ermäßigter Steuersatz (§ 12 Abs. 2 UStG)",
    3: "Durchschnittsatz (§ 24 Abs. 1 Nr. 3 UStG) übrige Fälle",
    4: "Durchschnittsatz (§ 24 Abs. 1 Nr. 1 UStG)",
    5: "Nicht steuerbar",
    6: "Umsatzsteuerfrei",
    7: "UmsatzsteuerNichtErmittelbar",
    11: "Historischer allgemeiner Steuersatz",
    12: "Historischer ermäßigter Steuersatz",
    21: "Historischer allgemeiner Steuersatz",
    22: "Historischer ermäßigter Steuersatz",
}


def rate_at(key: int, ticks: int) -> Decimal:
    """The rate of key 1 to 4 at a moment, in percent; the oldest known one before that."""
    known = IN_FORCE[key]
    return next((each.rate for each in reversed(known) if each.since <= ticks), known[0].rate)


def was_in_force(key: int, rate: Decimal) -> bool:
    """Was this ever the rate of key 1 to 4?"""
    return any(each.rate == rate for each in IN_FORCE[key])


def individual_key(rate: Decimal) -> int:
    """The key of a rate that has none of its own: 14.25 % has 2425. ``rate`` must not be negative."""
    return INDIVIDUAL + int((rate * 100).to_integral_value(ROUND_HALF_UP))
