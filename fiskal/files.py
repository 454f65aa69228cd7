"""Files that survive a crash: whole or not there, their names on the disk, and locks that end with their process.

Every function raises OSError for what the system refuses; what that means to the user is the caller's to say.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

if os.name == "nt":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        # flock and not lockf: a POSIX record lock is lost when *any* descriptor of the file is closed.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def staged_path(path: Path) -> Path:
    """Where a file is written that will take the place of ``path``; a crash may leave it behind."""
    return path.with_name(path.name + ".new")


@contextmanager
def replacing(path: Path, mode: int = 0o644, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Give a file to fill, which takes the place of ``path`` when the block ends: all of it, or nothing.

    A block that raises leaves the old file and no other behind. ``mode`` (less the umask) is what the new file may be
    used by, from its first byte. ``durable``: when this returns, a power failure changes nothing any more; without it
    the file is whole in any case that the process survives. One process at a time may replace a file.
    """
    staged = staged_path(path)
    staged.unlink(missing_ok=True)  # of a process that died; it may have another mode
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def write_atomically(path: Path, data: bytes, mode: int = 0o644, *, durable: bool = True) -> None:
    """Replace ``path`` by ``data`` (see :func:`replacing`)."""
    with replacing(path, mode, durable=durable) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can do that."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Taken(Exception):
    """Somebody else holds the lock, in this process or in another one."""


class FileLock:
    """Holds ``path`` exclusively from construction to :meth:`release` or the end of the process; the file stays.

    Never waits: :class:`Taken` if somebody has it. The lock belongs to the open file, so the system drops it however
    the process ends.
    """

    def __init__(self, path: Path, mode: int = 0o600) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, mode)
        try:
            _lock(self._descriptor)
        except OSError as error:
            self.release()
            raise Taken(f"{path} is locked") from error

    def release(self) -> None:
        """Give the lock back. Calling it again does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
