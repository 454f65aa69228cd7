"""Cryptovision / Bundesdruckerei (D-TRUST) TSEs: microSD cards, SD cards and USB sticks with a mailbox file.

Written after public sources; no real device was ever asked. ``docs/devices/cryptovision.md`` says what is assumed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fiskal.clock import Clock, now
from fiskal.errors import ConfigurationError
from fiskal.scu.callstore import SqliteCallStore
from fiskal.scu.core import ScuCore
from fiskal.scu.drivers import Found, convert_options
from fiskal.scu.drivers.cryptovision.driver import CryptovisionTse
from fiskal.scu.drivers.cryptovision.options import Options
from fiskal.scu.drivers.cryptovision.pins import new_secrets
from fiskal.scu.drivers.cryptovision.protocol import Session, judge_of, pace_key
from fiskal.scu.drivers.cryptovision.volumes import FILE, mailboxes
from fiskal.scu.errors import Misconfigured
from fiskal.scu.exports import ExportSettings
from fiskal.scu.transports import NotSent
from fiskal.scu.transports.mailbox import Area, DeviceLock, DirectFile, Mailbox, Pace

__all__ = ["CryptovisionTse", "Options", "find", "new_secrets", "open", "open_area"]

FAMILY = "cryptovision"
GUARD_FILE = "TSE-GUARD.bin"
ANSWER_BYTES = 8192


def open(folder: Path, options: Options | dict[str, Any], clock: Clock = now) -> ScuCore:
    """Open the TSE that ``options`` name; the device itself is first asked by the first call, and may be plugged in
    later. Raises ConfigurationError, and ``Misconfigured`` DEVICE_IN_USE if another process has it."""
    if isinstance(options, dict):
        options = convert_options("cryptovision", options, Options)
    path = _mailbox(options)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = DeviceLock(f"cryptovision-{os.path.realpath(path)}", options.lock_folder or None)
    except NotSent as error:
        raise Misconfigured("DEVICE_IN_USE", str(error)) from error
    try:
        area = DirectFile(
            path,
            direct_io=options.direct_io,
            widen=True,
            volume_hint="Mount the volume with uid= and gid= of the user that fiskal runs as, mode rw.",
        )
        driver = open_area(
            area, folder, options, clock, guard=path.with_name(GUARD_FILE), release=lock.release
        )
    except BaseException:
        lock.release()
        raise
    return _scu(driver, folder, clock)


def _scu(driver: CryptovisionTse, folder: Path, clock: Clock) -> ScuCore:
    try:
        calls = SqliteCallStore(folder / "calls.sqlite")
        return ScuCore(driver, calls=calls, clock=clock, exports=ExportSettings(folder=folder / "exports"))
    except BaseException:
        driver.close()
        raise


def open_area(
    area: Area,
    folder: Path,
    options: Options,
    clock: Clock = now,
    *,
    guard: Path | None = None,
    release: Callable[[], None] = lambda: None,
    patience: float = 1.0,
) -> CryptovisionTse:
    """The driver over anything that can be read and written as the mailbox is; ``patience`` as in :class:`Session`."""
    session: Session

    def opened() -> None:
        session.opened()
        if options.scrub_on_open:
            area.write(0, bytes(ANSWER_BYTES))

    mailbox = Mailbox(
        area,
        judge_of(options.empty_answer_wait_ms / 1000),
        answer_bytes=ANSWER_BYTES,
        reads_before=False,
        key=pace_key,
        pace=Pace(options.io_read_delay_ms / 1000),
        on_open=opened,
        limit_s=options.io_timeout_ms / 1000,
    )
    session = Session(mailbox, area.name, command_s=options.io_timeout_ms / 1000, patience=patience)
    waker = None
    if guard is not None and options.keep_alive_s:
        waker = _Guard(guard, options).read

    def close() -> None:
        mailbox.close()
        release()

    return CryptovisionTse(session, folder, options, clock=clock, close=close, guard=waker)


class _Guard:
    """Reads a block of a file that has no meaning, past every cache, so that the device does not fall asleep."""

    def __init__(self, path: Path, options: Options) -> None:
        self._path = path
        self._options = options

    def read(self) -> None:
        if not self._path.exists():
            with self._path.open("xb") as file:
                file.write(bytes(512))
        area = DirectFile(self._path, direct_io=self._options.direct_io, writable=False)
        try:
            area.read(0, 512)
        finally:
            area.close()


def _mailbox(options: Options) -> Path:
    """The mailbox file. Raises ConfigurationError unless it is clear which one is meant."""
    if options.path:
        path = Path(options.path)
        return path if path.name == FILE else path / FILE
    found = list(mailboxes())
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigurationError(
            "no Cryptovision TSE is mounted: plug it in, or set its volume as the option 'path'"
        )
    places = ", ".join(str(path.parent) for path in found)
    raise ConfigurationError(
        f"several Cryptovision TSEs are mounted ({places}): set one of them as the option 'path'"
    )


def find() -> Iterator[Found]:
    """The Cryptovision TSEs whose volumes are mounted. Their serial numbers stand nowhere on the volume, and asking for
    them would disturb whoever uses the TSE: that is done when it is opened."""
    for path in mailboxes():
        yield Found(
            family=FAMILY,
            place=str(path.parent),
            options={"path": str(path.parent)},
            note="" if os.access(path, os.R_OK | os.W_OK) else "This user may not read and write it.",
        )
