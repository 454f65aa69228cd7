"""Writes that are on the disk when they return, whichever way the file system lets them take."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiskal.store import blockfile
from fiskal.store.blockfile import BLOCK_BYTES, BlockFile
from tests.support.disk import is_direct

LARGEST = 3 * BLOCK_BYTES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "blocks"


@pytest.fixture
def file(path: Path) -> Iterator[BlockFile]:
    path.write_bytes(bytes(8 * BLOCK_BYTES))
    made = BlockFile(path, LARGEST)
    yield made
    made.close()


def has_direct(file: BlockFile) -> bool:
    file.go_direct()
    return file._direct >= 0


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("length", [1, 100, BLOCK_BYTES, BLOCK_BYTES + 1, LARGEST, LARGEST + 1])
def test_what_is_stored_stands_where_it_belongs(
    file: BlockFile, path: Path, direct: bool, length: int
) -> None:
    if direct:
        file.go_direct()
    head, body = b"h" * min(24, length), os.urandom(max(0, length - 24))
    file.store(b"X" * 24, bytes(LARGEST), BLOCK_BYTES)
    file.store(head, body, 2 * BLOCK_BYTES)
    data = path.read_bytes()
    assert len(data) == 8 * BLOCK_BYTES
    assert data[:BLOCK_BYTES] == bytes(BLOCK_BYTES)
    assert data[BLOCK_BYTES : BLOCK_BYTES + 24] == b"X" * 24
    assert data[2 * BLOCK_BYTES : 2 * BLOCK_BYTES + length] == head + body
    assert data[6 * BLOCK_BYTES :] == bytes(2 * BLOCK_BYTES)


def test_a_direct_write_needs_no_flush(file: BlockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_direct(file):
        pytest.skip("the file system of the temporary folder has no direct writes")
    used: list[bool] = []
    write = blockfile._pwrite

    def watch(fd: int, data: memoryview, at: int) -> int:
        used.append(is_direct(fd))
        return write(fd, data, at)

    monkeypatch.setattr(blockfile, "_pwrite", watch)
    monkeypatch.setattr(blockfile, "_sync", None)  # to call it would be an error
    file.store(b"head", b"body", 0)
    assert used == [True]


def test_a_file_system_that_refuses_such_blocks_gets_plain_writes(
    file: BlockFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_direct(file):
        pytest.skip("the file system of the temporary folder has no direct writes")
    write, sync, synced = blockfile._pwrite, blockfile._sync, []

    def refuse(fd: int, data: memoryview, at: int) -> int:
        if is_direct(fd):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return write(fd, data, at)

    monkeypatch.setattr(blockfile, "_pwrite", refuse)
    monkeypatch.setattr(blockfile, "_sync", lambda fd: synced.append(sync(fd)))
    for body in (b"first", b"other"):
        file.store(b"head", body, 0)
        assert path.read_bytes()[:9] == b"head" + body
    assert len(synced) == 2


def test_any_other_error_is_said(file: BlockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file.go_direct()

    def refuse(fd: int, data: memoryview, at: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(blockfile, "_pwrite", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        file.store(b"head", b"body", 0)


def test_a_file_that_was_replaced_is_not_written_to(file: BlockFile, path: Path) -> None:
    """What is written goes into the file that was looked at, even if the path names another one now."""
    path.rename(path.with_name("moved"))
    path.write_bytes(bytes(BLOCK_BYTES))
    file.go_direct()
    file.store(b"head", b"body", 0)
    assert path.read_bytes() == bytes(BLOCK_BYTES)
    assert path.with_name("moved").read_bytes()[:8] == b"headbody"


def test_closing_twice_is_harmless(file: BlockFile) -> None:
    file.go_direct()
    file.close()
    file.close()
