"""Frames of Diebold Nixdorf TSEs in C, beside the obvious way in Python, and what the driver adds to a signature.

python -m pytest bench/test_diebold_nixdorf.py --benchmark-only --benchmark-enable
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from fiskal.clock import now
from fiskal.frames import diebold_nixdorf as frames
from fiskal.scu.contract import FinishTransactionRequest, StartTransactionRequest
from fiskal.scu.driver import Selection
from fiskal.scu.drivers import diebold_nixdorf
from fiskal.simulators.diebold_nixdorf import Device, Settings, tcp
from fiskal.simulators.plan import Plan
from tests.frames import diebold_nixdorf_model as model
from tests.frames.diebold_nixdorf_vectors import ANSWERS, ID, REQUESTS


def best(action: Callable[[], object], rounds: int = 7, count: int = 300) -> float:
    """Seconds of one call in the best of some rounds."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in itertools.repeat(None, count):
            action()
        times.append((time.perf_counter() - began) / count)
    return min(times)


def compare(benchmark: Any, ours: float, other: float, what: str) -> None:
    """Note how many times faster ours is than the other way."""
    benchmark.extra_info["ratio"] = round(other / ours, 2)
    benchmark.extra_info["ours_us"] = round(ours * 1e6, 2)
    benchmark.extra_info["baseline"] = what
    benchmark.extra_info["baseline_us"] = round(other * 1e6, 2)


@pytest.mark.parametrize("command", [201, 109, 508])
def test_read(benchmark: Any, command: int) -> None:
    vector = next(one for one in ANSWERS if one.command == command)
    frame = model.answer(command, [text.encode() for text in vector.parameters], ID)
    benchmark(frames.read, frame, command, ID)
    ours = best(lambda: frames.read(frame, command, ID))
    compare(benchmark, ours, best(lambda: model.read(frame, command, ID)), "the obvious way")


@pytest.mark.parametrize("command", [206, 204, 509])
def test_build(benchmark: Any, command: int) -> None:
    vector = next(one for one in REQUESTS if one.command == command)
    parameters = [text.encode() for text in vector.parameters]
    if command == 206:
        parameters[1] = base64.b64encode(bytes(512))
    benchmark(frames.request, command, parameters, ID)
    ours = best(lambda: frames.request(command, parameters, ID))
    compare(benchmark, ours, best(lambda: model.build(command, parameters, ID)), "the obvious way")


@pytest.mark.parametrize("packet", [1024, 16_384])
def test_export_stream(benchmark: Any, packet: int) -> None:
    """A long answer of 256 KiB; the ratio is to Python's base64 over the joined pieces."""
    content = bytes(range(256)) * 1024
    data = model.answer(300, [base64.b64encode(content)], ID)
    pieces = [data[at : at + packet] for at in range(0, len(data), packet)]

    def stream() -> int:
        reader = frames.Stream(300, ID)
        return sum(len(reader.feed(piece)) for piece in pieces)

    assert stream() == len(content)
    benchmark(stream)
    plain = best(lambda: base64.b64decode(b"".join(pieces)[7:-40]), count=20)
    compare(benchmark, best(stream, count=20), plain, "base64 of the joined pieces")


def test_overhead_of_the_driver(benchmark: Any, tmp_path: Path) -> None:
    """A start and a finish at a device that signs in no time; half of it is what 250 ms must hide."""
    settings = Settings(
        folder=str(tmp_path / "device"), initialized=True, clients=["POS-1"], plan=Plan(scale=0)
    )
    with tcp(settings) as simulator:
        options = {
            "url": f"tcp://{simulator.place}",
            "admin_pin": "12345",
            "time_admin_pin": "12345",
            "allow_default_pins": True,
        }
        scu = diebold_nixdorf.open(tmp_path / "scu", options, now)
        data = base64.b64encode(b"Beleg^0.00_2.55_0.00_0.00_0.00^2.55:Bar").decode()

        def sell() -> None:
            started = scu.start_transaction(
                StartTransactionRequest(client_id="POS-1", queue_item_id=str(uuid.uuid4()))
            )
            scu.finish_transaction(
                FinishTransactionRequest(
                    client_id="POS-1",
                    transaction_number=started.transaction_number,
                    process_type="Kassenbeleg-V1",
                    process_data_base64=data,
                    queue_item_id=str(uuid.uuid4()),
                )
            )

        sell()
        benchmark.pedantic(sell, rounds=60)
        scu.close()


class Nowhere:
    """Where an archive goes that nobody wants; counts it."""

    size = 0

    def write(self, data: bytes, /) -> None:
        self.size += len(data)


def plain_export(place: str) -> int:
    """Fetch the export as barely as it goes: ask for every piece, look for nothing but the end of its frame."""
    host, _, port = place.rpartition(":")
    received = 0
    with socket.create_connection((host, int(port))) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.sendall(model.build(509, [b"POS-1"], ID) + model.build(300, [b"1"], ID, 1))
        line.recv(65536)
        packet, ended = 0, False
        while not ended:
            line.sendall(model.build(4, [b"1", b"%d" % (packet % 256)], ID))
            data = line.recv(65536)
            while not data.endswith(b"\x1b\x99" + ID + b"\x1b\x9f"):
                data += line.recv(65536)
            received += len(data)
            ended = b"\x1b\x9201\x1b\x92" in data[:24]
            packet += 1
    return received


@pytest.mark.parametrize("packet", [1024, 16_384])
def test_export_beside_a_plain_one(benchmark: Any, tmp_path: Path, packet: int) -> None:
    """The whole way of an export, beside one that only fetches the pieces."""
    settings = Settings(
        folder=str(tmp_path / "device"),
        initialized=True,
        clients=["POS-1"],
        plan=Plan(scale=0),
        packet_size=packet,
    )
    with tcp(settings) as simulator:
        device = simulator.device
        options = {"url": f"tcp://{simulator.place}", "time_admin_pin": "12345", "client_ids": ["POS-1"]}
        scu = diebold_nixdorf.open(tmp_path / "scu", {**options, "allow_default_pins": True}, now)
        scu.get_tse_info()
        for _ in range(300):
            started = device.transaction("start", "POS-1", 0, "", b"")
            device.transaction("finish", "POS-1", started.transaction_number, "Kassenbeleg-V1", bytes(500))
        driver: Any = scu._driver
        out = Nowhere()
        driver.export(Selection(), out, contextlib.nullcontext)
        assert out.size > 300_000
        benchmark.pedantic(lambda: driver.export(Selection(), Nowhere(), contextlib.nullcontext), rounds=3)
        ours = best(lambda: driver.export(Selection(), Nowhere(), contextlib.nullcontext), rounds=3, count=1)
        compare(
            benchmark, ours, best(lambda: plain_export(simulator.place), rounds=3, count=1), "a plain fetch"
        )
        scu.close()


def test_signing_rate_of_the_simulated_device(benchmark: Any, tmp_path: Path) -> None:
    """A signature of the device without its line, beside a bare one on its curve."""
    device = Device(Settings(folder=str(tmp_path), initialized=True, clients=["POS-1"]))
    device.self_test()
    device.set_time(now(), "2")
    key = ec.generate_private_key(ec.BrainpoolP384R1())
    algorithm = ec.ECDSA(utils.Prehashed(hashes.SHA384()))

    def sell() -> None:
        started = device.transaction("start", "POS-1", 0, "", b"")
        device.transaction("finish", "POS-1", started.transaction_number, "Kassenbeleg-V1", b"Beleg^1.00")

    benchmark(sell)
    bare = best(lambda: key.sign(bytes(48), algorithm), count=50)
    compare(benchmark, best(sell, count=25) / 2, bare, "a bare signature")
    device.close()
