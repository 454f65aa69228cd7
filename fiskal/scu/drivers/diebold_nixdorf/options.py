"""What ``options`` in ``fiskal.json`` may say of a Diebold Nixdorf TSE."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from fiskal.errors import ConfigurationError

FACTORY_PIN: Final = "12345"
PRODUCTION_CLIENT: Final = "DN TSEProduction ef82abcedf"
"""Registered at the factory; makes the self test before a device is initialised."""

_Ms = Annotated[int, msgspec.Meta(ge=1, le=600_000)]
_SECRETS: Final = ("admin_pin", "time_admin_pin")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a Diebold Nixdorf TSE is reached and used. PINs never appear in logs, errors or the repr."""

    transport: Literal["frame", "web"] = "frame"
    """``frame``: fiskal owns the port of the device. ``web``: the vendor's web service owns it."""
    port: str | None = None
    """Serial port, best by a lasting name: ``/dev/serial/by-id/…``; on Windows ``COM3``."""
    url: str | None = None
    """In place of ``port``: ``tcp://HOST:PORT`` of a TSE Connect Box that carries the same bytes."""
    web_url: str = "ws://127.0.0.1:10001"
    """The vendor's web service. It is sent the PINs nearly in the clear: keep it on this machine."""
    serial: str | None = None
    """Serial number (64 hex digits) the TSE must have; another one is refused."""
    time_admin_pin: str = ""
    """PIN of the TimeAdmin, which sets the time; the web service wants it for every signature."""
    admin_pin: str = ""
    """PIN of the Admin. Without it the TSE signs; it is needed to initialise, disable, register and erase."""
    allow_default_pins: bool = False
    """Accept the PIN of the factory, which everybody knows."""
    admin_user: str = "1"
    time_admin_user: str = "2"
    slot: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1
    """Place of the TSE in a Connect Box."""
    management_client_id: Annotated[str, msgspec.Meta(min_length=1, max_length=30)] = "fiskaltrust.Middleware"
    """The client that administers; most devices in the field were initialised with the default."""
    client_ids: list[str] = []
    """Clients that are registered, for a register without the Admin's PIN: only the Admin is shown the list."""
    baud_rate: Annotated[int, msgspec.Meta(ge=300)] = 9600
    enable_dtr: bool = True
    enable_tar_file_export: bool = True
    """False: exports are answered at once with nothing."""

    answer_timeout_ms: _Ms = 2000
    """How long a command may take; the device does not answer what it refuses."""
    status_timeout_ms: _Ms = 1000
    slow_timeout_ms: _Ms = 10_000
    """Initialise, disable, register and deregister."""
    self_test_timeout_ms: _Ms = 120_000
    list_timeout_ms: _Ms = 10_000
    """Each piece of the list of open transactions."""
    export_progress_timeout_ms: _Ms = 60_000
    """How long an export may stand still."""
    write_timeout_ms: _Ms = 1500
    connect_timeout_ms: _Ms = 5000
    transaction_timeout_ms: _Ms = 10_000
    """A transaction call whose caller names no deadline."""
    request_timeout_ms: _Ms = 5000
    """Web service: everything but transactions."""
    ping_interval_ms: _Ms = 10_000
    """Web service: a connection that was not used for so long is tried with a PingPong before it is used."""
    max_signatures: Annotated[int, msgspec.Meta(ge=1)] = 20_000_000

    status_behind_buffered: bool = True
    """Inferred: 001 may follow a command with a buffered answer at once, and tells whether that was refused. False:
    the first piece is asked for at once."""
    all_started_in_one: bool = True
    """Inferred: 506 without a client lists the open transactions of all. False: every client is asked."""
    client_list_needs_admin: bool = True
    """Inferred: 502 wants the Admin logged in. False: it is asked without."""
    repeat_lost_packet: bool = True
    """Inferred: a piece of a long answer can be asked for a second time."""
    public_key_index: Annotated[int, msgspec.Meta(ge=0, le=15)] = 1
    """Seen: the second parameter of 308 is the public key."""
    description: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """What Initialize is given; devices described by their maker want it empty."""
    disabled_status_first: bool = True
    """Inferred: status bit 02 (disabled) counts even if bit 01 (initialised) is set."""
    unverified_pin_commands: bool = False
    """Inferred: 402 (slot, user, PUK, new PIN), 403 (slot, old, new) and 404 (slot, user, old, new) are sent when
    somebody asks for them by name."""
    allow_unverified_commands: bool = False
    """Web service, inferred: PerformSelfTest and UpdateTime with ClientID and Password as a last resort."""

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={'***' if name in _SECRETS and getattr(self, name) else repr(getattr(self, name))}"
            for name in self.__struct_fields__
        )
        return f"Options({shown})"

    def check(self) -> None:
        """Raise :class:`ConfigurationError` for what cannot work."""
        if self.transport == "frame" and (self.port is None) is (self.url is None):
            raise ConfigurationError(
                "the driver 'diebold-nixdorf' needs either port (a serial port such as /dev/ttyACM0) or url "
                "(tcp://HOST:PORT), or transport 'web' for the vendor's web service"
            )
        for name in _SECRETS:
            pin = getattr(self, name)
            if pin == FACTORY_PIN and not self.allow_default_pins:
                raise ConfigurationError(
                    f"{name} is the PIN of the factory, which everybody knows: change it at the TSE (on the page of "
                    "the vendor's web service), or set allow_default_pins to true"
                )
        if self.serial is not None and not _is_serial(self.serial):
            raise ConfigurationError("serial is no serial number of a TSE: 64 hex digits")


def _is_serial(text: str) -> bool:
    return len(text) == 64 and all(character in "0123456789abcdefABCDEF" for character in text)
