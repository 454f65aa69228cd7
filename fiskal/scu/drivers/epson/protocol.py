"""The ePOS-Device XML session with the host in front of an Epson TSE: connect, open, ask, close.

Knows messages and who has opened the device, and nothing of what a TSE does. One thread at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NoReturn, Protocol
from xml.parsers import expat

import msgspec

from fiskal.frames import epson as frames
from fiskal.scu.contract import Deadline
from fiskal.scu.transports import Garbled, NoAnswer, NotSent, Transport, TransportError
from fiskal.scu.transports.traffic import logged_call

log = logging.getLogger(__name__)

OK: Final = "EXECUTION_OK"
COMMON: Final = frozenset({"GetStorageInfo"})
"""Functions of the storage type COMMON, which has no vendor."""
MARGIN_S: Final = 10.0
"""How much longer than the device itself somebody waits for its answer."""
MAX_DEPTH: Final = 16
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0

_MESSAGES: Final = frozenset(
    (b"connect", b"open_device", b"close_device", b"device_data", b"reconnect", b"disconnect", b"error")
)
_IN_USE: Final = frozenset({"DEVICE_IN_USE", "DEVICE_OPEN_ERROR"})


class Refused(Exception):
    """The host or the device answered with another code than success. ``output`` is what came with it."""

    def __init__(self, code: str, output: dict[str, Any] | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.output = output or {}


class SessionTransport(Transport, Protocol):
    """A transport whose connection is a session: somebody greets, and has to be told again who opened what."""

    connections: int
    greeted: bytes

    def connect(self, deadline: Deadline | None = None) -> None: ...
    def disconnect(self) -> None: ...


class Message:
    """An XML message, read: the name of its element, and the text of the first element of each name in it."""

    __slots__ = ("name", "texts")

    def __init__(self, element: bytes) -> None:
        """Raises :class:`Garbled`. What declares a document type is refused: entities could do anything."""
        self.name = ""
        self.texts: dict[str, str] = {}
        open_: list[str] = []
        pieces: list[str] = []

        def start(name: str, _: object) -> None:
            if not open_ and not self.name:
                self.name = name
            if len(open_) == MAX_DEPTH:
                raise Garbled("The answer is XML that is nested too deeply.")
            open_.append(name)
            pieces.clear()

        def end(name: str) -> None:
            open_.pop()
            self.texts.setdefault(name, "".join(pieces))
            pieces.clear()

        def doctype(*_: object) -> None:
            raise Garbled("The answer declares a document type, which no host does.")

        parser = expat.ParserCreate("UTF-8")
        parser.buffer_text = True
        parser.StartElementHandler = start
        parser.EndElementHandler = end
        parser.CharacterDataHandler = pieces.append
        parser.StartDoctypeDeclHandler = doctype
        try:
            parser.Parse(element, True)
        except expat.ExpatError as error:
            raise Garbled(f"The answer is no XML: {error}.") from error

    def get(self, name: str) -> str:
        return self.texts.get(name, "")


def element_name(received: bytes | bytearray | memoryview, begin: int) -> bytes:
    """The name of the element at ``begin``, without reading the rest."""
    head = bytes(received[begin + 1 : begin + 33])
    for at, byte in enumerate(head):
        if byte in b" \t\r\n/>":
            return head[:at]
    return head


class Reader:
    """Finds the answer in a stream in which the host may say other things too. ``wanted`` are the names it may have."""

    def __init__(self) -> None:
        self.wanted: tuple[bytes, ...] = ()

    def complete(self, received: bytes | bytearray | memoryview) -> int:
        """:data:`fiskal.scu.transports.Complete`: messages of other names are passed over."""
        at = 0
        while True:
            try:
                span = frames.read(received[at:] if at else received)
            except frames.FrameError as error:
                raise Garbled(str(error)) from error
            if span is None:
                return 0
            name = element_name(received, at + span.begin)
            if name in self.wanted:
                return at + span.next
            if name not in _MESSAGES:
                raise Garbled("The host sent something that is no message of a host.")
            at += span.next

    def message(self, received: bytes) -> Message:
        """The message at the end of what :meth:`complete` cut off."""
        at = 0
        while True:
            try:
                span = frames.read(received[at:])
            except frames.FrameError as error:
                raise Garbled(str(error)) from error
            if span is None:
                raise Garbled("The answer has no end.")
            if at + span.next == len(received):
                return Message(received[at + span.begin : at + span.end])
            at += span.next


def greeting(received: bytes | bytearray | memoryview) -> int:
    """:data:`fiskal.scu.transports.Complete` of what a host says after a connection was made."""
    reader = Reader()
    reader.wanted = (b"connect",)
    return reader.complete(received)


class Link:
    """The session with one device of one host.

    ``transport`` was made with ``reader.complete`` and :func:`greeting`. ``name`` is for the traffic log.
    ``busy_retry_s`` is how long a device that is used by somebody else is waited for; with ``reconnects`` a new
    connection adopts what the one before had opened.
    """

    def __init__(
        self,
        transport: SessionTransport,
        reader: Reader,
        *,
        name: str,
        device_id: str,
        storage_type: str,
        timeout_ms: int,
        busy_retry_s: float,
        reconnects: bool,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport = transport
        self._reader = reader
        self._name = name
        self._device_id = device_id
        self._storage_type = storage_type
        self._timeout_ms = timeout_ms
        self._busy_retry_s = busy_retry_s
        self._reconnects = reconnects
        self._sleep = sleep
        self._connection = 0
        self._client_id = ""
        self._received_id = "0"
        self._opened = False
        self.vendor = "TSE1"
        """What GetStorageInfo calls the vendor; goes into every other request."""
        self.sessions = 0
        """How often the device was opened. Who was logged in before need not be any more."""

    # ---- the device ---------------------------------------------------------------------------

    @property
    def opened(self) -> bool:
        """The device is open on a connection that need not live any more."""
        return self._opened and self._transport.connections == self._connection

    def open(self, deadline: Deadline | None) -> None:
        """Have the device open. Raises :class:`NotSent`, and :class:`Refused` with the host's code."""
        try:
            self._transport.connect(deadline)
            if self.opened:
                return
            self._opened = False
            adopted = False
            if self._transport.connections != self._connection:
                adopted = self._introduce(deadline)
            if not adopted:
                self._open(deadline)
        except (NoAnswer, Garbled) as error:
            self._transport.disconnect()
            raise NotSent(f"The device could not be opened: {error.message}") from error
        self._opened = True
        self.sessions += 1

    def _introduce(self, deadline: Deadline | None) -> bool:
        """Read the greeting of a new connection; True if it has taken over what the one before had opened."""
        old, was = self._client_id, self._connection
        self._client_id = self._reader.message(self._transport.greeted).get("client_id")
        self._connection = self._transport.connections
        if not (self._reconnects and was and old and self._client_id):
            return False
        received_id, self._received_id = self._received_id, "0"
        message = self._exchange(
            frames.reconnect(self._client_id, old, received_id), (b"reconnect", b"error"), deadline
        )
        return message.name == "reconnect" and message.get("code") == "OK"

    def _open(self, deadline: Deadline | None) -> None:
        frame = frames.open_device(self._device_id, self._storage_type)
        closed = False
        for pause in self._pauses(deadline):
            message = self._exchange(frame, (b"open_device", b"error"), deadline)
            code = message.get("code")
            if message.name == "open_device" and code == "OK":
                return
            if code not in _IN_USE:
                raise Refused(code or "SYSTEM_ERROR")
            if not closed:  # the host may have left it open for a connection that is gone
                self._exchange(frames.close_device(self._device_id), (b"close_device", b"error"), deadline)
                closed = True
            if pause is None:
                raise Refused(code)
            self._sleep(pause)

    def _pauses(self, deadline: Deadline | None) -> Iterator[float | None]:
        """How long to wait before each further try: ever longer, then None when the patience is at its end."""
        until = Deadline(self._busy_retry_s)
        pause = FIRST_PAUSE_S
        while True:
            left = until.remaining() if deadline is None else min(until.remaining(), deadline.remaining())
            if left <= pause:
                yield None
                return
            yield pause
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def close_device(self, deadline: Deadline | None) -> None:
        """Give the device to others; errors are none, for the host gives it away when the connection ends."""
        if not self.opened:
            return
        self._opened = False
        try:
            self._exchange(frames.close_device(self._device_id), (b"close_device", b"error"), deadline)
        except TransportError as error:
            log.debug("%s: the device was not closed: %s", self._name, error)
            self._transport.disconnect()

    def drop(self) -> None:
        """Give up the connection: what may still come on it belongs to nobody."""
        self._transport.disconnect()

    def close(self) -> None:
        """Close the device and the connection as the host wants it."""
        if self.opened:
            self.close_device(Deadline(1.0))
            try:
                self._exchange(frames.disconnect(self._client_id), (b"disconnect", b"error"), Deadline(1.0))
            except (TransportError, frames.FrameError) as error:
                log.debug("%s: the host was not told that this is the end: %s", self._name, error)
        self._transport.close()

    # ---- functions ----------------------------------------------------------------------------

    def operate(
        self,
        function: str,
        given: dict[str, Any],
        deadline: Deadline | None,
        *,
        timeout_ms: int | None = None,
        secrets: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Let the device execute ``function`` and return its output.

        ``secrets`` are the texts of ``given`` that no log may hold. Raises :class:`Refused`, :class:`NotSent`,
        :class:`NoAnswer`, :class:`Garbled`; after the last two the device may have executed it.
        """
        common = function in COMMON
        request = msgspec.json.encode(
            {
                "storage": {"type": "COMMON" if common else "TSE", "vendor": "" if common else self.vendor},
                "function": function,
                "compress": {"required": False, "type": ""},
                "input": given,
            }
        )
        timeout_ms = self._timeout_ms if timeout_ms is None else timeout_ms
        try:
            frame = frames.request(self._device_id, timeout_ms, request)
        except frames.FrameError as error:
            raise Refused(
                "JSON_ERROR_OVER_DATA_SIZE" if error.status == _TOO_LONG else "PARAM_ERROR"
            ) from error
        reopened = False
        for pause in self._pauses(deadline):
            self.open(deadline)
            limit = Deadline(timeout_ms / 1000 + MARGIN_S)
            if deadline is not None and deadline.at < limit.at:
                limit = deadline
            message = self._exchange(frame, (b"device_data", b"error"), limit, secrets)
            code = message.get("code")
            if code == "DEVICE_NOT_OPEN" and not reopened:
                self._opened = False
                reopened = True
            elif code == "ERROR_DEVICE_BUSY" and pause is not None:
                self._sleep(pause)
            else:
                return self._output(message, function)
        raise Refused("ERROR_DEVICE_BUSY")

    def _output(self, message: Message, function: str) -> dict[str, Any]:
        code = message.get("code")
        if message.name == "error":
            raise Refused(code or "SYSTEM_ERROR")
        if message.get("device_id") != self._device_id:
            self._garbled(f"The answer is that of the device {message.get('device_id')!r}.")
        if code != "SUCCESS" or message.get("success") != "true":
            raise Refused(code or "SYSTEM_ERROR")
        self._received_id = message.get("data_id") or self._received_id
        try:
            document = msgspec.json.decode(message.get("resultdata"))
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            document = None
        if not isinstance(document, dict):
            self._garbled("The answer holds no JSON.")
        result, output = member(document, "result"), member(document, "output")
        if not isinstance(result, str):
            self._garbled("The answer holds no result.")
        if member(document, "function") not in (function, None, ""):
            self._garbled(f"The answer is that of the function {member(document, 'function')!r}.")
        output = output if isinstance(output, dict) else {}
        if result != OK:
            raise Refused(result, output)
        return output

    def _garbled(self, text: str) -> NoReturn:
        self._transport.disconnect()
        raise Garbled(text)

    def _exchange(
        self,
        frame: bytes,
        wanted: tuple[bytes, ...],
        deadline: Deadline | None,
        secrets: Sequence[str] = (),
    ) -> Message:
        self._reader.wanted = wanted
        answer = logged_call(self._transport, self._name, frame, deadline, _places(frame, secrets))
        try:
            return self._reader.message(answer)
        except Garbled:
            self._transport.disconnect()
            raise


_TOO_LONG: Final = frames.TOO_LONG


def member(document: dict[str, Any], name: str) -> Any:
    """The member of a JSON object; one that differs in letter case only, if there is none of this name."""
    if name in document:
        return document[name]
    folded = name.lower()
    return next((value for key, value in document.items() if key.lower() == folded), None)


def _places(frame: bytes, secrets: Sequence[str]) -> Iterator[slice]:
    """Where the texts that nobody may read stand in a frame. Looked for only when a frame is logged."""
    for secret in secrets:
        text = frames.escape(msgspec.json.encode(secret)[1:-1])
        at = frame.find(text)
        while text and at >= 0:
            yield slice(at, at + len(text))
            at = frame.find(text, at + 1)
