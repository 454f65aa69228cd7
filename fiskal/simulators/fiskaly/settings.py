"""What the simulator of fiskaly may be told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from fiskal.simulators.http import HttpSettings


class Account(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An API key and the organisation it is for. The values are the simulator's own, known to everybody."""

    api_key: str = "test_simulator"
    api_secret: str = "simulator-secret"
    organization_id: str = "00000000-0000-4000-8000-000000000001"
    env: Literal["TEST", "LIVE"] = "TEST"


class ReadyTss(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TSS that is there from the beginning, INITIALIZED and with clients."""

    tss_id: str = "5d0c0000-0000-4000-8000-000000000001"
    admin_pin: str = "123456"
    admin_puk: str = "1234567890"
    clients: tuple[str, ...] = ()
    organization_id: str = "00000000-0000-4000-8000-000000000001"


class Settings(HttpSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``folder`` keeps the logs of the TSSs (None: a temporary folder). Times are seconds of the simulator's clock.

    ``one_at_a_time`` answers a second transaction call to a TSS, while one is worked on, with 409. ``export_polls`` is
    how often the state of an export is asked for before it is COMPLETED. ``strict_metadata`` refuses values that are no
    strings.
    """

    accounts: tuple[Account, ...] = (Account(),)
    tss: tuple[ReadyTss, ...] = ()
    folder: Path | None = None
    access_token_s: int = 300
    refresh_token_s: int = 86_400
    counter_as: Literal["number", "string"] = "number"
    certification_id: str = "BSI-K-TR-0717-2025"
    one_at_a_time: bool = True
    export_polls: int = 1
    strict_metadata: bool = True
    max_active_transactions: int = 2000
    max_clients: int = 199
    max_test_tss: int = 5
    max_tss_per_day: int = 500
    max_records: int = 1_000_000
    polls_per_minute: int = 12
