"""What every SCU must do, proved with the software TSE."""

from __future__ import annotations

import base64
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fiskal.clock import from_unix, to_unix
from fiskal.scu.contract import (
    EMPTY_GUID,
    Deadline,
    RegisterClientIdRequest,
    ScuDeEchoRequest,
    StartTransactionRequest,
    TseState,
    TseStates,
    UnregisterClientIdRequest,
)
from fiskal.scu.core import ScuCore
from fiskal.scu.errors import ClientError, ScuError, TseRejected, Unreachable
from fiskal.scu.software import SoftwareTse
from fiskal.tse.algorithms import CURVES
from fiskal.tse.certificates import load_chain
from fiskal.tse.logmessage import parse

UNINITIALIZED, INITIALIZED, TERMINATED = TseStates


def bring_to(scu: ScuCore, state: TseStates) -> None:
    if state is not UNINITIALIZED:
        scu.set_tse_state(TseState(current_state=INITIALIZED))
    if state is TERMINATED:
        scu.set_tse_state(TseState(current_state=TERMINATED))


def driver_of(scu: ScuCore) -> SoftwareTse:
    driver = scu._driver
    assert isinstance(driver, SoftwareTse)
    return driver


def operations(scu: ScuCore) -> list[str | None]:
    return [parse(message).operation for _, message in driver_of(scu).messages()]


def refused(call: Callable[[], object]) -> ScuError:
    with pytest.raises(ScuError) as caught:
        call()
    return caught.value


def expected_state(state: TseStates) -> str:
    return f"Expected state to be Initialized but instead the TSE state was {state.name.capitalize()}."


@pytest.mark.parametrize("start", TseStates)
@pytest.mark.parametrize("target", TseStates)
def test_set_tse_state(open_tse: Callable[..., ScuCore], start: TseStates, target: TseStates) -> None:
    scu = open_tse(client_ids=())
    bring_to(scu, start)
    before = operations(scu)
    request = TseState(current_state=target)
    outcome: dict[tuple[TseStates, TseStates], TseStates | tuple[str, str]] = {
        (UNINITIALIZED, UNINITIALIZED): UNINITIALIZED,
        (UNINITIALIZED, INITIALIZED): INITIALIZED,
        (UNINITIALIZED, TERMINATED): ("TSE_NOT_INITIALIZED", expected_state(UNINITIALIZED)),
        (INITIALIZED, UNINITIALIZED): INITIALIZED,
        (INITIALIZED, INITIALIZED): INITIALIZED,
        (INITIALIZED, TERMINATED): TERMINATED,
        (TERMINATED, UNINITIALIZED): TERMINATED,
        (TERMINATED, INITIALIZED): (
            "TSE_TERMINATED",
            "It is not possible to initialize a terminated TSE.",
        ),
        (TERMINATED, TERMINATED): TERMINATED,
    }
    expected = outcome[start, target]
    if isinstance(expected, tuple):
        error = refused(lambda: scu.set_tse_state(request))
        assert isinstance(error, TseRejected)
        assert (error.code, str(error)) == expected
        expected = start
    else:
        assert scu.set_tse_state(request).current_state is expected
    assert scu.get_tse_info().current_state is expected
    if expected is start:
        assert operations(scu) == before


@pytest.mark.parametrize("state", [UNINITIALIZED, TERMINATED])
def test_operations_outside_initialized(
    open_tse: Callable[..., ScuCore], state: TseStates, make_pos: Any
) -> None:
    scu = open_tse(client_ids=())
    bring_to(scu, state)
    pos = make_pos(scu, "")
    logs = len(operations(scu))
    for call in (
        lambda: pos.start(""),
        lambda: pos.update(1),
        lambda: pos.finish(1),
        lambda: scu.register_client_id(RegisterClientIdRequest(client_id="?")),
        lambda: scu.unregister_client_id(UnregisterClientIdRequest(client_id="?")),
    ):
        error = refused(call)
        assert isinstance(error, TseRejected)
        assert (error.code, str(error)) == ("WRONG_STATE", expected_state(state))
    assert scu.echo(ScuDeEchoRequest(message="hello")).message == "hello"
    scu.execute_self_test()
    scu.execute_set_tse_time()
    assert scu.get_tse_info().current_state is state
    assert len(operations(scu)) == logs


@pytest.mark.parametrize("version", [2, 3])
def test_the_log_of_a_whole_life(open_tse: Callable[..., ScuCore], version: int, make_pos: Any) -> None:
    scu = open_tse(client_ids=["POS-1"], log_version=version)
    pos = make_pos(scu)
    pos.finish(pos.start().transaction_number)
    scu.execute_set_tse_time()
    scu.unregister_client_id(UnregisterClientIdRequest(client_id="POS-1"))
    scu.set_tse_state(TseState(current_state=TERMINATED))
    first_letters = "sf" if version == 3 else "SF"
    assert operations(scu) == [
        "startAudit",
        "updateTime",
        "initialize",
        "registerClient",
        first_letters[0] + "tartTransaction",
        first_letters[1] + "inishTransaction",
        "updateTime",
        "deregisterClient",
        "disableSecureElement",
    ]
    for counter, raw in driver_of(scu).messages():
        message = parse(raw)
        assert message.signature_counter == counter
        assert message.version == version
        assert not message.findings
        assert message.verify(driver_of(scu).chain.public_key)


def test_numbers_and_counters_of_two_clients(scu: ScuCore, make_pos: Any) -> None:
    first, second = make_pos(scu, "POS-1"), make_pos(scu, "POS-2")
    counters = []
    numbers = []
    for _ in range(5):
        a, b = first.start(), second.start()
        numbers += [a.transaction_number, b.transaction_number]
        finished_b, finished_a = second.finish(b.transaction_number), first.finish(a.transaction_number)
        counters += [item.signature_data.signature_counter for item in (a, b, finished_b, finished_a)]
    assert numbers == list(range(1, 11))
    assert counters == list(range(counters[0], counters[0] + 20))


def test_a_hundred_transactions_have_three_hundred_signatures(scu: ScuCore, pos: Any) -> None:
    before = scu.get_tse_info().current_number_of_signatures
    for _ in range(100):
        number = pos.start().transaction_number
        pos.update(number)
        last = pos.finish(number)
    assert last.transaction_number == 100
    assert scu.get_tse_info().current_number_of_signatures == before + 300


def test_finish_returns_the_time_of_start(
    open_tse: Callable[..., ScuCore], clock: Any, make_pos: Any
) -> None:
    scu = open_tse()
    pos = make_pos(scu)
    started, other = pos.start(), pos.start()
    clock.advance(90)
    assert pos.finish(started.transaction_number).start_transaction_time_stamp == started.time_stamp
    scu.close()
    scu = open_tse()
    clock.advance(90)
    finished = make_pos(scu).finish(other.transaction_number)
    assert finished.start_transaction_time_stamp == other.time_stamp
    assert finished.time_stamp == from_unix(1_700_000_180)


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_the_answer_is_what_the_log_says(open_tse: Callable[..., ScuCore], curve: Any, make_pos: Any) -> None:
    scu = open_tse(curve=curve.name)
    pos = make_pos(scu)
    started = pos.start()
    finished = pos.finish(started.transaction_number, "Käse".encode())
    info = scu.get_tse_info()
    message = parse(dict(driver_of(scu).messages())[finished.signature_data.signature_counter])
    data = finished.signature_data
    assert base64.b64decode(data.signature_base64) == message.signature
    assert message.process_data == base64.b64decode(finished.process_data_base64) == "Käse".encode()
    assert (message.client_id, message.process_type) == (finished.client_id, finished.process_type)
    assert message.log_time == finished.time_stamp
    assert message.serial.hex() == finished.tse_serial_number_octet == info.serial_number_octet
    assert (data.signature_algorithm, data.public_key_base64) == (
        info.signature_algorithm,
        info.public_key_base64,
    )
    assert data.signature_algorithm == curve.algorithm.name
    assert finished.tse_time_stamp_format == info.log_time_format == "unixTime"
    chain = load_chain([base64.b64decode(text) for text in info.certificates_base64])
    assert message.verify(chain.public_key)
    assert "NOT CERTIFIED" in info.certification_identification
    assert "NOT CERTIFIED" in chain.leaf.subject.rfc4514_string()


def test_refusals_of_transactions(scu: ScuCore, pos: Any, make_pos: Any) -> None:
    signatures = scu.get_tse_info().current_number_of_signatures
    stranger = make_pos(scu, str(uuid.uuid4()))
    error = refused(stranger.start)
    assert (error.code, str(error)) == (
        "CLIENT_NOT_REGISTERED",
        f"The client with the id {stranger.client_id} is not registered.",
    )
    assert scu.get_tse_info().current_number_of_signatures == signatures
    number = pos.start().transaction_number
    pos.finish(number)
    for call in (lambda: pos.finish(number), lambda: pos.update(number), lambda: pos.finish(999999)):
        error = refused(call)
        assert isinstance(error, TseRejected)
        assert error.code == "TRANSACTION_NOT_OPEN"
        wanted = error.transaction_number
        assert str(error) == (
            f"The transaction with the number {wanted} is either not started or has been finished already."
        )
    scu.unregister_client_id(UnregisterClientIdRequest(client_id="POS-1"))
    assert refused(pos.start).code == "CLIENT_NOT_REGISTERED"


def test_another_registered_client_may_finish(pos: Any, make_pos: Any, scu: ScuCore) -> None:
    number = pos.start().transaction_number
    assert make_pos(scu, "POS-2").finish(number).client_id == "POS-2"


def test_client_registry(scu: ScuCore) -> None:
    def register(client_id: str) -> list[str]:
        return scu.register_client_id(RegisterClientIdRequest(client_id=client_id)).client_ids

    signatures = scu.get_tse_info().current_number_of_signatures
    assert register("POS-1") == ["POS-1", "POS-2"]
    assert scu.unregister_client_id(UnregisterClientIdRequest(client_id="no")).client_ids == [
        "POS-1",
        "POS-2",
    ]
    for bad in ("", "a" * 65, "a_b", "a/b", "ä", "a?", "a:b", "POS\n"):
        error = refused(lambda bad=bad: register(bad))  # type: ignore[misc]
        assert isinstance(error, ClientError)
        assert error.code == "INVALID_CLIENT_ID"
    assert scu.get_tse_info().current_number_of_signatures == signatures
    assert register("A '()+,-.=z") == ["POS-1", "POS-2", "A '()+,-.=z"]
    for index in range(196):
        register(f"C{index}")
    error = refused(lambda: register("one more"))
    assert (error.code, str(error)) == ("CLIENT_LIMIT", "The TSE has 199 of at most 199 clients.")


def test_a_client_with_open_transactions_stays(open_tse: Callable[..., ScuCore], make_pos: Any) -> None:
    request = UnregisterClientIdRequest(client_id="POS-1")
    scu = open_tse()
    number = make_pos(scu).start().transaction_number
    error = refused(lambda: scu.unregister_client_id(request))
    assert error.code == "CLIENT_HAS_OPEN_TRANSACTIONS"
    scu.close()
    scu = open_tse()
    assert refused(lambda: scu.unregister_client_id(request)).code == "CLIENT_HAS_OPEN_TRANSACTIONS"
    make_pos(scu, "POS-2").finish(number)
    assert scu.unregister_client_id(request).client_ids == ["POS-2"]


def test_open_transactions_are_listed_and_limited(scu: ScuCore, pos: Any) -> None:
    numbers = [pos.start().transaction_number for _ in range(512)]
    info = scu.get_tse_info()
    assert info.current_started_transaction_numbers == numbers
    assert info.current_number_of_started_transactions == len(numbers)
    assert info.current_number_of_clients == len(info.current_client_ids)
    error = refused(pos.start)
    assert (error.code, str(error)) == (
        "TRANSACTION_LIMIT",
        "The TSE has 512 of at most 512 open transactions.",
    )
    pos.finish(numbers[100])
    assert numbers[100] not in scu.get_tse_info().current_started_transaction_numbers


# ---- idempotency ------------------------------------------------------------------------------


def test_a_repeated_call_is_answered_from_memory(
    open_tse: Callable[..., ScuCore], make_pos: Any, clock: Any
) -> None:
    item = str(uuid.uuid4())
    scu = open_tse()
    pos = make_pos(scu)
    started = pos.start(item)
    updated = pos.update(started.transaction_number, item=item)
    clock.advance(5)
    finished = pos.finish(started.transaction_number, item=item)
    signatures = scu.get_tse_info().current_number_of_signatures
    for _ in range(2):
        assert pos.start(item.upper(), retry=True) == started
        assert pos.update(started.transaction_number, item=item, retry=True) == updated
        assert pos.finish(started.transaction_number, item=item, retry=True) == finished
        assert scu.get_tse_info().current_number_of_signatures == signatures
        scu.close()
        scu = open_tse()
        pos = make_pos(scu)


def test_a_call_of_long_ago_is_found_in_the_log(
    open_tse: Callable[..., ScuCore], make_pos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fiskal.scu.software.tse.RECENT_CALLS", 8)
    scu = open_tse()
    pos = make_pos(scu)
    items = [str(uuid.uuid4()) for _ in range(60)]
    answers = [pos.start(item) for item in items]
    signatures = scu.get_tse_info().current_number_of_signatures
    assert [pos.start(item, retry=True) for item in items] == answers
    assert scu.get_tse_info().current_number_of_signatures == signatures


def test_a_retry_of_something_unknown_is_executed(pos: Any) -> None:
    item = str(uuid.uuid4())
    started = pos.start(item, retry=True)
    assert started.transaction_number == 1
    assert pos.start(item, retry=True) == started
    assert pos.start(item).transaction_number == 2


def test_the_same_key_with_other_data(pos: Any) -> None:
    item = str(uuid.uuid4())
    number = pos.start(item).transaction_number
    pos.finish(number, b"one", item)
    error = refused(lambda: pos.finish(number, b"two", item, retry=True))
    assert isinstance(error, ClientError)
    assert error.code == "IDEMPOTENCY_MISMATCH"


def test_one_queue_item_finishes_many_transactions(pos: Any) -> None:
    item = str(uuid.uuid4())
    numbers = [pos.start().transaction_number for _ in range(5)]
    answers = [pos.finish(number, item=item) for number in numbers]
    assert len({answer.signature_data.signature_counter for answer in answers}) == 5
    assert [pos.finish(number, item=item, retry=True) for number in numbers] == answers


@pytest.mark.parametrize("item", [EMPTY_GUID, ""])
def test_the_empty_guid_never_deduplicates(pos: Any, item: str) -> None:
    assert [pos.start(item, retry=True).transaction_number for _ in range(3)] == [1, 2, 3]


# ---- limits, time, expiry ---------------------------------------------------------------------


def test_limits_of_a_request(pos: Any, scu: ScuCore) -> None:
    number = pos.start().transaction_number
    signatures = scu.get_tse_info().current_number_of_signatures
    for request in (
        StartTransactionRequest(client_id="POS-1", process_data_base64="*"),
        StartTransactionRequest(client_id="POS-1", process_type="x" * 101),
        StartTransactionRequest(client_id="POS-1", queue_item_id="x" * 65),
        StartTransactionRequest(client_id="POS-1", process_type="\ud800"),
        StartTransactionRequest(client_id="POS-1", queue_item_id="\ud800"),
    ):
        error = refused(lambda request=request: scu.start_transaction(request))  # type: ignore[misc]
        assert isinstance(error, ClientError)
    assert isinstance(refused(lambda: pos.finish(number, bytes(65_537))), ClientError)
    assert scu.get_tse_info().current_number_of_signatures == signatures
    pos.finish(number, bytes(65_536))


def test_signature_limits(tmp_path: Any, make_pos: Any) -> None:
    scu = ScuCore(SoftwareTse(tmp_path, max_signatures=5))
    scu.set_tse_state(TseState(current_state=INITIALIZED))
    scu.register_client_id(RegisterClientIdRequest(client_id="POS-1"))
    pos = make_pos(scu)
    number = pos.start().transaction_number
    error = refused(lambda: pos.finish(number))
    assert (error.code, str(error)) == ("SIGNATURE_LIMIT", "The TSE has made 5 of at most 5 signatures.")
    driver_of(scu)._number = 2**32 - 1
    driver_of(scu)._max_signatures = 9
    assert refused(pos.start).code == "TRANSACTION_LIMIT"
    scu.close()


def test_log_time_never_goes_back_but_by_update_time(pos: Any, clock: Any, scu: ScuCore) -> None:
    first = pos.start()
    clock.advance(-3600)
    second = pos.start()
    assert second.time_stamp == first.time_stamp
    scu.execute_set_tse_time()
    assert to_unix(pos.start().time_stamp) == 1_700_000_000 - 3600
    times = [parse(raw).log_time for _, raw in driver_of(scu).messages()]
    update = parse(list(driver_of(scu).messages())[-2][1])
    assert update.operation == "updateTime"
    assert update.elements[1].content.hex() == "81046553f10082046553e2f0"
    assert times[-1] == times[-2] < times[-3]


def test_no_start_after_the_certificate_expired(pos: Any, clock: Any) -> None:
    number = pos.start().transaction_number
    clock.advance(8 * 366 * 86400)
    error = refused(pos.start)
    assert (error.code, type(error)) == ("CERTIFICATE_EXPIRED", TseRejected)
    pos.finish(number)


# ---- turns ------------------------------------------------------------------------------------


def test_a_deadline_that_passes_in_the_queue(scu: ScuCore, pos: Any) -> None:
    request = StartTransactionRequest(client_id="POS-1")
    error = refused(lambda: scu.start_transaction(request, Deadline(-1)))
    assert (error.code, type(error)) == ("BUSY", Unreachable)
    with ThreadPoolExecutor(1) as other, scu.back_to_back("POS-2"):
        error = other.submit(refused, lambda: scu.start_transaction(request, Deadline(0.02))).result()
    assert (error.code, type(error)) == ("BUSY", Unreachable)
    assert pos.start().transaction_number == 1


def test_a_closed_scu(scu: ScuCore, pos: Any) -> None:
    scu.close()
    scu.close()
    error = refused(pos.start)
    assert (error.code, type(error)) == ("TSE_NOT_AVAILABLE", Unreachable)
    assert str(error).startswith("The TSE is not available.")
    assert scu.echo(ScuDeEchoRequest(message=None)).message is None


def test_many_threads_through_one_tse(scu: ScuCore, make_pos: Any) -> None:
    threads_count, rounds = 8, 50
    answers: list[list[int]] = [[] for _ in range(threads_count)]
    failures: list[BaseException] = []

    def work(index: int) -> None:
        try:
            pos = make_pos(scu, f"POS-{1 + index % 2}")
            for _ in range(rounds):
                item = str(uuid.uuid4())
                number = pos.start(item).transaction_number
                finished = pos.finish(number, item=item)
                assert pos.finish(number, item=item, retry=True) == finished
                answers[index].append(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(threads_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    numbers = sorted(number for numbers in answers for number in numbers)
    assert numbers == list(range(1, threads_count * rounds + 1))
    assert all(own == sorted(own) for own in answers)
    counters = [counter for counter, _ in driver_of(scu).messages()]
    assert counters == list(range(1, len(counters) + 1))
