"""Frames of Diebold Nixdorf TSEs: requests, answers, and long answers that come in pieces.

What a frame looks like stands in ``csrc/frames/diebold_nixdorf.h``.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final, NamedTuple

from fiskal._core import ffi, lib
from fiskal.errors import FiskalError

MAX_ID: Final[int] = lib.FK_DN_MAX_ID
DIRECT: Final = -1
"""In place of a buffer: the device answers at once."""

_FIRST_FRAME: Final = 1024
_FIRST_SPANS: Final = 32
_KEPT_SPANS: Final = 4096


class FrameError(FiskalError):
    """Bytes that are no answer, or texts that no frame can carry. ``status`` is the C core's."""

    code = "FRAME"

    def __init__(self, status: int) -> None:
        super().__init__(_TEXTS.get(status, f"the C core answered with status {status}"))
        self.status = status


_TEXTS: Final = {
    lib.FK_E_ARGUMENT: "A command has a number of three digits, printable ASCII as parameters and a short id.",
    lib.FK_DN_E_START: "The end of an answer came without its beginning.",
    lib.FK_DN_E_FORM: "The answer is no frame.",
    lib.FK_DN_E_ID: "The answer belongs to another request.",
    lib.FK_DN_E_BASE64: "The answer is no base64.",
    lib.FK_DN_E_PARAMETERS: "The answer has not exactly one parameter.",
}


class Answer(NamedTuple):
    """The parameters of an answer, and where its frame begins and ends in what was received."""

    parameters: tuple[bytes, ...]
    start: int
    end: int


class _Scratch(threading.local):
    """The buffers of one thread."""

    def __init__(self) -> None:
        self.frame = ffi.new("uint8_t[]", _FIRST_FRAME)
        self.frame_bytes = ffi.buffer(self.frame)
        self.length = ffi.new("size_t *")
        self.answer = ffi.new("fk_dn_answer *")
        self.set_spans(_FIRST_SPANS)

    def set_spans(self, capacity: int) -> None:
        self.capacity = capacity
        self.spans = ffi.new("uint32_t[]", 2 * capacity)


_scratch = _Scratch()
_unpack: Final = ffi.unpack


def request(command: int, parameters: Sequence[bytes], request_id: bytes, buffer: int = DIRECT) -> bytes:
    """Return the frame of one request. Raises :class:`FrameError` for what a frame cannot carry."""
    scratch = _scratch
    joined = b"\0".join(parameters) + b"\0" if parameters else b""
    if len(joined) > len(parameters) and joined.count(0) != len(parameters):
        raise FrameError(lib.FK_E_ARGUMENT)
    out, capacity = scratch.frame, _FIRST_FRAME
    length = scratch.length
    status = lib.fk_dn_request(
        command, joined, len(joined), request_id, len(request_id), buffer, out, capacity, length
    )
    if status == lib.FK_E_SPACE:
        capacity = length[0]
        out = ffi.new("uint8_t[]", capacity)
        status = lib.fk_dn_request(
            command, joined, len(joined), request_id, len(request_id), buffer, out, capacity, length
        )
    if status:
        raise FrameError(status)
    if capacity == _FIRST_FRAME:
        return scratch.frame_bytes[: length[0]]
    return ffi.buffer(out, length[0])[:]


def read(data: bytes, command: int, request_id: bytes) -> Answer | None:
    """Find the answer to ``command`` with this id in what was received; None if more has to come.

    Raises :class:`FrameError` for bytes that can never become it.
    """
    scratch = _scratch
    status = lib.fk_dn_read(
        data,
        len(data),
        command,
        request_id,
        len(request_id),
        scratch.answer,
        scratch.spans,
        scratch.capacity,
    )
    if status == lib.FK_DN_MORE:
        return None
    found = scratch.answer
    if status == lib.FK_E_SPACE:
        scratch.set_spans(found.count)
        return read(data, command, request_id)
    if status:
        raise FrameError(status)
    spans = iter(_unpack(scratch.spans, 2 * found.count)) if found.count else iter(())
    parameters = tuple([data[at : at + size] for at, size in zip(spans, spans, strict=True)])
    if scratch.capacity > _KEPT_SPANS:
        scratch.set_spans(_FIRST_SPANS)
    return Answer(parameters, found.start, found.end)


class Stream:
    """Reads one long answer piece by piece: base64 in frames to bytes, in constant memory."""

    def __init__(self, command: int, request_id: bytes) -> None:
        self._stream = ffi.new("fk_dn_stream *")
        self._written = ffi.new("size_t *")
        self._done = ffi.new("int *")
        status = lib.fk_dn_stream_begin(self._stream, command, request_id, len(request_id))
        if status:
            raise FrameError(status)

    @property
    def ended(self) -> bool:
        """The answer is complete."""
        return bool(self._done[0])

    def feed(self, piece: bytes) -> bytes:
        """Return what the next piece stands for. Raises :class:`FrameError`; nothing may be fed afterwards."""
        capacity = 3 * (len(piece) // 4 + 1)
        out = ffi.new("uint8_t[]", capacity)
        status = lib.fk_dn_stream_feed(
            self._stream, piece, len(piece), out, capacity, self._written, self._done
        )
        if status:
            raise FrameError(status)
        return ffi.buffer(out, self._written[0])[:]
