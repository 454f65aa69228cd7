"""What the codes of an Epson TSE mean: what to do about them, and what to tell the caller."""

from __future__ import annotations

from typing import Final

from fiskal.scu.driver import Call
from fiskal.scu.drivers.epson.protocol import Refused
from fiskal.scu.errors import ClientError, Misconfigured, OutcomeUnknown, ScuError, TseRejected, Unreachable
from fiskal.scu.refusals import client_not_registered, logging_locked, transaction_not_open

NEEDS_LOG_IN: Final = frozenset(
    {
        "OTHER_ERROR_UNAUTHENTICATED_TIME_ADMIN_USER",
        "OTHER_ERROR_UNAUTHENTICATED_ADMIN_USER",
        "OTHER_ERROR_UNAUTHENTICATED_USER",
        "OTHER_ERROR_UNAUTHENTICATED_HOST",
        "OTHER_ERROR_TIMEADMIN_NOT_AUTHORIZED",
        "TSE1_ERROR_NOT_AUTHORIZED",
    }
)
NEEDS_TIME: Final = frozenset({"TSE1_ERROR_NO_TIME_SET", "OTHER_ERROR_NO_TIME_SET_BEFORE_EXPORT"})
NEEDS_SELF_TEST: Final = frozenset(
    {"TSE1_ERROR_WRONG_STATE_NEEDS_SELF_TEST", "TSE1_ERROR_WRONG_STATE_NEEDS_SELF_TEST_PASSED"}
)
EXPORTING: Final = frozenset({"OTHER_ERROR_CURRENTLY_EXPORTING", "OTHER_ERROR_CURRENTLY_EXPORTING_USER"})
EXPORTING_PREFIX: Final = "TSE1_ERROR_NOT_ALLOWED_EXPORT_IN_PROGRES"
"""The documents cut this name off."""
ALREADY_SET_UP: Final = frozenset({"OTHER_ERROR_TSE_ALREADY_SET_UP", "TSE1_ERROR_TSE_ALREADY_INITIALIZED"})
NOT_STARTED: Final = frozenset(
    {"TSE1_ERROR_NO_TRANSACTION_IN_PROGRESS", "TSE1_ERROR_TRANSACTION_NOT_STARTED"}
)
EXPIRED: Final = "TSE1_ERROR_CERTIFICATE_EXPIRED"
NOT_REGISTERED: Final = "TSE1_ERROR_CLIENT_NOT_REGISTERED"

OPEN: Final = frozenset(
    {
        "ERROR_TIMEOUT",
        "DEVICE_ERROR",
        "DRIVER_ERROR",
        "SYSTEM_ERROR",
        "SEND_ERROR",
        "OTHER_ERROR_NO_MEMORY",
        "OTHER_ERROR_FATAL",
        "TSE1_ERROR_IO",
        "TSE1_ERROR_TIMEOUT",
        "TSE1_ERROR_INVALID_RESPONSE",
        "TSE1_ERROR_RESPONSE_MISSING",
        "TSE1_ERROR_OUTOFMEM",
        "TSE1_ERROR_POWER_CYCLE_DETECTED",
        "TSE1_ERROR_UNKNOWN",
        "TSE1_ERROR_RAISED_FROM_TSE",
    }
)
"""After these the device may have executed the function."""

_GONE: Final = frozenset(
    {
        "DEVICE_NOT_FOUND",
        "TSE1_ERROR_NO_TSE",
        "TSE1_ERROR_IO",
        "OTHER_ERROR_NO_STORAGE_FOUND",
        "OTHER_ERROR_UNKNOWN_STORAGE",
    }
)
_BUSY: Final = frozenset(
    {
        "DEVICE_IN_USE",
        "DEVICE_OPEN_ERROR",
        "ERROR_DEVICE_BUSY",
        "OTHER_ERROR_TOO_MANY_CHALLENGE_REQUESTED",
        "OTHER_ERROR_TOO_MANY_TIME_ADMIN_USER_LOGGED_IN",
        *EXPORTING,
        *(NEEDS_LOG_IN - {"TSE1_ERROR_NOT_AUTHORIZED"}),
    }
)
_WRONG_REQUEST: Final = frozenset(
    {"COMMAND_ILLEGAL", "FUNCTION_NOT_FOUND", "PARAM_ERROR", "DEVICE_TYPE_INVALID"}
)

_REJECTED: Final = {
    "TSE1_ERROR_STORE_FULL": ("MEMORY_FULL", "The memory of the TSE is full: export its log and erase it."),
    "TSE1_ERROR_STORE_FULL_INTERNAL": (
        "MEMORY_FULL",
        "The memory of the TSE is full: export its log and erase it.",
    ),
    "TSE1_ERROR_MAX_PARALLEL_TRANSACTIONS": (
        "TRANSACTION_LIMIT",
        "The TSE has as many open transactions as it can: finish those that nobody needs.",
    ),
    "TSE1_ERROR_MAX_REGISTERED_CLIENTS_REACHED": (
        "CLIENT_LIMIT",
        "The TSE has as many clients as it can: unregister one.",
    ),
    "TSE1_ERROR_TRANSACTION_SIGNATURES_EXCEEDED": (
        "SIGNATURE_LIMIT",
        "The TSE has made all its signatures and must be replaced.",
    ),
    EXPIRED: (
        "CERTIFICATE_EXPIRED",
        "The certificate of the TSE has expired or the TSE has been disabled: it must be replaced.",
    ),
    "TSE1_ERROR_TSE_DECOMMISSIONED": ("TSE_TERMINATED", "The TSE has been disabled and must be replaced."),
    "TSE1_ERROR_TSE_NOT_INITIALIZED": ("TSE_NOT_INITIALIZED", "The TSE has not been initialised."),
    "TSE1_ERROR_WRONG_STATE_NEEDS_PUK_CHANGE": ("TSE_NOT_INITIALIZED", "The TSE has not been initialised."),
    "TSE1_ERROR_WRONG_STATE_NEEDS_PIN_CHANGE": ("TSE_NOT_INITIALIZED", "The TSE has not been initialised."),
    "TSE1_ERROR_CLIENT_HAS_UNFINISHED_TRANSACTIONS": (
        "CLIENT_HAS_OPEN_TRANSACTIONS",
        "The client has open transactions: finish them first.",
    ),
    "TSE1_ERROR_TSE_HAS_UNFINISHED_TRANSACTIONS": (
        "OPEN_TRANSACTIONS",
        "The TSE has open transactions: finish them first.",
    ),
    "TSE1_ERROR_SELF_TEST_FAILED_FW": (
        "SECURE_STATE",
        "The self test of the TSE's firmware failed: replace it.",
    ),
    "TSE1_ERROR_SELF_TEST_FAILED_CSP": (
        "SECURE_STATE",
        "The self test of the TSE's crypto processor failed: replace it.",
    ),
    "TSE1_ERROR_SELF_TEST_FAILED_RNG": (
        "SECURE_STATE",
        "The self test of the TSE's random numbers failed: replace it.",
    ),
    **dict.fromkeys(
        NEEDS_SELF_TEST, ("SELF_TEST_REQUIRED", "The TSE needs a self test, and one did not help.")
    ),
    **dict.fromkeys(NEEDS_TIME, ("TIME_NOT_SET", "The TSE has no time, and setting it did not help.")),
}


_OTHER_REFUSALS: Final = frozenset(
    {
        "DEVICE_NOT_OPEN",
        "OTHER_ERROR_HOST_AUTHENTICATION_FAILED",
        "OTHER_ERROR_INVALID_ADMIN_USER_ID",
        "OTHER_ERROR_PARAMETER_MISMATCH",
        "TSE1_ERROR_AUTHENTICATION_FAILED",
        "TSE1_ERROR_AUTHENTICATION_PIN_BLOCKED",
        "TSE1_ERROR_CMD_NOT_ALLOWED",
        "TSE1_ERROR_CMD_NOT_FOUND",
        "TSE1_ERROR_INVALID_CMD_SYNTAX",
        "TSE1_ERROR_INVALID_PARAMETER",
        "TSE1_ERROR_NOT_ENOUGH_DATA_WRITTEN",
        "TSE1_ERROR_TSE_INVALID_PARAMETER",
        "TSE1_ERROR_WRONG_STATE_NEEDS_TSE_UNLOCK",
        NOT_REGISTERED,
    }
)


def refuses(code: str) -> bool:
    """The device has certainly executed nothing. Of a code that nobody knows this is not certain."""
    if code in OPEN:
        return False
    known = (_OTHER_REFUSALS, _REJECTED, _GONE, _BUSY, _WRONG_REQUEST, NEEDS_LOG_IN, NOT_STARTED)
    return code.startswith("JSON_ERROR_") or is_exporting(code) or any(code in codes for codes in known)


def not_available(host: str, port: int, text: str, vendor_code: str | None = None) -> Unreachable:
    return Unreachable(
        "TSE_NOT_AVAILABLE",
        f"The TSE is not available. Unable to connect to endpoint at {host}:{port}. {text}",
        vendor_code=vendor_code,
    )


def is_exporting(code: str) -> bool:
    return code in EXPORTING or code.startswith(EXPORTING_PREFIX)


def error_of(refused: Refused, host: str, port: int, call: Call | None = None) -> ScuError:
    """What a code is to those who ask an SCU. ``call`` is the transaction call that was answered with it."""
    code = refused.code
    if call is not None:
        if code == NOT_REGISTERED:
            return client_not_registered(call.client_id)
        if code in NOT_STARTED:
            return transaction_not_open(call.transaction_number)
        if code in OPEN:
            return OutcomeUnknown(
                "NO_RESPONSE",
                f"The TSE answered {code}: the {call.op} may have been executed.",
                vendor_code=code,
            )
    if code in _REJECTED:
        return TseRejected(*_REJECTED[code], vendor_code=code)
    if code == "TSE1_ERROR_WRONG_STATE_NEEDS_TSE_UNLOCK":
        locked = logging_locked()
        return TseRejected(
            locked.code, f"{locked.message} Unlock it, or let the option 'unlock' do so.", vendor_code=code
        )
    if code in _GONE:
        return not_available(host, port, f"The host answered {code}: is the TSE plugged in?", code)
    if code in _BUSY or code.startswith(EXPORTING_PREFIX):
        return Unreachable(
            "BUSY",
            f"The TSE is busy or used by somebody else: the host at {host}:{port} answered {code}.",
            vendor_code=code,
            retry_after_ms=2000,
        )
    if code in _WRONG_REQUEST:
        return Misconfigured(
            "PROTOCOL_ERROR",
            f"The host at {host}:{port} answered {code}: check the options device_id and storage_type.",
            vendor_code=code,
        )
    if code in OPEN:
        return not_available(host, port, f"The host answered {code}.", code)
    if code == "TSE1_ERROR_NOT_AUTHORIZED":
        return Misconfigured(
            "AUTH_FAILED",
            f"The TSE answered {code} although somebody was logged in. Restart the host or the printer.",
            vendor_code=code,
        )
    if code == "JSON_ERROR_OVER_DATA_SIZE":
        return ClientError(
            "INVALID_PROCESS_DATA", "The process data is too long for the TSE.", vendor_code=code
        )
    if code.startswith("JSON_ERROR_"):
        return ClientError("INVALID_REQUEST", f"The TSE refused what it was given: {code}.", vendor_code=code)
    return TseRejected("VENDOR_ERROR", f"The TSE answered {code}.", vendor_code=code)
