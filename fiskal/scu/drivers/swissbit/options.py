"""The options of a Swissbit TSE in ``fiskal.json``."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from fiskal.errors import ConfigurationError
from fiskal.frames.swissbit import MAX_CLIENT_ID_BYTES

DEFAULT_SECRETS: Final = {"admin_pin": "12345", "time_admin_pin": "98765", "puk": "123456"}
"""Known to everybody who can read; refused unless ``allow_default_pins``."""

Pin = Annotated[str, msgspec.Meta(pattern=r"^[ -~]{5}$")]
Puk = Annotated[str, msgspec.Meta(pattern=r"^[ -~]{6}$")]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]


class Inferred(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is only inferred about the device. None of it was ever seen on one; each may be changed by its name."""

    logout_command: bool = False
    """Command 0x21 logs a user out. Without it users stay logged in until the device loses power."""
    unblock_command: bool = False
    """Command 0x22 unblocks a PIN with the PUK."""
    open_replaces_import: bool = True
    """An import that was begun and never closed is replaced by the next one. Otherwise it is closed at the start, which
    may sign what nobody waits for."""
    ctss_flag: bool = True
    """Bit 2 of byte 0x1c of the info block says that CTSS is active. Without it the bit is taken as set."""
    capacity_field: bool = True
    """Bytes 0x14 of the info block are the capacity."""
    max_started_field: bool = True
    """Bytes 0x2c of the info block are the most started transactions."""
    hardware_field: bool = True
    """Bytes 0x50 of the info block are the version of the hardware."""
    error_ranges: bool = True
    """The low bits of 0x1100, 0x1300, 0x1310, 0x1320, 0x1400, 0x1500, 0x1600 and 0xff00 carry detail."""
    counter_tells_power_cycle: bool = True
    """A response counter that goes back tells that the device was without power."""
    initial_credentials: bool = False
    """The first PUK and PINs follow from seed and serial number as publicly described; a wrong one counts as a try, and
    three end the device. Without it :attr:`Options.initial_puk` and both initial PINs have to be given."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A Swissbit TSE on USB, SD or microSD."""

    path: str | None = None
    """Mount point of the volume. Without it and without ``device`` the only TSE of the machine is taken."""
    device: str | None = None
    """Block device or partition (``/dev/sdb1``) for access without a mounted file system."""
    access: Literal["auto", "files", "block"] = "auto"
    """``files`` wants the volume mounted, ``block`` not; ``auto`` takes what is configured."""
    serial: str | None = None
    """Serial number in hex; another device is refused."""
    admin_pin: Pin | None = None
    """Only for registering clients and erasing; it need not be stored."""
    time_admin_pin: Pin | None = None
    """For setting the time, without which nothing is signed."""
    puk: Puk | None = None
    """Only for initialising and unblocking; it should not be stored."""
    allow_default_pins: bool = False
    """Accept the PINs that every device of some resellers has."""
    last_try: bool = False
    """Use a PIN although two others were wrong: a third wrong one blocks it."""
    seed: str | None = None
    """What the first PUK and PINs of a new device are derived from, if ``inferred.initial_credentials`` is on."""
    i_know_the_seed: bool = False
    """Try another seed although one was wrong. Three wrong ones end the device for good."""
    initial_puk: Puk | None = None
    initial_admin_pin: Pin | None = None
    initial_time_admin_pin: Pin | None = None
    """What a new device has before it is initialised, if your reseller tells."""
    management_client: str = "fiskal"
    """The client that self tests are run with; registered when the device is initialised."""
    registered_clients: list[str] = []
    """Clients known to be registered. Needed only without Admin PIN, which the list of clients wants."""
    direct_io: Literal["required", "auto"] = "required"
    counter_mode: Literal["auto", "strict", "lenient"] = "auto"
    """Whether an answer must have another counter than the one before; ``auto`` finds out at the start."""
    open_variant: bool = False
    """Open transactions with command 0x91 instead of 0x90, for firmware that does not know the latter."""
    confirm_reads: bool = True
    """Look twice at an answer, so that a torn block is none."""
    renew_time_at: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.8
    """Part of the time's validity after which it is set anew before a start."""
    time_valid_s: Seconds = 1500
    """How long the time is valid, if the device does not say."""
    allow_time_back: bool = False
    """Set the time although the host's clock is more than a minute behind the last signature."""
    timeout_s: Seconds = 10
    close_timeout_s: Seconds = 30
    self_test_timeout_s: Seconds = 90
    initialize_timeout_s: Seconds = 60
    stale_limit_s: Seconds = 2
    """How long the mailbox may show what it showed before a command."""
    data_late_s: Seconds = 2
    """How long the device may take until it has the process data."""
    export_slice_bytes: Annotated[int, msgspec.Meta(ge=512, le=16 << 20, multiple_of=512)] = 1 << 20
    """How much of the store is read while a receipt waits."""
    tail_bytes: Annotated[int, msgspec.Meta(ge=4096, le=1 << 30, multiple_of=4096)] = 16 << 20
    """How far back the log is searched for a lost answer."""
    lock_directory: str | None = None
    """Where the lock file of the device lies; the machine's runtime directory without."""
    inferred: Inferred = Inferred()

    def __repr__(self) -> str:
        return f"Options(path={self.path!r}, device={self.device!r}, serial={self.serial!r}, …)"

    def check(self) -> None:
        """Raise ConfigurationError for what cannot work or must not be."""
        if not self.allow_default_pins:
            for name, value in DEFAULT_SECRETS.items():
                if getattr(self, name) == value:
                    raise ConfigurationError(
                        f"{name} is the default that everybody knows. Choose another one, or say "
                        "allow_default_pins if the device was set up with it and cannot be changed."
                    )
        if self.path is not None and self.device is not None:
            raise ConfigurationError("give path or device, not both: a device has one mailbox.")
        if self.access == "block" and self.device is None:
            raise ConfigurationError("access is block: say with device which one.")
        if self.access == "files" and self.device is not None:
            raise ConfigurationError(
                "access is files: say with path where the volume is mounted, and no device."
            )
        client = self.management_client.encode("ascii", "replace")
        if not 1 <= len(client) <= MAX_CLIENT_ID_BYTES or not self.management_client.isascii():
            raise ConfigurationError("management_client must have 1 to 30 ASCII characters.")
        if self.serial is not None:
            try:
                wrong = len(bytes.fromhex(self.serial)) != 32
            except ValueError:
                wrong = True
            if wrong:
                raise ConfigurationError("serial must be the 64 hex digits of a TSE's serial number.")
