"""Stores of older versions: what they hold is copied into a store of this version, which then takes their place.

Up to schema version 5 the newest commits lay in a log beside the database. The copy is made in a file of its own
(``<store>-migrating``), batch by batch, and goes on where it stopped if the process dies. The old file is not written
to. When everything is copied, counted and on the disk, the old file and its log get second names
(``<store>-version-5``, ``<store>-version-5-commits``), and in one step the new file takes the name of the store. So
whatever dies when, there is either the old store or the new one, whole. The old one stays until somebody deletes it.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fiskal.errors import StoreError
from fiskal.lazy import LazyModule
from fiskal.store.damage import DAMAGE, store_error
from fiskal.store.guids import to_bytes
from fiskal.store.interface import (
    ActionRow,
    AnswerRow,
    Change,
    DoubtfulStartRow,
    FailedTransactionRow,
    OpenTransactionRow,
    QueueItemRow,
    QueueRow,
    RecoveredRow,
)
from fiskal.store.reading import connect
from fiskal.store.schema import (
    APPLICATION_ID,
    INDEXES,
    JOURNALS,
    STATE,
    VERSION,
    VIEWS,
    execute_all,
    note_version,
    version_of,
)
from fiskal.store.writer import BadChange, Writer

if TYPE_CHECKING:
    import sqlite_utils
else:
    sqlite_utils = LazyModule("sqlite_utils")  # a store that is up to date has no use for it

_log = logging.getLogger("fiskal.store")

BATCH_ROWS: Final = 2000
"""Rows that are copied in one transaction."""

REPORT_S: Final = 5.0
"""Between two messages of how far a copy has come."""

_JOURNALS: Final = ("ftQueueItem", "ftQueueItemAnswer", "ftActionJournal", "ftJournalDE", "ftJournalDEPart")
_STATE: Final = (
    "ftQueue",
    "OpenTransaction",
    "FailedStartTransaction",
    "FailedFinishTransaction",
    "DoubtfulStartTransaction",
    "RecoveredTransaction",
    "ftSignaturCreationUnitDE",
    "MasterData",
)

_DAMAGED: Final = (
    "the file is damaged or was written by something else. It was not changed: keep a copy of it, go on with the fiskal"
    " that wrote it, or restore a backup"
)


def bring_up_to_date(path: Path) -> None:
    """Migrate the store at ``path`` if it is of an older version. The caller keeps it locked.

    A missing or empty file, and one that is no fiskal store, are left alone. Raises StoreError if the store cannot be
    read, is older than its log, or there is no room for the copy; then it is as it was.
    """
    if not path.exists():
        return
    log = path.with_name(path.name + "-commits")
    path = path.resolve()  # a link stays one, and the copy lies on the disk it points to
    old = connect(path, "mode=rw", ())
    try:
        version = version_of(old, str(path))
        if 0 < version < VERSION:
            _migrate(old, path, log, version)
        elif version == VERSION and log.exists():
            _leave(log, path, _identity(old))
    except DAMAGE as error:
        raise store_error(error, str(path), "migrate") from error
    finally:
        old.close()
    if 0 < version < VERSION:
        _swap(path, log, version)


def _leave(log: Path, path: Path, identity: bytes) -> None:
    """Remove the log that a migration did not come to remove, and no other. StoreError if it holds receipts."""
    for version in range(1, VERSION):
        kept = log.with_name(_backup_of(path, version).name + "-commits")
        if kept.exists() and kept.read_bytes() == log.read_bytes():
            log.unlink()
            _sync_folder(path.parent)
            return
    if _contents(log, identity)[0]:
        raise StoreError(
            f"{log} holds receipts of an older fiskal, but the journal beside it is of this version and has no use for"
            " them: they belong to another copy of it. Restore the journal that belongs to this log; only if there is"
            " none, move the log away to go on without the receipts in it"
        )


# ---- the copy ------------------------------------------------------------------------------------


def _migrate(old: sqlite3.Connection, path: Path, log: Path, version: int) -> None:
    """Make ``<store>-migrating`` a whole store of this version."""
    target = _target_of(path)
    _log.warning("%s is brought from schema version %d to %d; this may take a while", path, version, VERSION)
    old.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # it is one whole file before it gets another name
    old.execute("BEGIN")  # one moment of it, whatever else has it open
    new = _open_target(target, _source(old, path, log))
    try:
        if _version_of_copy(new) != VERSION:
            for table in _JOURNALS:
                _copy_journal(old, new, table, path)
            _complete(old, new, path, log, version)
        _check(old, new, path)
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (mode,) = new.execute("PRAGMA journal_mode = DELETE").fetchone()
        assert mode == "delete"
    except sqlite3.Error as error:
        new.close()
        _discard(target)  # what a full disk needs most is room
        raise store_error(error, str(path), "migrate") from error
    except StoreError:
        new.close()
        _discard(target)
        raise
    finally:
        new.close()
    old.execute("ROLLBACK")


def _source(old: sqlite3.Connection, path: Path, log: Path) -> str:
    """What the copy is made from: another source, or one that was used since, needs another copy."""
    stats = [each.stat() for each in (path, log) if each.exists()]
    return repr((_identity(old).hex(), [(each.st_size, each.st_mtime_ns) for each in stats]))


def _open_target(target: Path, source: str) -> sqlite3.Connection:
    new = connect(target, "mode=rwc", ("page_size = 4096", "journal_mode = WAL", "synchronous = NORMAL"))
    try:
        found = new.execute("SELECT source FROM fiskal_source").fetchone()
        if found is not None and found[0] == source:
            return new
    except sqlite3.Error:
        pass  # nothing, or nothing of use
    new.close()
    _discard(target)
    new = connect(target, "mode=rwc", ("page_size = 4096", "journal_mode = WAL", "synchronous = NORMAL"))
    new.execute("BEGIN IMMEDIATE")
    execute_all(new, JOURNALS)
    new.execute("CREATE TABLE fiskal_source (source TEXT NOT NULL) STRICT")
    new.execute("INSERT INTO fiskal_source VALUES (?)", (source,))
    new.execute("COMMIT")
    return new


def _version_of_copy(new: sqlite3.Connection) -> int:
    """The version of a copy that is whole, 0 before."""
    (found,) = new.execute("SELECT count(*) FROM sqlite_master WHERE name = 'fiskal_migration'").fetchone()
    return VERSION if found else 0


def _copy_journal(old: sqlite3.Connection, new: sqlite3.Connection, table: str, path: Path) -> None:
    if not _has(old, table):
        return
    names = [row[1] for row in old.execute(f"PRAGMA table_info({table})")]
    select, columns = ", ".join(f"t.{name}" for name in names), list(names)
    source = f"{table} AS t"
    if table == "ftQueueItemAnswer":
        select += ", i.ftQueueRow, i.ftQueueItemId, i.cbReceiptReference"
        columns += ["ftQueueRow", "ftQueueItemId", "cbReceiptReference"]
        source += " LEFT JOIN ftQueueItem AS i ON i.id = t.id AND i.queue_no = t.queue_no"
    guids = [columns.index(name) for name in ("ftQueueItemId", "ftReceiptJournalId") if name in columns]
    optional = columns.index("ftReceiptJournalId") if "ftReceiptJournalId" in columns else -1
    is_receipt = table in _JOURNALS[:2]
    insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    total, done = _count(old, table), _count(new, table)
    (last,) = new.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()
    reported_s = time.monotonic()
    while True:
        size = BATCH_ROWS if table != "ftJournalDEPart" else 16  # each may have a megabyte
        rows = old.execute(
            f"SELECT {select} FROM {source} WHERE t.id > ? ORDER BY t.id LIMIT ?", (last, size)
        ).fetchall()
        if not rows:
            return
        last = rows[-1][0]
        new.execute("BEGIN IMMEDIATE")
        new.executemany(
            insert, [_converted(row, guids, optional, path) if is_receipt else row for row in rows]
        )
        new.execute("COMMIT")
        done += len(rows)
        if time.monotonic() - reported_s > REPORT_S:
            reported_s = time.monotonic()
            _log.warning("%s: %d of %d rows of %s are copied", path, done, total, table)


def _converted(row: tuple[Any, ...], guids: list[int], optional: int, path: Path) -> tuple[Any, ...]:
    made = list(row)
    for at in guids:
        if made[at] is None and at != optional:
            raise StoreError(f"could not migrate {path}: answer {row[0]} has no item, so {_DAMAGED}")
        if made[at] is not None:
            try:
                made[at] = to_bytes(made[at])
            except (ValueError, TypeError, AttributeError) as error:
                raise StoreError(
                    f"could not migrate {path}: row {row[0]} has an id that is no GUID ({made[at]!r}), so {_DAMAGED}"
                ) from error
    return tuple(made)


def _complete(old: sqlite3.Connection, new: sqlite3.Connection, path: Path, log: Path, version: int) -> None:
    """Everything that is not large, the indexes, what is in the log; in one transaction each, the version last."""
    has_log = _has(old, "fiskal_commit_log")
    applied, direct = 0, 0
    if has_log:
        column = "direct" if version >= 5 else "0"
        applied, direct = old.execute(f"SELECT sequence, {column} FROM fiskal_commit_log").fetchone()
    batches = read_log(log, _identity(old), applied, direct) if has_log else []
    new.execute("BEGIN IMMEDIATE")
    new.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    new.execute(f"PRAGMA user_version = {old.execute('PRAGMA user_version').fetchone()[0]}")
    execute_all(new, INDEXES + STATE + VIEWS)
    for table in _STATE:
        if _has(old, table):
            names = [row[1] for row in old.execute(f"PRAGMA table_info({table})")]
            rows = old.execute(f"SELECT {', '.join(names)} FROM {table}").fetchall()
            marks = ", ".join("?" * len(names))
            new.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)
    answered = "SELECT 1 FROM ftQueueItemAnswer AS a WHERE a.id = i.id"
    new.execute(
        f"INSERT INTO fiskal_unanswered SELECT i.id FROM ftQueueItem AS i WHERE NOT EXISTS ({answered})"
    )
    new.execute("UPDATE fiskal_mark SET answered_below = (SELECT coalesce(max(id), 0) FROM ftQueueItem)")
    new.executemany(
        "INSERT INTO fiskal_migration VALUES (?, ?, ?)", old.execute("SELECT * FROM fiskal_migration")
    )
    changes = [change for _, entries in batches for change in entries]
    try:
        Writer(new, str(path)).drain(changes)
    except BadChange as error:
        raise StoreError(
            f"could not migrate {path}: its log holds what does not continue it ({error}). Nothing is lost: keep both"
            " as they are, go on with the fiskal that wrote them, and report this"
        ) from error
    note_version(new, "one_authority")
    new.execute("DROP TABLE fiskal_source")
    new.execute("COMMIT")


def _check(old: sqlite3.Connection, new: sqlite3.Connection, path: Path) -> None:
    """What was written is what was read. Raises StoreError."""
    for table in _JOURNALS:
        if _has(old, table) and _count(new, table) < _count(old, table):
            raise StoreError(
                f"could not migrate {path}: rows of {table} are missing in the copy. Nothing is lost; keep the file as"
                " it is and report this"
            )


def _swap(path: Path, log: Path, version: int) -> None:
    """Give the old store another name and its name to the new one."""
    target, backup = _target_of(path), _backup_of(path, version)
    try:
        _sync_file(target)
        for file, name in ((path, backup), (log, log.with_name(backup.name + "-commits"))):
            if file.exists():
                name.unlink(missing_ok=True)
                try:
                    os.link(file, name)
                except OSError:  # a file system without
                    shutil.copy2(file, name)
                    _sync_file(name)
        _sync_folder(path.parent)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        os.replace(target, path)
        _sync_folder(path.parent)
        log.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"could not put the migrated store in the place of {path}: {error.strerror}; its folder must be writable"
            " and have room, then repeat"
        ) from error
    _log.warning("%s is migrated; the store as it was is kept as %s until you delete it", path, backup)


def _target_of(path: Path) -> Path:
    return path.with_name(path.name + "-migrating")


def _backup_of(path: Path, version: int) -> Path:
    return path.with_name(f"{path.name}-version-{version}")


def _discard(target: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)


def _has(connection: sqlite3.Connection, table: str) -> bool:
    return sqlite_utils.Database(connection, execute_plugins=False)[table].exists()


def _count(connection: sqlite3.Connection, table: str) -> int:
    return sqlite_utils.Database(connection, execute_plugins=False)[table].count


def _identity(connection: sqlite3.Connection) -> bytes:
    """What the log of a store is known by."""
    return struct.pack("<QQ", APPLICATION_ID, *connection.execute("PRAGMA user_version").fetchone())


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    """Make names durable, where the system has a call for it."""
    if os.name == "posix":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


# ---- the log of the versions 4 and 5 ----------------------------------------------------------------
#
# block  = 4096 bytes; header and batches begin on one
# header = "FCL1" | u32 CRC-32 of the rest | 16 bytes id of the store | 16 random bytes            (little endian)
# batch  = "FCB1" | u32 length of entries | u32 CRC-32 of sequence and entries | u64 sequence
#          | entries (MessagePack, an array of changes)
# note   = "FCN1" | u32 CRC-32 of number | u64 number, in the last block: the last change that went past the log
#
# There are two segments, which are written in turns. The CRC of a batch and of the note continues that of the random
# bytes. The database has the batches up to its ``sequence`` and the changes past the log up to its ``direct``.

_BLOCK: Final = 4096
_SEGMENT: Final = 2 << 20
_NOTE_AT: Final = _BLOCK + 2 * _SEGMENT
_HEADER: Final = struct.Struct("<4sI16s16s")
_BATCH: Final = struct.Struct("<4sIIQ")
_NOTE: Final = struct.Struct("<4sIQ")
_NUMBER: Final = struct.Struct("<Q")


class _Entry(msgspec.Struct, array_like=True):
    """The lists of a change as the log has them."""

    items: list[QueueItemRow]
    answers: list[AnswerRow]
    queues: list[QueueRow]
    actions: list[ActionRow]
    open_transactions: list[OpenTransactionRow]
    open_transactions_removed: list[tuple[int, str]]
    failed_starts: list[FailedTransactionRow]
    failed_starts_removed: list[tuple[int, str]]
    failed_finishes: list[FailedTransactionRow]
    failed_finishes_removed: list[tuple[int, str]]
    doubtful_starts: list[DoubtfulStartRow]
    doubtful_starts_removed: list[tuple[int, str]]
    recovered: list[RecoveredRow]


_decode: Final = msgspec.msgpack.Decoder(list[_Entry]).decode


def read_log(path: Path, identity: bytes, applied: int, direct: int) -> list[tuple[int, list[Change]]]:
    """The batches the log at ``path`` holds beyond the sequence ``applied``, in order, without a gap.

    A missing log has none, nor has that of another store. Raises StoreError if batches are missing, or if the log notes
    a change past it beyond the number ``direct``: then the database is an older copy.
    """
    found, noted = _contents(path, identity)
    older = "an older copy of the journal was put in its place"
    remedy = (
        ". Restore the journal that belongs to this log; only if there is none, move the log away to go on without what"
        " is missing and the receipts in the log"
    )
    if noted > direct:
        raise StoreError(
            f"{path} was last used with a journal that had change {noted} past the log, but the journal beside it"
            f" ends at change {direct} of these: {older}{remedy}"
        )
    batches: list[tuple[int, list[Change]]] = []
    for sequence in sorted(each for each in found if each > applied):
        if sequence != applied + len(batches) + 1:
            raise StoreError(
                f"{path} continues at commit {sequence}, but the journal beside it ends at commit"
                f" {applied + len(batches)}: {older}, or the log is damaged{remedy}"
            )
        try:
            batches.append((sequence, [_change(entry) for entry in _decode(found[sequence])]))
        except (msgspec.MsgspecError, TypeError, UnicodeDecodeError) as error:
            raise StoreError(
                f"{path} was written by another version of fiskal ({error}); open the store once with that one"
            ) from error
    return batches


def _change(entry: _Entry) -> Change:
    change = Change()
    for name in entry.__struct_fields__:
        getattr(change, name).extend(getattr(entry, name))
    return change


def _contents(path: Path, identity: bytes) -> tuple[dict[int, bytes], int]:
    """The entries of all whole batches in a log, by their sequences, and the number it notes."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}, 0
    except OSError as error:
        raise StoreError(f"could not read {path}: {error.strerror}; make it readable, then repeat") from error
    random = data[_HEADER.size - 16 : _HEADER.size]
    header = _HEADER.pack(b"FCL1", zlib.crc32(identity + random), identity, random)
    if len(data) < _HEADER.size or data[: _HEADER.size] != header:
        if any(data[: _HEADER.size]):
            _log.warning("%s belongs to another store; it is ignored", path)
        return {}, 0
    salt = zlib.crc32(random)
    found: dict[int, bytes] = {}
    for start in range(_BLOCK, _NOTE_AT, _SEGMENT):
        found.update(_segment(data[start : start + _SEGMENT], salt))
    note = data[_NOTE_AT : _NOTE_AT + _NOTE.size]
    if len(note) < _NOTE.size:
        return found, 0
    magic, crc, number = _NOTE.unpack(note)
    return found, number if magic == b"FCN1" and crc == zlib.crc32(_NUMBER.pack(number), salt) else 0


def _segment(data: bytes, salt: int) -> Iterator[tuple[int, bytes]]:
    """The whole batches in a segment."""
    at, last = 0, -1
    while at + _BATCH.size <= len(data):
        magic, length, crc, sequence = _BATCH.unpack_from(data, at)
        body = data[at + _BATCH.size : at + _BATCH.size + length] if magic == b"FCB1" else b""
        if body and len(body) == length and crc == zlib.crc32(body, zlib.crc32(_NUMBER.pack(sequence), salt)):
            if sequence < last:
                return  # what the segment held the time before
            yield sequence, body
            last = sequence
            at += -(-(_BATCH.size + length) // _BLOCK) * _BLOCK
        else:
            # Behind what was torn there is nothing; behind what was damaged later there is, and it must be missed.
            at += _BLOCK
