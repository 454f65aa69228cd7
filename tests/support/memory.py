"""What a journal costs to read."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator


def peak(stream: Iterator[bytes]) -> tuple[int, int]:
    """The bytes of a stream, and the most memory that reading it took."""
    tracemalloc.start()
    size = sum(map(len, stream))
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return size, used
