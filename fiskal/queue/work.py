"""What a receipt kind sees and what it answers: one Work in, one Outcome out.

A receipt kind never writes. What the TSE did is noted in :class:`Effects` as it happens; the pipeline makes
it durable together with the answer, or before it where a receipt closes many transactions.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

from fiskal.germany import notifications, texts
from fiskal.germany.codes import ReceiptCase, ReceiptFlag
from fiskal.pos import SignaturItem
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
from fiskal.store.interface import (
    ActionRow,
    Change,
    DoubtfulStartRow,
    FailedTransactionRow,
    OpenTransactionRow,
    RecoveredRow,
)

if TYPE_CHECKING:
    from fiskal.clock import Clock
    from fiskal.germany.signatures import SignatureBuilder
    from fiskal.pos.prepared import Prepared
    from fiskal.queue.binding import ScuBinding
    from fiskal.queue.settings import QueueSettings
    from fiskal.queue.state import QueueState
    from fiskal.scu.client import ScuClient


_Row = TypeVar("_Row", OpenTransactionRow, FailedTransactionRow, DoubtfulStartRow)
_Answer = TypeVar("_Answer", StartTransactionResponse, UpdateTransactionResponse, FinishTransactionResponse)
_Asked = TypeVar("_Asked", StartTransactionRequest, UpdateTransactionRequest, FinishTransactionRequest)

MISMATCH_TYPE = "4445000000000000-SignatureMismatch"
"""Journal entries about signatures of a TSE that do not verify; their DataJson is a :class:`Mismatch`."""


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


class LastAction(Protocol):
    def __call__(self, *types: str) -> ActionRow | None: ...


class Lookups(NamedTuple):
    """What a receipt may look up beside the state of its queue."""

    binding: Callable[[str], ScuBinding | None]
    """An SCU of the host by its id, None if the host has no such."""
    last_action: LastAction
    """The last stored action of one of these types, None if there is none."""
    count_actions: Callable[[], int]
    """How many actions are stored."""
    count_exports: Callable[[], int]
    """How many exports of the TSE are archived."""
    open_elsewhere: Callable[[str], set[int]]
    """The numbers that the other queues of the host have open at an SCU."""
    master_data: str | None
    """The configured master data as JSON, None if none are configured."""


class Outcome:
    """The answer of a receipt kind: what the response says beside its skeleton."""

    __slots__ = ("signatures", "state", "state_data", "suffix", "updates")

    def __init__(
        self,
        signatures: list[SignaturItem],
        suffix: str = "",
        *,
        state: int = 0,
        state_data: str | None = None,
        updates: dict[str, Any] | None = None,
    ) -> None:
        self.signatures = signatures
        self.suffix = suffix
        self.state = state
        self.state_data = state_data
        self.updates = updates
        """Attributes of the queue state to set when the answer is written."""


# Members of an enumeration take longer to look up than to be compared with.
_IMPLICIT_FLOW: Final = int(ReceiptFlag.IMPLICIT_FLOW)
_TRAINING: Final = int(ReceiptFlag.TRAINING)


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


class Work:
    """One accepted request on its way to an answer."""

    __slots__ = (
        "_accepted",
        "_calls",
        "_client",
        "_export",
        "_move_on",
        "_persist",
        "actions",
        "alarms",
        "began",
        "binding",
        "case",
        "clock",
        "effects",
        "export_due",
        "flags",
        "implicit",
        "in_turn",
        "item_id",
        "lookups",
        "now",
        "process_data",
        "process_data_base64",
        "reference",
        "repeats",
        "request",
        "scu",
        "settings",
        "signatures",
        "state",
        "switch",
        "transactions",
        "tse_item_id",
    )

    def __init__(
        self,
        request: Prepared,
        item_id: str,
        interrupted_item_id: str | None,
        now: int,
        state: QueueState,
        transactions: Transactions,
        binding: ScuBinding,
        settings: QueueSettings,
        signatures: SignatureBuilder,
        clock: Clock,
        lookups: Lookups,
        client: Callable[[ScuBinding, QueueSettings], ScuClient],
        accepted: Callable[[], None],
        persist: Callable[[Work], None],
        move_on: Callable[[Work], None],
        export: Callable[[Work], None],
    ) -> None:
        receipt_case = request.receipt_case
        self.request = request
        self.case = receipt_case & 0xFFFF
        self.flags = receipt_case & 0xFFFF_FFFF_0000
        self.implicit = receipt_case & _IMPLICIT_FLOW != 0
        self.reference = request.receipt_reference or ""
        # a payload error is raised before anything below is used
        self.process_data = (request.process_data or b"").decode()
        self.process_data_base64 = request.process_data_base64 or ""
        self.item_id = item_id
        self.tse_item_id = interrupted_item_id or item_id
        """The item the TSE knows this receipt by: an interrupted one if this request was sent before."""
        self.repeats = interrupted_item_id is not None
        self.began = False
        """What became of this receipt's own start is known, or noted as unknown."""
        self.now = now
        self.state = state
        self.transactions = transactions
        self.settings = settings
        self._client = client
        self.use(binding)
        self.signatures = signatures
        self.clock = clock
        self.lookups = lookups
        self.switch: Switch | None = None
        """The SCU switch that this receipt finishes or voids."""
        self.effects = Effects()
        self.actions: list[Action] = []
        self.alarms: list[str] = []
        """Of signatures that do not verify, for the listeners of the host."""
        self._calls: list[str] = []
        self._accepted = accepted
        self._persist = persist
        self._move_on = move_on
        self._export = export
        self.export_due = False
        """A TAR export follows the answer, whatever it is: its row is stored together with it."""

    def use(self, binding: ScuBinding) -> None:
        """Work at this SCU; called before the receipt kind begins."""
        self.binding = binding
        self.scu = self._client(binding, self.settings)
        """The TSE with the patience of this queue."""
        self.in_turn = binding.in_process
        """The work keeps its turn while it calls the TSE, because the TSE computes in this process."""

    # ---- what the receipt kinds ask -------------------------------------------------------------

    @property
    def case_text(self) -> str:
        """The full ftReceiptCase as the error texts show it."""
        return f"{self.request.receipt_case & 0xFFFF_FFFF_FFFF_FFFF:X}"

    @property
    def training(self) -> bool:
        return self.flags & _TRAINING != 0

    def open_transaction(self, reference: str) -> OpenTransactionRow | None:
        """The open transaction of a reference at this SCU, with what this receipt already did to it."""
        if reference in self.effects.open:
            row = self.effects.open[reference]
        else:
            row = self.transactions.open.get(reference)
        return row if row is not None and row.scu_id == self.binding.scu_id else None

    def open_transactions(self) -> list[OpenTransactionRow]:
        """All open transactions of the queue at this SCU, oldest number first."""
        merged = {**self.transactions.open, **self.effects.open}
        scu_id = self.binding.scu_id
        return sorted(
            (row for row in merged.values() if row is not None and row.scu_id == scu_id),
            key=lambda row: row.TransactionNumber,
        )

    def doubtful_starts(self) -> list[DoubtfulStartRow]:
        """The starts at this SCU whose answer was lost, oldest first."""
        merged = {**self.transactions.doubtful_starts, **self.effects.doubtful_starts}
        scu_id = self.binding.scu_id
        return sorted(
            (row for row in merged.values() if row is not None and row.scu_id == scu_id),
            key=lambda row: row.Moment,
        )

    def undelivered(self) -> list[RecoveredRow]:
        """What was recovered and stands in no answer yet."""
        merged = {**self.transactions.undelivered, **self.effects.recovered}
        return [row for row in merged.values() if row.DeliveredBy is None]

    def persist(self) -> None:
        """Make the effects so far durable now, ahead of the answer."""
        self._persist(self)

    def export(self) -> None:
        """Archive the log of the TSE now, ahead of the answer; what fails is journalled, never raised."""
        self._export(self)

    @property
    def calls(self) -> str | None:
        """What the TSE did for this receipt, for the journal's own check: ``S7:13:<ticks> F7:14:<ticks>``."""
        return " ".join(self._calls) or None

    def note_calls(self, calls: str) -> None:
        """Take over what the TSE did for an earlier item, because this one carries the signatures."""
        self._calls.append(calls)

    # ---- TSE primitives -------------------------------------------------------------------------

    def _signed(self, call: Callable[[_Asked], _Answer], request: _Asked) -> _Answer:
        """Call the TSE; a signature that does not verify is journalled, whether it is answered or not.

        What a receipt of the POS asks a TSE to sign comes along here. Before, its request is on the disk.
        """
        self._accepted()
        try:
            answer = call(request)
        except SignatureMismatch as error:
            self._alarm(error.mismatch)
            raise
        if answer.signature_data.mismatch is not None:
            self._alarm(answer.signature_data.mismatch)
        return answer

    def _alarm(self, found: Mismatch) -> None:
        self.alarms.append(found.text)
        self.actions.append(Action(MISMATCH_TYPE, found.text, notifications.to_json(found)))

    def start(self, reference: str) -> StartTransactionResponse:
        """TX-START: begin a transaction and note it as open."""
        response = self._begin()
        self.note_open(reference, response)
        return response

    def _begin(self) -> StartTransactionResponse:
        item_id, client_id = self.tse_item_id, self.state.cash_box_identification
        try:
            started = self.start_for(item_id, client_id, is_retry=self.repeats)
        except OutcomeUnknown:
            self.note_doubt(self.reference, item_id, client_id)
            self.began = True
            raise
        self.began = True
        if item_id in self.transactions.doubtful_starts:
            self.effects.doubtful_starts[item_id] = None
        return started

    def note_doubt(self, reference: str, item_id: str, client_id: str) -> None:
        """Note that a start may have been executed without anybody knowing."""
        self.effects.doubtful_starts[item_id] = DoubtfulStartRow(
            self.state.queue_no, item_id, reference, self.clock(), client_id, self.binding.scu_id
        )

    def start_for(self, item_id: str, client_id: str, *, is_retry: bool) -> StartTransactionResponse:
        """Begin a transaction on behalf of a queue item."""
        response = self._signed(
            self.scu.start_transaction,
            StartTransactionRequest(client_id=client_id, queue_item_id=item_id, is_retry=is_retry),
        )
        self._calls.append(
            f"S{response.transaction_number}:{response.signature_data.signature_counter}"
            f":{response.time_stamp}"
        )
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

    def update(self, number: int) -> UpdateTransactionResponse:
        """TX-UPDATE with empty processType and processData, as DSFinV-K Anhang I wants it."""
        response = self._signed(
            self.scu.update_transaction,
            UpdateTransactionRequest(
                client_id=self.state.cash_box_identification,
                transaction_number=number,
                queue_item_id=self.tse_item_id,
                is_retry=self.repeats,
            ),
        )
        self._calls.append(f"U{number}:{response.signature_data.signature_counter}:{response.time_stamp}")
        return response

    def finish(
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
        response = self._signed(
            self.scu.finish_transaction,
            FinishTransactionRequest(
                client_id=client_id or self.state.cash_box_identification,
                transaction_number=number,
                process_type=process_type,
                process_data_base64=process_data_base64,
                queue_item_id=item_id or self.tse_item_id,
                is_retry=is_retry or self.repeats,
            ),
        )
        self._calls.append(f"F{number}:{response.signature_data.signature_counter}:{response.time_stamp}")
        return response

    def implicit_transaction(
        self, reference: str, process_type: str, process_data_base64: str
    ) -> tuple[StartTransactionResponse, FinishTransactionResponse]:
        """TX-IMPL: start and finish back to back.

        If the TSE fails at the finish, the transaction is noted as an orphan. If it will never take this
        finish, which is an error of the call, the transaction is closed as aborted.
        """
        self._accepted()  # others may use the TSE until then
        with self.binding.back_to_back(
            self.state.cash_box_identification, self.settings.scu_timeout_ms / 1000
        ):
            return self._start_and_finish(reference, process_type, process_data_base64)

    def _start_and_finish(
        self, reference: str, process_type: str, process_data_base64: str
    ) -> tuple[StartTransactionResponse, FinishTransactionResponse]:
        start = self._begin()
        number = start.transaction_number
        finish = None
        try:
            try:
                finish = self.finish(number, process_type, process_data_base64)
            except ScuError as error:
                if not self.repeats or error.code not in _CLOSED_MEANWHILE:
                    raise
                self._give_up_first(number)
        except BaseException as error:
            if self.open_transaction(reference) is not None:
                # a zero receipt or closing must not displace what the POS has open under its reference
                reference = f"{reference}#{number}"
            self.note_open(reference, start, implicit=True)
            if isinstance(error, ClientError | NotSupported):
                self.abort(number)
                self.effects.open[reference] = None
            raise
        if finish is None:
            return self.implicit_transaction(reference, process_type, process_data_base64)
        return start, finish

    def _give_up_first(self, number: int) -> None:
        """Go on under the item of this receipt: nothing can be fetched of what the first one had begun.

        Its transaction was closed as aborted, or is now, if a pass over interrupted receipts died over that. The
        new beginning is durable before the TSE hears of it. Otherwise the next repetition, should this receipt be
        interrupted as well, would begin once more.
        """
        if not any(call.startswith(f"F{number}:") for call in self._calls):
            try:
                self.abort(number, is_retry=True)
            except (TseRejected, ClientError) as error:
                if error.code not in _CLOSED_MEANWHILE:
                    raise
        self._move_on(self)
        self.repeats, self.tse_item_id = False, self.item_id

    def abort(self, number: int, *, is_retry: bool = False) -> FinishTransactionResponse:
        """Finish a transaction that will have no receipt, as AVBelegabbruch with zeros."""
        return self.finish(number, "Kassenbeleg-V1", ABORTED_BASE64, is_retry=is_retry)

    def tse_info(self) -> TseInfo:
        return self.binding.note_info(self.scu.get_tse_info())

    def special_transaction(self) -> tuple[StartTransactionResponse, FinishTransactionResponse, str]:
        """TX-IMPL of a special function: SonstigerVorgang with the case's fixed text."""
        text = texts.SONSTIGER_VORGANG[self.case]
        start, finish = self.implicit_transaction(
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


_CLOSED_MEANWHILE = frozenset({"TRANSACTION_NOT_OPEN", "IDEMPOTENCY_MISMATCH"})

ABORTED_BASE64 = base64.b64encode(texts.ABORTED_TRANSACTION.encode()).decode()

SPECIAL_CASES = frozenset(
    {
        ReceiptCase.ZERO,
        ReceiptCase.INITIAL_OPERATION,
        ReceiptCase.OUT_OF_OPERATION,
        ReceiptCase.MONTHLY_CLOSING,
        ReceiptCase.YEARLY_CLOSING,
        ReceiptCase.DAILY_CLOSING,
        ReceiptCase.INITIATE_SCU_SWITCH,
        ReceiptCase.FINISH_SCU_SWITCH,
        ReceiptCase.MIGRATION,
    }
)


def start_time(finish: FinishTransactionResponse, known: int) -> int:
    """Start of the transaction in ticks: the TSE's own value, else what the queue noted at the start."""
    stamp = finish.start_transaction_time_stamp
    return known if stamp is None else stamp
