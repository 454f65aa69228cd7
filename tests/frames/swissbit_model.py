"""The blocks of a Swissbit TSE, slow and obvious: byte by byte, to compare the core with."""

from __future__ import annotations


class Wrong(Exception):
    pass


def integer(value: int, size: int) -> list[int]:
    return [(value // 256 ** (size - 1 - place)) % 256 for place in range(size)]


def number(values: list[int]) -> int:
    result = 0
    for value in values:
        result = result * 256 + value
    return result


def command(code: int, payload: list[int]) -> bytes:
    content = [code, 0, *payload]
    if len(content) > 510:
        raise Wrong
    block = integer(len(content), 2)
    for value in content:
        block.append(value)
    while len(block) < 512:
        block.append(0)
    return bytes(block)


def text(value: bytes) -> list[int]:
    if len(value) > 255:
        raise Wrong
    return [len(value), *value]


def open_transaction(event: int, client: bytes, transaction: int, length: int, kind: bytes) -> bytes:
    payload = [event]
    payload += text(client)
    payload += integer(transaction, 8)
    payload += integer(length, 8)
    payload += integer(len(kind), 8)
    for byte in kind:
        payload.append(byte)
    payload += integer(0, 8)
    return command(0x90, payload)


def response(block: bytes) -> tuple[int, str, int, bytes]:
    values = list(block)
    if len(values) < 512:
        raise Wrong
    counter = number(values[0:4])
    if values[4] == 0xFD:
        return counter, "fetch", 0, b""
    if values[4] != 0xFF:
        return counter, "not yet", 0, b""
    length = number(values[5:7])
    if not 2 <= length <= 505:
        raise Wrong
    word = number(values[5 + length : 7 + length])
    return counter, "complete", word, bytes(values[7 : 5 + length])


def closed(data: bytes) -> tuple[int, bytes, int, int, bytes]:
    values = list(data)
    if len(values) < 64 or len(values) > 503:
        raise Wrong
    length = number(values[56:64])
    if 64 + length > len(values):
        raise Wrong
    return (
        number(values[0:8]),
        bytes(values[8:40]),
        number(values[40:48]),
        number(values[48:56]),
        bytes(values[64 : 64 + length]),
    )


def numbers(data: bytes) -> list[int]:
    if not data:
        return []
    values = list(data)
    if values[0] > 62 or len(values) < 1 + 8 * values[0]:
        raise Wrong
    return [number(values[1 + 8 * index : 9 + 8 * index]) for index in range(values[0])]


def clients(data: bytes) -> list[bytes]:
    if not data:
        return []
    amount, body = data[0], data[1:]
    if amount > 16:
        raise Wrong
    slot = 31
    if len(body) == 32 * amount and len(body) % 31 != 0:
        slot = 32
    if len(body) < slot * amount:
        raise Wrong
    result = []
    for index in range(amount):
        name = b""
        for byte in body[index * slot : index * slot + slot]:
            if byte == 0 or len(name) == 31:
                break
            name += bytes([byte])
        if name == b"":
            raise Wrong
        result.append(name)
    return result


def certificate(data: bytes) -> bytes:
    if not data:
        return b""
    if len(data) < 2 or number(list(data[:2])) > len(data) - 2:
        raise Wrong
    return data[2 : 2 + number(list(data[:2]))]


def info(block: bytes) -> dict[str, object]:
    values = list(block)

    def at(offset: int, size: int) -> int:
        return number(values[offset : offset + size])

    description = b""
    for value in values[0x120:0x1A0]:
        if value == 0:
            break
        description += bytes([value])
    return {
        "capacity_blocks": at(0x14, 4),
        "size_blocks": at(0x18, 4),
        "time_valid": values[0x1C] % 2 == 1,
        "self_test_passed": values[0x1C] // 2 % 2 == 1,
        "ctss_active": values[0x1C] // 4 % 2 == 1,
        "state": values[0x1D],
        "importing": values[0x1E] != 0,
        "changed_puk": values[0x20] % 2 == 1,
        "changed_admin_pin": values[0x20] // 2 % 2 == 1,
        "changed_time_admin_pin": values[0x20] // 4 % 2 == 1,
        "self_test_in_s": at(0x24, 4),
        "started": at(0x28, 4),
        "max_started": at(0x2C, 4),
        "signatures": at(0x30, 4),
        "max_signatures": at(0x34, 4),
        "clients": at(0x38, 4),
        "max_clients": at(0x3C, 4),
        "certificate_end": at(0x40, 8),
        "tar_bytes": at(0x48, 8),
        "hardware": at(0x50, 4),
        "software": (at(0x54, 2), values[0x56], values[0x57]),
        "key_length": values[0x6A],
        "key": bytes(values[0x6B : 0x6B + values[0x6A]]) if values[0x6A] <= 97 else b"",
        "time_sync_in_s": at(0xD0, 4),
        "serial": bytes(values[0x100:0x120]),
        "description": description,
        "has_magic": bytes(values[:7]) == b"GMISRLS",
    }
