"""The protocol as the device sees it: host blocks in, answer blocks out. Written for the simulator alone."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

MAGIC: Final = b"AdVancED SeCuRe SD/MMC CArd\x01"
BLOCK: Final = 8192
SECTOR: Final = 512
FRAME: Final = 8158
"""Bytes of data in a full block of the device."""
MAX_COMMAND: Final = 8155
BUSY: Final = 0xFFFF
CONTROLLER_TIMEOUT: Final = 0xFF45
CONTROLLER_ERROR: Final = 0xFF01
STREAM: Final = 0x9000

SUSPEND_ON: Final = 0x5345
SUSPEND_OFF: Final = 0x5344

_HOST: Final = struct.Struct(">28s4sHH")
_DEVICE: Final = struct.Struct(">28s4sH")

BYTE: Final = 1
OCTETS: Final = 2
SHORT: Final = 3
TEXT: Final = 4
LONGS: Final = 5

Octets = tuple[int, bytes]


class HostBlock(NamedTuple):
    """A block that the host wrote."""

    token: bytes
    mode: int
    data: bytes


class BadCommand(Exception):
    """A command that is none: wrong tag, length, type or number of parameters."""


def host_block(data: bytes) -> HostBlock | None:
    """Read what the host wrote; None if it is no command."""
    if len(data) < _HOST.size or not data.startswith(MAGIC):
        return None
    _, token, length, mode = _HOST.unpack_from(data)
    if not 1 <= length <= MAX_COMMAND or len(data) < _HOST.size + length:
        return None
    return HostBlock(token, mode, data[_HOST.size : _HOST.size + length])


def device_block(length: int, data: bytes = b"", *, token: bytes = bytes(4), rest: bytes = b"") -> bytes:
    """A whole block with this length field; ``rest`` shows through behind the data, as older blocks do."""
    block = _DEVICE.pack(MAGIC, token, length) + data
    return (block + rest[len(block) : BLOCK]).ljust(BLOCK, b"\0")


def command(data: bytes) -> tuple[int, list[Octets]]:
    """Code and parameters of a command. Raises BadCommand."""
    if len(data) < 6 or data[:2] != b"\x5c\x54":
        raise BadCommand
    code, length = struct.unpack_from(">HH", data, 2)
    if length != len(data) - 6:
        raise BadCommand
    parameters: list[Octets] = []
    at = 6
    while at < len(data):
        if len(data) - at < 3:
            raise BadCommand
        type_, size = struct.unpack_from(">BH", data, at)
        at += 3
        if size > len(data) - at or type_ not in (BYTE, OCTETS, SHORT, TEXT, LONGS):
            raise BadCommand
        parameters.append((type_, data[at : at + size]))
        at += size
    return code, parameters


def parameter(type_: int, value: bytes) -> bytes:
    return struct.pack(">BH", type_, len(value)) + value


def octets(value: bytes) -> bytes:
    return parameter(OCTETS, value)


def text(value: str) -> bytes:
    return parameter(TEXT, value.encode("ascii"))


def byte(value: int) -> bytes:
    return parameter(BYTE, bytes([value]))


def short(value: int) -> bytes:
    return parameter(SHORT, struct.pack(">H", value))


def longs(values: list[int]) -> bytes:
    return parameter(LONGS, b"".join(struct.pack(">I", value) for value in values))


def minimal(value: int) -> bytes:
    """A number in as few bytes as it needs, at least one."""
    return value.to_bytes((value.bit_length() + 7) // 8 or 1)


def success(*parameters: bytes) -> bytes:
    """The answer of a command that succeeded."""
    body = b"".join(parameters)
    return struct.pack(">H", len(body)) + body


def refusal(code: int) -> bytes:
    return struct.pack(">H", code)


def stream_head(total: int) -> bytes:
    return struct.pack(">HQ", STREAM, total)
