"""Epson TSEs: USB stick, microSD card in a receipt printer, TSE server; over TCP, plain or TLS."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from fiskal.clock import Clock, now
from fiskal.errors import ConfigurationError
from fiskal.scu.callstore import SqliteCallStore
from fiskal.scu.contract import Deadline, Scu
from fiskal.scu.core import ScuCore
from fiskal.scu.drivers import Found, convert_options
from fiskal.scu.drivers.epson.driver import EpsonDriver, decoded
from fiskal.scu.drivers.epson.options import PORT, Options
from fiskal.scu.drivers.epson.protocol import Link, Reader, Refused, greeting, member
from fiskal.scu.transports import TransportError
from fiskal.scu.transports.tcp import TcpTransport, client_context

__all__ = ["FAMILY", "EpsonDriver", "Options", "find", "open", "open_driver", "open_link"]

log = logging.getLogger(__name__)

FAMILY: Final = "epson"
MAX_ANSWER_BYTES: Final = 16 << 20
"""Answers are small but for pieces of an export, whose size the device chooses."""
FIND_TIMEOUT_S: Final = 1.0


def open_link(options: Options) -> Link:
    """The way to the device; nothing is sent yet. Raises ConfigurationError for a certificate file that is none."""
    reader = Reader()
    try:
        tls = None
        if options.tls:
            tls = client_context(options.ca_file, verify=not options.fingerprint)
    except OSError as error:
        raise ConfigurationError(f"ca_file {options.ca_file}: {error}") from error
    transport = TcpTransport(
        options.host,
        options.port_number,
        reader.complete,
        greeting=greeting,
        tls=tls,
        fingerprint=bytes.fromhex(options.fingerprint_hex) if options.fingerprint else None,
        connect_timeout_s=options.connect_timeout_ms / 1000,
        answer_timeout_s=options.timeout_ms / 1000 + 10,
        max_answer_bytes=MAX_ANSWER_BYTES,
    )
    return Link(
        transport,
        reader,
        name=f"epson {transport.place}/{options.device_id}",
        device_id=options.device_id,
        storage_type=options.storage_type,
        timeout_ms=options.timeout_ms,
        busy_retry_s=options.busy_retry_ms / 1000,
        reconnects=options.reconnect,
    )


def open_driver(
    folder: Path,
    options: Options,
    clock: Clock = now,
    known_starts: Callable[[], Mapping[int, object]] = dict,
) -> EpsonDriver:
    """The driver alone. Raises ConfigurationError for secrets that everybody knows."""
    options.refuse_defaults()
    folder.mkdir(parents=True, exist_ok=True)
    return EpsonDriver(open_link(options), options, folder, clock, known_starts=known_starts)


def open(folder: Path, options: Options | dict[str, Any], clock: Clock = now) -> Scu:
    """The TSE as an SCU. It is first asked when it is first needed: it may be plugged in later.

    Raises :class:`fiskal.errors.ConfigurationError`, :class:`fiskal.errors.StoreError`.
    """
    if isinstance(options, dict):
        options = convert_options("epson", options, Options)
    folder.mkdir(parents=True, exist_ok=True)
    calls = SqliteCallStore(folder / "calls.sqlite")
    try:
        return ScuCore(open_driver(folder, options, clock, calls.open_transactions), calls=calls, clock=clock)
    except BaseException:
        calls.close()
        raise


def find(hosts: Iterable[str] = ("127.0.0.1",)) -> Iterator[Found]:
    """The TSEs that hosts offer at the usual port. Nothing is sent to a host that does not greet as these do.

    What is looked at is what GetStorageInfo tells everybody; a device that somebody uses is listed without it.
    """
    for host in hosts:
        options = Options(
            host=host, connect_timeout_ms=int(FIND_TIMEOUT_S * 1000), busy_retry_ms=0, reconnect=False
        )
        link = open_link(options)
        try:
            yield from _look(link, options)
        finally:
            with contextlib.suppress(TransportError):
                link.close()


def _look(link: Link, options: Options) -> Iterator[Found]:
    place = f"{options.host}:{PORT}"
    given = {} if options.host == "127.0.0.1" else {"host": options.host}
    try:
        link.open(Deadline(FIND_TIMEOUT_S))
        output = link.operate("GetStorageInfo", {}, Deadline(5 * FIND_TIMEOUT_S))
    except Refused as refused:
        note = f"The host answered {refused.code}."
        if refused.code in ("DEVICE_IN_USE", "DEVICE_OPEN_ERROR", "ERROR_DEVICE_BUSY"):
            note += " Somebody else uses the TSE."
        elif refused.code == "DEVICE_NOT_FOUND":
            note += " A TSE server has device ids of its own, shown on its web page: set device_id."
        yield Found(family=FAMILY, place=place, options=dict(given), note=note)
        return
    except TransportError as error:
        log.debug("there is no Epson TSE at %s: %s", place, error)
        return
    information = member(output, "tseInformation")
    if not isinstance(information, dict):
        return
    yield _found(place, dict(given), information)


def _found(place: str, given: dict[str, object], information: dict[str, object]) -> Found:
    def number(name: str) -> int | None:
        value = member(information, name)
        return value if isinstance(value, int) else None

    def text(name: str) -> str:
        value = member(information, name)
        return value if isinstance(value, str) else ""

    serial = decoded(text("serialNumber")).hex()
    capacity, used = number("tseCapacity"), number("tseCurrentSize")
    state = text("tseInitializationState")
    return Found(
        family=FAMILY,
        place=place,
        options=given | ({"serial": serial} if serial else {}),
        serial=serial or None,
        state=state.lower() or None,
        certificate_end=text("certificateExpirationDate")[:10] or None,
        signatures_left=number("remainingSignatures"),
        memory_left_bytes=None if capacity is None or used is None else (capacity - used) * 512,
        note="It has not been initialised." if state == "UNINITIALIZED" else "",
    )
