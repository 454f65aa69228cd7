"""TAR exports: what a receipt asks for is archived in ftJournalDE, and only then erased from the TSE.

A closing notes in the commit of its answer that an export is due, so that nothing of it stands between the
closing and its answer, and a crash forgets none. The export itself runs outside the queue's lock: receipts of
this queue and of others at the same TSE go on meanwhile. Its order is that of safety: store the archive part by
part, read it back and compare, note it as written, and only then confirm the checksum, which lets the TSE erase.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from fiskal.clock import Clock
from fiskal.conversation import Call
from fiskal.core import format_ticks_ms
from fiskal.errors import FiskalError, StoreError
from fiskal.queue.binding import ScuBinding
from fiskal.queue.ids import GuidSource
from fiskal.queue.settings import QueueSettings, TarFileExportMode
from fiskal.scu.contract import Deadline
from fiskal.scu.errors import TseRejected, Unreachable
from fiskal.scu.fetch import ExportCancelled, ExportFetch, Pause
from fiskal.store import Change, ExportState, JournalDERow, Store, exportfile

_log = logging.getLogger("fiskal.queue")

_LOCK_POLL_S: Final = 0.1
_NOT_IN_FILE_NAMES: Final = re.compile(r'[\x00-\x1f"*/:<>?\\|]')


class TarExports:
    """The exports of one queue. Thread-safe; needs no lock of the queue.

    ``folder`` is where StoreTemporaryExportFiles keeps its files, None if there is no such place.
    """

    def __init__(
        self,
        store: Store,
        queue_id: str,
        client_id: str,
        settings: QueueSettings,
        folder: Path | None,
        *,
        clock: Clock,
        new_guid: GuidSource,
    ) -> None:
        self._store = store
        self._queue_id = queue_id
        self._client_id = client_id
        self._mode = settings.tar_file_export_mode
        self._keep_files = settings.store_temporary_export_files
        self._timeout_s = settings.tar_export_timeout_s
        self._call_timeout_s = settings.scu_timeout_ms / 1000
        self._folder = folder
        self._clock = clock
        self._new_guid = new_guid

    @property
    def wanted(self) -> bool:
        return self._mode is not TarFileExportMode.NONE

    def due(self, item_id: str, number: int, scu_id: str, now: int) -> JournalDERow:
        """The row of an export that the receipt ``number`` (of item ``item_id``) asks for."""
        moment = re.sub(r"[^0-9]", "", format_ticks_ms(now))
        client = _NOT_IN_FILE_NAMES.sub("", self._client_id)
        return JournalDERow(
            self._new_guid(),
            self._queue_id,
            item_id,
            number,
            f"{moment}_{client}",
            ".zip",
            now,
            ExportState.DUE,
            scu_id,
            0,
            0,
            0,
            "",
            None,
        )

    def take_up(self) -> tuple[list[JournalDERow], list[tuple[str, str]]]:
        """After a start: what of earlier exports is still due, and (item id, message) for the action journal.

        An archive that was complete becomes part of the journal, for the TSE may have erased what is in it. Of
        an incomplete one the TSE erased nothing: it is made again, once for each TSE.
        """
        rows = self._store.unfinished_exports(self._queue_id)
        if not rows:
            return [], []
        now = self._clock()
        change = Change()
        messages = []
        written: list[JournalDERow] = []
        due: dict[str, JournalDERow] = {}
        for row in rows:
            if row.State == ExportState.WRITTEN:
                written.append(row._replace(State=ExportState.STORED, TimeStamp=now))
                messages.append(
                    (
                        row.ftQueueItemId,
                        f"TAR export {row.FileName} was archived when the middleware stopped; whether the TSE "
                        "erased its log is not known.",
                    )
                )
                continue
            change.exports_removed.append(row.ftJournalDEId)
            if self.wanted:
                due[row.scu_id] = row._replace(ftJournalDEId=self._new_guid(), TimeStamp=now)
        change.exports += written
        change.exports += due.values()
        self._store.commit(change)
        for row in written:
            problem = self._save_file(row)
            if problem is not None:
                messages.append((row.ftQueueItemId, problem))
        return list(due.values()), messages

    # ---- one export -----------------------------------------------------------------------------

    def run(self, row: JournalDERow, binding: ScuBinding, pause: Pause) -> str | None:
        """Export the whole log of the TSE into the due ``row``. What is to be journalled about it, if anything.

        What fails is said, not raised. Raises only ExportCancelled: then ``row`` is still due.
        """
        try:
            return self._run(row, binding, pause)
        except ExportCancelled:
            raise
        except Exception as error:
            if not isinstance(error, FiskalError):
                _log.exception("a TAR export failed unexpectedly")
            message = f"TAR export failed: {_describe(error)} The TSE keeps its log."
            return self._give_up(row, message)

    def _run(self, row: JournalDERow, binding: ScuBinding, pause: Pause) -> str | None:
        if self._mode is TarFileExportMode.ERASED:
            open_count = binding.tse_info(
                Deadline(self._call_timeout_s)
            ).current_number_of_started_transactions
            if open_count:
                return self._give_up(
                    row,
                    f"TAR export was left out: {open_count} transactions are open on the TSE, so that it would "
                    "not erase its log.",
                )
        self._enter(binding.export_lock, pause)
        try:
            fetch = ExportFetch(
                binding.scu,
                erase=True,
                timeout_s=self._timeout_s,
                call_timeout_s=self._call_timeout_s,
                pause=pause,
            )
            try:
                return self._fetch(row, fetch)
            finally:
                fetch.abandon()
        finally:
            binding.export_lock.release()

    def _fetch(self, row: JournalDERow, fetch: ExportFetch) -> str | None:
        parts, size = exportfile.write(
            self._store, row, fetch.chunks(), lambda: fetch.expected, self._clock()
        )
        row = row._replace(parts=parts, zip_bytes=size, tar_bytes=fetch.size, tar_sha256=fetch.sha256_base64)
        exportfile.check(self._store, row)
        row = row._replace(State=ExportState.WRITTEN)
        self._put(row)
        try:
            ended = fetch.end()
        except ExportCancelled:
            raise
        except Exception as error:  # it may have erased: from here on the archive is kept
            return self._keep(row, f"TAR export {row.FileName} was archived, but its end failed: {error}")
        if not ended.is_valid:
            raise TseRejected("EXPORT_FAILED", "the TSE does not confirm the checksum of the export.")
        if self._mode is TarFileExportMode.ERASED and not ended.is_erased:
            return self._give_up(
                row, "TAR export was not archived, because the TSE did not erase its log after it."
            )
        kept = None
        if not ended.is_erased:
            kept = f"TAR export {row.FileName} was archived, but the TSE did not erase its log after it."
        return self._keep(row._replace(erased=int(ended.is_erased)), kept)

    def _enter(self, lock: threading.Lock, pause: Pause) -> None:
        """One export at a time for one TSE: the next finds erased what this one archived."""
        until = time.monotonic() + self._timeout_s
        while not lock.acquire(timeout=_LOCK_POLL_S):
            if pause(0):
                raise ExportCancelled("The export was given up.")
            if time.monotonic() > until:
                raise Unreachable("BUSY", "other exports kept the TSE busy.")

    def _put(self, row: JournalDERow) -> None:
        change = Change()
        change.exports.append(row)
        self._store.commit(change)

    def _keep(self, row: JournalDERow, message: str | None) -> str | None:
        """The archive becomes part of the journal. The TSE may have erased, so nothing may undo it any more."""
        try:
            row = row._replace(State=ExportState.STORED, TimeStamp=self._clock())
            self._put(row)
        except Exception as error:  # the next start finds it complete
            return f"TAR export {row.FileName} is stored, but not yet in the journal: {error}"
        problem = self._save_file(row)
        if problem is not None:
            message = problem if message is None else f"{message} {problem}"
        return message

    def _give_up(self, row: JournalDERow, message: str) -> str:
        """Nothing is archived; the TSE has everything."""
        _log.warning("queue %s: %s", self._queue_id, message)
        change = Change()
        change.exports_removed.append(row.ftJournalDEId)
        try:
            self._store.commit(change)
        except StoreError as error:
            _log.warning(
                "queue %s: what is left of the export stays until the next start: %s", self._queue_id, error
            )
        return message

    def _save_file(self, row: JournalDERow) -> str | None:
        """StoreTemporaryExportFiles: the archive as a file, complete or not there. What went wrong, if so."""
        if not self._keep_files or self._folder is None:
            return None
        path = self._folder / f"{row.FileName}.tar"
        staged = path.with_name(f"{path.name}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for left_over in self._folder.glob("*.part"):
                left_over.unlink()
            with staged.open("wb") as file:
                for chunk in exportfile.tar_chunks(self._store, row):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            staged.replace(path)
        except Exception as error:  # the archive itself is safe, whatever happened here
            return f"The file of the TAR export {row.FileName} could not be written: {error}"
        return None


def _describe(error: Exception) -> str:
    """What happened, as a sentence."""
    if not isinstance(error, FiskalError):
        return f"internal error {type(error).__name__}."
    text = str(error)
    return f"{error.code} {text}" if text.endswith(".") else f"{error.code} {text}."


# ---- who runs them ----------------------------------------------------------------------------------

HOLD_POLL_S: Final = 5.0
Job = Callable[[Pause], None]
"""One export with its journal entry; raises nothing."""


class ExportRunner:
    """Runs the exports that receipts leave behind: in the caller's thread, or in one thread for each TSE.

    In the background they are the work of daemon threads: a process that ends does not wait for them, and the
    next start takes up what was not finished. There an export waits while ``hold_s`` says for how many seconds it
    should (0: it may begin).
    """

    def __init__(self, *, background: bool, hold_s: Callable[[], float] = lambda: 0.0) -> None:
        self._background = background
        self._hold_s = hold_s
        self._condition = threading.Condition()
        self._waiting: dict[str, deque[tuple[Job, bool]]] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._stop = threading.Event()

    async def submit(self, scu_id: str, job: Job, *, at_once: bool = False) -> None:
        """Run ``job``, after those of the same SCU that came before; with ``at_once`` it is not held."""
        if self._stop.is_set():
            return
        if not self._background:
            await Call(partial(job, self._pause))
            return
        with self._condition:
            self._waiting.setdefault(scu_id, deque()).append((job, at_once))
            if scu_id not in self._threads:
                thread = threading.Thread(
                    target=self._work, args=(scu_id,), name="fiskal-tar-export", daemon=True
                )
                self._threads[scu_id] = thread
                thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing is left to do; False if that took longer than ``timeout_s``."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._threads, timeout_s)

    def close(self) -> None:
        """Stop after the piece in work; what is unfinished is still due at the next start."""
        self._stop.set()
        for thread in list(self._threads.values()):
            thread.join()

    def _pause(self, seconds: float) -> bool:
        return self._stop.wait(seconds)

    def _hold(self) -> None:
        while (left_s := self._hold_s()) > 0:
            if self._pause(min(left_s, HOLD_POLL_S)):  # the clock may be put, and the time zone has two
                return

    def _work(self, scu_id: str) -> None:
        while True:
            with self._condition:
                jobs = self._waiting[scu_id]
                if self._stop.is_set() or not jobs:
                    del self._threads[scu_id], self._waiting[scu_id]
                    self._condition.notify_all()
                    return
                job, at_once = jobs.popleft()
            if not at_once:
                self._hold()
            try:
                if not self._stop.is_set():
                    job(self._pause)
            except Exception:
                _log.exception("a TAR export ended unexpectedly")
