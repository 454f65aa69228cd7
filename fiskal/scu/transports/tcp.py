"""A TCP connection, plain or TLS, as a :class:`fiskal.scu.transports.Transport`.

One connection is kept and made again when it is gone. Every byte counts against the deadline: a peer that sends one
byte a second is not waited for longer than one that sends none. After anything but a whole answer the connection is
closed, because what the peer may still send on it would be taken for the answer to the next frame; unless the protocol
tells answers apart by their ids, and so can go on after a silence.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Final

from fiskal.scu.contract import Deadline
from fiskal.scu.transports import Complete, Garbled, NoAnswer, NotSent, Silence

RECEIVE_BYTES: Final = 1 << 16
KEEP_ALIVE_IDLE_S: Final = 15
KEEP_ALIVE_EVERY_S: Final = 5
KEEP_ALIVE_TRIES: Final = 3
"""A peer that vanished without a word is noticed within 15 + 3 x 5 seconds, also while nobody calls."""


def client_context(ca_file: str | os.PathLike[str] | None = None, *, verify: bool = True) -> ssl.SSLContext:
    """TLS for a client: certificates are checked against ``ca_file``, by default against those of the machine.

    Without ``verify`` any certificate is taken: only for peers whose certificate is known by its fingerprint
    (``fingerprint`` of :class:`TcpTransport`), or in a network that nobody else is in. Raises OSError and
    :class:`ssl.SSLError` for a file that cannot be read.
    """
    context = ssl.create_default_context(cafile=None if ca_file is None else os.fspath(ca_file))
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class TcpTransport:
    """One connection to ``host``:``port``.

    ``complete`` finds the end of an answer. ``greeting`` does so for what the peer says by itself after the connection
    was made; it is waited for, and kept in :attr:`greeted`. With ``tls`` the connection is encrypted;
    ``fingerprint`` is the SHA-256 (32 bytes) of the one certificate (DER) the peer may show. ``connect_timeout_s``
    limits name, connection, handshake and greeting together, ``answer_timeout_s`` a call without a deadline;
    an answer longer than ``max_answer_bytes`` is :class:`Garbled`. ``keep_when_silent`` keeps the connection when the
    time is over. The look-up of a name is the resolver's, which
    knows no deadline: an address has none of its delays.
    """

    def __init__(
        self,
        host: str,
        port: int,
        complete: Complete,
        *,
        greeting: Complete | None = None,
        tls: ssl.SSLContext | None = None,
        fingerprint: bytes | None = None,
        connect_timeout_s: float = 5.0,
        answer_timeout_s: float = 60.0,
        max_answer_bytes: int = 1 << 20,
        keep_when_silent: bool = False,
    ) -> None:
        self.host = host
        self.port = port
        self.connections = 0
        """How many connections were made so far. A protocol with a session of its own per connection compares it."""
        self.greeted = b""
        """What the peer said after the last connection was made."""
        self._complete = complete
        self._greeting = greeting
        self._tls = tls
        self._fingerprint = fingerprint
        self._connect_timeout_s = connect_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._keep_when_silent = keep_when_silent
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        """Held while ``_socket`` changes and while another thread shuts it down: never one that is closed already,
        whose number may belong to another file by then."""
        self._busy = threading.Lock()
        """Held by the thread that connects or calls; it closes the connection itself when it has been shut down."""
        self._closed = False
        self._received = bytearray()

    @property
    def place(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def connected(self) -> bool:
        """There is a connection, which need not live any more."""
        return self._socket is not None

    # ---- connections --------------------------------------------------------------------------

    def connect(self, deadline: Deadline | None = None) -> None:
        """Make a connection unless a living one is there; what the peer said meanwhile is thrown away.

        Raises :class:`NotSent`.
        """
        with self._working():
            self._ensure(deadline)

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        with self._busy:
            try:
                yield
            finally:
                if self._closed:
                    self.disconnect()

    def _ensure(self, deadline: Deadline | None) -> None:
        if self._socket is not None and not self._alive():
            self.disconnect()
        if self._socket is None:
            self._connect(deadline)

    def _connect(self, deadline: Deadline | None) -> None:
        limit = Deadline(self._connect_timeout_s)
        if deadline is not None and deadline.at < limit.at:
            limit = deadline
        connection = self._open(limit)
        with self._lock:
            if not self._closed:
                self._socket = connection
        if self._socket is None:
            connection.close()
            raise self._closed_by_us()
        self._received.clear()
        self.greeted = b""
        try:
            if self._greeting is not None:
                self.greeted = self._read(connection, self._greeting, limit)
        except (NoAnswer, Garbled) as error:
            self.disconnect()
            raise NotSent(f"{self.place} took the connection and did not greet: {error.message}") from error
        except BaseException:
            self.disconnect()
            raise
        self.connections += 1

    def _open(self, limit: Deadline) -> socket.socket:
        """A connected socket, with TLS if wanted. Raises NotSent."""
        if self._closed:
            raise self._closed_by_us()
        try:
            addresses = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NotSent(
                f"The name {self.host!r} cannot be looked up: {error}.", hint="Check host and network."
            ) from error
        failure: OSError | None = None
        for family, kind, protocol, _, address in addresses:
            if limit.expired:
                break
            candidate = socket.socket(family, kind, protocol)
            try:
                candidate.settimeout(max(limit.remaining(), 0.001))
                _tune(candidate)
                candidate.connect(address)
                return self._encrypted(candidate, limit)
            except OSError as error:
                candidate.close()
                failure = error
            except BaseException:
                candidate.close()
                raise
        if isinstance(failure, ssl.SSLError):
            raise NotSent(f"{self.place} and this machine do not agree on TLS: {failure}.", hint=_TLS_HINT)
        raise NotSent(
            f"{self.place} cannot be reached: {failure or 'timed out'}.",
            hint="Check host, port, and that the device is switched on and in this network.",
        ) from failure

    def _encrypted(self, connection: socket.socket, limit: Deadline) -> socket.socket:
        if self._tls is None:
            return connection
        connection.settimeout(max(limit.remaining(), 0.001))
        encrypted = self._tls.wrap_socket(connection, server_hostname=self.host)
        if self._fingerprint is not None:
            shown = encrypted.getpeercert(binary_form=True) or b""
            found = hashlib.sha256(shown).digest()
            if not hmac.compare_digest(found, self._fingerprint):
                encrypted.close()
                raise NotSent(
                    f"{self.place} shows the certificate {found.hex()}, which is not the one configured.",
                    hint="If the device got a new certificate, put its fingerprint into the configuration.",
                )
        return encrypted

    def _alive(self) -> bool:
        """Throw away what lies ready; False if the peer has closed the connection or floods it."""
        connection = self._socket
        assert connection is not None
        self._received.clear()
        thrown = 0
        try:
            connection.settimeout(0)
            while thrown <= self._max_answer_bytes:
                stale = connection.recv(RECEIVE_BYTES)
                if not stale:
                    return False
                thrown += len(stale)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def disconnect(self) -> None:
        """Close the connection, if there is one; the next call makes another."""
        with self._lock:
            connection, self._socket = self._socket, None
            if connection is not None:
                connection.close()

    def close(self) -> None:
        """Close the connection for good. A call in progress ends with :class:`NoAnswer`."""
        with self._lock:
            self._closed = True
            if self._socket is not None:
                # SSLSocket.shutdown would take the TLS away under a thread that reads; the TCP connection is meant.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        if self._busy.acquire(blocking=False):
            try:
                self.disconnect()
            finally:
                self._busy.release()

    def _closed_by_us(self) -> NotSent:
        return NotSent(f"The connection to {self.place} has been closed.")

    # ---- calls --------------------------------------------------------------------------------

    def call(self, frame: bytes, deadline: Deadline | None) -> bytes:
        with self._working():
            return self._call(frame, deadline)

    def _call(self, frame: bytes, deadline: Deadline | None) -> bytes:
        limit = Deadline(self._answer_timeout_s) if deadline is None else deadline
        if limit.expired:
            raise NotSent("The deadline passed before anything was sent.")
        reused = self.connected
        self._ensure(limit)
        while True:
            connection = self._socket
            if connection is None:
                raise self._closed_by_us()
            self._received.clear()  # what followed a greeting is no answer either
            sent = 0
            try:
                while sent < len(frame):
                    connection.settimeout(max(limit.remaining(), 0.001))
                    sent += connection.send(memoryview(frame)[sent:])
                    if limit.expired and sent < len(frame):
                        raise TimeoutError("timed out")
                break
            except OSError as error:
                self.disconnect()
                if sent or (self._tls is not None and isinstance(error, TimeoutError)):
                    raise NoAnswer(
                        f"Only a part of the frame could be sent to {self.place}: {error}."
                    ) from error
                if not reused or isinstance(error, TimeoutError):
                    raise NotSent(f"Nothing could be sent to {self.place}: {error}.") from error
                reused = False  # the peer had closed it without our noticing: once more on a new one
                self._ensure(limit)
        try:
            return self._read(connection, self._complete, limit)
        except Silence:
            if not self._keep_when_silent:
                self.disconnect()
            raise
        except BaseException:
            self.disconnect()
            raise

    def _read(self, connection: socket.socket, complete: Complete, limit: Deadline) -> bytes:
        """Receive until ``complete`` sees the end; what follows it stays. Raises NoAnswer and Garbled."""
        received = self._received
        while True:
            if received:
                length = complete(received)
                if length:
                    answer = bytes(received[:length])
                    del received[:length]
                    return answer
                if len(received) > self._max_answer_bytes:
                    raise Garbled(
                        f"{self.place} sent {len(received)} bytes without an end; an answer has at most "
                        f"{self._max_answer_bytes}."
                    )
            if limit.expired:
                raise Silence(f"{self.place} did not answer in time ({len(received)} bytes came).")
            try:
                connection.settimeout(max(limit.remaining(), 0.001))
                some = connection.recv(RECEIVE_BYTES)
            except TimeoutError:
                continue
            except OSError as error:
                raise NoAnswer(
                    f"The connection to {self.place} broke before the answer was complete: {error}."
                ) from error
            if not some:
                raise NoAnswer(
                    f"{self.place} closed the connection before the answer was complete "
                    f"({len(received)} bytes came)."
                )
            received += some


def _tune(connection: socket.socket) -> None:
    """Frames leave at once, and a peer that vanished is noticed without a frame."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEP_ALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEP_ALIVE_EVERY_S),
        ("TCP_KEEPCNT", KEEP_ALIVE_TRIES),
    ):
        option = getattr(socket, name, None)  # not every system has them all
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


_TLS_HINT: Final = "Check the certificate of the device, or give its fingerprint or the CA's file."
