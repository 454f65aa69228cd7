"""Takes the receipts of an event loop through their steps, in the thread of the loop."""

from __future__ import annotations

import asyncio
import contextlib
from _thread import get_ident
from functools import partial
from typing import Any, Final, TypeVar

from fiskal.conversation import Conversation
from fiskal.host.rounds import MAX_THREADS, Rounds, new_pool
from fiskal.queue.line import QueueBusy
from fiskal.store import Store

_T = TypeVar("_T")

COMPUTATIONS: Final = 8
"""TSE computations in one turn of the loop, so that it answers others meanwhile."""

SLOW_S: Final = 0.002
"""Flushes that take so long on average are made outside of the loop, which everything else would feel."""


class LoopStepper:
    """Takes the conversations of an event loop through their rounds, in its own thread: thousands may wait without a
    thread each. While the disk is fast the loop stands still for a flush, which is cheaper than to hand it to a thread
    and back.

    A caller that gives up does not stop a conversation that has begun.
    """

    def __init__(self, store: Store, threads: int = MAX_THREADS) -> None:
        self._store = store
        self._pool = new_pool(threads)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._rounds = Rounds(store, self._pool, self._plan)
        self._planned = False
        self._closed = False

    @property
    def pending(self) -> int:
        """Conversations that have not ended."""
        return self._rounds.pending

    async def call(self, conversation: Conversation[_T]) -> _T:
        """What ``conversation`` returns or raises. Raises QueueBusy when the stepper was closed."""
        if self._closed:
            conversation.close()
            raise QueueBusy("the host is closing")
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._thread = loop, get_ident()
        future: asyncio.Future[_T] = loop.create_future()
        self._rounds.start(conversation, partial(_resolve, future))
        return await future

    async def close(self) -> None:
        """Wait for what is in work; refuse what comes then."""
        self._closed = True
        while self.pending:
            await asyncio.sleep(0.001)
        self._pool.shutdown(wait=False)

    def _plan(self) -> None:
        """Go on soon. From any thread."""
        if self._planned:
            return
        self._planned = True
        loop = self._loop
        assert loop is not None  # it came with the first conversation
        if get_ident() == self._thread:
            # The second turn: what has arrived by the end of this one is read in the next, and comes along.
            loop.call_soon(loop.call_soon, self._go)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(self._go)

    def _go(self) -> None:
        self._planned = False  # first: what comes from here on is seen by this round, or plans another one
        rounds = self._rounds
        if rounds.step(COMPUTATIONS):
            rounds.tell()
            self._plan()
            return
        if rounds.wants_disk:
            if self._store.flush_s > SLOW_S:
                rounds.flush_elsewhere()
            else:
                rounds.flush()
                self._plan()
        rounds.tell()


def _resolve(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, Exception) and not isinstance(error, StopIteration):
        future.set_exception(error)
    else:
        future.set_exception(RuntimeError(f"a call ended with {error!r}"))
