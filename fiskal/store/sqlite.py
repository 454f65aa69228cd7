"""The embedded store: one SQLite file in WAL mode, with ``synchronous=FULL``.

What a receipt changes is durable in the commit log beside it (:mod:`fiskal.store.commitlog`) and comes into the
database a moment later (:mod:`fiskal.store.applier`), or before anybody reads it. Callers that commit at the same time
share a flush (:mod:`fiskal.store.group`). Any number of read-only connections read. The journals
are append-only, so a reader needs no long transaction for a consistent picture: it notes the last item and the
few without an answer when it starts and pages up to there with short queries. However slowly it is consumed, it
never keeps the WAL from shrinking.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from fiskal.conversation import Durable
from fiskal.errors import StoreError
from fiskal.fairlock import Turn
from fiskal.store import commitlog
from fiskal.store.applier import Applier
from fiskal.store.commitlog import CommitLog
from fiskal.store.entry import Entry, entry_of
from fiskal.store.group import GroupCommit
from fiskal.store.heads import Head, Heads
from fiskal.store.interface import (
    ActionRow,
    AnswerRow,
    Change,
    DoubtfulStartRow,
    ExportState,
    FailedTransactionRow,
    JournalDERow,
    MasterDataRow,
    OpenTransactionRow,
    QueueItemRow,
    QueueRow,
    Receipt,
    ReceiptRow,
    RecoveredRow,
    ScuRow,
    StoredItem,
)
from fiskal.store.lock import FileLock
from fiskal.store.schema import APPLICATION_ID, MIGRATIONS, migrate, version_of
from fiskal.store.writer import DAMAGE, Writer, store_error

_log = logging.getLogger("fiskal.store")

BUSY_TIMEOUT_MS: Final = 5000
"""How long a statement waits for a foreign program that locks the file, before it is a StoreError."""

CHECKPOINT_PAGES: Final = 2000
"""The WAL is copied into the file when it has so many pages (8 MB, 200 receipts of a single queue): the commit
that finds it so pays 5 to 10 ms. Fewer pages make the pause shorter but more frequent, at the same cost in all."""

WAL_LIMIT_BYTES: Final = 64 << 20
"""A WAL that a burst made larger is cut back to this."""

PAGE_BYTES: Final = 4096
"""Smaller pages would write less, but a torn sector could then take a page along that is not in the WAL; larger
ones write more bytes per commit than they save pages."""

CACHE_KIB: Final = 8 << 10
"""Page cache of the writing connection."""

LOG_PATIENCE_S: Final = 2.0
"""How long a reader in another process waits for the newest receipts to come into the database."""

PAGE_ROWS: Final = 100
"""Rows an iterator holds in memory."""

IDLE_READERS: Final = 8
"""Read connections kept open; under more concurrent reads further ones come and go."""

_MAX_INTEGER: Final = (1 << 63) - 1

_ITEM: Final = ", ".join(f"i.{name}" for name in QueueItemRow._fields)
_ANSWER: Final = "a.queue_no, i.ftQueueRow, " + ", ".join(
    f"a.{name}" for name in (*AnswerRow._fields[2:-1], *Receipt._fields)
)
_RECEIPT: Final = (
    "a.queue_no, a.ftReceiptNumber, a.ftReceiptJournalId, a.ftReceiptMoment, a.ftReceiptTotal,"
    " i.ftQueueItemId, a.ftReceiptHash, a.TimeStamp"
)
_ITEM_WIDTH: Final = len(QueueItemRow._fields)
_STORED_WIDTH: Final = _ITEM_WIDTH + len(AnswerRow._fields) - 1
_ANSWER_OF: Final = "ftQueueItemAnswer AS a ON a.id = i.id AND a.queue_no = i.queue_no"
_STORED: Final = f"{_ITEM}, {_ANSWER} FROM ftQueueItem AS i LEFT JOIN {_ANSWER_OF}"
_UNANSWERED: Final = (
    " FROM ftQueueItem AS i WHERE i.queue_no = :queue_no AND i.ftQueueRow >"
    " coalesce((SELECT ftCurrentRow FROM ftQueue WHERE queue_no = :queue_no), 0)"
    " AND NOT EXISTS (SELECT 1 FROM ftQueueItemAnswer AS a WHERE a.id = i.id)"
)


def _fields(row: Any) -> str:
    return ", ".join(row._fields)


def _by_time(columns: str, source: str, queue: str, prefix: str = "", only: str = "") -> str:
    """A page of a journal in TimeStamp order: values are queue, last id, last TimeStamp, keyset, limit."""
    stamp, key = f"{prefix}TimeStamp", f"{prefix}id"
    return (
        f"SELECT {stamp}, {key}, {columns} FROM {source} WHERE {only}{prefix}{queue} = ? AND {key} <= ?"
        f" AND {stamp} <= ? AND ({stamp}, {key}) > (?, ?) ORDER BY {stamp}, {prefix}{queue}, {key} LIMIT ?"
    )


# The index is named because the planner, knowing no statistics, might sort a whole queue for every page.
_BY_TIME: Final = (
    "ftQueueItemAnswer AS a INDEXED BY ftQueueItemAnswer_TimeStamp CROSS JOIN ftQueueItem AS i"
    " ON i.id = a.id AND i.queue_no = a.queue_no"
)
_ANSWERED_BY_TIME: Final = _by_time(f"{_ITEM}, {_ANSWER}", _BY_TIME, "queue_no", "a.")
_RECEIPTS_BY_TIME: Final = _by_time(
    _RECEIPT, f"{_BY_TIME} AND a.ftReceiptNumber IS NOT NULL", "queue_no", "a."
)
_ACTIONS_BY_TIME: Final = _by_time(
    _fields(ActionRow), "ftActionJournal INDEXED BY ftActionJournal_TimeStamp", "ftQueueId"
)

_STORED_EXPORT: Final = f"State = {ExportState.STORED:d}"
_EXPORTS_BY_TIME: Final = _by_time(
    _fields(JournalDERow),
    "ftJournalDE INDEXED BY ftJournalDE_TimeStamp",
    "ftQueueId",
    only=f"{_STORED_EXPORT} AND ",
)


def _stored_item(columns: Sequence[Any]) -> StoredItem:
    item = QueueItemRow._make(columns[:_ITEM_WIDTH])
    if columns[_ITEM_WIDTH] is None:
        return StoredItem(item, None)
    number = columns[_STORED_WIDTH]
    receipt = None if number is None else Receipt._make(columns[_STORED_WIDTH:])
    return StoredItem(item, AnswerRow._make((*columns[_ITEM_WIDTH:_STORED_WIDTH], receipt)))


class _Range(NamedTuple):
    """A journal range as (first TimeStamp, last TimeStamp, number of rows)."""

    first: int
    last: int
    limit: int

    @classmethod
    def of(cls, from_ticks: int, to_ticks: int) -> _Range:
        if to_ticks > 0:
            return cls(from_ticks, to_ticks, _MAX_INTEGER)
        limit = -to_ticks if to_ticks < 0 else _MAX_INTEGER
        return cls(from_ticks, _MAX_INTEGER, min(limit, _MAX_INTEGER))


class _Moment(NamedTuple):
    """What a journal held when its iterator was made: entries up to ``last_id``, except the answers of
    items that had none then, given as (TimeStamp, id) and in this order."""

    last_id: int
    unanswered: list[tuple[int, int]]

    @property
    def unanswered_ids(self) -> frozenset[int]:
        return frozenset(item_id for _, item_id in self.unanswered)


def _log_path(path: Path) -> Path:
    return path.with_name(path.name + "-commits")


class _Direct:
    """The writing connection for what does not go through the log, opened with the first of it.

    Every attempt has a number of its own, so one that failed is never taken for a later one.
    """

    def __init__(self, log: CommitLog, applier: Applier, open_writer: Callable[[], Writer]) -> None:
        self._log = log
        self._applier = applier
        self._open_writer = open_writer
        self._writer: Writer | None = None
        self._number = log.direct

    @property
    def stored(self) -> bool:
        if self._writer is None or not self._writer.stored:
            return False
        self._log.direct = self._number  # also if an interrupt kept write from it
        return True

    def forget(self) -> None:
        if self._writer is not None:
            self._writer.forget()

    def write(self, changes: Sequence[Change]) -> None:
        if self._writer is None:
            self._writer = self._open_writer()
        writer = self._writer
        self._log.settle()
        number = self._number = self._number + 1
        self._applier.directly(lambda: writer.write(changes, direct=number))
        self._log.direct = number
        self._log.note()

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


class SqliteStore:
    """Implements Store in the SQLite file ``path``, which it keeps locked against other processes.

    ``create`` makes a missing file; without it a missing file is a StoreError. Opening brings an older schema
    up to date, and into the database what a dead process left in the commit log. Without ``background`` the store
    has no thread: a commit now and then takes a little longer. Raises StoreError if the file is not a fiskal
    store, was written by a newer fiskal, is damaged, locked by another process or not writable, or is older
    than its commit log.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True, background: bool = True) -> None:
        self.path = Path(path).absolute()
        self._idle_readers: list[sqlite3.Connection] = []
        self._closed = False
        if not create and not self.path.exists():
            raise StoreError(f"there is no store at {self.path}; create it, or correct the path")
        self._heads = Heads(self._head)
        self._lock = FileLock(self.path.with_name(self.path.name + ".lock"))
        try:
            self._applier = Applier(self._open_writer, background=background)
            try:
                log = self._open_log(self._applier)
            except BaseException:
                self._applier.close()
                raise
        except BaseException:
            self._lock.release()
            raise
        self._commit_log = log
        self._log: GroupCommit[Entry] = GroupCommit(
            lambda: log, weigh=lambda entry: len(entry.data), max_weight=commitlog.MAX_BATCH_BYTES
        )
        direct = _Direct(log, self._applier, self._open_writer)
        self._direct: GroupCommit[Change] = GroupCommit(lambda: direct)

    def _open_log(self, applier: Applier) -> CommitLog:
        """The commit log, of which the database now has everything."""
        path, identity = _log_path(self.path), self._identity()
        for sequence, entries in commitlog.read(path, identity, applier.applied, applier.direct):
            applier.publish(sequence, entries)
        applier.apply()
        return CommitLog(
            path,
            identity,
            applier.applied,
            applier.direct,
            applier.publish,
            applier.published,
            applier.make_room,
            applier.use_up,
        )

    def _identity(self) -> bytes:
        """What the log of this store is known by."""
        (user_version,) = self._query("PRAGMA user_version")[0]
        return struct.pack("<QQ", APPLICATION_ID, user_version)

    def _head(self, queue_no: int) -> Head:
        row = self._query("SELECT ftQueueId FROM ftQueue WHERE queue_no = ?", (queue_no,))
        last = self._query(
            "SELECT ftQueueRow FROM ftQueueItem WHERE queue_no = ? ORDER BY ftQueueRow DESC LIMIT 1",
            (queue_no,),
        )
        unanswered = {item.ftQueueRow for item in self.unanswered_items(queue_no)}
        return Head(row[0][0] if row else None, int(last[0][0]) if last else 0, unanswered)

    def submit(self, change: Change) -> Durable:
        made: Durable

        def flush() -> None:
            try:
                self.commit(change)
            except BaseException as error:
                made.error = error
            made.done = True

        made = Durable(change, flush)
        self._line = getattr(self, "_line", [])
        self._line.append(made)
        return made

    def flush(self) -> None:
        line, self._line = self._line, []
        for each in line:
            if not each.done:
                each.settle()

    flush_s = 0.0

    def commit(self, change: Change, turn: Turn | None = None, *, in_turn: bool = True) -> None:
        """Make ``change`` durable, then return. Raises StoreError; then nothing of it was stored.

        One exception to the rule cannot be excluded: if the disk fails *while* it flushes, nobody knows what a
        restart will find. After a StoreError read back what the store has (:meth:`queue`, :meth:`item`) before
        going on. The same holds for a KeyboardInterrupt, which is raised only after the batch the change belongs
        to is over. A change that breaks a constraint fails alone; it does not hurt those that share its batch.
        """
        applier = self._applier
        try:
            applier.before_commit()
            entry = entry_of(change)
            if entry is not None and (
                len(entry.data) > commitlog.MAX_ENTRY_BYTES or not self._heads.follow(change)
            ):
                entry = None
        except BaseException:
            self._heads.forget(change)
            if turn is not None and not in_turn:
                turn.__enter__()
            raise
        try:
            if entry is None:
                self._direct.commit(change, turn, in_turn=in_turn)
            else:
                self._log.commit(entry, turn, in_turn=in_turn)
                applier.nudge()
        except BaseException:
            self._heads.forget(change)
            raise
        if entry is None:
            self._heads.forget(change)

    @property
    def can_begin(self) -> bool:
        """Nobody else commits, and the disk is made for it."""
        return self._log.is_free and self._commit_log.can_begin

    def begin(self, change: Change, turn: Turn | None = None) -> bool:
        """Begin to make ``change`` durable and return meanwhile; True: this thread calls :meth:`end` before anything
        else of the store. False, and nothing was begun, if somebody else commits, or the disk or the change is not
        made for it. The caller has ``turn``, which is left if it has to wait after all. Raises StoreError as
        :meth:`commit`."""
        if not self.can_begin:
            return False
        self._applier.before_commit()
        entry = entry_of(change)
        if entry is None or len(entry.data) > commitlog.MAX_ENTRY_BYTES:
            return False
        try:
            if not self._heads.follow(change):
                self._heads.forget(change)
                return False
            if not self._log.begin(entry, self._commit_log):  # somebody was faster, or a segment is full
                self._log.commit(entry, turn)
                self._applier.nudge()
        except BaseException:
            self._heads.forget(change)
            raise
        return True

    def end(self, change: Change) -> None:
        """Return when ``change``, which this thread began, is durable; at once if it began nothing. Raises StoreError
        as :meth:`commit`."""
        try:
            self._log.end(self._commit_log)
            self._applier.nudge()
        except BaseException:
            self._heads.forget(change)
            raise

    def close(self) -> None:
        """Wait for the commit that is being written, then close. Later calls raise StoreError."""
        if self._closed:
            return
        self._direct.close()  # it uses the log
        self._log.close()
        self._closed = True
        while self._idle_readers:
            self._idle_readers.pop().close()
        # The writer is the last to go: only so SQLite copies the WAL into the file, which then is whole by itself.
        self._applier.close()
        self._lock.release()

    def __enter__(self) -> SqliteStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # State

    def queues(self) -> list[QueueRow]:
        """All queues, by ``queue_no``."""
        return self._rows(QueueRow, "ftQueue ORDER BY queue_no")

    def queue(self, queue_id: str) -> QueueRow | None:
        """The queue with this ftQueueId, None if there is none."""
        rows = self._rows(QueueRow, "ftQueue WHERE ftQueueId = ?", (queue_id,))
        return rows[0] if rows else None

    def scus(self) -> list[ScuRow]:
        """All SCUs, by id."""
        return self._rows(ScuRow, "ftSignaturCreationUnitDE ORDER BY ftSignaturCreationUnitDEId")

    def open_transactions(self, queue_no: int) -> list[OpenTransactionRow]:
        """The open transactions of a queue, oldest TransactionNumber first."""
        where = "OpenTransaction WHERE queue_no = ? ORDER BY TransactionNumber, cbReceiptReference"
        return self._rows(OpenTransactionRow, where, (queue_no,))

    def failed_starts(self, queue_no: int) -> list[FailedTransactionRow]:
        """The starts that failed, oldest Moment first."""
        return self._failed("FailedStartTransaction", queue_no)

    def failed_finishes(self, queue_no: int) -> list[FailedTransactionRow]:
        """The finishes that failed, oldest Moment first."""
        return self._failed("FailedFinishTransaction", queue_no)

    def doubtful_starts(self, queue_no: int) -> list[DoubtfulStartRow]:
        """The starts whose answer was lost, oldest Moment first."""
        where = "DoubtfulStartTransaction WHERE queue_no = ? ORDER BY Moment, ftQueueItemId"
        return self._rows(DoubtfulStartRow, where, (queue_no,))

    def undelivered(self, queue_no: int) -> list[RecoveredRow]:
        """What was made good and stands in no answer yet, oldest first."""
        where = (
            "RecoveredTransaction WHERE queue_no = ? AND DeliveredBy IS NULL ORDER BY Moment, ftQueueItemId"
        )
        return self._rows(RecoveredRow, where, (queue_no,))

    def master_data(self, queue_no: int) -> MasterDataRow | None:
        """The master data of a queue, None if it has none."""
        rows = self._rows(MasterDataRow, "MasterData WHERE queue_no = ?", (queue_no,))
        return rows[0] if rows else None

    # Items

    def item(self, queue_item_id: str) -> StoredItem | None:
        """The item with this ftQueueItemId, None if there is none."""
        rows = self._query(f"SELECT {_STORED} WHERE i.ftQueueItemId = ?", (queue_item_id,))
        return _stored_item(rows[0]) if rows else None

    def unanswered_items(self, queue_no: int) -> list[QueueItemRow]:
        """Journalled items without an answer, in row order.

        Looks only at rows beyond the ``ftCurrentRow`` of the queue, so it costs the same for any history.
        """
        sql = f"SELECT {_ITEM}{_UNANSWERED} ORDER BY i.ftQueueRow"
        return [QueueItemRow._make(row) for row in self._query(sql, {"queue_no": queue_no})]

    def items_by_reference(
        self, queue_no: int, reference: str, terminal: str | None, limit: int
    ) -> list[StoredItem]:
        """Answered items of a cbReceiptReference (and terminal, unless None or empty), newest first.

        Newest is the highest row: clocks may step back, rows do not.
        """
        sql = (
            f"SELECT {_ITEM}, {_ANSWER} FROM ftQueueItem AS i INDEXED BY ftQueueItem_reference"
            f" JOIN {_ANSWER_OF}"
            " WHERE i.queue_no = ? AND i.cbReceiptReference = ? AND (? OR i.cbTerminalID = ?)"
            " ORDER BY i.id DESC LIMIT ?"
        )
        values = (queue_no, reference, not terminal, terminal, max(limit, 0))
        return [_stored_item(row) for row in self._query(sql, values)]

    def items_before(self, queue_no: int, reference: str, queue_item_id: str, limit: int) -> list[StoredItem]:
        """Answered items of a cbReceiptReference that were accepted before this item, newest first.

        As in :meth:`items_by_reference` the row decides, not the clock. None if there is no such item.
        """
        sql = (
            f"SELECT {_ITEM}, {_ANSWER} FROM ftQueueItem AS i INDEXED BY ftQueueItem_reference"
            f" JOIN {_ANSWER_OF}"
            " WHERE i.queue_no = ? AND i.cbReceiptReference = ?"
            " AND i.id < (SELECT id FROM ftQueueItem WHERE ftQueueItemId = ?) ORDER BY i.id DESC LIMIT ?"
        )
        values = (queue_no, reference, queue_item_id, max(limit, 0))
        return [_stored_item(row) for row in self._query(sql, values)]

    def iter_items(self, queue_no: int, from_ticks: int = 0, to_ticks: int = 0) -> Iterator[StoredItem]:
        """The items as they were when this was called, by TimeStamp, in constant memory.

        The TimeStamp of an item is that of its answer, of the item itself while it has none.
        ``to_ticks`` > 0: from <= TimeStamp <= to; 0: from <= TimeStamp; < 0: the first ``-to_ticks`` items
        with from <= TimeStamp. Equal ones come in the order of their rows.
        """
        span = _Range.of(from_ticks, to_ticks)
        now = self._moment(queue_no)
        answered = self._pages_by_time(_ANSWERED_BY_TIME, queue_no, span, now)
        return islice(self._merge(answered, now.unanswered, span), span.limit)

    def iter_items_by_row(self, queue_no: int, after_row: int = 0) -> Iterator[StoredItem]:
        """The items present when this was called, by ftQueueRow beyond ``after_row``, in constant memory."""
        pages = self._pages_by_row(_STORED, queue_no, self._moment(queue_no).last_id, after_row)
        return (_stored_item(row[2:]) for row in pages)

    # Journals

    def iter_receipts(self, queue_no: int, from_ticks: int = 0, to_ticks: int = 0) -> Iterator[ReceiptRow]:
        """Receipt journal by TimeStamp; ranges, order and snapshot as in :meth:`iter_items`."""
        span = _Range.of(from_ticks, to_ticks)
        now = self._moment(queue_no)
        pages = self._pages_by_time(_RECEIPTS_BY_TIME, queue_no, span, now)
        return (ReceiptRow._make(row[2:]) for row in islice(pages, span.limit))

    def iter_receipts_by_number(self, queue_no: int) -> Iterator[ReceiptRow]:
        """Receipt journal in the order of the rows, hence of the numbers, as it was when this was called."""
        now = self._moment(queue_no)
        sql = f"{_RECEIPT} FROM ftQueueItem AS i JOIN {_ANSWER_OF} AND a.ftReceiptNumber IS NOT NULL"
        pages = self._pages_by_row(sql, queue_no, now.last_id)
        late = now.unanswered_ids
        return (ReceiptRow._make(row[2:]) for row in pages if row[1] not in late)

    def iter_actions(self, queue_id: str, from_ticks: int = 0, to_ticks: int = 0) -> Iterator[ActionRow]:
        """Action journal by TimeStamp; ranges, order and snapshot as in :meth:`iter_items`."""
        span = _Range.of(from_ticks, to_ticks)
        now = _Moment(self._query("SELECT max(id) FROM ftActionJournal")[0][0] or 0, [])
        pages = self._pages_by_time(_ACTIONS_BY_TIME, queue_id, span, now)
        return (ActionRow._make(row[2:]) for row in islice(pages, span.limit))

    def last_action(self, queue_id: str, *types: str) -> ActionRow | None:
        """The action journal entry of one of these Types that was stored last, None if there is none.

        Last is the highest id: clocks may step back, ids do not.
        """
        marks = ", ".join("?" * len(types))
        where = f"ftActionJournal INDEXED BY ftActionJournal_Type WHERE Type IN ({marks}) AND ftQueueId = ?"
        rows = self._rows(ActionRow, f"{where} ORDER BY id DESC LIMIT 1", (*types, queue_id))
        return rows[0] if rows else None

    def count_actions(self, queue_id: str) -> int:
        """How many entries the action journal of a queue has; counted in an index."""
        count = self._query("SELECT count(*) FROM ftActionJournal WHERE ftQueueId = ?", (queue_id,))
        return int(count[0][0])

    # Exports of the TSE

    def iter_exports(self, queue_id: str, from_ticks: int = 0, to_ticks: int = 0) -> Iterator[JournalDERow]:
        """The STORED exports by TimeStamp; ranges, order and snapshot as in :meth:`iter_items`."""
        span = _Range.of(from_ticks, to_ticks)
        now = _Moment(self._query("SELECT max(id) FROM ftJournalDE")[0][0] or 0, [])
        pages = self._pages_by_time(_EXPORTS_BY_TIME, queue_id, span, now)
        return (JournalDERow._make(row[2:]) for row in islice(pages, span.limit))

    def unfinished_exports(self, queue_id: str) -> list[JournalDERow]:
        """The exports of a queue that are not STORED, oldest first."""
        where = f"ftJournalDE WHERE ftQueueId = ? AND NOT {_STORED_EXPORT} ORDER BY id"
        return self._rows(JournalDERow, where, (queue_id,))

    def count_exports(self, queue_id: str) -> int:
        """How many exports of a queue are STORED."""
        where = f"ftJournalDE WHERE ftQueueId = ? AND {_STORED_EXPORT}"
        return int(self._query(f"SELECT count(*) FROM {where}", (queue_id,))[0][0])

    def export_part(self, journal_de_id: str, part: int) -> bytes | None:
        """One piece of the file of an export, None if there is none."""
        rows = self._query(
            "SELECT data FROM ftJournalDEPart WHERE ftJournalDEId = ? AND part = ?", (journal_de_id, part)
        )
        return bytes(rows[0][0]) if rows else None

    # Reading

    def _failed(self, table: str, queue_no: int) -> list[FailedTransactionRow]:
        where = f"{table} WHERE queue_no = ? ORDER BY Moment, cbReceiptReference"
        return self._rows(FailedTransactionRow, where, (queue_no,))

    def _rows(self, row: Any, from_where: str, values: Sequence[Any] = ()) -> list[Any]:
        return [row._make(found) for found in self._query(f"SELECT {_fields(row)} FROM {from_where}", values)]

    def _moment(self, queue_no: int) -> _Moment:
        # One statement, hence one moment. The last row is there for the queue that has no item.
        *rows, last = self._query(
            f"SELECT i.TimeStamp, i.id{_UNANSWERED} UNION ALL SELECT NULL, max(id) FROM ftQueueItem",
            {"queue_no": queue_no},
        )
        return _Moment(last[1] or 0, sorted(rows))

    def _merge(
        self, answered: Iterator[tuple[Any, ...]], unanswered: list[tuple[int, int]], span: _Range
    ) -> Iterator[StoredItem]:
        """Weave the few (TimeStamp, id) of ``unanswered`` into the rows of ``_ANSWERED_BY_TIME``."""
        waiting = deque(each for each in unanswered if span.first <= each[0] <= span.last)
        for row in answered:
            while waiting and waiting[0][0] < row[0]:
                yield self._unanswered(waiting.popleft()[1])
            yield _stored_item(row[2:])
        while waiting:
            yield self._unanswered(waiting.popleft()[1])

    def _unanswered(self, item_id: int) -> StoredItem:
        """The item as it was without an answer, whatever it has by now."""
        rows = self._query(f"SELECT {_ITEM} FROM ftQueueItem AS i WHERE i.id = ?", (item_id,))
        return StoredItem(QueueItemRow._make(rows[0]), None)

    def _pages_by_time(
        self, sql: str, queue: int | str, span: _Range, now: _Moment
    ) -> Iterator[tuple[Any, ...]]:
        """Rows of ``sql``, which begin with TimeStamp and id, that were there ``now``."""
        after = (span.first, -1)
        late = now.unanswered_ids
        limit = min(PAGE_ROWS, span.limit + len(late))
        while True:
            rows = self._query(sql, (queue, now.last_id, span.last, *after, limit))
            for row in rows:
                if row[1] not in late:
                    yield row
            if len(rows) < limit:
                return
            after = rows[-1][:2]

    def _pages_by_row(
        self, sql: str, queue_no: int, last_id: int, after: int = 0
    ) -> Iterator[tuple[Any, ...]]:
        """What ``sql`` selects, in row order up to item ``last_id``, after the ftQueueRow and id of its item."""
        sql = (
            f"SELECT i.ftQueueRow, i.id, {sql} WHERE i.queue_no = ? AND i.ftQueueRow > ? AND +i.id <= ?"
            " ORDER BY i.ftQueueRow LIMIT ?"
        )
        while True:
            rows = self._query(sql, (queue_no, after, last_id, PAGE_ROWS))
            yield from rows
            if len(rows) < PAGE_ROWS:
                return
            after = rows[-1][0]

    def _query(self, sql: str, values: Any = ()) -> list[tuple[Any, ...]]:
        """All rows of one statement on a read connection, which sees one moment of the store."""
        if self._closed:
            raise StoreError("the store is closed")
        self._catch_up()
        try:
            reader = self._idle_readers.pop()
        except IndexError:
            reader = self._open_reader()
        try:
            rows = reader.execute(sql, values).fetchall()
        except DAMAGE as error:
            reader.close()
            raise store_error(error, str(self.path), "read") from error
        except BaseException:
            reader.close()
            raise
        if len(self._idle_readers) < IDLE_READERS and not self._closed:
            self._idle_readers.append(reader)
        else:
            reader.close()
        return rows

    def _catch_up(self) -> None:
        """Bring everything that was committed before where it can be read."""
        self._applier.apply()

    # Connections

    def _open_reader(self) -> sqlite3.Connection:
        return self._connect("mode=ro", ("query_only = ON",))

    def _open_writer(self) -> Writer:
        connection = self._connect(
            "mode=rwc",
            (
                f"page_size = {PAGE_BYTES}",
                "temp_store = MEMORY",
                f"cache_size = -{CACHE_KIB}",
                # Journals are never deleted and hold no secrets from each other.
                "secure_delete = OFF",
            ),
        )
        try:
            # A foreign file is refused before the first pragma that would write to it.
            version_of(connection, str(self.path))
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise StoreError(f"{self.path} lies on a file system without WAL; put it on a local disk")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
            migrate(connection, str(self.path), MIGRATIONS)
            # SQLite opens, and even locks, a file it may not write without a word: ask for one write now.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("ROLLBACK")
            return Writer(connection, str(self.path))
        except DAMAGE as error:
            connection.close()
            raise store_error(error, str(self.path), "open") from error
        except BaseException:
            connection.close()
            raise

    def _connect(self, mode: str, pragmas: Sequence[str]) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                f"{self.path.as_uri()}?{mode}",
                uri=True,
                timeout=BUSY_TIMEOUT_MS / 1000,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
            )
        except DAMAGE as error:
            raise store_error(error, str(self.path), "open") from error
        try:
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}")
        except DAMAGE as error:
            connection.close()
            raise store_error(error, str(self.path), "open") from error
        return connection


class SqliteReader(SqliteStore):
    """A store that is only read, beside the process that has it open.

    What that process had committed before is seen; what it commits later is seen a tenth of a second later. A commit
    is a StoreError. Raises StoreError if the file is missing or damaged, or its schema is not the one of this
    version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._idle_readers: list[sqlite3.Connection] = []
        self._closed = False
        if not self.path.exists():
            raise StoreError(f"there is no store at {self.path}; correct the path")
        reader = self._open_reader()
        try:
            version = version_of(reader, str(self.path))
        except DAMAGE as error:
            raise store_error(error, str(self.path), "open") from error
        finally:
            reader.close()
        if version != len(MIGRATIONS):
            raise StoreError(
                f"{self.path} has schema version {version}, this fiskal reads version {len(MIGRATIONS)}; use the "
                "fiskal that has it open"
            )
        self._wait_for_log()

    def _wait_for_log(self) -> None:
        """Give the process that writes the time to bring what is in its log into the database."""
        until = time.monotonic() + LOG_PATIENCE_S
        last, noted = commitlog.last_of(_log_path(self.path), self._identity())
        if self._query("SELECT direct FROM fiskal_commit_log")[0][0] < noted:
            # The note follows the database, so no patience helps.
            _log.warning("%s is an older copy: its log was last used with a newer one", self.path)
        while self._query("SELECT sequence FROM fiskal_commit_log")[0][0] < last:
            if time.monotonic() > until:
                _log.warning(
                    "the newest receipts are in the log of %s, but not in the database yet", self.path
                )
                return
            time.sleep(0.01)

    def commit(self, change: Change, turn: Turn | None = None, *, in_turn: bool = True) -> None:
        """Always a StoreError."""
        if turn is not None and not in_turn:
            turn.__enter__()
        raise StoreError(f"{self.path} is open for reading only")

    @property
    def can_begin(self) -> bool:
        """Nothing is ever begun."""
        return False

    def begin(self, change: Change, turn: Turn | None = None) -> bool:
        """Nothing is ever begun."""
        return False

    def end(self, change: Change) -> None:
        """Nothing was begun."""

    def _catch_up(self) -> None:
        """The process that writes does it."""

    def close(self) -> None:
        self._closed = True
        while self._idle_readers:
            self._idle_readers.pop().close()
