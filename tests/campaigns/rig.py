"""What the campaign of hardware TSEs and the families that take part in it share."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from fiskal.scu.core import ScuCore


class Logged(NamedTuple):
    """A transaction log of the device."""

    operation: str
    number: int
    counter: int
    signature: bytes


class Rig(Protocol):
    """A device with its driver, ready to sign for ``client``."""

    client: str
    scu: ScuCore

    def strike(self) -> str:
        """Draw a fault for the next call, inject it, and return its name."""
        ...

    def calm(self) -> None:
        """Take back what was injected and did not happen yet."""
        ...

    def restart(self) -> None:
        """The driver's process starts again."""
        ...

    def log(self) -> list[Logged]:
        """What the device has signed for transactions."""
        ...


class Death(BaseException):
    """The caller dies here."""
