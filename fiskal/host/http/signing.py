"""The door through which the receipts of HTTP are signed."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from fiskal.host.loop_stepper import LoopStepper
from fiskal.host.middleware import Middleware
from fiskal.host.rounds import MAX_THREADS
from fiskal.queue.line import QueueBusy

THREADS: Final = MAX_THREADS
MAX_PENDING: Final = 1_000


class Signing:
    """Has receipts signed in the thread of the event loop, ``max_pending`` of them in work or waiting.

    A receipt that waits for its queue, the disk or its turn has no thread; a call to a TSE outside this process takes
    one of up to ``threads``. A caller that gives up does not stop a receipt that was accepted.
    """

    def __init__(
        self, middleware: Middleware, *, threads: int = THREADS, max_pending: int = MAX_PENDING
    ) -> None:
        self._middleware = middleware
        self._max_pending = max_pending
        self._stepper = LoopStepper(middleware.store, threads)

    async def sign(self, body: bytes) -> bytes:
        """The response, as it was stored and hashed. Raises as :meth:`Middleware.sign_json`, and QueueBusy."""
        pending = self._stepper.pending
        if pending >= self._max_pending:
            raise QueueBusy(f"{pending} requests wait for this host already; try again")
        return await self._stepper.call(self._middleware.receipt(body))

    async def put_in_line(self, body: bytes) -> None:
        """Have it signed later, before every receipt of its queue that comes after it. Raises as :meth:`sign`, for
        what is wrong with the request itself."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, partial(self._middleware.sign_later_json, body))

    async def close(self) -> None:
        """Wait for the receipts in work; refuse what comes then."""
        await self._stepper.close()
