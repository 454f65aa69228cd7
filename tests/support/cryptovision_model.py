"""The framing of Cryptovision TSEs as slowly and obviously as it can be said: byte by byte, with lists.

Errors of the bytes are :class:`Bad`. Shapes are those of :mod:`fiskal.frames.cryptovision`.
"""

from __future__ import annotations

from fiskal.frames.cryptovision import Answer, Fragment, Head, Kind, State, Value

MAGIC = [ord(c) for c in "AdVancED SeCuRe SD/MMC CArd"] + [1]


class Bad(Exception):
    pass


def u16(value: int) -> list[int]:
    return [value // 256, value % 256]


def u32(value: int) -> list[int]:
    return u16(value // 65536) + u16(value % 65536)


def number(data: list[int]) -> int:
    value = 0
    for byte in data:
        value = value * 256 + byte
    return value


def command(code: int, parameters: list[tuple[int, bytes]]) -> bytes:
    body: list[int] = []
    for type_, value in parameters:
        body.append(type_)
        body += u16(len(value))
        for byte in value:
            body.append(byte)
    whole = [0x5C, 0x54, *u16(code), *u16(len(body)), *body]
    if len(whole) > 8155:
        raise Bad("too long")
    return bytes(whole)


def block(data: bytes, mode: int = 0, token: int = 0xDEADBEEF) -> bytes:
    out = list(MAGIC)
    out += u32(token)
    out += u16(len(data))
    out += u16(mode)
    for byte in data:
        out.append(byte)
    while len(out) % 512 != 0:
        out.append(0)
    return bytes(out)


def transaction(code: int, tx: int, client: bytes, data: bytes, type_: bytes) -> bytes:
    parameters = [(4, client), (2, data), (4, type_)]
    if code != 0x0A:
        parameters.insert(0, (2, bytes(u32(tx))))
    if code != 0x0B:
        parameters.append((2, b""))
    return block(command(code, parameters))


def read_answer(data: bytes, token: int = 0xDEADBEEF) -> Answer:
    block = list(data)
    if len(block) < 34:
        raise Bad("short")
    if block[:28] == [0] * 28:
        return Answer(State.EMPTY, 0, 0, b"")
    if block[:28] != MAGIC:
        raise Bad("foreign")
    found = number(block[28:32])
    length = number(block[32:34])
    if found == token:
        return Answer(State.NOT_TAKEN, found, length, b"")
    if length == 0xFFFF:
        return Answer(State.BUSY, found, length, b"")
    if length >= 0xFF00:
        return Answer(State.CONTROLLER, found, length, b"")
    if length > 8158:
        raise Bad("length")
    body = block[34 : 34 + length]
    if len(body) < length:
        raise Bad("short")
    return Answer(State.DATA if length else State.DONE, found, length, bytes(body))


def read_head(data: bytes) -> Head:
    if len(data) < 2 or len(data) > 8158:
        raise Bad("length")
    result = number(list(data[:2]))
    if result == 0x9000:
        if len(data) < 10:
            raise Bad("short")
        total = number(list(data[2:10]))
        if total >= 2**63:
            raise Bad("sign")
        kind, body = Kind.STREAM, data[10:]
    elif result >= 0x8000:
        return Head(Kind.ERROR, result, b"", 0, False)
    else:
        total, kind, body = result, Kind.PARAMETERS, data[2:]
    if len(body) >= total:
        return Head(kind, 0, body[:total], total, False)
    if len(data) == 8158:
        return Head(kind, 0, body, total, True)
    if kind is Kind.STREAM:
        raise Bad("short stream")
    return Head(kind, 0, body, total, False)


def read_fragment(data: bytes, missing: int, stream: bool) -> Fragment:
    if len(data) > 8158 or missing == 0:
        raise Bad("length")
    wanted = min(missing, 8158)
    if len(data) == 2 and wanted != 2 and data[0] >= 0x80:
        return Fragment(b"", False, number(list(data)))
    used = data[:wanted]
    if len(used) < wanted and (stream or not used):
        raise Bad("short")
    return Fragment(used, len(used) == 8158 and missing > 8158, 0)


def read_values(data: bytes) -> list[Value]:
    values = []
    rest = list(data)
    while rest:
        if len(rest) < 3:
            raise Bad("short")
        length = number(rest[1:3])
        body = rest[3 : 3 + length]
        values.append(Value(rest[0], bytes(body), length - len(body)))
        rest = rest[3 + length :]
    return values


def read_signature(data: bytes, has_number: bool) -> tuple[int, int, int, bytes, bytes]:
    values = read_values(data)
    wanted = 5 if has_number else 4
    if len(values) != wanted or any(value.type != 2 or value.cut for value in values):
        raise Bad("values")
    numbers = values[: wanted - 2]
    if any(not 1 <= len(value.data) <= 8 for value in numbers):
        raise Bad("number")
    found = [number(list(value.data)) for value in numbers]
    if not has_number:
        found.insert(0, 0)
    return (found[0], found[1], found[2], values[-2].data, values[-1].data)
