"""What a vendor's simulator is to the server: requests in, responses out, a state, a clock."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote

import msgspec

from fiskal.clock import TICKS_PER_SECOND, Clock, now, to_unix
from fiskal.scu.service_time import ServiceTime


class SimClock:
    """The clock of a simulator: that of the host, put forward or back by what it was told."""

    def __init__(self, base: Clock = now) -> None:
        self._base = base
        self._offset = 0

    def __call__(self) -> int:
        return self._base() + self._offset

    def advance(self, seconds: float) -> None:
        self._offset += round(seconds * TICKS_PER_SECOND)

    def unix(self) -> int:
        """Whole seconds since 1970."""
        return to_unix(self())


class Request:
    """One request. ``path`` is decoded, ``query`` has the last value of each name, header names are lower case."""

    __slots__ = ("body", "headers", "method", "path", "query", "target")

    def __init__(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        path, _, query = target.partition("?")
        self.method = method
        self.target = target
        self.path = unquote(path)
        self.query: dict[str, str] = dict(parse_qsl(query, keep_blank_values=True))
        self.headers = headers
        self.body = body

    def json(self) -> dict[str, Any]:
        """The body as a JSON object, empty without a body. Raises ValueError."""
        if not self.body:
            return {}
        try:
            return msgspec.json.decode(self.body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(str(error)) from error


class Response:
    """One response; the server adds ``Content-Length`` and ``Connection``."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.body = body
        self.headers = dict(headers or {})

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        return cls(
            status,
            msgspec.json.encode(value),
            {"Content-Type": "application/json; charset=utf-8", **(headers or {})},
        )

    @classmethod
    def text(cls, text: str | bytes, status: int = 200, content_type: str = "text/plain") -> Response:
        return cls(status, text.encode() if isinstance(text, str) else text, {"Content-Type": content_type})


class App:
    """Base of the vendors' simulators. :meth:`handle` is called with :attr:`lock` held."""

    family: ClassVar[str]
    commands: ClassVar[Mapping[str, ServiceTime]]
    """The names of its commands, for service times and faults, with the time each takes by default."""

    def __init__(self, clock: SimClock) -> None:
        self.clock = clock
        self.lock = threading.RLock()

    def command(self, request: Request) -> str:
        """Which of :attr:`commands` a request is."""
        raise NotImplementedError

    def occupied(self, request: Request) -> AbstractContextManager[Response | None]:
        """Held while a request is worked on, its service time included; a response instead refuses it."""
        return nullcontext(None)

    def handle(self, request: Request) -> Response:
        raise NotImplementedError

    def reset(self, seed: int) -> None:
        """Forget everything and begin anew."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What is counted and held, for tests."""
        raise NotImplementedError

    def force(self, change: dict[str, Any]) -> None:
        """Take over a part of the state. Raises ValueError for what cannot be forced."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
