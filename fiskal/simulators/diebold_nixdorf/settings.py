"""What a simulated Diebold Nixdorf TSE is and how it behaves, before anything goes wrong."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from fiskal.simulators.plan import Plan

PRODUCTION_CLIENT: Final = "DN TSEProduction ef82abcedf"
"""Registered at the factory; can never be removed."""
MANAGEMENT_CLIENT: Final = "fiskaltrust.Middleware"
"""What most sticks in the field were initialised with."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One simulated device. Everything it knows lies in ``folder``, so that it can be switched off and on."""

    folder: str | None = None
    """Where the device keeps its log and state; None: a temporary folder that is removed at the end."""
    initialized: bool = False
    """A new device comes initialised, with the management client and ``clients`` registered."""
    clients: list[str] = []
    """Clients of a new device; without ``initialized`` they are registered when it is initialised."""
    management_client: bool = True
    """Whether a device that comes initialised has the management client."""
    hardware: Literal["single", "box"] = "single"
    """A USB stick, or a TSE Connect Box."""
    slots: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1
    """Places for TSEs; only slot 1 is occupied."""
    firmware: Literal["new", "old"] = "new"
    """Old firmware has nine fields of slot information and does not tell its memory."""
    description: str = "BSI-K-TR-0393-2020"
    admin_pin: str = "12345"
    time_admin_pin: str = "12345"
    puk: str = "000000"
    packet_size: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 1024
    """Bytes of one piece of a long answer."""
    update_interval_s: Annotated[int, msgspec.Meta(ge=0)] = 3600
    self_test_interval_s: Annotated[int, msgspec.Meta(ge=1)] = 90_000
    asb: bool = True
    """Status messages are on after power-up."""
    asb_ms: Annotated[int, msgspec.Meta(ge=0)] = 0
    """How often one is sent; 0: only in front of answers."""
    echo: bool = False
    """A pseudo terminal comes with local echo, as some systems open ports."""
    max_clients: Annotated[int, msgspec.Meta(ge=1)] = 100
    max_open_transactions: Annotated[int, msgspec.Meta(ge=1)] = 512
    max_signatures: Annotated[int, msgspec.Meta(ge=1)] = 20_000_000
    memory_bytes: Annotated[int, msgspec.Meta(ge=1)] = 6_979_321_856
    plan: Plan = Plan()
    """Service times and faults."""
    control: str | None = None
    """A file with a plan that is read again whenever it changes."""

    strict: bool = True
    """Web service: a message without its framing bytes (02 ... 03 0A) is not answered."""
    code_sign: Literal[-1, 1] = -1
    """Web service: the sign of the SE-API's error codes."""
    description_key: Literal["Desc", "Description"] = "Desc"
    register_twice: Literal["ok", "1337"] = "ok"
    """Web service: what is answered for a client that is registered already."""
    upper_case_serial: bool = False
    log_time: Literal["local", "utc", "mixed"] = "local"
    """Web service: the offset of LogTime: German time, Z, or +02:00 at the start and +01:00 afterwards."""
    require_default_client: bool = False
    """Web service: every connection has to name its default client first."""
    one_pin_counter: bool = False
    """Web service: one counter of wrong PINs for both users."""
