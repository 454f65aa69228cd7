"""The only door to the compiled core: Python types in, Python types out, C errors as exceptions."""

from __future__ import annotations

from typing import Final

from fiskal._core import ffi, lib
from fiskal.errors import CoreError

SHA256_ACCELERATED: Final[bool] = bool(lib.fk_sha256_accelerated())
"""True if SHA-256 runs on the SHA instructions of this CPU."""


def check(status: int) -> None:
    """Raise :class:`CoreError` unless ``status`` is ``FK_OK``."""
    if status != lib.FK_OK:
        raise CoreError(status)


def sha256(data: bytes) -> bytes:
    """Return the 32 bytes of SHA-256 over ``data`` (FIPS 180-4)."""
    out = ffi.new("uint8_t[32]")
    lib.fk_sha256(data, len(data), out)
    return bytes(ffi.buffer(out))


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
        (previous is not None and len(previous) != 32)
        or len(journal_id_le) != 16
        or len(request_hash) != 32
        or len(response_hash) != 32
    ):
        raise ValueError("chain_hash takes 32-byte hashes and a 16-byte journal id")
    out = ffi.new("uint8_t[32]")
    lib.fk_chain_hash(
        ffi.NULL if previous is None else previous,
        journal_id_le,
        moment_ticks,
        number,
        request_hash,
        response_hash,
        out,
    )
    return bytes(ffi.buffer(out))
