"""A receipt at its TSE: what a receipt kind may ask for. One Work in, one Outcome out.

A receipt kind is a coroutine that never writes. It awaits what it needs; what the TSE did is noted in its effects as it
happens, and the pipeline makes that durable together with the answer, or before it where a receipt closes many
transactions.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar

from fiskal.conversation import Need, Way
from fiskal.germany import notifications, texts
from fiskal.pos import SignaturItem
from fiskal.queue.effects import Action
from fiskal.queue.facts import Facts
from fiskal.scu.client import ScuClient
from fiskal.scu.contract import (
    FinishTransactionRequest,
    FinishTransactionResponse,
    Mismatch,
    StartTransactionRequest,
    StartTransactionResponse,
    TseInfo,
    UpdateTransactionRequest,
    UpdateTransactionResponse,
)
from fiskal.scu.errors import (
    ClientError,
    NotSupported,
    OutcomeUnknown,
    ScuError,
    SignatureMismatch,
    TseRejected,
)
from fiskal.store.interface import DoubtfulStartRow, OpenTransactionRow

if TYPE_CHECKING:
    from fiskal.queue.binding import ScuBinding
    from fiskal.queue.settings import QueueSettings

_log = logging.getLogger("fiskal.queue")

_T = TypeVar("_T")

MISMATCH_TYPE = "4445000000000000-SignatureMismatch"
"""Journal entries about signatures of a TSE that do not verify; their DataJson is a :class:`Mismatch`."""


class TseCall(Need[_T]):
    """A call to the TSE, not yet made: ``method`` of the SCU client, with these arguments.

    Whoever drives the conversation makes it at the TSE, or answers it from the record of the SCU.
    """

    __slots__ = ("arguments", "binding", "client", "method")

    def __init__(self, binding: ScuBinding, client: ScuClient, method: str, *arguments: Any) -> None:
        self.done = False
        self.error = None
        self.binding = binding
        self.client = client
        self.method = method
        self.arguments = arguments

    @property
    def way(self) -> Way:  # type: ignore[override]
        """As the SCU declares it when the call is about to be made."""
        return Way.COMPUTE if self.binding.capabilities.computes_only else Way.BLOCK

    def call(self) -> _T:
        answer: _T = getattr(self.client, self.method)(*self.arguments)
        return answer


class Hands(NamedTuple):
    """What the pipeline does for a receipt while it is in work."""

    client: Callable[[ScuBinding, QueueSettings], ScuClient]
    """The way to an SCU with the patience of the settings."""
    persist: Callable[[Work], Awaitable[None]]
    """Make the effects so far durable, ahead of the answer."""
    move_on: Callable[[Work], Awaitable[None]]
    """Journal that a receipt begins anew under its own item."""
    export: Callable[[Work], Awaitable[None]]
    """Archive the log of the TSE, ahead of the answer."""


class Work(Facts):
    """One accepted request on its way to an answer: its facts, and the TSE."""

    __slots__ = ("_client", "_hands")

    def begin(self, hands: Hands) -> Self:
        """Get to work with the help of the pipeline."""
        self._hands = hands
        self._client = hands.client(self.binding, self.settings)
        return self

    def use(self, binding: ScuBinding) -> None:
        """Work at this SCU; called before the receipt kind begins."""
        self.binding = binding
        self._client = self._hands.client(binding, self.settings)

    async def persist(self) -> None:
        """Make the effects so far durable now, ahead of the answer. Raises StoreError."""
        await self._hands.persist(self)

    async def export(self) -> None:
        """Archive the log of the TSE now, ahead of the answer; what fails is journalled, never raised."""
        await self._hands.export(self)

    # ---- what is asked of the TSE ---------------------------------------------------------------

    def ask(self, method: str, *arguments: Any) -> TseCall[Any]:
        """A call to the TSE with the patience of the queue's settings."""
        return TseCall(self.binding, self._client, method, *arguments)

    async def tse_info(self) -> TseInfo:
        """Ask the TSE for its state and remember it. Raises ScuError."""
        return self.binding.note_info(await self.ask("get_tse_info"))

    async def refresh(self) -> None:
        """Ask the TSE for its state behind a signature, which stands whatever comes of it: a failure is logged."""
        try:
            self.binding.note_info(await self.ask("get_tse_info_once"))
        except ScuError as error:
            _log.warning("SCU %s does not answer: %s", self.binding.scu_id, error)

    async def _signed(self, method: str, request: Any) -> Any:
        """Call the TSE; a signature that does not verify is journalled, whether it is answered or not."""
        try:
            answer = await self.ask(method, request)
        except SignatureMismatch as error:
            self._alarm(error.mismatch)
            raise
        return answer

    def _alarm(self, found: Mismatch) -> None:
        self.alarms.append(found.text)
        self.actions.append(Action(MISMATCH_TYPE, found.text, notifications.to_json(found)))

    def _note_call(self, letter: str, number: int, answer: Any) -> None:
        signed = answer.signature_data
        self.calls_made.append(f"{letter}{number}:{signed.signature_counter}:{answer.time_stamp}")
        if signed.mismatch is not None:
            self._alarm(signed.mismatch)

    # ---- single transaction steps ---------------------------------------------------------------

    async def start(self, reference: str) -> StartTransactionResponse:
        """TX-START: begin a transaction and note it as open."""
        try:
            response = await self.start_for(
                self.tse_item_id, self.state.cash_box_identification, is_retry=self.repeats
            )
        except OutcomeUnknown:
            self._lost_start()
            raise
        self._note_begun()
        self.note_open(reference, response)
        return response

    def _lost_start(self) -> None:
        self.note_doubt(self.reference, self.tse_item_id, self.state.cash_box_identification)
        self.began = True

    def _note_begun(self) -> None:
        self.began = True
        if self.tse_item_id in self.transactions.doubtful_starts:
            self.effects.doubtful_starts[self.tse_item_id] = None

    def note_doubt(self, reference: str, item_id: str, client_id: str) -> None:
        """Note that a start may have been executed without anybody knowing."""
        self.effects.doubtful_starts[item_id] = DoubtfulStartRow(
            self.state.queue_no, item_id, reference, self.clock(), client_id, self.binding.scu_id
        )

    async def start_for(self, item_id: str, client_id: str, *, is_retry: bool) -> StartTransactionResponse:
        """Begin a transaction on behalf of a queue item."""
        response: StartTransactionResponse = await self._signed(
            "start_transaction",
            StartTransactionRequest(client_id=client_id, queue_item_id=item_id, is_retry=is_retry),
        )
        self._note_call("S", response.transaction_number, response)
        return response

    def note_open(self, reference: str, start: StartTransactionResponse, *, implicit: bool = False) -> None:
        """Note a transaction as open. One that stands under the reference already is kept as an orphan, for
        the next daily closing to abort: in failed mode nobody checks whether a start is the second."""
        displaced = self.open_transaction(reference)
        if displaced is not None:
            orphan = f"{reference}#{displaced.TransactionNumber}"
            self.effects.open[orphan] = displaced._replace(cbReceiptReference=orphan, implicit=1)
        self.effects.open[reference] = OpenTransactionRow(
            self.state.queue_no,
            reference,
            start.transaction_number,
            start.time_stamp,
            start.signature_data.signature_base64,
            self.binding.scu_id,
            1 if implicit else 0,
        )

    async def update(self, number: int) -> UpdateTransactionResponse:
        """TX-UPDATE with empty processType and processData, as DSFinV-K Anhang I wants it."""
        response: UpdateTransactionResponse = await self._signed(
            "update_transaction",
            UpdateTransactionRequest(
                client_id=self.state.cash_box_identification,
                transaction_number=number,
                queue_item_id=self.tse_item_id,
                is_retry=self.repeats,
            ),
        )
        self._note_call("U", number, response)
        return response

    async def finish(
        self,
        number: int,
        process_type: str,
        process_data_base64: str,
        *,
        item_id: str | None = None,
        client_id: str | None = None,
        is_retry: bool = False,
    ) -> FinishTransactionResponse:
        """Finish a transaction on the TSE; which open row that closes is the caller's knowledge."""
        response: FinishTransactionResponse = await self._signed(
            "finish_transaction",
            FinishTransactionRequest(
                client_id=client_id or self.state.cash_box_identification,
                transaction_number=number,
                process_type=process_type,
                process_data_base64=process_data_base64,
                queue_item_id=item_id or self.tse_item_id,
                is_retry=is_retry or self.repeats,
            ),
        )
        self._note_call("F", number, response)
        return response

    async def abort(self, number: int, *, is_retry: bool = False) -> FinishTransactionResponse:
        """Finish a transaction that will have no receipt, as AVBelegabbruch with zeros."""
        return await self.finish(number, "Kassenbeleg-V1", ABORTED_BASE64, is_retry=is_retry)

    # ---- implicit receipts ----------------------------------------------------------------------

    async def implicit_transaction(
        self, reference: str, process_type: str, process_data_base64: str
    ) -> tuple[StartTransactionResponse, FinishTransactionResponse]:
        """TX-IMPL: start and finish back to back, one compound request.

        If the TSE fails at the finish, the transaction is noted as an orphan. If it will never take this
        finish, which is an error of the call, the transaction is closed as aborted.
        """
        while True:
            request = FinishTransactionRequest(
                client_id=self.state.cash_box_identification,
                transaction_number=0,
                process_type=process_type,
                process_data_base64=process_data_base64,
                queue_item_id=self.tse_item_id,
                is_retry=self.repeats,
            )
            try:
                start, finish, error = await self.ask("implicit_transaction", request)
            except OutcomeUnknown as lost:
                if isinstance(lost, SignatureMismatch):
                    self._alarm(lost.mismatch)
                self._lost_start()
                raise
            number = start.transaction_number
            self._note_call("S", number, start)
            self._note_begun()
            if finish is not None:
                self._note_call("F", number, finish)
                return start, finish
            if isinstance(error, SignatureMismatch):
                self._alarm(error.mismatch)
            if self.repeats and isinstance(error, ScuError) and error.code in _CLOSED_MEANWHILE:
                try:
                    await self._give_up_first(number)
                except BaseException as failed:
                    await self._orphan(reference, start, failed)
                    raise
                continue
            await self._orphan(reference, start, error)
            raise error

    async def _orphan(self, reference: str, start: StartTransactionResponse, error: BaseException) -> None:
        """Note a transaction that will not be finished by its receipt; abort it if the TSE will never take that."""
        number = start.transaction_number
        if self.open_transaction(reference) is not None:
            # a zero receipt or closing must not displace what the POS has open under its reference
            reference = f"{reference}#{number}"
        self.note_open(reference, start, implicit=True)
        if isinstance(error, ClientError | NotSupported):
            await self.abort(number)
            self.effects.open[reference] = None

    async def _give_up_first(self, number: int) -> None:
        """Go on under the item of this receipt: nothing can be fetched of what the first one had begun.

        Its transaction was closed as aborted, or is now, if a pass over interrupted receipts died over that. The
        new beginning is durable before the TSE hears of it. Otherwise the next repetition, should this receipt be
        interrupted as well, would begin once more.
        """
        if not any(call.startswith(f"F{number}:") for call in self.calls_made):
            try:
                await self.abort(number, is_retry=True)
            except (TseRejected, ClientError) as error:
                if error.code not in _CLOSED_MEANWHILE:
                    raise
        await self._hands.move_on(self)
        self.repeats, self.tse_item_id = False, self.item_id

    async def special_transaction(self) -> tuple[StartTransactionResponse, FinishTransactionResponse, str]:
        """TX-IMPL of a special function: SonstigerVorgang with the case's fixed text."""
        text = texts.SONSTIGER_VORGANG[self.case]
        start, finish = await self.implicit_transaction(
            self.reference, "SonstigerVorgang", base64.b64encode(text.encode()).decode()
        )
        return start, finish, text

    def special_signatures(
        self, start: StartTransactionResponse, finish: FinishTransactionResponse, process_data: str
    ) -> list[SignaturItem]:
        """SIG-TX of a transaction this receipt started itself."""
        return self.signatures.transaction(
            start.signature_data.signature_base64,
            finish,
            start_time(finish, start.time_stamp),
            self.binding.certification_id,
            process_data,
        )


_CLOSED_MEANWHILE: Final = frozenset({"TRANSACTION_NOT_OPEN", "IDEMPOTENCY_MISMATCH"})

ABORTED_BASE64: Final = base64.b64encode(texts.ABORTED_TRANSACTION.encode()).decode()


def start_time(finish: FinishTransactionResponse, known: int) -> int:
    """Start of the transaction in ticks: the TSE's own value, else what the queue noted at the start."""
    stamp = finish.start_transaction_time_stamp
    return known if stamp is None else stamp
