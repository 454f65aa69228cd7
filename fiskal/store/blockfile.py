"""A file of blocks, whose writes are on the disk when they return.

Where the system has it (Linux), a write goes past the page cache with the flush in it: the disk then gets one
command instead of two. Everywhere else, and where a file system does not take it, it is a write and a flush.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

BLOCK_BYTES: Final = 4096

# Functions of the data as it is written; systems without fdatasync (macOS, Windows) have fsync.
_sync: Final = getattr(os, "fdatasync", os.fsync)

_DIRECT: Final = getattr(os, "O_DIRECT", 0) | getattr(os, "O_DSYNC", 0)
_PLAIN: Final = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class BlockFile:
    """The file at ``path``, made if it is missing. Not thread-safe.

    ``max_bytes`` is what a write takes the fast way; larger ones take the other. Raises OSError.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = -(-max_bytes // BLOCK_BYTES) * BLOCK_BYTES
        self._direct = -1
        self._buffer: mmap.mmap | None = None
        self.fd = os.open(path, _PLAIN, 0o666)
        """For everything but the fast way."""

    def go_direct(self) -> None:
        """Take the fast way from now on, if there is one."""
        if not hasattr(os, "O_DIRECT") or not hasattr(os, "O_DSYNC") or self._direct >= 0:
            return
        try:
            direct = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | _DIRECT)
        except OSError:
            return  # a file system without it
        if not os.path.samestat(os.fstat(direct), os.fstat(self.fd)):
            os.close(direct)
            return
        self._direct = direct
        self._buffer = mmap.mmap(-1, self._max_bytes)  # of whole pages, as this way of writing asks for

    def store(self, head: bytes, body: bytes, at: int) -> None:
        """Write ``head`` and ``body`` from the block at ``at`` on; return when the disk has them.

        What follows them up to the end of their last block is not defined. Raises OSError.
        """
        length = len(head) + len(body)
        if self._buffer is not None and length <= self._max_bytes and self._store_direct(head, body, at):
            return
        self.write(head + body, at)
        _sync(self.fd)

    def _store_direct(self, head: bytes, body: bytes, at: int) -> bool:
        """False if it has to be done the other way."""
        buffer = self._buffer
        assert buffer is not None
        middle, end = len(head), len(head) + len(body)
        buffer[:middle] = head
        buffer[middle:end] = body
        size = -(-end // BLOCK_BYTES) * BLOCK_BYTES
        try:
            with memoryview(buffer) as view, view[:size] as blocks:
                return _pwrite(self._direct, blocks, at) == size
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._leave_direct()  # it could be opened, but does not take such blocks
            return False

    def write(self, data: bytes, at: int) -> None:
        """Write without a flush."""
        view = memoryview(data)
        while view:
            written = _pwrite(self.fd, view, at)
            if written == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            view = view[written:]
            at += written

    def close(self) -> None:
        """Never fails: what mattered was flushed before."""
        self._leave_direct()
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _leave_direct(self) -> None:
        direct, self._direct = self._direct, -1
        self._buffer = None
        if direct >= 0:
            with contextlib.suppress(OSError):
                os.close(direct)


def _seek_and_write(fd: int, data: memoryview, at: int, /) -> int:
    os.lseek(fd, at, os.SEEK_SET)
    return os.write(fd, data)


_pwrite: Final[Callable[[int, memoryview, int], int]] = getattr(
    os, "pwrite", _seek_and_write
)  # not on Windows
