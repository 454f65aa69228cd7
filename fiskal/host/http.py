"""The REST front door: Echo, Sign and Journal over HTTP, bytes in, bytes out.

Every route is a POST, in every spelling that clients of the interface use; the version in the path changes
nothing, because V0 and V1 carry the same members. A body is never decoded and encoded again here: what
``sign_json`` returns is the text that was stored and hashed, and it leaves as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import msgspec
from litestar import Litestar, Request, Response, get, post
from litestar.exceptions import HTTPException
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from fiskal.errors import ConfigurationError, FiskalError, NotSupportedError, ReceiptRejected
from fiskal.export.journal import JournalError, TarExportFailed
from fiskal.host import openapi
from fiskal.host.loop_stepper import LoopStepper
from fiskal.host.middleware import Middleware
from fiskal.queue.identity import parse_guid
from fiskal.queue.line import QueueBusy
from fiskal.scu.errors import ClientError, NotSupported, ScuError
from fiskal.version import __version__

_log = logging.getLogger("fiskal.http")

V0_PREFIXES = ("/v0", "/json/v0", "/v0/json")
V1_PREFIXES = ("", "/json", "/v1", "/json/v1", "/api")
OPERATIONS = ("echo", "sign", "journal")

JSON = "application/json; charset=utf-8"
PROBLEM = "application/problem+json"
BINARY = "application/octet-stream"

MAX_BODY_BYTES = 16 * 1024 * 1024
SHORT_BODY_BYTES = 64 * 1024
"""Longer requests are read in a thread: the event loop has others to serve."""
SIGN_THREADS = 64
READ_THREADS = 8
MAX_PENDING = 1_000
JOURNAL_CHUNK_BYTES = 64 * 1024
"""How a journal is cut is not visible on the wire; larger than the interface's 4096, to hop threads less."""

RETRY_BUSY_S = 1
RETRY_TSE_S = 5

_JSON_TYPE = re.compile(r"(?:application|text)/(?:[\w.+-]+\+)?json", re.IGNORECASE)
_PLAIN_TYPES = frozenset({b"application/json", b"application/json; charset=utf-8"})
_ASYNC = re.compile(r"(?:^|[,;\s])respond-async(?:$|[,;\s])", re.IGNORECASE)
"""The preference of RFC 7240 for an answer before the work is done."""
_INTEGER = re.compile(r"-?[0-9]{1,99}")
_INT64 = range(-(1 << 63), 1 << 63)

_T = TypeVar("_T")
_Request = Request[Any, Any, Any]


def paths(operation: str) -> list[str]:
    """Every path of ``operation``, in lower case and without a base path."""
    return [f"{prefix}/{operation}" for prefix in (*V0_PREFIXES, *V1_PREFIXES)]


class Problem(msgspec.Struct, kw_only=True):
    """The body of every error (RFC 9457). ``code`` is stable and meant for programs.

    ``field`` is the path of the offending member, ``hint`` says what to do; both may be empty. ``response``
    is the error response the queue has stored, present only if the request became a queue item.
    """

    title: str
    status: int
    detail: str
    code: str
    field: str = ""
    hint: str = ""
    response: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Refused(FiskalError):
    """A request this front door refuses before any queue sees it."""

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        message: str,
        *,
        field: str = "",
        hint: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field
        self.hint = hint
        self.headers = headers or {}


class Lane:
    """Threads for calls that block, with a limit on how many may wait for one of them.

    A caller that gives up does not stop a call that has begun: a receipt once accepted is always brought to
    its end. Made for many short calls: an executor of the standard library costs two futures and a wake-up of the
    loop for each, which is more than a receipt takes.
    """

    def __init__(self, name: str, threads: int, max_pending: int) -> None:
        self._name = f"fiskal-{name}"
        self._most = threads
        self._max_pending = max_pending
        self.pending = 0
        """Calls that are in work or wait."""
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._answers: _Answers | None = None
        self._closed = False

    async def run(self, function: Callable[..., _T], *args: Any) -> _T:
        """Call ``function`` in a thread. Raises QueueBusy if too many wait already, and what it raises."""
        if self.pending >= self._max_pending:
            raise QueueBusy(f"{self.pending} requests wait for this host already; try again")
        return await self.go_on(function, *args)

    async def go_on(self, function: Callable[..., _T], *args: Any) -> _T:
        """Like :meth:`run`, for the later calls of a request that was let in: they are never refused."""
        if self._closed:
            raise QueueBusy("the host is closing")
        loop = asyncio.get_running_loop()
        answers = self._answers
        if answers is None or answers.loop is not loop:
            answers = self._answers = _Answers(loop)
        future: asyncio.Future[_T] = loop.create_future()
        self.pending += 1
        try:
            self._jobs.put(_Job(future, answers, function, args))
            if self.pending > len(self._threads) < self._most:
                self._start_thread()
            return await future
        finally:
            self.pending -= 1

    def close(self) -> None:
        """Wait for the calls that have begun; forget those that have not, nobody waits for them any more."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _start_thread(self) -> None:
        number = len(self._threads)
        thread = threading.Thread(target=self._work, name=f"{self._name}_{number}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._closed:
                job.answers.put(job.future, None, asyncio.CancelledError())
            elif not job.future.cancelled():
                try:
                    result = job.function(*job.args)
                except BaseException as error:
                    job.answers.put(job.future, None, error)
                else:
                    job.answers.put(job.future, result, None)
                    del result
            del job  # a thread that waits keeps nothing alive


class _Job(NamedTuple):
    future: asyncio.Future[Any]
    answers: _Answers
    function: Callable[..., Any]
    args: tuple[Any, ...]


class _Answers:
    """Results on their way from threads to the loop, which is woken once for all that lie there."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._done: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._woken = False

    def put(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        """Called in a thread."""
        self._done.append((future, result, error))
        if self._woken:
            return  # the loop has not begun to look
        self._woken = True
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False  # first: what is put from here on wakes the loop again
        done = self._done
        while done:
            future, result, error = done.popleft()
            if future.cancelled():
                continue
            if error is None:
                future.set_result(result)
            elif isinstance(error, asyncio.CancelledError):
                future.cancel()
            elif isinstance(error, Exception) and not isinstance(error, StopIteration):
                future.set_exception(error)
            else:
                future.set_exception(RuntimeError(f"a call ended with {error!r}"))


class _Source:
    """A journal read from one thread at a time, whichever that is, and closed whatever happens."""

    def __init__(self, start: Callable[[], Iterator[bytes]]) -> None:
        self._start = start
        self._iterator: Iterator[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def read(self) -> bytes | None:
        """The next chunk, None at the end."""
        with self._lock:
            if self._closed:
                return None
            if self._iterator is None:
                self._iterator = self._start()
            return next(self._iterator, None)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            close = getattr(self._iterator, "close", None)
            if close is not None:
                close()


class _JournalStream(ASGIResponse):
    """A journal whose ``first`` chunk is known, in HTTP chunks. An error breaks the connection off, so that
    the client cannot take the part for the whole."""

    _should_set_content_length = False

    def __init__(self, source: _Source, first: bytes, lane: Lane) -> None:
        super().__init__(media_type=BINARY)
        self._source = source
        self._chunk: bytes | None = first
        self._lane = lane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.shield(self._lane.go_on(self._source.close))

    async def send_body(self, send: Send, receive: Receive) -> None:
        gone = asyncio.ensure_future(_disconnected(receive))
        sent = 0
        try:
            while self._chunk is not None and not gone.done():
                await send({"type": "http.response.body", "body": self._chunk, "more_body": True})
                sent += len(self._chunk)
                self._chunk = await self._lane.go_on(self._source.read)
            if not gone.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Exception as error:
            _log.error("a journal broke off after %d bytes: %s", sent, error)
            raise
        finally:
            gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Application(Litestar):
    """Litestar that finds a route in any case, and with the base path or without it."""

    base_path = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path = scope["path"].lower()
            base = self.base_path
            if base and path.startswith(base) and path[len(base) : len(base) + 1] in ("", "/"):
                path = path[len(base) :] or "/"
            scope = {**scope, "path": path}
        await super().__call__(scope, receive, send)


def create_app(
    middleware: Middleware,
    *,
    require_token: bool = False,
    max_body: int = MAX_BODY_BYTES,
    threads: int = SIGN_THREADS,
    max_pending: int = MAX_PENDING,
    base_path: str = "",
    close_middleware: bool = True,
) -> Application:
    """The ASGI application in front of ``middleware``.

    ``require_token`` asks for the headers ``cashboxid`` and ``accesstoken`` of the configuration. At most
    ``threads`` receipts are in work at a time; when ``max_pending`` are in work or wait, more get a 503.
    ``base_path`` is the path of a configured URL; routes are found with and without it. When the application
    shuts down, receipts in work are finished, then the middleware is closed unless ``close_middleware`` is
    false. Raises ConfigurationError if a token is required and the configuration has none.
    """
    token = middleware.config.access_token.encode()
    cash_box = middleware.config.cash_box_id.encode()
    if require_token and not token:
        raise ConfigurationError("'access_token' is empty; put a long random text there")
    signing = LoopStepper(middleware.store)
    reading = Lane("read", READ_THREADS, max_pending)
    health_of = msgspec.json.Encoder().encode

    def admit(request: _Request) -> None:
        if not require_token:
            return
        headers = request.headers
        given = (parse_guid(headers.get("cashboxid", "")) or "").encode()
        known = hmac.compare_digest(given, cash_box)
        # Both are always compared, so that the time tells nothing about which one was wrong.
        known &= hmac.compare_digest(headers.get("accesstoken", "").encode(), token)
        if not known:
            raise Refused(
                HTTPStatus.UNAUTHORIZED,
                "UNAUTHORIZED",
                "the headers cashboxid and accesstoken are missing or wrong",
                hint="Send the cash box id and the access token that 'fiskal init' printed.",
                headers={"www-authenticate": 'AccessToken realm="fiskal"'},
            )

    @post(paths("echo"), status_code=200)
    async def echo(request: _Request) -> ASGIResponse:
        admit(request)
        _expect_json(request)
        return _json(await reading.run(middleware.echo_json, await request.body()))

    @post(paths("sign"), status_code=200)
    async def sign(request: _Request) -> ASGIResponse:
        admit(request)
        _expect_json(request)
        if _prefers_async(request):
            await reading.run(middleware.sign_later_json, await request.body())
            return ASGIResponse(status_code=202, headers={"preference-applied": "respond-async"})
        body = await request.body()
        if signing.pending >= max_pending:
            raise QueueBusy(f"{signing.pending} requests wait for this host already; try again")
        return _json(await signing.call(middleware.receipt(body)))

    @post(paths("journal"), status_code=200)
    async def journal(request: _Request) -> ASGIResponse:
        admit(request)
        query = _query(request)
        journal_type = _integer(query, "type")
        from_ticks, to_ticks = _integer(query, "from", 0), _integer(query, "to", 0)
        source = _Source(
            lambda: middleware.journal(
                journal_type, from_ticks, to_ticks, JOURNAL_CHUNK_BYTES, queue_id=query.get("queueid")
            )
        )
        # One chunk is read before the status is sent, so that an early error still has a status of its own.
        first = await reading.run(source.read)
        if first is None:
            return ASGIResponse(media_type=BINARY)
        return _JournalStream(source, first, reading)

    @get("/doctor")
    async def diagnose(request: _Request) -> ASGIResponse:
        admit(request)
        return _json(await reading.run(_as_json, middleware.diagnose))

    @get("/timings")
    async def timings(request: _Request) -> ASGIResponse:
        admit(request)
        return _json(_as_json(middleware.timings))

    @get("/transactions")
    async def transactions(request: _Request) -> ASGIResponse:
        admit(request)
        return _json(await reading.run(_as_json, middleware.transactions))

    @get("/health")
    async def health() -> ASGIResponse:
        body = health_of({**middleware.status(), "version": __version__})
        return ASGIResponse(body=body, media_type=JSON, headers={"cache-control": "no-store"})

    @get("/openapi.json")
    async def schema() -> ASGIResponse:
        return ASGIResponse(body=document, media_type=JSON)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await signing.close()
            await asyncio.to_thread(reading.close)
            if close_middleware:
                await asyncio.to_thread(middleware.close)

    document = msgspec.json.encode(
        openapi.document({name: paths(name) for name in OPERATIONS}, Problem, require_token=require_token)
    )
    app = Application(
        [echo, sign, journal, diagnose, timings, transactions, health, schema],
        request_max_body_size=max_body,
        exception_handlers={Exception: _answer},
        lifespan=[lifespan],
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    base = base_path.strip("/").lower()
    app.base_path = f"/{base}" if base else ""
    return app


def _as_json(call: Callable[[], Any]) -> bytes:
    return msgspec.json.encode(call())


def _json(text: bytes) -> ASGIResponse:
    return ASGIResponse(body=text, media_type=JSON)


# ---- what a request must look like --------------------------------------------------------------


def _expect_json(request: _Request) -> None:
    headers = dict(request.scope["headers"])
    if headers.get(b"content-type") in _PLAIN_TYPES and b"content-encoding" not in headers:
        return  # what nearly every request says needs no closer look
    content_type = request.headers.get("content-type", "").partition(";")[0].strip()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if _JSON_TYPE.fullmatch(content_type) is None or encoding != "identity":
        what = f"the content type {content_type!r}" if content_type else "a body without content type"
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "UNSUPPORTED_MEDIA_TYPE",
            f"{what} is not understood" if encoding == "identity" else f"the encoding {encoding!r} is not",
            field="Content-Type" if encoding == "identity" else "Content-Encoding",
            hint="Send JSON with Content-Type: application/json, not compressed.",
        )


def _prefers_async(request: _Request) -> bool:
    """Whether the client wants an answer before the work is done (RFC 7240)."""
    return any(
        name == b"prefer" and _ASYNC.search(value.decode("latin-1")) is not None
        for name, value in request.scope["headers"]
    )


def _query(request: _Request) -> dict[str, str]:
    """The query parameters by lower-case name; the last of several counts."""
    text = request.scope["query_string"].decode("latin-1")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=100)
    except ValueError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "BAD_QUERY", f"the query cannot be read: {error}") from error
    return {name.lower(): value for name, value in pairs}


def _integer(query: dict[str, str], name: str, default: int | None = None) -> int:
    text = query.get(name)
    if text is None:
        if default is not None:
            return default
        raise Refused(
            HTTPStatus.BAD_REQUEST,
            "BAD_QUERY",
            f"the query parameter '{name}' is missing",
            field=name,
            hint="Ask for a journal by its number: ?type=3 gives the queue items.",
        )
    number = int(text) if _INTEGER.fullmatch(text) else None
    if number is None or number not in _INT64:
        raise Refused(
            HTTPStatus.BAD_REQUEST,
            "BAD_QUERY",
            f"the query parameter '{name}' is no 64-bit integer",
            field=name,
            hint="Write it in decimal digits, without 0x.",
        )
    return number


# ---- errors -------------------------------------------------------------------------------------

_FRAMEWORK = {
    404: (
        "NOT_FOUND",
        "there is nothing at this path",
        "POST to /json/v1/echo, /json/v1/sign or /json/v1/journal?type=3; /openapi.json lists every path.",
    ),
    405: (
        "METHOD_NOT_ALLOWED",
        "this path does not know this method",
        "Echo, Sign and Journal are POST; /health, /doctor, /timings, /transactions and /openapi.json are GET.",
    ),
    413: (
        "PAYLOAD_TOO_LARGE",
        "the body is larger than this host accepts",
        "Split the receipt, or raise the limit of the host.",
    ),
}
"""What Litestar refuses: code, detail and hint by status."""


def _answer(request: _Request, error: Exception) -> Response[bytes]:
    """The problem body of any exception. The log has the whole story, the client never a stack trace."""
    status, headers = _status_of(error)
    code = getattr(error, "code", "INTERNAL")
    detail = str(error)
    field, hint = str(getattr(error, "field", "")), str(getattr(error, "hint", ""))
    response: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    if isinstance(error, HTTPException):
        phrase = HTTPStatus(status).phrase
        code, detail, hint = _FRAMEWORK.get(status, (phrase.upper().replace(" ", "_"), error.detail, ""))
    elif isinstance(error, ReceiptRejected):
        if error.response is not None:
            response = msgspec.Raw(error.response.encode())
    elif not isinstance(error, FiskalError):
        detail = "the middleware met an error that it does not know"
        hint = "The log of the middleware tells more."
    if status == 500:
        _log.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    else:
        _log.info("%s %s: %d %s: %s", request.method, request.scope["path"], status, code, detail)
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        field=field,
        hint=hint,
        response=response,
    )
    return Response(msgspec.json.encode(problem), media_type=PROBLEM, status_code=status, headers=headers)


def _status_of(error: Exception) -> tuple[int, dict[str, str]]:
    match error:
        case Refused():
            return error.status, error.headers
        case HTTPException():
            return error.status_code, dict(error.headers or {})
        case QueueBusy():
            return 503, {"retry-after": str(RETRY_BUSY_S)}
        case ReceiptRejected(code="JSON_TOO_LARGE"):
            return 413, {}
        case ReceiptRejected() | JournalError() | ClientError():
            return 400, {}
        case NotSupportedError() | NotSupported():
            return 501, {}
        case TarExportFailed():
            return 503, {"retry-after": str(RETRY_TSE_S)}
        case ScuError():
            wait_ms = error.retry_after_ms
            return 503, {"retry-after": str(RETRY_TSE_S if wait_ms is None else -(-wait_ms // 1000))}
    return 500, {}
