"""Error codes of the Swissbit TSE and its library, and what each asks for (tse-swissbit §10)."""

from __future__ import annotations

import enum
from typing import Final

from fiskal.scu.errors import Misconfigured, NotSupported, ScuError, TseRejected, Unreachable


class Act(enum.Enum):
    """What helps against an error."""

    LOGIN = "log in"
    TIME = "set the time"
    SELF_TEST = "run the self test"
    CTSS = "switch CTSS on"
    WAIT = "wait"
    REOPEN = "open the device anew"
    NOTHING = "nothing that can be done here"


class _Row:
    __slots__ = ("act", "code", "kind", "name", "text")

    def __init__(self, name: str, act: Act, kind: type[ScuError], code: str, text: str) -> None:
        self.name, self.act, self.kind, self.code, self.text = name, act, kind, code, text


def _r(name: str, act: Act, code: str, text: str, kind: type[ScuError] = TseRejected) -> _Row:
    return _Row(name, act, kind, code, text)


_N, _L, _T, _S, _C, _W, _R = Act.NOTHING, Act.LOGIN, Act.TIME, Act.SELF_TEST, Act.CTSS, Act.WAIT, Act.REOPEN
_PERSON: Final = Misconfigured

NO_TIME_SET: Final = 0x1002
NO_IMPORT: Final = 0x1004
NOT_ENOUGH_DATA: Final = 0x1006
INVALID_PARAMETER: Final = 0x1007
NOT_STARTED: Final = 0x1008
CMD_NOT_ALLOWED: Final = 0x100D
NOT_AUTHORIZED: Final = 0x100F
CLIENT_NOT_REGISTERED: Final = 0x1011
PIN_BLOCKED: Final = 0x1201
NOT_LOGGED_IN: Final = 0x1202
ALREADY_INITIALIZED: Final = 0x10FD
CMD_NOT_FOUND: Final = 0xF000
EXPORT_IN_PROGRESS: Final = 0x1016

_LIBRARY: Final = {
    1: _r("INVALID_PARAMETER", _N, "INTERNAL", "an argument is invalid"),
    2: _r("NO_WORM_CARD", _R, "TSE_NOT_AVAILABLE", "there is no TSE at this path", Unreachable),
    3: _r("IO", _R, "TSE_NOT_AVAILABLE", "reading or writing failed", Unreachable),
    4: _r("TIMEOUT", _R, "NO_RESPONSE", "the TSE did not answer in time", Unreachable),
    5: _r("OUTOFMEM", _N, "INTERNAL", "the host has no memory left", Unreachable),
    6: _r("INVALID_RESPONSE", _R, "PROTOCOL_ERROR", "the answer cannot be read", Unreachable),
    7: _r("STORE_FULL_INTERNAL", _N, "MEMORY_FULL", "the store of the TSE is full: export and erase it"),
    8: _r("RESPONSE_MISSING", _R, "NO_RESPONSE", "no answer came", Unreachable),
    9: _r("EXPORT_NOT_INITIALIZED", _N, "EXPORT_FAILED", "no export was begun"),
    10: _r("EXPORT_FAILED", _N, "EXPORT_FAILED", "the export failed"),
    11: _r(
        "INCREMENTAL_EXPORT_INVALID_STATE",
        _N,
        "EXPORT_FAILED",
        "the state of the incremental export is invalid",
    ),
    12: _r("INCREMENTAL_EXPORT_NO_DATA", _N, "EXPORT_FAILED", "there is nothing new to export"),
    13: _r("POWER_CYCLE_DETECTED", _S, "SELF_TEST_REQUIRED", "the TSE was without power"),
    14: _r("FIRMWARE_UPDATE_NOT_APPLIED", _N, "INTERNAL", "a firmware update was not applied"),
    15: _r("THREAD_START_FAILED", _N, "INTERNAL", "the library could not start its thread", Unreachable),
    17: _r("CMD_NOT_SUPPORTED", _N, "NOT_IMPLEMENTED", "the TSE does not know this command", NotSupported),
    23: _r("INVALID_STATE", _N, "WRONG_STATE", "the TSE is in a state that does not allow it"),
    24: _r("TSE_NOT_FOUND", _R, "TSE_NOT_AVAILABLE", "there is no TSE", Unreachable),
    25: _r("INCREMENTAL_EXPORT_LIMIT_TOO_LOW", _N, "EXPORT_FAILED", "the limit of the export is too low"),
}
_CARD: Final = {
    0x1001: _r("UNKNOWN", _S, "INTERNAL", "the TSE has an internal error"),
    0x1002: _r("NO_TIME_SET", _T, "TIME_NOT_SET", "the time of the TSE is not set"),
    0x1004: _r("NO_TRANSACTION_IN_PROGRESS", _N, "WRONG_STATE", "no transaction data is being written"),
    0x1005: _r("INVALID_CMD_SYNTAX", _N, "PROTOCOL_ERROR", "the TSE cannot read the command"),
    0x1006: _r("NOT_ENOUGH_DATA_WRITTEN", _W, "PROTOCOL_ERROR", "the process data did not arrive at the TSE"),
    0x1007: _r("TSE_INVALID_PARAMETER", _N, "PROTOCOL_ERROR", "an argument of the command is invalid"),
    0x1008: _r("TRANSACTION_NOT_STARTED", _N, "TRANSACTION_NOT_OPEN", "the transaction is not open"),
    0x1009: _r(
        "MAX_PARALLEL_TRANSACTIONS",
        _N,
        "TRANSACTION_LIMIT",
        "too many transactions are open: finish some first",
    ),
    0x100A: _r(
        "CERTIFICATE_EXPIRED", _N, "CERTIFICATE_EXPIRED", "the certificate has expired: replace the TSE"
    ),
    0x100C: _r("NO_LAST_TRANSACTION", _N, "TRANSACTION_NOT_OPEN", "there is no last transaction"),
    0x100D: _r("CMD_NOT_ALLOWED", _N, "WRONG_STATE", "the state of the TSE does not allow the command"),
    0x100E: _r(
        "TRANSACTION_SIGNATURES_EXCEEDED",
        _N,
        "SIGNATURE_LIMIT",
        "the TSE has made all its signatures: replace it",
    ),
    0x100F: _r("NOT_AUTHORIZED", _L, "AUTH_FAILED", "no user with this right is logged in", _PERSON),
    0x1010: _r(
        "MAX_REGISTERED_CLIENTS_REACHED", _N, "CLIENT_LIMIT", "the TSE has no room for another client"
    ),
    0x1011: _r("CLIENT_NOT_REGISTERED", _N, "CLIENT_NOT_REGISTERED", "the client is not registered"),
    0x1012: _r(
        "EXPORT_UNACKNOWLEDGED_DATA",
        _N,
        "EXPORT_FAILED",
        "there is data that was not exported: export again first",
    ),
    0x1013: _r(
        "CLIENT_HAS_UNFINISHED_TRANSACTIONS",
        _N,
        "CLIENT_HAS_OPEN_TRANSACTIONS",
        "the client has open transactions: finish them first",
    ),
    0x1014: _r(
        "TSE_HAS_UNFINISHED_TRANSACTIONS", _N, "OPEN_TRANSACTIONS", "transactions are open: finish them first"
    ),
    0x1015: _r(
        "TSE_NO_RESPONSE_TO_FETCH", _R, "NO_RESPONSE", "there is no answer to be fetched", Unreachable
    ),
    0x1016: _r("NOT_ALLOWED_EXPORT_IN_PROGRESS", _S, "BUSY", "the TSE is exporting"),
    0x1017: _r("STORE_FULL", _N, "MEMORY_FULL", "the store of the TSE is full: export and erase it"),
    0x1050: _r(
        "WRONG_STATE_NEEDS_PUK_CHANGE",
        _N,
        "NOT_PERSONALISED",
        "the PUK was not changed yet: initialise",
        _PERSON,
    ),
    0x1051: _r(
        "WRONG_STATE_NEEDS_PIN_CHANGE",
        _N,
        "NOT_PERSONALISED",
        "the PIN was not changed yet: initialise",
        _PERSON,
    ),
    0x1053: _r("WRONG_STATE_NEEDS_ACTIVE_CTSS", _C, "WRONG_STATE", "the CTSS interface is not active"),
    0x1054: _r("WRONG_STATE_NEEDS_SELF_TEST", _S, "SELF_TEST_REQUIRED", "a self test is due"),
    0x1055: _r(
        "WRONG_STATE_NEEDS_SELF_TEST_PASSED", _S, "SELF_TEST_REQUIRED", "the self test has not passed"
    ),
    0x1061: _r("FWU_INTEGRITY_FAILURE", _N, "INTERNAL", "a firmware update is damaged"),
    0x1062: _r("FWU_DECRYPTION_FAILURE", _N, "INTERNAL", "a firmware update cannot be decrypted"),
    0x1064: _r("FWU_WRONG_FORMAT", _N, "INTERNAL", "a firmware update has the wrong format"),
    0x1065: _r("FWU_INTERNAL_ERROR", _N, "INTERNAL", "a firmware update failed"),
    0x1067: _r("FWU_DOWNGRADE_PROHIBITED", _N, "INTERNAL", "an older firmware is refused"),
    0x10FD: _r("TSE_ALREADY_INITIALIZED", _N, "WRONG_STATE", "the TSE has been initialised before"),
    0x10FE: _r("TSE_DECOMMISSIONED", _N, "TSE_TERMINATED", "the TSE has been decommissioned"),
    0x10FF: _r("TSE_NOT_INITIALIZED", _N, "NOT_PERSONALISED", "the TSE has not been initialised", _PERSON),
    0x1201: _r(
        "AUTHENTICATION_PIN_BLOCKED",
        _N,
        "PIN_BLOCKED",
        "the PIN is blocked: unblock it with the PUK",
        _PERSON,
    ),
    0x1202: _r("AUTHENTICATION_USER_NOT_LOGGED_IN", _N, "AUTH_FAILED", "the user is not logged in", _PERSON),
    0x2001: _r("EXPORT_NONE_IN_PROGRESS", _N, "EXPORT_FAILED", "no export is in progress"),
    0x2002: _r("EXPORT_RETRY", _W, "EXPORT_FAILED", "the export has no data yet"),
    0x2003: _r("EXPORT_NO_DATA_AVAILABLE", _N, "EXPORT_FAILED", "there is nothing to export"),
    0xF000: _r(
        "CMD_NOT_FOUND", _N, "NOT_IMPLEMENTED", "the firmware does not know this command", NotSupported
    ),
}
_WRONG_PIN: Final = _r(
    "AUTHENTICATION_FAILED", _N, "AUTH_FAILED", "the PIN or PUK is wrong; it is not tried again", _PERSON
)
_RANGES: Final = (
    (0x1100, 0x11FF, _WRONG_PIN),
    (0x1300, 0x130F, _r("SELF_TEST_FAILED_FW", _S, "SECURE_STATE", "the self test of the firmware failed")),
    (
        0x1310,
        0x131F,
        _r("SELF_TEST_FAILED_CSP", _S, "SECURE_STATE", "the self test of the security module failed"),
    ),
    (
        0x1320,
        0x132F,
        _r("SELF_TEST_FAILED_RNG", _S, "SECURE_STATE", "the self test of the random numbers failed"),
    ),
    (
        0x1400,
        0x14FF,
        _r("FWU_BASE_FW_ERROR", _N, "INTERNAL", "the base firmware has an error: replace the TSE"),
    ),
    (0x1500, 0x15FF, _r("FWU_FWEXT_ERROR", _N, "INTERNAL", "the firmware has an error: replace the TSE")),
    (
        0x1600,
        0x16FF,
        _r("FWU_CSP_ERROR", _N, "INTERNAL", "the security module has an error: replace the TSE"),
    ),
    (0xFF00, 0xFFFE, _r("SIG_ERROR", _S, "SECURE_STATE", "the TSE could not sign")),
)
_UNKNOWN: Final = _r("UNKNOWN", _N, "PROTOCOL_ERROR", "the TSE answers with an error that nobody knows")


def row(code: int, *, ranges: bool = True) -> _Row:
    found = _CARD.get(code) or _LIBRARY.get(code)
    if found is not None:
        return found
    for first, last, candidate in _RANGES:
        if code == first or (ranges and first <= code <= last):
            return candidate
    return _UNKNOWN


class CardError(Exception):
    """A status word of the device, or an error of the library, that is not success."""

    ranges = True
    """*inferred*: the low bits of some codes carry detail."""

    def __init__(self, code: int, doing: str) -> None:
        self.code = code
        self.doing = doing
        self._row = row(code, ranges=self.ranges)
        super().__init__(f"{doing}: {self._row.text} ({self.number})")

    @property
    def number(self) -> str:
        return f"0x{self.code:04x} {self._row.name}"

    @property
    def act(self) -> Act:
        return self._row.act

    @property
    def wrong_pin(self) -> bool:
        return self._row is _WRONG_PIN

    def scu_error(self, transaction_number: int | None = None) -> ScuError:
        """The error of the contract. A refusal: nothing was executed."""
        return self._row.kind(
            self._row.code,
            f"The TSE refused to {self.doing}: {self._row.text} ({self.number}).",
            vendor_code=f"0x{self.code:04x}",
            transaction_number=transaction_number,
        )
