"""Open transactions of the queues and of their TSE side by side, and the receipt that ends those nobody knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from fiskal.core import format_ticks
from fiskal.errors import FiskalError
from fiskal.germany.codes import DE, ReceiptCase, ReceiptFlag
from fiskal.pos import ReceiptRequest
from fiskal.store import QueueRow, Store

Kind = Literal[
    "open", "left by a failed receipt", "finish to be recovered", "start to be recovered", "orphan"
]


class OrphanError(FiskalError):
    """The transactions cannot be closed as asked; ``hint`` says what would help."""

    code = "ORPHANS"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class TransactionEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One transaction. ``number`` is None for a start that never reached the TSE, ``on_tse`` None if the TSE
    did not answer. An orphan has no queue: the TSE has it open, and no queue of this host knows it."""

    kind: Kind
    number: int | None
    on_tse: bool | None
    queue_id: str | None = None
    reference: str | None = None
    since: str | None = None


class TseTransactions(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All transactions of one TSE, oldest number first.

    ``error`` is why the TSE did not answer, empty if it did. ``foreign_clients`` are registered there and
    belong to no queue of this host: an orphan may be theirs. ``closing_queue_id`` is the queue that can end
    orphans, None if none is in operation at this TSE.
    """

    scu_id: str
    error: str
    entries: list[TransactionEntry]
    foreign_clients: list[str]
    closing_queue_id: str | None

    @property
    def orphans(self) -> list[int]:
        return [entry.number for entry in self.entries if entry.kind == "orphan" and entry.number is not None]


class _Numbers(msgspec.Struct):
    numbers: list[int] = msgspec.field(name="CurrentStartedTransactionNumbers")


def entries_of(
    store: Store, row: QueueRow, scu_id: str, is_on_tse: Callable[[int], bool | None]
) -> list[TransactionEntry]:
    """What one queue knows of the transactions at an SCU. ``is_on_tse`` says None if the TSE does not."""
    failed = {each.cbReceiptReference: each for each in store.failed_finishes(row.queue_no)}
    found = []
    for each in store.open_transactions(row.queue_no):
        kind: Kind = "left by a failed receipt" if each.implicit else "open"
        if each.cbReceiptReference in failed:
            kind = "finish to be recovered"
        if each.scu_id == scu_id:
            found.append(
                TransactionEntry(
                    kind=kind,
                    number=each.TransactionNumber,
                    on_tse=is_on_tse(each.TransactionNumber),
                    queue_id=row.ftQueueId,
                    reference=each.cbReceiptReference,
                    since=format_ticks(each.StartMoment),
                )
            )
    found += [
        TransactionEntry(
            kind="start to be recovered",
            number=None,
            on_tse=False,
            queue_id=row.ftQueueId,
            reference=each.cbReceiptReference,
            since=format_ticks(each.Moment),
        )
        for each in store.failed_starts(row.queue_no)
        if each.scu_id == scu_id
    ]
    return found


def abort_request(cash_box_id: str, queue_id: str, numbers: list[int], now: int) -> ReceiptRequest:
    """The multiple fail-transaction receipt (0x000B) that ends ``numbers`` as aborted."""
    return ReceiptRequest(
        ft_cash_box_id=cash_box_id,
        ft_queue_id=queue_id,
        cb_receipt_moment=format_ticks(now),
        ft_receipt_case=DE | ReceiptFlag.IMPLICIT_FLOW | ReceiptCase.FAIL_TRANSACTION,
        ft_receipt_case_data=msgspec.json.encode(_Numbers(numbers)).decode(),
    )


def choose(
    found: list[TseTransactions], numbers: list[int] | None, scu_id: str | None
) -> list[tuple[str, list[int]]]:
    """Which queue ends which orphans: all of them, or ``numbers``. Raises OrphanError if that is not safe."""
    tses = [tse for tse in found if scu_id is None or tse.scu_id == scu_id]
    if scu_id is not None and not tses:
        raise OrphanError(
            f"this host has no SCU {scu_id}", hint=f"It has {', '.join(tse.scu_id for tse in found)}."
        )
    silent = [tse for tse in tses if tse.error]
    if silent:
        raise OrphanError(
            f"the TSE of SCU {silent[0].scu_id} does not say what is open: {silent[0].error}",
            hint="Bring it back, or name the SCU that is meant.",
        )
    if numbers is None:
        chosen = [(tse, tse.orphans) for tse in tses if tse.orphans]
        for tse, orphans in chosen:
            if tse.foreign_clients:
                raise OrphanError(
                    f"the TSE of SCU {tse.scu_id} is also used by {', '.join(tse.foreign_clients)}: a transaction "
                    "that no queue of this host knows may be theirs",
                    hint=f"Name the numbers that are yours to close; open are {_list(orphans)}.",
                )
    else:
        chosen = [(tse, wanted) for tse in tses if (wanted := [n for n in tse.orphans if n in numbers])]
        missing = sorted(set(numbers) - {number for _, orphans in chosen for number in orphans})
        if missing:
            raise OrphanError(
                f"{_list(missing)}: not open on the TSE, or known to a queue",
                hint="A transaction that a queue knows is ended by its reference, or by the daily closing.",
            )
        if sum(len(orphans) for _, orphans in chosen) > len(set(numbers)):
            raise OrphanError(
                "more than one TSE has a transaction of this number open", hint="Name the SCU that is meant."
            )
    result = []
    for tse, orphans in chosen:
        if tse.closing_queue_id is None:
            raise OrphanError(
                f"no queue is in operation at the TSE of SCU {tse.scu_id}, so none can close its transactions",
                hint="Send the start receipt of a queue first.",
            )
        result.append((tse.closing_queue_id, orphans))
    return result


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
