"""What answers the operations of :mod:`fiskal.host.http.openapi`.

A body is never decoded and encoded again here: what ``sign_json`` returns is the text that was stored and hashed, and
it leaves as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fiskal.host.http import docs, openapi, streaming
from fiskal.host.http.application import Application, Endpoint
from fiskal.host.http.lane import Lane
from fiskal.host.http.requests import (
    MAX_BODY_BYTES,
    Token,
    expect_json,
    integer,
    prefers_async,
    query_of,
    read_body,
)
from fiskal.host.http.signing import MAX_PENDING, THREADS, Signing
from fiskal.host.middleware import Middleware
from fiskal.version import __version__

JSON: Final = "application/json; charset=utf-8"
READ_THREADS: Final = 8


def create_app(
    middleware: Middleware,
    *,
    require_token: bool = False,
    max_body: int = MAX_BODY_BYTES,
    threads: int = THREADS,
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
    signing = Signing(middleware, threads=threads, max_pending=max_pending)
    reading = Lane("read", READ_THREADS, max_pending)
    routes = Routes(
        middleware, signing, reading, Token(middleware.config, required=require_token), max_body=max_body
    )

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await signing.close()
            await asyncio.to_thread(reading.close)
            if close_middleware:
                await asyncio.to_thread(middleware.close)

    endpoints = {
        path: Endpoint(operation.method, routes.answering(operation))
        for operation in openapi.DESCRIBED
        for path in operation.paths
    }
    return Application(endpoints, base_path=base_path, lifespan=lifespan)


class Routes:
    """The methods that answer, each named as its operation."""

    def __init__(
        self, middleware: Middleware, signing: Signing, reading: Lane, token: Token, *, max_body: int
    ) -> None:
        self._middleware = middleware
        self._signing = signing
        self._reading = reading
        self._token = token
        self._max_body = max_body
        document = openapi.document(require_token=token.required)
        self._document = msgspec.json.encode(document)
        self._page = docs.page(document)

    def answering(self, operation: openapi.Operation) -> Callable[[Request], Awaitable[Response]]:
        """The method of that name, behind the token if the operation asks for it."""
        answer: Callable[[Request], Awaitable[Response]] = getattr(self, operation.name)
        return partial(self._admitted, answer) if operation.token and self._token.required else answer

    async def _admitted(self, answer: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
        self._token.check(request)
        return await answer(request)

    async def echo(self, request: Request) -> Response:
        expect_json(request)
        body = await read_body(request, self._max_body)
        return _json(await self._reading.run(self._middleware.echo_json, body))

    async def sign(self, request: Request) -> Response:
        expect_json(request)
        body = await read_body(request, self._max_body)
        if prefers_async(request):
            await self._signing.put_in_line(body)
            return Response(
                status_code=202, headers={"preference-applied": "respond-async"}, media_type=openapi.JSON
            )
        return _json(await self._signing.sign(body))

    async def journal(self, request: Request) -> Response:
        query = query_of(request)
        journal_type = integer(query, "type")
        from_ticks, to_ticks = integer(query, "from", 0), integer(query, "to", 0)
        return await streaming.respond(
            lambda: self._middleware.journal(
                journal_type, from_ticks, to_ticks, streaming.CHUNK_BYTES, queue_id=query.get("queueid")
            ),
            self._reading,
        )

    async def doctor(self, _: Request) -> Response:
        return _json(await self._reading.run(_encoded, self._middleware.diagnose))

    async def timings(self, _: Request) -> Response:
        return _json(_encoded(self._middleware.timings))

    async def transactions(self, _: Request) -> Response:
        return _json(await self._reading.run(_encoded, self._middleware.transactions))

    async def health(self, _: Request) -> Response:
        body = msgspec.json.encode({**self._middleware.status(), "version": __version__})
        return Response(body, headers={"cache-control": "no-store"}, media_type=JSON)

    async def openapi(self, _: Request) -> Response:
        return _json(self._document)

    async def docs(self, _: Request) -> Response:
        return Response(self._page, headers=docs.HEADERS, media_type="text/html")


def _encoded(call: Callable[[], Any]) -> bytes:
    return msgspec.json.encode(call())


def _json(text: bytes) -> Response:
    return Response(text, media_type=JSON)
