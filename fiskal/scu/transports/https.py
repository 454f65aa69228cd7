"""The HTTP client of all cloud TSEs: one connection pool per TSE, one deadline per call, and what is known after it.

It stands on urllib3, which took half the processor time of httpx for the same call over TLS (``bench/test_cloud.py``);
niquests was not measured further because it puts another ``urllib3`` in the place of the one that is installed.

urllib3 limits each read of a socket. Here the sockets know the moment at which the whole call ends, and every read,
write and handshake waits for what is left of it, so that a server that sends a byte a second ends at the deadline too.
Names are resolved aside, because a resolver cannot be told how long it may take.

What became of a call is told by the errors of :mod:`fiskal.scu.transports`: :class:`NotSent` as long as no byte of the
request was given to the connection (no name, no connection, no TLS, no tunnel through the proxy), :class:`NoAnswer`
from then on, :class:`Garbled` for an answer that nobody may use: too large, packed too densely, cut.
Redirects are answers like others; nothing is repeated here.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import http.client
import io
import ipaddress
import logging
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from fiskal.errors import ConfigurationError
from fiskal.scu.contract import Deadline
from fiskal.scu.transports import Garbled, NoAnswer, NotSent
from fiskal.tse.tar import Sink

try:
    import urllib3
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError
except ImportError as error:  # pragma: no cover - the extra is installed where this is tested
    raise ConfigurationError("cloud TSEs need urllib3: pip install 'fiskal[cloud]'") from error

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES: Final = 4 << 20
"""No answer but a file is larger; a list of 100 transactions has about 150 kB."""
CONNECT_S: Final = 4.0
"""How long name, connection and TLS may take together, at the most."""
POOL_CONNECTIONS: Final = 16
ADDRESS_MEMORY_S: Final = 3600.0
"""How long an address is used again while its name cannot be resolved. The certificate says whether it is right."""
_CHUNK: Final = 256 << 10

T = TypeVar("T")


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP proxy that tunnels (``CONNECT``). ``url`` is ``http://host:port`` or ``https://host:port``."""

    url: str
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Proxy(url={self.url!r}, username={'set' if self.username else None})"


class Answer:
    """An answer whose body was read to its end. ``status`` may be anything, 3xx included."""

    __slots__ = ("_headers", "body", "elapsed_s", "status")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, elapsed_s: float) -> None:
        self.status = status
        self._headers = headers
        self.body = body
        self.elapsed_s = elapsed_s

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def redirects(self) -> bool:
        return 300 <= self.status < 400

    def header(self, name: str) -> str | None:
        """A header by its name in any case; None without it."""
        return self._headers.get(name)

    def retry_after_s(self, unix_now: Callable[[], float] = time.time) -> float | None:
        """``Retry-After`` in seconds, whether it is a number or a date; None without one that can be read."""
        return parse_retry_after(self.header("retry-after"), unix_now)

    def decode(self, type_: type[T]) -> T:
        """The body as JSON of a type. Raises :class:`Garbled` that says what came instead."""
        try:
            return msgspec.json.decode(self.body, type=type_, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            kind = self.header("content-type") or "no content type"
            raise Garbled(
                f"HTTP {self.status} came with {len(self.body)} bytes of {kind} that are not the expected JSON: "
                f"{error}.",
                hint="A captive portal or a proxy may have answered."
                if b"<html" in self.body[:512].lower()
                else None,
            ) from error


def parse_retry_after(text: str | None, unix_now: Callable[[], float] = time.time) -> float | None:
    """Seconds out of a ``Retry-After`` (RFC 9110 §10.2.3), never negative; None if it says nothing usable."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - unix_now())


# ---- sockets that know when the call ends -------------------------------------------------------


class _Current(threading.local):
    """The call of this thread: when it ends (monotonic), and whether any of it was given to a connection."""

    ends_at: float = float("inf")
    idle_s: float | None = None
    """How long the next read may take, whatever is left."""
    sent: bool = False

    def left(self) -> float:
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline passed")
        return left if self.idle_s is None else min(left, self.idle_s)


_current = _Current()


def _left() -> float | None:
    left = _current.left()
    return None if left == float("inf") else left


class _PlainSocket(socket.socket):
    """A socket whose every operation waits for what is left of the call."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_left())
        return super().recv_into(*args, **kwargs)

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        self.settimeout(_left())
        return super().recv(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self.settimeout(_left())
        super().sendall(*args, **kwargs)


class _TlsSocket(ssl.SSLSocket):
    """The same over TLS. :meth:`ssl.SSLSocket.sendall` is made of :meth:`send`."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_left())
        return super().recv_into(*args, **kwargs)

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        self.settimeout(_left())
        return super().recv(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_left())
        return super().send(*args, **kwargs)

    def do_handshake(self, block: bool = False) -> None:
        self.settimeout(_left())
        super().do_handshake(block)


class _Resolver:
    """Names to addresses, within a time, with a memory for when there is no resolver."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(4, "fiskal-dns")
        self._known: dict[tuple[str, int], tuple[float, list[Any]]] = {}

    def addresses(self, host: str, port: int, seconds: float) -> list[Any]:
        """What :func:`socket.getaddrinfo` says. Raises OSError."""
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host)
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        future = self._threads.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            found = future.result(seconds)
        except (OSError, FutureTimeout) as error:
            known_at, known = self._known.get((host, port), (0.0, []))
            if known and time.monotonic() - known_at < ADDRESS_MEMORY_S:
                log.warning("the name %s cannot be resolved; the address known before is used", host)
                return known
            future.cancel()
            raise socket.gaierror(socket.EAI_AGAIN, f"the name {host} cannot be resolved") from error
        self._known[host, port] = (time.monotonic(), found)
        return found


_resolver = _Resolver()


class _Connecting:
    """How both kinds of connections reach their server."""

    host: str
    port: Any
    timeout: Any
    _dns_host: str
    sock: Any
    connect: Callable[[], None]

    def _new_conn(self) -> socket.socket:
        until = time.monotonic() + min(self.timeout or CONNECT_S, _current.left())
        name = self._dns_host
        try:
            addresses = _resolver.addresses(name, self.port or 443, until - time.monotonic())
        except OSError as error:
            raise NameResolutionError(self.host, self, error) from error  # type: ignore[arg-type]
        reason: Exception = OSError(f"{name} has no address")
        for left, (family, kind, protocol, _, address) in zip(
            range(len(addresses), 0, -1), addresses, strict=True
        ):
            seconds = (until - time.monotonic()) / left
            if seconds <= 0:
                reason = TimeoutError("the deadline passed")
                break
            sock = _PlainSocket(family, kind, protocol)
            try:
                sock.settimeout(seconds)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.connect(address)
                return sock
            except OSError as error:
                sock.close()
                reason = error
        raise NewConnectionError(self, f"{name} port {self.port}: {reason}") from reason  # type: ignore[arg-type]

    def _before_request(self) -> None:
        """From here on bytes of the request may reach the server."""
        if self.sock is None:
            self.connect()
        _current.sent = True


class _PlainConnection(_Connecting, HTTPConnection):
    def request(self, *args: Any, **kwargs: Any) -> None:
        self._before_request()
        super().request(*args, **kwargs)


class _TlsConnection(_Connecting, HTTPSConnection):
    def request(self, *args: Any, **kwargs: Any) -> None:
        self._before_request()
        super().request(*args, **kwargs)


# ---- the client ---------------------------------------------------------------------------------


def tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 or newer, names and chains verified: against ``ca_file`` alone if there is one, else the system's CAs.

    Raises ConfigurationError if the file holds no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"{ca_file} holds no CA certificates in PEM: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _TlsSocket
    return context


class HttpsClient:
    """Calls to one server. Thread-safe; a thread waits for a free connection if all ``connections`` are used.

    ``base_url`` may have a path, which goes in front of every path. ``plain`` allows ``http://``, for services of the
    own machine. Raises ConfigurationError for a URL, CA file or proxy that cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        ca_file: Path | None = None,
        proxy: Proxy | None = None,
        plain: bool = False,
        connections: int = POOL_CONNECTIONS,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        connect_s: float = CONNECT_S,
        user_agent: str = "fiskal",
    ) -> None:
        scheme, host, port, self._prefix = split_url(base_url, plain=plain)
        self.origin = (scheme, host, port)
        self.base_url = base_url.rstrip("/")
        self.calls = 0
        """How many calls were made, for measuring."""
        self._max_answer_bytes = max_answer_bytes
        self._connect_s = connect_s
        self._headers = {"Accept-Encoding": "gzip, deflate", "User-Agent": user_agent}
        self._closed = False
        options: dict[str, Any] = {"maxsize": connections, "block": True, "retries": False}
        if scheme == "https":
            options["ssl_context"] = tls_context(ca_file)
        self._pool: urllib3.HTTPConnectionPool
        if proxy is not None and scheme == "https":
            self._pool = _proxied(proxy, host, port, options)
        elif scheme == "https":
            self._pool = urllib3.HTTPSConnectionPool(host, port, **options)
        else:
            self._pool = urllib3.HTTPConnectionPool(host, port, **options)
        self._pool.ConnectionCls = _TlsConnection if scheme == "https" else _PlainConnection

    def request(
        self,
        method: str,
        path: str,
        *,
        deadline: Deadline,
        seconds: float = float("inf"),
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int | None = None,
    ) -> Answer:
        """One call, answered before ``deadline`` and within ``seconds``. ``path`` begins with ``/`` or ``?``.

        Raises NotSent, NoAnswer or Garbled.
        """
        began = time.monotonic()
        with self._call(method, path, min(deadline.at, began + seconds), None):
            response = self._open(method, path, body, headers)
            return self._whole(response, began, max_bytes)

    def download(
        self,
        path: str,
        out: Sink,
        *,
        idle_s: float,
        deadline: Deadline | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = 1 << 42,
    ) -> tuple[Answer, int]:
        """Write a body of any length to ``out`` while none of its pieces takes longer than ``idle_s``,
        and not beyond ``deadline``.

        Returns the answer without a body and the number of bytes; an answer that is no 2xx is read as by
        :meth:`request` and nothing is written. Raises NotSent, NoAnswer (also for a body that ends too early), Garbled,
        and what ``out`` raises.
        """
        began = time.monotonic()
        ends_at = float("inf") if deadline is None else deadline.at
        with self._call("GET", path, ends_at, idle_s):
            response = self._open("GET", path, None, headers)
            if not 200 <= response.status < 300:
                return self._whole(response, began, None), 0
            written = 0
            try:
                unpack = _unpacker(response.headers.get("content-encoding"))
                while piece := response.read(_CHUNK):
                    for part in unpack(piece):
                        written += len(part)
                        if written > max_bytes:
                            raise Garbled(f"The file has more than {max_bytes} bytes.")
                        out.write(part)
            except BaseException:
                response.close()
                raise
            response.release_conn()
            return Answer(response.status, response.headers, b"", time.monotonic() - began), written

    @contextlib.contextmanager
    def _call(self, method: str, path: str, ends_at: float, idle_s: float | None) -> Iterator[None]:
        """Within the block this thread's sockets end with the call, and errors say what is known."""
        if self._closed:
            raise NotSent("The connection to the TSE was closed.")
        if ends_at <= time.monotonic():
            raise NotSent("The deadline passed before the call was sent.")
        current = _current
        current.ends_at, current.idle_s, current.sent = ends_at, idle_s, False
        self.calls += 1
        try:
            yield
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            kind = NoAnswer if current.sent else NotSent
            server = f"{self.origin[1]}:{self.origin[2]}"
            log.debug("%s %s at %s: %s", method, path.partition("?")[0], server, error)
            what = "did not answer" if current.sent else "cannot be reached"
            found = kind(f"{server} {what}: {_reason(error)}.")
            found.timed_out = isinstance(_innermost(error), TimeoutError)
            raise found from error
        finally:
            current.ends_at, current.idle_s = float("inf"), None

    def _open(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None
    ) -> urllib3.BaseHTTPResponse:
        left = _current.left()
        return self._pool.urlopen(
            method,
            self._prefix + path,
            body,
            self._headers if headers is None else {**self._headers, **headers},
            False,
            redirect=False,
            assert_same_host=False,
            timeout=urllib3.Timeout(
                connect=min(self._connect_s, left), read=None if left == float("inf") else left
            ),
            pool_timeout=left,  # type: ignore[arg-type]  # seconds, whole or not
            preload_content=False,
            decode_content=False,
        )

    def _whole(self, response: urllib3.BaseHTTPResponse, began: float, max_bytes: int | None) -> Answer:
        limit = self._max_answer_bytes if max_bytes is None else max_bytes
        try:
            body = response.read(limit + 1)
            while len(body) <= limit and (
                more := response.read(limit + 1 - len(body))
            ):  # only the end says if it was cut
                body += more
            if len(body) > limit:
                raise Garbled(f"The answer has more than {limit} bytes and was not read further.")
            encoding = response.headers.get("content-encoding")
            if encoding:
                body = _unpacked(body, encoding, limit)
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return Answer(response.status, response.headers, body, time.monotonic() - began)

    def close(self) -> None:
        """Close the connections that are idle; calls in progress end by themselves, further ones are refused."""
        self._closed = True
        self._pool.close()


def split_url(url: str, *, plain: bool = False) -> tuple[str, str, int, str]:
    """Scheme, host, port and path without a slash at its end. Raises ConfigurationError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"{url!r} is no URL: {error}") from error
    schemes = ("https", "http") if plain else ("https",)
    if parts.scheme not in schemes or not host or parts.query or parts.fragment:
        raise ConfigurationError(f"{url!r} must be {' or '.join(schemes)}://HOST[:PORT][/PATH].")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("a URL must not carry a user or password; there are options for them")
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80), parts.path.rstrip("/")


def basic_authorization(username: str, password: str) -> str:
    """The value of ``Authorization`` (or ``Proxy-Authorization``) for a user, in UTF-8."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode("ascii")


def _proxied(proxy: Proxy, host: str, port: int, options: dict[str, Any]) -> urllib3.HTTPConnectionPool:
    split_url(proxy.url, plain=True)
    headers = {}
    if proxy.username is not None:
        headers["Proxy-Authorization"] = basic_authorization(proxy.username, proxy.password or "")
    manager = urllib3.ProxyManager(proxy.url, proxy_headers=headers, **options)
    return manager.connection_from_host(host, port, "https")


def _innermost(error: BaseException) -> BaseException:
    seen = error
    while seen.__cause__ is not None or isinstance(getattr(seen, "reason", None), BaseException):
        inner = getattr(seen, "reason", None)
        seen = inner if isinstance(inner, BaseException) else seen.__cause__  # type: ignore[assignment]
    return seen


def _reason(error: BaseException) -> str:
    """The innermost words about an error, without objects and addresses in memory."""
    seen = _innermost(error)
    if isinstance(seen, TimeoutError):
        return "it took too long"
    text = str(seen.args[-1] if isinstance(seen, HTTPError) and seen.args else seen)
    text = re.sub(r"<[^<>]* object at 0x[0-9a-f]+>:? ?", "", text).strip().rstrip(".")
    return text or type(seen).__name__


def _unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its packing, up to ``limit`` bytes. Raises Garbled for a bomb and for damaged bytes."""
    out = io.BytesIO()
    for part in _unpacker(encoding)(body):
        out.write(part)
        if out.tell() > limit:
            raise Garbled(f"The packed answer has more than {limit} bytes unpacked and was not read further.")
    return out.getvalue()


def _unpacker(encoding: str | None) -> Callable[[bytes], Iterator[bytes]]:
    """What unpacks the pieces of a body one after the other, never making more than 256 KiB at once."""
    if not encoding or encoding.strip().lower() == "identity":
        return lambda piece: iter((piece,))
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        raise Garbled(f"The answer is packed with {encoding[:40]!r}, which was not asked for.")
    stream = zlib.decompressobj(47)

    def unpack(piece: bytes) -> Iterator[bytes]:
        try:
            while piece:
                yield stream.decompress(piece, _CHUNK)
                piece = stream.unconsumed_tail
        except zlib.error as error:
            raise Garbled(f"The packed answer is damaged: {error}.") from error

    return unpack
