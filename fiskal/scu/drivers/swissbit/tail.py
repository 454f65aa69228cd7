"""Reading log entries out of a stretch of the store, which is a TAR archive (tse-swissbit §8, §11.4). No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from fiskal.scu.driver import Call
from fiskal.tse.logmessage import LogMessage, LogMessageError, LogType, parse

BLOCK: Final = 512
_OPERATIONS: Final = {
    "start": "StartTransaction",
    "update": "UpdateTransaction",
    "finish": "FinishTransaction",
}


class Entry(NamedTuple):
    """A member of the archive: where it begins, and what it holds."""

    offset: int
    name: str
    data: bytes


def size_of(header: bytes) -> int | None:
    """Bytes of the member behind a header; None if the block is no header."""
    if len(header) < BLOCK or header[257:262] != b"ustar":
        return None
    try:
        claimed = int(header[148:156].strip(b" \0") or b"0", 8)
        size = int(header[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        return None
    if claimed != sum(header[:148]) + 8 * 0x20 + sum(header[156:]):
        return None
    return size


def entries(data: bytes) -> Iterator[Entry]:
    """The members of a stretch that begins with a block; blocks that are no header are passed over."""
    at = 0
    while at + BLOCK <= len(data):
        size = size_of(data[at : at + BLOCK])
        begin = at + BLOCK
        if size is None or begin + size > len(data):
            at += BLOCK
            continue
        name = data[at : at + 100].split(b"\0", 1)[0].decode("utf-8", "replace")
        yield Entry(at, name, data[begin : begin + size])
        at = begin + -(-size // BLOCK) * BLOCK


def messages(data: bytes, serial: bytes) -> Iterator[LogMessage]:
    """The log messages of this TSE in a stretch."""
    for entry in entries(data):
        if not entry.name.endswith(".log"):
            continue
        try:
            message = parse(entry.data)
        except LogMessageError:
            continue
        if message.serial == serial:
            yield message


def is_of(message: LogMessage, call: Call, number: int | None) -> bool:
    """``message`` is what executing ``call`` leaves; ``number`` None is any transaction."""
    return (
        message.type is LogType.TRANSACTION
        and message.operation == _OPERATIONS[call.op]
        and message.client_id == call.client_id
        and (message.process_type or "") == call.process_type
        and (message.process_data or b"") == call.process_data
        and number in (None, message.transaction_number)
    )


def is_start(message: LogMessage, number: int) -> bool:
    return (
        message.type is LogType.TRANSACTION
        and message.operation == _OPERATIONS["start"]
        and message.transaction_number == number
    )
