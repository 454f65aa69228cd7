"""A store that keeps nothing: what remains is what the middleware itself costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fiskal.conversation import Durable
from fiskal.store.interface import (
    ActionRow,
    Change,
    DoubtfulStartRow,
    FailedTransactionRow,
    JournalDERow,
    MasterDataRow,
    OpenTransactionRow,
    QueueItemRow,
    QueueRow,
    ReceiptRow,
    RecoveredRow,
    ScuRow,
    StoredItem,
)


def _nothing() -> None:
    """There is nothing to flush."""


_DONE: Final = Durable(None, _nothing)
_DONE.done = True


class NullStore:
    """Implements Store without any effect. For measuring only: nothing survives, not even in memory."""

    flush_s = 0.0

    def submit(self, change: Change) -> Durable:
        """Done at once."""
        return _DONE

    def flush(self) -> None:
        """Nothing waits."""

    def commit(self, change: Change) -> None:
        """Return at once."""

    def queues(self) -> list[QueueRow]:
        return []

    def queue(self, queue_id: str) -> QueueRow | None:
        return None

    def scus(self) -> list[ScuRow]:
        return []

    def open_transactions(self, queue_no: int) -> list[OpenTransactionRow]:
        return []

    def failed_starts(self, queue_no: int) -> list[FailedTransactionRow]:
        return []

    def failed_finishes(self, queue_no: int) -> list[FailedTransactionRow]:
        return []

    def doubtful_starts(self, queue_no: int) -> list[DoubtfulStartRow]:
        return []

    def undelivered(self, queue_no: int) -> list[RecoveredRow]:
        return []

    def master_data(self, queue_no: int) -> MasterDataRow | None:
        return None

    def item(self, queue_item_id: str) -> StoredItem | None:
        return None

    def unanswered_items(self, queue_no: int) -> list[QueueItemRow]:
        return []

    def items_by_reference(
        self, queue_no: int, reference: str, terminal: str | None, limit: int
    ) -> list[StoredItem]:
        return []

    def items_before(self, queue_no: int, reference: str, queue_item_id: str, limit: int) -> list[StoredItem]:
        return []

    def iter_items(self, queue_no: int, from_ticks: int = 0, to_ticks: int = 0) -> Iterator[StoredItem]:
        return iter(())

    def iter_items_by_row(self, queue_no: int, after_row: int = 0) -> Iterator[StoredItem]:
        return iter(())

    def iter_receipts(self, queue_no: int, from_ticks: int = 0, to_ticks: int = 0) -> Iterator[ReceiptRow]:
        return iter(())

    def iter_receipts_by_number(self, queue_no: int) -> Iterator[ReceiptRow]:
        return iter(())

    def iter_actions(self, queue_id: str, from_ticks: int = 0, to_ticks: int = 0) -> Iterator[ActionRow]:
        return iter(())

    def last_action(self, queue_id: str, *types: str) -> ActionRow | None:
        return None

    def count_actions(self, queue_id: str) -> int:
        return 0

    def iter_exports(self, queue_id: str, from_ticks: int = 0, to_ticks: int = 0) -> Iterator[JournalDERow]:
        return iter(())

    def unfinished_exports(self, queue_id: str) -> list[JournalDERow]:
        return []

    def count_exports(self, queue_id: str) -> int:
        return 0

    def export_part(self, journal_de_id: str, part: int) -> bytes | None:
        return None

    def close(self) -> None:
        pass
