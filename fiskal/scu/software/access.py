"""Users, PINs and PUKs of a software TSE: who may do what, and who has guessed too often.

A TSE without ``users.json`` asks nobody for a PIN. With it, every change of a retry counter is on the disk before
the PIN is looked at, so that killing the process gives no further try. The PINs protect nothing against someone
who reads the folder: they are there to be rehearsed.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import os
from pathlib import Path
from typing import Final

import msgspec

from fiskal.errors import ConfigurationError
from fiskal.files import write_atomically
from fiskal.tse.encode_events import AuthenticationResult, Role, UnblockResult

FILE_NAME: Final = "users.json"
PIN_RETRIES: Final = 3
PUK_FREE_TRIES: Final = 3
"""Wrong PUKs in a row that cost nothing; each further one blocks for twice as long as the one before."""
PUK_BLOCK_MS: Final = 60_000
MIN_PIN_CHARACTERS: Final = 5
MAX_PIN_CHARACTERS: Final = 64
TRANSPORT_PUK: Final = "123456"
"""The PUK of every user of a new TSE. There is no PIN before the PUK has set one."""


class UserId(enum.StrEnum):
    """The fixed users (TR-03153-1 §6.2); ``smaadmin`` belongs to the security module application."""

    ADMIN = "admin"
    TIME_ADMIN = "timeadmin"
    LOGGER = "logger"
    SMA_ADMIN = "smaadmin"


ROLES: Final = {
    UserId.ADMIN: Role.ADMIN,
    UserId.TIME_ADMIN: Role.TIME_ADMIN,
    UserId.LOGGER: Role.LOGGER,
    UserId.SMA_ADMIN: Role.UNKNOWN,
}


class _Secret(msgspec.Struct):
    salt: bytes
    digest: bytes

    def matches(self, text: str) -> bool:
        return hmac.compare_digest(self.digest, _digest(self.salt, text))


def _digest(salt: bytes, text: str) -> bytes:
    return hashlib.scrypt(text.encode("utf-8", "surrogatepass"), salt=salt, n=1024, r=8, p=1, dklen=32)


def _secret(text: str) -> _Secret:
    salt = os.urandom(16)
    return _Secret(salt, _digest(salt, text))


class _User(msgspec.Struct):
    puk: _Secret
    pin: _Secret | None = None
    retries: int = PIN_RETRIES
    puk_failures: int = 0
    puk_blocked_until_ms: int = 0


class Access:
    """The users of the TSE in a folder. Times are milliseconds since 1970."""

    def __init__(self, folder: Path) -> None:
        """Raises :class:`fiskal.errors.ConfigurationError` if ``users.json`` is missing or cannot be read."""
        self._path = folder / FILE_NAME
        try:
            self._users = msgspec.json.decode(self._path.read_bytes(), type=dict[str, _User])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{self._path} cannot be read: {error}") from error

    @classmethod
    def create(cls, folder: Path, puk: str = TRANSPORT_PUK) -> Access:
        """Give a TSE users; those it has stay."""
        path = folder / FILE_NAME
        if not path.exists():
            users = {user.value: _User(_secret(puk)) for user in UserId}
            write_atomically(path, msgspec.json.encode(users), 0o600)
        return cls(folder)

    def _save(self) -> None:
        write_atomically(self._path, msgspec.json.encode(self._users), 0o600)

    def retries(self, user_id: str) -> int:
        """The wrong PINs that are left."""
        user = self._users.get(user_id)
        return 0 if user is None else user.retries

    def authenticate(self, user_id: str, pin: str) -> AuthenticationResult:
        """Check a PIN. A wrong one counts, the right one forgives (TR-03151 v1.0.1 §4.8.1)."""
        user = self._users.get(user_id)
        if user is None:
            return AuthenticationResult.UNKNOWN_USER_ID
        if user.retries == 0:
            return AuthenticationResult.PIN_BLOCKED
        user.retries -= 1
        self._save()
        if user.pin is None or not user.pin.matches(pin):
            return AuthenticationResult.INCORRECT_PIN
        user.retries = PIN_RETRIES
        self._save()
        return AuthenticationResult.SUCCESS

    def unblock(self, user_id: str, puk: str, new_pin: str, now_ms: int) -> UnblockResult:
        """Set a PIN with the PUK. The new PIN has been checked with :func:`pin_is_acceptable`."""
        user = self._users.get(user_id)
        if user is None:
            return UnblockResult.UNKNOWN_USER_ID
        if now_ms < user.puk_blocked_until_ms:
            return UnblockResult.TEMPORARILY_BLOCKED
        user.puk_failures += 1
        beyond = user.puk_failures - PUK_FREE_TRIES
        user.puk_blocked_until_ms = now_ms + (PUK_BLOCK_MS << min(beyond, 20)) if beyond >= 0 else 0
        self._save()
        if not user.puk.matches(puk):
            return UnblockResult.INCORRECT_PUK
        user.pin = _secret(new_pin)
        user.retries = PIN_RETRIES
        user.puk_failures = 0
        user.puk_blocked_until_ms = 0
        self._save()
        return UnblockResult.SUCCESS


def pin_is_acceptable(pin: str) -> bool:
    """A PIN is never empty (TR-03153-1 §6.2) and fits into a field."""
    return MIN_PIN_CHARACTERS <= len(pin) <= MAX_PIN_CHARACTERS
