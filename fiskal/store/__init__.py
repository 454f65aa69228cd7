"""Journals and state: the Store interface, its SQLite implementation and one that stores nothing."""

from __future__ import annotations

import os

from fiskal.store.interface import (
    ActionRow,
    AnswerRow,
    Change,
    DoubtfulStartRow,
    ExportState,
    FailedTransactionRow,
    JournalDEPartRow,
    JournalDERow,
    MasterDataRow,
    OpenTransactionRow,
    QueueItemRow,
    QueueRow,
    Receipt,
    ReceiptRow,
    RecoveredRow,
    ScuRow,
    Store,
    StoredItem,
)
from fiskal.store.null import NullStore
from fiskal.store.sqlite import SqliteReader, SqliteStore

__all__ = [
    "ActionRow",
    "AnswerRow",
    "Change",
    "DoubtfulStartRow",
    "ExportState",
    "FailedTransactionRow",
    "JournalDEPartRow",
    "JournalDERow",
    "MasterDataRow",
    "NullStore",
    "OpenTransactionRow",
    "QueueItemRow",
    "QueueRow",
    "Receipt",
    "ReceiptRow",
    "RecoveredRow",
    "ScuRow",
    "SqliteReader",
    "SqliteStore",
    "Store",
    "StoredItem",
    "open_store",
]


def open_store(path: str | os.PathLike[str], *, create: bool = True, read_only: bool = False) -> Store:
    """Open the store at ``path``; with ``create`` a missing one is made, with ``read_only`` it may be in use by
    another process. Raises StoreError."""
    return SqliteReader(path) if read_only else SqliteStore(path, create=create)
