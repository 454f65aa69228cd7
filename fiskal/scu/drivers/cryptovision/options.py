"""What ``options`` of a Cryptovision TSE may say in ``fiskal.json``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Ms = Annotated[int, msgspec.Meta(ge=0, le=600_000)]

_HIDDEN = frozenset({"admin_pin", "admin_puk", "time_admin_pin", "time_admin_puk"})


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All have a default. PINs have 8 bytes and PUKs 10: text, or ``hex:`` and the digits of its bytes.

    What nobody outside the vendor knows for certain is named ``assume_…``; ``docs/devices/cryptovision.md`` lists why.
    """

    path: str = ""
    """The volume of the TSE, or its TSE-IO.bin; empty takes the only one that is mounted."""
    serial: str = ""
    """The serial number in hex; another TSE is refused. Empty takes what is there and remembers it."""
    time_admin_pin: str | None = None
    """Sets the time, which a TSE loses with its power. The one secret that has to be stored."""
    admin_pin: str | None = None
    """Registers clients, erases what was exported, initialises, disables. Leave it out and give it when needed."""
    admin_puk: str | None = None
    """Goes with the initialisation, and with ``unblock_with_puk``."""
    time_admin_puk: str | None = None
    """Goes with the initialisation, and with ``unblock_with_puk``."""
    allow_default_pins: bool = False
    """Take the PINs and PUKs that everybody knows."""
    allow_last_pin_attempt: bool = False
    """Try a PIN although a wrong one would be the last."""
    unblock_with_puk: bool = False
    """Set a blocked PIN anew, with its PUK, to the configured one."""
    io_timeout_ms: Annotated[int, msgspec.Meta(ge=100, le=600_000)] = 10_000
    """How long a command may take that has no limit of its own."""
    empty_answer_wait_ms: Ms = 2_000
    """How long an empty block counts as a device that wakes up; then its log is read to see what it did."""
    io_read_delay_ms: Ms = 0
    """The least pause between two looks for an answer; 0 lets the driver learn how long commands take."""
    scrub_on_open: bool = True
    """Wipe what lies in TSE-IO.bin before the first command."""
    direct_io: Literal["required", "auto"] = "required"
    """``auto`` goes on without O_DIRECT where the file system has none: for simulated devices in a folder."""
    lock_folder: str = ""
    """Where the lock that keeps other processes away lies; empty is the runtime directory of the machine."""
    keep_alive_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    """Read TSE-GUARD.bin this often so that the USB port does not fall asleep (vendor: 5 to 10); 0 does not."""
    background_time_sync: bool = True
    """Set the time anew at 80 % of its interval, while nobody signs."""
    export_chunk_records: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    """How many messages are exported in one go before others get their turn; 0 adapts it to ``export_turn_ms``."""
    export_turn_ms: Annotated[int, msgspec.Meta(ge=10, le=60_000)] = 250
    """How long the export may keep others waiting in one go."""
    assume_export_more_data: bool = True
    """ExportMoreData gives the messages behind a counter (inferred). Off: everything is exported in one go."""
    assume_missing_step: Annotated[int, msgspec.Meta(ge=1, le=2**31)] = 10_000
    """How many counters are passed over where ExportMoreData finds nothing (inferred)."""
    assume_delete_up_to: bool = True
    """DeleteDataUpTo leaves newer messages alone (inferred). Off: nothing is erased."""
    assume_expired_is_signed: bool = True
    """A finish that is refused because of the certificate may have been signed: look into the log (inferred)."""
    assume_already_mapped_codes: tuple[int, ...] = (0x8000, 0x8018)
    """Result codes of a client that is registered already (inferred)."""
    assume_not_mapped_codes: tuple[int, ...] = (0x8012, 0x8000)
    """Result codes of a client that is not registered (inferred)."""

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={'***' if name in _HIDDEN and getattr(self, name) else repr(getattr(self, name))}"
            for name in self.__struct_fields__
        )
        return f"Options({shown})"

    def __rich_repr__(self) -> Any:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            yield name, "***" if name in _HIDDEN and value else value
