"""What ``options`` in ``fiskal.json`` may say about an Epson TSE."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import msgspec

from fiskal.errors import ConfigurationError

PORT: Final = 8009
TLS_PORT: Final = 8143
FACTORY_SECRET: Final = "EPSONKEY"
DEFAULTS: Final = {
    "puk": ("PUK", frozenset({"123456", "000000"})),
    "admin_pin": ("Admin PIN", frozenset({"11111", "12345", "00000"})),
    "time_admin_pin": ("TimeAdmin PIN", frozenset({"22222", "12345", "00000"})),
    "secret": ("shared secret", frozenset({FACTORY_SECRET})),
}
"""What everybody knows, because it stands in the documents of vendors."""
_LENGTHS: Final = {"puk": 6, "admin_pin": 5, "time_admin_pin": 5, "secret": 8}

Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=600_000)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of the driver ``epson``. Those that say *inferred* stand for what the vendor's documents leave open."""

    host: str = "127.0.0.1"
    """Name or address of the PC with the host service, of the printer or of the TSE server."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    """None is 8009, with ``tls`` 8143."""
    tls: bool = False
    ca_file: str | None = None
    """PEM file of those who vouch for the host's certificate; None are those of the machine."""
    fingerprint: str = ""
    """SHA-256 of the host's certificate in hex: the one that is taken, whoever vouches for it."""
    device_id: str = "local_TSE"
    """``local_TSE`` for a stick and a printer; a TSE server shows the ids of its own on its web page."""
    storage_type: str = "type_storage"
    serial: str = ""
    """Serial number of the TSE in hex. Another one is refused; empty takes the one that is there and stays with it."""
    time_admin_pin: str = ""
    """5 characters: sets the time and logs clients in. Needed to sign."""
    admin_pin: str = ""
    """5 characters: registers clients, exports, erases, initialises. Need not be stored: these are refused then."""
    puk: str = ""
    """6 characters; needed to initialise and to unblock PINs, and better kept elsewhere."""
    secret: str = FACTORY_SECRET
    """8 characters that the host and the TSE share."""
    time_admin_user: str = "TimeAdmin"
    """The name under which the time is set."""
    allow_default_secrets: bool = False
    """Take PINs, PUK and secret that stand in the documents of vendors. For trials."""
    allow_last_pin_try: bool = False
    """Try a PIN although a wrong one would be blocked."""
    exclusive: bool = True
    """The device stays open. False opens and closes it around every call, so that several hosts can share it."""
    unlock: bool = False
    """Unlock a TSE that somebody has locked, with the Admin PIN."""
    clients: list[str] = []
    """Clients registered on the TSE, for an SCU without an Admin PIN, which cannot ask for them."""
    client_list_age_s: Annotated[float, msgspec.Meta(ge=0)] = 3600.0
    """How long the list of clients counts while their number stays the same: asking for it takes two signatures."""
    connect_timeout_ms: Milliseconds = 5000
    timeout_ms: Milliseconds = 60_000
    """How long the device may take over a function."""
    self_test_timeout_ms: Milliseconds = 120_000
    busy_retry_ms: Annotated[int, msgspec.Meta(ge=0, le=600_000)] = 30_000
    """How long a device that somebody else uses is waited for."""
    max_drift_s: Annotated[float, msgspec.Meta(ge=1)] = 30.0
    """How far the time of a signature may be from the host's before the TSE's is set anew."""
    export_restarts: Annotated[int, msgspec.Meta(ge=0)] = 8
    """How often an export that a receipt interrupted is taken up again."""
    hold_s: Annotated[float, msgspec.Meta(ge=0)] = 600.0
    """How long the device is kept for an erasure after an export that is to be followed by one."""
    reconnect: bool = True
    """*Inferred*: a new connection adopts what the one before had opened, as ePOS devices offer it (``reconnect``)."""
    last_response: bool = False
    """*Inferred*: a lost answer is asked for with GetLastTransactionResponse, whose fields no document shows.
    Otherwise it is read from an export of the transaction, for which the Admin PIN is needed."""
    log_ins_survive_close: bool = False
    """*Inferred*: clients stay logged in when the device is closed. A wrong yes costs a question more, a wrong no two
    signatures a call."""
    time_function: Literal["UpdateTime", "UpdateTimeForFirst"] = "UpdateTime"
    """*Inferred*: how the time is set when the TSE has none after it was switched on. Both are said to do."""
    full_export_first_bytes_stay: bool = True
    """*Inferred*: two archives of one log begin alike, so that an export that was interrupted can go on where it was.
    The bytes are compared; False begins no interrupted export again."""

    def __post_init__(self) -> None:
        for name, length in _LENGTHS.items():
            value = getattr(self, name)
            if value and len(value) != length:
                raise ValueError(f"{name} has {length} characters")
        if self.fingerprint and not re.fullmatch(r"[0-9a-f]{64}", self.fingerprint_hex):
            raise ValueError("fingerprint is a SHA-256 in hex: 64 digits")
        if self.serial and not re.fullmatch(r"[0-9a-fA-F]{64}", self.serial):
            raise ValueError("serial is the serial number in hex: 64 digits")

    def __repr__(self) -> str:
        return f"Options(host={self.host!r}, port={self.port_number}, device_id={self.device_id!r})"

    @property
    def port_number(self) -> int:
        if self.port is not None:
            return self.port
        return TLS_PORT if self.tls else PORT

    @property
    def fingerprint_hex(self) -> str:
        return self.fingerprint.replace(":", "").lower()

    def refuse_defaults(self) -> None:
        """Raises :class:`fiskal.errors.ConfigurationError` for secrets that everybody knows."""
        if self.allow_default_secrets:
            return
        known = [text for name, (text, values) in DEFAULTS.items() if getattr(self, name) in values]
        if known:
            raise ConfigurationError(
                f"The {' and the '.join(known)} of the TSE at {self.host}:{self.port_number} stand in the documents "
                "of vendors, so everybody knows them. Choose others, or set allow_default_secrets for a trial."
            )
