"""Writing: the changes of everybody who waits are one transaction with one flush.

A change has to continue what is stored: items have the next rows of their queue, an answer belongs to an item without
one, receipt numbers have no gap, and a queue never goes back. What must be known for that is kept in memory for each
queue (:class:`_Head`). It is read again from the disk after everything that went wrong.

Python pays for every statement, so a batch takes one per table and kind of change. A batch of one row, which both T1
and T2 of a plain sale are, needs no BEGIN and COMMIT either.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from fiskal.store.damage import DAMAGE, store_error
from fiskal.store.guids import to_bytes
from fiskal.store.interface import (
    ActionRow,
    AnswerRow,
    Change,
    DoubtfulStartRow,
    FailedTransactionRow,
    JournalDEPartRow,
    JournalDERow,
    MasterDataRow,
    OpenTransactionRow,
    QueueItemRow,
    QueueRow,
    Receipt,
    RecoveredRow,
    ScuRow,
)
from fiskal.store.reading import QUEUES, counted, queue_rows
from fiskal.store.schema import TAIL

MARK_EVERY: Final = 512
"""Answers after which the mark is moved: what an opening has to look through, and what a lookup may."""

_BAD_CHANGE: Final = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
"""What a change itself does wrong: a constraint, a value too big or of a type SQLite does not know."""


class BadChange(Exception):
    """A change that cannot be stored whatever the disk does; the database is as before."""


def _insert(table: str, columns: Sequence[str], verb: str = "INSERT") -> str:
    return f"{verb} INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def _replace_export() -> str:
    # ON CONFLICT, not REPLACE: the row keeps its id, by which journals are read in pages.
    changes = ", ".join(f"{name} = excluded.{name}" for name in JournalDERow._fields[1:])
    return (
        f"{_insert('ftJournalDE', JournalDERow._fields)} ON CONFLICT (ftJournalDEId) DO UPDATE SET {changes}"
    )


_ITEM: Final = _insert("ftQueueItem", ("id", *QueueItemRow._fields))
_ANSWER: Final = _insert(
    "ftQueueItemAnswer",
    (
        "id",
        "ftQueueItemId",
        "cbReceiptReference",
        "ftReceiptTotalizer",
        *AnswerRow._fields[:-1],
        *Receipt._fields,
    ),
)
_QUEUE: Final = _insert("ftQueue", QueueRow._fields) + (
    # Not REPLACE: an id that is stored under another number has to fail.
    f" ON CONFLICT (queue_no) DO UPDATE SET {', '.join(f'{n} = excluded.{n}' for n in QueueRow._fields[2:])}"
)
_NO_RECEIPT: Final = (None,) * len(Receipt._fields)

_APPENDED: Final = (
    ("actions", _insert("ftActionJournal", ActionRow._fields)),
    ("export_parts", _insert("ftJournalDEPart", JournalDEPartRow._fields)),
)
_REPLACED: Final = (
    ("scus", 1, _insert("ftSignaturCreationUnitDE", ScuRow._fields, "INSERT OR REPLACE")),
    ("master_data", 1, _insert("MasterData", MasterDataRow._fields, "INSERT OR REPLACE")),
    ("exports", 1, _replace_export()),
    ("recovered", 2, _insert("RecoveredTransaction", RecoveredRow._fields, "INSERT OR REPLACE")),
)
"""Rows whose key are their first columns, so many; of several in a batch the last one counts."""

_KEYED: Final = tuple(
    (
        name,
        f"{name}_removed",
        f"DELETE FROM {table} WHERE {row._fields[0]} = ? AND {row._fields[1]} = ?",
        _insert(table, row._fields, "INSERT OR REPLACE"),
    )
    for name, table, row in (
        ("open_transactions", "OpenTransaction", OpenTransactionRow),
        ("failed_starts", "FailedStartTransaction", FailedTransactionRow),
        ("failed_finishes", "FailedFinishTransaction", FailedTransactionRow),
        ("doubtful_starts", "DoubtfulStartTransaction", DoubtfulStartRow),
    )
)
"""Rows whose key is their first two columns, which also go away."""

_Plan = list[tuple[str, list[tuple[Any, ...]]]]
_Key = tuple[int, bytes, str | None]


class _Head:
    """The end of one queue: its state, its last row and receipt number, its items without an answer (id, GUID and
    cbReceiptReference by row). ``is_stored``: ``ftQueue`` has all of ``queue``. What is not sure is what the state of
    the queue says; the rows are asked before anything is refused for it."""

    __slots__ = (
        "is_number_sure",
        "is_row_sure",
        "is_stored",
        "last_number",
        "last_row",
        "queue",
        "unanswered",
    )

    def __init__(self, queue: QueueRow | None, last_row: int, last_number: int) -> None:
        self.queue = queue
        self.is_stored = True
        self.last_row = last_row
        self.is_row_sure = False
        self.last_number = last_number
        self.is_number_sure = False
        self.unanswered: dict[int, _Key] = {}


class Writer:
    """Stores changes over one connection in autocommit mode, of which it is the only user. Not thread-safe."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self.connection = connection
        self._path = path
        self._heads: dict[int, _Head] = {}
        self._is_known = False
        """Whether what follows is what the disk has."""
        self._last_id = 0
        self._last_guid = b""
        """The highest GUID of an item: what is beyond it has no equal."""
        self._since_mark = 0
        self._before: int | None = None

    def write(self, changes: Sequence[Change], failed: Callable[[int, BadChange], None]) -> None:
        """Store ``changes`` in order with one flush; those that cannot be stored are told to ``failed`` by their index
        before that, and left out. StoreError if the disk could not take them; then nothing is stored."""
        self._guarded(lambda: self._write(changes, failed))

    def drain(self, changes: Sequence[Change]) -> None:
        """Store changes in the open transaction of somebody else. Raises BadChange or what SQLite does."""
        for change in changes:
            self._know()
            self._execute(self._plan([change]))

    def finish(self) -> None:
        """Leave nothing for an opening to look through. Raises StoreError."""
        self._guarded(self._finish)

    def begin(self) -> None:
        """What was written before is over: from here on :meth:`was_stored` is about the next write."""
        self._before = None

    def was_stored(self) -> bool:
        """Whether the last write, which an interrupt left, is on the disk. Ends its transaction if that is open."""
        self._is_known = False
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
            return False
        # Interrupts come between two steps of Python: a COMMIT that began has ended. Only SQLite knows.
        return self._before is not None and self.connection.total_changes != self._before

    def close(self) -> None:
        """Never fails: what mattered was flushed before."""
        try:
            self.connection.close()
        except sqlite3.Error:
            pass

    def _guarded(self, write: Callable[[], None]) -> None:
        self._before = None
        try:
            write()
        except Exception as error:
            self._is_known = False
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            if isinstance(error, DAMAGE):
                raise store_error(error, self._path, "write to") from error
            raise

    def _write(self, changes: Sequence[Change], failed: Callable[[int, BadChange], None]) -> None:
        self._know()
        try:
            plan = self._plan(changes)
            self._store(plan)
        except BadChange as error:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            self._before = None
            self._is_known = False
            if len(changes) == 1:
                failed(0, error)
                return
            self._write_each(changes, failed)

    def _write_each(self, changes: Sequence[Change], failed: Callable[[int, BadChange], None]) -> None:
        """One of them is bad: each under a savepoint of its own, still with one flush."""
        execute = self.connection.execute
        before = self.connection.total_changes
        execute("BEGIN IMMEDIATE")
        for number, change in enumerate(changes):
            execute("SAVEPOINT change")
            try:
                self._know()
                self._execute(self._plan([change]))
            except BadChange as error:
                self._is_known = False
                execute("ROLLBACK TO change")
                failed(number, error)
            execute("RELEASE change")
        self._before = before
        execute("COMMIT")

    def _store(self, plan: _Plan) -> None:
        before = self.connection.total_changes
        if sum(len(rows) for _, rows in plan) <= 1:
            self._before = before
            self._execute(plan)
            return
        self.connection.execute("BEGIN IMMEDIATE")
        self._execute(plan)
        self._before = before
        self.connection.execute("COMMIT")

    def _execute(self, plan: _Plan) -> None:
        try:
            for sql, rows in plan:
                if len(rows) == 1:
                    self.connection.execute(sql, rows[0])
                else:
                    self.connection.executemany(sql, rows)
        except _BAD_CHANGE as error:
            raise BadChange(f"the change cannot be stored: {error}") from error
        except DAMAGE:
            raise
        except Exception as error:  # a number beyond 64 bits, a lone surrogate
            raise BadChange(f"the change cannot be stored: {type(error).__name__}: {error}") from error

    def _finish(self) -> None:
        self._know()
        if self._since_mark or self._heads:
            self._store(self._moved_mark())

    # ---- what a batch stores ---------------------------------------------------------------------

    def _plan(self, changes: Sequence[Change]) -> _Plan:
        """The statements that store ``changes`` as if one after the other. Raises BadChange."""
        items: list[tuple[Any, ...]] = []
        answers: list[tuple[Any, ...]] = []
        queues: dict[int, tuple[Any, ...]] = {}
        try:
            for change in changes:
                items += map(self._item, change.items)
                totalizers = dict(self._states(change, queues))
                answers += [self._answer(row, totalizers.get(row[:2])) for row in change.answers]
            plan = [(_ITEM, items), (_ANSWER, answers)]
            rare = [change for change in changes if change.is_rare]
            if rare:
                plan += self._plan_others(rare)
        except BadChange:
            raise
        except DAMAGE:
            raise
        except Exception as error:  # a row of the wrong shape
            raise BadChange(f"the change cannot be stored: {type(error).__name__}: {error}") from error
        self._since_mark += len(answers)
        if queues:
            plan.append((_QUEUE, list(queues.values())))
        if self._since_mark >= MARK_EVERY:
            plan += self._moved_mark()
        return [each for each in plan if each[1]]

    def _item(self, row: QueueItemRow) -> tuple[Any, ...]:
        head = self._head(row.queue_no)
        if row.ftQueueRow != head.last_row + 1 and not head.is_row_sure:
            head.last_row = self._last_row(row.queue_no)
        if row.ftQueueRow != head.last_row + 1:
            raise BadChange(
                f"the change cannot be stored: row {row.ftQueueRow} does not continue queue {row.queue_no}, whose"
                f" last row is {head.last_row}"
            )
        head.is_row_sure = True
        guid = to_bytes(row.ftQueueItemId)
        if guid > self._last_guid:
            self._last_guid = guid
        elif self._has_guid(guid):
            raise BadChange(f"the change cannot be stored: there is a queue item {row.ftQueueItemId} already")
        self._last_id += 1
        head.last_row = row.ftQueueRow
        head.unanswered[row.ftQueueRow] = self._last_id, guid, row.cbReceiptReference
        return (self._last_id, *row[:2], guid, *row[3:])

    def _answer(self, row: AnswerRow, totalizer: str | None) -> tuple[Any, ...]:
        head = self._head(row.queue_no)
        key = head.unanswered.pop(row.ftQueueRow, None)
        if key is None:
            raise BadChange(
                f"the change cannot be stored: queue {row.queue_no} has no row {row.ftQueueRow} without an answer"
            )
        receipt: tuple[Any, ...] = _NO_RECEIPT
        if row.receipt is not None:
            number = row.receipt.ftReceiptNumber
            if number != head.last_number + 1 and not head.is_number_sure:
                head.last_number = self._last_number(row.queue_no, head)
            if number != head.last_number + 1:
                raise BadChange(
                    f"the change cannot be stored: receipt number {number} does not follow {head.last_number} in"
                    f" queue {row.queue_no}"
                )
            head.is_number_sure = True
            head.last_number = number
            receipt = (number, to_bytes(row.receipt.ftReceiptJournalId), *row.receipt[2:])
        return (*key, totalizer, *row[:-1], *receipt)

    def _states(
        self, change: Change, queues: dict[int, tuple[Any, ...]]
    ) -> Iterator[tuple[tuple[int, int], str]]:
        """The totalizers that answers of a change carry for their queues, by queue and row; rows of ``ftQueue`` that
        are to be written go into ``queues``."""
        for row in change.queues:
            head = self._head(row.queue_no)
            old, head.queue = head.queue, row
            if old is not None and old.ftQueueId != row.ftQueueId:
                raise BadChange(
                    f"the change cannot be stored: queue {row.queue_no} has the id {old.ftQueueId}"
                )
            if old is not None and row.ftCurrentRow < old.ftCurrentRow:
                raise BadChange(f"the change cannot be stored: queue {row.queue_no} would go back")
            head.is_stored = old is None or not _is_carried(change, old, row, head.last_row)
            if head.is_stored:
                queues[row.queue_no] = row
            else:
                yield (row.queue_no, row.ftCurrentRow), row.ftReceiptTotalizer

    def _plan_others(self, changes: Sequence[Change]) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
        """What a sale does not touch."""
        for name, sql in _APPENDED:
            yield sql, _gathered(changes, name)
        removed = [(each,) for each in _gathered(changes, "exports_removed")]
        for table in ("ftJournalDE", "ftJournalDEPart"):
            yield f"DELETE FROM {table} WHERE ftJournalDEId = ?", removed
        for name, width, sql in _REPLACED:
            yield sql, list({row[:width]: row for row in _gathered(changes, name)}.values())
        for name, gone, delete, insert in _KEYED:
            final: dict[tuple[Any, ...], Any] = {}
            for change in changes:
                for key in getattr(change, gone):
                    final[key] = None
                for row in getattr(change, name):
                    final[row[:2]] = row
            yield delete, [key for key, row in final.items() if row is None]
            yield insert, [row for row in final.values() if row is not None]

    def _moved_mark(self) -> _Plan:
        """Everything but what has no answer now is behind the mark, and ``ftQueue`` has all counters."""
        dirty = [head.queue for head in self._heads.values() if head.queue is not None and not head.is_stored]
        waiting = [(key[0],) for head in self._heads.values() for key in head.unanswered.values()]
        for head in self._heads.values():
            head.is_stored = True
        self._since_mark = 0
        return [
            (_QUEUE, [tuple(row) for row in dirty]),
            ("DELETE FROM fiskal_unanswered WHERE ?", [(1,)]),
            ("INSERT INTO fiskal_unanswered VALUES (?)", waiting),
            ("UPDATE fiskal_mark SET answered_below = ?", [(self._last_id,)]),
        ]

    # ---- what is stored --------------------------------------------------------------------------

    def _know(self) -> None:
        if not self._is_known:
            self._read()

    def _read(self) -> None:
        """Read the heads of all queues: their rows in ``ftQueue`` and the tail."""
        query = self.connection.execute
        self._heads = {}
        for queue in queue_rows(query(QUEUES).fetchall()):
            self._heads[queue.queue_no] = _Head(queue, queue.ftCurrentRow, queue.ftReceiptNumerator)
        (self._last_id,) = query("SELECT coalesce(max(id), 0) FROM ftQueueItem").fetchone()
        (self._last_guid,) = query(
            "SELECT coalesce(max(ftQueueItemId), x'') FROM ftQueueItemAnswer"
        ).fetchone()
        tail = query(
            f"WITH {TAIL} SELECT i.id, i.queue_no, i.ftQueueRow, i.ftQueueItemId, i.cbReceiptReference, a.id,"
            " a.ftReceiptTotalizer FROM tail JOIN ftQueueItem AS i ON i.id = tail.id"
            " LEFT JOIN ftQueueItemAnswer AS a ON a.id = i.id ORDER BY i.id"
        ).fetchall()
        self._since_mark = 0
        self._is_known = True
        for id_, no, row, guid, reference, answered, totalizer in tail:
            head = self._head(no)
            head.last_row = max(head.last_row, row)
            self._since_mark += answered is not None
            head.is_stored &= totalizer is None
            if answered is None:
                head.unanswered[row] = id_, guid, reference
                self._last_guid = max(self._last_guid, guid)

    def _head(self, queue_no: int) -> _Head:
        head = self._heads.get(queue_no)
        if head is None:
            head = self._heads[queue_no] = _Head(None, self._last_row(queue_no), 0)
        return head

    def _last_row(self, queue_no: int) -> int:
        """The last row of a queue as the disk has it."""
        sql = (
            f"WITH {TAIL} SELECT max(coalesce((SELECT max(ftQueueRow) FROM ftQueueItemAnswer WHERE queue_no = :no), 0),"
            " coalesce((SELECT max(ftQueueRow) FROM tail JOIN ftQueueItem AS i ON i.id = tail.id"
            " WHERE queue_no = :no), 0))"
        )
        (row,) = self.connection.execute(sql, {"no": queue_no}).fetchone()
        return int(row)

    def _last_number(self, queue_no: int, head: _Head) -> int:
        """The last receipt number of a queue as its answers have it."""
        sql = (
            "SELECT ftReceiptNumber FROM ftQueueItemAnswer WHERE queue_no = ? AND ftReceiptNumber IS NOT NULL"
            " ORDER BY ftQueueRow DESC LIMIT 1"
        )
        found = self.connection.execute(sql, (queue_no,)).fetchone()
        if found is not None:
            return int(found[0])
        return 0 if head.queue is None else head.queue.ftReceiptNumerator

    def _has_guid(self, guid: bytes) -> bool:
        if any(key[1] == guid for head in self._heads.values() for key in head.unanswered.values()):
            return True
        sql = "SELECT 1 FROM ftQueueItemAnswer WHERE ftQueueItemId = ?"
        return self.connection.execute(sql, (guid,)).fetchone() is not None


def _is_carried(change: Change, old: QueueRow, new: QueueRow, last_row: int) -> bool:
    """Whether an answer of the change says all that is new in the row of its queue."""
    for answer in change.answers:
        if answer.queue_no == new.queue_no and old.ftCurrentRow < answer.ftQueueRow == new.ftCurrentRow:
            return new == counted(
                old, last_row, new.ftCurrentRow, answer.TimeStamp, new.ftReceiptTotalizer, answer.receipt
            )
    return False


def _gathered(changes: Sequence[Change], name: str) -> list[Any]:
    if len(changes) == 1:
        return list(getattr(changes[0], name))
    return [row for change in changes for row in getattr(change, name)]
