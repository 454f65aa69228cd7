"""The tables of a SQLite store and how they came to be.

What a commit costs beyond its flush is the number of pages it changes, so a receipt touches as few B-trees as
can be: the accepted half of its queue item and three indexes, then one row that is its answer and its entry in
the receipt journal, and one index.

Every journal table is append-only under its ``id``: rows of all queues land on the right edge of the same
B-tree, so a group commit of many queues fills few pages. (Clustering the rows by queue splits pages in the
middle of the tree instead; it cost three times the WAL bytes and the time.) An answer has the id of its item,
which a UNIQUE index over the queue and its row finds. Long texts are the last column of their row, so that the
others are read without them. Moments are .NET ticks in INTEGER, amounts exact decimal TEXT, GUIDs TEXT.

The schema changes only by adding a function to :data:`MIGRATIONS`. What was applied is recorded in the table
``fiskal_migration``, in the transaction that applied it.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from fiskal.errors import StoreError

if TYPE_CHECKING:
    from sqlite_utils import Database

APPLICATION_ID: Final = 0x66_73_6B_6C
"""``fskl`` in the header of the file: what tells a fiskal store from any other SQLite database."""

Migration = Callable[["Database"], None]

MIGRATION_TABLE: Final = "fiskal_migration"


def _table(
    db: Database, name: str, columns: str, *, optional: str = "", pk: str | tuple[str, ...] = "id"
) -> None:
    """Create a STRICT table. ``columns`` are ``name:type`` words; those not in ``optional`` are NOT NULL."""
    types: dict[str, Any] = {"int": int, "str": str, "bytes": bytes}
    parsed = {word.split(":")[0]: types[word.split(":")[1]] for word in columns.split()}
    keys = {pk} if isinstance(pk, str) else set()
    not_null = set(parsed) - set(optional.split()) - keys
    db.table(name).create(parsed, pk=pk, not_null=not_null, strict=True)


_ANSWERS: Final = """
CREATE TABLE ftQueueItemAnswer (
    id INTEGER PRIMARY KEY,
    queue_no INTEGER NOT NULL,
    ftWorkMoment INTEGER NOT NULL,
    ftDoneMoment INTEGER NOT NULL,
    responseHash TEXT NOT NULL,
    TimeStamp INTEGER NOT NULL,
    tse_calls TEXT,
    ftReceiptNumber INTEGER,
    ftReceiptJournalId TEXT,
    ftReceiptMoment INTEGER,
    ftReceiptTotal TEXT,
    ftReceiptHash TEXT,
    response TEXT NOT NULL,
    CONSTRAINT answers_an_item CHECK (id > 0),
    CONSTRAINT receipt_or_none CHECK (
        (ftReceiptNumber IS NULL) + (ftReceiptJournalId IS NULL) + (ftReceiptMoment IS NULL)
        + (ftReceiptTotal IS NULL) + (ftReceiptHash IS NULL) IN (0, 5)
    )
) STRICT
"""
"""``id`` is that of the item; who finds no item gives 0. An error answer has no receipt: five NULLs."""


def _create_journals(db: Database) -> None:
    """Version 1: the state of the queues, the journals, the transaction tables."""
    _table(
        db,
        "ftQueue",
        "queue_no:int ftQueueId:str ftCashBoxId:str ftCurrentRow:int ftQueuedRow:int ftReceiptNumerator:int"
        " ftReceiptTotalizer:str ftReceiptHash:str StartMoment:int StopMoment:int CountryCode:str Timeout:int"
        " TimeStamp:int ftSignaturCreationUnitDEId:str CashBoxIdentification:str SSCDFailCount:int"
        " SSCDFailMoment:int SSCDFailQueueItemId:str UsedFailedCount:int UsedFailedMomentMin:int"
        " UsedFailedMomentMax:int UsedFailedQueueItemId:str DailyClosingNumber:int DeTimeStamp:int",
        optional="ftReceiptHash StartMoment StopMoment ftSignaturCreationUnitDEId SSCDFailMoment"
        " SSCDFailQueueItemId UsedFailedMomentMin UsedFailedMomentMax UsedFailedQueueItemId",
        pk="queue_no",
    )
    db.table("ftQueue").create_index(["ftQueueId"], index_name="ftQueue_id", unique=True)

    _table(
        db,
        "ftQueueItem",
        "id:int queue_no:int ftQueueRow:int ftQueueItemId:str ftQueueMoment:int ftQueueTimeout:int"
        " cbReceiptMoment:int cbTerminalID:str cbReceiptReference:str country:str version:str requestHash:str"
        " TimeStamp:int ProcessingVersion:str request_raw_sha256:bytes request:str",
        optional="cbTerminalID cbReceiptReference request_raw_sha256",
    )
    items = db.table("ftQueueItem")
    # The number leads and the queue follows: queues of one host count at a similar pace, so that a group commit
    # of many appends to few pages instead of one page per queue.
    items.create_index(["ftQueueRow", "queue_no"], index_name="ftQueueItem_row", unique=True)
    items.create_index(["ftQueueItemId"], index_name="ftQueueItem_id", unique=True)
    items.create_index(["cbReceiptReference"], index_name="ftQueueItem_reference")

    db.execute(_ANSWERS)
    # TimeStamp leads so that all queues append to one page; queue_no follows so that a journal of one queue
    # skips the entries of the others inside the index.
    db.table("ftQueueItemAnswer").create_index(
        ["TimeStamp", "queue_no"], index_name="ftQueueItemAnswer_TimeStamp"
    )

    _table(
        db,
        "ftActionJournal",
        "id:int ftActionJournalId:str ftQueueId:str ftQueueItemId:str Moment:int Priority:int Type:str"
        " Message:str DataBase64:str DataJson:str TimeStamp:int",
        optional="Type DataBase64 DataJson",
    )
    actions = db.table("ftActionJournal")
    actions.create_index(["ftActionJournalId"], index_name="ftActionJournal_id", unique=True)
    actions.create_index(["ftQueueId", "TimeStamp"], index_name="ftActionJournal_TimeStamp")
    actions.create_index(["Type", "Moment"], index_name="ftActionJournal_Type")

    _table(
        db,
        "OpenTransaction",
        "queue_no:int cbReceiptReference:str TransactionNumber:int StartMoment:int"
        " StartTransactionSignatureBase64:str scu_id:str implicit:int",
        pk=("queue_no", "cbReceiptReference"),
    )
    for name in ("FailedStartTransaction", "FailedFinishTransaction"):
        _table(
            db,
            name,
            "queue_no:int cbReceiptReference:str TransactionNumber:int Moment:int ftQueueItemId:str"
            " CashBoxIdentification:str Request:str scu_id:str",
            optional="TransactionNumber",
            pk=("queue_no", "cbReceiptReference"),
        )
    _table(
        db,
        "ftSignaturCreationUnitDE",
        "ftSignaturCreationUnitDEId:str Url:str TimeStamp:int TseInfoJson:str Mode:int"
        " ModeConfigurationJson:str",
        optional="TseInfoJson ModeConfigurationJson",
        pk="ftSignaturCreationUnitDEId",
    )
    _create_master_data(db)
    # For people and their SQL: the journals as they are shown, in the order of their columns there.
    db.create_view(
        "ftQueueItemJournal",
        "SELECT i.ftQueueItemId, q.ftQueueId, i.ftQueueRow, i.ftQueueMoment, i.ftQueueTimeout,"
        " a.ftWorkMoment, a.ftDoneMoment, i.cbReceiptMoment, i.cbTerminalID, i.cbReceiptReference,"
        " i.country, i.version, i.request, i.requestHash, a.response, a.responseHash,"
        " coalesce(a.TimeStamp, i.TimeStamp) AS TimeStamp, i.ProcessingVersion"
        " FROM ftQueueItem AS i LEFT JOIN ftQueue AS q ON q.queue_no = i.queue_no"
        " LEFT JOIN ftQueueItemAnswer AS a ON a.id = i.id AND a.queue_no = i.queue_no",
    )
    db.create_view(
        "ftReceiptJournal",
        "SELECT a.ftReceiptJournalId, a.ftReceiptMoment, a.ftReceiptNumber, a.ftReceiptTotal, q.ftQueueId,"
        " i.ftQueueItemId, a.ftReceiptHash, a.TimeStamp"
        " FROM ftQueueItemAnswer AS a JOIN ftQueueItem AS i ON i.id = a.id AND i.queue_no = a.queue_no"
        " LEFT JOIN ftQueue AS q ON q.queue_no = a.queue_no WHERE a.ftReceiptNumber IS NOT NULL",
    )


def _create_master_data(db: Database) -> None:
    """Part of version 1: what DSFinV-K asks to know about the business, one row per queue."""
    _table(db, "MasterData", "queue_no:int MasterDataJson:str TimeStamp:int", pk="queue_no")


def _create_journal_de(db: Database) -> None:
    """Version 2: the archived exports of the TSE."""
    _table(
        db,
        "ftJournalDE",
        "id:int ftJournalDEId:str ftQueueId:str ftQueueItemId:str Number:int FileName:str FileExtension:str"
        " TimeStamp:int State:int scu_id:str parts:int zip_bytes:int tar_bytes:int tar_sha256:str erased:int",
        optional="erased",
    )
    exports = db.table("ftJournalDE")
    exports.create_index(["ftJournalDEId"], index_name="ftJournalDE_id", unique=True)
    exports.create_index(["ftQueueId", "TimeStamp"], index_name="ftJournalDE_TimeStamp")
    # In parts, because an export may be larger than memory and than what SQLite takes as one value.
    _table(db, "ftJournalDEPart", "id:int ftJournalDEId:str part:int data:bytes")
    db.table("ftJournalDEPart").create_index(
        ["ftJournalDEId", "part"], index_name="ftJournalDEPart_id", unique=True
    )


def _create_recovery(db: Database) -> None:
    """Version 3: what zero receipts made good, and whose answer carries the signatures of it; starts whose
    answer was lost."""
    _table(
        db,
        "DoubtfulStartTransaction",
        "queue_no:int ftQueueItemId:str cbReceiptReference:str Moment:int CashBoxIdentification:str scu_id:str",
        pk=("queue_no", "ftQueueItemId"),
    )
    _table(
        db,
        "RecoveredTransaction",
        "queue_no:int ftQueueItemId:str cbReceiptReference:str Moment:int Signatures:str tse_calls:str"
        " RecoveredBy:str DeliveredBy:str",
        optional="DeliveredBy",
        pk=("queue_no", "ftQueueItemId"),
    )
    db.execute(
        "CREATE INDEX RecoveredTransaction_undelivered ON RecoveredTransaction (queue_no)"
        " WHERE DeliveredBy IS NULL"
    )


def _create_commit_log(db: Database) -> None:
    """Version 4: how much of the commit log is stored; one row."""
    _table(db, "fiskal_commit_log", "id:int sequence:int")
    db.execute("INSERT INTO fiskal_commit_log VALUES (1, 0)")


def _number_direct_writes(db: Database) -> None:
    """Version 5: the number of the last change that was stored past the commit log."""
    db.execute("ALTER TABLE fiskal_commit_log ADD COLUMN direct INTEGER NOT NULL DEFAULT 0")


MIGRATIONS: Final[tuple[Migration, ...]] = (
    _create_journals,
    _create_journal_de,
    _create_recovery,
    _create_commit_log,
    _number_direct_writes,
)
"""Migration ``n`` of the list leads to version ``n + 1``. Released ones never change."""


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
    (version,) = connection.execute(f"SELECT coalesce(max(version), 0) FROM {MIGRATION_TABLE}").fetchone()
    return int(version)


def migrate(connection: sqlite3.Connection, path: str, migrations: Sequence[Migration]) -> list[int]:
    """Bring the database to the newest version, all in one transaction; the versions applied.

    ``connection`` is in autocommit mode (``isolation_level=None``). An up-to-date database is only read.
    A store written by a newer fiskal is refused with StoreError.
    """
    version = version_of(connection, path)
    if version > len(migrations):
        raise StoreError(
            f"{path} has schema version {version}, this fiskal knows up to {len(migrations)}; install the"
            " fiskal that wrote it, or a newer one"
        )
    if version == len(migrations):
        return []
    # Only needed on this path, and it takes longer to import than a store takes to open.
    from sqlite_utils import Database

    # sqlite-utils joins a transaction that is already open: its own blocks become savepoints and its DDL is
    # not committed. Its insert methods committed behind the caller's back before version 4, so the record is
    # written with plain SQL.
    db = Database(connection, recursive_triggers=False, execute_plugins=False)
    applied = []
    connection.execute("BEGIN IMMEDIATE")
    try:
        if version == 0:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            # Tells this store from others, so that no foreign commit log is taken for its own.
            connection.execute(f"PRAGMA user_version = {secrets.randbelow(1 << 31)}")
            db.table(MIGRATION_TABLE).create({"version": int, "name": str, "applied_at": str}, pk="version")
        for number, migration in enumerate(migrations[version:], version + 1):
            migration(db)
            connection.execute(
                f"INSERT INTO {MIGRATION_TABLE} VALUES (?, ?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))",
                (number, migration.__name__.lstrip("_")),
            )
            applied.append(number)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return applied
