"""The door to the compiled core: the module itself, its statuses as exceptions, hashes and points in time.

What the core knows of a request and of the German tables is made Python in ``fiskal/pos/prepared.py`` and
``fiskal/germany/cases.py``, what it knows of a TSE in ``fiskal/tse/_native.py`` and ``fiskal/frames/``.

Every function may be called from many threads at once. Each thread owns one scratch area that its calls
reuse, because on the way of a receipt allocating buffers would cost more than the work itself. The one
place they must not be called from is a signal handler, which could cut into such a call of its own thread.
"""

from __future__ import annotations

import struct
import threading
from typing import Final

from fiskal._core import ffi, lib
from fiskal.errors import CoreError

__all__ = [
    "SHA256_ACCELERATED", "chain_hash", "check", "complete", "ffi", "format_ticks", "format_ticks_ms", "layout", "lib",
    "parse_moment", "sha256",
]  # fmt: skip

SHA256_ACCELERATED: Final[bool] = bool(lib.fk_sha256_accelerated())
"""True if SHA-256 runs on the SHA instructions of this CPU."""


def check(status: int) -> None:
    """Raise :class:`CoreError` unless ``status`` is ``FK_OK``."""
    if status != lib.FK_OK:
        raise CoreError(status)


def layout(members: str, name: str) -> struct.Struct:
    """How to unpack the C structure ``name``, whose members in the format of :mod:`struct` are ``members``.

    Raises ImportError if the compiled core has another idea of its size.
    """
    found = struct.Struct(members)
    if found.size != ffi.sizeof(name):
        raise ImportError(
            f"{name} has {ffi.sizeof(name)} bytes in fiskal/_core, not {found.size}: it was built from other sources; "
            "run 'python build.py', or install fiskal again"
        )
    return found


class _Scratch(threading.local):
    """The buffers of one thread."""

    def __init__(self) -> None:
        self.hash = ffi.new("uint8_t[32]")
        self.hash_bytes = ffi.buffer(self.hash)
        self.completed = ffi.new("fk_completed *")
        self.completed_bytes = ffi.buffer(self.completed)
        self.text = ffi.new("char[]", 128)
        self.text_bytes = ffi.buffer(self.text)
        self.ticks = ffi.new("int64_t *")


_scratch = _Scratch()
_unpack_completed = layout("=32s32s44s44s", "fk_completed").unpack

# ---- hashes -----------------------------------------------------------------------------------------


def sha256(data: bytes) -> bytes:
    """Return the 32 bytes of SHA-256 over ``data`` (FIPS 180-4)."""
    scratch = _scratch
    lib.fk_sha256(data, len(data), scratch.hash)
    return scratch.hash_bytes[:]


def chain_hash(
    previous: bytes | None,
    journal_id_le: bytes,
    moment_ticks: int,
    number: int,
    request_hash: bytes,
    response_hash: bytes,
) -> bytes:
    """Return the 32 bytes of ftReceiptHash for one receipt.

    ``previous`` is the 32-byte hash of the receipt before, None for the first. ``journal_id_le`` is the
    ftReceiptJournalId in .NET byte order (``uuid.bytes_le``). Raises ValueError on a wrong length.
    """
    if (
        len(journal_id_le) != 16
        or len(request_hash) != 32
        or len(response_hash) != 32
        or (previous is not None and len(previous) != 32)
    ):
        raise ValueError("chain_hash takes 32-byte hashes and a 16-byte journal id")
    scratch = _scratch
    lib.fk_chain_hash(
        ffi.NULL if previous is None else previous,
        journal_id_le,
        moment_ticks,
        number,
        request_hash,
        response_hash,
        scratch.hash,
    )
    return scratch.hash_bytes[:]


def complete(
    previous: bytes | None,
    journal_id_le: bytes,
    moment_ticks: int,
    number: int,
    request_hash: bytes,
    response: bytes,
) -> tuple[bytes, str, bytes, str]:
    """Hash a response and chain its receipt.

    Arguments as for :func:`chain_hash`, ``response`` is the stored text in UTF-8. Returns the response hash
    and the chain hash, each as 32 bytes and as Base64: ``(raw, base64, chain_raw, chain_base64)``.
    """
    if len(journal_id_le) != 16 or len(request_hash) != 32 or (previous is not None and len(previous) != 32):
        raise ValueError("complete takes 32-byte hashes and a 16-byte journal id")
    scratch = _scratch
    lib.fk_complete(
        ffi.NULL if previous is None else previous,
        journal_id_le,
        moment_ticks,
        number,
        request_hash,
        response,
        len(response),
        scratch.completed,
    )
    response_hash, chain, response_base64, chain_base64 = _unpack_completed(scratch.completed_bytes)
    return response_hash, str(response_base64, "ascii"), chain, str(chain_base64, "ascii")


# ---- points in time ------------------------------------------------------------------------------------


def format_ticks(ticks: int) -> str:
    """Return ISO 8601 in UTC with as many fraction digits as needed: ``2020-05-22T10:47:40.96Z``.

    Raises ValueError outside of the years 1 to 9999.
    """
    scratch = _scratch
    length = lib.fk_moment_iso(ticks, scratch.text)
    if not length:
        raise ValueError(f"{ticks} ticks lie outside of the years 1 to 9999")
    return str(scratch.text_bytes[:length], "ascii")


def format_ticks_ms(ticks: int) -> str:
    """Return ``yyyy-MM-ddTHH:mm:ss.fffZ``, milliseconds cut off, as DSFinV-K texts have it."""
    scratch = _scratch
    length = lib.fk_moment_milliseconds(ticks, scratch.text)
    if not length:
        raise ValueError(f"{ticks} ticks lie outside of the years 1 to 9999")
    return str(scratch.text_bytes[:length], "ascii")


def parse_moment(text: str) -> int:
    """Return the ticks of a moment as a POS may write it: ISO 8601 or ``/Date(milliseconds)/``.

    An offset is converted to UTC, no suffix means UTC. Raises ValueError if it is neither.
    """
    scratch = _scratch
    data = text.encode()
    if lib.fk_moment_parse(data, len(data), scratch.ticks) != lib.FK_OK:
        raise ValueError(f"not a date and time: {text!r}")
    ticks: int = scratch.ticks[0]
    return ticks
