"""A small HTTP/1.1 server over TLS, one thread per connection, that can also do what no server should.

The standard library's server cannot cut an answer, reset a connection or send a byte a second, and shares its parser
with the client under test.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import struct
import threading
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec

from fiskal.errors import ConfigurationError
from fiskal.simulators.http import control
from fiskal.simulators.http.app import App, Request, Response
from fiskal.simulators.http.faults import KINDS, Action, FaultQueue, HttpFault, Memory, changed, from_plan
from fiskal.simulators.http.journal import Journal
from fiskal.simulators.http.tls import TestCa
from fiskal.simulators.plan import Conductor, Plan

log = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 32 << 10
MAX_BODY_BYTES: Final = 1 << 20
"""fiskaly's limit; a larger body is answered with 413."""
IDLE_S: Final = 60.0
_RESET: Final = struct.pack("ii", 1, 0)
_PIECE: Final = 64 << 10


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how a simulator serves.

    ``listen`` is ``HOST:PORT``, port 0 takes a free one. ``names`` are further names its certificate is for.
    ``ca_out`` is where the CA that clients must trust is written to. ``tls`` off is plain HTTP. ``plan`` and
    ``control`` as in :mod:`fiskal.simulators.plan`.
    """

    listen: str = "127.0.0.1:0"
    names: tuple[str, ...] = ()
    tls: bool = True
    ca_out: Path | None = None
    plan: Plan = Plan()
    control: Path | None = None


class _Gone(Exception):
    """The connection ends here."""


class HttpSimulator:
    """Serves an app from when it is made until :meth:`close`; a context manager.

    ``url`` is where, ``ca_pem`` what clients must trust, ``journal`` and ``faults`` what the control API offers.
    Raises ConfigurationError if the address cannot be used.
    """

    def __init__(self, app: App, settings: HttpSettings, *, ca: TestCa | None = None) -> None:
        self.app = app
        self.journal = Journal()
        self.faults = FaultQueue(settings.plan.seed)
        self._conductor = Conductor(
            app.family,
            faults=KINDS,
            default_times=app.commands,
            plan=settings.plan,
            control=settings.control,
        )
        host, _, port = settings.listen.rpartition(":")
        host = host.strip("[]") or "127.0.0.1"
        if not port.isdigit():
            raise ConfigurationError(f"{settings.listen!r} must be HOST:PORT.")
        self._context: ssl.SSLContext | None = None
        self.ca_pem = b""
        if settings.tls:
            ca = ca or TestCa()
            self.ca_pem = ca.pem
            names = dict.fromkeys((host, *settings.names, "localhost", "127.0.0.1", socket.gethostname()))
            self._context = ca.server_context([name for name in names if name not in ("0.0.0.0", "::")])
            if settings.ca_out is not None:
                settings.ca_out.write_bytes(ca.pem)
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, int(port)), family=family, backlog=256)
        except OSError as error:
            raise ConfigurationError(f"{settings.listen} cannot be listened on: {error}.") from error
        self.port: int = self._listener.getsockname()[1]
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        self.url = (
            f"{'https' if settings.tls else 'http'}://{f'[{shown}]' if ':' in shown else shown}:{self.port}"
        )
        self._memory = Memory()
        self._connections: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._acceptor = threading.Thread(target=self._accept, name=f"fiskal-sim-{app.family}", daemon=True)
        self._acceptor.start()

    @property
    def conductor(self) -> Conductor:
        """Plays service times and the faults of the plan."""
        return self._conductor

    # ---- connections ----------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            with self._lock:
                if self._closing.is_set():
                    connection.close()
                    return
                self._connections.add(connection)
                self._threads.add(thread)
            thread.start()

    def _serve(self, raw: socket.socket) -> None:
        connection = raw
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.settimeout(IDLE_S)
            if self._context is not None:
                connection = self._context.wrap_socket(raw, server_side=True)
                with self._lock:
                    self._connections.discard(raw)
                    self._connections.add(connection)
            buffer = bytearray()
            while not self._closing.is_set() and self._exchange(connection, buffer):
                pass
        except (OSError, _Gone, ValueError) as error:
            log.debug("a connection of the %s simulator ended: %r", self.app.family, error)
        finally:
            with contextlib.suppress(OSError):
                connection.close()
            with self._lock:
                self._connections.discard(connection)
                self._connections.discard(raw)
                self._threads.discard(threading.current_thread())

    def _exchange(self, connection: socket.socket, buffer: bytearray) -> bool:
        """Read one request and answer it; False if the connection is to end."""
        request = _read(connection, buffer)
        if request is None:
            return False
        if isinstance(request, Response):
            _send(connection, request, close=True)
            return False
        close = request.headers.get("connection", "").lower() == "close"
        if request.path.startswith(control.PREFIX):
            _send(connection, control.handle(request, self.app, self.faults, self.journal), close=close)
            return not close
        command = self.app.command(request)
        fault = self.faults.take(request)
        if fault is None:
            planned = self._conductor.fault(command)
            fault = None if planned is None else from_plan(planned)
        status = 0
        try:
            status = self._answer(connection, request, command, fault, close)
        finally:
            self.journal.note(
                self.app.clock.unix(),
                request,
                status,
                None
                if fault is None
                else fault.id or f"{fault.when}:{msgspec.json.encode(fault.action).decode()}",
            )
        return not close

    def _answer(
        self, connection: socket.socket, request: Request, command: str, fault: HttpFault | None, close: bool
    ) -> int:
        """Execute and answer a request; returns the status that was sent. Raises _Gone where nothing more comes."""
        action = None if fault is None else fault.action
        response = Response(200)
        if fault is None or fault.when == "after":
            with self.app.occupied(request) as refused:
                if refused is not None:
                    response = refused
                else:
                    self._conductor.work(command)
                    with self.app.lock:
                        response = self.app.handle(request)
            self._memory.note(command, response)
        if action is None:
            _send(connection, response, close=close)
            return response.status
        if action.delay_ms:
            self._closing.wait(action.delay_ms / 1000)
        if action.reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            raise _Gone
        if action.flood_bytes is not None:
            _flood(connection, action.flood_bytes)
            return 200
        if fault is not None and fault.when == "before" and _only_delays(action):
            with self.app.occupied(request) as refused, self.app.lock:
                response = refused or self.app.handle(request)
        response = changed(response, action, self._memory.earlier(command))
        if action.truncate is not None:
            head = _head(response, close=True)
            connection.sendall(head + response.body[: action.truncate])
            raise _Gone
        if action.drip_ms_per_byte is not None:
            for index in _head(response, close=True) + response.body:
                connection.sendall(bytes((index,)))
                if self._closing.wait(action.drip_ms_per_byte / 1000):
                    raise _Gone
            raise _Gone
        _send(connection, response, close=close)
        return response.status

    # ---- life -----------------------------------------------------------------------------------

    def close(self) -> None:
        """End all connections and the app. Closing twice does nothing."""
        if self._closing.is_set():
            return
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(5)
        with self._lock:
            connections, threads = list(self._connections), list(self._threads)
        for connection in connections:
            with contextlib.suppress(OSError):
                # Past the TLS layer, which another thread may be in.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in threads:
            thread.join(5)
        self.app.close()

    def __enter__(self) -> HttpSimulator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait(self) -> None:
        """Until somebody closes it, or presses Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):
            self._closing.wait()


def _only_delays(action: Action) -> bool:
    """The fault leaves the answer as it is, it only comes late."""
    return msgspec.structs.replace(action, delay_ms=0) == Action()


def _read(connection: socket.socket, buffer: bytearray) -> Request | Response | None:
    """One request; None at the end of the connection; a response if it can only be refused."""
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        if len(buffer) > MAX_HEAD_BYTES:
            return Response.text("the head of the request is too long", 431)
        piece = connection.recv(_PIECE)
        if not piece:
            return None
        buffer += piece
    lines = bytes(buffer[:end]).decode("latin-1").split("\r\n")
    del buffer[: end + 4]
    try:
        method, target, version = lines[0].split(" ")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if not version.startswith("HTTP/1.") or not target.startswith("/"):
            raise ValueError(lines[0])
        if headers.get("expect", "").lower() == "100-continue":
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in headers.get("transfer-encoding", "").lower():
            body = _chunked(connection, buffer)
        else:
            body = _exactly(connection, buffer, int(headers.get("content-length", "0")))
    except ValueError as error:
        return Response.text(f"bad request: {error}", 400)
    if body is None:
        return Response.json({"status_code": 413, "error": "Payload Too Large", "message": "too large"}, 413)
    return Request(method, target, headers, body)


def _exactly(connection: socket.socket, buffer: bytearray, length: int) -> bytes | None:
    if length > MAX_BODY_BYTES:
        return None
    while len(buffer) < length:
        piece = connection.recv(_PIECE)
        if not piece:
            raise _Gone
        buffer += piece
    body = bytes(buffer[:length])
    del buffer[:length]
    return body


def _chunked(connection: socket.socket, buffer: bytearray) -> bytes | None:
    body = b""
    while True:
        while (end := buffer.find(b"\r\n")) < 0:
            piece = connection.recv(_PIECE)
            if not piece:
                raise _Gone
            buffer += piece
        size = int(bytes(buffer[:end]).partition(b";")[0], 16)
        del buffer[: end + 2]
        piece_of_body = _exactly(connection, buffer, size + 2)
        if piece_of_body is None or len(body) + size > MAX_BODY_BYTES:
            return None
        if size == 0:
            return body
        body += piece_of_body[:-2]


def _head(response: Response, *, close: bool) -> bytes:
    try:
        phrase = HTTPStatus(response.status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {response.status} {phrase}", f"Content-Length: {len(response.body)}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    lines.append(f"Connection: {'close' if close else 'keep-alive'}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _send(connection: socket.socket, response: Response, *, close: bool) -> None:
    connection.sendall(_head(response, close=close) + response.body)


def _flood(connection: socket.socket, size: int) -> None:
    """Send ``size`` spaces as JSON; the client is expected to hang up."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    connection.sendall(head.encode())
    piece = b" " * _PIECE
    for _ in range(0, size, _PIECE):
        connection.sendall(piece)
