"""PINs and PUKs of one device: a wrong one is never sent twice, and what is known of tries outlives the process.

The device blocks a user after three wrong PINs and ends for good after three wrong PUKs, and it does not say how many
are left. So each wrong one is noted, as a fingerprint, before the next can be tried.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path
from typing import Final

import msgspec

from fiskal.files import write_atomically
from fiskal.scu.drivers.swissbit.cards import PIN_BLOCKED, CardError
from fiskal.scu.errors import Misconfigured

FILE_NAME: Final = "swissbit-tries.json"
TRIES: Final = 3
"""*inferred*: so many wrong ones block a user."""


class _Tries(msgspec.Struct):
    salt: bytes
    wrong: dict[str, list[bytes]] = {}
    blocked: list[str] = []


class Guard:
    """Stands before every use of a secret. ``folder`` None remembers in memory only."""

    def __init__(self, folder: Path | None, serial: str, *, last_try: bool) -> None:
        self._path = None if folder is None else folder / FILE_NAME
        self._serial = serial
        self._last_try = last_try
        self._all: dict[str, _Tries] = {}
        if self._path is not None and self._path.exists():
            try:
                self._all = msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Tries])
            except (OSError, msgspec.DecodeError):
                self._all = {}
        self._tries = self._all.setdefault(serial, _Tries(os.urandom(16)))

    def _print(self, secret: bytes) -> bytes:
        return hashlib.scrypt(secret, salt=self._tries.salt, n=1024, r=8, p=1, dklen=16)

    def _save(self) -> None:
        if self._path is not None:
            write_atomically(self._path, msgspec.json.encode(self._all), 0o600)

    def tries_left(self, name: str) -> int:
        """Wrong secrets that this process and those before it have left, if nobody else tried."""
        if name in self._tries.blocked:
            return 0
        return TRIES - len(self._tries.wrong.get(name, []))

    def check(self, name: str, secret: bytes) -> None:
        """Raise Misconfigured if ``secret`` must not be sent: it is known to be wrong, blocked, or the last try."""
        if name in self._tries.blocked:
            raise Misconfigured(
                "PIN_BLOCKED",
                f"The {name} is blocked: unblock it with the PUK (fiskal tse unblock), then configure the new PIN.",
            )
        wrong = self._tries.wrong.get(name, [])
        printed = self._print(secret) if wrong else b""
        if any(hmac.compare_digest(printed, known) for known in wrong):
            raise Misconfigured(
                "AUTH_FAILED",
                f"The {name} that is configured was refused by the TSE before and is not sent again "
                f"({self.tries_left(name)} tries are left). Configure the right one.",
            )
        if len(wrong) >= TRIES - 1 and not self._last_try:
            raise Misconfigured(
                "AUTH_FAILED",
                f"{len(wrong)} wrong ones were tried as {name}; another wrong one blocks it. If you are sure of this "
                "one, set last_try.",
            )

    def refused(self, name: str, secret: bytes, error: CardError) -> None:
        """Note what the device said to ``secret``."""
        if error.code == PIN_BLOCKED:
            self._tries.blocked.append(name)
        elif error.wrong_pin:
            self._tries.wrong.setdefault(name, []).append(self._print(secret))
        else:
            return
        self._save()

    def accepted(self, name: str) -> None:
        """The device took it: its counter starts again."""
        if self._tries.wrong.pop(name, None) is not None or name in self._tries.blocked:
            if name in self._tries.blocked:
                self._tries.blocked.remove(name)
            self._save()
