"""Every error of fiskal, with one root.

``ReceiptRejected`` is what a POS did wrong, ``ScuError`` (in :mod:`fiskal.scu.errors`) what a TSE did,
``StoreError`` what the disk did. ``code`` is stable and meant for programs, the message for people.
"""

from __future__ import annotations


class FiskalError(Exception):
    """Root of all errors raised by fiskal."""

    code: str = "FISKAL"


class CoreError(FiskalError):
    """The C core refused its arguments; ``status`` is the fk_status."""

    code = "CORE"

    def __init__(self, status: int) -> None:
        super().__init__(f"the C core answered with status {status}")
        self.status = status


class ReceiptRejected(FiskalError):
    """A request that cannot be accepted; nothing was signed.

    ``field`` is the path of the offending member (``cbChargeItems[3].Amount``), empty if there is none;
    ``hint`` says what to do; ``response`` is the stored error response as JSON text, None when the request
    was refused before it became a queue item.
    """

    code = "REJECTED"

    def __init__(
        self, code: str, message: str, *, field: str = "", hint: str = "", response: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.hint = hint
        self.response = response


class StoreError(FiskalError):
    """The journal could not be read or written: disk full, read-only, locked, damaged."""

    code = "STORE"


class StoreLocked(StoreError):
    """Another process has the journal open."""


class ConfigurationError(FiskalError):
    """A configuration that cannot work; the message names the key and what to put there."""

    code = "CONFIGURATION"


class NotSupportedError(FiskalError):
    """A request that is understood but not offered."""

    code = "NOT_SUPPORTED"
