"""Writes that are on the disk when they return, whichever way the file system lets them take."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiskal.store import blockfile
from fiskal.store.blockfile import BLOCK_BYTES, BlockFile
from fiskal.store.flight import Flight
from tests.support.disk import count_as_fast, is_direct, refuse_to_confirm

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


# ---- writes that go on by themselves --------------------------------------------------------------------------


@pytest.fixture
def flying(file: BlockFile, monkeypatch: pytest.MonkeyPatch) -> BlockFile:
    """Takes writes that go on by themselves, however slow the disk is."""
    file.go_direct()
    if file._flight is None:
        pytest.skip("the file system of the temporary folder has no writes that go on by themselves")
    count_as_fast(monkeypatch)
    return file


def test_what_was_begun_is_on_the_disk_when_it_is_finished(flying: BlockFile, path: Path) -> None:
    for number in range(20):
        body = os.urandom(2 * BLOCK_BYTES)
        assert flying.begin(b"head", body, BLOCK_BYTES * (number % 5))
        flying.finish()
        assert path.read_bytes()[BLOCK_BYTES * (number % 5) :][: 4 + len(body)] == b"head" + body


def test_alone_a_write_needs_no_sleep(flying: BlockFile, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockfile, "_pwrite", None)  # to call it would be an error
    flying.store(b"head", b"body", 0, alone=True)
    assert path.read_bytes()[:8] == b"headbody"


def test_how_a_write_ended_is_heard_of_once(flying: BlockFile) -> None:
    with pytest.raises(OSError, match="not known"):
        flying.finish()
    assert flying.begin(b"head", b"body", 0)
    flying.finish()
    with pytest.raises(OSError, match="not known"):
        flying.finish()


def test_what_the_disk_refuses_is_said_when_it_is_finished(
    flying: BlockFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert flying.begin(b"head", b"body", 0)
    refuse_to_confirm(monkeypatch)
    with pytest.raises(OSError, match="Input/output error"):
        flying.finish()


def test_what_cannot_be_begun_is_written_the_other_way(flying: BlockFile, path: Path) -> None:
    assert flying._flight is not None
    flying._flight.close()
    assert not flying.begin(b"head", b"body", 0)
    flying.store(b"head", b"body", 0, alone=True)
    assert path.read_bytes()[:8] == b"headbody"
    assert not flying.begin(b"h", bytes(LARGEST), 0)


@pytest.mark.parametrize("ended", [errno.EINVAL, 0])
def test_a_file_system_that_takes_such_a_write_ill_gets_a_plain_one(
    flying: BlockFile, path: Path, monkeypatch: pytest.MonkeyPatch, ended: int
) -> None:
    """It refuses the block, or writes less than that."""

    def land(self: Flight, patience_s: float) -> int:
        original(self, patience_s)
        os.pwrite(flying.fd, bytes(BLOCK_BYTES), 0)
        if ended:
            raise OSError(ended, os.strerror(ended))
        return 512

    original = Flight.land
    assert flying.begin(b"head", b"body", 0)
    monkeypatch.setattr(Flight, "land", land)
    flying.finish()
    assert path.read_bytes()[:8] == b"headbody"


@pytest.mark.parametrize("alone", [True, False])
def test_a_write_that_an_interrupt_left_under_way_does_not_come_after_the_next(
    flying: BlockFile, path: Path, alone: bool
) -> None:
    for number in range(20):
        assert flying.begin(b"old!", os.urandom(2 * BLOCK_BYTES), 0)
        flying._begun = None  # as if it had hit between the two
        flying.store(b"new!", b"%d" % number, 0, alone=alone)
        assert path.read_bytes()[: 4 + len(str(number))] == b"new!%d" % number
        if flying._flight is None:
            flying._leave_direct()
            flying.go_direct()


def test_a_slow_disk_is_waited_for_asleep_and_a_fast_one_again_awake(
    file: BlockFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.go_direct()
    if file._flight is None:
        pytest.skip("the file system of the temporary folder has no writes that go on by themselves")
    seconds = [0.0]
    takes_s = 0.0

    def clock() -> float:
        seconds[0] += takes_s
        return seconds[0]

    monkeypatch.setattr(blockfile.time, "monotonic", clock)
    file.store(b"head", b"body", 0, alone=True)
    assert file.can_begin
    takes_s = 0.02
    for _ in range(20):
        file.store(b"head", b"body", 0, alone=True)
    assert not file.can_begin
    takes_s = 0.0001
    for _ in range(50):
        file.store(b"head", b"body", 0, alone=True)
    assert file.can_begin


def test_closing_ends_what_is_under_way(flying: BlockFile, path: Path) -> None:
    assert flying.begin(b"head", b"body", 0)
    flying.close()
    assert path.read_bytes()[:8] == b"headbody"
    with pytest.raises(OSError, match="not known"):
        flying.finish()


def test_closing_twice_is_harmless(file: BlockFile) -> None:
    file.go_direct()
    file.close()
    file.close()
