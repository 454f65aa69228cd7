"""How much an Epson TSE's driver and simulator add to what the device itself takes.

    python -m pytest bench/test_epson.py --benchmark-enable -s

The ratios are of one run: a slow machine changes the times, not what they say.
"""

from __future__ import annotations

import base64
import contextlib
import io
import statistics
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fiskal.frames import epson as frames
from fiskal.scu.contract import (
    FinishTransactionRequest,
    RegisterClientIdRequest,
    Scu,
    StartTransactionRequest,
    TseState,
    TseStates,
)
from fiskal.scu.driver import Call, Selection
from fiskal.scu.drivers import epson
from fiskal.scu.drivers.epson.protocol import Message
from fiskal.scu.software.tse import SoftwareTse
from fiskal.simulators.epson import Settings, Simulator
from fiskal.simulators.plan import Plan

CLIENT = "POS-1"
DEVICE_S = 0.25
"""What a TSE of this family takes for a signature."""
SECRETS = {"puk": "918273", "admin_pin": "53417", "time_admin_pin": "86420", "secret": "BENCHKEY"}
JSON = (
    b'{"storage":{"type":"TSE","vendor":"TSE1"},"function":"FinishTransaction","compress":{"required":false,"type":""},'
    b'"input":{"transactionNumber":17,"clientId":"POS-1","processData":"'
    + base64.b64encode(bytes(range(120)))
    + b'",'
    b'"processType":"Kassenbeleg-V1","additionalData":""}}'
)


def model_request(device_id: str, timeout_ms: int, text: bytes) -> bytes:
    """The obvious way: character by character."""
    escapes = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
    out = "<device_data><device_id>" + device_id + "</device_id><data><type>operate</type><timeout>"
    out += str(timeout_ms) + "</timeout><requestdata>"
    for character in text.decode():
        out += escapes.get(character, character)
    return (out + "</requestdata></data></device_data>\0").encode()


def model_read(received: bytes) -> tuple[int, int, int] | None:
    """The obvious way: byte by byte."""
    begin = 0
    for at, byte in enumerate(received):
        if byte == 0:
            return begin, at, at + 1
        if byte in b' \t\r\n"' and begin == at:
            begin += 1
    return None


def best(action: Callable[[], Any], times: int) -> float:
    """Seconds of one call, the best of five rounds."""
    rounds = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(times):
            action()
        rounds.append((time.perf_counter() - began) / times)
    return min(rounds)


def test_a_frame_is_built_and_read(capsys: pytest.CaptureFixture[str]) -> None:
    frame = frames.request("local_TSE", 60_000, JSON)
    assert frame == model_request("local_TSE", 60_000, JSON)
    ratios = {}
    for name, fast, slow in (
        (
            "build",
            lambda: frames.request("local_TSE", 60_000, JSON),
            lambda: model_request("local_TSE", 60_000, JSON),
        ),
        ("read", lambda: frames.read(frame), lambda: model_read(frame)),
    ):
        quick, obvious = best(fast, 2000), best(slow, 200)
        ratios[name] = obvious / quick
        with capsys.disabled():
            print(
                f"\n{name}: {quick * 1e6:.2f} us in C, {obvious * 1e6:.1f} us the obvious way: {ratios[name]:.0f}x"
            )
    body = frames.read(frame)
    assert body is not None
    with capsys.disabled():
        print(f"XML of an answer: {best(lambda: Message(frame[:-1]), 500) * 1e6:.1f} us")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., tuple[Simulator, Scu]]]:
    with contextlib.ExitStack() as stack:

        def make_it(**plan: Any) -> tuple[Simulator, Scu]:
            folder = tmp_path / uuid.uuid4().hex
            settings = Settings(folder=str(folder / "device"), port=0, plan=Plan(scale=0))
            simulator = stack.enter_context(Simulator(settings))
            scu = epson.open(folder / "scu", epson.Options(port=simulator.port, **SECRETS))  # type: ignore[arg-type]
            stack.callback(scu.close)
            scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
            scu.register_client_id(RegisterClientIdRequest(client_id=CLIENT))
            scu.start_transaction(StartTransactionRequest(client_id=CLIENT))  # somebody is logged in now
            simulator.conductor.take(Plan(**{"scale": 0, **plan}))
            return simulator, scu

        yield make_it


def finish(scu: Scu, number: int) -> None:
    scu.finish_transaction(
        FinishTransactionRequest(
            client_id=CLIENT,
            transaction_number=number,
            process_type="Kassenbeleg-V1",
            process_data_base64="QmVsZWc=",
            queue_item_id=str(uuid.uuid4()),
        )
    )


def test_what_the_driver_adds_to_a_signature(
    make: Callable[..., tuple[Simulator, Scu]], capsys: pytest.CaptureFixture[str]
) -> None:
    """All but the device: protocol, transport and the way there and back; then the SCU with its call store as well."""
    simulator, scu = make()
    inside: list[float] = []
    execute = simulator.device.execute

    def measured(*arguments: Any) -> Any:
        began = time.perf_counter()
        answer = execute(*arguments)
        inside.append(time.perf_counter() - began)
        return answer

    simulator.device.execute = measured  # type: ignore[method-assign]

    def start() -> None:
        scu.start_transaction(StartTransactionRequest(client_id=CLIENT, queue_item_id=str(uuid.uuid4())))

    driver = scu._driver  # type: ignore[attr-defined]
    update = Call("update", CLIENT, 1, "Kassenbeleg-V1", bytes(200), "")
    for name, action in (("driver", lambda: driver.update(update, None)), ("SCU with its call store", start)):
        added = []
        for _ in range(300):
            inside.clear()
            began = time.perf_counter()
            action()
            added.append(time.perf_counter() - began - sum(inside))
        added.sort()
        p50, p99 = statistics.median(added), added[-3]
        with capsys.disabled():
            print(
                f"\nadded to a signature of 250 ms, {name}: p50 {p50 * 1e3:.2f} ms ({p50 / DEVICE_S:.2%}), "
                f"p99 {p99 * 1e3:.2f} ms ({p99 / DEVICE_S:.2%})"
            )
        scu.get_tse_info()


def test_the_simulator_signs_nearly_as_fast_as_its_curve(
    make: Callable[..., tuple[Simulator, Scu]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulator, _ = make()
    bare = SoftwareTse(tmp_path / "bare", curve="brainpoolP384r1")
    bare.set_state(TseStates.INITIALIZED, None)
    bare.register(CLIENT, None)
    bare_s = best(lambda: bare.start(Call("start", CLIENT, 0, "", b"", ""), None), 50)
    bare.close()
    driver = simulator.device
    request = (
        b'{"storage":{"type":"TSE","vendor":"TSE1"},"function":"StartTransaction","compress":{"required":false,'
        b'"type":""},"input":{"clientId":"POS-1","processData":"","processType":"","additionalData":""}}'
    )
    simulated_s = best(lambda: driver.execute(request), 50)
    with capsys.disabled():
        print(
            f"\na signature: {bare_s * 1e3:.2f} ms bare, {simulated_s * 1e3:.2f} ms in the simulator: "
            f"{bare_s / simulated_s:.2f} of the bare rate"
        )


def test_an_export_against_a_plain_read(
    make: Callable[..., tuple[Simulator, Scu]], capsys: pytest.CaptureFixture[str]
) -> None:
    simulator, scu = make()
    tse = simulator.device.tse
    for index in range(1500):
        number = tse.start(Call("start", CLIENT, 0, "", b"", ""), None).transaction_number
        tse.finish(Call("finish", CLIENT, number, "Kassenbeleg-V1", b"%d" % index * 200, ""), None)
    archive = io.BytesIO()
    tracemalloc.start()
    scu._driver.export(Selection(), archive, contextlib.nullcontext)  # type: ignore[attr-defined]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    peak -= archive.tell()
    archive = io.BytesIO()
    began = time.perf_counter()
    scu._driver.export(Selection(), archive, contextlib.nullcontext)  # type: ignore[attr-defined]
    export_s = time.perf_counter() - began
    size = archive.tell()
    plain_s = _plain_read(scu._driver)  # type: ignore[attr-defined]
    with capsys.disabled():
        print(
            f"\nexport of {size / 1e6:.1f} MB in {export_s:.2f} s ({size / export_s / 1e6:.0f} MB/s) with a peak of "
            f"{peak / 1e6:.1f} MB beside the archive; the device alone needs {plain_s:.2f} s: "
            f"{plain_s / export_s:.2f} of its rate"
        )


def _plain_read(driver: Any) -> float:
    """Seconds in which an export is made and its answers are received, and nothing is done with them."""
    link = driver._link
    with driver._errors():
        driver._link.open(None)
        driver._note_session()
        driver._log_in_admin(None)
    began = time.perf_counter()
    with driver._errors():
        driver._begin_export("ArchiveExport", {"clientId": ""}, None)
    frame = frames.request(
        "local_TSE",
        60_000,
        b'{"storage":{"type":"TSE","vendor":"TSE1"},"function":"GetExportData","compress":{"required":false,"type":""},'
        b'"input":{}}',
    )
    while b"EXPORT_COMPLETE" not in link._transport.call(frame, None)[-300:]:
        pass
    seconds = time.perf_counter() - began
    with driver._errors():
        driver._end_export(None)
    return seconds
