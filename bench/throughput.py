"""Many queues, many threads: receipts per second, every one durable before it is answered.

    python -m bench.throughput [--queues 32] [--tses 8] [--threads 32] [--seconds 5] [--rounds 5]

Compared with the P-256 signatures per second of one core, measured before each round.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import threading
import time
from pathlib import Path

from bench import bare
from bench.shop import basket, host


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queues", type=int, default=32)
    parser.add_argument("--tses", type=int, default=8)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--items", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the data goes (its disk is measured)"
    )
    parser.add_argument("--null-store", action="store_true", help="leave the disk out")
    parser.add_argument("--null-tse", action="store_true", help="leave the signatures out")
    arguments = parser.parse_args()
    sign = bare.signer()
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
        host(
            Path(folder),
            queues=arguments.queues,
            tses=arguments.tses,
            null_store=arguments.null_store,
            null_tse=arguments.null_tse,
        ) as middleware,
    ):
        queues = middleware.config.queues
        bodies = [
            basket(middleware.config.cash_box_id, arguments.items, queue_id=queues[n % len(queues)].id)
            for n in range(arguments.threads)
        ]
        ratios = []
        for _ in range(arguments.rounds):
            signatures = 1 / bare.mean(sign, 0.5)
            counts = [0] * arguments.threads
            end = time.perf_counter() + arguments.seconds

            def sell(
                number: int, counts: list[int] = counts, end: float = end, bodies: list[bytes] = bodies
            ) -> None:
                body = bodies[number]
                while time.perf_counter() < end:
                    middleware.sign_json(body)
                    counts[number] += 1

            threads = [threading.Thread(target=sell, args=(n,)) for n in range(arguments.threads)]
            before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            elapsed, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
            count = sum(counts)
            rate = count / elapsed
            ratios.append(rate / signatures)
            print(
                f"{rate:7.0f} receipts/s  1/{signatures / rate:.1f} of {signatures:.0f} signatures/s of one core  "
                f"CPU per receipt: {(after.ru_utime - before.ru_utime) / count * 1e6:.0f} us user, "
                f"{(after.ru_stime - before.ru_stime) / count * 1e6:.0f} us system, "
                f"{(after.ru_nvcsw - before.ru_nvcsw) / count:.1f} waits",
                flush=True,
            )
        print(f"median 1/{1 / sorted(ratios)[len(ratios) // 2]:.1f}")


if __name__ == "__main__":
    main()
