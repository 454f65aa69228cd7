"""A serial port: one program at a time, deadlines, devices that are pulled out, words for missing rights."""

from __future__ import annotations

import errno
import os
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiskal.scu.contract import Deadline
from fiskal.scu.transports import Garbled, InUse, NoAnswer, NotSent, Silence
from fiskal.scu.transports import serial as module
from fiskal.scu.transports.serial import SerialTransport


def complete(received: bytes | bytearray | memoryview) -> int:
    """Answers end with a dot, and an exclamation mark is none."""
    if b"!" in bytes(received):
        raise Garbled("an exclamation mark")
    return bytes(received).find(b".") + 1


class Device:
    """The other end of a pseudo terminal."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        self.path = os.ttyname(self.slave)
        self.open = True

    def hear(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += os.read(self.master, size - len(data))
        return data

    def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            os.write(self.master, piece)
            time.sleep(0.01)

    def close(self) -> None:
        if self.open:
            self.open = False
            os.close(self.master)
            os.close(self.slave)


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.close()


@pytest.fixture
def transport(device: Device) -> Iterator[SerialTransport]:
    made = SerialTransport(device.path, complete)
    yield made
    made.close()


def answer(device: Device, *pieces: bytes, size: int = 3) -> threading.Thread:
    def run() -> None:
        device.hear(size)
        device.say(*pieces)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_an_answer_in_pieces(transport: SerialTransport, device: Device) -> None:
    for count in (1, 2):
        thread = answer(device, b"a", b"bc", b".", b"rest of something else")
        assert transport.call(b"ask", Deadline(5)) == b"abc."
        thread.join()
        assert transport.connections == 1, count


def test_what_lies_ready_is_thrown_away(transport: SerialTransport, device: Device) -> None:
    transport.connect()
    device.say(b"late.")
    thread = answer(device, b"new.")
    assert transport.call(b"ask", Deadline(5)) == b"new."
    thread.join()


def test_all_bytes_pass(transport: SerialTransport, device: Device) -> None:
    frame = bytes(byte for byte in range(256) if byte not in b".!")
    thread = answer(device, frame + b".", size=len(frame))
    assert transport.call(frame, Deadline(5)) == frame + b"."
    thread.join()


def test_a_silence_keeps_the_port(transport: SerialTransport, device: Device) -> None:
    with pytest.raises(Silence):
        transport.call(b"ask", Deadline(0.1))
    assert transport.connected
    with pytest.raises(NotSent):
        transport.call(b"ask", Deadline(0))
    assert device.hear(3) == b"ask"


def test_bytes_that_are_no_answer(transport: SerialTransport, device: Device) -> None:
    thread = answer(device, b"x!")
    with pytest.raises(Garbled):
        transport.call(b"ask", Deadline(5))
    thread.join()
    thread = answer(device, b"ok.")
    assert transport.call(b"ask", Deadline(5)) == b"ok."
    thread.join()
    assert transport.connections == 2


def test_an_answer_without_an_end(device: Device) -> None:
    transport = SerialTransport(device.path, complete, max_answer_bytes=100)
    thread = answer(device, b"x" * 200)
    with pytest.raises(Garbled, match="without an end"):
        transport.call(b"ask", Deadline(5))
    thread.join()
    transport.close()


def test_a_device_that_is_pulled_out(transport: SerialTransport, device: Device) -> None:
    def pull() -> None:
        device.hear(3)
        device.close()

    thread = threading.Thread(target=pull)
    thread.start()
    with pytest.raises(NoAnswer):
        transport.call(b"ask", Deadline(5))
    thread.join()
    assert not transport.connected
    with pytest.raises(NotSent):
        transport.call(b"ask", Deadline(1))


def test_two_programs_on_one_port(transport: SerialTransport, device: Device) -> None:
    transport.connect()
    other = SerialTransport(device.path, complete)
    with pytest.raises(InUse, match="Another program uses it"):
        other.connect()
    transport.close()
    other.connect()
    other.close()


def test_close_ends_a_call(transport: SerialTransport, device: Device) -> None:
    threading.Timer(0.1, transport.close).start()
    began = time.monotonic()
    with pytest.raises(NoAnswer):
        transport.call(b"ask", Deadline(20))
    assert time.monotonic() - began < 10
    with pytest.raises(NotSent, match="has been closed"):
        transport.call(b"ask", Deadline(1))


def test_a_port_that_is_not_there(tmp_path: Path) -> None:
    transport = SerialTransport(str(tmp_path / "tty ä"), complete)
    with pytest.raises(NotSent, match="plugged in"):
        transport.call(b"ask", Deadline(1))


def test_no_right_to_use_a_port(device: Device) -> None:
    error = module._not_opened(device.path, OSError(errno.EACCES, "Permission denied"))
    assert "usermod -aG" in error.message + (error.hint or "")
    assert "udev rule" in str(error)
    assert "dialout" in module.permission_hint("/nowhere")


def test_without_the_extra(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "serial", None)
    with pytest.raises(NotSent, match=r"pip install 'fiskal\[serial\]'"):
        SerialTransport(device.path, complete).call(b"ask", Deadline(1))
