"""A WebSocket: the answer that is wanted among others, deadlines, connections that break."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.sync.server import ServerConnection, serve

from fiskal.scu.contract import Deadline
from fiskal.scu.transports import NoAnswer, NotSent, Silence
from fiskal.scu.transports import websocket as module
from fiskal.scu.transports.websocket import WebSocketTransport

Handler = Callable[[ServerConnection, str], None]


class Service:
    """A server whose answer to a message is what :attr:`answer` does."""

    def __init__(self) -> None:
        self.answer: Handler = lambda connection, text: connection.send(text.upper())
        self.heard: list[str] = []
        self.server = serve(self._handle, "127.0.0.1", 0, compression=None)
        self.url = f"ws://127.0.0.1:{self.server.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def _handle(self, connection: ServerConnection) -> None:
        for text in connection:
            assert isinstance(text, str)
            self.heard.append(text)
            self.answer(connection, text)

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.close()


@pytest.fixture
def transport(service: Service) -> Iterator[WebSocketTransport]:
    made = WebSocketTransport(service.url, lambda message: message.isupper(), connect_timeout_s=2)
    yield made
    made.close()


def test_one_connection_for_many_calls(transport: WebSocketTransport) -> None:
    for text in (b"one", "zwölf €".encode()):
        assert transport.call(text, Deadline(5)).decode() == text.decode().upper()
    assert transport.connections == 1


def test_other_messages_go_aside(service: Service) -> None:
    aside: list[bytes] = []
    transport = WebSocketTransport(service.url, lambda message: message.isupper(), aside=aside.append)

    def answer(connection: ServerConnection, text: str) -> None:
        connection.send("event")
        connection.send(["O", "K"])
        connection.send("late")

    service.answer = answer
    assert transport.call(b"ask", Deadline(5)) == b"OK"
    time.sleep(0.05)
    assert transport.call(b"ask", Deadline(5)) == b"OK"
    assert aside == [b"event", b"late", b"event"]
    transport.close()


def test_a_silence_keeps_the_connection(transport: WebSocketTransport, service: Service) -> None:
    service.answer = lambda connection, text: None
    with pytest.raises(Silence):
        transport.call(b"ask", Deadline(0.1))
    service.answer = lambda connection, text: connection.send("only events")
    with pytest.raises(Silence):
        transport.call(b"ask", Deadline(0.1))
    with pytest.raises(NotSent):
        transport.call(b"ask", Deadline(0))
    assert transport.connections == 1


def test_a_connection_that_breaks(transport: WebSocketTransport, service: Service) -> None:
    service.answer = lambda connection, text: connection.close()
    with pytest.raises(NoAnswer):
        transport.call(b"ask", Deadline(5))
    service.answer = lambda connection, text: connection.send("OK")
    assert transport.call(b"ask", Deadline(5)) == b"OK"
    assert transport.connections == 2


def test_a_message_that_is_too_long(service: Service) -> None:
    transport = WebSocketTransport(service.url, lambda message: True, max_message_bytes=100)
    service.answer = lambda connection, text: connection.send("X" * 200)
    with pytest.raises(NoAnswer):
        transport.call(b"ask", Deadline(5))
    transport.close()


def test_close_ends_a_call(transport: WebSocketTransport, service: Service) -> None:
    service.answer = lambda connection, text: None
    threading.Timer(0.1, transport.close).start()
    began = time.monotonic()
    with pytest.raises(NoAnswer):
        transport.call(b"ask", Deadline(20))
    assert time.monotonic() - began < 10
    with pytest.raises(NotSent, match="has been closed"):
        transport.call(b"ask", Deadline(1))


def test_nobody_there(service: Service) -> None:
    url = service.url
    service.close()
    with pytest.raises(NotSent, match="Check that the service runs"):
        WebSocketTransport(url, lambda message: True, connect_timeout_s=1).call(b"ask", Deadline(2))
    with pytest.raises(NotSent):
        WebSocketTransport("http://x", lambda message: True).call(b"ask", Deadline(2))


def test_without_the_extra(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = None
    monkeypatch.setattr(module, "connect", nothing)
    with pytest.raises(NotSent, match=r"pip install 'fiskal\[websocket\]'"):
        WebSocketTransport(service.url, lambda message: True).call(b"ask", Deadline(1))
