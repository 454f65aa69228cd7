"""Benchmarks on simulated TSEs: what is measured, and that nothing is left behind whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fiskal.histogram import Histogram
from fiskal.scu.contract import Deadline, TseState, TseStates
from fiskal.scu.core import ScuCore
from fiskal.scu.errors import ScuError
from fiskal.scu.software import open_software_tse, rehearsal
from fiskal.sizing import text
from fiskal.sizing.bench import Bench, probe, productive_clients
from fiskal.sizing.drive import Clockwork, Customer, Settings, Snapshot, measure
from fiskal.sizing.errors import MeasurementError
from fiskal.sizing.measurement import (
    VERSION,
    Measurement,
    Point,
    Setup,
    decode,
    encode,
    load,
    profile_of,
)
from fiskal.sizing.simulation import Cycle
from fiskal.sizing.tills import CLIENT_ID, ScuTill

SETUP = Setup(
    flow="implicit",
    items=3,
    orders_per_bill=0,
    arrival="closed",
    receipts_per_hour=None,
    through="scu",
    warmup_s=0,
    duration_s=1,
    seed=1,
)
QUICK = Cycle(gap_s=0.005, scan_s=0.01, pay_s=0.005, items=3)


def settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {
        "flow": "implicit",
        "items": 3,
        "orders_per_bill": 0.0,
        "arrival": "closed",
        "cycle": None,
        "rate_per_s": 0.0,
        "customers": (),
        "warmup_s": 0.05,
        "duration_s": 0.6,
        "seed": 1,
    }
    return Settings(**{**values, **changes})


@contextmanager
def tse(folder: Path, ms: float = 2, **rehearsed: Any) -> Iterator[ScuCore]:
    """A simulated TSE with one productive client."""
    plan = {"service_time": {"start": ms, "finish": ms}, **rehearsed}
    scu = open_software_tse(folder, rehearse=rehearsal.convert(plan), client_ids=["KASSE-1"])
    try:
        yield scu
    finally:
        scu.close()


def start_bench(scu: ScuCore, close_s: float = 5.0) -> Bench:
    return Bench(scu, driver="software", simulated=True, close_s=close_s)


def quantile(point: Point, part: str, share: float) -> float:
    return Histogram.load(getattr(point, part)).quantile(share)


@pytest.mark.parametrize("flow", ["implicit", "explicit", "orders"])
def test_every_flow_is_measured_and_leaves_the_tse_as_it_was(tmp_path: Path, flow: Any) -> None:
    with tse(tmp_path) as scu, start_bench(scu) as bench:
        made = settings(flow=flow, orders_per_bill=2.0, cycle=QUICK)
        measurement = bench.run([1, 3], made, SETUP)
        assert scu.get_tse_info().current_started_transaction_numbers == []
        bench.__exit__()
        assert scu.get_tse_info().current_client_ids == ["KASSE-1"]
    assert [point.checkouts for point in measurement.points] == [1, 3]
    for point in measurement.points:
        assert point.receipts > 0
        assert point.errors == {}
        assert point.signatures == pytest.approx(2 * point.receipts, abs=3 * point.checkouts)
        assert quantile(point, "tse", 0.5) >= (0.002 if flow == "explicit" else 0.004)
        assert 0 < point.utilisation <= 1.01
        counts = {
            Histogram.load(getattr(point, part)).count for part in ("latency", "wait", "tse", "middleware")
        }
        assert counts == {point.receipts}
    assert set(measurement.service) == {"start", "finish"}
    assert (measurement.stopped, measurement.left_open) == ("", [])


def test_the_parts_of_a_latency_add_up(tmp_path: Path) -> None:
    with tse(tmp_path) as scu, start_bench(scu) as bench:
        (point,) = bench.run([4], settings(flow="explicit", cycle=QUICK), SETUP).points
    means = [Histogram.load(getattr(point, part)).mean for part in ("in_line", "wait", "tse", "middleware")]
    assert sum(means) == pytest.approx(Histogram.load(point.latency).mean, abs=5e-6)


def test_without_pauses_the_tse_is_busy_all_the_time_and_checkouts_wait_for_each_other(
    tmp_path: Path,
) -> None:
    with tse(tmp_path, ms=20) as scu, start_bench(scu) as bench:
        (point,) = bench.run([4], settings(duration_s=1.0), SETUP).points
    assert point.utilisation > 0.5  # whatever else the machine does; alone it is 0.97 and more
    assert quantile(point, "wait", 0.5) > 0.04


def test_customers_who_find_no_free_checkout_wait_from_the_moment_they_come(tmp_path: Path) -> None:
    customers = tuple(Customer(0.05, 1) for _ in range(8))
    with tse(tmp_path, ms=20) as scu, start_bench(scu) as bench:
        made = settings(arrival="trace", customers=customers, warmup_s=0.0, duration_s=1.5)
        (point,) = bench.run([1], made, SETUP).points
    assert point.receipts == 8
    assert quantile(point, "in_line", 1.0) >= 7 * 0.04  # the last one waits for the seven before
    assert quantile(point, "wait", 1.0) < 0.02  # one checkout never waits for the TSE


def test_poisson_customers_come_at_the_given_rate(tmp_path: Path) -> None:
    with tse(tmp_path, ms=1) as scu, start_bench(scu) as bench:
        made = settings(arrival="poisson", rate_per_s=50.0 / 6, duration_s=2.0)
        (point,) = bench.run([6], made, SETUP).points
    assert 50 <= point.receipts <= 150


def test_the_calls_of_an_implicit_receipt_follow_each_other_whatever_other_checkouts_want(
    tmp_path: Path,
) -> None:
    seen: list[tuple[str, int]] = []
    with tse(tmp_path, ms=1) as scu, start_bench(scu) as bench:
        for name in ("start", "finish"):
            call = getattr(scu._driver, name)

            def watch(request: Any, deadline: Any, name: str = name, call: Any = call) -> Any:
                signed = call(request, deadline)
                seen.append((name, signed.transaction_number))
                return signed

            setattr(scu._driver, name, watch)
        bench.run([4], settings(), SETUP)
    assert len(seen) > 8
    assert [name for name, _ in seen] == ["start", "finish"] * (len(seen) // 2)
    assert all(seen[n][1] == seen[n + 1][1] for n in range(0, len(seen), 2))


def test_checkouts_that_share_the_client_id_of_the_benchmark_do_not_wait_as_one_client(
    tmp_path: Path,
) -> None:
    with tse(tmp_path) as scu:
        before = scu.scheduler.client_step_s
        with start_bench(scu):
            assert scu.scheduler.client_step_s == 0
        assert scu.scheduler.client_step_s == before > 0


def test_the_log_says_that_the_receipts_are_training(tmp_path: Path) -> None:
    seen = []
    with tse(tmp_path) as scu:
        finish = scu._driver.finish

        def watch(call: Any, deadline: Any) -> Any:
            seen.append(call.process_data.decode())
            return finish(call, deadline)

        scu._driver.finish = watch  # type: ignore[method-assign]
        with start_bench(scu) as bench:
            bench.run([1], settings(duration_s=0.1), SETUP)
    assert seen
    assert all(data.startswith("AVTraining^") for data in seen)


@pytest.mark.parametrize("flow", ["implicit", "explicit"])
def test_a_tse_that_dies_and_comes_back_has_no_open_transaction(tmp_path: Path, flow: Any) -> None:
    faults = [{"kind": "unreachable", "operation": "finish", "times": 30}]
    with tse(tmp_path, faults=faults) as scu, start_bench(scu, close_s=60.0) as bench:
        measurement = bench.run([4], settings(flow=flow, cycle=QUICK, duration_s=30.0), SETUP)
        assert scu.get_tse_info().current_started_transaction_numbers == []
    assert measurement.stopped.startswith("the TSE failed")
    assert measurement.left_open == []
    assert measurement.points[0].errors["TSE_NOT_AVAILABLE"] >= 20
    assert "ENDED EARLY" in text.measurement(measurement)


def test_a_tse_that_stays_dead_is_reported_with_what_is_open(tmp_path: Path) -> None:
    with tse(tmp_path) as scu, start_bench(scu, close_s=0.2) as bench:
        stopped: list[Measurement] = []
        seen = threading.Event()

        def watch(snapshot: Snapshot) -> None:
            if snapshot.receipts > 5 and not seen.is_set():
                dead = {"faults": [{"kind": "unreachable", "operation": "any"}]}
                (tmp_path / "rehearse.json").write_bytes(msgspec.json.encode(dead))
                seen.set()

        made = settings(
            flow="explicit", cycle=Cycle(gap_s=0.01, scan_s=0.1, pay_s=0.1, items=3), duration_s=60.0
        )
        stopped.append(bench.run([6], made, SETUP, watch=watch))
        (tmp_path / "rehearse.json").unlink()
    (measurement,) = stopped
    assert seen.is_set()
    assert measurement.stopped.startswith("the TSE failed")
    assert measurement.points[0].receipts > 5  # what was measured until then
    assert measurement.left_open
    assert "LEFT OPEN" in text.measurement(measurement)
    assert decode(encode(measurement)).left_open == measurement.left_open


def test_a_start_whose_answer_was_lost_is_found_and_finished(tmp_path: Path) -> None:
    faults = [{"kind": "lose_answer", "operation": "start", "times": 3}]
    with tse(tmp_path, faults=faults) as scu, start_bench(scu) as bench:
        short = Deadline(0.05)
        for _ in range(3):
            till = ScuTill(_Impatient(bench.scu, short))  # type: ignore[arg-type]
            with pytest.raises(ScuError):
                till.start()
        assert len(scu.get_tse_info().current_started_transaction_numbers) == 3
        assert bench.close_open() == []
        assert scu.get_tse_info().current_started_transaction_numbers == []


class _Impatient:
    """An SCU whose callers wait no longer than a moment."""

    def __init__(self, scu: Any, deadline: Deadline) -> None:
        self._scu = scu
        self._deadline = deadline

    def start_transaction(self, request: Any, deadline: Any = None) -> Any:
        return self._scu.start_transaction(request, Deadline(0.05))


def test_stopping_ends_at_once_with_what_was_measured(tmp_path: Path) -> None:
    stop = threading.Event()

    def watch(snapshot: Snapshot) -> None:
        if snapshot.receipts > 3:
            stop.set()

    with tse(tmp_path) as scu, start_bench(scu) as bench:
        measurement = bench.run(
            [2, 4], settings(flow="explicit", cycle=QUICK, duration_s=600.0), SETUP, watch=watch, stop=stop
        )
        assert scu.get_tse_info().current_started_transaction_numbers == []
    assert measurement.stopped == "interrupted"
    assert len(measurement.points) == 1
    assert measurement.points[0].receipts > 3


def test_a_run_that_raises_leaves_nothing_open_either(tmp_path: Path) -> None:
    class Broken(Exception):
        pass

    def start_and_break(scu: ScuCore) -> None:
        with start_bench(scu) as bench:
            ScuTill(bench.scu).start()
            raise Broken

    with tse(tmp_path) as scu:
        with pytest.raises(Broken):
            start_and_break(scu)
        info = scu.get_tse_info()
    assert info.current_started_transaction_numbers == []
    assert CLIENT_ID not in info.current_client_ids


def test_a_tse_out_of_operation_is_not_put_into_operation(tmp_path: Path) -> None:
    scu = open_software_tse(tmp_path)
    try:
        with pytest.raises(MeasurementError, match="not in operation"):
            start_bench(scu)
        assert scu.get_tse_info().current_state is TseStates.UNINITIALIZED
        scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
        start_bench(scu)
    finally:
        scu.close()


def test_a_registration_that_was_there_stays(tmp_path: Path) -> None:
    scu = open_software_tse(tmp_path, client_ids=[CLIENT_ID, "KASSE-1"])
    try:
        with start_bench(scu) as bench:
            assert productive_clients(bench.info) == ["KASSE-1"]
        assert CLIENT_ID in scu.get_tse_info().current_client_ids
    finally:
        scu.close()


def test_calls_of_other_threads_are_nobodys(tmp_path: Path) -> None:
    with tse(tmp_path) as scu, start_bench(scu) as bench:
        clockwork = Clockwork()
        scu.observer = clockwork
        ScuTill(bench.scu).receipt(1)  # this thread is no checkout
        result = measure([ScuTill(bench.scu)], settings(duration_s=0.2), clockwork)
        assert result.point.receipts > 0
        assert probe(bench.scu) > 0


def test_an_observer_hears_of_every_call_what_it_waited_and_took(tmp_path: Path) -> None:
    heard: list[tuple[str, int, int, bool]] = []
    faults = [{"kind": "memory_full", "operation": "finish", "times": 1}]
    with tse(tmp_path, ms=5, faults=faults) as scu, start_bench(scu) as bench:
        scu.observer = lambda *call: heard.append(call)
        till = ScuTill(bench.scu)
        with pytest.raises(ScuError):
            till.receipt(1)
        till.receipt(1)
        scu.observer = None
    assert [(op, answered) for op, _, _, answered in heard] == [
        ("start", True),
        ("finish", False),
        ("start", True),
        ("finish", True),
    ]
    assert all(waited < 5_000_000_000 for _, waited, _, _ in heard)
    assert heard[0][2] >= 5_000_000


# ---- the file -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measurement:
    with tse(tmp_path_factory.mktemp("tse"), ms=3) as scu, start_bench(scu) as bench:
        return bench.run([1, 2], settings(duration_s=0.7), SETUP)


def test_a_measurement_file_keeps_everything(measured: Measurement, tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    path.write_bytes(encode(measured))
    assert load(path) == measured


def test_a_measured_tse_is_a_profile(measured: Measurement) -> None:
    profile = profile_of(measured)
    assert profile.signature_s == pytest.approx(
        (Histogram.load(measured.service["start"]).mean + Histogram.load(measured.service["finish"]).mean) / 2
    )
    assert profile.max_clients == 199
    assert "simulated" in profile.title


def changed(measured: Measurement, **members: Any) -> bytes:
    return msgspec.json.encode({**msgspec.to_builtins(measured), **members})


def test_measurements_of_other_versions_are_refused_with_what_to_do(measured: Measurement) -> None:
    with pytest.raises(MeasurementError, match=f"version {VERSION + 1}") as newer:
        decode(changed(measured, version=VERSION + 1))
    assert "Update fiskal" in newer.value.hint
    with pytest.raises(MeasurementError, match="version 0") as older:
        decode(changed(measured, version=0))
    assert "Measure again" in older.value.hint


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"format":"x","version":1}', b"\xff\xfe", b"null"])
def test_what_is_no_measurement_is_refused(data: bytes) -> None:
    with pytest.raises(MeasurementError, match="no measurement"):
        decode(data)


def test_a_damaged_measurement_is_refused(measured: Measurement) -> None:
    with pytest.raises(MeasurementError, match="damaged"):
        decode(changed(measured, points=3))
    with pytest.raises(MeasurementError, match="damaged"):
        decode(changed(measured, service={"start": {"slots": [1], "counts": [0], "sum_us": 1}}))


def test_too_few_signatures_are_no_profile(measured: Measurement) -> None:
    few = msgspec.structs.replace(measured, service={"start": measured.service["start"]})
    with pytest.raises(MeasurementError, match="0 signatures of a kind"):
        profile_of(few)


def test_a_run_does_not_begin_with_a_rush(tmp_path: Path) -> None:
    slow = Cycle(gap_s=30, scan_s=40, pay_s=30, items=3)
    with tse(tmp_path) as scu, start_bench(scu) as bench:
        before = scu.get_tse_info().current_number_of_signatures
        bench.run([20], settings(flow="explicit", cycle=slow, warmup_s=0.0, duration_s=0.5), SETUP)
        after = scu.get_tse_info().current_number_of_signatures
    # 40 signatures in 100 s are about none in half a second; each start that was made is finished at the end.
    assert after - before <= 8
