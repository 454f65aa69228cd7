"""The state of a Diebold Nixdorf TSE, and what it does: the same for the frame protocol and the web service.

Signatures and log are the software TSE's, on brainpoolP384r1. Codes are those of the frame protocol, which the web
service translates.
"""

from __future__ import annotations

import contextlib
import enum
import hmac
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from fiskal.clock import TICKS_PER_SECOND, Clock, now, to_unix
from fiskal.files import write_atomically
from fiskal.scu.contract import TseStates
from fiskal.scu.driver import Call, Op, Selection, Signed
from fiskal.scu.errors import ClientError, ScuError
from fiskal.scu.software import log as records
from fiskal.scu.software.access import ROLES, UserId
from fiskal.scu.software.se_api import SeClock
from fiskal.scu.software.tse import SoftwareTse
from fiskal.simulators.diebold_nixdorf.faults import FAULTS, TIMES
from fiskal.simulators.diebold_nixdorf.settings import MANAGEMENT_CLIENT, PRODUCTION_CLIENT, Settings
from fiskal.simulators.plan import Conductor, Fault
from fiskal.tse.encode_events import AuthenticationResult, LogOutCause, UnblockResult
from fiskal.tse.logmessage import build_file_name, parse
from fiskal.tse.tar import Sink, write_archive

ADMIN: Final = "1"
TIME_ADMIN: Final = "2"
PIN_TRIES: Final = 3
MAX_CLIENT_ID_CHARACTERS: Final = 30
CLIENT_ID_CHARACTERS: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789()+,-.:? "
)
_USERS: Final = {ADMIN: UserId.ADMIN, TIME_ADMIN: UserId.TIME_ADMIN}


class Code(enum.IntEnum):
    """What command 001 tells of the last command."""

    OK = 0x0000
    FAIL = 0x0001
    POWER_FAIL = 0x0002
    UNKNOWN_CMD = 0x0003
    CMD_TOO_LONG = 0x0004
    CMD_FOOTER_ERROR = 0x0005
    CMD_WRONG_ORDER = 0x0006
    PARA_COUNT_ERROR = 0x0007
    PARA_VALUE_ERROR = 0x0008
    DEVICE_NOT_INITIALIZED = 0x0100
    TIME_NOT_SET = 0x0101
    CERTIFICATE_EXPIRED = 0x0102
    DEVICE_DISABLED = 0x0103
    COMMAND_FAILED = 0x0104
    STORAGE_FAILURE = 0x0107
    NO_TRANSACTION = 0x0108
    CLIENT_ID_NOT_SET = 0x010A
    NO_DATA_AVAILABLE = 0x010B
    SELF_TEST_REQUIRED = 0x010C
    NO_LOG_MESSAGE = 0x010D
    USER_NOT_AUTHORIZED = 0x0110
    USER_NOT_AUTHENTICATED = 0x0111
    USER_ID_NOT_MANAGED = 0x0112
    CLIENT_NOT_REGISTERED = 0x0115
    MAX_PARALLEL_TRANSACTIONS_REACHED = 0x0117
    MAX_SIGNATURES_REACHED = 0x0118
    MAX_REGISTERED_CLIENTS_REACHED = 0x0119
    CLIENT_HAS_UNFINISHED_TRANSACTIONS = 0x011A
    DEVICE_HAS_UNFINISHED_TRANSACTIONS = 0x011B
    EXPORT_BUFFER = 0x011C


class Refused(Exception):
    """The device does not do it. ``code`` is an int because a fault may name one that nobody knows."""

    def __init__(self, code: int) -> None:
        super().__init__(f"{code:04X}")
        self.code = code


_REFUSALS: Final = {
    "CLIENT_NOT_REGISTERED": Code.CLIENT_NOT_REGISTERED,
    "TRANSACTION_NOT_OPEN": Code.NO_TRANSACTION,
    "TRANSACTION_LIMIT": Code.MAX_PARALLEL_TRANSACTIONS_REACHED,
    "SIGNATURE_LIMIT": Code.MAX_SIGNATURES_REACHED,
    "CLIENT_LIMIT": Code.MAX_REGISTERED_CLIENTS_REACHED,
    "CLIENT_HAS_OPEN_TRANSACTIONS": Code.CLIENT_HAS_UNFINISHED_TRANSACTIONS,
    "OPEN_TRANSACTIONS": Code.DEVICE_HAS_UNFINISHED_TRANSACTIONS,
    "MEMORY_FULL": Code.STORAGE_FAILURE,
    "INVALID_CLIENT_ID": Code.PARA_VALUE_ERROR,
    "INVALID_PROCESS_DATA": Code.PARA_VALUE_ERROR,
}


class Engine(SoftwareTse):
    """The software TSE with the client ids of this family."""

    def validate_client_id(self, client_id: str) -> None:
        if not 1 <= len(client_id) <= MAX_CLIENT_ID_CHARACTERS or not set(client_id) <= CLIENT_ID_CHARACTERS:
            raise ClientError("INVALID_CLIENT_ID", f"{client_id!r} is no client id.")

    def open_numbers(self, client_id: str | None) -> list[int]:
        """The open transactions, of one client if it is given."""
        return [number for number, (owner, _) in self._open.items() if client_id in (None, owner)]


class User(msgspec.Struct):
    pin: str
    tries: int = PIN_TRIES


class Persistent(msgspec.Struct):
    """What survives the loss of power, beside the log."""

    users: dict[str, User]
    puk: str
    puk_tries: int = PIN_TRIES
    clients: list[str] = []
    """Registered before the device was initialised."""


class Login(enum.IntEnum):
    """The first value a login answers with."""

    OK = 1
    WRONG = 2
    BLOCKED = 3


class Device:
    """One TSE. Whoever speaks to it holds :attr:`lock` for a command."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock = now,
        wait: Callable[[float], None] | None = None,
    ) -> None:
        self.settings = settings
        self.lock = threading.RLock()
        self._clock = clock
        options = {} if wait is None else {"wait": wait}
        self.conductor = Conductor(
            "diebold-nixdorf",
            faults=FAULTS,
            default_times=TIMES,
            plan=settings.plan,
            control=None if settings.control is None else Path(settings.control),
            **options,
        )
        self._temporary = tempfile.mkdtemp(prefix="fiskal-dn-") if settings.folder is None else None
        self._base = Path(self._temporary or settings.folder or "")
        self._which = 0
        self.current: str | None = None
        self._open(self._base)

    def _open(self, folder: Path) -> None:
        settings = self.settings
        self._folder = folder
        self._time = SeClock(self._clock)
        self.tse = Engine(
            folder / "tse",
            curve="brainpoolP384r1",
            clock=self._time,
            max_clients=settings.max_clients,
            max_open_transactions=settings.max_open_transactions,
            max_signatures=settings.max_signatures,
            max_log_memory_bytes=settings.memory_bytes,
        )
        self._time.stand_at(self.tse.created)
        path = folder / "device.json"
        is_new = not path.exists()
        if is_new:
            self.kept = Persistent(
                users={ADMIN: User(settings.admin_pin), TIME_ADMIN: User(settings.time_admin_pin)},
                puk=settings.puk,
                clients=[PRODUCTION_CLIENT],
            )
        else:
            self.kept = msgspec.json.decode(path.read_bytes(), type=Persistent)
        self.power_up()
        if is_new:
            if settings.initialized and settings.management_client:
                self.kept.clients.append(MANAGEMENT_CLIENT)
            self.kept.clients += [client for client in settings.clients if client not in self.kept.clients]
            if settings.initialized:
                self._initialize("")
            self._keep()

    def _keep(self) -> None:
        write_atomically(self._folder / "device.json", msgspec.json.encode(self.kept), 0o600)

    def close(self) -> None:
        """Switch the device off."""
        with self.lock:
            self.tse.close()
            if self._temporary is not None:
                shutil.rmtree(self._temporary, ignore_errors=True)

    # ---- power ------------------------------------------------------------------------------------

    def power_up(self) -> None:
        """The state after the device was plugged in."""
        with self.lock:
            self.asb = self.settings.asb
            self._time.put_back(None)
            self._tested_until: int | None = None
            self.logged_in: set[str] = set()
            self.current = None
            self.exported: tuple[int, int] | None = None
            """Length of the archive that was exported last, and its last counter."""
            self.ups = getattr(self, "ups", 0) + 1

    def exchange(self) -> None:
        """Put another device into the place of this one, and the other way round."""
        with self.lock:
            self.tse.close()
            self._which = 1 - self._which
            self._open(self._base / "other" if self._which else self._base)

    @property
    def serial(self) -> bytes:
        return self.tse.chain.serial

    @property
    def time_valid(self) -> bool:
        return self._time.is_set

    def lose_time(self) -> None:
        self._time.put_back(None)

    @property
    def self_test_in_s(self) -> int:
        """Seconds until the next self test, 0 if it is due."""
        if self._tested_until is None:
            return 0
        return max(0, (self._tested_until - self._clock()) // TICKS_PER_SECOND)

    def expire_self_test(self) -> None:
        self._tested_until = None

    @property
    def initialized(self) -> bool:
        return self.tse.state is TseStates.INITIALIZED

    @property
    def disabled(self) -> bool:
        return self.tse.state is TseStates.TERMINATED

    @property
    def clients(self) -> list[str]:
        if self.tse.state is TseStates.UNINITIALIZED:
            return list(self.kept.clients)
        return list(self.tse.clients)

    @property
    def certificate_expired(self) -> bool:
        return self._time.is_set and self.tse.now() > self.tse.valid_until

    @property
    def free_bytes(self) -> int:
        info = self.tse.info(None)
        return max(0, info.max_log_memory_size - info.current_log_memory_size)

    def now(self) -> int:
        """The host's time in ticks."""
        return self._clock()

    def fault(self, command: str) -> Fault | None:
        """The fault of this command; what changes the device itself has happened by now."""
        fault = self.conductor.fault(command)
        if fault is not None:
            with self.lock:
                if fault.kind == "time_lost":
                    self.lose_time()
                elif fault.kind == "self_test_expired":
                    self.expire_self_test()
        return fault

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except ScuError as error:
            raise Refused(_REFUSALS.get(error.code, Code.COMMAND_FAILED)) from error

    # ---- users ----------------------------------------------------------------------------------

    def check_pin(self, user: str, pin: str) -> tuple[Login, int]:
        """Compare a PIN; three wrong ones block the user. Logged as every attempt."""
        if user not in self.kept.users:
            raise Refused(Code.USER_ID_NOT_MANAGED)
        known = self.kept.users[user]
        if known.tries <= 0:
            outcome = Login.BLOCKED
        elif hmac.compare_digest(known.pin.encode(), pin.encode()):
            outcome = Login.OK
            known.tries = PIN_TRIES
        else:
            outcome = Login.WRONG
            known.tries -= 1
        if self.settings.one_pin_counter:
            for other in self.kept.users.values():
                other.tries = known.tries
        self._keep()
        return outcome, known.tries

    def log_in(self, user: str, pin: str) -> tuple[Login, int]:
        outcome, tries = self.check_pin(user, pin)
        if outcome is Login.OK:
            self.logged_in.add(user)
        if not self.disabled:
            name = _USERS[user].value
            result = {
                Login.OK: AuthenticationResult.SUCCESS,
                Login.WRONG: AuthenticationResult.INCORRECT_PIN,
                Login.BLOCKED: AuthenticationResult.PIN_BLOCKED,
            }[outcome]
            with self._refusals():
                self.tse.write_event(
                    self.tse.events.authenticate_user(name, ROLES[_USERS[user]], result, tries), user=name
                )
        return outcome, tries

    def log_out(self, user: str) -> bool:
        """False if the user was not logged in."""
        if user not in self.logged_in:
            return False
        self.logged_in.discard(user)
        if not self.disabled:
            name = _USERS[user].value
            with self._refusals():
                self.tse.write_event(self.tse.events.log_out(name, LogOutCause.USER_CALLED), user=name)
        return True

    def unblock(self, user: str, puk: str, pin: str) -> tuple[Login, int]:
        """Set a PIN with the PUK; three wrong PUKs and it never works again."""
        if user not in self.kept.users:
            raise Refused(Code.USER_ID_NOT_MANAGED)
        if self.kept.puk_tries <= 0:
            outcome = Login.BLOCKED
        elif hmac.compare_digest(self.kept.puk.encode(), puk.encode()):
            outcome = Login.OK
            self.kept.puk_tries = PIN_TRIES
            self.kept.users[user] = User(pin)
        else:
            outcome = Login.WRONG
            self.kept.puk_tries -= 1
        self._keep()
        if not self.disabled:
            result = {
                Login.OK: UnblockResult.SUCCESS,
                Login.WRONG: UnblockResult.INCORRECT_PUK,
                Login.BLOCKED: UnblockResult.TEMPORARILY_BLOCKED,
            }[outcome]
            with self._refusals():
                name = _USERS[user].value
                self.tse.write_event(self.tse.events.unblock(name, result), user=name)
        return outcome, self.kept.puk_tries

    def change_pin(self, user: str, pin: str) -> None:
        self.kept.users[user] = User(pin)
        self._keep()

    def change_puk(self, old: str, new: str) -> tuple[Login, int]:
        if self.kept.puk_tries <= 0:
            return Login.BLOCKED, 0
        if not hmac.compare_digest(self.kept.puk.encode(), old.encode()):
            self.kept.puk_tries -= 1
            self._keep()
            return Login.WRONG, self.kept.puk_tries
        self.kept.puk = new
        self.kept.puk_tries = PIN_TRIES
        self._keep()
        return Login.OK, PIN_TRIES

    # ---- life -------------------------------------------------------------------------------------

    def initialize(self, description: str) -> None:
        if self.tse.state is not TseStates.UNINITIALIZED:
            raise Refused(Code.COMMAND_FAILED)
        self._initialize(description)

    def _initialize(self, description: str) -> None:
        with self._refusals():
            events = self.tse.events
            self.tse.write_event(events.start_audit(), user=None)
            self.tse.write_event(events.initialize(description), records.OP_INITIALIZE, subject=description)
            for client in self.kept.clients:
                self.tse.register(client, None)

    def disable(self) -> None:
        with self._refusals():
            if self.tse.open_transactions:
                raise Refused(Code.DEVICE_HAS_UNFINISHED_TRANSACTIONS)
            self.tse.set_state(TseStates.TERMINATED, None)

    def set_time(self, ticks: int, user: str) -> None:
        before = self.tse.now_ms()
        previous = self._time.set(ticks)
        try:
            with self._refusals():
                self.tse.update_time(user=_USERS[user].value, before_ms=before)
        except Refused:
            self._time.put_back(previous)
            raise

    def self_test(self) -> bool:
        """Test the device; whether it passed."""
        if self.tse.state is TseStates.UNINITIALIZED:
            passed = True
        else:
            with self._refusals():
                results = self.tse.run_self_test(log_success=not self.disabled)
            passed = all(result.passed for result in results)
        if passed:
            self._tested_until = self._clock() + self.settings.self_test_interval_s * TICKS_PER_SECOND
        return passed

    def factory_reset(self) -> None:
        """Forget everything: a developer's device only."""
        self.tse.close()
        shutil.rmtree(self._folder / "tse")
        (self._folder / "device.json").unlink(missing_ok=True)
        self._open(self._folder)

    # ---- clients and transactions -------------------------------------------------------------------

    def register(self, client: str) -> None:
        with self._refusals():
            self.tse.validate_client_id(client)
            if self.tse.state is TseStates.UNINITIALIZED:
                if client not in self.kept.clients:
                    if len(self.kept.clients) >= self.settings.max_clients:
                        raise Refused(Code.MAX_REGISTERED_CLIENTS_REACHED)
                    self.kept.clients.append(client)
                    self._keep()
                return
            self.tse.register(client, None)

    def deregister(self, client: str) -> None:
        if client == PRODUCTION_CLIENT:
            raise Refused(Code.PARA_VALUE_ERROR)
        with self._refusals():
            if self.tse.state is TseStates.UNINITIALIZED:
                if client in self.kept.clients:
                    self.kept.clients.remove(client)
                    self._keep()
                return
            self.tse.unregister(client, None)

    def transaction(self, op: Op, client: str, number: int, process_type: str, data: bytes) -> Signed:
        """Sign; raises CERTIFICATE_EXPIRED behind it, as a TSE does that stores first and reports then."""
        call = Call(op, client, number, process_type, data, "")
        with self._refusals():
            if op == "start":
                signed = self.tse.start(call, None)
            elif op == "update":
                signed = self.tse.update(call, None)
            else:
                signed = self.tse.finish(call, None)
        return signed

    # ---- the log ----------------------------------------------------------------------------------

    def export(self, out: Sink) -> int:
        """Write the whole log; return its last counter. The bytes of two exports differ only in what was added."""
        last = 0

        def messages() -> Iterator[tuple[str, bytes]]:
            nonlocal last
            for counter, message in self.tse.messages():
                last = counter
                yield build_file_name(parse(message)), message

        write_archive(
            out,
            info=self.tse.info_csv(),
            chain=self.tse.chain,
            messages=messages(),
            mtime=to_unix(self.tse.created),
        )
        return last

    def export_part(self, out: Sink, selection: Selection) -> int:
        if self.tse.count(selection, 1) == 0:
            raise Refused(Code.NO_DATA_AVAILABLE)
        return self.tse.export(selection, out, contextlib.nullcontext)

    def last_message(self) -> bytes:
        record = self.tse.last_record()
        if record is None:
            raise Refused(Code.NO_LOG_MESSAGE)
        return record.message

    def erase(self, size: int) -> bool:
        """Delete what was exported; False unless ``size`` is that of the last export and nothing came after it."""
        if self.exported is None or self.exported[0] != size or self.exported[1] != self.tse.counter:
            return False
        with self._refusals():
            self.tse.erase(self.exported[1], None)
        self.exported = None
        return True
