"""Framing of Cryptovision TSEs: every worked frame of the reference, and the C core against an obvious model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiskal.frames import cryptovision as cv
from fiskal.frames.cryptovision import Command, FrameError, Kind, Mode, Remedy, Result, State
from tests.support import cryptovision_model as model

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "cryptovision.json").read_text())
K = bytes.fromhex("be2974546978e3739e6d6da85c4be9f334ce32df2b9fd4b6ff1b55c0d57e9d44")
DATA = b"Beleg^84.20_0.00_0.00_0.00_0.00^84.20:Bar"
TYPE = b"Kassenbeleg-V1"
CLIENT = b"KASSE-01"
ALL = 0xFFFFFFFF
ADMIN_PIN, ADMIN_PUK = bytes(range(1, 9)), bytes(range(1, 11))
TIME_PIN, TIME_PUK = b"22222222", b"something!"


def export(number: int, first: int, last: int, since: int, until: int, size: int = 4) -> bytes:
    return cv.command(
        Command.EXPORT_DATA,
        cv.text(""),
        *(cv.number(value) for value in (number, first, last)),
        *(cv.number(value, size if value != ALL or size == 8 else 4) for value in (since, until)),
        cv.number(0),
    )


def key_data(which: int) -> bytes:
    return cv.command(Command.GET_KEY_DATA, cv.short(which), cv.octets(K))


def bare(code: Command) -> Callable[[], bytes]:
    return lambda: cv.command(code)


COMMANDS: dict[str, Callable[[], bytes]] = {
    "disable suspend (mode 5344) / enable suspend (mode 5345)": lambda: cv.SESSION,
    "next fragment": lambda: cv.NEXT_FRAGMENT,
    "cancel": lambda: cv.CANCEL,
    "Start": bare(Command.START),
    "GetPinStates": bare(Command.GET_PIN_STATES),
    "InitializePins v1": lambda: cv.command(
        Command.INITIALIZE_PINS, *map(cv.octets, (ADMIN_PUK, ADMIN_PIN, TIME_PUK, TIME_PIN))
    ),
    "InitializePins v2 (Admin)": lambda: cv.command(
        Command.INITIALIZE_PINS, cv.text("Admin"), cv.octets(ADMIN_PUK)
    ),
    "AuthenticateUser Admin 01..08": lambda: cv.command(
        Command.AUTHENTICATE_USER, cv.text("Admin"), cv.octets(ADMIN_PIN)
    ),
    "AuthenticateUser TimeAdmin": lambda: cv.command(
        Command.AUTHENTICATE_USER, cv.text("TimeAdmin"), cv.octets(TIME_PIN)
    ),
    "UnblockUser TimeAdmin": lambda: cv.command(
        Command.UNBLOCK_USER, cv.text("TimeAdmin"), cv.octets(TIME_PUK), cv.octets(TIME_PIN)
    ),
    "Logout Admin": lambda: cv.command(Command.LOGOUT, cv.text("Admin")),
    "Initialize": bare(Command.INITIALIZE),
    "UpdateTime 1700000000": lambda: cv.command(Command.UPDATE_TIME, cv.number(1_700_000_000)),
    "GetSerialNumbers": bare(Command.GET_SERIAL_NUMBERS),
    "MapERStoKey": lambda: cv.command(Command.MAP_ERS_TO_KEY, cv.text("KASSE-01"), cv.octets(K)),
    "unmap": lambda: cv.command(Command.MAP_ERS_TO_KEY, cv.text("KASSE-01"), cv.octets(b"")),
    "StartTransaction, empty data and type": lambda: inner(
        cv.transaction(Command.START_TRANSACTION, 0, CLIENT, b"", b"")
    ),
    "UpdateTransaction 42": lambda: inner(cv.transaction(Command.UPDATE_TRANSACTION, 42, CLIENT, DATA, TYPE)),
    "FinishTransaction 42": lambda: inner(cv.transaction(Command.FINISH_TRANSACTION, 42, CLIENT, DATA, TYPE)),
    "ExportData all": lambda: export(ALL, 0, ALL, 0, ALL),
    "ExportData transaction 42": lambda: export(42, 0, ALL, 0, ALL),
    "ExportData transactions 40..42": lambda: export(ALL, 40, 42, 0, ALL),
    "ExportData 1700000000..1700086400": lambda: export(ALL, 0, ALL, 1_700_000_000, 1_700_086_400, 8),
    "ExportMoreData after 0, 10000 records": lambda: cv.command(
        Command.EXPORT_MORE_DATA, cv.octets(K), cv.number(0), cv.number(10_000)
    ),
    "GetCertificates": bare(Command.GET_CERTIFICATES),
    "ReadLogMessage": bare(Command.READ_LOG_MESSAGE),
    "Erase": bare(Command.ERASE),
    "DeleteDataUpTo 500": lambda: cv.command(Command.DELETE_DATA_UP_TO, cv.octets(K), cv.number(500)),
    "GetConfigData 1,2,4,5,6,7,8": lambda: cv.command(Command.GET_CONFIG_DATA, cv.short(1)),
    "GetStatus 0..6": lambda: cv.command(Command.GET_STATUS, cv.short(4)),
    "GetKeyData counter": lambda: key_data(0),
    "GetKeyData expiry": lambda: key_data(1),
    "GetKeyData public key": lambda: key_data(2),
    "GetERSMappings": bare(Command.GET_ERS_MAPPINGS),
    "GetWearIndicator": bare(Command.GET_WEAR_INDICATOR),
    "Deactivate": bare(Command.DEACTIVATE),
    "Activate": bare(Command.ACTIVATE),
    "Disable": bare(Command.DISABLE),
    "Shutdown": bare(Command.SHUTDOWN),
}


def inner(block: bytes) -> bytes:
    """The command in a block."""
    length = int.from_bytes(block[32:34])
    assert block == cv.block(block[36 : 36 + length])
    return block[36 : 36 + length]


def test_every_worked_command_has_its_check() -> None:
    assert COMMANDS.keys() == VECTORS["commands"].keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_worked_commands(name: str) -> None:
    assert COMMANDS[name]().hex() == VECTORS["commands"][name]


def test_the_worked_block() -> None:
    block = cv.block(COMMANDS["AuthenticateUser TimeAdmin"]())
    assert block[:80] == bytes.fromhex(
        "41 64 56 61 6e 63 45 44 20 53 65 43 75 52 65 20 53 44 2f 4d 4d 43 20 43 41 72 64 01 de ad be ef"
        "00 1d 00 00 5c 54 00 03 00 17 04 00 09 54 69 6d 65 41 64 6d 69 6e 02 00 08 32 32 32 32 32 32 32"
        "32 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00"
    )
    assert len(block) == 512
    assert not any(block[80:])
    assert cv.block(cv.SESSION, mode=Mode.RESUME)[32:38] == bytes.fromhex("000253440000")
    assert cv.block(cv.SESSION, mode=Mode.SUSPEND)[32:38] == bytes.fromhex("000253450000")


def answer_block(name: str) -> bytes:
    return (bytes(model.MAGIC) + bytes.fromhex(VECTORS["answers"][name])).ljust(8192, b"\0")


def parameters(name: str) -> list[cv.Value]:
    answer = cv.read_answer(answer_block(name))
    assert answer.state is State.DATA
    head = cv.read_head(answer.data)
    assert (head.kind, head.more) == (Kind.PARAMETERS, False)
    return cv.read_values(head.present)


SIGNATURE = bytes(range(64))
ANSWERS: dict[str, Callable[[], Any]] = {
    "Start (`240346 Mar 30 2020 21:47:01`, id a0..af)": lambda: (
        parameters("Start (`240346 Mar 30 2020 21:47:01`, id a0..af)")
        == [(4, b"240346 Mar 30 2020 21:47:01", 0), (2, bytes(range(0xA0, 0xB0)), 0)]
    ),
    "auth ok, 3 left": lambda: [v.number for v in parameters("auth ok, 3 left")] == [0, 3],
    "failed, 2 left": lambda: [v.number for v in parameters("failed, 2 left")] == [1, 2],
    "blocked": lambda: [v.number for v in parameters("blocked")] == [2, 0],
    "PIN states all in transport": lambda: parameters("PIN states all in transport")[0].data == b"\1\1\1\1",
    "life cycle active": lambda: parameters("life cycle active")[0].number == 3,
    "open transactions 42, 43": lambda: parameters("open transactions 42, 43")[0].longs == [42, 43],
    "max clients 128": lambda: parameters("max clients 128")[0].number == 128,
    "wear 7": lambda: parameters("wear 7")[0].number == 7,
    "signature algorithm 0.4.0.127.0.7.1.1.4.1.3": lambda: (
        parameters("signature algorithm 0.4.0.127.0.7.1.1.4.1.3")[0].data.hex()
        == "300c060a04007f00070101040103"
    ),
    "serial numbers": lambda: cv.read_serial(parameters("serial numbers")[0].data) == K,
    "ERS mappings": lambda: cv.read_mappings(parameters("ERS mappings")[0].data) == ([("KASSE-01", K)], True),
    "StartTransaction → 42, counter 1001, time 1700000001, sig 00..3f, serial K": lambda: (
        signature(
            "StartTransaction → 42, counter 1001, time 1700000001, sig 00..3f, serial K", has_number=True
        )
        == (42, 1001, 1_700_000_001, SIGNATURE, K)
    ),
    "FinishTransaction → counter 1002, time 1700000002": lambda: (
        signature("FinishTransaction → counter 1002, time 1700000002", has_number=False)
        == (0, 1002, 1_700_000_002, SIGNATURE, K)
    ),
    "success without data": lambda: parameters("success without data") == [],
    "busy": lambda: cv.read_answer(answer_block("busy")).state is State.BUSY,
    "controller timeout": lambda: (
        cv.read_answer(answer_block("controller timeout"))[:3] == (State.CONTROLLER, 0, 0xFF45)
    ),
    "not authenticated": lambda: error("not authenticated") == Result.NOT_AUTHENTICATED,
    "time not set": lambda: error("time not set") == Result.TIME_NOT_SET,
    "export, first frame header, total 20000": lambda: first_frame() == (Kind.STREAM, 20_000, 8148, True),
}


def signature(name: str, *, has_number: bool) -> cv.Signature:
    head = cv.read_head(cv.read_answer(answer_block(name)).data)
    return cv.read_signature(head.present, has_number=has_number)


def error(name: str) -> int:
    head = cv.read_head(cv.read_answer(answer_block(name)).data)
    assert head.kind is Kind.ERROR
    return head.error


def first_frame() -> tuple[Kind, int, int, bool]:
    head = cv.read_head(cv.read_answer(answer_block("export, first frame header, total 20000")).data)
    return head.kind, head.total, len(head.present), head.more


def test_every_worked_answer_has_its_check() -> None:
    assert ANSWERS.keys() == VECTORS["answers"].keys()


@pytest.mark.parametrize("name", ANSWERS)
def test_worked_answers(name: str) -> None:
    assert ANSWERS[name]()


def test_the_worked_export_takes_three_frames() -> None:
    left, sizes = 20_000 - 8148, [8148]
    more = True
    while more:
        fragment = cv.read_fragment(bytes(min(left, 8158)), left, stream=True)
        sizes.append(len(fragment.present))
        left -= len(fragment.present)
        more = fragment.more
    assert sizes == [8148, 8158, 3694]


@pytest.mark.parametrize(
    ("n", "sectors"), [(1, 1), (475, 1), (476, 1), (477, 2), (988, 2), (989, 3), (8155, 16)]
)
def test_block_borders(n: int, sectors: int) -> None:
    block = cv.block(b"x" * n)
    assert len(block) == sectors * 512
    assert block == model.block(b"x" * n)


@pytest.mark.parametrize("n", [0, 8156, 9000])
def test_commands_that_no_block_holds(n: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        cv.block(b"x" * n)


def test_the_largest_process_data() -> None:
    client = b"C" * 30
    block = cv.transaction(Command.FINISH_TRANSACTION, 1, client, b"d" * 8086, TYPE)
    assert int.from_bytes(block[32:34]) == 8155
    with pytest.raises(ValueError, match="8087 bytes does not fit"):
        cv.transaction(Command.FINISH_TRANSACTION, 1, client, b"d" * 8087, TYPE)


@pytest.mark.parametrize(
    "parameter",
    [(1, b""), (1, b"xx"), (3, b"x"), (5, b"xxx"), (4, b"x" * 513), (0, b""), (0x80, b""), (2, b"x" * 8147)],
)
def test_values_that_do_not_fit_their_type(parameter: tuple[int, bytes]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        cv.command(0x10, parameter)


def test_codes_and_numbers_out_of_range() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        cv.command(0x10000)
    with pytest.raises(ValueError, match="does not fit"):
        cv.transaction(Command.FINISH_TRANSACTION, 2**32, b"", b"", b"")
    with pytest.raises(ValueError, match="does not fit"):
        cv.transaction(Command.ERASE, 1, b"", b"", b"")
    with pytest.raises(OverflowError):
        cv.number(2**32)
    assert cv.number(2**32, 5) == (2, b"\1\0\0\0\0")
    with pytest.raises(ValueError, match="ascii"):
        cv.text("Ä")


# ---- the core against the model -----------------------------------------------------------------

octets = st.binary(max_size=300)
parameter_lists = st.lists(
    st.one_of(
        st.tuples(st.just(2), octets),
        st.tuples(st.just(4), octets),
        st.tuples(st.just(1), st.binary(min_size=1, max_size=1)),
        st.tuples(st.just(3), st.binary(min_size=2, max_size=2)),
        st.tuples(st.just(5), octets.map(lambda value: value[: len(value) // 4 * 4])),
    ),
    max_size=8,
)


@given(st.integers(0, 0xFFFF), parameter_lists)
def test_commands_are_the_models(code: int, values: list[tuple[int, bytes]]) -> None:
    command = cv.command(code, *values)
    assert command == model.command(code, values)
    assert cv.block(command) == model.block(command)
    assert cv.read_values(command[6:]) == [(type_, value, 0) for type_, value in values]


@given(st.sampled_from([0x0A, 0x0B, 0x0C]), st.integers(0, 2**32 - 1), st.binary(max_size=40), st.data())
def test_transactions_are_the_models(code: int, number: int, client: bytes, data: st.DataObject) -> None:
    process = data.draw(st.one_of(octets, st.integers(8000, 8200).map(bytes)))
    type_ = data.draw(st.binary(max_size=100))
    try:
        expected = model.transaction(code, number, client, process, type_)
    except model.Bad:
        with pytest.raises(ValueError, match="does not fit"):
            cv.transaction(code, number, client, process, type_)
    else:
        assert cv.transaction(code, number, client, process, type_) == expected


def same(of_the_core: Callable[[], Any], of_the_model: Callable[[], Any]) -> None:
    try:
        expected = of_the_model()
    except model.Bad:
        with pytest.raises(FrameError):
            of_the_core()
    else:
        assert of_the_core() == expected


lengths = st.one_of(
    st.integers(0, 40),
    st.sampled_from([8157, 8158, 8159, 0xFEFF, 0xFF00, 0xFF45, 0xFFFF]),
    st.integers(0, 0xFFFF),
)


@given(
    st.sampled_from([bytes(model.MAGIC), bytes(28), bytes(27) + b"\1"]),
    st.sampled_from([bytes(4), bytes.fromhex("deadbeef"), bytes.fromhex("deadbeaf")]),
    lengths,
    st.one_of(octets, st.integers(8150, 8160).map(bytes)),
    st.integers(0, 40),
)
def test_answers_are_read_as_the_model_does(
    magic: bytes, token: bytes, length: int, body: bytes, cut: int
) -> None:
    block = magic + token + length.to_bytes(2) + body
    block = block[: len(block) - cut]
    same(lambda: cv.read_answer(block), lambda: model.read_answer(block))
    same(lambda: cv.read_answer(bytearray(block)), lambda: model.read_answer(block))


@given(
    st.one_of(lengths, st.sampled_from([0, 0x8000, 0x8011, 0x9000, 0x7FFF, 8156])),
    st.one_of(st.binary(max_size=30), st.integers(8140, 8160).map(bytes)),
    st.sampled_from([None, 0, 1, 8148, 20_000, 2**63 - 1, 2**63]),
)
def test_heads_are_read_as_the_model_does(result: int, body: bytes, total: int | None) -> None:
    data = result.to_bytes(2) + (b"" if total is None else total.to_bytes(8)) + body
    same(lambda: cv.read_head(data), lambda: model.read_head(data))


@given(
    st.one_of(st.binary(max_size=30), st.sampled_from([b"\x80\x1c"]), st.integers(8150, 8160).map(bytes)),
    st.one_of(st.integers(0, 30), st.integers(8150, 8170), st.integers(0, 2**62)),
    st.booleans(),
)
def test_fragments_are_read_as_the_model_does(data: bytes, missing: int, stream: bool) -> None:
    same(
        lambda: cv.read_fragment(data, missing, stream=stream),
        lambda: model.read_fragment(data, missing, stream),
    )


@given(
    st.one_of(st.binary(max_size=60), parameter_lists.map(lambda values: model.command(0, values)[6:])),
    st.booleans(),
)
def test_values_are_read_as_the_model_does(data: bytes, has_number: bool) -> None:
    same(lambda: cv.read_values(data), lambda: model.read_values(data))
    same(
        lambda: cv.read_signature(data, has_number=has_number),
        lambda: model.read_signature(data, has_number),
    )


@given(
    st.lists(st.integers(0, 9), min_size=4, max_size=5),
    st.booleans(),
)
def test_numbers_may_have_one_to_eight_bytes(sizes: list[int], has_number: bool) -> None:
    data = model.command(0, [(2, bytes([7]) * size) for size in sizes])[6:]
    same(
        lambda: cv.read_signature(data, has_number=has_number),
        lambda: model.read_signature(data, has_number),
    )


# ---- structured values --------------------------------------------------------------------------


def tlv(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(size)]) + size + content


client_ids = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=30)


def mapping(client: str, serial: bytes = K) -> bytes:
    return tlv(0x30, tlv(0x04, client.encode()) + tlv(0x04, serial))


@given(st.lists(client_ids, max_size=40))
def test_mappings_are_read(clients: list[str]) -> None:
    found = cv.read_mappings(tlv(0x30, b"".join(map(mapping, clients))))
    assert found == ([(client, K) for client in clients], True)


@given(st.lists(client_ids, min_size=1, max_size=10), st.data())
def test_mappings_with_wrong_lengths_are_read(clients: list[str], data: st.DataObject) -> None:
    """The lengths of the list and of its entries are wrong; those of the ids are right."""
    entries = []
    for client in clients:
        entry = bytearray(mapping(client))
        entry[1] = data.draw(st.integers(0, 0x7F))
        entries.append(bytes(entry))
    whole = b"".join(entries)
    broken = b"\x30" + bytes([data.draw(st.integers(0, 0x7F))]) + whole
    found, _ = cv.read_mappings(broken)
    assert [item.client_id for item in found] == clients


def test_a_mapping_without_a_readable_key() -> None:
    broken = b"\x30\x7f" + tlv(0x30, tlv(0x04, b"KASSE-01") + tlv(0x05, b"")) + mapping("KASSE-02")
    assert cv.read_mappings(broken) == ([("KASSE-01", None), ("KASSE-02", K)], False)
    assert cv.read_mappings(b"") == ([], False)
    assert cv.read_mappings(b"\x30\x00") == ([], True)


def test_the_first_key_that_signs_transactions_is_taken() -> None:
    other = bytes(32)

    def record(serial: bytes, transactions: int) -> bytes:
        flags = bytes([0x80, 1, transactions, 0x81, 1, 1, 0x82, 1, 1])
        return tlv(0x30, tlv(0x04, serial) + tlv(0x30, flags))

    assert cv.read_serial(tlv(0x30, record(other, 0) + record(K, 0xFF))) == K
    for bad in (tlv(0x30, record(other, 0)), tlv(0x30, b""), b"", tlv(0x30, record(K[:31], 1)), record(K, 1)):
        with pytest.raises(FrameError):
            cv.read_serial(bad)


@given(st.binary(max_size=120))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    for read in (cv.read_mappings, cv.read_serial, cv.read_values, cv.read_head, cv.read_answer):
        try:
            read(data)
        except FrameError:
            continue


def test_an_open_transaction_list_that_miscounts() -> None:
    """Seen on devices: the lengths say one element more than there is (tse-cryptovision §5.3)."""
    data = bytes.fromhex("0017 05 0014 0000000a 0000000b 0000000c 0000000d")
    head = cv.read_head(data)
    assert not head.more
    (value,) = cv.read_values(head.present)
    assert (value.longs, value.cut) == ([10, 11, 12, 13], 4)


def test_every_result_code_has_its_remedy() -> None:
    assert {code: cv.remedy_of(code) for code in Result} == {
        Result.COMMUNICATION_FAILED: Remedy.REOPEN,
        Result.COMMAND_DATA_INVALID: Remedy.PROGRAM,
        Result.RESPONSE_DATA_INVALID: Remedy.REOPEN,
        Result.SIGNING_FAILED: Remedy.REPEAT,
        Result.RETRIEVE_LOG_MESSAGE_FAILED: Remedy.LOOK,
        Result.STORAGE_FAILURE: Remedy.FATAL,
        Result.DISABLED: Remedy.FATAL,
        Result.NOT_AUTHORIZED: Remedy.LOGIN,
        Result.NOT_AUTHENTICATED: Remedy.LOGIN,
        Result.NOT_INITIALIZED: Remedy.STATE,
        Result.UPDATE_TIME_FAILED: Remedy.REPEAT,
        Result.USER_ID_NOT_MANAGED: Remedy.PROGRAM,
        Result.START_TRANSACTION_FAILED: Remedy.STATE,
        Result.CERTIFICATE_EXPIRED: Remedy.FATAL,
        Result.NO_TRANSACTION: Remedy.STATE,
        Result.UPDATE_TRANSACTION_FAILED: Remedy.NONE,
        Result.FINISH_TRANSACTION_FAILED: Remedy.LOOK,
        Result.TIME_NOT_SET: Remedy.TIME,
        Result.NO_ERS: Remedy.STATE,
        Result.NO_KEY: Remedy.PROGRAM,
        Result.NOT_DEACTIVATED: Remedy.STATE,
        Result.NO_DATA_AVAILABLE: Remedy.NO_DATA,
        Result.TOO_MANY_RECORDS: Remedy.CAPACITY,
        Result.UNEXPORTED_STORED_DATA: Remedy.STATE,
        Result.PARAMETER_MISMATCH: Remedy.PROGRAM,
        Result.ID_NOT_FOUND: Remedy.NO_DATA,
        Result.TRANSACTION_NUMBER_NOT_FOUND: Remedy.NO_DATA,
        Result.DEACTIVATED: Remedy.STATE,
        Result.TRANSPORT: Remedy.CANCELLED,
        Result.NO_STARTUP: Remedy.RESTART,
        Result.NO_STORAGE: Remedy.CAPACITY,
        Result.TSE_TIMEOUT: Remedy.REOPEN,
        Result.STREAM_WRITE: Remedy.PROGRAM,
        Result.BUFFER_TOO_SMALL: Remedy.PROGRAM,
        Result.ALLOCATION_FAILED: Remedy.FATAL,
        Result.CALLBACK: Remedy.PROGRAM,
    }
    assert cv.remedy_of(0x80FF) is Remedy.NONE
