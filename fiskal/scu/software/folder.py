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

import os
import zlib
from pathlib import Path
from typing import Final

import msgspec

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


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data``: afterwards it is the old or the new file, never a mixture."""
    staged = staged_path(path)
    staged.unlink(missing_ok=True)
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    staged.replace(path)
    sync_folder(path.parent)


def staged_path(path: Path) -> Path:
    """Where a file is written that will take the place of ``path``."""
    return path.with_name(path.name + ".new")


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can do that."""
    if os.name == "posix":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


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
    staged = staged_path(path)
    staged.write_bytes(b"%08x\n%b" % (zlib.crc32(body), body))
    staged.replace(path)


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Read a checkpoint; None if there is none or it is not what was written."""
    try:
        crc, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if crc != b"%08x" % zlib.crc32(body):
        return None
    return decode_checkpoint(body)


class FolderLock:
    """An exclusive lock on a file, held until :meth:`release` or the end of the process.

    Raises ``Misconfigured`` DEVICE_IN_USE if somebody else holds it.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(self._fd)
        except OSError as error:
            os.close(self._fd)
            raise Misconfigured(
                "DEVICE_IN_USE",
                f"The software TSE in {path.parent} is used by another process or was opened twice.",
            ) from error

    def release(self) -> None:
        os.close(self._fd)


if os.name == "nt":
    import msvcrt

    def _lock(fd: int) -> None:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]

else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
