"""The refusals that every TSE answers alike. Consumers compare these texts: they are kept literally."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from fiskal.scu.contract import TseStates
from fiskal.scu.errors import TseRejected

_STATE_NAMES: Final = {
    TseStates.UNINITIALIZED: "Uninitialized",
    TseStates.INITIALIZED: "Initialized",
    TseStates.TERMINATED: "Terminated",
}


def wrong_state(state: TseStates, code: str = "WRONG_STATE") -> TseRejected:
    return TseRejected(
        code, f"Expected state to be Initialized but instead the TSE state was {_STATE_NAMES[state]}."
    )


def terminated() -> TseRejected:
    return TseRejected("TSE_TERMINATED", "It is not possible to initialize a terminated TSE.")


def client_not_registered(client_id: str) -> TseRejected:
    return TseRejected("CLIENT_NOT_REGISTERED", f"The client with the id {client_id} is not registered.")


def transaction_not_open(number: int) -> TseRejected:
    return TseRejected(
        "TRANSACTION_NOT_OPEN",
        f"The transaction with the number {number} is either not started or has been finished already.",
        transaction_number=number,
    )


def client_limit(current: int, maximum: int) -> TseRejected:
    return TseRejected("CLIENT_LIMIT", f"The TSE has {current} of at most {maximum} clients.")


def client_has_open_transactions(client_id: str, numbers: Collection[int]) -> TseRejected:
    listed = ", ".join(str(number) for number in sorted(numbers)[:10])
    more = ", …" if len(numbers) > 10 else ""
    return TseRejected(
        "CLIENT_HAS_OPEN_TRANSACTIONS",
        f"The client with the id {client_id} has {len(numbers)} open transactions: {listed}{more}.",
    )


def certificate_expired() -> TseRejected:
    return TseRejected("CERTIFICATE_EXPIRED", "The certificate of the TSE has expired.")


def secure_state() -> TseRejected:
    return TseRejected("SECURE_STATE", "The TSE is in the secure state: a self test has failed.")


def logging_locked() -> TseRejected:
    return TseRejected("LOGGING_LOCKED", "The logging of transactions is locked at the TSE.")
