"""Journals and state behind one small interface.

A store holds all queues of a host. It is written in *changes*: a :class:`Change` is everything one step of
one receipt alters. :meth:`Store.submit` takes it in line, and :meth:`Store.flush` makes what waits durable, each
change as a whole or not at all, with one flush of the disk. Moments are .NET ticks, GUIDs lower case text, amounts
exact decimal text. Column names are the reference's, because the journals show them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Protocol

from fiskal.conversation import Durable


class QueueRow(NamedTuple):
    """ftQueue and ftQueueDE of one queue: its whole state. ``queue_no`` is private to the store's rows."""

    queue_no: int
    ftQueueId: str
    ftCashBoxId: str
    ftCurrentRow: int
    ftQueuedRow: int
    ftReceiptNumerator: int
    ftReceiptTotalizer: str
    ftReceiptHash: str | None
    StartMoment: int | None
    StopMoment: int | None
    CountryCode: str
    Timeout: int
    TimeStamp: int
    ftSignaturCreationUnitDEId: str | None
    CashBoxIdentification: str
    SSCDFailCount: int
    SSCDFailMoment: int | None
    SSCDFailQueueItemId: str | None
    UsedFailedCount: int
    UsedFailedMomentMin: int | None
    UsedFailedMomentMax: int | None
    UsedFailedQueueItemId: str | None
    DailyClosingNumber: int
    DeTimeStamp: int


class QueueItemRow(NamedTuple):
    """The accepted half of ftQueueItem, made durable by T1. Immutable afterwards.

    ``request_raw_sha256`` is the hash of the bytes the POS sent, when they were seen.
    """

    queue_no: int
    ftQueueRow: int
    ftQueueItemId: str
    ftQueueMoment: int
    ftQueueTimeout: int
    cbReceiptMoment: int
    cbTerminalID: str | None
    cbReceiptReference: str | None
    country: str
    version: str
    request: str
    requestHash: str
    TimeStamp: int
    ProcessingVersion: str
    request_raw_sha256: bytes | None


class Receipt(NamedTuple):
    """What an answer has that is no error: its entry in the receipt journal."""

    ftReceiptNumber: int
    ftReceiptJournalId: str
    ftReceiptMoment: int
    ftReceiptTotal: str
    ftReceiptHash: str


class AnswerRow(NamedTuple):
    """The answered half of ftQueueItem, written by T2: one answer per item, the item must be stored.
    Immutable afterwards."""

    queue_no: int
    ftQueueRow: int
    ftWorkMoment: int
    ftDoneMoment: int
    response: str
    responseHash: str
    TimeStamp: int
    tse_calls: str | None
    """What the TSE did for the item, ``S7:13:<ticks> F7:14:<ticks>`` (operation and transaction number,
    signature counter, log time); private, lets the journal's check verify start signatures too."""
    receipt: Receipt | None
    """None for an error answer, which gets no number and no place in the chain."""


class ReceiptRow(NamedTuple):
    """ftReceiptJournal, only read: the Receipt of an answer with what its item and its answer say."""

    queue_no: int
    ftReceiptNumber: int
    ftReceiptJournalId: str
    ftReceiptMoment: int
    ftReceiptTotal: str
    ftQueueItemId: str
    ftReceiptHash: str
    TimeStamp: int


class ActionRow(NamedTuple):
    """ftActionJournal."""

    ftActionJournalId: str
    ftQueueId: str
    ftQueueItemId: str
    Moment: int
    Priority: int
    Type: str | None
    Message: str
    DataBase64: str | None
    DataJson: str | None
    TimeStamp: int


class OpenTransactionRow(NamedTuple):
    """A transaction started on the TSE and not finished; key is (queue_no, cbReceiptReference).

    ``implicit`` is 1 for the orphan of an implicit receipt whose finish failed. ``scu_id`` names the TSE the
    number belongs to.
    """

    queue_no: int
    cbReceiptReference: str
    TransactionNumber: int
    StartMoment: int
    StartTransactionSignatureBase64: str
    scu_id: str
    implicit: int


class FailedTransactionRow(NamedTuple):
    """FailedStartTransaction (TransactionNumber None) or FailedFinishTransaction of one reference."""

    queue_no: int
    cbReceiptReference: str
    TransactionNumber: int | None
    Moment: int
    ftQueueItemId: str
    CashBoxIdentification: str
    Request: str
    scu_id: str


class DoubtfulStartRow(NamedTuple):
    """A start whose answer was lost, of a receipt that nobody will finish; key is (queue_no, ftQueueItemId).

    The TSE may have a transaction open for it.
    """

    queue_no: int
    ftQueueItemId: str
    cbReceiptReference: str
    Moment: int
    CashBoxIdentification: str
    scu_id: str


class RecoveredRow(NamedTuple):
    """What a zero receipt made good on the TSE for a receipt of failed mode; key is (queue_no, ftQueueItemId).

    ``ftQueueItemId`` is that receipt, ``RecoveredBy`` the zero receipt that worked, ``DeliveredBy`` the one
    whose answer carries ``Signatures`` (SignaturItems as JSON): None until there is one.
    """

    queue_no: int
    ftQueueItemId: str
    cbReceiptReference: str
    Moment: int
    Signatures: str
    tse_calls: str
    RecoveredBy: str
    DeliveredBy: str | None


class ScuRow(NamedTuple):
    """ftSignaturCreationUnitDE."""

    ftSignaturCreationUnitDEId: str
    Url: str
    TimeStamp: int
    TseInfoJson: str | None
    Mode: int
    ModeConfigurationJson: str | None


class MasterDataRow(NamedTuple):
    """The master data of one queue as one JSON document with the members of MasterDataConfiguration."""

    queue_no: int
    MasterDataJson: str
    TimeStamp: int


class ExportState(enum.IntEnum):
    """How far the archived export of a TSE has come. Journals show it when it is STORED."""

    DUE = 0
    """A receipt asked for it; its file may be there in part."""
    WRITTEN = 1
    """The whole file is stored and was read back. Whether the TSE erased its log is not known."""
    STORED = 2


class JournalDERow(NamedTuple):
    """ftJournalDE: one archived export of a TSE. Its file is stored in parts, see :class:`JournalDEPartRow`.

    The columns behind ``TimeStamp`` are private.
    """

    ftJournalDEId: str
    ftQueueId: str
    ftQueueItemId: str
    Number: int
    FileName: str
    FileExtension: str
    TimeStamp: int
    State: int
    scu_id: str
    """The SCU whose TSE is exported."""
    parts: int
    zip_bytes: int
    tar_bytes: int
    tar_sha256: str
    """Base64 of the checksum the TSE's side agreed to."""
    erased: int | None
    """Whether the TSE erased what is in the file; None if that was never heard."""


class JournalDEPartRow(NamedTuple):
    """A piece of the ZIP file of an export. ``part`` counts from 0; all but the last have the same length."""

    ftJournalDEId: str
    part: int
    data: bytes


class Change:
    """Everything one step alters. All of it becomes durable together, or none of it.

    A list comes into being when it is first looked at, because a sale needs three of them: add to it, never put
    another one in its place.
    """

    __slots__ = (
        "actions",
        "answers",
        "doubtful_starts",
        "doubtful_starts_removed",
        "export_parts",
        "exports",
        "exports_removed",
        "failed_finishes",
        "failed_finishes_removed",
        "failed_starts",
        "failed_starts_removed",
        "is_rare",
        "items",
        "master_data",
        "open_transactions",
        "open_transactions_removed",
        "queues",
        "recovered",
        "scus",
    )

    is_rare: bool
    """It may alter more than a sale does: there is a list beside items, answers and queues."""
    items: list[QueueItemRow]
    answers: list[AnswerRow]
    queues: list[QueueRow]
    """Replaces the stored row of the queue."""
    actions: list[ActionRow]
    open_transactions: list[OpenTransactionRow]
    """Insert or replace by (queue_no, cbReceiptReference)."""
    open_transactions_removed: list[tuple[int, str]]
    """Removed before ``open_transactions`` are inserted; the same holds for the two pairs below."""
    failed_starts: list[FailedTransactionRow]
    failed_starts_removed: list[tuple[int, str]]
    failed_finishes: list[FailedTransactionRow]
    failed_finishes_removed: list[tuple[int, str]]
    doubtful_starts: list[DoubtfulStartRow]
    """Insert or replace by (queue_no, ftQueueItemId)."""
    doubtful_starts_removed: list[tuple[int, str]]
    recovered: list[RecoveredRow]
    """Insert or replace by (queue_no, ftQueueItemId)."""
    scus: list[ScuRow]
    master_data: list[MasterDataRow]
    """Replaces the master data of the queue."""
    exports: list[JournalDERow]
    """Insert or replace by ftJournalDEId."""
    export_parts: list[JournalDEPartRow]
    exports_removed: list[str]
    """Exports that came to nothing; their parts go with them."""

    def __init__(self) -> None:
        self.is_rare = False
        self.items = []
        self.answers = []
        self.queues = []

    def __getattr__(self, name: str) -> Any:
        """The list ``name``, which nobody has looked at yet."""
        if name not in _LISTS:
            raise AttributeError(name)
        made: list[Any] = []
        setattr(self, name, made)
        self.is_rare = True
        return made


_LISTS: Final = frozenset(Change.__slots__) - {"is_rare"}


class StoredItem(NamedTuple):
    """An ftQueueItem as the journal shows it: its accepted half and, once answered, its answer."""

    item: QueueItemRow
    answer: AnswerRow | None


class Store(Protocol):
    """A place for the journals of all queues of one host. All methods may be called from many threads."""

    @property
    def flush_s(self) -> float:
        """What a flush takes on average, in seconds; 0 for a store that has none."""

    def submit(self, change: Change) -> Durable:
        """Take ``change`` in line, never waiting; changes become durable in the order they were submitted in."""

    def flush(self) -> None:
        """Make everything durable that was submitted before, and each of these done, with its error if the store
        refused it. From any thread; who comes while another flushes finds its own done. A refused change never fails
        its neighbours, and never raises here."""

    def commit(self, change: Change) -> None:
        """Submit ``change`` and return when it is durable. Raises StoreError; then nothing of it was stored."""

    def queues(self) -> list[QueueRow]: ...
    def queue(self, queue_id: str) -> QueueRow | None: ...
    def scus(self) -> list[ScuRow]: ...
    def open_transactions(self, queue_no: int) -> list[OpenTransactionRow]: ...
    def failed_starts(self, queue_no: int) -> list[FailedTransactionRow]: ...
    def failed_finishes(self, queue_no: int) -> list[FailedTransactionRow]: ...
    def doubtful_starts(self, queue_no: int) -> list[DoubtfulStartRow]: ...
    def undelivered(self, queue_no: int) -> list[RecoveredRow]:
        """What was made good and stands in no answer yet, oldest first."""

    def master_data(self, queue_no: int) -> MasterDataRow | None: ...

    def item(self, queue_item_id: str) -> StoredItem | None: ...
    def unanswered_items(self, queue_no: int) -> list[QueueItemRow]:
        """Journalled items without an answer, in row order."""

    def items_by_reference(
        self, queue_no: int, reference: str, terminal: str | None, limit: int
    ) -> list[StoredItem]:
        """Answered items of a cbReceiptReference (and terminal, unless None or empty), newest first."""

    def items_before(self, queue_no: int, reference: str, queue_item_id: str, limit: int) -> list[StoredItem]:
        """Answered items of a cbReceiptReference that were accepted before this item, newest first."""

    def iter_items(self, queue_no: int, from_ticks: int = 0, to_ticks: int = 0) -> Iterator[StoredItem]:
        """In TimeStamp order, in constant memory, undisturbed by commits."""

    def iter_items_by_row(self, queue_no: int, after_row: int = 0) -> Iterator[StoredItem]: ...
    def iter_receipts(
        self, queue_no: int, from_ticks: int = 0, to_ticks: int = 0
    ) -> Iterator[ReceiptRow]: ...
    def iter_receipts_by_number(self, queue_no: int) -> Iterator[ReceiptRow]:
        """In the order of the rows they answer, which is that of their numbers."""

    def iter_actions(self, queue_id: str, from_ticks: int = 0, to_ticks: int = 0) -> Iterator[ActionRow]: ...
    def last_action(self, queue_id: str, *types: str) -> ActionRow | None:
        """The action journal entry of one of these Types that was stored last, None if there is none."""

    def count_actions(self, queue_id: str) -> int:
        """How many entries the action journal of a queue has."""

    def iter_exports(
        self, queue_id: str, from_ticks: int = 0, to_ticks: int = 0
    ) -> Iterator[JournalDERow]: ...
    def unfinished_exports(self, queue_id: str) -> list[JournalDERow]:
        """The exports of a queue that are not STORED, oldest first."""

    def count_exports(self, queue_id: str) -> int:
        """How many exports of a queue are STORED."""

    def export_part(self, journal_de_id: str, part: int) -> bytes | None:
        """One piece of the file of an export, None if there is none."""

    def close(self) -> None: ...
