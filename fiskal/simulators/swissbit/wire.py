"""The bytes of a Swissbit TSE 1.x, seen from the device: reading commands, writing responses, the info block.

Written from the protocol's description alone; it shares nothing with what drives a device, so that both cannot agree on
wrong bytes.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final, NamedTuple

BLOCK: Final = 512
MAGIC: Final = b"GMISRLS"
BUSY, FETCH, DONE = 0xF3, 0xFD, 0xFF

COMMANDS: Final = {
    0x20: "login",
    0x21: "logout",
    0x22: "unblock",
    0x23: "change_puk",
    0x24: "change_pin",
    0x40: "self_test",
    0x41: "register",
    0x42: "deregister",
    0x43: "list_clients",
    0x60: "enable_ctss",
    0x61: "disable_ctss",
    0x70: "initialize",
    0x80: "update_time",
    0x83: "fetch",
    0x85: "list_transactions",
    0x86: "certificate",
    0x90: "open",
    0x91: "open",
    0x95: "close",
}


class Syntax(Exception):
    """A command that cannot be read."""


class Cursor:
    """Reads the payload of a command from left to right."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, length: int) -> bytes:
        if self._at + length > len(self._data):
            raise Syntax
        part = self._data[self._at : self._at + length]
        self._at += length
        return part

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def text(self) -> bytes:
        return self.take(self.byte())

    def end(self) -> None:
        if self._at != len(self._data):
            raise Syntax


def split(block: bytes) -> tuple[int, Cursor]:
    """Code and payload of a command block. Raises Syntax."""
    (length,) = struct.unpack_from(">H", block)
    if not 2 <= length <= BLOCK - 2:
        raise Syntax
    return block[2], Cursor(block[4 : 2 + length])


def channel(counter: int, status: int) -> bytes:
    """A block that says only how far a command is."""
    return struct.pack(">IB", counter, status).ljust(BLOCK, b"\0")


def response(counter: int, word: int, data: bytes = b"") -> bytes:
    return (struct.pack(">IBH", counter, DONE, len(data) + 2) + data + struct.pack(">H", word)).ljust(
        BLOCK, b"\0"
    )


def client_page(clients: list[bytes], skip: int) -> bytes:
    page = clients[skip : skip + 16]
    return bytes([len(page)]) + b"".join(client.ljust(31, b"\0") for client in page)


def number_page(numbers: list[int], skip: int) -> bytes:
    page = numbers[skip : skip + 62]
    return bytes([len(page)]) + b"".join(struct.pack(">Q", number) for number in page)


def closed(number: int, serial: bytes, log_time: int, counter: int, signature: bytes) -> bytes:
    return struct.pack(">Q32sQQQ", number, serial, log_time, counter, len(signature)) + signature


class Opening(NamedTuple):
    """The payload of an open command."""

    event: int
    client: bytes
    number: int
    length: int
    kind: bytes


def opening(cursor: Cursor) -> Opening:
    event, client = cursor.byte(), cursor.text()
    number, length = cursor.number(8), cursor.number(8)
    kind = cursor.take(cursor.number(8))
    cursor.take(cursor.number(8))
    cursor.end()
    if event > 2:
        raise Syntax
    return Opening(event, client, number, length, kind)


class Panel(NamedTuple):
    """What the info block shows."""

    capacity_blocks: int
    size_blocks: int
    flags: int
    state: int
    importing: int
    changed: int
    self_test_in_s: int
    started: int
    max_started: int
    signatures: int
    max_signatures: int
    clients: int
    max_clients: int
    certificate_end: int
    tar_bytes: int
    hardware: int
    software: tuple[int, int, int]
    key: bytes
    time_sync_in_s: int
    serial: bytes
    description: bytes


def info(panel: Panel) -> bytes:
    block = bytearray(BLOCK)
    block[0:7] = MAGIC
    struct.pack_into(">II", block, 0x14, panel.capacity_blocks, panel.size_blocks)
    block[0x1C:0x1F] = bytes([panel.flags, panel.state, panel.importing])
    block[0x20] = panel.changed
    struct.pack_into(
        ">IIIIIII",
        block,
        0x24,
        panel.self_test_in_s,
        panel.started,
        panel.max_started,
        panel.signatures,
        panel.max_signatures,
        panel.clients,
        panel.max_clients,
    )
    struct.pack_into(">QQI", block, 0x40, panel.certificate_end, panel.tar_bytes, panel.hardware)
    struct.pack_into(">HBB", block, 0x54, *panel.software)
    block[0x6A] = len(panel.key)
    block[0x6B : 0x6B + len(panel.key)] = panel.key
    struct.pack_into(">I", block, 0xD0, panel.time_sync_in_s)
    block[0x100:0x120] = panel.serial
    block[0x120 : 0x120 + len(panel.description)] = panel.description
    return bytes(block)


def initial_credentials(seed: bytes, serial: bytes) -> tuple[bytes, bytes, bytes]:
    """PUK, Admin PIN and TimeAdmin PIN of a new device of a distribution channel."""
    digest = hashlib.sha256(seed + serial).digest()
    puk, admin, time_admin = struct.unpack(">QQQ", digest[:24])
    return b"%06d" % (puk % 10**6), b"%05d" % (admin % 10**5), b"%05d" % (time_admin % 10**5)
