"""A simulated Cryptovision / Bundesdruckerei TSE. NOT CERTIFIED, for development and testing only.

One device in three forms, each behind a function of its own:

:func:`open_device`
    in this process: a :class:`Mailbox`, and with :class:`Area` what a driver's transport needs;
:func:`watch`
    the file ``TSE-IO.bin`` in a folder, watched;
:func:`mount`
    a FUSE volume with ``TSE-IO.bin``, served by a process of its own; :func:`serve` does it in this one.

The device's state lies in a folder and outlives the process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from fiskal.clock import Clock, now
from fiskal.scu.transports import NotSent
from fiskal.scu.transports.mailbox import ShortTransfer
from fiskal.simulators import fuse
from fiskal.simulators.cryptovision.core import TOTAL_LOG_MEMORY, Core, Quirks
from fiskal.simulators.cryptovision.folder import Watcher
from fiskal.simulators.cryptovision.mailbox import DEFAULT_TIMES, FAULTS, FILE, GUARD_FILE, Mailbox
from fiskal.simulators.plan import Conductor, Plan

__all__ = [
    "DEFAULT_TIMES",
    "FAULTS",
    "FILE",
    "GUARD_FILE",
    "Area",
    "Mailbox",
    "Quirks",
    "Settings",
    "Watcher",
    "mount",
    "open_device",
    "serve",
    "watch",
]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a simulated device is. ``generation`` counts for a new one only.

    ``profile`` ``python-bdr-tse`` makes it what that program needs: the host's block is never seen again, no block is
    empty, and commands are answered without a wake-up. ``control`` is a file with a plan that is read again whenever
    it changes, and takes the place of ``plan``.
    """

    generation: Literal[1, 2] = 2
    profile: Literal["default", "python-bdr-tse"] = "default"
    quirks: Quirks = Quirks()
    plan: Plan = Plan()
    control: str | None = None
    take_delay_ms: Annotated[float, msgspec.Meta(ge=0, le=60_000)] = 0.0
    total_log_memory: Annotated[int, msgspec.Meta(ge=4096, le=2**63 - 1)] = TOTAL_LOG_MEMORY
    time_sync_interval_s: Annotated[int, msgspec.Meta(ge=1, le=2**31)] = 86_400
    certification: str = "BSI-K-TR-0000-2020"
    durable: bool = False
    """Sync every signature to the disk before it is answered."""


def open_device(
    directory: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    clock: Clock = now,
    monotonic: Callable[[], float] = time.monotonic,
) -> Mailbox:
    """Switch the device in ``directory`` on, making a new one if there is none. Close it to switch it off.

    Raises ConfigurationError, and ``Misconfigured`` if another process has it.
    """
    settings = settings or Settings()
    foreign = settings.profile == "python-bdr-tse"
    quirks = settings.quirks
    if foreign:
        quirks = msgspec.structs.replace(quirks, answers_suspended=True)
    conductor = Conductor(
        "cryptovision",
        faults=FAULTS,
        default_times=DEFAULT_TIMES,
        plan=settings.plan,
        control=None if settings.control is None else Path(settings.control),
    )
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    core = Core(
        path,
        generation=settings.generation,
        quirks=quirks,
        total_log_memory=settings.total_log_memory,
        time_sync_interval_s=settings.time_sync_interval_s,
        certification=settings.certification,
        durable=settings.durable,
        clock=clock,
        monotonic=monotonic,
    )
    return Mailbox(
        core,
        conductor,
        take_delay_s=0.0 if foreign else settings.take_delay_ms / 1000,
        never_empty=foreign,
        random_token=quirks.random_token,
        monotonic=monotonic,
    )


class Area:
    """A mailbox in this process as the blocks that a transport reads and writes. ``before`` is called with each access,
    for tests that end the process there."""

    def __init__(
        self, mailbox: Mailbox, name: str = "simulator", before: Callable[[str], None] = lambda what: None
    ) -> None:
        self.name = name
        self.mailbox = mailbox
        self._before = before

    def read(self, offset: int, length: int) -> bytes:
        self._before("read")
        data = self.mailbox.read(FILE, offset, length)
        if len(data) != length:
            raise ShortTransfer("read", len(data), length)
        return data

    def write(self, offset: int, data: bytes) -> None:
        self._before("write")
        taken = self.mailbox.write(FILE, offset, data)
        if taken != len(data):
            raise ShortTransfer("written", taken, len(data))

    def reopen(self) -> None:
        if not self.mailbox.sizes():
            raise NotSent("The simulated TSE is unplugged.")

    def close(self) -> None:
        """The device stays on."""


def watch(
    directory: str | os.PathLike[str], folder: str | os.PathLike[str], settings: Settings | None = None
) -> tuple[Mailbox, Watcher]:
    """Serve the device in ``directory`` through the file ``TSE-IO.bin`` of ``folder``. Close the watcher first."""
    mailbox = open_device(directory, settings)
    try:
        return mailbox, Watcher(mailbox, folder)
    except BaseException:
        mailbox.close()
        raise


def _files(directory: str, settings: bytes) -> Mailbox:
    return open_device(directory, msgspec.json.decode(settings, type=Settings))


def mount(
    directory: str | os.PathLike[str], mount_point: str | os.PathLike[str], settings: Settings | None = None
) -> fuse.Mount:
    """Mount the device in ``directory`` at ``mount_point``, served by a process of its own. Raises ConfigurationError
    where that cannot be (:func:`fiskal.simulators.fuse.why_not`)."""
    return fuse.Mount(
        _files, (os.fspath(directory), msgspec.json.encode(settings or Settings())), mount_point
    )


def serve(
    directory: str | os.PathLike[str],
    mount_point: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Mount the device and serve it from this process until it is unmounted. Raises ConfigurationError."""
    mailbox = open_device(directory, settings)
    try:
        fuse.serve(mailbox, mount_point, ready=ready)
    finally:
        mailbox.close()
