"""The simulated Diebold Nixdorf TSE as foreign software meets it: bytes on a socket, JSON on a WebSocket.

Nothing of the driver is used here.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.sync.client import ClientConnection, connect

from fiskal.clock import from_unix
from fiskal.errors import ConfigurationError
from fiskal.simulators.diebold_nixdorf import (
    PRODUCTION_CLIENT,
    Device,
    Settings,
    TcpLine,
    WebService,
    line,
    tcp,
    web_service,
)
from fiskal.simulators.diebold_nixdorf.frames import Reader
from fiskal.simulators.plan import Fault, Plan
from tests.frames import diebold_nixdorf_model as model
from tests.frames.diebold_nixdorf_vectors import ANSWERS, ID, REQUESTS

QUIET_S = 0.15


class Clock:
    """Stands still, so that every answer is known."""

    def __init__(self) -> None:
        self.ticks = from_unix(1_735_689_598)

    def __call__(self) -> int:
        return self.ticks


class Wire:
    """A client that sends and receives bytes."""

    def __init__(self, simulator: TcpLine) -> None:
        host, _, port = simulator.place.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=5)

    def ask(self, frame: bytes, request_id: bytes = ID) -> bytes:
        self.socket.sendall(frame)
        return self.receive(b"\x1b\x99" + request_id + b"\x1b\x9f")

    def receive(self, end: bytes) -> bytes:
        received = b""
        self.socket.settimeout(5)
        while end not in received:
            some = self.socket.recv(65536)
            assert some, received
            received += some
        return received

    def silent(self, frame: bytes) -> tuple[str, str]:
        """Send what is not answered; what 001 tells of it."""
        self.socket.sendall(frame)
        self.socket.settimeout(QUIET_S)
        with pytest.raises(TimeoutError):
            self.socket.recv(1)
        found = self.values(1)
        return found[0], found[1]

    def values(self, command: int, *parameters: str) -> list[str]:
        answer = self.ask(model.build(command, [text.encode() for text in parameters], ID))
        found = model.read(answer, command, ID)
        assert found is not None
        return [value.decode() for value in found[0]]


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[TcpLine]:
    settings = Settings(
        folder=str(tmp_path), initialized=True, clients=["POS001"], plan=Plan(scale=0), packet_size=64
    )
    with tcp(settings, clock=Clock()) as running:
        yield running


@pytest.fixture
def wire(simulator: TcpLine) -> Iterator[Wire]:
    client = Wire(simulator)
    assert client.values(3, "0") == []
    yield client
    client.socket.close()


@pytest.fixture
def ready(wire: Wire) -> Wire:
    """Tested, told the time, with its client set."""
    wire.values(509, "POS001")
    assert wire.values(112, "1") == ["1"]
    assert wire.values(400, "1", "2", "12345") == ["1"]
    assert wire.values(101, "31.12.2024 23:59:58") == []
    return wire


# ---- frames -----------------------------------------------------------------------------------------------


def expected(command: int) -> bytes:
    vector = next(one for one in ANSWERS if one.command == command)
    return model.answer(command, [text.encode() for text in vector.parameters], ID)


def request(command: int) -> bytes:
    vector = next(one for one in REQUESTS if one.command == command)
    return model.build(command, [text.encode() for text in vector.parameters], ID, vector.buffer)


@pytest.mark.parametrize("command", [0, 1, 2, 3, 112, 200, 207, 309, 400, 401, 500, 504, 507, 508, 509])
def test_worked_frames_to_the_byte(wire: Wire, command: int) -> None:
    wire.values(509, "POS001")
    wire.values(112, "1")
    if command in (200, 401):
        wire.values(400, "1", "1", "12345")
        wire.values(101, "31.12.2024 23:59:58")
    assert wire.ask(request(command)) == expected(command)


def test_a_whole_transaction_in_the_worked_frames(ready: Wire) -> None:
    assert ready.ask(request(200)) == expected(200)
    started = ready.values(201)
    assert started[0] == "31.12.2024 23:59:58"
    assert [len(base64.b64decode(started[index])) for index in (2, 4)] == [32, 96]
    number = started[1].encode()
    data = b"Beleg^0.00_2.55_0.00_0.00_0.00^2.55:Bar"
    for init, end in ((202, 203), (204, 205)):
        frame = model.build(init, [number, b"39", b"Kassenbeleg-V1", b"0"], ID)
        assert ready.ask(frame) == model.answer(init, [], ID)
        assert ready.values(1)[1] == "07"
        assert ready.ask(request(206)) == expected(206)
        ended = ready.values(end)
        assert ended[0] == "31.12.2024 23:59:58"
        assert len(base64.b64decode(ended[2])) == 96
    assert base64.b64encode(data) in request(206)


def test_a_request_without_an_id(wire: Wire) -> None:
    """Captured from the vendor's own service: no id at all is answered with an empty one."""
    wire.socket.sendall(bytes.fromhex("1B903330391B92311B9D1B9F"))
    assert wire.receive(b"\x1b\x9f") == bytes.fromhex("1B913330391B991B9F")


def test_the_buffered_exchange_to_the_byte(wire: Wire) -> None:
    ids = [f"aaaaaaaa-0000-4000-8000-00000000000{n}".encode() for n in range(4)]
    wire.values(509, "POS001")
    wire.values(112, "1")
    wire.values(400, "1", "1", "12345")
    wire.values(106, "1")
    wire.values(509, "fiskaltrust.Middleware")
    wire.socket.sendall(model.build(502, [b"1"], ids[1], 2))
    found = [wire.ask(model.build(4, [b"2", b"%d" % (n - 2)], ids[n]), ids[n]) for n in (2, 3)]
    assert [(len(frame), hashlib.sha256(frame).hexdigest()[:16]) for frame in found] == [
        (125, "2a5c23c46d5141c5"),
        (103, "0351316c429de149"),
    ]
    again = wire.ask(model.build(4, [b"2", b"1"], ids[3]), ids[3])
    assert again == found[1]  # the piece before may be asked for again
    assert wire.silent(model.build(4, [b"2", b"7"], ID)) == ("0008", "01")
    assert wire.silent(model.build(4, [b"9", b"0"], ID)) == ("010B", "01")


def test_bytes_one_by_one_and_several_frames_at_once(wire: Wire) -> None:
    frame = model.build(507, [], ID)
    wire.values(509, "POS001")
    for byte in frame[:-1]:
        wire.socket.sendall(bytes([byte]))
    assert wire.ask(frame[-1:]) == expected(507)
    wire.socket.sendall(frame * 3)
    received = b""
    while len(received) < 3 * len(expected(507)):
        received += wire.socket.recv(65536)
    assert received == expected(507) * 3
    assert wire.ask(b"noise\x1b" + frame) == expected(507)
    assert wire.ask(model.build(507, [], b"cut")[:-4] + frame) == expected(507)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (model.build(555, [], ID), "0003"),
        (model.build(509, [], ID), "0007"),
        (model.build(3, [b"2"], ID), "0008"),
        (model.build(108, [b"2"], ID), "0008"),
        (b"\x1b\x90" + b"x" * 5000, "0004"),
        (b"\x1b\x90abc\x1b\x9f", "0005"),
        (b"\x1b\x90003\x1b\x92\xff\x1b\x9d\x1b\x9f", "0005"),
    ],
)
def test_bad_frames_are_not_answered(wire: Wire, frame: bytes, code: str) -> None:
    assert wire.silent(frame)[0] == code
    assert wire.values(0)[3] == "64"


def test_half_a_frame_is_dropped(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "FRAME_TIMEOUT_S", 0.2)
    wire.socket.sendall(model.build(0, [], ID)[:10])
    time.sleep(0.6)
    assert wire.values(1)[0] == "0005"


def test_the_order_of_the_checks(wire: Wire) -> None:
    assert wire.silent(model.build(200, [b"0", b"", b"0"], ID))[0] == "010A"
    wire.values(509, "NOBODY")
    assert wire.silent(model.build(200, [b"0", b"", b"0"], ID))[0] == "010C"
    assert wire.values(112, "1") == ["3"]
    wire.values(509, PRODUCTION_CLIENT)
    assert wire.values(112, "1") == ["1"]
    assert wire.silent(model.build(101, [b"31.12.2024 23:59:58"], ID))[0] == "0111"
    assert wire.silent(model.build(200, [b"0", b"", b"0"], ID))[0] == "0101"
    wire.values(400, "1", "2", "12345")
    assert wire.silent(model.build(101, [b"2024-12-31"], ID))[0] == "0008"
    wire.values(101, "31.12.2024 23:59:58")
    assert wire.silent(model.build(106, [b"1"], ID))[0] == "0111"
    wire.values(509, "NOBODY")
    assert wire.silent(model.build(200, [b"0", b"", b"0"], ID))[0] == "0115"
    wire.values(509, "POS001")
    assert wire.silent(model.build(201, [], ID))[0] == "0006"
    assert wire.silent(model.build(204, [b"9", b"0", b"", b"0"], ID))[0] == "0108"
    wire.values(200, "5", "", "0")
    assert wire.silent(model.build(200, [b"0", b"", b"0"], ID)) == ("0006", "03")
    assert wire.silent(model.build(206, [b"1", b"QUJD"], ID))[0] == "0008"
    assert wire.silent(model.build(201, [], ID)) == ("0006", "03")
    assert wire.values(207) == []
    assert wire.values(1) == ["0000", "01"]


def test_three_wrong_pins_block_a_user(wire: Wire) -> None:
    wire.values(509, "POS001")
    for left in (2, 1, 0):
        assert wire.values(400, "1", "1", "00000") == ["2", str(left)]
    assert wire.values(400, "1", "1", "12345") == ["3", "0"]
    assert wire.values(400, "1", "2", "12345") == ["1"]
    assert wire.values(402, "1", "1", "999999", "54321") == ["2", "2"]
    assert wire.values(402, "1", "1", "000000", "54321") == ["1"]
    assert wire.values(400, "1", "1", "54321") == ["1"]


def test_status_messages_until_they_are_switched_off(simulator: TcpLine) -> None:
    client = Wire(simulator)
    answer = client.ask(model.build(0, [], ID))
    assert answer == b"\x1bk\1\2\3\4" + expected(0)
    client.values(3, "0")
    assert client.ask(model.build(0, [], ID)) == expected(0)
    client.socket.close()


def test_the_device_remembers_when_it_is_switched_off(tmp_path: Path) -> None:
    settings = Settings(folder=str(tmp_path), initialized=True, clients=["POS001"], plan=Plan(scale=0))
    device = Device(settings)
    serial = device.serial
    device.check_pin("1", "00000")
    device.close()
    device = Device(settings)
    assert device.serial == serial
    assert device.kept.users["1"].tries == 2
    assert device.clients == [PRODUCTION_CLIENT, "fiskaltrust.Middleware", "POS001"]
    assert not device.time_valid
    assert device.self_test_in_s == 0
    device.close()


def test_names_in_plans_are_checked(tmp_path: Path) -> None:
    for fault in (Fault(kind="silnt"), Fault(kind="silent", command="Lgoin")):
        with pytest.raises(ConfigurationError):
            Device(Settings(folder=str(tmp_path), plan=Plan(faults=[fault])))


@given(
    st.lists(
        st.binary(max_size=40) | st.sampled_from([b"\x1b\x90", b"\x1b\x9f", b"001", b"\x1b"]), max_size=12
    )
)
def test_the_reader_takes_whatever_comes(pieces: list[bytes]) -> None:
    reader = Reader()
    for piece in pieces:
        list(reader.feed(piece))
    found = list(reader.feed(b"\x1b\x9f" + model.build(507, [b"x"], ID)))
    assert found[-1] == (507, ["x"], ID, None)


# ---- the web service ----------------------------------------------------------------------------------------


@pytest.fixture
def service(tmp_path: Path) -> Iterator[WebService]:
    settings = Settings(folder=str(tmp_path), initialized=True, clients=["POS001"], plan=Plan(scale=0))
    with web_service(settings, clock=Clock()) as running:
        yield running


class Talk:
    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def raw(self, text: str) -> str:
        self.connection.send(text)
        answer = self.connection.recv(timeout=5)
        assert isinstance(answer, str)
        return answer

    def __call__(self, command: str, **fields: Any) -> dict[str, Any]:
        answer = self.raw("\x02" + json.dumps({"Command": command, "PingPong": 5, **fields}) + "\x03\n")
        assert answer[0] == "\x02"
        assert answer[-2:] == "\x03\n"
        found = json.loads(answer[1:-2])
        assert found["PingPong"] == 5
        return dict(found)

    def code(self, command: str, **fields: Any) -> int:
        answer = self(command, **fields)
        assert answer["Status"] == "error"
        return int(answer["Code"])


@pytest.fixture
def talk(service: WebService) -> Iterator[Talk]:
    with connect(service.place, proxy=None) as connection:
        yield Talk(connection)


PIN = base64.b64encode(b"12345").decode()


def test_worked_answers_to_the_byte(talk: Talk) -> None:
    ping = talk.raw('\x02{"Command":"PingPong","PingPong":0}\x03\n').encode()
    assert (len(ping), hashlib.sha256(ping).hexdigest()[:16]) == (52, "d704f9302b05d735")
    refused = talk.raw(
        '\x02{"Command":"FinishTransaction","PingPong":8,"ClientID":"POS001","Password":"MTIzNDU=",'
        '"TransactionNumber":17,"Typ":"Kassenbeleg-V1","Data":"Beleg^0.00_2.55_0.00_0.00_0.00^2.55:Bar"}\x03\n'
    ).encode()
    assert (len(refused), hashlib.sha256(refused).hexdigest()[:16]) == (107, "01521c88b12416dd")


def test_a_client_as_on_festivals(talk: Talk, service: WebService) -> None:
    """What public clients send, in their order."""
    assert talk("SetDefaultClientID", ClientID="POS001")["Status"] == "ok"
    info = talk("GetDeviceInfo")["DeviceInfo"]
    assert info == {
        "SerialNumber": service.device.serial.hex(),
        "TimeFormat": "UnixTime",
        "MaxNumberOfClients": 100,
        "MaxNumberOfOpenTransactions": 512,
    }
    status = talk("GetDeviceStatus")
    assert list(status["Parameters"]) == ["SignatureAlgorithm", "TSEDescription", "CertificateDate"]
    assert "ClientIDs" not in status
    key = talk("GetDeviceData", Name="PublicKey", Format="Base64")
    point = base64.b64decode(key["Value"])
    assert key["Length"] == len(point) == 97
    assert hashlib.sha256(point).hexdigest() == info["SerialNumber"]
    assert bytes.fromhex(talk("GetDeviceData", Name="PublicKey")["Value"]) == point
    pem = base64.b64decode(talk("GetDeviceData", Name="Certificates", Format="Base64")["Value"])
    assert pem.count(b"BEGIN CERTIFICATE") == 3
    assert talk("RegisterClientID", ClientID="till-1", Password=PIN)["Status"] == "ok"
    assert "till-1" in talk("GetDeviceStatus", Password=PIN)["ClientIDs"]
    started = talk("StartTransaction", ClientID="till-1", Password=PIN)
    assert list(started) == [
        "Command",
        "Status",
        "TransactionNumber",
        "SerialNumber",
        "SignatureCounter",
        "Signature",
        "LogTime",
        "PingPong",
    ]
    assert len(started["Signature"]) == 192
    assert started["LogTime"] == "2025-01-01T00:59:58+01:00"
    number = started["TransactionNumber"]
    text = "Beleg^1.00_äöü€^1.00:Bar"
    ended = talk(
        "FinishTransaction",
        ClientID="till-1",
        Password=PIN,
        TransactionNumber=number,
        Typ="Kassenbeleg-V1",
        Data=text,
    )
    assert list(ended) == ["Command", "Status", "SignatureCounter", "Signature", "LogTime", "PingPong"]
    assert talk("DeregisterClientID", ClientID="till-1", Password=PIN)["Status"] == "ok"


def test_codes_in_their_order(talk: Talk, service: WebService) -> None:
    assert json.loads(talk.raw("\x02{\x03\n")[1:-2])["Code"] == 1
    assert json.loads(talk.raw("\x02[]\x03\n")[1:-2])["Code"] == 1
    assert "Code" not in json.loads(talk.raw('\x02{"PingPong":1}\x03\n')[1:-2])
    assert talk.code("Nonsense") == 2
    assert talk.code("StartTransaction", ClientID="NOBODY") == 3
    assert talk.code("StartTransaction", ClientID="NOBODY", Password="?") == 9
    assert talk.code("StartTransaction", ClientID="NOBODY", Password=PIN[::-1]) in (9, 30)
    assert talk.code("StartTransaction", ClientID="NOBODY", Password=PIN) == 19
    assert talk.code("StartTransaction", ClientID="a_b", Password=PIN) == 4
    assert talk.code("DeregisterClientID", ClientID="NOBODY", Password=PIN) == 5
    assert talk.code("DeregisterClientID", ClientID=PRODUCTION_CLIENT, Password=PIN) == 4
    wrong = base64.b64encode(b"00000").decode()
    service.device.kept.users["1"].tries = 3
    for code in (30, 30, 30, 32, 32):
        assert talk.code("RegisterClientID", ClientID="x", Password=wrong) == code
    assert talk.code("RegisterClientID", ClientID="x", Password=PIN) == 32
    assert (
        talk("StartTransaction", ClientID="POS001", Password=PIN)["Status"] == "ok"
    )  # counters of their own
    user = base64.b64encode(b"01").decode()
    puk = base64.b64encode(b"000000").decode()
    new = base64.b64encode(b"54321").decode()
    assert talk.code("UnblockUser", UserID=user, Puk=puk) == 3
    assert talk("UnblockUser", UserID=user, Puk=puk, NewPassword=new)["Status"] == "ok"
    assert talk.code("ChangePassword", UserID=user, OldPassword=PIN, NewPasswd=new) == 30
    assert talk("ChangePassword", UserID=user, OldPassword=new, NewPasswd=PIN)["Status"] == "ok"
    assert talk("PerformSelfTest")["Status"] == "ok"
    long = "x" * 16_001
    assert (
        talk.code(
            "FinishTransaction",
            ClientID="POS001",
            Password=PIN,
            TransactionNumber=1,
            Typ="Kassenbeleg-V1",
            Data=long,
        )
        == 4
    )


def test_messages_without_framing_are_not_answered(talk: Talk) -> None:
    for text in ('{"Command":"PingPong"}', '\x02{"Command":"PingPong"}\x03'):
        talk.connection.send(text)
        with pytest.raises(TimeoutError):
            talk.connection.recv(timeout=QUIET_S)


def test_a_lenient_service(tmp_path: Path) -> None:
    settings = Settings(folder=str(tmp_path), initialized=True, strict=False, plan=Plan(scale=0))
    with web_service(settings) as running, connect(running.place, proxy=None) as connection:
        for text in ('{"Command":"PingPong"}', '\x02{"Command":"PingPong"}\x03'):
            assert '"ok"' in Talk(connection).raw(text)


def test_the_page_for_browsers(service: WebService) -> None:
    url = service.place.replace("ws://", "http://") + "/"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.closing(opener.open(url, timeout=5)) as answer:
        assert answer.status == 200
        assert b"NOT CERTIFIED" in answer.read()
