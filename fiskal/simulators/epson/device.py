"""One simulated Epson TSE: its state, its users, its functions. NOT CERTIFIED.

It signs with the software TSE, so its log is genuine TR-03151 on the family's curve. What the vendor's documents leave
open, above all which of two refusals comes first, is decided here in one place: :meth:`Device.execute`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import msgspec

from fiskal.clock import TICKS_PER_SECOND, UNIX_EPOCH_TICKS, Clock, from_unix, now, to_unix
from fiskal.files import write_atomically
from fiskal.scu.contract import TseStates
from fiskal.scu.driver import Call, Op, Selection
from fiskal.scu.errors import ScuError
from fiskal.scu.software import log as records
from fiskal.scu.software.se_api import SeClock
from fiskal.scu.software.tse import SoftwareTse
from fiskal.simulators.plan import Fault
from fiskal.tse.encode_events import AuthenticationResult, LogOutCause, Role, UnblockResult

ADMINISTRATOR: Final = "Administrator"
OK: Final = "EXECUTION_OK"
DESCRIPTION: Final = "BSI-K-TR-0373"
SECTOR: Final = 512
PIN_RETRIES: Final = 3
SELF_TEST_S: Final = 90_000.0
ADMIN_IDLE_S: Final = 900.0
TIME_ADMIN_IDLE_S: Final = 28_800.0
MAX_CLIENT_ID_CHARACTERS: Final = 30
MAX_REQUEST_BYTES: Final = 65_536
MAX_CHALLENGES: Final = 32
MAX_TIME_ADMINS: Final = 100

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_RESERVED: Final = "EPSON"

Output = dict[str, Any]


class Refused(Exception):
    """A function that answers something else than EXECUTION_OK."""

    def __init__(self, code: str, output: Output | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.output = output or {}


class Kept(msgspec.Struct):
    """What a device remembers without power, beside what its log says."""

    puk: str = "123456"
    admin_pin: str = ""
    time_admin_pin: str = ""
    secret: str = "EPSONKEY"
    retries: dict[str, int] = msgspec.field(
        default_factory=lambda: dict.fromkeys(("admin", "time", "puk"), 3)
    )
    hosts: list[str] = []
    """The hosts that have set it up."""
    exports_if_csp_fails: bool = False
    last_export: str = "No Last Export Information"


class _Export:
    """An export that was begun: the whole archive, and how far it was read."""

    def __init__(self, file: IO[bytes], size: int, selection: Selection, last_counter: int) -> None:
        self.file = file
        self.size = size
        self.selection = selection
        self.last_counter = last_counter
        self.text = ""
        """What is encoded and not yet sent, when pieces are cut oddly."""
        self.complete = False
        self.user_left = False


class _DeviceClock(SeClock):
    """The device's time; while an archive is made it stands still, so that two archives of one log are alike."""

    def __init__(self, host: Clock) -> None:
        super().__init__(host)
        self.archiving: int | None = None

    def __call__(self) -> int:
        return super().__call__() if self.archiving is None else self.archiving


class _Function(NamedTuple):
    run: Callable[[Device, Output], Output]
    role: str
    """``""``, ``host``, ``admin``, ``client`` (the TimeAdmin that the call names) or ``time`` (that or the Admin)."""
    given: Mapping[str, type[Any]]


class Device:
    """One TSE behind ``device_id``. Thread-safe: one function at a time.

    ``host`` names the computer, printer or server it is put into. ``signs`` are options of
    :class:`SoftwareTse`. ``clock`` is the host's, ``monotonic`` measures how long somebody is logged in.
    """

    def __init__(
        self,
        folder: Path,
        device_id: str,
        *,
        host: str = "fiskal-simulator",
        tests_itself: bool = False,
        development: bool = True,
        export_chunk_bytes: int = 30_000,
        incomplete: str = "EXPORT_INCOMPLETE",
        exports_when_disabled: bool = False,
        clock: Clock = now,
        monotonic: Callable[[], float] = time.monotonic,
        capacity_sectors: int = 13_631_488,
        max_clients: int = 100,
        max_open_transactions: int = 512,
        max_signatures: int = 20_000_000,
        curve: str = "brainpoolP384r1",
        durable: bool = False,
    ) -> None:
        self.folder = folder
        self.device_id = device_id
        self.host = host
        self.lock = threading.RLock()
        """Held while a function is executed."""
        self.owner: str | None = None
        """The connection that has opened the device; the server's business."""
        self.present = True
        self._tests_itself = tests_itself
        self._development = development
        self._chunk = export_chunk_bytes
        self._incomplete = incomplete
        self._exports_when_disabled = exports_when_disabled
        self._monotonic = monotonic
        self._capacity_sectors = capacity_sectors
        self._clock = _DeviceClock(clock)
        self._options: dict[str, Any] = {
            "curve": curve,
            "durable": durable,
            "max_clients": max_clients,
            "max_open_transactions": max_open_transactions,
            "max_signatures": max_signatures,
            "max_log_memory_bytes": capacity_sectors * SECTOR,
        }
        self._last: dict[str, Output] = {}
        self._export: _Export | None = None
        self._shift = 0
        self._odd = False
        self._insert()

    def _insert(self) -> None:
        self.tse = SoftwareTse(self.folder, clock=self._clock, **self._options)
        self._clock.stand_at(self.tse.created)
        path = self.folder / "device.json"
        self.kept = msgspec.json.decode(path.read_bytes(), type=Kept) if path.exists() else Kept()
        self.power_cycle()

    def _keep(self) -> None:
        write_atomically(self.folder / "device.json", msgspec.json.encode(self.kept), 0o600)

    def close(self) -> None:
        with self.lock:
            self._end_export()
            self.tse.close()

    # ---- what happens to it -------------------------------------------------------------------

    def power_cycle(self) -> None:
        """Power is lost and comes back: time, self test, log-ins and exports are gone."""
        with self.lock:
            self._end_export()
            self._clock.put_back(None)
            self._clock.stand_at(self.tse.created)
            self._challenges: dict[str, str] = {}
            self._hosts: set[str] = set()
            self._admin_until: float | None = None
            self._time_admins: dict[str, float] = {}
            self._tested = False
            self._probed = False
            """A self test ran, but this host has not set the device up."""
            self._test_due = 0.0
            if self._tests_itself:
                with contextlib.suppress(Refused):
                    self._self_test("")

    def log_everybody_out(self) -> None:
        with self.lock:
            self._admin_until = None
            self._time_admins.clear()
            self._hosts.clear()
            if self._export is not None:
                self._export.user_left = True

    def disturb(self, fault: Fault) -> None:
        """Let something happen to the device before the next function."""
        with self.lock:
            if fault.kind == "power_cycle":
                self.power_cycle()
            elif fault.kind == "idle_logout":
                self.log_everybody_out()
            elif fault.kind == "self_test_expired":
                self._test_due = self._monotonic()
            elif fault.kind == "time_unset":
                self._clock.put_back(None)
            elif fault.kind == "foreign_host":
                self.kept.hosts = [host for host in self.kept.hosts if host != self.host]
                self._keep()
                self._tested = self._probed = False
            elif fault.kind in ("unplug", "plug"):
                self.present = fault.kind == "plug"
                if self.present:
                    self.power_cycle()
            elif fault.kind == "export_stuck":
                if self._export is None:
                    self._begin(Selection())
            elif fault.kind == "export_shifts":
                self._shift += 1
            elif fault.kind == "odd_chunks":
                self._odd = True

    # ---- functions ----------------------------------------------------------------------------

    def execute(self, text: bytes, fault: Fault | None = None) -> tuple[str, str, Output]:
        """Execute one request (JSON); return result, function and output."""
        with self.lock:
            name = ""
            try:
                request = self._parse(text)
                name = request["function"]
                function = _FUNCTIONS[name]
                given = self._given(function, request["input"])
                kind = "" if fault is None else fault.kind
                self._check(name, function, given)
                return OK, name, self._run(function, given, kind, fault)
            except Refused as refused:
                return refused.code, name, refused.output
            except ScuError as error:
                return _TRANSLATED.get(error.code, "TSE1_ERROR_UNKNOWN"), name, {}

    def _run(self, function: _Function, given: Output, kind: str, fault: Fault | None) -> Output:
        code = _REFUSALS.get(kind)
        if code is not None:
            raise Refused(code)
        if kind in ("wrong_pin", "pin_blocked", "wrong_secret"):
            given = {**given, "fault": kind}
        elif kind == "self_test_fail" and fault is not None:
            given = {**given, "fault": str(fault.value or "FW")}
        return function.run(self, given)

    @staticmethod
    def _parse(text: bytes) -> Output:
        if len(text) > MAX_REQUEST_BYTES:
            raise Refused("JSON_ERROR_OVER_DATA_SIZE")
        try:
            request = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused("JSON_ERROR_WRONG_JSON_FORMAT") from error
        if not isinstance(request, dict):
            raise Refused("JSON_ERROR_WRONG_JSON_FORMAT")
        for name, type_ in (("storage", dict), ("function", str), ("compress", dict), ("input", dict)):
            if name not in request:
                raise Refused("JSON_ERROR_NOT_ENOUGH_CONTENTS")
            if not isinstance(request[name], type_):
                raise Refused("JSON_ERROR_UNEXPECTED_PARAM_TYPE")
        storage = request["storage"]
        if storage.get("type") not in ("TSE", "COMMON"):
            raise Refused("JSON_ERROR_UNEXPECTED_STORAGE_TYPE")
        if storage["type"] == "TSE" and storage.get("vendor") != "TSE1":
            raise Refused("JSON_ERROR_UNEXPECTED_STORAGE_VENDOR")
        if request["compress"].get("required") is not False:
            raise Refused("JSON_ERROR_UNEXPECTED_COMPRESSION_TYPE")
        if request["function"] not in _FUNCTIONS:
            raise Refused("JSON_ERROR_UNEXPECTED_FUNCTION")
        return request

    @staticmethod
    def _given(function: _Function, given: Output) -> Output:
        for name, type_ in function.given.items():
            if name not in given:
                raise Refused("JSON_ERROR_NOT_ENOUGH_CONTENTS")
            value: Any = given[name]
            if not isinstance(value, type_) or (type_ is int and isinstance(value, bool)):
                raise Refused("JSON_ERROR_UNEXPECTED_PARAM_TYPE")
            limits = _LENGTHS.get(name)
            if limits is not None and not limits[0] <= len(value) <= limits[1]:
                raise Refused("JSON_ERROR_INVALID_PARAMETER_RANGE")
            if name in ("processData", "additionalData"):
                try:
                    binascii.a2b_base64(value, strict_mode=True)
                except ValueError as error:
                    raise Refused("JSON_ERROR_INVALID_PARAMETER") from error
            if name in ("newDateTime", "startDate", "endDate"):
                _ticks(value)
        return given

    def _check(self, name: str, function: _Function, given: Output) -> None:
        """Refuse what cannot be done now; the order of the refusals is the simulator's."""
        if not self.present:
            raise Refused("TSE1_ERROR_NO_TSE")
        self._log_out_the_idle()
        if self._export is not None and name not in _WHILE_EXPORTING:
            raise Refused("OTHER_ERROR_CURRENTLY_EXPORTING")
        passed = self._tested and self._monotonic() < self._test_due
        if not passed and name not in _WITHOUT_SELF_TEST and not (self._probed and name in _TO_SET_UP):
            raise Refused("TSE1_ERROR_WRONG_STATE_NEEDS_SELF_TEST")
        state = self.tse.state
        if state is TseStates.TERMINATED:
            code = _TERMINATED.get(name)
            if code is not None and not (self._exports_when_disabled and name in _TO_EXPORT):
                raise Refused(code)
        elif state is TseStates.UNINITIALIZED and name not in _UNINITIALIZED:
            raise Refused(
                "TSE1_ERROR_WRONG_STATE_NEEDS_PUK_CHANGE"
                if name.startswith(("Authenticate", "Unblock"))
                else "TSE1_ERROR_TSE_NOT_INITIALIZED"
            )
        if self.tse.locked and name not in _WHILE_LOCKED:
            raise Refused("TSE1_ERROR_WRONG_STATE_NEEDS_TSE_UNLOCK")
        self._check_role(function.role, given)
        if name in _NEEDS_TIME and not self._clock.is_set:
            raise Refused(
                "TSE1_ERROR_NO_TIME_SET"
                if name
                in ("StartTransaction", "UpdateTransaction", "FinishTransaction", "DisableSecureElement")
                else "OTHER_ERROR_NO_TIME_SET_BEFORE_EXPORT"
            )

    def _check_role(self, role: str, given: Output) -> None:
        moment = self._monotonic()
        if role == "host" and given.get("userId") not in self._hosts:
            raise Refused("OTHER_ERROR_UNAUTHENTICATED_HOST")
        if role == "admin":
            if self._admin_until is None:
                raise Refused("OTHER_ERROR_UNAUTHENTICATED_ADMIN_USER")
            self._admin_until = moment + ADMIN_IDLE_S
        if role in ("client", "time"):
            user = given.get("clientId", given.get("userId"))
            if role == "time" and user == ADMINISTRATOR and self._admin_until is not None:
                self._admin_until = moment + ADMIN_IDLE_S
            elif user in self._time_admins:
                self._time_admins[user] = moment + TIME_ADMIN_IDLE_S
            else:
                raise Refused("OTHER_ERROR_UNAUTHENTICATED_TIME_ADMIN_USER")

    def _log_out_the_idle(self) -> None:
        moment = self._monotonic()
        if self._admin_until is not None and moment > self._admin_until:
            self._log_out_admin(LogOutCause.TIMEOUT)
        for client_id in [name for name, until in self._time_admins.items() if moment > until]:
            self._log_out_client(client_id, LogOutCause.TIMEOUT)

    # ---- what it is ---------------------------------------------------------------------------

    def _storage_info(self, _: Output) -> Output:
        tse, info = self.tse, self.tse.info(None)
        left = max(0, self._test_due - self._monotonic()) if self._tested else 0.0
        state = {TseStates.UNINITIALIZED: "UNINITIALIZED", TseStates.INITIALIZED: "INITIALIZED"}
        used = -(-info.current_log_memory_size // SECTOR)
        healthy = {"healthStatus": "PASS"}
        return {
            "smartInformation": {
                "tseHealth": "PASS",
                "isReplacementNeeded": False,
                "remainingTenYearsDataRetention": 100,
                "dataIntegrity": {**healthy, "uncorrectableECCErrors": 0},
                "eraseLifetimeStatus": {**healthy, "remainingEraseCounts": 100},
                "spareBlockStatus": {**healthy, "remainingSpareBlocks": 100},
            },
            "tseInformation": {
                "vendorType": "TSE1",
                "tseInitializationState": state.get(info.current_state, "DECOMMISSIONED"),
                "serialNumber": base64.b64encode(tse.chain.serial).decode(),
                "tsePublicKey": info.public_key_base64,
                "signatureAlgorithm": info.signature_algorithm,
                "tseDescription": DESCRIPTION,
                "tseCapacity": self._capacity_sectors,
                "tseCurrentSize": min(used, self._capacity_sectors),
                "maxRegisteredClients": info.max_number_of_clients,
                "registeredClients": info.current_number_of_clients,
                "maxStartedTransactions": info.max_number_of_started_transactions,
                "startedTransactions": info.current_number_of_started_transactions,
                "maxSignatures": info.max_number_of_signatures,
                "createdSignatures": tse.counter,
                "remainingSignatures": info.max_number_of_signatures - tse.counter,
                "softwareVersion": 65_792,
                "hardwareVersion": 65_540,
                "hasValidTime": self._clock.is_set,
                "hasPassedSelfTest": self._tested and left > 0,
                "timeUntilNextSelfTest": int(left),
                "maxUpdateDelay": 45,
                "isTSEUnlocked": not tse.locked and info.current_state is TseStates.INITIALIZED,
                "isTransactionInProgress": bool(tse.open_transactions),
                "isExportEnabledIfCspTestFails": self.kept.exports_if_csp_fails,
                "tarExportSize": info.current_log_memory_size,
                "certificateExpirationDate": _text(tse.valid_until),
                "cdcId": f"U228111A9E{tse.chain.serial.hex()[:8].upper()}",
                "cdcHash": hashlib.sha256(tse.chain.der[0]).hexdigest(),
                "lastExportExecutedDate": self.kept.last_export,
            },
        }

    def _certificate(self, _: Output) -> Output:
        return {"logMessageCertificate": base64.b64encode(self.tse.chain.pem).decode()}

    # ---- its life -----------------------------------------------------------------------------

    def _internal_client(self) -> str:
        return _RESERVED + hashlib.sha256(self.host.encode()).hexdigest()[:8].upper()

    def _set_up(self, given: Output) -> Output:
        if self.tse.state is TseStates.INITIALIZED:
            raise Refused("OTHER_ERROR_TSE_ALREADY_SET_UP")
        self.kept.puk = given["puk"]
        self.kept.admin_pin = given["adminPin"]
        self.kept.time_admin_pin = given["timeAdminPin"]
        self.kept.retries = dict.fromkeys(self.kept.retries, PIN_RETRIES)
        self.kept.hosts = [self.host]
        self._keep()
        self.tse.write_event(self.tse.events.start_audit(), user=None)
        self.tse.write_event(
            self.tse.events.initialize(DESCRIPTION),
            records.OP_INITIALIZE,
            subject=DESCRIPTION,
            user=ADMINISTRATOR,
        )
        self.tse.register(self._internal_client(), None, user=ADMINISTRATOR)
        return {}

    def _set_up_for_printer(self, _: Output) -> Output:
        self.tse.register(self._internal_client(), None, user=ADMINISTRATOR)
        if self.host not in self.kept.hosts:
            self.kept.hosts.append(self.host)
            self._keep()
        return {}

    def _self_test(self, failing: str) -> Output:
        self._tested = self._probed = False
        if failing:
            raise Refused(f"TSE1_ERROR_SELF_TEST_FAILED_{failing}")
        if self.tse.state is TseStates.INITIALIZED:
            if self.host not in self.kept.hosts:
                self._probed = True
                raise Refused("TSE1_ERROR_CLIENT_NOT_REGISTERED")
            if not all(result.passed for result in self.tse.run_self_test(log_success=True)):
                raise Refused("TSE1_ERROR_SELF_TEST_FAILED_CSP")
        self._tested = True
        self._test_due = self._monotonic() + SELF_TEST_S
        if self.tse.state is TseStates.UNINITIALIZED:
            raise Refused("TSE1_ERROR_CLIENT_NOT_REGISTERED")
        return {}

    def _run_self_test(self, given: Output) -> Output:
        return self._self_test(given.get("fault", ""))

    def _disable(self, _: Output) -> Output:
        if self.tse.open_transactions:
            raise Refused("TSE1_ERROR_TSE_HAS_UNFINISHED_TRANSACTIONS")
        unix_ms = self.tse.now_ms()
        self.tse.write_event(
            self.tse.events.disable(unix_ms), records.OP_TERMINATE, user=ADMINISTRATOR, unix_ms=unix_ms
        )
        return {}

    def _factory_reset(self, _: Output) -> Output:
        if not self._development:
            raise Refused("TSE1_ERROR_CMD_NOT_ALLOWED")
        self._end_export()
        self.tse.close()
        for name in ("messages.log", "checkpoint", "tse.json", "key.pem", "chain.pem", "device.json"):
            (self.folder / name).unlink(missing_ok=True)
        self._insert()
        return {}

    def _lock(self, _: Output) -> Output:
        if not self.tse.locked:
            event = self.tse.events.lock_transaction_logging(ADMINISTRATOR)
            self.tse.write_event(event, records.OP_LOCK, user=ADMINISTRATOR)
        return {}

    def _unlock(self, _: Output) -> Output:
        if self.tse.locked:
            event = self.tse.events.unlock_transaction_logging(ADMINISTRATOR)
            self.tse.write_event(event, records.OP_UNLOCK, user=ADMINISTRATOR)
        return {}

    def _allow_exports(self, allowed: bool) -> Output:
        self.kept.exports_if_csp_fails = allowed
        self._keep()
        return {}

    def _update_time(self, given: Output) -> Output:
        moment = _ticks(given["newDateTime"])
        before_ms = self.tse.now_ms()
        previous = self._clock.set(moment)
        try:
            self.tse.update_time(user=given["userId"], before_ms=before_ms)
        except BaseException:
            self._clock.put_back(previous)
            raise
        return {}

    def _register_secret(self, given: Output) -> Output:
        self.kept.secret = given["secretKey"]
        self._keep()
        return {}

    # ---- users --------------------------------------------------------------------------------

    def _challenge(self, given: Output) -> Output:
        if len(self._challenges) >= MAX_CHALLENGES and given["userId"] not in self._challenges:
            raise Refused("OTHER_ERROR_TOO_MANY_CHALLENGE_REQUESTED")
        challenge = self._challenges[given["userId"]] = secrets.token_hex(16).upper()
        return {"challenge": challenge}

    def _prove_host(self, user: str, given: Output) -> None:
        challenge = self._challenges.pop(user, None)
        if challenge is None or given.get("fault") == "wrong_secret":
            raise Refused("OTHER_ERROR_HOST_AUTHENTICATION_FAILED")
        expected = base64.b64encode(hashlib.sha256((challenge + self.kept.secret).encode()).digest())
        if not hmac.compare_digest(expected, given["hash"].encode("utf-8", "surrogatepass")):
            raise Refused("OTHER_ERROR_HOST_AUTHENTICATION_FAILED")

    def _prove_pin(self, whose: str, user: str, right: str, tried: str, given: Output) -> Output:
        """Compare a PIN and count; every try is logged."""
        retries = self.kept.retries
        if given.get("fault") == "pin_blocked":
            retries[whose] = 0
        role = Role.ADMIN if whose == "admin" else Role.TIME_ADMIN
        if retries[whose] == 0:
            self._keep()
            event = self.tse.events.authenticate_user(user, role, AuthenticationResult.PIN_BLOCKED, 0)
            self.tse.write_event(event, user=user)
            raise Refused("TSE1_ERROR_AUTHENTICATION_PIN_BLOCKED", {"remainingRetries": 0})
        wrong = tried != right or given.get("fault") == "wrong_pin"
        if wrong or retries[whose] != PIN_RETRIES:
            retries[whose] = retries[whose] - 1 if wrong else PIN_RETRIES
            self._keep()
        result = AuthenticationResult.INCORRECT_PIN if wrong else AuthenticationResult.SUCCESS
        if self.tse.state is TseStates.INITIALIZED:
            event = self.tse.events.authenticate_user(user, role, result, retries[whose])
            self.tse.write_event(event, user=user)
        output = {"remainingRetries": retries[whose]}
        if wrong:
            raise Refused("TSE1_ERROR_AUTHENTICATION_FAILED", output)
        return output

    def _log_in_admin(self, given: Output) -> Output:
        if given["userId"] != ADMINISTRATOR:
            raise Refused("OTHER_ERROR_INVALID_ADMIN_USER_ID")
        self._prove_host(ADMINISTRATOR, given)
        output = self._prove_pin("admin", ADMINISTRATOR, self.kept.admin_pin, given["pin"], given)
        self._admin_until = self._monotonic() + ADMIN_IDLE_S
        if self._export is not None:
            self._export.user_left = False
        return output

    def _log_in_client(self, given: Output) -> Output:
        client_id = given["clientId"]
        self._prove_host(client_id, given)
        if len(self._time_admins) >= MAX_TIME_ADMINS and client_id not in self._time_admins:
            raise Refused("OTHER_ERROR_TOO_MANY_TIME_ADMIN_USER_LOGGED_IN")
        output = self._prove_pin("time", client_id, self.kept.time_admin_pin, given["pin"], given)
        self._time_admins[client_id] = self._monotonic() + TIME_ADMIN_IDLE_S
        return output

    def _log_out_admin(self, cause: LogOutCause) -> Output:
        self._admin_until = None
        if self._export is not None:
            self._export.user_left = True
        if self.tse.state is TseStates.INITIALIZED:
            self.tse.write_event(self.tse.events.log_out(ADMINISTRATOR, cause), user=ADMINISTRATOR)
        return {}

    def _log_out_client(self, client_id: str, cause: LogOutCause) -> Output:
        del self._time_admins[client_id]
        if self.tse.state is TseStates.INITIALIZED:
            self.tse.write_event(self.tse.events.log_out(client_id, cause), user=client_id)
        return {}

    def _authenticate_host(self, given: Output) -> Output:
        self._prove_host(given["userId"], given)
        self._hosts.add(given["userId"])
        return {}

    def _deauthenticate_host(self, given: Output) -> Output:
        self._hosts.discard(given["userId"])
        return {}

    def _unblock(self, whose: str, given: Output) -> Output:
        retries = self.kept.retries
        if retries["puk"] == 0:
            raise Refused("TSE1_ERROR_AUTHENTICATION_PIN_BLOCKED", {"remainingRetries": 0})
        right = given["puk"] == self.kept.puk
        old = self.kept.admin_pin if whose == "admin" else self.kept.time_admin_pin
        if right and given["newPin"] == old:
            raise Refused("TSE1_ERROR_TSE_INVALID_PARAMETER")
        retries["puk"] = PIN_RETRIES if right else retries["puk"] - 1
        if right:
            retries[whose] = PIN_RETRIES
            if whose == "admin":
                self.kept.admin_pin = given["newPin"]
            else:
                self.kept.time_admin_pin = given["newPin"]
        self._keep()
        user = ADMINISTRATOR if whose == "admin" else "TimeAdmin"
        result = UnblockResult.SUCCESS if right else UnblockResult.INCORRECT_PUK
        self.tse.write_event(self.tse.events.unblock(user, result), user=user)
        output = {"remainingRetries": retries["puk"]}
        if not right:
            raise Refused("TSE1_ERROR_AUTHENTICATION_FAILED", output)
        return output

    def _users(self, given: Output) -> Output:
        if given.get("userRole") == "Admin":
            return {"authenticatedUserList": [ADMINISTRATOR] if self._admin_until is not None else []}
        return {"authenticatedUserList": sorted(self._time_admins)}

    # ---- clients and transactions -------------------------------------------------------------

    def _register(self, given: Output) -> Output:
        self.tse.register(given["clientId"], None, user=ADMINISTRATOR)
        return {}

    def _deregister(self, given: Output) -> Output:
        client_id = given["clientId"]
        if _RESERVED in client_id:
            raise Refused("JSON_ERROR_INVALID_PARAMETER")
        if client_id not in self.tse.clients:
            raise Refused("TSE1_ERROR_CLIENT_NOT_REGISTERED")
        self.tse.unregister(client_id, None, user=ADMINISTRATOR)
        return {}

    def _clients(self, _: Output) -> Output:
        return {"registeredClientIdList": list(self.tse.clients)}

    def _transact(self, op: Op, given: Output) -> Output:
        if self._monotonic_expired():
            raise Refused("TSE1_ERROR_CERTIFICATE_EXPIRED")
        client_id = given["clientId"]
        number = given.get("transactionNumber", 0)
        if client_id not in self.tse.clients:
            raise Refused("TSE1_ERROR_CLIENT_NOT_REGISTERED")
        if op != "start" and number not in self.tse.opened_by(client_id):
            raise Refused(
                "TSE1_ERROR_TRANSACTION_NOT_STARTED"
                if self.tse.open_transactions
                else "TSE1_ERROR_NO_TRANSACTION_IN_PROGRESS"
            )
        data = binascii.a2b_base64(given["processData"])
        call = Call(op, client_id, number, given["processType"], data, "")
        output: Output = {}
        if op == "start":
            more = binascii.a2b_base64(given["additionalData"])
            signed = self.tse.start(call, None, more or None)
            output["transactionNumber"] = signed.transaction_number
        else:
            signed = self.tse.update(call, None) if op == "update" else self.tse.finish(call, None)
        output["logTime"] = _text(signed.time_stamp)
        if op == "start":
            output["serialNumber"] = base64.b64encode(self.tse.chain.serial).decode()
        output["signatureCounter"] = signed.signature_counter
        output["signature"] = base64.b64encode(signed.signature).decode()
        self._last[client_id] = output
        return output

    def _monotonic_expired(self) -> bool:
        return self.tse.now() > self.tse.valid_until

    def _started(self, given: Output) -> Output:
        client_id = given["clientId"]
        numbers = self.tse.opened_by(client_id) if client_id else list(self.tse.open_transactions)
        return {"startedTransactionNumberList": numbers}

    def _last_response(self, given: Output) -> Output:
        output = self._last.get(given["clientId"])
        if output is None:
            raise Refused("TSE1_ERROR_NO_LAST_TRANSACTION")
        return output

    # ---- exports ------------------------------------------------------------------------------

    def _begin(self, selection: Selection) -> Output:
        if self._export is not None:
            raise Refused("OTHER_ERROR_CURRENTLY_EXPORTING")
        file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
        self._clock.archiving = self.tse.created + self._shift * TICKS_PER_SECOND
        try:
            last_counter = self.tse.export(selection, file, contextlib.nullcontext)
        except BaseException:
            file.close()
            raise
        finally:
            self._clock.archiving = None
        size = file.tell()
        file.seek(0)
        self._export = _Export(file, size, selection, last_counter)
        return {"tarExportSize": size}

    def _archive(self, given: Output) -> Output:
        client_id = given.get("clientId", "")
        if not isinstance(client_id, str):
            raise Refused("JSON_ERROR_UNEXPECTED_PARAM_TYPE")
        return self._begin(Selection(client_id=client_id or None))

    def _export_numbers(self, given: Output) -> Output:
        if "transactionNumber" in given:
            first = last = given["transactionNumber"]
        else:
            first, last = given["startTransactionNumber"], given["endTransactionNumber"]
        if not 0 <= first <= last:
            raise Refused("OTHER_ERROR_PARAMETER_MISMATCH")
        client_id = given["clientId"] or None
        return self._begin(Selection(client_id=client_id, first_number=first, last_number=last))

    def _export_period(self, given: Output) -> Output:
        first, last = _ticks(given["startDate"]), _ticks(given["endDate"])
        if first > last:
            raise Refused("OTHER_ERROR_PARAMETER_MISMATCH")
        client_id = given["clientId"] or None
        return self._begin(Selection(client_id=client_id, first_time=first, last_time=last))

    def _running(self) -> _Export:
        if self._export is None:
            raise Refused("OTHER_ERROR_NO_EXPORT_STARTED")
        if self._export.user_left:
            raise Refused("OTHER_ERROR_CURRENTLY_EXPORTING_USER")
        return self._export

    def _export_data(self, _: Output) -> Output:
        export = self._running()
        if export.complete:
            raise Refused("OTHER_ERROR_ALREADY_ALL_DATA_EXPORTED")
        if export.last_counter == 0:
            raise Refused("TSE1_ERROR_EXPORT_NO_DATA_AVAILABLE")
        text = export.text + base64.b64encode(export.file.read(self._chunk)).decode()
        export.text = ""
        at_end = export.file.tell() == export.size
        if self._odd and not at_end:
            cut = len(text) - 1 - secrets.randbelow(3)
            text, export.text = text[:cut], text[cut:]
        export.complete = at_end
        return {"exportData": text, "exportStatus": "EXPORT_COMPLETE" if at_end else self._incomplete}

    def _finalize(self, given: Output) -> Output:
        export = self._running()
        if not export.complete:
            raise Refused("OTHER_ERROR_ALL_DATA_NOT_EXPORTED_YET")
        if given["deleteData"]:
            if not export.selection.whole:
                raise Refused("TSE1_ERROR_EXPORT_UNACKNOWLEDGED_DATA")
            if self.tse.open_transactions:
                raise Refused("TSE1_ERROR_TSE_HAS_UNFINISHED_TRANSACTIONS")
            self.tse.erase(export.last_counter, None, user=ADMINISTRATOR)
        self._end_export()
        self.kept.last_export = _text(self.tse.now())
        self._keep()
        return {}

    def _cancel(self, _: Output) -> Output:
        if self._export is None:
            raise Refused("OTHER_ERROR_NO_EXPORT_STARTED")
        self._end_export()
        return {}

    def _end_export(self) -> None:
        if self._export is not None:
            self._export.file.close()
            self._export = None


def _text(ticks: int) -> str:
    return datetime.fromtimestamp(to_unix(ticks), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _ticks(text: str) -> int:
    try:
        if not _TIME.fullmatch(text):
            raise ValueError(text)
        ticks = from_unix(int(datetime.fromisoformat(text).timestamp()))
    except ValueError as error:
        raise Refused("JSON_ERROR_INVALID_TIME_FORMAT") from error
    if ticks < UNIX_EPOCH_TICKS:
        raise Refused("JSON_ERROR_INVALID_PARAMETER_RANGE")
    return ticks


_LENGTHS: Final = {
    "puk": (6, 6),
    "pin": (5, 5),
    "adminPin": (5, 5),
    "timeAdminPin": (5, 5),
    "newPin": (5, 5),
    "secretKey": (8, 8),
    "clientId": (0, MAX_CLIENT_ID_CHARACTERS),
    "userId": (1, MAX_CLIENT_ID_CHARACTERS),
}
_CLIENT: Final = {"clientId": str}
_USER: Final = {"userId": str}
_TIME_INPUT: Final = {"userId": str, "newDateTime": str, "useTimeSync": bool}
_UNBLOCK_INPUT: Final = {"userId": str, "puk": str, "newPin": str}
_START_INPUT: Final = {"clientId": str, "processData": str, "processType": str, "additionalData": str}
_CONTINUE_INPUT: Final = {"transactionNumber": int, **_START_INPUT}

_FUNCTIONS: Final[dict[str, _Function]] = {
    "GetStorageInfo": _Function(Device._storage_info, "", {}),
    "SetUp": _Function(Device._set_up, "", {"puk": str, "adminPin": str, "timeAdminPin": str}),
    "SetUpForPrinter": _Function(Device._set_up_for_printer, "admin", {}),
    "RunTSESelfTest": _Function(Device._run_self_test, "", {}),
    "RegisterSecretKey": _Function(Device._register_secret, "admin", {"secretKey": str}),
    "UpdateTime": _Function(Device._update_time, "time", _TIME_INPUT),
    "UpdateTimeForFirst": _Function(Device._update_time, "time", _TIME_INPUT),
    "RegisterClient": _Function(Device._register, "admin", _CLIENT),
    "DeregisterClient": _Function(Device._deregister, "admin", _CLIENT),
    "GetRegisteredClientList": _Function(Device._clients, "admin", {}),
    "LockTSE": _Function(Device._lock, "admin", {}),
    "UnlockTSE": _Function(Device._unlock, "admin", {}),
    "EnableExportIfCspTestFails": _Function(lambda self, _: self._allow_exports(True), "admin", {}),
    "DisableExportIfCspTestFails": _Function(lambda self, _: self._allow_exports(False), "admin", {}),
    "DisableSecureElement": _Function(Device._disable, "admin", {}),
    "GetChallenge": _Function(Device._challenge, "", _USER),
    "AuthenticateUserForAdmin": _Function(Device._log_in_admin, "", {"userId": str, "pin": str, "hash": str}),
    "AuthenticateUserForTimeAdmin": _Function(
        Device._log_in_client, "", {"clientId": str, "pin": str, "hash": str}
    ),
    "LogOutForAdmin": _Function(lambda self, _: self._log_out_admin(LogOutCause.USER_CALLED), "admin", {}),
    "LogOutForTimeAdmin": _Function(
        lambda self, given: self._log_out_client(given["clientId"], LogOutCause.USER_CALLED),
        "client",
        _CLIENT,
    ),
    "AuthenticateHost": _Function(Device._authenticate_host, "", {"userId": str, "hash": str}),
    "DeauthenticateHost": _Function(Device._deauthenticate_host, "host", _USER),
    "UnblockUserForAdmin": _Function(
        lambda self, given: self._unblock("admin", given), "host", _UNBLOCK_INPUT
    ),
    "UnblockUserForTimeAdmin": _Function(
        lambda self, given: self._unblock("time", given), "host", _UNBLOCK_INPUT
    ),
    "GetAuthenticatedUserList": _Function(Device._users, "", {}),
    "StartTransaction": _Function(lambda self, given: self._transact("start", given), "client", _START_INPUT),
    "UpdateTransaction": _Function(
        lambda self, given: self._transact("update", given), "client", _CONTINUE_INPUT
    ),
    "FinishTransaction": _Function(
        lambda self, given: self._transact("finish", given), "client", _CONTINUE_INPUT
    ),
    "GetStartedTransactionList": _Function(Device._started, "", _CLIENT),
    "GetLastTransactionResponse": _Function(Device._last_response, "", _CLIENT),
    "ArchiveExport": _Function(Device._archive, "admin", {}),
    "ExportFilteredByTransactionNumber": _Function(
        Device._export_numbers, "admin", {"clientId": str, "transactionNumber": int}
    ),
    "ExportFilteredByTransactionNumberInterval": _Function(
        Device._export_numbers,
        "admin",
        {"clientId": str, "startTransactionNumber": int, "endTransactionNumber": int},
    ),
    "ExportFilteredByPeriodOfTime": _Function(
        Device._export_period, "admin", {"clientId": str, "startDate": str, "endDate": str}
    ),
    "GetExportData": _Function(Device._export_data, "", {}),
    "FinalizeExport": _Function(Device._finalize, "", {"deleteData": bool}),
    "CancelExport": _Function(Device._cancel, "admin", {}),
    "GetLogMessageCertificate": _Function(Device._certificate, "", {}),
    "FactoryReset": _Function(Device._factory_reset, "", {}),
}

_AUTHENTICATION: Final = frozenset(
    {
        "GetChallenge",
        "AuthenticateUserForAdmin",
        "AuthenticateUserForTimeAdmin",
        "LogOutForAdmin",
        "LogOutForTimeAdmin",
        "AuthenticateHost",
        "DeauthenticateHost",
        "UnblockUserForAdmin",
        "UnblockUserForTimeAdmin",
        "GetAuthenticatedUserList",
    }
)
_EXPORTS: Final = frozenset(
    {
        "ArchiveExport",
        "ExportFilteredByTransactionNumber",
        "ExportFilteredByTransactionNumberInterval",
        "ExportFilteredByPeriodOfTime",
    }
)
_TRANSACTIONS: Final = frozenset({"StartTransaction", "UpdateTransaction", "FinishTransaction"})
_WHILE_EXPORTING: Final = _AUTHENTICATION | {
    "GetExportData",
    "FinalizeExport",
    "CancelExport",
    "GetStorageInfo",
}
_WITHOUT_SELF_TEST: Final = frozenset({"GetStorageInfo", "GetChallenge", "RunTSESelfTest", "FactoryReset"})
_TO_SET_UP: Final = _AUTHENTICATION | {"SetUpForPrinter"}
_UNINITIALIZED: Final = _WITHOUT_SELF_TEST | {
    "SetUp",
    "GetStartedTransactionList",
    "GetLogMessageCertificate",
}
_TO_EXPORT: Final = _EXPORTS | {"AuthenticateUserForAdmin", "LogOutForAdmin"}
_WHILE_LOCKED: Final = _AUTHENTICATION | {"UnlockTSE", "GetStorageInfo", "RunTSESelfTest"}
_NEEDS_TIME: Final = _EXPORTS | _TRANSACTIONS | {"DisableSecureElement"}
_TERMINATED: Final = {
    **dict.fromkeys(
        _TRANSACTIONS
        | _EXPORTS
        | {"SetUp", "AuthenticateUserForAdmin", "AuthenticateUserForTimeAdmin"}
        | {"LogOutForAdmin", "LogOutForTimeAdmin"},
        "TSE1_ERROR_CERTIFICATE_EXPIRED",
    ),
    **dict.fromkeys(
        ("UpdateTime", "UpdateTimeForFirst", "GetStartedTransactionList", "DisableSecureElement"),
        "TSE1_ERROR_TSE_DECOMMISSIONED",
    ),
    **dict.fromkeys(
        ("RegisterClient", "DeregisterClient", "GetRegisteredClientList", "LockTSE", "UnlockTSE"),
        "TSE1_ERROR_NOT_AUTHORIZED",
    ),
}
_REFUSALS: Final = {
    "store_full": "TSE1_ERROR_STORE_FULL",
    "sig_exhausted": "TSE1_ERROR_TRANSACTION_SIGNATURES_EXCEEDED",
    "cert_expired": "TSE1_ERROR_CERTIFICATE_EXPIRED",
    "max_tx": "TSE1_ERROR_MAX_PARALLEL_TRANSACTIONS",
    "max_clients": "TSE1_ERROR_MAX_REGISTERED_CLIENTS_REACHED",
    "export_retry": "TSE1_ERROR_EXPORT_RETRY",
    "export_empty": "TSE1_ERROR_EXPORT_NO_DATA_AVAILABLE",
}
_TRANSLATED: Final = {
    "SIGNATURE_LIMIT": "TSE1_ERROR_TRANSACTION_SIGNATURES_EXCEEDED",
    "TRANSACTION_LIMIT": "TSE1_ERROR_MAX_PARALLEL_TRANSACTIONS",
    "MEMORY_FULL": "TSE1_ERROR_STORE_FULL",
    "CLIENT_NOT_REGISTERED": "TSE1_ERROR_CLIENT_NOT_REGISTERED",
    "CLIENT_LIMIT": "TSE1_ERROR_MAX_REGISTERED_CLIENTS_REACHED",
    "CLIENT_HAS_OPEN_TRANSACTIONS": "TSE1_ERROR_CLIENT_HAS_UNFINISHED_TRANSACTIONS",
    "OPEN_TRANSACTIONS": "TSE1_ERROR_TSE_HAS_UNFINISHED_TRANSACTIONS",
    "TRANSACTION_NOT_OPEN": "TSE1_ERROR_TRANSACTION_NOT_STARTED",
    "INVALID_CLIENT_ID": "JSON_ERROR_INVALID_PARAMETER",
    "INVALID_PROCESS_DATA": "JSON_ERROR_INVALID_PARAMETER",
    "SECURE_STATE": "TSE1_ERROR_WRONG_STATE_NEEDS_SELF_TEST_PASSED",
    "ERASE_FAILED": "TSE1_ERROR_IO",
}
