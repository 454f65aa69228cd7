"""The journal of one queue: what is known of its state, and the only place that writes it.

Memory follows the disk: the state changes together with a commit, and after a commit that failed it is read again
before the next receipt (``stale``).
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from typing import Final

from fiskal.clock import Clock
from fiskal.conversation import Durable
from fiskal.core import complete, format_ticks, sha256
from fiskal.errors import StoreError
from fiskal.germany import signatures
from fiskal.germany.codes import COUNTRY_MASK, DE, State, country_name, to_int64
from fiskal.germany.masterdata import NO_MASTER_DATA
from fiskal.pos import ReceiptResponse, SignaturItem, encode_response
from fiskal.pos.prepared import Prepared
from fiskal.queue.effects import Action, Outcome, Transactions
from fiskal.queue.ids import GuidSource, bytes_le
from fiskal.queue.receipts.closings import MIGRATION_TYPE
from fiskal.queue.settings import QueueSettings
from fiskal.queue.state import QueueState
from fiskal.queue.work import Work
from fiskal.store import (
    ActionRow,
    AnswerRow,
    Change,
    JournalDERow,
    MasterDataRow,
    QueueItemRow,
    QueueRow,
    Receipt,
    Store,
)
from fiskal.version import __version__

_log = logging.getLogger("fiskal.queue")

PROCESSING_VERSION: Final = f"fiskal {__version__}"


class QueueJournal:
    """State and journals of one queue. Used by one receipt at a time.

    ``state`` and ``transactions`` are set by :meth:`read`, which raises StoreError.
    """

    state: QueueState
    transactions: Transactions

    def __init__(
        self,
        queue_id: str,
        cash_box_id: str,
        store: Store,
        settings: QueueSettings,
        *,
        clock: Clock,
        new_guid: GuidSource,
    ) -> None:
        self.queue_id = queue_id
        self.cash_box_id = cash_box_id
        self.store = store
        self.settings = settings
        self.clock = clock
        self.new_guid = new_guid
        self.stale = True
        """Memory may differ from the disk."""

    # ---- reading --------------------------------------------------------------------------------

    def row(self) -> QueueRow:
        """The stored row of the queue. Raises StoreError if there is none."""
        row = self.store.queue(self.queue_id)
        if row is None:
            raise StoreError(f"the store holds no queue {self.queue_id}; create it with 'fiskal init'")
        return row

    def read(self) -> list[QueueItemRow]:
        """Read the state; the items that were accepted and have no answer, in the order of their rows."""
        store, row = self.store, self.row()
        number = row.queue_no
        master_data = store.master_data(number)
        self.state = QueueState(
            row,
            master_data=NO_MASTER_DATA if master_data is None else master_data.MasterDataJson,
            migrated=store.last_action(self.queue_id, MIGRATION_TYPE) is not None,
        )
        self.transactions = Transactions(
            {each.cbReceiptReference: each for each in store.open_transactions(number)},
            {each.cbReceiptReference: each for each in store.failed_starts(number)},
            {each.cbReceiptReference: each for each in store.failed_finishes(number)},
            {each.ftQueueItemId: each for each in store.doubtful_starts(number)},
            {each.ftQueueItemId: each for each in store.undelivered(number)},
        )
        return store.unanswered_items(number)

    # ---- writing --------------------------------------------------------------------------------

    async def commit(self, change: Change) -> None:
        """Make ``change`` durable. Raises StoreError; then the state is read again before the next receipt."""
        try:
            await self.store.submit(change)
        except BaseException:
            self.stale = True
            raise

    def item(self, request: Prepared) -> QueueItemRow:
        """The row of an accepted request, not yet stored."""
        state = self.state
        now = self.clock()
        return QueueItemRow(
            state.queue_no,
            state.queued_row + 1,
            self.new_guid(),
            now,
            self.settings.timeout_ms,
            request.receipt_moment_ticks,
            request.terminal_id,
            request.receipt_reference,
            country_name(request.receipt_case),
            "v1",
            request.canonical.decode(),
            request.request_hash_base64,
            now,
            PROCESSING_VERSION,
            request.raw_hash,
        )

    async def accept(self, item: QueueItemRow) -> None:
        """T1: the request is durable. Raises StoreError."""
        state = self.state
        assert item.ftQueueRow == state.queued_row + 1, "rows of a queue have no gaps"
        change = Change()
        change.items.append(item)
        try:
            await self.store.submit(change)
        except BaseException:
            self.stale = True
            raise
        state.queued_row = item.ftQueueRow

    async def persist(self, work: Work) -> None:
        """Make the effects of a receipt durable ahead of its answer. Raises StoreError."""
        change = Change()
        work.effects.write(self.state.queue_no, change)
        await self.commit(change)
        work.effects.apply(self.transactions)

    def complete(
        self, item: QueueItemRow, work: Work, outcome: Outcome, export_due: JournalDERow | None
    ) -> tuple[bytes, Durable]:
        """T2: the answer, its place in the chain and everything the receipt changed, in one commit, which is submitted;
        :meth:`settle` when it is durable.

        ``export_due`` is the export of the TSE's log that the receipt asks for. The response text, exactly as it is
        stored and hashed. Raises StoreError.
        """
        state = self.state
        assert item.ftQueueRow > state.current_row, "items are answered in the order of their rows"
        response = self._response(
            item,
            f"ft{state.receipt_numerator:X}#{outcome.suffix}",
            work.now,
            outcome.signatures,
            DE + outcome.state,
            outcome.state_data,
        )
        text = encode_response(response)
        now = self.clock()
        journal_id = self.new_guid()
        number = state.receipt_numerator + 1
        request = work.request
        _, response_hash, chain_hash, chain_hash_base64 = complete(
            state.receipt_hash, bytes_le(journal_id), now, number, request.request_hash, text
        )
        total = request.total
        receipt = Receipt(number, journal_id, now, total, chain_hash_base64)
        change = Change()
        change.answers.append(_answer(item, work, now, text.decode(), response_hash, receipt))
        self.stale = True  # until the commit is through, memory is ahead of the disk
        state.current_row = item.ftQueueRow
        state.receipt_numerator = number
        state.receipt_hash = chain_hash
        state.receipt_hash_base64 = chain_hash_base64
        state.add_to_totalizer(total)
        if outcome.updates:
            for name, value in outcome.updates.items():
                setattr(state, name, value)
            if "master_data" in outcome.updates:
                change.master_data.append(MasterDataRow(state.queue_no, state.master_data, now))
        change.queues.append(state.row(now))
        if work.actions:
            change.actions += self.action_rows(work.actions, item.ftQueueItemId, now)
        if work.kind.is_special:
            scu_row = work.binding.unsaved(now)
            if scu_row is not None:
                change.scus.append(scu_row)
        if export_due is not None:
            change.exports.append(export_due)
        if work.effects:
            work.effects.write(state.queue_no, change)
        return text, self.store.submit(change)

    def settle(self, work: Work) -> None:
        """The answer of a receipt is durable: memory and disk are the same again."""
        if work.effects:
            work.effects.apply(self.transactions)
        self.stale = False

    async def reject(
        self, item: QueueItemRow, work: Work, message: str, make: Callable[[int, str], SignaturItem]
    ) -> str:
        """T2 of an error: the item keeps its row, but gets no number and no place in the chain.

        ``make`` turns country and message into the item that says it. Raises StoreError.
        """
        state = self.state
        country = work.request.receipt_case & COUNTRY_MASK
        now = self.clock()
        signature = make(to_int64(country), message)
        response = self._response(item, "", now, [signature], to_int64(country | State.ERROR), None)
        text = encode_response(response).decode()
        change = Change()
        response_hash = base64.b64encode(sha256(text.encode())).decode()
        change.answers.append(_answer(item, work, now, text, response_hash, None))
        actions = [
            *work.actions,
            Action(
                f"{country | State.ERROR:X}",
                "An error occurred during receipt processing, resulting in ftState = 0xEEEE_EEEE.",
            ),
        ]
        change.actions += self.action_rows(actions, item.ftQueueItemId, now)
        self.stale = True
        state.current_row = item.ftQueueRow
        change.queues.append(state.row(now))
        if work.effects:
            work.effects.write(state.queue_no, change)
        await self.store.submit(change)
        self.settle(work)
        return text

    def _response(
        self,
        item: QueueItemRow,
        identification: str,
        moment: int,
        items: list[SignaturItem],
        state: int,
        state_data: str | None,
    ) -> ReceiptResponse:
        if self.settings.sandbox:
            items = [*items, signatures.sandbox(self.queue_id)]
        return ReceiptResponse(
            ft_cash_box_id=self.cash_box_id,
            ft_queue_id=self.queue_id,
            ft_queue_item_id=item.ftQueueItemId,
            ft_queue_row=item.ftQueueRow,
            cb_terminal_id=item.cbTerminalID,
            cb_receipt_reference=item.cbReceiptReference,
            ft_cash_box_identification=self.state.cash_box_identification,
            ft_receipt_identification=identification,
            ft_receipt_moment=format_ticks(moment),
            ft_signatures=items,
            ft_state=state,
            ft_state_data=state_data,
        )

    # ---- the action journal ---------------------------------------------------------------------

    async def note(self, actions: list[Action], item_id: str) -> None:
        """Entries of the action journal, written outside of an answer. Raises StoreError."""
        change = Change()
        change.actions += self.action_rows(actions, item_id, self.clock())
        await self.commit(change)

    def note_aside(self, actions: list[Action], item_id: str) -> None:
        """As :meth:`note`, from any thread and beside receipts. Raises StoreError."""
        change = Change()
        change.actions += self.action_rows(actions, item_id, self.clock())
        self.store.commit(change)

    def action_rows(self, actions: list[Action], item_id: str, now: int) -> list[ActionRow]:
        return [
            ActionRow(
                self.new_guid(),
                self.queue_id,
                item_id if action.item_id is None else action.item_id,
                now,
                action.priority,
                action.type,
                action.message,
                None,
                action.data_json,
                now,
            )
            for action in actions
        ]


def _answer(
    item: QueueItemRow, work: Work, now: int, text: str, text_hash: str, receipt: Receipt | None
) -> AnswerRow:
    return AnswerRow(
        item.queue_no,
        item.ftQueueRow,
        work.now,
        now,
        text,
        text_hash,
        now,
        work.calls,
        receipt,
    )
