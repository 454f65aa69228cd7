"""Which PINs a TSE has refused: none of them is ever sent to it again, whatever is restarted in between.

Three wrong PINs block a user. A host that is started again and again with a wrong PIN in its configuration would do
that within a minute.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from pathlib import Path

import msgspec

from fiskal.scu.errors import Misconfigured

log = logging.getLogger(__name__)


class _Wrong(msgspec.Struct, frozen=True):
    serial: str
    user: str
    salt: bytes
    digest: bytes


class RefusedPins:
    """Keeps salted hashes of wrong PINs in one file, by TSE and user. What cannot be written holds in this process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wrong: list[_Wrong] = []
        try:
            self._wrong = msgspec.json.decode(path.read_bytes(), type=list[_Wrong])
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            log.warning("%s cannot be read: %s", path, error)

    def check(self, serial: str, user: str, pin: str) -> None:
        """Raise ``Misconfigured`` AUTH_FAILED for a PIN that was refused before."""
        for wrong in self._wrong:
            if (wrong.serial, wrong.user) == (serial, user) and hmac.compare_digest(
                wrong.digest, _digest(wrong.salt, pin)
            ):
                raise Misconfigured(
                    "AUTH_FAILED",
                    f"The TSE has refused the PIN of user {user}; it is not sent again, because three wrong PINs "
                    "block the user. Put the right PIN into the configuration.",
                )

    def add(self, serial: str, user: str, pin: str) -> None:
        """Note that a PIN is wrong."""
        salt = os.urandom(16)
        self._wrong.append(_Wrong(serial, user, salt, _digest(salt, pin)))
        self._write()

    def forget(self, user: str) -> None:
        """A PIN was set anew: what was wrong may be right now."""
        self._wrong = [wrong for wrong in self._wrong if wrong.user != user]
        self._write()

    def _write(self) -> None:
        staged = self._path.with_suffix(".new")
        try:
            handle = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(self._wrong))
                file.flush()
                os.fsync(file.fileno())
            staged.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)


def _digest(salt: bytes, pin: str) -> bytes:
    return hashlib.scrypt(pin.encode("utf-8", "surrogatepass"), salt=salt, n=4096, r=8, p=1, dklen=32)
