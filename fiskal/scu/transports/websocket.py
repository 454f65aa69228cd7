"""A WebSocket as a :class:`fiskal.scu.transports.Transport`; needs the extra ``fiskal[websocket]``.

A frame is one text message. Several answers and messages that nobody asked for come over one connection, so the
protocol says which one it waits for; the others go to ``aside``. The connection is kept over a silence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

from fiskal.scu.contract import Deadline
from fiskal.scu.transports import NoAnswer, NotSent, Silence

try:
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
    from websockets.sync.client import connect
except ImportError:  # the extra is not installed: said when a connection is made
    connect = None  # type: ignore[assignment]

INSTALL_HINT: Final = "Install it with: pip install 'fiskal[websocket]'."


def _nothing(message: bytes) -> None:
    """Drop a message that nobody waits for."""


class WebSocketTransport:
    """One connection to ``url`` (``ws://host:port/path``).

    ``wanted`` tells whether a message is the answer to the frame that was sent last; ``aside`` takes the others. A
    message longer than ``max_message_bytes`` ends the connection.
    """

    def __init__(
        self,
        url: str,
        wanted: Callable[[bytes], bool],
        *,
        aside: Callable[[bytes], None] = _nothing,
        connect_timeout_s: float = 5.0,
        answer_timeout_s: float = 60.0,
        max_message_bytes: int = 1 << 20,
    ) -> None:
        self.url = url
        self.connections = 0
        """How many connections were made so far. A protocol with a session of its own per connection compares it."""
        self._wanted = wanted
        self._aside = aside
        self._connect_timeout_s = connect_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._max_message_bytes = max_message_bytes
        self._stack = contextlib.ExitStack()
        self._connection: Any = None
        self._closed = False

    @property
    def place(self) -> str:
        return self.url

    @property
    def connected(self) -> bool:
        """There is a connection, which need not live any more."""
        return self._connection is not None

    def connect(self, deadline: Deadline | None = None) -> None:
        """Make a connection unless a living one is there; messages that lie ready go aside. Raises NotSent."""
        connection = self._connection
        if connection is not None:
            try:
                while True:
                    self._aside(_bytes(connection.recv(timeout=0)))
            except TimeoutError:
                return
            except (ConnectionClosed, OSError):
                self.disconnect()
        self._open(deadline)

    def _open(self, deadline: Deadline | None) -> None:
        if self._closed:
            raise NotSent(f"The connection to {self.url} has been closed.")
        if connect is None:
            raise NotSent("WebSockets need the package websockets.", hint=INSTALL_HINT)
        seconds = self._connect_timeout_s
        if deadline is not None:
            seconds = min(seconds, deadline.remaining())
        try:
            self._connection = self._stack.enter_context(
                connect(
                    self.url,
                    open_timeout=max(seconds, 0.001),
                    close_timeout=0.5,
                    max_size=self._max_message_bytes,
                    compression=None,
                    ping_interval=None,  # a service need not know pings; protocols have signs of life of their own
                    proxy=None,
                )
            )
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI, EOFError) as error:
            raise NotSent(
                f"{self.url} cannot be reached: {error or type(error).__name__}.",
                hint="Check that the service runs, and host and port.",
            ) from error
        self.connections += 1
        if self._closed:
            self.disconnect()
            raise NotSent(f"The connection to {self.url} has been closed.")

    def disconnect(self) -> None:
        """Close the connection, if there is one; the next call makes another."""
        self._connection = None
        with contextlib.suppress(OSError, ConnectionClosed):
            self._stack.close()

    def close(self) -> None:
        """Close the connection for good. A call in progress ends with :class:`NoAnswer`."""
        self._closed = True
        self.disconnect()

    def call(self, frame: bytes, deadline: Deadline | None) -> bytes:
        limit = Deadline(self._answer_timeout_s) if deadline is None else deadline
        if limit.expired:
            raise NotSent("The deadline passed before anything was sent.")
        self.connect(limit)
        connection = self._connection
        if connection is None:
            raise NotSent(f"The connection to {self.url} has been closed.")
        try:
            connection.send(frame.decode("utf-8"))
            while True:
                message = _bytes(connection.recv(timeout=limit.remaining()))
                if self._wanted(message):
                    return message
                self._aside(message)
                if limit.expired:
                    raise Silence(f"{self.url} sent other messages, but no answer in time.")
        except TimeoutError as error:
            raise Silence(f"{self.url} did not answer in time.") from error
        except (ConnectionClosed, OSError) as error:
            self.disconnect()
            raise NoAnswer(f"The connection to {self.url} broke before the answer came: {error}.") from error


def _bytes(message: str | bytes) -> bytes:
    return message.encode("utf-8") if isinstance(message, str) else message
