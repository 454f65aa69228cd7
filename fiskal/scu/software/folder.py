"""The folder of a software TSE: who may use it, what it is, and where its log was last known good.

=================  ==================================================================================
``tse.json``       what the TSE is; written last, so a folder without it holds no TSE
``key.pem``        the signing key, PKCS #8, readable by the owner only
``chain.pem``      the certificates: TSE, sub CA, root
``messages.log``   every signature (:mod:`fiskal.scu.software.log`)
``checkpoint``     the state after some record of the log; may be deleted, the log then is read whole
``exports``        TAR files of export sessions that are in use; emptied at the start
``users.json``     users, if the TSE has any (:mod:`.access`)
``rehearse.json``  what is rehearsed, with ``rehearsed.json`` and ``rehearsing`` (:mod:`.rehearsal`)
``lock``           held by the process that uses the TSE
=================  ==================================================================================
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Final

import msgspec

from fiskal.files import FileLock, Taken, write_atomically
from fiskal.scu.contract import TseStates
from fiskal.scu.errors import Misconfigured

FORMAT: Final = 1


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """``tse.json``. ``created_utc`` is ISO 8601, ``serial`` the lower-case hex of SHA-256 of the point."""

    format: int
    serial: str
    curve: str
    log_version: int
    time_format: str
    created_utc: str
    notice: str


class Checkpoint(msgspec.Struct, kw_only=True):
    """What the records before ``offset`` of the log after ``erasures`` add up to. Times are ms since 1970."""

    erasures: int = 0
    offset: int = 0
    counter: int = 0
    number: int = 0
    last_unix_ms: int = 0
    state: TseStates = TseStates.UNINITIALIZED
    locked: bool = False
    secure: bool = False
    device_description: str = ""
    clients: list[str] = []
    open: dict[int, tuple[str, int]] = {}
    """Open transactions: number to client and start time."""


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    return msgspec.json.encode(checkpoint)


def decode_checkpoint(data: bytes) -> Checkpoint | None:
    """Read what :func:`encode_checkpoint` wrote; None if it is something else."""
    try:
        return msgspec.json.decode(data, type=Checkpoint)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint. It is not synced: one that did not reach the disk only costs a longer start."""
    body = encode_checkpoint(checkpoint)
    write_atomically(path, b"%08x\n%b" % (zlib.crc32(body), body), durable=False)


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Read a checkpoint; None if there is none or it is not what was written."""
    try:
        crc, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if crc != b"%08x" % zlib.crc32(body):
        return None
    return decode_checkpoint(body)


class FolderLock(FileLock):
    """The lock of a folder. Raises ``Misconfigured`` DEVICE_IN_USE if somebody else holds it."""

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(path)
        except Taken as error:
            raise Misconfigured(
                "DEVICE_IN_USE",
                f"The software TSE in {path.parent} is used by another process or was opened twice.",
            ) from error
