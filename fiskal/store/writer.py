"""Writing: one batch of changes is one transaction on one connection.

Under the GIL every step of a statement gives the interpreter away and queues for it again, so that a busy
process pays for the *number* of statements, not for their work. Therefore a batch takes at most one statement
per table and kind of change, however many callers share it: a multi-row ``INSERT``, a multi-row ``DELETE``. A
batch that touches one table only needs no ``BEGIN`` and ``COMMIT`` either.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from fiskal.errors import StoreError
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

STATEMENT_ROWS: Final = (64, 16, 4, 1)
"""Rows that one statement may have; more or other numbers take several. Of few sizes, because SQLite takes longer to
read a statement it does not know than to execute it; 24 values each stay below the 32766 SQLite allows."""

_BAD_CHANGE: Final = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
"""What a change itself does wrong: a constraint, a value too big or of a type SQLite does not know."""

_ADVICE: Final = {
    sqlite3.SQLITE_FULL: "the disk is full; make room, then repeat",
    sqlite3.SQLITE_READONLY: "the file or its directory is read-only; make them writable, then repeat",
    sqlite3.SQLITE_IOERR: "the disk reported an error; check it and the file system, then repeat",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; stop, keep a copy of it and restore a backup",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database or its header is damaged; restore a backup",
    sqlite3.SQLITE_BUSY: "another program keeps the file locked; close it, then repeat",
    sqlite3.SQLITE_LOCKED: "another connection keeps a table locked; close it, then repeat",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; check that it exists and its permissions",
    sqlite3.SQLITE_NOMEM: "there is not enough memory",
}


class BadChange(Exception):
    """A change that cannot be stored whatever the disk does; the database is as before."""


DAMAGE: Final = (sqlite3.Error, UnicodeDecodeError)
"""What an access to a file can raise; sqlite3 decodes messages too, which may quote damage."""


def store_error(error: Exception, path: str, doing: str) -> StoreError:
    """What to tell the caller of a failed access to ``path``: what happened and what to do."""
    if isinstance(error, UnicodeDecodeError):
        return StoreError(f"could not {doing} {path}: {_ADVICE[sqlite3.SQLITE_CORRUPT]} ({error})")
    code = getattr(error, "sqlite_errorcode", None)
    advice = _ADVICE.get(code & 0xFF) if code is not None else None
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return StoreError(f"could not {doing} {path}: {advice or 'SQLite failed'} ({name}: {error})")


class _Kind(NamedTuple):
    """Statements of one kind: ``head``, then ``row`` for each row, then ``tail``.

    ``{0}`` in ``row`` is the first of its ``width`` values.
    """

    head: str
    row: str
    width: int
    tail: str = ""


def _values(*indexes: int) -> str:
    return ", ".join(f"{{{index}}}" for index in indexes)


def _insert(table: str, row: Any, *, verb: str = "INSERT", tail: str = "") -> _Kind:
    columns = row._fields
    width = len(columns)
    head = f"{verb} INTO {table} ({', '.join(columns)}) VALUES "
    return _Kind(head, f"({_values(*range(width))})", width, tail)


def _insert_answer() -> _Kind:
    """An answer takes the id of its item; without one it takes 0, which the table refuses."""
    columns = (*AnswerRow._fields[2:-1], *Receipt._fields)
    item = "SELECT id FROM ftQueueItem WHERE queue_no = {0} AND ftQueueRow = {1}"
    width = 2 + len(columns)
    return _Kind(
        f"INSERT INTO ftQueueItemAnswer (id, queue_no, {', '.join(columns)}) VALUES ",
        f"(coalesce(({item}), 0), {_values(0, *range(2, width))})",
        width,
    )


def _delete(table: str, *key: str) -> _Kind:
    head = f"DELETE FROM {table} WHERE ({', '.join(key)}) IN (VALUES "
    return _Kind(head, f"({_values(*range(len(key)))})", len(key), ")")


def _replace_export() -> _Kind:
    # ON CONFLICT, not REPLACE: the row keeps its id, by which journals are read in pages.
    changes = ", ".join(f"{name} = excluded.{name}" for name in JournalDERow._fields[1:])
    tail = f" ON CONFLICT (ftJournalDEId) DO UPDATE SET {changes}"
    return _insert("ftJournalDE", JournalDERow, tail=tail)


def _replace_queue() -> _Kind:
    # ON CONFLICT, not REPLACE: the index of ftQueueId stays untouched. A row that comes with the id of
    # another queue sets NULL and fails by that, as does an id that is stored under another number.
    changes = ", ".join(f"{name} = excluded.{name}" for name in QueueRow._fields[3:])
    tail = (
        f" ON CONFLICT (queue_no) DO UPDATE SET {changes},"
        " ftCashBoxId = CASE WHEN ftQueueId = excluded.ftQueueId THEN excluded.ftCashBoxId END"
    )
    return _insert("ftQueue", QueueRow, tail=tail)


_ITEMS: Final = _insert("ftQueueItem", QueueItemRow)
_ANSWERS: Final = _insert_answer()
_ACTIONS: Final = _insert("ftActionJournal", ActionRow)
_EXPORT_PARTS: Final = _insert("ftJournalDEPart", JournalDEPartRow)
_EXPORT_TABLES: Final = tuple(_delete(table, "ftJournalDEId") for table in ("ftJournalDE", "ftJournalDEPart"))
_NO_RECEIPT: Final = (None,) * len(Receipt._fields)

_REPLACED: Final = (
    ("queues", _replace_queue()),
    ("scus", _insert("ftSignaturCreationUnitDE", ScuRow, verb="INSERT OR REPLACE")),
    ("master_data", _insert("MasterData", MasterDataRow, verb="INSERT OR REPLACE")),
    ("exports", _replace_export()),
)
"""Rows with one key, their first column; of several in a batch the last one counts."""

_TRANSACTIONS: Final = tuple(
    (
        name,
        f"{name}_removed",
        _delete(table, *row._fields[:2]),
        _insert(table, row, verb="INSERT OR REPLACE"),
    )
    for name, table, row in (
        ("open_transactions", "OpenTransaction", OpenTransactionRow),
        ("failed_starts", "FailedStartTransaction", FailedTransactionRow),
        ("failed_finishes", "FailedFinishTransaction", FailedTransactionRow),
        ("doubtful_starts", "DoubtfulStartTransaction", DoubtfulStartRow),
    )
)
"""Rows whose key is their first two columns, which also go away."""

_NOTE_SEQUENCE: Final = "UPDATE fiskal_commit_log SET sequence = ?"
_NOTE_DIRECT: Final = "UPDATE fiskal_commit_log SET direct = ?"

_RECOVERED: Final = _insert("RecoveredTransaction", RecoveredRow, verb="INSERT OR REPLACE")


@lru_cache(maxsize=256)
def _sql(kind: _Kind, rows: int) -> str:
    names = [f"?{number}" for number in range(1, rows * kind.width + 1)]
    each = (kind.row.format(*names[start : start + kind.width]) for start in range(0, len(names), kind.width))
    return f"{kind.head}{', '.join(each)}{kind.tail}"


Statement = tuple[str, list[Any]]


def _statements(kind: _Kind, rows: Sequence[Sequence[Any]]) -> Iterator[Statement]:
    start = 0
    for size in STATEMENT_ROWS:
        while len(rows) - start >= size:
            part = rows[start : start + size]
            yield _sql(kind, size), [value for row in part for value in row]
            start += size


def _gather(changes: Sequence[Change], name: str) -> list[Any]:
    if len(changes) == 1:
        return list(getattr(changes[0], name))
    return [row for change in changes for row in getattr(change, name)]


def _plan(changes: Sequence[Change]) -> list[Statement]:
    """The statements that store ``changes`` as if one after the other."""
    plan: list[Statement] = []
    if rows := _gather(changes, "items"):
        plan += _statements(_ITEMS, rows)
    if rows := _gather(changes, "answers"):
        plan += _statements(_ANSWERS, [row[:-1] + (row.receipt or _NO_RECEIPT) for row in rows])
    if rows := _gather(changes, "actions"):
        plan += _statements(_ACTIONS, rows)
    if rows := _gather(changes, "export_parts"):
        plan += _statements(_EXPORT_PARTS, rows)
    if ids := _gather(changes, "exports_removed"):
        for kind in _EXPORT_TABLES:
            plan += _statements(kind, [(each,) for each in ids])
    for name, kind in _REPLACED:
        if rows := _gather(changes, name):
            last = {row[0]: row for row in rows}
            plan += _statements(kind, list(last.values()))
    if rows := _gather(changes, "recovered"):
        plan += _statements(_RECOVERED, list({row[:2]: row for row in rows}.values()))
    for name, removed, delete, insert in _TRANSACTIONS:
        final: dict[tuple[int, str], Any] = {}
        for change in changes:
            for key in getattr(change, removed):
                final[key] = None
            for row in getattr(change, name):
                final[row[:2]] = row
        if final:
            plan += _statements(delete, [key for key, row in final.items() if row is None])
            plan += _statements(insert, [row for row in final.values() if row is not None])
    return plan


class Writer:
    """A writing connection. Not thread-safe.

    ``stored`` tells whether the last :meth:`write` reached the disk, also when it was left by an interrupt.
    """

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self.connection = connection
        self._path = path
        self._changes_before: int | None = None
        self._finished = False

    @property
    def stored(self) -> bool:
        """Whether the last write is on the disk. Ends a transaction an interrupt left open."""
        if not self._finished and self._changes_before is not None:
            if self.connection.in_transaction:
                self._changes_before = None
                self.connection.execute("ROLLBACK")
                return False
            # An interrupt raised between SQLite's success and the next bytecode: only SQLite knows.
            self._finished = self.connection.total_changes != self._changes_before
        return self._finished

    def forget(self) -> None:
        """Let ``stored`` speak of the next write and no longer of the last one."""
        self._finished = False
        self._changes_before = None

    def write(
        self, changes: Sequence[Change], sequence: int | None = None, *, direct: int | None = None
    ) -> None:
        """Store all of ``changes`` in order, or nothing, with one flush; note ``sequence`` as the last batch of the
        commit log that is stored, ``direct`` as the last direct write.

        Call :meth:`forget` before. BadChange if one of them cannot be stored, StoreError if the disk could
        not take them.
        """
        try:
            plan = _plan(changes)
            if sequence is not None:
                plan.append((_NOTE_SEQUENCE, [sequence]))
            if direct is not None:
                plan.append((_NOTE_DIRECT, [direct]))
            self._execute(plan)
        except DAMAGE as error:
            if isinstance(error, _BAD_CHANGE):
                raise BadChange(f"the change cannot be stored: {error}") from error
            raise store_error(error, self._path, "write to") from error
        except Exception as error:  # A row of the wrong shape, a number beyond 64 bits, a lone surrogate.
            raise BadChange(f"the change cannot be stored: {type(error).__name__}: {error}") from error
        self._finished = True

    def sequence(self) -> int:
        """The last batch of the commit log that is stored. Raises StoreError."""
        return self._noted("sequence")

    def direct(self) -> int:
        """The number of the last direct write that is stored. Raises StoreError."""
        return self._noted("direct")

    def _noted(self, column: str) -> int:
        try:
            if self.connection.in_transaction:  # an interrupt left it
                self.connection.execute("ROLLBACK")
            found = self.connection.execute(f"SELECT {column} FROM fiskal_commit_log").fetchone()
        except DAMAGE as error:
            raise store_error(error, self._path, "read") from error
        if found is None or type(found[0]) is not int:
            raise StoreError(f"could not read {self._path}: {_ADVICE[sqlite3.SQLITE_CORRUPT]}")
        return found[0]

    def close(self) -> None:
        """Never fails: what mattered was flushed before."""
        try:
            self.connection.close()
        except sqlite3.Error:
            pass

    def _execute(self, plan: Sequence[Statement]) -> None:
        if not plan:
            return
        connection = self.connection
        self._changes_before = connection.total_changes
        if len(plan) == 1:
            connection.execute(*plan[0])
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
            for sql, values in plan:
                connection.execute(sql, values)
            connection.execute("COMMIT")
        except Exception:
            self._changes_before = None
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
