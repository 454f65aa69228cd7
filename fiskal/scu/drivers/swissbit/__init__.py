"""Swissbit TSEs on USB, SD and microSD.

A TSE 1.x is driven through its mailbox (:mod:`.driver`); a TSE 2.0, whose commands are not public, is recognised and
refused. See docs/devices/swissbit.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fiskal.clock import Clock, now
from fiskal.scu.callstore import SqliteCallStore
from fiskal.scu.core import ScuCore
from fiskal.scu.drivers import convert_options
from fiskal.scu.drivers.swissbit.driver import SwissbitDriver
from fiskal.scu.drivers.swissbit.find import find
from fiskal.scu.drivers.swissbit.media import BlockMedium, FilesMedium, Medium
from fiskal.scu.drivers.swissbit.options import Inferred, Options
from fiskal.scu.transports import NotSent

__all__ = ["Inferred", "Options", "SwissbitDriver", "find", "open"]


def _medium(options: Options) -> Medium:
    """Open what is configured, or the only TSE that is there. Raises NotSent."""
    if options.device is not None:
        return BlockMedium(options.device)
    if options.path is not None:
        return FilesMedium(options.path, direct_io=options.direct_io)
    found = [one for one in find() if options.serial is None or one.serial == options.serial.lower()]
    if options.access != "auto":
        found = [one for one in found if ("path" in one.options) is (options.access == "files")]
    if len(found) != 1:
        what = "no Swissbit TSE is" if not found else f"{len(found)} Swissbit TSEs are"
        raise NotSent(
            f"{what[0].upper()}{what[1:]} connected.",
            hint="Is it plugged in and mounted? Say with path, device or serial which one.",
        )
    if "device" in found[0].options:
        return BlockMedium(found[0].options["device"])
    return FilesMedium(found[0].options["path"], direct_io=options.direct_io)


def open(folder: Path, options: Options | dict[str, Any], clock: Clock = now) -> ScuCore:
    """Open the TSE as an SCU. ``folder`` keeps what must be remembered. It need not be plugged in yet.

    Raises ConfigurationError.
    """
    if isinstance(options, dict):
        options = convert_options("swissbit", options, Options)
    options.check()
    folder.mkdir(parents=True, exist_ok=True)
    driver = SwissbitDriver(lambda: _medium(options), options, folder=folder, clock=clock)
    return ScuCore(driver, calls=SqliteCallStore(folder / "calls.sqlite"), clock=clock)
