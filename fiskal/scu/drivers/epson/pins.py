"""PINs that a TSE has refused: none of them is tried a second time, not even by the next process.

Three wrong tries block a PIN, and a POS that starts again and again would make them in a minute. A log-in whose answer
got lost may have been such a try, unless the TSE has taken the PIN before.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from pathlib import Path
from typing import Final

import msgspec

from fiskal.files import write_atomically
from fiskal.scu.errors import Misconfigured

log = logging.getLogger(__name__)

FILE_NAME: Final = "pins.json"


class _Hashed(msgspec.Struct):
    """A PIN as a salted scrypt hash."""

    salt: str
    digest: str

    def means(self, pin: str) -> bool:
        return hmac.compare_digest(_digest(self.salt, pin), self.digest)


class _Refused(_Hashed):
    """What is known of a role's last wrong try."""

    remaining: int | None = None


class _Kept(msgspec.Struct):
    """What the file says: for which TSE, what it refused, and what it took of those in :data:`REMEMBERED`."""

    serial: str = ""
    refused: dict[str, _Refused] = {}
    accepted: dict[str, _Hashed] = {}


REMEMBERED: Final = frozenset({"TimeAdmin"})
"""Of whom it is kept that a PIN was right: the Admin's is not to be found on the disk in any form."""


class PinGuard:
    """Says which PIN may be tried. ``last_try`` allows the one after which a wrong PIN is blocked."""

    def __init__(self, folder: Path, serial: str, *, last_try: bool) -> None:
        self._path = folder / FILE_NAME
        self._last_try = last_try
        self._kept = _Kept(serial)
        self._unanswered: dict[str, int] = {}
        self._proven: set[str] = set()
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
            if kept.serial == serial:
                self._kept = kept
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            log.warning("%s cannot be read: %s", self._path, error)

    def check(self, role: str, pin: str) -> None:
        """Raises ``Misconfigured``: ADMIN_PIN_MISSING, AUTH_FAILED, PIN_BLOCKED."""
        if not pin:
            raise Misconfigured(
                "PIN_MISSING",
                f"This needs the PIN of the {role}, which is not configured: give it with the option "
                f"{'admin_pin' if role == 'Admin' else 'time_admin_pin'} while it is done.",
            )
        if self._unanswered.get(role, 0) > 1 and not self._is_proven(role, pin):
            raise Misconfigured(
                "AUTH_FAILED",
                f"Two log-ins of the {role} were not answered; a third one could block a wrong PIN. Make the "
                "TSE reachable and start again.",
            )
        refused = self._kept.refused.get(role)
        if refused is None:
            return
        left = "" if refused.remaining is None else f" The TSE allows {refused.remaining} more tries."
        if refused.means(pin):
            raise Misconfigured(
                "AUTH_FAILED",
                f"The TSE has refused this PIN of the {role}; it is not tried again.{left} Configure the right "
                "one.",
            )
        if refused.remaining == 0:
            raise Misconfigured(
                "PIN_BLOCKED",
                f"The PIN of the {role} is blocked. Unblock it with the PUK, which sets a new one.",
            )
        if refused.remaining == 1 and not self._last_try:
            raise Misconfigured(
                "AUTH_FAILED",
                f"One more wrong PIN of the {role} blocks it. If this one is right for certain, set the option "
                "allow_last_pin_try.",
            )

    def trying(self, role: str) -> None:
        self._unanswered[role] = self._unanswered.get(role, 0) + 1

    def answered(self, role: str) -> None:
        self._unanswered.pop(role, None)

    def _is_proven(self, role: str, pin: str) -> bool:
        """The TSE has taken this PIN before."""
        if role not in self._proven:
            known = self._kept.accepted.get(role)
            if known is None or not known.means(pin):
                return False
            self._proven.add(role)
        return True

    def accepted(self, role: str, pin: str) -> None:
        """Note that a PIN was right."""
        self.answered(role)
        changed = self._kept.refused.pop(role, None) is not None
        if role in REMEMBERED and not self._is_proven(role, pin):
            salt = secrets.token_hex(16)
            self._kept.accepted[role] = _Hashed(salt, _digest(salt, pin))
            changed = True
        self._proven.add(role)
        if changed:
            self._write()

    def refused(self, role: str, pin: str, remaining: int | None) -> None:
        """Note a wrong PIN; ``remaining`` tries are left."""
        self.answered(role)
        self._proven.discard(role)
        self._kept.accepted.pop(role, None)
        salt = secrets.token_hex(16)
        self._kept.refused[role] = _Refused(salt, _digest(salt, pin), remaining)
        self._write()

    def _write(self) -> None:
        try:
            write_atomically(self._path, msgspec.json.encode(self._kept), 0o600)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)


def _digest(salt: str, pin: str) -> str:
    return hashlib.scrypt(pin.encode(), salt=salt.encode(), n=1 << 14, r=8, p=1, maxmem=1 << 26).hex()
