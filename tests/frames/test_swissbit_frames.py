"""Swissbit blocks: the worked ones of the protocol, and whatever hypothesis thinks of against the obvious model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiskal.frames import swissbit as frames
from fiskal.frames.swissbit import Command, Event, FrameError, Kind, User
from tests.frames import swissbit_model as model

CLIENT = b"KASSE-01"
TYPE = b"Kassenbeleg-V1"

COMMANDS = [
    (frames.texts_command(Command.SELF_TEST, None, CLIENT), "000b400008 4b415353452d3031"),
    (frames.texts_command(Command.LOGIN, User.ADMIN, b"12345"), "000920000105 3132333435"),
    (frames.texts_command(Command.LOGIN, User.TIME_ADMIN, b"98765"), "000920000205 3938373635"),
    (frames.texts_command(Command.LOGOUT, User.ADMIN), "0003210001"),
    (
        frames.texts_command(Command.UNBLOCK, User.ADMIN, b"123456", b"54321"),
        "001022000106 313233343536 05 3534333231",
    ),
    (
        frames.texts_command(Command.CHANGE_PUK, None, b"906476", b"123456"),
        "0010230006 393036343736 06 313233343536",
    ),
    (
        frames.texts_command(Command.CHANGE_PIN, User.ADMIN, b"13243", b"12345"),
        "000f24000105 3133323433 05 3132333435",
    ),
    (frames.time_command(1_700_000_000), "000a8000 000000006553f100"),
    (frames.texts_command(Command.REGISTER, None, CLIENT), "000b410008 4b415353452d3031"),
    (frames.texts_command(Command.DEREGISTER, None, CLIENT), "000b420008 4b415353452d3031"),
    (frames.skip_command(Command.LIST_CLIENTS, 0), "00064300 00000000"),
    (frames.skip_command(Command.LIST_TRANSACTIONS, 0, CLIENT), "000f8500 00000000 08 4b415353452d3031"),
    (frames.skip_command(Command.LIST_TRANSACTIONS, 0, b""), "00078500 00000000 00"),
    (frames.skip_command(Command.LIST_TRANSACTIONS, 62, b""), "00078500 0000003e 00"),
    (frames.skip_command(Command.CERTIFICATE, 0), "00068600 00000000"),
    (frames.skip_command(Command.CERTIFICATE, 501), "00068600 000001f5"),
    (frames.command(Command.ENABLE_CTSS), "00026000"),
    (frames.command(Command.DISABLE_CTSS), "00026100"),
    (frames.command(Command.INITIALIZE), "00027000"),
    (frames.FETCH, "00028300"),
    (frames.CLOSE, "00029500"),
    (
        frames.open_command(Event.START, CLIENT, 0, 0, b""),
        "002c900000084b415353452d3031 0000000000000000 0000000000000000 0000000000000000 0000000000000000",
    ),
    (
        frames.open_command(Event.UPDATE, CLIENT, 42, 41, TYPE),
        "003a900001084b415353452d3031 000000000000002a 0000000000000029 000000000000000e"
        "4b617373656e62656c65672d5631 0000000000000000",
    ),
    (
        frames.open_command(Event.FINISH, CLIENT, 42, 41, TYPE),
        "003a900002084b415353452d3031 000000000000002a 0000000000000029 000000000000000e"
        "4b617373656e62656c65672d5631 0000000000000000",
    ),
]
CLOSED = (
    "0000010bff00a2000000000000002a50d858e0985ecc7f60418aaf0cc5ab587f42c2570a884095a9e8ccacd0f6545c000000"
    "006553f10100000000000003e90000000000000060000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c"
    "1d1e1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e"
    "4f505152535455565758595a5b5c5d5e5f0000"
)
CLIENTS = (
    "0000010eff0041024b415353452d303100000000000000000000000000000000000000000000006669736b616c0000000000"
    "00000000000000000000000000000000000000000000"
)
INFO = """
    0010: 00 00 00 00 00 00 00 00 00 00 00 24 07 01 00 00
    0020: 07 00 00 00 00 01 51 80 00 00 00 02 00 00 02 00
    0030: 00 00 03 e9 01 31 2d 00 00 00 00 02 00 00 00 64
    0040: 00 00 00 00 6e fa a5 00 00 00 00 00 00 00 48 00
    0050: 00 01 00 00 00 01 01 00 00 00 00 00 00 00 00 00
    0060: 00 00 00 00 00 00 00 00 00 00 61 04 00 01 02 03
    0070: 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 10 11 12 13
    0080: 14 15 16 17 18 19 1a 1b 1c 1d 1e 1f 20 21 22 23
    0090: 24 25 26 27 28 29 2a 2b 2c 2d 2e 2f 30 31 32 33
    00a0: 34 35 36 37 38 39 3a 3b 3c 3d 3e 3f 40 41 42 43
    00b0: 44 45 46 47 48 49 4a 4b 4c 4d 4e 4f 50 51 52 53
    00c0: 54 55 56 57 58 59 5a 5b 5c 5d 5e 5f 00 00 00 00
    00d0: 00 00 05 dc 00 00 00 00 00 00 00 00 00 00 00 00
    0100: 8b d9 c1 27 2e 4a a3 f0 53 5a d1 c2 20 4e 48 22
    0110: 68 1f b3 4e de 3e f0 e2 80 ef 4f b3 c7 04 db f1
    0120: 42 53 49 2d 4b 2d 54 52 2d 30 33 36 32 2d 32 30
    0130: 31 39 00 00 00 00 00 00 00 00 00 00 00 00 00 00
"""


def block(text: str) -> bytes:
    return bytes.fromhex(text).ljust(512, b"\0")


def info_block() -> bytes:
    result = bytearray(512)
    for line in INFO.split("\n")[1:-1]:
        offset, _, row = line.partition(": ")
        at = int(offset, 16)
        result[at : at + 16] = bytes.fromhex(row)
    return bytes(result)


@pytest.mark.parametrize(("built", "expected"), COMMANDS)
def test_worked_commands(built: bytes, expected: str) -> None:
    assert built == block(expected)
    assert frames.code_of(built) == bytes.fromhex(expected)[2]


@pytest.mark.parametrize(
    ("text", "kind", "counter", "word"),
    [
        ("00000107f3", Kind.NOT_YET, 0x107, 0),
        ("00000107fd", Kind.FETCH, 0x107, 0),
        ("00000108ff00020000", Kind.COMPLETE, 0x108, 0),
        ("00000109ff00021002", Kind.COMPLETE, 0x109, 0x1002),
        ("0000010cff00021100", Kind.COMPLETE, 0x10C, 0x1100),
    ],
)
def test_worked_responses(text: str, kind: int, counter: int, word: int) -> None:
    answer = frames.read_response(block(text))
    assert (answer.kind, answer.counter, answer.word, answer.data) == (kind, counter, word, b"")
    assert frames.read_kind(block(text)) == (kind, counter)


def test_worked_data() -> None:
    answer = frames.read_response(block("0000010aff000a 0000000000001a2b 0000"))
    assert frames.read_offset(answer.data) == 0x1A2B
    closed = frames.read_closed(frames.read_response(block(CLOSED)).data)
    assert (closed.number, closed.counter, closed.log_time) == (42, 1001, 1_700_000_001)
    assert closed.serial.hex() == "50d858e0985ecc7f60418aaf0cc5ab587f42c2570a884095a9e8ccacd0f6545c"
    assert closed.signature == bytes(range(96))
    answer = frames.read_response(block("0000010dff001302 000000000000002a 000000000000002b 0000"))
    assert frames.read_numbers(answer.data) == [42, 43]
    assert frames.read_clients(frames.read_response(block(CLIENTS)).data) == [b"KASSE-01", b"fiskal"]
    answer = frames.read_response(block("0000010fff000f000b 2d2d2d2d2d424547494e20 0000"))
    assert frames.read_certificate(answer.data) == b"-----BEGIN "


def test_worked_info() -> None:
    info = frames.read_info(info_block())
    assert info == frames.Info(
        has_magic=False,
        time_valid=True,
        self_test_passed=True,
        ctss_active=True,
        state=1,
        importing=False,
        changed_puk=True,
        changed_admin_pin=True,
        changed_time_admin_pin=True,
        software=(1, 1, 0),
        hardware=0x10000,
        capacity_blocks=0,
        size_blocks=0x24,
        self_test_in_s=86400,
        time_sync_in_s=1500,
        started=2,
        max_started=512,
        signatures=1001,
        max_signatures=20_000_000,
        clients=2,
        max_clients=100,
        certificate_end=1_861_920_000,
        tar_bytes=18432,
        key_length=97,
        key=b"\4" + bytes(range(96)),
        serial=bytes.fromhex("8bd9c1272e4aa3f0535ad1c2204e4822681fb34ede3ef0e280ef4fb3c704dbf1"),
        description=b"BSI-K-TR-0362-2019",
    )


@pytest.mark.parametrize("length", [0, 1, 506, 0xFFFF])
def test_a_response_with_an_impossible_length_is_none(length: int) -> None:
    with pytest.raises(FrameError, match="length"):
        frames.read_response(block(f"00000108ff{length:04x}"))
    with pytest.raises(FrameError):
        frames.read_response(bytes(511))


def test_the_largest_response() -> None:
    answer = frames.read_response(block("00000108ff01f9" + "ab" * 503 + "1007"))
    assert (len(answer.data), answer.word) == (503, 0x1007)


def test_what_does_not_fit_into_a_command_is_refused() -> None:
    frames.open_command(0, b"c" * 30, 0, 0, b"t" * 444)
    with pytest.raises(FrameError, match="512"):
        frames.open_command(0, b"c" * 30, 0, 0, b"t" * 445)
    for event, client in ((3, b"c"), (0, b""), (0, b"c" * 31)):
        with pytest.raises(FrameError, match="range"):
            frames.open_command(event, client, 0, 0, b"")
    with pytest.raises(FrameError):
        frames.command(0x90, bytes(509))
    with pytest.raises(FrameError):
        frames.texts_command(Command.LOGIN, 1, b"1" * 256)


def test_secrets_are_found() -> None:
    for frame, hidden in (
        (frames.texts_command(Command.LOGIN, 1, b"12345"), 5),
        (frames.texts_command(Command.CHANGE_PUK, None, b"906476", b"123456"), 4),
        (frames.texts_command(Command.CHANGE_PIN, 2, b"13243", b"12345"), 5),
        (frames.texts_command(Command.UNBLOCK, 1, b"123456", b"54321"), 5),
    ):
        assert frames.secrets_of(frame) == (slice(hidden, 512),)
    assert frames.secrets_of(frames.CLOSE) == ()
    assert frames.secrets_of(b"\xff\xff12345") == (slice(0, 7),)


def test_a_client_id_without_an_end_and_slots_of_32_bytes() -> None:
    assert frames.read_clients(b"\1" + b"x" * 31) == [b"x" * 31]
    assert frames.read_clients(b"\2" + b"a".ljust(32, b"\0") + b"b".ljust(32, b"\0")) == [b"a", b"b"]
    full = b"\x10" + b"".join(bytes([65 + i]).ljust(31, b"\0") for i in range(16))
    assert len(full) == 497
    assert len(frames.read_clients(full)) == 16
    for wrong in (b"\x11" + bytes(527), b"\2" + b"a".ljust(31, b"\0"), b"\1" + bytes(31)):
        with pytest.raises(FrameError):
            frames.read_clients(wrong)


# ---- against the model --------------------------------------------------------------------------


def both(real: Callable[[], object], obvious: Callable[[], object]) -> None:
    """Both give the same, or both refuse."""
    try:
        expected = obvious()
    except model.Wrong:
        with pytest.raises(FrameError):
            real()
        return
    assert real() == expected


TEXT = st.binary(max_size=300)


@given(st.integers(0, 255), st.binary(max_size=520))
def test_commands_like_the_model(code: int, payload: bytes) -> None:
    both(lambda: frames.command(code, payload), lambda: model.command(code, list(payload)))


@given(st.integers(0, 255), st.none() | st.integers(0, 255), st.none() | TEXT, st.none() | TEXT)
def test_commands_of_texts_like_the_model(
    code: int, user: int | None, first: bytes | None, second: bytes | None
) -> None:
    def obvious() -> bytes:
        payload = [] if user is None else [user]
        for part in (first, second):
            if part is not None:
                payload += model.text(part)
        return model.command(code, payload)

    both(lambda: frames.texts_command(code, user, first, second), obvious)


@given(
    st.integers(0, 2),
    st.binary(min_size=1, max_size=30),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=480),
)
def test_opening_like_the_model(event: int, client: bytes, number: int, length: int, kind: bytes) -> None:
    both(
        lambda: frames.open_command(event, client, number, length, kind),
        lambda: model.open_transaction(event, client, number, length, kind),
    )


@given(st.binary(min_size=512, max_size=512) | st.binary(max_size=600))
def test_responses_like_the_model(data: bytes) -> None:
    names = {Kind.NOT_YET: "not yet", Kind.FETCH: "fetch", Kind.COMPLETE: "complete"}

    def real() -> object:
        answer = frames.read_response(data)
        return answer.counter, names[Kind(answer.kind)], answer.word, answer.data

    both(real, lambda: model.response(data))
    if len(data) >= 7:
        forced = data[:4] + b"\xff" + bytes([data[5] & 1]) + data[6:]
        data = forced
        both(real, lambda: model.response(forced))


SIZED = st.integers(0, 70).flatmap(lambda n: st.binary(max_size=560).map(lambda body: bytes([n]) + body))
SLOTS = st.lists(st.binary(min_size=31, max_size=32), max_size=17).map(
    lambda slots: bytes([len(slots)]) + b"".join(slots)
)


@given(SIZED | SLOTS | st.binary(max_size=503))
def test_data_like_the_model(data: bytes) -> None:
    both(lambda: frames.read_numbers(data), lambda: model.numbers(data))
    both(lambda: frames.read_clients(data), lambda: model.clients(data))
    both(lambda: frames.read_certificate(data), lambda: model.certificate(data))
    both(lambda: tuple(frames.read_closed(data)), lambda: model.closed(data))


@given(st.binary(min_size=64, max_size=503), st.integers(0, 450))
def test_closing_like_the_model(data: bytes, length: int) -> None:
    data = data[:56] + length.to_bytes(8, "big") + data[64:]
    both(lambda: tuple(frames.read_closed(data)), lambda: model.closed(data))


@given(st.binary(min_size=512, max_size=512))
def test_info_like_the_model(data: bytes) -> None:
    assert frames.read_info(data)._asdict() == model.info(data)
    assert frames.read_sector_table(data) == tuple(model.number(list(data[i : i + 4])) for i in (0, 4, 8))
