"""Exports at the vendor: ordered, waited for, fetched, checked, put together.

A log is exported by signatureCounter, because an export by transaction numbers leaves out the system logs and, for
good, the end of a transaction that was open during it. A job that was ordered is remembered in the SCU's folder: after
a restart it is not ordered again but waited for.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
import uuid
from typing import IO, Any, Final

import msgspec

from fiskal.clock import Clock, to_unix
from fiskal.scu.cloud import Again, Attempts, Checksum, StateFile, log_numbers, write_parts
from fiskal.scu.contract import Deadline
from fiskal.scu.driver import Selection
from fiskal.scu.drivers.fiskaly import wire
from fiskal.scu.drivers.fiskaly.api import Api
from fiskal.scu.drivers.fiskaly.options import Options
from fiskal.scu.errors import NotSupported, TseRejected, Unreachable
from fiskal.tse.tar import Sink, TarError

log = logging.getLogger(__name__)

MARK: Final = "LastExportedSignatureCounter"
NUMBER_MARK: Final = "LastExportedTransactionNumber"
"""The mark of other software, which exports by numbers."""
DOWNLOADS: Final = 3
_SLICE_S: Final = 1.0
_GONE: Final = ("CANCELLED", "EXPIRED", "DELETED")


class Progress(msgspec.Struct):
    """How far an export is. ``state`` is the vendor's, then DOWNLOADING and DONE."""

    state: str = ""
    parts: int = 0
    parts_done: int = 0
    bytes: int = 0
    sha256: str = ""
    """Of the part that was fetched last."""


class _Part(msgspec.Struct, frozen=True):
    """One export at the vendor: its query, and the counters it is about (0, 0 if it is not about counters)."""

    query: dict[str, str]
    first: int = 0
    last: int = 0


class Exporter:
    """One at a time, from one thread."""

    def __init__(
        self, api: Api, options: Options, attempts: Attempts, state: StateFile, tss_path: str, clock: Clock
    ) -> None:
        self._api = api
        self._options = options
        self._attempts = attempts
        self._state = state
        self._path = tss_path
        self._clock = clock
        self._info_s = options.info_timeout_ms / 1000
        self.progress = Progress()

    def run(self, tss: wire.Tss, selection: Selection, client: str | None, out: Sink) -> int:
        """Write the archive of a selection; ``client`` is the id at the service of the client it names."""
        parts = self._parts(tss, selection, client)
        self.progress = Progress(parts=len(parts))
        last_counter = last_number = 0
        with contextlib.ExitStack() as stack:
            files: list[IO[bytes]] = []
            while parts:
                part = parts.pop(0)
                file = stack.enter_context(tempfile.TemporaryFile(prefix="fiskal-export-"))
                try:
                    found = self._fetch(part, file, out)
                except TseRejected as error:
                    if error.vendor_code != "E_TOO_MANY_RECORDS" or part.last <= part.first:
                        raise
                    middle = (part.first + part.last) // 2
                    parts[:0] = [_window(part.first, middle), _window(middle + 1, part.last)]
                    self.progress.parts += 1
                    continue
                if found:
                    files.append(file)
                    for counter, number in log_numbers(file):
                        last_counter = max(last_counter, counter)
                        last_number = max(last_number, number)
                self.progress.parts_done += 1
            write_parts(files, out, self._clock)
        self.progress.state = "DONE"
        self._state.set(export=None, exported={"counter": last_counter, "number": last_number})
        return last_counter

    def _parts(self, tss: wire.Tss, selection: Selection, client: str | None) -> list[_Part]:
        by_number = selection.first_number is not None or selection.last_number is not None
        by_time = selection.first_time is not None or selection.last_time is not None
        if (client is not None) + by_number + by_time + (selection.after_counter > 0) > 1:
            raise NotSupported(
                "NOT_IMPLEMENTED", "fiskaly exports by client, numbers, times or counter, one of them."
            )
        if client is not None:
            return [_Part({"client_id": client})]
        if by_number:
            return [
                _Part(
                    _given(
                        start_transaction_number=selection.first_number,
                        end_transaction_number=selection.last_number,
                    )
                )
            ]
        if by_time:
            first, last = selection.first_time, selection.last_time
            return [
                _Part(
                    _given(
                        start_date=None
                        if first is None
                        else max(0, -to_unix(-first) if first < 0 else _up(first)),
                        end_date=None if last is None else max(0, to_unix(last)),
                    )
                )
            ]
        first_counter = selection.after_counter + 1
        if selection.whole and self._options.export_from == "mark":
            first_counter = self._mark(tss) + 1
        size = self._options.max_export_records
        end = tss.signature_counter
        windows = []
        resumed = self._resumable(first_counter, end)
        if resumed is not None:
            windows.append(resumed)
            first_counter = resumed.last + 1
        windows += [
            _window(first, min(first + size - 1, end)) for first in range(first_counter, end + 1, size)
        ]
        return windows

    def _mark(self, tss: wire.Tss) -> int:
        """The last signatureCounter that was exported and handed over; 0 if nobody said so."""
        value = (tss.metadata or {}).get(MARK)
        try:
            return max(0, int(str(value))) if value is not None else 0
        except ValueError:
            log.warning("the mark %r of the TSS is no number; the whole log is exported", str(value)[:40])
            return 0

    def _resumable(self, first: int, end: int) -> _Part | None:
        """The job that an earlier process had ordered, if it begins where this export begins."""
        job = self._state.get("export")
        if (
            not isinstance(job, dict)
            or job.get("first") != first
            or not first <= int(job.get("last", 0)) <= end
        ):
            return None
        return _window(first, int(job["last"]))

    # ---- one part -------------------------------------------------------------------------------

    def _fetch(self, part: _Part, file: IO[bytes], out: Sink) -> bool:
        """Order, wait for and fetch one part; False if there is nothing in it."""
        waited = _Waiting(self._options.export_total_timeout_s, self._attempts, out)
        export_id = self._ordered(part)
        while True:
            if export_id is None:
                export_id = self._order(part, waited)
            export = self._poll(export_id, waited)
            if export is not None and export.state == "COMPLETED":
                break
            if export is None or export.state in _GONE:
                log.warning("export %s of the TSS is gone and is ordered again", export_id)
                export_id = None
                waited.sleep(self._options.export_poll_s)
                continue
            if export.state == "ERROR":
                self._state.set(export=None)
                if export.exception == "E_NO_DATA_AVAILABLE":
                    return False
                raise TseRejected(
                    "EXPORT_FAILED",
                    f"The export failed at fiskaly: {export.exception or 'no reason given'}.",
                    vendor_code=export.exception,
                )
            self.progress.state = export.state
            waited.sleep(self._options.export_poll_s)
        self.progress.state = "DOWNLOADING"
        self._download(export_id, file, waited)
        return True

    def _ordered(self, part: _Part) -> str | None:
        """The id under which a part was ordered before."""
        job = self._state.get("export")
        if isinstance(job, dict) and job.get("query") == part.query and isinstance(job.get("id"), str):
            log.info("export %s of the TSS was ordered before and is waited for", job["id"])
            return str(job["id"])
        return None

    def _order(self, part: _Part, waited: _Waiting) -> str:
        export_id = str(uuid.uuid4())
        self._state.set(export={"id": export_id, "query": part.query, "first": part.first, "last": part.last})
        query = "&".join(f"{name}={value}" for name, value in part.query.items())
        try:
            self._api.call(
                "PUT",
                f"{self._path}/export/{export_id}?{query}",
                wire.Export,
                Deadline(self._info_s * 3),
                seconds=self._info_s,
                body=b"{}",
                changes=False,  # the id makes a repetition harmless
            )
        except TseRejected as error:
            if error.vendor_code != "E_DUPLICATE_EXPORT":
                self._state.set(export=None)
                raise
        return export_id

    def _poll(self, export_id: str, waited: _Waiting) -> wire.Export | None:
        """The job's state, None if the service does not know it."""
        try:
            return self._api.call(
                "GET",
                f"{self._path}/export/{export_id}",
                wire.Export,
                Deadline(self._info_s * 3),
                seconds=self._info_s,
            )
        except TseRejected as error:
            if error.vendor_code == "E_EXPORT_NOT_FOUND":
                return None
            raise
        except Unreachable as error:
            # Nobody waits in front of a till: the network may come back.
            pause = (error.retry_after_ms or 0) / 1000
            waited.sleep(max(pause, self._options.export_poll_s), error)
            return wire.Export(id=export_id, state="WORKING")

    def _download(self, export_id: str, file: IO[bytes], waited: _Waiting) -> None:
        """Fetch the file and read it through; an archive that is cut off is fetched again."""
        path = f"{self._path}/export/{export_id}/file"
        error: Exception
        for _ in range(DOWNLOADS):
            file.seek(0)
            file.truncate()
            sink = Checksum(file)
            try:
                self._api.download(
                    path,
                    sink,
                    Deadline(self._options.export_total_timeout_s),
                    idle_s=self._options.export_http_timeout_ms / 1000,
                )
                file.seek(0)
                for _ in log_numbers(file):
                    pass
                file.seek(0)
            except Again as again:
                error = again.error
                waited.sleep(max(again.after_s or 0, self._options.export_poll_s), again.error)
                continue
            except TarError as broken:
                error = broken
                waited.sleep(self._options.export_poll_s)
                continue
            self.progress.bytes += sink.size
            self.progress.sha256 = sink.sha256
            return
        raise TseRejected(
            "EXPORT_FAILED", f"The file of export {export_id} could not be fetched: {error}"
        ) from error

    # ---- the mark -------------------------------------------------------------------------------

    def move_mark(self, last_counter: int, deadline: Deadline) -> None:
        """Note at the TSS up to where its log was exported. Raises ScuError."""
        members = {MARK: str(last_counter)}
        exported = self._state.get("exported")
        if isinstance(exported, dict) and exported.get("counter") == last_counter and exported.get("number"):
            members[NUMBER_MARK] = str(exported["number"])
        self._api.call(
            "PATCH",
            f"{self._path}/metadata",
            dict[str, Any],
            deadline,
            seconds=self._info_s,
            body=msgspec.json.encode(members),
            changes=False,  # the same mark twice is the same mark
        )


class _Waiting:
    """Waits that together last no longer than an export may, and that end when nobody wants it any more."""

    def __init__(self, seconds: float, attempts: Attempts, out: Sink) -> None:
        self._left = seconds
        self._attempts = attempts
        self._out = out
        self._began = time.monotonic()

    def sleep(self, seconds: float, reason: Exception | None = None) -> None:
        if seconds > self._left - (time.monotonic() - self._began):
            raise TseRejected(
                "EXPORT_TIMEOUT", "The export took too long at fiskaly and was given up."
            ) from reason
        while seconds > 0:
            step = min(seconds, _SLICE_S)
            self._attempts.wait(step)
            self._out.write(b"")  # raises if the session was given up
            seconds -= step


def _window(first: int, last: int) -> _Part:
    query = _given(
        start_signature_counter=first, end_signature_counter=last, maximum_number_records=1_000_000
    )
    return _Part(query, first, last)


def _given(**values: int | None) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}


def _up(ticks: int) -> int:
    """Unix seconds, rounded up."""
    seconds = to_unix(ticks)
    return seconds if to_unix(ticks - 1) != seconds else seconds + 1
