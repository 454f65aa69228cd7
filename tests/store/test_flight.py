"""Writes that go on by themselves end once, and what is written stands in the file."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiskal.store import flight as flights
from fiskal.store.flight import Flight

PAGE = 4096


@pytest.fixture
def memory() -> mmap.mmap:
    return mmap.mmap(-1, 4 * PAGE)


@pytest.fixture
def flight(memory: mmap.mmap) -> Iterator[Flight]:
    try:
        made = Flight(memory)
    except OSError as error:
        pytest.skip(f"the system has no such writes: {error}")
    yield made
    made.close()


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    made = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(made, bytes(8 * PAGE))
    yield made
    os.close(made)


@pytest.mark.parametrize("patience_s", [0.0, 10.0])
def test_what_was_begun_is_in_the_file_when_it_has_landed(
    flight: Flight, memory: mmap.mmap, fd: int, patience_s: float
) -> None:
    for number in range(50):
        memory[: 2 * PAGE] = os.urandom(2 * PAGE)
        assert not flight.is_under_way
        flight.begin(fd, 2 * PAGE, (number % 6) * PAGE)
        assert flight.is_under_way
        assert flight.land(patience_s) == 2 * PAGE
        assert not flight.is_under_way
        assert os.pread(fd, 2 * PAGE, (number % 6) * PAGE) == memory[: 2 * PAGE]


def test_how_it_ended_is_said_once(flight: Flight, fd: int) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ECANCELED)):
        flight.land(0)
    flight.begin(fd, PAGE, 0)
    flight.land(0)
    with pytest.raises(OSError, match=os.strerror(errno.ECANCELED)):
        flight.land(0)


def test_one_at_a_time(flight: Flight, fd: int) -> None:
    flight.begin(fd, PAGE, 0)
    with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
        flight.begin(fd, PAGE, PAGE)
    assert flight.land(0) == PAGE


def test_what_the_system_refuses_is_an_error_and_the_next_write_works(
    flight: Flight, fd: int, tmp_path: Path
) -> None:
    reading = os.open(tmp_path / "file", os.O_RDONLY)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        flight.begin(reading, PAGE, 0)
    os.close(reading)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        flight.begin(reading, PAGE, 0)
    assert not flight.is_under_way
    flight.begin(fd, PAGE, 0)
    assert flight.land(0) == PAGE


def test_closing_waits_and_can_be_repeated(flight: Flight, memory: mmap.mmap, fd: int) -> None:
    memory[:PAGE] = b"x" * PAGE
    flight.begin(fd, PAGE, 0)
    flight.close()
    assert os.pread(fd, PAGE, 0) == b"x" * PAGE
    assert not flight.is_under_way
    flight.close()
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        flight.begin(fd, PAGE, 0)


def test_what_was_closed_is_used_again(flight: Flight, memory: mmap.mmap, fd: int) -> None:
    contexts = set()
    for number in range(20):
        other = Flight(memory)
        contexts.add(other._state.context)
        memory[:1] = b"%d" % (number % 10)
        other.begin(fd, PAGE, 0)
        other.close()
        assert os.pread(fd, 1, 0) == memory[:1]
    assert len(contexts) == 1
    assert flight._state.context not in contexts


def test_a_system_without_them_says_so(memory: mmap.mmap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "_opened", None)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        Flight(memory)
