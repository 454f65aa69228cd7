"""What goes wrong between a client and the service: before a request is executed, or after it.

``after`` is the important one: the work is done, and the client does not know.
"""

from __future__ import annotations

import functools
import gzip
import re
import threading
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Annotated, Any, Final, Literal

import msgspec

from fiskal.simulators.http.app import Request, Response
from fiskal.simulators.plan import Fault

KINDS: Final = {
    "lost-request": "the connection is reset before the request is executed",
    "lost-answer": "the request is executed, then the connection is reset",
    "error-before": "the status of its value (503), nothing is executed",
    "error-after": "the status of its value (502) after the request was executed",
    "cut": "the answer ends after its value in bytes (10)",
    "slow": "the answer comes its value in milliseconds (8000) after the request was executed",
    "drip": "a byte of the answer every value milliseconds (1000)",
    "captive-portal": "somebody else's HTML with status 200, nothing is executed",
    "redirect": "302 to another host, nothing is executed",
    "stale": "the answer of an earlier request of the same command",
    "gzip-bomb": "a packed answer of its value in bytes (100 MiB)",
    "flood": "an answer of its value in bytes (100 MiB)",
}
PORTAL: Final = (
    "<!DOCTYPE html><html><body>Welcome to the guest network. <a href='/login'>Log in</a></body></html>"
)


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which requests: ``path`` is a regular expression searched for in path and query. The ``nth`` of them is the
    first, ``count`` how many follow each other (None: all)."""

    method: str | None = None
    path: str = ""
    nth: Annotated[int, msgspec.Meta(ge=1)] = 1
    count: Annotated[int, msgspec.Meta(ge=1)] | None = 1


class Action(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What happens. ``status`` with ``json`` or ``raw_body`` takes the place of the answer; ``patch`` changes members
    of it by their dotted names; ``stale`` sends what an earlier request of the same command got."""

    status: int | None = None
    headers: dict[str, str] = {}
    json: Any = msgspec.UNSET
    raw_body: str | None = None
    delay_ms: float = 0
    reset: bool = False
    truncate: int | None = None
    drip_ms_per_byte: float | None = None
    patch: dict[str, Any] = {}
    stale: bool = False
    flood_bytes: int | None = None
    gzip_bomb_bytes: int | None = None


class HttpFault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    id: str = ""
    match: Match = Match()
    when: Literal["before", "after"] = "before"
    action: Action
    probability: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class FaultQueue:
    """The faults that were asked for over the control API. Thread-safe."""

    def __init__(self, seed: int = 1) -> None:
        self._lock = threading.Lock()
        self._faults: list[tuple[HttpFault, list[int]]] = []
        self.seed(seed)

    def seed(self, seed: int) -> None:
        self._random = Random(f"{seed}/http-faults")

    def add(self, fault: HttpFault) -> None:
        """Raises ValueError for a path that is no regular expression."""
        try:
            re.compile(fault.match.path)
        except re.error as error:
            raise ValueError(f"{fault.match.path!r} is no regular expression: {error}") from error
        with self._lock:
            self._faults.append((fault, [0]))

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def take(self, request: Request) -> HttpFault | None:
        """The fault of this request; every fault it matches counts it."""
        taken: HttpFault | None = None
        with self._lock:
            for fault, seen in self._faults:
                match = fault.match
                if match.method not in (None, request.method) or not re.search(match.path, request.target):
                    continue
                seen[0] += 1
                due = seen[0] >= match.nth and (match.count is None or seen[0] < match.nth + match.count)
                if not due or taken is not None:
                    continue
                if fault.probability < 1 and self._random.random() >= fault.probability:
                    continue
                taken = fault
        return taken


def from_plan(fault: Fault) -> HttpFault:
    """A fault of a plan as what is done here."""
    value = fault.value
    number = int(value) if isinstance(value, int | float) else None
    make: dict[str, Callable[[], tuple[Literal["before", "after"], Action]]] = {
        "lost-request": lambda: ("before", Action(reset=True)),
        "lost-answer": lambda: ("after", Action(reset=True)),
        "error-before": lambda: ("before", Action(status=number or 503)),
        "error-after": lambda: ("after", Action(status=number or 502)),
        "cut": lambda: ("after", Action(truncate=10 if number is None else number)),
        "slow": lambda: ("after", Action(delay_ms=number or 8000)),
        "drip": lambda: ("after", Action(drip_ms_per_byte=number or 1000)),
        "captive-portal": lambda: ("before", Action(status=200, raw_body=PORTAL)),
        "redirect": lambda: ("before", Action(status=302, headers={"Location": "https://login.invalid/"})),
        "stale": lambda: ("after", Action(stale=True)),
        "gzip-bomb": lambda: ("before", Action(gzip_bomb_bytes=number or 100 << 20)),
        "flood": lambda: ("before", Action(flood_bytes=number or 100 << 20)),
    }
    when, action = make[fault.kind]()
    return HttpFault(id=fault.kind, when=when, action=action)


class Memory:
    """The last good answers of each command, to send one of them again."""

    def __init__(self) -> None:
        self._last: dict[str, deque[Response]] = {}

    def note(self, command: str, response: Response) -> None:
        if 200 <= response.status < 300:
            self._last.setdefault(command, deque(maxlen=2)).append(response)

    def earlier(self, command: str) -> Response | None:
        """The answer before the last one."""
        answers = self._last.get(command)
        return answers[0] if answers and len(answers) > 1 else None


@functools.cache
def _bomb(size: int) -> bytes:
    return gzip.compress(bytes(size), 6)


def changed(response: Response, action: Action, earlier: Response | None) -> Response:
    """The response as the action wants it, before it is sent."""
    if action.stale and earlier is not None:
        response = earlier
    if action.gzip_bomb_bytes is not None:
        return Response(
            200,
            _bomb(action.gzip_bomb_bytes),
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        )
    if action.status is not None:
        headers = dict(action.headers)
        if action.json is not msgspec.UNSET:
            return Response.json(action.json, action.status, headers)
        text = action.raw_body if action.raw_body is not None else ""
        headers.setdefault("Content-Type", "text/html" if text.startswith("<") else "text/plain")
        return Response(action.status, text.encode(), headers)
    if action.raw_body is not None:
        response = Response(response.status, action.raw_body.encode(), response.headers)
    elif action.patch:
        value = msgspec.json.decode(response.body)
        for name, member in action.patch.items():
            *way, last = name.split(".")
            place = value
            for step in way:
                place = place[int(step)] if isinstance(place, list) else place[step]
            place[last] = member
        response = Response(response.status, msgspec.json.encode(value), response.headers)
    if action.headers:
        response = Response(response.status, response.body, {**response.headers, **action.headers})
    return response
