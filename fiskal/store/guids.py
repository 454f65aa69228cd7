"""GUIDs as they lie on the disk: 16 bytes in the order of their text, so that a time they begin with sorts them."""

from __future__ import annotations


def to_bytes(guid: str) -> bytes:
    """A GUID of lower-case text with dashes as 16 bytes. Raises ValueError for any other text."""
    raw = bytes.fromhex(guid.replace("-", ""))
    if to_text(raw) != guid:
        raise ValueError(f"not a GUID in lower case: {guid!r}")
    return raw


def to_text(raw: bytes) -> str:
    """16 bytes as a GUID of lower-case text with dashes."""
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
