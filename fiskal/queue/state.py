"""The state of one queue in memory: ftQueue and ftQueueDE."""

from __future__ import annotations

import base64
from decimal import Context, Decimal, Inexact

from fiskal.store.interface import QueueRow

_EXACT = Context(prec=200, traps=[Inexact])


class QueueState:
    """Mutable twin of the stored row. It changes only when the change is on its way to the disk; after a
    failed write it is read again, never trusted."""

    __slots__ = (
        "_cash_box_id",
        "_country_code",
        "_timeout",
        "cash_box_identification",
        "current_row",
        "daily_closing_number",
        "fail_count",
        "fail_moment",
        "fail_queue_item_id",
        "master_data",
        "migrated",
        "queue_id",
        "queue_no",
        "queued_row",
        "receipt_hash",
        "receipt_hash_base64",
        "receipt_numerator",
        "receipt_totalizer",
        "scu_id",
        "start_moment",
        "stop_moment",
        "told_disabled",
        "used_failed_count",
        "used_failed_max",
        "used_failed_min",
        "used_failed_queue_item_id",
    )

    def __init__(self, row: QueueRow, *, master_data: str, migrated: bool) -> None:
        self.queue_no = row.queue_no
        self.queue_id = row.ftQueueId
        self._cash_box_id = row.ftCashBoxId
        self.current_row = row.ftCurrentRow
        self.queued_row = row.ftQueuedRow
        self.receipt_numerator = row.ftReceiptNumerator
        self.receipt_totalizer = Decimal(row.ftReceiptTotalizer)
        self.receipt_hash_base64 = row.ftReceiptHash
        self.receipt_hash = base64.b64decode(row.ftReceiptHash) if row.ftReceiptHash else None
        self.start_moment = row.StartMoment
        self.stop_moment = row.StopMoment
        self._country_code = row.CountryCode
        self._timeout = row.Timeout
        self.scu_id = row.ftSignaturCreationUnitDEId
        self.cash_box_identification = row.CashBoxIdentification
        self.fail_count = row.SSCDFailCount
        self.fail_moment = row.SSCDFailMoment
        self.fail_queue_item_id = row.SSCDFailQueueItemId
        self.used_failed_count = row.UsedFailedCount
        self.used_failed_min = row.UsedFailedMomentMin
        self.used_failed_max = row.UsedFailedMomentMax
        self.used_failed_queue_item_id = row.UsedFailedQueueItemId
        self.daily_closing_number = row.DailyClosingNumber
        self.master_data = master_data
        """The stored master data as JSON."""
        self.told_disabled = False
        """The action journal says already that a receipt came while the queue is not in operation."""
        self.migrated = migrated
        """The queue goes on in another installation; this one signs nothing more."""

    def add_to_totalizer(self, total: str) -> None:
        """Exactly, whatever the scale: the default context would round to 28 digits."""
        self.receipt_totalizer = _EXACT.add(self.receipt_totalizer, Decimal(total))

    @property
    def active(self) -> bool:
        """Started and not stopped. A queue with any stop moment is stopped for good."""
        return self.start_moment is not None and self.stop_moment is None

    @property
    def stopped(self) -> bool:
        return self.stop_moment is not None

    def row(self, now: int) -> QueueRow:
        """The row to store; ``now`` (ticks) becomes its TimeStamp."""
        return QueueRow(
            self.queue_no,
            self.queue_id,
            self._cash_box_id,
            self.current_row,
            self.queued_row,
            self.receipt_numerator,
            format(self.receipt_totalizer, "f"),
            self.receipt_hash_base64,
            self.start_moment,
            self.stop_moment,
            self._country_code,
            self._timeout,
            now,
            self.scu_id,
            self.cash_box_identification,
            self.fail_count,
            self.fail_moment,
            self.fail_queue_item_id,
            self.used_failed_count,
            self.used_failed_min,
            self.used_failed_max,
            self.used_failed_queue_item_id,
            self.daily_closing_number,
            now,
        )
