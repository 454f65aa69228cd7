"""The log of one or more TSEs in one place, to be judged as a whole: counters, transactions, time, clients.

A row per message, in a temporary SQLite database that SQLite keeps in memory while it is small and on the disk
when it grows. So archives of any size are judged in constant memory; a large one takes about a sixth of its
size on the disk, in the folder for temporary files.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from fiskal.tse.checking import (
    DEREGISTER,
    DISABLE,
    FINISH,
    REGISTER,
    SHIFT,
    START,
    UPDATE_TIME,
    Result,
    Row,
)
from fiskal.tse.findings import Code, Severity

MAX_TSES: Final = 1000
"""Serial numbers that one verification tells apart; more are no log but an attack."""
MAX_CLIENTS: Final = 10_000
"""Clients whose names are kept."""
MAX_RANGES: Final = 1000
"""Gaps and open transactions that are listed; all are counted."""
_CACHE_KIB: Final = 16 << 10

Note = Callable[[Severity, Code, int, str], None]
"""Takes severity, code, the row of the message that it is about (0 for none) and a text."""

_SCHEMA: Final = """
CREATE TABLE message (
  tse INTEGER, archive INTEGER, counter INTEGER, time INTEGER, kind INTEGER, number INTEGER, client INTEGER,
  digest BLOB, signature INTEGER, name TEXT
);
CREATE TABLE event (message INTEGER, name TEXT, text TEXT);
"""


class Span(NamedTuple):
    """The outline of one TSE's log. Times are ticks; counters as they are."""

    messages: int
    first_counter: int
    last_counter: int
    first_time: int
    last_time: int


class TseEvent(NamedTuple):
    """One system event of a TSE's life."""

    time: int
    counter: int
    name: str
    text: str


class Stretch(NamedTuple):
    """Some of what is missing or open: ``first`` to ``last``, inclusive."""

    first: int
    last: int


class Ledger:
    """Rows of messages. Not to be shared between threads. Close it."""

    def __init__(self) -> None:
        self.serials: dict[bytes, int] = {}
        self.clients: dict[int, str] = {}
        self.refused = 0
        """Rows that were left out, because there were more than :data:`MAX_TSES` serial numbers."""
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = FILE; "
            f"PRAGMA cache_size = -{_CACHE_KIB}; {_SCHEMA}"
        )
        self._rows = 0
        self._indexed = False

    def close(self) -> None:
        self._database.close()

    def add(self, result: Result) -> None:
        """Take in the rows of one piece."""
        for client, key in result.clients.items():
            if len(self.clients) < MAX_CLIENTS:
                self.clients.setdefault(key, client)
        starts: list[int] = []
        """The row before those of each serial number, -1 if they are left out."""
        self._database.execute("BEGIN")
        for serial, rows in zip(result.serials, result.rows, strict=True):
            number = self._number(serial)
            if number < 0:
                self.refused += len(rows)
                starts.append(-1)
                continue
            starts.append(self._rows)
            self._rows += len(rows)
            self._database.executemany(
                f"INSERT INTO message VALUES ({number}, {result.archive}, ?, ?, ?, ?, ?, ?, ?, ?)", rows
            )
        if result.events:
            self._database.executemany(
                "INSERT INTO event VALUES (?, ?, ?)",
                [
                    (starts[serial] + 1 + index, name, text)
                    for serial, index, name, text in result.events
                    if starts[serial] >= 0
                ],
            )
        self._database.execute("COMMIT")

    def _number(self, serial: bytes) -> int:
        number = self.serials.get(serial)
        if number is None:
            if len(self.serials) >= MAX_TSES:
                return -1
            number = self.serials[serial] = len(self.serials)
        return number

    def place(self, row: int) -> tuple[int, str]:
        """Archive and file name of a row."""
        found = self._database.execute("SELECT archive, name FROM message WHERE rowid = ?", (row,)).fetchone()
        return (int(found[0]), str(found[1])) if found else (0, "")

    # ---- one TSE --------------------------------------------------------------------------------

    def span(self, tse: int) -> Span:
        messages, first, last, first_time, last_time = self._database.execute(
            "SELECT count(*), min(counter), max(counter), min(time), max(time) FROM message WHERE tse = ?",
            (tse,),
        ).fetchone()
        return Span(messages, first + SHIFT, last + SHIFT, first_time, last_time)

    def kinds(self, tse: int) -> dict[int, int]:
        """How many messages there are of each kind."""
        return dict(
            self._database.execute("SELECT kind, count(*) FROM message WHERE tse = ? GROUP BY kind", (tse,))
        )

    def transactions_of_clients(self, tse: int) -> list[tuple[int, int, int, int]]:
        """Client, number of its finished transactions, first and last log time; the busiest first."""
        return self._database.execute(
            "SELECT client, sum(kind = ?), min(time), max(time) FROM message "
            "WHERE tse = ? AND kind BETWEEN ? AND ? GROUP BY client ORDER BY 2 DESC, 1 LIMIT 1000",
            (FINISH, tse, START, FINISH),
        ).fetchall()

    def histogram(self, tse: int, start: int, width: int) -> dict[int, int]:
        """Finished transactions in every stretch of ``width`` ticks that begins with ``start``."""
        return dict(
            self._database.execute(
                "SELECT (time - ?) / ?, count(*) FROM message WHERE tse = ? AND kind = ? GROUP BY 1",
                (start, width, tse, FINISH),
            )
        )

    def events(self, tse: int, limit: int) -> list[TseEvent]:
        """The first ``limit`` system events, in the order of their counters."""
        rows = self._database.execute(
            "SELECT time, counter, event.name, text FROM event JOIN message ON message.rowid = event.message "
            "WHERE tse = ? ORDER BY counter LIMIT ?",
            (tse, limit),
        )
        return [TseEvent(time, counter + SHIFT, name, text) for time, counter, name, text in rows]

    def outside(self, tse: int, not_before: int, not_after: int) -> tuple[int, int]:
        """How many messages are not from this time, and the row of the first."""
        count, row = self._database.execute(
            "SELECT count(*), min(rowid) FROM message WHERE tse = ? AND (time < ? OR time > ?)",
            (tse, not_before, not_after),
        ).fetchone()
        return count, row or 0

    # ---- the sequence ---------------------------------------------------------------------------

    def check_sequence(
        self, tse: int, *, whole: bool, filtered: bool, note: Note
    ) -> tuple[int, list[Stretch]]:
        """Check counters, time and clients in the order of the counters.

        Returns the number of gaps and the first of them. ``whole`` says that the log begins with its beginning.
        """
        rows = self._database.execute(
            "SELECT rowid, archive, counter, time, kind, number, client, digest FROM message "
            "WHERE tse = ? ORDER BY counter, rowid",
            (tse,),
        )
        return _Sequence(whole, filtered, note).run(rows)

    def check_transactions(
        self, tse: int, *, whole: bool, filtered: bool, note: Note
    ) -> tuple[int, int, list[int]]:
        """Check the life of every transaction. Returns how many there are, how many are open, and which."""
        rows = self._database.execute(
            "SELECT rowid, counter, kind, number, client FROM message "
            "WHERE tse = ? AND kind BETWEEN ? AND ? ORDER BY number, counter, rowid",
            (tse, START, FINISH),
        )
        return _Transactions(whole, filtered, note).run(rows)

    # ---- matching with a journal ------------------------------------------------------------------

    def index(self) -> None:
        """Prepare for :meth:`find` and :meth:`unmatched`, and for judging many TSEs."""
        if not self._indexed:
            self._database.execute("CREATE INDEX place ON message (tse, counter)")
            self._database.execute("CREATE TABLE matched (message INTEGER PRIMARY KEY)")
            self._indexed = True

    def find(self, serial: bytes, counter: int) -> list[tuple[int, Row]]:
        """The messages of a TSE with this counter: normally one or none; with their row numbers."""
        tse = self.serials.get(serial)
        if tse is None or not 0 <= counter < 2 * SHIFT:
            return []
        rows = self._database.execute(
            "SELECT rowid, counter, time, kind, number, client, digest, signature, name FROM message "
            "WHERE tse = ? AND counter = ?",
            (tse, counter - SHIFT),
        )
        return [(row, Row(*rest)) for row, *rest in rows]

    def match(self, row: int) -> None:
        """Note that the journal has what this row is about."""
        self._database.execute("INSERT OR IGNORE INTO matched VALUES (?)", (row,))

    def unmatched(self, clients: Iterable[int]) -> Iterator[tuple[int, int, int, str]]:
        """Steps of these clients' transactions that were not matched: row, kind, counter, file name."""
        self._database.execute("CREATE TABLE IF NOT EXISTS asked (client INTEGER PRIMARY KEY)")
        self._database.execute("DELETE FROM asked")
        self._database.executemany("INSERT OR IGNORE INTO asked VALUES (?)", [(key,) for key in clients])
        rows = self._database.execute(
            "SELECT min(rowid), kind, counter, name FROM message WHERE kind BETWEEN ? AND ? "
            "AND client IN (SELECT client FROM asked) GROUP BY tse, counter, digest "
            "HAVING max(rowid IN (SELECT message FROM matched)) = 0 ORDER BY tse, counter",
            (START, FINISH),
        )
        for row, kind, counter, name in rows:
            yield row, kind, counter + SHIFT, name


_SequenceRow = tuple[int, int, int, int, int, int, int, bytes]


class _Sequence:
    """Walks through the messages of one TSE in the order of their counters."""

    def __init__(self, whole: bool, filtered: bool, note: Note) -> None:
        self.whole = whole
        self.filtered = filtered
        self.note = note
        self.gaps = 0
        self.ranges: list[Stretch] = []
        self.early_gap = 0
        """The row behind a single counter that is missing among the first three."""
        self.overlapping = 0
        self.registered: set[int] = set()
        self.deregistered: set[int] = set()
        self.registrations = False
        self.complained: set[int] = set()
        self.disabled = False

    def run(self, rows: Iterable[_SequenceRow]) -> tuple[int, list[Stretch]]:
        previous: _SequenceRow | None = None
        latest = 0
        first_counter = 0
        early: list[int] = []
        for row in rows:
            rowid, archive, counter, time, kind, number, client, digest = row
            if len(early) < 3:
                early.append(kind)
            if previous is None:
                first_counter = counter + SHIFT
            else:
                if counter == previous[2]:
                    if digest != previous[7]:
                        text = f"counter {counter + SHIFT}"
                        self.note(Severity.ERROR, Code.COUNTER_DUPLICATE, rowid, text)
                    elif archive == previous[1]:
                        self.note(Severity.WARNING, Code.MESSAGE_TWICE, rowid, f"counter {counter + SHIFT}")
                    else:
                        self.overlapping += 1
                    if digest == previous[7]:
                        continue
                elif counter != previous[2] + 1:
                    self.gap(rowid, previous[2] + 1 + SHIFT, counter - 1 + SHIFT, first_counter)
                if time < latest and UPDATE_TIME not in (kind, previous[4]):
                    self.note(Severity.ERROR, Code.TIME_BACKWARDS, rowid, f"counter {counter + SHIFT}")
            if kind == UPDATE_TIME and number and client:
                self.clock_set(rowid, time, number, client, None if previous is None else previous[3])
            elif kind in (REGISTER, DEREGISTER, DISABLE):
                self.change(kind, client)
            elif START <= kind <= FINISH:
                self.step(rowid, client)
            latest = time
            previous = row
        if self.overlapping:
            self.note(Severity.NOTE, Code.ARCHIVES_OVERLAP, 0, f"{self.overlapping} messages")
        self.judge_early_gap(early)
        return self.gaps, self.ranges

    def gap(self, rowid: int, first: int, last: int, first_counter: int) -> None:
        self.gaps += 1
        if len(self.ranges) < MAX_RANGES:
            self.ranges.append(Stretch(first, last))
        if self.gaps == 1 and first == last and first <= 3 and first_counter == 1:
            self.early_gap = rowid
        else:
            self.tell_gap(rowid, first, last)

    def tell_gap(self, rowid: int, first: int, last: int) -> None:
        if not self.filtered:
            self.note(Severity.ERROR, Code.COUNTER_GAP, rowid, f"{first} to {last}")

    def judge_early_gap(self, early: list[int]) -> None:
        """The request for its certificate may have cost a TSE one of its first three signatures, long before
        its first transaction."""
        if self.early_gap and any(START <= kind <= FINISH for kind in early):
            self.tell_gap(self.early_gap, *self.ranges[0])

    def clock_set(self, rowid: int, time: int, before: int, after: int, previous: int | None) -> None:
        """The clock before cannot lie before the message before; the log time is one of both or between."""
        if previous is not None and before < previous and not self.filtered:
            self.note(
                Severity.WARNING, Code.TIME_UPDATE, rowid, "its time before is earlier than the last message"
            )
        slack = 10_000_000  # logTime has whole seconds, and the clock goes on
        if not min(before, after) - slack <= time <= max(before, after) + 60 * slack:
            self.note(
                Severity.WARNING, Code.TIME_UPDATE, rowid, "logTime is neither its time before nor after"
            )

    def change(self, kind: int, client: int) -> None:
        if kind == DISABLE:
            self.disabled = True
        elif kind == REGISTER:
            self.registrations = True
            if client and len(self.registered) < MAX_CLIENTS:
                self.registered.add(client)
            self.deregistered.discard(client)
        elif client:
            self.registered.discard(client)
            if len(self.deregistered) < MAX_CLIENTS:
                self.deregistered.add(client)

    def step(self, rowid: int, client: int) -> None:
        if self.disabled:
            self.note(Severity.ERROR, Code.AFTER_DISABLE, rowid, "")
        unknown = (
            self.whole
            and self.registrations
            and client not in self.registered
            and len(self.registered) < MAX_CLIENTS
        )
        if (client in self.deregistered or unknown) and client not in self.complained:
            if len(self.complained) < MAX_CLIENTS:
                self.complained.add(client)
            self.note(Severity.WARNING, Code.CLIENT_NOT_REGISTERED, rowid, "")


_TransactionRow = tuple[int, int, int, int, int]


class _Transactions:
    """Walks through the steps of one TSE's transactions, transaction by transaction."""

    def __init__(self, whole: bool, filtered: bool, note: Note) -> None:
        self.whole = whole
        self.filtered = filtered
        self.note = note
        self.count = 0
        self.open_count = 0
        self.open: list[int] = []
        self.next_start = 1 if whole else None

    def run(self, rows: Iterable[_TransactionRow]) -> tuple[int, int, list[int]]:
        number = None
        state = 0  # nothing yet, START while it is open, FINISH
        client = 0
        last_counter = None
        for rowid, counter, kind, shifted, who in rows:
            if shifted != number:
                self.end(number, state)
                number, state, last_counter = shifted, 0, None
                self.count += 1
            if counter == last_counter:
                continue  # a copy, or a duplicate that was reported
            last_counter = counter
            text = f"number {shifted + SHIFT}"
            if state == FINISH:
                self.note(Severity.ERROR, Code.AFTER_FINISH, rowid, text)
                continue
            if kind == START:
                if state == START:
                    self.note(Severity.ERROR, Code.STARTED_TWICE, rowid, text)
                else:
                    self.started(rowid, shifted + SHIFT)
                state, client = START, who
                continue
            if state == 0:
                if self.whole:
                    self.note(Severity.ERROR, Code.NOT_STARTED, rowid, text)
                elif not self.filtered:
                    self.note(Severity.NOTE, Code.STARTED_BEFORE, rowid, text)
                client = who
            elif client != who:
                self.note(Severity.WARNING, Code.OTHER_CLIENT, rowid, text)
            state = FINISH if kind == FINISH else START
        self.end(number, state)
        if self.open_count:
            self.note(Severity.NOTE, Code.OPEN_TRANSACTIONS, 0, f"{self.open_count} transactions")
        return self.count, self.open_count, self.open

    def end(self, number: int | None, state: int) -> None:
        if number is not None and state == START:
            self.open_count += 1
            if len(self.open) < MAX_RANGES:
                self.open.append(number + SHIFT)

    def started(self, rowid: int, number: int) -> None:
        """Numbers are given out before the signature: at the edges of a part they may lie outside of it."""
        if self.next_start is not None and number > self.next_start and not self.filtered:
            text = f"{self.next_start} to {number - 1}"
            self.note(Severity.WARNING, Code.TRANSACTION_NUMBER_GAP, rowid, text)
        self.next_start = number + 1
