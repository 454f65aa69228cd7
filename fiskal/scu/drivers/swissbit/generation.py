"""Which generation a Swissbit TSE is, from its info block alone (tse-swissbit-v2 §2): asked before any write."""

from __future__ import annotations

import enum
import hashlib

from fiskal.frames.swissbit import Info
from fiskal.scu.errors import NotSupported


class Generation(enum.Enum):
    V1 = "1.x"
    V2 = "2.0"
    UNKNOWN = "unknown"


def generation(info: Info) -> Generation:
    """The first test that hits decides; what is implausible for 1.x is treated like 2.0."""
    if info.software[0] >= 2 or b"0800" in info.description:
        return Generation.V2
    if info.state > 2 or info.key_length not in (65, 97) or info.key[:1] != b"\4":
        return Generation.UNKNOWN
    if hashlib.sha256(info.key).digest() != info.serial:
        return Generation.UNKNOWN
    return Generation.V1


def refuse_raw(info: Info, place: str) -> None:
    """Raise NotSupported for a device whose mailbox must not be written without the vendor's library."""
    found = generation(info)
    if found is not Generation.V1:
        what = "a TSE 2.0" if found is Generation.V2 else "a TSE of an unknown generation"
        raise NotSupported(
            "UNSUPPORTED_DEVICE",
            f"{place} is {what}: the vendor's library is needed to use it, which this version does not drive. "
            "Use a TSE 1.x.",
        )
