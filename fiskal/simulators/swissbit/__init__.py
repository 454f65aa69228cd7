"""The Swissbit TSE 1.x, simulated: mailbox, store and info block behave byte for byte as far as that is publicly known.

One device (:class:`Device`) lives in a folder and can be reached in four forms:

===================  =============================================================================================
in process           :class:`Volume`, whose ``read`` and ``write`` are those of the files of the volume
mounted              :func:`serve_mount`; what other programs need. :class:`fiskal.simulators.fuse.Mount` with
                     :func:`volume` does it from a process of its own
watched folder       :func:`serve_folder`, for machines without FUSE
block image          :func:`serve_image`, for access without a file system
===================  =============================================================================================

The functions ``serve_…`` return when the process gets SIGTERM or Ctrl-C. :class:`Settings` are their options; the plan
in them, or in the control file, says how long commands take and what goes wrong (:data:`FAULTS`).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from fiskal.scu.contract import TseStates
from fiskal.simulators import fuse
from fiskal.simulators.swissbit.device import DEFAULT_TIMES_MS, FAULTS, Device, Refused, Settings
from fiskal.simulators.swissbit.forms import (
    BlockImage,
    Volume,
    WatchedFolder,
    device_over_windows,
    volume,
)

__all__ = [
    "DEFAULT_TIMES_MS",
    "FAULTS",
    "BlockImage",
    "Device",
    "Refused",
    "Settings",
    "Volume",
    "WatchedFolder",
    "commission",
    "device_over_windows",
    "serve_folder",
    "serve_image",
    "serve_mount",
    "volume",
]

Ready = Callable[[], None]


def _nothing() -> None:
    pass


def commission(
    device: Device, puk: str, admin_pin: str, time_admin_pin: str, clients: Sequence[str] = ()
) -> None:
    """Make a new device one that somebody has set up already: PUK and PINs changed, initialised, with clients."""
    device.set_up(puk, admin_pin, time_admin_pin, clients)
    assert device.tse.state is not TseStates.UNINITIALIZED


def serve_mount(
    folder: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    control: str | os.PathLike[str] | None = None,
    others: bool = False,
    ready: Ready = _nothing,
) -> None:
    """Serve the device in ``folder`` as a volume mounted at ``directory``; ``ready`` is called when it is there.

    Raises ConfigurationError where that cannot be.
    """
    device = device_over_windows(folder, settings, control=None if control is None else Path(control))
    try:
        fuse.serve(Volume(device), directory, others=others, ready=ready)
    finally:
        device.close()


def serve_folder(
    folder: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    control: str | os.PathLike[str] | None = None,
    ready: Ready = _nothing,
) -> None:
    """Serve the device in ``folder`` as plain files in ``directory``."""
    with WatchedFolder(folder, directory, settings, control=None if control is None else Path(control)):
        _until_signal(ready)


def serve_image(
    folder: str | os.PathLike[str],
    image: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    control: str | os.PathLike[str] | None = None,
    ready: Ready = _nothing,
) -> None:
    """Serve the device in ``folder`` as the block image ``image``, a sparse file."""
    with BlockImage(folder, image, settings, control=None if control is None else Path(control)):
        _until_signal(ready)


def _until_signal(ready: Ready) -> None:
    """Call ``ready`` and wait for SIGTERM or Ctrl-C; called from the main thread."""
    stop = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        ready()
        with suppress(KeyboardInterrupt):
            stop.wait()
    finally:
        signal.signal(signal.SIGTERM, previous)
