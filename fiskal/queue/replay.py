"""Working through a receipt once more, from the record of its SCU.

The conversation of an interrupted receipt is begun anew. Every call to the TSE in it is answered with what the SCU
remembers of it, and none is executed; everything else it needs is passed on to whoever drives the conversation.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from fiskal.conversation import Call, Conversation, Need, Way
from fiskal.queue.binding import ScuBinding
from fiskal.queue.work import ABORTED_BASE64, TseCall, Work
from fiskal.scu.client import ImplicitAnswer
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

_T = TypeVar("_T")
_Found = TypeVar("_Found")


class NotExecuted(Exception):
    """The receipt was interrupted before this call: its answer never came to be."""


class Undecidable(Exception):
    """Nobody can say now what the TSE did."""


class OwnTransaction(NamedTuple):
    """The transaction that an interrupted receipt began itself."""

    start: StartTransactionResponse
    is_open: bool
    signed: bool
    """The receipt finished it, and not as aborted."""


class RecoveryPass:
    """One pass over interrupted items: the SCUs of the host, asked for what they remember.

    ``binding`` gives an SCU by its id; ``deadline`` ends the pass. ``carries_on`` is False when nothing is completed,
    but only found out: then what a receipt does to the state of a TSE beside its signatures is not done either.
    """

    def __init__(
        self, binding: Callable[[str], ScuBinding | None], deadline: Deadline, *, carries_on: bool = True
    ) -> None:
        self.binding = binding
        self.deadline = deadline
        self.carries_on = carries_on

    def replay(
        self,
        item_id: str,
        client_id: str,
        rows: list[OpenTransactionRow],
        doubts: list[DoubtfulStartRow],
    ) -> Replay:
        """The records of one item. ``rows`` are the open transactions of the queue as stored, ``doubts`` its starts
        whose answer was lost."""
        return Replay(self, item_id, client_id, rows, doubts)

    async def own(self, work: Work) -> OwnTransaction | None:
        """The transaction that an interrupted receipt began itself, if it came so far.

        Working through the receipt need not come to it: what else the receipt had to do, or what the queue has open
        by now, may stop it before. Raises Undecidable.
        """
        real = self.binding(work.binding.scu_id)
        if real is None:
            return None
        return await Call(partial(self._own, real, work.tse_item_id, work.state.cash_box_identification))

    def _own(self, real: ScuBinding, item_id: str, client_id: str) -> OwnTransaction | None:
        try:
            scu, recalls = _ask_at(real, self.deadline)
            start = recalls.recall_start(
                StartTransactionRequest(client_id=client_id, queue_item_id=item_id), self.deadline
            )
            if start is None:
                return None
            number = start.transaction_number
            if number in scu.get_tse_info(self.deadline).current_started_transaction_numbers:
                return OwnTransaction(start, is_open=True, signed=False)
            signed = _ended(recalls, item_id, client_id, number, self.deadline) is _End.OTHERWISE
        except ScuError as error:
            raise Undecidable(str(error)) from error
        return OwnTransaction(start, is_open=False, signed=signed)

    async def close_orphan(self, work: Work, number: int) -> str:
        """Close a transaction that an interrupted receipt left open; what became of it, as text for the journal.

        Raises ScuError if the TSE cannot be asked; then nothing is known to have changed.
        """
        real = self.binding(work.binding.scu_id)
        if real is None:
            return f"Transaction {number} belongs to an SCU that is no longer configured."
        await Call(partial(real.scu_within, self.deadline))
        work.use(real)
        try:
            finish = await work.abort(number, is_retry=True)
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


class Replay:
    """The records of all SCUs of one item, and the way to work through it with them."""

    def __init__(
        self,
        recovery: RecoveryPass,
        item_id: str,
        client_id: str,
        rows: list[OpenTransactionRow],
        doubts: list[DoubtfulStartRow],
    ) -> None:
        self._pass = recovery
        self._item_id = item_id
        self._client_id = client_id
        self._rows = rows
        self._doubts = doubts
        self._records: dict[str, Record] = {}

    def binding(self, scu_id: str) -> ScuBinding | None:
        """The SCU as it is known so far; what a receipt learns of it is forgotten with the replay."""
        real = self._pass.binding(scu_id)
        return None if real is None else real.twin()

    async def run(self, conversation: Conversation[_T]) -> _T:
        """Drive ``conversation`` from the records. Raises what it raises, NotExecuted, Undecidable."""
        while True:
            try:
                need = conversation.send(None)
            except StopIteration as end:
                result: _T = end.value
                return result
            if not isinstance(need, TseCall):
                await _Passed(need)
                continue
            asked = Call(partial(self._answer, need), Way.BLOCK)
            await _Passed(asked)
            need.error = asked.error
            if asked.error is None:
                need.answer = asked.answer
            need.done = True

    def _answer(self, call: TseCall[Any]) -> Any:
        scu_id = call.binding.scu_id
        record = self._records.get(scu_id)
        if record is None:
            real = self._pass.binding(scu_id)
            if real is None:
                return call.call()  # the queue has no SCU: the client says so
            numbers = [row.TransactionNumber for row in self._rows if row.scu_id == scu_id]
            lost = [
                row for row in self._doubts if row.scu_id == scu_id and row.ftQueueItemId != self._item_id
            ]
            record = _remembering(real, self._pass.deadline, self._item_id, self._client_id, numbers, lost)
            record.carries_on = self._pass.carries_on
            self._records[scu_id] = record
        return record.answer(call.method, *call.arguments)


class _Passed:
    """Waits until whoever drives has seen to ``need``, and leaves it to the inner conversation what came of it."""

    __slots__ = ("_need",)

    def __init__(self, need: Need[Any]) -> None:
        self._need = need

    def __await__(self) -> Generator[Need[Any], None, None]:
        if not self._need.done:
            yield self._need


def _ask_at(real: ScuBinding, deadline: Deadline) -> tuple[Scu, Recalls]:
    """Raises Undecidable if the SCU keeps no record, ScuError if it cannot be asked now."""
    scu = real.scu_within(deadline)
    if not scu.capabilities.recalls:
        raise Undecidable("the SCU keeps no record that it can be asked for")
    return scu, cast(Recalls, scu)


def _remembering(
    real: ScuBinding,
    deadline: Deadline,
    item_id: str,
    client_id: str,
    numbers: list[int],
    doubts: list[DoubtfulStartRow],
) -> Record:
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
    made = Record(scu, recalls, info, found, item_id, deadline)
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


class Record:
    """What one SCU remembers of a receipt: the answers it gave to its calls. No transaction call is executed.

    Its methods are named as those of the SCU client. They raise NotExecuted where the receipt had not come to,
    Undecidable where nobody knows. What leads to a state (register, deregister, terminate) is carried on once the
    receipt's own transaction is known to be finished, if the receipt is to be completed at all.
    """

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
        self.carries_on = True
        self.strangers: frozenset[int] = frozenset()
        """What others have open, if the receipt is known to have come to its own start. Before that it closed what it
        saw of them; the rest came meanwhile."""
        self._item_id = item_id
        self._started: set[int] = set()
        self._own: int | None = None
        self._signed = False

    def start_transaction(self, request: StartTransactionRequest) -> StartTransactionResponse:
        found = _ask(lambda: self._recalls.recall_start(request, self._deadline))
        if found is None:
            raise NotExecuted("the transaction was not started")
        self._started.add(found.transaction_number)
        if request.queue_item_id == self._item_id:
            self._own = found.transaction_number
        return found

    def update_transaction(self, request: UpdateTransactionRequest) -> UpdateTransactionResponse:
        found = _ask(lambda: self._recalls.recall_update(request, self._deadline))
        if found is None:
            raise self._refusal(request.transaction_number)
        return found

    def finish_transaction(self, request: FinishTransactionRequest) -> FinishTransactionResponse:
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

    def implicit_transaction(self, request: FinishTransactionRequest) -> ImplicitAnswer:
        start = self.start_transaction(
            StartTransactionRequest(
                client_id=request.client_id, queue_item_id=request.queue_item_id, is_retry=request.is_retry
            )
        )
        try:
            finish = self.finish_transaction(
                msgspec.structs.replace(request, transaction_number=start.transaction_number)
            )
        except Exception as error:
            return ImplicitAnswer(start, None, error)
        return ImplicitAnswer(start, finish, None)

    def get_tse_info(self) -> TseInfo:
        """The TSE as it was when the receipt had come to here, with what it had started by then."""
        started = self._started.intersection(self._info.current_started_transaction_numbers)
        numbers = [*self._open, *sorted(started.difference(self._open))]
        return msgspec.structs.replace(self._info, current_started_transaction_numbers=numbers)

    def set_tse_state(self, request: TseState) -> TseState:
        if request.current_state == self._info.current_state or not self.carries_on:
            return request
        return self._once_signed().set_tse_state(request, self._deadline)

    def register_client_id(self, request: RegisterClientIdRequest) -> RegisterClientIdResponse:
        if request.client_id in self._info.current_client_ids:
            return RegisterClientIdResponse(client_ids=self._info.current_client_ids)
        if not self.carries_on:
            return RegisterClientIdResponse(client_ids=[*self._info.current_client_ids, request.client_id])
        return self._once_signed().register_client_id(request, self._deadline)

    def unregister_client_id(self, request: UnregisterClientIdRequest) -> UnregisterClientIdResponse:
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

    get_tse_info_once = get_tse_info

    def answer(self, method: str, *arguments: Any) -> Any:
        """What the SCU answered to this call. Raises also NotSupported, for what is not repeated."""
        known = getattr(self, method, None)
        if known is None:
            raise NotSupported("NOT_REPEATED", f"{method} is not repeated for an interrupted receipt.")
        return known(*arguments)


def _ask(recall: Callable[[], _Found]) -> _Found:
    try:
        return recall()
    except ClientError as error:
        # Executed, but not as this receipt says: closed by an earlier pass, or under other settings.
        raise NotExecuted(str(error)) from error
    except ScuError as error:
        raise Undecidable(str(error)) from error
