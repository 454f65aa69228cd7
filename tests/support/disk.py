"""Disks that fail under the commit log, whichever way it writes."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from fiskal.store import Change, SqliteStore, blockfile
from fiskal.store.flight import Flight


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

    land = Flight.land

    def land_and_fail(self: Flight, patience_s: float) -> int:
        land(self, patience_s)
        raise OSError(code, os.strerror(code))

    patch.setattr(blockfile, "_sync", fail)
    patch.setattr(blockfile, "_pwrite", write_and_fail)
    patch.setattr(Flight, "land", land_and_fail)


def is_direct(fd: int) -> bool:
    """Whether writes to ``fd`` go past the page cache."""
    fcntl = pytest.importorskip("fcntl")
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0))


def without_flights(patch: pytest.MonkeyPatch) -> None:
    """Have every write made while its caller waits."""
    patch.setattr(blockfile.BlockFile, "can_begin", False)


def begin_commits(patch: pytest.MonkeyPatch) -> None:
    """Have every commit begun and ended, however slow the disk is, as far as the system can."""
    commit = SqliteStore.commit

    def begin_and_end(self: SqliteStore, change: Change, *turn: Any, **options: Any) -> None:
        if turn or options or not self.begin(change):
            commit(self, change, *turn, **options)
        else:
            self.end(change)

    patch.setattr(SqliteStore, "commit", begin_and_end)
    count_as_fast(patch)


def count_as_fast(patch: pytest.MonkeyPatch) -> None:
    """Have the disk count as fast, however slow it is."""
    patch.setattr(blockfile.BlockFile, "can_begin", property(lambda file: file._flight is not None))


def has_flights(path: Path) -> bool:
    """Whether files beside ``path`` take writes that go on by themselves."""
    file = blockfile.BlockFile(path.with_name("has-flights"), blockfile.BLOCK_BYTES)
    try:
        file.store(b"", bytes(blockfile.BLOCK_BYTES), 0)
        file.go_direct()
        return file.begin(b"", b"x", 0)
    finally:
        file.close()
