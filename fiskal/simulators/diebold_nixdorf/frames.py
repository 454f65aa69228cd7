"""The frames as a device reads and writes them. A reading of its own, which shares nothing with the driver."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

START: Final = b"\x1b\x90"
ANSWER: Final = b"\x1b\x91"
PARAMETER: Final = b"\x1b\x92"
ID: Final = b"\x1b\x99"
NO_ANSWER: Final = b"\x1b\x9c"
DIRECT: Final = b"\x1b\x9d"
BUFFERED: Final = b"\x1b\x9e"
END: Final = b"\x1b\x9f"
ASB: Final = b"\x1bk\x01\x02\x03\x04"
MAX_FRAME: Final = 4096

_REQUEST: Final = re.compile(
    rb"(?P<command>[0-9]{3})(?P<parameters>(?:\x1b\x92[\x20-\x7e]*)*)(?:\x1b\x99(?P<id>[\x20-\x7e]{0,36}))?"
    rb"(?:\x1b\x9c)?(?:\x1b\x9d|\x1b\x9e(?P<buffer>[0-9]{1,10}))"
)


class Request(NamedTuple):
    command: int
    parameters: list[str]
    id: bytes
    buffer: int | None


class Malformed(NamedTuple):
    """A frame that was dropped; ``code`` is what command 001 tells of it."""

    code: int


class Reader:
    """Takes bytes as they come and gives away whole requests."""

    def __init__(self) -> None:
        self._pending = bytearray()

    @property
    def begun(self) -> bool:
        """A frame has begun and not ended."""
        return bool(self._pending)

    def drop(self) -> None:
        self._pending.clear()

    def feed(self, data: bytes) -> Iterator[Request | Malformed]:
        self._pending += data
        while self._pending:
            start = self._pending.find(START)
            if start < 0:
                del self._pending[: -1 if self._pending.endswith(b"\x1b") else None]
                return
            del self._pending[:start]
            end = self._pending.find(END)
            if end < 0 or end > MAX_FRAME:
                if len(self._pending) > MAX_FRAME:
                    again = self._pending.find(START, 2)
                    del self._pending[: again if again > 0 else None]
                    yield Malformed(0x0004)
                    continue
                return
            body = bytes(self._pending[2:end])
            del self._pending[: end + 2]
            body = body[body.rfind(START) + 2 :] if START in body else body  # the frame before was cut off
            match = _REQUEST.fullmatch(body)
            if match is None:
                yield Malformed(0x0005)
                continue
            parameters = match["parameters"].split(PARAMETER)[1:]
            yield Request(
                int(match["command"]),
                [parameter.decode("ascii") for parameter in parameters],
                match["id"] or b"",
                None if match["buffer"] is None else int(match["buffer"]),
            )


def head(command: int) -> bytes:
    return ANSWER + b"%03d" % command


def tail(request_id: bytes) -> bytes:
    return ID + request_id + END


def answer(command: int, parameters: list[bytes], request_id: bytes) -> bytes:
    return head(command) + b"".join(PARAMETER + parameter for parameter in parameters) + tail(request_id)
