"""The :class:`fiskal.scu.driver.Driver` of an Epson TSE."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import io
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from fiskal.clock import TICKS_PER_SECOND, Clock, from_unix, to_unix
from fiskal.files import write_atomically
from fiskal.frames import epson as frames
from fiskal.scu.contract import Deadline, TseInfo, TseStates
from fiskal.scu.driver import Call, Op, Remembered, Selection, Signed, Turn, Verdict
from fiskal.scu.drivers.epson import codes
from fiskal.scu.drivers.epson.options import FACTORY_SECRET, Options
from fiskal.scu.drivers.epson.pins import PinGuard
from fiskal.scu.drivers.epson.protocol import Link, Refused, member
from fiskal.scu.errors import (
    ClientError,
    Misconfigured,
    NotSupported,
    OutcomeUnknown,
    ScuError,
    TseRejected,
    Unreachable,
)
from fiskal.scu.refusals import wrong_state
from fiskal.scu.transports import Garbled, NoAnswer, NotSent
from fiskal.tse.certificates import CertificateError, load_certificates
from fiskal.tse.logmessage import LogMessageError, parse, parse_file_name
from fiskal.tse.tar import BLOCK, Sink, TarError, TarWriter, members_of, read_members, read_segments

log = logging.getLogger(__name__)

ADMINISTRATOR: Final = "Administrator"
SECTOR: Final = 512
MAX_CLIENT_ID_CHARACTERS: Final = 30
RESERVED: Final = "EPSON"
"""Part of the ids that hosts register for themselves."""
DEFAULT_DEADLINE_S: Final = 60.0
EXPORT_RETRY_S: Final = 0.1
EXPORT_PATIENCE_S: Final = 60.0
MAX_TRANSACTION_EXPORT_BYTES: Final = 64 << 20
TIME_AT_MOST_EVERY_S: Final = 600.0

_CLIENT_ID: Final = re.compile(r"[A-Za-z0-9 '()+,\-.=]{1,30}")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_FUNCTIONS: Final[dict[Op, str]] = {
    "start": "StartTransaction",
    "update": "UpdateTransaction",
    "finish": "FinishTransaction",
}
_STATES: Final = {
    "UNINITIALIZED": TseStates.UNINITIALIZED,
    "INITIALIZED": TseStates.INITIALIZED,
    "DECOMMISSIONED": TseStates.TERMINATED,
}

Output = dict[str, Any]
T = TypeVar("T")


class _Unknown(Exception):
    """A function was sent and nobody knows whether it was executed."""


class _Interrupted(Exception):
    """An export ended before its end: a receipt, another host or a lost answer came in between."""


class _Storage(msgspec.Struct, frozen=True):
    """What GetStorageInfo said."""

    state: TseStates
    serial: bytes
    self_tested: bool
    information: Output

    def number(self, name: str, unknown: int = -1) -> int:
        value = member(self.information, name)
        return value if isinstance(value, int) and not isinstance(value, bool) else unknown

    def text(self, name: str) -> str:
        value = member(self.information, name)
        return value if isinstance(value, str) else ""


class _Clients(msgspec.Struct):
    """The clients that the TSE listed when it had ``count`` of them."""

    ids: list[str]
    count: int
    serial: str = ""


class EpsonDriver:
    """One Epson TSE. ``folder`` keeps what it must remember, ``known_starts`` says which open transactions somebody
    remembers the start of."""

    key_in_process = False
    computes_only = False
    remembers_calls = False
    needs_open_numbers = True
    terminates_uninitialized = False
    filters_exports = True
    erases_with_open_transactions = False

    def __init__(
        self,
        link: Link,
        options: Options,
        folder: Path,
        clock: Clock,
        *,
        known_starts: Callable[[], Mapping[int, object]] = dict,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._link = link
        self._options = options
        self._folder = folder
        self._clock = clock
        self._known_starts = known_starts
        self._sleep = sleep
        self._host, self._port = options.host, options.port_number
        self._session = 0
        self._logged_in: set[str] = set()
        self._admin = False
        self._serial = ""
        self._guard: PinGuard | None = None
        self._storage: _Storage | None = None
        self._certificates: list[str] = []
        self._clients: _Clients | None = None
        self._clients_at = float("-inf")
        self._numbers: dict[int, str] = {}
        """Open transactions, with the client as far as this driver started them."""
        self._counter = 0
        """The greatest signatureCounter that was answered."""
        self._last_counters: dict[int, int] = {}
        """The signature that was answered last, of the open transactions of this process."""
        self._time_due = False
        self._time_set_at = float("-inf")
        self._export = 0
        """Grows with every export; the one that runs is cancelled when it has another number."""
        self._exporting = False
        self._held_counter: int | None = None
        self._held_until = 0.0

    # ---- calls and what repairs them ----------------------------------------------------------

    def _operate(
        self,
        function: str,
        given: Output,
        deadline: Deadline | None,
        *,
        client_id: str | None = None,
        timeout_ms: int | None = None,
        secrets: tuple[str, ...] = (),
        repairs: bool = True,
        user: str | None = None,
    ) -> Output:
        """Execute a function, and repair once each what it may lack: log-in, time, self test, an export's end.

        Raises Refused, NotSent, _Unknown, ScuError.
        """
        repaired: set[str] = set()
        while True:
            try:
                self._link.open(deadline)
                self._note_session()
                if client_id is not None and client_id not in self._logged_in:
                    self._log_in_client(client_id, deadline)
                return self._link.operate(function, given, deadline, timeout_ms=timeout_ms, secrets=secrets)
            except (NoAnswer, Garbled) as error:
                raise _Unknown(error.message) from error
            except Refused as refused:
                repair = self._repair(refused.code) if repairs else None
                if repair is None or repair in repaired:
                    raise
                repaired.add(repair)
                log.info("the TSE answered %s to %s: %s", refused.code, function, repair)
                if repair == "log in":
                    self._logged_in.discard(client_id or "")
                    if user is not None:
                        self._log_in_admin(deadline)
                elif repair == "set the time":
                    self._set_time(deadline, self._options.time_function)
                elif repair == "test itself":
                    self._test(deadline)
                elif repair == "end the export":
                    self._end_export(deadline)
                else:
                    with self._administrator(deadline):
                        self._operate("UnlockTSE", {}, deadline, repairs=False)

    def _repair(self, code: str) -> str | None:
        if code in codes.NEEDS_LOG_IN:
            return "log in"
        if code in codes.NEEDS_TIME:
            return "set the time"
        if code in codes.NEEDS_SELF_TEST:
            return "test itself"
        if codes.is_exporting(code) and self._options.admin_pin:
            return "end the export"  # who exports has the device open, and here it was opened
        if code == "TSE1_ERROR_WRONG_STATE_NEEDS_TSE_UNLOCK" and self._options.unlock:
            return "unlock"
        return None

    def _note_session(self) -> None:
        if self._link.sessions == self._session:
            return
        connected_anew = self._options.exclusive or not self._options.log_ins_survive_close
        self._session = self._link.sessions
        self._admin = False
        if connected_anew:
            self._logged_in.clear()

    @contextlib.contextmanager
    def _errors(self, *, reads: bool = False, call: Call | None = None) -> Iterator[None]:
        """Make of what a call of this driver met what an SCU says. ``reads``: nothing can have been changed."""
        try:
            yield
        except Refused as refused:
            raise codes.error_of(refused, self._host, self._port, call) from refused
        except NotSent as error:
            raise codes.not_available(self._host, self._port, str(error)) from error
        except _Unknown as error:
            if reads:
                raise codes.not_available(self._host, self._port, str(error)) from error
            raise OutcomeUnknown(
                "NO_RESPONSE",
                f"The TSE at {self._host}:{self._port} gave no usable answer: {error}",
                transaction_number=call.transaction_number or None if call is not None else None,
            ) from error
        finally:
            if not self._options.exclusive and not self._exporting:
                self._admin = False
                self._link.close_device(Deadline(2.0))

    def _twice(self, read: Callable[[], T]) -> T:
        """Do what changes nothing a second time if its answer got lost."""
        try:
            return read()
        except _Unknown:
            return read()

    # ---- state --------------------------------------------------------------------------------

    def _read_storage(self, deadline: Deadline | None) -> _Storage:
        output = self._twice(lambda: self._operate("GetStorageInfo", {}, deadline))
        information = member(output, "tseInformation")
        try:
            if not isinstance(information, dict):
                raise TypeError
            serial = binascii.a2b_base64(member(information, "serialNumber"), strict_mode=True)
            storage = _Storage(
                state=_STATES.get(member(information, "tseInitializationState"), TseStates.UNINITIALIZED),
                serial=serial,
                self_tested=member(information, "hasPassedSelfTest") is True,
                information=information,
            )
        except (ValueError, TypeError) as error:
            self._link.drop()
            raise _Unknown("GetStorageInfo answered nothing that describes a TSE.") from error
        self._recognise(storage)
        return storage

    def _recognise(self, storage: _Storage) -> None:
        """Refuse another TSE than the one that was configured or met before."""
        serial = storage.serial.hex()
        wanted = self._options.serial.lower() or self._serial
        if wanted and serial != wanted:
            self._link.close_device(Deadline(2.0))  # it may be somebody else's
            raise Misconfigured(
                "WRONG_TSE",
                f"The TSE at {self._host}:{self._port} is {serial}, but {wanted} is wanted. Put the right one in, or "
                "configure an SCU of its own for the new one.",
            )
        if not self._serial:
            self._serial = serial
            self._guard = PinGuard(self._folder, serial, last_try=self._options.allow_last_pin_try)
            key = decoded(storage.text("tsePublicKey"))
            if hashlib.sha256(key).digest() != storage.serial:
                log.warning("the serial number of TSE %s is not the hash of its public key", serial)
        if not storage.self_tested:
            self._forget_export()  # it has lost its power
        self._storage = storage
        self._link.vendor = storage.text("vendorType") or self._link.vendor

    def _ready(self, deadline: Deadline | None) -> _Storage:
        """The storage's state after the self test that a TSE needs when it was switched on."""
        storage = self._read_storage(deadline)
        if storage.self_tested or storage.state is not TseStates.INITIALIZED:
            return storage
        if self._exporting:
            return storage
        for _ in range(2):
            self._test(deadline)
            storage = self._read_storage(deadline)
            if storage.self_tested:
                return storage
        raise TseRejected(
            "SELF_TEST_REQUIRED", "The TSE has tested itself twice and still wants a self test."
        )

    def _require_initialized(self, deadline: Deadline | None) -> _Storage:
        storage = self._ready(deadline)
        if storage.state is not TseStates.INITIALIZED:
            raise wrong_state(storage.state)
        return storage

    def info(self, deadline: Deadline | None) -> TseInfo:
        with self._errors(reads=True):
            if self._exporting and self._held_counter is not None and time.monotonic() > self._held_until:
                self._end_export(deadline)
            return self._info(deadline)

    def _info(self, deadline: Deadline | None) -> TseInfo:
        storage = self._ready(deadline)
        initialized = storage.state is TseStates.INITIALIZED
        if storage.state is not TseStates.UNINITIALIZED and not self._certificates and not self._exporting:
            self._certificates = self._read_certificates(deadline, required=initialized)
        numbers: list[int] = []
        clients: list[str] = []
        if initialized:
            if not self._exporting:  # nothing can be started while the device exports
                self._take_numbers(self._started("", deadline))
            numbers = sorted(self._numbers)
            clients = self._client_ids(storage, deadline)
        expires = storage.text("certificateExpirationDate")
        return TseInfo(
            max_number_of_clients=storage.number("maxRegisteredClients", 2**31 - 1),
            current_number_of_clients=len(clients),
            current_client_ids=clients,
            max_number_of_started_transactions=storage.number("maxStartedTransactions", 2**31 - 1),
            current_number_of_started_transactions=len(numbers),
            current_started_transaction_numbers=numbers,
            max_number_of_signatures=storage.number("maxSignatures", 2**63 - 1),
            current_number_of_signatures=storage.number("createdSignatures"),
            max_log_memory_size=_sectors(storage.number("tseCapacity"), 2**63 - 1),
            current_log_memory_size=_sectors(storage.number("tseCurrentSize"), -1),
            current_state=storage.state,
            firmware_identification=(storage.number("softwareVersion", 0) & (2**64 - 1))
            .to_bytes(8, "little")
            .hex(),
            certification_identification=storage.text("tseDescription"),
            signature_algorithm=storage.text("signatureAlgorithm"),
            log_time_format="unixTime",
            serial_number_octet=storage.serial.hex(),
            public_key_base64=storage.text("tsePublicKey"),
            certificates_base64=list(self._certificates),
            info={
                "tse_description": storage.text("tseDescription"),
                "vendor_state": storage.text("tseInitializationState"),
                "certificate_expiration": expires,
                "registered_clients": str(storage.number("registeredClients")),
                "remaining_signatures": str(storage.number("remainingSignatures")),
                "seconds_until_self_test": str(storage.number("timeUntilNextSelfTest")),
                "has_valid_time": str(member(storage.information, "hasValidTime")).lower(),
                "unlocked": str(member(storage.information, "isTSEUnlocked")).lower(),
            },
        )

    def _read_certificates(self, deadline: Deadline | None, *, required: bool) -> list[str]:
        """The certificates one by one, the TSE's first."""
        try:
            output = self._twice(lambda: self._operate("GetLogMessageCertificate", {}, deadline))
            chain = load_certificates(decoded(member(output, "logMessageCertificate")))
        except (Refused, CertificateError, ValueError) as error:
            if required:
                log.warning("the certificates of TSE %s cannot be read: %s", self._serial, error)
            return []
        return [base64.b64encode(each.public_bytes(Encoding.DER)).decode("ascii") for each in chain]

    def _started(self, client_id: str, deadline: Deadline | None) -> list[int]:
        output = self._twice(
            lambda: self._operate("GetStartedTransactionList", {"clientId": client_id}, deadline)
        )
        numbers = member(output, "startedTransactionNumberList")
        if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
            self._link.drop()
            raise _Unknown("The list of open transactions is none.")
        return numbers

    def _take_numbers(self, numbers: list[int]) -> None:
        self._numbers = {number: self._numbers.get(number, "") for number in numbers}
        self._last_counters = {
            number: counter for number, counter in self._last_counters.items() if number in self._numbers
        }

    # ---- clients ------------------------------------------------------------------------------

    def _client_ids(self, storage: _Storage, deadline: Deadline | None) -> list[str]:
        """The registered clients. The TSE is asked only when there is a reason to, for that takes signatures."""
        count = storage.number("registeredClients")
        if self._clients is None:
            self._clients = self._recall_clients()
        known = self._clients
        old = time.monotonic() - self._clients_at > self._options.client_list_age_s
        fresh = known is not None and known.count == count and not old
        if not fresh and self._options.admin_pin and not self._exporting:
            with self._administrator(deadline):
                return self._list_clients(count, deadline)
        ids = [] if known is None else known.ids
        return list(dict.fromkeys([*ids, *self._options.clients]))

    def _list_clients(self, count: int, deadline: Deadline | None) -> list[str]:
        output = self._twice(
            lambda: self._operate("GetRegisteredClientList", {}, deadline, user=ADMINISTRATOR)
        )
        ids = member(output, "registeredClientIdList")
        if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
            raise _Unknown("The list of clients is none.")
        self._clients = _Clients(ids, count, self._serial)
        self._clients_at = time.monotonic()
        try:
            write_atomically(self._folder / "clients.json", msgspec.json.encode(self._clients))
        except OSError as error:
            log.warning("the list of clients cannot be kept: %s", error)
        return ids

    def _recall_clients(self) -> _Clients | None:
        try:
            kept = msgspec.json.decode((self._folder / "clients.json").read_bytes(), type=_Clients)
        except (OSError, msgspec.DecodeError):
            return None
        if kept.serial != self._serial:
            return None
        self._clients_at = time.monotonic()
        return kept

    def validate_client_id(self, client_id: str) -> None:
        if not _CLIENT_ID.fullmatch(client_id) or RESERVED in client_id:
            raise ClientError(
                "INVALID_CLIENT_ID",
                f"The client id {client_id!r} must have 1 to {MAX_CLIENT_ID_CHARACTERS} characters out of A-Z a-z 0-9 "
                f"space ' ( ) + , - . = and must not hold {RESERVED}, which hosts use for themselves.",
            )

    def register(self, client_id: str, deadline: Deadline | None) -> None:
        self._change_client("RegisterClient", client_id, deadline)

    def unregister(self, client_id: str, deadline: Deadline | None) -> None:
        self._change_client("DeregisterClient", client_id, deadline)

    def _change_client(self, function: str, client_id: str, deadline: Deadline | None) -> None:
        with self._errors(), self._administrator(deadline):
            self._clients_at = float("-inf")
            try:
                self._operate(function, {"clientId": client_id}, deadline, user=ADMINISTRATOR)
            except Refused as refused:
                if function != "DeregisterClient" or refused.code != codes.NOT_REGISTERED:
                    raise
            self._logged_in.discard(client_id)
            self._list_clients(self._read_storage(deadline).number("registeredClients"), deadline)

    # ---- users --------------------------------------------------------------------------------

    def _proof(self, user: str, secret: str, deadline: Deadline | None) -> str:
        """What proves to the TSE that this host knows the shared secret."""
        output = self._operate("GetChallenge", {"userId": user}, deadline, repairs=False)
        challenge = member(output, "challenge")
        if not isinstance(challenge, str):
            self._link.drop()
            raise _Unknown("There is no challenge in the answer.")
        digest = hashlib.sha256((challenge + secret).encode("utf-8", "surrogatepass")).digest()
        return base64.b64encode(digest).decode("ascii")

    def _log_in(
        self,
        function: str,
        member_name: str,
        user: str,
        role: str,
        pin: str,
        deadline: Deadline | None,
        secret: str | None = None,
    ) -> None:
        """Log somebody in, with one try. A wrong proof is tried again with a fresh challenge, a wrong PIN never."""
        guard = self._guard
        if guard is None:
            self._read_storage(deadline)
            guard = self._guard
            assert guard is not None
        guard.check(role, pin)
        secret = self._options.secret if secret is None else secret
        for attempt in range(2):
            proof = self._proof(user, secret, deadline)
            guard.trying(role)
            try:
                self._operate(
                    function,
                    {member_name: user, "pin": pin, "hash": proof},
                    deadline,
                    secrets=(pin, proof),
                    repairs=False,
                )
            except Refused as refused:
                self._judge_log_in(refused, guard, role, pin)
                if refused.code != "OTHER_ERROR_HOST_AUTHENTICATION_FAILED":
                    raise
                if attempt == 1:
                    raise Misconfigured(
                        "AUTH_FAILED",
                        "The TSE does not know this shared secret: configure the one that was registered with it. "
                        f"A TSE with which none was registered has {FACTORY_SECRET}.",
                        vendor_code=refused.code,
                    ) from refused
            except NotSent:
                guard.answered(role)
                raise
            else:
                guard.accepted(role, pin)
                return
        raise Unreachable("BUSY", "The TSE did not take a log-in.")

    @staticmethod
    def _judge_log_in(refused: Refused, guard: PinGuard, role: str, pin: str) -> None:
        """Raise what a refused log-in is, if it is about the PIN."""
        guard.answered(role)
        remaining = member(refused.output, "remainingRetries")
        remaining = remaining if isinstance(remaining, int) else None
        if refused.code == "TSE1_ERROR_AUTHENTICATION_FAILED":
            guard.refused(role, pin, remaining)
            left = "" if remaining is None else f" {remaining} tries are left."
            raise Misconfigured(
                "AUTH_FAILED",
                f"The TSE refused the PIN of the {role}.{left} It is not tried again: configure the right one.",
                vendor_code=refused.code,
            ) from refused
        if refused.code == "TSE1_ERROR_AUTHENTICATION_PIN_BLOCKED":
            guard.refused(role, pin, 0)
            raise Misconfigured(
                "PIN_BLOCKED",
                f"The PIN of the {role} is blocked. Unblock it with the PUK, which sets a new one.",
                vendor_code=refused.code,
            ) from refused

    def _log_in_client(self, client_id: str, deadline: Deadline | None) -> None:
        self._log_in(
            "AuthenticateUserForTimeAdmin",
            "clientId",
            client_id,
            "TimeAdmin",
            self._options.time_admin_pin,
            deadline,
        )
        self._logged_in.add(client_id)

    def _log_in_admin(self, deadline: Deadline | None) -> None:
        """Log the Admin in. A TSE that still has the secret it came with is given the configured one."""
        secret = self._options.secret
        try:
            self._prove_admin(secret, deadline)
        except Misconfigured as error:
            if error.vendor_code != "OTHER_ERROR_HOST_AUTHENTICATION_FAILED" or secret == FACTORY_SECRET:
                raise
            try:
                self._prove_admin(FACTORY_SECRET, deadline)
            except Misconfigured:
                raise error from None
            log.info("TSE %s has the secret it came with; it gets the configured one", self._serial)
            self._operate(
                "RegisterSecretKey", {"secretKey": secret}, deadline, secrets=(secret,), repairs=False
            )
        self._admin = True

    def _prove_admin(self, secret: str, deadline: Deadline | None) -> None:
        pin = self._options.admin_pin
        self._log_in("AuthenticateUserForAdmin", "userId", ADMINISTRATOR, "Admin", pin, deadline, secret)

    @contextlib.contextmanager
    def _administrator(self, deadline: Deadline | None) -> Iterator[None]:
        """Have the Admin logged in within the block; one that was logged in before stays so."""
        self._link.open(deadline)
        self._note_session()
        if self._admin:
            yield
            return
        self._log_in_admin(deadline)
        try:
            yield
        finally:
            if self._admin and not self._exporting:
                self._log_out_admin(deadline)

    def _log_out_admin(self, deadline: Deadline | None) -> None:
        self._admin = False
        with contextlib.suppress(Refused, NotSent, _Unknown):
            self._operate("LogOutForAdmin", {}, deadline, repairs=False)

    def unblock(self, role: str, puk: str, new_pin: str, deadline: Deadline | None = None) -> None:
        """Set the PIN of ``Admin`` or ``TimeAdmin`` with the PUK. A wrong PUK counts: after three the TSE is lost.

        Raises ``Misconfigured`` AUTH_FAILED with the tries that are left, PIN_BLOCKED; ``ClientError`` for a PIN that
        the TSE does not take.
        """
        with self._errors():
            self._read_storage(deadline)
            proof = self._proof(ADMINISTRATOR, self._options.secret, deadline)
            self._operate(
                "AuthenticateHost",
                {"userId": ADMINISTRATOR, "hash": proof},
                deadline,
                secrets=(proof,),
                repairs=False,
            )
            try:
                self._operate(
                    f"UnblockUserFor{role}",
                    {"userId": ADMINISTRATOR, "puk": puk, "newPin": new_pin},
                    deadline,
                    secrets=(puk, new_pin),
                    repairs=False,
                )
            except Refused as refused:
                remaining = member(refused.output, "remainingRetries")
                if refused.code == "TSE1_ERROR_AUTHENTICATION_FAILED":
                    raise Misconfigured(
                        "AUTH_FAILED",
                        f"The TSE refused the PUK; {remaining} tries are left, then the TSE must be replaced.",
                        vendor_code=refused.code,
                    ) from refused
                if refused.code == "TSE1_ERROR_AUTHENTICATION_PIN_BLOCKED":
                    raise Misconfigured(
                        "PIN_BLOCKED",
                        "The PUK is blocked: the TSE must be replaced.",
                        vendor_code=refused.code,
                    ) from refused
                if refused.code == "TSE1_ERROR_TSE_INVALID_PARAMETER":
                    raise ClientError(
                        "INVALID_PIN", "The new PIN must differ from the old one.", vendor_code=refused.code
                    ) from refused
                raise
            else:
                assert self._guard is not None
                self._guard.accepted(role, new_pin)
            finally:
                with contextlib.suppress(Refused, NotSent, _Unknown):
                    self._operate("DeauthenticateHost", {"userId": ADMINISTRATOR}, deadline, repairs=False)

    # ---- life ---------------------------------------------------------------------------------

    def set_state(self, target: TseStates, deadline: Deadline | None) -> None:
        with self._errors():
            if target is TseStates.INITIALIZED:
                self._initialize(deadline)
            else:
                self._disable(deadline)

    def _initialize(self, deadline: Deadline | None) -> None:
        options = self._options
        if not (options.puk and options.admin_pin and options.time_admin_pin):
            raise Misconfigured(
                "PIN_MISSING",
                "To initialise the TSE, configure puk, admin_pin and time_admin_pin: they become its own.",
            )
        self._read_storage(deadline)
        self._write_recovery_sheet()
        given = {"puk": options.puk, "adminPin": options.admin_pin, "timeAdminPin": options.time_admin_pin}
        for attempt in range(2):
            try:
                self._operate(
                    "SetUp",
                    given,
                    deadline,
                    secrets=tuple(given.values()),
                    timeout_ms=options.self_test_timeout_ms,
                    repairs=False,
                )
                break
            except Refused as refused:
                if refused.code in codes.ALREADY_SET_UP:
                    break
                if refused.code not in codes.NEEDS_SELF_TEST or attempt:
                    raise
                self._run_self_test()
            except _Unknown:
                if attempt or self._read_storage(None).state is TseStates.INITIALIZED:
                    break
        self._test(deadline)
        self._log_in_admin(deadline)
        try:
            self._send_time("UpdateTime", ADMINISTRATOR, deadline)
        finally:
            self._log_out_admin(deadline)

    def _write_recovery_sheet(self) -> None:
        """A TSE whose PINs are lost is worthless: write them down before they become its own."""
        options = self._options
        moment = datetime.fromtimestamp(to_unix(self._clock()), UTC)
        text = (
            f"Epson TSE {self._serial}\nat {self._host}:{self._port}, device {options.device_id}\n"
            f"initialised {moment:%Y-%m-%d}\n\nPUK            {options.puk}\nAdmin PIN      {options.admin_pin}\n"
            f"TimeAdmin PIN  {options.time_admin_pin}\nshared secret  {options.secret}\n\n"
            "Print this sheet, keep it where the till is not, and delete the file.\n"
        )
        path = self._folder / f"recovery-sheet-{self._serial[:8]}.txt"
        write_atomically(path, text.encode(), 0o600)
        log.warning(
            "the PINs of TSE %s stand in %s: print it, keep it safe, delete the file", self._serial, path
        )

    def _disable(self, deadline: Deadline | None) -> None:
        self._require_initialized(deadline)
        self._log_in_admin(deadline)
        try:
            self._operate("DisableSecureElement", {}, deadline, user=ADMINISTRATOR)
        finally:
            self._log_out_admin(deadline)

    def _run_self_test(self) -> bool:
        """Let the TSE test itself; False if it passed and the TSE was set up by another host, or by none.

        Takes up to two minutes, whatever the deadline: who began it must see its end.
        """
        try:
            self._operate(
                "RunTSESelfTest", {}, None, timeout_ms=self._options.self_test_timeout_ms, repairs=False
            )
        except Refused as refused:
            if refused.code != codes.NOT_REGISTERED:
                raise
            return False
        return True

    def _test(self, deadline: Deadline | None) -> None:
        """A self test; a TSE that comes from another host is bound to this one (SetUpForPrinter)."""
        if self._run_self_test():
            self._check_patience(deadline)
            return
        if self._read_storage(None).state is not TseStates.INITIALIZED:
            return
        log.info("TSE %s was set up by another host; it is bound to this one", self._serial)
        with self._administrator(None):
            self._operate("SetUpForPrinter", {}, None, repairs=False)
        if not self._run_self_test():
            raise Misconfigured("DEVICE_IN_USE", "The TSE cannot be bound to this host. Restart the host.")
        self._check_patience(deadline)

    @staticmethod
    def _check_patience(deadline: Deadline | None) -> None:
        if deadline is not None and deadline.expired:
            raise Unreachable(
                "BUSY", "The TSE has tested itself, which took longer than the call had. Call again."
            )

    def self_test(self, deadline: Deadline | None) -> None:
        with self._errors():
            self._test(None)

    # ---- time ---------------------------------------------------------------------------------

    def set_time(self, deadline: Deadline | None) -> None:
        with self._errors():
            self._require_initialized(deadline)
            self._set_time(deadline, "UpdateTimeForFirst")

    def _set_time(self, deadline: Deadline | None, function: str) -> None:
        user = self._options.time_admin_user
        self._log_in_client(user, deadline)
        try:
            self._send_time(function, user, deadline)
        finally:
            self._logged_in.discard(user)
            with contextlib.suppress(Refused, NotSent, _Unknown):
                self._operate("LogOutForTimeAdmin", {"clientId": user}, deadline, repairs=False)

    def _send_time(self, function: str, user: str, deadline: Deadline | None) -> None:
        text = _time_text(self._clock() + TICKS_PER_SECOND // 2)
        given = {"userId": user, "newDateTime": text, "useTimeSync": False}
        self._operate(function, given, deadline, repairs=False)
        self._time_due = False
        self._time_set_at = time.monotonic()

    def _watch_time(self, ticks: int) -> None:
        """Set the time before the next transaction if the TSE's has drifted away; not more often than sensible."""
        drift = abs(ticks - self._clock()) / TICKS_PER_SECOND
        if drift > self._options.max_drift_s and time.monotonic() - self._time_set_at > TIME_AT_MOST_EVERY_S:
            log.warning("the time of TSE %s is %.0f s off; it is set anew", self._serial, drift)
            self._time_due = True

    # ---- transactions -------------------------------------------------------------------------

    def start(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._transact(call, deadline)

    def update(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._transact(call, deadline)

    def finish(self, call: Call, deadline: Deadline | None) -> Signed:
        signed = self._transact(call, deadline)
        if signed.start_time_stamp is None and call.transaction_number not in self._known_starts():
            started = self._start_time(call.transaction_number, deadline)
            signed = msgspec.structs.replace(signed, start_time_stamp=started)
        return signed

    def _transact(self, call: Call, deadline: Deadline | None) -> Signed:
        """Execute a call. If its answer gets lost the device is asked what became of it, within the deadline; what it
        certainly did not execute is sent once more."""
        deadline = deadline or Deadline(DEFAULT_DEADLINE_S)
        with self._errors(call=call):
            before = frozenset(self._numbers)
            if self._time_due and call.op == "start":
                self._set_time(deadline, self._options.time_function)
            try:
                return self._send_call(call, deadline)
            except _Unknown as error:
                lost: Exception = error
            except Refused as refused:
                # A TSE whose certificate has expired may sign all the same, and say so afterwards.
                late = refused.code == codes.EXPIRED and call.op != "start"
                if codes.refuses(refused.code) and not late:
                    raise
                lost = refused
            log.warning("the answer to a %s of %s got lost: %s", call.op, call.client_id, lost)
            try:
                found = self._reconcile(call, before, deadline)
            except (Refused, NotSent, _Unknown, ScuError) as error:
                log.warning("what became of the %s cannot be found out now: %s", call.op, error)
                raise _Unknown(str(lost)) from error
            if isinstance(found, Signed):
                return self._note(call, found)
            if found is Verdict.STILL_UNKNOWN:
                raise _Unknown(str(lost)) from lost
            if isinstance(lost, Refused) and lost.code not in codes.OPEN:
                raise lost  # it was refused after all
            return self._send_call(call, deadline)

    def _send_call(self, call: Call, deadline: Deadline) -> Signed:
        given: Output = {} if call.op == "start" else {"transactionNumber": call.transaction_number}
        given |= {
            "clientId": call.client_id,
            "processData": binascii.b2a_base64(call.process_data, newline=False).decode("ascii"),
            "processType": call.process_type,
            "additionalData": "",
        }
        try:
            output = self._operate(_FUNCTIONS[call.op], given, deadline, client_id=call.client_id)
        except Refused as refused:
            if refused.code == codes.NOT_REGISTERED:
                self._clients_at = float("-inf")
            if refused.code != codes.EXPIRED or member(refused.output, "signature") is None:
                raise
            log.warning("the certificate of TSE %s has expired; it signed all the same", self._serial)
            output = refused.output
        signed = self._signed(call, output)
        if signed.signature_counter <= self._counter:
            self._link.drop()
            raise _Unknown(f"The answer is an old one: its signatureCounter is {signed.signature_counter}.")
        return self._note(call, signed)

    def _signed(self, call: Call, output: Output) -> Signed:
        """Read an answer; one that is none leaves the outcome open."""
        number = member(output, "transactionNumber") if call.op == "start" else call.transaction_number
        counter = member(output, "signatureCounter")
        try:
            ticks = _ticks(member(output, "logTime"))
            signature = binascii.a2b_base64(member(output, "signature"), strict_mode=True)
            if not _is_number(number) or not _is_number(counter) or not signature:
                raise ValueError
            serial = member(output, "serialNumber")
            if serial is not None and decoded(serial).hex() != self._serial:
                raise ValueError
        except (ValueError, TypeError) as error:
            self._link.drop()
            raise _Unknown(f"The answer to {_FUNCTIONS[call.op]} holds no signature.") from error
        return Signed(number, counter, ticks, signature)

    def _note(self, call: Call, signed: Signed) -> Signed:
        self._forget_export()  # a device that exports does not sign
        self._counter = max(self._counter, signed.signature_counter)
        number = signed.transaction_number
        if call.op == "finish":
            self._numbers.pop(number, None)
            self._last_counters.pop(number, None)
        else:
            self._numbers[number] = self._numbers.get(number) or call.client_id
            self._last_counters[number] = signed.signature_counter
        self._watch_time(signed.time_stamp)
        return signed

    # ---- lost answers -------------------------------------------------------------------------

    def recall(self, call: Call) -> Remembered | None:
        raise NotImplementedError("an Epson TSE does not remember calls")

    def reconcile(
        self, call: Call, open_before: frozenset[int] | None, deadline: Deadline | None
    ) -> Signed | Verdict:
        with self._errors(reads=True):
            found = self._reconcile(call, open_before, deadline)
            return self._note(call, found) if isinstance(found, Signed) else found

    def _reconcile(
        self, call: Call, open_before: frozenset[int] | None, deadline: Deadline | None
    ) -> Signed | Verdict:
        """Find out from the device what became of a call.

        It is asked over a device that was opened anew, which a host does only after the connection before has come to
        its end: whatever that had asked for has been executed by then, or will never be.
        """
        if self._link.opened:
            self._link.drop()
        self._ready(deadline)
        if call.op == "start":
            if open_before is None:
                return Verdict.STILL_UNKNOWN
            return self._reconcile_start(call, open_before, deadline)
        if call.op == "finish" and call.transaction_number in self._started("", deadline):
            return Verdict.NOT_EXECUTED
        return self._find(call, call.transaction_number, deadline)

    def _reconcile_start(
        self, call: Call, open_before: frozenset[int], deadline: Deadline | None
    ) -> Signed | Verdict:
        numbers = [n for n in self._started(call.client_id, deadline) if n not in open_before]
        if not numbers:
            return Verdict.NOT_EXECUTED
        found = [self._find(call, number, deadline) for number in numbers]
        signed = [each for each in found if isinstance(each, Signed)]
        if len(signed) == 1 and all(each is not Verdict.STILL_UNKNOWN for each in found):
            return signed[0]
        if not signed and all(each is Verdict.NOT_EXECUTED for each in found):
            return Verdict.NOT_EXECUTED
        return Verdict.STILL_UNKNOWN

    def _find(self, call: Call, number: int, deadline: Deadline | None) -> Signed | Verdict:
        """The signature of a call on one transaction, from the device's log."""
        if self._options.last_response:
            found = self._last_response(call, number, deadline)
            if found is not None:
                return found
        if not self._options.admin_pin:
            log.warning(
                "transaction %d may have been signed, but only the Admin can read its log: give admin_pin once, or "
                "try the option last_response",
                number,
            )
            return Verdict.STILL_UNKNOWN
        name = _FUNCTIONS[call.op].lower()
        started: int | None = None
        found_message: Signed | None = None
        after = self._last_counters.get(number, 0)
        for raw in self._messages_of(number, deadline):
            try:
                message = parse(raw)
            except LogMessageError:
                continue
            if message.transaction_number != number:
                continue
            if message.operation is not None and message.operation.lower() == "starttransaction":
                started = message.log_time
            if (
                message.operation is not None
                and message.operation.lower() == name
                and message.client_id == call.client_id
                and (message.process_type or "") == call.process_type
                and (message.process_data or b"") == call.process_data
                and (call.op != "update" or message.signature_counter > after)
            ):
                found_message = Signed(
                    number, message.signature_counter, message.log_time, message.signature, None, raw
                )
        if found_message is None:
            return Verdict.NOT_EXECUTED if call.op != "finish" else Verdict.STILL_UNKNOWN
        if call.op == "start":
            return found_message
        return msgspec.structs.replace(found_message, start_time_stamp=started)

    def _last_response(self, call: Call, number: int, deadline: Deadline | None) -> Signed | None:
        """What GetLastTransactionResponse says, if that can be the answer to the call."""
        try:
            output = self._operate("GetLastTransactionResponse", {"clientId": call.client_id}, deadline)
            signed = self._signed(call, output)
        except (Refused, _Unknown) as error:
            log.info("GetLastTransactionResponse did not help: %s", error)
            return None
        if signed.transaction_number != number or signed.signature_counter <= self._last_counters.get(
            number, 0
        ):
            return None
        return signed

    def _messages_of(self, number: int, deadline: Deadline | None) -> list[bytes]:
        """The log messages of one transaction."""
        archive = io.BytesIO()
        with self._administrator(deadline):
            self._begin_export(
                "ExportFilteredByTransactionNumber", {"clientId": "", "transactionNumber": number}, deadline
            )
            try:
                pieces = frames.ExportPieces()
                last = False
                while not last:
                    data, last = self._piece(pieces, deadline)
                    archive.write(data)
                    if archive.tell() > MAX_TRANSACTION_EXPORT_BYTES:
                        raise _Unknown(f"The log of transaction {number} is longer than any can be.")
                self._operate("FinalizeExport", {"deleteData": False}, deadline, repairs=False)
                self._exporting = False
            except _Interrupted as error:
                raise _Unknown(str(error)) from error
            finally:
                if self._exporting:
                    self._cancel_export(deadline)
        archive.seek(0)
        try:
            return [
                entry.data
                for entry in read_members(archive)
                if entry.data is not None and entry.name.lower().endswith(".log")
            ]
        except TarError as error:
            raise _Unknown(f"The log of transaction {number} cannot be read: {error}") from error

    def _start_time(self, number: int, deadline: Deadline | None) -> int | None:
        """When a transaction began that nobody remembers; None if the device does not say either."""
        if not self._options.admin_pin:
            return None
        try:
            with self._errors(reads=True):
                for raw in self._messages_of(number, deadline):
                    message = parse(raw)
                    if (message.operation or "").lower() == "starttransaction":
                        return message.log_time
        except (ScuError, LogMessageError) as error:
            log.warning("the start time of transaction %d cannot be found: %s", number, error)
        return None

    # ---- exports ------------------------------------------------------------------------------

    def export(self, selection: Selection, out: Sink, turn: Turn) -> int:
        function, given = _export_request(selection)
        if selection.after_counter:
            return self._export_after(selection, function, given, out, turn)
        source = _ExportSource(self, function, given, turn, hold=selection.erase and selection.whole)
        last_counter = 0
        try:
            for segment in read_segments(_Tee(source, out)):
                for entry in members_of(segment.data):
                    last_counter = max(last_counter, _counter_of(entry.name))
        except TarError as error:
            if source.empty:
                out.write(bytes(2 * BLOCK))
                return 0
            raise TseRejected("EXPORT_FAILED", f"The TSE exported no archive: {error}") from error
        finally:
            source.close()
        source.keep(last_counter)
        return last_counter

    def _export_after(self, selection: Selection, function: str, given: Output, out: Sink, turn: Turn) -> int:
        """The device knows no beginning but a time or a number: what is older than a counter is left out here."""
        source = _ExportSource(self, function, given, turn, hold=False)
        last_counter = 0
        tar = TarWriter(out, 0)
        try:
            for entry in read_members(source):
                counter = _counter_of(entry.name)
                if entry.data is not None and (not counter or counter > selection.after_counter):
                    tar.add(entry.name, entry.data, entry.mtime)
                    last_counter = max(last_counter, counter)
        except TarError as error:
            if not source.empty:
                raise TseRejected("EXPORT_FAILED", f"The TSE exported no archive: {error}") from error
        finally:
            source.close()
        tar.close()
        return last_counter

    def _begin_export(self, function: str, given: Output, deadline: Deadline | None) -> None:
        """Begin an export; one that somebody left behind is cancelled first."""
        self._operate(function, given, deadline, user=ADMINISTRATOR)
        self._exporting = True
        self._export += 1
        self._held_counter = None

    def _piece(self, pieces: frames.ExportPieces, deadline: Deadline | None) -> tuple[bytes, bool]:
        """The next piece of the export that runs, and whether it is the last. Raises _Interrupted."""
        patience = Deadline(EXPORT_PATIENCE_S)
        while True:
            try:
                output = self._operate("GetExportData", {}, deadline, repairs=False)
            except _Unknown as error:
                raise _Interrupted(f"an answer got lost ({error})") from error
            except Refused as refused:
                if refused.code == "TSE1_ERROR_EXPORT_RETRY" and not patience.expired:
                    self._sleep(EXPORT_RETRY_S)
                    continue
                if refused.code == "OTHER_ERROR_ALREADY_ALL_DATA_EXPORTED":
                    return b"", True
                if refused.code == "TSE1_ERROR_EXPORT_NO_DATA_AVAILABLE":
                    raise
                raise _Interrupted(f"the TSE answered {refused.code}") from refused
            text = member(output, "exportData")
            try:
                data = pieces.feed(text if isinstance(text, str) else "")
            except frames.FrameError as error:
                self._link.drop()
                raise _Interrupted(str(error)) from error
            last = member(output, "exportStatus") == "EXPORT_COMPLETE"
            if last and not pieces.complete:
                raise _Interrupted("the last piece is incomplete")
            return data, last

    def _forget_export(self) -> None:
        """The device is in no export any more."""
        if self._exporting:
            self._export += 1
        self._exporting = False
        self._held_counter = None

    def _cancel_export(self, deadline: Deadline | None) -> None:
        self._forget_export()
        with contextlib.suppress(Refused, NotSent, _Unknown):
            self._operate("CancelExport", {}, deadline, repairs=False)

    def _end_export(self, deadline: Deadline | None) -> None:
        """End whatever export the device is in, so that it signs again."""
        if not self._admin:
            self._log_in_admin(deadline)
        self._cancel_export(deadline)
        self._log_out_admin(deadline)

    def erase(self, last_counter: int, deadline: Deadline | None) -> None:
        with self._errors():
            if self._held_counter is None or self._held_counter != last_counter:
                raise TseRejected(
                    "ERASE_FAILED",
                    "The TSE has signed since its log was exported, so nothing is erased. Export it again when no "
                    "receipts are made.",
                )
            try:
                self._operate("FinalizeExport", {"deleteData": True}, deadline, repairs=False)
            except Refused:
                self._cancel_export(deadline)
                raise
            finally:
                self._forget_export()
            self._log_out_admin(deadline)

    def close(self) -> None:
        if self._exporting and self._link.opened:
            limit = Deadline(2.0)
            with contextlib.suppress(Refused, NotSent, _Unknown, ScuError):
                self._end_export(limit)
        self._link.close()


class _ExportSource:
    """The bytes of an export as the device gives them, each piece in a turn of its own.

    A receipt that comes in between cancels the export on the device, since nothing is signed while it exports. It is
    then begun again, and what was delivered before is compared and left out.
    """

    def __init__(self, driver: EpsonDriver, function: str, given: Output, turn: Turn, *, hold: bool) -> None:
        self._driver = driver
        self._function = function
        self._given = given
        self._turn = turn
        self._hold = hold
        self._pieces = frames.ExportPieces()
        self._number = 0
        """Of the export on the device; 0 if there is none."""
        self._hash = hashlib.sha256()
        """Of what was delivered."""
        self._delivered = 0
        self._again = hashlib.sha256()
        self._to_skip = 0
        self._restarts = 0
        self._last = False
        self._rest = b""
        self.empty = False
        """There is nothing that the selection means."""

    def read(self, size: int, /) -> bytes:
        while not self._rest and not self._last:
            self._rest = self._next()
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def _next(self) -> bytes:
        driver = self._driver
        with self._turn(), driver._errors(reads=True):
            try:
                if self._number != driver._export or not driver._exporting:
                    self._begin()
                data, last = driver._piece(self._pieces, None)
                data = self._skipped(data)
                if last and self._to_skip:
                    raise self._shorter()
                if last:
                    self._last = True
                    self._finish()
            except _Interrupted as error:
                self._interrupted(str(error))
                return b""
            except Refused as refused:
                if refused.code != "TSE1_ERROR_EXPORT_NO_DATA_AVAILABLE":
                    self._give_up()
                    raise
                self.empty = self._last = True
                driver._end_export(None)
                return b""
            except BaseException:
                self._give_up()
                raise
            return data

    def _give_up(self) -> None:
        """Leave the device as it was before the export."""
        driver = self._driver
        self._last = True
        with contextlib.suppress(ScuError, Refused, NotSent, _Unknown):
            if driver._exporting:
                driver._cancel_export(Deadline(5.0))
            if driver._admin:
                driver._log_out_admin(Deadline(5.0))

    def _begin(self) -> None:
        """Begin the export on the device, for the first time or again."""
        driver = self._driver
        if self._number:
            self._restarts += 1
            if (
                self._restarts > driver._options.export_restarts
                or not driver._options.full_export_first_bytes_stay
            ):
                raise TseRejected(
                    "EXPORT_FAILED",
                    f"The export was interrupted {self._restarts} times, for instance by receipts. Export when no "
                    "receipts are made.",
                )
            log.info("the export of TSE %s is taken up again after %d bytes", driver._serial, self._delivered)
        driver._ready(None)
        driver._link.open(None)
        driver._note_session()
        if not driver._admin:
            driver._log_in_admin(None)
        self._pieces = frames.ExportPieces()
        self._again = hashlib.sha256()
        self._to_skip = self._delivered
        driver._begin_export(self._function, self._given, None)
        self._number = driver._export

    def _interrupted(self, text: str) -> None:
        log.info("the export of TSE %s was interrupted: %s", self._driver._serial, text)
        self._driver._end_export(None)

    def _skipped(self, data: bytes) -> bytes:
        """``data`` without what was delivered before the export was begun again."""
        if self._to_skip:
            old, data = data[: self._to_skip], data[self._to_skip :]
            self._again.update(old)
            self._to_skip -= len(old)
            if not self._to_skip and self._again.digest() != self._hash.digest():
                raise self._shorter()
        self._hash.update(data)
        self._delivered += len(data)
        return data

    @staticmethod
    def _shorter() -> TseRejected:
        return TseRejected(
            "EXPORT_FAILED",
            "The export was interrupted, and what the TSE exports now begins differently. Export when no receipts "
            "are made.",
        )

    def _finish(self) -> None:
        driver = self._driver
        if self._hold:
            return
        driver._operate("FinalizeExport", {"deleteData": False}, None, repairs=False)
        driver._exporting = False
        driver._log_out_admin(None)

    def keep(self, last_counter: int) -> None:
        """Leave the device as it is, so that what was exported can be erased, and only that."""
        driver = self._driver
        if self._hold and self._last and self._number == driver._export and driver._exporting:
            driver._held_counter = last_counter
            driver._held_until = time.monotonic() + driver._options.hold_s

    def close(self) -> None:
        """End the export on the device if it was given up."""
        if self._last or not self._number:
            return
        with contextlib.suppress(ScuError), self._turn(), self._driver._errors(reads=True):
            if self._number == self._driver._export and self._driver._exporting:
                self._driver._end_export(None)


class _Tee:
    """A source that writes to ``out`` what is read from it."""

    def __init__(self, source: _ExportSource, out: Sink) -> None:
        self._source = source
        self._out = out

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        if data:
            self._out.write(data)
        return data


def _export_request(selection: Selection) -> tuple[str, Output]:
    """The device's function for a selection. Raises ``NotSupported``."""
    client_id = selection.client_id or ""
    by_number = selection.first_number is not None or selection.last_number is not None
    by_time = selection.first_time is not None or selection.last_time is not None
    if by_number and by_time:
        raise NotSupported("NOT_IMPLEMENTED", "This TSE exports by numbers or by times, not by both.")
    if by_number:
        last = 2**63 - 1 if selection.last_number is None else selection.last_number
        return "ExportFilteredByTransactionNumberInterval", {
            "clientId": client_id,
            "startTransactionNumber": selection.first_number or 0,
            "endTransactionNumber": last,
        }
    if by_time:
        first = from_unix(0) if selection.first_time is None else selection.first_time
        end = from_unix(253_402_300_799) if selection.last_time is None else selection.last_time
        return "ExportFilteredByPeriodOfTime", {
            "clientId": client_id,
            "startDate": _time_text(max(from_unix(0), first + TICKS_PER_SECOND - 1)),
            "endDate": _time_text(end),
        }
    return "ArchiveExport", {"clientId": client_id}


def _counter_of(name: str) -> int:
    """The signatureCounter in the name of a log message, 0 for other files."""
    parsed = parse_file_name(name.rpartition("/")[2])
    return 0 if parsed is None else parsed.signature_counter


def _time_text(ticks: int) -> str:
    """Whole seconds in UTC on the 24-hour clock, rounded down."""
    return datetime.fromtimestamp(to_unix(ticks), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _ticks(text: object) -> int:
    if not isinstance(text, str) or not _TIME.fullmatch(text):
        raise ValueError(text)
    return from_unix(int(datetime.fromisoformat(text).timestamp()))


def decoded(text: object) -> bytes:
    """The bytes of a base64 text, none if it is no such text."""
    if not isinstance(text, str):
        return b""
    try:
        return binascii.a2b_base64(text)
    except ValueError:
        return b""


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63


def _sectors(count: int, unknown: int) -> int:
    return count * SECTOR if count >= 0 else unknown
