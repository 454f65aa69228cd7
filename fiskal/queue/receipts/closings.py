"""0x0005, 0x0006, 0x0007: monthly, yearly and daily closing; 0x0019: the closing before a migration."""

from __future__ import annotations

from typing import Any, Final

from fiskal.errors import ReceiptRejected
from fiskal.germany import notifications
from fiskal.germany.codes import ReceiptCase, ReceiptFlag
from fiskal.pos import SignaturItem
from fiskal.queue.effects import Action, Outcome
from fiskal.queue.facts import Facts
from fiskal.queue.receipts import reconcile, transactions
from fiskal.queue.work import Work
from fiskal.scu.errors import ClientError, TseRejected

_NAMES = {
    ReceiptCase.MONTHLY_CLOSING: "Monthly-closing",
    ReceiptCase.YEARLY_CLOSING: "Yearly-closing",
    ReceiptCase.DAILY_CLOSING: "Daily-closing",
}

DAILY_TYPES: Final = ("4445000000000007", "4445000008000007")
"""Types of the journal entry of a daily closing, without and with a change of the master data."""

MIGRATION_TYPE: Final = "4445000100000019"
"""Type of the journal entry that marks a queue as migrated."""


async def daily(work: Work) -> Outcome:
    """Close what is open, sign, count the closing; the TSE's log is archived afterwards."""
    outcome = await _daily(work)
    _export_afterwards(work)
    return outcome


async def _daily(work: Work) -> Outcome:
    await reconcile.compare(work)
    still_open = work.open_transactions()
    if still_open and work.flags & ReceiptFlag.FAIL_ON_OPEN_TRANSACTIONS:
        raise ReceiptRejected(
            "OPEN_TRANSACTIONS",
            f"The ftReceiptCaseFlag '0x0000000010000000' was set, and {len(still_open)} open transactions "
            "exist. If you want these transactions to be closed automatically, omit this flag.",
            field="ftReceiptCase",
            hint="Finish or fail them, or remove 0x0000000010000000 from ftReceiptCase.",
        )
    closed = await transactions.close_open(work)
    if (
        work.settings.close_open_tse_transactions_on_daily_closing
        or work.flags & ReceiptFlag.CLOSE_ALL_TSE_TRANSACTIONS
    ):
        closed += await _close_all_on_tse(work)
    start, finish, text = await work.special_transaction()
    number = work.state.daily_closing_number + 1
    updates: dict[str, Any] = {"daily_closing_number": number}
    work.actions.append(_journal(work, finish.transaction_number, number, updates))
    await work.refresh()
    return Outcome(
        work.special_signatures(start, finish, text) + closed,
        f"IT{finish.transaction_number}",
        state_data=notifications.to_json({"MasterData": _master_data(work), "DailyClosingNumber": number}),
        updates=updates,
    )


async def migration(work: Work) -> Outcome:
    """A daily closing, after which the queue signs nothing more: it goes on in another installation."""
    outcome = await _daily(work)
    if not work.flags & ReceiptFlag.BYPASS_TAR_EXPORT:
        await work.export()  # it counts, and nothing comes after it
    state = work.state
    work.actions.append(
        Action(
            MIGRATION_TYPE,
            "Migration to another machine or the CloudCashbox started, no further receipts can be sent to "
            "this installation of the Middleware.",
            notifications.to_json(
                {
                    "ActionJournalCount": work.lookups.count_actions() + len(work.actions),
                    "JournalDECount": work.lookups.count_exports(),
                    "QueueItemCount": state.queued_row,
                    "ReceiptJournalCount": state.receipt_numerator + 1,
                    "QueueRow": state.queued_row,
                }
            ),
        )
    )
    assert outcome.updates is not None  # a daily closing counts
    outcome.updates["migrated"] = True
    return outcome


async def monthly_or_yearly(work: Work) -> Outcome:
    """Sign and journal. Open transactions stay open: only a daily closing ends the business of a day."""
    await reconcile.if_needed(work)
    start, finish, text = await work.special_transaction()
    updates: dict[str, Any] = {}
    work.actions.append(_journal(work, finish.transaction_number, -1, updates))
    _export_afterwards(work)
    return Outcome(
        work.special_signatures(start, finish, text),
        f"IT{finish.transaction_number}",
        state_data=notifications.to_json({"MasterData": _master_data(work)}),
        updates=updates,
    )


def _export_afterwards(work: Work) -> None:
    work.export_due = not work.flags & ReceiptFlag.BYPASS_TAR_EXPORT


def without_tse(work: Facts) -> dict[str, Any]:
    """A closing in failed mode: it is journalled and counted all the same."""
    number = -1
    updates: dict[str, Any] = {}
    if work.case == ReceiptCase.DAILY_CLOSING:
        number = work.state.daily_closing_number + 1
        updates["daily_closing_number"] = number
    work.actions.append(_journal(work, None, number, updates))
    return updates


def _master_data(work: Work) -> Any:
    """The master data as they were before this closing."""
    return notifications.master_data(work.state.master_data)


def _journal(
    work: Facts, transaction_number: int | None, closing_number: int, updates: dict[str, Any]
) -> Action:
    """The journal entry of a closing, which may change the master data: that goes into ``updates``."""
    case = ReceiptCase.DAILY_CLOSING if work.case == ReceiptCase.MIGRATION else ReceiptCase(work.case)
    configured = work.lookups.master_data
    changed = (
        bool(work.flags & ReceiptFlag.MASTER_DATA_UPDATE)
        and configured is not None
        and configured != work.state.master_data
    )
    kind = f"444500000000{case:04X}"
    data: dict[str, Any] = {"ftReceiptNumerator": work.state.receipt_numerator + 1}
    message = f"{_NAMES[case]} receipt was processed"
    if changed:
        updates["master_data"] = configured
        kind = f"444500000800{case:04X}"
        message += ", and a master data update was performed"
    message += "."
    if transaction_number is None:
        message += " However TSE was not reachable."
    else:
        data["transactionNumber"] = transaction_number
    data["masterDataChanged"] = changed
    data["closingNumber"] = closing_number
    return Action(kind, message, notifications.to_json(data), priority=-1)


async def _close_all_on_tse(work: Work) -> list[SignaturItem]:
    """Close what is still open on the TSE, whoever started it. A refused number does not stop the rest."""
    info = await work.tse_info()
    closed: list[SignaturItem] = []
    numbers: list[int] = []
    for number in info.current_started_transaction_numbers:
        try:
            closed += work.signatures.closed(await work.abort(number))
            numbers.append(number)
        except TseRejected as error:
            work.actions.append(Action(None, f"Transaction {number} was not closed by the TSE: {error}"))
        except ClientError as error:
            # This closing was interrupted while it finished its own transaction, and does so again below.
            if not work.repeats or error.code != "IDEMPOTENCY_MISMATCH":
                raise
    work.actions.append(
        Action(
            "4445000020000000-CurrentStartedTransactionNumbers",
            f"Closed all open transactions on the TSE {info.serial_number_octet}.",
            notifications.to_json(numbers),
            priority=-1,
        )
    )
    return closed
