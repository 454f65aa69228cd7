"""The driver of Cryptovision TSEs on a simulated device: what every SCU must do, and every fault there is."""

from __future__ import annotations

import base64
import io
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fiskal.clock import from_unix
from fiskal.errors import ConfigurationError
from fiskal.scu.contract import (
    Deadline,
    ExportDataRequest,
    RegisterClientIdRequest,
    StartExportSessionByTimeStampRequest,
    StartExportSessionByTransactionRequest,
    StartExportSessionRequest,
    TseState,
    TseStates,
    UnregisterClientIdRequest,
)
from fiskal.scu.driver import Call, Signed, Verdict
from fiskal.scu.drivers import convert_options
from fiskal.scu.drivers import cryptovision as family
from fiskal.scu.drivers.cryptovision import Options, new_secrets
from fiskal.scu.drivers.cryptovision.marks import SLOTS, Mark, Marks
from fiskal.scu.drivers.cryptovision.merge import Merge
from fiskal.scu.drivers.cryptovision.volumes import mailboxes, mount_points
from fiskal.scu.errors import ClientError, Misconfigured, OutcomeUnknown, ScuError, TseRejected, Unreachable
from fiskal.scu.transports import Garbled
from fiskal.scu.transports.traffic import TRAFFIC
from fiskal.simulators.cryptovision import Quirks, Settings
from fiskal.simulators.plan import Plan
from fiskal.tse._native import MessageBuilder
from fiskal.tse.findings import Severity
from fiskal.tse.tar import TarWriter
from fiskal.tse.tarverify import verify_tar
from tests.campaigns import device_cryptovision
from tests.support.cryptovision import FAST, SECRETS, Rig, counters, fetch, names

INITIALIZED = TseState(current_state=TseStates.INITIALIZED)
TERMINATED = TseState(current_state=TseStates.TERMINATED)
STATE_TEXT = "Expected state to be Initialized but instead the TSE state was {}."


@pytest.fixture
def make_rig(tmp_path: Path, clock: Any) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(settings: Settings | None = None, **options: Any) -> Rig:
        rigs.append(Rig(tmp_path / str(len(rigs)), clock, settings, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def raw(make_rig: Callable[..., Rig]) -> Rig:
    """A new device."""
    return make_rig()


@pytest.fixture
def rig(raw: Rig) -> Rig:
    raw.initialize()
    return raw


@pytest.fixture
def pos(rig: Rig, make_pos: Any) -> Any:
    return make_pos(rig.scu)


def code_of(call: Callable[[], object], kind: type[ScuError] = TseRejected) -> str:
    with pytest.raises(kind) as caught:
        call()
    return caught.value.code


def verified(archive: bytes, **options: Any) -> Any:
    report = verify_tar(io.BytesIO(archive), **options)
    assert report.ok, report.findings
    assert report.counts[Severity.WARNING] == 0, report.findings
    assert report.valid == report.logs
    return report


# ---- state (tse-abstraction §15.1) --------------------------------------------------------------


@pytest.mark.parametrize("generation", [1, 2])
def test_the_life_of_a_device(make_rig: Any, make_pos: Any, generation: Any) -> None:
    rig = make_rig(Settings(plan=FAST, generation=generation))
    scu, pos = rig.scu, make_pos(rig.scu)
    info = scu.get_tse_info()
    assert (info.current_state, info.serial_number_octet) == (TseStates.UNINITIALIZED, "")
    assert info.info["generation"] == f"v{generation}"
    refused = STATE_TEXT.format("Uninitialized")
    for call in (
        pos.start,
        lambda: scu.register_client_id(RegisterClientIdRequest(client_id="POS-1")),
        lambda: scu.unregister_client_id(UnregisterClientIdRequest(client_id="POS-1")),
        lambda: scu.set_tse_state(TERMINATED),
        scu.execute_set_tse_time,
        lambda: scu.start_export_session(StartExportSessionRequest()),
    ):
        with pytest.raises(TseRejected, match=refused):
            call()
    scu.execute_self_test()
    assert scu.set_tse_state(TseState(current_state=TseStates.UNINITIALIZED)).current_state == 0
    assert scu.set_tse_state(INITIALIZED).current_state is TseStates.INITIALIZED
    before = rig.device.core.tse.counter
    assert scu.set_tse_state(INITIALIZED).current_state is TseStates.INITIALIZED
    assert rig.device.core.tse.counter == before
    scu.register_client_id(RegisterClientIdRequest(client_id="POS-1"))
    number = pos.start().transaction_number
    assert number == 1
    pos.finish(number)
    assert scu.set_tse_state(TERMINATED).current_state is TseStates.TERMINATED
    assert scu.set_tse_state(TERMINATED).current_state is TseStates.TERMINATED
    with pytest.raises(TseRejected, match="not possible to initialize a terminated TSE"):
        scu.set_tse_state(INITIALIZED)
    with pytest.raises(TseRejected, match=STATE_TEXT.format("Terminated")):
        pos.start()
    info = scu.get_tse_info()
    assert info.certificates_base64
    assert info.info["vendor_state"] == "disabled"
    verified(rig.export())


def test_what_a_device_says_of_itself(rig: Rig) -> None:
    info = rig.scu.get_tse_info()
    tse = rig.device.core.tse
    assert info.serial_number_octet == tse.chain.serial.hex()
    assert base64.b64decode(info.public_key_base64) == tse.chain.point
    assert [base64.b64decode(text) for text in info.certificates_base64] == list(tse.chain.der)
    assert (info.signature_algorithm, info.log_time_format) == ("ecdsa-plain-SHA256", "unixTime")
    assert (info.max_number_of_clients, info.max_number_of_started_transactions) == (128, 512)
    assert info.current_client_ids == ["POS-1", "POS-2"]
    assert info.current_number_of_signatures == tse.counter
    assert 0 < info.current_log_memory_size < info.max_log_memory_size == 2_751_462_912
    assert info.certification_identification == "BSI-K-TR-0000-2020"
    assert info.info is not None
    assert (info.info["vendor_state"], info.info["wear_indicator"]) == ("active", "7")


@pytest.mark.parametrize(
    "quirks",
    [
        Quirks(pubkey_254=True),
        Quirks(random_token=True),
        Quirks(short_numbers=True),
        Quirks(ers_bad_length=True),
        Quirks(open_tx_bad_length=True),
        Quirks(blanks_in_names=True),
        Quirks(counted_chunks=True),
        Quirks(answers_suspended=True),
    ],
    ids=lambda quirks: ",".join(name for name in quirks.__struct_fields__ if getattr(quirks, name)),
)
def test_quirks_of_firmware(make_rig: Any, make_pos: Any, quirks: Quirks) -> None:
    rig = make_rig(Settings(plan=FAST, quirks=quirks), export_chunk_records=7)
    rig.initialize()
    pos = make_pos(rig.scu)
    for number in range(1, 5):
        assert pos.start().transaction_number == number
    info = rig.scu.get_tse_info()
    assert info.current_started_transaction_numbers == [1, 2, 3, 4]
    assert info.current_client_ids == ["POS-1", "POS-2"]
    rig.inject("empty_header_done", "finish_transaction")
    pos.finish(1)
    archive = rig.export()
    assert counters(archive) == list(range(1, rig.device.core.tse.counter + 1))


# ---- transactions (§15.2-5) ---------------------------------------------------------------------


def test_an_answer_is_what_the_log_says(rig: Rig, pos: Any, make_pos: Any, clock: Any) -> None:
    other = make_pos(rig.scu, "POS-2")
    started, second = pos.start(), other.start()
    clock.advance(5)
    updated = pos.update(started.transaction_number)
    clock.advance(5)
    finished = pos.finish(started.transaction_number)
    other.finish(second.transaction_number)
    assert finished.start_transaction_time_stamp == started.time_stamp
    assert finished.time_stamp == started.time_stamp + 10 * 10_000_000
    assert (finished.client_id, finished.process_type) == ("POS-1", "Kassenbeleg-V1")
    assert finished.tse_time_stamp_format == "unixTime"
    by_counter = {message.signature_counter: message for message in rig.messages()}
    for answer in (started, updated, finished):
        message = by_counter[answer.signature_data.signature_counter]
        assert message.signature == base64.b64decode(answer.signature_data.signature_base64)
        assert message.log_time == answer.time_stamp
        assert answer.tse_serial_number_octet == rig.scu.get_tse_info().serial_number_octet
    assert started.signature_data.signature_counter < second.signature_data.signature_counter


def test_a_hundred_receipts_are_three_hundred_signatures(rig: Rig, pos: Any) -> None:
    before = rig.device.core.tse.counter
    commands = rig.driver._session.commands
    for number in range(1, 101):
        assert pos.start().transaction_number == number
        pos.update(number)
        pos.finish(number)
    assert rig.device.core.tse.counter == before + 300
    assert rig.driver._session.commands - commands <= 300 + 15


def test_the_start_is_found_whoever_remembers(rig: Rig, pos: Any, make_pos: Any, clock: Any) -> None:
    started = pos.start()
    clock.advance(7)
    rig.scu.close()
    (rig.folder / "scu" / "calls.sqlite").unlink()
    finished = make_pos(rig.open()).finish(started.transaction_number)
    assert finished.start_transaction_time_stamp == started.time_stamp


def test_refusals(rig: Rig, pos: Any, make_pos: Any) -> None:
    stranger = make_pos(rig.scu, "a6b2c3d4-0000-1111-2222-333344445555")
    with pytest.raises(TseRejected, match=r"client with the id a6b2c3d4.* is not registered"):
        stranger.start()
    pos.finish(pos.start().transaction_number)
    for call in (lambda: pos.finish(1), lambda: pos.update(1), lambda: pos.finish(999_999)):
        assert code_of(call) == "TRANSACTION_NOT_OPEN"
    number = pos.start().transaction_number
    assert make_pos(rig.scu, "POS-2").finish(number).client_id == "POS-2"
    rig.scu.unregister_client_id(UnregisterClientIdRequest(client_id="POS-1"))
    assert code_of(pos.start) == "CLIENT_NOT_REGISTERED"


def test_the_device_decides_where_the_core_is_wrong(rig: Rig, pos: Any, make_pos: Any) -> None:
    """What the device refuses by itself has the same class and text as what is refused ahead of it."""
    number = pos.start().transaction_number
    for command, value, code in (
        ("finish_transaction", "0x800e", "TRANSACTION_NOT_OPEN"),
        ("finish_transaction", "0x8012", "CLIENT_NOT_REGISTERED"),
        ("finish_transaction", "0x801e", "MEMORY_FULL"),
        ("finish_transaction", "0x8006", "WRONG_STATE"),
        ("finish_transaction", "0x801b", "WRONG_STATE"),
        ("finish_transaction", "0x8009", "WRONG_STATE"),
        ("finish_transaction", "0x8001", "VENDOR_ERROR"),
        ("finish_transaction", "0x8005", "DEVICE_FAILURE"),
    ):
        rig.inject("error", command, value=value)
        assert code_of(lambda: pos.finish(number)) == code, value
    rig.inject("error", "start_transaction", value="0x800c")
    assert code_of(pos.start) == "TRANSACTION_LIMIT"
    assert rig.transactions() == [("start", 1)]


@pytest.mark.parametrize(
    ("n", "fits"), [(475, True), (476, True), (477, True), (988, True), (8155, True), (8156, False)]
)
def test_sizes_at_the_borders_of_blocks(rig: Rig, pos: Any, n: int, fits: bool) -> None:
    number = pos.start().transaction_number
    data = b"x" * (n - 6 - 7 - (3 + len("POS-1")) - 3 - (3 + len("Kassenbeleg-V1")) - 3)
    if fits:
        pos.finish(number, data)
        assert rig.messages()[-1].process_data == data
    else:
        commands = rig.device.executed
        assert code_of(lambda: pos.finish(number, data), ClientError) == "INVALID_PROCESS_DATA"
        assert rig.device.executed == commands


def test_512_transactions_are_open(rig: Rig, pos: Any) -> None:
    numbers = [pos.start().transaction_number for _ in range(512)]
    info = rig.scu.get_tse_info()
    assert info.current_started_transaction_numbers == numbers
    assert info.current_number_of_started_transactions == 512
    assert code_of(pos.start) == "TRANSACTION_LIMIT"
    pos.finish(512)
    assert pos.start().transaction_number == 513


# ---- clients (§15.6) ----------------------------------------------------------------------------


def test_clients(rig: Rig) -> None:
    scu = rig.scu
    answer = scu.register_client_id(RegisterClientIdRequest(client_id="POS 3"))
    assert answer.client_ids == ["POS-1", "POS-2", "POS 3"]
    counter = rig.device.core.tse.counter
    assert scu.register_client_id(RegisterClientIdRequest(client_id="POS 3")) == answer
    assert rig.device.core.tse.counter == counter
    for bad in ("", "x" * 31, "Ä", "a/b", "a_b", 'a"b'):
        commands = rig.device.executed
        with pytest.raises(ClientError) as caught:
            scu.register_client_id(RegisterClientIdRequest(client_id=bad))
        assert caught.value.code == "INVALID_CLIENT_ID"
        assert rig.device.executed - commands < 10
    assert rig.device.core.tse.counter == counter
    answer = scu.unregister_client_id(UnregisterClientIdRequest(client_id="POS 3"))
    assert answer.client_ids == ["POS-1", "POS-2"]
    assert (
        scu.unregister_client_id(UnregisterClientIdRequest(client_id="nobody")).client_ids
        == answer.client_ids
    )


@pytest.mark.parametrize("generation", [1, 2])
def test_all_clients_there_can_be(make_rig: Any, generation: Any) -> None:
    """128 mappings of 30 characters are an answer of nearly one block."""
    rig = make_rig(Settings(plan=FAST, generation=generation))
    clients = [f"{number:030d}" for number in range(128)]
    rig.initialize(*clients)
    assert rig.scu.get_tse_info().current_client_ids == clients
    with pytest.raises(TseRejected) as caught:
        rig.scu.register_client_id(RegisterClientIdRequest(client_id="one more"))
    assert caught.value.code == "CLIENT_LIMIT"


@pytest.mark.parametrize("kind", ["empty_header_done", "empty_header_lost", "removed_after", "error_done"])
def test_a_registration_without_an_answer(rig: Rig, kind: str) -> None:
    rig.inject(kind, "map_ers_to_key")
    answer = rig.scu.register_client_id(RegisterClientIdRequest(client_id="POS-3"))
    assert answer.client_ids == ["POS-1", "POS-2", "POS-3"]
    rig.inject(kind, "map_ers_to_key")
    assert rig.scu.unregister_client_id(UnregisterClientIdRequest(client_id="POS-3")).client_ids == [
        "POS-1",
        "POS-2",
    ]


def test_a_garbled_list_of_clients_keeps_what_was_known(rig: Rig, pos: Any, caplog: Any) -> None:
    rig.scu.get_tse_info()
    rig.device.core._get_ers_mappings = lambda: bytes.fromhex("0007 02 0004 31323334".replace(" ", ""))  # type: ignore[method-assign]
    rig.device.core._handlers["get_ers_mappings"] = rig.device.core._get_ers_mappings
    assert rig.scu.get_tse_info().current_client_ids == ["POS-1", "POS-2"]
    assert "its list shows 0" in caplog.text
    pos.start()


# ---- faults: what is known afterwards -----------------------------------------------------------

DONE = [
    "busy_forever",
    "empty_header_done",
    "foreign_header",
    "length_too_big",
    "old_answer",
    "garbage",
    "removed_after",
]
DONE += ["restart_after", "torn_block"]
NOT_DONE = [
    "command_lost",
    "empty_header_lost",
    "ctl_timeout",
    "ctl_error",
    "removed_before",
    "restart_before",
    "torn_write",
]
HARMLESS = ["busy_long", "not_taken", "truncated_read", "slow_wakeup"]
VALUES = {"busy_long": 30, "slow_wakeup": 10, "torn_block": 0, "removed_before": 5, "removed_after": 5}


@pytest.mark.parametrize("kind", [*DONE, *NOT_DONE, *HARMLESS])
@pytest.mark.parametrize("op", ["start", "update", "finish"])
def test_every_fault_at_every_transaction(make_rig: Any, make_pos: Any, kind: str, op: str) -> None:
    """One call, one signature, and the answer is what the log says."""
    rig = make_rig(io_timeout_ms=150)
    rig.initialize()
    pos = make_pos(rig.scu)
    number = 1 if op == "start" else pos.start().transaction_number
    rig.inject(kind, f"{op}_transaction", value=VALUES.get(kind))
    item = str(uuid.uuid4())

    def call(retry: bool) -> Any:
        if op == "start":
            return pos.start(item, retry=retry)
        return getattr(pos, op)(number, item=item, retry=retry)

    try:
        answer = call(False)
    except (Unreachable, OutcomeUnknown):
        time.sleep(0.01)
        answer = call(True)
    assert rig.transactions() == [("start", 1)] if op == "start" else [("start", 1), (op, 1)]
    message = next(
        m for m in rig.messages() if m.signature_counter == answer.signature_data.signature_counter
    )
    assert message.signature == base64.b64decode(answer.signature_data.signature_base64)
    assert call(True) == answer
    assert len(rig.transactions()) == (1 if op == "start" else 2)


@pytest.mark.parametrize("code", ["0x8000", "0x8002", "0x8004", "0x8010", "0x80ff", "0x8100"])
@pytest.mark.parametrize("kind", ["error", "error_done"])
def test_result_codes_that_say_nothing(rig: Rig, pos: Any, kind: str, code: str) -> None:
    number = pos.start().transaction_number
    rig.inject(kind, "finish_transaction", value=code)
    pos.finish(number)
    assert rig.transactions() == [("start", 1), ("finish", 1)]


def test_a_call_that_stays_without_an_answer(rig: Rig, pos: Any) -> None:
    """The device is away when its log should be read: the outcome is unknown, and known later."""
    item = str(uuid.uuid4())
    rig.inject("removed_after", "start_transaction", value=60_000)
    assert code_of(lambda: pos.start(item), OutcomeUnknown) == "NO_RESPONSE"
    assert code_of(lambda: pos.start(item, retry=True), Unreachable) == "TSE_NOT_AVAILABLE"
    rig.device._away_until = -1.0
    assert pos.start(item, retry=True).transaction_number == 1
    assert rig.transactions() == [("start", 1)]


def test_the_driver_died_before_the_answer(rig: Rig, pos: Any, make_pos: Any) -> None:
    """Starts of one client all look the same: the marks tell which number belongs to which call."""
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    pos.start(str(uuid.uuid4()))
    rig.inject("removed_after", "start_transaction", value=60_000)
    with pytest.raises(OutcomeUnknown):
        pos.start(first)
    rig.device._away_until = -1.0
    rig.reopen()
    pos = make_pos(rig.scu)
    assert pos.start(second).transaction_number == 3
    rig.reopen()
    assert make_pos(rig.scu).start(first, retry=True).transaction_number == 2
    assert make_pos(rig.scu).start(second, retry=True).transaction_number == 3


def test_a_lost_start_is_not_taken_for_a_later_one(rig: Rig, pos: Any, make_pos: Any) -> None:
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    rig.scu.get_tse_info()
    rig.inject("empty_header_lost", "start_transaction")
    rig.inject("removed_before", "get_key_data", value=60_000)
    with pytest.raises((OutcomeUnknown, Unreachable)):
        pos.start(first)
    rig.device._away_until = -1.0
    assert pos.start(second).transaction_number == 1
    rig.reopen()
    assert make_pos(rig.scu).start(first, retry=True).transaction_number == 2
    assert rig.transactions() == [("start", 1), ("start", 2)]


def test_without_marks_the_open_numbers_tell(rig: Rig, pos: Any, make_pos: Any) -> None:
    item = str(uuid.uuid4())
    pos.start()
    rig.inject("removed_after", "start_transaction", value=60_000)
    with pytest.raises(OutcomeUnknown):
        pos.start(item)
    rig.device._away_until = -1.0
    rig.scu.close()
    (rig.folder / "scu" / "marks.bin").unlink()
    pos = make_pos(rig.open())
    assert pos.start(item, retry=True).transaction_number == 2
    call = Call("start", "POS-1", 0, "", b"", "x")
    assert rig.driver.reconcile(call, None, None) is Verdict.STILL_UNKNOWN
    assert rig.driver.reconcile(call, frozenset({1, 2}), None) is Verdict.NOT_EXECUTED
    found = rig.driver.reconcile(call, frozenset({1}), None)
    assert isinstance(found, Signed)
    assert found.transaction_number == 2


def test_a_finish_whose_log_was_erased_stays_unknown(rig: Rig, pos: Any) -> None:
    number = pos.start().transaction_number
    pos.finish(number, b"other")
    call = Call("finish", "POS-1", number, "Kassenbeleg-V1", b"data", "x")
    assert rig.driver.reconcile(call, None, None) is Verdict.NOT_EXECUTED
    rig.export(erase=True)
    assert rig.driver.reconcile(call, None, None) is Verdict.STILL_UNKNOWN
    found = Call("update", "POS-1", 5, "", b"", "x")
    assert rig.driver.reconcile(found, None, None) is Verdict.STILL_UNKNOWN


def test_another_device_is_refused(rig: Rig, pos: Any) -> None:
    pos.start()
    rig.inject("swapped", "start_transaction")
    assert code_of(pos.start, Misconfigured) == "WRONG_TSE"
    assert len(rig.transactions()) == 1


def test_a_device_with_another_serial_number_is_refused(make_rig: Any) -> None:
    rig = make_rig(serial="ab" * 32)
    assert code_of(lambda: rig.scu.set_tse_state(INITIALIZED), Misconfigured) == "WRONG_TSE"
    rig.scu.close()
    rig.open(serial=rig.device.core.tse.chain.serial.hex().upper())
    assert rig.scu.get_tse_info().current_state is TseStates.INITIALIZED


def test_the_store_belongs_to_one_device(rig: Rig, clock: Any, tmp_path: Path) -> None:
    rig.scu.get_tse_info()
    rig.scu.close()
    other = Rig(tmp_path / "other", clock)
    other.initialize()
    other.scu.close()
    device, rig.device = rig.device, other.device
    assert code_of(rig.open().get_tse_info, Misconfigured) == "WRONG_TSE"
    rig.scu.close()
    other.device.close()
    rig.device = device
    rig.open()


def test_a_restarted_device_is_told_the_time_again(rig: Rig, pos: Any, clock: Any, make_pos: Any) -> None:
    number = pos.start().transaction_number
    rig.restart_device()
    rig.reopen()
    pos = make_pos(rig.scu)
    clock.advance(60)
    assert pos.finish(number).time_stamp == clock()
    rig.inject("time_unset", "start_transaction")
    pos.start()
    rig.inject("error", "start_transaction", value="0x801d")
    pos.start()


def test_time(rig: Rig, pos: Any, clock: Any) -> None:
    before = rig.device.core.tse.counter
    clock.advance(100)
    rig.scu.execute_set_tse_time()
    assert [m.operation for m in rig.messages()[before:]] == ["authenticateUser", "updateTime", "logOut"]
    rig.inject("auto_logout", "update_time")
    rig.scu.execute_set_tse_time()
    clock.ticks = from_unix(2**31 + 5)
    rig.scu.execute_set_tse_time()
    clock.ticks = from_unix(4_765_129_200)
    assert code_of(rig.scu.execute_set_tse_time, Misconfigured) == "TIME_NOT_SET"


def test_the_time_is_set_before_it_is_too_late(make_rig: Any, make_pos: Any) -> None:
    rig = make_rig(Settings(plan=FAST, time_sync_interval_s=100))
    rig.initialize()
    pos = make_pos(rig.scu)
    moment = time.monotonic()
    rig.driver._monotonic = lambda: moment
    rig.scu.execute_set_tse_time()
    pos.start()
    counter = rig.device.core.tse.counter
    moment += 99
    pos.start()
    assert rig.device.core.tse.counter == counter + 1
    moment += 2
    pos.start()
    assert rig.device.core.tse.counter == counter + 1 + 4
    pos.start()
    assert rig.device.core.tse.counter == counter + 1 + 5


def test_the_keeper_sets_the_time_while_nobody_signs(make_rig: Any) -> None:
    rig = make_rig(Settings(plan=FAST, time_sync_interval_s=1), background_time_sync=True)
    rig.initialize()
    rig.scu.get_tse_info()
    counter = rig.device.core.tse.counter
    until = time.monotonic() + 20
    while rig.device.core.tse.counter < counter + 3 and time.monotonic() < until:
        time.sleep(0.02)
    assert [m.operation for m in rig.messages()[counter : counter + 3]] == [
        "authenticateUser",
        "updateTime",
        "logOut",
    ]


# ---- PINs (§15.17) ------------------------------------------------------------------------------


def logins(rig: Rig) -> int:
    return sum(m.operation == "authenticateUser" for m in rig.messages())


def test_a_wrong_pin_is_tried_once(rig: Rig) -> None:
    rig.reopen(admin_pin="wrongpin")
    before = logins(rig)

    def register() -> None:
        rig.scu.register_client_id(RegisterClientIdRequest(client_id="POS-9"))

    with pytest.raises(Misconfigured, match="2 tries are left") as caught:
        register()
    assert caught.value.code == "AUTH_FAILED"
    assert "wrongpin" not in str(caught.value)
    for _ in range(3):
        with pytest.raises(Misconfigured, match="not tried again"):
            register()
        rig.reopen()
    assert logins(rig) == before + 1
    rig.reopen(admin_pin="otherpin")
    with pytest.raises(Misconfigured, match=r"1 tries are left|1 try is left"):
        register()
    rig.reopen(admin_pin="thirdpin")
    with pytest.raises(Misconfigured, match="allow_last_pin_attempt"):
        register()
    assert logins(rig) == before + 2
    rig.reopen(admin_pin=SECRETS["admin_pin"], allow_last_pin_attempt=True)
    register()
    assert rig.device.core.state.users["Admin"].pin_retries == 3


def test_a_lost_answer_to_an_unproven_pin_is_not_a_second_try(rig: Rig) -> None:
    rig.reopen()
    rig.inject("empty_header_done", "authenticate_user")
    with pytest.raises(ScuError):
        rig.scu.execute_set_tse_time()
    before = logins(rig)
    rig.scu.execute_set_tse_time()
    rig.inject("empty_header_done", "authenticate_user")
    rig.scu.execute_set_tse_time()
    assert logins(rig) == before + 3


def test_a_blocked_pin(rig: Rig) -> None:
    rig.device.core.state.users["Admin"].pin_retries = 0

    def register() -> object:
        return rig.scu.register_client_id(RegisterClientIdRequest(client_id="POS-9"))

    assert code_of(register, Misconfigured) == "PIN_BLOCKED"
    rig.reopen(unblock_with_puk=True, admin_puk="wrong-puk!")
    assert code_of(register, Misconfigured) == "AUTH_FAILED"
    assert rig.device.core.state.users["Admin"].puk_retries == 2
    rig.reopen(admin_puk=SECRETS["admin_puk"], admin_pin="new pin!")
    register()
    assert rig.device.core.state.users["Admin"].pin == b"new pin!"
    rig.reopen(admin_pin="newer 8!")
    rig.driver.unblock("Admin")
    register()


def test_without_the_admin_pin_it_signs_and_says_what_it_cannot(rig: Rig, make_pos: Any) -> None:
    rig.reopen(admin_pin=None, admin_puk=None, time_admin_puk=None)
    pos = make_pos(rig.scu)
    pos.finish(pos.start().transaction_number)
    rig.scu.execute_set_tse_time()
    with pytest.raises(Misconfigured, match="'admin_pin'"):
        rig.scu.register_client_id(RegisterClientIdRequest(client_id="POS-9"))
    archive, erased = fetch(rig.scu, StartExportSessionRequest(erase=True), 1 << 20, erase=True)
    assert not erased
    verified(archive)
    rig.reopen(time_admin_pin=None)
    rig.device.core.forget_time()
    with pytest.raises(Misconfigured, match="'time_admin_pin'"):
        make_pos(rig.scu).start()


def test_the_pins_that_everybody_knows(make_rig: Any, tmp_path: Path, clock: Any) -> None:
    defaults = {
        "admin_pin": "hex:0102030405060708",
        "admin_puk": "hex:0102030405060708090a",
        "time_admin_pin": "22222222",
        "time_admin_puk": "something!",
    }
    for name, value in defaults.items():
        with pytest.raises(ConfigurationError, match="everybody knows") as caught:
            Rig(tmp_path / name, clock, **{name: value})
        assert value not in str(caught.value)
    rig = make_rig(allow_default_pins=True, **defaults)
    rig.initialize()
    assert rig.device.core.state.users["Admin"].pin == bytes(range(1, 9))


@pytest.mark.parametrize("value", ["short", "much too long", "hex:0a0b", "hex:zz", "üüüüüüüü"])
def test_pins_that_are_none(tmp_path: Path, clock: Any, value: str) -> None:
    with pytest.raises(ConfigurationError, match="admin_pin") as caught:
        Rig(tmp_path, clock, admin_pin=value)
    assert value not in str(caught.value)


def test_new_secrets_fit(make_rig: Any) -> None:
    rig = make_rig(**new_secrets())
    rig.initialize()
    assert rig.scu.get_tse_info().current_state is TseStates.INITIALIZED


def test_the_recovery_sheet_is_written_first(raw: Rig) -> None:
    raw.inject("empty_header_lost", "initialize_pins")
    with pytest.raises(ScuError):
        raw.scu.set_tse_state(INITIALIZED)
    (sheet,) = (raw.folder / "scu").glob("recovery-sheet-*.txt")
    assert sheet.stat().st_mode & 0o777 == 0o600
    for text in SECRETS.values():
        assert text.encode().hex() in sheet.read_text()
    raw.initialize()
    assert len(list((raw.folder / "scu").glob("recovery-sheet-*.txt"))) == 1


def test_initialising_without_secrets(make_rig: Any) -> None:
    rig = make_rig(admin_puk=None)
    with pytest.raises(Misconfigured, match="admin_puk") as caught:
        rig.scu.set_tse_state(INITIALIZED)
    assert caught.value.code == "NOT_PERSONALISED"


def test_secrets_are_shown_nowhere(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(TRAFFIC, "fiskal.traffic")
    rig.reopen()
    rig.scu.execute_set_tse_time()
    rig.scu.register_client_id(RegisterClientIdRequest(client_id="POS-7"))
    assert "> " in caplog.text
    assert b"POS-7".hex() in caplog.text
    shown = (
        caplog.text + repr(rig.options) + repr(rig.driver._secrets) + str(list(rig.options.__rich_repr__()))
    )
    for text in SECRETS.values():
        assert text not in shown
        assert text.encode().hex() not in shown


# ---- exports (§15.8) ----------------------------------------------------------------------------


def sell(pos: Any, count: int) -> None:
    for _ in range(count):
        pos.finish(pos.start().transaction_number)


@pytest.mark.parametrize("chunk", [0, 1, 7, 10_000])
def test_an_export_in_parts_is_one_archive(make_rig: Any, make_pos: Any, chunk: int) -> None:
    rig = make_rig(export_chunk_records=chunk)
    rig.initialize()
    sell(make_pos(rig.scu), 20)
    archive = rig.export(chunk=777)
    assert counters(archive) == list(range(1, rig.device.core.tse.counter + 1))
    assert names(archive).count("info.csv") == 1
    assert len([name for name in names(archive) if name.endswith(".cer")]) == 3
    assert archive.endswith(bytes(1024))
    verified(archive)


def test_erasing_takes_what_was_exported_and_no_more(rig: Rig, pos: Any) -> None:
    sell(pos, 10)
    archive, erased = fetch(rig.scu, StartExportSessionRequest(erase=True), 1 << 20, erase=True)
    assert erased
    last = counters(archive)[-1]
    sell(pos, 3)
    again = rig.export()
    assert counters(again) == list(range(last + 1, rig.device.core.tse.counter + 1))
    verified(again)
    assert not fetch(rig.scu, StartExportSessionRequest(), 1 << 20, erase=True)[1]
    pos.start()
    assert not fetch(rig.scu, StartExportSessionRequest(erase=True), 1 << 20, erase=True)[1]


@pytest.mark.parametrize("kind", ["empty_header_done", "empty_header_lost", "error", "no_delete_up_to"])
def test_erasing_that_goes_wrong(make_rig: Any, make_pos: Any, kind: str) -> None:
    rig = make_rig(Settings(plan=FAST, quirks=Quirks(no_delete_up_to=kind == "no_delete_up_to")))
    rig.initialize()
    sell(make_pos(rig.scu), 20)
    if kind != "no_delete_up_to":
        rig.inject(kind, "delete_data_up_to", value="0x8017")
    archive, erased = fetch(rig.scu, StartExportSessionRequest(erase=True), 1 << 20, erase=True)
    verified(archive)
    assert erased == (kind == "empty_header_done")


def test_a_full_range_that_was_erased_is_passed_over(make_rig: Any, make_pos: Any) -> None:
    rig = make_rig(assume_missing_step=5, export_chunk_records=3)
    rig.initialize()
    pos = make_pos(rig.scu)
    sell(pos, 20)
    assert fetch(rig.scu, StartExportSessionRequest(erase=True), 1 << 20, erase=True)[1]
    sell(pos, 2)
    archive = rig.export()
    assert len(counters(archive)) >= 6
    assert counters(archive) == list(range(counters(archive)[0], rig.device.core.tse.counter + 1))


@pytest.mark.parametrize(
    "fault",
    [
        ("fragment_lost", "next_fragment"),
        ("removed_after", "next_fragment"),
        ("empty_header_done", "next_fragment"),
        ("garbage", "next_fragment"),
        ("old_answer", "export_more_data"),
        ("restart_after", "next_fragment"),
        ("ctl_timeout", "export_more_data"),
        ("error", "export_more_data"),
        ("torn_block", "next_fragment"),
    ],
    ids=" at ".join,
)
def test_an_export_that_breaks_off_goes_on(make_rig: Any, make_pos: Any, fault: tuple[str, str]) -> None:
    rig = make_rig(export_chunk_records=30, io_timeout_ms=150)
    rig.initialize()
    sell(make_pos(rig.scu), 60)
    value = "0x801c" if fault[0] == "error" else 0 if fault[0] == "torn_block" else 5
    rig.inject(*fault, skip=2, times=2, value=value)
    archive = rig.export()
    got = counters(archive)
    assert got == list(range(1, got[-1] + 1))
    verified(archive)


def test_filtered_exports(make_rig: Any, make_pos: Any, clock: Any) -> None:
    rig = make_rig()
    rig.initialize()
    pos, other = make_pos(rig.scu), make_pos(rig.scu, "POS-2")
    sell(pos, 3)
    clock.advance(100)
    began = clock()
    sell(other, 2)

    def numbers(request: Any) -> set[int]:
        start = {
            StartExportSessionRequest: rig.scu.start_export_session,
            StartExportSessionByTransactionRequest: rig.scu.start_export_session_by_transaction,
            StartExportSessionByTimeStampRequest: rig.scu.start_export_session_by_time_stamp,
        }[type(request)]
        token = start(request).token_id
        while True:
            answer = rig.scu.export_data(ExportDataRequest(token_id=token, max_chunk_size=2 << 20))
            if answer.total_tar_file_size_available:
                break
            time.sleep(0.002)
        archive = base64.b64decode(answer.tar_file_byte_chunk_base64 or "")
        if not any(name.endswith(".log") for name in names(archive)):
            assert len(names(archive)) == 3  # the certificates
            return set()
        verified(archive, filtered=True)
        return {int(name.split("_No-")[1].split("_")[0]) for name in names(archive) if "_No-" in name}

    assert numbers(StartExportSessionRequest(client_id="POS-2")) == {4, 5}
    assert numbers(StartExportSessionByTransactionRequest(from_=2, to=4)) == {2, 3, 4}
    assert numbers(StartExportSessionByTransactionRequest(from_=5, to=5)) == {5}
    assert numbers(StartExportSessionByTransactionRequest(from_=77, to=99)) == set()
    assert numbers(StartExportSessionByTimeStampRequest(from_=began - 5, to=began)) == {4, 5}
    assert numbers(StartExportSessionByTimeStampRequest(from_=0, to=began - 1)) == {1, 2, 3}
    assert numbers(StartExportSessionByTimeStampRequest(client_id="nobody", from_=0, to=began)) == set()


def test_signing_goes_on_during_an_export(make_rig: Any, make_pos: Any) -> None:
    rig = make_rig(export_chunk_records=5)
    rig.initialize()
    pos = make_pos(rig.scu)
    sell(pos, 50)
    rig.device.conductor.take(Plan(scale=0, service_time={"export_more_data": 10}))
    token = rig.scu.start_export_session(StartExportSessionRequest()).token_id
    sell(pos, 5)
    assert not rig.scu.export_data(ExportDataRequest(token_id=token)).total_tar_file_size_available
    rig.scu.abandon_export_session(token)


def test_an_export_at_once(make_rig: Any, make_pos: Any) -> None:
    rig = make_rig(assume_export_more_data=False)
    rig.initialize()
    sell(make_pos(rig.scu), 30)
    rig.inject("fragment_lost", "next_fragment", skip=1)
    with pytest.raises(TseRejected, match="801c"):
        rig.export()
    verified(rig.export())


def test_an_export_that_is_never_ready(make_rig: Any, make_pos: Any) -> None:
    rig = make_rig()
    rig.initialize()
    sell(make_pos(rig.scu), 3)
    rig.device.core._exported = lambda counter: None  # type: ignore[method-assign]
    rig.inject("error", "export_more_data", times=None, value="0x8002")
    with pytest.raises(TseRejected, match=r"broke off|8002"):
        rig.export()


# ---- parts --------------------------------------------------------------------------------------


def archive_of(*members: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    tar = TarWriter(out, 0)
    for name, data in members:
        tar.add(name, data)
    return out.getvalue()


def message_of(counter: int) -> bytes:
    build = MessageBuilder(serial=bytes(32), algorithm=b"\x01\x03", hash_name="sha256")
    build.audit(b"", counter, 0)
    return build.seal(bytes(64))


MESSAGE, THIRD = message_of(1), message_of(3)


def test_a_damaged_message_is_asked_for_again_and_then_believed() -> None:
    name = "Unixt_1_Sig-1_Log-Sys_a.log"
    for damaged in (b"no message", THIRD):
        merge = Merge(out := io.BytesIO())
        with pytest.raises(Garbled, match="Message 1"):
            merge.write(archive_of((name, damaged)))
        assert not out.getvalue()
        merge.begin_part()
        merge.write(archive_of((name, damaged)))
        merge.end_part()
        assert names(out.getvalue() + bytes(1024)) == [name]


def test_merging_keeps_what_comes_twice_once() -> None:
    long = "Unixt_1_Sig-3_Log-Tra_No-1_Start_Client-" + "x" * 90 + ".log"
    parts = [
        archive_of(("info.csv", b"i"), ("a_X509.cer", b"c"), ("Unixt_1_Sig-1_Log-Sys_a.log", MESSAGE)),
        archive_of(("info.csv", b"i"), ("a_X509.cer", b"c"), (long, THIRD)),
    ]
    out = io.BytesIO()
    merge = Merge(out)
    for part in parts:
        merge.begin_part()
        for at in range(0, len(part), 100):
            merge.write(part[at : at + 100])
        merge.end_part()
    assert names(out.getvalue() + bytes(1024)) == [
        "info.csv",
        "a_X509.cer",
        "Unixt_1_Sig-1_Log-Sys_a.log",
        long,
    ]
    assert (merge.last_counter, merge.logs, merge.part_logs) == (3, 2, 1)


@pytest.mark.parametrize(
    "part",
    [
        archive_of(("Unixt_1_Sig-1_Log-Sys_a.log", MESSAGE), ("Unixt_1_Sig-1_Log-Sys_b.log", MESSAGE)),
        archive_of(("Unixt_1_Log-Sys_a.log", b"1")),
        archive_of(("info.csv", b"1"))[:-1],
        b"\xff" * 512,
        archive_of(("huge", b""))[:124] + b"77777777777\0" + archive_of(("huge", b""))[136:],
    ],
)
def test_parts_that_are_none(part: bytes) -> None:
    merge = Merge(io.BytesIO())

    def take() -> None:
        merge.write(part)
        merge.end_part()

    with pytest.raises(Garbled):
        take()


def test_marks_outlive_the_process_and_wear_out(tmp_path: Path) -> None:
    calls = [Call("start", "c", 0, "", b"", str(number)) for number in range(SLOTS + 3)]
    marks = Marks(tmp_path)
    for number, call in enumerate(calls):
        marks.write(call, Mark(number, number // 2))
    marks.write(Call("finish", "c", 9, "", b"", "f"), Mark(5, 6))
    marks.sync()
    marks.close()
    for _ in range(2):
        marks = Marks(tmp_path)
        assert [marks.read(call) is None for call in calls[:5]] == [True] * 4 + [False]
        assert marks.read(calls[-1]) == Mark(SLOTS + 2, SLOTS // 2 + 1)
        assert marks.next_start(calls[-2]) == marks.read(calls[-1])
        assert marks.next_start(calls[-1]) is None
        assert marks.next_start(calls[0]) is None
        marks.close()
    path = tmp_path / "marks.bin"
    path.write_bytes(b"\xff" * 100 + path.read_bytes()[100:])
    marks = Marks(tmp_path)
    assert marks.read(calls[-1]) == Mark(SLOTS + 2, SLOTS // 2 + 1)
    marks.close()


def test_options() -> None:
    assert (
        convert_options("cryptovision", {"path": "/mnt/tse", "io_timeout_ms": 5000}, Options).io_timeout_ms
        == 5000
    )
    with pytest.raises(ConfigurationError, match="Did you mean 'time_admin_pin'"):
        convert_options("cryptovision", {"timeadmin_pin": "x"}, Options)


def test_finding_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stick = tmp_path / "my stück"
    stick.mkdir()
    (stick / "TSE-IO.bin").write_bytes(bytes(8192))
    assert list(mailboxes([tmp_path, stick, stick])) == [stick / "TSE-IO.bin"]
    assert Path("/") in mount_points()
    monkeypatch.setattr("fiskal.scu.drivers.cryptovision.volumes.mount_points", lambda: [stick])
    (found,) = family.find()
    assert (found.family, found.place, found.options) == ("cryptovision", str(stick), {"path": str(stick)})


def test_no_volume_or_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points: list[Path] = []
    monkeypatch.setattr("fiskal.scu.drivers.cryptovision.volumes.mount_points", lambda: points)
    with pytest.raises(ConfigurationError, match="no Cryptovision TSE is mounted"):
        family.open(tmp_path / "scu", Options())
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "TSE-IO.bin").write_bytes(bytes(8192))
        points.append(tmp_path / name)
    with pytest.raises(ConfigurationError, match="several"):
        family.open(tmp_path / "scu", Options())


def test_a_deadline_that_passed(rig: Rig) -> None:
    with pytest.raises(Unreachable):
        rig.scu.get_tse_info(Deadline(0))


def test_a_short_campaign() -> None:
    assert sum(device_cryptovision.run(150, seed=7, rate=0.08, deaths=0.004).values()) > 0
