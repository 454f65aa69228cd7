"""The pipeline of one queue: accept, decide, sign, complete.

T1 makes the accepted request durable before the TSE is asked; T2 makes the answer, the chain and the state
durable before the POS hears of it. One receipt is in work at a time; the caller's thread does it all.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from threading import get_ident, main_thread
from typing import Any

import msgspec

from fiskal.clock import TICKS_PER_SECOND, Clock
from fiskal.core import complete, format_ticks, sha256
from fiskal.errors import FiskalError, ReceiptRejected, StoreError
from fiskal.fairlock import FairLock, Turn
from fiskal.fibers import Gate, in_fiber, let_others_go_first, wait_for
from fiskal.germany import signatures
from fiskal.germany.codes import (
    CASE_MASK,
    COUNTRY_MASK,
    DE,
    VERSION_2,
    VERSION_MASK,
    ReceiptCase,
    ReceiptFlag,
    State,
    country_name,
    to_int64,
)
from fiskal.germany.masterdata import NO_MASTER_DATA
from fiskal.germany.signatures import SignatureBuilder
from fiskal.germany.texts import INTERRUPTED
from fiskal.pos import (
    ReceiptRequest,
    ReceiptResponse,
    SignaturItem,
    encode_request,
    encode_response,
)
from fiskal.pos.prepared import Prepared, prepare
from fiskal.queue import checks, identity, interrupted, modes, receipt_request
from fiskal.queue.binding import ScuBinding, no_scu
from fiskal.queue.exports import ExportRunner, TarExports
from fiskal.queue.ids import GuidSource, bytes_le
from fiskal.queue.interrupted import Own, Question, Recall
from fiskal.queue.later import Later
from fiskal.queue.receipts import business, closings, lifecycle, switch, transactions, zero
from fiskal.queue.settings import QueueSettings
from fiskal.queue.state import QueueState
from fiskal.queue.work import SPECIAL_CASES, Action, Lookups, Outcome, Transactions, Work
from fiskal.scu.client import ScuClient, pause
from fiskal.scu.contract import EMPTY_GUID, Deadline
from fiskal.scu.errors import ClientError, NotSupported, ScuError
from fiskal.scu.fetch import ExportCancelled, Pause
from fiskal.scu.fetch import pause as fetch_pause
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

PROCESSING_VERSION = f"fiskal {__version__}"

Handler = Callable[[Work], Outcome]

_HANDLERS: dict[int, Handler] = {
    ReceiptCase.ZERO: zero.zero,
    ReceiptCase.INITIAL_OPERATION: lifecycle.start,
    ReceiptCase.OUT_OF_OPERATION: lifecycle.stop,
    ReceiptCase.MONTHLY_CLOSING: closings.monthly_or_yearly,
    ReceiptCase.YEARLY_CLOSING: closings.monthly_or_yearly,
    ReceiptCase.DAILY_CLOSING: closings.daily,
    ReceiptCase.START_TRANSACTION: transactions.start,
    ReceiptCase.UPDATE_TRANSACTION: transactions.update,
    ReceiptCase.DELTA_TRANSACTION: transactions.update,
    ReceiptCase.FAIL_TRANSACTION: transactions.fail,
    ReceiptCase.INITIATE_SCU_SWITCH: switch.initiate,
    ReceiptCase.FINISH_SCU_SWITCH: switch.finish,
    ReceiptCase.MIGRATION: closings.migration,
}
_NO_TURN = nullcontext()

RECOVERY_REFERENCE = "fiskal-recovery-"
"""How the cbReceiptReference of a zero receipt begins that a queue sends itself."""

PROBE_S = 5.0
"""How long a TSE may take to say that it is there again."""

IDLE_TIMEOUT_MS = 5_000
IDLE_BUDGET_S = 1.0
"""What a recovery in a quiet moment may take of the TSE's time, because a customer may come any moment."""

_CLOSINGS = frozenset(
    {
        ReceiptCase.MONTHLY_CLOSING,
        ReceiptCase.YEARLY_CLOSING,
        ReceiptCase.DAILY_CLOSING,
        ReceiptCase.MIGRATION,
    }
)

# Members of an enumeration take longer to look up than to be compared with.
_RECEIPT_REQUEST = int(ReceiptFlag.RECEIPT_REQUEST)
_AFTERWARDS = ReceiptFlag.FAILED_RECEIPT | ReceiptFlag.HANDWRITTEN

_LONG_FLAGS = ReceiptFlag.RECEIPT_REQUEST | ReceiptFlag.FAILED_RECEIPT | ReceiptFlag.HANDWRITTEN
"""What is asked for with these reads the journal, or is rare."""

_LEAVING = frozenset({ReceiptCase.OUT_OF_OPERATION, ReceiptCase.INITIATE_SCU_SWITCH})

_WHERE_THE_QUEUE_IS = frozenset(
    {
        ReceiptCase.START_TRANSACTION,
        ReceiptCase.INITIAL_OPERATION,
        ReceiptCase.OUT_OF_OPERATION,
        ReceiptCase.INITIATE_SCU_SWITCH,
        ReceiptCase.FINISH_SCU_SWITCH,
        ReceiptCase.MIGRATION,
    }
)
"""What they bring about would be at a TSE that the queue has left: they are never answered with what it signed."""

NOT_FOUND = b""
"""No answer is empty: the past has none for a request."""

_MUST_REACH_TSE = frozenset(
    {ReceiptCase.INITIAL_OPERATION, ReceiptCase.INITIATE_SCU_SWITCH, ReceiptCase.FINISH_SCU_SWITCH}
)
"""Cases for which a failing TSE is an error of the call instead of failed mode."""


class Queue:
    """One queue of a host. All methods may be called from many threads.

    ``cash_box_id`` is the configured cash box; ``bindings`` gives an SCU of the host by its id, None if there
    is no such: which one the queue uses is part of its stored state. ``master_data`` is the configured text,
    which a closing may bring into effect. Items that were interrupted are answered before anything else;
    ``recover_by`` is until when that may wait for a TSE (:mod:`fiskal.queue.interrupted`). ``export_runner`` runs
    the TAR exports that closings leave behind, by default before :meth:`sign` returns; ``export_folder`` is where
    their files are kept if the settings ask for them. Raises StoreError when the store does not hold ``queue_id``,
    or cannot take the answers.
    """

    def __init__(
        self,
        queue_id: str,
        cash_box_id: str,
        store: Store,
        bindings: Callable[[str], ScuBinding | None],
        settings: QueueSettings,
        turn: Turn,
        *,
        clock: Clock,
        new_guid: GuidSource,
        master_data: str | None = None,
        recover_by: Deadline | None = None,
        export_runner: ExportRunner | None = None,
        export_folder: Path | None = None,
        sleep: Callable[[float], None] = pause,
        on_mode: Callable[[Queue], None] | None = None,
        on_alarm: Callable[[Queue, str], None] | None = None,
    ) -> None:
        self.queue_id = queue_id
        self.cash_box_id = cash_box_id
        self.settings = settings
        self._store = store
        self._clock = clock
        self._new_guid = new_guid
        self._sleep = sleep
        self._on_mode = on_mode
        self._on_alarm = on_alarm
        self._own_client: tuple[ScuBinding, ScuClient] | None = None
        self._used_at = time.monotonic()
        self.failure = ""
        """Why the TSE failed last, in plain words; empty if it did not since the queue was opened."""
        self._signatures = SignatureBuilder(
            flag_optional=settings.flag_optional_signatures, qr_caption=settings.qr_caption
        )
        self._no_scu = no_scu()
        self._lookups = Lookups(
            bindings,
            lambda *types: self._store.last_action(self.queue_id, *types),
            lambda: self._store.count_actions(self.queue_id),
            lambda: self._store.count_exports(self.queue_id),
            self._open_elsewhere,
            master_data,
        )
        self._lock = FairLock(settings.max_waiting)
        self._later = Later(f"fiskal-{queue_id[:8]}", settings.max_waiting)
        self._turn = turn
        self._told_disabled = False
        self._stale = True
        self._in_work: Prepared | None = None
        """The request in work, once it is accepted."""
        self._accepting: tuple[Change, Prepared] | None = None
        """T1 of the request in work, while the disk has not confirmed it."""
        self._ahead: set[int] = set()
        """Rows that were accepted ahead of their turn."""
        self._abandoned = False
        """A row that was accepted ahead may have no answer."""
        self._state: QueueState
        self._transactions: Transactions
        self._questions: dict[str, Question] = {}
        """Interrupted items that may come again, by their request text."""
        self._own_turn: Turn | None = None
        self._export_runner = export_runner or ExportRunner(background=False)
        row = self._row()
        self._exports = TarExports(
            store,
            queue_id,
            row.CashBoxIdentification,
            settings,
            export_folder,
            clock=clock,
            new_guid=new_guid,
        )
        self._due, messages = self._exports.take_up()
        self._left_over = {row.ftJournalDEId for row in self._due}
        """Exports of an earlier run; they have waited long enough."""
        self._archived = {item_id for item_id, _ in messages}
        """Receipts whose export was archived when they were interrupted."""
        self._load(recover_by)
        for item_id, message in messages:
            self._journal(message, item_id)

    # ---- the way of one receipt -----------------------------------------------------------------

    def sign(self, request: Prepared) -> bytes | None:
        """Sign one request and return the response text, exactly as it was stored and hashed.

        None only for a receipt request (flag 0x0000_8000_0000_0000) without a match. Raises
        ReceiptRejected, QueueBusy, StoreError; ScuError for a receipt that takes up work at a TSE which fails.
        """
        last = self._later.last
        if last is not None:
            # Who came later is served later: a finish never before its own start.
            ahead = self._in_work
            if ahead is not None and ahead is self._later.last_subject:
                place = self._lock.join_next()
                if place is not None:
                    return self._sign_next(request, ahead, place)
            wait_for(last)
        return self._sign(request)

    def is_short(self, request: Prepared) -> bool:
        """Whether to sign ``request`` now waits for nothing but the journal, so that receipts may share a thread.

        So it is when the queue is in order, its TSE computes in this process, and the receipt is one that a customer
        waits for. What happens meanwhile can make it longer, and does no other harm.
        """
        client = self._own_client
        return (
            client is not None
            and client[0].computes_only
            and client[0].scu_id == self._state.scu_id
            and not (self._stale and self._lock.is_free)  # in work memory is ahead of the disk
            and self._later.last is None
            and self._is_plain(request)
        )

    def _is_plain(self, request: Prepared) -> bool:
        """Whether ``request`` is a receipt that a customer waits for, and the queue in order, so that there is
        nothing to look up, to make good or to recover before it is signed."""
        state = self._state
        return (
            state.active
            and not (self._questions or state.fail_count or state.migrated)
            and not self.settings.duplicate_window_s
            and not request.receipt_case & _LONG_FLAGS
            and request.receipt_case & CASE_MASK not in SPECIAL_CASES
        )

    def sign_later(self, request: Prepared) -> Future[bytes | None]:
        """Put one request in line and return; the future gives what :meth:`sign` would have returned or raised.

        Every request that comes afterwards, by whatever way, is served after it. Raises ReceiptRejected for
        another cash box or queue, QueueBusy.
        """
        self._check_address(request)
        return self._later.submit(lambda: self._sign(request), request)

    def journal_start(self) -> None:
        """Note in the action journal that a host serves the queue from now on, and how it is set; not if it was
        migrated. Never fails: a disk that does not take the note refuses the first receipt, and says why."""
        if self._state.migrated:
            return
        summary = {
            "ProcessingVersion": PROCESSING_VERSION,
            "QueueId": self.queue_id,
            "CashBoxId": self.cash_box_id,
            "CashBoxIdentification": self.client_id,
            "SCUId": self._state.scu_id,
            "Settings": msgspec.to_builtins(self.settings),
        }
        text = msgspec.json.encode(summary).decode()
        started = Action("MiddlewareConfiguration", "Queue started", text, item_id=EMPTY_GUID)
        change = Change()
        change.actions += self._action_rows([started], EMPTY_GUID, self._clock())
        try:
            self._store.commit(change)
        except StoreError as error:
            _log.error("queue %s: its start is not in the journal: %s", self.queue_id, error)

    def close(self) -> None:
        """Bring to an end what was put in line."""
        self._later.close()

    def _check_address(self, request: Prepared) -> None:
        identity.check_cash_box(request, self.cash_box_id)
        if not self.settings.ignore_queue_id:
            identity.check_queue(request, self.queue_id)

    def _sign(self, request: Prepared) -> bytes | None:
        self._check_address(request)
        with self._lock:
            text, due = self._sign_in_turn(request, None)
        if due:
            self._export(due)
        return text

    def _sign_next(self, request: Prepared, ahead: Prepared, place: Gate) -> bytes | None:
        """Sign ``request`` at the ``place`` behind ``ahead``, which is in work, and accept it while that one waits for
        the TSE.

        Nobody comes in between, so that the next row is the one of this request. What a caller leaves who gives up
        is an interrupted receipt, which whoever comes next sees to.
        """
        item: QueueItemRow | None = None
        try:
            self._check_address(request)
            if (
                self._in_work is ahead  # or somebody else is inside by now, who may need the next row
                and ahead.canonical != request.canonical
                and self._is_plain(ahead)
                and self._is_plain(request)
            ):
                item = self._accept(request)
        except BaseException:
            self._lock.abandon(place)
            raise
        try:
            self._lock.wait(place)
        except BaseException:
            self._abandon(item)
            raise
        try:
            text, due = self._sign_in_turn(request, item)
        except BaseException:
            self._abandon(item)
            raise
        finally:
            if item is not None:
                self._ahead.discard(item.ftQueueRow)
            self._lock.leave()
        self._export(due)
        return text

    def _accept(self, request: Prepared) -> QueueItemRow:
        """T1 ahead of the turn. Raises StoreError."""
        item = self._item(request)
        change = Change()
        change.items.append(item)
        self._ahead.add(item.ftQueueRow)
        try:
            self._store.commit(change)
        except BaseException:
            self._abandon(item)
            raise
        self._state.queued_row = item.ftQueueRow
        return item

    def _abandon(self, item: QueueItemRow | None) -> None:
        """The caller of an item accepted ahead is gone. If it has no answer, who comes next gives it one."""
        if item is not None:
            self._ahead.discard(item.ftQueueRow)
            self._abandoned = True

    def _sign_in_turn(
        self, request: Prepared, item: QueueItemRow | None
    ) -> tuple[bytes | None, list[JournalDERow]]:
        """Sign in the lock; also what is to be exported afterwards. ``item`` is that of a request accepted ahead."""
        self._used_at = time.monotonic()
        self._catch_up()
        if item is None:
            if (
                self._state.migrated
                or self._questions
                or request.receipt_case & _RECEIPT_REQUEST
                or self.settings.duplicate_window_s
            ):
                with self._own_turn or _NO_TURN:
                    found, request = self._look_back(request)
                if found is not NOT_FOUND:
                    return found, []
            if self._state.fail_count and self.settings.recover_before_closing:
                self._recover_before(request)
            if self._questions and request.receipt_case & CASE_MASK in _LEAVING:
                self._close_begun(request)
        text = self._process(request, item=item)
        due, self._due = self._due, []
        return text, due

    def _export(self, due: list[JournalDERow]) -> None:
        for row in due:
            at_once = row.ftJournalDEId in self._left_over
            self._export_runner.submit(row.scu_id, partial(self._run_export, row), at_once=at_once)

    def recover(self, *, when_idle: bool = False) -> bytes | None:
        """Sign a zero receipt of the queue's own, under a reference of its own, and return its answer.

        With ``when_idle`` it gives way to the POS: None if a receipt is in work, and it holds nobody up for
        longer than a few seconds, even if the TSE hangs; what is not recovered then takes another call.
        Raises as :meth:`sign`.
        """
        settings = self.settings
        if not when_idle:
            self._lock.__enter__()
        elif self._lock.enter_if_free():
            settings = msgspec.structs.replace(
                settings,
                scu_max_retries=1,
                scu_timeout_ms=min(settings.scu_timeout_ms, IDLE_TIMEOUT_MS),
                recovery_budget_s=min(settings.recovery_budget_s, IDLE_BUDGET_S),
            )
        else:
            return None
        try:
            self._catch_up()
            if self._state.migrated:
                raise checks.migrated()
            return self._process(self._zero_request(), settings)
        finally:
            self._lock.leave()

    def _recover_before(self, request: Prepared) -> None:
        """Leave failed mode ahead of a closing, if it is to be and the TSE answers. Raises StoreError."""
        closing = request.receipt_case & CASE_MASK in _CLOSINGS
        if not closing or request.receipt_case & (ReceiptFlag.FAILED_RECEIPT | ReceiptFlag.HANDWRITTEN):
            return
        if not self._state.active or self._state.scu_id is None:
            return
        try:
            self._bound(self._lookups).probe(PROBE_S)
            self._process(self._zero_request())
        except StoreError:
            raise
        except FiskalError as error:
            _log.warning("queue %s: no recovery before the closing: %s", self.queue_id, error)

    def _zero_request(self) -> Prepared:
        """A zero receipt that the queue sends itself."""
        now = self._clock()
        return prepare(
            encode_request(
                ReceiptRequest(
                    ft_cash_box_id=self.cash_box_id,
                    ft_queue_id=self.queue_id,
                    cb_terminal_id="",
                    cb_receipt_reference=f"{RECOVERY_REFERENCE}{self._state.queued_row + 1}-{now}",
                    cb_receipt_moment=format_ticks(now),
                    cb_charge_items=[],
                    cb_pay_items=[],
                    ft_receipt_case=DE | ReceiptFlag.IMPLICIT_FLOW | ReceiptCase.ZERO,
                )
            )
        )

    def _catch_up(self) -> None:
        """Read the state again if memory may differ from the disk; choose the turn of this call."""
        if self._stale or self._abandoned:
            self._abandoned = False
            self._own_turn = None  # what was interrupted may have to wait for a TSE
            self._load()
        # Ctrl-C hits the main thread between any two steps and could take a turn with it, so that thread goes
        # without. Fibers take turns already.
        self._own_turn = None if get_ident() == main_thread().ident or in_fiber() else self._turn

    def _look_back(self, request: Prepared) -> tuple[bytes | None, Prepared]:
        """What the past says to a request: the answer it already has, None for null, or NOT_FOUND and the
        request to be signed."""
        if request.receipt_case & ReceiptFlag.RECEIPT_REQUEST:
            found = receipt_request.lookup(self._store, self._state.queue_no, request)
            if found is not None:
                self._journal_found(found.item.ftQueueItemId, request.receipt_reference)
                assert found.answer is not None  # the lookup only finds answered items
                return found.answer.response.encode(), request
            if self._state.migrated:
                raise checks.migrated()
            if self.settings.receipt_request_mode == 0:
                return None, request
            request = receipt_request.without_flag(request, strict=self.settings.process_data_strict)
        if self._state.migrated:
            raise checks.migrated()
        if self._questions:
            stored = self._find_completed(request)
            if stored is not None:
                return stored, request
        if self.settings.duplicate_window_s:
            stored = self._find_duplicate(request)
            if stored is not None:
                return stored, request
        return NOT_FOUND, request

    def _process(
        self, request: Prepared, settings: QueueSettings | None = None, item: QueueItemRow | None = None
    ) -> bytes:
        change = None
        if item is None:
            item = self._item(request)
            change = Change()
            change.items.append(item)
        elif self._own_turn is not None:
            self._own_turn.__enter__()
        try:
            if change is not None:
                self._begin(change, request)  # T1; from here on the work has the turn
                self._state.queued_row += 1
            else:
                self._in_work = request
            return self._answer(item, request, settings or self.settings)
        finally:
            if self._accepting is not None:
                self._stale = True  # nobody heard what became of T1
                with suppress(StoreError):
                    self._accepted()
            self._in_work = None
            if self._own_turn is not None:
                self._own_turn.leave()

    def _begin(self, change: Change, request: Prepared) -> None:
        """T1: make an accepted request durable, or begin to, if it can be decided meanwhile. Raises StoreError."""
        turn = self._own_turn
        in_turn = False
        # In a fiber not: its hub has others to run meanwhile.
        if self._store.can_begin and self._is_plain(request) and not in_fiber():
            in_turn = turn is not None and turn.enter_if_free()
            if in_turn or turn is None:
                self._accepting = change, request
                if self._store.begin(change, turn):
                    return
                self._accepting = None
        self._commit(change, in_turn=in_turn)
        self._in_work = request

    def _accepted(self) -> None:
        """Return when the request in work is durable: the TSE may be asked. Raises StoreError if it is not."""
        if self._accepting is None:
            return
        change, request = self._accepting
        try:
            self._store.end(change)
        except BaseException:
            self._stale = True
            raise
        self._accepting = None
        self._in_work = request

    def _answer(self, item: QueueItemRow, request: Prepared, settings: QueueSettings) -> bytes:
        if self._questions and (question := self._question_elsewhere(item, request)) is not None:
            text = self._answer_from(item, request, question)
            if text is not None:
                return text
        work = self._work(item, request, self._clock(), settings, self._lookups, self._persist_effects)
        first = self._questions.pop(item.request) if work.repeats else None
        try:
            outcome = self._decide(work)
            let_others_go_first()  # step by step: what many do one after the other, they do with warm caches
        except StoreError:
            self._stale = True  # the item has no answer yet; reading the queue again closes it
            raise
        except Exception as error:
            if first is not None and not work.began:
                self._questions[item.request] = first  # a refusal says nothing about what the TSE had signed
            elif first is not None:
                self._note_repetition(work, first)
            return self._reject(item, work, error)
        except BaseException:
            self._stale = True
            raise
        if first is not None:
            self._note_repetition(work, first)
        text = self._complete(item, work, outcome)
        if self._questions and work.calls is not None and self._state.fail_count == 0 and self._state.active:
            self._decide_questions()
        return text

    def _work(
        self,
        item: QueueItemRow,
        request: Prepared,
        now: int,
        settings: QueueSettings,
        lookups: Lookups,
        persist: Callable[[Work], None],
        at: str | None = None,
    ) -> Work:
        """``at`` is the SCU of a receipt that is not worked through where the queue is."""
        question = self._questions.get(item.request) if self._questions else None
        first = None
        if (
            question is not None
            and question.repeatable
            and (at or self._state.scu_id) in (question.scu, None)  # None: it finishes or voids an SCU switch
            and self._is_recent(question)
        ):
            first = question.item
        return Work(
            request,
            item.ftQueueItemId,
            first,
            now,
            self._state,
            self._transactions,
            self._bound(lookups, at),
            settings,
            self._signatures,
            self._clock,
            lookups,
            self._client,
            self._accepted,
            persist,
            self._move_on,
            self._export_now,
        )

    def _bound(self, lookups: Lookups, at: str | None = None) -> ScuBinding:
        """The SCU ``at``, by default the one the queue is connected to; one that is never reached while it has
        none."""
        scu_id = at or self._state.scu_id
        return self._no_scu if scu_id is None else lookups.binding(scu_id) or no_scu(scu_id)

    def _client(self, binding: ScuBinding, settings: QueueSettings) -> ScuClient:
        """The way to an SCU with the patience of the settings."""
        if self._own_client is not None and settings is self.settings and self._own_client[0] is binding:
            return self._own_client[1]
        client = ScuClient(
            lambda: binding.scu, settings.retry_policy, sleep=self._sleep, signed=binding.note_signature
        )
        if settings is self.settings:
            self._own_client = binding, client
        return client

    def _find_duplicate(self, request: Prepared) -> bytes | None:
        """The answer of the same business receipt, if it came within the duplicate window before."""
        if request.receipt_case & CASE_MASK in SPECIAL_CASES:
            return None
        since = self._clock() - int(self.settings.duplicate_window_s * TICKS_PER_SECOND)
        found = receipt_request.duplicate(self._store, self._state.queue_no, request, since)
        if found is None or found.answer is None:
            return None
        self._journal_found(found.item.ftQueueItemId, request.receipt_reference)
        return found.answer.response.encode()

    def _item(self, request: Prepared) -> QueueItemRow:
        """The row of an accepted request."""
        state = self._state
        now = self._clock()
        return QueueItemRow(
            state.queue_no,
            state.queued_row + 1,
            self._new_guid(),
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

    def _decide(self, work: Work) -> Outcome:
        """Find the receipt kind and let it work; the first matching rule wins (dispatch order)."""
        state = self._state
        case, flags = work.case, work.flags
        if not state.active and (case != ReceiptCase.INITIAL_OPERATION or state.stopped):
            if case == ReceiptCase.INITIAL_OPERATION:
                work.actions.append(
                    Action(
                        None,
                        f"Queue {state.queue_id} is de-activated, initial-operations-receipt can not be "
                        "executed.",
                    )
                )
            first = not self._told_disabled
            self._told_disabled = True
            return modes.disabled_queue(work, first=first)
        identity.check_case(work.request)
        checks.known_case(work)
        if case == ReceiptCase.FAIL_TRANSACTION:
            transactions.check_case_data(work)
        checks.payload(work)
        connects = switch.connects(work)
        if state.scu_id is None and not connects:
            return modes.disabled_scu(work)
        if flags & _AFTERWARDS:
            return modes.late_signing(work) if flags & ReceiptFlag.FAILED_RECEIPT else modes.handwritten(work)
        checks.flow(work)
        checks.size(work)
        if state.fail_count > 0 and case not in modes.EXEMPT_FROM_FAILED_MODE:
            return modes.failed(work)
        if connects:
            work.switch = switch.bind(work)
        handler = _HANDLERS.get(case)
        if handler is None:
            handler = business.pos if work.request.process_type == "Kassenbeleg-V1" else business.other
        try:
            if work.in_turn:
                return handler(work)
            return self._outside(handler, work)
        except (ClientError, NotSupported):
            raise
        except ScuError as error:
            if case in _MUST_REACH_TSE:
                raise
            _log.warning("queue %s: TSE failed: %s %s", self.queue_id, error.code, error)
            self.failure = str(error)
            work.binding.signed_at = None
            return modes.failed(work, error)

    def _outside(self, handler: Handler, work: Work) -> Outcome:
        """Call a TSE outside this process: to wait for it takes no turn."""
        turn = self._own_turn
        if turn is None:
            return handler(work)
        turn.leave()
        try:
            return handler(work)
        finally:
            turn.__enter__()

    def _complete(self, item: QueueItemRow, work: Work, outcome: Outcome) -> bytes:
        """T2: the answer, its place in the chain and everything the receipt changed, in one commit."""
        state = self._state
        request = work.request
        response = self._response(
            item,
            f"ft{state.receipt_numerator:X}#{outcome.suffix}",
            work.now,
            outcome.signatures,
            DE + outcome.state,
            outcome.state_data,
        )
        text = encode_response(response)
        now = self._clock()
        journal_id = self._new_guid()
        number = state.receipt_numerator + 1
        _, response_hash, chain_hash, chain_hash_base64 = complete(
            state.receipt_hash, bytes_le(journal_id), now, number, request.request_hash, text
        )
        total = request.total
        change = Change()
        change.answers.append(
            AnswerRow(
                item.queue_no,
                item.ftQueueRow,
                work.now,
                now,
                text.decode(),
                response_hash,
                now,
                work.calls,
                Receipt(number, journal_id, now, total, chain_hash_base64),
            )
        )
        was_failed = self.failed
        self._stale = True  # until the commit is through, memory may be ahead of the disk
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
            change.actions += self._action_rows(work.actions, item.ftQueueItemId, now)
        if work.case in SPECIAL_CASES:
            scu_row = work.binding.unsaved(now)
            if scu_row is not None:
                change.scus.append(scu_row)
        if work.export_due and self._exports.wanted:
            due = self._exports.due(item.ftQueueItemId, number, work.binding.scu_id, now)
            change.exports.append(due)
        if work.effects:
            work.effects.write(state.queue_no, change)
            self._commit(change)
            work.effects.apply(self._transactions)
        else:
            self._commit(change)
        self._due += change.exports
        self._stale = False
        if work.alarms:
            self._alarm(work)
        if self.failed != was_failed and self._on_mode is not None:
            self._on_mode(self)
        return text

    def _alarm(self, work: Work) -> None:
        """Tell the host of signatures that do not verify; they are journalled."""
        if self._on_alarm is not None:
            for text in work.alarms:
                self._on_alarm(self, text)

    def _reject(self, item: QueueItemRow, work: Work, error: Exception) -> bytes:
        """Store the error response; raise ``error`` to the caller, or answer it to a v2-tagged request."""
        if not isinstance(error, FiskalError):
            _log.exception("queue %s: internal error", self.queue_id)
            error = FiskalError(f"internal error: {type(error).__name__}")
            error.code = "INTERNAL"
        receipt_case = work.request.receipt_case
        text = self._store_error(item, receipt_case, f"{error.code}: {error}", work, signatures.error)
        if receipt_case & VERSION_MASK == VERSION_2:
            return text.encode()
        if isinstance(error, ReceiptRejected):
            error.response = text
        raise error

    def _store_error(
        self,
        item: QueueItemRow,
        receipt_case: int,
        message: str,
        work: Work,
        make: Callable[[int, str], SignaturItem],
    ) -> str:
        """Answer an item with the error state: it keeps its row, but gets no number and no place in the
        chain."""
        state = self._state
        country = receipt_case & COUNTRY_MASK
        error_state = to_int64(country | State.ERROR)
        now = self._clock()
        signature = make(to_int64(country), message)
        response = self._response(item, "", now, [signature], error_state, None)
        text = encode_response(response).decode()
        change = Change()
        change.answers.append(
            AnswerRow(
                item.queue_no,
                item.ftQueueRow,
                work.now,
                now,
                text,
                _hash_text(text),
                now,
                work.calls,
                None,
            )
        )
        actions = [
            *work.actions,
            Action(
                f"{country | State.ERROR:X}",
                "An error occurred during receipt processing, resulting in ftState = 0xEEEE_EEEE.",
            ),
        ]
        change.actions += self._action_rows(actions, item.ftQueueItemId, now)
        self._stale = True
        state.current_row = item.ftQueueRow
        change.queues.append(state.row(now))
        work.effects.write(state.queue_no, change)
        self._commit(change)
        work.effects.apply(self._transactions)
        self._stale = False
        if work.alarms:
            self._alarm(work)
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
            ft_cash_box_identification=self._state.cash_box_identification,
            ft_receipt_identification=identification,
            ft_receipt_moment=format_ticks(moment),
            ft_signatures=items,
            ft_state=state,
            ft_state_data=state_data,
        )

    def _open_elsewhere(self, scu_id: str) -> set[int]:
        return {
            open_.TransactionNumber
            for row in self._store.queues()
            if row.ftQueueId != self.queue_id
            for open_ in self._store.open_transactions(row.queue_no)
            if open_.scu_id == scu_id
        }

    # ---- store ----------------------------------------------------------------------------------

    def _commit(self, change: Change, *, in_turn: bool = True) -> None:
        self._accepted()
        try:
            self._store.commit(change, self._own_turn, in_turn=in_turn)
        except BaseException:
            self._stale = True
            raise

    def _persist_effects(self, work: Work) -> None:
        """Called by a receipt kind in its work, which has the turn only beside a TSE in this process."""
        change = Change()
        work.effects.write(self._state.queue_no, change)
        self._commit_in_work(work, change)
        work.effects.apply(self._transactions)

    def _commit_in_work(self, work: Work, change: Change) -> None:
        if work.in_turn:
            self._commit(change)
        else:
            with self._own_turn or _NO_TURN:
                self._commit(change)

    def _row(self) -> QueueRow:
        row = self._store.queue(self.queue_id)
        if row is None:
            raise StoreError(f"the store holds no queue {self.queue_id}; create it with 'fiskal init'")
        return row

    def _load(self, recover_by: Deadline | None = None) -> None:
        """Read the state from the store and answer items that were interrupted before their answer."""
        row = self._row()
        master_data = self._store.master_data(row.queue_no)
        self._state = state = QueueState(
            row,
            master_data=NO_MASTER_DATA if master_data is None else master_data.MasterDataJson,
            migrated=self._store.last_action(self.queue_id, closings.MIGRATION_TYPE) is not None,
        )
        self._transactions = Transactions(
            {each.cbReceiptReference: each for each in self._store.open_transactions(row.queue_no)},
            {each.cbReceiptReference: each for each in self._store.failed_starts(row.queue_no)},
            {each.cbReceiptReference: each for each in self._store.failed_finishes(row.queue_no)},
            {each.ftQueueItemId: each for each in self._store.doubtful_starts(row.queue_no)},
            {each.ftQueueItemId: each for each in self._store.undelivered(row.queue_no)},
        )
        self._questions = self._read_questions()
        items = self._store.unanswered_items(row.queue_no)
        if items:
            recall = Recall(self._lookups.binding, recover_by or Deadline(interrupted.RUNNING_S))
            for item in items:
                state.queued_row = max(state.queued_row, item.ftQueueRow)
                if item.ftQueueRow in self._ahead:
                    continue  # its caller waits for the turn
                _log.warning("queue %s: row %d was interrupted", self.queue_id, item.ftQueueRow)
                self._recover(item, recall)
        self._stale = False

    # ---- what was interrupted -------------------------------------------------------------------

    def _recover(self, item: QueueItemRow, recall: Recall) -> None:
        """Answer an interrupted item: with its real answer if that can be known, else as interrupted."""
        work = self._remembered_work(item, recall)
        if self._question_elsewhere(item, work.request) is not None:
            # The TSE of the queue hears of it only when the other one is known not to have signed it.
            message = f"Row {item.ftQueueRow} was interrupted; no TSE was called for it."
            work.actions.append(interrupted.journal(message, list(self._questions.values())))
            self._store_error(item, work.request.receipt_case, INTERRUPTED, work, _interrupted)
            return
        kind: interrupted.Kind | None = None
        try:
            try:
                _check_text(item, work)
                outcome = self._decide(work)
            except interrupted.NotExecuted as error:
                self._interrupt(item, work, str(error), recall, recall.own(work))
                return
        except interrupted.Undecidable as error:
            _log.warning("queue %s: row %d is undecided: %s", self.queue_id, item.ftQueueRow, error)
            kind = interrupted.Kind.UNDECIDED
            work.effects.clear()
            work.actions.clear()
            self._note(work, item, kind, f"Row {item.ftQueueRow} was interrupted; it is undecided: {error}.")
            self._store_error(item, work.request.receipt_case, INTERRUPTED, work, _interrupted)
        except StoreError:
            raise
        except FiskalError as error:
            first = self._questions.get(item.request)
            if first is not None and work.repeats and not work.began:
                kind = first.kind
            self._note(work, item, kind, f"Row {item.ftQueueRow} was interrupted; it is rejected.")
            message = f"{error.code}: {error}"
            self._store_error(item, work.request.receipt_case, message, work, signatures.error)
        except Exception as error:
            _log.exception("queue %s: internal error", self.queue_id)
            self._interrupt(item, work, f"internal error {type(error).__name__}", recall)
        else:
            kind = interrupted.Kind.COMPLETED
            what = "from the record of the TSE" if work.calls is not None else "without the TSE"
            self._note(work, item, kind, f"Row {item.ftQueueRow} was interrupted; it is completed {what}.")
            self._complete(item, work, outcome)

    def _remembered_work(self, item: QueueItemRow, recall: Recall, at: str | None = None) -> Work:
        """The work of an item at SCUs that only remember, ``at`` one if not where the queue is."""
        request = prepare(item.request.encode(), strict=self.settings.process_data_strict)
        question = self._questions.get(item.request)
        asked = item.ftQueueItemId if question is None or not question.repeatable else question.item
        bindings = recall.bindings_for(
            asked,
            self._state.cash_box_identification,
            list(self._transactions.open.values()),
            list(self._transactions.doubtful_starts.values()),
        )
        lookups = self._lookups._replace(binding=bindings)
        settings = msgspec.structs.replace(
            self.settings,
            scu_max_retries=1,
            scu_timeout_ms=max(1, int(recall.deadline.remaining() * 1000)),
        )
        return self._work(item, request, item.ftQueueMoment, settings, lookups, _keep, at)

    def _interrupt(
        self,
        item: QueueItemRow,
        work: Work,
        reason: str,
        recall: Recall,
        own: Own | None = None,
    ) -> None:
        """Give an item its error answer, and close what it left open on the TSE; ``own`` is what it began itself."""
        found = [f"Row {item.ftQueueRow} was interrupted; it has no answer: {reason}."]
        signed = work.calls
        _note_begun(work, own)
        orphans = [row for row in work.effects.open.values() if row is not None and row.implicit]
        for row in orphans:
            try:
                found.append(recall.close_orphan(work, row.TransactionNumber))
            except ScuError as error:
                found.append(f"Transaction {row.TransactionNumber} stays open: {error}")
            else:
                work.effects.open[row.cbReceiptReference] = None
        was_signed = interrupted.signed_itself(signed) or (own is not None and own.signed)
        kind = interrupted.Kind.SIGNED if was_signed else None
        if signed is not None:
            found.append(f"The TSE had executed {signed}.")
        self._note(work, item, kind, " ".join(found))
        self._store_error(item, work.request.receipt_case, INTERRUPTED, work, _interrupted)

    def _note(self, work: Work, item: QueueItemRow, kind: interrupted.Kind | None, message: str) -> None:
        """Journal what became of an interrupted item, and remember it if it may be asked for."""
        questions = self._questions
        first = questions.pop(item.request, None)
        if kind is not None:
            item_id, scu_id = item.ftQueueItemId, work.binding.scu_id
            if kind != interrupted.Kind.COMPLETED and first is not None and work.repeats:
                item_id, scu_id = first.item, first.scu
            questions[item.request] = Question(item_id, scu_id, kind, item.ftQueueMoment)
        if first is not None and kind != interrupted.Kind.UNDECIDED:
            self._keep_left(work, first)
        while len(questions) > interrupted.MAX_QUESTIONS:
            del questions[next(iter(questions))]
        work.actions.append(interrupted.journal(message, list(questions.values())))

    def _note_repetition(self, work: Work, first: Question) -> None:
        """An interrupted item was sent again, and its TSE calls were made under the first item's id."""
        self._keep_left(work, first)
        message = "An interrupted receipt was sent again; the TSE knows it by its first queue item."
        work.actions.append(interrupted.journal(message, list(self._questions.values())))

    def _question_elsewhere(self, item: QueueItemRow, request: Prepared) -> Question | None:
        """What is known of this receipt if it was interrupted at a TSE that the queue has left since, and the TSE of
        the queue would be asked to sign it now."""
        question = self._questions.get(item.request)
        state = self._state
        case = request.receipt_case & CASE_MASK
        if (
            question is None
            or not question.repeatable
            or state.scu_id in (question.scu, None)
            or not state.active
            or (state.fail_count and case not in modes.EXEMPT_FROM_FAILED_MODE)
            or case in _WHERE_THE_QUEUE_IS
            or not self._is_recent(question)
        ):
            return None
        return question

    def _answer_from(self, item: QueueItemRow, request: Prepared, question: Question) -> bytes | None:
        """Answer a receipt with what a TSE signed that the queue has left since.

        None if that has not signed it, which is durable then: from here on the receipt is a new one. Raises
        ReceiptRejected if nobody can know, or no answer can be made of it; StoreError.
        """
        recall = Recall(self._lookups.binding, Deadline(interrupted.RUNNING_S), carries_on=False)
        work = self._work(
            item, request, item.ftQueueMoment, self.settings, self._lookups, _keep, question.scu
        )
        try:
            if self._lookups.binding(question.scu) is None:
                raise interrupted.Undecidable("that SCU is no longer configured")
            work = self._remembered_work(item, recall, question.scu)
            outcome = None
            try:
                outcome = self._decide(work)
            except interrupted.NotExecuted:
                pass
            if outcome is None or not interrupted.signed_itself(work.calls):
                self._give_up(item, work, question, recall)
                return None
        except interrupted.Undecidable as error:
            work.effects.clear()
            work.actions.clear()
            return self._reject(item, work, _signed_elsewhere(question, str(error)))
        except StoreError:
            self._stale = True
            raise
        except Exception as error:
            work.effects.clear()
            return self._reject(item, work, error)
        except BaseException:
            self._stale = True
            raise
        del self._questions[item.request]
        self._note_repetition(work, question)
        return self._complete(item, work, outcome)

    def _give_up(self, item: QueueItemRow, work: Work, question: Question, recall: Recall) -> None:
        """The TSE that the queue has left has not signed a receipt: end what it has begun of it. Raises Undecidable,
        also if it had signed it after all; StoreError."""
        own = recall.own(work)
        if own is not None and own.signed:
            number = own.start.transaction_number
            raise interrupted.Undecidable(f"no answer can be made of its transaction {number}")
        found = [f"SCU {question.scu} had not signed queue item {question.item}, which is begun anew."]
        left = None
        if own is not None and own.is_open:
            number = own.start.transaction_number
            try:
                found.append(recall.close_orphan(work, number))
            except ScuError as error:
                found.append(f"Transaction {number} stays open: {error}")
                left = msgspec.structs.replace(question, kind=interrupted.Kind.LEFT)
        del self._questions[item.request]
        if left is not None:
            self._questions[question.item] = left
        change = Change()
        entry = interrupted.journal(" ".join(found), list(self._questions.values()), question.item)
        change.actions += self._action_rows([entry], question.item, self._clock())
        self._commit(change)

    def _move_on(self, work: Work) -> None:
        """The transaction of the first item is closed: what the TSE signs from here on, it signs for this one."""
        own = Question(work.item_id, work.binding.scu_id, interrupted.Kind.UNDECIDED, work.now)
        message = "What the first queue item of this receipt had begun was closed as aborted; it begins anew."
        entry = interrupted.journal(message, [*self._questions.values(), own])
        change = Change()
        change.actions += self._action_rows([entry], work.item_id, self._clock())
        self._commit_in_work(work, change)

    def _keep_left(self, work: Work, first: Question) -> None:
        """The receipt did not come to its own start: what the first item may have left open is still to be closed."""
        if first.to_be_decided and not work.began:
            left = msgspec.structs.replace(first, kind=interrupted.Kind.LEFT)
            self._questions[first.item] = left  # not by its text: it is not repeated any more

    def _read_questions(self) -> dict[str, Question]:
        entry = self._store.last_action(self.queue_id, interrupted.JOURNAL_TYPE)
        found: dict[str, Question] = {}
        for question in [] if entry is None else interrupted.read_questions(entry.DataJson):
            stored = self._store.item(question.item)
            if stored is not None:
                left = question.kind == interrupted.Kind.LEFT
                found[question.item if left else stored.item.request] = question
        return found

    def _is_recent(self, question: Question) -> bool:
        return self._clock() - question.moment < interrupted.RESEND_WITHIN_TICKS

    def _find_completed(self, request: Prepared) -> bytes | None:
        """The answer of the very same request, if it was completed after an interruption and not yet heard."""
        question = self._questions.get(request.canonical.decode())
        if question is None or question.kind != interrupted.Kind.COMPLETED or not self._is_recent(question):
            return None
        stored = self._store.item(question.item)
        if stored is None or stored.answer is None:
            return None
        self._journal_found(question.item, request.receipt_reference)
        return stored.answer.response.encode()

    def _decide_questions(self) -> None:
        """The TSE answers: look again at what could not be decided. The receipt before stands in any case."""
        recall = Recall(self._lookups.binding, Deadline(interrupted.RUNNING_S), carries_on=False)
        for key, question in list(self._questions.items()):
            if question.to_be_decided and question.scu == self._state.scu_id:
                try:
                    if not self._decide_question(key, question, recall):
                        return
                except FiskalError as error:
                    _log.warning("queue %s: %s stays undecided: %s", self.queue_id, question.item, error)
                    self._stale = True
                    return

    def _close_begun(self, request: Prepared) -> None:
        """The queue leaves its TSE: close what undecided receipts have begun there. Whether they were signed stays
        open. Raises StoreError."""
        recall = Recall(self._lookups.binding, Deadline(interrupted.RUNNING_S), carries_on=False)
        for key, question in list(self._questions.items()):
            if not question.to_be_decided or question.scu != self._state.scu_id:
                continue
            stored = self._store.item(question.item)
            if stored is None or key == request.canonical.decode():  # it goes on with its own
                continue
            try:
                work = self._remembered_work(stored.item, recall)
                own = recall.own(work)
                if own is None or not _note_begun(work, own):
                    continue
                message = recall.close_orphan(work, own.start.transaction_number)
            except (ScuError, interrupted.Undecidable) as error:
                _log.warning("queue %s: %s stays undecided: %s", self.queue_id, question.item, error)
            else:
                self._journal(message, question.item)

    def _decide_question(self, key: str, question: Question, recall: Recall) -> bool:
        """False if the TSE does not answer after all."""
        stored = self._store.item(question.item)
        if stored is None:
            del self._questions[key]
            return True
        work = self._remembered_work(stored.item, recall)
        found = [f"Queue item {question.item} was undecided."]
        kind: interrupted.Kind | None = None
        closes = True
        try:
            try:
                _check_text(stored.item, work)
                self._decide(work)
            except interrupted.NotExecuted as error:
                found.append(f"It was not signed: {error}.")
            except FiskalError as error:
                found.append(f"It would be rejected: {error}")
                # It may have been signed before it would be rejected: if it comes again, that must still be found.
                kind = interrupted.Kind.SIGNED
            else:
                closes = work.case == ReceiptCase.START_TRANSACTION  # nobody will go on with it
                if not closes and work.calls is not None:
                    kind = interrupted.Kind.SIGNED
                    found.append(f"The TSE had signed it: {work.calls}.")
            if closes:
                own = recall.own(work)
                _note_begun(work, own)
                if own is not None and own.signed:
                    # Whatever kept working through it from coming so far, the receipt had come there.
                    kind = interrupted.Kind.SIGNED
                    found.append(f"The TSE had signed its transaction {own.start.transaction_number}.")
        except interrupted.Undecidable:
            return False
        if closes:
            known = {row.TransactionNumber for row in self._transactions.open.values()}
            found += [
                recall.close_orphan(work, row.TransactionNumber)
                for row in work.effects.open.values()
                if row is not None and row.TransactionNumber not in known
            ]
        del self._questions[key]
        if kind is not None and question.repeatable:
            self._questions[key] = Question(question.item, question.scu, kind, question.moment)
        change = Change()
        entry = interrupted.journal(" ".join(found), list(self._questions.values()), question.item)
        change.actions += self._action_rows([entry], question.item, self._clock())
        self._commit(change)
        return True

    def _journal_found(self, item_id: str, reference: str | None) -> None:
        change = Change()
        text = f'Queue {self.queue_id} found cbReceiptReference "{reference or ""}"'
        actions = [Action("", text)]
        heard = [key for key, question in self._questions.items() if question.item == item_id]
        for key in heard:
            del self._questions[key]
            actions.append(
                interrupted.journal("The POS has the answer of the receipt.", list(self._questions.values()))
            )
        change.actions += self._action_rows(actions, item_id, self._clock())
        self._commit(change)

    def _journal(self, message: str, item_id: str) -> None:
        """An entry of its own in the action journal, written outside of any receipt."""
        change = Change()
        change.actions += self._action_rows([Action(None, message)], item_id, self._clock())
        self._store.commit(change)

    def _action_rows(self, actions: list[Action], item_id: str, now: int) -> list[ActionRow]:
        return [
            ActionRow(
                self._new_guid(),
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

    # ---- TAR exports ------------------------------------------------------------------------------

    def _run_export(self, row: JournalDERow, pause: Pause) -> None:
        """Run the export a receipt left behind, without the queue's lock and without a turn."""
        binding = self._lookups.binding(row.scu_id) or no_scu(row.scu_id)
        try:
            message = self._exports.run(row, binding, pause)
        except ExportCancelled:
            _log.info("queue %s: the TAR export %s waits for the next start", self.queue_id, row.FileName)
            return
        if message is not None:
            try:
                self._journal(message, row.ftQueueItemId)
            except StoreError as error:
                _log.error("queue %s: %s This is not in the journal: %s", self.queue_id, message, error)

    def _export_now(self, work: Work) -> None:
        """Export within a receipt after which there is no TSE or no queue any more."""
        if not self._exports.wanted or work.item_id in self._archived:
            return
        if work.effects:
            work.persist()  # an export takes its time
        turn = self._own_turn if work.in_turn else None
        if turn is not None:
            turn.leave()
        try:
            number = self._state.receipt_numerator + 1
            row = self._taken_up(work) or self._exports.due(
                work.item_id, number, work.binding.scu_id, self._clock()
            )
            change = Change()
            change.exports.append(row)
            self._store.commit(change)
            # An interrupted receipt is worked through at an SCU that only remembers; the log is at the real one.
            binding = self._lookups.binding(work.binding.scu_id) or work.binding
            message = self._exports.run(row, binding, fetch_pause)
        except StoreError as error:
            message = f"TAR export failed: {error}"
        finally:
            if turn is not None:
                turn.__enter__()
        if message is not None:
            work.actions.append(Action(None, message))

    def _taken_up(self, work: Work) -> JournalDERow | None:
        """The export that this receipt began before it was interrupted, which is no longer due then."""
        for row in self._due:
            if row.ftQueueItemId == work.item_id:
                self._due.remove(row)
                return row
        return None

    # ---- what others may ask ----------------------------------------------------------------------

    @property
    def failed(self) -> bool:
        """The queue is in failed mode."""
        return self._state.fail_count > 0

    @property
    def active(self) -> bool:
        """The queue signs: it is in operation, has an SCU, and was not migrated."""
        return _condition(self._state) == "active"

    @property
    def scu_id(self) -> str | None:
        """The SCU the queue signs with, None during an SCU switch."""
        return self._state.scu_id

    @property
    def client_id(self) -> str:
        """What the TSE knows the queue by."""
        return self._state.cash_box_identification

    @property
    def left_behind(self) -> int:
        """How many transactions a zero receipt has to make good."""
        return len(self._transactions.failed_finishes) + len(self._transactions.failed_starts)

    def idle_s(self) -> float:
        """How long ago the last request of a POS came, in seconds."""
        return time.monotonic() - self._used_at

    def settle(self) -> None:
        """Wait for the receipt in work: what it has begun on the TSE is then finished, or in the store.

        Raises QueueBusy.
        """
        with self._lock:
            pass

    def status(self) -> dict[str, Any]:
        """The queue's condition in plain values; takes no lock, may be a receipt behind."""
        state = self._state
        return {
            "ftQueueId": self.queue_id,
            "ftCashBoxIdentification": state.cash_box_identification,
            "state": _condition(state),
            "ftSignaturCreationUnitDEId": state.scu_id,
            "ftCurrentRow": state.current_row,
            "ftQueuedRow": state.queued_row,
            "ftReceiptNumerator": state.receipt_numerator,
            "SSCDFailCount": state.fail_count,
            "SSCDFailMoment": None if state.fail_moment is None else format_ticks(state.fail_moment),
            "SSCDFailReason": self.failure if state.fail_count else None,
            "UsedFailedCount": state.used_failed_count,
            "openTransactions": len(self._transactions.open),
        }


def _condition(state: QueueState) -> str:
    if state.migrated:
        return "migrated"
    if not state.active:
        return "stopped" if state.stopped else "new"
    return "active" if state.scu_id is not None else "switching"


def _note_begun(work: Work, own: Own | None) -> bool:
    """Note what an interrupted receipt had begun as its orphan. False if nothing of it is open, or it is known so."""
    if own is None or not own.is_open:
        return False
    number = own.start.transaction_number
    if any(row.TransactionNumber == number for row in work.open_transactions()):
        return False
    work.note_open(f"{work.reference}#{number}", own.start, implicit=True)
    return True


def _signed_elsewhere(question: Question, reason: str) -> ReceiptRejected:
    return ReceiptRejected(
        "SIGNED_ELSEWHERE",
        f"This receipt was interrupted at SCU {question.scu}, which the queue has left since, and may have been signed "
        f"there: {reason}",
        hint="Send it again when that SCU answers, or with the flag for late signing (0x0000000000010000).",
    )


def _check_text(item: QueueItemRow, work: Work) -> None:
    """Raises NotExecuted if the stored text would be answered for another request than it was accepted for."""
    if work.request.request_hash_base64 != item.requestHash:
        raise interrupted.NotExecuted("the request is read differently now")


def _keep(work: Work) -> None:
    """Nothing of a receipt that is worked through once more is durable before its answer is."""


def _interrupted(country: int, text: str) -> SignaturItem:
    item = signatures.error(country, "The middleware was interrupted before this receipt was answered.")
    item.caption = text
    return item


def _hash_text(text: str) -> str:
    return base64.b64encode(sha256(text.encode())).decode()
