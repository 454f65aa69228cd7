"""Takes many receipts through their steps together.

A thread that waits costs two thread switches, and whoever is woken fights the others for the interpreter. So where more
than one receipt is in work, one thread takes them all: everybody a step, then the TSEs that only compute, then, when
nobody can go on, one flush of the disk for all that wait for it. What may block, such as a TSE outside this process, is
called in threads of a pool meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from _thread import LockType, allocate_lock, get_ident
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from fiskal.conversation import Conversation, Need, Way
from fiskal.queue.line import QueueBusy
from fiskal.store import Store

_log = logging.getLogger("fiskal.host")

_T = TypeVar("_T")

MAX_THREADS: Final = 1_024
"""Calls that may block at the same time; more wait for a thread."""

Ended = Callable[[Any, BaseException | None], None]


class _Running:
    """A conversation on its way, and who is told how it ended."""

    __slots__ = ("conversation", "ended")

    def __init__(self, conversation: Conversation[Any], ended: Ended) -> None:
        self.conversation = conversation
        self.ended = ended


class Rounds:
    """The receipts in work. One thread calls :meth:`step`; the rest may be called from any.

    ``ring`` is called when there is something to do.
    """

    def __init__(self, store: Store, pool: ThreadPoolExecutor, ring: Callable[[], None]) -> None:
        self._store = store
        self._pool = pool
        self._ring = ring
        self._ready: deque[_Running] = deque()
        self._computing: deque[tuple[Need[Any], _Running]] = deque()
        self._disk: list[_Running] = []
        self._told: list[Callable[[], None]] = []
        """Callers whose receipts have ended. They are told when this thread is about to wait itself: who is woken
        before only fights it for the interpreter."""
        self.pending = 0
        """Conversations that have not ended. Counted by the stepping thread and by :meth:`start`, under a lock."""
        self._count = allocate_lock()

    def start(self, conversation: Conversation[Any], ended: Ended) -> None:
        """Take a conversation in. ``ended(result, error)`` is called by the stepping thread."""
        with self._count:
            self.pending += 1
        self._ready.append(_Running(conversation, ended))
        self._ring()

    def step(self, computations: int = 1_000_000) -> bool:
        """Everybody a step, then at most so many TSEs that compute. True if somebody can go on."""
        ready = self._ready
        while ready:
            running = ready.popleft()
            try:
                need = running.conversation.send(None)
            except StopIteration as end:
                self._end(running, end.value, None)
            except BaseException as error:
                self._end(running, None, error)
            else:
                self._park(need, running)
        computing = self._computing
        while computing and computations > 0:
            need, running = computing.popleft()
            need.settle()
            ready.append(running)
            computations -= 1
        return bool(ready or computing)

    def _park(self, need: Need[Any], running: _Running) -> None:
        way = need.way
        if way is Way.DISK:
            self._disk.append(running)
        elif way is Way.COMPUTE:
            self._computing.append((need, running))
        elif way is Way.SIGNAL:
            need.then(partial(self._arrive, running))
        else:
            try:
                self._pool.submit(self._block, need, running)
            except RuntimeError as error:  # no more threads, or the host is closing
                _log.warning("a call that may block is made in line: %s", error)
                self._block(need, running)

    def _block(self, need: Need[Any], running: _Running) -> None:
        need.settle()
        self._arrive(running)

    def _arrive(self, running: _Running) -> None:
        self._ready.append(running)
        self._ring()

    def _end(self, running: _Running, result: Any, error: BaseException | None) -> None:
        with self._count:
            self.pending -= 1
        self._told.append(partial(running.ended, result, error))

    def tell(self) -> None:
        """Tell whose conversations have ended."""
        told, self._told = self._told, []
        for each in told:
            each()

    @property
    def wants_disk(self) -> bool:
        """Somebody waits for the disk."""
        return bool(self._disk)

    def flush(self) -> None:
        """One flush for all that wait for the disk; they may go on."""
        waiting, self._disk = self._disk, []
        self._store.flush()
        self._ready.extend(waiting)

    def flush_elsewhere(self) -> None:
        """As :meth:`flush`, in another thread."""
        waiting, self._disk = self._disk, []

        def flush() -> None:
            self._store.flush()
            for running in waiting:
                self._ready.append(running)
            self._ring()

        self._pool.submit(flush)


def new_pool(threads: int = MAX_THREADS) -> ThreadPoolExecutor:
    """Threads for calls that may block; they come into being when they are needed."""
    return ThreadPoolExecutor(threads, thread_name_prefix="fiskal-call")


class Stepper:
    """Takes the conversations of callers in many threads through their rounds, in a thread of its own that exists from
    the first one on. A caller that gives up (Ctrl-C) does not stop a conversation that has begun.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._name = name
        self._pool = new_pool()
        self._bell = allocate_lock()
        self._bell.acquire()
        self._rounds = Rounds(store, self._pool, self._ring)
        self._begin = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def idle(self) -> bool:
        """No conversation is in work."""
        return self._rounds.pending == 0

    @property
    def is_here(self) -> bool:
        """This is the stepping thread."""
        return self._thread is not None and self._thread.ident == get_ident()

    def call(self, conversation: Conversation[_T]) -> _T:
        """What ``conversation`` returns or raises. Raises QueueBusy when the stepper was closed."""
        waiting = allocate_lock()
        waiting.acquire()
        outcome: list[Any] = []
        self._take(conversation, partial(_note, outcome, waiting))
        waiting.acquire()
        result, error = outcome
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def submit(self, conversation: Conversation[_T]) -> Future[_T]:
        """The conversation as a future, which cannot be cancelled. Raises QueueBusy when the stepper was closed."""
        future: Future[_T] = Future()
        future.set_running_or_notify_cancel()

        def ended(result: Any, error: BaseException | None) -> None:
            if error is None:
                future.set_result(result)
            else:
                _log.warning("a receipt that was put in line failed: %s: %s", type(error).__name__, error)
                future.set_exception(error)

        self._take(conversation, ended)
        return future

    def _take(self, conversation: Conversation[Any], ended: Ended) -> None:
        with self._begin:  # or the thread could end between the look at it and the call
            if self._closed:
                conversation.close()
                raise QueueBusy("the host is closing; nothing more is put in line")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._rounds.start(conversation, ended)

    def close(self) -> None:
        """Bring to an end what was begun; refuse what comes then."""
        with self._begin:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            self._ring()
            thread.join()
        self._pool.shutdown(wait=False)

    def _ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # it was rung already
            self._bell.release()

    def _work(self) -> None:
        bell, rounds = self._bell, self._rounds
        while True:
            while rounds.step():
                pass
            rounds.tell()
            if rounds.wants_disk:
                rounds.flush()
            elif self._closed and rounds.pending == 0:
                return
            else:
                bell.acquire()


def _note(outcome: list[Any], waiting: LockType, result: Any, error: BaseException | None) -> None:
    outcome.append(result)
    outcome.append(error)
    waiting.release()
