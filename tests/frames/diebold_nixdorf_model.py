"""Frames of Diebold Nixdorf TSEs, slow and obvious: byte by byte, as the protocol is described."""

from __future__ import annotations

import base64
import binascii


class NotAFrame(ValueError):
    pass


def build(command: int, parameters: list[bytes], request_id: bytes, buffer: int = -1) -> bytes:
    out = bytearray()
    for byte in (0x1B, 0x90, *f"{command:03d}".encode()):
        out.append(byte)
    for parameter in parameters:
        out.append(0x1B)
        out.append(0x92)
        for byte in parameter:
            if not 0x20 <= byte <= 0x7E:
                raise NotAFrame("not printable")
            out.append(byte)
    out.append(0x1B)
    out.append(0x99)
    for byte in request_id:
        out.append(byte)
    out.append(0x1B)
    if buffer < 0:
        out.append(0x9D)
    else:
        out.append(0x9E)
        for byte in str(buffer).encode():
            out.append(byte)
    out.append(0x1B)
    out.append(0x9F)
    return bytes(out)


def answer(command: int, parameters: list[bytes], request_id: bytes) -> bytes:
    out = b"\x1b\x91" + f"{command:03d}".encode()
    for parameter in parameters:
        out += b"\x1b\x92" + parameter
    return out + b"\x1b\x99" + request_id + b"\x1b\x9f"


def read(data: bytes, command: int, request_id: bytes) -> tuple[list[bytes], int, int] | None:
    """Parameters, begin and end of the answer; None if it is not complete."""
    wanted = b"\x1b\x99" + request_id.lower() + b"\x1b\x9f"
    tail = -1
    for at in range(len(data) - len(wanted) + 1):
        same = True
        for offset, byte in enumerate(wanted):
            found = data[at + offset]
            if offset not in (0, 1, len(wanted) - 2, len(wanted) - 1) and 0x41 <= found <= 0x5A:
                found += 32
            if found != byte:
                same = False
                break
        if same:
            tail = at
            break
    if tail < 0:
        return None
    head = b"\x1b\x91" + f"{command:03d}".encode()
    start = -1
    for at in range(tail - len(head) + 1):
        if data[at : at + len(head)] == head:
            start = at
    if start < 0:
        raise NotAFrame("no start")
    parameters: list[bytearray] = []
    at = start + len(head)
    while at < tail:
        is_marker = data[at] == 0x1B and at + 1 < tail and data[at + 1] == 0x92
        if is_marker and not (command == 4 and len(parameters) == 5):
            parameters.append(bytearray())
            at += 2
        elif not parameters:
            raise NotAFrame("no marker")
        else:
            parameters[-1].append(data[at])
            at += 1
    return [bytes(parameter) for parameter in parameters], start, tail + len(wanted)


def whole(data: bytes, command: int, request_id: bytes) -> bytes:
    """The bytes that the one parameter of a long answer stands for."""
    found = read(data, command, request_id)
    if found is None or found[1] != 0 or found[2] != len(data) or len(found[0]) != 1:
        raise NotAFrame("not exactly one answer with one parameter")
    try:
        return base64.b64decode(found[0][0].replace(b"\r", b"").replace(b"\n", b""), validate=True)
    except binascii.Error as error:
        raise NotAFrame("no base64") from error
