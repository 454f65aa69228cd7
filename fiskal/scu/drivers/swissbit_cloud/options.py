"""What ``options`` of a ``swissbit_cloud`` SCU may say."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from fiskal.scu.cloud import HttpOptions

PRODUCTION: Final = "https://web-tse.de"
SANDBOX: Final = "https://dev.web-tse.de"


class Options(HttpOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A Swissbit Cloud TSE v2 and how it is used.

    ``tse_access_token`` may say where it is: ``${ENV:NAME}``, ``file:PATH``, ``keyring:SERVICE/USER``.
    ``api_endpoint`` goes before ``sandbox``. ``download_hosts`` are further hosts that archives may be fetched from;
    they are not sent the credentials.
    """

    tse_serial_number: str
    tse_access_token: str
    sandbox: bool = False
    api_endpoint: str | None = None
    parallel_calls: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    max_client_count: Annotated[int, msgspec.Meta(ge=1)] | None = None
    certification_id: str = "BSI-K-TR-0612-2024"
    certification_id_addition: str = ""
    enable_tar_file_export: bool = True
    export_poll_s: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 5.0
    download_hosts: tuple[str, ...] = ()
    max_retries: Annotated[int, msgspec.Meta(ge=0, le=100)] = 2
