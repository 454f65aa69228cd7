"""The consumer's side of an export session: fetch the archive, hash it, end the session.

A session is polled until its file is there and then read in chunks. A chunk whose answer was lost is asked for
again from the same offset; anything else that fails ends the fetch, and the log stays on the TSE.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from fiskal.errors import FiskalError
from fiskal.scu.contract import (
    Deadline,
    EndExportSessionRequest,
    EndExportSessionResponse,
    ExportDataRequest,
    ExportDataResponse,
    Scu,
    StartExportSessionRequest,
    StartExportSessionResponse,
)
from fiskal.scu.errors import ScuError, TseRejected

log = logging.getLogger(__name__)
_T = TypeVar("_T")

CHUNK_BYTES: Final = 192 << 10
"""What one ExportData asks for. Small, because who decodes it keeps the interpreter from those who sign."""
ATTEMPTS: Final = 3
"""Calls of ExportData and EndExportSession until one is answered; both may be repeated."""
RETRY_PAUSE_S: Final = 0.5
FIRST_POLL_S: Final = 0.005
LAST_POLL_S: Final = 5.0
POLL_FACTOR: Final = 1.5
YIELD_S: Final = 0.0005
"""Pause after every chunk: an export has time, a receipt has none."""
END_TIMEOUT_S: Final = 120.0
"""How long EndExportSession may take: it erases."""

Pause = Callable[[float], bool]
"""Wait so many seconds; True if the export is not wanted any more."""


def pause(seconds: float) -> bool:
    """The :data:`Pause` of those who always want their export."""
    time.sleep(seconds)
    return False


Start = Callable[[Deadline], StartExportSessionResponse]
"""Begins the session of an export."""


class ExportCancelled(FiskalError):
    """The export was given up before its end; the TSE has erased nothing."""

    code = "EXPORT_CANCELLED"


class ExportFetch:
    """One export of the log of the TSE behind ``scu``, of all of it unless ``start`` begins another session.

    Iterate over :meth:`chunks` to the end, make what came durable, then call :meth:`end`; only that erases.
    ``call_timeout_s`` limits one call, ``timeout_s`` all of :meth:`chunks`. Who does not come to
    :meth:`end` calls :meth:`abandon`.
    """

    def __init__(
        self,
        scu: Scu,
        *,
        erase: bool,
        timeout_s: float,
        call_timeout_s: float,
        pause: Pause = pause,
        start: Start | None = None,
    ) -> None:
        self._scu = scu
        self._start = start or (
            lambda deadline: scu.start_export_session(StartExportSessionRequest(erase=erase), deadline)
        )
        self._erase = erase
        self._timeout_s = timeout_s
        self._call_timeout_s = call_timeout_s
        self.pause = pause
        self._hash = hashlib.sha256()
        self._token = ""
        self.size = 0
        """Bytes received so far."""
        self.expected = -1
        """Bytes of the whole archive, -1 before they are known."""

    @property
    def sha256_base64(self) -> str:
        """The checksum of what was received."""
        return base64.b64encode(self._hash.digest()).decode()

    def chunks(self) -> Iterator[bytes]:
        """Start the session and give the archive piece by piece.

        Raises ScuError, also when ``timeout_s`` have passed, and ExportCancelled.
        """
        until = time.monotonic() + self._timeout_s
        self._token = self._start(self._deadline()).token_id
        wait = FIRST_POLL_S
        while True:
            answer = self._retry(self._ask)
            if answer.total_tar_file_size_available:
                self.expected = answer.total_tar_file_size
            if answer.tar_file_byte_chunk_base64:
                data = _decode(answer.tar_file_byte_chunk_base64)
                self._hash.update(data)
                self.size += len(data)
                yield data
                wait = FIRST_POLL_S
                self._wait(YIELD_S)
            if answer.total_tar_file_size_available and answer.tar_file_end_of_file:
                return
            if time.monotonic() > until:
                raise TseRejected(
                    "EXPORT_TIMEOUT", f"The export took longer than {self._timeout_s:g} s and was given up."
                )
            if not answer.tar_file_byte_chunk_base64:
                self._wait(wait)
                wait = min(wait * POLL_FACTOR, LAST_POLL_S)

    def end(self) -> EndExportSessionResponse:
        """Compare the checksums and let the TSE erase, if ``erase`` was given. Raises ScuError."""
        request = EndExportSessionRequest(
            token_id=self._token, sha256_checksum_base64=self.sha256_base64, erase=self._erase
        )
        timeout_s = max(END_TIMEOUT_S, self._call_timeout_s)
        answer = self._retry(lambda: self._scu.end_export_session(request, Deadline(timeout_s)))
        if answer.is_valid:
            self._token = ""
        return answer

    def abandon(self) -> None:
        """Tell the SCU that nobody will end the session. Does nothing if there is none, or it was ended."""
        token, self._token = self._token, ""
        if token:
            try:
                self._scu.abandon_export_session(token)
            except Exception as error:  # it would have expired anyway
                log.warning("export session %s could not be given up: %s", token, error)

    def _ask(self) -> ExportDataResponse:
        request = ExportDataRequest(token_id=self._token, max_chunk_size=CHUNK_BYTES)
        return self._scu.export_data(request, self._deadline(), offset=self.size)

    def _retry(self, call: Callable[[], _T]) -> _T:
        """Repeat a call whose answer may come yet."""
        for _ in range(ATTEMPTS - 1):
            try:
                return call()
            except ScuError as error:
                if not error.retryable:
                    raise
                log.info("an export call is repeated: %s", error)
                self._wait(RETRY_PAUSE_S)
        return call()

    def _wait(self, seconds: float) -> None:
        if self.pause(seconds):
            raise ExportCancelled("The export was given up.")

    def _deadline(self) -> Deadline:
        return Deadline(self._call_timeout_s)


def _decode(chunk_base64: str) -> bytes:
    try:
        return binascii.a2b_base64(chunk_base64, strict_mode=True)
    except ValueError as error:
        raise TseRejected("PROTOCOL_ERROR", f"A chunk of the export is not base64: {error}.") from error
