"""The mailbox of a simulated device: when an answer can be seen, and everything that can go wrong on the way.

A command is executed while it is written, and its answer held back for the time the original takes; so no thread is
needed, and a clock that only counts makes a day pass at once.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from fiskal.scu.service_time import ServiceTime
from fiskal.simulators.cryptovision import wire
from fiskal.simulators.cryptovision.core import COMMANDS, Core
from fiskal.simulators.cryptovision.wire import BLOCK
from fiskal.simulators.plan import Conductor, Fault

FILE: Final = "TSE-IO.bin"
GUARD_FILE: Final = "TSE-GUARD.bin"

SIGNING_MS: Final = 150.0
OTHER_MS: Final = 20.0
FRAGMENT_MS: Final = 2.0
DEFAULT_TIMES: Final[dict[str, ServiceTime]] = {
    **{
        name: SIGNING_MS if name.endswith("_transaction") else OTHER_MS
        for name in (*COMMANDS.values(), "resume", "suspend", "unknown")
    },
    "next_fragment": FRAGMENT_MS,
    "cancel": FRAGMENT_MS,
}

FAULTS: Final[dict[str, str]] = {
    "busy_long": "answers after VALUE milliseconds (5000)",
    "busy_forever": "executes the command and stays busy until the next one",
    "not_taken": "shows the command of the host for VALUE more reads (3)",
    "command_lost": "never takes the command",
    "empty_header_done": "executes the command and shows zeros",
    "empty_header_lost": "does not execute the command and shows zeros",
    "foreign_header": "executes the command and shows bytes that are no block",
    "ctl_timeout": "does not execute the command: time-out of the flash controller (ff45)",
    "ctl_error": "does not execute the command: error of the flash controller (ff01)",
    "truncated_read": "gives the first VALUE bytes of an answer (4096), once",
    "fragment_lost": "refuses to go on with a stream (801c)",
    "length_too_big": "executes the command and answers with a length that cannot be",
    "old_answer": "executes the command and shows the answer before it again",
    "garbage": "executes the command and fills the answer with random bytes",
    "torn_block": "executes the command and shows only the first VALUE sectors of the answer (1)",
    "torn_write": "takes the first VALUE sectors of a write (0) and says so",
    "removed_before": "is unplugged before the command, for VALUE milliseconds (50)",
    "removed_after": "executes the command and is unplugged, for VALUE milliseconds (50)",
    "restart_before": "loses its power for a moment before the command",
    "restart_after": "executes the command and loses its power for a moment",
    "swapped": "is another device from now on",
    "wrong_pin": "does not accept a PIN",
    "pin_blocked": "says that a PIN is blocked",
    "auto_logout": "logs everybody out before the command",
    "time_unset": "has lost its time",
    "error": "does not execute the command and answers the result code VALUE",
    "error_done": "executes the command and answers the result code VALUE",
    "export_timeout": "prepares an answer for VALUE milliseconds (60000)",
    "slow_wakeup": "shows zeros for VALUE milliseconds (5000) before the answer",
}
"""The kinds of faults that a plan may inject."""


class Gone(OSError):
    """The device is unplugged."""

    def __init__(self) -> None:
        super().__init__(errno.ENODEV, os.strerror(errno.ENODEV))


class Mailbox:
    """``TSE-IO.bin`` as the device serves it. Thread-safe.

    ``take_delay_s`` is how long the host's own block stays visible, ``never_empty`` keeps the 8192 zero bytes of a
    host that wipes the file from being shown.
    """

    def __init__(
        self,
        core: Core,
        conductor: Conductor,
        *,
        take_delay_s: float = 0.0,
        never_empty: bool = False,
        random_token: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.core = core
        self.conductor = conductor
        self._take_delay_s = take_delay_s
        self._never_empty = never_empty
        self._random_token = random_token
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._host = bytes(BLOCK)
        """What the host wrote last: it shows through until the answer covers it."""
        self._answer = wire.device_block(0) if never_empty else bytes(BLOCK)
        self._polls_left = 0
        self._taken_at = self._ready_at = -1.0
        self._waking = False
        self._away_until = -1.0
        self._cut: int | None = None
        self._taken = True
        self._guard = bytes(wire.SECTOR)
        self.executed = 0
        """How many commands were executed."""

    # ---- the files --------------------------------------------------------------------------

    def sizes(self) -> Mapping[str, int]:
        """The files there are now; none while the device is unplugged."""
        if self._is_away():
            return {}
        return {FILE: BLOCK, GUARD_FILE: wire.SECTOR}

    def _is_away(self) -> bool:
        return self._away_until >= 0 and self._monotonic() < self._away_until

    def read(self, name: str, offset: int, length: int) -> bytes:
        """At most ``length`` bytes of a file. Raises OSError."""
        with self._lock:
            if self._is_away():
                raise Gone
            if name == GUARD_FILE:
                return self._guard[offset : offset + length]
            if name != FILE:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            block = self._visible()
            if self._cut is not None:
                length, self._cut = min(length, self._cut), None
            return block[offset : offset + length]

    def _visible(self) -> bytes:
        moment = self._monotonic()
        if self._polls_left > 0:
            self._polls_left -= 1
            return self._host
        if not self._taken or moment < self._taken_at:
            return self._host
        if moment < self._ready_at:
            return bytes(BLOCK) if self._waking else wire.device_block(wire.BUSY, rest=self._host)
        return self._answer

    def write(self, name: str, offset: int, data: bytes) -> int:
        """Take what a host writes; return how much of it was taken. Raises OSError."""
        with self._lock:
            if self._is_away():
                raise Gone
            if name == GUARD_FILE:
                if offset or len(data) > wire.SECTOR:
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
                self._guard = data.ljust(wire.SECTOR, b"\0")
                return len(data)
            if name != FILE:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), name)
            if offset + len(data) > BLOCK:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            return self._take(offset, data)

    def _take(self, offset: int, data: bytes) -> int:
        block = wire.host_block(data) if offset == 0 else None
        if block is None:
            if not self._never_empty:
                self._host = self._host[:offset] + data + self._host[offset + len(data) :]
                if offset == 0:
                    self._answer = self._host
                    self._ready_at = self._taken_at = -1.0
                    self._polls_left, self._taken = 0, True
            return len(data)
        name = self._name_of(block)
        fault = self.conductor.fault(name)
        kind = fault.kind if fault else ""
        if fault is not None and kind == "torn_write":
            return min(len(data), int(_value(fault, 0)) * wire.SECTOR)
        if kind in ("removed_before", "swapped"):
            self._unplug(_value(fault, 50))
            if kind == "swapped":
                self.core.swap()
                self._away_until = -1.0
            raise Gone
        if kind == "restart_before":
            self.core.power_cycle()
        moment = self._monotonic()
        before = self._answer
        self._host = data.ljust(BLOCK, b"\0")
        self._taken = kind != "command_lost"
        self._polls_left = int(_value(fault, 3)) if kind == "not_taken" else 0
        self._taken_at = moment + self._take_delay_s
        self._waking = kind == "slow_wakeup"
        self._ready_at = self._taken_at + self._delay(name, fault)
        if self._taken:
            self._answer = self._answer_to(block, name, fault, before)
        if kind == "truncated_read":
            self._cut = int(_value(fault, 4096))
        if kind == "removed_after":
            self._unplug(_value(fault, 50))
        elif kind == "restart_after":
            self.core.power_cycle()
        return len(data)

    @staticmethod
    def _name_of(block: wire.HostBlock) -> str:
        if block.mode == wire.SUSPEND_OFF:
            return "resume"
        if block.mode == wire.SUSPEND_ON:
            return "suspend"
        return Core.name_of(block.data)

    def _delay(self, name: str, fault: Fault | None) -> float:
        kind = fault.kind if fault else ""
        if kind in ("busy_long", "slow_wakeup"):
            return float(_value(fault, 5000)) / 1000
        if kind == "export_timeout":
            return float(_value(fault, 60_000)) / 1000
        if kind == "busy_forever":
            return float("inf")
        return self.conductor.seconds(name)

    def _unplug(self, milliseconds: float) -> None:
        self.core.power_cycle()
        self._away_until = self._monotonic() + milliseconds / 1000

    def unplug(self, milliseconds: float = 50.0) -> None:
        """Take the device away for a while."""
        with self._lock:
            self._unplug(milliseconds)

    # ---- answers ----------------------------------------------------------------------------

    def _answer_to(self, block: wire.HostBlock, name: str, fault: Fault | None, before: bytes) -> bytes:
        kind = fault.kind if fault else ""
        if kind == "empty_header_lost":
            return bytes(BLOCK)
        if kind in ("ctl_timeout", "ctl_error"):
            return wire.device_block(
                wire.CONTROLLER_TIMEOUT if kind == "ctl_timeout" else wire.CONTROLLER_ERROR
            )
        if kind == "auto_logout":
            self.core.log_out_everybody()
        elif kind == "time_unset":
            self.core.forget_time()
        answer = self._execute(block, name, fault)
        if answer is None:
            self._ready_at = float("inf")
            return self._answer
        if kind == "error_done":
            answer = wire.refusal(int(_value(fault, 0x8000)))
        whole = self._wrap(answer)
        match kind:
            case "empty_header_done":
                return bytes(BLOCK)
            case "foreign_header":
                return secrets.token_bytes(BLOCK)
            case "length_too_big":
                return wire.device_block(0xFE00, answer)
            case "old_answer":
                return before
            case "garbage":
                return self._wrap(secrets.token_bytes(len(answer)))
            case "torn_block":
                return whole[: int(_value(fault, 1)) * wire.SECTOR].ljust(BLOCK, b"\0")
        return whole

    def _wrap(self, data: bytes) -> bytes:
        token = b"\0" + secrets.token_bytes(3) if self._random_token else bytes(4)
        return wire.device_block(len(data), data, token=token, rest=self._host)

    def _execute(self, block: wire.HostBlock, name: str, fault: Fault | None) -> bytes | None:
        """The data of the answer; None if the device does not answer."""
        kind = fault.kind if fault else ""
        if name in ("resume", "suspend"):
            self.core.suspended = name == "suspend"
            return b""
        if self.core.suspended and not self.core.quirks.answers_suspended:
            return None
        if kind == "error":
            return wire.refusal(int(_value(fault, 0x8000)))
        if kind == "fragment_lost":
            return wire.refusal(0x801C)
        if kind == "wrong_pin":
            return wire.success(wire.byte(1), wire.short(2))
        if kind == "pin_blocked":
            return wire.success(wire.byte(2), wire.short(0))
        self.executed += 1
        return self.core.execute(block.data)

    def close(self) -> None:
        with self._lock:
            self.core.close()


def _value(fault: Fault | None, default: float) -> float:
    if fault is None or fault.value is None:
        return default
    return int(fault.value, 0) if isinstance(fault.value, str) else fault.value
