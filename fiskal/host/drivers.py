"""The drivers of TSEs by the names they have in ``fiskal.json``. A family is imported when it is used first."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from fiskal import clock as clocks
from fiskal.clock import Clock
from fiskal.errors import ConfigurationError
from fiskal.extras import needs
from fiskal.host.config import ScuConfig
from fiskal.lazy import LazyModule
from fiskal.scu.contract import Scu
from fiskal.scu.core import ScuCore

if TYPE_CHECKING:
    from fiskal.scu import software
    from fiskal.scu.software import rehearsal
else:
    software = LazyModule("fiskal.scu.software")
    rehearsal = LazyModule("fiskal.scu.software.rehearsal")

Driver = Callable[[Path, dict[str, Any], Clock], Scu]
"""Opens a TSE: the SCU's own folder, its ``options``, the clock. Raises ConfigurationError or ScuError."""


def open_software_scu(folder: Path, options: dict[str, Any], clock: Clock) -> Scu:
    """The driver ``software``: the embedded TSE for development and testing, in ``folder``."""
    allowed = {"admin_pin", "curve", "durable", "log_version", "rehearse", "updates"}
    unknown = sorted(set(options) - allowed)
    if unknown:
        raise ConfigurationError(
            f"the software TSE does not know the option {unknown[0]!r}{_meant(unknown[0], allowed)}; it knows "
            f"{', '.join(sorted(allowed))}"
        )
    if not isinstance(options.get("durable", False), bool):
        raise ConfigurationError(
            f"'durable' of the software TSE is {options['durable']!r}; it is true or false"
        )
    if "rehearse" in options:
        options = {**options, "rehearse": rehearsal.convert(options["rehearse"])}
    return software.open_software_tse(folder, clock=clock, **options)


def _family(module: str, extra: str | None = None) -> Driver:
    """The driver in ``fiskal.scu.drivers``, which needs ``extra`` beside the base installation."""

    def open_family(folder: Path, options: dict[str, Any], clock: Clock) -> Scu:
        name = f"fiskal.scu.drivers.{module}"
        if extra is None:
            family = import_module(name)
        else:
            with needs(extra):
                family = import_module(name)
        return cast(Scu, family.open(folder, options, clock))

    return open_family


DRIVERS: Final[dict[str, Driver]] = {
    "software": open_software_scu,
    "swissbit": _family("swissbit"),
    "cryptovision": _family("cryptovision"),
    "epson": _family("epson"),
    "diebold-nixdorf": _family("diebold_nixdorf", "serial"),
    "fiskaly": _family("fiskaly", "cloud"),
    "fcc": _family("fcc", "cloud"),
    "swissbit-cloud": _family("swissbit_cloud", "cloud"),
}
"""Drivers by the name they have in ``fiskal.json``."""


def scu_folder(folder: Path, scu_id: str) -> Path:
    """Where an SCU of the host in ``folder`` keeps what it has to keep."""
    return folder / "scu" / scu_id


def open_scu(scu: ScuConfig, folder: Path, clock: Clock = clocks.now) -> Scu:
    """Open one SCU of the host in ``folder``. Raises ConfigurationError or what its driver raises."""
    check_driver(scu)
    opened = DRIVERS[scu.driver](scu_folder(folder, scu.id), scu.options, clock)
    if scu.signature_check is not None:
        if not isinstance(opened, ScuCore):
            opened.close()
            raise ConfigurationError(
                f"SCU {scu.id}: the driver {scu.driver!r} leaves 'signature_check' to the other end; set it there"
            )
        opened.check_signatures(scu.signature_check)
    return opened


def check_driver(scu: ScuConfig) -> None:
    """Raises ConfigurationError if there is no such driver; it names the most similar one."""
    if scu.driver not in DRIVERS:
        raise ConfigurationError(
            f"SCU {scu.id}: there is no driver {scu.driver!r}{_meant(scu.driver, DRIVERS)}; there is "
            f"{', '.join(sorted(DRIVERS))}"
        )


def _meant(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
