"""Reading a SQLite store, beside whoever writes to it.

The journals are append-only, so a reader needs no long transaction for a consistent picture: it notes the last item
and the few without an answer when it starts, and pages up to there with short queries. However slowly it is consumed,
it never keeps the WAL from shrinking.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from fiskal.errors import StoreError
from fiskal.store.damage import DAMAGE, store_error
from fiskal.store.guids import to_bytes, to_text
from fiskal.store.interface import (
    ActionRow,
    AnswerRow,
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
from fiskal.store.schema import TAIL

BUSY_TIMEOUT_MS: Final = 5000
"""How long a statement waits for a foreign program that locks the file, before it is a StoreError."""

PAGE_ROWS: Final = 100
"""Rows an iterator holds in memory."""

IDLE_READERS: Final = 8
"""Read connections kept open; under more concurrent reads further ones come and go."""

_MAX_INTEGER: Final = (1 << 63) - 1

_ITEM: Final = ", ".join(f"i.{name}" for name in QueueItemRow._fields)
_ANSWER: Final = ", ".join(f"a.{name}" for name in (*AnswerRow._fields[:-1], *Receipt._fields))
_RECEIPT: Final = ", ".join(f"a.{name}" for name in ReceiptRow._fields)
_ITEM_WIDTH: Final = len(QueueItemRow._fields)
_STORED_WIDTH: Final = _ITEM_WIDTH + len(AnswerRow._fields) - 1
_ANSWER_OF: Final = "ftQueueItemAnswer AS a ON a.id = i.id AND a.queue_no = i.queue_no"
_STORED: Final = (
    f"SELECT {_ITEM}, {_ANSWER} FROM {{}} JOIN ftQueueItem AS i USING (id) LEFT JOIN {_ANSWER_OF}"
)
_ITEM_OF: Final = "ftQueueItem AS i ON i.id = a.id AND i.queue_no = a.queue_no"
_UNANSWERED: Final = (
    "FROM tail JOIN ftQueueItem AS i USING (id) WHERE i.queue_no = :queue_no"
    " AND NOT EXISTS (SELECT 1 FROM ftQueueItemAnswer AS a WHERE a.id = i.id)"
)
_FOUND: Final = (
    "SELECT id FROM ftQueueItemAnswer WHERE ftQueueItemId = :guid"
    " UNION ALL SELECT i.id FROM tail JOIN ftQueueItem AS i USING (id) WHERE i.ftQueueItemId = :guid"
)

QUEUES: Final = f"""
WITH {TAIL},
    newest AS (SELECT queue_no, max(ftQueueRow) AS row FROM tail JOIN ftQueueItem USING (id) GROUP BY queue_no),
    carried AS (
        SELECT a.queue_no, a.ftQueueRow, a.TimeStamp, a.ftReceiptTotalizer, a.ftReceiptNumber, a.ftReceiptHash
        FROM tail JOIN ftQueueItemAnswer AS a USING (id) JOIN ftQueue AS q ON q.queue_no = a.queue_no
        WHERE a.ftReceiptTotalizer IS NOT NULL AND a.ftQueueRow > q.ftCurrentRow),
    last AS (SELECT queue_no, max(ftQueueRow) AS row, TimeStamp, ftReceiptTotalizer FROM carried GROUP BY queue_no),
    paid AS (
        SELECT queue_no, max(ftQueueRow) AS row, ftReceiptNumber, ftReceiptHash FROM carried
        WHERE ftReceiptNumber IS NOT NULL GROUP BY queue_no)
SELECT {", ".join(f"q.{name}" for name in QueueRow._fields)}, newest.row, last.row, last.TimeStamp,
    last.ftReceiptTotalizer, paid.ftReceiptNumber, paid.ftReceiptHash
FROM ftQueue AS q LEFT JOIN newest ON newest.queue_no = q.queue_no LEFT JOIN last ON last.queue_no = q.queue_no
    LEFT JOIN paid ON paid.queue_no = q.queue_no ORDER BY q.queue_no
"""
"""The rows of ``ftQueue``, and what :func:`queue_rows` needs to bring their counters up to date."""


def counted(old: QueueRow, queued: int, row: int, stamp: int, totalizer: str, receipt: Any) -> QueueRow:
    """The state of a queue whose counters moved on, and nothing else: to the answer of ``row`` with the TimeStamp
    ``stamp``. ``receipt`` has its number and hash, None if the number stays."""
    return old._replace(
        ftCurrentRow=row,
        ftQueuedRow=max(old.ftQueuedRow, queued),
        ftReceiptNumerator=old.ftReceiptNumerator if receipt is None else receipt.ftReceiptNumber,
        ftReceiptHash=old.ftReceiptHash if receipt is None else receipt.ftReceiptHash,
        ftReceiptTotalizer=totalizer,
        TimeStamp=stamp,
        DeTimeStamp=stamp,
    )


class _Paid(NamedTuple):
    ftReceiptNumber: int
    ftReceiptHash: str


def queue_rows(found: Sequence[Sequence[Any]]) -> list[QueueRow]:
    """The states of the queues that :data:`QUEUES` found."""
    rows = []
    width = len(QueueRow._fields)
    for each in found:
        old = QueueRow._make(each[:width])
        queued, row, stamp, totalizer, number, hash_ = each[width:]
        if row is not None:
            old = counted(
                old, queued, row, stamp, totalizer, None if number is None else _Paid(number, hash_)
            )
        elif queued is not None and queued > old.ftQueuedRow:
            old = old._replace(ftQueuedRow=queued)
        rows.append(old)
    return rows


def _fields(row: Any) -> str:
    return ", ".join(row._fields)


def _by_time(columns: str, source: str, queue: str, prefix: str = "", only: str = "") -> str:
    """A page of a journal in TimeStamp order: values are queue, last id, last TimeStamp, keyset, limit."""
    stamp, key = f"{prefix}TimeStamp", f"{prefix}id"
    return (
        f"SELECT {stamp}, {key}, {columns} FROM {source} WHERE {only}{prefix}{queue} = ? AND {key} <= ?"
        f" AND {stamp} <= ? AND ({stamp}, {key}) > (?, ?) ORDER BY {stamp}, {prefix}{queue}, {key} LIMIT ?"
    )


def _by_row(columns: str, source: str, only: str = "") -> str:
    """A page of a journal in row order: values are queue, last row shown, last id, limit."""
    return (
        f"SELECT a.ftQueueRow, a.id, {columns} FROM ftQueueItemAnswer AS a INDEXED BY ftQueueItemAnswer_row{source}"
        f" WHERE {only}a.queue_no = ? AND a.ftQueueRow > ? AND +a.id <= ? ORDER BY a.ftQueueRow LIMIT ?"
    )


# The index is named because the planner, knowing no statistics, might sort a whole queue for every page.
_BY_TIME: Final = "ftQueueItemAnswer AS a INDEXED BY ftQueueItemAnswer_TimeStamp"
_ANSWERED_BY_TIME: Final = _by_time(
    f"{_ITEM}, {_ANSWER}", f"{_BY_TIME} CROSS JOIN {_ITEM_OF}", "queue_no", "a."
)
_ANSWERED_BY_ROW: Final = _by_row(f"{_ITEM}, {_ANSWER}", f" CROSS JOIN {_ITEM_OF}")
_RECEIPTS_BY_TIME: Final = _by_time(
    _RECEIPT, _BY_TIME, "queue_no", "a.", "a.ftReceiptNumber IS NOT NULL AND "
)
_RECEIPTS_BY_ROW: Final = _by_row(_RECEIPT, "", "a.ftReceiptNumber IS NOT NULL AND ")
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


def _item(columns: Sequence[Any]) -> QueueItemRow:
    return QueueItemRow._make((*columns[:2], to_text(columns[2]), *columns[3:_ITEM_WIDTH]))


def _stored_item(columns: Sequence[Any]) -> StoredItem:
    if columns[_ITEM_WIDTH] is None:
        return StoredItem(_item(columns), None)
    receipt = None
    if columns[_STORED_WIDTH] is not None:
        number, guid, *rest = columns[_STORED_WIDTH:]
        receipt = Receipt(number, to_text(guid), *rest)
    return StoredItem(_item(columns), AnswerRow._make((*columns[_ITEM_WIDTH:_STORED_WIDTH], receipt)))


def _receipt(columns: Sequence[Any]) -> ReceiptRow:
    no, number, journal_id, moment, total, item_id, *rest = columns
    return ReceiptRow(no, number, to_text(journal_id), moment, total, to_text(item_id), *rest)


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
    """What a journal held when its iterator was made: entries up to ``last_id``, except the answers of items that had
    none then, given as (TimeStamp, ftQueueRow, id)."""

    last_id: int
    unanswered: list[tuple[int, int, int]]

    @property
    def unanswered_ids(self) -> frozenset[int]:
        return frozenset(each[2] for each in self.unanswered)


def connect(path: Path, mode: str, pragmas: Sequence[str]) -> sqlite3.Connection:
    """A connection in autocommit mode, for any thread. Raises StoreError."""
    try:
        connection = sqlite3.connect(
            f"{path.as_uri()}?{mode}",
            uri=True,
            timeout=BUSY_TIMEOUT_MS / 1000,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
    except DAMAGE as error:
        raise store_error(error, str(path), "open") from error
    try:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
    except DAMAGE as error:
        connection.close()
        raise store_error(error, str(path), "open") from error
    return connection


class Reading:
    """The methods of a store that read. Every read is one statement, hence of one moment."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._idle_readers: list[sqlite3.Connection] = []
        self._closed = False

    def _close_readers(self) -> None:
        self._closed = True
        while self._idle_readers:
            self._idle_readers.pop().close()

    # State

    def queues(self) -> list[QueueRow]:
        """All queues, by ``queue_no``."""
        return queue_rows(self._query(QUEUES))

    def queue(self, queue_id: str) -> QueueRow | None:
        """The queue with this ftQueueId, None if there is none."""
        return next((row for row in self.queues() if row.ftQueueId == queue_id), None)

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
        try:
            guid = to_bytes(queue_item_id)
        except ValueError:
            return None
        sql = f"WITH {TAIL}, found AS ({_FOUND}) {_STORED.format('found')} LIMIT 1"
        rows = self._query(sql, {"guid": guid})
        return _stored_item(rows[0]) if rows else None

    def unanswered_items(self, queue_no: int) -> list[QueueItemRow]:
        """Journalled items without an answer, in row order. Costs the same for any history."""
        sql = f"WITH {TAIL} SELECT {_ITEM} {_UNANSWERED} ORDER BY i.ftQueueRow"
        return [_item(row) for row in self._query(sql, {"queue_no": queue_no})]

    def items_by_reference(
        self, queue_no: int, reference: str, terminal: str | None, limit: int
    ) -> list[StoredItem]:
        """Answered items of a cbReceiptReference (and terminal, unless None or empty), newest first.

        Newest is the highest row: clocks may step back, rows do not.
        """
        return self._by_reference(
            "(? OR i.cbTerminalID = ?)", queue_no, reference, (not terminal, terminal), limit
        )

    def items_before(self, queue_no: int, reference: str, queue_item_id: str, limit: int) -> list[StoredItem]:
        """Answered items of a cbReceiptReference that were accepted before this item, newest first.

        As in :meth:`items_by_reference` the order of acceptance decides, not the clock; the index leads straight to
        what is older, however much came since. None if there is no such item.
        """
        try:
            guid = to_bytes(queue_item_id)
        except ValueError:
            return []
        found = self._query(f"WITH {TAIL} {_FOUND} LIMIT 1", {"guid": guid})
        return self._by_reference("a.id < ?", queue_no, reference, found[0], limit) if found else []

    def _by_reference(
        self, which: str, queue_no: int, reference: str, values: tuple[Any, ...], limit: int
    ) -> list[StoredItem]:
        sql = (
            f"SELECT {_ITEM}, {_ANSWER} FROM ftQueueItemAnswer AS a INDEXED BY ftQueueItemAnswer_reference"
            f" CROSS JOIN {_ITEM_OF} WHERE a.queue_no = ? AND a.cbReceiptReference = ? AND {which}"
            " ORDER BY a.id DESC LIMIT ?"
        )
        return [_stored_item(row) for row in self._query(sql, (queue_no, reference, *values, max(limit, 0)))]

    def iter_items(self, queue_no: int, from_ticks: int = 0, to_ticks: int = 0) -> Iterator[StoredItem]:
        """The items as they were when this was called, by TimeStamp, in constant memory.

        The TimeStamp of an item is that of its answer, of the item itself while it has none.
        ``to_ticks`` > 0: from <= TimeStamp <= to; 0: from <= TimeStamp; < 0: the first ``-to_ticks`` items
        with from <= TimeStamp. Equal ones come in the order of their rows.
        """
        span = _Range.of(from_ticks, to_ticks)
        now = self._moment(queue_no)
        answered = self._pages_by_time(_ANSWERED_BY_TIME, queue_no, span, now)
        waiting = [(stamp, id_) for stamp, _, id_ in now.unanswered if span.first <= stamp <= span.last]
        return islice(self._woven(answered, waiting), span.limit)

    def iter_items_by_row(self, queue_no: int, after_row: int = 0) -> Iterator[StoredItem]:
        """The items present when this was called, by ftQueueRow beyond ``after_row``, in constant memory."""
        now = self._moment(queue_no)
        answered = self._pages_by_row(_ANSWERED_BY_ROW, queue_no, now, after_row)
        return self._woven(answered, [(row, id_) for _, row, id_ in now.unanswered if row > after_row])

    # Journals

    def iter_receipts(self, queue_no: int, from_ticks: int = 0, to_ticks: int = 0) -> Iterator[ReceiptRow]:
        """Receipt journal by TimeStamp; ranges, order and snapshot as in :meth:`iter_items`."""
        span = _Range.of(from_ticks, to_ticks)
        now = self._moment(queue_no)
        pages = self._pages_by_time(_RECEIPTS_BY_TIME, queue_no, span, now)
        return (_receipt(row[2:]) for row in islice(pages, span.limit))

    def iter_receipts_by_number(self, queue_no: int) -> Iterator[ReceiptRow]:
        """Receipt journal in the order of the rows, hence of the numbers, as it was when this was called."""
        pages = self._pages_by_row(_RECEIPTS_BY_ROW, queue_no, self._moment(queue_no))
        return (_receipt(row[2:]) for row in pages)

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
            f"WITH {TAIL} SELECT i.TimeStamp, i.ftQueueRow, i.id {_UNANSWERED}"
            " UNION ALL SELECT NULL, NULL, max(id) FROM ftQueueItem",
            {"queue_no": queue_no},
        )
        return _Moment(last[2] or 0, rows)

    def _woven(
        self, answered: Iterator[tuple[Any, ...]], unanswered: list[tuple[int, int]]
    ) -> Iterator[StoredItem]:
        """Weave the few unanswered items, as (key, id), into rows that begin with that key and an id."""
        waiting = deque(sorted(unanswered))
        for row in answered:
            while waiting and waiting[0][0] < row[0]:
                yield self._unanswered(waiting.popleft()[1])
            yield _stored_item(row[2:])
        while waiting:
            yield self._unanswered(waiting.popleft()[1])

    def _unanswered(self, item_id: int) -> StoredItem:
        """The item as it was without an answer, whatever it has by now."""
        rows = self._query(f"SELECT {_ITEM} FROM ftQueueItem AS i WHERE i.id = ?", (item_id,))
        return StoredItem(_item(rows[0]), None)

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
        self, sql: str, queue_no: int, now: _Moment, after: int = 0
    ) -> Iterator[tuple[Any, ...]]:
        """Rows of ``sql``, which begin with ftQueueRow and id, that were there ``now``."""
        late = now.unanswered_ids
        while True:
            rows = self._query(sql, (queue_no, after, now.last_id, PAGE_ROWS))
            for row in rows:
                if row[1] not in late:
                    yield row
            if len(rows) < PAGE_ROWS:
                return
            after = rows[-1][0]

    def _query(self, sql: str, values: Any = ()) -> list[tuple[Any, ...]]:
        """All rows of one statement on a read connection, which sees one moment of the store."""
        if self._closed:
            raise StoreError("the store is closed")
        try:
            reader = self._idle_readers.pop()
        except IndexError:
            reader = connect(self.path, "mode=ro", ("query_only = ON",))
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
