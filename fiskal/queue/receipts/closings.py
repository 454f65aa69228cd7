"""0x0005, 0x0006, 0x0007: monthly, yearly and daily closing."""

from __future__ import annotations

from typing import Any

from fiskal.errors import ReceiptRejected
from fiskal.germany import notifications
from fiskal.germany.codes import ReceiptCase, ReceiptFlag
from fiskal.pos import SignaturItem
from fiskal.queue.receipts import transactions
from fiskal.queue.work import Action, Outcome, Work
from fiskal.scu.errors import TseRejected

_NAMES = {
    ReceiptCase.MONTHLY_CLOSING: "Monthly-closing",
    ReceiptCase.YEARLY_CLOSING: "Yearly-closing",
    ReceiptCase.DAILY_CLOSING: "Daily-closing",
}


def daily(work: Work) -> Outcome:
    """Close what is open, sign, count the closing."""
    info = work.tse_info()
    on_tse = set(info.current_started_transaction_numbers)
    for row in work.open_transactions():
        if row.TransactionNumber not in on_tse:
            transactions.drop(work, row)
    still_open = work.open_transactions()
    if still_open and work.flags & ReceiptFlag.FAIL_ON_OPEN_TRANSACTIONS:
        raise ReceiptRejected(
            "OPEN_TRANSACTIONS",
            f"The ftReceiptCaseFlag '0x0000000010000000' was set, and {len(still_open)} open transactions "
            "exist. If you want these transactions to be closed automatically, omit this flag.",
            field="ftReceiptCase",
            hint="Finish or fail them, or remove 0x0000000010000000 from ftReceiptCase.",
        )
    closed = transactions.close_open(work)
    if (
        work.settings.close_open_tse_transactions_on_daily_closing
        or work.flags & ReceiptFlag.CLOSE_ALL_TSE_TRANSACTIONS
    ):
        closed += _close_all_on_tse(work)
    start, finish, text = work.special_transaction()
    number = work.state.daily_closing_number + 1
    work.actions.append(_journal(work, finish.transaction_number, number))
    work.binding.refresh()
    return Outcome(
        work.special_signatures(start, finish, text) + closed,
        f"IT{finish.transaction_number}",
        state_data=notifications.to_json(
            {"MasterData": notifications.EMPTY_MASTER_DATA, "DailyClosingNumber": number}
        ),
        updates={"daily_closing_number": number},
    )


def monthly_or_yearly(work: Work) -> Outcome:
    """Sign and journal. Open transactions stay open: only a daily closing ends the business of a day."""
    start, finish, text = work.special_transaction()
    work.actions.append(_journal(work, finish.transaction_number, -1))
    return Outcome(
        work.special_signatures(start, finish, text),
        f"IT{finish.transaction_number}",
        state_data=notifications.to_json({"MasterData": notifications.EMPTY_MASTER_DATA}),
    )


def without_tse(work: Work) -> dict[str, Any]:
    """A closing in failed mode: it is journalled and counted all the same."""
    number = -1
    updates: dict[str, Any] = {}
    if work.case == ReceiptCase.DAILY_CLOSING:
        number = work.state.daily_closing_number + 1
        updates["daily_closing_number"] = number
    work.actions.append(_journal(work, None, number))
    return updates


def _journal(work: Work, transaction_number: int | None, closing_number: int) -> Action:
    case = ReceiptCase(work.case)
    data: dict[str, Any] = {"ftReceiptNumerator": work.state.receipt_numerator + 1}
    message = f"{_NAMES[case]} receipt was processed."
    if transaction_number is None:
        message += " However TSE was not reachable."
    else:
        data["transactionNumber"] = transaction_number
    data["masterDataChanged"] = False
    data["closingNumber"] = closing_number
    return Action(f"444500000000{case:04X}", message, notifications.to_json(data), priority=-1)


def _close_all_on_tse(work: Work) -> list[SignaturItem]:
    """Close what is still open on the TSE, whoever started it. A refused number does not stop the rest."""
    info = work.tse_info()
    closed: list[SignaturItem] = []
    numbers: list[int] = []
    for number in info.current_started_transaction_numbers:
        try:
            closed += work.signatures.closed(work.abort(number))
            numbers.append(number)
        except TseRejected as error:
            work.actions.append(Action(None, f"Transaction {number} was not closed by the TSE: {error}"))
    work.actions.append(
        Action(
            "4445000020000000-CurrentStartedTransactionNumbers",
            f"Closed all open transactions on the TSE {info.serial_number_octet}.",
            notifications.to_json(numbers),
            priority=-1,
        )
    )
    return closed
