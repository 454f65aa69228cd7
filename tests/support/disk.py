"""Disks that fail under the commit log, whichever way it writes."""

from __future__ import annotations

import errno
import os

import pytest

from fiskal.store import blockfile


def refuse_to_confirm(patch: pytest.MonkeyPatch, code: int = errno.EIO) -> None:
    """Take what is written, but raise ``code`` where it would be confirmed."""
    write = blockfile._pwrite

    def fail(fd: int) -> None:
        raise OSError(code, os.strerror(code))

    def write_and_fail(fd: int, data: memoryview, at: int) -> int:
        written = write(fd, data, at)
        if is_direct(fd):
            fail(fd)
        return written

    patch.setattr(blockfile, "_sync", fail)
    patch.setattr(blockfile, "_pwrite", write_and_fail)


def is_direct(fd: int) -> bool:
    """Whether writes to ``fd`` go past the page cache."""
    fcntl = pytest.importorskip("fcntl")
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0))
