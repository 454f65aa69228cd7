"""Exports of the connector: base64 text by a range of time, in halves where it is too much, and acknowledgements.

What was acknowledged may be deleted by the service. The next export begins where the last acknowledgement ended, a
minute before the last export did: what is exported twice is there once in the archive.
"""

from __future__ import annotations

import binascii
import contextlib
import datetime as dt
import logging
import re
import tempfile
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from fiskal.clock import Clock, to_unix
from fiskal.scu.cloud import Attempts, StateFile, log_numbers, write_parts
from fiskal.scu.contract import Deadline
from fiskal.scu.drivers.fcc.api import FccApi
from fiskal.scu.drivers.fcc.options import Options
from fiskal.scu.errors import TseRejected, Unreachable
from fiskal.tse.tar import Sink, TarError

log = logging.getLogger(__name__)

BEGINNING: Final = 1_577_836_800
"""2020-01-01T00:00:00Z: no TSE is older."""
ACK_BEFORE_END_S: Final = 60
"""The service refuses to acknowledge the last moments."""
DOWNLOADS: Final = 3
_SPACE: Final = bytes(c for c in range(256) if c in b" \t\r\n")
_PADDED: Final = re.compile(rb"(?<==)(?!=)")


class Base64Sink:
    """Decodes base64 text to ``out`` as it comes: one text over many lines, or one text per line."""

    def __init__(self, out: Sink) -> None:
        self._out = out
        self._left = b""

    def write(self, data: bytes) -> int:
        """Raises Unreachable PROTOCOL_ERROR for what is not base64."""
        text = self._left + data.translate(None, _SPACE)
        whole = len(text) - len(text) % 4  # every text and every line of one has a multiple of four
        self._decode(text[:whole])
        self._left = text[whole:]
        return len(data)

    def _decode(self, text: bytes) -> None:
        for piece in _PADDED.split(text):
            if not piece:
                continue
            try:
                self._out.write(binascii.a2b_base64(piece, strict_mode=True))
            except ValueError as error:
                raise Unreachable("PROTOCOL_ERROR", f"The export is not base64: {error}.") from error

    def close(self) -> None:
        """The end of the text. Raises Unreachable if it was cut off."""
        left, self._left = self._left, b""
        self._decode(left)


class Progress(msgspec.Struct):
    """How far an export is."""

    state: str = ""
    parts_done: int = 0
    bytes: int = 0


class Exporter:
    """One export at a time, from one thread. ``fcc_folder`` is the connector's, if it is on this machine."""

    def __init__(
        self,
        api: FccApi,
        options: Options,
        attempts: Attempts,
        state: StateFile,
        clock: Clock,
        fcc_folder: Path | None,
    ) -> None:
        self._api = api
        self._options = options
        self._attempts = attempts
        self._state = state
        self._clock = clock
        self._foreign_mark = None if fcc_folder is None else fcc_folder / ".fccdata" / "_lastexport.log"
        self.progress = Progress()
        self._newest = 0

    def note(self, log_time: int) -> None:
        """The time (ticks) of a log message: an export goes at least up to it, should the host's clock be late."""
        self._newest = max(self._newest, to_unix(log_time))

    def run(self, out: Sink) -> int:
        """Write the archive of what was not acknowledged; return its greatest signatureCounter."""
        first, last = self._begin(), max(to_unix(self._clock()), self._newest)
        self.progress = Progress(state="DOWNLOADING")
        parts: list[tuple[int, int]] = []
        last_counter = 0
        ranges = [(first, last)] if first <= last else []
        with contextlib.ExitStack() as stack:
            files: list[IO[bytes]] = []
            while ranges:
                begin, end = ranges.pop(0)
                file = stack.enter_context(tempfile.TemporaryFile(prefix="fiskal-export-"))
                status = self._fetch(begin, end, file, out)
                if status == 413:
                    if begin >= end:
                        raise TseRejected(
                            "EXPORT_FAILED", f"One second ({_iso(begin)}) has too many records."
                        )
                    middle = begin + (end - begin) // 2
                    ranges[:0] = [(begin, middle), (middle + 1, end)]
                    continue
                if status != 404:
                    files.append(file)
                    last_counter = max(
                        [last_counter, *(counter for counter, _ in log_numbers(_rewound(file)))]
                    )
                parts.append((begin, end))
                self.progress.parts_done += 1
            write_parts(files, out, self._clock)
        self.progress.state = "DONE"
        self._state.set(
            exported={"counter": last_counter, "parts": [list(part) for part in parts], "end": last}
        )
        return last_counter

    def _begin(self) -> int:
        """Where the last acknowledgement ended (Unix seconds)."""
        own = self._state.get("acknowledged_until")
        if isinstance(own, int):
            return own
        if self._foreign_mark is not None:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                mark: dict[str, Any] = msgspec.json.decode(self._foreign_mark.read_bytes())
                return int(dt.datetime.fromisoformat(mark["EndDate"]).timestamp())
        return BEGINNING

    def _fetch(self, begin: int, end: int, file: IO[bytes], out: Sink) -> int:
        """One range into a file; returns 200, 404 (nothing) or 413 (too much)."""
        path = f"/export/transactions/time?startDate={_iso(begin)}&endDate={_iso(end)}"
        failed: Exception
        until = Deadline(self._options.export_total_timeout_s)
        for _ in range(DOWNLOADS):
            file.seek(0)
            file.truncate()
            try:
                sink = Base64Sink(file)
                idle_s = self._options.export_http_timeout_ms / 1000
                answer = self._api.download(path, sink, until, idle_s=idle_s)
                if answer.status in (404, 413):
                    if answer.status == 404 and self._api.one_identity:
                        path = "/export/transactions"  # a server that only exports everything
                        continue
                    return answer.status
                sink.close()
                for _ in log_numbers(_rewound(file)):
                    pass
            except (Unreachable, TarError) as error:
                failed = error
                self._attempts.wait(self._options.retry_base_ms / 1000)
                out.write(b"")  # raises if the session was given up
                continue
            self.progress.bytes += file.tell()
            return 200
        raise TseRejected("EXPORT_FAILED", f"The export could not be fetched: {failed}") from failed

    def acknowledge(self, last_counter: int, deadline: Deadline) -> None:
        """Acknowledge the ranges of the last export but for its last minute. Raises ScuError."""
        exported = self._state.get("exported")
        if not isinstance(exported, dict) or exported.get("counter") != last_counter:
            raise TseRejected(
                "EXPORT_FAILED", "Which range the export had is not known; it is exported again."
            )
        until = int(exported["end"]) - ACK_BEFORE_END_S
        parts = [(int(first), min(int(last), until)) for first, last in exported["parts"]]
        if len(parts) == 1:
            parts = [(BEGINNING, until)]
        for first, last in parts:
            if first > last:
                continue
            path = f"/export/transactions/time?startDate={_iso(first)}&endDate={_iso(last)}"
            answer = self._api.as_admin(
                "admin_restricted",
                "POST",
                path,
                deadline,
                seconds=self._options.admin_timeout_ms / 1000,
                body=b"ACK",
                content_type="text/plain",
                changes=True,
            )
            if answer.status == 413:
                self._api.refuse(answer, changes=False)
        self._state.set(acknowledged_until=until)
        if self._foreign_mark is not None and self._foreign_mark.parent.is_dir():
            try:
                self._foreign_mark.write_bytes(
                    msgspec.json.encode({"EndDate": _iso(until), "ClientId": None})
                )
            except OSError as error:
                log.warning("%s could not be written: %s", self._foreign_mark, error)


def _rewound(file: IO[bytes]) -> IO[bytes]:
    file.seek(0)
    return file


def _iso(unix: int) -> str:
    return dt.datetime.fromtimestamp(unix, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
