"""What brings the commit log into the database, behind the backs of those who sell.

Changes that are durable in the commit log are gathered here and stored together: a transaction of many receipts
costs little more than one of a few. A thread does it when enough of them wait, or the oldest has waited for
``LINGER_S``; whoever reads the database, or writes to it past the log, does it himself first, and so sees
everything that was ever committed.

The database notes the last batch it has in the same transaction, so nothing is stored twice, whatever dies when.
If it cannot take what waits, that stays in the log, and the next commit tries again before it adds anything and
is refused as long as it fails.
"""

from __future__ import annotations

import logging
import threading
import weakref
from _thread import LockType, allocate_lock
from collections.abc import Callable, Sequence
from typing import Final

from fiskal.errors import StoreError
from fiskal.store.entry import Entry
from fiskal.store.interface import Change
from fiskal.store.writer import BadChange, Writer

_log = logging.getLogger("fiskal.store")

APPLY_CHANGES: Final = 256
"""So many waiting changes, of half as many receipts, are stored without further delay."""

MAX_APPLY_CHANGES: Final = 512
"""Changes of one transaction; more take several."""

LINGER_S: Final = 0.1
"""How long a change may wait for others, in seconds: other processes do not see it in the database before."""


class Applier:
    """Stores published batches in order. All methods may be called from many threads.

    ``open_writer`` opens the writing connection, of which this is the only user. Without ``background`` there is
    no thread: what waits is stored by :meth:`nudge` when it is enough. Raises StoreError if the database cannot
    be opened.
    """

    def __init__(self, open_writer: Callable[[], Writer], *, background: bool = True) -> None:
        self._open_writer = open_writer
        self._background = background
        self._writer: Writer | None = open_writer()
        self._lock = threading.Lock()
        self._pending: dict[int, Sequence[Entry]] = {}
        self._gathered = 0
        self._awaited = False
        self._applied = self._writer.sequence()
        self.direct = self._writer.direct()
        """The last direct write the database had when it was opened."""
        self._in_doubt = False
        self._error: StoreError | None = None
        """Why the last attempt failed."""
        self._attempts = 0
        self._closed = False
        self._wake = allocate_lock()
        self._wake.acquire()
        self._thread: threading.Thread | None = None

    @property
    def applied(self) -> int:
        """The last batch that is in the database."""
        return self._applied

    def publish(self, sequence: int, entries: Sequence[Entry]) -> None:
        """Take over a durable batch, in a step which an interrupt leaves done or not done."""
        self._gathered += len(entries)
        self._pending[sequence] = entries

    def published(self, sequence: int) -> bool:
        """Whether :meth:`publish` was called with ``sequence``."""
        return sequence in self._pending or sequence <= self._applied

    def nudge(self) -> None:
        """See to it that what waits is stored soon. Called after every commit; never fails."""
        if not self._pending:
            return
        if not self._background:
            if self._is_enough():
                self._try()
        elif not self._awaited or self._is_enough():
            self._awaited = True
            self._start()
            self._rouse()

    def before_commit(self) -> None:
        """Called before anything is added to the log. StoreError if the database could not take what is in it."""
        if self._error is not None:
            self.apply()

    def make_room(self, sequence: int) -> None:
        """Return when all batches up to ``sequence`` are in the database. Raises StoreError."""
        if self._applied < sequence:
            self.apply()

    def apply(self) -> None:
        """Store everything that waits. Raises StoreError; then it still waits."""
        if self._pending:
            seen = self._attempts
            with self._lock:
                self._apply_all(seen)

    def directly(self, write: Callable[[], None]) -> None:
        """Call ``write`` when everything that waits is stored, and nobody else writes to the database. Raises
        StoreError before it is called."""
        seen = self._attempts
        with self._lock:
            self._apply_all(seen)
            write()

    def use_up(self, sequence: int) -> None:
        """Note ``sequence`` as stored, when everything that waits is: a batch of the log that must not be. Raises
        StoreError."""
        seen = self._attempts
        with self._lock:
            self._apply_all(seen)
            self._write([], sequence)

    def close(self) -> None:
        """Store what waits and end the thread. Never fails: what the database does not take stays in the log."""
        self._closed = True
        thread, self._thread = self._thread, None
        if thread is not None:
            self._rouse()
            thread.join()
        self._try()
        with self._lock:
            self._close_writer()

    def _is_enough(self) -> bool:
        return self._gathered >= APPLY_CHANGES

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            wake = self._wake
            this = weakref.ref(self, lambda _: _release(wake))
            self._thread = threading.Thread(target=_run, args=(this, wake), name="fiskal-store", daemon=True)
            self._thread.start()

    def _rouse(self) -> None:
        _release(self._wake)

    def _try(self) -> None:
        try:
            self.apply()
        except StoreError:
            pass  # It was logged, and the next commit hears of it.

    def _apply_all(self, seen: int) -> None:
        """Holds the lock. ``seen`` is the number of attempts before the caller waited for it: who waited while one
        failed shares its end, because to wait for a lock or a slow disk once more each would take ever longer."""
        if self._error is not None and self._attempts != seen:
            raise StoreError(str(self._error)) from self._error
        try:
            self._gather_and_write()
        except StoreError as error:
            if self._error is None:
                _log.error("what was committed is safe in the log, but not in the database: %s", error)
            self._error = error
            raise
        else:
            self._error = None
        finally:
            self._attempts += 1

    def _gather_and_write(self) -> None:
        if self._in_doubt:
            self._ask()
        waiting = list(self._pending.items())  # what comes meanwhile waits for others to come
        self._gathered = 0
        while waiting:
            changes: list[Change] = []
            taken = 0
            for _, entries in waiting:
                if changes and len(changes) + len(entries) > MAX_APPLY_CHANGES:
                    break
                changes += [entry.change for entry in entries]
                taken += 1
            self._write(changes, waiting[taken - 1][0])
            del waiting[:taken]

    def _write(self, changes: list[Change], last: int) -> None:
        if self._writer is None:
            self._writer = self._open_writer()
        self._in_doubt = True
        try:
            self._writer.forget()
            self._writer.write(changes, last)
        except BadChange as error:
            # Every change was looked at before it went into the log, so this is a defect. Stopping is the one
            # answer that neither loses a receipt nor breaks the chain.
            self._close_writer()
            raise StoreError(
                f"the database refuses what was committed, up to batch {last} of the log: {error}. Nothing is lost:"
                " keep the journal and its log as they are, and report this"
            ) from error
        except StoreError:
            self._close_writer()
            raise
        self._done(last)
        self._in_doubt = False

    def _ask(self) -> None:
        """An interrupt or a failure left open what is stored: the database knows."""
        if self._writer is None:
            self._writer = self._open_writer()
        self._done(self._writer.sequence())
        self._in_doubt = False

    def _done(self, sequence: int) -> None:
        # In this order: a batch is always known to be published.
        self._applied = max(self._applied, sequence)
        for each in list(self._pending):
            if each <= sequence:
                self._pending.pop(each, None)

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


def _release(wake: LockType) -> None:
    try:
        wake.release()
    except RuntimeError:
        pass  # Somebody roused the thread already.


def _run(applier: weakref.ref[Applier], wake: LockType) -> None:
    """The thread. It does not keep a store alive that nobody closed."""
    while True:
        wake.acquire()
        if not _step(applier, gather=True):
            wake.acquire(timeout=LINGER_S)
            _step(applier, gather=False)
        this = applier()
        if this is None or this._closed:
            return
        del this


def _step(applier: weakref.ref[Applier], *, gather: bool) -> bool:
    """Store what waits; with ``gather`` only if it is enough, False if not."""
    this = applier()
    if this is None or this._closed:
        return True
    if gather and not this._is_enough():
        this._awaited = True  # only who makes it enough ends the waiting
        return False
    this._awaited = False
    this._try()
    return True
