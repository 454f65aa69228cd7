"""What the error codes of the device mean for a call.

A code of command 001 says that the command was refused, so nothing was executed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from fiskal.scu.driver import Call
from fiskal.scu.errors import ClientError, Misconfigured, NotSupported, ScuError, TseRejected, Unreachable
from fiskal.scu.refusals import certificate_expired, client_not_registered, terminated, transaction_not_open

TIME_NOT_SET: Final = 0x0101
CERTIFICATE_EXPIRED: Final = 0x0102
POWER_FAIL: Final = 0x0002
CMD_FOOTER_ERROR: Final = 0x0005
CMD_WRONG_ORDER: Final = 0x0006
DEVICE_DISABLED: Final = 0x0103
NO_TRANSACTION: Final = 0x0108
CLIENT_ID_NOT_SET: Final = 0x010A
NO_DATA_AVAILABLE: Final = 0x010B
SELF_TEST_REQUIRED: Final = 0x010C
USER_NOT_AUTHORIZED: Final = 0x0110
USER_NOT_AUTHENTICATED: Final = 0x0111
DESCRIPTION_NOT_SET: Final = 0x0113
DESCRIPTION_SET: Final = 0x0114
CLIENT_NOT_REGISTERED: Final = 0x0115
UNFINISHED: Final = frozenset({0x011A, 0x011B})
EXPORT_BUFFER: Final = 0x011C


BEFORE_SIGNING: Final = frozenset(
    {0x0003, 0x0004, 0x0005, 0x0006, 0x0007, 0x0008, 0x0100, 0x0101, 0x0103, 0x0108, 0x010A, 0x010C}
    | {0x0110, 0x0111, 0x0112, 0x0115, 0x0117, 0x0118}
)
"""Checked before anything is signed. Behind every other code the log is asked whether the signature was made."""


class _Meaning(NamedTuple):
    name: str
    kind: type[ScuError]
    code: str
    hint: str = ""


_PROTOCOL: Final = ("PROTOCOL_ERROR", "Please report this: the command is not as the device wants it.")
MEANINGS: Final = {
    0x0001: _Meaning("E_FAIL", TseRejected, "DEVICE_FAILED"),
    0x0002: _Meaning("E_POWER_FAIL", Unreachable, "TSE_NOT_AVAILABLE", "The device lost its power."),
    0x0003: _Meaning(
        "E_UNKNOWN_CMD", NotSupported, "NOT_IMPLEMENTED", "This firmware does not know the command."
    ),
    0x0004: _Meaning("E_CMD_TOO_LONG", ClientError, *_PROTOCOL),
    0x0005: _Meaning(
        "E_CMD_FOOTER_ERROR", Unreachable, "PROTOCOL_ERROR", "The line is noisy: check cable and hub."
    ),
    0x0006: _Meaning("E_CMD_WRONG_ORDER", Unreachable, "PROTOCOL_ERROR"),
    0x0007: _Meaning("E_PARA_COUNT_ERROR", ClientError, *_PROTOCOL),
    0x0008: _Meaning(
        "E_PARA_VALUE_ERROR", ClientError, "INVALID_PROCESS_DATA", "The device takes no such value."
    ),
    0x0100: _Meaning("E_DEVICE_NOT_INITIALIZED", TseRejected, "WRONG_STATE", "Initialise the TSE first."),
    0x0101: _Meaning(
        "E_TIME_NOT_SET", TseRejected, "TIME_NOT_SET", "Configure time_admin_pin and set the time."
    ),
    0x0102: _Meaning("E_CERTIFICATE_EXPIRED", TseRejected, "CERTIFICATE_EXPIRED", "Replace the TSE."),
    0x0103: _Meaning(
        "E_DEVICE_DISABLED", TseRejected, "TSE_TERMINATED", "The TSE has been disabled for good."
    ),
    0x0104: _Meaning("E_COMMAND_FAILED", TseRejected, "DEVICE_FAILED"),
    0x0105: _Meaning("E_SIGNING_SYSTEM_OPERATION_DATA_FAILED", TseRejected, "DEVICE_FAILED"),
    0x0106: _Meaning("E_RETRIEVE_LOG_MESSAGE_FAILED", TseRejected, "DEVICE_FAILED"),
    0x0107: _Meaning(
        "E_STORAGE_FAILURE", TseRejected, "MEMORY_FULL", "Export and erase the log, or replace the TSE."
    ),
    0x0108: _Meaning("E_NO_TRANSACTION", TseRejected, "TRANSACTION_NOT_OPEN"),
    0x010A: _Meaning("E_CLIENT_ID_NOT_SET", Unreachable, "PROTOCOL_ERROR"),
    0x010B: _Meaning(
        "E_NO_DATA_AVAILABLE", TseRejected, "NO_DATA_AVAILABLE", "The log holds nothing of this kind."
    ),
    0x010C: _Meaning("E_SELF_TEST_REQUIRED", TseRejected, "SELF_TEST_REQUIRED", "Run the self test."),
    0x010D: _Meaning("E_NO_LOG_MESSAGE", TseRejected, "NO_DATA_AVAILABLE"),
    0x010F: _Meaning("E_UNSUPPORTED_CRYPTO_CARD", Misconfigured, "DEVICE_DEFECT", "Replace the TSE."),
    0x0110: _Meaning("E_USER_NOT_AUTHORIZED", Misconfigured, "AUTH_FAILED", "The user may not do this."),
    0x0111: _Meaning(
        "E_USER_NOT_AUTHENTICATED", Misconfigured, "AUTH_FAILED", "The PIN for this is not configured."
    ),
    0x0112: _Meaning(
        "E_USER_ID_NOT_MANAGED", Misconfigured, "AUTH_FAILED", "Check admin_user and time_admin_user."
    ),
    0x0113: _Meaning(
        "E_DESCRIPTION_NOT_SET_BY_MANUFACTURER", Misconfigured, "NOT_PERSONALISED", "Set description."
    ),
    0x0114: _Meaning(
        "E_DESCRIPTION_SET_BY_MANUFACTURER", Misconfigured, "NOT_PERSONALISED", "Leave description out."
    ),
    0x0115: _Meaning(
        "E_CLIENT_NOT_REGISTERED", TseRejected, "CLIENT_NOT_REGISTERED", "Register the client first."
    ),
    0x0116: _Meaning(
        "E_CRYPTO_CARD_NOT_FOUND", Unreachable, "TSE_NOT_AVAILABLE", "Check that the TSE is plugged in."
    ),
    0x0117: _Meaning(
        "E_MAX_PARALLEL_TRANSACTIONS_REACHED", TseRejected, "TRANSACTION_LIMIT", "Finish open ones."
    ),
    0x0118: _Meaning("E_MAX_SIGNATURES_REACHED", TseRejected, "SIGNATURE_LIMIT", "Replace the TSE."),
    0x0119: _Meaning("E_MAX_REGISTERED_CLIENTS_REACHED", TseRejected, "CLIENT_LIMIT", "Unregister a client."),
    0x011A: _Meaning("E_CLIENT_HAS_UNFINISHED_TRANSACTIONS", TseRejected, "CLIENT_HAS_OPEN_TRANSACTIONS"),
    0x011B: _Meaning(
        "E_DEVICE_HAS_UNFINISHED_TRANSACTIONS", TseRejected, "OPEN_TRANSACTIONS", "Finish them first."
    ),
    0x011C: _Meaning("error 011C", TseRejected, "EXPORT_FAILED", "Seen with a damaged export: export again."),
}


def refusal(code: int, call: Call | None = None) -> ScuError:
    """The error a code stands for. Nothing was executed."""
    if code == CLIENT_NOT_REGISTERED and call is not None:
        return client_not_registered(call.client_id)
    if code == NO_TRANSACTION and call is not None:
        return transaction_not_open(call.transaction_number)
    if code == CERTIFICATE_EXPIRED:
        return certificate_expired()
    if code == DEVICE_DISABLED and call is None:
        return terminated()
    meaning = MEANINGS.get(code)
    vendor = f"{code:04X}"
    if meaning is None:
        return TseRejected(
            "DEVICE_FAILED", f"The TSE refused the command with error {vendor}.", vendor_code=vendor
        )
    text = f"The TSE refused the command: {meaning.name}."
    if meaning.code == "TSE_NOT_AVAILABLE":
        text = f"The TSE is not available. {meaning.name}."
    return meaning.kind(meaning.code, f"{text} {meaning.hint}".strip(), vendor_code=vendor)
