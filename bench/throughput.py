"""Many queues, many threads: receipts per second, every one durable before it is answered.

    python -m bench.throughput [--queues 32] [--tses 8] [--threads 32] [--hosts 1] [--seconds 5] [--rounds 5]
                               [--signature-check {default,off}]

Compared with the P-256 signatures per second of one core, measured before each round. The host also
verifies every signature; ``--signature-check off`` leaves that out, as the comparison does. With ``--hosts 2`` the
queues, TSEs and threads are spread over two processes, each with a data directory of its own, as a data centre
runs one host per core; with ``--pin`` each keeps to its core, as ``CPUAffinity=`` of systemd or ``taskset`` make it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from bench import bare
from bench.shop import SIGNATURE_CHECKS, basket, host


class Round(NamedTuple):
    """What one host did: receipts, CPU seconds of user and system, voluntary waits."""

    receipts: int
    user_s: float
    system_s: float
    waits: int


def serve(pipe: Connection, number: int, arguments: argparse.Namespace) -> None:
    """One host: says when it is ready, sells until each moment it is told, answers with a :class:`Round`."""
    if arguments.pin:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})
    share = arguments.hosts
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
        host(
            Path(folder),
            queues=arguments.queues // share,
            tses=arguments.tses // share,
            null_store=arguments.null_store,
            null_tse=arguments.null_tse,
            signature_check=SIGNATURE_CHECKS[arguments.signature_check],
        ) as middleware,
    ):
        queues = middleware.config.queues
        bodies = [
            basket(middleware.config.cash_box_id, arguments.items, queue_id=queues[n % len(queues)].id)
            for n in range(arguments.threads // share)
        ]

        def sell(body: bytes, end: float, counts: list[int]) -> None:
            count = 0
            while time.perf_counter() < end:
                middleware.sign_json(body)
                count += 1
            counts.append(count)

        pipe.send("ready")
        while True:
            end = pipe.recv()
            if end is None:
                return
            counts: list[int] = []
            threads = [threading.Thread(target=sell, args=(body, end, counts)) for body in bodies]
            before = resource.getrusage(resource.RUSAGE_SELF)
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            after = resource.getrusage(resource.RUSAGE_SELF)
            pipe.send(
                Round(
                    sum(counts),
                    after.ru_utime - before.ru_utime,
                    after.ru_stime - before.ru_stime,
                    after.ru_nvcsw - before.ru_nvcsw,
                )
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queues", type=int, default=32)
    parser.add_argument("--tses", type=int, default=8)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--pin", action="store_true", help="keep each host on one core (Linux)")
    parser.add_argument("--items", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the data goes (its disk is measured)"
    )
    parser.add_argument("--null-store", action="store_true", help="leave the disk out")
    parser.add_argument("--null-tse", action="store_true", help="leave the signatures out")
    parser.add_argument(
        "--signature-check",
        choices=SIGNATURE_CHECKS,
        default="default",
        help="whether every signature is verified before its receipt is answered, as hosts do by default",
    )
    arguments = parser.parse_args()
    if arguments.hosts < 1 or any(
        count % arguments.hosts for count in (arguments.queues, arguments.tses, arguments.threads)
    ):
        parser.error("--queues, --tses and --threads must be multiples of --hosts")
    sign = bare.signer()
    context = multiprocessing.get_context("spawn")
    pipes = []
    for number in range(arguments.hosts):
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, number, arguments), daemon=True).start()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()
    ratios = []
    for _ in range(arguments.rounds):
        signatures = 1 / bare.mean(sign, 0.5)
        start = time.perf_counter()
        for pipe in pipes:
            pipe.send(start + arguments.seconds)
        done = [pipe.recv() for pipe in pipes]
        elapsed = time.perf_counter() - start
        count = sum(each.receipts for each in done)
        ratios.append(count / elapsed / signatures)
        print(
            f"{count / elapsed:7.0f} receipts/s  1/{1 / ratios[-1]:.1f} of {signatures:.0f} signatures/s of one core"
            f"  CPU per receipt: {sum(each.user_s for each in done) / count * 1e6:.0f} us user,"
            f" {sum(each.system_s for each in done) / count * 1e6:.0f} us system,"
            f" {sum(each.waits for each in done) / count:.1f} waits",
            flush=True,
        )
    for pipe in pipes:
        pipe.send(None)
    print(f"median 1/{1 / sorted(ratios)[len(ratios) // 2]:.1f}")


if __name__ == "__main__":
    main()
