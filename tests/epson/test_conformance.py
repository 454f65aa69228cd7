"""What every TSE behind an SCU must do (the conformance list of the SCU contract), over plain TCP and TLS."""

from __future__ import annotations

import base64
import io
import sqlite3
import threading
import uuid
from typing import Any

import pytest

from fiskal.clock import TICKS_PER_SECOND, now
from fiskal.scu.contract import (
    EMPTY_GUID,
    Deadline,
    ExportDataRequest,
    FinishTransactionRequest,
    RegisterClientIdRequest,
    ScuDeEchoRequest,
    StartExportSessionByTimeStampRequest,
    StartExportSessionByTransactionRequest,
    StartExportSessionRequest,
    StartTransactionRequest,
    TseState,
    TseStates,
    UnregisterClientIdRequest,
)
from fiskal.scu.core import ScuCore
from fiskal.scu.errors import ClientError, Misconfigured, ScuError, TseRejected, Unreachable
from fiskal.tse.tar import read_members

from .conftest import Pos, Shop, end, export, fetch

INITIALIZED = TseState(current_state=TseStates.INITIALIZED)
TERMINATED = TseState(current_state=TseStates.TERMINATED)
UNINITIALIZED = TseState(current_state=TseStates.UNINITIALIZED)


def refused(kind: type[ScuError], code: str, text: str, call: Any, *arguments: Any) -> None:
    with pytest.raises(kind) as caught:
        call(*arguments)
    assert caught.value.code == code
    assert text in caught.value.message


def test_1_the_state_machine(shop: Shop) -> None:
    scu = shop.open()
    pos = Pos(scu)
    wrong = "Expected state to be Initialized but instead the TSE state was Uninitialized."
    client = RegisterClientIdRequest(client_id="POS-1")
    assert scu.echo(ScuDeEchoRequest(message="x")).message == "x"
    assert pos.info().current_state is TseStates.UNINITIALIZED
    assert scu.set_tse_state(UNINITIALIZED) == UNINITIALIZED
    refused(TseRejected, "TSE_NOT_INITIALIZED", wrong, scu.set_tse_state, TERMINATED)
    refused(TseRejected, "WRONG_STATE", wrong, pos.start)
    refused(TseRejected, "WRONG_STATE", wrong, pos.finish, 1)
    refused(TseRejected, "WRONG_STATE", wrong, scu.register_client_id, client)
    refused(TseRejected, "WRONG_STATE", wrong, scu.execute_set_tse_time)
    refused(TseRejected, "WRONG_STATE", wrong, scu.start_export_session, StartExportSessionRequest())
    scu.execute_self_test()
    assert scu.set_tse_state(INITIALIZED) == INITIALIZED
    signatures = shop.tse.counter
    assert scu.set_tse_state(INITIALIZED) == INITIALIZED
    assert scu.set_tse_state(UNINITIALIZED) == INITIALIZED
    assert shop.tse.counter == signatures
    scu.execute_self_test()
    scu.execute_set_tse_time()
    scu.register_client_id(client)
    pos.sell()
    assert scu.set_tse_state(TERMINATED) == TERMINATED
    wrong = "Expected state to be Initialized but instead the TSE state was Terminated."
    assert scu.set_tse_state(TERMINATED) == TERMINATED
    assert scu.set_tse_state(UNINITIALIZED) == TERMINATED
    refused(
        TseRejected,
        "TSE_TERMINATED",
        "It is not possible to initialize a terminated TSE.",
        scu.set_tse_state,
        INITIALIZED,
    )
    refused(TseRejected, "WRONG_STATE", wrong, pos.start)
    refused(TseRejected, "WRONG_STATE", wrong, scu.register_client_id, client)
    assert pos.info().current_state is TseStates.TERMINATED
    shop.simulator.server.pause()
    scu.close()
    for call in (pos.info, pos.start):
        with pytest.raises(Unreachable, match=r"^The TSE is not available\."):
            call()


def test_1_a_device_that_is_not_there(shop: Shop) -> None:
    scu = shop.ready()
    shop.inject("unplug")
    for call in (Pos(scu).info, Pos(scu).start, scu.execute_self_test):
        with pytest.raises(ScuError, match=r"^The TSE is not available\. Unable to connect to endpoint at"):
            call()
    shop.inject("plug")
    Pos(scu).sell()


def test_2_numbers_and_counters_of_two_clients(shop: Shop) -> None:
    scu = shop.ready()
    one, two = Pos(scu, "POS-1"), Pos(scu, "POS-2")
    first, second = one.start(), two.start()
    answers = [first, second, two.finish(2), one.finish(1), one.start(), one.finish(3)]
    assert [answer.transaction_number for answer in answers] == [1, 2, 2, 1, 3, 3]
    counters = [answer.signature_data.signature_counter for answer in answers]
    assert counters == sorted(set(counters))


def test_2_no_signature_but_those_of_the_transactions(shop: Shop) -> None:
    scu = shop.ready()
    pos = Pos(scu)
    pos.sell()
    before = shop.tse.counter
    for _ in range(30):
        number = pos.start().transaction_number
        pos.update(number)
        last = pos.finish(number)
    assert last.transaction_number == 31
    assert shop.tse.counter - before == 90
    assert abs(last.time_stamp - now()) < 3 * TICKS_PER_SECOND


@pytest.mark.parametrize("lost", ["nothing", "the process", "the store"])
def test_3_the_start_time_is_that_of_the_start(shop: Shop, lost: str) -> None:
    scu = shop.ready()
    started = Pos(scu).start()
    if lost != "nothing":
        scu.close()
        if lost == "the store":
            for path in (shop.folder / "scu").glob("calls.sqlite*"):
                path.unlink()
        scu = shop.open()
    finished = Pos(scu).finish(1)
    assert finished.start_transaction_time_stamp == started.time_stamp


def test_4_answers_echo_and_are_in_the_log(shop: Shop) -> None:
    scu = shop.ready("Nullpunkt null", "POS-1")
    pos = Pos(scu, "Nullpunkt null")
    number = pos.start().transaction_number
    data = 'Beleg^1.00^"null" <&> é\n'.encode()
    finished = pos.finish(number, data, process_type='a<b>&"null"')
    assert (finished.client_id, finished.process_type) == ("Nullpunkt null", 'a<b>&"null"')
    assert base64.b64decode(finished.process_data_base64) == data
    assert finished.tse_time_stamp_format == "unixTime"
    info = pos.info()
    assert finished.tse_serial_number_octet == info.serial_number_octet == shop.tse.chain.serial.hex()
    assert finished.signature_data.public_key_base64 == info.public_key_base64
    assert finished.signature_data.signature_algorithm == "ecdsa-plain-SHA384"
    logged = shop.messages()[-1]
    assert logged.process_data == data
    assert logged.signature_counter == finished.signature_data.signature_counter
    assert logged.log_time == finished.time_stamp
    assert base64.b64encode(logged.signature).decode() == finished.signature_data.signature_base64
    assert logged.verify(shop.tse.chain.public_key)


def test_5_what_a_transaction_needs(shop: Shop) -> None:
    scu = shop.ready()
    pos, stranger = Pos(scu), Pos(scu, str(uuid.uuid4()))
    unknown = f"The client with the id {stranger.client_id} is not registered."
    refused(TseRejected, "CLIENT_NOT_REGISTERED", unknown, stranger.start)
    closed = "The transaction with the number {} is either not started or has been finished already."
    pos.sell()
    refused(TseRejected, "TRANSACTION_NOT_OPEN", closed.format(1), pos.finish, 1)
    refused(TseRejected, "TRANSACTION_NOT_OPEN", closed.format(1), pos.update, 1)
    refused(TseRejected, "TRANSACTION_NOT_OPEN", closed.format(999_999), pos.finish, 999_999)
    other = Pos(scu, "POS-2").start().transaction_number
    refused(TseRejected, "TRANSACTION_NOT_OPEN", closed.format(other), pos.finish, other)
    Pos(scu, "POS-2").finish(other)
    scu.unregister_client_id(UnregisterClientIdRequest(client_id="POS-2"))
    unknown = "The client with the id POS-2 is not registered."
    refused(TseRejected, "CLIENT_NOT_REGISTERED", unknown, Pos(scu, "POS-2").start)


def test_6_clients(shop: Shop) -> None:
    scu = shop.ready("POS-1")

    def register(client_id: str) -> list[str]:
        return scu.register_client_id(RegisterClientIdRequest(client_id=client_id)).client_ids

    internal = next(each for each in shop.tse.clients if each.startswith("EPSON"))
    assert sorted(register("POS-2")) == sorted([internal, "POS-1", "POS-2"])
    signatures = shop.tse.counter
    assert "POS-2" in register("POS-2")
    assert shop.tse.counter == signatures
    for wrong in ("", "x" * 31, "a&b", "é", "MYEPSON1"):
        refused(ClientError, "INVALID_CLIENT_ID", "client id", register, wrong)
    assert shop.tse.counter == signatures
    left = scu.unregister_client_id(UnregisterClientIdRequest(client_id="POS-2")).client_ids
    assert sorted(left) == sorted([internal, "POS-1"])
    again = scu.unregister_client_id(UnregisterClientIdRequest(client_id="POS-2")).client_ids
    assert again == left
    Pos(scu).start()
    refused(
        TseRejected,
        "CLIENT_HAS_OPEN_TRANSACTIONS",
        "open transactions",
        scu.unregister_client_id,
        UnregisterClientIdRequest(client_id="POS-1"),
    )


def test_6_the_limit_of_clients(make_shop: Any) -> None:
    shop = make_shop(max_clients=3)
    scu = shop.ready("POS-1", "POS-2")
    request = RegisterClientIdRequest(client_id="POS-3")
    refused(TseRejected, "CLIENT_LIMIT", "3 of at most 3", scu.register_client_id, request)


def test_7_the_open_transactions_are_complete(shop: Shop) -> None:
    pos = Pos(shop.ready())
    numbers = [pos.start(EMPTY_GUID).transaction_number for _ in range(150)]
    info = pos.info()
    assert info.current_started_transaction_numbers == numbers
    assert info.current_number_of_started_transactions == 150
    assert info.current_number_of_clients == len(info.current_client_ids) == 3
    pos.finish(7)
    assert 7 not in pos.info().current_started_transaction_numbers
    assert info.max_number_of_clients == 100
    assert info.max_number_of_started_transactions == 512
    assert info.max_number_of_signatures == 20_000_000
    assert info.max_log_memory_size == 6_979_321_856
    assert info.firmware_identification == "0001010000000000"
    assert info.certification_identification == "BSI-K-TR-0373"
    assert len(info.certificates_base64) == 3


def test_8_an_export_in_chunks(shop: Shop) -> None:
    scu = shop.ready()
    Pos(scu).sell()
    token = scu.start_export_session(StartExportSessionRequest()).token_id
    archive = fetch(scu, token, 512)
    for chunk in (1, 7, 512, 1 << 20):
        parts = [
            base64.b64decode(
                scu.export_data(
                    ExportDataRequest(token_id=token, max_chunk_size=chunk), offset=index * chunk
                ).tar_file_byte_chunk_base64
                or ""
            )
            for index in range(min(20, -(-len(archive) // chunk)))
        ]
        assert b"".join(parts) == archive[: 20 * chunk]
    report = shop.verify(archive)
    assert report.ok
    assert not report.findings
    assert report.tses[0].transactions == 1
    assert end(scu, token, archive + b"x", erase=False).is_valid is False
    assert end(scu, token, archive, erase=False).is_valid is True


def test_8_erasing_wants_both_flags_and_no_open_transaction(shop: Shop) -> None:
    scu = shop.ready()
    pos = Pos(scu)
    pos.sell()
    token, archive = export(scu)
    assert end(scu, token, archive, erase=True).is_erased is False
    token, archive = export(scu, erase=True)
    assert end(scu, token, archive, erase=False).is_erased is False
    number = pos.start().transaction_number
    token, archive = export(scu, erase=True)
    assert end(scu, token, archive, erase=True).is_erased is False
    pos.finish(number)
    token, archive = export(scu, erase=True)
    assert shop.verify(archive).tses[0].transactions == 2
    ended = end(scu, token, archive, erase=True)
    assert (ended.is_valid, ended.is_erased) == (True, True)
    assert end(scu, token, archive, erase=True) == ended
    pos.sell()
    token, rest = export(scu)
    report = shop.verify(rest)
    assert report.ok
    assert report.tses[0].transactions == 1
    together = sum(1 for part in (archive, rest) for _ in _logs(part))
    assert together == report.tses[0].last_counter


def _logs(archive: bytes) -> list[str]:
    return [member.name for member in read_members(io.BytesIO(archive)) if member.name.endswith(".log")]


def test_8_nothing_is_erased_that_was_signed_behind_an_export(shop: Shop) -> None:
    scu = shop.ready()
    pos = Pos(scu)
    pos.sell()
    token, archive = export(scu, erase=True)
    sold = pos.sell()
    ended = end(scu, token, archive, erase=True)
    assert (ended.is_valid, ended.is_erased) == (True, False)
    assert any(m.signature_counter == sold.signature_data.signature_counter for m in shop.messages())


def test_8_parts_of_the_log(shop: Shop) -> None:
    scu = shop.ready()
    one, two = Pos(scu), Pos(scu, "POS-2")
    for pos in (one, two, one, two):
        pos.sell()
    request = StartExportSessionByTransactionRequest(from_=2, to=3)
    token = scu.start_export_session_by_transaction(request).token_id
    report = shop.verify(fetch(scu, token), filtered=True)
    assert (report.ok, report.tses[0].transactions) == (True, 2)
    token, archive = export(scu, client_id="POS-2", erase=True)
    assert shop.verify(archive, filtered=True).tses[0].transactions == 2
    assert end(scu, token, archive, erase=True).is_erased is False
    hour = 3600 * TICKS_PER_SECOND
    moment = now()
    token = scu.start_export_session_by_time_stamp(
        StartExportSessionByTimeStampRequest(from_=moment - hour, to=moment + hour)
    ).token_id
    assert shop.verify(fetch(scu, token), filtered=True).tses[0].transactions == 4
    token = scu.start_export_session_by_time_stamp(
        StartExportSessionByTimeStampRequest(from_=moment + hour, to=moment + 2 * hour)
    ).token_id
    assert not fetch(scu, token).strip(b"\0")
    counter = shop.messages()[-3].signature_counter
    token = scu.start_export_session_after(counter).token_id
    rest = fetch(scu, token)
    assert shop.verify(rest, filtered=True).ok
    assert len(_logs(rest)) >= 2
    refused(
        ClientError,
        "INVALID_RANGE",
        "greater",
        scu.start_export_session_by_transaction,
        StartExportSessionByTransactionRequest(from_=3, to=2),
    )


def test_9_signing_goes_on_during_an_export(shop: Shop) -> None:
    scu = shop.ready()
    pos = Pos(scu)
    for _ in range(40):
        pos.sell()
    tokens = []
    for _ in range(3):
        tokens.append(scu.start_export_session(StartExportSessionRequest()).token_id)
        pos.sell()
    for token in tokens:
        report = shop.verify(fetch(scu, token))
        assert report.ok
        assert not report.findings


def test_12_repetitions(shop: Shop) -> None:
    scu = shop.ready()
    pos = Pos(scu)
    item = str(uuid.uuid4())
    first = pos.start(item, retry=True)
    assert pos.start(item, retry=True) == first
    request = StartTransactionRequest(client_id="POS-1", process_type="X", queue_item_id=item, is_retry=True)
    refused(ClientError, "IDEMPOTENCY_MISMATCH", "other data", scu.start_transaction, request)
    second = pos.start().transaction_number
    finished = [pos.finish(number, item=item) for number in (1, second)]
    assert [pos.finish(number, item=item, retry=True) for number in (1, second)] == finished
    assert [pos.start(EMPTY_GUID).transaction_number for _ in range(2)] == [3, 4]


def test_15_many_threads_and_two_hosts_share_one_device(shop: Shop) -> None:
    clients = [f"POS-{index}" for index in range(1, 5)]
    first = shop.ready(*clients, exclusive=False, busy_retry_ms=20_000)
    second = shop.open("other", exclusive=False, busy_retry_ms=20_000)
    numbers: list[int] = []
    errors: list[Exception] = []

    def sell(scu: ScuCore, client_id: str) -> None:
        pos = Pos(scu, client_id, seconds=60)
        try:
            numbers.extend(pos.sell().transaction_number for _ in range(8))
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=sell, args=(scu, client_id))
        for scu, mine in ((first, clients[:2]), (second, clients[2:]))
        for client_id in mine
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(numbers) == list(range(1, 33))
    assert not shop.tse.open_transactions
    with sqlite3.connect(shop.folder / "other" / "calls.sqlite") as db:
        states = db.execute("SELECT state, count(*) FROM scu_call GROUP BY state").fetchall()
    db.close()
    assert states == [("DONE", 32)]


def test_16_a_second_host_is_told_that_the_device_is_in_use(shop: Shop) -> None:
    Pos(shop.ready()).sell()
    other = shop.open("other", busy_retry_ms=300)
    refused(Unreachable, "BUSY", "used by somebody else", other.get_tse_info, Deadline(5))


def test_16_another_tse_is_refused(shop: Shop, make_shop: Any) -> None:
    scu = shop.ready()
    scu.close()
    other = make_shop()
    other.folder = shop.folder
    swapped = other.open()
    refused(Misconfigured, "WRONG_TSE", shop.tse.chain.serial.hex(), swapped.get_tse_info)
    swapped.close()
    named = other.open("named", serial=shop.tse.chain.serial.hex().upper())
    refused(Misconfigured, "WRONG_TSE", "Put the right one in", named.get_tse_info)


@pytest.mark.parametrize("role", ["admin_pin", "time_admin_pin"])
def test_17_a_wrong_pin_is_tried_once(shop: Shop, role: str) -> None:
    shop.ready().close()
    left = shop.device.kept.retries

    def use(scu: ScuCore) -> None:
        if role == "admin_pin":
            scu.register_client_id(RegisterClientIdRequest(client_id="POS-3"))
        else:
            Pos(scu).start()

    scu = shop.open(**{role: "00001"})
    refused(Misconfigured, "AUTH_FAILED", "2 tries are left", use, scu)
    for _ in range(3):
        refused(Misconfigured, "AUTH_FAILED", "not tried again", use, scu)
    scu.close()
    again = shop.open(**{role: "00001"})
    refused(Misconfigured, "AUTH_FAILED", "not tried again", use, again)
    again.close()
    assert sorted(left.values()) == [2, 3, 3]
    other = shop.open(**{role: "00002"})
    refused(Misconfigured, "AUTH_FAILED", "1 tries are left", use, other)
    other.close()
    right = shop.open()
    refused(Misconfigured, "AUTH_FAILED", "allow_last_pin_try", use, right)
    right.close()
    assert sorted(left.values()) == [1, 3, 3]
    sure = shop.open(allow_last_pin_try=True)
    use(sure)
    assert sorted(left.values()) == [3, 3, 3]
    assert "00001" not in (shop.folder / "scu" / "pins.json").read_text()


def test_an_unknown_client_is_only_asked_for_when_there_is_a_reason(shop: Shop) -> None:
    scu = shop.ready()
    signatures = shop.tse.counter
    for _ in range(5):
        scu.get_tse_info()
    assert shop.tse.counter == signatures
    request = FinishTransactionRequest(client_id="nobody", transaction_number=1)
    refused(TseRejected, "CLIENT_NOT_REGISTERED", "nobody", scu.finish_transaction, request)
    assert shop.tse.counter == signatures
