"""A histogram of durations with a constant relative error, in the manner of HdrHistogram.

Recording costs about a fifth of a microsecond, whatever the value, and memory grows with the number of
different durations, not with their count. So it can stay switched on in front of a TSE.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import msgspec

_PRECISION_BITS: Final = 10
_HALF: Final = 1 << (_PRECISION_BITS - 1)
RELATIVE_ERROR: Final = 1 / (2 * _HALF)
"""How far a value read from a histogram is off at most: 1/1024 of itself."""


class Histogram:
    """Durations in seconds, kept in whole microseconds: exact below a millisecond, then within 0.1 %.

    Not synchronised: record from one thread, or under a lock, and :meth:`merge` for the whole.
    """

    __slots__ = ("_counts", "_sum_us", "count")

    def __init__(self, values: Iterable[float] = ()) -> None:
        self._counts: dict[int, int] = {}
        self._sum_us = 0
        self.count = 0
        for value in values:
            self.record(value)

    def record(self, seconds: float) -> None:
        """Count one duration; a negative one, as a clock that was put back makes it, counts as 0."""
        us = max(round(seconds * 1e6), 0)
        shift = us.bit_length() - _PRECISION_BITS
        slot = us if shift <= 0 else shift * _HALF + (us >> shift)
        counts = self._counts
        counts[slot] = counts.get(slot, 0) + 1
        self._sum_us += us
        self.count += 1

    def record_us(self, us: int) -> None:
        """Count one duration in microseconds."""
        self.record(us / 1e6)

    def merge(self, other: Histogram) -> None:
        """Add everything that ``other`` has counted. Another thread may go on recording there."""
        for slot, count in list(other._counts.items()):
            self._counts[slot] = self._counts.get(slot, 0) + count
        self._sum_us += other._sum_us
        self.count += other.count

    @property
    def mean(self) -> float:
        """Seconds, exact to the microsecond; 0 without any value."""
        return self._sum_us / self.count / 1e6 if self.count else 0.0

    @property
    def variance(self) -> float:
        """Seconds squared, of the recorded values themselves (not of a population they were drawn from)."""
        if self.count < 2:
            return 0.0
        mean = self.mean
        return math.fsum(count * (value - mean) ** 2 for value, count in self.values()) / self.count

    def quantile(self, share: float) -> float:
        """The smallest recorded duration that ``share`` of all do not exceed; 0 without any value."""
        return self.quantiles([share])[0]

    def quantiles(self, shares: Iterable[float]) -> list[float]:
        """Several quantiles in one pass. ``shares`` ascend and lie between 0 and 1."""
        found: list[float] = []
        slots = iter(sorted(self._counts.items()))
        seen, value = 0, 0.0
        for share in shares:
            wanted = max(1, math.ceil(share * self.count - 1e-9))
            while seen < wanted:
                entry = next(slots, None)
                if entry is None:
                    break
                value = _seconds(entry[0])
                seen += entry[1]
            found.append(value)
        return found

    @property
    def max(self) -> float:
        return _seconds(max(self._counts)) if self._counts else 0.0

    def share_above(self, seconds: float) -> float:
        """The share of all durations that exceed ``seconds``, to the error of the histogram."""
        if not self.count:
            return 0.0
        return sum(count for value, count in self.values() if value > seconds) / self.count

    def values(self) -> list[tuple[float, int]]:
        """(seconds, how often), ascending; each is the middle of what its slot holds."""
        return [(_seconds(slot), count) for slot, count in sorted(self._counts.items())]

    def dump(self) -> HistogramData:
        """Everything as plain data, for a file; :meth:`load` reads it."""
        slots = sorted(self._counts)
        return HistogramData(slots=slots, counts=[self._counts[slot] for slot in slots], sum_us=self._sum_us)

    @classmethod
    def load(cls, data: HistogramData) -> Histogram:
        """The histogram that was dumped. Raises ValueError if the data are not those of one."""
        if (
            len(data.slots) != len(data.counts)
            or len(set(data.slots)) != len(data.slots)
            or any(slot < 0 for slot in data.slots)
            or any(count < 1 for count in data.counts)
            or data.sum_us < 0
        ):
            raise ValueError("these are not the data of a histogram")
        made = cls()
        made._counts = dict(zip(data.slots, data.counts, strict=True))
        made.count = sum(data.counts)
        made._sum_us = data.sum_us
        return made


class HistogramData(msgspec.Struct, frozen=True):
    """A histogram in a file: slot numbers, how often each was hit, and the sum of all values.

    Slot ``n`` below 1024 holds n µs; slot ``512 k + m`` with 512 ≤ m < 1024 holds m·2^k µs up to the next.
    """

    slots: list[int]
    counts: list[int]
    sum_us: int


def _seconds(slot: int) -> float:
    if slot < 2 * _HALF:
        return slot / 1e6
    shift = slot // _HALF - 1
    low = (slot - shift * _HALF) << shift
    return (low + (1 << shift) / 2) / 1e6
