"""Swissbit Cloud TSE v2 ("web-tse").

See ``docs/devices/swissbit-cloud.md`` for what to order and to configure. Never tried against the live service.
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
from fiskal.scu.drivers.swissbit_cloud.api import Api
from fiskal.scu.drivers.swissbit_cloud.driver import SwissbitCloudDriver
from fiskal.scu.drivers.swissbit_cloud.options import PRODUCTION, SANDBOX, Options
from fiskal.scu.exports import ExportSettings
from fiskal.scu.secrets import resolve

__all__ = ["Options", "SwissbitCloudDriver", "find", "open", "open_driver"]

FAMILY = "swissbit_cloud"


def open_driver(
    folder: Path, options: Options, clock: Clock, *, wait: Callable[[float], object] = time.sleep
) -> SwissbitCloudDriver:
    """The driver alone. Nothing is asked of the service yet. Raises ConfigurationError."""
    folder.mkdir(parents=True, exist_ok=True)
    token = resolve(options.tse_access_token, "tse_access_token", folder=folder)
    endpoint = options.api_endpoint or (SANDBOX if options.sandbox else PRODUCTION)
    client = options.client(endpoint, folder, connections=options.parallel_calls + 4)
    attempts = Attempts(options, wait=wait)
    api = Api(client, attempts, options.tse_serial_number, token)
    return SwissbitCloudDriver(api, options, attempts, StateFile(folder / "swissbit_cloud.json"), clock=clock)


def open(
    folder: Path, options: dict[str, Any], clock: Clock, *, wait: Callable[[float], object] = time.sleep
) -> ScuCore:
    """The TSE as an SCU; ``folder`` keeps its calls and exports. Raises ConfigurationError."""
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
    """Nothing: a TSE is known by its serial number and access token, not by looking around."""
    return iter(())
