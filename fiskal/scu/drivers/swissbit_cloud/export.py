"""The one export that the service keeps: ordered if there is none, waited for, fetched; deleted, and the log with it.

An export that lies there already, of a process that died or of an export that was not to erase anything, is taken as it
is: only its deletion makes room for another one, and that deletes the log in it.
"""

from __future__ import annotations

import logging
import tempfile
import time
from typing import IO, Final

import msgspec

from fiskal.clock import Clock
from fiskal.scu.cloud import Again, Attempts, StateFile, log_numbers, write_parts
from fiskal.scu.contract import Deadline
from fiskal.scu.drivers.swissbit_cloud import wire
from fiskal.scu.drivers.swissbit_cloud.api import Api
from fiskal.scu.drivers.swissbit_cloud.options import Options
from fiskal.scu.errors import ScuError, TseRejected, Unreachable
from fiskal.tse.logmessage import LogMessage, LogMessageError, parse
from fiskal.tse.tar import Sink, TarError, read_members

log = logging.getLogger(__name__)

PATH: Final = "/api/v1/tse/export"
DOWNLOADS: Final = 3
_SLICE_S: Final = 1.0


class Progress(msgspec.Struct):
    """How far an export is. ``state`` is the vendor's, then DOWNLOADING and DONE."""

    state: str = ""
    bytes: int = 0


class Exporter:
    def __init__(
        self, api: Api, options: Options, attempts: Attempts, state: StateFile, clock: Clock
    ) -> None:
        self._api = api
        self._options = options
        self._attempts = attempts
        self._state = state
        self._clock = clock
        self._info_s = options.info_timeout_ms / 1000
        self.progress = Progress()

    def run(self, out: Sink) -> int:
        """Write the archive; return its greatest signatureCounter."""
        self.progress = Progress()
        with tempfile.TemporaryFile(prefix="fiskal-export-") as file:
            export = self._finished(out, self._options.export_total_timeout_s)
            deadline = Deadline(self._options.export_total_timeout_s)
            last_counter = self._download(export, file, deadline, out)
            self._state.set(exported={"id": export.id, "counter": last_counter})
            write_parts([file], out, self._clock)
        self.progress.state = "DONE"
        return last_counter

    def _exists(self) -> wire.Export | None:
        listed = self._api.call(
            "GET", PATH, list[wire.Export], Deadline(3 * self._info_s), seconds=self._info_s
        )
        return listed[0] if listed else None

    def _order(self) -> wire.Export:
        export = self._exists()
        if export is None:
            try:
                return self._api.call(
                    "POST",
                    PATH,
                    wire.Export,
                    Deadline(3 * self._info_s),
                    seconds=self._info_s,
                    body=b"",
                    changes=True,
                )
            except ScuError:
                export = self._exists()  # it may have been ordered all the same
                if export is None:
                    raise
        log.info("the service holds export %s already; it is taken", export.id)
        return export

    def _finished(self, out: Sink | None, seconds: float) -> wire.Export:
        """The export when it is there. Raises TseRejected EXPORT_FAILED or EXPORT_TIMEOUT."""
        began, slept = time.monotonic(), 0.0
        export = self._order()
        while export.status.lower() != "success":
            self.progress.state = export.status
            if export.status.lower() == "failure":
                self._state.set(failed=export.id)
                raise TseRejected(
                    "EXPORT_FAILED",
                    f"The export failed at the service: {export.errorCode or ''} {export.errorMessage or ''}".strip(),
                    vendor_code=export.errorCode,
                )
            pause = self._options.export_poll_s if slept or out is not None else min(1.0, seconds / 4)
            if max(time.monotonic() - began, slept) + pause > seconds:
                raise TseRejected(
                    "EXPORT_TIMEOUT", "The export took too long at the service and was given up."
                )
            left = pause
            while left > 0:
                step = min(left, _SLICE_S)
                self._attempts.wait(step)
                if out is not None:
                    out.write(b"")  # raises if the session was given up
                left -= step
            slept += pause
            try:
                export = self._api.call(
                    "GET",
                    f"{PATH}/{export.id}",
                    wire.Export,
                    Deadline(3 * self._info_s),
                    seconds=self._info_s,
                )
            except Unreachable as error:
                log.warning("the export could not be asked for: %s", error)
        return export

    def _download(self, export: wire.Export, file: IO[bytes], deadline: Deadline, out: Sink | None) -> int:
        """Fetch the archive and read it through; returns its greatest signatureCounter."""
        self.progress.state = "DOWNLOADING"
        failed: Exception = TseRejected("EXPORT_FAILED", "it has no downloadUrl")
        for _ in range(DOWNLOADS):
            if not export.downloadUrl:
                break
            file.seek(0)
            file.truncate()
            try:
                size = self._api.download(
                    export.downloadUrl,
                    file,
                    deadline,
                    idle_s=self._options.export_http_timeout_ms / 1000,
                    hosts=self._options.download_hosts,
                )
                file.seek(0)
                last_counter = max((counter for counter, _ in log_numbers(file)), default=0)
            except Again as again:
                failed = again.error
            except TarError as error:
                failed = error
            else:
                self.progress.bytes = size
                return last_counter
            self._attempts.wait(self._options.retry_base_ms / 1000)
            if out is not None:
                out.write(b"")
        raise TseRejected(
            "EXPORT_FAILED", f"The archive of export {export.id} could not be fetched: {failed}"
        )

    def log_of(self, number: int, deadline: Deadline) -> list[LogMessage] | None:
        """The log of one transaction out of the export that is there or is ordered now; None if that takes too long
        or it is not in it. Raises ScuError."""
        try:
            export = self._finished(None, deadline.remaining())
            with tempfile.TemporaryFile(prefix="fiskal-export-") as file:
                self._download(export, file, deadline, None)
                file.seek(0)
                found = []
                for member in read_members(file):
                    if member.data is not None and member.name.endswith(".log"):
                        message = parse(member.data)
                        if message.transaction_number == number:
                            found.append(message)
        except (TarError, LogMessageError, TseRejected) as error:
            log.warning("the log of transaction %d could not be looked up: %s", number, error)
            return None
        return sorted(found, key=lambda message: message.signature_counter) or None

    def delete(self, last_counter: int, deadline: Deadline) -> None:
        """Delete the last export and with it the log in it; one that is gone was deleted. Raises ScuError."""
        exported = self._state.get("exported")
        if not isinstance(exported, dict) or exported.get("counter") != last_counter:
            raise TseRejected("EXPORT_FAILED", "Which export that was is not known; nothing is erased.")
        export = self._exists()
        if export is None or export.id != exported["id"]:
            return
        deleted = self._api.call(
            "DELETE",
            f"{PATH}/{export.id}",
            bytes,
            deadline,
            seconds=self._options.admin_timeout_ms / 1000,
        )
        try:
            refused = (
                msgspec.json.decode(deleted, type=wire.Export, strict=False).errorCode if deleted else None
            )
        except msgspec.DecodeError:
            refused = None
        if refused:
            raise TseRejected(
                "ERASE_FAILED", f"The service did not delete the log: {refused}.", vendor_code=refused
            )
