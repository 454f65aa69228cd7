"""The core of the simulated Swissbit TSE 1.x: its state, its commands in the order of their preconditions, its faults.

Every form (in process, watched folder, mount, block image) hands blocks to :meth:`Device.write_mailbox` and shows what
:meth:`Device.read_mailbox` gives. Signatures are genuine: a software TSE on the curve of the family keeps key, counters
and log; the store holds the same log as a TAR archive.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from fiskal.clock import Clock, from_unix, now, to_unix
from fiskal.files import write_atomically
from fiskal.scu.contract import TseStates
from fiskal.scu.driver import Call, Selection
from fiskal.scu.errors import ScuError
from fiskal.scu.software import log as records
from fiskal.scu.software.se_api import SeClock
from fiskal.scu.software.tse import SoftwareTse
from fiskal.simulators.plan import Conductor, Fault, Plan
from fiskal.simulators.swissbit import wire
from fiskal.simulators.swissbit.store import BLOCK, SENTINEL, Store
from fiskal.tse.encode_events import AuthenticationResult, LogOutCause, Role, SelfTestResult, UnblockResult
from fiskal.tse.logmessage import build_file_name, parse
from fiskal.tse.tar import TarWriter

DEFAULT_TIMES_MS: Final[dict[str, float]] = dict.fromkeys(wire.COMMANDS.values(), 2.0) | {
    "login": 20.0,
    "self_test": 5000.0,
    "open": 5.0,
    "close": 250.0,
}

FAULTS: Final = {
    "busy_long": "the command stays busy for `value` more milliseconds, for ever without a value",
    "fetch": "the answer has to be fetched",
    "fetch_ignored": "the answer has to be fetched, and the first fetch is ignored",
    "stale_counter": "the answer before this one is shown for `value` (3) looks",
    "counter_frozen": "the response counter does not move",
    "echo_readback": "the host's own command is shown for `value` (3) looks",
    "short_read": "the next look at the mailbox gives `value` (100) bytes",
    "short_write": "the command is taken only in part: nothing is done and `value` (100) bytes are reported",
    "torn_block": "the next look shows only the first `value` (64) bytes of the answer",
    "bad_rlen": "the answer claims to have `value` (506) bytes",
    "eio_before": "the write fails with EIO, the command is not executed",
    "eio_after": "the write fails with EIO, the command is executed",
    "eio_read": "the next look fails with EIO",
    "removed_before": "unplugged for `value` (20) ms before the command is executed",
    "removed_after": "unplugged for `value` (20) ms after it was executed",
    "power_cycle": "the device restarts after the command was executed; its answer is lost",
    "device_swapped": "another device is there for `value` ms (for ever without), the command is not executed",
    "lost_response": "the command is executed, its answer never comes",
    "lost_command": "the command is not executed, no answer comes",
    "data_late": "closing finds no process data yet",
    "wrong_pin": "0x1100",
    "pin_blocked": "0x1201",
    "selftest_expired": "the self test has expired",
    "selftest_fails": "the self test fails (0x1310)",
    "time_unset": "the time is not valid any more",
    "ctss_off": "the CTSS interface is off",
    "cert_expired": "the certificate has expired",
    "store_full": "0x1017",
    "sigs_exceeded": "0x100e",
    "max_tx": "0x1009",
    "max_clients": "0x1010",
    "export_busy": "an export is in progress (0x1016) until a self test",
    "slow_wakeup": "the device sleeps and takes `value` (30000) ms to wake up, times the scale of the plan",
    "error": "the status word `value` is answered, the command is not executed",
}
_WORDS: Final = {
    "wrong_pin": 0x1100,
    "pin_blocked": 0x1201,
    "store_full": 0x1017,
    "sigs_exceeded": 0x100E,
    "max_tx": 0x1009,
    "max_clients": 0x1010,
    "data_late": 0x1006,
}
MAX_CLIENTS: Final = 100
MAX_OPEN: Final = 512
MAX_SIGNATURES: Final = 20_000_000
CAPACITY_BLOCKS: Final = 13_631_488
SELF_TEST_VALID_S: Final = 90_000
TIME_VALID_S: Final = 1_500
CERTIFICATE_PIECE: Final = 501
_NOBODY, _ADMIN, _TIME_ADMIN = 0, 1, 2
_ROLES: Final = {_ADMIN: ("admin", Role.ADMIN), _TIME_ADMIN: ("timeadmin", Role.TIME_ADMIN)}
_NO_SELF_TEST: Final = frozenset({0x20, 0x21, 0x22, 0x23, 0x24, 0x40, 0x41, 0x42, 0x43, 0x83})
_NO_CTSS: Final = _NO_SELF_TEST | {0x60, 0x61}
_ADMIN_ONLY: Final = frozenset({0x41, 0x42, 0x43, 0x60, 0x61, 0x70})
_UNINITIALIZED, _INITIALIZED, _DECOMMISSIONED = 0, 1, 2


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is simulated. Options of ``fiskal simulate swissbit`` and of every form."""

    plan: Plan = Plan()
    """Service times and faults."""
    seed: str = "SwissbitSwissbit"
    """What the first PUK and PINs of the device are derived from."""
    software: tuple[int, int, int] = (1, 1, 0)
    description: str = "BSI-K-TR-0362"
    capacity_blocks: int = CAPACITY_BLOCKS
    window_blocks: int = 2_097_152
    """Blocks of one TSE_TAR file."""
    import_block: int | None = None
    """Where process data is to be written, in blocks of the store; None is behind the log."""
    self_test_valid_s: int = SELF_TEST_VALID_S
    time_valid_s: int = TIME_VALID_S
    max_clients: int = MAX_CLIENTS
    max_open: int = MAX_OPEN
    max_signatures: int = MAX_SIGNATURES
    puk_tries: int = 3
    pin_tries: int = 3
    fetch: bool = False
    """Every answer has to be fetched."""
    inferred_commands: bool = True
    """Logout and unblock have the codes that are only inferred; without, they are unknown."""
    curve: str = "secp384r1"


class _Memory(msgspec.Struct):
    """What a device without power keeps beside its log: ``device.json``."""

    puk: str
    pins: list[str]
    pin_tries: list[int]
    puk_tries: int
    changed: int = 0
    ctss: bool = False
    exported_counter: int = 0
    certificate_expired: bool = False


class Reserved(NamedTuple):
    """An import that was opened: what it is, and where its process data is to be written."""

    opening: wire.Opening
    block: int
    blocks: int


class _Refused(Exception):
    """A status word that ends a command."""

    def __init__(self, word: int) -> None:
        super().__init__(hex(word))
        self.word = word


class Device:
    """One device, living in ``folder``. Thread-safe; no call waits for another one's service time.

    ``monotonic`` and ``clock`` are its quartz and the wall clock; a new object is a device that just got power.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        settings: Settings | None = None,
        *,
        store: Callable[[Path], Store],
        control: Path | None = None,
        clock: Clock = now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings or Settings()
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._monotonic = monotonic
        self._lock = threading.RLock()
        self._se_clock = SeClock(clock)
        self.conductor = Conductor(
            "swissbit",
            faults=FAULTS,
            default_times=DEFAULT_TIMES_MS,
            plan=self.settings.plan,
            control=control,
        )
        self.tse = SoftwareTse(
            self.folder / "tse",
            curve=self.settings.curve,
            clock=self._se_clock,
            max_open_transactions=self.settings.max_open,
            max_signatures=self.settings.max_signatures,
        )
        self._se_clock.stand_at(self.tse.created)
        self.serial = bytes.fromhex(self.tse.description.serial)
        self._point = self.tse.chain.point
        self._pem = b"".join(self.tse.chain.pem.split(b"\r"))
        self._memory = self._load()
        self._owners = {number: self._owner(number) for number in self.tse.open_transactions}
        self.store = store(self.folder)
        self.end = 0
        """Bytes of the archive, without the blocks of zeros behind it."""
        self._stored = 0
        self.commands = 0
        """Commands that were taken, whatever became of them."""
        self.writes = 0
        """Writes to mailbox and store."""
        self.executed: list[str] = []
        """The names of the last thousand commands that were executed."""
        self._gone_until: float | None = None
        self._swapped_until: float | None = None
        self._looks: list[tuple[str, int, bytes]] = []
        self.last: dict[bytes, bytes] = {}
        """The answer to the last transaction of every client."""
        self._power_up()
        self._rebuild_store()

    # ---- power and memory ---------------------------------------------------------------------

    def _load(self) -> _Memory:
        path = self.folder / "device.json"
        if path.exists():
            return msgspec.json.decode(path.read_bytes(), type=_Memory)
        puk, admin, time_admin = wire.initial_credentials(self.settings.seed.encode(), self.serial)
        return _Memory(
            puk=puk.decode("latin-1"),
            pins=["", admin.decode("latin-1"), time_admin.decode("latin-1")],
            pin_tries=[0, self.settings.pin_tries, self.settings.pin_tries],
            puk_tries=self.settings.puk_tries,
        )

    def _save(self) -> None:
        write_atomically(self.folder / "device.json", msgspec.json.encode(self._memory), 0o600)

    def _power_up(self) -> None:
        self._counter = 0
        self._users: set[int] = set()
        self._self_test: float | None = None
        self._self_test_failed = False
        self._time_until: float | None = None
        self._se_clock.put_back(None)
        self._import: Reserved | None = None
        self._export_busy = False
        self._block = wire.response(0, 0)
        self._shown_before = self._block
        self._ready_at = 0.0
        self._pending: bytes | None = None
        self._fetches_ignored = 0
        self._counter_frozen = False
        self._looks.clear()

    def power_cycle(self) -> None:
        """Take the power away and give it back: users, self test, time and a begun import are gone."""
        with self._lock:
            self._power_up()

    def _owner(self, number: int) -> bytes:
        record = self.tse.last_record(number)
        return b"" if record is None else record.client_id.encode()

    # ---- what is true now ---------------------------------------------------------------------

    @property
    def state(self) -> int:
        return {
            TseStates.UNINITIALIZED: _UNINITIALIZED,
            TseStates.INITIALIZED: _INITIALIZED,
            TseStates.TERMINATED: _DECOMMISSIONED,
        }[self.tse.state]

    @property
    def self_tested(self) -> bool:
        return self._self_test is not None and self._monotonic() < self._self_test

    @property
    def time_is_valid(self) -> bool:
        return self._time_until is not None and self._monotonic() < self._time_until

    @property
    def ctss_active(self) -> bool:
        return self._memory.ctss and self.self_tested

    @property
    def importing(self) -> bool:
        return self._import is not None

    def info(self) -> bytes:
        """The info block."""
        with self._lock:
            return self._info()

    def _info(self) -> bytes:
        active = self.ctss_active
        flags = self.time_is_valid | self.self_tested << 1 | active << 2
        remaining = 0 if self._self_test is None else max(0, int(self._self_test - self._monotonic()))
        sync = 0 if self._time_until is None else max(0, int(self._time_until - self._monotonic()))
        serial = self.serial
        if self._swapped_until is not None:
            serial = bytes(byte ^ 0xFF for byte in serial)
        return wire.info(
            wire.Panel(
                capacity_blocks=self.settings.capacity_blocks,
                size_blocks=self.end // BLOCK if active else 0,
                flags=flags,
                state=self.state,
                importing=int(self.importing),
                changed=self._memory.changed,
                self_test_in_s=remaining,
                started=len(self._owners) if active else 0,
                max_started=self.settings.max_open,
                signatures=self.tse.counter,
                max_signatures=self.settings.max_signatures,
                clients=len(self.tse.clients),
                max_clients=self.settings.max_clients,
                certificate_end=to_unix(self.tse.valid_until),
                tar_bytes=self.end if active else 0,
                hardware=0x0001_0000,
                software=self.settings.software,
                key=self._point,
                time_sync_in_s=sync,
                serial=serial,
                description=self.settings.description.encode(),
            )
        )

    # ---- the mailbox --------------------------------------------------------------------------

    def _present(self) -> None:
        """Raise ENODEV while unplugged; come back when it is time."""
        if self._swapped_until is not None and self._monotonic() >= self._swapped_until:
            self._swapped_until = None
            self._power_up()
        if self._gone_until is None:
            return
        if self._monotonic() < self._gone_until:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        self._gone_until = None
        self._power_up()

    @property
    def present(self) -> bool:
        with self._lock:
            try:
                self._present()
            except OSError:
                return False
            return True

    def unplug(self, seconds: float = float("inf")) -> None:
        """Be away for so long, or until :meth:`plug`."""
        with self._lock:
            self._gone_until = self._monotonic() + seconds

    def plug(self) -> None:
        with self._lock:
            if self._gone_until is not None:
                self._gone_until = self._monotonic()

    def check(self) -> None:
        """Raise OSError ENODEV while the device is unplugged."""
        with self._lock:
            self._present()

    def write_mailbox(self, data: bytes) -> int:
        """Take a block as a command; return how many bytes of it were taken. Raises OSError."""
        with self._lock:
            self._present()
            self.writes += 1
            if self._swapped_until is not None:
                return len(data)
            if len(data) != BLOCK:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return self._take(data)

    def read_mailbox(self) -> bytes:
        """What the mailbox shows now; fewer bytes than a block are a fault. Raises OSError."""
        with self._lock:
            self._present()
            if self._looks:
                kind, left, block = self._looks.pop(0)
                if left > 1:
                    self._looks.insert(0, (kind, left - 1, block))
                if kind == "eio":
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return block
            if self._monotonic() < self._ready_at:
                return wire.channel(self._counter_before, wire.BUSY)
            return self._block

    _counter_before = 0

    def _take(self, data: bytes) -> int:
        self.commands += 1
        self._shown_before = self._block
        self._counter_before = self._counter
        self._looks.clear()
        try:
            code, cursor = wire.split(data)
            name = wire.COMMANDS.get(code, "unknown")
        except wire.Syntax:
            self._finish(0x1005, b"")
            return len(data)
        if code == 0x83:
            self._fetched()
            return len(data)
        self._pending = None
        fault = self.conductor.fault(name)
        kind = "" if fault is None else fault.kind
        if self._strike_before(kind, fault):
            return int(_value(fault, 100)) if kind == "short_write" else len(data)
        self._ready_at = self._monotonic() + self.conductor.seconds(name)
        word, answer = self._answer(code, name, cursor, kind, fault)
        self._finish(word, answer)
        self._strike_after(kind, fault, data)
        return len(data)

    def _answer(
        self, code: int, name: str, cursor: wire.Cursor, kind: str, fault: Fault | None
    ) -> tuple[int, bytes]:
        if kind == "error":
            return int(_value(fault, 0x1001)), b""
        if kind in _WORDS and (kind != "data_late" or name == "close"):
            return _WORDS[kind], b""
        try:
            answer = self._execute(code, cursor)
        except _Refused as refusal:
            return refusal.word, b""
        except wire.Syntax:
            return 0x1005, b""
        except ScuError as error:
            return _word(error), b""
        self.executed.append(name)
        del self.executed[:-1000]
        return 0, answer

    def _finish(self, word: int, data: bytes) -> None:
        if not self._counter_frozen:
            self._counter += 1
        self._block = wire.response(self._counter, word, data)
        if self.settings.fetch:
            self._hold_back(0)

    def _hold_back(self, ignore: int) -> None:
        self._pending = self._block
        self._fetches_ignored = ignore
        self._block = wire.channel(self._counter_before, wire.FETCH)

    def _fetched(self) -> None:
        if self._pending is None:
            self._finish(0x1015, b"")
        elif self._fetches_ignored:
            self._fetches_ignored -= 1
        else:
            self._block, self._pending = self._pending, None

    def _strike_before(self, kind: str, fault: Fault | None) -> bool:
        """Faults that come before a command is executed; True if it is not executed."""
        if kind == "eio_before":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if kind == "removed_before":
            self._gone_until = self._monotonic() + _value(fault, 20) / 1000
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        if kind == "device_swapped":
            until = float("inf") if fault is None or fault.value is None else _value(fault, 0) / 1000
            self._swapped_until = self._monotonic() + until
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        if kind == "lost_command":
            self._ready_at = float("inf")
            return True
        if kind == "short_write":
            return True
        if kind == "selftest_expired":
            self._self_test = None
        elif kind == "time_unset":
            self._time_until = None
        elif kind == "ctss_off":
            self._memory.ctss = False
        elif kind == "cert_expired":
            self._memory.certificate_expired = True
        elif kind == "export_busy":
            self._export_busy = True
        elif kind == "selftest_fails":
            self._self_test_failed = True
        elif kind == "counter_frozen":
            self._counter_frozen = True
        return False

    def _strike_after(self, kind: str, fault: Fault | None, data: bytes) -> None:
        """Faults of an answer that is ready."""
        looks = int(_value(fault, 3))
        if kind == "busy_long":
            more = float("inf") if fault is None or fault.value is None else _value(fault, 0) / 1000
            self._ready_at += more
        elif kind == "slow_wakeup":
            self._ready_at += _value(fault, 30_000) / 1000 * self.conductor.plan.scale
        elif kind in ("fetch", "fetch_ignored"):
            if self._pending is None:
                self._hold_back(int(kind == "fetch_ignored"))
        elif kind == "stale_counter":
            self._looks.append(("block", looks, self._shown_before))
        elif kind == "echo_readback":
            self._looks.append(("block", looks, data))
        elif kind == "short_read":
            self._looks.append(("block", 1, self._block[: int(_value(fault, 100))]))
        elif kind == "torn_block":
            cut = int(_value(fault, 64))
            self._looks.append(("block", 1, self._block[:cut] + self._shown_before[cut:]))
        elif kind == "bad_rlen":
            length = int(_value(fault, 506)).to_bytes(2, "big")
            self._looks.append(("block", 1, self._block[:4] + b"\xff" + length + self._block[7:]))
        elif kind == "eio_read":
            self._looks.append(("eio", 1, b""))
        elif kind == "eio_after":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        elif kind == "removed_after":
            self._gone_until = self._monotonic() + _value(fault, 20) / 1000
        elif kind == "power_cycle":
            self._power_up()
        elif kind == "lost_response":
            self._ready_at = float("inf")

    # ---- commands -----------------------------------------------------------------------------

    def _execute(self, code: int, cursor: wire.Cursor) -> bytes:
        known = code in wire.COMMANDS
        if code in (0x21, 0x22) and not self.settings.inferred_commands:
            known = False
        if not known:
            raise _Refused(0xF000)
        self.require(code)
        handler = getattr(self, f"_do_{wire.COMMANDS[code]}")
        result = handler(cursor)
        assert isinstance(result, bytes)
        return result

    def require(self, code: int) -> None:
        """Refuse what the state of the device does not allow, in the order of the description."""
        if self.state == _DECOMMISSIONED and code not in (0x20, 0x21, 0x40, 0x86):
            raise _Refused(0x10FE)
        if code not in _NO_SELF_TEST and not self.self_tested:
            raise _Refused(0x1055 if self._self_test_failed else 0x1054)
        if code not in _NO_CTSS and not self.ctss_active:
            raise _Refused(0x1053)
        if self._export_busy and code != 0x40:
            raise _Refused(0x1016)
        if code in _ADMIN_ONLY and _ADMIN not in self._users:
            raise _Refused(0x100F)
        if code == 0x80 and not self._users & {_ADMIN, _TIME_ADMIN}:
            raise _Refused(0x100F)
        if code in (0x41, 0x42, 0x60, 0x70) and not self._memory.changed & 2:
            raise _Refused(0x1051)
        if code in (0x80, 0x90, 0x91) and self.state == _UNINITIALIZED:
            raise _Refused(0x10FF)
        if code in (0x90, 0x91):
            if not self.time_is_valid:
                raise _Refused(0x1002)
            if self._memory.certificate_expired:
                raise _Refused(0x100A)
            if self.end // BLOCK + 8 > self.settings.capacity_blocks:
                raise _Refused(0x1017)

    def _do_login(self, cursor: wire.Cursor) -> bytes:
        user, pin = cursor.byte(), cursor.text()
        cursor.end()
        if not self._memory.changed & 1:
            raise _Refused(0x1050)
        self._prove(user, pin)
        self._users.add(user)
        name, role = _ROLES[user]
        self._event(self.tse.events.authenticate_user(name, role, AuthenticationResult.SUCCESS, 3), name)
        return b""

    def _prove(self, user: int, pin: bytes) -> None:
        """Check a PIN; a wrong one counts."""
        if user not in _ROLES or len(pin) != 5:
            raise _Refused(0x1007)
        memory = self._memory
        if memory.pin_tries[user] == 0:
            raise _Refused(0x1201)
        if memory.pins[user].encode("latin-1") != pin:
            memory.pin_tries[user] -= 1
            self._save()
            raise _Refused(0x1100)
        if memory.pin_tries[user] != self.settings.pin_tries:
            memory.pin_tries[user] = self.settings.pin_tries
            self._save()

    def _do_logout(self, cursor: wire.Cursor) -> bytes:
        user = cursor.byte()
        cursor.end()
        if user not in self._users:
            raise _Refused(0x1202)
        self._users.discard(user)
        self._event(self.tse.events.log_out(_ROLES[user][0], LogOutCause.USER_CALLED), _ROLES[user][0])
        return b""

    def _do_unblock(self, cursor: wire.Cursor) -> bytes:
        user, puk, pin = cursor.byte(), cursor.text(), cursor.text()
        cursor.end()
        if user not in _ROLES or len(puk) != 6 or len(pin) != 5:
            raise _Refused(0x1007)
        self._prove_puk(puk)
        self._memory.pins[user] = pin.decode("latin-1")
        self._memory.pin_tries[user] = self.settings.pin_tries
        self._save()
        name = _ROLES[user][0]
        self._event(self.tse.events.unblock(name, UnblockResult.SUCCESS), name)
        return b""

    def _prove_puk(self, puk: bytes) -> None:
        memory = self._memory
        if memory.puk_tries == 0:
            raise _Refused(0x1201)
        right = memory.puk.encode("latin-1") == puk
        memory.puk_tries = self.settings.puk_tries if right else memory.puk_tries - 1
        self._save()
        if not right:
            raise _Refused(0x1100)

    def _do_change_puk(self, cursor: wire.Cursor) -> bytes:
        current, new = cursor.text(), cursor.text()
        cursor.end()
        if len(new) != 6:
            raise _Refused(0x1007)
        self._prove_puk(current)
        self._memory.puk = new.decode("latin-1")
        self._memory.changed |= 1
        self._save()
        return b""

    def _do_change_pin(self, cursor: wire.Cursor) -> bytes:
        user, current, new = cursor.byte(), cursor.text(), cursor.text()
        cursor.end()
        if len(new) != 5:
            raise _Refused(0x1007)
        if user not in self._users:
            raise _Refused(0x100F)
        self._prove(user, current)
        self._memory.pins[user] = new.decode("latin-1")
        self._memory.changed |= 2 if user == _ADMIN else 4
        self._save()
        return b""

    def _do_self_test(self, cursor: wire.Cursor) -> bytes:
        client = cursor.text()
        cursor.end()
        self._export_busy = False
        if client.decode("latin-1") not in self.tse.clients:
            self._self_test = None
            raise _Refused(0x1011)
        if self._self_test_failed:
            self._self_test_failed = False
            self._self_test = None
            raise _Refused(0x1310)
        self._self_test = self._monotonic() + self.settings.self_test_valid_s
        if self.state != _DECOMMISSIONED:
            for event in self.tse.events.self_test([SelfTestResult("CSP", True, "")]):
                self._event(event, None)
        return b""

    def _do_register(self, cursor: wire.Cursor) -> bytes:
        client = cursor.text()
        cursor.end()
        if not 1 <= len(client) <= 30:
            raise _Refused(0x1007)
        name = client.decode("latin-1")
        if name in self.tse.clients:
            return b""
        if len(self.tse.clients) >= self.settings.max_clients:
            raise _Refused(0x1010)
        self._event(self.tse.events.register_client(name), "admin", records.OP_REGISTER, name)
        return b""

    def _do_deregister(self, cursor: wire.Cursor) -> bytes:
        client = cursor.text()
        cursor.end()
        name = client.decode("latin-1")
        if name not in self.tse.clients:
            return b""
        if client in self._owners.values():
            raise _Refused(0x1013)
        self._event(self.tse.events.deregister_client(name), "admin", records.OP_UNREGISTER, name)
        return b""

    def _do_list_clients(self, cursor: wire.Cursor) -> bytes:
        skip = cursor.number(4)
        cursor.end()
        clients = [name.encode("latin-1") for name in self.tse.clients]
        if skip > len(clients):
            raise _Refused(0x1007)
        return wire.client_page(clients, skip)

    def _do_enable_ctss(self, cursor: wire.Cursor) -> bytes:
        cursor.end()
        self._memory.ctss = True
        self._save()
        return b""

    def _do_disable_ctss(self, cursor: wire.Cursor) -> bytes:
        cursor.end()
        self._memory.ctss = False
        self._save()
        return b""

    def _do_initialize(self, cursor: wire.Cursor) -> bytes:
        cursor.end()
        if self.state != _UNINITIALIZED:
            raise _Refused(0x10FD)
        self.tse.set_state(TseStates.INITIALIZED, None)
        self._append()
        return b""

    def _do_update_time(self, cursor: wire.Cursor) -> bytes:
        unix_s = cursor.number(8)
        cursor.end()
        if not 0 < unix_s < 253_402_300_800:
            raise _Refused(0x1007)
        before = self.tse.now_ms()
        previous = self._se_clock.set(from_unix(unix_s))
        try:
            self.tse.update_time(
                user="timeadmin" if _TIME_ADMIN in self._users else "admin", before_ms=before
            )
        except ScuError:
            self._se_clock.put_back(previous)
            raise
        self._time_until = self._monotonic() + self.settings.time_valid_s
        self._append()
        return b""

    def _do_list_transactions(self, cursor: wire.Cursor) -> bytes:
        skip, client = cursor.number(4), cursor.text()
        cursor.end()
        numbers = sorted(number for number, owner in self._owners.items() if not client or owner == client)
        if skip > len(numbers):
            raise _Refused(0x1007)
        return wire.number_page(numbers, skip) if numbers else b""

    def _do_certificate(self, cursor: wire.Cursor) -> bytes:
        offset = cursor.number(4)
        cursor.end()
        if offset > len(self._pem):
            raise _Refused(0x1007)
        piece = self._pem[offset : offset + CERTIFICATE_PIECE]
        return len(piece).to_bytes(2, "big") + piece

    def _do_open(self, cursor: wire.Cursor) -> bytes:
        opening = wire.opening(cursor)
        if opening.client.decode("latin-1") not in self.tse.clients:
            raise _Refused(0x1011)
        if self.tse.counter >= self.settings.max_signatures:
            raise _Refused(0x100E)
        if opening.event == 0:
            if len(self._owners) >= self.settings.max_open:
                raise _Refused(0x1009)
        elif self._owners.get(opening.number) != opening.client:
            raise _Refused(0x1008)
        blocks = -(-opening.length // BLOCK)
        first = self.end // BLOCK if self.settings.import_block is None else self.settings.import_block
        if first + blocks > self.settings.capacity_blocks:
            raise _Refused(0x1017)
        for index in range(blocks):
            self.store.write((first + index) * BLOCK, SENTINEL)
        self._import = Reserved(opening, first, blocks)
        return first.to_bytes(8, "big")

    def _do_close(self, cursor: wire.Cursor) -> bytes:
        cursor.end()
        if self._import is None:
            raise _Refused(0x1004)
        opening, first, blocks = self._import
        data = self.store.read(first * BLOCK, blocks * BLOCK)
        if any(data[at : at + BLOCK] == SENTINEL for at in range(0, len(data), BLOCK)):
            raise _Refused(0x1006)
        client = opening.client.decode("latin-1")
        call = Call(
            ("start", "update", "finish")[opening.event],
            client,
            opening.number,
            opening.kind.decode("utf-8", "replace"),
            data[: opening.length],
            "",
        )
        if opening.event == 0:
            signed = self.tse.start(call, None)
            self._owners[signed.transaction_number] = opening.client
        elif opening.event == 1:
            signed = self.tse.update(call, None)
        else:
            signed = self.tse.finish(call, None)
            self._owners.pop(opening.number, None)
        self._import = None
        self._append(clear_to=(first + blocks) * BLOCK)
        answer = wire.closed(
            signed.transaction_number,
            self.serial,
            to_unix(signed.time_stamp),
            signed.signature_counter,
            signed.signature,
        )
        self.last[opening.client] = self.last[b""] = answer
        return answer

    # ---- the log ------------------------------------------------------------------------------

    def _event(self, event: object, user: str | None, op: int = records.OP_OTHER, subject: str = "") -> None:
        self.tse.write_event(event, op, subject=subject, user=user)  # type: ignore[arg-type]
        self._append()

    def _append(self, clear_to: int = 0) -> None:
        """Bring what was signed into the store; what lay behind it up to ``clear_to`` is zero afterwards."""
        out = io.BytesIO()
        tar = TarWriter(out, to_unix(self.tse.now()))
        for record in self.tse.records_after(self._stored):
            tar.add(build_file_name(parse(record.message)), record.message)
            self._stored = record.counter
        entries = out.getvalue()
        begin, self.end = self.end, self.end + len(entries)
        tail = max(2 * BLOCK, clear_to - self.end if clear_to - self.end < 1 << 20 else 0)
        self.store.write(begin, entries + bytes(tail))

    def _rebuild_store(self) -> None:
        """Write the whole archive anew: at the start, and after the log was erased."""
        self.store.clear()
        writer = _Forward(self.store)
        self.tse.export(Selection(), writer, contextlib.nullcontext)
        self.end = max(0, writer.at - 2 * BLOCK)
        self._stored = self.tse.counter

    def set_up(self, puk: str, admin_pin: str, time_admin_pin: str, clients: Sequence[str]) -> None:
        """Do at once what commissioning does step by step."""
        with self._lock:
            memory = self._memory
            memory.puk, memory.pins = puk, ["", admin_pin, time_admin_pin]
            memory.changed, memory.ctss = 7, True
            for client in clients:
                if client not in self.tse.clients:
                    self._event(self.tse.events.register_client(client), "admin", records.OP_REGISTER, client)
            if self.state == _UNINITIALIZED:
                self.tse.set_state(TseStates.INITIALIZED, None)
                self._append()
            self._save()

    # ---- what only the vendor's library can do ------------------------------------------------

    def decommission(self) -> None:
        """Raises _Refused like a command."""
        self.require(0x70)
        if self._owners:
            raise _Refused(0x1014)
        if self.state == _UNINITIALIZED:
            raise _Refused(0x10FF)
        self.tse.set_state(TseStates.TERMINATED, None)
        self._append()

    def exported(self) -> None:
        """Note that everything there is was exported."""
        self._memory.exported_counter = self.tse.counter
        self._save()

    def delete_stored_data(self) -> None:
        self.require(0x70)
        if self._owners:
            raise _Refused(0x1014)
        if self._memory.exported_counter < self.tse.counter:
            raise _Refused(0x1012)
        self.tse.erase(self.tse.counter, None)
        self._rebuild_store()

    def close(self) -> None:
        with self._lock:
            self.tse.close()
            self.store.close()


Refused = _Refused


class _Forward:
    """Writes to a store from its beginning on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.at = 0

    def write(self, data: bytes) -> None:
        self._store.write(self.at, data)
        self.at += len(data)


def _value(fault: Fault | None, default: float) -> float:
    if fault is None or fault.value is None:
        return default
    return float(int(fault.value, 0) if isinstance(fault.value, str) else fault.value)


def _word(error: ScuError) -> int:
    return {
        "SIGNATURE_LIMIT": 0x100E,
        "TRANSACTION_LIMIT": 0x1009,
        "MEMORY_FULL": 0x1017,
        "CLIENT_NOT_REGISTERED": 0x1011,
        "TRANSACTION_NOT_OPEN": 0x1008,
        "INVALID_PROCESS_DATA": 0x1007,
        "INVALID_CLIENT_ID": 0x1007,
    }.get(error.code, 0x1001)
