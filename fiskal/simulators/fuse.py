"""A simulated TSE as a mounted volume: its files are served by this process, so that any program can use them.

Every read and write reaches the simulator, uncached and unchanged, also without O_DIRECT; a write returns after the
simulator took what was written. Files can neither be made, removed, renamed nor cut. Needs Linux, ``/dev/fuse``, the
right to mount (root, or Debian's package fuse3) and the Python package mfusepy (``fiskal[mount]``).
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol, Self

from fiskal.errors import ConfigurationError

MOUNT_TIMEOUT_S: Final = 20.0
END_TIMEOUT_S: Final = 2.0
_CONSTANT_NS: Final = 1_577_836_800_000_000_000
"""The times of all files: 2020-01-01."""


class Files(Protocol):
    """What is mounted: files of fixed size in one folder. Every method may be called from many threads at once; what
    must not happen at the same time the implementation locks, and never longer for one file because of another.
    """

    def sizes(self) -> Mapping[str, int]:
        """The files there are now with their sizes in bytes; none while the device is unplugged."""
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """At most ``length`` bytes. Raises OSError."""
        ...

    def write(self, name: str, offset: int, data: bytes) -> int:
        """Take ``data`` and return how much of it was taken. Raises OSError, EPERM where nobody may write."""
        ...


def why_not() -> str | None:
    """Why this machine cannot mount, with what to do about it; None if it can."""
    if sys.platform != "linux":
        return "mounting needs Linux"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "mounting needs /dev/fuse and the right to use it"
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        return "mounting needs root or fusermount3: install the package fuse3"
    try:
        importlib.import_module("mfusepy")
    except ImportError:
        return "mounting needs the Python package mfusepy: pip install 'fiskal[mount]'"
    except (OSError, AttributeError) as error:
        return f"mounting needs libfuse3: install the package fuse3 ({error})"
    return None


def unmount(directory: str | os.PathLike[str]) -> None:
    """Take a mount away at once, also one whose process died; who has files of it open keeps them until the end."""
    for command in (["fusermount3", "-u", "-z", "-q"], ["umount", "-l"]):
        if shutil.which(command[0]) is None:
            continue
        done = subprocess.run(
            [*command, "--", str(directory)] if command[0] == "umount" else [*command, str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode == 0:
            return


def serve(
    files: Files,
    directory: str | os.PathLike[str],
    *,
    others: bool = False,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Mount ``files`` at ``directory`` and serve them until they are unmounted or the process gets SIGTERM.

    ``ready`` is called when the volume is there; ``others`` lets other users of the machine use it (root, or
    user_allow_other in fuse.conf). Raises ConfigurationError where that cannot be.

    The process that serves must not open the volume itself: a process that dies while it waits for itself cannot be
    ended. :class:`Mount` serves from a process of its own.
    """
    reason = why_not()
    if reason is None and not Path(directory).is_dir():
        reason = "it is no folder. Create it first"
    if reason is None and os.path.ismount(directory):
        reason = "something else is mounted there"
    if reason is not None:
        raise ConfigurationError(f"{directory} cannot be mounted: {reason}.")
    options: dict[str, Any] = {"fsname": "fiskal", "subtype": "tse", "noatime": True}
    if others:
        options["allow_other"] = True
    mfusepy = importlib.import_module("mfusepy")
    served: list[bool] = []

    def began() -> None:
        served.append(True)
        ready()

    try:
        mfusepy.FUSE(
            _Operations(files, began),
            str(directory),
            raw_fi=True,
            foreground=True,
            nothreads=False,
            entry_timeout=0,
            attr_timeout=0,
            negative_timeout=0,
            **options,
        )
    except RuntimeError as error:
        if served and error.args == (_ENDED_BY_SIGNAL,):
            return
        raise ConfigurationError(f"{directory} cannot be mounted: libfuse ends with {error}.") from error


class Mount:
    """The files that ``factory(*arguments)`` makes, mounted at ``directory`` by a process of its own, until
    :meth:`close` or the end of this process.

    ``factory`` is a function of a module and the arguments can be pickled, because they are used in that process.
    Raises ConfigurationError where that cannot be.
    """

    def __init__(
        self,
        factory: Callable[..., Files],
        arguments: tuple[Any, ...],
        directory: str | os.PathLike[str],
        *,
        others: bool = False,
    ) -> None:
        self.directory = Path(directory)
        self._closed = False
        spawn = multiprocessing.get_context("spawn")
        self._life, theirs = spawn.Pipe()
        self.process = spawn.Process(
            target=_child, args=(factory, arguments, str(directory), others, theirs), name="fuse", daemon=True
        )
        self.process.start()
        theirs.close()
        word = "it takes too long"
        if self._life.poll(MOUNT_TIMEOUT_S):
            with contextlib.suppress(EOFError):
                word = self._life.recv()
        if word:
            self.close()
            raise ConfigurationError(word)

    @property
    def mounted(self) -> bool:
        return self.process.is_alive()

    def kill(self) -> None:
        """End the serving process at once, as SIGKILL does, and take the dead mount away."""
        self.process.kill()
        self.process.join(MOUNT_TIMEOUT_S)
        self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        unmount(self.directory)
        self._life.close()
        self.process.join(END_TIMEOUT_S)
        if self.process.is_alive():  # somebody has a file of it open
            self.process.kill()
            self.process.join(MOUNT_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _child(
    factory: Callable[..., Files], arguments: tuple[Any, ...], directory: str, others: bool, life: Connection
) -> None:
    """Serve until the other end of ``life`` is closed; tell it "" when the volume is there, or what is wrong."""

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            life.recv()
        unmount(directory)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started this process
    threading.Thread(target=watch, name="life", daemon=True).start()
    try:
        serve(factory(*arguments), directory, others=others, ready=lambda: life.send(""))
    except ConfigurationError as error:
        with contextlib.suppress(OSError):
            life.send(str(error))


def _refuse(number: int = errno.EPERM) -> NoReturn:
    raise OSError(number, os.strerror(number))


_ENDED_BY_SIGNAL: Final = 8
"""What libfuse's main loop returns for SIGINT, SIGTERM and SIGHUP, having unmounted."""


class _Operations:
    """What libfuse calls. Names and arguments are those of mfusepy with raw_fi."""

    use_ns = True

    def __init__(self, files: Files, ready: Callable[[], None]) -> None:
        self._files = files
        self._ready = ready
        self._owner = (os.geteuid(), os.getegid())

    def init(self, path: str) -> None:
        self._ready()

    def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:
        uid, gid = self._owner
        base = {
            "st_uid": uid,
            "st_gid": gid,
            "st_atime": _CONSTANT_NS,
            "st_mtime": _CONSTANT_NS,
            "st_ctime": _CONSTANT_NS,
        }
        if path == "/":
            return {**base, "st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        size = self._files.sizes().get(path[1:])
        if size is None:
            _refuse(errno.ENOENT)
        return {**base, "st_mode": stat.S_IFREG | 0o666, "st_nlink": 1, "st_size": size}

    def readdir(self, path: str, fh: Any) -> list[str]:
        return [".", "..", *self._files.sizes()]

    def open(self, path: str, info: Any) -> int:
        if path[1:] not in self._files.sizes():
            _refuse(errno.ENOENT)
        if info.flags & (os.O_TRUNC | os.O_APPEND):
            _refuse()
        info.direct_io = 1
        return 0

    def read(self, path: str, size: int, offset: int, info: Any) -> bytes:
        return self._files.read(path[1:], offset, size)

    def write(self, path: str, data: bytes, offset: int, info: Any) -> int:
        return self._files.write(path[1:], offset, data)

    def release(self, path: str, info: Any) -> int:
        return 0

    def fsync(self, path: str, datasync: int, info: Any) -> int:
        return 0

    def utimens(self, path: str, times: Any = None) -> int:
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        blocks = sum(self._files.sizes().values()) // 512
        return {
            "f_bsize": 512,
            "f_frsize": 512,
            "f_blocks": blocks,
            "f_bfree": 0,
            "f_bavail": 0,
            "f_namemax": 255,
        }

    def create(self, path: str, mode: int, info: Any = None) -> NoReturn:
        _refuse()

    def truncate(self, path: str, length: int, fh: Any = None) -> NoReturn:
        _refuse()

    def mknod(self, path: str, mode: int, dev: int) -> NoReturn:
        _refuse()

    def mkdir(self, path: str, mode: int) -> NoReturn:
        _refuse()

    def unlink(self, path: str) -> NoReturn:
        _refuse()

    def rmdir(self, path: str) -> NoReturn:
        _refuse()

    def rename(self, old: str, new: str) -> NoReturn:
        _refuse()

    def link(self, target: str, source: str) -> NoReturn:
        _refuse()

    def symlink(self, target: str, source: str) -> NoReturn:
        _refuse()

    def chmod(self, path: str, mode: int) -> NoReturn:
        _refuse()

    def chown(self, path: str, uid: int, gid: int) -> NoReturn:
        _refuse()
