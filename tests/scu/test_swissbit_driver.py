"""The Swissbit driver on the simulated device: what every driver must do, and every fault the device can have."""

from __future__ import annotations

import base64
import io
import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fiskal.errors import ConfigurationError
from fiskal.frames.swissbit import User
from fiskal.scu.contract import (
    Deadline,
    EndExportSessionRequest,
    ExportDataRequest,
    FinishTransactionRequest,
    FinishTransactionResponse,
    RegisterClientIdRequest,
    StartExportSessionRequest,
    StartTransactionRequest,
    StartTransactionResponse,
    TseState,
    TseStates,
    UnregisterClientIdRequest,
    UpdateTransactionRequest,
)
from fiskal.scu.core import ScuCore
from fiskal.scu.driver import Selection
from fiskal.scu.drivers.swissbit import Options
from fiskal.scu.drivers.swissbit import open as open_scu
from fiskal.scu.drivers.swissbit.driver import SwissbitDriver
from fiskal.scu.drivers.swissbit.find import find, on_volume
from fiskal.scu.drivers.swissbit.options import Inferred
from fiskal.scu.drivers.swissbit.setup import derive
from fiskal.scu.errors import (
    ClientError,
    Misconfigured,
    NotSupported,
    OutcomeUnknown,
    ScuError,
    TseRejected,
    Unreachable,
)
from fiskal.scu.transports.traffic import TRAFFIC
from fiskal.simulators import fuse
from fiskal.simulators.swissbit import Volume, device_over_windows
from fiskal.tse.certificates import load_certificates
from fiskal.tse.logmessage import LogType, parse
from fiskal.tse.tar import read_members
from tests.support.swissbit import (
    ADMIN_PIN,
    CLIENT,
    FORMS,
    MANAGEMENT,
    PUK,
    TIME_PIN,
    Bench,
    InProcessMedium,
    in_process,
    options,
    settings,
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.getLogger("fiskal.scu.software").setLevel(logging.ERROR)
    yield
    logging.getLogger("fiskal.scu.software").setLevel(logging.NOTSET)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with in_process(tmp_path) as made:
        yield made


def start(scu: ScuCore, client: str = CLIENT, **more: Any) -> StartTransactionResponse:
    more.setdefault("queue_item_id", str(uuid.uuid4()))
    return scu.start_transaction(StartTransactionRequest(client_id=client, **more))


def finish(
    scu: ScuCore, number: int, data: bytes = b"Beleg^1.00", client: str = CLIENT, **more: Any
) -> FinishTransactionResponse:
    more.setdefault("queue_item_id", str(uuid.uuid4()))
    return scu.finish_transaction(
        FinishTransactionRequest(
            client_id=client,
            transaction_number=number,
            process_type="Kassenbeleg-V1",
            process_data_base64=base64.b64encode(data).decode(),
            **more,
        )
    )


def export(scu: ScuCore) -> bytes:
    token = scu.start_export_session(StartExportSessionRequest()).token_id
    data = b""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        answer = scu.export_data(ExportDataRequest(token_id=token, max_chunk_size=1 << 20))
        data += base64.b64decode(answer.tar_file_byte_chunk_base64 or "")
        if answer.tar_file_end_of_file:
            return data
        time.sleep(0.002)
    raise AssertionError("the export does not end")


def logs(data: bytes) -> list[Any]:
    return [parse(member.data) for member in read_members(io.BytesIO(data)) if member.name.endswith(".log")]


def transactions(device: Any) -> Counter[tuple[str, int]]:
    """How often each operation on each transaction stands in the device's log."""
    found: Counter[tuple[str, int]] = Counter()
    for _, message in device.tse.messages():
        read = parse(message)
        if read.type is LogType.TRANSACTION:
            found[read.operation or "", read.transaction_number or 0] += 1
    return found


# ---- what every driver must do, in every form ---------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_tse_in_every_form(form: str, tmp_path: Path) -> None:
    reason = fuse.why_not() if form == "mounted" else None
    if reason:
        pytest.skip(reason)
    with FORMS[form](tmp_path) as made:
        scu = made.scu
        info = scu.get_tse_info()
        assert info.current_state is TseStates.INITIALIZED
        assert info.current_client_ids == [MANAGEMENT, CLIENT]
        assert info.log_time_format == "unixTime"
        assert info.signature_algorithm == "ecdsa-plain-SHA384"
        assert len(info.certificates_base64) == 3
        answers = []
        for number, size in enumerate((0, 1, 511, 512, 513, 1024, 5000), 1):
            begun = start(scu)
            assert begun.transaction_number == number
            assert scu.get_tse_info().current_started_transaction_numbers == [number]
            done = finish(scu, number, bytes(range(256)) * (size // 256) + b"x" * (size % 256))
            assert done.start_transaction_time_stamp == begun.time_stamp
            assert done.tse_serial_number_octet == info.serial_number_octet
            answers += [begun.signature_data.signature_counter, done.signature_data.signature_counter]
        assert answers == sorted(set(answers))
        found = logs(export(scu))
        counters = [message.signature_counter for message in found]
        assert counters == list(range(1, len(counters) + 1))
        signed = [m.signature_counter for m in found if m.type is LogType.TRANSACTION]
        assert signed == answers
        key = load_certificates(base64.b64decode(info.certificates_base64[0]))[0].public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert all(message.verify(key) for message in found)
        made.restart()
        begun = start(made.scu)
        made.restart()
        assert finish(made.scu, begun.transaction_number).start_transaction_time_stamp == begun.time_stamp


def test_updates_and_two_clients(bench: Bench) -> None:
    scu = bench.scu
    scu.register_client_id(RegisterClientIdRequest(client_id="KASSE-02"))
    one, two = start(scu), start(scu, "KASSE-02")
    update = scu.update_transaction(
        UpdateTransactionRequest(
            client_id=CLIENT,
            transaction_number=one.transaction_number,
            process_type="Bestellung-V1",
            process_data_base64=base64.b64encode(b"1;Bier;4.00").decode(),
            queue_item_id=str(uuid.uuid4()),
        )
    )
    assert update.signature_data.signature_counter == two.signature_data.signature_counter + 1
    with pytest.raises(TseRejected) as caught:
        finish(scu, two.transaction_number)  # of another client: the device decides
    assert caught.value.code == "TRANSACTION_NOT_OPEN"
    finish(scu, two.transaction_number, client="KASSE-02")
    finish(scu, one.transaction_number)
    with pytest.raises(TseRejected, match="either not started or has been finished already"):
        finish(scu, one.transaction_number)
    with pytest.raises(TseRejected, match="The client with the id KASSE-03 is not registered"):
        start(scu, "KASSE-03")


def test_clients_are_listed_over_pages_and_limited(tmp_path: Path) -> None:
    with in_process(tmp_path, settings(max_clients=19)) as bench:
        scu = bench.scu
        for index in range(17):
            listed = scu.register_client_id(RegisterClientIdRequest(client_id=f"K{index:029d}")).client_ids
        assert len(listed) == 19
        assert listed == scu.register_client_id(RegisterClientIdRequest(client_id=listed[5])).client_ids
        with pytest.raises(TseRejected, match="19 of at most 19"):
            scu.register_client_id(RegisterClientIdRequest(client_id="one more"))
        assert len(scu.unregister_client_id(UnregisterClientIdRequest(client_id=listed[5])).client_ids) == 18
        commands = bench.device.commands if bench.device else 0
        for wrong in ("x" * 31, "ä", "a/b", ""):
            with pytest.raises(ClientError) as caught:
                scu.register_client_id(RegisterClientIdRequest(client_id=wrong))
            assert caught.value.code == "INVALID_CLIENT_ID"
        assert bench.device is not None
        assert "register" not in bench.device.executed[-(bench.device.commands - commands) :]


def test_many_open_transactions_are_all_listed(tmp_path: Path) -> None:
    with in_process(tmp_path, settings(max_open=70)) as bench:
        numbers = [start(bench.scu).transaction_number for _ in range(70)]
        info = bench.scu.get_tse_info()
        assert info.current_started_transaction_numbers == numbers
        assert info.max_number_of_started_transactions == 70
        with pytest.raises(TseRejected) as caught:
            start(bench.scu)
        assert caught.value.code == "TRANSACTION_LIMIT"
        for number in numbers[:8]:
            finish(bench.scu, number, b"")
        assert bench.scu.get_tse_info().current_number_of_started_transactions == 62


def test_process_data_over_the_border_of_two_windows(tmp_path: Path) -> None:
    chosen = settings(capacity_blocks=4096, window_blocks=2048, import_block=2046)
    with in_process(tmp_path, chosen) as bench:
        data = bytes(range(250)) * 8
        number = start(bench.scu).transaction_number
        finish(bench.scu, number, data)
        assert logs(export(bench.scu))[-1].process_data == data


def test_the_start_of_a_transaction_is_found_in_the_log_without_a_call_store(bench: Bench) -> None:
    begun = start(bench.scu)
    bench.scu.close()
    (bench.folder / "scu" / "calls.sqlite").unlink()
    bench.restart()
    assert finish(bench.scu, begun.transaction_number).start_transaction_time_stamp == begun.time_stamp


# ---- the life of a device -----------------------------------------------------------------------


INITIAL = {"initial_puk": "", "initial_admin_pin": "", "initial_time_admin_pin": ""}


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Bench]:
    """A device as it is delivered."""
    device = device_over_windows(tmp_path / "device", settings())
    puk, admin, time_admin = derive("SwissbitSwissbit", device.serial)
    made = Bench(
        tmp_path,
        lambda: InProcessMedium(Volume(device)),
        device,
        initial_puk=puk,
        initial_admin_pin=admin,
        initial_time_admin_pin=time_admin,
    )
    yield made
    made.scu.close()
    device.close()


def test_the_first_secrets_of_a_device() -> None:
    serial = bytes.fromhex("b7a6acb5cb18e381a5fac1c2b6ef8027717257aaba0b87f347f31e5117363b07")
    assert derive("SwissbitSwissbit", serial) == ("906476", "13243", "87215")


def test_initialising_a_new_device(new: Bench) -> None:
    scu = new.scu
    assert scu.get_tse_info().current_state is TseStates.UNINITIALIZED
    scu.execute_self_test()
    scu.execute_set_tse_time()
    with pytest.raises(TseRejected, match="instead the TSE state was Uninitialized"):
        start(scu)
    state = TseState(current_state=TseStates.INITIALIZED)
    assert scu.set_tse_state(state).current_state is TseStates.INITIALIZED
    sheet = next((new.folder / "scu").glob("recovery-*.txt"))
    assert all(secret in sheet.read_text() for secret in (PUK, ADMIN_PIN, TIME_PIN))
    assert sheet.stat().st_mode & 0o077 == 0
    scu.register_client_id(RegisterClientIdRequest(client_id=CLIENT))
    assert start(scu).transaction_number == 1
    counter = scu.get_tse_info().current_number_of_signatures
    assert scu.set_tse_state(state).current_state is TseStates.INITIALIZED
    assert scu.get_tse_info().current_number_of_signatures == counter
    with pytest.raises(NotSupported, match="vendor's library"):
        scu.set_tse_state(TseState(current_state=TseStates.TERMINATED))


@pytest.mark.parametrize("step", range(12))
def test_initialising_goes_on_after_any_step(new: Bench, step: int) -> None:
    new.inject("removed_after", skip=step, value=1)
    state = TseState(current_state=TseStates.INITIALIZED)
    try:
        new.scu.set_tse_state(state)
    except ScuError:
        new.calm()
        new.restart()
        assert new.scu.set_tse_state(state).current_state is TseStates.INITIALIZED
    new.calm()
    new.scu.register_client_id(RegisterClientIdRequest(client_id=CLIENT))
    finish(new.scu, start(new.scu).transaction_number)


def test_a_wrong_first_puk_is_tried_once(new: Bench) -> None:
    new.restart(initial_puk="000000")
    state = TseState(current_state=TseStates.INITIALIZED)
    for _ in range(3):
        with pytest.raises(Misconfigured) as caught:
            new.scu.set_tse_state(state)
        assert caught.value.code == "AUTH_FAILED"
        new.restart()
    new.restart(initial_puk="000001")  # another one needs somebody who knows
    with pytest.raises(Misconfigured, match="i_know_the_seed"):
        new.scu.set_tse_state(state)
    assert new.device is not None
    assert new.device._memory.puk_tries == 2


# ---- PINs ---------------------------------------------------------------------------------------


def test_a_wrong_pin_is_sent_once_and_never_again(bench: Bench) -> None:
    assert bench.device is not None
    bench.restart(time_admin_pin="00000")
    for _ in range(3):
        with pytest.raises(Misconfigured) as caught:
            start(bench.scu)
        assert caught.value.code == "AUTH_FAILED"
        assert "2 tries are left" in str(caught.value)
    bench.restart()
    with pytest.raises(Misconfigured, match="was refused by the TSE before"):
        start(bench.scu)
    assert bench.device._memory.pin_tries[2] == 2
    bench.restart(time_admin_pin="00001")
    with pytest.raises(Misconfigured):
        start(bench.scu)
    assert bench.device._memory.pin_tries[2] == 1
    bench.restart(time_admin_pin=TIME_PIN)  # the last try is not taken without being asked to
    with pytest.raises(Misconfigured, match="last_try"):
        start(bench.scu)
    assert bench.device._memory.pin_tries[2] == 1
    bench.restart(last_try=True)
    start(bench.scu)
    assert bench.device._memory.pin_tries[2] == 3


def test_a_blocked_pin_is_unblocked_with_the_puk(bench: Bench) -> None:
    assert bench.device is not None
    bench.device._memory.pin_tries[2] = 0
    with pytest.raises(Misconfigured) as caught:
        start(bench.scu)
    assert caught.value.code == "PIN_BLOCKED"
    with pytest.raises(NotSupported, match="unblock_command"):
        bench.driver.unblock(bench_user(), PUK, "99999", None)
    bench.restart(inferred=Inferred(unblock_command=True), time_admin_pin="99999")
    bench.driver.unblock(bench_user(), PUK, "99999", None)
    start(bench.scu)


def bench_user() -> User:
    return User.TIME_ADMIN


def test_without_the_admin_pin_the_tse_signs_and_says_what_it_cannot(bench: Bench) -> None:
    bench.restart(admin_pin=None, puk=None, registered_clients=[CLIENT])
    finish(bench.scu, start(bench.scu).transaction_number)
    assert bench.scu.get_tse_info().current_client_ids == [CLIENT, MANAGEMENT]
    with pytest.raises(Misconfigured, match="admin_pin"):
        bench.scu.register_client_id(RegisterClientIdRequest(client_id="KASSE-02"))


def test_pins_that_everybody_knows_are_refused(tmp_path: Path) -> None:
    for name, value in (("admin_pin", "12345"), ("time_admin_pin", "98765"), ("puk", "123456")):
        with pytest.raises(ConfigurationError, match=name):
            Options(**{name: value}).check()
        Options(**{name: value}, allow_default_pins=True).check()
    text = repr(options(tmp_path))
    assert not any(secret in text for secret in (PUK, ADMIN_PIN, TIME_PIN))


def test_no_secret_is_in_the_traffic_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(TRAFFIC, logger="fiskal.traffic"):
        finish(bench.scu, start(bench.scu).transaction_number)
        bench.scu.get_tse_info()
    assert "in process >" in caplog.text
    for secret in (ADMIN_PIN, TIME_PIN, PUK):
        assert secret.encode().hex() not in caplog.text


# ---- faults -------------------------------------------------------------------------------------

HARMLESS = [
    ("busy_long", "close", 60),
    ("fetch", "*", None),
    ("fetch_ignored", "close", None),
    ("stale_counter", "close", 3),
    ("echo_readback", "close", 3),
    ("short_read", "close", 100),
    ("short_write", "close", 100),
    ("torn_block", "close", 64),
    ("torn_block", "list_clients", 20),
    ("bad_rlen", "close", 506),
    ("bad_rlen", "open", 1),
    ("eio_read", "close", None),
    ("eio_before", "open", None),
    ("eio_after", "open", None),
    ("eio_before", "close", None),
    ("eio_after", "close", None),
    ("removed_before", "open", 20),
    ("removed_after", "open", 20),
    ("removed_before", "close", 20),
    ("removed_after", "close", 20),
    ("power_cycle", "open", None),
    ("power_cycle", "close", None),
    ("lost_response", "open", None),
    ("lost_response", "close", None),
    ("lost_command", "open", None),
    ("lost_command", "close", None),
    ("data_late", "close", None),
    ("selftest_expired", "open", None),
    ("time_unset", "open", None),
    ("ctss_off", "open", None),
    ("export_busy", "open", None),
    ("counter_frozen", "list_transactions", None),
    ("slow_wakeup", "open", 30_000),
]


@pytest.mark.parametrize(("kind", "command", "value"), HARMLESS)
def test_a_fault_costs_no_receipt_and_no_second_signature(
    bench: Bench, kind: str, command: str, value: Any
) -> None:
    """Each call is answered, by itself or when it is asked again, and stands in the log once."""
    scu = bench.scu
    if kind != "counter_frozen":
        finish(scu, start(scu).transaction_number)
    number = 0
    for op in ("start", "finish"):
        bench.inject(kind, command, value=value)
        item = str(uuid.uuid4())

        def call(op: str = op, item: str = item, number: int = number) -> Any:
            if op == "start":
                return start(bench.scu, queue_item_id=item, is_retry=True)
            return finish(bench.scu, number, b"x" * 700, queue_item_id=item, is_retry=True)

        answer = again(call)
        bench.calm()
        assert again(call).signature_data.signature_counter == answer.signature_data.signature_counter
        number = answer.transaction_number
    assert bench.device is not None
    found = transactions(bench.device)
    assert set(found.values()) == {1}
    assert found["FinishTransaction", number] == 1
    assert bench.scu.get_tse_info().current_started_transaction_numbers == []
    assert "register" not in bench.device.executed


def again(call: Callable[[], Any], times: int = 6) -> Any:
    for _ in range(times):
        try:
            return call()
        except (Unreachable, OutcomeUnknown):
            time.sleep(0.03)
    return call()


@pytest.mark.parametrize(
    ("kind", "code", "error"),
    [
        ("store_full", "MEMORY_FULL", TseRejected),
        ("sigs_exceeded", "SIGNATURE_LIMIT", TseRejected),
        ("max_tx", "TRANSACTION_LIMIT", TseRejected),
        ("cert_expired", "CERTIFICATE_EXPIRED", TseRejected),
    ],
)
def test_what_only_people_can_mend_is_refused(
    bench: Bench, kind: str, code: str, error: type[ScuError]
) -> None:
    bench.scu.get_tse_info()
    bench.inject(kind, "open", times=None)
    with pytest.raises(error) as caught:
        start(bench.scu)
    assert caught.value.code == code
    assert caught.value.vendor_code is not None
    assert logs(export(bench.scu))  # the log can be read all the same


def test_a_self_test_that_fails_is_repeated_once(bench: Bench) -> None:
    bench.inject("selftest_fails", "self_test")
    bench.scu.execute_self_test()
    bench.inject("selftest_fails", "self_test", times=4)
    with pytest.raises(TseRejected) as caught:
        bench.scu.execute_self_test()
    assert caught.value.code == "SECURE_STATE"


def test_data_that_never_arrives_is_an_error_and_signs_nothing(bench: Bench) -> None:
    number = start(bench.scu).transaction_number
    bench.inject("data_late", "close", times=None)
    with pytest.raises(TseRejected):
        finish(bench.scu, number)
    bench.calm()
    finish(bench.scu, number)


@pytest.mark.parametrize("word", [0x0007, 0x1007, 0x1234, 0xABCD, 0xFF17, 0x1305])
def test_any_status_word_is_an_answer(bench: Bench, word: int) -> None:
    bench.scu.get_tse_info()
    bench.inject("error", "open", value=word, times=None)
    with pytest.raises(ScuError) as caught:
        start(bench.scu)
    assert f"0x{word:04x}" in str(caught.value)


def test_the_time_is_set_before_it_runs_out(tmp_path: Path) -> None:
    with in_process(tmp_path, settings(time_valid_s=1000)) as bench:
        assert bench.device is not None
        moment = [100.0]
        bench.driver._monotonic = lambda: moment[0]
        start(bench.scu)

        def syncs() -> int:
            return bench.device.executed.count("update_time") if bench.device else 0

        before = syncs()
        number = start(bench.scu).transaction_number
        assert syncs() == before
        moment[0] += 850
        finish(bench.scu, number)  # somebody waits to pay, and the time is still valid
        assert syncs() == before
        start(bench.scu)
        assert syncs() == before + 1


def test_a_clock_that_went_back_is_not_given_to_the_tse(bench: Bench) -> None:
    start(bench.scu)
    clock = bench.driver._clock
    bench.driver._clock = lambda: clock() - 3600 * 10_000_000
    with pytest.raises(Misconfigured, match="behind the last signature"):
        bench.scu.execute_set_tse_time()


# ---- which device it is -------------------------------------------------------------------------


def test_another_device_is_refused(bench: Bench) -> None:
    number = start(bench.scu).transaction_number
    bench.inject("device_swapped", "close", value=150)
    item = str(uuid.uuid4())
    with pytest.raises((Misconfigured, Unreachable, OutcomeUnknown)):
        finish(bench.scu, number, queue_item_id=item)
    with pytest.raises(Misconfigured, match=r"serial number|Another TSE"):
        finish(bench.scu, number, queue_item_id=item, is_retry=True)
    time.sleep(0.2)
    finish(bench.scu, number, queue_item_id=item, is_retry=True)
    bench.restart(serial="00" * 32)
    with pytest.raises(Misconfigured) as caught:
        start(bench.scu)
    assert caught.value.code == "WRONG_TSE"


def test_a_second_driver_on_one_device_is_refused(bench: Bench) -> None:
    bench.scu.get_tse_info()
    other = SwissbitDriver(bench.medium, options(bench.folder))
    with pytest.raises(Misconfigured) as caught:
        other.info(None)
    assert caught.value.code == "DEVICE_IN_USE"
    other.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"software": (2, 0, 0)},
        {"software": (512, 0, 0)},  # the two bytes read the wrong way round
        {"description": "BSI-K-TR-0800-2026"},
    ],
)
def test_a_tse_2_is_recognised_and_never_written_to(tmp_path: Path, changes: dict[str, Any]) -> None:
    with in_process(tmp_path, settings(**changes)) as bench:
        assert bench.device is not None
        bench.device.writes = 0
        for _ in range(2):
            with pytest.raises(NotSupported, match="vendor's library is needed") as caught:
                bench.scu.get_tse_info()
            assert caught.value.code == "UNSUPPORTED_DEVICE"
        assert bench.device.writes == 0


def test_a_key_that_does_not_fit_the_serial_is_not_written_to(bench: Bench) -> None:
    assert bench.device is not None
    bench.device.serial = bytes(32)
    bench.device.writes = 0
    with pytest.raises(NotSupported, match="unknown generation"):
        bench.scu.get_tse_info()
    assert bench.device.writes == 0


def test_unplugged_and_plugged_in_again(bench: Bench) -> None:
    assert bench.device is not None
    number = start(bench.scu).transaction_number
    bench.device.unplug()
    with pytest.raises(Unreachable, match="The TSE is not available"):
        bench.scu.finish_transaction(
            FinishTransactionRequest(client_id=CLIENT, transaction_number=number), Deadline(0.3)
        )
    bench.device.plug()
    finish(bench.scu, number)


def test_nothing_there_at_the_start(tmp_path: Path) -> None:
    scu = open_scu(tmp_path / "scu", Options(path=str(tmp_path), lock_directory=str(tmp_path)))
    with pytest.raises(Unreachable, match="plugged in"):
        scu.get_tse_info()
    scu.close()


def test_finding_a_volume(tmp_path: Path) -> None:
    with FORMS["watched folder"](tmp_path) as bench:
        bench.scu.get_tse_info()
        time.sleep(1.2)
        place = tmp_path / "a vólume"
        found = on_volume(place)
        assert found is not None
        assert found.serial == bench.scu.get_tse_info().serial_number_octet
        assert found.state == "initialized"
        assert found.options == {"path": str(place)}
        mounts = tmp_path / "mounts"
        mounts.write_bytes(
            b"none /proc proc rw 0 0\n/dev/sdz1 "
            + str(place).replace(" ", "\\040").encode()
            + b" vfat rw 0 0\n"
        )
        assert [one.place for one in find(str(mounts), str(tmp_path / "none"))] == [str(place)]


# ---- exports, threads, death --------------------------------------------------------------------


def test_an_export_survives_an_unplugged_device(bench: Bench) -> None:
    bench.restart(export_slice_bytes=512 * 3)
    for _ in range(5):
        finish(bench.scu, start(bench.scu).transaction_number, b"x" * 800)
    bench.scu.get_tse_info()

    class Slow(io.BytesIO):
        def write(self, data: Any, /) -> int:
            assert bench.device is not None
            if self.tell() > 5000 and not done:
                done.append(True)
                bench.device.unplug(0.05)
            return super().write(data)

    done: list[bool] = []
    out = Slow()
    counter = bench.driver.export(Selection(), out, bench.scu._turn)
    assert done
    counters = [message.signature_counter for message in logs(out.getvalue())]
    assert counters == list(range(1, counter + 1))
    assert out.getvalue().endswith(bytes(1024))


def test_erasing_needs_the_library(bench: Bench) -> None:
    data = export(bench.scu)
    assert len(data) % 512 == 0
    with pytest.raises(NotSupported, match="vendor's library"):
        bench.driver.erase(5, None)
    token = bench.scu.start_export_session(StartExportSessionRequest(erase=True)).token_id
    with pytest.raises(ClientError):
        bench.scu.end_export_session(EndExportSessionRequest(token_id="nothing"))
    bench.scu.abandon_export_session(token)


def test_threads_share_a_device(bench: Bench) -> None:
    errors: list[Exception] = []

    def sell() -> None:
        try:
            for _ in range(6):
                finish(bench.scu, start(bench.scu).transaction_number)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=sell) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert bench.device is not None
    assert set(transactions(bench.device).values()) == {1}
    assert sum(transactions(bench.device).values()) == 36


@pytest.mark.parametrize("settle", [True, False])
@pytest.mark.parametrize("op", ["start", "finish"])
@pytest.mark.parametrize("moment", ["before open", "after open", "after data", "after close"])
def test_death_between_any_two_commands(bench: Bench, op: str, moment: str, settle: bool) -> None:
    """A process that dies leaves the device as it is; the next one finds out, or does it."""

    class Death(BaseException):
        pass

    bench.restart(inferred=Inferred(open_replaces_import=settle))
    number = start(bench.scu).transaction_number if op == "finish" else 0
    bench.scu.get_tse_info()
    item = str(uuid.uuid4())
    card = bench.driver._card
    assert card is not None

    def die(name: str, after: bool) -> None:
        real = getattr(card, name)

        def dying(*arguments: Any, **more: Any) -> Any:
            if after:
                real(*arguments, **more)
            raise Death

        setattr(card, name, dying)

    die(
        *{
            "before open": ("open_transaction", False),
            "after open": ("open_transaction", True),
            "after data": ("write_data", True),
            "after close": ("close_transaction", True),
        }[moment]
    )

    def call() -> Any:
        if op == "start":
            return start(bench.scu, queue_item_id=item, is_retry=True)
        return finish(bench.scu, number, queue_item_id=item, is_retry=True)

    with pytest.raises(Death):
        call()
    bench.restart()
    answer = call()
    assert bench.device is not None
    assert set(transactions(bench.device).values()) == {1}
    if op == "start":
        finish(bench.scu, answer.transaction_number)
    assert bench.scu.get_tse_info().current_started_transaction_numbers == []


def test_a_lost_start_is_not_taken_for_that_of_another_call(bench: Bench) -> None:
    """Two starts of one client look alike; the one that was answered keeps its number."""

    class Death(BaseException):
        pass

    bench.scu.get_tse_info()
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    card = bench.driver._card
    assert card is not None
    real = card.close_transaction

    def dying(deadline: Deadline | None) -> Any:
        real(deadline)
        raise Death

    card.close_transaction = dying  # type: ignore[method-assign]
    with pytest.raises(Death):
        start(bench.scu, queue_item_id=first)
    bench.restart()
    answered = start(bench.scu, queue_item_id=second)
    found = start(bench.scu, queue_item_id=first, is_retry=True)
    assert found.transaction_number != answered.transaction_number
    assert bench.device is not None
    assert sum(transactions(bench.device).values()) == 2
