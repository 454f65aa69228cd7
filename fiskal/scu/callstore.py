"""The memory of calls for TSEs that have none: which call was sent, and what was answered.

One SQLite file per SCU in WAL mode with ``synchronous=FULL``; what :meth:`CallStore.sent` wrote is on disk
before the TSE is asked.
"""

from __future__ import annotations

import enum
import logging
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import msgspec

from fiskal.errors import StoreError
from fiskal.scu.driver import Call, Signed
from fiskal.scu.errors import Misconfigured

log = logging.getLogger(__name__)


class CallState(enum.StrEnum):
    """What is known of a call that was begun."""

    SENT = "SENT"
    DONE = "DONE"
    UNKNOWN = "UNKNOWN"
    FAILED_SAFE = "FAILED_SAFE"


class StoredCall(msgspec.Struct, frozen=True):
    """The latest execution of a key. ``signed`` is given if it is DONE."""

    generation: int
    state: CallState
    request_sha256: bytes
    open_before: frozenset[int] | None
    signed: Signed | None


class CallStore(Protocol):
    """Used by one thread at a time. Every method raises :class:`fiskal.errors.StoreError`."""

    def bind(self, tse_serial: str) -> None:
        """Tie the store to one TSE. Raises ``Misconfigured`` WRONG_TSE if it belongs to another."""
        ...

    def open_transactions(self) -> Mapping[int, tuple[str | None, int | None]]:
        """The transactions started through this store and not finished: number to client, start time."""
        ...

    def latest(self, call: Call) -> StoredCall | None:
        """The latest execution of the key (op, client, queue item, number) of ``call``."""
        ...

    def sent(self, call: Call, request_sha256: bytes, open_before: frozenset[int] | None) -> None:
        """Note, durably, that ``call`` is about to be sent."""
        ...

    def failed(self, call: Call, state: CallState) -> None:
        """Note that a call has no answer: UNKNOWN or FAILED_SAFE (certainly not executed)."""
        ...

    def done(self, call: Call, signed: Signed) -> None:
        """Note the answer of a call, and what it opened or closed."""
        ...

    def track(self, call: Call, signed: Signed) -> None:
        """Note what a call without a queue item opened or closed."""
        ...

    def close(self) -> None: ...


_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS scu_call(
  op TEXT NOT NULL CHECK(op IN('start','update','finish')),
  client_id TEXT NOT NULL, queue_item_id TEXT NOT NULL, transaction_number INTEGER NOT NULL,
  generation INTEGER NOT NULL DEFAULT 0,
  state TEXT NOT NULL CHECK(state IN('SENT','DONE','UNKNOWN','FAILED_SAFE')),
  vendor_tx_id TEXT, revision INTEGER, pre_open_numbers TEXT,
  request_sha256 BLOB NOT NULL, request_json TEXT NOT NULL, response_json TEXT,
  delivered INTEGER NOT NULL DEFAULT 0,
  created_utc TEXT NOT NULL, updated_utc TEXT NOT NULL,
  PRIMARY KEY(op, client_id, queue_item_id, transaction_number, generation));
CREATE TABLE IF NOT EXISTS scu_open_tx(
  transaction_number INTEGER PRIMARY KEY, client_id TEXT NOT NULL, start_time_utc TEXT NOT NULL,
  vendor_tx_id TEXT, latest_revision INTEGER, queue_item_id TEXT, origin TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS scu_meta(key TEXT PRIMARY KEY, value TEXT);
"""
_KEY: Final = "op=? AND client_id=? AND queue_item_id=? AND transaction_number=?"


class SqliteCallStore:
    """The :class:`CallStore` in one SQLite file.

    A file that is no database any more is put aside as ``*.damaged`` with a warning and begun anew: the
    loss of the store must never block signing. ``start_time_utc`` holds ticks as text, which keep the
    seventh digit.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) or not path.exists():
                raise StoreError(f"The call store {path} cannot be opened: {error}.") from error
            damaged = path.with_suffix(path.suffix + ".damaged")
            log.warning("the call store %s is damaged (%s); it becomes %s", path, error, damaged.name)
            path.replace(damaged)
            for suffix in ("-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(_SCHEMA)
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _write(self, *statements: tuple[str, tuple[object, ...]]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for sql, parameters in statements:
                    self._db.execute(sql, parameters)
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
        except (sqlite3.Error, OverflowError) as error:
            raise StoreError(f"The call store {self._path} cannot be written: {error}.") from error

    def _read(self, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        try:
            return self._db.execute(sql, parameters).fetchall()
        except (sqlite3.Error, OverflowError) as error:
            raise StoreError(f"The call store {self._path} cannot be read: {error}.") from error

    def bind(self, tse_serial: str) -> None:
        rows = self._read("SELECT value FROM scu_meta WHERE key='tse_serial'")
        if not rows:
            self._write(
                ("INSERT INTO scu_meta VALUES('schema_version','1')", ()),
                ("INSERT INTO scu_meta VALUES('tse_serial',?)", (tse_serial,)),
            )
        elif rows[0][0] != tse_serial:
            raise Misconfigured(
                "WRONG_TSE",
                f"The call store {self._path} belongs to TSE {rows[0][0]}, but {tse_serial} is connected.",
            )

    def open_transactions(self) -> dict[int, tuple[str | None, int | None]]:
        rows = self._read("SELECT transaction_number, client_id, start_time_utc FROM scu_open_tx")
        return {int(str(number)): (str(client_id), int(str(start))) for number, client_id, start in rows}

    def answered_counter(self, transaction_number: int) -> int:
        """The greatest signatureCounter an update of this transaction was answered with; 0 without any.

        For drivers that look a lost update up in the log: one behind it is the lost one.
        """
        rows = self._read(
            "SELECT response_json FROM scu_call WHERE op='update' AND transaction_number=? AND state='DONE'",
            (transaction_number,),
        )
        answered = (msgspec.json.decode(str(row[0]), type=Signed) for row in rows if row[0] is not None)
        return max((signed.signature_counter for signed in answered), default=0)

    def latest(self, call: Call) -> StoredCall | None:
        rows = self._read(
            "SELECT generation, state, request_sha256, pre_open_numbers, response_json FROM scu_call "
            f"WHERE {_KEY} ORDER BY generation DESC LIMIT 1",
            _key(call),
        )
        if not rows:
            return None
        generation, state, sha256, open_before, response = rows[0]
        return StoredCall(
            generation=int(str(generation)),
            state=CallState(str(state)),
            request_sha256=bytes(sha256) if isinstance(sha256, bytes) else b"",
            open_before=None
            if open_before is None
            else msgspec.json.decode(str(open_before), type=frozenset[int]),
            signed=None if response is None else msgspec.json.decode(str(response), type=Signed),
        )

    def sent(self, call: Call, request_sha256: bytes, open_before: frozenset[int] | None) -> None:
        moment = _utc()
        self._write(
            (
                "INSERT OR REPLACE INTO scu_call(op, client_id, queue_item_id, transaction_number,"
                " generation, state, pre_open_numbers, request_sha256, request_json, created_utc,"
                " updated_utc) VALUES(?,?,?,?,?,'SENT',?,?,?,?,?)",
                (
                    *_key(call),
                    call.generation,
                    None if open_before is None else msgspec.json.encode(sorted(open_before)).decode(),
                    request_sha256,
                    msgspec.json.encode(call).decode(),
                    moment,
                    moment,
                ),
            )
        )

    def failed(self, call: Call, state: CallState) -> None:
        self._write(
            (
                f"UPDATE scu_call SET state=?, updated_utc=? WHERE {_KEY} AND generation=?",
                (state.value, _utc(), *_key(call), call.generation),
            )
        )

    def done(self, call: Call, signed: Signed) -> None:
        self._write(
            (
                "UPDATE scu_call SET state='DONE', response_json=?, delivered=1, updated_utc=? "
                f"WHERE {_KEY} AND generation=?",
                (msgspec.json.encode(signed).decode(), _utc(), *_key(call), call.generation),
            ),
            *_tracking(call, signed),
        )

    def track(self, call: Call, signed: Signed) -> None:
        self._write(*_tracking(call, signed))

    def close(self) -> None:
        self._db.close()


def _key(call: Call) -> tuple[object, ...]:
    return call.op, call.client_id, call.queue_item_id, call.transaction_number


def _tracking(call: Call, signed: Signed) -> tuple[tuple[str, tuple[object, ...]], ...]:
    if call.op == "start":
        return (
            (
                "INSERT OR REPLACE INTO scu_open_tx(transaction_number, client_id, start_time_utc,"
                " queue_item_id, origin) VALUES(?,?,?,?,'own')",
                (signed.transaction_number, call.client_id, str(signed.time_stamp), call.queue_item_id),
            ),
        )
    if call.op == "finish":
        return (("DELETE FROM scu_open_tx WHERE transaction_number=?", (call.transaction_number,)),)
    return ()


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
