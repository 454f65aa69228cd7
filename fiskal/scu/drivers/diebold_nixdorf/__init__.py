"""Diebold Nixdorf TSEs: USB stick and TSE Connect Box over their frame protocol (serial port, TCP), and both behind the
vendor's web service (WebSocket).

Written from what is publicly known and never tried on a real device: docs/devices/diebold-nixdorf.md says what is
inferred, and every assumption is an option of its own (:class:`Options`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from fiskal.clock import Clock
from fiskal.errors import ConfigurationError
from fiskal.scu.callstore import SqliteCallStore
from fiskal.scu.core import ScuCore
from fiskal.scu.drivers import Found, convert_options
from fiskal.scu.drivers.diebold_nixdorf.driver import DieboldNixdorfTse
from fiskal.scu.drivers.diebold_nixdorf.link import LineTransport, Link
from fiskal.scu.drivers.diebold_nixdorf.options import Options
from fiskal.scu.drivers.diebold_nixdorf.pins import RefusedPins
from fiskal.scu.drivers.diebold_nixdorf.service import Service
from fiskal.scu.drivers.diebold_nixdorf.web import DieboldNixdorfWeb
from fiskal.scu.exports import ExportSettings
from fiskal.scu.transports.serial import SerialTransport
from fiskal.scu.transports.tcp import TcpTransport
from fiskal.scu.transports.websocket import WebSocketTransport

try:
    from serial.tools.list_ports import comports
except ImportError:  # without the extra there are no serial ports to be listed
    comports = None  # type: ignore[assignment]

__all__ = ["FAMILY", "Options", "find", "open"]

FAMILY: Final = "diebold-nixdorf"
USB_VENDOR: Final = 0x0AA7
"""Wincor Nixdorf, today Diebold Nixdorf. Inferred: the stick's own ids are not published."""
_NAMES: Final = ("diebold", "wincor")
_BY_ID: Final = Path("/dev/serial/by-id")


def line_transport(options: Options, link: Link) -> LineTransport:
    """The way to the device that ``options`` choose. Nothing is opened yet. Raises ConfigurationError."""
    if options.port is not None:
        return SerialTransport(
            options.port,
            link.complete,
            baud_rate=options.baud_rate,
            dtr=options.enable_dtr,
            write_timeout_s=options.write_timeout_ms / 1000,
        )
    try:
        parts = urlsplit(options.url or "")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise ConfigurationError(
            f"url {options.url!r} is no tcp://HOST:PORT, for example tcp://192.168.5.1:5001"
        )
    return TcpTransport(
        host,
        port,
        link.complete,
        connect_timeout_s=options.connect_timeout_ms / 1000,
        keep_when_silent=True,
    )


def open(folder: Path, options: dict[str, Any], clock: Clock) -> ScuCore:
    """The TSE as an SCU; ``folder`` keeps its calls, its exports and which PINs it refused.

    The device is opened by the first call. Raises :class:`ConfigurationError`.
    """
    chosen = convert_options(FAMILY, options, Options)
    chosen.check()
    folder.mkdir(parents=True, exist_ok=True)
    calls = SqliteCallStore(folder / "calls.sqlite")
    try:
        pins = RefusedPins(folder / "refused-pins.json")
        driver: DieboldNixdorfTse | DieboldNixdorfWeb
        exports = chosen.enable_tar_file_export
        if chosen.transport == "web":
            service = Service()
            service.transport = WebSocketTransport(
                chosen.web_url,
                service.wanted,
                aside=service.aside,
                connect_timeout_s=chosen.connect_timeout_ms / 1000,
                max_message_bytes=4 << 20,
            )
            driver = DieboldNixdorfWeb(service, chosen, pins, folder, known_open=calls.open_transactions)
            exports = False
        else:
            link = Link(chosen)
            link.transport = line_transport(chosen, link)
            driver = DieboldNixdorfTse(
                link,
                chosen,
                pins,
                clock,
                known_open=calls.open_transactions,
                answered_counter=calls.answered_counter,
            )
        return ScuCore(
            driver,
            calls=calls,
            clock=clock,
            exports=ExportSettings(folder=folder / "exports", enabled=exports),
        )
    except BaseException:
        calls.close()
        raise


def find() -> Iterator[Found]:
    """The serial ports that look like a TSE of this family by their USB ids. None is opened: card terminals and scales
    live on serial ports too."""
    if comports is None:
        return
    for port in comports():
        texts = f"{port.manufacturer or ''} {port.product or ''} {port.description or ''}".lower()
        if port.vid != USB_VENDOR and not any(name in texts for name in _NAMES):
            continue
        place = _lasting_name(port.device)
        yield Found(
            family=FAMILY,
            place=place,
            options={"port": place},
            note="Recognised by its USB id only and not opened. "
            "If the vendor's web service runs, it has the port: stop it, or use transport 'web'.",
        )


def _lasting_name(device: str) -> str:
    """The name of a port that stays the same over plugging and restarts, if it has one."""
    try:
        for link in sorted(_BY_ID.iterdir()):
            if os.path.realpath(link) == os.path.realpath(device):
                return str(link)
    except OSError:
        pass
    return device
