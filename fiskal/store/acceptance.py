"""The acceptance log: what makes an accepted item durable before the TSE is asked, at the price of one flush.

In the database an item touches a table and three indexes, and its answer touches them again a moment later. So
an item is first written here, into a small file beside the database that is always there in full size and never
read in operation, and goes into the database together with its answer. What has no answer when a process dies
is put into the database when the store is opened next.

The file is a header and two segments. Batches are appended to one segment; when it is full, the other one is
written from its start. What there still has no answer is moved to the database before.

::

    block  = 4096 bytes; header and batches begin on one, so that a torn write hurts no older batch
    header = magic "FAL1" | u32 CRC-32 of the id | 16 bytes id of the store            (little endian)
    batch  = magic "FAB1" | u32 length of items | u32 CRC-32 of items | u64 sequence | items (MessagePack)

The sequence grows by one with every batch. Of two batches with the same row of a queue the later one counts: the
disk refused to confirm the other.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from fiskal.errors import StoreError
from fiskal.store.interface import QueueItemRow
from fiskal.store.waiting import Waiting
from fiskal.store.writer import BadChange

_log = logging.getLogger("fiskal.store")

BLOCK_BYTES: Final = 4096
SEGMENT_BYTES: Final = 1 << 20
MAX_BATCH_ITEMS: Final = 60
MAX_ITEM_BYTES: Final = 16_000
"""Larger items go straight to the database; ``MAX_BATCH_ITEMS`` of these fill no more than a segment."""

_HEADER: Final = struct.Struct("<4sI16s")
_HEADER_MAGIC: Final = b"FAL1"
_BATCH: Final = struct.Struct("<4sIIQ")
_BATCH_MAGIC: Final = b"FAB1"
_INT64: Final = 1 << 63

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[QueueItemRow]).decode

# Functions of the data as it is written; systems without fdatasync (macOS, Windows) have fsync.
_sync: Final = getattr(os, "fdatasync", os.fsync)

_ADVICE: Final = {
    errno.ENOSPC: "the disk is full; make room, then repeat",
    errno.EDQUOT: "the quota of the disk is used up; make room, then repeat",
    errno.EROFS: "the file system is read-only; make it writable, then repeat",
    errno.EACCES: "the file or its directory is read-only; make them writable, then repeat",
    errno.EIO: "the disk reported an error; check it and the file system, then repeat",
}


class AcceptanceLog:
    """Writes accepted items. Not thread-safe: its user holds the role of the leader.

    ``journal`` brings the waiting items of queues into the database, so that their segment can be written
    over; it raises StoreError if the database cannot take them. ``sequence`` is greater than that of any batch
    in the file. The file is made with the first item.
    """

    def __init__(
        self,
        path: Path,
        identity: bytes,
        waiting: Waiting,
        journal: Callable[[set[int]], None],
        sequence: int = 1,
    ) -> None:
        self._path = path
        self._identity = identity
        self._waiting = waiting
        self._journal = journal
        self._sequence = sequence
        self._fd = -1
        self._segment = 0
        self._at = 0
        self._finished = False

    @property
    def stored(self) -> bool:
        """Whether the last :meth:`write` is on the disk. Not known to be counts as no: it may be repeated."""
        return self._finished

    def forget(self) -> None:
        """Let ``stored`` speak of the next write and no longer of the last one."""
        self._finished = False

    def write(self, items: Sequence[QueueItemRow]) -> None:
        """Store all of ``items``, at most MAX_BATCH_ITEMS, with one flush.

        Call :meth:`forget` before. BadChange if one of them cannot be stored, StoreError if the disk could
        not take them.
        """
        body = _encoded(items)
        self._sequence += 1
        frame = _BATCH.pack(_BATCH_MAGIC, len(body), zlib.crc32(body), self._sequence) + body
        size = -(-len(frame) // BLOCK_BYTES) * BLOCK_BYTES
        if self._at + size > SEGMENT_BYTES:
            self._next_segment()
        try:
            if self._fd < 0:
                self._fd = _open(self._path, self._identity)
            _write_at(self._fd, frame, BLOCK_BYTES + self._segment * SEGMENT_BYTES + self._at)
            _sync(self._fd)
        except OSError as error:
            self.close()
            raise _store_error(error, self._path, "write to") from error
        self._at += size
        self._waiting.add(items, self._segment)
        self._finished = True

    def _next_segment(self) -> None:
        other = 1 - self._segment
        queues = self._waiting.queues_in(other)
        if queues:
            self._journal(queues)
        self._segment = other
        self._at = 0

    def close(self) -> None:
        """Never fails: what mattered was flushed before."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:
                pass


def fits(item: QueueItemRow) -> bool:
    """Is the item small enough for the log?"""
    # A character takes at most four bytes, and everything but these three texts less than 1000 together.
    texts = len(item.request) + len(item.cbReceiptReference or "") + len(item.cbTerminalID or "")
    return texts < 3000 or len(_encoded([item])) <= MAX_ITEM_BYTES


def read(path: Path, identity: bytes) -> Iterator[tuple[int, list[QueueItemRow]]]:
    """All batches the log at ``path`` still holds, with their sequences, in no order.

    Most of their items were answered long ago.

    A missing file has none; nor has the log of another store, which is left to be written over. Raises
    StoreError.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _store_error(error, path, "read") from error
    if len(data) < _HEADER.size:
        return
    if data[: _HEADER.size] != _HEADER.pack(_HEADER_MAGIC, zlib.crc32(identity), identity):
        _log.warning("%s belongs to another store; it is ignored and will be written over", path)
        return
    at = BLOCK_BYTES
    while at + _BATCH.size <= len(data):
        magic, length, crc, sequence = _BATCH.unpack_from(data, at)
        body = data[at + _BATCH.size : at + _BATCH.size + length]
        if magic == _BATCH_MAGIC and len(body) == length and zlib.crc32(body) == crc:
            try:
                items = _decode(body)
            except msgspec.MsgspecError as error:
                raise StoreError(
                    f"{path} was written by another version of fiskal ({error}); open the store once with that"
                    " one"
                ) from error
            yield sequence, items
            at += -(-(_BATCH.size + length) // BLOCK_BYTES) * BLOCK_BYTES
        else:
            at += BLOCK_BYTES


def _encoded(items: Sequence[QueueItemRow]) -> bytes:
    try:
        for item in items:
            for value in item:
                if type(value) is int and not -_INT64 <= value < _INT64:
                    raise OverflowError("a number is beyond 64 bits")
        return _encode(items)
    except Exception as error:
        raise BadChange(f"the item cannot be stored: {type(error).__name__}: {error}") from error


def _open(path: Path, identity: bytes) -> int:
    """The log, open for writing, in its full size: later writes need no room, and a flush no metadata."""
    fd = os.open(
        path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0), 0o666
    )
    try:
        header = _HEADER.pack(_HEADER_MAGIC, zlib.crc32(identity), identity)
        size = BLOCK_BYTES + 2 * SEGMENT_BYTES
        os.lseek(fd, 0, os.SEEK_SET)
        if os.fstat(fd).st_size != size or os.read(fd, _HEADER.size) != header:
            # The header comes last: without it the file counts as empty.
            os.ftruncate(fd, 0)
            zeros = bytes(1 << 16)
            for at in range(0, size, len(zeros)):
                _write_at(fd, zeros[: size - at], at)
            os.fsync(fd)
            _write_at(fd, header, 0)
            os.fsync(fd)
            _sync_folder(path.parent)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write_at(fd: int, data: bytes, at: int) -> None:
    os.lseek(fd, at, os.SEEK_SET)
    view = memoryview(data)
    while view:
        written = os.write(fd, view)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[written:]


def _sync_folder(folder: Path) -> None:
    """Make the name of a new file durable, where the system has a call for it."""
    if os.name != "posix":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _store_error(error: OSError, path: Path, doing: str) -> StoreError:
    advice = _ADVICE.get(error.errno or 0, "the system refused")
    return StoreError(f"could not {doing} {path}: {advice} ({error})")
