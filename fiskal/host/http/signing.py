"""The door through which the receipts of HTTP are signed."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from fiskal.fairlock import QueueBusy
from fiskal.host.http.lane import Lane
from fiskal.host.loop_crew import LoopCrew
from fiskal.host.middleware import Middleware

SHORT_BODY_BYTES: Final = 64 * 1024
"""Longer requests are read in a thread: the event loop has others to serve."""
THREADS: Final = 64
MAX_PENDING: Final = 1_000


class Signing:
    """Has receipts signed without holding up the event loop, ``max_pending`` of them in work or waiting.

    What is short is signed in the thread of the loop, everything else in up to ``threads`` threads. A caller that
    gives up does not stop a receipt that was accepted.
    """

    def __init__(
        self, middleware: Middleware, *, threads: int = THREADS, max_pending: int = MAX_PENDING
    ) -> None:
        self._middleware = middleware
        self._max_pending = max_pending
        self._crew = LoopCrew()
        self._lane = Lane("sign", threads, max_pending)

    async def sign(self, body: bytes) -> bytes:
        """The response, as it was stored and hashed. Raises as :meth:`Middleware.sign_json`, and QueueBusy."""
        if len(body) > SHORT_BODY_BYTES:
            return await self._lane.run(self._middleware.sign_json, body)
        if self._lane.pending + self._crew.pending >= self._max_pending:
            raise QueueBusy(f"{self._max_pending} requests wait for this host already; try again")
        text, call = await self._crew.call(partial(self._middleware.begin, body))
        return await self._lane.go_on(call) if text is None else text

    async def put_in_line(self, body: bytes) -> None:
        """Have it signed later, before every receipt of its queue that comes after it. Raises as :meth:`sign`, for
        what is wrong with the request itself."""
        await self._lane.run(self._middleware.sign_later_json, body)

    async def close(self) -> None:
        """Wait for the receipts in work; refuse what comes then."""
        await self._crew.close()
        await asyncio.to_thread(self._lane.close)
