"""The tables of a SQLite store.

What a commit costs beyond its flush is the number of pages it changes. T1 therefore appends one row to a table without
an index. T2 appends one row too: the answer, which carries the keys of its item, the entry of the receipt journal, the
totalizer and all four indexes. ``ftQueue`` is written when more than its counters change; the counters come from the
newest rows (:class:`fiskal.store.reading.SqliteReader`).

Rows of all queues land on the right edge of the same B-trees, so a commit of many queues fills few pages. For this a
row's ``id`` counts through the whole store, GUIDs are stored as 16 bytes that begin with their time
(:func:`fiskal.queue.ids.new_guid`), and indexes lead with the row number or the TimeStamp and not with the queue.

An item without an answer is in no index. ``fiskal_mark`` bounds the search for it: every item up to ``answered_below``
has an answer, but those that ``fiskal_unanswered`` names. The mark is moved every few hundred answers, and what
``ftQueue`` lacks is then written too. Items beyond the mark are the *tail*.

Long texts are the last column of their row, so that the others are read without them. Moments are .NET ticks in
INTEGER, amounts exact decimal TEXT. GUIDs are TEXT in the tables that a receipt does not touch.
"""

from __future__ import annotations

import secrets
import sqlite3
from typing import Final

from fiskal.errors import StoreError

APPLICATION_ID: Final = 0x66_73_6B_6C
"""``fskl`` in the header of the file: what tells a fiskal store from any other SQLite database."""

VERSION: Final = 6
"""Of the schema. Older ones are brought up to date by :mod:`fiskal.store.migration`."""

JOURNALS: Final = """
CREATE TABLE ftQueueItem (
    id INTEGER PRIMARY KEY, queue_no INTEGER NOT NULL, ftQueueRow INTEGER NOT NULL, ftQueueItemId BLOB NOT NULL,
    ftQueueMoment INTEGER NOT NULL, ftQueueTimeout INTEGER NOT NULL, cbReceiptMoment INTEGER NOT NULL,
    cbTerminalID TEXT, cbReceiptReference TEXT, country TEXT NOT NULL, version TEXT NOT NULL,
    requestHash TEXT NOT NULL, TimeStamp INTEGER NOT NULL, ProcessingVersion TEXT NOT NULL, request_raw_sha256 BLOB,
    request TEXT NOT NULL, CONSTRAINT a_guid CHECK (length(ftQueueItemId) = 16)
) STRICT;
CREATE TABLE ftQueueItemAnswer (
    id INTEGER PRIMARY KEY, queue_no INTEGER NOT NULL, ftQueueRow INTEGER NOT NULL, ftQueueItemId BLOB NOT NULL,
    cbReceiptReference TEXT, ftWorkMoment INTEGER NOT NULL, ftDoneMoment INTEGER NOT NULL, responseHash TEXT NOT NULL,
    TimeStamp INTEGER NOT NULL, tse_calls TEXT, ftReceiptNumber INTEGER, ftReceiptJournalId BLOB,
    ftReceiptMoment INTEGER, ftReceiptTotal TEXT, ftReceiptHash TEXT, ftReceiptTotalizer TEXT, response TEXT NOT NULL,
    CONSTRAINT receipt_or_none CHECK (
        (ftReceiptNumber IS NULL) + (ftReceiptJournalId IS NULL) + (ftReceiptMoment IS NULL)
        + (ftReceiptTotal IS NULL) + (ftReceiptHash IS NULL) IN (0, 5)
    )
) STRICT;
CREATE TABLE ftActionJournal (
    id INTEGER PRIMARY KEY, ftActionJournalId TEXT NOT NULL, ftQueueId TEXT NOT NULL, ftQueueItemId TEXT NOT NULL,
    Moment INTEGER NOT NULL, Priority INTEGER NOT NULL, Type TEXT, Message TEXT NOT NULL, DataBase64 TEXT,
    DataJson TEXT, TimeStamp INTEGER NOT NULL
) STRICT;
CREATE TABLE ftJournalDE (
    id INTEGER PRIMARY KEY, ftJournalDEId TEXT NOT NULL, ftQueueId TEXT NOT NULL, ftQueueItemId TEXT NOT NULL,
    Number INTEGER NOT NULL, FileName TEXT NOT NULL, FileExtension TEXT NOT NULL, TimeStamp INTEGER NOT NULL,
    State INTEGER NOT NULL, scu_id TEXT NOT NULL, parts INTEGER NOT NULL, zip_bytes INTEGER NOT NULL,
    tar_bytes INTEGER NOT NULL, tar_sha256 TEXT NOT NULL, erased INTEGER
) STRICT;
CREATE TABLE ftJournalDEPart (
    id INTEGER PRIMARY KEY, ftJournalDEId TEXT NOT NULL, part INTEGER NOT NULL, data BLOB NOT NULL
) STRICT;
"""
"""Append-only, and as large as the past. The answer has the ``id`` of its item. ``ftReceiptTotalizer`` says that the
counters of the queue after this answer are in it and not in ``ftQueue``. The file of an export is stored in parts,
because it may be larger than memory and than what SQLite takes as one value."""

INDEXES: Final = """
CREATE UNIQUE INDEX ftQueueItemAnswer_row ON ftQueueItemAnswer (ftQueueRow, queue_no);
CREATE UNIQUE INDEX ftQueueItemAnswer_id ON ftQueueItemAnswer (ftQueueItemId);
CREATE INDEX ftQueueItemAnswer_reference ON ftQueueItemAnswer (cbReceiptReference);
CREATE INDEX ftQueueItemAnswer_TimeStamp ON ftQueueItemAnswer (TimeStamp, queue_no);
CREATE UNIQUE INDEX ftActionJournal_id ON ftActionJournal (ftActionJournalId);
CREATE INDEX ftActionJournal_TimeStamp ON ftActionJournal (ftQueueId, TimeStamp);
CREATE INDEX ftActionJournal_Type ON ftActionJournal (Type, Moment);
CREATE UNIQUE INDEX ftJournalDE_id ON ftJournalDE (ftJournalDEId);
CREATE INDEX ftJournalDE_TimeStamp ON ftJournalDE (ftQueueId, TimeStamp);
CREATE UNIQUE INDEX ftJournalDEPart_id ON ftJournalDEPart (ftJournalDEId, part);
"""

_FAILED: Final = """
CREATE TABLE {} (
    queue_no INTEGER NOT NULL, cbReceiptReference TEXT NOT NULL, TransactionNumber INTEGER, Moment INTEGER NOT NULL,
    ftQueueItemId TEXT NOT NULL, CashBoxIdentification TEXT NOT NULL, Request TEXT NOT NULL, scu_id TEXT NOT NULL,
    PRIMARY KEY (queue_no, cbReceiptReference)
) STRICT;
"""

STATE: Final = (
    """
CREATE TABLE ftQueue (
    queue_no INTEGER PRIMARY KEY, ftQueueId TEXT NOT NULL, ftCashBoxId TEXT NOT NULL, ftCurrentRow INTEGER NOT NULL,
    ftQueuedRow INTEGER NOT NULL, ftReceiptNumerator INTEGER NOT NULL, ftReceiptTotalizer TEXT NOT NULL,
    ftReceiptHash TEXT, StartMoment INTEGER, StopMoment INTEGER, CountryCode TEXT NOT NULL, Timeout INTEGER NOT NULL,
    TimeStamp INTEGER NOT NULL, ftSignaturCreationUnitDEId TEXT, CashBoxIdentification TEXT NOT NULL,
    SSCDFailCount INTEGER NOT NULL, SSCDFailMoment INTEGER, SSCDFailQueueItemId TEXT,
    UsedFailedCount INTEGER NOT NULL, UsedFailedMomentMin INTEGER, UsedFailedMomentMax INTEGER,
    UsedFailedQueueItemId TEXT, DailyClosingNumber INTEGER NOT NULL, DeTimeStamp INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX ftQueue_id ON ftQueue (ftQueueId);
CREATE TABLE OpenTransaction (
    queue_no INTEGER NOT NULL, cbReceiptReference TEXT NOT NULL, TransactionNumber INTEGER NOT NULL,
    StartMoment INTEGER NOT NULL, StartTransactionSignatureBase64 TEXT NOT NULL, scu_id TEXT NOT NULL,
    implicit INTEGER NOT NULL, PRIMARY KEY (queue_no, cbReceiptReference)
) STRICT;
"""
    + _FAILED.format("FailedStartTransaction")
    + _FAILED.format("FailedFinishTransaction")
    + """
CREATE TABLE DoubtfulStartTransaction (
    queue_no INTEGER NOT NULL, ftQueueItemId TEXT NOT NULL, cbReceiptReference TEXT NOT NULL,
    Moment INTEGER NOT NULL, CashBoxIdentification TEXT NOT NULL, scu_id TEXT NOT NULL,
    PRIMARY KEY (queue_no, ftQueueItemId)
) STRICT;
CREATE TABLE RecoveredTransaction (
    queue_no INTEGER NOT NULL, ftQueueItemId TEXT NOT NULL, cbReceiptReference TEXT NOT NULL,
    Moment INTEGER NOT NULL, Signatures TEXT NOT NULL, tse_calls TEXT NOT NULL, RecoveredBy TEXT NOT NULL,
    DeliveredBy TEXT, PRIMARY KEY (queue_no, ftQueueItemId)
) STRICT;
CREATE INDEX RecoveredTransaction_undelivered ON RecoveredTransaction (queue_no) WHERE DeliveredBy IS NULL;
CREATE TABLE ftSignaturCreationUnitDE (
    ftSignaturCreationUnitDEId TEXT PRIMARY KEY, Url TEXT NOT NULL, TimeStamp INTEGER NOT NULL, TseInfoJson TEXT,
    Mode INTEGER NOT NULL, ModeConfigurationJson TEXT
) STRICT;
CREATE TABLE MasterData (
    queue_no INTEGER PRIMARY KEY, MasterDataJson TEXT NOT NULL, TimeStamp INTEGER NOT NULL
) STRICT;
CREATE TABLE fiskal_mark (id INTEGER PRIMARY KEY CHECK (id = 1), answered_below INTEGER NOT NULL) STRICT;
INSERT INTO fiskal_mark VALUES (1, 0);
CREATE TABLE fiskal_unanswered (id INTEGER PRIMARY KEY) STRICT;
CREATE TABLE fiskal_migration (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL) STRICT;
"""
)


def _guid_text(column: str) -> str:
    groups = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
    return " || '-' || ".join(f"lower(substr(hex({column}), {at}, {size}))" for at, size in groups)


VIEWS: Final = f"""
CREATE VIEW ftQueueItemJournal AS
    SELECT {_guid_text("i.ftQueueItemId")} AS ftQueueItemId, q.ftQueueId, i.ftQueueRow, i.ftQueueMoment,
    i.ftQueueTimeout, a.ftWorkMoment, a.ftDoneMoment, i.cbReceiptMoment, i.cbTerminalID, i.cbReceiptReference,
    i.country, i.version, i.request, i.requestHash, a.response, a.responseHash,
    coalesce(a.TimeStamp, i.TimeStamp) AS TimeStamp, i.ProcessingVersion
    FROM ftQueueItem AS i LEFT JOIN ftQueue AS q ON q.queue_no = i.queue_no
    LEFT JOIN ftQueueItemAnswer AS a ON a.id = i.id AND a.queue_no = i.queue_no;
CREATE VIEW ftReceiptJournal AS
    SELECT {_guid_text("a.ftReceiptJournalId")} AS ftReceiptJournalId, a.ftReceiptMoment, a.ftReceiptNumber,
    a.ftReceiptTotal, q.ftQueueId, {_guid_text("a.ftQueueItemId")} AS ftQueueItemId, a.ftReceiptHash, a.TimeStamp
    FROM ftQueueItemAnswer AS a LEFT JOIN ftQueue AS q ON q.queue_no = a.queue_no
    WHERE a.ftReceiptNumber IS NOT NULL;
"""
"""For people and their SQL: the journals as they are shown, in the order of their columns there."""

TAIL: Final = (
    "tail(id) AS (SELECT id FROM ftQueueItem WHERE id > (SELECT answered_below FROM fiskal_mark)"
    " UNION ALL SELECT id FROM fiskal_unanswered)"
)
"""The items that may lack an answer, and those whose answer may be ahead of ``ftQueue``."""


def version_of(connection: sqlite3.Connection, path: str) -> int:
    """The schema version of an open database; 0 for an empty file. StoreError if it is no fiskal store."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if objects == 0:
        return 0
    if application_id != APPLICATION_ID:
        raise StoreError(
            f"{path} is a SQLite database but not a fiskal store; give the path of another file, it was not"
            " touched"
        )
    (version,) = connection.execute("SELECT coalesce(max(version), 0) FROM fiskal_migration").fetchone()
    if version > VERSION:
        raise StoreError(
            f"{path} has schema version {version}, this fiskal knows up to {VERSION}; install the fiskal that wrote"
            " it, or a newer one"
        )
    return int(version)


def execute_all(connection: sqlite3.Connection, script: str) -> None:
    """Execute the statements of a script inside the open transaction; ``executescript`` would commit it."""
    for statement in script.split(";\n"):
        if statement.strip():
            connection.execute(statement)


def note_version(connection: sqlite3.Connection, name: str) -> None:
    """Note, in the open transaction, that the schema is that of this version."""
    connection.execute(
        "INSERT INTO fiskal_migration VALUES (?, ?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))", (VERSION, name)
    )


def create(connection: sqlite3.Connection) -> None:
    """Make an empty database, open in autocommit mode, a store of this version, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        # Tells this store from others, as what belongs to it must be told from what lies beside it.
        connection.execute(f"PRAGMA user_version = {secrets.randbelow(1 << 31)}")
        execute_all(connection, JOURNALS + INDEXES + STATE + VIEWS)
        note_version(connection, "create")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
