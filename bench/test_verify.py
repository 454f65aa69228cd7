"""How fast log messages are read and archives verified, beside what the signatures alone cost.

    python -m pytest bench/test_verify.py --benchmark-only --benchmark-enable

The baseline verifies the same signatures on the same cores with nothing but ``cryptography``: a process per core
that has everything in memory and does not read, parse or compare.
"""

from __future__ import annotations

import datetime as dt
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fiskal.tse._native import LOG_FINISH, LOG_START, MessageBuilder, plain_signature
from fiskal.tse.algorithms import curve_by_name
from fiskal.tse.archive import find_archives
from fiskal.tse.certificates import create_test_chain
from fiskal.tse.logmessage import build_file_name, parse
from fiskal.tse.tar import info_csv, read_members, write_archive
from fiskal.tse.tarverify import verify_archives

MESSAGES = {"secp256r1": 60_000, "brainpoolP384r1": 4_000}
NOW = 1_700_000_000
ROUNDS = 3
BARE = """
import pickle, sys, time
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.hazmat.primitives import hashes
key, hash_name, pairs = pickle.load(open(sys.argv[1], "rb"))
key, ecdsa = load_der_public_key(key), ec.ECDSA(getattr(hashes, hash_name)())
print("ready", flush=True)
sys.stdin.readline()
start = time.perf_counter()
for signature, data in pairs:
    key.verify(signature, data, ecdsa)
print(time.perf_counter() - start)
"""


def _cpu() -> float:
    """Seconds of all cores that this process and its children that have ended took."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Export:
    """An archive on the disk, and its signatures as ``cryptography`` wants them."""

    def __init__(self, folder: Path, curve_name: str, count: int) -> None:
        self.count = count
        curve = curve_by_name(curve_name)
        key = ec.generate_private_key(curve.curve)
        chain = create_test_chain(key.public_key(), dt.datetime(2023, 11, 1, tzinfo=dt.UTC))
        algorithm = curve.algorithm
        build = MessageBuilder(serial=chain.serial, algorithm=algorithm.arcs, hash_name=algorithm.hash_name)
        ecdsa = ec.ECDSA(utils.Prehashed(algorithm.hash))
        pairs: list[tuple[bytes, bytes]] = []

        def messages() -> Iterator[tuple[str, bytes]]:
            for counter in range(1, count + 1):
                finish = counter % 2 == 0
                digest = build.transaction(
                    LOG_FINISH if finish else LOG_START,
                    b"POS-0001",
                    b"Beleg^11.90_0.00_0.00_0.00_0.00^11.90:Bar" if finish else b"",
                    b"Kassenbeleg-V1" if finish else b"",
                    (counter + 1) // 2,
                    counter,
                    (NOW + counter) * 1000,
                )
                signature = key.sign(digest, ecdsa)
                pairs.append((signature, build.tbs))
                message = build.seal(plain_signature(signature, curve.scalar_size))
                yield build_file_name(parse(message)), message

        self.path = folder / f"{curve_name}.tar"
        with self.path.open("wb") as file:
            write_archive(file, info=info_csv("", "", ""), chain=chain, messages=messages(), mtime=NOW)
        der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        cores = os.cpu_count() or 1
        self.shares = []
        for core in range(cores):
            share = folder / f"{curve_name}.{core}"
            share.write_bytes(pickle.dumps((der, type(algorithm.hash).__name__, pairs[core::cores])))
            self.shares.append(share)

    def bare(self) -> float:
        """Seconds that the slowest core needs for its share."""
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", BARE, str(share)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for share in self.shares
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return max(float(process.communicate()[0]) for process in processes)


@pytest.fixture(scope="module", params=sorted(MESSAGES))
def export(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Export:
    return Export(tmp_path_factory.mktemp("export"), request.param, MESSAGES[request.param])


def test_verify_an_archive(benchmark: Any, export: Export) -> None:
    """Everything that 'fiskal verify tar' does, the start of its processes included.

    ``ratio`` compares the clock, ``cpu_ratio`` the processor time, which other work disturbs less.
    """
    ours: list[float] = []
    baseline: list[float] = []
    cpu: list[float] = []
    baseline_cpu: list[float] = []

    def both() -> None:
        before = _cpu()
        baseline.append(export.bare())
        between = _cpu()
        start = time.perf_counter()
        report = verify_archives(find_archives([export.path]))
        ours.append(time.perf_counter() - start)
        baseline_cpu.append(between - before)
        cpu.append(_cpu() - between)
        assert (report.ok, report.valid) == (True, export.count)

    benchmark.pedantic(both, rounds=ROUNDS, iterations=1)
    best, bare = min(ours), min(baseline)
    benchmark.extra_info |= {
        "cpu_ratio": round(min(baseline_cpu) / min(cpu), 2),
        "ratio": round(bare / best, 2),
        "ours_us": round(best / export.count * 1e6, 1),
        "baseline": "cryptography alone",
        "baseline_us": round(bare / export.count * 1e6, 1),
    }


def test_parse_log_messages(benchmark: Any, export: Export) -> None:
    """Bytes to typed objects, on one core. 5 us a message are 200 000 a second."""
    with export.path.open("rb") as file:
        messages = [member.data or b"" for member in read_members(file) if member.name.endswith(".log")][
            :4000
        ]

    def read() -> None:
        for message in messages:
            parse(message)

    benchmark(read)
    least = 0.0 if benchmark.stats is None else benchmark.stats.stats.min / len(messages)
    benchmark.extra_info["us_per_message"] = round(least * 1e6, 2)
    benchmark.extra_info["messages_per_s"] = round(1 / least) if least else 0


def test_read_members(benchmark: Any, export: Export) -> None:
    """The archive alone: headers, names, contents."""

    def read() -> int:
        with export.path.open("rb") as file:
            return sum(1 for _ in read_members(file))

    assert benchmark(read) == export.count + 4


def test_signatures_of_the_baseline_are_those_of_the_archive(export: Export) -> None:
    key, hash_name, pairs = pickle.loads(export.shares[0].read_bytes())
    with export.path.open("rb") as file:
        first = next(member.data for member in read_members(file) if member.name.endswith(".log"))
    assert first is not None
    assert parse(first).tbs == pairs[0][1]
    assert key
    assert hasattr(hashes, hash_name)
