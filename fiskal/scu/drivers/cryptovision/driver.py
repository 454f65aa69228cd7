"""The driver half: what the SCU contract asks for, said in the commands of a Cryptovision TSE."""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from fiskal.clock import Clock, from_unix, now, to_unix
from fiskal.frames import cryptovision as frames
from fiskal.frames.cryptovision import Command, FrameError, Remedy, Result, Signature, Value
from fiskal.scu.contract import Deadline, TseInfo, TseStates
from fiskal.scu.driver import Call, Remembered, Selection, Signed, Turn, Verdict
from fiskal.scu.drivers.cryptovision import pins
from fiskal.scu.drivers.cryptovision.marks import Mark, Marks
from fiskal.scu.drivers.cryptovision.merge import END, Merge
from fiskal.scu.drivers.cryptovision.options import Options
from fiskal.scu.drivers.cryptovision.pins import ADMIN, TIME_ADMIN, Latch, Secrets
from fiskal.scu.drivers.cryptovision.protocol import DeviceError, Session
from fiskal.scu.errors import (
    ClientError,
    Misconfigured,
    NotSupported,
    OutcomeUnknown,
    ScuError,
    TseRejected,
    Unreachable,
)
from fiskal.scu.refusals import (
    certificate_expired,
    client_not_registered,
    terminated,
    transaction_not_open,
    wrong_state,
)
from fiskal.scu.transports import Garbled, NoAnswer, NotSent
from fiskal.scu.transports.mailbox import Replaced
from fiskal.tse.algorithms import algorithm_by_oid, point_of
from fiskal.tse.certificates import CertificateError, load_certificates
from fiskal.tse.logmessage import LogMessage, LogMessageError, LogType, parse
from fiskal.tse.tar import Sink, TarError, read_members

log = logging.getLogger(__name__)

UNKNOWN: Final = 2**63 - 1
REFUSED_FIRMWARE: Final = (
    "f44a9e", "aee640", "52376", "462076", "056817", "379178", "430527", "966416", "021148", "932479",
)  # fmt: skip
"""Engineering samples that the vendor's own library refuses."""
V1_FIRMWARE: Final = ("240346", "425545", "793041")
LATEST_TIME: Final = 4_765_129_200
"""2121-01-01; the vendor refuses host times behind it."""
SYNC_AT: Final = 0.8
MAX_TRANSACTION_EXPORT: Final = 64 << 20
FIRST_CHUNK: Final = 100
_CORRECTIONS: Final = 3
_TIME_FORMATS: Final = {0: "noInput", 1: "utcTime", 2: "generalizedTime", 3: "unixTime"}
_CODES: Final = {
    "start": Command.START_TRANSACTION,
    "update": Command.UPDATE_TRANSACTION,
    "finish": Command.FINISH_TRANSACTION,
}
_OPERATIONS: Final = {
    "start": "starttransaction",
    "update": "updatetransaction",
    "finish": "finishtransaction",
}
_STATES: Final = {
    1: TseStates.UNINITIALIZED,
    2: TseStates.INITIALIZED,
    3: TseStates.INITIALIZED,
    4: TseStates.TERMINATED,
    5: TseStates.TERMINATED,
}
_STATE_NAMES: Final = {1: "notInitialized", 2: "noTime", 3: "active", 4: "deactivated", 5: "disabled"}
_CLIENT_ID: Final = re.compile(r"[A-Za-z0-9 '()+,\-.=]{1,30}")
_ALL: Final = 0xFFFFFFFF

_PASSING: Final = frozenset({Remedy.REOPEN, Remedy.REPEAT, Remedy.CANCELLED, Remedy.RESTART})
"""What may be better the next time."""

Lost = (NoAnswer, Garbled)


class _Static(msgspec.Struct, frozen=True, kw_only=True):
    """What one device does not change once it is initialised."""

    serial: bytes
    public_key: bytes
    certificates: list[bytes]
    algorithm: str
    time_format: str
    certification: str
    max_clients: int
    max_transactions: int
    sync_interval_s: int
    total_memory: int


class CryptovisionTse:
    """The :class:`fiskal.scu.driver.Driver` of one device.

    ``folder`` is the SCU's own. ``guard`` reads a file of the device that has no meaning, to keep it awake. ``close``
    gives the way to the device up. ``monotonic`` is for tests.
    """

    key_in_process = False
    computes_only = False
    remembers_calls = False
    needs_open_numbers = True
    terminates_uninitialized = False
    filters_exports = True
    erases_with_open_transactions = False

    def __init__(
        self,
        session: Session,
        folder: Path,
        options: Options,
        *,
        clock: Clock = now,
        close: Callable[[], None] = lambda: None,
        guard: Callable[[], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        allow = options.allow_default_pins
        self._secrets = Secrets(
            **{name: pins.secret(name, getattr(options, name), allow) for name in pins.DEFAULTS}
        )
        self._session = session
        self._options = options
        self._folder = folder
        self._clock = clock
        self._close_transport = close
        self._guard = guard
        self._monotonic = monotonic
        self._latch = Latch(folder, last_try=options.allow_last_pin_attempt)
        self._marks = Marks(folder)
        self._lock = threading.RLock()
        self._static: _Static | None = None
        self._limits: tuple[int, int, int, str] | None = None
        self._mark = Mark(0, 0)
        self._mark_is_known = False
        self._started: dict[int, int] = {}
        self._clients: list[str] = []
        self._verified: set[str] = set()
        self._next_sync: float | None = None
        self._stop = threading.Event()
        self._keeper: threading.Thread | None = None
        if guard is not None or options.background_time_sync:
            self._keeper = threading.Thread(target=self._keep, name="cryptovision", daemon=True)
            self._keeper.start()

    # ---- errors and corrections -------------------------------------------------------------

    @contextmanager
    def _device(self) -> Iterator[None]:
        """Have the device alone, and make what it or the way to it did wrong an error of the contract."""
        with self._lock:
            try:
                yield
            except DeviceError as error:
                raise _refusal(error) from error
            except Replaced as error:
                raise Misconfigured("WRONG_TSE", str(error)) from error
            except NotSent as error:
                raise Unreachable("TSE_NOT_AVAILABLE", f"The TSE is not available. {error}") from error
            except Lost as error:
                raise OutcomeUnknown("NO_RESPONSE", f"{error}") from error

    def _command(
        self,
        code: Command,
        *parameters: tuple[int, bytes],
        deadline: Deadline | None,
        user: str | None = None,
        repeatable: bool = True,
    ) -> list[Value]:
        """Execute a command with the corrections its result codes ask for, each of them once, three in all.

        ``user`` is who it needs, ``repeatable`` that nothing happens if it is executed twice.
        """
        done: set[object] = set()
        while True:
            try:
                return self._session.execute(code, *parameters, deadline=deadline)
            except Replaced:
                raise
            except NotSent:
                if "way" in done or len(done) >= _CORRECTIONS:
                    raise
                done.add("way")
            except Lost:
                if not repeatable or "way" in done or len(done) >= _CORRECTIONS:
                    raise
                done.add("way")
            except DeviceError as error:
                remedy = frames.remedy_of(error.result)
                if remedy in done or len(done) >= _CORRECTIONS:
                    raise
                done.add(remedy)
                if not self._correct(remedy, deadline, user, repeatable):
                    raise
            if deadline is not None and deadline.expired:
                raise Unreachable("DEADLINE", "The deadline passed before the TSE could do it.")

    def _correct(self, remedy: Remedy, deadline: Deadline | None, user: str | None, repeatable: bool) -> bool:
        """Do what a result code asks for; False if there is nothing to do."""
        if remedy is Remedy.RESTART:
            self._session.restart(deadline)
        elif remedy is Remedy.CANCELLED:
            self._session.cancel(deadline)
        elif remedy is Remedy.TIME:
            self._set_time(deadline)
        elif remedy is Remedy.LOGIN and user is not None:
            self._login(user, deadline)
        elif remedy is Remedy.REOPEN and repeatable:
            self._session.up = False
        else:
            return remedy is Remedy.REPEAT
        return True

    def _value(self, code: Command, *parameters: tuple[int, bytes], deadline: Deadline | None) -> Value:
        """The one value that a command answers."""
        values = self._command(code, *parameters, deadline=deadline)
        if not values:
            raise Garbled(f"The TSE answered {code.name} without a value.")
        return values[0]

    def _number(self, code: Command, *parameters: tuple[int, bytes], deadline: Deadline | None) -> int:
        try:
            return self._value(code, *parameters, deadline=deadline).number
        except FrameError as error:
            raise Garbled(f"{error}.") from error

    def _status(self, which: int, deadline: Deadline | None) -> int:
        return self._number(Command.GET_STATUS, frames.short(which), deadline=deadline)

    def _config(self, which: int, deadline: Deadline | None) -> int:
        return self._number(Command.GET_CONFIG_DATA, frames.short(which), deadline=deadline)

    # ---- users ------------------------------------------------------------------------------

    def _login(self, user: str, deadline: Deadline | None) -> None:
        """Log a user in; a PIN that was refused is not sent again. Raises Misconfigured AUTH_FAILED, PIN_BLOCKED."""
        pin = self._secrets.pin(user)
        if pin is None:
            option = "admin_pin" if user == ADMIN else "time_admin_pin"
            raise Misconfigured("AUTH_FAILED", f"This needs the PIN of {user}: set the option {option!r}.")
        self._latch.check(user, pin)
        values = self._command(
            Command.AUTHENTICATE_USER,
            frames.text(user),
            frames.octets(pin),
            deadline=deadline,
            repeatable=user in self._verified,
        )
        result = values[0].number if values else 4
        remaining = values[1].number if len(values) > 1 and values[1].data else 0
        if result == 2 and self._options.unblock_with_puk and self._secrets.puk(user) is not None:
            self._unblock(user, deadline)
            values = self._command(
                Command.AUTHENTICATE_USER,
                frames.text(user),
                frames.octets(pin),
                deadline=deadline,
                repeatable=False,
            )
            result = values[0].number if values else 4
        if result == 0:
            self._latch.accept(user)
            self._verified.add(user)
            return
        self._verified.discard(user)
        if result == 1:
            self._latch.refuse(user, pin, remaining)
            raise Misconfigured(
                "AUTH_FAILED",
                f"The TSE refuses the PIN of {user}; {remaining} tries are left. Correct it in the configuration.",
            )
        if result == 2:
            raise Misconfigured(
                "PIN_BLOCKED",
                f"The PIN of {user} is blocked. Set the right PIN with the PUK: options 'unblock_with_puk' and "
                f"'{'admin' if user == ADMIN else 'time_admin'}_puk'.",
            )
        raise Misconfigured("AUTH_FAILED", f"The TSE does not log {user} in: result {result}.")

    def _unblock(self, user: str, deadline: Deadline | None) -> None:
        puk, pin = self._secrets.puk(user), self._secrets.pin(user)
        assert puk is not None
        assert pin is not None
        values = self._command(
            Command.UNBLOCK_USER,
            frames.text(user),
            frames.octets(puk),
            frames.octets(pin),
            deadline=deadline,
            repeatable=False,
        )
        result = values[0].number if values else 4
        if result != 0:
            raise Misconfigured(
                "AUTH_FAILED",
                f"The TSE does not set the PIN of {user}: result {result}. The PUK may be wrong, or the PIN the one "
                "from before.",
            )
        log.warning("the PIN of %s was set with the PUK", user)

    def unblock(self, user: str, deadline: Deadline | None = None) -> None:
        """Set the PIN of ``user`` to the configured one, with the configured PUK. Not repeated after a wrong PUK.

        Raises ``Misconfigured`` AUTH_FAILED.
        """
        if self._secrets.puk(user) is None or self._secrets.pin(user) is None:
            raise Misconfigured(
                "AUTH_FAILED", f"This needs both the PIN and the PUK of {user} among the options."
            )
        with self._device():
            self._unblock(user, deadline)
            self._latch.accept(user)

    def _logout(self, user: str) -> None:
        with contextlib.suppress(DeviceError, NotSent, NoAnswer, Garbled, ScuError):
            self._session.execute(Command.LOGOUT, frames.text(user), deadline=Deadline(5.0))

    @contextmanager
    def _logged_in(self, user: str, deadline: Deadline | None) -> Iterator[None]:
        self._login(user, deadline)
        try:
            yield
        finally:
            self._logout(user)

    # ---- time -------------------------------------------------------------------------------

    def _time_user(self) -> str:
        if self._secrets.time_admin_pin is not None:
            return TIME_ADMIN
        if self._secrets.admin_pin is not None:
            return ADMIN
        raise Misconfigured("TIME_NOT_SET", "Setting the time of the TSE needs the option 'time_admin_pin'.")

    def _update_time(self, deadline: Deadline | None, user: str) -> None:
        """Send the time; TimeAdmin is logged out after two seconds, so the login may have to be repeated."""
        for last in (False, True):
            seconds = to_unix(self._clock())
            if not 0 < seconds < LATEST_TIME:
                raise Misconfigured("TIME_NOT_SET", "The clock of this machine is wrong: set it first.")
            try:
                self._command(
                    Command.UPDATE_TIME,
                    frames.number(seconds, 4 if seconds < 2**31 else 5),
                    deadline=deadline,
                    user=user,
                )
            except (NotSent, *Lost):
                if last:
                    raise
                self._login(user, deadline)
            else:
                break
        static = self._static
        interval = static.sync_interval_s if static is not None else 0
        self._next_sync = self._monotonic() + interval if interval else None

    def _set_time(self, deadline: Deadline | None) -> None:
        user = self._time_user()
        with self._logged_in(user, deadline):
            self._update_time(deadline, user)

    def _set_time_if_due(self, deadline: Deadline | None) -> None:
        if self._next_sync is not None and self._monotonic() >= self._next_sync:
            self._set_time(deadline)

    def set_time(self, deadline: Deadline | None) -> None:
        with self._device():
            state = self._status(4, deadline)
            if state not in (2, 3):
                raise wrong_state(_STATES.get(state, TseStates.UNINITIALIZED))
            self._set_time(deadline)

    # ---- what the device is -----------------------------------------------------------------

    def _read_static(self, deadline: Deadline | None) -> _Static:
        """Read once what does not change. Raises ``Misconfigured`` WRONG_TSE for another device than configured."""
        if self._static is not None:
            return self._static
        firmware = self._session.firmware
        if any(part in firmware for part in REFUSED_FIRMWARE):
            raise Misconfigured(
                "NOT_PERSONALISED",
                f"The firmware {firmware!r} is that of an engineering sample: use another TSE.",
            )
        serial = frames.read_serial(self._value(Command.GET_SERIAL_NUMBERS, deadline=deadline).data)
        self._check_serial(serial)
        archive = self._value(Command.GET_CERTIFICATES, deadline=deadline).data
        certificates = _certificates(archive)
        limits = self._read_limits(deadline)
        algorithm = self._value(Command.GET_CONFIG_DATA, frames.short(1), deadline=deadline).data
        static = _Static(
            serial=serial,
            public_key=self._public_key(serial, certificates, deadline),
            certificates=certificates,
            algorithm=_algorithm_name(algorithm),
            time_format=_TIME_FORMATS.get(self._config(7, deadline), "unixTime"),
            certification=limits[3],
            max_clients=limits[0],
            max_transactions=limits[1],
            sync_interval_s=self._config(6, deadline),
            total_memory=limits[2],
        )
        self._static = static
        if self._next_sync is None and static.sync_interval_s:
            self._next_sync = self._monotonic() + static.sync_interval_s
        return static

    def _check_serial(self, serial: bytes) -> None:
        wanted = self._options.serial.lower()
        if wanted and serial.hex() != wanted:
            raise Misconfigured(
                "WRONG_TSE",
                f"The TSE at {self._options.path} has the serial number {serial.hex()} instead of {wanted}.",
            )

    def _read_limits(self, deadline: Deadline | None) -> tuple[int, int, int, str]:
        if self._limits is None:
            certification = self._value(Command.GET_CONFIG_DATA, frames.short(8), deadline=deadline)
            self._limits = (
                self._config(4, deadline),
                self._config(5, deadline),
                self._status(5, deadline),
                certification.data.decode("latin-1"),
            )
        return self._limits

    def _public_key(self, serial: bytes, certificates: list[bytes], deadline: Deadline | None) -> bytes:
        """The point of the signing key: as the device gives it, or out of its certificate."""
        try:
            value = self._value(
                Command.GET_KEY_DATA, frames.short(2), frames.octets(serial), deadline=deadline
            )
            point = _point(value.data)
            if point:
                return point
        except DeviceError as error:
            log.debug("the TSE does not show its public key: %s", error)
        with contextlib.suppress(CertificateError, IndexError, TypeError):
            key = load_certificates(certificates[0])[0].public_key()
            if isinstance(key, ec.EllipticCurvePublicKey):
                return point_of(key)
        return b""

    def _read_clients(self, current: int, deadline: Deadline | None) -> list[str]:
        """The registered clients. Where firmware garbles the list, what was known before is not thrown away."""
        values = self._command(Command.GET_ERS_MAPPINGS, deadline=deadline)
        data = values[0].data if values else b""
        mappings, strict = frames.read_mappings(data) if data else ([], True)
        clients = list(dict.fromkeys(mapping.client_id for mapping in mappings))
        if not strict:
            log.info(
                "the client list of the TSE has wrong lengths; %d of %d were read", len(clients), current
            )
        if len(clients) != current:
            log.warning("the TSE has %d clients, its list shows %d", current, len(clients))
            clients = list(dict.fromkeys([*clients, *self._clients]))
        self._clients = clients
        return list(clients)

    def _read_open(self, deadline: Deadline | None) -> list[int]:
        values = self._command(Command.GET_STATUS, frames.short(2), deadline=deadline)
        numbers = values[0].longs if values else []
        if 0 in numbers or (values and values[0].cut):
            log.info("the list of open transactions has wrong lengths")
        return [number for number in dict.fromkeys(numbers) if number]

    def _read_mark(self, serial: bytes, deadline: Deadline | None) -> Mark:
        """The counters of the device."""
        counter = self._number(
            Command.GET_KEY_DATA, frames.short(0), frames.octets(serial), deadline=deadline
        )
        return Mark(counter, self._status(3, deadline))

    def info(self, deadline: Deadline | None) -> TseInfo:
        with self._device():
            return self._info(deadline)

    def _info(self, deadline: Deadline | None) -> TseInfo:
        life_cycle = self._status(4, deadline)
        limits = self._read_limits(deadline)
        available = self._status(6, deadline)
        state = _STATES.get(life_cycle, TseStates.UNINITIALIZED)
        static: _Static | None = None
        clients: list[str] = []
        numbers: list[int] = []
        counter = 0
        details = {
            "vendor_state": _STATE_NAMES.get(life_cycle, str(life_cycle)),
            "unique_id": self._session.unique_id.hex(),
            "generation": f"v{self.generation}",
        }
        if state is not TseStates.UNINITIALIZED:
            static = self._read_static(deadline)
        if static is not None and state is TseStates.INITIALIZED:
            if life_cycle == 2:
                self._set_time_at_last(deadline, details)
            clients = self._read_clients(self._status(0, deadline), deadline)
            numbers = self._read_open(deadline)
            self._mark = self._read_mark(static.serial, deadline)
            self._mark_is_known = True
            counter = self._mark.counter
        with contextlib.suppress(DeviceError):
            details["wear_indicator"] = str(self._number(Command.GET_WEAR_INDICATOR, deadline=deadline))
        return TseInfo(
            max_number_of_clients=limits[0],
            current_number_of_clients=len(clients),
            current_client_ids=clients,
            max_number_of_started_transactions=limits[1],
            current_number_of_started_transactions=len(numbers),
            current_started_transaction_numbers=numbers,
            max_number_of_signatures=UNKNOWN,
            current_number_of_signatures=counter,
            max_log_memory_size=limits[2],
            current_log_memory_size=limits[2] - available,
            current_state=state,
            firmware_identification=self._session.firmware,
            certification_identification=limits[3],
            signature_algorithm=static.algorithm if static else "",
            log_time_format=static.time_format if static else "",
            serial_number_octet=static.serial.hex() if static else "",
            public_key_base64=base64.b64encode(static.public_key).decode() if static else "",
            certificates_base64=[base64.b64encode(der).decode() for der in static.certificates]
            if static
            else [],
            info=details,
        )

    def _set_time_at_last(self, deadline: Deadline | None, details: dict[str, str]) -> None:
        """A device without the time gets it as soon as it is seen; if that fails it can be looked at all the same."""
        try:
            self._set_time(deadline)
            details["vendor_state"] = "active"
        except (ScuError, DeviceError) as error:
            log.warning("the time of the TSE cannot be set: %s", error)
            details["time"] = f"not set: {error}"

    @property
    def generation(self) -> int:
        """1 or 2, by the firmware; 2 before the device was seen."""
        return 1 if any(part in self._session.firmware for part in V1_FIRMWARE) else 2

    def self_test(self, deadline: Deadline | None) -> None:
        """Ask the device for a sign of life: this protocol has no self test, the device does one by itself at Start."""
        with self._device():
            self._session.connect(deadline)
            self._session.restart(deadline)
            self._status(4, deadline)

    # ---- transactions -----------------------------------------------------------------------

    def start(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._sign(call, deadline)

    def update(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._sign(call, deadline)

    def finish(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._sign(call, deadline)

    def _sign(self, call: Call, deadline: Deadline | None) -> Signed:
        with self._device():
            arguments = _encoded(call)
            self._set_time_if_due(deadline)
            if not self._mark_is_known:
                self._mark = self._read_mark(self._read_static(deadline).serial, deadline)
                self._mark_is_known = True
            mark = self._mark
            self._marks.write(call, mark)
            try:
                return self._sign_once(call, arguments, mark, deadline)
            except OutcomeUnknown:
                self._mark_is_known = False  # the next call must see what this one did
                self._marks.sync()
                raise

    def _sign_once(
        self, call: Call, arguments: tuple[bytes, bytes, bytes], mark: Mark, deadline: Deadline | None
    ) -> Signed:
        """Have a call signed, and not twice: what is not known to have failed is looked for before it is repeated."""
        done: set[object] = set()
        while True:
            try:
                answer = self._session.transaction(
                    _CODES[call.op], call.transaction_number, *arguments, deadline
                )
                return self._taken(call, answer, mark, deadline)
            except ValueError as error:
                raise ClientError("INVALID_PROCESS_DATA", f"{error}.") from error
            except Replaced:
                raise
            except NotSent:
                if "way" in done or len(done) >= _CORRECTIONS:
                    raise
                done.add("way")
            except Lost as error:
                log.warning("the answer to a %s was lost: %s", call.op, error)
                found = self._look(call, mark, None, deadline, error)
                if found is not None:
                    return found
                if "lost" in done or len(done) >= _CORRECTIONS:
                    raise Unreachable("NO_RESPONSE", f"{error} It was not executed.") from error
                done.add("lost")
            except DeviceError as error:
                found = self._after_refusal(call, mark, error, done, deadline)
                if found is not None:
                    return found
            if deadline is not None and deadline.expired:
                raise Unreachable("DEADLINE", "The deadline passed before the TSE could sign.")

    def _taken(self, call: Call, answer: Signature, mark: Mark, deadline: Deadline | None) -> Signed:
        """Check that an answer belongs to this call, and remember what it says. Raises Garbled."""
        static = self._read_static(deadline)
        number = answer.number if call.op == "start" else call.transaction_number
        if (
            answer.serial != static.serial
            or answer.counter <= mark.counter
            or (call.op == "start" and number <= mark.number)
        ):
            self._session.up = False
            raise Garbled("The TSE gave the answer of another command.")
        signed = Signed(number, answer.counter, from_unix(answer.time), answer.signature)
        return self._noted(call, signed, deadline)

    def _noted(self, call: Call, signed: Signed, deadline: Deadline | None) -> Signed:
        number = signed.transaction_number
        if call.op == "start":
            self._mark = Mark(
                max(self._mark.counter, signed.signature_counter), max(self._mark.number, number)
            )
            self._started[number] = signed.time_stamp
        else:
            self._mark = Mark(max(self._mark.counter, signed.signature_counter), self._mark.number)
        if call.op != "finish":
            return signed
        started = self._started.pop(number, None)
        if started is None:
            started = self._start_time(number, deadline)
        return msgspec.structs.replace(signed, start_time_stamp=started)

    def _start_time(self, number: int, deadline: Deadline | None) -> int | None:
        """When a transaction began, as its log says; None if that is not to be found."""
        try:
            for message in self._transaction_logs(number, deadline):
                if _is(message, "start"):
                    return message.log_time
        except (DeviceError, NotSent, NoAnswer, Garbled) as error:
            log.warning("the start of transaction %d cannot be read: %s", number, error)
        return None

    def _after_refusal(
        self, call: Call, mark: Mark, error: DeviceError, done: set[object], deadline: Deadline | None
    ) -> Signed | None:
        """What follows a result code: the answer that was found all the same, None to send once more; or it raises."""
        remedy = frames.remedy_of(error.result)
        if error.result == Result.CERTIFICATE_EXPIRED:
            if self._options.assume_expired_is_signed:
                found = self._look(call, mark, None, deadline, error)
                if found is not None:
                    log.warning("the certificate of the TSE has expired; the %s was signed", call.op)
                    return found
            raise certificate_expired() from error
        if remedy in (Remedy.REOPEN, Remedy.LOOK, Remedy.NONE):
            found = self._look(call, mark, None, deadline, error)
            if found is not None:
                return found
            remedy = Remedy.LOOK
        if remedy in done or len(done) >= _CORRECTIONS:
            raise _refusal(error, call) from error
        done.add(remedy)
        if remedy is not Remedy.LOOK and not self._correct(remedy, deadline, None, False):
            raise _refusal(error, call) from error
        return None

    # ---- what became of a call --------------------------------------------------------------

    def _look(
        self,
        call: Call,
        mark: Mark | None,
        open_before: frozenset[int] | None,
        deadline: Deadline | None,
        cause: Exception,
    ) -> Signed | None:
        """The answer of a call that was executed, None if it was not. Raises OutcomeUnknown if that stays unknown."""
        try:
            verdict = self._find(call, mark, open_before, deadline)
        except (DeviceError, NotSent, NoAnswer, Garbled) as error:
            raise OutcomeUnknown(
                "NO_RESPONSE",
                f"{cause} Whether it was executed could not be found out: {error}",
                transaction_number=call.transaction_number or None,
            ) from error
        if verdict is Verdict.STILL_UNKNOWN:
            raise OutcomeUnknown(
                "NO_RESPONSE",
                f"{cause} The log of the TSE does not say whether it was executed.",
                transaction_number=call.transaction_number or None,
            )
        return verdict if isinstance(verdict, Signed) else None

    def reconcile(
        self, call: Call, open_before: frozenset[int] | None, deadline: Deadline | None
    ) -> Signed | Verdict:
        with self._device():
            return self._find(call, self._marks.read(call), open_before, deadline)

    def _find(
        self, call: Call, mark: Mark | None, open_before: frozenset[int] | None, deadline: Deadline | None
    ) -> Signed | Verdict:
        """Look for a call in the device's log: the last message, then the transactions that may hold it."""
        serial = self._read_static(deadline).serial
        now_ = self._read_mark(serial, deadline)
        if mark is not None and now_.counter == mark.counter:
            return Verdict.NOT_EXECUTED
        later = self._marks.next_start(call) if call.op == "start" else None
        message = self._last_message(deadline) if later is None else None
        if message is not None and mark is not None and _matches(message, call, mark):
            return self._found(call, message, deadline)
        if call.op == "start":
            return self._find_start(call, mark, open_before, now_, deadline)
        messages = list(self._transaction_logs(call.transaction_number, deadline))
        found = [item for item in messages if _matches(item, call, mark)]
        if found:
            return self._found(call, found[-1], deadline)
        if messages:
            return Verdict.NOT_EXECUTED
        numbers = self._read_open(deadline)
        return Verdict.NOT_EXECUTED if call.transaction_number in numbers else Verdict.STILL_UNKNOWN

    def _find_start(
        self,
        call: Call,
        mark: Mark | None,
        open_before: frozenset[int] | None,
        now_: Mark,
        deadline: Deadline | None,
    ) -> Signed | Verdict:
        if mark is not None:
            # The next number is this call's, unless a later start was still to get it.
            later = self._marks.next_start(call)
            taken = now_.number > mark.number and (later is None or later.number > mark.number)
            candidates = [mark.number + 1] if taken else []
        elif open_before is not None:
            candidates = [number for number in self._read_open(deadline) if number not in open_before]
        else:
            return Verdict.STILL_UNKNOWN
        for number in reversed(candidates):
            for message in self._transaction_logs(number, deadline):
                if _matches(message, call, mark):
                    return self._found(call, message, deadline)
        return Verdict.NOT_EXECUTED

    def _found(self, call: Call, message: LogMessage, deadline: Deadline | None) -> Signed:
        number = message.transaction_number
        assert number is not None
        log.info("the %s of transaction %d was found in the log of the TSE", call.op, number)
        signed = Signed(
            number, message.signature_counter, message.log_time, message.signature, None, message.raw
        )
        return self._noted(call, signed, deadline)

    def _last_message(self, deadline: Deadline | None) -> LogMessage | None:
        try:
            values = self._command(Command.READ_LOG_MESSAGE, deadline=deadline)
            return parse(values[0].data) if values else None
        except (DeviceError, LogMessageError) as error:
            log.debug("the last log message cannot be read: %s", error)
            return None

    def _transaction_logs(self, number: int, deadline: Deadline | None) -> Iterator[LogMessage]:
        """The messages of one transaction, in the order of their counters; none if there are none."""
        archive = io.BytesIO()
        for last in (False, True):
            archive.seek(0)
            archive.truncate()
            try:
                for piece in self._session.stream(
                    Command.EXPORT_DATA, *_selection(number=number), deadline=deadline
                ):
                    archive.write(piece)
                    if archive.tell() > MAX_TRANSACTION_EXPORT:
                        raise Garbled(f"The log of transaction {number} is longer than can be.")
                break
            except DeviceError as error:
                remedy = frames.remedy_of(error.result)
                if remedy is Remedy.NO_DATA:
                    return
                if last or not self._correct(remedy, deadline, None, True):
                    raise
            except (NotSent, *Lost):
                if last:
                    raise
        archive.write(END)
        archive.seek(0)
        found = []
        try:
            for member in read_members(archive):
                if member.name.endswith(".log") and member.data is not None:
                    message = parse(member.data)
                    if message.type is LogType.TRANSACTION and message.transaction_number == number:
                        found.append(message)
        except (TarError, LogMessageError) as error:
            raise Garbled(f"The log of transaction {number} cannot be read: {error}") from error
        yield from sorted(found, key=lambda message: message.signature_counter)

    def recall(self, call: Call) -> Remembered | None:
        raise AssertionError("a driver without memory is not asked")

    # ---- life -------------------------------------------------------------------------------

    def set_state(self, target: TseStates, deadline: Deadline | None) -> None:
        with self._device():
            if target is TseStates.INITIALIZED:
                self._initialize(deadline)
            elif target is TseStates.TERMINATED:
                self._disable(deadline)
            self._reset(deadline)

    def _reset(self, deadline: Deadline | None) -> None:
        """End the session and begin a new one, and look at the device anew."""
        self._session.close()
        self._static = None
        self._limits = None
        self._session.connect(deadline)

    def _initialize(self, deadline: Deadline | None) -> None:
        state = self._status(4, deadline)
        if state in (4, 5):
            raise terminated()
        if state != 1:
            return
        flags = self._value(Command.GET_PIN_STATES, deadline=deadline).data.ljust(4, b"\0")[:4]
        if any(flags):
            self._set_first_pins(flags, deadline)
        with self._logged_in(ADMIN, deadline):
            if self._status(4, deadline) == 1:
                self._command(Command.INITIALIZE, deadline=deadline, user=ADMIN, repeatable=False)
            self._update_time(deadline, ADMIN)

    def _set_first_pins(self, flags: bytes, deadline: Deadline | None) -> None:
        """Give a device in the transport state its secrets, after they were written down."""
        known = self._secrets
        missing = [name for name in pins.DEFAULTS if getattr(known, name) is None]
        if missing:
            raise Misconfigured(
                "NOT_PERSONALISED",
                f"A new TSE is given its PINs and PUKs with the initialisation: set the options {', '.join(missing)} "
                "(and keep them: PUKs can never be changed).",
            )
        sheet = pins.write_recovery_sheet(self._folder, self._session.unique_id, known)
        log.warning("the PINs and PUKs of the TSE are written down in %s: print it, then delete it", sheet)
        values = [
            getattr(known, name) or b""
            for name in ("admin_puk", "admin_pin", "time_admin_puk", "time_admin_pin")
        ]
        if self.generation == 1:
            self._command(
                Command.INITIALIZE_PINS, *map(frames.octets, values), deadline=deadline, repeatable=False
            )
            return
        admin_pin, admin_puk, time_pin, time_puk = flags
        for flag, user in ((admin_puk, ADMIN), (time_puk, TIME_ADMIN)):
            if flag:
                self._command(
                    Command.INITIALIZE_PINS,
                    frames.text(user),
                    frames.octets(known.puk(user) or b""),
                    deadline=deadline,
                    repeatable=False,
                )
        for flag, user in ((admin_pin, ADMIN), (time_pin, TIME_ADMIN)):
            if flag:
                self._unblock(user, deadline)

    def _disable(self, deadline: Deadline | None) -> None:
        state = self._status(4, deadline)
        if state in (4, 5):
            return
        self._set_time(deadline)
        with self._logged_in(ADMIN, deadline):
            try:
                self._command(Command.DISABLE, deadline=deadline, user=ADMIN, repeatable=False)
            except Lost:
                if self._status(4, deadline) != 5:
                    raise

    # ---- clients ----------------------------------------------------------------------------

    def validate_client_id(self, client_id: str) -> None:
        if not _CLIENT_ID.fullmatch(client_id):
            raise ClientError(
                "INVALID_CLIENT_ID",
                f"The client id {client_id!r} must have 1 to 30 characters out of A-Z a-z 0-9 space ' ( ) + , - . =",
            )

    def register(self, client_id: str, deadline: Deadline | None) -> None:
        with self._device():
            serial = self._read_static(deadline).serial
            self._map(client_id, serial, self._options.assume_already_mapped_codes, deadline)

    def unregister(self, client_id: str, deadline: Deadline | None) -> None:
        with self._device():
            self._map(client_id, b"", self._options.assume_not_mapped_codes, deadline)
            self._clients = [known for known in self._clients if known != client_id]

    def _map(
        self, client_id: str, serial: bytes, harmless: tuple[int, ...], deadline: Deadline | None
    ) -> None:
        """Map a client to a key, or to none. Only the list of the device says whether that was done."""
        self._set_time_if_due(deadline)
        with self._logged_in(ADMIN, deadline):
            try:
                self._command(
                    Command.MAP_ERS_TO_KEY,
                    frames.text(client_id),
                    frames.octets(serial),
                    deadline=deadline,
                    user=ADMIN,
                    repeatable=False,
                )
            except (DeviceError, NoAnswer, Garbled) as error:
                registered = client_id in self._read_clients(self._status(0, deadline), deadline)
                if registered == bool(serial):
                    return
                if isinstance(error, DeviceError):
                    if error.result in harmless and not serial:
                        return
                    raise
                self._command(
                    Command.MAP_ERS_TO_KEY,
                    frames.text(client_id),
                    frames.octets(serial),
                    deadline=deadline,
                    user=ADMIN,
                    repeatable=False,
                )

    # ---- exports ----------------------------------------------------------------------------

    def export(self, selection: Selection, out: Sink, turn: Turn) -> int:
        by_time = selection.first_time is not None or selection.last_time is not None
        if selection.by_transaction or by_time:
            if selection.after_counter:
                raise NotSupported(
                    "NOT_IMPLEMENTED", "This TSE filters by counter or by something else, not by both."
                )
            return self._export_at_once(selection, out, turn)
        if not self._options.assume_export_more_data:
            if selection.after_counter:
                raise NotSupported(
                    "NOT_IMPLEMENTED", "Without ExportMoreData there is no export behind a counter."
                )
            return self._export_at_once(selection, out, turn)
        return self._export_in_parts(selection.after_counter, out, turn)

    def _export_at_once(self, selection: Selection, out: Sink, turn: Turn) -> int:
        """One stream from the device; nobody else gets a turn meanwhile. Messages that are out are not asked for again,
        so a stream that breaks off ends the export."""
        merge = Merge(out)
        with turn(), self._device():
            serial = self._read_static(None).serial
            for last in (False, True):
                merge.begin_part()
                try:
                    for piece in self._session.stream(Command.EXPORT_DATA, *_filter(selection)):
                        merge.write(piece)
                    merge.end_part()
                    break
                except DeviceError as error:
                    remedy = frames.remedy_of(error.result)
                    if remedy is Remedy.NO_DATA:
                        self._write_certificates(merge)
                        break
                    if last or merge.logs or not self._correct(remedy, None, None, True):
                        raise TseRejected("EXPORT_FAILED", str(error)) from error
                except (NotSent, *Lost) as error:
                    if last or merge.logs:
                        raise TseRejected("EXPORT_FAILED", f"The export broke off: {error}") from error
            log.debug("the export of TSE %s has %d messages", serial.hex(), merge.logs)
        out.write(END)
        return merge.last_counter

    def _write_certificates(self, merge: Merge) -> None:
        """An archive without messages: what it could be verified with all the same."""
        merge.begin_part()
        merge.write(self._value(Command.GET_CERTIFICATES, deadline=None).data)
        merge.end_part()

    def _export_in_parts(self, after: int, out: Sink, turn: Turn) -> int:
        """Behind each message that is out the next part begins, so whatever breaks off is gone on with."""
        merge = Merge(out, after)
        with turn(), self._device():
            serial = self._read_static(None).serial
            end = self._read_mark(serial, None).counter
        at = after
        fixed = self._options.export_chunk_records
        chunk = fixed or FIRST_CHUNK
        failures = asked = 0
        while at < end:
            began = self._monotonic()
            before = at
            try:
                with turn(), self._device():
                    began = self._monotonic()
                    asked = max(asked, min(chunk, end - at))
                    complete = self._export_part(serial, at, asked, merge)
            except (Unreachable, OutcomeUnknown) as error:
                at = max(at, merge.last_counter)
                failures = 1 if at > before else failures + 1
                if failures > 5:
                    raise TseRejected("EXPORT_FAILED", f"The export broke off: {error.message}") from error
                log.warning("the export goes on behind counter %d: %s", at, error)
                chunk = max(1, chunk // 2) if not fixed else chunk
                continue
            failures = 0
            if complete is None:
                # No more counters are passed over than were asked for.
                wide = min(max(chunk, self._options.assume_missing_step), end - at)
                if asked < wide:
                    asked = wide
                else:
                    at += asked
                    asked = min(asked, end - at)
                continue
            asked = 0
            at = max(at, merge.last_counter)
            if at == before:
                raise TseRejected("EXPORT_FAILED", f"The TSE gives no message behind counter {at}.")
            if not fixed:
                chunk = self._next_chunk(chunk, merge.part_logs, self._monotonic() - began)
        if not merge.logs:
            with turn(), self._device():
                self._write_certificates(merge)
        out.write(END)
        return merge.last_counter if merge.logs else 0

    def _next_chunk(self, chunk: int, logs: int, seconds: float) -> int:
        wanted = self._options.export_turn_ms / 1000
        fitting = int(logs * wanted / seconds) if seconds > 0 else 2 * chunk
        return max(10, min(fitting, 2 * chunk, 10_000))

    def _export_part(self, serial: bytes, after: int, count: int, merge: Merge) -> bool | None:
        """One part. False if it was given up because others wait too long, None if there is nothing in it."""
        limit = self._monotonic() + 4 * self._options.export_turn_ms / 1000
        for last in (False, True):
            merge.begin_part()
            stream = self._session.stream(
                Command.EXPORT_MORE_DATA, frames.octets(serial), frames.number(after), frames.number(count)
            )
            try:
                with contextlib.closing(stream):
                    for piece in stream:
                        merge.write(piece)
                        if merge.part_logs and self._monotonic() > limit:
                            return False
                merge.end_part()
                return True
            except DeviceError as error:
                remedy = frames.remedy_of(error.result)
                if remedy is Remedy.NO_DATA:
                    return None
                if merge.part_logs:
                    return False
                if not last and self._correct(remedy, None, None, True):
                    continue
                if remedy in _PASSING:
                    raise NoAnswer(str(error)) from error
                raise
        raise AssertionError

    def erase(self, last_counter: int, deadline: Deadline | None) -> None:
        if not self._options.assume_delete_up_to:
            raise TseRejected(
                "ERASE_FAILED", "Nothing is erased, because the option 'assume_delete_up_to' is off."
            )
        with self._device():
            serial = self._read_static(deadline).serial
            before = self._status(6, deadline)
            with self._logged_in(ADMIN, deadline):
                try:
                    self._command(
                        Command.DELETE_DATA_UP_TO,
                        frames.octets(serial),
                        frames.number(last_counter),
                        deadline=deadline,
                        user=ADMIN,
                        repeatable=False,
                    )
                except Lost as error:
                    if self._status(6, deadline) <= before:
                        raise TseRejected("ERASE_FAILED", f"The log was not erased: {error}") from error
                except DeviceError as error:
                    raise TseRejected(
                        "ERASE_FAILED", str(error), vendor_code=f"{error.result:#06x}"
                    ) from error

    # ---- upkeep -----------------------------------------------------------------------------

    def _keep(self) -> None:
        """Keep the device awake and its time right while nobody else uses it."""
        pause = 1.0
        alive = self._options.keep_alive_s
        if self._guard is not None and alive:
            pause = min(pause, alive)
        while not self._stop.wait(pause):
            if not self._lock.acquire(blocking=False):
                continue
            try:
                self._tend()
            except ScuError as error:
                log.warning("the upkeep of the TSE failed: %s", error)
            except Exception:
                log.exception("the upkeep of the TSE failed")
            finally:
                self._lock.release()

    def _tend(self) -> None:
        idle = time.monotonic() - self._session.last_used
        if self._guard is not None and self._session.up and idle >= self._options.keep_alive_s:
            self._guard()
            self._session.last_used = time.monotonic()
        static = self._static
        if static is None or self._next_sync is None or not self._options.background_time_sync:
            return
        if self._monotonic() >= self._next_sync - (1 - SYNC_AT) * static.sync_interval_s:
            with self._device():
                try:
                    self._set_time(Deadline(10.0))
                except BaseException:
                    self._next_sync = self._monotonic() + static.sync_interval_s
                    raise

    def close(self) -> None:
        self._stop.set()
        if self._keeper is not None and self._keeper is not threading.current_thread():
            self._keeper.join(10.0)
        with self._lock:
            self._session.close()
            self._close_transport()
            self._marks.close()


# ---- values -----------------------------------------------------------------------------------


def _encoded(call: Call) -> tuple[bytes, bytes, bytes]:
    """Client, data and type as bytes. Raises ``ClientError`` INVALID_PROCESS_DATA."""
    try:
        client, type_ = call.client_id.encode("ascii"), call.process_type.encode("ascii")
    except UnicodeEncodeError as error:
        raise ClientError(
            "INVALID_PROCESS_DATA", "Client id and ProcessType are ASCII on this TSE."
        ) from error
    if call.transaction_number > _ALL:
        raise transaction_not_open(call.transaction_number)
    return client, call.process_data, type_


def _is(message: LogMessage, op: str) -> bool:
    operation = (message.operation or "").lower()
    return message.type is LogType.TRANSACTION and operation in (_OPERATIONS[op], op)


def _matches(message: LogMessage, call: Call, mark: Mark | None) -> bool:
    """Whether a message is what this call would have had signed."""
    return (
        _is(message, call.op)
        and message.client_id == call.client_id
        and (message.process_data or b"") == call.process_data
        and (message.process_type or "") == call.process_type
        and (call.op == "start" or message.transaction_number == call.transaction_number)
        and (mark is None or message.signature_counter > mark.counter)
        and (mark is None or call.op != "start" or message.transaction_number == mark.number + 1)
    )


def _selection(
    client_id: str = "",
    number: int = _ALL,
    first: int = 0,
    last: int = _ALL,
    since: int | None = None,
    until: int | None = None,
) -> tuple[tuple[int, bytes], ...]:
    """The parameters of ExportData; times in seconds since 1970."""
    if since is None and until is None:
        times = (frames.number(0), frames.number(_ALL))
    else:
        times = (frames.number(since or 0, 8), frames.number(_ALL if until is None else until, 8))
    return (
        frames.text(client_id),
        frames.number(number),
        frames.number(first),
        frames.number(last),
        *times,
        frames.number(0),
    )


def _filter(selection: Selection) -> tuple[tuple[int, bytes], ...]:
    try:
        client_id = selection.client_id or ""
        client_id.encode("ascii")
    except UnicodeEncodeError as error:
        raise client_not_registered(selection.client_id or "") from error
    first, last = selection.first_number, selection.last_number
    single = first is not None and first == last
    return _selection(
        client_id,
        number=min(first, _ALL) if single and first is not None else _ALL,
        first=0 if single else min(first or 0, _ALL),
        last=_ALL if single or last is None else min(last, _ALL),
        since=_first_second(selection.first_time),
        until=_last_second(selection.last_time),
    )


def _first_second(ticks: int | None) -> int | None:
    """The first whole second that is not before a moment."""
    if ticks is None:
        return None
    seconds = to_unix(ticks)
    return max(0, seconds if from_unix(seconds) == ticks else seconds + 1)


def _last_second(ticks: int | None) -> int | None:
    return None if ticks is None else max(0, to_unix(ticks))


def _point(data: bytes) -> bytes:
    """The point of a public key out of what the device gives; empty if it is none."""
    if len(data) in (65, 97) and data[0] == 4:
        return data
    if len(data) == 254 and data[188] == 4:
        return data[188:253]
    with contextlib.suppress(ValueError, TypeError):
        key = load_der_public_key(data)
        if isinstance(key, ec.EllipticCurvePublicKey):
            return point_of(key)
    return b""


def _algorithm_name(data: bytes) -> str:
    """The name of an algorithm from DER SEQUENCE{OID}."""
    if len(data) > 4 and data[0] == 0x30 and data[2] == 0x06:
        algorithm = algorithm_by_oid(data[4 : 4 + data[3]])
        if algorithm is not None:
            return algorithm.name
    raise Garbled(f"The TSE signs with {data.hex()}, which no algorithm is called.")


def _certificates(archive: bytes) -> list[bytes]:
    """The certificates of the device in DER, in their order."""
    found = []
    try:
        for member in read_members(io.BytesIO(archive + END)):
            if member.data is not None and member.name.rsplit(".", 1)[-1].lower() in (
                "cer",
                "crt",
                "pem",
                "der",
            ):
                found += [item.public_bytes(Encoding.DER) for item in load_certificates(member.data)]
    except (TarError, CertificateError) as error:
        raise Garbled(f"The certificates of the TSE cannot be read: {error}") from error
    return found


def _refusal(error: DeviceError, call: Call | None = None) -> ScuError:
    """The contract's error for a result code."""
    code = error.result
    vendor = f"{code:#06x}"
    if call is not None:
        if code == Result.NO_TRANSACTION:
            return transaction_not_open(call.transaction_number)
        if code == Result.NO_ERS:
            return client_not_registered(call.client_id)
    if code == Result.NOT_INITIALIZED:
        return wrong_state(TseStates.UNINITIALIZED)
    if code in (Result.DISABLED, Result.DEACTIVATED):
        return wrong_state(TseStates.TERMINATED)
    if code == Result.CERTIFICATE_EXPIRED:
        return certificate_expired()
    name, text = {
        Result.TIME_NOT_SET: ("TIME_NOT_SET", "The TSE does not know the time, and it could not be set."),
        Result.START_TRANSACTION_FAILED: (
            "TRANSACTION_LIMIT",
            "The TSE starts no transaction: too many are open, or its memory is full.",
        ),
        Result.NO_STORAGE: ("MEMORY_FULL", "The memory of the TSE is full: export and erase its log."),
        Result.NOT_AUTHENTICATED: ("AUTH_FAILED", "The TSE wants a user who is logged in."),
        Result.NOT_AUTHORIZED: ("AUTH_FAILED", "The TSE does not allow this to the user."),
        Result.STORAGE_FAILURE: ("DEVICE_FAILURE", "The memory of the TSE is defective: replace it."),
    }.get(Result(code) if code in Result._value2member_map_ else Result.CALLBACK, ("VENDOR_ERROR", ""))
    return TseRejected(name, f"{text} {error}".strip(), vendor_code=vendor)
