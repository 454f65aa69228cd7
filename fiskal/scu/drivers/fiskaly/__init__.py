"""fiskaly SIGN DE v2: a TSS in the vendor's cloud.

See ``docs/devices/fiskaly.md`` for what to order and to configure. Never tried against the live service.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fiskal.clock import Clock
from fiskal.scu.callstore import SqliteCallStore
from fiskal.scu.cloud import Attempts, StateFile
from fiskal.scu.core import ScuCore
from fiskal.scu.drivers import Found, convert_options
from fiskal.scu.drivers.fiskaly.api import Api
from fiskal.scu.drivers.fiskaly.driver import FiskalyDriver
from fiskal.scu.drivers.fiskaly.options import Options
from fiskal.scu.exports import ExportSettings
from fiskal.scu.secrets import resolve

__all__ = ["FiskalyDriver", "Options", "find", "open", "open_driver"]

FAMILY = "fiskaly"


def open_driver(
    folder: Path, options: Options, clock: Clock, *, wait: Callable[[float], object] = time.sleep
) -> FiskalyDriver:
    """The driver alone. Nothing is asked of the service yet. Raises ConfigurationError."""
    folder.mkdir(parents=True, exist_ok=True)
    key = resolve(options.api_key, "api_key", folder=folder)
    secret = resolve(options.api_secret, "api_secret", folder=folder)
    pin = None if options.admin_pin is None else resolve(options.admin_pin, "admin_pin", folder=folder)
    client = options.client(options.api_endpoint, folder, connections=options.parallel_calls + 8)
    attempts = Attempts(options, wait=wait)
    api = Api(client, attempts, key, secret, auth_s=options.auth_timeout_ms / 1000)
    return FiskalyDriver(
        api, options, attempts, StateFile(folder / "fiskaly.json"), admin_pin=pin, clock=clock
    )


def open(
    folder: Path, options: dict[str, Any], clock: Clock, *, wait: Callable[[float], object] = time.sleep
) -> ScuCore:
    """The TSS as an SCU; ``folder`` keeps its calls and exports. Raises ConfigurationError."""
    chosen = convert_options(FAMILY, options, Options)
    driver = open_driver(folder, chosen, clock, wait=wait)
    return ScuCore(
        driver,
        calls=SqliteCallStore(folder / "calls.sqlite"),
        clock=clock,
        exports=ExportSettings(
            folder=folder / "exports",
            timeout_s=chosen.export_total_timeout_s,
            enabled=chosen.enable_tar_file_export,
        ),
    )


def find() -> Iterator[Found]:
    """Nothing: a TSS is known by its id and its credentials, not by looking around."""
    return iter(())
