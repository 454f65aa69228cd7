"""What becomes of a receipt that was interrupted between its acceptance (T1) and its answer (T2).

The process died, or the disk did not take the answer: the item is stored, the TSE may have signed it, and
nobody heard of it. Before the queue takes its next receipt it goes through these items in the order of their
rows. Each is worked through once more, at an SCU that *only remembers*: it gives the answers of calls that it
executed for this item, and executes none. So the same code that made the first answer makes it again.

===========================================  ==============================================================
what the SCU's record says                   what becomes of the item
===========================================  ==============================================================
every signature the receipt needs exists     its answer is made from them; it gets number and place in the
(sale, order, step, closing, start, …)       chain, and a receipt request finds it
the receipt needs no TSE (failed mode, late  answered as it would have been
signing, handwritten, out of service), or
is wrong in itself
implicit receipt, start signed, finish not   ``interrupted``; its transaction is closed as AVBelegabbruch. To
                                             finish it would sign a sale that the POS may have given up
start, finish or update of the explicit      ``interrupted``; what was open stays open, the POS goes on with it
flow, not signed
zero receipt or closing, signed itself, but  ``interrupted``; what it did to other transactions stands, and
not all it had to do beside it was done      the next one goes on
nothing was executed                         ``interrupted``
anything, but an update reads the stored     ``interrupted``; what it had begun is closed
text as another request
the SCU cannot be asked in time, or keeps    ``interrupted``, and the item is remembered as *undecided*
no record
===========================================  ==============================================================

``interrupted`` is an error answer: the item keeps its row and gets no number (queue invariants). Working through a
receipt may end ahead of its own transaction, at something it did besides or at what the queue has open by now. So what
became of that transaction is asked for by itself: one that is open is closed, and a receipt that signed its own is
remembered as *signed*, whatever it is answered. A comparison with the TSE that had not come to its end counts as one
that failed: the receipts that can do without it are completed.

An undecided item is looked at again after the first receipt that reached its TSE: a transaction it left open is
closed as aborted. Should the POS send the very same request again before or after that, its TSE calls are made
under the first item's id: what was executed is fetched, not signed a second time. If the transaction of the first
item was closed as aborted meanwhile, the receipt begins anew under its own id, which is noted before the TSE hears of
it: from then on that item is the one whose calls are repeated. In the same way a POS that sends an item again which
has been completed, without having asked for the answer, gets that answer, once.

If the queue has left the TSE of the first item meanwhile, that one is asked what it remembers, and ends at most what
it had begun. What it signed is the answer. What it did not sign is signed at the TSE of the queue, which does not hear
of the receipt before the disk knows that. While nobody can say what it did, the receipt is refused.

Everything that was found out is written to the action journal, in the commit of the answer it belongs to. The
entry carries the list of items that still may be asked for, so the newest entry is the whole memory.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar, cast

import msgspec

from fiskal.clock import TICKS_PER_SECOND
from fiskal.germany import notifications
from fiskal.queue.binding import ScuBinding
from fiskal.queue.work import ABORTED_BASE64, Action, Work
from fiskal.scu.contract import (
    Deadline,
    FinishTransactionRequest,
    FinishTransactionResponse,
    Recalls,
    RegisterClientIdRequest,
    RegisterClientIdResponse,
    Scu,
    StartTransactionRequest,
    StartTransactionResponse,
    TseInfo,
    TseState,
    UnregisterClientIdRequest,
    UnregisterClientIdResponse,
    UpdateTransactionRequest,
    UpdateTransactionResponse,
)
from fiskal.scu.errors import ClientError, NotSupported, ScuError
from fiskal.scu.refusals import transaction_not_open
from fiskal.store.interface import DoubtfulStartRow, OpenTransactionRow

START_UP_S: Final = 10.0
"""How long the queues of a host that starts may wait for TSEs in all, to decide what was interrupted."""

RUNNING_S: Final = 5.0
"""The same for one queue of a running host."""

RESEND_WITHIN_TICKS: Final = 7 * 24 * 3600 * TICKS_PER_SECOND
"""How long after its acceptance an interrupted receipt is known again when the POS sends it once more."""

MAX_QUESTIONS: Final = 32
"""So many interrupted items are remembered, the newest ones."""

JOURNAL_TYPE: Final = "4445000000000000-Interrupted"
"""Type of the action journal's entries about interrupted receipts."""

_Found = TypeVar("_Found")


class NotExecuted(Exception):
    """The receipt was interrupted before this call: its answer never came to be."""


class Undecidable(Exception):
    """Nobody can say now what the TSE did."""


class Kind(enum.StrEnum):
    """What is known of an interrupted item that may come again."""

    COMPLETED = "completed"
    """It has its answer, which the POS has not seen."""
    UNDECIDED = "undecided"
    """It was answered ``interrupted`` without having asked the TSE."""
    SIGNED = "signed"
    """It was answered ``interrupted``, and the TSE had signed it."""
    LEFT = "left"
    """It was sent again and answered without the TSE; what it may have left open is still to be closed."""


class Question(msgspec.Struct, frozen=True):
    """An interrupted item that the POS may ask for."""

    item: str
    scu: str
    kind: Kind
    moment: int
    """When it was accepted, in ticks."""

    @property
    def to_be_decided(self) -> bool:
        return self.kind in (Kind.UNDECIDED, Kind.LEFT)

    @property
    def repeatable(self) -> bool:
        """Sent again, its TSE calls are made under this item's id."""
        return self.kind in (Kind.UNDECIDED, Kind.SIGNED)


class Own(NamedTuple):
    """The transaction that an interrupted receipt began itself."""

    start: StartTransactionResponse
    is_open: bool
    signed: bool
    """The receipt finished it, and not as aborted."""


class _Entry(msgspec.Struct):
    questions: list[Question] = []


def read_questions(data_json: str | None) -> list[Question]:
    """The list in the DataJson of the newest entry; empty if it has none that can be read."""
    try:
        return msgspec.json.decode(data_json or "{}", type=_Entry).questions
    except msgspec.DecodeError:
        return []


def journal(message: str, questions: list[Question], item_id: str | None = None) -> Action:
    """The entry of the action journal that makes ``questions`` the memory of what was interrupted."""
    data = {"questions": [msgspec.to_builtins(question) for question in questions[-MAX_QUESTIONS:]]}
    return Action(JOURNAL_TYPE, message, notifications.to_json(data), item_id=item_id)


def signed_itself(calls: str | None) -> bool:
    """Did the TSE finish a transaction that the same receipt had started (``S7:13:<ticks> F7:14:<ticks>``)?"""
    words = [word.partition(":")[0] for word in (calls or "").split()]
    return any(f"F{word[1:]}" in words for word in words if word[0] == "S")


class Recall:
    """One pass over interrupted items: the SCUs of the host, asked for what they remember.

    ``binding`` gives an SCU by its id; ``deadline`` ends the pass. ``carries_on`` is False when nothing is completed,
    but only found out: then what a receipt does to the state of a TSE beside its signatures is not done either.
    """

    def __init__(
        self, binding: Callable[[str], ScuBinding | None], deadline: Deadline, *, carries_on: bool = True
    ) -> None:
        self._binding = binding
        self.deadline = deadline
        self._carries_on = carries_on

    def bindings_for(
        self,
        item_id: str,
        client_id: str,
        rows: list[OpenTransactionRow],
        doubts: list[DoubtfulStartRow],
    ) -> Callable[[str], ScuBinding | None]:
        """The same SCUs, but such that only remember what they did for one item.

        ``rows`` are the open transactions of the queue as stored, ``doubts`` its starts whose answer was lost.
        """

        def remembering(scu_id: str) -> ScuBinding | None:
            real = self._binding(scu_id)
            if real is None:
                return None

            def connect() -> Scu:
                numbers = [row.TransactionNumber for row in rows if row.scu_id == scu_id]
                lost = [row for row in doubts if row.scu_id == scu_id and row.ftQueueItemId != item_id]
                scu = _remembering(real, self.deadline, item_id, client_id, numbers, lost)
                scu.carries_on = self._carries_on
                return cast(Scu, scu)

            binding = ScuBinding(scu_id, connect, real.row)
            binding.info, binding.certification_id = real.info, real.certification_id
            binding.in_process = True
            return binding

        return remembering

    def own(self, work: Work) -> Own | None:
        """The transaction that an interrupted receipt began itself, if it came so far.

        Working through the receipt need not come to it: what else the receipt had to do, or what the queue has open
        by now, may stop it before. Raises Undecidable.
        """
        real = self._binding(work.binding.scu_id)
        if real is None:
            return None
        item_id, client_id = work.tse_item_id, work.state.cash_box_identification
        try:
            scu, recalls = _ask_at(real, self.deadline)
            start = recalls.recall_start(
                StartTransactionRequest(client_id=client_id, queue_item_id=item_id), self.deadline
            )
            if start is None:
                return None
            number = start.transaction_number
            if number in scu.get_tse_info(self.deadline).current_started_transaction_numbers:
                return Own(start, is_open=True, signed=False)
            signed = _ended(recalls, item_id, client_id, number, self.deadline) is _End.OTHERWISE
        except ScuError as error:
            raise Undecidable(str(error)) from error
        return Own(start, is_open=False, signed=signed)

    def close_orphan(self, work: Work, number: int) -> str:
        """Close a transaction that an interrupted receipt left open; what became of it, as text for the journal.

        Raises ScuError if the TSE cannot be asked; then nothing is known to have changed.
        """
        real = self._binding(work.binding.scu_id)
        if real is None:
            return f"Transaction {number} belongs to an SCU that is no longer configured."
        real.scu_within(self.deadline)
        work.use(real)
        try:
            finish = work.abort(number, is_retry=True)
        except ClientError:
            return f"Transaction {number} had been finished with other data; that signature has no receipt."
        except ScuError as error:
            if error.code != "TRANSACTION_NOT_OPEN":
                raise
            return f"Transaction {number} had been closed by somebody else."
        return (
            f"Transaction {number} was closed as aborted, signature counter "
            f"{finish.signature_data.signature_counter}."
        )


def _ask_at(real: ScuBinding, deadline: Deadline) -> tuple[Scu, Recalls]:
    """Raises Undecidable if the SCU keeps no record, ScuError if it cannot be asked now."""
    scu = real.scu_within(deadline)
    if getattr(scu, "recall_start", None) is None:
        raise Undecidable("the SCU keeps no record that it can be asked for")
    return scu, cast(Recalls, scu)


def _remembering(
    real: ScuBinding,
    deadline: Deadline,
    item_id: str,
    client_id: str,
    numbers: list[int],
    doubts: list[DoubtfulStartRow],
) -> RememberingScu:
    """Raises Undecidable if the SCU cannot be asked now or keeps no record."""
    try:
        scu, recalls = _ask_at(real, deadline)
        own = recalls.recall_start(
            StartTransactionRequest(client_id=client_id, queue_item_id=item_id), deadline
        )
        info = scu.get_tse_info(deadline)
        for doubt in doubts:
            lost = recalls.recall_start(
                StartTransactionRequest(
                    client_id=doubt.CashBoxIdentification, queue_item_id=doubt.ftQueueItemId
                ),
                deadline,
            )
            if lost is not None:
                numbers.append(lost.transaction_number)
        # As it was when the item began: without its own and what others started since, with what it closed.
        found = [
            number
            for number in info.current_started_transaction_numbers
            if own is None or number < own.transaction_number or number in numbers
        ]
        found += [
            number
            for number in numbers
            if number not in found and _ended(recalls, item_id, client_id, number, deadline) is _End.ABORTED
        ]
    except ScuError as error:
        raise Undecidable(str(error)) from error
    made = RememberingScu(scu, recalls, info, found, item_id, deadline)
    if own is not None:
        made.strangers = frozenset(found).difference(numbers)
    return made


class _End(enum.Enum):
    """What an item did to end a transaction."""

    NOTHING = enum.auto()
    ABORTED = enum.auto()
    OTHERWISE = enum.auto()


def _ended(scu: Recalls, item_id: str, client_id: str, number: int, deadline: Deadline) -> _End:
    request = FinishTransactionRequest(
        client_id=client_id,
        transaction_number=number,
        process_type="Kassenbeleg-V1",
        process_data_base64=ABORTED_BASE64,
        queue_item_id=item_id,
    )
    try:
        return _End.NOTHING if scu.recall_finish(request, deadline) is None else _End.ABORTED
    except ClientError:
        return _End.OTHERWISE


class RememberingScu:
    """An SCU that gives the answers it gave to a receipt, and executes no transaction call.

    Raises NotExecuted where the receipt had not come to, Undecidable where nobody knows. What leads to a state
    (register, deregister, terminate) is carried on once the receipt's own transaction is known to be finished, if the
    receipt is to be completed at all.
    """

    in_process = True
    back_to_back = None  # it calls nothing that others could come between

    def __init__(
        self,
        scu: Scu,
        recalls: Recalls,
        info: TseInfo,
        open_numbers: list[int],
        item_id: str,
        deadline: Deadline,
    ) -> None:
        self._scu = scu
        self._recalls = recalls
        self._info = info
        self._open = open_numbers
        self._deadline = deadline
        self.deduplicates = bool(getattr(scu, "deduplicates", False))
        self.carries_on = True
        self.strangers: frozenset[int] = frozenset()
        """What others have open, if the receipt is known to have come to its own start. Before that it closed what it
        saw of them; the rest came meanwhile."""
        self._item_id = item_id
        self._started: set[int] = set()
        self._own: int | None = None
        self._signed = False

    def start_transaction(
        self, request: StartTransactionRequest, deadline: Deadline | None = None
    ) -> StartTransactionResponse:
        found = _ask(lambda: self._recalls.recall_start(request, self._deadline))
        if found is None:
            raise NotExecuted("the transaction was not started")
        self._started.add(found.transaction_number)
        if request.queue_item_id == self._item_id:
            self._own = found.transaction_number
        return found

    def update_transaction(
        self, request: UpdateTransactionRequest, deadline: Deadline | None = None
    ) -> UpdateTransactionResponse:
        found = _ask(lambda: self._recalls.recall_update(request, self._deadline))
        if found is None:
            raise self._refusal(request.transaction_number)
        return found

    def finish_transaction(
        self, request: FinishTransactionRequest, deadline: Deadline | None = None
    ) -> FinishTransactionResponse:
        number = request.transaction_number
        found = _ask(lambda: self._recalls.recall_finish(request, self._deadline))
        if found is None:
            raise self._refusal(number)
        if number in self._started:
            self._signed = True
        return found

    def _refusal(self, number: int) -> Exception:
        """Why a call was not executed: the TSE refused it, or the receipt did not come to it."""
        unseen = self._own is None and number in self.strangers
        if number == self._own or (number in self._open and not unseen):
            return NotExecuted(f"transaction {number} was not continued")
        return transaction_not_open(number)

    def get_tse_info(self, deadline: Deadline | None = None) -> TseInfo:
        """The TSE as it was when the receipt had come to here, with what it had started by then."""
        started = self._started.intersection(self._info.current_started_transaction_numbers)
        numbers = [*self._open, *sorted(started.difference(self._open))]
        return msgspec.structs.replace(self._info, current_started_transaction_numbers=numbers)

    def set_tse_state(self, request: TseState, deadline: Deadline | None = None) -> TseState:
        if request.current_state == self._info.current_state or not self.carries_on:
            return request
        return self._once_signed().set_tse_state(request, self._deadline)

    def register_client_id(
        self, request: RegisterClientIdRequest, deadline: Deadline | None = None
    ) -> RegisterClientIdResponse:
        if request.client_id in self._info.current_client_ids:
            return RegisterClientIdResponse(client_ids=self._info.current_client_ids)
        if not self.carries_on:
            return RegisterClientIdResponse(client_ids=[*self._info.current_client_ids, request.client_id])
        return self._once_signed().register_client_id(request, self._deadline)

    def unregister_client_id(
        self, request: UnregisterClientIdRequest, deadline: Deadline | None = None
    ) -> UnregisterClientIdResponse:
        if request.client_id not in self._info.current_client_ids:
            return UnregisterClientIdResponse(client_ids=self._info.current_client_ids)
        if not self.carries_on:
            left = [each for each in self._info.current_client_ids if each != request.client_id]
            return UnregisterClientIdResponse(client_ids=left)
        return self._once_signed().unregister_client_id(request, self._deadline)

    def _once_signed(self) -> Scu:
        if not self._signed:
            raise NotExecuted("the receipt was not signed")
        return self._scu

    def __getattr__(self, method: str) -> Any:
        def refuse(*_: object, **__: object) -> None:
            raise NotSupported("NOT_REPEATED", f"{method} is not repeated for an interrupted receipt.")

        return refuse


def _ask(recall: Callable[[], _Found]) -> _Found:
    try:
        return recall()
    except ClientError as error:
        # Executed, but not as this receipt says: closed by an earlier pass, or under other settings.
        raise NotExecuted(str(error)) from error
    except ScuError as error:
        raise Undecidable(str(error)) from error
