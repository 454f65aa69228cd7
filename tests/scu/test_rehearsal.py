"""The software TSE in the role of a device: its speed, its limits, and failures on demand."""

from __future__ import annotations

import logging
import random
import statistics
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiskal.clock import now
from fiskal.errors import ConfigurationError
from fiskal.host.drivers import open_software_scu
from fiskal.scu.contract import (
    Deadline,
    RegisterClientIdRequest,
    StartTransactionRequest,
    TseState,
    TseStates,
)
from fiskal.scu.core import ScuCore
from fiskal.scu.driver import Call, Selection
from fiskal.scu.errors import ClientError, Misconfigured, OutcomeUnknown, ScuError, TseRejected, Unreachable
from fiskal.scu.service_time import Constant, Empirical, LogNormal, mean_s, sampler
from fiskal.scu.software import SoftwareTse
from fiskal.scu.software.limits import Limits
from fiskal.scu.software.rehearsal import (
    FAULT_KINDS,
    FILE_NAME,
    Fault,
    Rehearsal,
    RehearsedTse,
    ServiceTimes,
    convert,
    decode,
)

ITEM = "00112233-4455-6677-8899-aabbccddeeff"


class FakeTime:
    """A monotonic clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def moment() -> FakeTime:
    return FakeTime()


@pytest.fixture
def rehearse(tmp_path: Path, clock: Any, moment: FakeTime) -> Iterator[Callable[..., ScuCore]]:
    opened: list[ScuCore] = []

    def open_it(rehearsal: Rehearsal | None = None, **options: Any) -> ScuCore:
        tse = SoftwareTse(tmp_path / "tse", clock=clock, **options)
        try:
            driver = RehearsedTse(tse, rehearsal, monotonic=moment.monotonic, sleep=moment.sleep)
        except BaseException:
            tse.close()
            raise
        scu = ScuCore(driver, clock=clock)
        opened.append(scu)
        return scu

    yield open_it
    for scu in opened:
        scu.close()


def ready(scu: ScuCore) -> None:
    scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    scu.register_client_id(RegisterClientIdRequest(client_id="POS-1"))


def refused(call: Callable[[], object]) -> ScuError:
    with pytest.raises(ScuError) as caught:
        call()
    return caught.value


# ---- service times ----------------------------------------------------------------------------


def test_a_seed_determines_the_service_times() -> None:
    spec = LogNormal(mean_ms=250, cv=0.2)
    first, second, other = (sampler(spec, seed) for seed in ("7/start", "7/start", "8/start"))
    times = [first() for _ in range(100)]
    assert times == [second() for _ in range(100)]
    assert times != [other() for _ in range(100)]


@pytest.mark.parametrize("cv", [0.05, 0.2, 1.0])
def test_log_normal_times_have_the_mean_and_the_spread_asked_for(cv: float) -> None:
    draw = sampler(LogNormal(mean_ms=250, cv=cv), "1")
    times = [draw() for _ in range(40_000)]
    assert statistics.fmean(times) == pytest.approx(0.25, rel=0.03)
    assert statistics.stdev(times) / statistics.fmean(times) == pytest.approx(cv, rel=0.1)


def test_a_log_normal_time_is_cut_at_its_maximum() -> None:
    draw = sampler(LogNormal(mean_ms=250, cv=1.0, max_ms=300), "1")
    times = [draw() for _ in range(1000)]
    assert max(times) == 0.3
    assert min(times) < 0.2


@given(st.lists(st.floats(0, 600_000), min_size=1, max_size=20))
def test_empirical_times_are_the_measured_ones(measured: list[float]) -> None:
    draw = sampler(Empirical(measured), "1")
    assert {draw() for _ in range(50)} <= {ms / 1000 for ms in measured}
    assert mean_s(Empirical(measured)) == pytest.approx(statistics.fmean(measured) / 1000)


def test_every_call_takes_its_time_and_one_comes_after_the_other(
    rehearse: Callable[..., ScuCore], moment: FakeTime, make_pos: Any
) -> None:
    times = ServiceTimes(start=250, update=Constant(100), finish=Empirical([300]))
    scu = rehearse(Rehearsal(service_time=times))
    ready(scu)
    pos = make_pos(scu)
    assert moment.now == 1000.0
    number = pos.start().transaction_number
    assert moment.now == pytest.approx(1000.25)
    pos.update(number)
    assert moment.now == pytest.approx(1000.35)
    pos.finish(number)
    assert moment.now == pytest.approx(1000.65)
    assert refused(lambda: pos.finish(number)).code == "TRANSACTION_NOT_OPEN"


def test_a_refusal_of_the_device_takes_its_time_too(tmp_path: Path, moment: FakeTime) -> None:

    tse = SoftwareTse(tmp_path)
    driver = RehearsedTse(
        tse,
        Rehearsal(service_time=ServiceTimes(start=250)),
        monotonic=moment.monotonic,
        sleep=moment.sleep,
    )
    assert refused(lambda: driver.start(Call("start", "x", 0, "", b"", ""), None)).code == "WRONG_STATE"
    assert moment.now == pytest.approx(1000.25)
    driver.close()


def test_a_call_longer_than_its_deadline_is_executed_and_keeps_the_device_busy(
    rehearse: Callable[..., ScuCore], moment: FakeTime, make_pos: Any
) -> None:
    scu = rehearse(Rehearsal(service_time=ServiceTimes(start=Empirical([5000.0]), info=0)))
    ready(scu)

    request = StartTransactionRequest(client_id="POS-1", queue_item_id=ITEM)
    error = refused(lambda: scu.start_transaction(request, Deadline(1.0)))
    assert isinstance(error, OutcomeUnknown)
    assert error.code == "NO_RESPONSE"
    assert moment.now == pytest.approx(1001.0, abs=0.1)
    error = refused(lambda: scu.get_tse_info(Deadline(1.0)))
    assert isinstance(error, Unreachable)
    assert error.code == "BUSY"
    assert moment.now == pytest.approx(1002.0, abs=0.1)
    assert scu.get_tse_info().current_started_transaction_numbers == [1]
    assert moment.now == pytest.approx(1005.0, abs=0.1)
    retried = make_pos(scu).start(ITEM, retry=True)
    assert retried.transaction_number == 1


def test_an_export_holds_the_device_for_one_slice_at_a_time(
    rehearse: Callable[..., ScuCore], moment: FakeTime, make_pos: Any
) -> None:
    scu = rehearse(Rehearsal(service_time=ServiceTimes(export=20), export_slice_bytes=1024))
    ready(scu)
    pos = make_pos(scu)
    for _ in range(10):
        pos.finish(pos.start().transaction_number)
    plain, sliced = bytearray(), bytearray()

    class Out:
        def __init__(self, target: bytearray) -> None:
            self.target = target
            self.largest = 0

        def write(self, data: bytes) -> None:
            assert scu.scheduler.idle
            self.target += data
            self.largest = max(self.largest, len(data))

    driver = scu._driver
    assert isinstance(driver, RehearsedTse)
    driver.tse.export(Selection(), Out(plain), scu._turn)
    out = Out(sliced)
    before = moment.now
    driver.export(Selection(), out, scu._turn)
    assert sliced == plain
    assert out.largest == 1024
    assert moment.now - before == pytest.approx(0.02 * -(-len(plain) // 1024))


def test_threads_wait_for_one_device_and_none_is_lost(tmp_path: Path, make_pos: Any) -> None:
    scu = ScuCore(
        RehearsedTse(SoftwareTse(tmp_path), Rehearsal(service_time=ServiceTimes(start=1, finish=1)))
    )
    ready(scu)
    numbers: list[int] = []

    def work() -> None:
        pos = make_pos(scu)
        for _ in range(5):
            number = pos.start().transaction_number
            pos.finish(number)
            numbers.append(number)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 31))
    scu.close()


def test_a_rehearsed_tse_counts_as_a_device_outside(tmp_path: Path, open_tse: Callable[..., ScuCore]) -> None:
    plain = open_tse()
    assert plain.capabilities.in_process
    plain.close()
    rehearsed = open_tse(rehearse=Rehearsal())
    assert not rehearsed.capabilities.in_process
    rehearsed.close()
    (tmp_path / "tse" / FILE_NAME).write_text("{}")
    assert not open_tse().capabilities.in_process


# ---- faults -----------------------------------------------------------------------------------


def test_a_lost_answer_is_found_again_and_nothing_is_signed_twice(
    rehearse: Callable[..., ScuCore], make_pos: Any
) -> None:
    scu = rehearse(Rehearsal(faults=[Fault(kind="lose_answer", times=1)]))
    ready(scu)
    pos = make_pos(scu)
    error = refused(lambda: pos.start(ITEM))
    assert isinstance(error, OutcomeUnknown)
    signatures = scu.get_tse_info().current_number_of_signatures
    assert pos.start(ITEM, retry=True).transaction_number == 1
    assert scu.get_tse_info().current_number_of_signatures == signatures


def test_nothing_is_found_again_at_a_tse_that_cannot_be_reached(
    rehearse: Callable[..., ScuCore], tmp_path: Path, make_pos: Any
) -> None:
    scu = rehearse(Rehearsal(faults=[Fault(kind="lose_answer", times=1)]))
    ready(scu)
    pos = make_pos(scu)
    assert isinstance(refused(lambda: pos.start(ITEM)), OutcomeUnknown)
    write(tmp_path / "tse", Rehearsal(faults=[Fault(kind="unreachable")]))
    assert isinstance(refused(lambda: pos.start(ITEM, retry=True)), Unreachable)
    write(tmp_path / "tse", Rehearsal(faults=[]))
    assert pos.start(ITEM, retry=True).transaction_number == 1


def test_a_call_that_times_out_was_not_executed(
    rehearse: Callable[..., ScuCore], moment: FakeTime, make_pos: Any
) -> None:

    scu = rehearse(Rehearsal(faults=[Fault(kind="time_out", times=1)]))
    ready(scu)
    before = scu.get_tse_info().current_number_of_signatures
    request = StartTransactionRequest(client_id="POS-1", queue_item_id=ITEM)
    error = refused(lambda: scu.start_transaction(request, Deadline(2.0)))
    assert isinstance(error, OutcomeUnknown)
    assert moment.now == pytest.approx(1002.0, abs=0.1)
    assert scu.get_tse_info().current_number_of_signatures == before
    assert make_pos(scu).start(ITEM, retry=True).transaction_number == 1


@pytest.mark.parametrize(
    ("kind", "error", "code"),
    [
        ("unreachable", Unreachable, "TSE_NOT_AVAILABLE"),
        ("memory_full", TseRejected, "MEMORY_FULL"),
        ("certificate_expired", TseRejected, "CERTIFICATE_EXPIRED"),
        ("time_not_set", TseRejected, "TIME_NOT_SET"),
        ("secure_state", TseRejected, "SECURE_STATE"),
    ],
)
def test_a_fault_happens_as_often_as_it_should_and_signs_nothing(
    rehearse: Callable[..., ScuCore], make_pos: Any, kind: Any, error: type[ScuError], code: str
) -> None:
    scu = rehearse(Rehearsal(faults=[Fault(kind=kind, operation="start", times=3)]))
    ready(scu)
    pos = make_pos(scu)
    for _ in range(3):
        found = refused(pos.start)
        assert isinstance(found, error)
        assert found.code == code
    before = scu.get_tse_info().current_number_of_signatures
    assert pos.start().signature_data.signature_counter == before + 1


def test_an_expired_certificate_stops_starts_and_lets_what_began_end(
    rehearse: Callable[..., ScuCore], tmp_path: Path, make_pos: Any
) -> None:
    scu = rehearse()
    ready(scu)
    pos = make_pos(scu)
    number = pos.start().transaction_number
    write(tmp_path / "tse", Rehearsal(faults=[Fault(kind="certificate_expired")]))
    assert refused(pos.start).code == "CERTIFICATE_EXPIRED"
    assert pos.finish(number).transaction_number == number


def write(folder: Path, rehearsal: Rehearsal) -> None:
    staged = folder / "staged"
    staged.write_bytes(msgspec.json.encode(rehearsal))
    staged.replace(folder / FILE_NAME)


def test_the_file_is_read_again_when_it_changes_and_its_members_win(
    rehearse: Callable[..., ScuCore], tmp_path: Path, make_pos: Any, caplog: pytest.LogCaptureFixture
) -> None:
    scu = rehearse(Rehearsal(faults=[Fault(kind="unreachable", operation="start")]))
    ready(scu)
    pos = make_pos(scu)
    assert refused(pos.start).code == "TSE_NOT_AVAILABLE"
    write(tmp_path / "tse", Rehearsal(faults=[]))
    pos.start()
    write(tmp_path / "tse", Rehearsal(limits=Limits(max_open_transactions=2)))
    assert refused(pos.start).code == "TSE_NOT_AVAILABLE"
    write(tmp_path / "tse", Rehearsal(faults=[], limits=Limits(max_open_transactions=2)))
    pos.start()
    assert refused(pos.start).code == "TRANSACTION_LIMIT"
    with caplog.at_level(logging.WARNING):
        (tmp_path / "tse" / FILE_NAME).write_text("no json")
        assert refused(pos.start).code == "TRANSACTION_LIMIT"
    assert "stays as it is" in caplog.text
    (tmp_path / "tse" / FILE_NAME).unlink()
    assert refused(pos.start).code == "TSE_NOT_AVAILABLE"


def test_a_fault_with_an_id_is_not_repeated_by_the_next_process(
    rehearse: Callable[..., ScuCore], tmp_path: Path, make_pos: Any
) -> None:
    scu = rehearse()
    ready(scu)
    write(tmp_path / "tse", Rehearsal(faults=[Fault(kind="unreachable", operation="start", times=2, id="a")]))
    assert refused(make_pos(scu).start).code == "TSE_NOT_AVAILABLE"
    scu.close()
    scu = rehearse()
    assert refused(make_pos(scu).start).code == "TSE_NOT_AVAILABLE"
    scu.close()
    make_pos(rehearse()).start()


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_whatever_fails_the_counters_have_no_gap(
    rehearse: Callable[..., ScuCore], make_pos: Any, kind: Any
) -> None:
    scu = rehearse()
    ready(scu)
    pos = make_pos(scu)
    driver = scu._driver
    assert isinstance(driver, RehearsedTse)
    source = random.Random(5)
    open_numbers: list[int] = []
    for _ in range(60):
        write(
            driver.tse.directory,
            Rehearsal(faults=[Fault(kind=kind, operation="transaction")] if source.random() < 0.3 else []),
        )
        try:
            if open_numbers and source.random() < 0.5:
                pos.finish(open_numbers[-1])
                open_numbers.pop()
            else:
                open_numbers.append(pos.start().transaction_number)
        except ScuError:
            open_numbers = driver.tse.info(None).current_started_transaction_numbers
    counters = [counter for counter, _ in driver.tse.messages()]
    assert counters == list(range(1, len(counters) + 1))


# ---- limits -----------------------------------------------------------------------------------


def test_full_memory_refuses_before_it_signs_and_erasing_makes_room(
    rehearse: Callable[..., ScuCore], make_pos: Any
) -> None:
    scu = rehearse(Rehearsal(limits=Limits(max_log_memory_bytes=4096)))
    ready(scu)
    pos = make_pos(scu)
    code = ""
    for _ in range(100):
        try:
            pos.finish(pos.start().transaction_number)
        except TseRejected as error:
            code = error.code
            break
    assert code == "MEMORY_FULL"
    info = scu.get_tse_info()
    assert info.max_log_memory_size == 4096
    assert 4096 <= info.current_log_memory_size < 4096 + 400
    for number in info.current_started_transaction_numbers:
        assert refused(lambda number=number: pos.finish(number)).code == "MEMORY_FULL"  # type: ignore[misc]
    before = info.current_number_of_signatures
    assert refused(pos.start).code == "MEMORY_FULL"
    assert (
        refused(lambda: scu.register_client_id(RegisterClientIdRequest(client_id="POS-2"))).code
        == "MEMORY_FULL"
    )
    assert scu.get_tse_info().current_number_of_signatures == before
    driver = scu._driver
    assert isinstance(driver, RehearsedTse)
    if not info.current_started_transaction_numbers:
        driver.erase(before, None)
        pos.start()


def test_every_limit_can_be_set(rehearse: Callable[..., ScuCore], make_pos: Any) -> None:
    limits = Limits(max_clients=1, max_open_transactions=1, max_signatures=6)
    scu = rehearse(Rehearsal(limits=limits))
    ready(scu)
    pos = make_pos(scu)
    register = RegisterClientIdRequest(client_id="POS-2")
    assert refused(lambda: scu.register_client_id(register)).code == "CLIENT_LIMIT"
    number = pos.start().transaction_number
    assert refused(pos.start).code == "TRANSACTION_LIMIT"
    pos.finish(number)
    assert refused(pos.start).code == "SIGNATURE_LIMIT"
    info = scu.get_tse_info()
    assert (info.max_number_of_clients, info.max_number_of_started_transactions) == (1, 1)
    assert info.max_number_of_signatures == info.current_number_of_signatures == 6


# ---- configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"service_time": {"start": -1}}, "start"),
        ({"service_time": {"start": {"kind": "normal", "mean_ms": 1}}}, "normal"),
        ({"service_time": {"begin": 1}}, "begin"),
        ({"service_time": {"start": {"kind": "empirical", "ms": []}}}, "length"),
        ({"faults": [{"kind": "fire"}]}, "fire"),
        ({"faults": [{"kind": "unreachable", "times": 0}]}, "times"),
        ({"limits": {"max_clients": -1}}, "max_clients"),
        ({"speed": 3}, "speed"),
        (5, "object"),
    ],
)
def test_a_rehearsal_that_cannot_be_names_what_is_wrong(options: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        convert(options)
    with pytest.raises(ConfigurationError, match=named):
        decode(msgspec.json.encode(options))


def test_structures_made_in_python_are_checked_as_well(tmp_path: Path) -> None:
    tse = SoftwareTse(tmp_path)
    with pytest.raises(ConfigurationError, match="start"):
        RehearsedTse(tse, Rehearsal(service_time=ServiceTimes(start=-5)))
    RehearsedTse(tse, Rehearsal()).close()


def test_a_file_that_cannot_be_read_is_named_at_the_start(tmp_path: Path) -> None:
    tse = SoftwareTse(tmp_path)
    (tmp_path / FILE_NAME).write_text('{"faults": 3}')
    with pytest.raises(ConfigurationError, match=FILE_NAME):
        RehearsedTse(tse)
    (tmp_path / FILE_NAME).unlink()
    driver = RehearsedTse(tse)
    with pytest.raises(Misconfigured):
        RehearsedTse(tse)
    driver.close()


@given(st.binary(max_size=60))
def test_any_bytes_are_a_rehearsal_or_refused(data: bytes) -> None:
    try:
        decode(data)
    except ConfigurationError:
        pass


def test_the_option_of_the_middleware(tmp_path: Path) -> None:
    options = {
        "rehearse": {"seed": 7, "service_time": {"start": {"kind": "lognormal", "mean_ms": 3, "cv": 0.2}}}
    }
    scu = open_software_scu(tmp_path / "a", options, now)
    assert isinstance(scu, ScuCore)
    assert not scu.capabilities.in_process
    scu.close()
    with pytest.raises(ConfigurationError, match=r"rehearse.*strat"):
        open_software_scu(tmp_path / "b", {"rehearse": {"service_time": {"strat": 1}}}, now)
    assert not (tmp_path / "b").exists()


def test_client_errors_stay_client_errors(rehearse: Callable[..., ScuCore]) -> None:
    scu = rehearse(Rehearsal(service_time=ServiceTimes(clients=10)))
    ready(scu)
    assert isinstance(
        refused(lambda: scu.register_client_id(RegisterClientIdRequest(client_id="ä"))), ClientError
    )
