"""The way of one receipt through its queue, straight down: accept, decide, complete.

T1 makes the accepted request durable before the TSE is asked; T2 makes the answer, the chain and the state durable
before the POS hears of it. The pipeline has one receipt in work at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from fiskal.clock import TICKS_PER_SECOND
from fiskal.conversation import Call
from fiskal.errors import FiskalError, ReceiptRejected, StoreError
from fiskal.germany import signatures
from fiskal.germany.codes import VERSION_2, VERSION_MASK, ReceiptFlag
from fiskal.germany.signatures import SignatureBuilder
from fiskal.pos import SignaturItem
from fiskal.pos.prepared import Prepared
from fiskal.queue import checks, receipt_request
from fiskal.queue.binding import ScuBinding, no_scu
from fiskal.queue.dispatch import decide, kind_of
from fiskal.queue.effects import Action, Outcome
from fiskal.queue.exports import TarExports
from fiskal.queue.facts import Lookups
from fiskal.queue.interruptions import Interruptions
from fiskal.queue.journal import QueueJournal
from fiskal.queue.settings import QueueSettings
from fiskal.queue.work import Hands, Work
from fiskal.scu.client import ScuClient
from fiskal.scu.fetch import pause as fetch_pause
from fiskal.store import Change, JournalDERow, QueueItemRow

_log = logging.getLogger("fiskal.queue")

NOT_FOUND = b""
"""No answer is empty: the past has none for a request."""


class Pipeline:
    """Everything between the request of a POS and its answer. Used by one receipt at a time.

    ``sleep`` waits between two attempts at a TSE. ``on_mode`` is called when the queue has entered or left failed mode,
    ``on_alarm`` with what is wrong with a signature; both between two receipts.
    """

    def __init__(
        self,
        journal: QueueJournal,
        lookups: Lookups,
        exports: TarExports,
        *,
        sleep: Callable[[float], None],
        on_mode: Callable[[], None],
        on_alarm: Callable[[str], None],
    ) -> None:
        settings = journal.settings
        self.journal = journal
        self.interruptions = Interruptions(journal, lookups, self)
        self.failure = ""
        """Why the TSE failed last, in plain words; empty if it did not since the queue was opened."""
        self._settings = settings
        self._lookups = lookups
        self._exports = exports
        self._sleep = sleep
        self._on_mode = on_mode
        self._on_alarm = on_alarm
        self._no_scu = no_scu()
        self._own_client: tuple[ScuBinding, ScuClient] | None = None
        self._signatures = SignatureBuilder(
            flag_optional=settings.flag_optional_signatures, qr_caption=settings.qr_caption
        )
        self._hands = Hands(self._client, journal.persist, self.interruptions.move_on, self._export_now)
        self._replaying = self._hands._replace(persist=_keep)
        self.due: list[JournalDERow] = []
        """The exports that receipts left behind."""
        self.archived: frozenset[str] = frozenset()
        """Receipts whose export was archived when they were interrupted."""

    # ---- has it been answered already? -----------------------------------------------------------

    async def look_back(self, request: Prepared) -> tuple[bytes | None, Prepared]:
        """What the past says to a request: the answer it already has, None for null, or NOT_FOUND and the
        request to be signed. Raises ReceiptRejected, StoreError."""
        journal, settings = self.journal, self._settings
        state = journal.state
        if request.receipt_case & ReceiptFlag.RECEIPT_REQUEST:
            found = receipt_request.lookup(journal.store, state.queue_no, request)
            if found is not None:
                await self.interruptions.note_found(found.item.ftQueueItemId, request.receipt_reference)
                assert found.answer is not None  # the lookup only finds answered items
                return found.answer.response.encode(), request
            if state.migrated:
                raise checks.migrated()
            if settings.receipt_request_mode == 0:
                return None, request
            request = receipt_request.without_flag(request, strict=settings.process_data_strict)
        if state.migrated:
            raise checks.migrated()
        if self.interruptions.items:
            stored = await self.interruptions.find_completed(request)
            if stored is not None:
                return stored, request
        if settings.duplicate_window_s:
            stored = await self._find_duplicate(request)
            if stored is not None:
                return stored, request
        return NOT_FOUND, request

    async def _find_duplicate(self, request: Prepared) -> bytes | None:
        """The answer of the same business receipt, if it came within the duplicate window before."""
        if kind_of(request.receipt_case).is_special:
            return None
        journal = self.journal
        since = journal.clock() - int(self._settings.duplicate_window_s * TICKS_PER_SECOND)
        found = receipt_request.duplicate(journal.store, journal.state.queue_no, request, since)
        if found is None or found.answer is None:
            return None
        await self.interruptions.note_found(found.item.ftQueueItemId, request.receipt_reference)
        return found.answer.response.encode()

    # ---- decide, complete ------------------------------------------------------------------------

    async def process(
        self, request: Prepared, item: QueueItemRow, settings: QueueSettings | None = None
    ) -> bytes:
        """Sign one receipt that was accepted as ``item``; its answer is durable. ``settings`` other than the queue's
        are for this receipt alone.

        Raises ReceiptRejected, ScuError, StoreError.
        """
        journal = self.journal
        if self.interruptions.items:
            found = self.interruptions.signed_elsewhere(item, request)
            if found is not None:
                text = await self.interruptions.answer_from(item, request, found)
                if text is not None:
                    return text
        work = self.work(item, request, journal.clock(), settings or self._settings)
        first = self.interruptions.take(item) if work.repeats else None
        try:
            outcome = await decide(work)
        except StoreError:
            journal.stale = True  # the item has no answer yet; reading the queue again closes it
            raise
        except Exception as error:
            if first is not None:
                self.interruptions.put_back(work, item, first)
            return await self.refuse(item, work, error)
        except BaseException:
            journal.stale = True
            raise
        if first is not None:
            self.interruptions.note_repetition(work, first)
        text = await self.complete(item, work, outcome)  # T2
        if self.interruptions.items and work.calls is not None and self._in_order:
            await self.interruptions.decide_again()
        return text

    @property
    def _in_order(self) -> bool:
        return self.journal.state.fail_count == 0 and self.journal.state.active

    def work(
        self,
        item: QueueItemRow,
        request: Prepared,
        now: int,
        settings: QueueSettings,
        *,
        lookups: Lookups | None = None,
        at: str | None = None,
        replayed: bool = False,
    ) -> Work:
        """A receipt at its TSE: ``at`` that SCU if not where the queue is. With ``replayed`` nothing of it is durable
        before its answer."""
        journal = self.journal
        lookups = lookups or self._lookups
        scu_id = at or journal.state.scu_id
        repeated = self.interruptions.repeated_by(item, scu_id)
        return Work(
            request,
            kind_of(request.receipt_case),
            item.ftQueueItemId,
            None if repeated is None else repeated.item,
            now,
            journal.state,
            journal.transactions,
            self._no_scu if scu_id is None else lookups.binding(scu_id) or no_scu(scu_id),
            settings,
            self._signatures,
            journal.clock,
            lookups,
        ).begin(self._replaying if replayed else self._hands)

    async def complete(self, item: QueueItemRow, work: Work, outcome: Outcome) -> bytes:
        """Store the answer, then tell who wants to know. Raises StoreError."""
        state = self.journal.state
        was_failed = state.fail_count > 0
        if outcome.failure:
            self.failure = outcome.failure
        due = None
        if work.export_due and self._exports.wanted:
            number = state.receipt_numerator + 1
            due = self._exports.due(item.ftQueueItemId, number, work.binding.scu_id, self.journal.clock())
        text, durable = self.journal.complete(item, work, outcome, due)
        await durable
        self.journal.settle(work)
        if due is not None:
            self.due.append(due)
        if work.alarms:
            self._alarm(work)
        if (state.fail_count > 0) != was_failed:
            self._on_mode()
        return text

    async def refuse(self, item: QueueItemRow, work: Work, error: Exception) -> bytes:
        """Store the error answer; raise ``error`` to the caller, or answer it to a v2-tagged request."""
        if not isinstance(error, FiskalError):
            _log.exception("queue %s: unexpected internal error", self.journal.queue_id, exc_info=error)
            error = FiskalError(f"internal error: {type(error).__name__}")
            error.code = "INTERNAL"
        text = await self.reject(item, work, f"{error.code}: {error}", signatures.error)
        if work.request.receipt_case & VERSION_MASK == VERSION_2:
            return text.encode()
        if isinstance(error, ReceiptRejected):
            error.response = text
        raise error

    async def reject(
        self, item: QueueItemRow, work: Work, message: str, make: Callable[[int, str], SignaturItem]
    ) -> str:
        """Store an error answer (:meth:`QueueJournal.reject`). Raises StoreError."""
        text = await self.journal.reject(item, work, message, make)
        if work.alarms:
            self._alarm(work)
        return text

    def _alarm(self, work: Work) -> None:
        """Tell the host of signatures that do not verify; they are journalled."""
        for text in work.alarms:
            self._on_alarm(text)

    # ---- what a receipt asks for while it is in work ---------------------------------------------

    def bound(self) -> ScuBinding:
        """The SCU the queue is connected to; one that is never reached while it has none."""
        scu_id = self.journal.state.scu_id
        return self._no_scu if scu_id is None else self._lookups.binding(scu_id) or no_scu(scu_id)

    def _client(self, binding: ScuBinding, settings: QueueSettings) -> ScuClient:
        own = self._own_client
        if own is not None and settings is self._settings and own[0] is binding:
            return own[1]
        client = ScuClient(
            lambda: binding.scu,
            settings.retry_policy,
            sleep=self._sleep,
            signed=binding.note_signature,
            reserve=binding.back_to_back,
        )
        if settings is self._settings:
            self._own_client = binding, client
        return client

    async def _export_now(self, work: Work) -> None:
        """Export within a receipt after which there is no TSE or no queue any more."""
        if not self._exports.wanted or work.item_id in self.archived:
            return
        if work.effects:
            await work.persist()  # an export takes its time
        journal = self.journal
        try:
            number = journal.state.receipt_numerator + 1
            row = self._taken_up(work) or self._exports.due(
                work.item_id, number, work.binding.scu_id, journal.clock()
            )
            change = Change()
            change.exports.append(row)
            await journal.store.submit(change)
            # An interrupted receipt is worked through from the record of its SCU; the log is at the real one.
            binding = self._lookups.binding(work.binding.scu_id) or work.binding
            message = await Call(partial(self._exports.run, row, binding, fetch_pause))
        except StoreError as error:
            message = f"TAR export failed: {error}"
        if message is not None:
            work.actions.append(Action(None, message))

    def _taken_up(self, work: Work) -> JournalDERow | None:
        """The export that this receipt began before it was interrupted, which is no longer due then."""
        for row in self.due:
            if row.ftQueueItemId == work.item_id:
                self.due.remove(row)
                return row
        return None

    # ---- looking after itself --------------------------------------------------------------------

    def probe(self, timeout_s: float) -> Call[object]:
        """Ask the TSE of the queue whether it is there. Raises ScuError."""
        return Call(partial(self.bound().probe, timeout_s))


async def _keep(work: Work) -> None:
    """Nothing of a receipt that is worked through once more is durable before its answer is."""
