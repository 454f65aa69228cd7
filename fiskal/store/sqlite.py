"""The embedded store: one SQLite file in WAL mode with ``synchronous=FULL``, which is the only authority.

Changes wait in line until somebody flushes: whoever comes first writes those of all with one flush of the disk, while
the others wait for it and find theirs done. There is no thread behind it; any number of read-only connections read.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final

from fiskal.conversation import Durable
from fiskal.errors import StoreError
from fiskal.store import migration
from fiskal.store.damage import DAMAGE, store_error
from fiskal.store.interface import Change
from fiskal.store.lock import FileLock
from fiskal.store.reading import Reading, connect
from fiskal.store.schema import APPLICATION_ID, VERSION, create, version_of
from fiskal.store.writer import BadChange, Writer

CHECKPOINT_PAGES: Final = 2000
"""The WAL is copied into the file when it has so many pages (8 MB, 200 receipts of a single queue): the commit
that finds it so pays 5 to 10 ms. Fewer pages make the pause shorter but more frequent, at the same cost in all."""

WAL_LIMIT_BYTES: Final = 64 << 20
"""A WAL that a burst made larger is cut back to this."""

PAGE_BYTES: Final = 4096
"""Smaller pages would write less, but a torn sector could then take a page along that is not in the WAL; larger
ones write more bytes per commit than they save pages."""

CACHE_KIB: Final = 8 << 10
"""Page cache of the writing connection."""

_SHARE: Final = 1 / 8
"""How much the last flush counts in the average."""


class SqliteStore(Reading):
    """Implements Store in the SQLite file ``path``, which it keeps locked against other processes.

    ``create`` makes a missing file; without it a missing file is a StoreError. Opening migrates the store of an older
    version (:mod:`fiskal.store.migration`). Raises StoreError if the file is not a fiskal store, was written by a newer
    fiskal, is damaged, locked by another process or not writable.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True) -> None:
        super().__init__(path)
        if not create and not self.path.exists():
            raise StoreError(f"there is no store at {self.path}; create it, or correct the path")
        self._line: deque[Durable] = deque()
        """What was submitted and is not done, and nothing behind it."""
        self._batch: list[Durable] = []
        """What is being written. Not empty while nobody flushes: an interrupt left it."""
        self._flushing = threading.Lock()
        self.flush_s = 0.0
        """What a flush takes on average, in seconds."""
        self._lock = FileLock(self.path.with_name(self.path.name + ".lock"))
        try:
            migration.bring_up_to_date(self.path)
            self._writer: Writer | None = _open_writer(self.path)
        except BaseException:
            self._lock.release()
            raise

    def submit(self, change: Change) -> Durable:
        """Take ``change`` in line and return at once; it is stored by the next :meth:`flush`, of whatever thread."""
        durable = Durable(change, self.flush)
        self._line.append(durable)
        return durable

    def flush(self) -> None:
        """Store everything that was submitted before, in order, with one flush of the disk; each is done then.

        One exception to the rule that nothing of a refused change is stored cannot be excluded: if the disk fails
        *while* it flushes, nobody knows what a restart will find. After a StoreError read back what the store has
        (:meth:`queue`, :meth:`item`) before going on. A change that cannot be stored fails alone. Never raises but
        for an interrupt, and that only when everything is done.
        """
        interrupt: BaseException | None = None
        while True:
            try:
                with self._flushing:
                    self._settle()
                break
            except Exception:
                raise
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def commit(self, change: Change) -> None:
        """Submit ``change`` and return when it is durable. Raises StoreError; then nothing of it was stored, with the
        exception of :meth:`flush`. A KeyboardInterrupt is raised when it is known what became of the change."""
        durable = Durable(change, self.flush)
        try:
            self._line.append(durable)
            self.flush()
        except BaseException:
            self.flush()
            raise
        if durable.error is not None:
            raise durable.error

    def close(self) -> None:
        """Store what waits, then close. Later calls raise StoreError."""
        if self._closed:
            return
        self.flush()
        with self._flushing:
            self._close_readers()
            # The writer is the last to go: only so SQLite copies the WAL into the file, which then is whole by itself.
            writer, self._writer = self._writer, None
            if writer is not None:
                try:
                    writer.finish()
                except StoreError:
                    pass  # It is only there to make the next opening quick.
                writer.close()
            self._lock.release()

    def __enter__(self) -> SqliteStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _settle(self) -> None:
        """Write what waits. Holds the lock. Every step can be repeated after an interrupt."""
        line = self._line
        if self._batch:
            self._end(self._writer is not None and self._writer.was_stored())
        while line and line[0].done:
            line.popleft()
        if not line:
            return
        if self._writer is not None:
            self._writer.begin()  # or an interrupt before the write would be told of the one before
        self._batch = batch = list(line)
        began_s = time.perf_counter()
        try:
            if self._closed:
                raise StoreError("the store is closed")
            if self._writer is None:
                self._writer = _open_writer(self.path)
            self._writer.write([each.change for each in batch], self._refuse)
        except StoreError as error:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()
            for each in batch:
                # One exception each: threads that raise the same object would share its traceback.
                each.error = StoreError(str(error))
                each.error.__cause__ = error.__cause__
        self._end(stored=True)
        self.flush_s += (time.perf_counter() - began_s - self.flush_s) * _SHARE

    def _refuse(self, number: int, error: BadChange) -> None:
        refusal = StoreError(str(error))
        refusal.__cause__ = error.__cause__
        self._batch[number].error = refusal

    def _end(self, stored: bool) -> None:
        """What is being written is done; or, if an interrupt kept it from the disk, waits again."""
        for each in self._batch:
            if stored:
                each.done = True
            elif not each.done:
                each.error = None
        self._batch = []
        while self._line and self._line[0].done:
            self._line.popleft()


class SqliteReader(Reading):
    """A store that is only read, beside the process that has it open, with everything that process has committed.

    Raises StoreError if the file is missing or damaged, or its schema is not the one of this version.
    """

    flush_s = 0.0

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        if not self.path.exists():
            raise StoreError(f"there is no store at {self.path}; correct the path")
        reader = connect(self.path, "mode=ro", ("query_only = ON",))
        try:
            version = version_of(reader, str(self.path))
        except DAMAGE as error:
            raise store_error(error, str(self.path), "open") from error
        finally:
            reader.close()
        if version != VERSION:
            raise StoreError(
                f"{self.path} has schema version {version}, this fiskal reads version {VERSION}; use the fiskal that"
                " has it open, or let this one open it for writing once"
            )

    def submit(self, change: Change) -> Durable:
        """Always refused."""
        durable = Durable(change, self.flush)
        durable.error = StoreError(f"{self.path} is open for reading only")
        durable.done = True
        return durable

    def flush(self) -> None:
        """Nothing waits."""

    def commit(self, change: Change) -> None:
        """Always a StoreError."""
        self.submit(change).call()

    def close(self) -> None:
        self._close_readers()


def _open_writer(path: Path) -> Writer:
    connection = connect(
        path,
        "mode=rwc",
        (
            f"page_size = {PAGE_BYTES}",
            "temp_store = MEMORY",
            f"cache_size = -{CACHE_KIB}",
            # Journals are never deleted and hold no secrets from each other.
            "secure_delete = OFF",
        ),
    )
    try:
        # A foreign file is refused before the first pragma that would write to it.
        version = version_of(connection, str(path))
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"{path} lies on a file system without WAL; put it on a local disk")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        if version == 0:
            create(connection)
        # SQLite opens, and even locks, a file it may not write without a word: ask for one write now.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("ROLLBACK")
        return Writer(connection, str(path))
    except DAMAGE as error:
        connection.close()
        raise store_error(error, str(path), "open") from error
    except BaseException:
        connection.close()
        raise
