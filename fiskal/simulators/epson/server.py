"""The host in front of simulated Epson TSEs: connections, messages, and who has opened which device.

Its reading and writing of messages is its own and plain Python, so that it cannot share a mistake with a driver.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Mapping
from typing import Any, Final, NoReturn
from xml.etree import ElementTree
from xml.parsers import expat
from xml.sax.saxutils import escape

from fiskal.simulators.epson.device import Device
from fiskal.simulators.epson.faults import AFTER, BEFORE, DEVICE
from fiskal.simulators.plan import Conductor, Fault

log = logging.getLogger(__name__)

NOISE: Final = b' \t\r\n"'
MAX_MESSAGE_BYTES: Final = 1 << 20
POLL_S: Final = 0.05
"""How often somebody who waits looks whether the server is to end."""
_NUMBERS: Final = itertools.count(1_857_622_694)
"""Connections are told apart over all servers of a process, as over the machines of a network."""


class Dropped(Exception):
    """The connection ends here. ``reset``: without a proper end."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


class _Illegal(Exception):
    """A message that is answered with <error>."""


class Message:
    """One message of a client, read."""

    def __init__(self, data: bytes) -> None:
        self.root = parse_xml(data)

    @property
    def name(self) -> str:
        return self.root.tag

    def text(self, name: str) -> str | None:
        """The text of the first element with a name, None if there is none."""
        found = self.root.find(f".//{name}")
        return None if found is None else "".join(found.itertext())


def parse_xml(data: bytes) -> ElementTree.Element:
    """Read an element; one that declares entities is refused. Raises _Illegal."""

    def refuse(*_: object) -> NoReturn:
        raise _Illegal

    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate("UTF-8")
    parser.StartElementHandler = lambda name, attributes: builder.start(name, attributes) and None
    parser.EndElementHandler = lambda name: builder.end(name) and None
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, AssertionError) as error:
        raise _Illegal from error


class Server:
    """Listens, and serves each connection in a thread of its own.

    ``devices`` by their ids. ``storage_type`` is the one type that open_device takes. ``escapes_quotes`` writes
    ``&quot;`` into answers, as some hosts do. ``forgets_log_ins`` logs everybody out when a device is closed.
    """

    def __init__(
        self,
        devices: Mapping[str, Device],
        conductor: Conductor,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        storage_type: str = "type_storage",
        escapes_quotes: bool = True,
        forgets_log_ins: bool = False,
    ) -> None:
        self.devices = devices
        self.conductor = conductor
        self.storage_type = storage_type
        self.escapes_quotes = escapes_quotes
        self.forgets_log_ins = forgets_log_ins
        self._tls = tls
        self._address = (host, port)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.ending = threading.Event()
        self._listener: socket.socket | None = None
        self._accepting: threading.Thread | None = None
        self.resume()
        assert self._listener is not None
        self._address = self._listener.getsockname()[:2]

    @property
    def address(self) -> tuple[str, int]:
        return self._address

    # ---- connections --------------------------------------------------------------------------

    def resume(self) -> None:
        """Listen (again)."""
        if self._listener is None:
            family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
            self._listener = socket.create_server(self._address, family=family)
            self._accepting = threading.Thread(
                target=self._accept, args=(self._listener,), name="epson simulator", daemon=True
            )
            self._accepting.start()

    def pause(self) -> None:
        """Refuse new connections; those that are there go on."""
        listener, self._listener = self._listener, None
        if listener is not None and self._accepting is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            self._accepting.join()
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            with self._lock:
                self._threads = [each for each in self._threads if each.is_alive()]
                self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        session = Session(self, f"sock{next(_NUMBERS)}")
        try:
            if self._tls is not None:
                connection.settimeout(5)
                connection = self._tls.wrap_socket(connection, server_side=True)
            connection.settimeout(POLL_S)
            session.serve(connection)
        except Dropped as dropped:
            if dropped.reset:
                with contextlib.suppress(OSError):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError as error:
            log.debug("a connection ended: %s", error)
        finally:
            # A TLS connection is closed below its encryption: the client sees the end at once.
            with contextlib.suppress(OSError):
                connection.close()
            session.end()

    def close(self) -> None:
        self.pause()
        self.ending.set()
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()


class Session:
    """One connection. ``client_id`` is its name, and the owner of the devices it has opened."""

    def __init__(self, server: Server, client_id: str) -> None:
        self._server = server
        self._client_id = client_id
        self._received = b""
        self._last_answer = b""
        self._held_s = 0.0

    def serve(self, connection: socket.socket) -> None:
        """Greet and answer until the client goes. Raises Dropped and OSError."""
        self._connection = connection
        fault = self._server.conductor.fault("connect")
        kind = "" if fault is None else fault.kind
        if kind == "refuse":
            raise Dropped(reset=True)
        if kind in ("drop_before", "drop_after"):
            raise Dropped
        greeting = (
            f"<connect><data><client_id>{self._client_id}</client_id>"
            "<protocol_version>2</protocol_version></data></connect>"
        )
        if kind not in ("no_greeting", "silence", "silence_before"):
            self._deliver(greeting.encode(), fault if kind in AFTER else None)
        while (message := self._receive()) is not None:
            self._answer(message)

    def _receive(self) -> bytes | None:
        """The next message that is not blank; None at the end of the connection."""
        while True:
            while b"\0" in self._received:
                message, _, self._received = self._received.partition(b"\0")
                message = message.strip(NOISE)
                if message:
                    return message
            if len(self._received) > MAX_MESSAGE_BYTES:
                raise Dropped
            if self._server.ending.is_set():
                return None
            try:
                some = self._connection.recv(65_536)
            except (TimeoutError, ssl.SSLWantReadError):
                continue
            if not some:
                return None
            self._received += some

    def end(self) -> None:
        """Give the devices back."""
        until = time.monotonic() + self._held_s
        while time.monotonic() < until and not self._server.ending.wait(POLL_S):
            pass
        for device in self._server.devices.values():
            with device.lock:
                if device.owner == self._client_id:
                    self._close(device)

    def _close(self, device: Device) -> None:
        device.owner = None
        if self._server.forgets_log_ins:
            device.log_everybody_out()

    # ---- messages -----------------------------------------------------------------------------

    def _answer(self, data: bytes) -> None:
        try:
            message = Message(data)
        except _Illegal:
            self._deliver(_error("", "COMMAND_ILLEGAL"), None)
            return
        if message.name == "device_data":
            self._device_data(message)
            return
        answers = {
            "open_device": self._open_device,
            "close_device": self._close_device,
            "reconnect": self._reconnect,
            "disconnect": self._disconnect,
        }
        answer = answers.get(message.name)
        if answer is None:
            self._deliver(_error(message.text("device_id") or "", "COMMAND_ILLEGAL"), None)
            return
        fault = self._server.conductor.fault(message.name)
        replaced = self._replaced(message.name, fault, message.text("device_id") or "")
        self._deliver(replaced or answer(message), fault)
        if message.name == "disconnect":
            raise Dropped

    def _replaced(self, name: str, fault: Fault | None, device_id: str) -> bytes | None:
        """The answer in place of executing a message, None to execute it. Raises Dropped."""
        if fault is None or fault.kind not in BEFORE:
            return None
        if fault.kind == "drop_before":
            raise Dropped
        if fault.kind in ("refuse", "no_greeting"):
            raise Dropped(reset=True)
        if fault.kind == "silence_before":
            self._be_silent()
        if fault.kind == "message_error":
            return _error(device_id, str(fault.value or "SYSTEM_ERROR"))
        if name == "device_data":
            code = (
                "ERROR_DEVICE_BUSY"
                if fault.kind in ("busy", "in_use")
                else str(fault.value or "SYSTEM_ERROR")
            )
            return self._result(device_id, False, code, None)
        code = "DEVICE_IN_USE" if fault.kind in ("busy", "in_use") else str(fault.value or "SYSTEM_ERROR")
        return _coded(name, device_id, code)

    def _be_silent(self) -> NoReturn:
        """Read and answer nothing any more."""
        while True:
            if self._server.ending.is_set():
                raise Dropped
            try:
                if not self._connection.recv(65_536):
                    raise Dropped
            except (TimeoutError, ssl.SSLWantReadError):
                continue

    def _device(self, message: Message) -> Device | None:
        return self._server.devices.get(message.text("device_id") or "")

    def _open_device(self, message: Message) -> bytes:
        device_id = message.text("device_id") or ""
        device = self._device(message)
        if device is None:
            return _coded("open_device", device_id, "DEVICE_NOT_FOUND")
        if message.text("type") != self._server.storage_type:
            return _coded("open_device", device_id, "DEVICE_TYPE_INVALID")
        # While a command of a connection that has gone is executed, the device is still the old owner's.
        if not device.lock.acquire(blocking=False):
            return _coded("open_device", device_id, "DEVICE_IN_USE")
        try:
            if device.owner not in (None, self._client_id):
                return _coded("open_device", device_id, "DEVICE_IN_USE")
            device.owner = self._client_id
            return _coded("open_device", device_id, "OK")
        finally:
            device.lock.release()

    def _close_device(self, message: Message) -> bytes:
        device_id = message.text("device_id") or ""
        device = self._device(message)
        if device is None:
            return _coded("close_device", device_id, "DEVICE_NOT_FOUND")
        with device.lock:
            if device.owner != self._client_id:
                return _coded("close_device", device_id, "DEVICE_NOT_OPEN")
            self._close(device)
            return _coded("close_device", device_id, "OK")

    def _reconnect(self, message: Message) -> bytes:
        old, new = message.text("old_client_id"), message.text("new_client_id")
        if not old or new != self._client_id or message.text("received_id") is None:
            return _coded("reconnect", None, "PARAM_ERROR")
        found = False
        for device in self._server.devices.values():
            with device.lock:  # what the old connection began is ended first
                if device.owner == old:
                    device.owner = self._client_id
                    found = True
        return _coded("reconnect", None, "OK" if found else "CLIENT_NOT_FOUND")

    def _disconnect(self, message: Message) -> bytes:
        right = message.text("client_id") == self._client_id
        return _coded("disconnect", None, "OK" if right else "PARAM_ERROR")

    # ---- functions ----------------------------------------------------------------------------

    def _device_data(self, message: Message) -> None:
        device_id = message.text("device_id") or ""
        device = self._device(message)
        if device is None:
            self._deliver(_error(device_id, "DEVICE_NOT_FOUND"), None)
            return
        if device.owner != self._client_id:
            self._deliver(_error(device_id, "DEVICE_NOT_OPEN"), None)
            return
        if message.text("type") != "operate":
            self._deliver(_error(device_id, "PARAM_ERROR"), None)
            return
        text = (message.text("requestdata") or "").encode()
        command = _function(text)
        conductor = self._server.conductor
        fault = conductor.fault(command)
        if fault is not None and fault.kind == "error":
            document = _document(str(fault.value or "TSE1_ERROR_UNKNOWN"), command, {})
            self._deliver(self._result(device_id, True, "SUCCESS", document), fault)
            return
        replaced = self._replaced("device_data", fault, device_id)
        if replaced is not None:
            self._deliver(replaced, fault)
            return
        with device.lock:
            if device.owner != self._client_id:  # another connection has taken it over meanwhile
                self._deliver(_error(device_id, "DEVICE_NOT_OPEN"), None)
                return
            conductor.work(command)
            if fault is not None and fault.kind in DEVICE:
                device.disturb(fault)
            result, function, output = device.execute(text, fault)
            if fault is not None and fault.kind == "power_cycle_after":
                device.power_cycle()
                raise Dropped
        self._deliver(
            self._spoilt(device_id, result, function, output, fault), fault, message.text("sequence")
        )

    def _spoilt(
        self, device_id: str, result: str, function: str, output: dict[str, Any], fault: Fault | None
    ) -> bytes:
        """The answer with what a fault makes of its content."""
        kind = "" if fault is None else fault.kind
        if kind == "env_timeout":
            return self._result(device_id, False, "ERROR_TIMEOUT", None)
        if kind == "wrong_function":
            function = "GetStorageInfo" if function != "GetStorageInfo" else "GetChallenge"
        if kind == "bad_base64":
            names = ("signature", "exportData", "logMessageCertificate", "serialNumber")
            output = {name: "?!" if name in names else value for name, value in output.items()}
        document = _document(result, function, output)
        if kind == "bad_json":
            document = document[: len(document) // 2]
        if kind == "missing_resultdata":
            return self._result(device_id, True, "SUCCESS", None)
        return self._result(
            f"other_{device_id}" if kind == "other_device" else device_id, True, "SUCCESS", document
        )

    def _result(self, device_id: str, success: bool, code: str, document: str | None) -> bytes:
        entities = {'"': "&quot;"} if self._server.escapes_quotes else {}
        held = "" if document is None else f"<resultdata>{escape(document, entities)}</resultdata>"
        return (
            f"<device_data><sequence>0</sequence><device_id>{escape(device_id)}</device_id><data>"
            f"<type>operateresult</type><success>{str(success).lower()}</success><code>{escape(code)}</code>"
            f"{held}</data><data_id>0</data_id></device_data>"
        ).encode()

    # ---- sending ------------------------------------------------------------------------------

    def _deliver(self, answer: bytes, fault: Fault | None, sequence: str | None = None) -> None:
        """Send an answer, or what a fault makes of it. Raises Dropped."""
        kind = "" if fault is None else fault.kind
        value = 0.0 if fault is None or not isinstance(fault.value, int | float) else float(fault.value)
        if sequence is not None:
            answer = answer.replace(b"<sequence>0<", b"<sequence>" + escape(sequence).encode() + b"<", 1)
        last, self._last_answer = self._last_answer, answer
        if kind == "drop_after":
            raise Dropped
        if kind == "rst":
            raise Dropped(reset=True)
        if kind == "silence":
            self._be_silent()
        if kind == "drop_mid":
            self._send(answer[: len(answer) // 2])
            raise Dropped
        if kind == "garbage_xml":
            answer = b"<" + hashlib.sha256(answer).digest().replace(b"\0", b"x") + b">"
        elif kind == "old_answer" and last:
            answer = last
        elif kind == "quote_noise":
            answer = b' "' + answer + b'" '
        elif kind == "delay":
            self._server.ending.wait(value / 1000)
        frame = answer + b"\0"
        if kind == "coalesce":
            frame += _error("", "SYSTEM_ERROR") + b"\0"
        if kind == "split":
            step = max(1, int(value))
            for at in range(0, len(frame), step):
                self._send(frame[at : at + step])
        else:
            self._send(frame)
        if kind == "quote_noise":
            self._send(b'"\0"')
        if kind == "stale_owner":
            self._held_s = value or 2.0
            raise Dropped

    def _send(self, data: bytes) -> None:
        while data:
            try:
                sent = self._connection.send(data)
                data = data[sent:]
            except (TimeoutError, ssl.SSLWantWriteError):
                if self._server.ending.is_set():
                    raise Dropped from None
                select.select([], [self._connection], [], POLL_S)


def _function(text: bytes) -> str:
    """The function a request asks for, "" if it says none that is known."""
    with contextlib.suppress(ValueError, RecursionError):
        request = json.loads(text)
        if isinstance(request, dict):
            return str(request.get("function", ""))
    return ""


def _document(result: str, function: str, output: dict[str, Any]) -> str:
    return json.dumps(
        {
            "result": result,
            "function": function,
            "output": output,
            "error": {"errorinfo": "" if result == "EXECUTION_OK" else result, "fact": ""},
        },
        separators=(",", ":"),
        ensure_ascii=False,
    )


def _coded(name: str, device_id: str | None, code: str) -> bytes:
    device = "" if device_id is None else f"<device_id>{escape(device_id)}</device_id>"
    number = "" if device_id is None else "<data_id>1</data_id>"
    return f"<{name}>{device}<code>{escape(code)}</code>{number}</{name}>".encode()


def _error(device_id: str, code: str) -> bytes:
    return (
        f"<error><sequence>0</sequence><device_id>{escape(device_id)}</device_id><code>{escape(code)}</code>"
        "<data></data><data_id>0</data_id></error>"
    ).encode()
