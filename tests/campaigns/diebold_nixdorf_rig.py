"""The Diebold Nixdorf TSE of the campaign of hardware TSEs: frames over TCP."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from fiskal.clock import now
from fiskal.scu.core import ScuCore
from fiskal.scu.drivers import diebold_nixdorf
from fiskal.simulators.diebold_nixdorf import Device, Settings, TcpLine, tcp
from fiskal.simulators.plan import Fault, Plan
from fiskal.tse.logmessage import LogType, parse
from tests.campaigns.device_diebold_nixdorf import CLIENT, FAULTS, OPTIONS
from tests.campaigns.rig import Death, Logged

COMMANDS: Final = (
    "*",
    "SetClientId",
    "StartTransactionInit",
    "StartTransactionEnd",
    "FinishTransactionInit",
    "FinishTransactionEnd",
)
ENDS: Final = (201, 205)

_DEVICES: Final[dict[Path, Device]] = {}


class _Rig:
    client = CLIENT

    def __init__(self, folder: Path, url: str, device: Device | None, draw: random.Random) -> None:
        self._folder = folder
        self._url = url
        self._device = device
        self._draw = draw
        self.scu = self._open()

    def _open(self) -> ScuCore:
        return diebold_nixdorf.open(self._folder / "scu", {**OPTIONS, "url": self._url}, now)

    def strike(self) -> str:
        assert self._device is not None
        choice = self._draw.random()
        if choice < 0.05:
            self.restart()
            return "restart"
        if choice < 0.2:
            return self._die()
        kind, value = self._draw.choice(FAULTS)
        command = self._draw.choice(COMMANDS)
        self._device.conductor.inject(Fault(kind=kind, command=command, value=value))
        return kind

    def _die(self) -> str:
        link: Any = self.scu._driver._link  # type: ignore[attr-defined]
        real = link.execute
        after = self._draw.random() < 0.5

        def dying(command: int, *arguments: Any, **more: Any) -> Any:
            if command not in ENDS:
                return real(command, *arguments, **more)
            if after:
                real(command, *arguments, **more)
            raise Death

        link.execute = dying
        return f"death {'after' if after else 'before'} the signature"

    def calm(self) -> None:
        if self._device is not None:
            self._device.conductor.take(Plan(scale=0))
        vars(self.scu._driver._link).pop("execute", None)  # type: ignore[attr-defined]

    def restart(self) -> None:
        vars(self.scu._driver._link).pop("execute", None)  # type: ignore[attr-defined]
        self.scu.close()
        self.scu = self._open()

    def log(self) -> list[Logged]:
        device = self._device or _DEVICES[self._folder]
        read = (parse(message) for _, message in device.tse.messages())
        return [
            Logged(one.operation or "", one.transaction_number or 0, one.signature_counter, one.signature)
            for one in read
            if one.type is LogType.TRANSACTION
        ]


def _simulator(folder: Path) -> TcpLine:
    return tcp(
        Settings(folder=str(folder / "device"), initialized=True, clients=[CLIENT], plan=Plan(scale=0))
    )


@contextmanager
def rig(folder: Path, draw: random.Random) -> Iterator[_Rig]:
    with _simulator(folder) as simulator:
        made = _Rig(folder, f"tcp://{simulator.place}", simulator.device, draw)
        yield made
        made.scu.close()


@contextmanager
def mounted_device(folder: Path) -> Iterator[None]:
    """The device at a TCP port that ``folder``/url names, while processes come and go."""
    with _simulator(folder) as simulator:
        simulator.conductor.take(
            Plan(scale=0, service_time={"StartTransactionEnd": 8, "FinishTransactionEnd": 8})
        )
        (folder / "url").write_text(f"tcp://{simulator.place}")
        _DEVICES[folder] = simulator.device
        yield
        del _DEVICES[folder]


@contextmanager
def mounted_rig(folder: Path) -> Iterator[_Rig]:
    """The driver of a process of its own at the device of :func:`mounted_device`."""
    made = _Rig(folder, (folder / "url").read_text(), None, random.Random(0))
    yield made
    made.scu.close()
