"""One process per store: an operating system lock on a file beside the database.

The lock belongs to the open file, so the system drops it however the process ends. The lock file stays.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fiskal.errors import StoreError, StoreLocked

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        # flock and not lockf: a POSIX record lock is lost when *any* descriptor of the file is closed.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FileLock:
    """Holds ``path`` exclusively from construction to :meth:`release`. Never waits: StoreError if taken."""

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise StoreError(
                f"cannot open the lock file {path}: {error.strerror}; the directory must exist and be"
                " writable"
            ) from error
        try:
            _lock(self._descriptor)
        except OSError as error:
            os.close(self._descriptor)
            raise StoreLocked(
                f"the store is already open: {path} is locked; stop the other process, or use the store that"
                " is already open in this one"
            ) from error

    def release(self) -> None:
        """Give the lock back. Calling it again does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
