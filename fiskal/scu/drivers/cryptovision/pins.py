"""PINs and PUKs: how they are written, the ones everybody knows, and that a wrong one is never tried twice."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import secrets
from pathlib import Path
from typing import Final

import msgspec

from fiskal.errors import ConfigurationError
from fiskal.scu.errors import Misconfigured

log = logging.getLogger(__name__)

ADMIN: Final = "Admin"
TIME_ADMIN: Final = "TimeAdmin"
PIN_BYTES: Final = 8
PUK_BYTES: Final = 10
FILE_NAME: Final = "pins.json"

DEFAULTS: Final = {
    "admin_pin": bytes(range(1, 9)),
    "admin_puk": bytes(range(1, 11)),
    "time_admin_pin": b"22222222",
    "time_admin_puk": b"something!",
}
"""What another middleware gives every TSE: whoever finds such a stick can use it."""


def secret(name: str, text: str | None, allow_default: bool) -> bytes | None:
    """Read a PIN or PUK of the configuration: text in UTF-8, or ``hex:`` and its bytes; None if there is none.

    Raises ConfigurationError, which never shows it.
    """
    if not text:
        return None
    wanted = PUK_BYTES if name.endswith("puk") else PIN_BYTES
    try:
        value = bytes.fromhex(text[4:]) if text.startswith("hex:") else text.encode()
    except (ValueError, UnicodeEncodeError):
        raise ConfigurationError(
            f"{name} is neither text nor 'hex:' with an even number of hex digits"
        ) from None
    if len(value) != wanted:
        raise ConfigurationError(
            f"{name} has {len(value)} bytes instead of {wanted}. Write bytes that are no text as 'hex:0102…'."
        )
    if value == DEFAULTS[name] and not allow_default:
        raise ConfigurationError(
            f"{name} is the one that everybody knows. Set 'allow_default_pins' to true only for a TSE that was given "
            "it by another middleware."
        )
    return value


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """The four secrets of a TSE, each None if it is not configured. Not shown anywhere."""

    admin_pin: bytes | None = None
    admin_puk: bytes | None = None
    time_admin_pin: bytes | None = None
    time_admin_puk: bytes | None = None

    def __repr__(self) -> str:
        return "Secrets(…)"

    def pin(self, user: str) -> bytes | None:
        return self.admin_pin if user == ADMIN else self.time_admin_pin

    def puk(self, user: str) -> bytes | None:
        return self.admin_puk if user == ADMIN else self.time_admin_puk


def new_secrets() -> dict[str, str]:
    """Make four secrets of digits for a new TSE, by the names they have among the options."""
    return {
        name: "".join(secrets.choice("0123456789") for _ in range(len(value)))
        for name, value in DEFAULTS.items()
    }


def write_recovery_sheet(folder: Path, unique_id: bytes, known: Secrets) -> Path:
    """Write down what opens a TSE, before it is given to it: without its PUK a blocked PIN is blocked for ever.

    Returns the file, which only its owner can read. An older sheet of the same TSE is kept beside it.
    """
    lines = [
        "Recovery sheet of a TSE (Cryptovision / Bundesdruckerei)",
        "",
        "Print this, put it into the safe, then delete the file. PUKs can never be changed.",
        "",
        f"Device id      {unique_id.hex()}",
    ]
    for name in DEFAULTS:
        value = getattr(known, name)
        lines.append(f"{name:15}hex:{value.hex() if value else '(unchanged)'}")
    text = "\n".join(lines) + "\n"
    number = 1
    while True:
        suffix = "" if number == 1 else f"-{number}"
        path = folder / f"recovery-sheet-{unique_id.hex()}{suffix}.txt"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            if path.read_text(encoding="utf-8") == text:
                return path
            number += 1
            continue
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        return path


class _Refused(msgspec.Struct):
    salt: bytes
    digest: bytes
    remaining: int


class Latch:
    """Remembers, also over a restart, which PIN a TSE refused, so that it is never sent a second time.

    ``last_try`` allows a PIN although it is the last one before the user is blocked.
    """

    def __init__(self, folder: Path, *, last_try: bool = False) -> None:
        self._path = folder / FILE_NAME
        self._last_try = last_try
        self._known: dict[str, _Refused] = {}
        try:
            self._known = msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Refused])
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            log.warning(
                "%s cannot be read (%s): wrong PINs from before are not remembered", self._path, error
            )

    def check(self, user: str, pin: bytes) -> None:
        """Raise ``Misconfigured`` AUTH_FAILED if this PIN must not be tried."""
        refused = self._known.get(user)
        if refused is None:
            return
        if hmac.compare_digest(refused.digest, _digest(refused.salt, pin)):
            raise Misconfigured(
                "AUTH_FAILED",
                f"The TSE has refused this PIN of {user}; {_tries(refused.remaining)}. It is not tried again: "
                "correct it in the configuration.",
            )
        if refused.remaining <= 1 and not self._last_try:
            raise Misconfigured(
                "AUTH_FAILED",
                f"{_tries(refused.remaining).capitalize()} for {user}, then the TSE blocks the PIN. If this one is "
                "right, set 'allow_last_pin_attempt' to true.",
            )

    def remaining(self, user: str) -> int | None:
        """How many tries were left at the last refusal; None without one."""
        refused = self._known.get(user)
        return None if refused is None else refused.remaining

    def refuse(self, user: str, pin: bytes, remaining: int) -> None:
        """Note that the TSE refused a PIN."""
        salt = secrets.token_bytes(16)
        self._known[user] = _Refused(salt, _digest(salt, pin), remaining)
        self._save()

    def accept(self, user: str) -> None:
        """Note that the TSE took the PIN of a user."""
        if self._known.pop(user, None) is not None:
            self._save()

    def _save(self) -> None:
        staged = self._path.with_suffix(".new")
        try:
            with contextlib.suppress(FileNotFoundError):
                staged.unlink()
            fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(msgspec.json.encode(self._known))
                file.flush()
                os.fsync(file.fileno())
            staged.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)


def _digest(salt: bytes, pin: bytes) -> bytes:
    return hashlib.scrypt(pin, salt=salt, n=1024, r=8, p=1, dklen=32)


def _tries(remaining: int) -> str:
    return (
        "no tries are left"
        if remaining == 0
        else f"{remaining} {'try is' if remaining == 1 else 'tries are'} left"
    )
