"""A Diebold Nixdorf TSE that speaks the vendor's protocols byte for byte: frames over a pseudo terminal or TCP, and the
JSON dialect of the vendor's web service. NOT CERTIFIED.

Each form has one entry. What comes back can be reached until it is closed, says where (``place``), and takes faults
while it runs (``conductor``); a control file (:attr:`Settings.control`) does the same from outside::

    with pseudo_terminal(Settings(initialized=True, clients=["POS001"])) as simulator:
        print(simulator.place)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fiskal.clock import Clock, now
from fiskal.simulators.diebold_nixdorf.device import Device
from fiskal.simulators.diebold_nixdorf.faults import FAULTS, TIMES
from fiskal.simulators.diebold_nixdorf.line import PseudoTerminal, Running, TcpLine
from fiskal.simulators.diebold_nixdorf.settings import MANAGEMENT_CLIENT, PRODUCTION_CLIENT, Settings
from fiskal.simulators.diebold_nixdorf.web import WebService

__all__ = [
    "FAULTS",
    "MANAGEMENT_CLIENT",
    "PRODUCTION_CLIENT",
    "TIMES",
    "Device",
    "PseudoTerminal",
    "Running",
    "Settings",
    "TcpLine",
    "WebService",
    "pseudo_terminal",
    "tcp",
    "web_service",
]


def pseudo_terminal(
    settings: Settings,
    link: Path | None = None,
    *,
    clock: Clock = now,
    wait: Callable[[float], None] | None = None,
) -> PseudoTerminal:
    """The frame protocol at a pseudo terminal; ``link`` is the path a driver is given, by default a new one."""
    return PseudoTerminal(Device(settings, clock=clock, wait=wait), link)


def tcp(
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    clock: Clock = now,
    wait: Callable[[float], None] | None = None,
) -> TcpLine:
    """The frame protocol at a TCP port, as a Connect Box has it; port 0 is any free one."""
    return TcpLine(Device(settings, clock=clock, wait=wait), host, port)


def web_service(
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    clock: Clock = now,
    wait: Callable[[float], None] | None = None,
) -> WebService:
    """The vendor's web service; its own port is 10001, port 0 is any free one. Needs ``fiskal[websocket]``."""
    return WebService(Device(settings, clock=clock, wait=wait), host, port)
