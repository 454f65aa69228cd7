"""The commit log: what makes a change durable at the price of one write and one flush.

A commit of SQLite writes every page a receipt touches, ten of them, into its own log. Here only the rows
themselves are written, one after the other, into a small file beside the database that is always there in full
size. A moment later many changes go into the database together (:mod:`fiskal.store.applier`), which notes how far it
has come. What it has not when a process dies is read from here when the store is opened next.

The file is a header, two segments and a note. Batches are appended to one segment; when it is full, the other one is
written from its start, after everything in it has reached the database.

::

    block  = 4096 bytes; header and batches begin on one, so that a torn write hurts no older batch
    header = magic "FCL1" | u32 CRC-32 of the rest | 16 bytes id of the store | 16 random bytes     (little endian)
    batch  = magic "FCB1" | u32 length of entries | u32 CRC-32 of sequence and entries | u64 sequence
             | entries (MessagePack, an array of changes)
    note   = magic "FCN1" | u32 CRC-32 of number | u64 number       (the last block; in one sector, so it is never torn)

The sequence grows by one with every batch, so the batches that follow each other are known by it. A batch the
disk refused to confirm may stand in the file all the same. Before anything else is stored its sequence is used up: the
database notes it as if it had the batch, which then is never read again.

A direct write, one that goes to the database past the log, is numbered apart from the batches. With a sequence of its
own it would leave a gap before the batches that others write meanwhile, should the process die before the database
has it; they would all have to wait for it. Its transaction stores its number in the database, and the note gets that
number once this is durable, at the latest before the next batch. So a note that is ahead of the database proves the
database to be an older copy, and a direct write that a crash, the disk or an interrupt kept from its note harms
nothing.

The random bytes keep a text of the POS from being read as a batch, if a batch that ended there was torn: the CRC
of a batch, and of the note, continues that of the random bytes.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import struct
import zlib
from _thread import allocate_lock
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from fiskal.errors import StoreError
from fiskal.fibers import in_fiber
from fiskal.store.blockfile import BLOCK_BYTES, BlockFile
from fiskal.store.entry import Entry, decode_entries, encode_entries

_log = logging.getLogger("fiskal.store")

SEGMENT_BYTES: Final = 2 << 20
MAX_BATCH_BYTES: Final = 1 << 20
"""Entries of one batch; more wait for the next."""
MAX_ENTRY_BYTES: Final = 1 << 18
"""Larger changes go straight to the database."""

_HEADER: Final = struct.Struct("<4sI16s16s")
_HEADER_MAGIC: Final = b"FCL1"
_BATCH: Final = struct.Struct("<4sIIQ")
_BATCH_MAGIC: Final = b"FCB1"
_SEQUENCE: Final = struct.Struct("<Q")
_NOTE: Final = struct.Struct("<4sIQ")
_NOTE_MAGIC: Final = b"FCN1"
_NOTE_AT: Final = BLOCK_BYTES + 2 * SEGMENT_BYTES
_FILE_BYTES: Final = _NOTE_AT + BLOCK_BYTES

_ADVICE: Final = {
    errno.ENOSPC: "the disk is full; make room, then repeat",
    errno.EDQUOT: "the quota of the disk is used up; make room, then repeat",
    errno.EROFS: "the file system is read-only; make it writable, then repeat",
    errno.EACCES: "the file or its directory is read-only; make them writable, then repeat",
    errno.EFBIG: "the disk is full, or a limit on the size of files is reached; make room, then repeat",
    errno.EIO: "the disk reported an error; check it and the file system, then repeat",
}


class _Place(NamedTuple):
    """Where the batch ``sequence`` ends: ``end`` bytes into ``segment``."""

    sequence: int
    segment: int
    end: int


class _Begun(NamedTuple):
    """A batch that is being written while its user does something else, and where it will end."""

    entries: Sequence[Entry]
    place: _Place


class CommitLog:
    """Writes batches of entries. Not thread-safe, but for :meth:`settle`, :meth:`note` and :meth:`close`: its user
    holds the role of the leader.

    ``publish`` hears of every batch that is durable, before :meth:`write` returns; ``published`` says whether it
    has heard of a sequence. ``make_room`` returns when everything up to a sequence is in the database; ``use_up``
    when everything below a sequence is, and the database has noted that one too. Both raise StoreError if it cannot.
    ``sequence`` is that of the last batch the database has, ``direct`` the number of its last direct write.
    """

    def __init__(
        self,
        path: Path,
        identity: bytes,
        sequence: int,
        direct: int,
        publish: Callable[[int, Sequence[Entry]], None],
        published: Callable[[int], bool],
        make_room: Callable[[int], None],
        use_up: Callable[[int], None],
    ) -> None:
        self._path = path
        self._identity = identity
        self._publish = publish
        self._published = published
        self._make_room = make_room
        self._use_up = use_up
        self._lock = allocate_lock()
        """Whoever has it decides which sequence is next, and writes to the file."""
        self._file: BlockFile | None = None
        self._salt = 0
        self._place = _Place(sequence, 0, 0)
        self._next: _Place | None = None
        self._begun: _Begun | None = None
        self._failure: StoreError | None = None
        """How the last batch that was begun ended, until its user hears of it."""
        self._tried = sequence
        """The last batch that may stand in the file."""
        self._last = [sequence, sequence]
        """The last batch of each segment."""
        self.direct = direct
        """The last direct write the database is known to have. It only ever grows."""
        self._noted = 0
        """What the note is known to have. What a dead process left is not: it is written anew with the first batch."""

    @property
    def stored(self) -> bool:
        """Whether the last :meth:`write` is on the disk and published. Not known to be counts as no: then it counts
        no more when something else is stored."""
        with self._lock:
            self._land()
            return self._is_stored()

    def _is_stored(self) -> bool:
        return self._next is not None and self._published(self._next.sequence)

    def forget(self) -> None:
        """Let ``stored`` speak of the next write and no longer of the last one."""
        with self._lock:
            self._land()
            self._failure = None
            after = self._next
            if after is not None and self._published(after.sequence):
                self._place = after
                self._last[after.segment] = after.sequence
            self._next = None

    def write(self, entries: Sequence[Entry]) -> None:
        """Store all of ``entries``, of MAX_BATCH_BYTES or one alone, with one flush.

        Call :meth:`forget` before. StoreError if the disk could not take them, or the database what has to make
        room for them.
        """
        body = encode_entries(entries)
        with self._lock:
            self._write(entries, body)

    @property
    def can_begin(self) -> bool:
        """Whether it is worth trying :meth:`begin`. From any thread."""
        file = self._file
        return file is not None and file.can_begin

    def begin(self, entries: Sequence[Entry]) -> bool:
        """Begin to store ``entries`` as :meth:`write` does, and return meanwhile; :meth:`finish` is when they are.

        False, and nothing was begun, if that takes more than a write, or the disk is slow. Call :meth:`forget` before.
        """
        body = encode_entries(entries)
        with self._lock:
            place = self._place
            if self._file is None or self._tried > place.sequence or self.direct > self._noted:
                return False
            sequence = place.sequence + 1
            end = place.end + _blocks_of(body)
            if end > SEGMENT_BYTES:
                return False
            self._begun = _Begun(entries, _Place(sequence, place.segment, end))
            self._tried = sequence
            if self._file.begin(self._head(sequence, body), body, _offset(place)):
                return True
            self._begun = None
            self._tried = place.sequence
            return False

    def finish(self) -> None:
        """Return when what was begun is on the disk and published. Raises StoreError if it is not, or that is not
        known."""
        with self._lock:
            self._land()
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _land(self) -> None:
        """Wait for what was begun. Whoever has the lock may do it, and leaves its end to the one who began it."""
        begun = self._begun
        if begun is None:
            return
        if not self._published(begun.place.sequence):  # or an interrupt left it here before
            try:
                if self._file is None:
                    raise OSError(errno.EINTR, "the log was closed meanwhile")
                self._file.finish()
            except OSError as error:
                self._failure = _store_error(error, self._path, "write to")
                self._begun = None
                self._close()
                return
            self._next = begun.place
            self._publish(begun.place.sequence, begun.entries)
        self._next = begun.place
        self._begun = None

    def settle(self) -> None:
        """See to it that what the disk refused to confirm counts no more. Any thread calls it before it stores past
        the log what the refused batch may have held. StoreError if the database cannot note it."""
        with self._lock:
            self._land()
            if not self._is_stored():
                self._next = None  # an interrupt left it: it is not stored, and never will be
                self._settle()

    def note(self) -> None:
        """Note ``direct`` in the file, with a flush. Any thread calls it after a direct write. Never fails: what the
        disk refuses is made up for before the next batch."""
        with self._lock:
            self._land()
            try:
                self._note(self._open_file())
            except (OSError, StoreError) as error:
                self._close()
                _log.warning(
                    "could not note in %s that the journal has changed, which comes before the next receipt: %s",
                    self._path,
                    error,
                )

    def _settle(self) -> None:
        if self._tried > self._place.sequence:
            self._use_up(self._tried)
            self._place = self._place._replace(sequence=self._tried)

    def _write(self, entries: Sequence[Entry], body: bytes) -> None:
        self._settle()
        place = self._place
        sequence, size = place.sequence + 1, _blocks_of(body)
        if place.end + size > SEGMENT_BYTES:
            place = _Place(place.sequence, 1 - place.segment, 0)
            self._make_room(self._last[place.segment])
        try:
            file = self._open_file()
            if self.direct > self._noted:
                self._note(file)
            head = self._head(sequence, body)
            self._tried = sequence
            file.store(head, body, _offset(place), alone=len(entries) == 1 and not in_fiber())
        except OSError as error:
            self._close()
            raise _store_error(error, self._path, "write to") from error
        self._next = _Place(sequence, place.segment, place.end + size)
        self._publish(sequence, entries)

    def _head(self, sequence: int, body: bytes) -> bytes:
        return _BATCH.pack(_BATCH_MAGIC, len(body), _checksum(self._salt, sequence, body), sequence)

    def _note(self, file: BlockFile) -> None:
        number = self.direct
        file.store(_note(self._salt, number), b"", _NOTE_AT)
        self._noted = number

    def _open_file(self) -> BlockFile:
        if self._file is None:
            self._file, self._salt = _open(self._path, self._identity, self._make_empty)
        return self._file

    def _make_empty(self) -> None:
        """The file was lost or cut: what it held has to be in the database before it is made anew."""
        self._make_room(self._place.sequence)
        self._noted = 0

    def close(self) -> None:
        """Never fails: what mattered was flushed before."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _blocks_of(body: bytes) -> int:
    """Bytes of the whole blocks that a batch takes."""
    return -(-(_BATCH.size + len(body)) // BLOCK_BYTES) * BLOCK_BYTES


def _offset(place: _Place) -> int:
    """Where in the file the batch behind ``place`` begins."""
    return BLOCK_BYTES + place.segment * SEGMENT_BYTES + place.end


def read(path: Path, identity: bytes, applied: int, direct: int) -> list[tuple[int, list[Entry]]]:
    """The batches the log at ``path`` holds beyond the sequence ``applied``, in order, without a gap.

    A missing file has none; nor has the log of another store, which is left to be written over. Raises StoreError
    if the file cannot be read, if batches between ``applied`` and those it holds are missing, or if it notes a direct
    write beyond the number ``direct``.
    """
    found, noted = _contents(path, identity)
    if noted > direct:
        raise StoreError(
            f"{path} was last used with a journal that had change {noted} past the log, but the journal beside it"
            f" ends at change {direct} of these: an older copy of the journal was put in its place. Restore the"
            " journal that belongs to this log; only if there is none, move the log away to go on without what is"
            " missing and the receipts in the log"
        )
    batches: list[tuple[int, list[Entry]]] = []
    for sequence in sorted(each for each in found if each > applied):
        if sequence != applied + len(batches) + 1:
            raise StoreError(
                f"{path} continues at commit {sequence}, but the journal beside it ends at commit"
                f" {applied + len(batches)}: an older copy of the journal was put in its place, or the log is damaged."
                " Restore the journal that belongs to this log; only if there is none, move the log away to go on"
                " without the receipts in it"
            )
        try:
            batches.append((sequence, decode_entries(found[sequence])))
        except (msgspec.MsgspecError, TypeError, UnicodeDecodeError) as error:
            raise StoreError(
                f"{path} was written by another version of fiskal ({error}); open the store once with that one"
            ) from error
    return batches


def last_of(path: Path, identity: bytes) -> tuple[int, int]:
    """The last batch in the log at ``path`` and the direct write it notes, 0 for none; another process may write to
    it. Raises StoreError."""
    found, noted = _contents(path, identity)
    return max(found, default=0), noted


def _contents(path: Path, identity: bytes) -> tuple[dict[int, bytes], int]:
    """The entries of all whole batches in a log, by their sequences, and the direct write it notes; none in the log of
    another store."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}, 0
    except OSError as error:
        raise _store_error(error, path, "read") from error
    salt = _salt_of(data, identity)
    if salt is None:
        if len(data) >= _HEADER.size and any(data[: _HEADER.size]):
            _log.warning("%s belongs to another store; it is ignored and will be written over", path)
        return {}, 0
    found: dict[int, bytes] = {}
    for start in range(BLOCK_BYTES, _NOTE_AT, SEGMENT_BYTES):
        found.update(_segment(data[start : start + SEGMENT_BYTES], salt))
    return found, _noted(data[_NOTE_AT:], salt)


def _noted(data: bytes, salt: int) -> int:
    """The direct write that a note speaks of; 0 if there is none, as in the logs of older versions."""
    if len(data) < _NOTE.size:
        return 0
    (number,) = _SEQUENCE.unpack_from(data, _NOTE.size - _SEQUENCE.size)
    return int(number) if data[: _NOTE.size] == _note(salt, number) else 0


def _note(salt: int, number: int) -> bytes:
    return _NOTE.pack(_NOTE_MAGIC, zlib.crc32(_SEQUENCE.pack(number), salt), number)


def _segment(data: bytes, salt: int) -> dict[int, bytes]:
    """The entries of the batches in a segment, by their sequences."""
    found: dict[int, bytes] = {}
    at, last = 0, -1
    while at + _BATCH.size <= len(data):
        magic, length, crc, sequence = _BATCH.unpack_from(data, at)
        body = data[at + _BATCH.size : at + _BATCH.size + length] if magic == _BATCH_MAGIC else b""
        if body and len(body) == length and crc == _checksum(salt, sequence, body):
            if sequence < last:
                break  # what the segment held the time before
            found[sequence] = body
            last = sequence
            at += -(-(_BATCH.size + length) // BLOCK_BYTES) * BLOCK_BYTES
        else:
            # Behind what was torn there is nothing; behind what was damaged later there is, and it must be missed.
            at += BLOCK_BYTES
    return found


def _checksum(salt: int, sequence: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(_SEQUENCE.pack(sequence), salt))


def _header(identity: bytes, salt: bytes) -> bytes:
    return _HEADER.pack(_HEADER_MAGIC, zlib.crc32(identity + salt), identity, salt)


def _salt_of(data: bytes, identity: bytes) -> int | None:
    """The CRC of the random bytes of a log that belongs to the store ``identity``, None of any other file."""
    if len(data) < _HEADER.size:
        return None
    salt = data[_HEADER.size - 16 : _HEADER.size]
    return zlib.crc32(salt) if data[: _HEADER.size] == _header(identity, salt) else None


def _open(path: Path, identity: bytes, make_empty: Callable[[], None]) -> tuple[BlockFile, int]:
    """The log, open for writing, in its full size: later writes need no room, and a flush no metadata.

    ``make_empty`` is called before a file is made anew.
    """
    file = BlockFile(path, BLOCK_BYTES + MAX_BATCH_BYTES)
    try:
        salt = _salt_of(os.read(file.fd, _HEADER.size), identity)
        if salt is None or os.fstat(file.fd).st_size != _FILE_BYTES:
            make_empty()
            # The header comes last: without it the file counts as empty.
            os.ftruncate(file.fd, 0)
            zeros = bytes(1 << 16)
            for at in range(0, _FILE_BYTES, len(zeros)):
                file.write(zeros[: _FILE_BYTES - at], at)
            os.fsync(file.fd)
            random = secrets.token_bytes(16)
            salt = zlib.crc32(random)
            file.write(_header(identity, random), 0)
            os.fsync(file.fd)
            _sync_folder(path.parent)
        file.go_direct()
    except BaseException:
        file.close()
        raise
    return file, salt


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
