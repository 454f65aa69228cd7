"""Time as the field counts it: .NET ticks (100 ns since 0001-01-01 UTC) in an ``int``.

A clock is any callable without arguments that returns ticks; it is injected wherever time is read, so that
a whole site can run in one deterministic simulation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

Clock = Callable[[], int]

TICKS_PER_SECOND: Final = 10_000_000
TICKS_PER_MILLISECOND: Final = 10_000
UNIX_EPOCH_TICKS: Final = 621_355_968_000_000_000
"""1970-01-01T00:00:00Z."""


def now() -> int:
    """The current UTC time, in whole microseconds so that every store and format keeps it exactly."""
    return UNIX_EPOCH_TICKS + time.time_ns() // 1000 * 10


def from_unix(seconds: int) -> int:
    """Ticks of a Unix time in whole seconds."""
    return UNIX_EPOCH_TICKS + seconds * TICKS_PER_SECOND


def to_unix(ticks: int) -> int:
    """Whole Unix seconds of ``ticks``, rounded down."""
    return (ticks - UNIX_EPOCH_TICKS) // TICKS_PER_SECOND
