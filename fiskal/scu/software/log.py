"""The append-only log of the software TSE: one record per signature, written with one system call.

::

    record = magic "FTL1" | u32 length of body | u32 CRC-32 of body | body           (little endian)
    body   = u8 op | u8 client length | u16 queue item length | u64 signatureCounter
           | u64 transactionNumber | i64 logTime | i64 start time (ms since 1970; a finish only)
           | queue item id | client id | log message (DER, TR-03151)

A log from which an export was erased begins with one record of another kind, the base: what the erased messages
added up to (a :class:`fiskal.scu.software.folder.Checkpoint`). Behind it lie copies of the latest erased calls,
which are still remembered but no longer exported, and then the messages that there are. Erasing writes a new
file and puts it in place of the old one, so there is always exactly one of the two.

A process that dies can only cut the last record short; that tail is cut off on opening, for its signature was
never answered. Anything else that does not read is damage, and is reported instead of repaired.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import struct
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final, NamedTuple, NoReturn, Self

from fiskal.files import staged_path, sync_folder
from fiskal.scu.errors import Misconfigured, OutcomeUnknown, TseRejected
from fiskal.scu.software.folder import Checkpoint, decode_checkpoint, encode_checkpoint

log = logging.getLogger(__name__)

MAGIC: Final = b"FTL1"
MAX_BODY: Final = 1 << 20
_FRAME: Final = struct.Struct("<4sII")
_HEAD: Final = struct.Struct("<BBHQQqq")
_BEFORE_ITEM: Final = _FRAME.size + _HEAD.size
_CHUNK: Final = 1 << 20

# Functions of the data as it is written; POSIX systems without fdatasync (macOS) have fsync.
_sync = getattr(os, "fdatasync", os.fsync)

OP_START: Final = 1
OP_UPDATE: Final = 2
OP_FINISH: Final = 3
OP_REGISTER: Final = 4
OP_UNREGISTER: Final = 5
OP_INITIALIZE: Final = 6
OP_TERMINATE: Final = 7
OP_OTHER: Final = 8
"""A message that changes nothing but counter and time."""
OP_BASE: Final = 9
"""No message: the first record of a log that was erased. ``number`` counts the erasures of the TSE."""
OP_LOCK: Final = 10
OP_UNLOCK: Final = 11
OP_ENTER_SECURE_STATE: Final = 12
OP_EXIT_SECURE_STATE: Final = 13
OP_DESCRIBE: Final = 14
"""The description of the device stands where others have the client id."""


class Record(NamedTuple):
    """One record; ``offset`` and ``end`` are where it lies in the file."""

    offset: int
    end: int
    op: int
    counter: int
    number: int
    unix_ms: int
    start_unix_ms: int
    queue_item_id: str
    client_id: str
    message: bytes


class Base(NamedTuple):
    """The first record of a log from which was erased.

    Messages that there are begin at ``first``; ``checkpoint`` is the state at its ``offset`` behind some of
    them.
    """

    erasures: int
    first: int
    checkpoint: Checkpoint


def damaged(text: str) -> Misconfigured:
    """A log that cannot be what was written: a person has to look at it."""
    return Misconfigured("LOG_DAMAGED", text)


def encode(
    op: int,
    counter: int,
    number: int,
    unix_ms: int,
    start_unix_ms: int,
    queue_item_id: bytes,
    client_id: bytes,
    message: bytes,
) -> bytes:
    """Return one record."""
    body = b"".join(
        (
            _HEAD.pack(op, len(client_id), len(queue_item_id), counter, number, unix_ms, start_unix_ms),
            queue_item_id,
            client_id,
            message,
        )
    )
    return _FRAME.pack(MAGIC, len(body), zlib.crc32(body)) + body


def _parse(frame: bytes, body: bytes, offset: int) -> Record | None:
    """The record of a complete frame; None if it is not what was written."""
    magic, length, crc = _FRAME.unpack(frame)
    if magic != MAGIC or length != len(body) or length < _HEAD.size or zlib.crc32(body) != crc:
        return None
    op, client_length, item_length, counter, number, unix_ms, start_unix_ms = _HEAD.unpack_from(body)
    item_end = _HEAD.size + item_length
    client_end = item_end + client_length
    return Record(
        offset,
        offset + _FRAME.size + length,
        op,
        counter,
        number,
        unix_ms,
        start_unix_ms,
        body[_HEAD.size : item_end].decode("utf-8", "replace"),
        body[item_end:client_end].decode("utf-8", "replace"),
        body[client_end:],
    )


class RecordLog:
    """The log file, open for appending. Used by one thread at a time, but for :meth:`records`."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self.path = path
        self._durable = durable
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0))
        except FileNotFoundError as error:
            raise damaged(f"{path} is missing: its signatures have been lost.") from error
        self.end = os.fstat(self._fd).st_size
        """Where the next record will lie."""
        staged_path(path).unlink(missing_ok=True)  # of a process that died while it erased
        self.base: Base | None = None
        self._find_base()

    @property
    def first(self) -> int:
        """Where the first message lies that was not erased."""
        return 0 if self.base is None else self.base.first

    @property
    def erasures(self) -> int:
        """How often the TSE was erased."""
        return 0 if self.base is None else self.base.erasures

    def _find_base(self) -> None:
        """Read the base if the log has one. One that does not read is damage that recovery reports."""
        self.base = None
        try:
            record = self.read(0)
        except Misconfigured:
            return
        if record.op == OP_BASE:
            checkpoint = decode_checkpoint(record.message)
            if checkpoint is None:
                raise damaged(f"The base of {self.path} cannot be read.")
            first = record.end + record.start_unix_ms
            checkpoint.offset = record.end + record.unix_ms
            self.base = Base(record.number, first, checkpoint)

    def append(
        self,
        op: int,
        counter: int,
        number: int,
        unix_ms: int,
        start_unix_ms: int,
        queue_item_id: bytes,
        client_id: bytes,
        message: bytes,
    ) -> int:
        """Write one record and return its offset.

        Raises ``TseRejected`` MEMORY_FULL if the disk took nothing of it, ``OutcomeUnknown`` if what the
        disk took is not known; then the log must be opened again before it is used.
        """
        record = encode(op, counter, number, unix_ms, start_unix_ms, queue_item_id, client_id, message)
        offset = self.end
        try:
            written = os.write(self._fd, record)
        except OSError as error:
            self._take_back(offset, error)
        if written != len(record):
            self._take_back(offset, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        if self._durable:
            try:
                _sync(self._fd)
            except OSError as error:
                raise OutcomeUnknown("INTERNAL", f"The TSE's log could not be synced: {error}.") from error
        self.end = offset + written
        return offset

    def _take_back(self, offset: int, reason: OSError) -> NoReturn:
        """Remove what a failed write left behind, then refuse the call."""
        try:
            os.ftruncate(self._fd, offset)
        except OSError as error:
            raise OutcomeUnknown("INTERNAL", f"The log of the TSE cannot be written: {reason}.") from error
        raise TseRejected("MEMORY_FULL", f"The log of the TSE cannot be written: {reason}.") from reason

    def read(self, offset: int) -> Record:
        """Read the record at ``offset``. Raises ``Misconfigured`` LOG_DAMAGED."""
        with self.path.open("rb") as file:
            file.seek(offset)
            frame = file.read(_FRAME.size)
            record = None
            if len(frame) == _FRAME.size:
                record = _parse(frame, file.read(min(_FRAME.unpack(frame)[1], MAX_BODY)), offset)
        if record is None:
            raise damaged(f"There is no whole record at byte {offset} of {self.path}.")
        return record

    def snapshot(self) -> Snapshot:
        """Return the messages there are now. Close it; until then it can be read, whatever happens to the log.

        Not to be called while another thread uses the log.
        """
        return Snapshot(self.path, self.first, self.end)

    def records(self) -> Iterator[Record]:
        """Read the messages there are now.

        Raises ``Misconfigured`` LOG_DAMAGED at the first record that does not read.
        """
        with self.snapshot() as snapshot:
            yield from snapshot.records()

    def erase(self, up_to: int, checkpoint: Checkpoint, keep_calls: int, more: bytes) -> None:
        """Replace the log by one without the messages up to the counter ``up_to``.

        ``checkpoint`` is the state now; the latest ``keep_calls`` calls stay remembered; ``more`` is the record
        that is appended in the same act. Afterwards the log has to be recovered, also after an error: it is
        the old or the new one.
        """
        forgotten, kept_from = self._split(up_to, keep_calls)
        staged = staged_path(self.path)
        staged.unlink(missing_ok=True)
        fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        try:
            with os.fdopen(fd, "wb", buffering=_CHUNK) as out, self.path.open("rb") as log_file:
                remembered = sum(length for _, length in forgotten)
                kept = self.end - kept_from
                out.write(
                    encode(
                        OP_BASE,
                        checkpoint.counter,
                        self.erasures + 1,
                        remembered + kept,
                        remembered,
                        b"",
                        b"",
                        encode_checkpoint(checkpoint),
                    )
                )
                for offset, length in forgotten:
                    log_file.seek(offset)
                    out.write(log_file.read(length))
                log_file.seek(kept_from)
                while kept:
                    piece = log_file.read(min(kept, _CHUNK))
                    if not piece:
                        raise damaged(f"{self.path} ends before its end.")
                    out.write(piece)
                    kept -= len(piece)
                out.write(more)
                out.flush()
                os.fsync(out.fileno())
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        self._replace(staged)

    def _split(self, up_to: int, keep_calls: int) -> tuple[list[tuple[int, int]], int]:
        """Walk back from the end: offsets and lengths of the latest erased calls, and where the rest begins."""
        remembered: list[tuple[int, int]] = []
        kept_from = self.end
        looks = 4 * keep_calls
        with contextlib.closing(self.backwards()) as walk:
            for record in walk:
                if record.op == OP_BASE:
                    break
                if record.counter > up_to:
                    kept_from = record.offset
                elif looks > 0 and len(remembered) < keep_calls:
                    looks -= 1
                    if record.op <= OP_FINISH and record.queue_item_id:
                        remembered.append((record.offset, record.end - record.offset))
                else:
                    break
        remembered.reverse()
        return remembered, kept_from

    def backwards(self) -> Generator[Record, None, None]:
        """Read all records from the last to the first. Raises ``Misconfigured`` LOG_DAMAGED."""
        boundary = self.end
        if boundary == 0:
            return
        with (
            self.path.open("rb") as file,
            mmap.mmap(file.fileno(), boundary, access=mmap.ACCESS_READ) as view,
        ):
            at = boundary
            while boundary > 0:
                at = view.rfind(MAGIC, 0, at + len(MAGIC) - 1)
                if at < 0:
                    raise damaged(f"The record that ends at byte {boundary} of {self.path} is damaged.")
                if at + _FRAME.size > boundary:
                    continue
                record = _parse(view[at : at + _FRAME.size], view[at + _FRAME.size : boundary], at)
                if record is None:
                    continue  # these bytes are part of a message
                yield record
                boundary = at

    def _replace(self, staged: Path) -> None:
        """Put a new file in the place of the log; Windows wants the old one closed before."""
        fd, self._fd = self._fd, -1
        try:
            os.close(fd)
            staged.replace(self.path)
            sync_folder(self.path.parent)
        finally:
            self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0))
            self.end = os.fstat(self._fd).st_size
            self._find_base()

    def recover(self, offset: int) -> Iterator[Record]:
        """Read the records from ``offset`` to the end of the file and cut off a torn last one.

        Raises ``Misconfigured`` LOG_DAMAGED if the file is shorter than ``offset``, or if something
        unreadable is not the torn tail that a dying process leaves.
        """
        if self._durable:
            os.fsync(self._fd)  # what is found here may be answered, so it has to be on the disk
        self.end = os.fstat(self._fd).st_size
        if offset > self.end:
            raise damaged(
                f"{self.path} has {self.end} bytes, but {offset} were written: signatures have been lost."
            )
        with self.path.open("rb", buffering=_CHUNK) as file:
            file.seek(offset)
            while offset < self.end:
                frame = file.read(_FRAME.size)
                record = None
                if len(frame) == _FRAME.size:
                    record = _parse(frame, file.read(min(_FRAME.unpack(frame)[1], MAX_BODY)), offset)
                if record is None:
                    self._cut(offset)
                    return
                yield record
                offset = record.end

    def _cut(self, offset: int) -> None:
        with self.path.open("rb") as file:
            file.seek(offset)
            tail = file.read(_FRAME.size + MAX_BODY)
            more = bool(file.read(1))
        if more or not _is_torn(tail):
            raise damaged(
                f"The record at byte {offset} of {self.path} is damaged, and it is not a torn last record."
            )
        log.warning("cut off a torn record of %d bytes at byte %d of %s", len(tail), offset, self.path)
        os.ftruncate(self._fd, offset)
        os.fsync(self._fd)
        self.end = offset

    def find_last(self, op: int, queue_item_id: bytes, client_id: bytes, number: int | None) -> Record | None:
        """Search the log backwards for the last record with these members (None: any number)."""
        needle = queue_item_id + client_id
        if self.end == 0:
            return None
        with (
            self.path.open("rb") as file,
            mmap.mmap(file.fileno(), self.end, access=mmap.ACCESS_READ) as view,
        ):
            at = view.rfind(needle)
            while at >= 0:
                offset = at - _BEFORE_ITEM
                if offset >= 0 and view[offset : offset + 4] == MAGIC:
                    frame = view[offset : offset + _FRAME.size]
                    length = _FRAME.unpack(frame)[1]
                    record = _parse(frame, view[offset + _FRAME.size : offset + _FRAME.size + length], offset)
                    if (
                        record is not None
                        and record.op == op
                        and record.queue_item_id.encode() == queue_item_id
                        and record.client_id.encode() == client_id
                        and number in (None, record.number)
                    ):
                        return record
                at = view.rfind(needle, 0, at + len(needle) - 1)
        return None

    def sync(self) -> None:
        """Bring everything that was written to the disk."""
        os.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Snapshot:
    """The messages of a log at one moment, in a file of its own that nobody changes before ``end``."""

    def __init__(self, path: Path, first: int, end: int) -> None:
        self._path = path
        self._file = path.open("rb", buffering=_CHUNK)
        self._first = first
        self._end = end

    def records(self) -> Iterator[Record]:
        """Read the messages from the first on. Raises ``Misconfigured`` LOG_DAMAGED where one does not read."""
        file = self._file
        offset = self._first
        file.seek(offset)
        while offset < self._end:
            frame = file.read(_FRAME.size)
            record = None
            if len(frame) == _FRAME.size:
                record = _parse(frame, file.read(min(_FRAME.unpack(frame)[1], MAX_BODY)), offset)
            if record is None:
                raise damaged(f"The record at byte {offset} of {self._path} is damaged.")
            yield record
            offset = record.end

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_torn(tail: bytes) -> bool:
    """True if ``tail``, which is no whole record, is what was left of the last one by a death while writing.

    A process that dies leaves the beginning of a record; a machine may leave zeros in place of bytes that did
    not reach the disk. Behind it there is never a whole record.
    """
    begun = tail.rstrip(b"\0")
    if not begun.startswith(MAGIC[: len(begun)]):
        return False
    if len(begun) < _FRAME.size or len(tail) < _FRAME.size:
        return True
    length = _FRAME.unpack_from(tail)[1]
    if not _HEAD.size <= length <= MAX_BODY:
        return False
    missing = _FRAME.size + length - len(tail)
    if missing < 0 or (missing == 0 and not tail.endswith(b"\0" * 16)):
        return False
    at = tail.find(MAGIC, 1)
    while at >= 0:
        frame = tail[at : at + _FRAME.size]
        if len(frame) == _FRAME.size:
            body = tail[at + _FRAME.size : at + _FRAME.size + _FRAME.unpack(frame)[1]]
            if _parse(frame, body, at) is not None:
                return False
        at = tail.find(MAGIC, at + 1)
    return True
