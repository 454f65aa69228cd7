"""The SE API of TR-03151 over a software TSE: users and PINs, its time, its life, its logs, its refusals.

A queue never needs it: it asks a TSE through the SCU contract. It is for those who write a driver against the
interface of a device, rehearse what an administrator does, or test what verifies exports. Functions have the
names of TR-03151-1; where version 2 has another one the docstring says so. Times are ticks.
"""

from __future__ import annotations

import contextlib
import enum
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeVar

from fiskal.clock import TICKS_PER_MILLISECOND, UNIX_EPOCH_TICKS, Clock, from_unix, now, to_unix
from fiskal.errors import FiskalError
from fiskal.scu.contract import TseStates
from fiskal.scu.driver import Call, Op, Selection, Signed
from fiskal.scu.errors import ScuError
from fiskal.scu.software import log as records
from fiskal.scu.software.access import ROLES, Access, UserId, pin_is_acceptable
from fiskal.scu.software.limits import MAX_COUNTER
from fiskal.scu.software.log import Record
from fiskal.scu.software.tse import COMPONENTS, MAX_PROCESS_TYPE_CHARACTERS, SoftwareTse
from fiskal.tse._native import TimeFormat
from fiskal.tse.encode_events import (
    AuthenticationResult,
    Component,
    LogOutCause,
    SelfTestResult,
    UnblockResult,
    serial_numbers,
)
from fiskal.tse.logmessage import build_file_name, parse
from fiskal.tse.tar import Sink, TarWriter, certificate_name

MAX_DESCRIPTION_CHARACTERS: Final = 64
MAX_CLIENT_ID_CHARACTERS: Final = 64
IDLE_TIMEOUT_S: Final = 900.0

_FIRST_MOMENT: Final = UNIX_EPOCH_TICKS
_LAST_MOMENT: Final = from_unix(253_402_300_800)
_LAST_UTC_TIME: Final = from_unix(2_524_608_000)


class SeError(enum.StrEnum):
    """The exceptions of the SE API, by their names in TR-03151-1 and, where that has none, in version 2."""

    CERTIFICATE_EXPIRED = "ErrorCertificateExpired"
    CLIENT_ALREADY_REGISTERED = "ErrorClientAlreadyRegistered"
    CLIENT_ID_NOT_FOUND = "ErrorClientIdNotFound"
    CLIENT_LIMIT_REACHED = "ErrorClientLimitReached"
    CLIENT_NOT_REGISTERED = "ErrorClientNotRegistered"
    DELETE_LOG_MESSAGES_FAILED = "ErrorDeleteLogMessagesFailed"
    DEREGISTER_CLIENT_FAILED = "ErrorDeregisterClientFailed"
    DEVICE_IS_INITIALIZED = "ErrorDeviceIsInitialized"
    DEVICE_NOT_INITIALIZED = "ErrorDeviceNotInitialized"
    FUNCTION_FAILED = "ErrorFunctionFailed"
    FUNCTION_NOT_SUPPORTED = "ErrorFunctionNotSupported"
    INCORRECT_PIN = "ErrorIncorrectPin"
    INCORRECT_PUK = "ErrorIncorrectPuk"
    INVALID_CLIENT_ID_CHARACTER = "ErrorInvalidClientIdCharacter"
    INVALID_TIME = "ErrorInvalidTime"
    LIMIT_OF_OPEN_TRANSACTIONS = "ErrorLimitOfSimultaneousOpenTransactionsReached"
    NO_DATA_AVAILABLE = "ErrorNoDataAvailable"
    NO_LOG_MESSAGE_FOUND = "ErrorNoLogMessageFound"
    OPEN_TRANSACTION_FOUND = "ErrorOpenTransactionFound"
    PARAMETER_MISMATCH = "ErrorParameterMismatch"
    PARAMETER_SYNTAX = "ErrorParameterSyntax"
    PARAMETER_TOO_LONG = "ErrorParameterTooLong"
    PIN_BLOCKED = "ErrorPinBlocked"
    PUK_TEMPORARILY_BLOCKED = "ErrorPukTemporarilyBlocked"
    SECURE_ELEMENT_DISABLED = "ErrorSecureElementDisabled"
    SELF_TEST_FAILED = "ErrorSelfTestFailed"
    SETTING_NEW_PIN_FAILED = "ErrorSettingNewPinFailed"
    SIGNATURE_COUNTER_EXHAUSTED = "ErrorSignatureCounterExhausted"
    SIGNATURE_COUNTER_OVERFLOW = "ErrorSignatureCounterOverflow"
    STORAGE_MEMORY_FULL = "ErrorStorageMemoryFull"
    STORING_LOG_MESSAGE_FAILED = "ErrorStoringLogMessageFailed"
    TIME_NOT_SET = "ErrorTimeNotSet"
    TOO_MANY_RECORDS = "ErrorTooManyRecords"
    TRANSACTION_COUNTER_OVERFLOW = "ErrorTransactionCounterOverflow"
    TRANSACTION_LOGGING_LOCKED = "ErrorTransactionLoggingLocked"
    TRANSACTION_LOGGING_NOT_LOCKED = "ErrorTransactionLoggingNotLocked"
    TRANSACTION_NUMBER_NOT_FOUND = "ErrorTransactionNumberNotFound"
    UNEXPORTED_LOG_MESSAGES = "ErrorUnexportedLogMessages"
    UNKNOWN_USER_ID = "ErrorUnknownUserId"
    UNSUPPORTED_TIME_SYNC_VARIANT = "ErrorUnsupportedTimeSyncVariant"
    USER_NOT_AUTHENTICATED = "ErrorUserNotAuthenticated"
    USER_NOT_AUTHORIZED = "ErrorUserNotAuthorized"


V2_NAMES: Final = {
    SeError.CLIENT_ID_NOT_FOUND: "ErrorIdNotFound",
    SeError.DELETE_LOG_MESSAGES_FAILED: "ErrorDeleteStoredDataFailed",
    SeError.DEVICE_NOT_INITIALIZED: "ErrorSeApiNotInitialized",
    SeError.NO_LOG_MESSAGE_FOUND: "ErrorNoLogMessage",
    SeError.STORING_LOG_MESSAGE_FAILED: "ErrorStorageFailure",
    SeError.UNEXPORTED_LOG_MESSAGES: "ErrorUnexportedStoredData",
}
"""The names of version 2 that are not those of version 3."""


class SeApiError(FiskalError):
    """A function that was refused. ``code`` is the name of the error in the version of the TSE.

    ``result`` is what the function did all the same: an expired certificate and a full memory are reported
    after the work (TR-03151-1 §3.2). ``remaining_retries`` goes with a wrong PIN.
    """

    def __init__(
        self, error: SeError, text: str, *, result: object = None, remaining_retries: int | None = None
    ) -> None:
        super().__init__(f"{error}: {text}")
        self.code = str(error)
        self.error = error
        self.result = result
        self.remaining_retries = remaining_retries


class TimeSyncVariant(enum.StrEnum):
    """How the TSE comes to know the time. NO_INPUT takes the host's; the others name what updateTime wants."""

    NO_INPUT = "noInput"
    UTC_TIME = "utcTime"
    GENERALIZED_TIME = "generalizedTime"
    UNIX_TIME = "unixTime"


class TransactionState(enum.StrEnum):
    STARTED = "started"
    UPDATED = "updated"
    FINISHED = "finished"


class Export(NamedTuple):
    """An export that was written: the name its file should have, and the greatest signatureCounter in it."""

    file_name: str
    last_counter: int


class LastLogMessage(NamedTuple):
    file_name: str
    message: bytes


class SeClock:
    """The clock of a TSE that is told the time: unset after power was lost, from then on as fast as the host's.

    Until it is set it stands still where it was made or told to, which :class:`SeApi` makes the moment the TSE
    was made: so what is logged before lies within the certificate's life.
    """

    def __init__(self, host: Clock = now) -> None:
        self._host = host
        self._floor = host()
        self._offset: int | None = None

    @property
    def is_set(self) -> bool:
        return self._offset is not None

    def set(self, ticks: int) -> int | None:
        """Set the clock; return what :meth:`put_back` wants to undo it."""
        previous, self._offset = self._offset, ticks - self._host()
        return previous

    def put_back(self, previous: int | None) -> None:
        self._offset = previous

    def stand_at(self, ticks: int) -> None:
        """Where the clock stands until it is set."""
        self._floor = ticks

    def __call__(self) -> int:
        return self._floor if self._offset is None else self._host() + self._offset


_A: Final = frozenset({UserId.ADMIN})
_AT: Final = frozenset({UserId.ADMIN, UserId.TIME_ADMIN})
_AL: Final = frozenset({UserId.ADMIN, UserId.LOGGER})
_NOT_T: Final = frozenset({None, UserId.ADMIN, UserId.LOGGER})
_L: Final = frozenset({UserId.LOGGER})
_ANY: Final = frozenset({None, UserId.ADMIN, UserId.LOGGER, UserId.TIME_ADMIN})
_SOMEBODY: Final = _ANY - {None}

RIGHTS: Final[dict[str, frozenset[UserId | None]]] = {
    "authenticateUser": _ANY,
    "unblockPin": _ANY,
    "logOut": _SOMEBODY,
    "initialize": _A,
    "setDescription": _A,
    "getDescription": _A,
    "disableSecureElement": _A,
    "deleteLogMessages": _A,
    "lockTransactionLogging": _A,
    "unlockTransactionLogging": _A,
    "updateDevice": _A,
    "restoreLogsFromBackup": _A,
    "configureLogging": frozenset(),
    "updateTime": _AT,
    "registerClient": _AL,
    "deregisterClient": _AL,
    "startTransaction": _L,
    "updateTransaction": _L,
    "finishTransaction": _L,
    "getTotalMemory": _ANY,
    "getUsedMemory": _ANY,
    "getFreeMemory": _ANY,
    "getDeviceHealth": _ANY,
    "getComponentVersions": _ANY,
    "getEndOfUsageDate": _ANY,
    "getTimeSyncVariant": _ANY,
    "getCurrentSeTime": _ANY,
}
"""Who may call a function of version 3 (TR-03153-1 table 9); None is nobody in particular. Those that are not
listed may be called by everybody but ``timeadmin``."""

_RESTRICTED_V2: Final = {
    "initialize": _A,
    "updateTime": _AT,
    "deleteLogMessages": _A,
    "disableSecureElement": _A,
    "restoreLogsFromBackup": _A,
    "setDescription": _A,
    "lockTransactionLogging": _A,
    "unlockTransactionLogging": _A,
    "logOut": _SOMEBODY,
}
"""The same of version 2, where everything else may be called by everybody."""

_BEFORE_INITIALIZE: Final = frozenset(
    {"authenticateUser", "logOut", "unblockPin", "initialize", "getCurrentSeTime", "authenticateSmaAdmin"}
)
_AFTER_DISABLE: Final = frozenset(
    {
        "exportLogMessages",
        "exportFilteredTransactionLogs",
        "exportLoggingCertificates",
        "exportSerialNumbers",
        "getTotalMemory",
        "getUsedMemory",
        "getFreeMemory",
        "getDeviceHealth",
        "getDescription",
    }
)
_NEEDS_TIME: Final = frozenset(
    {
        "setDescription",
        "disableSecureElement",
        "deleteLogMessages",
        "registerClient",
        "deregisterClient",
        "startTransaction",
        "updateTransaction",
        "finishTransaction",
        "lockTransactionLogging",
        "unlockTransactionLogging",
        "getCurrentSeTime",
    }
)
_FULL_AFTER_WORK: Final = frozenset(
    {"authenticateUser", "logOut", "unblockPin", "initialize", "selfTest", "updateTime"}
)

_REPORTS_EXPIRY: Final = frozenset(
    {
        "initialize",
        "setDescription",
        "selfTest",
        "updateTime",
        "registerClient",
        "deregisterClient",
        "startTransaction",
        "updateTransaction",
        "finishTransaction",
        "lockTransactionLogging",
        "unlockTransactionLogging",
    }
)
_SIGNING: Final = (_NEEDS_TIME | _FULL_AFTER_WORK | {"authenticateSmaAdmin"}) - {
    "getCurrentSeTime",
    "selfTest",
}
"""What a TSE in the secure state refuses; only a self test leads out of it."""

_TRANSLATED: Final = {
    "CLIENT_NOT_REGISTERED": SeError.CLIENT_NOT_REGISTERED,
    "CLIENT_LIMIT": SeError.CLIENT_LIMIT_REACHED,
    "CLIENT_HAS_OPEN_TRANSACTIONS": SeError.DEREGISTER_CLIENT_FAILED,
    "TRANSACTION_NOT_OPEN": SeError.TRANSACTION_NUMBER_NOT_FOUND,
    "INVALID_CLIENT_ID": SeError.INVALID_CLIENT_ID_CHARACTER,
    "INVALID_PROCESS_DATA": SeError.PARAMETER_SYNTAX,
    "LOGGING_LOCKED": SeError.TRANSACTION_LOGGING_LOCKED,
    "MEMORY_FULL": SeError.STORAGE_MEMORY_FULL,
    "OPEN_TRANSACTIONS": SeError.DELETE_LOG_MESSAGES_FAILED,
    "ERASE_FAILED": SeError.DELETE_LOG_MESSAGES_FAILED,
    "SECURE_STATE": SeError.FUNCTION_FAILED,
    "TIME_NOT_SET": SeError.TIME_NOT_SET,
    "INTERNAL": SeError.STORING_LOG_MESSAGE_FAILED,
}

_T = TypeVar("_T")


class SeApi:
    """One user's access to a software TSE; it has to be the only one. Thread-safe, one call at a time.

    ``tse`` needs ``users.json`` (:meth:`Access.create`); if its clock is a :class:`SeClock` the TSE is told the
    time, otherwise it takes the host's. Every function raises :class:`SeApiError`. A user who does nothing for
    ``idle_timeout_s`` is logged out by the next call.
    """

    def __init__(
        self,
        tse: SoftwareTse,
        access: Access,
        *,
        clock: SeClock | None = None,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tse = tse
        self._access = access
        self._clock = clock
        self._idle_timeout_s = idle_timeout_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._user: UserId | None = None
        self._last_call = monotonic()
        self._exported = 0
        self._v2 = tse.description.log_version == 2
        if clock is not None:
            clock.stand_at(tse.created)

    # ---- the frame of every function ------------------------------------------------------------

    @contextlib.contextmanager
    def _function(self, name: str) -> Iterator[None]:
        """Check what every function checks, in the guideline's order, and translate what the TSE refuses."""
        with self._lock:
            self._log_out_the_idle()
            try:
                with self._translated():
                    self._check(name)
                    yield
            except SeApiError as error:
                if self._v2:
                    error.code = self._v2_name(name, error.error)
                raise

    @staticmethod
    def _v2_name(function: str, error: SeError) -> str:
        if error is SeError.TRANSACTION_NUMBER_NOT_FOUND and function.endswith("Transaction"):
            return "ErrorNoTransaction"
        return V2_NAMES.get(error, str(error))

    def _check(self, name: str) -> None:
        state = self.tse.state
        if state is TseStates.UNINITIALIZED and name not in _BEFORE_INITIALIZE:
            raise SeApiError(SeError.DEVICE_NOT_INITIALIZED, "The TSE has not been initialised.")
        if state is TseStates.TERMINATED and name not in _AFTER_DISABLE:
            raise SeApiError(SeError.SECURE_ELEMENT_DISABLED, "The TSE has been disabled.")
        allowed = _RESTRICTED_V2.get(name) if self._v2 else RIGHTS.get(name, _NOT_T)
        if allowed is not None and self._user not in allowed:
            if self._user is None:
                raise SeApiError(SeError.USER_NOT_AUTHENTICATED, f"{name} needs a user who is logged in.")
            raise SeApiError(SeError.USER_NOT_AUTHORIZED, f"{name} is not for {self._user}.")
        if name in _NEEDS_TIME and not self.time_is_set:
            raise SeApiError(SeError.TIME_NOT_SET, "The time of the TSE has not been set: call updateTime.")
        if self.tse.secure and name in _SIGNING:
            raise SeApiError(
                SeError.FUNCTION_FAILED, "The TSE is in the secure state: a self test has failed."
            )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ScuError as error:
            code = _TRANSLATED.get(error.code, SeError.FUNCTION_FAILED)
            if error.code == "SIGNATURE_LIMIT":
                overflow = self.tse.counter >= MAX_COUNTER
                code = SeError.SIGNATURE_COUNTER_OVERFLOW if overflow else SeError.SIGNATURE_COUNTER_EXHAUSTED
            elif error.code == "TRANSACTION_LIMIT":
                overflow = self.tse.transaction_counter >= MAX_COUNTER
                code = (
                    SeError.TRANSACTION_COUNTER_OVERFLOW if overflow else SeError.LIMIT_OF_OPEN_TRANSACTIONS
                )
            raise SeApiError(code, error.message) from error

    def _signed(self, name: str, result: _T) -> _T:
        """The result of a function that signed, unless something has to be reported after the work."""
        if self.tse.now() > self.tse.valid_until and name in _REPORTS_EXPIRY:
            raise SeApiError(
                SeError.CERTIFICATE_EXPIRED,
                f"{name} was executed, but the certificate has expired.",
                result=result,
            )
        if name in _FULL_AFTER_WORK and self.tse.memory_is_full:
            raise SeApiError(
                SeError.STORAGE_MEMORY_FULL, f"{name} was executed, but the memory is full.", result=result
            )
        return result

    @property
    def user(self) -> UserId | None:
        """Who is logged in."""
        return self._user

    @property
    def time_is_set(self) -> bool:
        return self._clock is None or self._clock.is_set

    # ---- users ----------------------------------------------------------------------------------

    def _log_out_the_idle(self) -> None:
        moment = self._monotonic()
        if self._user is not None and moment - self._last_call > self._idle_timeout_s:
            self._end_session(LogOutCause.TIMEOUT)
        self._last_call = moment

    def _end_session(self, cause: LogOutCause) -> None:
        user, self._user = self._user, None
        if user is not None and self.tse.state is not TseStates.TERMINATED and not self.tse.secure:
            by = user.value if cause is LogOutCause.USER_CALLED else None
            self.tse.write_event(self.tse.events.log_out(user, cause), user=by)

    def authenticate_user(self, user_id: str, pin: str) -> None:
        """Log a user in; whoever was logged in before is logged out. Every attempt is logged.

        Raises UNKNOWN_USER_ID, INCORRECT_PIN, PIN_BLOCKED.
        """
        with self._function("authenticateUser"):
            if len(user_id) > MAX_CLIENT_ID_CHARACTERS:
                raise SeApiError(SeError.PARAMETER_TOO_LONG, "The user id is too long.")
            if not user_id.isascii() or not user_id.isalnum():
                raise SeApiError(SeError.PARAMETER_SYNTAX, "The user id is no text of letters and digits.")
            if self._user is not None:
                self._end_session(LogOutCause.DIFFERENT_USER)
            known = {user for user in UserId if user is not UserId.SMA_ADMIN}
            result = AuthenticationResult.UNKNOWN_USER_ID
            if user_id in known:
                result = self._access.authenticate(user_id, pin)
            remaining = self._access.retries(user_id) if user_id in known else 0
            role = ROLES[UserId(user_id)] if user_id in known else ROLES[UserId.SMA_ADMIN]
            event = self.tse.events.authenticate_user(user_id, role, result, remaining)
            self.tse.write_event(event, user=user_id)
            if result is not AuthenticationResult.SUCCESS:
                error = {
                    AuthenticationResult.UNKNOWN_USER_ID: SeError.UNKNOWN_USER_ID,
                    AuthenticationResult.INCORRECT_PIN: SeError.INCORRECT_PIN,
                    AuthenticationResult.PIN_BLOCKED: SeError.PIN_BLOCKED,
                }[result]
                raise SeApiError(error, f"{user_id} was not logged in.", remaining_retries=remaining)
            self._user = UserId(user_id)
            self._signed("authenticateUser", None)

    def authenticate_sma_admin(self, pin: str) -> bool:
        """Check the PIN of the security module application's administrator, who may do nothing here."""
        with self._function("authenticateSmaAdmin"):
            user = UserId.SMA_ADMIN.value
            succeeded = self._access.authenticate(user, pin) is AuthenticationResult.SUCCESS
            event = self.tse.events.authenticate_sma_admin(user, succeeded, self._access.retries(user))
            self.tse.write_event(event, user=user)
            return succeeded

    def log_out(self) -> None:
        """Log the user out."""
        with self._function("logOut"):
            self._end_session(LogOutCause.USER_CALLED)
            self._signed("logOut", None)

    def unblock_pin(self, user_id: str, puk: str, new_pin: str) -> None:
        """Set a PIN with the PUK (version 2: unblockUser). Logs out nobody.

        Raises UNKNOWN_USER_ID, INCORRECT_PUK, PUK_TEMPORARILY_BLOCKED, SETTING_NEW_PIN_FAILED.
        """
        with self._function("unblockPin"):
            if not pin_is_acceptable(new_pin):
                raise SeApiError(SeError.SETTING_NEW_PIN_FAILED, "A PIN has 5 to 64 characters.")
            if len(user_id) > MAX_CLIENT_ID_CHARACTERS:
                raise SeApiError(SeError.PARAMETER_TOO_LONG, "The user id is too long.")
            if not user_id.isascii() or not user_id.isalnum():
                raise SeApiError(SeError.PARAMETER_SYNTAX, "The user id is no text of letters and digits.")
            moment = (self.tse.now() - UNIX_EPOCH_TICKS) // TICKS_PER_MILLISECOND
            result = self._access.unblock(user_id, puk, new_pin, moment)
            self.tse.write_event(self.tse.events.unblock(user_id, result), user=user_id)
            if result is not UnblockResult.SUCCESS:
                error = {
                    UnblockResult.UNKNOWN_USER_ID: SeError.UNKNOWN_USER_ID,
                    UnblockResult.INCORRECT_PUK: SeError.INCORRECT_PUK,
                    UnblockResult.TEMPORARILY_BLOCKED: SeError.PUK_TEMPORARILY_BLOCKED,
                }[result]
                raise SeApiError(error, f"The PIN of {user_id} was not set.")
            self._signed("unblockPin", None)

    # ---- life -----------------------------------------------------------------------------------

    def initialize(self, description: str | None = None) -> None:
        """Initialise the TSE, once. ``description`` goes with version 2 (else the manufacturer's)."""
        with self._function("initialize"):
            if self.tse.state is not TseStates.UNINITIALIZED:
                raise SeApiError(SeError.DEVICE_IS_INITIALIZED, "The TSE has been initialised before.")
            if description is not None and not self._v2:
                raise SeApiError(SeError.PARAMETER_MISMATCH, "Version 3 has setDescription.")
            text = _description(description or "")
            self.tse.write_event(self.tse.events.start_audit(), user=None)
            self.tse.write_event(
                self.tse.events.initialize(text), records.OP_INITIALIZE, subject=text, user=self._user
            )
            self._signed("initialize", None)

    def set_description(self, description: str) -> None:
        """Describe the device in at most 64 characters (version 3)."""
        with self._function("setDescription"):
            if self._v2:
                raise SeApiError(SeError.FUNCTION_NOT_SUPPORTED, "Version 2 is described by initialize.")
            text = _description(description)
            event = self.tse.events.set_description(text)
            self._unless_full()
            self.tse.write_event(event, records.OP_DESCRIBE, subject=text, user=self._user)
            self._signed("setDescription", None)

    def get_description(self) -> str:
        """The description, empty if there is none."""
        with self._function("getDescription"):
            return self.tse.device_description

    def disable_secure_element(self) -> None:
        """End the life of the TSE: it is logged, and nothing is signed any more."""
        with self._function("disableSecureElement"):
            self._unless_full()
            unix_ms = self.tse.now_ms()
            self.tse.write_event(
                self.tse.events.disable(unix_ms), records.OP_TERMINATE, user=self._user, unix_ms=unix_ms
            )
            self._user = None

    def stop_audit(self) -> None:
        """Stop the audit of the TSE, which is the end of it (TR-03153-1 §5.4): the same as to disable it."""
        with self._function("disableSecureElement"):
            unix_ms = self.tse.now_ms()
            self.tse.write_event(
                self.tse.events.disable(unix_ms), records.OP_TERMINATE, user=None, unix_ms=unix_ms
            )
            self._user = None

    def self_test(self) -> list[SelfTestResult]:
        """Test the TSE and log what was found. Raises SELF_TEST_FAILED with the results."""
        with self._function("selfTest"):
            results = self.tse.run_self_test(user=self._user, log_success=True)
            if not all(result.passed for result in results):
                raise SeApiError(SeError.SELF_TEST_FAILED, "The TSE is in the secure state.", result=results)
            return self._signed("selfTest", results)

    def lock_transaction_logging(self) -> None:
        """Refuse transactions until they are unlocked. Raises OPEN_TRANSACTION_FOUND."""
        with self._function("lockTransactionLogging"):
            if self.tse.open_transactions:
                raise SeApiError(SeError.OPEN_TRANSACTION_FOUND, "There are open transactions.")
            self._unless_full()
            event = self.tse.events.lock_transaction_logging(self._user or "")
            self.tse.write_event(event, records.OP_LOCK, user=self._user)
            self._signed("lockTransactionLogging", None)

    def unlock_transaction_logging(self) -> None:
        """Allow transactions again. Raises TRANSACTION_LOGGING_NOT_LOCKED."""
        with self._function("unlockTransactionLogging"):
            if not self.tse.locked:
                raise SeApiError(SeError.TRANSACTION_LOGGING_NOT_LOCKED, "Transactions are not locked.")
            self._unless_full()
            event = self.tse.events.unlock_transaction_logging(self._user or "")
            self.tse.write_event(event, records.OP_UNLOCK, user=self._user)
            self._signed("unlockTransactionLogging", None)

    def _unless_full(self) -> None:
        if self.tse.memory_is_full:
            raise SeApiError(SeError.STORAGE_MEMORY_FULL, "The memory of the TSE is full.")

    def update_device(self) -> None:
        """Not offered: this software is updated with its package."""
        with self._function("updateDevice"):
            raise SeApiError(SeError.FUNCTION_NOT_SUPPORTED, "updateDevice is not offered.")

    def restore_logs_from_backup(self, archive: bytes) -> None:
        """Not offered: a folder is restored as a whole."""
        with self._function("restoreLogsFromBackup"):
            raise SeApiError(SeError.FUNCTION_NOT_SUPPORTED, "restoreLogsFromBackup is not offered.")

    # ---- time -----------------------------------------------------------------------------------

    @property
    def time_sync_variant(self) -> TimeSyncVariant:
        if self._clock is None:
            return TimeSyncVariant.NO_INPUT
        return {
            TimeFormat.UNIX: TimeSyncVariant.UNIX_TIME,
            TimeFormat.UTC: TimeSyncVariant.UTC_TIME,
        }.get(self.tse.time_format, TimeSyncVariant.GENERALIZED_TIME)

    def get_time_sync_variant(self) -> TimeSyncVariant:
        with self._function("getTimeSyncVariant"):
            return self.time_sync_variant

    def get_current_se_time(self) -> int:
        """The time of the TSE. Raises TIME_NOT_SET."""
        with self._function("getCurrentSeTime"):
            return self.tse.now()

    def update_time(self, moment: int | None = None) -> None:
        """Set the time, or let the TSE take its host's if that is its variant.

        Raises INVALID_TIME for a moment that log messages cannot hold, UNSUPPORTED_TIME_SYNC_VARIANT.
        """
        with self._function("updateTime"):
            if (moment is None) is (self._clock is not None):
                raise SeApiError(
                    SeError.UNSUPPORTED_TIME_SYNC_VARIANT,
                    f"This TSE has the variant {self.time_sync_variant}.",
                )
            if moment is not None and self._clock is not None:
                last = _LAST_UTC_TIME if self.tse.time_format is TimeFormat.UTC else _LAST_MOMENT
                if not _FIRST_MOMENT <= moment < last:
                    raise SeApiError(SeError.INVALID_TIME, "The time cannot be written into a log message.")
                before = self.tse.now_ms()
                previous = self._clock.set(moment)
                try:
                    self.tse.update_time(user=self._user, before_ms=before)
                except BaseException:
                    self._clock.put_back(previous)
                    raise
            else:
                self.tse.update_time(user=self._user)
            self._signed("updateTime", None)

    # ---- clients --------------------------------------------------------------------------------

    def register_client(self, client_id: str) -> None:
        """Raises CLIENT_ALREADY_REGISTERED, CLIENT_LIMIT_REACHED, INVALID_CLIENT_ID_CHARACTER."""
        with self._function("registerClient"):
            self._check_length(client_id)
            self.tse.validate_client_id(client_id)
            if client_id in self.tse.clients:
                raise SeApiError(SeError.CLIENT_ALREADY_REGISTERED, f"{client_id} is registered.")
            self.tse.register(client_id, None, user=self._user)
            self._signed("registerClient", None)

    def deregister_client(self, client_id: str) -> None:
        """Raises CLIENT_NOT_REGISTERED, and DEREGISTER_CLIENT_FAILED while it has open transactions."""
        with self._function("deregisterClient"):
            self._check_length(client_id)
            if client_id not in self.tse.clients:
                raise SeApiError(SeError.CLIENT_NOT_REGISTERED, f"{client_id} is not registered.")
            self.tse.unregister(client_id, None, user=self._user)
            self._signed("deregisterClient", None)

    @staticmethod
    def _check_length(client_id: str) -> None:
        if len(client_id) > MAX_CLIENT_ID_CHARACTERS:
            raise SeApiError(SeError.PARAMETER_TOO_LONG, "A client id has at most 64 characters.")

    def get_registered_clients(self) -> list[str]:
        with self._function("getRegisteredClients"):
            return list(self.tse.clients)

    def get_current_number_of_clients(self) -> int:
        with self._function("getCurrentNumberOfClients"):
            return len(self.tse.clients)

    def get_max_number_of_clients(self) -> int:
        with self._function("getMaxNumberOfClients"):
            return self.tse.info(None).max_number_of_clients

    # ---- transactions ---------------------------------------------------------------------------

    def start_transaction(
        self,
        client_id: str,
        process_data: bytes = b"",
        process_type: str = "",
        additional: bytes | None = None,
    ) -> Signed:
        """Begin a transaction. Raises LIMIT_OF_OPEN_TRANSACTIONS and as every transaction call."""
        return self._transaction(
            "startTransaction", "start", client_id, 0, process_data, process_type, additional
        )

    def update_transaction(
        self,
        client_id: str,
        number: int,
        process_data: bytes,
        process_type: str = "",
        *,
        force_signature: bool = False,
    ) -> Signed:
        """Go on with a transaction. A TSE that signs every update has nothing to force.

        The answer of one that keeps updates for later has signatureCounter 0.
        """
        return self._transaction(
            "updateTransaction",
            "update",
            client_id,
            number,
            process_data,
            process_type,
            force=force_signature,
        )

    def finish_transaction(
        self, client_id: str, number: int, process_data: bytes, process_type: str = ""
    ) -> Signed:
        """End a transaction. Raises TRANSACTION_NUMBER_NOT_FOUND (version 2: NoTransaction)."""
        return self._transaction("finishTransaction", "finish", client_id, number, process_data, process_type)

    def _transaction(
        self,
        name: str,
        op: Op,
        client_id: str,
        number: int,
        process_data: bytes,
        process_type: str,
        additional: bytes | None = None,
        *,
        force: bool = False,
    ) -> Signed:
        with self._function(name):
            if len(process_type) > MAX_PROCESS_TYPE_CHARACTERS:
                raise SeApiError(SeError.PARAMETER_TOO_LONG, "processType has more than 100 characters.")
            if not process_type.isascii():
                raise SeApiError(SeError.PARAMETER_SYNTAX, "processType is no PrintableString.")
            call = Call(op, client_id, number, process_type, process_data, "")
            if op == "start":
                signed = self.tse.start(call, None, additional)
            elif op == "update":
                signed = self.tse.update(call, None)
                if force:
                    signed = self.tse.flush(number) or signed
            else:
                signed = self.tse.finish(call, None)
            return self._signed(name, signed)

    def get_supported_transaction_update_variants(self) -> str:
        """``signed``, or ``unsigned`` if updates are kept until they must be signed."""
        with self._function("getSupportedTransactionUpdateVariants"):
            return self.tse.update_variant

    def get_open_transactions(self) -> list[int]:
        with self._function("getOpenTransactions"):
            return list(self.tse.open_transactions)

    def get_current_number_of_transactions(self) -> int:
        with self._function("getCurrentNumberOfTransactions"):
            return len(self.tse.open_transactions)

    def get_max_number_of_transactions(self) -> int:
        with self._function("getMaxNumberOfTransactions"):
            return self.tse.info(None).max_number_of_started_transactions

    def get_current_transaction_counter(self) -> int:
        """The number of the last transaction, 0 before the first."""
        with self._function("getCurrentTransactionCounter"):
            return self.tse.transaction_counter

    def get_transaction_state(self, number: int) -> TransactionState:
        """Raises TRANSACTION_NUMBER_NOT_FOUND, also for one whose logs have been deleted."""
        with self._function("getTransactionState"):
            if number in self.tse.open_transactions:
                last = self.tse.last_record(number)
                updated = last is not None and last.op == records.OP_UPDATE
                return TransactionState.UPDATED if updated else TransactionState.STARTED
            if self.tse.last_record(number) is None:
                raise SeApiError(SeError.TRANSACTION_NUMBER_NOT_FOUND, f"There is no transaction {number}.")
            return TransactionState.FINISHED

    # ---- logs -----------------------------------------------------------------------------------

    def export_log_messages(self, out: Sink) -> Export:
        """Write everything to ``out``. Version 3 raises NO_DATA_AVAILABLE if there is nothing."""
        with self._function("exportLogMessages"):
            if not self._v2 and self.tse.count(Selection(), 1) == 0:
                raise SeApiError(SeError.NO_DATA_AVAILABLE, "The TSE holds no log messages.")
            last_counter = self.tse.export(Selection(), out, contextlib.nullcontext)
            self._exported = max(self._exported, last_counter)
            return Export(self._file_name("Export"), last_counter)

    def export_filtered_transaction_logs(
        self,
        out: Sink,
        *,
        client_id: str | None = None,
        number: int | None = None,
        first_number: int | None = None,
        last_number: int | None = None,
        first_time: int | None = None,
        last_time: int | None = None,
        max_records: int = 0,
    ) -> Export:
        """Write a part to ``out`` (version 2: exportData with filters); all limits are inclusive, 0 is none.

        Raises PARAMETER_MISMATCH, TRANSACTION_NUMBER_NOT_FOUND, CLIENT_ID_NOT_FOUND, NO_DATA_AVAILABLE and
        TOO_MANY_RECORDS, in this order.
        """
        with self._function("exportFilteredTransactionLogs"):
            by_number = number is not None or first_number is not None or last_number is not None
            by_time = first_time is not None or last_time is not None
            one_sided = (first_number is None) is not (last_number is None)
            reversed_limits = (
                first_number is not None and last_number is not None and first_number > last_number
            ) or (first_time is not None and last_time is not None and first_time > last_time)
            if (
                (by_number and by_time)
                or one_sided
                or reversed_limits
                or (number is not None and first_number is not None)
                or max_records < 0
                or not (by_number or by_time or client_id is not None)
            ):
                raise SeApiError(SeError.PARAMETER_MISMATCH, "These filters do not go together.")
            if number is not None:
                first_number = last_number = number
            if (
                by_number
                and self.tse.count(Selection(first_number=first_number, last_number=last_number), 1) == 0
            ):
                raise SeApiError(SeError.TRANSACTION_NUMBER_NOT_FOUND, "There is no such transaction.")
            selection = Selection(
                client_id=client_id,
                first_number=first_number,
                last_number=last_number,
                first_time=first_time,
                last_time=last_time,
            )
            found = self.tse.count(selection, max_records + 1 if max_records else 1)
            if found == 0:
                if client_id is not None:
                    raise SeApiError(SeError.CLIENT_ID_NOT_FOUND, f"There are no logs of {client_id}.")
                raise SeApiError(SeError.NO_DATA_AVAILABLE, "There are no logs in this period.")
            if max_records and found > max_records:
                raise SeApiError(SeError.TOO_MANY_RECORDS, f"There are more than {max_records} records.")
            last_counter = self.tse.export(selection, out, contextlib.nullcontext)
            return Export(self._file_name("Export"), last_counter)

    def export_logging_certificates(self, out: Sink) -> str:
        """Write the certificates to ``out`` and nothing else; return the name for the file."""
        with self._function("exportLoggingCertificates"):
            tar = TarWriter(out, to_unix(self.tse.now()))
            for certificate, der in zip(self.tse.chain.certificates, self.tse.chain.der, strict=True):
                tar.add(certificate_name(certificate), der)
            tar.close()
            return self._file_name("CertificateExport")

    def _file_name(self, kind: str) -> str:
        moment = self.tse.now()
        if self.tse.time_format is TimeFormat.UNIX:
            return f"{kind}_Unixt_{to_unix(moment)}.tar"
        text = time.strftime("%Y%m%d%H%M%S", time.gmtime(to_unix(moment)))
        if self.tse.time_format is TimeFormat.UTC:
            return f"{kind}_Utc_{text[2:]}Z.tar"
        return f"{kind}_Gent_{text}Z.tar"

    def delete_log_messages(self) -> None:
        """Delete what was exported since this instance was made (version 2: deleteStoredData).

        Raises UNEXPORTED_LOG_MESSAGES if there is anything that was not, DELETE_LOG_MESSAGES_FAILED while
        transactions are open.
        """
        with self._function("deleteLogMessages"):
            if self.tse.counter > self._exported:
                raise SeApiError(SeError.UNEXPORTED_LOG_MESSAGES, "There are logs that were not exported.")
            self.tse.erase(self._exported, None, user=self._user or "")
            self._signed("deleteLogMessages", None)

    def export_serial_numbers(self) -> bytes:
        """The serial number and what it signs, in DER."""
        with self._function("exportSerialNumbers"):
            return serial_numbers(self.tse.description.log_version, self.tse.chain.serial)

    def get_current_logging_signature_counters(self) -> dict[bytes, int]:
        """The last signatureCounter of every key, by serial number."""
        with self._function("getCurrentLoggingSignatureCounters"):
            return {self.tse.chain.serial: self.tse.counter}

    def get_last_log_message(self) -> LastLogMessage:
        """Version 2: readLogMessage. Raises NO_LOG_MESSAGE_FOUND."""
        with self._function("getLastLogMessage"):
            return self._named(self.tse.last_record())

    def get_last_transaction_log_message(self, number: int | None = None) -> LastLogMessage:
        """The last message of a transaction, or of all. Raises NO_LOG_MESSAGE_FOUND."""
        with self._function("getLastTransactionLogMessage"):
            return self._named(self.tse.last_record(number, transactions_only=True))

    @staticmethod
    def _named(record: Record | None) -> LastLogMessage:
        if record is None:
            raise SeApiError(SeError.NO_LOG_MESSAGE_FOUND, "There is no such log message.")
        return LastLogMessage(build_file_name(parse(record.message)), record.message)

    # ---- what the device is ---------------------------------------------------------------------

    def get_total_memory(self) -> int:
        """Bytes, 2**63-1 if only the disk limits them."""
        with self._function("getTotalMemory"):
            return self.tse.info(None).max_log_memory_size

    def get_used_memory(self) -> int:
        with self._function("getUsedMemory"):
            return self.tse.info(None).current_log_memory_size

    def get_free_memory(self) -> int:
        with self._function("getFreeMemory"):
            info = self.tse.info(None)
            return max(0, info.max_log_memory_size - info.current_log_memory_size)

    def get_component_versions(self) -> tuple[Component, ...]:
        with self._function("getComponentVersions"):
            return COMPONENTS

    def get_end_of_usage_date(self) -> int:
        """The moment after which the certificate is not valid."""
        with self._function("getEndOfUsageDate"):
            return self.tse.valid_until

    def close(self) -> None:
        """Log the user out and close the TSE."""
        with self._lock:
            with contextlib.suppress(ScuError):
                self._end_session(LogOutCause.USER_CALLED)
            self.tse.close()


def _description(text: str) -> str:
    if len(text) > MAX_DESCRIPTION_CHARACTERS:
        raise SeApiError(SeError.PARAMETER_TOO_LONG, "A description has at most 64 characters.")
    if not text.isascii() or not text.isprintable():
        raise SeApiError(SeError.PARAMETER_SYNTAX, "A description consists of printable ASCII characters.")
    return text


def open_se_api(
    directory: str | os.PathLike[str],
    *,
    clock: Clock = now,
    told_the_time: bool = True,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
    monotonic: Callable[[], float] = time.monotonic,
    **options: object,
) -> SeApi:
    """Open the TSE in ``directory``, creating it if there is none, and give it users.

    ``told_the_time`` is a TSE whose clock is unset after every start; without it the TSE takes ``clock``.
    ``options`` are those of :class:`SoftwareTse`, whose errors this raises.
    """
    se_clock = SeClock(clock) if told_the_time else None
    tse = SoftwareTse(directory, clock=se_clock or clock, **options)  # type: ignore[arg-type]
    try:
        access = Access.create(tse.directory)
        return SeApi(tse, access, clock=se_clock, idle_timeout_s=idle_timeout_s, monotonic=monotonic)
    except BaseException:
        tse.close()
        raise
