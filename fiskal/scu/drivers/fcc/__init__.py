"""The Fiskal Cloud Connector: cloud TSEs of Deutsche Fiskal and Swissbit Cloud (v1).

See ``docs/devices/fcc.md`` for what to order and to configure. Never tried against the live service.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from fiskal.clock import Clock
from fiskal.scu.callstore import SqliteCallStore
from fiskal.scu.cloud import Attempts, StateFile
from fiskal.scu.core import ScuCore
from fiskal.scu.drivers import Found, convert_options
from fiskal.scu.drivers.fcc.api import FccApi
from fiskal.scu.drivers.fcc.driver import FccDriver
from fiskal.scu.drivers.fcc.hosting import FccProcess, directory
from fiskal.scu.drivers.fcc.options import Options
from fiskal.scu.exports import ExportSettings
from fiskal.scu.secrets import Secret, resolve

__all__ = ["FccDriver", "Options", "find", "open", "open_driver"]

FAMILY = "fcc"


def open_driver(
    folder: Path, options: Options, clock: Clock, *, wait: Callable[[float], object] = time.sleep
) -> FccDriver:
    """The driver alone. Nothing is asked or started yet. Raises ConfigurationError."""
    folder.mkdir(parents=True, exist_ok=True)

    def secret(name: str) -> Secret | None:
        value = getattr(options, name)
        return None if value is None else resolve(value, name, folder=folder)

    uri = (options.fcc_uri or "http://127.0.0.1").rstrip("/")
    attempts = Attempts(options, wait=wait)
    # The connector is near, or on this machine: the proxy is for what it does itself.
    way = options if options.fcc_uri is not None else _without_proxy(options)
    client = way.client(
        f"{uri}:{options.fcc_port}", folder, plain=True, connections=options.parallel_calls + 4
    )
    api = FccApi(
        client, resolve(options.ers_code, "ers_code", folder=folder), auth_s=options.auth_timeout_ms / 1000
    )
    process = None
    if options.fcc_uri is None:
        process = FccProcess(
            options,
            directory(options, folder),
            api.healthy,
            fcc_secret=secret("fcc_secret"),
            proxy_password=secret("proxy_password"),
        )
    return FccDriver(
        api,
        options,
        attempts,
        StateFile(folder / "fcc.json"),
        activation_token=secret("activation_token"),
        process=process,
        clock=clock,
    )


def _without_proxy(options: Options) -> Options:
    return msgspec.structs.replace(options, proxy=None)


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
    """Nothing: a connector is known by its address and its ErsCode, not by looking around."""
    return iter(())
