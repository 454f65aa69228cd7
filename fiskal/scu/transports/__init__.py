"""How a frame reaches a TSE and its answer comes back. A transport knows no protocol, a protocol knows no transport.

A transport of exchanges (mailbox file, block device, serial port, TCP, WebSocket) is one method:
:meth:`Transport.call`.
What becomes of an error is decided by what is known: :class:`NotSent` says that no byte can have reached the TSE,
:class:`NoAnswer` that the TSE may have executed what the frame asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fiskal.errors import FiskalError
from fiskal.scu.contract import Deadline

Complete = Callable[[bytes | bytearray | memoryview], int]
"""Tells where the first answer in what was received so far ends: its length in bytes, or 0 if more must come.

Given to transports of byte streams by the protocol, which alone knows. Raises :class:`Garbled` for bytes that
can never become an answer.
"""


class TransportError(FiskalError):
    """Root of what can go wrong on the way. ``hint`` says what to do next, where somebody can do something."""

    timed_out = False
    """Waiting was given up: the other side may still be at it. Set by transports that can tell."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message} {hint}")
        self.message = message
        self.hint = hint


class NotSent(TransportError):
    """Nothing of the frame reached the TSE: not connected, no permission, refused, deadline passed before."""


class InUse(NotSent):
    """Another program has the device; it takes one at a time."""


class NoAnswer(TransportError):
    """The frame, or a part of it, was sent and no complete answer came."""


class Silence(NoAnswer):
    """The time is over and no complete answer has come, but nothing is wrong with the connection.

    Some devices do not answer a command that they refuse. A protocol that tells late answers apart by an id of their
    own asks on the same connection what happened.
    """


class Garbled(TransportError):
    """Bytes came that are no answer: wrong length, wrong check sum, noise."""


class Transport(Protocol):
    """One way to one TSE. Used by one thread at a time; ``close`` may come from another one and ends a call."""

    def call(self, frame: bytes, deadline: Deadline | None) -> bytes:
        """Send ``frame`` and return the answer's frame, whole and unread.

        Connects by itself, also again after an error. Bytes of an older answer that lie ready are thrown away before
        the frame is sent. Raises :class:`NotSent`, :class:`NoAnswer` or :class:`Garbled`.
        """
        ...

    def close(self) -> None: ...
