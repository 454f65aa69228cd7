"""The pipeline of one queue: accept, decide, sign, complete.

T1 makes the accepted request durable before the TSE is asked; T2 makes the answer, the chain and the state
durable before the POS hears of it. One receipt is in work at a time; the caller's thread does it all.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import nullcontext
from threading import get_ident, main_thread
from typing import Any

from fiskal.clock import TICKS_PER_SECOND, Clock
from fiskal.core import Prepared, complete, format_ticks, sha256
from fiskal.errors import FiskalError, ReceiptRejected, StoreError
from fiskal.fairlock import FairLock, Turn
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
from fiskal.pos import ReceiptResponse, SignaturItem, decode_request, decode_response, encode_response
from fiskal.queue import checks, identity, modes, receipt_request
from fiskal.queue.binding import ScuBinding, no_scu
from fiskal.queue.ids import GuidSource, bytes_le
from fiskal.queue.later import Later
from fiskal.queue.receipts import business, closings, lifecycle, switch, transactions, zero
from fiskal.queue.settings import QueueSettings
from fiskal.queue.state import QueueState
from fiskal.queue.work import SPECIAL_CASES, Action, Lookups, Outcome, Transactions, Work
from fiskal.scu.errors import ClientError, NotSupported, ScuError
from fiskal.store import (
    ActionRow,
    AnswerRow,
    Change,
    MasterDataRow,
    QueueItemRow,
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

NOT_FOUND = b""
"""No answer is empty: the past has none for a request."""

RESEND_WITHIN_TICKS = 15 * 60 * TICKS_PER_SECOND
"""How long after its acceptance an interrupted receipt is known again when the POS sends it once more."""

_MUST_REACH_TSE = frozenset(
    {ReceiptCase.INITIAL_OPERATION, ReceiptCase.INITIATE_SCU_SWITCH, ReceiptCase.FINISH_SCU_SWITCH}
)
"""Cases for which a failing TSE is an error of the call instead of failed mode."""

_SWITCHES = frozenset({ReceiptCase.INITIATE_SCU_SWITCH, ReceiptCase.FINISH_SCU_SWITCH})


class Queue:
    """One queue of a host. All methods may be called from many threads.

    ``cash_box_id`` is the configured cash box; ``bindings`` gives an SCU of the host by its id, None if there
    is no such: which one the queue uses is part of its stored state. ``master_data`` is the configured text,
    which a closing may bring into effect. Raises StoreError when the store does not hold ``queue_id``.
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
    ) -> None:
        self.queue_id = queue_id
        self.cash_box_id = cash_box_id
        self.settings = settings
        self._store = store
        self._clock = clock
        self._new_guid = new_guid
        self._signatures = SignatureBuilder(
            flag_optional=settings.flag_optional_signatures, qr_caption=settings.qr_caption
        )
        self._no_scu = no_scu()
        self._lookups = Lookups(
            bindings,
            lambda *types: self._store.last_action(self.queue_id, *types),
            lambda: self._store.count_actions(self.queue_id),
            master_data,
        )
        self._lock = FairLock(settings.max_waiting)
        self._later = Later(f"fiskal-{queue_id[:8]}", settings.max_waiting)
        self._turn = turn
        self._told_disabled = False
        self._stale = True
        self._state: QueueState
        self._transactions: Transactions
        self._interrupted: dict[str, str] = {}
        self._own_turn: Turn | None = None
        self._load()

    # ---- the way of one receipt -----------------------------------------------------------------

    def sign(self, request: Prepared) -> bytes | None:
        """Sign one request and return the response text, exactly as it was stored and hashed.

        None only for a receipt request (flag 0x0000_8000_0000_0000) without a match. Raises
        ReceiptRejected, QueueBusy, StoreError; ScuError for a receipt that takes up work at a TSE which fails.
        """
        last = self._later.last
        if last is not None:
            wait((last,))  # who came later is served later: a finish never before its own start
        return self._sign(request)

    def sign_later(self, request: Prepared) -> Future[bytes | None]:
        """Put one request in line and return; the future gives what :meth:`sign` would have returned or raised.

        Every request that comes afterwards, by whatever way, is served after it. Raises ReceiptRejected for
        another cash box or queue, QueueBusy.
        """
        self._check_address(request)
        return self._later.submit(lambda: self._sign(request))

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
            # Ctrl-C hits the main thread between any two steps and could take a turn with it, so that thread
            # goes without.
            self._own_turn = None if get_ident() == main_thread().ident else self._turn
            if (
                self._stale
                or self._state.migrated
                or request.receipt_case & ReceiptFlag.RECEIPT_REQUEST
                or self.settings.duplicate_window_s
            ):
                with self._own_turn or _NO_TURN:
                    found, request = self._look_back(request)
                if found is not NOT_FOUND:
                    return found
            return self._process(request)

    def _look_back(self, request: Prepared) -> tuple[bytes | None, Prepared]:
        """What the past says to a request: the answer it already has, None for null, or NOT_FOUND and the
        request to be signed."""
        if self._stale:
            self._load()
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
        if self.settings.duplicate_window_s:
            stored = self._find_duplicate(request)
            if stored is not None:
                return stored, request
        return NOT_FOUND, request

    def _process(self, request: Prepared) -> bytes:
        item = self._item(request)
        change = Change()
        change.accepted.append(item)
        try:
            self._commit(change, in_turn=False)  # T1; from here on the work has the turn
            self._state.queued_row += 1
            return self._answer(item, request)
        finally:
            if self._own_turn is not None:
                self._own_turn.leave()

    def _answer(self, item: QueueItemRow, request: Prepared) -> bytes:
        work = Work(
            request,
            item.ftQueueItemId,
            self._interrupted.pop(item.request, None) if self._interrupted else None,
            self._clock(),
            self._state,
            self._transactions,
            self._binding,
            self.settings,
            self._signatures,
            self._clock,
            self._lookups,
            self._persist_effects,
        )
        try:
            outcome = self._decide(work)
        except StoreError:
            self._stale = True  # the item has no answer yet; reading the queue again closes it
            raise
        except Exception as error:
            return self._reject(item, work, error)
        except BaseException:
            self._stale = True
            raise
        return self._complete(item, work, outcome)

    @property
    def _binding(self) -> ScuBinding:
        """The SCU the queue is connected to; one that is never reached while it has none."""
        scu_id = self._state.scu_id
        return self._no_scu if scu_id is None else self._lookups.binding(scu_id) or no_scu(scu_id)

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
        if flags & ReceiptFlag.FAILED_RECEIPT:
            return modes.late_signing(work)
        if flags & ReceiptFlag.HANDWRITTEN:
            return modes.handwritten(work)
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
        if work.case == ReceiptCase.DAILY_CLOSING or (outcome.updates and "scu_id" in outcome.updates):
            self._interrupted.clear()  # what they left on the TSE may be closed now, or it is another TSE
        if work.case in SPECIAL_CASES:
            scu_row = work.binding.unsaved(now)
            if scu_row is not None:
                change.scus.append(scu_row)
        if work.effects:
            work.effects.write(state.queue_no, change)
            self._commit(change)
            work.effects.apply(self._transactions)
        else:
            self._commit(change)
        self._stale = False
        return text

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
        work: Work | None,
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
                now if work is None else work.now,
                now,
                text,
                _hash_text(text),
                now,
                None if work is None else work.calls,
                None,
            )
        )
        actions = [
            *([] if work is None else work.actions),
            Action(
                f"{country | State.ERROR:X}",
                "An error occurred during receipt processing, resulting in ftState = 0xEEEE_EEEE.",
            ),
        ]
        change.actions += self._action_rows(actions, item.ftQueueItemId, now)
        self._stale = True
        state.current_row = item.ftQueueRow
        change.queues.append(state.row(now))
        if work is not None:
            work.effects.write(state.queue_no, change)
        self._commit(change)
        if work is not None:
            work.effects.apply(self._transactions)
        self._stale = False
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

    # ---- store ----------------------------------------------------------------------------------

    def _commit(self, change: Change, *, in_turn: bool = True) -> None:
        try:
            self._store.commit(change, self._own_turn, in_turn=in_turn)
        except BaseException:
            self._stale = True
            raise

    def _persist_effects(self, work: Work) -> None:
        """Called by a receipt kind in its work, which has the turn only beside a TSE in this process."""
        change = Change()
        work.effects.write(self._state.queue_no, change)
        if work.in_turn:
            self._commit(change)
        else:
            with self._own_turn or _NO_TURN:
                self._commit(change)
        work.effects.apply(self._transactions)

    def _load(self) -> None:
        """Read the state from the store and answer items that were interrupted before their answer."""
        row = self._store.queue(self.queue_id)
        if row is None:
            raise StoreError(f"the store holds no queue {self.queue_id}; create it with 'fiskal init'")
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
        )
        accepted = Change()
        accepted.unanswered.append(row.queue_no)
        self._commit(accepted)
        for item in self._store.unanswered_items(row.queue_no):
            state.queued_row = max(state.queued_row, item.ftQueueRow)
            _log.warning("queue %s: row %d was interrupted", self.queue_id, item.ftQueueRow)
            self._store_error(item, _receipt_case(item), INTERRUPTED, None, _interrupted)
        self._interrupted = self._find_interrupted()
        self._stale = False

    def _find_interrupted(self) -> dict[str, str]:
        """Item ids of interrupted receipts by their request.

        The TSE may have signed such a receipt, and nobody heard of it. When the very same request comes
        again, its TSE calls are repeated under the first item's id: what was executed is fetched, not signed
        a second time.
        """
        found: dict[str, str] = {}
        for item, answer in self._store.iter_items(self._state.queue_no, self._clock() - RESEND_WITHIN_TICKS):
            if answer is not None and _INTERRUPTED_MARK in answer.response:
                found.setdefault(item.request, item.ftQueueItemId)
            elif found:
                found.pop(item.request, None)
                case = _receipt_case(item) & CASE_MASK
                if case == ReceiptCase.DAILY_CLOSING or (case in _SWITCHES and _is_ready(answer)):
                    found.clear()
        return found

    def _journal_found(self, item_id: str, reference: str | None) -> None:
        change = Change()
        text = f'Queue {self.queue_id} found cbReceiptReference "{reference or ""}"'
        change.actions += self._action_rows([Action("", text)], item_id, self._clock())
        self._commit(change)

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

    # ---- what others may ask ----------------------------------------------------------------------

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
            "UsedFailedCount": state.used_failed_count,
            "openTransactions": len(self._transactions.open),
        }


def _condition(state: QueueState) -> str:
    if state.migrated:
        return "migrated"
    if not state.active:
        return "stopped" if state.stopped else "new"
    return "active" if state.scu_id is not None else "switching"


_INTERRUPTED_MARK = f'"Caption":"{INTERRUPTED}"'


def _is_ready(answer: AnswerRow | None) -> bool:
    """Was the receipt processed, with nothing amiss?"""
    return answer is not None and decode_response(answer.response.encode()).ft_state == DE


def _interrupted(country: int, text: str) -> SignaturItem:
    item = signatures.error(country, "The middleware was interrupted before this receipt was answered.")
    item.caption = text
    return item


def _hash_text(text: str) -> str:
    return base64.b64encode(sha256(text.encode())).decode()


def _receipt_case(item: QueueItemRow) -> int:
    return decode_request(item.request.encode()).ft_receipt_case
