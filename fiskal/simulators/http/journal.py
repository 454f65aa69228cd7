"""What was asked of a simulator and what it answered. No secret gets in."""

from __future__ import annotations

import re
import threading
from collections import deque
from typing import Final

import msgspec

from fiskal.simulators.http.app import Request

MAX_ENTRIES: Final = 20_000
MAX_BODY_CHARACTERS: Final = 4096
_SECRET_HEADERS: Final = frozenset({"authorization", "proxy-authorization", "cookie"})
_SECRET_MEMBERS: Final = re.compile(
    rb'("(?:api_key|api_secret|refresh_token|access_token|admin_pin|new_admin_pin|admin_puk|registrationToken)"'
    rb'\s*:\s*)"(?:[^"\\]|\\.)*"'
)


class Entry(msgspec.Struct, frozen=True):
    t: float
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: str
    status: int
    """0 if no answer was sent."""
    fault: str | None


class Journal:
    """The last :data:`MAX_ENTRIES` requests. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque(maxlen=MAX_ENTRIES)

    def note(self, moment: float, request: Request, status: int, fault: str | None) -> None:
        body = _SECRET_MEMBERS.sub(rb'\1"***"', request.body[:MAX_BODY_CHARACTERS])
        headers = {
            name: "***" if name in _SECRET_HEADERS else value for name, value in request.headers.items()
        }
        entry = Entry(
            moment,
            request.method,
            request.path,
            request.query,
            headers,
            body.decode("utf-8", "replace"),
            status,
            fault,
        )
        with self._lock:
            self._entries.append(entry)

    def entries(self) -> list[Entry]:
        with self._lock:
            return list(self._entries)

    def count(self, method: str, path: str) -> int:
        """How many requests with this method had a path that the regular expression is found in."""
        return sum(
            1
            for entry in self.entries()
            if entry.method == method and re.search(path, entry.path) is not None
        )

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
