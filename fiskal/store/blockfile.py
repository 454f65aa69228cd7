"""A file of blocks, whose writes are on the disk when they return.

Where the system has it (Linux), a write goes past the page cache with the flush in it: the disk then gets one
command instead of two. Everywhere else, and where a file system does not take it, it is a write and a flush.
Of a disk that is fast one write can also go on by itself (:meth:`BlockFile.begin`).
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from fiskal.store.flight import Flight

BLOCK_BYTES: Final = 4096

PATIENCE_S: Final = 0.0005
"""A disk that takes longer on average is waited for asleep: then others need the processor more."""

_SHARE: Final = 1 / 8
"""How much the last write counts in the average."""

# Functions of the data as it is written; systems without fdatasync (macOS, Windows) have fsync.
_sync: Final = getattr(os, "fdatasync", os.fsync)

_DIRECT: Final = getattr(os, "O_DIRECT", 0) | getattr(os, "O_DSYNC", 0)
_PLAIN: Final = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class _Begun(NamedTuple):
    """What was given to :meth:`BlockFile.begin`, and when."""

    head: bytes
    body: bytes
    at: int
    size: int
    begun_s: float


class BlockFile:
    """The file at ``path``, made if it is missing. Not thread-safe.

    ``max_bytes`` is what a write takes the fast way; larger ones take the other. Raises OSError.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = _blocks(max_bytes)
        self._direct = -1
        self._buffer: mmap.mmap | None = None
        self._flight: Flight | None = None
        self._begun: _Begun | None = None
        self._usual_s = 0.0
        """What a write takes on average."""
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
        with contextlib.suppress(OSError):
            self._flight = Flight(self._buffer)

    @property
    def can_begin(self) -> bool:
        """Whether the system has writes that go on by themselves, and the disk is fast enough to wait for them."""
        return self._flight is not None and self._usual_s <= PATIENCE_S

    def begin(self, head: bytes, body: bytes, at: int) -> bool:
        """Begin to write as :meth:`store` does, and return meanwhile. Then :meth:`finish` comes before anything else.

        False, and nothing was begun, if that is not possible.
        """
        self._end_flight()
        flight, size = self._flight, _blocks(len(head) + len(body))
        if flight is None or size > self._max_bytes:
            return False
        self._fill(head, body)
        begun_s = time.monotonic()
        try:
            flight.begin(self._direct, size, at)
        except OSError:  # what is wrong with the disk, the other way will tell
            self._flight = None
            flight.close()
            return False
        self._begun = _Begun(head, body, at, size, begun_s)
        return True

    def finish(self) -> None:
        """Return when the disk has what was begun. Raises OSError, also when it is asked once more: how a write ended
        is heard of once, and whoever did not hear it does not know."""
        begun, flight = self._begun, self._flight
        if begun is None or flight is None:
            raise OSError(errno.ECANCELED, "whether the disk has it is not known")
        self._begun = None
        try:
            written = flight.land(PATIENCE_S)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            written = 0
            self._leave_direct()  # it could be opened, but does not take such blocks
        self._note(begun.begun_s)
        if written != begun.size:
            self._store_plain(begun.head, begun.body, begun.at)

    def store(self, head: bytes, body: bytes, at: int, *, alone: bool = False) -> None:
        """Write ``head`` and ``body`` from the block at ``at`` on; return when the disk has them.

        What follows them up to the end of their last block is not defined. ``alone`` says that nobody needs the
        processor meanwhile. Raises OSError.
        """
        if alone and self.can_begin and self.begin(head, body, at):
            self.finish()
            return
        self._end_flight()
        begun_s = time.monotonic()
        size = _blocks(len(head) + len(body))
        if self._buffer is None or size > self._max_bytes or not self._store_direct(head, body, at, size):
            self._store_plain(head, body, at)
        self._note(begun_s)

    def _end_flight(self) -> None:
        """An interrupt may have left a write under way, which must not come after the next one."""
        flight = self._flight
        if flight is not None and flight.is_under_way:
            flight.close()
            self._flight = None

    def _note(self, begun_s: float) -> None:
        took_s = min(time.monotonic() - begun_s, 4 * PATIENCE_S)  # one long write says little about the next
        self._usual_s += (took_s - self._usual_s) * _SHARE

    def _fill(self, head: bytes, body: bytes) -> None:
        buffer, middle = self._buffer, len(head)
        assert buffer is not None
        buffer[:middle] = head
        buffer[middle : middle + len(body)] = body

    def _store_plain(self, head: bytes, body: bytes, at: int) -> None:
        self.write(head + body, at)
        _sync(self.fd)

    def _store_direct(self, head: bytes, body: bytes, at: int, size: int) -> bool:
        """False if it has to be done the other way."""
        self._fill(head, body)
        assert self._buffer is not None
        try:
            with memoryview(self._buffer) as view, view[:size] as blocks:
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
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.close()  # before the memory goes
        direct, self._direct = self._direct, -1
        self._buffer = None
        if direct >= 0:
            with contextlib.suppress(OSError):
                os.close(direct)


def _blocks(length: int) -> int:
    """Bytes of the whole blocks that ``length`` bytes take."""
    return -(-length // BLOCK_BYTES) * BLOCK_BYTES


def _seek_and_write(fd: int, data: memoryview, at: int, /) -> int:
    os.lseek(fd, at, os.SEEK_SET)
    return os.write(fd, data)


_pwrite: Final[Callable[[int, memoryview, int], int]] = getattr(
    os, "pwrite", _seek_and_write
)  # not on Windows
