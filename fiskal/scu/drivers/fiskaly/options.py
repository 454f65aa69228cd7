"""What ``options`` of a ``fiskaly`` SCU may say."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from fiskal.scu.cloud import HttpOptions

MIDDLEWARE = "https://kassensichv-middleware.fiskaly.com/api/v2"
MAX_RECORDS = 1_000_000


class Options(HttpOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TSS of fiskaly SIGN DE v2 and how it is used.

    ``api_key``, ``api_secret`` and ``admin_pin`` may say where they are: ``${ENV:NAME}``, ``file:PATH``,
    ``keyring:SERVICE/USER``. The PIN is needed to register clients, not to sign.

    ``update_mode``: SIGN DE does not let a transaction change its process type, so the updates of a Kassenbeleg are
    kept from the service (``noop``) unless all are of one type (``signed``). ``parallel_calls`` is how many
    transaction calls the TSS gets at once; the vendor advises one. ``export_owner`` may be true for one host only: it
    moves the mark of what was exported. ``export_from`` ``beginning`` exports everything each time.
    """

    api_key: str
    api_secret: str
    tss_id: str
    admin_pin: str | None = None
    api_endpoint: str = MIDDLEWARE
    update_mode: Literal["noop", "signed"] = "noop"
    parallel_calls: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    max_client_count: Annotated[int, msgspec.Meta(ge=1)] | None = None
    certification_id: str | None = None
    certification_id_force: bool = False
    enable_tar_file_export: bool = True
    export_owner: bool = True
    export_from: Literal["mark", "beginning"] = "mark"
    export_poll_s: Annotated[float, msgspec.Meta(ge=5, le=3600)] = 5.0
    max_export_records: Annotated[int, msgspec.Meta(ge=1, le=MAX_RECORDS)] = MAX_RECORDS
    """Signatures in one export at the vendor; a longer log is exported in several."""
