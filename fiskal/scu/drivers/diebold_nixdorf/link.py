"""The frame protocol: commands to answers over any transport.

A device does not answer what it refuses. So a silence is followed by command 001, which tells why; only if it tells
nothing is the outcome unknown. Long answers are put into a buffer of the device and fetched in pieces.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from fiskal.errors import FiskalError
from fiskal.frames import diebold_nixdorf as frames
from fiskal.scu.contract import Deadline
from fiskal.scu.drivers.diebold_nixdorf.codes import CMD_FOOTER_ERROR
from fiskal.scu.drivers.diebold_nixdorf.options import Options
from fiskal.scu.transports import Garbled, InUse, NoAnswer, NotSent, Silence, Transport
from fiskal.scu.transports.traffic import logged_call

log = logging.getLogger(__name__)

GET_STATUS: Final = 1
GET_PACKET: Final = 4
LOGIN: Final = 400
EXPORT_BUFFER: Final = 1
LIST_BUFFER: Final = 2
MAX_LIST_BYTES: Final = 1 << 20
"""A long answer that is no export: 512 numbers, 100 clients, a chain of certificates."""
STATE_INITIALIZED: Final = 0x01
STATE_COMMAND_OPEN: Final = 0x02
_PAUSE_S: Final = 0.05
_PACKET_TRIES: Final = 3
_FIRST_SECRET: Final = {400: 2, 402: 2, 403: 1, 404: 2}
"""From which parameter on a command is secret."""


class LinkError(FiskalError):
    """A command without a usable answer."""


class Refused(LinkError):
    """The device refused the command; it was not executed. ``number`` is what 001 told."""

    def __init__(self, code: int, state: int) -> None:
        super().__init__(f"The TSE refused the command with error {code:04X}.")
        self.number = code
        self.state = state


class NotReached(LinkError):
    """Nothing of the command reached the device. ``in_use``: because another program has it."""

    def __init__(self, error: Exception | str) -> None:
        super().__init__(str(error))
        self.in_use = isinstance(error, InUse)


class NoResponse(LinkError):
    """No answer, and the device knows of no error: nobody knows whether it was executed.

    ``state`` is the state byte of 001; None if that was silent too, or the connection broke.
    """

    def __init__(self, message: str, state: int | None) -> None:
        super().__init__(message)
        self.state = state


class LineTransport(Transport, Protocol):
    """A transport that keeps a connection and counts how often it had to make one."""

    connections: int

    @property
    def place(self) -> str: ...

    def connect(self, deadline: Deadline | None = None) -> None: ...


def new_id() -> bytes:
    """A fresh id for a request: 36 characters."""
    return str(uuid.uuid4()).encode("ascii")


class Link:
    """One device at the end of one transport. ``sleep`` and ``new_id`` are for tests."""

    def __init__(
        self,
        options: Options,
        *,
        sleep: Callable[[float], object] = time.sleep,
        new_id: Callable[[], bytes] = new_id,
    ) -> None:
        self.transport: LineTransport
        self.dirty = True
        """Something that writes log messages was sent since this was last set to False."""
        self._options = options
        self._sleep = sleep
        self._new_id = new_id
        self._command = 0
        self._id = b""

    def complete(self, received: bytes | bytearray | memoryview) -> int:
        """Where the answer that is waited for ends in what was received, for the transport."""
        try:
            found = frames.read(bytes(received), self._command, self._id)
        except frames.FrameError as error:
            raise Garbled(str(error)) from error
        return 0 if found is None else found.end

    # ---- single commands --------------------------------------------------------------------------

    def execute(
        self,
        command: int,
        *parameters: str,
        deadline: Deadline | None = None,
        timeout_ms: int | None = None,
    ) -> list[str]:
        """Execute a command and return the parameters of its answer as texts.

        Raises Refused, NotReached and NoResponse. A command that was damaged on the line is sent once more.
        """
        for attempt in (1, 2):
            try:
                return [_text(value) for value in self._direct(command, parameters, deadline, timeout_ms)]
            except Refused as refused:
                if refused.number != CMD_FOOTER_ERROR or attempt == 2:
                    raise
                log.warning("%s: a command was damaged on the line", self.transport.place)
        raise AssertionError("unreachable")

    def _direct(
        self,
        command: int,
        parameters: Sequence[str],
        deadline: Deadline | None,
        timeout_ms: int | None = None,
    ) -> tuple[bytes, ...]:
        if command in _WRITES_LOG:
            self.dirty = True
        request_id = self._new_id()
        frame = _request(command, parameters, request_id)
        milliseconds = self._options.answer_timeout_ms if timeout_ms is None else timeout_ms
        return self._call(frame, command, request_id, parameters, deadline, milliseconds)

    def _call(
        self,
        frame: bytes,
        command: int,
        request_id: bytes,
        parameters: Sequence[str],
        deadline: Deadline | None,
        milliseconds: int,
    ) -> tuple[bytes, ...]:
        limit = Deadline(milliseconds / 1000)
        if deadline is not None and deadline.at < limit.at:
            limit = deadline
        self._command, self._id = command, request_id
        try:
            answer = logged_call(
                self.transport, self.transport.place, frame, limit, _secrets(command, parameters)
            )
        except NotSent as error:
            raise NotReached(error) from error
        except Silence as error:
            if command == GET_STATUS:
                raise NoResponse(str(error), None) from error
            code, state = self.status()
            if code:
                raise Refused(code, state) from error
            raise NoResponse(str(error), state) from error
        except (NoAnswer, Garbled) as error:
            raise NoResponse(str(error), None) from error
        found = frames.read(answer, command, request_id)
        assert found is not None  # the transport gives whole answers only
        return found.parameters

    def status(self, deadline: Deadline | None = None) -> tuple[int, int]:
        """The error of the last command and the state byte.

        The deadline of the call that failed does not count: what became of it is worth a moment.
        """
        return _status(self._direct(GET_STATUS, (), deadline, self._options.status_timeout_ms))

    # ---- long answers -----------------------------------------------------------------------------

    def fetch(
        self, command: int, *parameters: str, deadline: Deadline | None = None, timeout_ms: int | None = None
    ) -> list[str]:
        """Execute a command whose answer is a list; return its parameters. Raises as :meth:`execute`."""
        request_id = self._new_id()
        received = bytearray()
        for piece in self.pieces(command, parameters, LIST_BUFFER, request_id, deadline, timeout_ms):
            received += piece
            if len(received) > MAX_LIST_BYTES:
                raise NoResponse(f"The answer to command {command:03d} has no end.", None)
        try:
            found = frames.read(bytes(received), command, request_id)
        except frames.FrameError as error:
            raise NoResponse(str(error), None) from error
        if found is None or found.start or found.end != len(received):
            raise NoResponse(f"The long answer to command {command:03d} is damaged.", None)
        return [_text(value) for value in found.parameters]

    def stream(self, command: int, *parameters: str, deadline: Deadline | None = None) -> Iterator[bytes]:
        """Execute an export; give the bytes of its one parameter as they come, and b"" when the device needs time.

        Raises as :meth:`execute`, and NoResponse for an answer that is none.
        """
        request_id = self._new_id()
        reader = frames.Stream(command, request_id)
        try:
            for piece in self.pieces(command, parameters, EXPORT_BUFFER, request_id, deadline, None):
                yield reader.feed(piece) if piece else b""
        except frames.FrameError as error:
            raise NoResponse(f"The export is damaged: {error}", None) from error
        if not reader.ended:
            raise NoResponse("The export ended in the middle.", None)

    def pieces(
        self,
        command: int,
        parameters: Sequence[str],
        buffer: int,
        request_id: bytes,
        deadline: Deadline | None,
        timeout_ms: int | None,
    ) -> Iterator[bytes]:
        """Execute a command into a buffer of the device, and fetch that piece by piece."""
        frame = _request(command, parameters, request_id, buffer)
        patience = Deadline(self._options.export_progress_timeout_ms / 1000)
        if self._options.status_behind_buffered:
            status_id = self._new_id()
            code, state = _status(
                self._call(
                    frame + _request(GET_STATUS, (), status_id),
                    GET_STATUS,
                    status_id,
                    (),
                    deadline,
                    self._options.answer_timeout_ms,
                )
            )
            if code:
                raise Refused(code, state)
            frame = b""
        packet = tries = 0
        while True:
            poll_id = self._new_id()
            poll = frame + _request(GET_PACKET, (str(buffer), str(packet)), poll_id)
            frame = b""
            milliseconds = self._options.answer_timeout_ms if timeout_ms is None else timeout_ms
            try:
                answer = self._call(poll, GET_PACKET, poll_id, (), deadline, milliseconds)
            except NoResponse as error:
                tries += 1
                if error.state is None or tries == _PACKET_TRIES or not self._options.repeat_lost_packet:
                    raise
                continue
            tries = 0
            more, data = self._packet(answer, buffer, packet)
            packet = (packet + 1) % 256
            if data:
                patience = Deadline(self._options.export_progress_timeout_ms / 1000)
                yield data
            elif more:
                if patience.expired:
                    raise NoResponse("The long answer stands still.", None)
                self._sleep(_PAUSE_S)
                yield b""
            if not more:
                return

    def _packet(self, answer: tuple[bytes, ...], buffer: int, packet: int) -> tuple[bool, bytes]:
        """Whether more pieces follow, and this piece."""
        if len(answer) != 5:
            raise NoResponse(f"A piece of a long answer has {len(answer)} parameters, not 5.", None)
        if (answer[0], answer[1]) != (b"%d" % buffer, b"%d" % packet):
            raise NoResponse(
                f"Piece {answer[1]!r} of buffer {answer[0]!r} came for piece {packet} of {buffer}.", None
            )
        data = answer[4]
        if answer[3] and answer[3] != b"%d" % len(data):
            log.debug("%s: a piece of %d bytes calls itself %r", self.transport.place, len(data), answer[3])
        return answer[2] == b"00", data


_WRITES_LOG: Final = frozenset(
    {100, 101, 104, 106, 107, 112, 201, 203, 205, 307, 400, 401, 402, 403, 404, 900}
)


def _request(
    command: int, parameters: Sequence[str], request_id: bytes, buffer: int = frames.DIRECT
) -> bytes:
    try:
        return frames.request(command, [text.encode("ascii") for text in parameters], request_id, buffer)
    except (UnicodeEncodeError, frames.FrameError) as error:
        raise NotReached(
            f"Command {command:03d} cannot carry this text: only printable ASCII goes."
        ) from error


def _secrets(command: int, parameters: Sequence[str]) -> tuple[slice, ...]:
    first = _FIRST_SECRET.get(command)
    if first is None:
        return ()
    begin = 5 + sum(2 + len(text) for text in parameters[:first])
    return (slice(begin, begin + sum(2 + len(text) for text in parameters[first:])),)


def _text(value: bytes) -> str:
    try:
        return value.decode("ascii")
    except UnicodeDecodeError as error:
        raise NoResponse("The answer is no text.", None) from error


def _status(parameters: tuple[bytes, ...]) -> tuple[int, int]:
    """Error and state are the last two parameters; more may come in front of them after a failed command."""
    try:
        code, state = (int(value, 16) for value in parameters[-2:])
    except ValueError as error:
        raise NoResponse(f"001 answered {parameters!r}.", None) from error
    return code, state
