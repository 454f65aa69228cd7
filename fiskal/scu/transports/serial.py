"""A serial port as a :class:`fiskal.scu.transports.Transport`; needs the extra ``fiskal[serial]``.

The port is opened raw (no echo, no line editing, no flow control) and for this program alone: a second program on one
port would take away answers that are not its own. It stays open over a silence, because the protocols on serial lines
tell answers apart by their ids; it is opened anew after the device was pulled out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from typing import Any, Final

from fiskal.scu.contract import Deadline
from fiskal.scu.transports import Complete, Garbled, InUse, NoAnswer, NotSent, Silence

try:
    import serial
except ImportError:  # the extra is not installed: said when a port is opened
    serial = None  # type: ignore[assignment]

try:
    import grp
except ImportError:  # Windows
    grp = None  # type: ignore[assignment]

SLICE_S: Final = 0.05
"""How long one read waits; what a silence may last longer than asked for."""
INSTALL_HINT: Final = "Install it with: pip install 'fiskal[serial]'."


class SerialTransport:
    """The serial port ``port`` (``/dev/ttyACM0``, ``COM3``, or a lasting name from ``/dev/serial/by-id``).

    ``complete`` finds the end of an answer. ``write_timeout_s`` limits the sending of one frame, ``answer_timeout_s``
    a call without a deadline; an answer longer than ``max_answer_bytes`` is :class:`Garbled`.
    """

    def __init__(
        self,
        port: str,
        complete: Complete,
        *,
        baud_rate: int = 9600,
        dtr: bool = True,
        write_timeout_s: float = 1.5,
        answer_timeout_s: float = 60.0,
        max_answer_bytes: int = 1 << 20,
    ) -> None:
        self.port = port
        self.connections = 0
        """How often the port was opened so far. A protocol with a session of its own compares it."""
        self._complete = complete
        self._baud_rate = baud_rate
        self._dtr = dtr
        self._write_timeout_s = write_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._serial: Any = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def place(self) -> str:
        return self.port

    @property
    def connected(self) -> bool:
        """The port is open; the device may have been pulled out since."""
        return self._serial is not None

    def connect(self, deadline: Deadline | None = None) -> None:
        """Open the port unless it is open and alive; what lies ready in it is thrown away. Raises NotSent."""
        port = self._serial
        if port is not None:
            try:
                while port.in_waiting:
                    port.reset_input_buffer()
            except OSError:
                self.disconnect()
        if self._serial is None:
            self._open()

    def _open(self) -> None:
        if self._closed:
            raise NotSent(f"The port {self.port} has been closed.")
        if serial is None:
            raise NotSent("Serial ports need the package pyserial.", hint=INSTALL_HINT)
        port = serial.Serial(
            baudrate=self._baud_rate,
            timeout=SLICE_S,
            write_timeout=self._write_timeout_s,
            exclusive=True if os.name == "posix" else None,
        )
        port.port = self.port
        port.dtr = self._dtr
        port.rts = False
        try:
            port.open()
        except (OSError, ValueError) as error:
            raise _not_opened(self.port, error) from error
        with self._lock:
            if self._closed:
                port.close()
                raise NotSent(f"The port {self.port} has been closed.")
            self._serial = port
        self.connections += 1

    def disconnect(self) -> None:
        """Close the port, if it is open; the next call opens it again."""
        with self._lock:
            port, self._serial = self._serial, None
        if port is not None:
            with contextlib.suppress(OSError):
                port.close()

    def close(self) -> None:
        """Close the port for good. A call in progress ends with :class:`NoAnswer` within :data:`SLICE_S`."""
        self._closed = True
        self.disconnect()

    def call(self, frame: bytes, deadline: Deadline | None) -> bytes:
        limit = Deadline(self._answer_timeout_s) if deadline is None else deadline
        if limit.expired:
            raise NotSent("The deadline passed before anything was sent.")
        self.connect(limit)
        port = self._serial
        if port is None:
            raise NotSent(f"The port {self.port} has been closed.")
        try:
            port.write(frame)
        except (OSError, TypeError) as error:  # TypeError: pyserial over a port that close() took away
            self.disconnect()
            raise NoAnswer(
                f"Perhaps only a part of the frame could be sent to {self.port}: {error}."
            ) from error
        try:
            return self._read(port, limit)
        except Silence:
            raise
        except BaseException:
            self.disconnect()
            raise

    def _read(self, port: Any, limit: Deadline) -> bytes:
        received = bytearray()
        while True:
            try:
                some = port.read(1)
                if some:
                    some += port.read(port.in_waiting)
            except (OSError, TypeError, ValueError) as error:
                raise NoAnswer(
                    f"The connection to {self.port} broke before the answer was complete: {error}.",
                    hint="Check that the device is plugged in.",
                ) from error
            if self._closed:
                raise NoAnswer(f"The port {self.port} was closed before the answer was complete.")
            if some:
                received += some
                length = self._complete(received)
                if length:
                    return bytes(received[:length])
                if len(received) > self._max_answer_bytes:
                    raise Garbled(
                        f"{self.port} sent {len(received)} bytes without an end; an answer has at most "
                        f"{self._max_answer_bytes}."
                    )
            if limit.expired:
                raise Silence(f"{self.port} did not answer in time ({len(received)} bytes came).")


def _not_opened(port: str, error: Exception) -> NotSent:
    """What to do about a port that cannot be opened."""
    number = error.errno if isinstance(error, OSError) else None
    message = f"The port {port} cannot be opened: {error}."
    if number in (errno.EBUSY, errno.EAGAIN, errno.EWOULDBLOCK):
        return InUse(
            message,
            hint="Another program uses it: end it (for Diebold Nixdorf usually the vendor's web service), or let "
            "fiskal use that service.",
        )
    if number in (errno.EACCES, errno.EPERM):
        return NotSent(message, hint=permission_hint(port))
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return NotSent(
            message, hint="Check that the device is plugged in and that the name of the port is right."
        )
    return NotSent(message)


def permission_hint(port: str) -> str:
    """Which group or udev rule gives the right to use a port."""
    group = "dialout"
    try:
        status = os.stat(port)
        if grp is not None and status.st_gid != 0 and status.st_mode & stat.S_IWGRP:
            group = grp.getgrgid(status.st_gid).gr_name
    except (OSError, KeyError):
        pass
    return (
        f"This user may not use it. Add the user to the group of the port (usermod -aG {group} USER, then log "
        f'in again), or add a udev rule such as SUBSYSTEM=="tty", ATTRS{{idVendor}}=="VVVV", '
        f'ATTRS{{idProduct}}=="PPPP", GROUP="{group}", MODE="0660".'
    )
