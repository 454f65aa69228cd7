"""Frames over a line: a pseudo terminal or a TCP connection, with everything a line can do wrong."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from fiskal.simulators.diebold_nixdorf import frames
from fiskal.simulators.diebold_nixdorf.commands import COMMANDS, Interface
from fiskal.simulators.diebold_nixdorf.device import Code, Device
from fiskal.simulators.diebold_nixdorf.frames import Malformed, Reader, Request
from fiskal.simulators.plan import Fault

try:
    import fcntl
    import termios
    import tty
except ImportError:  # Windows, which has no pseudo terminals
    pass

FRAME_TIMEOUT_S: Final = 5.0
"""A frame whose end does not come is dropped after this."""
WRITE_TIMEOUT_S: Final = 2.0
READ_BYTES: Final = 65_536
POLL_S: Final = 0.1

_UNKNOWN_ID: Final = b"00000000-0000-4000-8000-000000000000"


class Gone(Exception):
    """The line ends here: its other side, or a fault, has closed it."""


class Port(Protocol):
    """What a session speaks through."""

    def send(self, data: bytes) -> None:
        """Raises Gone."""
        ...

    def unplug(self, seconds: float, *, power: bool, other: bool) -> None:
        """Take the line away and bring it back later; ``power``: the device loses its power meanwhile."""
        ...


class Session:
    """Reads requests from one line and answers them, one after the other."""

    def __init__(self, interface: Interface, port: Port) -> None:
        self._interface = interface
        self._device = interface.device
        self._port = port
        self._reader = Reader()
        self._send_lock = threading.Lock()
        self._heard_at = time.monotonic()
        self._asb_at = time.monotonic()

    def tick(self) -> None:
        """What happens without a request: half a frame is dropped, a status message is sent. Raises Gone."""
        moment = time.monotonic()
        if self._reader.begun and moment - self._heard_at > FRAME_TIMEOUT_S:
            self._reader.drop()
            self._interface.last_error = int(Code.CMD_FOOTER_ERROR)
        every = self._device.settings.asb_ms / 1000
        if every and self._device.asb and moment - self._asb_at >= every:
            self._asb_at = moment
            self._send(frames.ASB)

    def feed(self, data: bytes) -> None:
        """Take bytes from the line. Raises Gone."""
        self._heard_at = time.monotonic()
        for item in self._reader.feed(data):
            if isinstance(item, Malformed):
                self._interface.last_error = item.code
            else:
                self._serve(item)

    def _send(self, data: bytes) -> None:
        with self._send_lock:
            self._port.send(data)

    def _serve(self, request: Request) -> None:
        entry = COMMANDS.get(request.command)
        name = "GetMfcStatus" if entry is None else entry.name
        fault = None if entry is None else self._device.fault(name)
        kind = "" if fault is None else fault.kind
        if kind in ("drop_before", "unplug", "replug_other", "busy_port"):
            self._leave(kind, fault)
        if kind == "silent":
            self._interface.last_error = int(Code.OK)
            return
        self._device.conductor.work(name)
        answer = self._interface.execute(request, fault)
        if kind == "second_client":
            self._device.current = "SOMEBODY ELSE"
        if kind in ("drop_after", "unplug_after"):
            self._leave(kind, fault)
        if answer is None or kind == "lost_answer":
            return
        request_id = {"wrong_id": _UNKNOWN_ID, "no_id": b""}.get(kind, request.id)
        data = frames.answer(request.command, answer, request_id)
        if self._device.asb or kind == "merge_asb":
            data = frames.ASB + data
        value = float(fault.value) if fault is not None and isinstance(fault.value, int | float) else 0.0
        if kind == "noise":
            data = bytes(range(0x80, 0x90)) + b"\x1b\x1b\x91" + data
        if kind == "torn":
            data = data[: len(data) // 2]
        if kind == "late":
            timer = threading.Timer(value / 1000, self._send_late, (data,))
            timer.daemon = True
            timer.start()
        elif kind == "split":
            for piece in _pieces(data):
                self._send(piece)
                time.sleep(value / 1000)
        else:
            self._send(data)

    def _send_late(self, data: bytes) -> None:
        with contextlib.suppress(Gone, OSError):
            self._send(data)

    def _leave(self, kind: str, fault: Fault | None) -> None:
        value = fault.value if fault is not None else None
        seconds = float(value) / 1000 if isinstance(value, int | float) else 0.0
        self._port.unplug(
            seconds, power=kind in ("unplug", "unplug_after", "replug_other"), other=kind == "replug_other"
        )
        raise Gone


def _pieces(data: bytes) -> list[bytes]:
    """Cut behind and before every ESC, and behind every end of a frame."""
    pieces = []
    at = 0
    for place in range(1, len(data)):
        if data[place] == 0x1B or data[place - 1] == 0x1B or data[place - 2 : place] == frames.END:
            pieces.append(data[at:place])
            at = place
    return [*pieces, data[at:]]


class Running:
    """A simulator that can be reached. ``with`` it, or :meth:`close` it."""

    place = ""
    """Where it is: a path, ``host:port`` or a URL."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.conductor = device.conductor
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def _spawn(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, name="fiskal-dn-simulator", daemon=True)
        self._threads = [other for other in self._threads if other.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _end(self) -> None:
        """Give up what the threads wait for."""

    def close(self) -> None:
        """Switch it off."""
        self._stop.set()
        self._end()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(5)
        self.device.close()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _away(self, seconds: float, *, power: bool, other: bool) -> None:
        """Wait while the device is away; then it has been switched on again."""
        self._stop.wait(seconds)
        if other:
            self.device.exchange()
        elif power:
            self.device.power_up()


class PseudoTerminal(Running):
    """The device at a pseudo terminal. ``place`` is a link that stays the same when the device is plugged in anew."""

    def __init__(self, device: Device, link: Path | None = None) -> None:
        super().__init__(device)
        self._interface = Interface(device)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if link is None:
            self._folder = tempfile.TemporaryDirectory(prefix="fiskal-dn-tty-")
            link = Path(self._folder.name) / "ttyACM0"
        self._link = link
        self.place = str(link)
        self._absent: tuple[float, bool, bool] | None = None
        self._plug()
        self._spawn(self._run)

    def _plug(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        if self.device.settings.echo:
            flags = termios.tcgetattr(self._slave)
            flags[3] |= termios.ECHO
            termios.tcsetattr(self._slave, termios.TCSANOW, flags)
        os.set_blocking(self._master, False)
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(os.ttyname(self._slave))

    def _pull(self) -> None:
        self._link.unlink(missing_ok=True)
        os.close(self._master)
        os.close(self._slave)

    def send(self, data: bytes) -> None:
        until = time.monotonic() + WRITE_TIMEOUT_S
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._master, view) :]
            except BlockingIOError:
                if time.monotonic() > until or self._stop.is_set():
                    return  # nobody reads: the bytes are lost, as on a real line
                select.select([], [self._master], [], POLL_S)
            except OSError as error:
                raise Gone from error

    def unplug(self, seconds: float, *, power: bool, other: bool) -> None:
        self._absent = (seconds, power, other)

    def _run(self) -> None:
        session = Session(self._interface, self)
        while not self._stop.is_set():
            try:
                if self._absent is not None:
                    raise Gone
                ready, _, _ = select.select([self._master], [], [], POLL_S)
                session.tick()
                if ready:
                    session.feed(os.read(self._master, READ_BYTES))
            except Gone:
                seconds, power, other = self._absent or (0.0, False, False)
                self._absent = None
                self._pull()
                self._away(seconds, power=power, other=other)
                self._plug()
                session = Session(self._interface, self)
            except OSError as error:
                if error.errno not in (errno.EIO, errno.EAGAIN):
                    raise
                self._stop.wait(0.005)  # nobody has the port open
        self._pull()

    def hold(self) -> contextlib.ExitStack:
        """Be the other program that has the port: until the stack is closed nobody else gets it."""
        stack = contextlib.ExitStack()
        handle = os.open(self.place, os.O_RDWR | os.O_NOCTTY)
        stack.callback(os.close, handle)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return stack

    def close(self) -> None:
        super().close()
        if self._folder is not None:
            self._folder.cleanup()


class _Connection:
    """One TCP connection of :class:`TcpLine`."""

    def __init__(self, line: TcpLine, connection: socket.socket) -> None:
        self._line = line
        self.socket = connection

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Gone from error

    def unplug(self, seconds: float, *, power: bool, other: bool) -> None:
        if seconds or power or other:
            self._line.leave(seconds, power=power, other=other)

    def serve(self, interface: Interface, stop: threading.Event) -> None:
        session = Session(interface, self)
        self.socket.settimeout(POLL_S)
        try:
            while not stop.is_set():
                try:
                    data = self.socket.recv(READ_BYTES)
                except TimeoutError:
                    session.tick()
                    continue
                if not data:
                    break
                self.socket.settimeout(WRITE_TIMEOUT_S)
                session.feed(data)
                self.socket.settimeout(POLL_S)
        except (Gone, OSError):
            pass
        finally:
            self._line.forget(self)
            self.socket.close()


class TcpLine(Running):
    """The device at a TCP port that carries the bytes of the line."""

    def __init__(self, device: Device, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(device)
        self._interface = Interface(device)
        self._connections: set[_Connection] = set()
        self._lock = threading.Lock()
        self._absent: tuple[float, bool, bool] | None = None
        self._host, self._port = host, port
        self._listen()
        self._spawn(self._run)

    def _listen(self) -> None:
        self._listener = socket.create_server((self._host, self._port))
        self._listener.settimeout(POLL_S)
        self._port = self._listener.getsockname()[1]
        self.place = f"{self._host}:{self._port}"

    def leave(self, seconds: float, *, power: bool, other: bool) -> None:
        self._listener.close()
        self._absent = (seconds, power, other)

    def forget(self, connection: _Connection) -> None:
        with self._lock:
            self._connections.discard(connection)

    def _drop_all(self) -> None:
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._absent is not None:
                seconds, power, other = self._absent
                self._drop_all()
                self._away(seconds, power=power, other=other)
                if self._stop.is_set():
                    return
                self._absent = None
                self._listen()
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                self._stop.wait(0.005)
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            served = _Connection(self, connection)
            with self._lock:
                self._connections.add(served)
            self._spawn(served.serve, self._interface, self._stop)

    def _end(self) -> None:
        self._drop_all()

    def close(self) -> None:
        super().close()
        self._listener.close()
