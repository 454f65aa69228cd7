"""Writing: one batch of changes is one SQL statement on one connection.

Under the GIL every step of a statement gives the interpreter away and queues for it again, so that a busy
process pays for the *number* of statements, not for their work. Therefore all rows of a batch go through one
``INSERT`` into a temporary view, whose triggers put each row where it belongs, in the order given. One
statement outside a transaction is a transaction of its own: it locks, writes, flushes the WAL and lets go
inside one call, and no interrupt can ever find a transaction open.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from fiskal.errors import StoreError
from fiskal.store.interface import (
    ActionRow,
    AnswerRow,
    Change,
    FailedTransactionRow,
    OpenTransactionRow,
    QueueItemRow,
    QueueRow,
    ReceiptRow,
    ScuRow,
)

MAX_STATEMENT_ROWS: Final = 1024
"""Rows of one statement; 25 values each stay below the 32766 SQLite allows. More take several statements."""

_WIDTH: Final = max(len(QueueRow._fields), len(QueueItemRow._fields))

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


def _values(count: int) -> str:
    return ", ".join(f"new.c{number}" for number in range(count))


def _insert(table: str, row: Any) -> str:
    return f"INSERT INTO {table} ({', '.join(row._fields)}) SELECT {_values(len(row._fields))}"


def _replace(table: str, row: Any) -> str:
    return f"INSERT OR REPLACE INTO {table} ({', '.join(row._fields)}) SELECT {_values(len(row._fields))}"


def _delete(table: str) -> str:
    return f"DELETE FROM {table} WHERE queue_no = new.c0 AND cbReceiptReference = new.c1"


def _replace_queue() -> str:
    # ON CONFLICT, not REPLACE: the index of ftQueueId stays untouched. A row that comes with the id of
    # another queue sets NULL and fails by that, as does an id that is stored under another number.
    changes = ", ".join(f"{name} = excluded.{name}" for name in QueueRow._fields[3:])
    return (
        f"{_insert('ftQueue', QueueRow)} WHERE true ON CONFLICT (queue_no) DO UPDATE SET {changes},"
        " ftCashBoxId = CASE WHEN ftQueueId = excluded.ftQueueId THEN excluded.ftCashBoxId END"
    )


def _insert_answer() -> str:
    # An answer without its item sets ftQueueRow to NULL and fails by that.
    found = "(SELECT ftQueueRow FROM ftQueueItem WHERE queue_no = new.c0 AND ftQueueRow = new.c1)"
    rest = ", ".join(f"new.c{number}" for number in range(2, len(AnswerRow._fields)))
    return f"INSERT INTO ftQueueItemAnswer ({', '.join(AnswerRow._fields)}) SELECT new.c0, {found}, {rest}"


_KINDS: Final[tuple[tuple[str, str], ...]] = (
    ("items", _insert("ftQueueItem", QueueItemRow)),
    ("answers", _insert_answer()),
    ("receipts", _insert("ftReceiptJournal", ReceiptRow)),
    ("queues", _replace_queue()),
    ("actions", _insert("ftActionJournal", ActionRow)),
    ("open_transactions_removed", _delete("OpenTransaction")),
    ("open_transactions", _replace("OpenTransaction", OpenTransactionRow)),
    ("failed_starts_removed", _delete("FailedStartTransaction")),
    ("failed_starts", _replace("FailedStartTransaction", FailedTransactionRow)),
    ("failed_finishes_removed", _delete("FailedFinishTransaction")),
    ("failed_finishes", _replace("FailedFinishTransaction", FailedTransactionRow)),
    ("scus", _replace("ftSignaturCreationUnitDE", ScuRow)),
)
"""What a row can be: the list of a change that has such rows, and the statement that stores one.

The order is that in which a change is carried out."""

_NO_KIND: Final = -1
_PADDING: Final = tuple((None,) * (_WIDTH - used) for used in range(_WIDTH + 1))
_ROW_SQL: Final = f"({', '.join('?' * (_WIDTH + 1))})"
_PADDING_ROW: Final = (_NO_KIND, *_PADDING[0])


def _statement(rows: int) -> str:
    return f"INSERT INTO temp.fiskal_change VALUES {', '.join([_ROW_SQL] * rows)}"


def _rounded(rows: int) -> int:
    """Few different statements, so that each is prepared once: exact up to 8, then in steps of 8."""
    return rows if rows <= 8 else (rows + 7) // 8 * 8


_STATEMENTS: Final = {
    rows: _statement(rows) for rows in sorted({_rounded(n) for n in range(1, MAX_STATEMENT_ROWS + 1)})
}


def _flatten(changes: Sequence[Change]) -> tuple[list[Any], int]:
    """All rows of ``changes`` as the values of one statement, and how many rows they are."""
    values: list[Any] = []
    rows = 0
    for change in changes:
        for kind, (name, _) in enumerate(_KINDS):
            for row in getattr(change, name):
                values.append(kind)
                values += row
                values += _PADDING[len(row)]
                rows += 1
    return values, rows


class Writer:
    """The writing connection. Not thread-safe: its user holds the role of the leader.

    ``stored`` tells whether the last :meth:`write` reached the disk, also when it was left by an interrupt.
    """

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self.connection = connection
        self._path = path
        self._changes_before: int | None = None
        self._finished = False
        columns = ", ".join(f"NULL AS c{number}" for number in range(_WIDTH))
        connection.execute(f"CREATE TEMP VIEW fiskal_change AS SELECT NULL AS kind, {columns}")
        for kind, (_, statement) in enumerate(_KINDS):
            connection.execute(
                f"CREATE TEMP TRIGGER fiskal_change_{kind} INSTEAD OF INSERT ON fiskal_change"
                f" WHEN new.kind = {kind} BEGIN {statement}; END"
            )

    @property
    def stored(self) -> bool:
        """Whether the last write is on the disk. Ends a transaction an interrupt left open."""
        if self._finished or self._changes_before is None:
            return self._finished
        if self.connection.in_transaction:
            self._changes_before = None
            self.connection.execute("ROLLBACK")
            return False
        # An interrupt raised between SQLite's success and the next bytecode: only SQLite knows.
        return self.connection.total_changes != self._changes_before

    def forget(self) -> None:
        """Let ``stored`` speak of the next write and no longer of the last one."""
        self._finished = False
        self._changes_before = None

    def write(self, changes: Sequence[Change]) -> None:
        """Store all of ``changes`` in order, or nothing, with one flush.

        Call :meth:`forget` before. BadChange if one of them cannot be stored, StoreError if the disk could
        not take them.
        """
        try:
            values, rows = _flatten(changes)
            if rows <= MAX_STATEMENT_ROWS:
                self._write_one(values, rows)
            else:
                self._write_many(values, rows)
        except DAMAGE as error:
            if isinstance(error, _BAD_CHANGE):
                raise BadChange(f"the change cannot be stored: {error}") from error
            raise store_error(error, self._path, "write to") from error
        except Exception as error:  # A row of the wrong shape, a number beyond 64 bits, a lone surrogate.
            raise BadChange(f"the change cannot be stored: {type(error).__name__}: {error}") from error
        self._finished = True

    def close(self) -> None:
        """Never fails: what mattered was flushed before."""
        try:
            self.connection.close()
        except sqlite3.Error:
            pass

    def _write_one(self, values: list[Any], rows: int) -> None:
        if rows == 0:
            return
        rounded = _rounded(rows)
        values += _PADDING_ROW * (rounded - rows)
        self._changes_before = self.connection.total_changes
        self.connection.execute(_STATEMENTS[rounded], values)

    def _write_many(self, values: list[Any], rows: int) -> None:
        step = MAX_STATEMENT_ROWS * (_WIDTH + 1)
        self._changes_before = self.connection.total_changes
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            for start in range(0, len(values), step):
                part = values[start : start + step]
                self.connection.execute(_statement(len(part) // (_WIDTH + 1)), part)
            self.connection.execute("COMMIT")
        except Exception:
            self._changes_before = None
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise
