"""The Epson TSE of the campaign of hardware TSEs, over TCP."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fiskal.scu.core import ScuCore
from fiskal.scu.drivers import epson
from fiskal.simulators.epson import Settings, Simulator
from fiskal.simulators.plan import Plan
from fiskal.tse.logmessage import LogType, parse
from tests.campaigns.device_epson import AT_DEVICE, CLIENT, COMMANDS, FAULTS, SECRETS, options, set_up

PORT_FILE = "port"
"""Where a process that is killed finds the device."""


class Signature(NamedTuple):
    """A transaction log of the device."""

    operation: str
    number: int
    counter: int
    signature: bytes


class _Rig:
    def __init__(
        self, folder: Path, given: epson.Options, simulator: Simulator | None, draw: random.Random
    ) -> None:
        self.client = CLIENT
        self._folder = folder
        self._given = given
        self._simulator = simulator
        self._draw = draw
        self.scu = self._open()

    def _open(self) -> ScuCore:
        scu = epson.open(self._folder / "scu", self._given)
        assert isinstance(scu, ScuCore)
        return scu

    def strike(self) -> str:
        if self._draw.random() < 0.05:
            self.restart()
            return "restart"
        kind = self._draw.choice(list(FAULTS))
        commands = COMMANDS[:-2] if kind in AT_DEVICE else COMMANDS
        command = self._draw.choice((self._draw.choice(commands), "StartTransaction", "FinishTransaction"))
        assert self._simulator is not None
        self._simulator.inject(kind, command, value=FAULTS[kind])
        return kind

    def calm(self) -> None:
        if self._simulator is not None:
            self._simulator.conductor.take(self._simulator.settings.plan)

    def restart(self) -> None:
        self.scu.close()
        self.scu = self._open()

    def log(self) -> list[Signature]:
        if self._simulator is None:
            raise AssertionError("the device lives in another process")
        return signatures(self._simulator)


def signatures(simulator: Simulator) -> list[Signature]:
    read = [parse(raw) for _, raw in simulator.device.tse.messages()]
    return [
        Signature(each.operation or "", each.transaction_number or 0, each.signature_counter, each.signature)
        for each in read
        if each.type is LogType.TRANSACTION
    ]


@contextmanager
def rig(folder: Path, draw: random.Random) -> Iterator[_Rig]:
    with Simulator(Settings(folder=str(folder / "device"), port=0, plan=Plan(scale=0))) as simulator:
        made = _Rig(folder, options(simulator), simulator, draw)
        try:
            set_up(made.scu)
            yield made
        finally:
            made.scu.close()


_serving: list[Simulator] = []
"""The device of this process, whose log the last rig reads."""


@contextmanager
def mounted_device(folder: Path) -> Iterator[None]:
    """A device for processes that are killed; they find its port in a file."""
    plan = Plan(scale=0, service_time={"*": 2})
    with Simulator(Settings(folder=str(folder / "device"), port=0, plan=plan)) as simulator:
        made = _Rig(folder, options(simulator), simulator, random.Random(1))
        set_up(made.scu)
        made.scu.close()
        (folder / PORT_FILE).write_text(str(simulator.port))
        _serving.append(simulator)
        try:
            yield
        finally:
            _serving.remove(simulator)


@contextmanager
def mounted_rig(folder: Path) -> Iterator[_Rig]:
    port = int((folder / PORT_FILE).read_text())
    given = epson.Options(port=port, **SECRETS, busy_retry_ms=10_000)  # type: ignore[arg-type]
    made = _Rig(folder, given, _serving[-1] if _serving else None, random.Random(1))
    try:
        yield made
    finally:
        made.scu.close()
