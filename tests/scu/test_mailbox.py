"""The mailbox file: direct access, the lock, and every way an exchange of blocks can go wrong."""

import errno
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fiskal.scu.contract import Deadline
from fiskal.scu.transports import Garbled, NoAnswer, NotSent
from fiskal.scu.transports.mailbox import (
    DeviceLock,
    DirectFile,
    InUse,
    Judge,
    Look,
    Mailbox,
    Pace,
    Replaced,
    ShortTransfer,
    Step,
)
from fiskal.scu.transports.traffic import TRAFFIC, logged_call

ASK = b"ask".ljust(512, b"\0")
BUSY = b"busy".ljust(512, b"\0")
FETCH = b"fetch".ljust(512, b"\0")
READY = b"ready".ljust(512, b"\0")
OLD = b"answer to an older one".ljust(512, b"\0")
ANSWER = b"answer".ljust(512, b"\0")
Fault = OSError | bytes | None


def judging(frame: bytes, before: bytes) -> Judge:
    def judge(block: bytes, passed: float) -> Step:
        if block[:7] == b"garbage":
            raise Garbled("this is no answer")
        if block == READY:
            return FETCH
        return Look.ANSWER if block == ANSWER else Look.NOT_YET

    return judge


class Script:
    """An area that plays a script: what each read gives and each write does. An OSError is raised."""

    name = "script"

    def __init__(self, reads: list[bytes | OSError], writes: list[OSError | None] | None = None) -> None:
        self.reads = reads
        self.writes = writes or []
        self.written: list[bytes] = []
        self.opened = 0
        self.open_error: NotSent | None = None

    def read(self, offset: int, length: int) -> bytes:
        assert (offset, length) == (0, 512)
        step = self.reads.pop(0) if len(self.reads) > 1 else self.reads[0]
        if isinstance(step, OSError):
            raise step
        return step

    def write(self, offset: int, data: bytes) -> None:
        step = self.writes.pop(0) if self.writes else None
        if step is not None:
            raise step
        self.written.append(data)

    def reopen(self) -> None:
        if self.open_error is not None:
            raise self.open_error
        self.opened += 1

    def close(self) -> None:
        pass


def gone() -> OSError:
    return OSError(errno.ENODEV, "No such device")


def broken() -> OSError:
    return OSError(errno.EIO, "Input/output error")


def test_an_answer_that_has_to_be_fetched() -> None:
    area = Script([OLD, ASK, BUSY, READY, BUSY, ANSWER])
    assert Mailbox(area, judging).call(ASK, None) == ANSWER
    assert area.written == [ASK, FETCH]


def test_a_device_that_comes_back_during_the_wait_is_asked_on() -> None:
    area = Script([OLD, gone(), BUSY, ANSWER])
    assert Mailbox(area, judging).call(ASK, None) == ANSWER
    assert area.written == [ASK]
    assert area.opened == 2


def test_a_short_read_is_repeated_once_without_opening_anew() -> None:
    area = Script([OLD, ShortTransfer("read", 100, 512), ANSWER])
    assert Mailbox(area, judging).call(ASK, None) == ANSWER
    assert area.opened == 1
    with pytest.raises(NoAnswer):
        Mailbox(Script([OLD, ShortTransfer("read", 1, 512)]), judging).call(ASK, None)


def test_a_command_that_no_byte_was_taken_of_is_sent_again_after_opening() -> None:
    area = Script([OLD, ANSWER], [gone()])
    assert Mailbox(area, judging).call(ASK, None) == ANSWER
    assert area.opened == 2


@pytest.mark.parametrize(
    ("reads", "writes", "error"),
    [
        ([OLD], [gone(), gone()], NotSent),
        ([OLD], [OSError(errno.EACCES, "Permission denied")], NotSent),
        ([OLD], [OSError(errno.EROFS, "Read-only file system")], NotSent),
        ([gone()], [], NotSent),
        ([OLD], [broken()], NoAnswer),
        ([OLD, BUSY], [ShortTransfer("written", 100, 512)], NoAnswer),
        ([OLD], [ShortTransfer("written", 100, 512), ShortTransfer("written", 100, 512)], NoAnswer),
        ([OLD, broken()], [], NoAnswer),
        ([OLD, READY], [None, broken()], NoAnswer),
        ([OLD, b"garbage".ljust(512)], [], Garbled),
    ],
)
def test_the_error_says_whether_the_command_was_sent(
    reads: list[bytes | OSError], writes: list[OSError | None], error: type[Exception]
) -> None:
    mailbox = Mailbox(Script(reads, writes), judging)
    with pytest.raises(error) as caught:
        mailbox.call(ASK, Deadline(0.5))
    assert type(caught.value) is error


def test_a_part_that_was_written_and_not_taken_is_written_again() -> None:
    area = Script([OLD, OLD, ANSWER], [ShortTransfer("written", 100, 512)])
    assert Mailbox(area, judging).call(ASK, None) == ANSWER
    assert area.written == [ASK]


def test_silence_ends_at_the_deadline_and_the_next_call_opens_anew() -> None:
    area = Script([OLD, BUSY])
    mailbox = Mailbox(area, judging)
    with pytest.raises(NoAnswer, match="did not answer within"):
        mailbox.call(ASK, Deadline(0.05))
    area.reads = [OLD, ANSWER]
    assert mailbox.call(ASK, None) == ANSWER
    assert area.opened == 2
    with pytest.raises(NotSent, match="deadline"):
        mailbox.call(ASK, Deadline(0))
    with pytest.raises(NoAnswer):
        Mailbox(Script([OLD, BUSY]), judging, limit_s=0.05).call(ASK, None)


def test_another_device_in_the_same_place_gets_no_command() -> None:
    serials = [b"one", b"one", b"two", b"two", b"one"]
    known: list[bytes] = []

    def same() -> bool:
        serial = serials.pop(0)
        known.append(serial)
        return serial == known[0]

    area = Script([OLD, ANSWER])
    mailbox = Mailbox(area, judging, same_device=same)
    mailbox.call(ASK, None)
    area.reads = [gone(), OLD, gone(), ANSWER]
    with pytest.raises(NoAnswer):  # the same one came back once, then the other one while the command ran
        mailbox.call(ASK, None)
    written = len(area.written)
    area.reads = [OLD, ANSWER]
    with pytest.raises(Replaced):
        mailbox.call(ASK, None)
    assert len(area.written) == written
    assert mailbox.call(ASK, None) == ANSWER


def test_closing_lets_an_answer_that_is_under_way_arrive() -> None:
    area = Script([OLD, BUSY])
    mailbox = Mailbox(area, judging)
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(mailbox.call(ASK, None)))
    thread.start()
    while not area.written:
        time.sleep(0.001)
    closing = threading.Thread(target=mailbox.close)
    closing.start()
    area.reads = [ANSWER]
    thread.join(10)
    closing.join(10)
    assert got == [ANSWER]
    with pytest.raises(NotSent):
        mailbox.call(ASK, None)


def test_closing_ends_a_call_that_gets_no_answer() -> None:
    area = Script([OLD, BUSY])
    mailbox = Mailbox(area, judging, drain_s=0.05)
    errors: list[Exception] = []

    def call() -> None:
        try:
            mailbox.call(ASK, None)
        except NoAnswer as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    while not area.written:
        time.sleep(0.001)
    mailbox.close()
    thread.join(10)
    assert len(errors) == 1


# ---- the pace -----------------------------------------------------------------------------------


def first_pauses(pace: Pace, key: str, count: int) -> list[float]:
    passed = 0.0
    result = []
    pauses = pace.pauses(key, lambda: passed)
    for _ in range(count):
        pause = next(pauses)
        result.append(round(pause, 6))
        passed += pause
    return result


def test_without_experience_pauses_grow() -> None:
    pauses = first_pauses(Pace(), "x", 1200)
    assert pauses[:9] == [0.001, 0.001, 0.002, 0.002, 0.004, 0.004, 0.008, 0.008, 0.01]
    assert sorted(set(pauses))[-3:] == [0.025, 0.1, 0.25]
    assert min(first_pauses(Pace(0.01), "x", 20)) == 0.01


def test_with_experience_the_first_look_is_shortly_before_the_answer() -> None:
    pace = Pace()
    for _ in range(60):
        pace.learn("close", 0.25)
    mean, deviation = pace.known("close") or (0, 1)
    assert mean == pytest.approx(0.25)
    assert deviation < 0.001
    pauses = first_pauses(pace, "close", 3)
    assert 0.24 < pauses[0] < 0.25
    assert pauses[1] == 0.002
    assert first_pauses(pace, "open", 1) == [0.001]
    for _ in range(60):
        pace.learn("open", 0.004)
    assert first_pauses(pace, "open", 1) == [0.001]


# ---- the file -----------------------------------------------------------------------------------


def test_blocks_of_a_file_are_read_and_written_where_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "a bóx"
    path.write_bytes(bytes(range(256)) * 64)
    area = DirectFile(path, direct_io="auto")
    area.write(512, b"x" * 1024)
    assert area.read(512, 1024) == b"x" * 1024
    assert area.read(0, 512) == bytes(range(256)) * 2
    assert area.read(0, 16384)[1536:] == bytes(range(256)) * 58
    with pytest.raises(ShortTransfer) as caught:
        area.read(16384 - 512, 1024)
    assert caught.value.done == 512
    area.close()
    assert path.stat().st_size == 16384


def test_a_file_that_is_not_there_is_never_made(tmp_path: Path) -> None:
    area = DirectFile(tmp_path / "nothing")
    with pytest.raises(NotSent, match="plugged in"):
        area.reopen()
    with pytest.raises(FileNotFoundError):
        area.write(0, bytes(512))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "udev rule"),
        (errno.EROFS, "read-only"),
        (errno.ENODEV, "plugged in"),
        (errno.EINVAL, "O_DIRECT"),
        (errno.EBUSY, "end that program"),
        (errno.EIO, "Unplug"),
    ],
)
def test_the_error_of_opening_says_what_to_do(
    number: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    area = DirectFile(tmp_path / "box", volume_hint="See the udev rule.")
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(NotSent, match=advice):
        area.reopen()


def test_only_auto_goes_on_without_direct_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "box"
    path.write_bytes(bytes(512))
    real = os.open

    def no_direct(name: object, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(name, flags, *rest)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(os, "open", no_direct)
    with pytest.raises(NotSent, match="O_DIRECT"):
        DirectFile(path).reopen()
    area = DirectFile(path, direct_io="auto")
    area.write(0, b"y" * 512)
    assert area.read(0, 512) == b"y" * 512
    area.close()


def test_a_write_that_wants_larger_blocks_gets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "box"
    path.write_bytes(b"z" * 8192)
    real = os.pwritev
    lengths = []

    def coarse(fd: int, buffers: list[memoryview], offset: int) -> int:
        lengths.append(len(buffers[0]))
        if len(buffers[0]) % 4096:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", coarse)
    with pytest.raises(OSError):
        DirectFile(path, direct_io="auto").write(0, b"a" * 512)
    area = DirectFile(path, direct_io="auto", widen=True)
    area.write(0, b"a" * 512)
    area.write(0, b"b" * 512)
    assert lengths == [512, 512, 4096, 4096]
    assert path.read_bytes() == b"b" * 512 + bytes(3584) + b"z" * 4096
    area.close()


# ---- the lock -----------------------------------------------------------------------------------


def test_a_device_has_one_user(tmp_path: Path) -> None:
    lock = DeviceLock("swissbit/8bd9", tmp_path)
    assert lock.path.name == "fiskal-swissbit_8bd9.lock"
    with pytest.raises(InUse):
        DeviceLock("swissbit/8bd9", tmp_path)
    program = (
        "import sys; from fiskal.scu.transports.mailbox import DeviceLock, InUse\n"
        "try: DeviceLock('swissbit/8bd9', sys.argv[1])\n"
        "except InUse: print('in use')\n"
    )

    def answer() -> str:
        command = [sys.executable, "-c", program, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert answer() == "in use\n"
    lock.release()
    assert answer() == ""


def test_a_lock_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "fiskal-x.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(NotSent):
        DeviceLock("x", tmp_path)
    assert not (tmp_path / "precious").exists()


def test_secrets_of_a_frame_are_blanked_in_the_traffic_log(caplog: pytest.LogCaptureFixture) -> None:
    frame = bytes.fromhex("000920000105") + b"12345" + bytes(501)
    with caplog.at_level(TRAFFIC, logger="fiskal.traffic"):
        logged_call(Mailbox(Script([OLD, ANSWER]), judging), "swissbit", frame, None, [slice(6, 11)])
    assert "000920000105**********00" in caplog.text
    assert b"12345".hex() not in caplog.text
    assert logging.getLevelName(TRAFFIC) == "TRAFFIC"
