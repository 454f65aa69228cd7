"""The ASGI application: finds the endpoint of a path in any spelling, and answers whatever an endpoint raises."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Router
from starlette.types import Lifespan, Receive, Scope, Send

from fiskal.host.http import problem


class Endpoint:
    """What answers a path: one method, OPTIONS, and the bodies of all errors."""

    def __init__(self, method: str, answer: Callable[[Request], Awaitable[Response]]) -> None:
        self._method = method
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            response = await self._respond(request)
        except ClientDisconnect:
            return  # nobody is there to be answered
        except Exception as error:
            response = problem.response_to(request, error)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        if request.method == self._method:
            return await self._answer(request)
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"allow": ", ".join(sorted((self._method, "OPTIONS")))})
        raise problem.method_not_allowed(f"{self._method}, OPTIONS")


class _Nothing(Endpoint):
    """Answers every other path, whatever the method."""

    def __init__(self) -> None:
        super().__init__("GET", self._respond)

    async def _respond(self, request: Request) -> Response:
        raise problem.not_found()


_NOTHING: Final = _Nothing()


class Application:
    """Calls the endpoint of a path. All paths are fixed, so a dictionary is the router: a list of patterns would be
    gone through for every receipt.

    ``endpoints`` are by path, in lower case and without a slash at the end; a request finds them in any case, with
    slashes too many, and with ``base_path`` before them or without it.
    """

    def __init__(
        self, endpoints: dict[str, Endpoint], *, base_path: str = "", lifespan: Lifespan[Router] | None = None
    ) -> None:
        self.endpoints = endpoints
        base = base_path.strip("/").lower()
        self._base = f"/{base}" if base else ""
        self._router = Router(lifespan=lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._router(scope, receive, send)  # start, stop, and a word to whom wants a WebSocket
            return
        endpoint = self.endpoints.get(scope["path"]) or self._find(scope) or _NOTHING
        await endpoint(scope, receive, send)

    def _find(self, scope: Scope) -> Endpoint | None:
        path, root = scope["path"].lower(), scope.get("root_path", "").lower()
        for before in (root, self._base):
            if before and path.startswith(before) and path[len(before) : len(before) + 1] in ("", "/"):
                path = path[len(before) :]
        return self.endpoints.get("/" + "/".join(filter(None, path.split("/"))))
