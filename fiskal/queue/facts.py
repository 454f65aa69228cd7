"""What is known of a receipt while it is decided: its request, the state of its queue, what it did so far."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from fiskal.germany.codes import ReceiptFlag
from fiskal.queue.effects import Action, Effects, Switch, Transactions
from fiskal.store.interface import ActionRow, DoubtfulStartRow, OpenTransactionRow, RecoveredRow

if TYPE_CHECKING:
    from fiskal.clock import Clock
    from fiskal.germany.signatures import SignatureBuilder
    from fiskal.pos.prepared import Prepared
    from fiskal.queue.binding import ScuBinding
    from fiskal.queue.settings import QueueSettings
    from fiskal.queue.state import QueueState

# Members of an enumeration take longer to look up than to be compared with.
_IMPLICIT_FLOW: Final = int(ReceiptFlag.IMPLICIT_FLOW)
_TRAINING: Final = int(ReceiptFlag.TRAINING)


class Flow(enum.Enum):
    """How a receipt of a case comes to its transaction."""

    EITHER = enum.auto()
    """The flag for the implicit flow says it."""
    IMPLICIT = enum.auto()
    """It begins and ends its own, and has no items."""
    EXPLICIT = enum.auto()
    """It is a step of one that has several receipts."""
    FAIL = enum.auto()
    """Explicit for the one of its reference, implicit for several by their numbers."""


class Kind(NamedTuple):
    """What is true of every receipt of one case (reference: queue behaviour, dispatch)."""

    flow: Flow = Flow.EITHER
    is_special: bool = False
    """It is no business of a customer's: zero receipt, closing, life cycle."""
    may_train: bool = True
    """The flag for training is allowed."""
    is_closing: bool = False
    """It ends a period: day, month or year."""
    asks_in_failed_mode: bool = False
    """It talks to the TSE even in failed mode."""
    must_reach_tse: bool = False
    """A TSE that fails is an error of the call, not failed mode."""
    leaves_tse: bool = False
    """After it the queue is not at this TSE any more."""
    bound_to_tse: bool = False
    """What it brings about is at the TSE of the queue: it is never answered with what another one signed."""


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


class Facts:
    """The facts of one accepted request, and what it brought about so far."""

    __slots__ = (
        "actions",
        "alarms",
        "began",
        "binding",
        "calls_made",
        "case",
        "clock",
        "effects",
        "export_due",
        "flags",
        "implicit",
        "item_id",
        "kind",
        "lookups",
        "now",
        "process_data",
        "process_data_base64",
        "reference",
        "repeats",
        "request",
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
        kind: Kind,
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
    ) -> None:
        receipt_case = request.receipt_case
        self.request = request
        self.case = receipt_case & 0xFFFF
        self.kind = kind
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
        """When the receipt came into work, in ticks."""
        self.state = state
        self.transactions = transactions
        self.binding = binding
        """The SCU it works at."""
        self.settings = settings
        self.signatures = signatures
        self.clock = clock
        self.lookups = lookups
        self.switch: Switch | None = None
        """The SCU switch that this receipt finishes or voids."""
        self.effects = Effects()
        self.actions: list[Action] = []
        self.alarms: list[str] = []
        """Of signatures that do not verify, for the listeners of the host."""
        self.calls_made: list[str] = []
        self.export_due = False
        """A TAR export follows the answer, whatever it is: its row is stored together with it."""

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

    @property
    def calls(self) -> str | None:
        """What the TSE did for this receipt, for the journal's own check: ``S7:13:<ticks> F7:14:<ticks>``."""
        return " ".join(self.calls_made) or None

    def note_calls(self, calls: str) -> None:
        """Take over what the TSE did for an earlier item, because this one carries the signatures."""
        self.calls_made.append(calls)
