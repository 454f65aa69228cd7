"""What a simulated device keeps without power beside its log: who it is, its PINs, how far it was exported."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final, Literal

import msgspec

from fiskal.errors import ConfigurationError
from fiskal.files import write_atomically

FILE_NAME: Final = "device.json"
RETRIES: Final = 3
FIRMWARE: Final = {1: "240346 Mar 30 2020 21:47:01", 2: "231046 Feb 02 2023 10:12:44"}
ADMIN: Final = "Admin"
TIME_ADMIN: Final = "TimeAdmin"
PIN_BYTES: Final = 8
PUK_BYTES: Final = 10


class User(msgspec.Struct):
    """PIN and PUK of a user. Those in the transport state were never set and fit nothing."""

    pin: bytes = b""
    puk: bytes = b""
    pin_retries: int = RETRIES
    puk_retries: int = RETRIES


class DeviceState(msgspec.Struct):
    """``device.json``. A simulator's PINs protect nothing and stand there to be read."""

    generation: Literal[1, 2]
    firmware: str
    unique_id: bytes
    users: dict[str, User]
    deactivated: bool = False
    exported: int = 0
    """The greatest signatureCounter that an export of everything has shown."""
    wear: int = 7


def load(directory: Path, generation: Literal[1, 2]) -> DeviceState:
    """Read the state, or make a new device of this generation. Raises ConfigurationError for a broken file."""
    path = directory / FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=DeviceState)
    except FileNotFoundError:
        state = DeviceState(
            generation, FIRMWARE[generation], secrets.token_bytes(16), {ADMIN: User(), TIME_ADMIN: User()}
        )
        save(directory, state)
        return state
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{path} is no state of a simulated TSE: {error}") from error


def save(directory: Path, state: DeviceState) -> None:
    write_atomically(directory / FILE_NAME, msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")
