"""GUIDs as text and in .NET byte order. The source is injected, so that a simulation can be repeated."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

GuidSource = Callable[[], str]
"""Gives a GUID as lower-case text with dashes."""


def new_guid() -> str:
    """A GUID that begins with the time (RFC 9562, version 7), so that rows of one time lie side by side in an index.

    48 bits of Unix time in ms and 12 of its fraction, then 62 random bits. It does not depend on clocks that run on.
    """
    return time_ordered(time.time_ns(), os.urandom(8))


def time_ordered(unix_ns: int, random: bytes) -> str:
    """The GUID of version 7 for a moment and 8 random bytes."""
    stamp, tail = f"{(unix_ns << 12) // 1_000_000:015x}"[-15:], random.hex()
    return f"{stamp[:8]}-{stamp[8:12]}-7{stamp[12:]}-{_VARIANT[tail[0]]}{tail[1:4]}-{tail[4:]}"


_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def bytes_le(guid: str) -> bytes:
    """A GUID as 16 bytes in .NET order: the first three groups little endian."""
    raw = bytes.fromhex(guid.replace("-", ""))
    return raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]
