"""Messages of Epson TSEs: where one ends, how one is written, and the pieces of an export.

What a message looks like stands in ``csrc/frames/epson.h``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from fiskal._core import ffi, lib
from fiskal.errors import FiskalError

MAX_JSON_BYTES: Final[int] = lib.FK_EPSON_MAX_JSON
TOO_LONG: Final[int] = lib.FK_EPSON_E_SIZE
"""The status of a :class:`FrameError` about a JSON that is too long."""
_FIRST_BUFFER: Final = 4096


class FrameError(FiskalError):
    """Bytes that are no message, or texts that no message can carry. ``status`` is the C core's."""

    code = "FRAME"

    def __init__(self, status: int) -> None:
        super().__init__(_TEXTS.get(status, f"the C core answered with status {status}"))
        self.status = status


_TEXTS: Final = {
    lib.FK_E_ARGUMENT: "A message has texts that are not empty and hold no zero byte.",
    lib.FK_EPSON_E_FORM: "What ends with a zero byte is no XML element.",
    lib.FK_EPSON_E_TEXT: "A text is not UTF-8, or has a character that XML cannot carry.",
    lib.FK_EPSON_E_SIZE: f"The JSON of a request has at most {MAX_JSON_BYTES} bytes.",
    lib.FK_EPSON_E_BASE64: "A piece of the export is no base64.",
}


class Span(NamedTuple):
    """The element of a message within what was received, and where the next message begins."""

    begin: int
    end: int
    next: int


class _Scratch(threading.local):
    """The buffers of one thread."""

    def __init__(self) -> None:
        self.span = ffi.new("fk_epson_span *")
        self.written = ffi.new("size_t *")
        self.resize(_FIRST_BUFFER)

    def resize(self, capacity: int) -> None:
        self.capacity = capacity
        self.out = ffi.new("uint8_t[]", capacity)
        self.view = ffi.buffer(self.out)
        self.all = self.out, capacity, self.written, self.view


_scratch: Final = _Scratch()
_request: Final = lib.fk_epson_request
_OK: Final[int] = lib.FK_OK


def read(received: bytes | bytearray | memoryview) -> Span | None:
    """Find the first message that is not blank; None if its end is not there yet. Raises :class:`FrameError`."""
    span = _scratch.span
    data = received if isinstance(received, bytes) else ffi.from_buffer("uint8_t[]", received)
    status = lib.fk_epson_read(data, len(received), span)
    if status == lib.FK_OK:
        return Span(span.begin, span.end, span.next)
    if status == lib.FK_EPSON_MORE:
        return None
    raise FrameError(status)


def _written(write: Callable[[Any, int, Any], int]) -> bytes:
    """What ``write`` puts into a buffer, which grows to what it asks for. Raises FrameError."""
    scratch = _scratch
    status = write(scratch.out, scratch.capacity, scratch.written)
    if status == lib.FK_E_SPACE:
        scratch.resize(scratch.written[0])
        status = write(scratch.out, scratch.capacity, scratch.written)
    if status != lib.FK_OK:
        raise FrameError(status)
    return scratch.view[: scratch.written[0]]


def escape(text: bytes) -> bytes:
    """``text`` (UTF-8) as it stands within an element. Raises :class:`FrameError`."""
    return _written(lambda out, size, written: lib.fk_epson_escape(text, len(text), out, size, written))


def request(device_id: str, timeout_ms: int, json: bytes) -> bytes:
    """The message that lets the device execute ``json`` within ``timeout_ms``. Raises :class:`FrameError`."""
    device = device_id.encode("utf-8", "surrogatepass")
    out, capacity, written, view = _scratch.all  # written out, for this is on the way of every receipt
    if _request(device, len(device), timeout_ms, json, len(json), out, capacity, written) == _OK:
        return view[: written[0]]
    return _written(
        lambda out, size, written: lib.fk_epson_request(
            device, len(device), timeout_ms, json, len(json), out, size, written
        )
    )


def _message(kind: int, *texts: str) -> bytes:
    joined = "".join(f"{text}\0" for text in texts).encode("utf-8", "surrogatepass")
    return _written(
        lambda out, size, written: lib.fk_epson_message(kind, joined, len(joined), out, size, written)
    )


def open_device(device_id: str, storage_type: str) -> bytes:
    return _message(lib.FK_EPSON_OPEN_DEVICE, device_id, storage_type)


def close_device(device_id: str) -> bytes:
    return _message(lib.FK_EPSON_CLOSE_DEVICE, device_id)


def reconnect(new_client_id: str, old_client_id: str, received_id: str) -> bytes:
    return _message(lib.FK_EPSON_RECONNECT, new_client_id, old_client_id, received_id)


def disconnect(client_id: str) -> bytes:
    return _message(lib.FK_EPSON_DISCONNECT, client_id)


class ExportPieces:
    """Decodes an export piece by piece, each one a base64 text of its own or a part of one cut anywhere."""

    def __init__(self) -> None:
        self._state = ffi.new("fk_epson_export *")

    def feed(self, text: str) -> bytes:
        """The bytes that are complete with this piece. Raises :class:`FrameError`."""
        piece = text.encode("utf-8", "surrogatepass")
        return _written(
            lambda out, size, written: self._piece(piece, out, size, written),
        )

    def _piece(self, piece: bytes, out: Any, capacity: int, written: Any) -> int:
        needed = (self._state.count + len(piece)) // 4 * 3
        if needed > capacity:
            written[0] = needed
            return lib.FK_E_SPACE
        return lib.fk_epson_piece(self._state, piece, len(piece), out, capacity, written)

    @property
    def complete(self) -> bool:
        """No character waits for the rest of its group."""
        return not self._state.count
