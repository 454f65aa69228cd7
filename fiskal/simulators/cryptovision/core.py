"""The simulated device: its commands, in the order of checks of the original, over a log with genuine signatures.

Everything here happens in no time; when an answer can be seen is the mailbox's business.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final, Literal

import msgspec

from fiskal.clock import Clock, from_unix, now, to_unix
from fiskal.scu.contract import TseStates
from fiskal.scu.driver import Call, Op, Selection, Signed
from fiskal.scu.errors import ScuError
from fiskal.scu.software import log as records
from fiskal.scu.software.se_api import SeClock
from fiskal.scu.software.tse import SoftwareTse
from fiskal.simulators.cryptovision import state as device_state
from fiskal.simulators.cryptovision import wire
from fiskal.simulators.cryptovision.state import ADMIN, PIN_BYTES, PUK_BYTES, RETRIES, TIME_ADMIN, User
from fiskal.simulators.cryptovision.wire import OCTETS, SHORT, TEXT, BadCommand
from fiskal.tse.encode_events import (
    AuthenticationResult,
    LogOutCause,
    Role,
    UnblockResult,
    serial_numbers,
    tlv,
)
from fiskal.tse.logmessage import build_file_name, parse
from fiskal.tse.tar import TarWriter, certificate_name, read_members

MAX_CLIENTS: Final = 128
MAX_OPEN_TRANSACTIONS: Final = 512
TOTAL_LOG_MEMORY: Final = 2_751_462_912
MAX_CLIENT_ID_BYTES: Final = 30
LOGIN_S: Final = {ADMIN: 600.0, TIME_ADMIN: 2.0}
_NO_NUMBER: Final = 0xFFFFFFFF
_ALL: Final = 1 << 62

COMMANDS: Final[dict[int, str]] = {
    0x00: "start",
    0x01: "get_pin_states",
    0x02: "initialize_pins",
    0x03: "authenticate_user",
    0x04: "unblock_user",
    0x05: "logout",
    0x06: "initialize",
    0x07: "update_time",
    0x08: "get_serial_numbers",
    0x09: "map_ers_to_key",
    0x0A: "start_transaction",
    0x0B: "update_transaction",
    0x0C: "finish_transaction",
    0x0D: "export_data",
    0x0E: "get_certificates",
    0x0F: "read_log_message",
    0x10: "erase",
    0x11: "get_config_data",
    0x12: "get_status",
    0x13: "deactivate",
    0x14: "activate",
    0x15: "disable",
    0x16: "export_more_data",
    0x17: "get_ers_mappings",
    0x18: "get_key_data",
    0x19: "get_wear_indicator",
    0x1B: "delete_data_up_to",
    0xFF: "shutdown",
}

_SHAPES: Final[dict[str, tuple[tuple[int, ...], ...]]] = {
    "initialize_pins": ((OCTETS, OCTETS, OCTETS, OCTETS), (TEXT, OCTETS)),
    "authenticate_user": ((TEXT, OCTETS),),
    "unblock_user": ((TEXT, OCTETS, OCTETS),),
    "logout": ((TEXT,),),
    "update_time": ((OCTETS,),),
    "map_ers_to_key": ((TEXT, OCTETS),),
    "start_transaction": ((TEXT, OCTETS, TEXT, OCTETS),),
    "update_transaction": ((OCTETS, TEXT, OCTETS, TEXT),),
    "finish_transaction": ((OCTETS, TEXT, OCTETS, TEXT, OCTETS),),
    "export_data": ((TEXT, OCTETS, OCTETS, OCTETS, OCTETS, OCTETS, OCTETS),),
    "get_config_data": ((SHORT,),),
    "get_status": ((SHORT,),),
    "export_more_data": ((OCTETS, OCTETS, OCTETS),),
    "get_key_data": ((SHORT, OCTETS),),
    "delete_data_up_to": ((OCTETS, OCTETS),),
}

_ANY_STATE: Final = frozenset(
    {
        "start",
        "get_pin_states",
        "authenticate_user",
        "logout",
        "get_serial_numbers",
        "export_data",
        "export_more_data",
        "get_certificates",
        "read_log_message",
        "get_config_data",
        "get_status",
        "get_ers_mappings",
        "get_key_data",
        "get_wear_indicator",
        "shutdown",
    }
)
"""What a disabled device still does; a deactivated one does this and can be activated or unblocked."""
_INITIALIZED: Final = frozenset(
    {
        "update_time",
        "get_serial_numbers",
        "map_ers_to_key",
        "start_transaction",
        "update_transaction",
        "finish_transaction",
        "get_certificates",
        "erase",
        "deactivate",
        "activate",
        "disable",
        "get_key_data",
        "delete_data_up_to",
    }
)
_ADMIN: Final = frozenset({ADMIN})
_USERS: Final[dict[str, frozenset[str]]] = {
    "initialize": _ADMIN,
    "update_time": frozenset({ADMIN, TIME_ADMIN}),
    "map_ers_to_key": _ADMIN,
    "erase": _ADMIN,
    "deactivate": _ADMIN,
    "activate": _ADMIN,
    "disable": _ADMIN,
    "delete_data_up_to": _ADMIN,
}
_TRANSACTIONS: Final = frozenset({"start_transaction", "update_transaction", "finish_transaction"})
_NEEDS_TIME: Final = _TRANSACTIONS | {"map_ers_to_key", "disable", "deactivate"}


class Quirks(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What some devices do differently, and what is only assumed of all of them."""

    ers_bad_length: bool = False
    """The lengths in the client mappings are wrong."""
    open_tx_bad_length: bool = False
    """The open transactions announce four bytes more than there are."""
    pubkey_254: bool = False
    """The public key comes within 254 bytes."""
    random_token: bool = False
    """Answers carry a random token instead of zeros."""
    short_numbers: bool = False
    """Numbers come in as few bytes as they need."""
    blanks_in_names: bool = False
    """Names of log files have blanks around their dashes."""
    counted_chunks: bool = False
    """ExportMoreData gives the next N messages that there are; without, those of the next N counters (inferred)."""
    no_delete_up_to: bool = False
    """The device does not know DeleteDataUpTo."""
    signs_when_expired: bool = False
    """With an expired certificate a transaction is signed, and reported as an error (inferred)."""
    answers_suspended: bool = False
    """Commands are answered although nobody disabled the suspend mode (inferred: they are not)."""


class Refused(Exception):
    """A result code in place of an answer."""

    def __init__(self, code: int) -> None:
        super().__init__(f"{code:#06x}")
        self.code = code


class Stream:
    """Bytes that are fetched frame by frame; ``head`` is part of the first one. ``fetched`` is called with the last."""

    def __init__(
        self, head: bytes, body: IO[bytes], total: int, fetched: Callable[[], None] = lambda: None
    ) -> None:
        self._head = head
        self._body = body
        self._left = total
        self._fetched = fetched

    def frame(self) -> bytes:
        data = self._head + self._body.read(min(self._left, wire.FRAME - len(self._head)))
        self._left -= len(data) - len(self._head)
        self._head = b""
        if self.ended:
            self._fetched()
        return data

    @property
    def ended(self) -> bool:
        return self._left <= 0

    def close(self) -> None:
        self._body.close()


class _Reader:
    """Goes through the messages behind ``after``; can be looked ahead of, and be kept for the next part."""

    def __init__(self, tse: SoftwareTse, after: int) -> None:
        self.after = after
        self._messages = tse.messages(after + 1)
        self._ahead: tuple[int, bytes] | None = None

    def peek(self) -> tuple[int, bytes] | None:
        if self._ahead is None:
            self._ahead = next(self._messages, None)
        return self._ahead

    def take(self) -> None:
        assert self._ahead is not None
        self.after, self._ahead = self._ahead[0], None


class Core:
    """One device. Used by one thread at a time.

    ``directory`` keeps everything; ``clock`` is the world's, ``monotonic`` counts for automatic logouts.
    """

    def __init__(
        self,
        directory: Path,
        *,
        generation: Literal[1, 2] = 2,
        quirks: Quirks | None = None,
        total_log_memory: int = TOTAL_LOG_MEMORY,
        time_sync_interval_s: int = 86_400,
        certification: str = "BSI-K-TR-0000-2020",
        durable: bool = False,
        clock: Clock = now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = SeClock(clock)
        self.tse = SoftwareTse(
            directory / "engine",
            clock=self._clock,
            durable=durable,
            max_clients=MAX_CLIENTS,
            max_open_transactions=MAX_OPEN_TRANSACTIONS,
            max_log_memory_bytes=total_log_memory,
        )
        try:
            self._clock.stand_at(self.tse.created)
            self._directory = directory
            self.state = device_state.load(directory, generation)
        except BaseException:
            self.tse.close()
            raise
        self.quirks = quirks or Quirks()
        self._total = total_log_memory
        self._interval = time_sync_interval_s
        self._certification = certification
        self._monotonic = monotonic
        self._alias = False
        self.suspended = True
        self._started = False
        self._logins: dict[str, float] = {}
        self._stream: Stream | None = None
        self._reader: _Reader | None = None
        self._handlers: dict[str, Callable[..., bytes | Stream]] = {
            name: getattr(self, f"_{name}") for name in COMMANDS.values()
        }

    # ---- power ------------------------------------------------------------------------------

    def power_cycle(self) -> None:
        """What being unplugged does: everything that was only in memory is gone, the time too."""
        self.suspended = True
        self._started = False
        self._logins.clear()
        self._clock.put_back(None)
        self._end_stream()

    def swap(self) -> None:
        """Be another device from now on, at first glance."""
        self._alias = True
        self.power_cycle()

    def close(self) -> None:
        self._end_stream()
        self.tse.close()

    def _end_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    # ---- commands ---------------------------------------------------------------------------

    @staticmethod
    def name_of(data: bytes) -> str:
        """The name of a command for plans, ``unknown`` if it is none."""
        if data == b"\xc5":
            return "next_fragment"
        if data == b"\xc4":
            return "cancel"
        code = int.from_bytes(data[2:4]) if data[:2] == b"\x5c\x54" and len(data) >= 6 else -1
        return COMMANDS.get(code, "unknown")

    def execute(self, data: bytes) -> bytes:
        """Execute a command and return the data of the answer's first block."""
        if data == b"\xc5":
            return self._next_fragment()
        if data == b"\xc4":
            self._end_stream()
            return wire.success()
        if self._stream is not None:
            return wire.refusal(0x801C)
        try:
            code, parameters = wire.command(data)
            name = COMMANDS.get(code)
            if name is None or (name == "delete_data_up_to" and self.quirks.no_delete_up_to):
                raise BadCommand
            answer = self._run(name, parameters)
        except Refused as refused:
            return wire.refusal(refused.code)
        except (BadCommand, UnicodeDecodeError):
            return wire.refusal(0x8001)
        except ScuError as error:
            return wire.refusal(_CODES.get(error.code, 0x8000))
        if isinstance(answer, Stream):
            return self._first(answer)
        if len(answer) > wire.FRAME:
            return self._first(Stream(b"", _spooled(answer), len(answer)))
        return answer

    def _first(self, stream: Stream) -> bytes:
        frame = stream.frame()
        if stream.ended:
            stream.close()
        else:
            self._stream = stream
        return frame

    def _next_fragment(self) -> bytes:
        if self._stream is None:
            return wire.refusal(0x801C)
        frame = self._stream.frame()
        if self._stream.ended:
            self._end_stream()
        return frame

    def _run(self, name: str, parameters: list[wire.Octets]) -> bytes | Stream:
        if not self._started and name not in ("start", "shutdown"):
            raise Refused(0x801D)
        shapes = _SHAPES.get(name, ((),))
        if tuple(type_ for type_, _ in parameters) not in shapes:
            raise BadCommand
        self._log_out_the_late()
        self._check(name)
        return self._handlers[name](*(value for _, value in parameters))

    def _check(self, name: str) -> None:
        tse = self.tse
        if tse.state is TseStates.TERMINATED and name not in _ANY_STATE:
            raise Refused(0x8006)
        if self.state.deactivated and name not in _ANY_STATE and name not in ("activate", "unblock_user"):
            raise Refused(0x801B)
        if tse.state is TseStates.UNINITIALIZED and name in _INITIALIZED:
            raise Refused(0x8009)
        users = _USERS.get(name)
        if users is not None and not users & self._logins.keys():
            raise Refused(0x8007 if self._logins else 0x8008)
        if name in _NEEDS_TIME and not self._clock.is_set:
            raise Refused(0x8011)
        if name in _TRANSACTIONS:
            if tse.now() > tse.valid_until and not self.quirks.signs_when_expired:
                raise Refused(0x800D)
            if tse.memory_is_full:
                raise Refused(0x801E)

    # ---- session and users ------------------------------------------------------------------

    def _start(self) -> bytes:
        self._started = True
        unique = self.state.unique_id
        if self._alias:
            unique = bytes(byte ^ 0xFF for byte in unique)
        return wire.success(wire.text(self.state.firmware), wire.octets(unique))

    def _shutdown(self) -> bytes:
        self._started = False
        for user in list(self._logins):
            self._log_out(user, LogOutCause.USER_CALLED)
        return wire.success()

    def _get_pin_states(self) -> bytes:
        admin, time_admin = self.state.users[ADMIN], self.state.users[TIME_ADMIN]
        flags = bytes(not secret for secret in (admin.pin, admin.puk, time_admin.pin, time_admin.puk))
        return wire.success(wire.octets(flags))

    def _initialize_pins(self, *values: bytes) -> bytes:
        users = self.state.users
        if (len(values) == 4) != (self.state.generation == 1):
            raise BadCommand
        if len(values) == 4:
            admin_puk, admin_pin, time_puk, time_pin = values
            for puk, pin in ((admin_puk, admin_pin), (time_puk, time_pin)):
                if len(puk) != PUK_BYTES or len(pin) != PIN_BYTES:
                    raise BadCommand
            if all(user.pin and user.puk for user in users.values()):
                raise Refused(0x8000)
            users[ADMIN] = User(admin_pin, admin_puk)
            users[TIME_ADMIN] = User(time_pin, time_puk)
        else:
            user = users.get(values[0].decode("ascii"))
            if user is None:
                raise Refused(0x800B)
            if len(values[1]) != PUK_BYTES:
                raise BadCommand
            if user.puk:
                raise Refused(0x8000)
            user.puk = values[1]
        self._save()
        return wire.success()

    def _save(self) -> None:
        device_state.save(self._directory, self.state)

    def _authenticate_user(self, user_id: bytes, pin: bytes) -> bytes:
        if len(pin) != PIN_BYTES:
            raise BadCommand
        name = user_id.decode("ascii")
        user = self.state.users.get(name)
        if user is None:
            return wire.success(wire.byte(3), wire.short(0))
        if user.pin_retries == 0:
            self._logged_in(name, AuthenticationResult.PIN_BLOCKED)
            return wire.success(wire.byte(2), wire.short(0))
        if not user.pin or pin != user.pin:
            if user.pin:
                user.pin_retries -= 1
                self._save()
            self._logged_in(name, AuthenticationResult.INCORRECT_PIN)
            return wire.success(wire.byte(1), wire.short(user.pin_retries))
        if user.pin_retries < RETRIES:
            user.pin_retries = RETRIES
            self._save()
        self._logins[name] = self._monotonic() + LOGIN_S[name]
        self._logged_in(name, AuthenticationResult.SUCCESS)
        return wire.success(wire.byte(0), wire.short(RETRIES))

    def _logged_in(self, name: str, result: AuthenticationResult) -> None:
        if not self._logs_events:
            return
        role = Role.ADMIN if name == ADMIN else Role.TIME_ADMIN
        event = self.tse.events.authenticate_user(name, role, result, self.state.users[name].pin_retries)
        self.tse.write_event(event, user=name)

    @property
    def _logs_events(self) -> bool:
        return self.tse.state is not TseStates.TERMINATED

    def _unblock_user(self, user_id: bytes, puk: bytes, pin: bytes) -> bytes:
        if len(puk) != PUK_BYTES or len(pin) != PIN_BYTES:
            raise BadCommand
        name = user_id.decode("ascii")
        user = self.state.users.get(name)
        if user is None:
            return wire.success(wire.byte(3))
        result, logged = 0, UnblockResult.SUCCESS
        if user.puk_retries == 0:
            result, logged = 2, UnblockResult.TEMPORARILY_BLOCKED
        elif not user.puk or puk != user.puk:
            user.puk_retries -= bool(user.puk)
            result, logged = 1, UnblockResult.INCORRECT_PUK
        elif pin == user.pin:
            result = 4
        else:
            user.pin, user.pin_retries, user.puk_retries = pin, RETRIES, RETRIES
        self._save()
        if self._logs_events and result != 4:
            self.tse.write_event(self.tse.events.unblock(name, logged), user=name)
        return wire.success(wire.byte(result))

    def _logout(self, user_id: bytes) -> bytes:
        name = user_id.decode("ascii")
        if name not in self._logins:
            raise Refused(0x8008)
        self._log_out(name, LogOutCause.USER_CALLED)
        return wire.success()

    def _log_out_the_late(self) -> None:
        moment = self._monotonic()
        for name, until in list(self._logins.items()):
            if moment >= until:
                self._log_out(name, LogOutCause.TIMEOUT)

    def log_out_everybody(self) -> None:
        """What happens when the automatic logout comes early."""
        for name in list(self._logins):
            self._log_out(name, LogOutCause.TIMEOUT)

    def _log_out(self, name: str, cause: LogOutCause) -> None:
        self._logins.pop(name, None)
        if self._logs_events:
            by = name if cause is LogOutCause.USER_CALLED else None
            self.tse.write_event(self.tse.events.log_out(name, cause), user=by)

    def _by(self) -> str:
        return ADMIN if ADMIN in self._logins else TIME_ADMIN

    # ---- life -------------------------------------------------------------------------------

    def _initialize(self) -> bytes:
        if self.tse.state is not TseStates.UNINITIALIZED:
            raise Refused(0x8000)
        self.tse.write_event(self.tse.events.start_audit(), user=None)
        self.tse.write_event(
            self.tse.events.initialize("D-TRUST TSE (fiskal simulator)"),
            records.OP_INITIALIZE,
            subject="D-TRUST TSE (fiskal simulator)",
            user=ADMIN,
        )
        return wire.success()

    def _update_time(self, value: bytes) -> bytes:
        seconds = _number(value)
        if not 0 < seconds < 4_765_129_200:
            raise Refused(0x800A)
        before = self.tse.now_ms()
        previous = self._clock.set(from_unix(seconds))
        try:
            self.tse.update_time(user=self._by(), before_ms=before)
        except BaseException:
            self._clock.put_back(previous)
            raise
        return wire.success()

    def forget_time(self) -> None:
        self._clock.put_back(None)

    def _deactivate(self) -> bytes:
        self.state.deactivated = True
        self._save()
        return wire.success()

    def _activate(self) -> bytes:
        if not self.state.deactivated:
            raise Refused(0x8014)
        self.state.deactivated = False
        self._save()
        return wire.success()

    def _disable(self) -> bytes:
        moment = self.tse.now_ms()
        self.tse.write_event(
            self.tse.events.disable(moment), records.OP_TERMINATE, user=ADMIN, unix_ms=moment
        )
        self._logins.clear()
        return wire.success()

    # ---- clients and transactions -----------------------------------------------------------

    @property
    def _serial(self) -> bytes:
        serial = self.tse.chain.serial
        return bytes(byte ^ 0xFF for byte in serial) if self._alias else serial

    def _get_serial_numbers(self) -> bytes:
        return wire.success(wire.octets(serial_numbers(2, self._serial)))

    def _map_ers_to_key(self, client: bytes, serial: bytes) -> bytes:
        client_id = client.decode("ascii")
        if not 1 <= len(client_id) <= MAX_CLIENT_ID_BYTES:
            raise BadCommand
        if not serial:
            if client_id not in self.tse.clients:
                raise Refused(0x8012)
            self.tse.unregister(client_id, None, user=ADMIN)
            return wire.success()
        if serial != self.tse.chain.serial:
            raise Refused(0x8013)
        if client_id in self.tse.clients:
            raise Refused(0x8000)
        self.tse.register(client_id, None, user=ADMIN)
        return wire.success()

    def _get_ers_mappings(self) -> bytes:
        entries = b"".join(
            tlv(0x30, tlv(0x04, client.encode()) + tlv(0x04, self.tse.chain.serial))
            for client in self.tse.clients
        )
        mappings = tlv(0x30, entries)
        if self.quirks.ers_bad_length and entries:
            broken = bytearray(mappings)
            broken[1] ^= 0x05
            at = mappings.index(b"\x30", 1)
            broken[at + 1] = (broken[at + 1] + 3) & 0x7F
            mappings = bytes(broken)
        return wire.success(wire.octets(mappings))

    def _start_transaction(self, client: bytes, data: bytes, type_: bytes, _more: bytes) -> bytes:
        signed = self._sign("start", client, 0, data, type_)
        return self._signature(self._num(signed.transaction_number), signed)

    def _update_transaction(self, number: bytes, client: bytes, data: bytes, type_: bytes) -> bytes:
        return self._signature(b"", self._sign("update", client, _number(number), data, type_))

    def _finish_transaction(
        self, number: bytes, client: bytes, data: bytes, type_: bytes, _more: bytes
    ) -> bytes:
        return self._signature(b"", self._sign("finish", client, _number(number), data, type_))

    def _sign(self, op: Op, client: bytes, number: int, data: bytes, type_: bytes) -> Signed:
        call = Call(op, client.decode("ascii"), number, type_.decode("ascii"), data, "")
        if op == "start":
            signed = self.tse.start(call, None)
        elif op == "update":
            signed = self.tse.update(call, None)
        else:
            signed = self.tse.finish(call, None)
        if self.tse.now() > self.tse.valid_until:
            raise Refused(0x800D)
        return signed

    def _num(self, value: int) -> bytes:
        return wire.octets(wire.minimal(value) if self.quirks.short_numbers else value.to_bytes(4))

    def _signature(self, number: bytes, signed: Signed) -> bytes:
        return wire.success(
            number,
            self._num(signed.signature_counter),
            self._num(to_unix(signed.time_stamp)),
            wire.octets(signed.signature),
            wire.octets(self.tse.chain.serial),
        )

    # ---- reading ----------------------------------------------------------------------------

    def _get_config_data(self, which: bytes) -> bytes:
        match int.from_bytes(which):
            case 0:
                value = wire.octets(b"\x01")
            case 1:
                value = wire.octets(bytes.fromhex("300c060a04007f00070101040103"))
            case 2:
                value = wire.octets(b"\0")
            case 3:
                value = self._num(1)
            case 4:
                value = self._num(MAX_CLIENTS)
            case 5:
                value = self._num(MAX_OPEN_TRANSACTIONS)
            case 6:
                value = self._num(self._interval)
            case 7:
                value = wire.octets(b"\x03")
            case 8:
                value = wire.text(self._certification)
            case _:
                raise BadCommand
        return wire.success(value)

    @property
    def life_cycle(self) -> int:
        """1 not initialised, 2 no time, 3 active, 4 deactivated, 5 disabled."""
        if self.tse.state is TseStates.TERMINATED:
            return 5
        if self.state.deactivated:
            return 4
        if self.tse.state is TseStates.UNINITIALIZED:
            return 1
        return 3 if self._clock.is_set else 2

    def _get_status(self, which: bytes) -> bytes:
        tse = self.tse
        match int.from_bytes(which):
            case 0:
                value = self._num(len(tse.clients))
            case 1:
                value = self._num(len(tse.open_transactions))
            case 2:
                return self._open_transactions()
            case 3:
                value = self._num(tse.transaction_counter)
            case 4:
                value = wire.octets(bytes([self.life_cycle]))
            case 5:
                value = self._num(self._total)
            case 6:
                value = self._num(max(0, self._total - tse.info(None).current_log_memory_size))
            case _:
                raise BadCommand
        return wire.success(value)

    def _open_transactions(self) -> bytes:
        numbers = list(self.tse.open_transactions)
        answer = wire.success(wire.longs(numbers))
        if self.quirks.open_tx_bad_length:
            length = len(answer) - 2 + 4
            answer = length.to_bytes(2) + answer[2:3] + (4 * len(numbers) + 4).to_bytes(2) + answer[5:]
        return answer

    def _get_key_data(self, which: bytes, serial: bytes) -> bytes:
        if serial != self.tse.chain.serial:
            raise Refused(0x8013)
        match int.from_bytes(which):
            case 0:
                value = self._num(self.tse.counter)
            case 1:
                value = self._num(to_unix(self.tse.valid_until) + 1)
            case 2:
                point = self.tse.chain.point
                if self.quirks.pubkey_254:
                    point = (b"\x30" + bytes(187) + point).ljust(254, b"\0")
                value = wire.octets(point)
            case _:
                raise BadCommand
        return wire.success(value)

    def _get_wear_indicator(self) -> bytes:
        return wire.success(wire.short(self.state.wear))

    def _read_log_message(self) -> bytes:
        record = self.tse.last_record()
        if record is None:
            raise Refused(0x8015)
        return wire.success(wire.octets(record.message))

    # ---- exports ----------------------------------------------------------------------------

    def _get_certificates(self) -> bytes:
        with tempfile.SpooledTemporaryFile(max_size=1 << 20) as out:
            tar = TarWriter(out, to_unix(self.tse.now()))
            self._add_certificates(tar)
            out.seek(0)
            data = out.read()
        return wire.success(wire.octets(data))

    def _add_certificates(self, tar: TarWriter) -> None:
        for certificate, der in zip(self.tse.chain.certificates, self.tse.chain.der, strict=True):
            tar.add(certificate_name(certificate).replace(".der", ".cer"), der)

    def _export(
        self, messages: Iterator[tuple[str, bytes]], fetched: Callable[[], None] = lambda: None
    ) -> Stream:
        out = tempfile.SpooledTemporaryFile(max_size=4 << 20)  # noqa: SIM115 - the stream closes it
        tar = TarWriter(out, to_unix(self.tse.now()))
        tar.add("info.csv", self.tse.info_csv())
        self._add_certificates(tar)
        for name, message in messages:
            tar.add(self._file_name(name), message)
        total = out.tell()
        out.seek(0)
        return Stream(wire.stream_head(total), out, total, fetched)

    def _file_name(self, name: str) -> str:
        return name.replace("-", " - ") if self.quirks.blanks_in_names else name

    def _messages(self, after: int, up_to: int, at_most: int) -> Iterator[tuple[str, bytes]]:
        """Names and messages behind ``after``. Parts that follow each other are read without a search."""
        reader = self._reader
        if reader is None or reader.after != after or reader.peek() is None:
            reader = self._reader = _Reader(self.tse, after)
        while at_most and (found := reader.peek()) is not None and found[0] <= up_to:
            reader.take()
            at_most -= 1
            yield build_file_name(parse(found[1])), found[1]

    def _filtered(self, selection: Selection) -> Iterator[tuple[str, bytes]]:
        with tempfile.SpooledTemporaryFile(max_size=4 << 20) as out:
            self.tse.export(selection, out, contextlib.nullcontext)
            out.seek(0)
            for member in read_members(out):
                if member.name.endswith(".log") and member.data is not None:
                    yield member.name, member.data

    def _export_data(
        self,
        client: bytes,
        number: bytes,
        first: bytes,
        last: bytes,
        since: bytes,
        until: bytes,
        at_most: bytes,
    ) -> Stream:
        limit = _number(at_most) if at_most else 0
        one = _open_end(number)
        selection = Selection(
            client_id=client.decode("ascii") or None,
            first_number=_start(first) if one is None else one,
            last_number=_open_end(last) if one is None else one,
            first_time=None if (began := _start(since)) is None else from_unix(began),
            last_time=None if (ended := _open_end(until)) is None else from_unix(ended),
        )
        if selection.whole:
            if limit not in (0, _NO_NUMBER) and self.tse.count(selection, limit + 1) > limit:
                raise Refused(0x8016)
            counter = self.tse.counter
            return self._export(self._messages(0, counter, _ALL), lambda: self._exported(counter))
        found = self.tse.count(selection, limit + 1 if limit else 1)
        if found == 0:
            by_number = selection.first_number is not None or selection.last_number is not None
            raise Refused(0x801A if by_number else 0x8019 if selection.client_id is not None else 0x8015)
        if limit and found > limit:
            raise Refused(0x8016)
        return self._export(self._filtered(selection))

    def _exported(self, counter: int) -> None:
        if counter > self.state.exported:
            self.state.exported = counter
            self._save()

    def _export_more_data(self, serial: bytes, previous: bytes, at_most: bytes) -> Stream:
        if serial != self.tse.chain.serial:
            raise Refused(0x8013)
        after, limit = _number(previous), _number(at_most) or _NO_NUMBER
        up_to, count = after + limit, _ALL
        if self.quirks.counted_chunks:
            up_to, count = self.tse.counter, limit
        reader = self._reader
        if reader is None or reader.after != after or reader.peek() is None:
            reader = self._reader = _Reader(self.tse, after)
        first = reader.peek()
        if first is None or first[0] > up_to:
            raise Refused(0x8019)
        stream = self._export(self._messages(after, up_to, count), lambda: self._exported(last))
        last = reader.after
        return stream

    def _erase(self) -> bytes:
        for _, message in self.tse.messages(self.state.exported + 1):
            if parse(message).operation not in ("authenticateUser", "logOut"):
                raise Refused(0x8017)
        self._reader = None
        self.tse.erase(self.tse.counter, None, user=ADMIN)
        return wire.success()

    def _delete_data_up_to(self, serial: bytes, counter: bytes) -> bytes:
        if serial != self.tse.chain.serial:
            raise Refused(0x8013)
        last = _number(counter)
        if last > self.state.exported:
            raise Refused(0x8017)
        self._reader = None
        self.tse.erase(last, None, user=ADMIN)
        return wire.success()


_CODES: Final = {
    "CLIENT_NOT_REGISTERED": 0x8012,
    "TRANSACTION_NOT_OPEN": 0x800E,
    "TRANSACTION_LIMIT": 0x800C,
    "MEMORY_FULL": 0x801E,
    "CLIENT_LIMIT": 0x801E,
    "SIGNATURE_LIMIT": 0x8003,
    "INVALID_CLIENT_ID": 0x8001,
    "INVALID_PROCESS_DATA": 0x8001,
}


def _number(value: bytes) -> int:
    if not 1 <= len(value) <= 9:
        raise BadCommand
    return int.from_bytes(value)


def _open_end(value: bytes) -> int | None:
    """An upper limit, or a single number: empty and all ones are none."""
    return None if not value or int.from_bytes(value) == _NO_NUMBER else _number(value)


def _start(value: bytes) -> int | None:
    return None if not value or int.from_bytes(value) == 0 else _number(value)


def _spooled(data: bytes) -> IO[bytes]:
    out = tempfile.SpooledTemporaryFile(max_size=1 << 20)  # noqa: SIM115 - the stream closes it
    out.write(data)
    out.seek(0)
    return out
