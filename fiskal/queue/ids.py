"""GUIDs as text and in .NET byte order. The source is injected, so that a simulation can be repeated."""

from __future__ import annotations

import os
from collections.abc import Callable

GuidSource = Callable[[], str]
"""Gives a GUID as lower-case text with dashes."""


def new_guid() -> str:
    """A random GUID (version 4)."""
    raw = os.urandom(16)
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{'89ab'[raw[8] & 3]}{digits[17:20]}-{digits[20:]}"


def bytes_le(guid: str) -> bytes:
    """A GUID as 16 bytes in .NET order: the first three groups little endian."""
    raw = bytes.fromhex(guid.replace("-", ""))
    return raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]
