"""A receipt is a conversation that does no I/O itself: it says what it needs, and whoever drives it sees to that.

A conversation is a coroutine whose every ``await`` ends at a :class:`Need`. :func:`drive` answers needs in the caller's
own thread, one after the other. A host with many receipts answers them for all at once: what only computes is called,
what blocks goes to another thread, and one flush of the disk serves everybody who waits for it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Way(enum.Enum):
    """How a need is answered where many conversations share a thread."""

    COMPUTE = enum.auto()
    """By a call that waits for nothing but the processor."""
    BLOCK = enum.auto()
    """By a call that may wait for a device, the network or a timer."""
    DISK = enum.auto()
    """By the next flush of the store."""
    SIGNAL = enum.auto()
    """By somebody else, who says so (:meth:`Signal.then`)."""


class Need(Generic[T]):
    """Something only a driver can do. ``await need`` gives its answer or raises its error."""

    __slots__ = ("answer", "done", "error")

    way = Way.BLOCK

    answer: T

    def __init__(self) -> None:
        self.done = False
        self.error: BaseException | None = None

    def call(self) -> T:
        """Do it in this thread, however long that takes. Raises what the conversation is to see."""
        raise AssertionError("a need of no kind")

    def then(self, ring: Callable[[], None]) -> None:
        """Call ``ring`` once it is done; only a need of the way :attr:`Way.SIGNAL` can."""
        raise AssertionError("nobody will say when this need is done")

    def settle(self) -> None:
        """Do it in this thread and keep what came of it. Never raises."""
        try:
            self.answer = self.call()
        except BaseException as error:  # also Ctrl-C: the conversation has to put its house in order
            self.error = error
        self.done = True

    def __await__(self) -> Generator[Need[Any], None, T]:
        if not self.done:
            yield self
        if self.error is not None:
            raise self.error
        return self.answer


class Call(Need[T]):
    """A call to something outside: ``action`` without arguments. ``way`` says whether it may block."""

    __slots__ = ("_action", "way")

    def __init__(self, action: Callable[[], T], way: Way = Way.BLOCK) -> None:
        self.done = False
        self.error = None
        self._action = action
        self.way = way

    def call(self) -> T:
        return self._action()


class Durable(Need[None]):
    """A change that was submitted to a store. Done when the disk has it, or has refused it."""

    __slots__ = ("_flush", "change")

    way = Way.DISK

    def __init__(self, change: Any, flush: Callable[[], None]) -> None:
        self.done = False
        self.error = None
        self.answer = None
        self.change = change
        self._flush = flush

    def call(self) -> None:
        """Flush what was submitted so far, if nobody else did. Raises StoreError; then nothing of it was stored."""
        if not self.done:
            self._flush()
        if self.error is not None:
            raise self.error

    def settle(self) -> None:
        if not self.done:
            self._flush()


Conversation = Coroutine[Need[Any], None, T]


def drive(conversation: Conversation[T]) -> T:
    """Answer every need of a conversation in this thread; return its result or raise its error."""
    try:
        while True:
            conversation.send(None).settle()
    except StopIteration as end:
        result: T = end.value
        return result
