"""What the driver says, byte for byte, and what it makes of answers; which ports it finds."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import tracemalloc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from fiskal.clock import from_unix
from fiskal.scu.contract import Deadline, TseStates
from fiskal.scu.driver import Call
from fiskal.scu.drivers import diebold_nixdorf
from fiskal.scu.drivers.diebold_nixdorf import service, values, web
from fiskal.scu.drivers.diebold_nixdorf.exports import Source
from fiskal.scu.drivers.diebold_nixdorf.link import Link, NoResponse, Refused
from fiskal.scu.drivers.diebold_nixdorf.options import Options
from fiskal.scu.transports import Silence
from fiskal.tse.tar import TarWriter, read_members
from tests.frames import diebold_nixdorf_model as model
from tests.frames.diebold_nixdorf_vectors import SIGNATURE

PIN = "MTIzNDU="
SALE = {"Typ": "Kassenbeleg-V1", "Data": "Beleg^0.00_2.55_0.00_0.00_0.00^2.55:Bar"}


@pytest.mark.parametrize(
    ("number", "command", "fields", "length", "sha256"),
    [
        (0, "PingPong", {}, 38, "7a4b90da30f2feb5"),
        (1, "SetDefaultClientID", {"ClientID": "fiskaltrust.Middleware"}, 84, "df3e84c0978d6040"),
        (2, "GetDeviceInfo", {}, 43, "9e4b1cfcd3280c3a"),
        (3, "GetDeviceStatus", {}, 45, "109a5f9302dd5033"),
        (4, "GetDeviceData", {"Name": "PublicKey", "Format": "Base64"}, 80, "f0879e7df89873d5"),
        (5, "RegisterClientID", {"ClientID": "POS001", "Password": PIN}, 88, "215b84cfd0fa3056"),
        (6, "GetDeviceStatus", {"Password": PIN}, 67, "0728d6797c6629c9"),
        (7, "StartTransaction", {"ClientID": "POS001", "Password": PIN}, 88, "32ab8b16c1a70e0f"),
        (
            8,
            "FinishTransaction",
            {"ClientID": "POS001", "Password": PIN, "TransactionNumber": 17, **SALE},
            184,
            "89da9188bd261839",
        ),
    ],
)
def test_requests_of_the_web_service(
    number: int, command: str, fields: dict[str, Any], length: int, sha256: str
) -> None:
    frame = service.frame(command, number, fields)
    assert (len(frame), hashlib.sha256(frame).hexdigest()[:16]) == (length, sha256)


class Recorded:
    """A transport that answers what it was told to."""

    def __init__(self, answers: list[bytes | Exception]) -> None:
        self.answers = answers
        self.sent: list[bytes] = []
        self.connections = 1
        self.place = "recorded"

    def connect(self, deadline: Deadline | None = None) -> None: ...

    def call(self, frame: bytes, deadline: Deadline | None) -> bytes:
        self.sent.append(frame)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None: ...


def test_answers_of_the_web_service() -> None:
    spoken = service.Service()
    spoken._connection, spoken._next = 1, 7
    signature = bytes(range(96)).hex()
    start = (
        b'\x02{"Command":"StartTransaction","Status":"ok","TransactionNumber":17,"SerialNumber":"%b",'
        b'"SignatureCounter":35,"Signature":"%b","LogTime":"2025-01-01T00:59:59+01:00","PingPong":7}\x03\n'
        % (b"47f29fdac9cc1fb6c8fed230bd6359e2273a5152e6cac8eedc49fb532f26660e", signature.encode())
    )
    assert (len(start), hashlib.sha256(start).hexdigest()[:16]) == (432, "e3cfe83eb5d6d795")
    spoken.transport = Recorded([start])
    answer = spoken.execute("StartTransaction", {"ClientID": "POS001", "Password": PIN}, None, 1000)
    assert web._ticks(answer["LogTime"]) == from_unix(1_735_689_599)
    assert bytes.fromhex(answer["Signature"]) == values.from_base64(SIGNATURE)
    error = (
        b'\x02{"Command":"FinishTransaction","Status":"error","Code":-5017,"Desc":"ERROR_NO_TRANSACTION",'
        b'"PingPong":8}\x03\n'
    )
    assert (len(error), hashlib.sha256(error).hexdigest()[:16]) == (107, "01521c88b12416dd")
    spoken.transport = Recorded([error])
    with pytest.raises(service.ServiceError) as caught:
        spoken.execute("FinishTransaction", {}, None, 1000)
    assert caught.value.number == 5017
    assert (
        service.refusal(caught.value, Call("finish", "POS001", 17, "", b"", "")).code
        == "TRANSACTION_NOT_OPEN"
    )


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-01-01T00:00:04Z", 1_735_689_604),
        ("2025-01-01T01:00:04+01:00", 1_735_689_604),
        ("2025-01-01T02:00:04+02:00", 1_735_689_604),
    ],
)
def test_times_by_their_own_offset(text: str, moment: int) -> None:
    assert web._ticks(text) == from_unix(moment)


def test_certifications_get_their_year() -> None:
    assert web.certification("BSI-K-TR-0393") == "BSI-K-TR-0393-2020"
    assert web.certification("some text ending in 0415") == "BSI-K-TR-0415-2021"
    assert web.certification("BSI-K-TR-0393-2020") == "BSI-K-TR-0393-2020"
    assert web.certification("BSI-K-TR-9999") == "BSI-K-TR-9999"


# ---- frames -----------------------------------------------------------------------------------------------


IDS = [b"%036d" % number for number in range(9)]
"""The ids of the requests, in their order."""


def make_link(*answers: bytes | Exception, **options: Any) -> tuple[Link, Recorded]:
    ids = iter(IDS)
    link = Link(Options(port="x", **options), new_id=lambda: next(ids), sleep=lambda seconds: None)
    transport = Recorded(list(answers))
    link.transport = transport
    return link, transport


def answer(request: int, command: int, *parameters: bytes) -> bytes:
    """The answer to the request with this place in the order."""
    return model.answer(command, list(parameters), IDS[request])


def packet(request: int, number: int, more: bool, data: bytes) -> bytes:
    return answer(request, 4, b"2", b"%d" % number, b"00" if more else b"01", b"%d" % len(data), data)


def test_a_silence_is_asked_about() -> None:
    link, transport = make_link(Silence("nothing"), answer(1, 1, b"0115", b"03"))
    with pytest.raises(Refused) as caught:
        link.execute(200, "0", "", "0")
    assert (caught.value.number, caught.value.state) == (0x0115, 3)
    assert transport.sent[1] == model.build(1, [], IDS[1])
    link, _ = make_link(Silence("nothing"), answer(1, 1, b"x", b"y", b"0000", b"02"))
    with pytest.raises(NoResponse) as silent:
        link.execute(201)
    assert silent.value.state == 2
    link, _ = make_link(Silence("nothing"), Silence("nothing"))
    with pytest.raises(NoResponse) as dead:
        link.execute(201)
    assert dead.value.state is None


def test_a_long_answer_with_its_status_behind_the_command() -> None:
    nested = answer(0, 502, b"A", b"B")
    link, transport = make_link(
        answer(1, 1, b"0000", b"01"),
        packet(2, 0, True, b""),
        packet(3, 1, True, nested[:9]),
        packet(4, 2, False, nested[9:]),
    )
    assert link.fetch(502, "1") == ["A", "B"]
    assert transport.sent[0] == model.build(502, [b"1"], IDS[0], 2) + model.build(1, [], IDS[1])
    assert transport.sent[3] == model.build(4, [b"2", b"2"], IDS[4])
    link, transport = make_link(packet(1, 0, False, nested), status_behind_buffered=False)
    assert link.fetch(502, "1") == ["A", "B"]
    assert transport.sent == [model.build(502, [b"1"], IDS[0], 2) + model.build(4, [b"2", b"0"], IDS[1])]


@pytest.mark.parametrize(
    "bad",
    [
        answer(2, 4, b"2", b"0", b"00"),
        answer(2, 4, b"9", b"0", b"01", b"1", b"x"),
        answer(2, 4, b"2", b"5", b"01", b"1", b"x"),
        packet(2, 0, False, answer(0, 503, b"A")),
        packet(2, 0, False, answer(7, 502, b"A")),
        packet(2, 0, False, answer(0, 502, b"A")[:-2]),
        packet(2, 0, False, answer(0, 502, b"A") + b"more"),
        packet(2, 0, False, b"x" + answer(0, 502, b"A")),
    ],
)
def test_long_answers_that_are_none(bad: bytes) -> None:
    link, _ = make_link(answer(1, 1, b"0000", b"01"), bad)
    with pytest.raises(NoResponse):
        link.fetch(502, "1")


def test_a_refused_long_answer_tells_the_reason() -> None:
    link, _ = make_link(answer(1, 1, b"010C", b"01"))
    with pytest.raises(Refused) as caught:
        link.fetch(304, "1")
    assert caught.value.number == 0x010C


def test_a_lost_piece_is_asked_for_again_if_that_is_allowed() -> None:
    nested = answer(0, 502, b"A")
    answers = (
        answer(1, 1, b"0000", b"01"),
        Silence("x"),
        answer(3, 1, b"0000", b"01"),
        packet(4, 0, False, nested),
    )
    assert make_link(*answers)[0].fetch(502, "1") == ["A"]
    with pytest.raises(NoResponse):
        make_link(*answers, repeat_lost_packet=False)[0].fetch(502, "1")


class Endless(Recorded):
    """Answers an export of many megabytes, packet by packet."""

    def __init__(self, link: Link, archive: bytes, copies: int, packet: int) -> None:
        super().__init__([])
        self._link = link
        self._content = self._nested(archive, copies)
        self._packet = packet
        self._ready = b""

    def _nested(self, archive: bytes, copies: int) -> Iterator[bytes]:
        yield b"\x1b\x91300\x1b\x92"
        for _ in range(copies):
            yield base64.b64encode(archive)
        yield base64.b64encode(bytes(1024)) + b"\x1b\x99" + self.nested_id + b"\x1b\x9f"

    nested_id = b"%036d" % 0

    def call(self, frame: bytes, deadline: Deadline | None) -> bytes:
        if self._link._command == 1:
            return model.answer(1, [b"0000", b"01"], self._link._id)
        while len(self._ready) <= self._packet:
            piece = next(self._content, None)
            if piece is None:
                break
            self._ready += piece
        data, self._ready = self._ready[: self._packet], self._ready[self._packet :]
        asked = frame.split(b"\x1b\x92")[2].partition(b"\x1b")[0]
        more = b"00" if self._ready else b"01"
        return model.answer(4, [b"1", asked, more, b"%d" % len(data), data], self._link._id)


def test_an_export_takes_constant_memory() -> None:
    """Thirty megabytes through the reader of the export; a fraction of it is ever in memory."""
    numbers = itertools.count()
    link = Link(Options(port="x"), new_id=lambda: b"%036d" % next(numbers), sleep=lambda seconds: None)
    out = io.BytesIO()
    writer = TarWriter(out, 0)
    for number in range(30):
        writer.add(f"Unixt_1_Sig-{number}_Log-Aud.log", bytes(9_728))
    archive = out.getvalue()  # without its end
    archive += bytes(-len(archive) % 3)
    assert len(archive) % (3 * 512) == 0
    copies = 100
    link.transport = Endless(link, archive, copies, 16_384)
    source = Source(link.stream(300, "1"))
    tracemalloc.start()
    try:
        members = sum(1 for _ in read_members(source))
        source.drain()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert members == 30 * copies
    assert source.size == len(archive) * copies + 1024
    assert peak < 6 << 20 < source.size


def test_slots_of_old_and_new_firmware() -> None:
    new = ["03", "01", "0", "0001000200010002", "6979321856", "6979300000", "31.12.2027 23:59:59", "19999000"]
    new += ["ecdsa-plain-SHA384", "1", "BSI-K-TR-0393-2020"]
    slot = values.slot(new, True)
    assert (slot.state, slot.capacity, slot.signatures_left) == (
        TseStates.INITIALIZED,
        6979321856,
        19_999_000,
    )
    assert slot.certificate_end == from_unix(1_830_297_599)
    old = [*new[:4], "", "", *new[6:9]]
    slot = values.slot(old, True)
    assert (slot.capacity, slot.free, slot.description) == (-1, -1, "")
    for bits, first, state in (
        ("03", True, TseStates.TERMINATED),
        ("03", False, TseStates.INITIALIZED),
        ("02", False, TseStates.TERMINATED),
        ("04", True, TseStates.UNINITIALIZED),
        ("05", True, TseStates.INITIALIZED),
    ):
        assert values.slot(["03", bits, *new[2:]], first).state is state
    for broken in (new[:8], ["03", "zz", *new[2:]]):
        with pytest.raises(NoResponse):
            values.slot(broken, True)


@pytest.mark.parametrize("text", ["", "31.02.2024 00:00:00", "2024-12-31 00:00:00", "31.12.2024 24:00:00"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(NoResponse):
        values.ticks(text)


def test_times_there_and_back() -> None:
    assert values.time_text(values.ticks("31.12.2024 23:59:58") + 9_999_999) == "31.12.2024 23:59:58"
    assert values.first_second(from_unix(5)) == from_unix(5)
    assert values.first_second(from_unix(5) + 1) == from_unix(6)


# ---- ports ------------------------------------------------------------------------------------------------


def test_ports_are_found_by_their_usb_ids_and_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def port(device: str, vid: int | None, product: str | None = None) -> SimpleNamespace:
        return SimpleNamespace(device=device, vid=vid, product=product, manufacturer=None, description="n/a")

    ports = [
        port("/dev/ttyACM0", 0x0AA7),
        port("/dev/ttyACM1", 0x1234, "Diebold Nixdorf TSE"),
        port("/dev/ttyUSB0", 0x067B, "scales"),
        port("/dev/ttyS0", None),
    ]
    monkeypatch.setattr(diebold_nixdorf, "comports", lambda: ports)
    found = list(diebold_nixdorf.find())
    assert [one.place for one in found] == ["/dev/ttyACM0", "/dev/ttyACM1"]
    assert found[0].options == {"port": "/dev/ttyACM0"}
    assert found[0].serial is None
    monkeypatch.setattr(diebold_nixdorf, "comports", None)
    assert list(diebold_nixdorf.find()) == []
