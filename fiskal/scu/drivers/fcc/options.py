"""What ``options`` of an ``fcc`` SCU may say."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from fiskal.scu.cloud import HttpOptions

MIN_VERSION = (4, 4, 0)


class Options(HttpOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A Fiskal Cloud Connector and how it is used.

    ``ers_code`` is the secret of its identities, ``activation_token`` that of registrations, ``fcc_secret`` that of the
    initialisation; each may say where it is (``${ENV:NAME}``, ``file:PATH``, ``keyring:SERVICE/USER``).

    With ``fcc_uri`` (``http://host`` or ``https://host``) the connector runs elsewhere and is left alone. Without it
    the one in ``fcc_directory`` is initialised, started and ended by fiskal. Nothing is downloaded unless
    ``fcc_download_uri`` and its ``fcc_download_sha256`` are given.
    """

    ers_code: str
    activation_token: str | None = None
    fcc_uri: str | None = None
    fcc_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 20001
    fcc_directory: str | None = None
    fcc_id: str | None = None
    fcc_secret: str | None = None
    fcc_version: str = "4.4.0"
    fcc_heap_memory: Literal[256, 512, 1024] | None = None
    enable_fcc_metrics: bool = False
    fcc_download_uri: str | None = None
    fcc_download_sha256: str | None = None
    process_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 300.0
    type_of_system: str = "PC_POS"
    parallel_calls: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    max_client_count: Annotated[int, msgspec.Meta(ge=1)] | None = None
    certification_id: str = "BSI-K-TR-0524-2024"
    certification_id_addition: str = "USK ausgesetzt"
    display_certification_id_addition: bool = True
    enable_tar_file_export: bool = True
    max_retries: Annotated[int, msgspec.Meta(ge=0, le=100)] = 2
