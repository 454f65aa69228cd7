"""The conformance list of the SCU contract (tse-abstraction §15) over a pseudo terminal, TCP and the web service."""

from __future__ import annotations

import base64
import io
import tarfile
import threading
import uuid
from collections.abc import Callable

import pytest

from fiskal.scu.contract import (
    EMPTY_GUID,
    EndExportSessionRequest,
    ExportDataRequest,
    RegisterClientIdRequest,
    ScuDeEchoRequest,
    StartExportSessionByTimeStampRequest,
    StartExportSessionByTransactionRequest,
    StartExportSessionRequest,
    StartTransactionRequest,
    TseStates,
)
from fiskal.scu.errors import ClientError, Misconfigured, NotSupported, ScuError, TseRejected, Unreachable
from fiskal.simulators.diebold_nixdorf import MANAGEMENT_CLIENT, PRODUCTION_CLIENT
from fiskal.simulators.plan import Plan
from fiskal.tse.verify import SignatureCheck
from tests.scu.diebold_nixdorf.rig import CLIENT, FRAMES, PIN, Rig


@pytest.mark.parametrize("form", FRAMES)
def test_1_the_life_of_a_tse(make: Callable[..., Rig], form: str) -> None:
    rig = make(form, initialized=False, clients=[])
    assert rig.scu.get_tse_info().current_state is TseStates.UNINITIALIZED
    assert rig.set_state(TseStates.UNINITIALIZED) is TseStates.UNINITIALIZED
    for call in (lambda: rig.register(CLIENT), rig.start, lambda: rig.set_state(TseStates.TERMINATED)):
        with pytest.raises(TseRejected, match="TSE state was Uninitialized"):
            call()
    with pytest.raises(TseRejected, match="Uninitialized"):
        rig.scu.start_export_session(StartExportSessionRequest())
    assert rig.set_state(TseStates.INITIALIZED) is TseStates.INITIALIZED
    written = len(rig.log())
    assert rig.set_state(TseStates.INITIALIZED) is TseStates.INITIALIZED
    assert rig.set_state(TseStates.UNINITIALIZED) is TseStates.INITIALIZED
    assert len(rig.log()) == written
    assert rig.register(CLIENT) == [PRODUCTION_CLIENT, MANAGEMENT_CLIENT, CLIENT]
    rig.sell()
    assert rig.set_state(TseStates.TERMINATED) is TseStates.TERMINATED
    assert rig.set_state(TseStates.TERMINATED) is TseStates.TERMINATED
    with pytest.raises(TseRejected, match="It is not possible to initialize a terminated TSE"):
        rig.set_state(TseStates.INITIALIZED)
    for call in (rig.start, lambda: rig.register("POS-9")):
        with pytest.raises(TseRejected, match="TSE state was Terminated"):
            call()
    assert rig.scu.echo(ScuDeEchoRequest(message="x")).message == "x"
    archive, _ = rig.export()
    assert rig.verify(archive).tses[0].transactions == 1
    rig.reopen()
    assert rig.scu.get_tse_info().current_state is TseStates.TERMINATED


def test_1_what_the_web_service_leaves_to_its_page(make: Callable[..., Rig]) -> None:
    rig = make("web", initialized=False)
    assert rig.scu.get_tse_info().current_state is TseStates.UNINITIALIZED
    with pytest.raises(TseRejected, match="TSE state was Uninitialized"):
        rig.start()
    with pytest.raises(NotSupported, match="page of the vendor's web service"):
        rig.set_state(TseStates.INITIALIZED)


def test_2_numbers_and_counters_increase(rig: Rig) -> None:
    first = rig.start(client=CLIENT)
    second = rig.start(client="POS-2")
    assert (first.transaction_number, second.transaction_number) == (1, 2)
    counters = [first.signature_data.signature_counter, second.signature_data.signature_counter]
    counters += [
        rig.finish(2, client="POS-2").signature_data.signature_counter,
        rig.finish(1, client=CLIENT).signature_data.signature_counter,
    ]
    assert counters == sorted(set(counters))
    for number in range(3, 8):
        assert rig.sell().transaction_number == number
    assert rig.count("StartTransaction") == rig.count("FinishTransaction") == 7


def test_3_finish_tells_when_the_transaction_began(rig: Rig) -> None:
    started = rig.start()
    rig.reopen()
    assert rig.finish(started.transaction_number).start_transaction_time_stamp == started.time_stamp


def test_3_also_without_the_store(line: Rig) -> None:
    started = line.start()
    line.scu.close()
    (line.folder / "scu" / "calls.sqlite").unlink()
    line._scu = None
    assert line.finish(started.transaction_number).start_transaction_time_stamp == started.time_stamp


def test_4_answers_echo_and_verify(rig: Rig) -> None:
    info = rig.scu.get_tse_info()
    started = rig.start()
    updated = rig.update(started.transaction_number, b'1;"x";1.00')
    data = 'Beleg^1.00 €\r"'.encode()
    finished = rig.finish(started.transaction_number, data)
    assert finished.client_id == CLIENT
    assert finished.process_type == "Kassenbeleg-V1"
    assert base64.b64decode(finished.process_data_base64) == data
    assert finished.tse_time_stamp_format == "unixTime"
    assert info.signature_algorithm == "ecdsa-plain-SHA384"
    check = SignatureCheck(
        public_key=base64.b64decode(info.public_key_base64),
        algorithm=info.signature_algorithm,
        time_format=info.log_time_format,
    )
    assert check.key is not None
    by_counter = {message.signature_counter: message for message in rig.log()}
    for answer in (started, updated, finished):
        assert answer.tse_serial_number_octet == info.serial_number_octet == rig.device.serial.hex()
        message = by_counter[answer.signature_data.signature_counter]
        assert base64.b64decode(answer.signature_data.signature_base64) == message.signature
        assert answer.time_stamp == message.log_time
        assert len(message.signature) == 96
    assert by_counter[finished.signature_data.signature_counter].process_data == data


def test_5_what_is_refused(rig: Rig) -> None:
    number = rig.sell().transaction_number
    written = len(rig.log())

    def refused(code: str, call: Callable[[], object]) -> None:
        with pytest.raises(TseRejected) as caught:
            call()
        assert caught.value.code == code

    refused("CLIENT_NOT_REGISTERED", lambda: rig.start(client="NOBODY"))
    refused("CLIENT_NOT_REGISTERED", lambda: rig.start(client=str(uuid.uuid4())))
    refused("TRANSACTION_NOT_OPEN", lambda: rig.finish(number))
    refused("TRANSACTION_NOT_OPEN", lambda: rig.update(number))
    refused("TRANSACTION_NOT_OPEN", lambda: rig.finish(999_999))
    assert rig.count("StartTransaction") == rig.count("FinishTransaction") == 1
    assert len(rig.log()) - written <= 4  # a login and a logout to read the clients, at most
    other = rig.start(client="POS-2").transaction_number
    assert rig.finish(other, client=CLIENT).transaction_number == other


def test_6_clients(rig: Rig) -> None:
    before = rig.scu.get_tse_info().current_client_ids
    assert rig.register("POS-9") == [*before, "POS-9"]
    assert rig.register("POS-9") == [*before, "POS-9"]
    rig.sell(client="POS-9")
    assert rig.unregister("POS-9") == before
    assert rig.unregister("POS-9") == before
    with pytest.raises(TseRejected, match="The client with the id POS-9 is not registered"):
        rig.start(client="POS-9")
    written = len(rig.log())
    for bad in ("", "x" * 31, "ä", "a_b", "a\x1bb"):
        with pytest.raises(ClientError) as caught:
            rig.register(bad)
        assert caught.value.code == "INVALID_CLIENT_ID"
    assert len(rig.log()) == written
    number = rig.start(client="POS-2").transaction_number
    with pytest.raises(TseRejected) as open_one:
        rig.unregister("POS-2")
    assert open_one.value.code == "CLIENT_HAS_OPEN_TRANSACTIONS"
    rig.finish(number, client="POS-2")
    with pytest.raises(TseRejected):
        rig.unregister(PRODUCTION_CLIENT)


@pytest.mark.parametrize("form", ["pty", "web"])
def test_6_the_limit_of_clients(make: Callable[..., Rig], form: str) -> None:
    rig = make(form, max_clients=4)
    with pytest.raises(TseRejected) as caught:
        rig.register("POS-9")
    assert caught.value.code == "CLIENT_LIMIT"


def test_7_all_open_transactions_are_listed(rig: Rig) -> None:
    numbers = [rig.start().transaction_number for _ in range(150)]
    info = rig.scu.get_tse_info()
    assert info.current_started_transaction_numbers == numbers
    assert info.current_number_of_started_transactions == 150
    assert info.current_number_of_clients == len(info.current_client_ids) == 4
    rig.finish(numbers[0])
    assert rig.scu.get_tse_info().current_started_transaction_numbers == numbers[1:]


def test_7_each_client_can_be_asked_for_its_open_transactions(line: Rig) -> None:
    line.options["all_started_in_one"] = False
    line.start(client="POS-2")
    line.start()
    assert line.scu.get_tse_info().current_started_transaction_numbers == [1, 2]


def test_8_exports(line: Rig) -> None:
    for _ in range(5):
        line.sell()
    number = line.start().transaction_number
    archive, erased = line.export(erase=True)
    assert not erased  # a transaction is open
    line.verify(archive)
    line.finish(number)
    scu = line.scu
    token = scu.start_export_session(StartExportSessionRequest()).token_id
    answer = None
    while answer is None or not answer.total_tar_file_size_available:
        answer = scu.export_data(ExportDataRequest(token_id=token, max_chunk_size=0))
    assert answer.tar_file_byte_chunk_base64 == ""
    size = answer.total_tar_file_size
    assert not scu.end_export_session(EndExportSessionRequest(token_id=token)).is_valid
    whole = b""
    for chunk in (1, 7, 512, 1 << 20):
        answer = scu.export_data(ExportDataRequest(token_id=token, max_chunk_size=chunk))
        whole += base64.b64decode(answer.tar_file_byte_chunk_base64 or "")
    assert answer.tar_file_end_of_file
    assert len(whole) == size
    line.verify(whole)
    with pytest.raises(ClientError):
        scu.export_data(ExportDataRequest(token_id="unknown", max_chunk_size=1))
    archive, erased = line.export(erase=True)
    assert erased
    before = line.verify(archive)
    line.sell()
    archive, erased = line.export(erase=False)
    assert not erased
    after = line.verify(archive)
    assert after.logs < before.logs


def test_8_filtered_exports(line: Rig) -> None:
    answers = [line.sell(b"Beleg^%d" % n, client=CLIENT if n % 2 else "POS-2") for n in range(6)]
    scu = line.scu
    archive, _ = line.export(
        request=lambda: scu.start_export_session_by_transaction(
            StartExportSessionByTransactionRequest(from_=2, to=4)
        )
    )
    assert sum("_Log-Tra_" in name for name in names(archive)) == 6
    archive, _ = line.export(
        request=lambda: scu.start_export_session_by_transaction(
            StartExportSessionByTransactionRequest(client_id="POS-2", from_=1, to=6)
        )
    )
    assert {name.rpartition("Client-")[2] for name in names(archive) if "_Log-Tra_" in name} == {"POS-2.log"}
    archive, _ = line.export(
        request=lambda: scu.start_export_session_by_time_stamp(
            StartExportSessionByTimeStampRequest(from_=answers[0].time_stamp, to=answers[-1].time_stamp)
        )
    )
    assert sum("_Log-Tra_" in name for name in names(archive)) == 12
    counter = answers[2].signature_data.signature_counter
    archive, _ = line.export(request=lambda: scu.start_export_session_after(counter))
    counters = [
        int(name.partition("_Sig-")[2].partition("_")[0]) for name in names(archive) if "_Sig-" in name
    ]
    assert min(counters) == counter + 1


def names(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getnames()


def test_8_no_export_over_the_web_service(web: Rig) -> None:
    web.sell()
    archive, erased = web.export(erase=True)
    assert (archive, erased) == (b"", False)


@pytest.mark.parametrize("form", FRAMES)
def test_9_signing_goes_on_during_an_export(make: Callable[..., Rig], form: str) -> None:
    rig = make(form, packet_size=64, plan=Plan(scale=0, service_time={"GetCommandResponse": 1}))
    for _ in range(10):
        rig.sell()
    token = rig.scu.start_export_session(StartExportSessionRequest()).token_id
    during = 0
    while not rig.scu.export_data(
        ExportDataRequest(token_id=token, max_chunk_size=0)
    ).total_tar_file_size_available:
        rig.sell()
        during += 1
    assert during >= 2
    rig.verify(rig.export()[0])


@pytest.mark.parametrize("command", ["StartTransactionEnd", "UpdateTransactionEnd", "FinishTransactionEnd"])
@pytest.mark.parametrize("kind", ["lost_answer", "drop_after", "silent", "drop_before", "torn"])
def test_10_a_lost_answer_is_found_again(line: Rig, command: str, kind: str) -> None:
    line.sell()
    line.inject(kind, command)
    started = line.start()
    updated = line.update(started.transaction_number, b"order")
    finished = line.finish(started.transaction_number, b"Beleg^2.00")
    assert line.faults_left == 0
    assert [line.count(name) for name in ("StartTransaction", "UpdateTransaction", "FinishTransaction")] == [
        2,
        1,
        2,
    ]
    by_counter = {message.signature_counter: message for message in line.log()}
    for answer in (started, updated, finished):
        message = by_counter[answer.signature_data.signature_counter]
        assert base64.b64decode(answer.signature_data.signature_base64) == message.signature
        assert answer.time_stamp == message.log_time
    assert finished.start_transaction_time_stamp == started.time_stamp


def test_10_two_updates_with_the_same_data_are_two(line: Rig) -> None:
    number = line.start().transaction_number
    first = line.update(number, b"order")
    line.inject("lost_answer", "UpdateTransactionEnd")
    second = line.update(number, b"order")
    assert second.signature_data.signature_counter > first.signature_data.signature_counter
    line.reopen()
    line.inject("silent", "UpdateTransactionEnd")
    third = line.update(number, b"order")
    assert third.signature_data.signature_counter > second.signature_data.signature_counter
    assert line.count("UpdateTransaction") == 3


def test_12_retries(rig: Rig) -> None:
    item = str(uuid.uuid4())
    started = rig.start(item, retry=True)
    assert rig.start(item, retry=True) == started
    rig.reopen()
    assert rig.start(item, retry=True) == started
    finish = str(uuid.uuid4())
    finished = rig.finish(started.transaction_number, item=finish)
    assert rig.finish(started.transaction_number, item=finish, retry=True) == finished
    with pytest.raises(ClientError) as caught:
        rig.finish(started.transaction_number, b"other", finish, retry=True)
    assert caught.value.code == "IDEMPOTENCY_MISMATCH"
    numbers = {rig.start(EMPTY_GUID).transaction_number for _ in range(2)}
    assert len(numbers) == 2


def test_15_many_threads(rig: Rig) -> None:
    answers: list[int] = []
    errors: list[BaseException] = []

    def sell(client: str) -> None:
        try:
            answers.extend(
                rig.finish(rig.start(client=client).transaction_number, client=client).transaction_number
                for _ in range(6)
            )
        except BaseException as error:
            errors.append(error)

    assert rig.scu.get_tse_info()
    threads = [threading.Thread(target=sell, args=(("POS-1", "POS-2")[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(answers) == list(range(1, 49))
    owners = {
        message.transaction_number: message.client_id for message in rig.log() if message.transaction_number
    }
    assert set(owners.values()) == {"POS-1", "POS-2"}


def test_16_one_program_at_a_serial_port(pty: Rig) -> None:
    assert pty.scu.get_tse_info()
    other = pty.open("other")
    with pytest.raises(Misconfigured, match=r"The TSE is not available.*Another program uses it") as caught:
        other.get_tse_info()
    assert caught.value.code == "DEVICE_IN_USE"
    other.close()
    pty.sell()


def test_16_a_store_belongs_to_one_tse(make: Callable[..., Rig]) -> None:
    first, second = make("tcp"), make("tcp")
    first.sell()
    first.scu.close()
    first._scu = None
    foreign = first.open(url=f"tcp://{second.simulator.place}")
    with pytest.raises(Misconfigured) as caught:
        foreign.get_tse_info()
    assert caught.value.code == "WRONG_TSE"
    foreign.close()


def test_16_the_configured_serial_number(rig: Rig) -> None:
    rig.options["serial"] = "ab" * 32
    with pytest.raises(Misconfigured, match="the configuration wants abab"):
        rig.scu.get_tse_info()
    rig.reopen(serial=rig.device.serial.hex().upper())
    rig.sell()


@pytest.mark.parametrize("what", ["admin_pin", "time_admin_pin"])
def test_17_a_wrong_pin_is_sent_once(rig: Rig, what: str) -> None:
    rig.options[what] = "99999"
    user = {"admin_pin": "1", "time_admin_pin": "2"}[what]

    def use() -> None:
        rig.scu.get_tse_info()
        rig.start()

    for _ in range(3):
        with pytest.raises(Misconfigured) as caught:
            use()
        assert caught.value.code == "AUTH_FAILED"
        assert "99999" not in str(caught.value)
    rig.reopen()
    with pytest.raises(Misconfigured):
        use()
    assert rig.device.kept.users[user].tries == 2
    rig.options[what] = PIN
    rig.reopen()
    rig.sell()
    assert rig.device.kept.users[user].tries == 3


def test_a_blocked_user_is_not_tried(rig: Rig) -> None:
    for user in rig.device.kept.users.values():
        user.tries = 0
    with pytest.raises(Misconfigured) as caught:
        rig.start()
    assert caught.value.code == "PIN_BLOCKED"
    with pytest.raises(Misconfigured):
        rig.start()


def test_without_the_pin_of_the_admin(rig: Rig) -> None:
    """A register that knows the TimeAdmin's PIN only signs, and says what it cannot do."""
    rig.options["admin_pin"] = ""
    with pytest.raises(Misconfigured, match="client_ids"):
        rig.start()
    rig.reopen(client_ids=[CLIENT])
    rig.options["client_ids"] = [CLIENT]
    rig.sell()
    with pytest.raises(Misconfigured, match="admin_pin"):
        rig.register("POS-9")
    if rig.form != "web":
        _, erased = rig.export(erase=True)
        assert not erased


def test_no_device_no_hang(rig: Rig) -> None:
    rig.simulator.close()
    with pytest.raises(Unreachable, match="The TSE is not available") as caught:
        rig.start(seconds=3)
    assert caught.value.code == "TSE_NOT_AVAILABLE"
    with pytest.raises(ScuError):
        rig.scu.register_client_id(RegisterClientIdRequest(client_id="POS-9"))
    with pytest.raises(ScuError):
        rig.scu.start_transaction(StartTransactionRequest(client_id=CLIENT))
