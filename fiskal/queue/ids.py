"""GUIDs as text and in .NET byte order. The source is injected, so that a simulation can be repeated."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple


class Guid(NamedTuple):
    """``text`` is lower case with dashes; ``bytes_le`` has the first three groups little endian."""

    text: str
    bytes_le: bytes


GuidSource = Callable[[], Guid]


def new_guid() -> Guid:
    """A random GUID (version 4)."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    digits = raw.hex()
    return Guid(
        f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}",
        bytes(raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]),
    )
