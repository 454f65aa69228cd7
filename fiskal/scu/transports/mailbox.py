"""The mailbox file: a TSE that takes commands as blocks written to a file of its volume and answers in the same blocks.

Three parts, each usable alone: :class:`DirectFile` reads and writes blocks past every cache, :class:`DeviceLock` keeps
other processes away, and :class:`Mailbox` is the :class:`fiskal.scu.transports.Transport` over any :class:`Area` (a
file, or sectors of a block device). What a block means only the protocol knows: it judges each one that was read.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import mmap
import os
import re
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, Protocol

from fiskal.scu.contract import Deadline
from fiskal.scu.transports import NoAnswer, NotSent, TransportError

SECTOR: Final = 512
DirectIo = Literal["required", "auto"]

GONE: Final = frozenset({errno.ENODEV, errno.ENXIO, errno.ENOENT, errno.ESTALE, errno.EBADF, errno.ENOTCONN})
"""Errors of a device that is not there any more; with these nothing of a write reached it."""
_REFUSED: Final = GONE | {errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL, errno.ENOSPC, errno.EFBIG}


class ShortTransfer(OSError):
    """Fewer bytes were read or written than were asked for."""

    def __init__(self, what: str, done: int, wanted: int) -> None:
        super().__init__(errno.EIO, f"{done} of {wanted} bytes were {what}")
        self.done = done


class Area(Protocol):
    """Blocks that can be read and written at an offset. Offsets and lengths are multiples of 512 bytes.

    Every method raises OSError, and :class:`ShortTransfer` for a part of what was asked. Used by one thread at a
    time.
    """

    name: str

    def read(self, offset: int, length: int) -> bytes: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def reopen(self) -> None:
        """Give up what is open and open it anew. Raises NotSent, which says what to do."""
        ...

    def close(self) -> None: ...


class DirectFile:
    """An :class:`Area` over one file, opened with O_DIRECT and O_SYNC; it is never created, cut or made longer.

    Opened at the first use. ``direct_io`` ``auto`` goes on without O_DIRECT where the file system has none (tests);
    ``extra_flags`` are more flags of :func:`os.open`. ``widen`` repeats a write that the device refuses with EINVAL
    in multiples of 4096 bytes, padded with zeros, and remembers that it has to.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        direct_io: DirectIo = "required",
        writable: bool = True,
        extra_flags: int = 0,
        widen: bool = False,
        volume_hint: str = "",
    ) -> None:
        self.path = Path(path)
        self.name = str(self.path)
        self._direct_io = direct_io
        self._writable = writable
        self._extra_flags = extra_flags
        self._widen = widen
        self._granularity = SECTOR
        self._hint = volume_hint
        self._fd = -1
        self._cached = False
        self._buffer = mmap.mmap(-1, 4096)

    def _open(self) -> int:
        if self._fd >= 0:
            return self._fd
        flags = os.O_RDWR if self._writable else os.O_RDONLY
        flags |= getattr(os, "O_SYNC", 0) | getattr(os, "O_CLOEXEC", 0) | self._extra_flags
        direct = getattr(os, "O_DIRECT", 0)
        try:
            self._fd = os.open(self.path, flags | direct)
            self._cached = not direct
        except OSError as error:
            if error.errno != errno.EINVAL or self._direct_io == "required" or not direct:
                raise
            self._fd = os.open(self.path, flags)
            self._cached = True
        if not direct:
            self._uncache()
        return self._fd

    def _uncache(self) -> None:
        """What O_DIRECT is on macOS."""
        try:
            import fcntl
        except ImportError:
            return
        no_cache = getattr(fcntl, "F_NOCACHE", None)
        if no_cache is not None:
            fcntl.fcntl(self._fd, no_cache, 1)
            self._cached = False

    def _room(self, length: int) -> mmap.mmap:
        """A buffer that begins at a page, as O_DIRECT wants it."""
        if len(self._buffer) < length:
            self._buffer = mmap.mmap(-1, -(-length // 4096) * 4096)
        return self._buffer

    def read(self, offset: int, length: int) -> bytes:
        assert offset % SECTOR == 0
        assert length % SECTOR == 0
        fd = self._open()
        if self._cached and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
        buffer = self._room(length)
        with memoryview(buffer)[:length] as view:
            done = os.preadv(fd, [view], offset)
        if done != length:
            raise ShortTransfer("read", done, length)
        return buffer[:length]

    def write(self, offset: int, data: bytes) -> None:
        assert offset % SECTOR == 0
        assert len(data) % SECTOR == 0
        try:
            self._write(offset, data)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._widen or self._granularity > SECTOR:
                raise
            self._granularity = 4096
            self._write(offset, data)

    def _write(self, offset: int, data: bytes) -> None:
        fd = self._open()
        length = -(-len(data) // self._granularity) * self._granularity
        buffer = self._room(length)
        buffer[: len(data)] = data
        if length > len(data):
            buffer[len(data) : length] = bytes(length - len(data))
        with memoryview(buffer)[:length] as view:
            done = os.pwritev(fd, [view], offset)
        if done != length:
            raise ShortTransfer("written", done, length)

    def open(self) -> None:
        """Open the file unless it is open. Raises NotSent, which says what to do."""
        try:
            self._open()
        except OSError as error:
            raise NotSent(
                f"{self.path} cannot be opened: {error.strerror}.", hint=self._advice(error)
            ) from error

    def reopen(self) -> None:
        self.close()
        self.open()

    def _advice(self, error: OSError) -> str:
        if error.errno in GONE:
            return "Is the TSE plugged in and its volume mounted?"
        if error.errno in (errno.EACCES, errno.EPERM):
            return f"Give this user the right to read and write it. {self._hint}".rstrip()
        if error.errno == errno.EROFS:
            return "The volume is mounted read-only: mount it with rw (and repair its file system if that fails)."
        if error.errno == errno.EINVAL:
            return "This file system has no direct access (O_DIRECT), which a TSE needs."
        if error.errno == errno.EBUSY:
            return "Somebody else has it open: end that program."
        return "Unplug the TSE and plug it in again."

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


class DeviceLock:
    """Keeps every other process that asks for the same ``name`` away from a device, until :meth:`release`.

    A file in the runtime directory of the machine is locked, never one on the TSE. Raises :class:`NotSent` if another
    process, or this one, holds it.
    """

    def __init__(self, name: str, directory: str | os.PathLike[str] | None = None) -> None:
        try:
            import fcntl
        except ImportError as error:
            raise NotSent("This system cannot lock files.") from error
        folder = Path(directory) if directory is not None else runtime_directory()
        self.path = folder / f"fiskal-{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.lock"
        try:
            self._fd = _lock_file(self.path)
        except OSError as error:
            raise NotSent(f"The lock file {self.path} cannot be opened: {error.strerror}.") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            self._fd = -1
            raise InUse(
                f"The TSE {name} is used by another program.",
                hint="Only one program may use a TSE at a time.",
            ) from error

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class InUse(NotSent):
    """Another process has the device."""


class Replaced(NotSent):
    """The device that is there now is not the one that was there before."""


def runtime_directory() -> Path:
    """Where lock files of devices lie: one place for all users of the machine."""
    for candidate in ("/run/lock", "/var/lock"):
        if os.access(candidate, os.W_OK | os.X_OK):
            return Path(candidate)
    return Path(tempfile.gettempdir())


def _lock_file(path: Path) -> int:
    """Open a lock file. Any user may lock one that another user made, so it is opened for reading if it is there;
    a symbolic link is refused."""
    no_link = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    for _ in range(3):
        try:
            fd = os.open(path, os.O_RDONLY | no_link)
        except FileNotFoundError:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | no_link, 0o644)
            except FileExistsError:
                continue
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "it is no file")
        return fd
    raise OSError(errno.EAGAIN, "it comes and goes")


# ---- waiting for an answer ----------------------------------------------------------------------


class Look(enum.Enum):
    """What a block that was read is."""

    NOT_YET = "not yet"
    """No answer: busy, the host's own command, or what lay there before."""
    AGAIN = "again"
    """Perhaps: look once more at once."""
    ANSWER = "answer"


Step = Look | bytes
"""What comes next: wait on, the answer is there, or these bytes have to be written into the mailbox first."""

Judge = Callable[[bytes, float], Step]
"""Given a block and the seconds since the command was written, says what comes next. May raise Garbled or NoAnswer."""

NewJudge = Callable[[bytes, bytes], Judge]
"""Makes the judge of one exchange of the command's frame and the blocks that were there before (empty if
``reads_before`` is off)."""


class Pace:
    """When to look for an answer: soon for a fast command, seldom for a slow one, in time for one known by now.

    Keeps an exponentially weighted mean and deviation of the time of every ``key`` (tse-swissbit: adaptive polling).
    ``floor_s`` is the least pause between two looks.
    """

    WEIGHT: Final = 0.2
    KNOWN_FROM_S: Final = 0.020
    LOOK_S: Final = 0.002
    FIRST_S: Final = (0.001, 0.001, 0.002, 0.002, 0.004, 0.004, 0.008, 0.008)
    LATER_S: Final = ((1.0, 0.010), (5.0, 0.025), (60.0, 0.100))
    LAST_S: Final = 0.250

    def __init__(self, floor_s: float = 0.0) -> None:
        self._floor_s = floor_s
        self._known: dict[object, tuple[float, float]] = {}

    def known(self, key: object) -> tuple[float, float] | None:
        """Mean and deviation of a key in seconds."""
        return self._known.get(key)

    def learn(self, key: object, seconds: float) -> None:
        known = self._known.get(key)
        if known is None:
            self._known[key] = (seconds, seconds / 4)
            return
        mean, deviation = known
        off = seconds - mean
        self._known[key] = (mean + self.WEIGHT * off, deviation + self.WEIGHT * (abs(off) - deviation))

    def pauses(self, key: object, elapsed: Callable[[], float]) -> Iterator[float]:
        """The pauses between the looks, in seconds; ``elapsed`` counts from the end of the write."""
        known = self._known.get(key)
        if known is not None and known[0] > self.KNOWN_FROM_S:
            mean, deviation = known
            yield max(self._floor_s, mean - 2 * deviation - self.LOOK_S - elapsed())
            while elapsed() < mean + 2 * deviation:
                yield max(self._floor_s, self.LOOK_S)
        for pause in self.FIRST_S:
            yield max(self._floor_s, pause)
        while True:
            passed = elapsed()
            pause = next((pause for until, pause in self.LATER_S if passed < until), self.LAST_S)
            yield max(self._floor_s, pause)


class Mailbox:
    """The transport over a mailbox.

    ``judge`` tells answers from what else may lie in the ``answer_bytes`` at offset 0; ``key`` names the kind of a
    command for the pace. ``reads_before`` reads the blocks before each command, for protocols that compare.
    ``same_device`` is asked after every opening and says whether it is the device that was there at first; an error it
    raises is a device that is not there. ``limit_s`` is how long a call without a deadline waits. ``close`` from
    another thread lets a call go on for ``drain_s``, so that an answer which is under way is not lost.
    """

    def __init__(
        self,
        area: Area,
        judge: NewJudge,
        *,
        answer_bytes: int = SECTOR,
        reads_before: bool = True,
        key: Callable[[bytes], object] = lambda frame: None,
        pace: Pace | None = None,
        same_device: Callable[[], bool] = lambda: True,
        on_open: Callable[[], None] = lambda: None,
        limit_s: float = 120.0,
        drain_s: float = 2.0,
    ) -> None:
        self.area = area
        self.pace = pace or Pace()
        self._judge = judge
        self._answer_bytes = answer_bytes
        self._reads_before = reads_before
        self._key = key
        self._same_device = same_device
        self._on_open = on_open
        self._limit_s = limit_s
        self._drain_s = drain_s
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._usable = False

    def call(self, frame: bytes, deadline: Deadline | None) -> bytes:
        """Write ``frame``, a whole number of blocks, and return the blocks that hold the answer."""
        assert frame
        assert len(frame) % SECTOR == 0
        with self._lock:
            if self._closing.is_set():
                raise NotSent("The way to the TSE was closed.")
            if deadline is not None and deadline.expired:
                raise NotSent("The deadline passed before the command was sent.")
            before = self._prepare()
            sent_at = self._send(frame, before)
            try:
                return self._wait(frame, before, sent_at, deadline)
            except BaseException:
                self._usable = False  # whatever comes later is not the answer to the next command
                raise

    # ---- opening ----------------------------------------------------------------------------

    def _prepare(self) -> bytes:
        """Have the device open and return what lies in the mailbox. Raises NotSent, Replaced."""
        for last in (False, True):
            try:
                if not self._usable:
                    self._connect()
                return self.area.read(0, self._answer_bytes) if self._reads_before else b""
            except OSError as error:
                self._usable = False
                if last:
                    raise self._lost(error) from error
        raise AssertionError

    def _connect(self) -> None:
        self.area.reopen()
        try:
            same = self._same_device()
        except (OSError, TransportError) as error:
            raise NotSent(f"The TSE does not answer: {error}.") from error
        if not same:
            self.area.close()
            raise Replaced(
                f"Another TSE than before is at {self.area.name}.",
                hint="Plug the right one in, or configure a new SCU for this one.",
            )
        self._on_open()
        self._usable = True

    @staticmethod
    def _lost(error: OSError) -> NotSent:
        return NotSent(f"The TSE is not there: {error.strerror or error}.", hint="Is it plugged in?")

    # ---- one exchange -----------------------------------------------------------------------

    def _send(self, frame: bytes, before: bytes) -> float:
        """Write the command; return when it was written. Raises NotSent only if no byte can have been taken."""
        for last in (False, True):
            try:
                self.area.write(0, frame)
            except ShortTransfer as error:
                if not last and self._untouched(before):
                    continue
                self._usable = False
                raise NoAnswer(f"The command was written in part: {error.strerror}.") from error
            except OSError as error:
                self._usable = False
                if error.errno not in _REFUSED:
                    raise NoAnswer(f"The command may not have been written: {error.strerror}.") from error
                if last or error.errno not in GONE:
                    raise self._lost(error) from error
                self._connect()
            else:
                return time.monotonic()
        raise AssertionError

    def _untouched(self, before: bytes) -> bool:
        """A part that was written was not taken for a command: the mailbox shows what it showed before."""
        if not before:
            return False
        try:
            return self.area.read(0, self._answer_bytes) == before
        except OSError:
            return False

    def _wait(self, frame: bytes, before: bytes, sent_at: float, deadline: Deadline | None) -> bytes:
        judge = self._judge(frame, before)
        until = time.monotonic() + self._limit_s if deadline is None else deadline.at
        key = self._key(frame)
        pauses = self.pace.pauses(key, lambda: time.monotonic() - sent_at)
        while True:
            block = self._look()
            passed = time.monotonic() - sent_at
            step = judge(block, passed)
            if step is Look.ANSWER:
                self.pace.learn(key, passed)
                return block
            if step is Look.AGAIN:
                continue
            if isinstance(step, bytes):
                self._push(step)
                continue
            pause = next(pauses)
            left = until - time.monotonic()
            if left <= 0:
                raise NoAnswer(f"The TSE did not answer within {passed:.1f} s.")
            if self._closing.is_set():
                if left > self._drain_s:
                    until = time.monotonic() + self._drain_s
                time.sleep(min(pause, self._drain_s, left))
            else:
                self._closing.wait(min(pause, left))

    def _look(self) -> bytes:
        """Read the mailbox, once more after a fault. Raises NoAnswer if the device is gone or another one."""
        try:
            return self.area.read(0, self._answer_bytes)
        except OSError as error:
            try:
                if not isinstance(error, ShortTransfer):
                    self._connect()
                return self.area.read(0, self._answer_bytes)
            except (OSError, TransportError) as again:
                self._usable = False
                raise NoAnswer(f"The TSE went away while it had a command: {again}.") from error

    def _push(self, frame: bytes) -> None:
        """Write what the exchange needs to go on; a fault here leaves the command's fate unknown."""
        try:
            self.area.write(0, frame)
        except OSError as error:
            raise NoAnswer(f"The answer could not be fetched: {error.strerror or error}.") from error

    def close(self) -> None:
        """End the wait of a call in progress as soon as can be, then close the area."""
        self._closing.set()
        with self._lock:
            self._usable = False
            self.area.close()
