"""What a receipt brings about: its outcome, and the changes it makes to the queue's open transactions."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from fiskal.pos import SignaturItem
from fiskal.store.interface import (
    Change,
    DoubtfulStartRow,
    FailedTransactionRow,
    OpenTransactionRow,
    RecoveredRow,
)

_Row = TypeVar("_Row", OpenTransactionRow, FailedTransactionRow, DoubtfulStartRow)


class Action(NamedTuple):
    """An entry for the action journal. ``priority`` -1 must be reported to the authorities."""

    type: str | None
    message: str
    data_json: str | None = None
    priority: int = 0
    item_id: str | None = None
    """None: the item being processed."""


class Switch(NamedTuple):
    """An SCU switch that was initiated: from where and to where."""

    source_id: str
    target_id: str


class Outcome:
    """The answer of a receipt kind: what the response says beside its skeleton."""

    __slots__ = ("failure", "signatures", "state", "state_data", "suffix", "updates")

    def __init__(
        self,
        signatures: list[SignaturItem],
        suffix: str = "",
        *,
        state: int = 0,
        state_data: str | None = None,
        updates: dict[str, Any] | None = None,
        failure: str = "",
    ) -> None:
        self.signatures = signatures
        self.suffix = suffix
        self.state = state
        self.state_data = state_data
        self.updates = updates
        """Attributes of the queue state to set when the answer is written."""
        self.failure = failure
        """Why the TSE failed, in plain words; empty if it did not."""


class Transactions:
    """The open and failed transactions of one queue, by cbReceiptReference."""

    __slots__ = ("doubtful_starts", "failed_finishes", "failed_starts", "open", "undelivered")

    def __init__(
        self,
        open_: dict[str, OpenTransactionRow],
        failed_starts: dict[str, FailedTransactionRow],
        failed_finishes: dict[str, FailedTransactionRow],
        doubtful_starts: dict[str, DoubtfulStartRow],
        undelivered: dict[str, RecoveredRow],
    ) -> None:
        self.open = open_
        self.failed_starts = failed_starts
        self.failed_finishes = failed_finishes
        self.doubtful_starts = doubtful_starts
        """By ftQueueItemId, like the next."""
        self.undelivered = undelivered


class Effects:
    """Changes to the transaction tables not yet durable: the new row, or None for a removed one."""

    __slots__ = ("doubtful_starts", "failed_finishes", "failed_starts", "open", "recovered")

    def __init__(self) -> None:
        self.open: dict[str, OpenTransactionRow | None] = {}
        self.failed_starts: dict[str, FailedTransactionRow | None] = {}
        self.failed_finishes: dict[str, FailedTransactionRow | None] = {}
        self.doubtful_starts: dict[str, DoubtfulStartRow | None] = {}
        self.recovered: dict[str, RecoveredRow] = {}

    def __bool__(self) -> bool:
        return bool(
            self.open or self.failed_starts or self.failed_finishes or self.doubtful_starts or self.recovered
        )

    def write(self, queue_no: int, change: Change) -> None:
        """Add the effects to ``change``."""
        for reference, row in self.open.items():
            if row is None:
                change.open_transactions_removed.append((queue_no, reference))
            else:
                change.open_transactions.append(row)
        for reference, failed in self.failed_starts.items():
            if failed is None:
                change.failed_starts_removed.append((queue_no, reference))
            else:
                change.failed_starts.append(failed)
        for reference, failed in self.failed_finishes.items():
            if failed is None:
                change.failed_finishes_removed.append((queue_no, reference))
            else:
                change.failed_finishes.append(failed)
        for item_id, doubt in self.doubtful_starts.items():
            if doubt is None:
                change.doubtful_starts_removed.append((queue_no, item_id))
            else:
                change.doubtful_starts.append(doubt)
        change.recovered += self.recovered.values()

    def clear(self) -> None:
        """Forget what a receipt did."""
        self.open.clear()
        self.failed_starts.clear()
        self.failed_finishes.clear()
        self.doubtful_starts.clear()
        self.recovered.clear()

    def apply(self, transactions: Transactions) -> None:
        """Bring the queue's memory up to what was made durable, and forget the effects."""
        _merge(self.open, transactions.open)
        _merge(self.failed_starts, transactions.failed_starts)
        _merge(self.failed_finishes, transactions.failed_finishes)
        _merge(self.doubtful_starts, transactions.doubtful_starts)
        for item_id, row in self.recovered.items():
            if row.DeliveredBy is None:
                transactions.undelivered[item_id] = row
            else:
                transactions.undelivered.pop(item_id, None)
        self.recovered.clear()


def _merge(effects: dict[str, _Row | None], table: dict[str, _Row]) -> None:
    for reference, row in effects.items():
        if row is None:
            table.pop(reference, None)
        else:
            table[reference] = row
    effects.clear()
