"""What a simulator is to do beside its protocol: how long each command takes, and which faults happen when.

A plan comes from options and may be changed while the simulator runs: its control file is read again whenever it
changed. Commands and faults are named by each family; a name it does not know is an error that lists those it knows.
"""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Annotated, Any

import msgspec

from fiskal.errors import ConfigurationError
from fiskal.scu.service_time import Sampler, ServiceTime, sampler

ANY = "*"
"""A fault or a service time for every command."""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Something that goes wrong at a command.

    It happens at the commands called ``command`` (:data:`ANY`: all), after ``skip`` of them, ``times`` times
    (None: until it is taken away), each time with ``probability``. ``value`` is the fault's own: milliseconds, a byte
    count, a code.
    """

    kind: str
    command: str = ANY
    skip: Annotated[int, msgspec.Meta(ge=0)] = 0
    times: Annotated[int, msgspec.Meta(ge=1)] | None = 1
    probability: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    value: int | float | str | None = None


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``service_time`` by command name, :data:`ANY` for the others; without either the family's default counts,
    times ``scale`` (0 is no delay at all)."""

    seed: int = 1
    scale: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 1.0
    service_time: dict[str, ServiceTime] = {}
    faults: list[Fault] = []


class Conductor:
    """Plays a plan. Thread-safe.

    ``faults`` are the kinds the family knows with what each does, ``default_times`` its commands with the time each
    takes. ``wait`` sleeps. Raises ConfigurationError for names that are not among them.
    """

    def __init__(
        self,
        family: str,
        *,
        faults: Mapping[str, str],
        default_times: Mapping[str, ServiceTime],
        plan: Plan | None = None,
        control: Path | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._family = family
        self._kinds = faults
        self._default_times = default_times
        self._control = control
        self._stamp: tuple[int, int, int] | None = None
        self._lock = threading.Lock()
        self._wait = wait
        self.take(plan or Plan())
        self._reread()

    def take(self, plan: Plan) -> None:
        """Play ``plan`` from now on. Raises ConfigurationError and goes on with the one before."""
        for fault in plan.faults:
            _known(self._family, "fault", fault.kind, self._kinds)
            if fault.command != ANY:
                _known(self._family, "command", fault.command, self._default_times)
        for command in plan.service_time:
            if command != ANY:
                _known(self._family, "command", command, self._default_times)
        with self._lock:
            self.plan = plan
            self._random = Random(f"{plan.seed}/faults")
            self._samplers: dict[str, Sampler] = {}
            self._left = [[fault.skip, fault.times] for fault in plan.faults]

    def inject(self, fault: Fault) -> None:
        """Add one fault to what is played."""
        self.take(msgspec.structs.replace(self.plan, faults=[*self._remaining(), fault]))

    def _remaining(self) -> list[Fault]:
        with self._lock:
            return [
                msgspec.structs.replace(fault, skip=skip, times=times)
                for fault, (skip, times) in zip(self.plan.faults, self._left, strict=True)
                if times != 0
            ]

    def fault(self, command: str) -> Fault | None:
        """The fault that happens at this call of ``command``, None if it goes well. Counts the call."""
        self._reread()
        with self._lock:
            for fault, left in zip(self.plan.faults, self._left, strict=True):
                if fault.command not in (ANY, command) or left[1] == 0:
                    continue
                if left[0]:
                    left[0] -= 1
                    continue
                if fault.probability < 1 and self._random.random() >= fault.probability:
                    continue
                if left[1] is not None:
                    left[1] -= 1
                return fault
        return None

    def seconds(self, command: str) -> float:
        """How long this call of ``command`` takes."""
        with self._lock:
            draw = self._samplers.get(command)
            if draw is None:
                times = self.plan.service_time
                chosen = times.get(command, times.get(ANY))
                scale = 1.0
                if chosen is None:
                    chosen, scale = self._default_times.get(command, 0), self.plan.scale
                one = sampler(chosen, f"{self.plan.seed}/{command}")
                draw = self._samplers[command] = lambda: one() * scale
            return draw()

    def work(self, command: str) -> None:
        """Take the time this call of ``command`` takes."""
        seconds = self.seconds(command)
        if seconds > 0:
            self._wait(seconds)

    def _reread(self) -> None:
        if self._control is None:
            return
        try:
            status = self._control.stat()
        except OSError:
            return
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp != self._stamp:
            self._stamp = stamp
            self.take(read(self._control))


def read(path: Path) -> Plan:
    """Read a plan from a JSON file. Raises ConfigurationError with the path and what is wrong."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no plan for a simulator: {error}") from error


def _known(family: str, what: str, name: str, known: Mapping[str, Any]) -> None:
    if name in known:
        return
    close = difflib.get_close_matches(name, list(known), 1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigurationError(
        f"the {family} simulator has no {what} {name!r}.{meant} It has {', '.join(sorted(known))}."
    )
