"""Two versions in turns: what a receipt takes in this checkout and in another one, round by round on one machine.

    python -m bench.versions OTHER_CHECKOUT [--kind null|durable|many] [--rounds 40]

OTHER_CHECKOUT has its own ``.venv``. A machine drifts; the ratio of two rounds that follow each other does not.
``null`` is a sale without TSE and store, ``durable`` one on the software TSE and the disk, ``many`` 32 callers on 32
queues and 8 TSEs.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench.shop import basket, host

RECEIPTS = {"null": 200, "durable": 60}
MANY_S = 2.0
NAMES = ("p50 µs", "p99 µs", "processor µs", "receipts/s")


def round_of_one(sign: object, body: bytes, receipts: int) -> list[float]:
    """The times of receipts one after the other, in seconds."""
    taken = []
    for _ in range(receipts):
        began = time.perf_counter()
        sign(body)  # type: ignore[operator]
        taken.append(time.perf_counter() - began)
    return taken


def work(kind: str) -> None:
    """Measure a round for every line on standard input; answer with the numbers of :data:`NAMES`."""
    many = kind == "many"
    null = kind == "null"
    with (
        tempfile.TemporaryDirectory() as folder,
        host(
            Path(folder), queues=32 if many else 1, tses=8 if many else 1, null_tse=null, null_store=null
        ) as middleware,
    ):
        queues = middleware.config.queues
        bodies = [basket(middleware.config.cash_box_id, 10, queue_id=queue.id) for queue in queues]
        round_of_one(middleware.sign_json, bodies[0], 200)
        print("ready", flush=True)
        for _ in sys.stdin:
            processor, began = time.process_time(), time.perf_counter()
            if many:
                times: list[float] = []

                def sell(body: bytes, until: float = began + MANY_S, to: list[float] = times) -> None:
                    while time.perf_counter() < until:
                        to.extend(round_of_one(middleware.sign_json, body, 1))

                threads = [threading.Thread(target=sell, args=(body,)) for body in bodies]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            else:
                times = round_of_one(middleware.sign_json, bodies[0], RECEIPTS[kind])
            elapsed, processor = time.perf_counter() - began, time.process_time() - processor
            times.sort()
            count = len(times)
            print(
                times[count // 2] * 1e6,
                times[int(count * 0.99)] * 1e6,
                processor / count * 1e6,
                count / elapsed,
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, nargs="?")
    parser.add_argument("--kind", choices=("null", "durable", "many"), default="null")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.kind)
        return
    if options.other is None:
        parser.error("say where the other version is")
    source = Path(__file__).read_text(encoding="utf-8")
    running = []
    for checkout in (Path(__file__).parents[1], options.other.resolve()):
        python = checkout / ".venv" / "bin" / "python"
        command = [str(python), "-c", source, "--work", "--kind", options.kind]
        process = subprocess.Popen(
            command, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{checkout} does not sell: has it a .venv with the extra 'bench'?")
        running.append(process)
    seen: list[list[list[float]]] = [[], []]
    for _ in range(options.rounds):
        for process, found in zip(running, seen, strict=True):
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            found.append([float(each) for each in process.stdout.readline().split()])
    for process in running:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    print(f"{'':<14}{'this':>10}{'other':>10}{'this : other':>14}")
    for number, name in enumerate(NAMES):
        here, there = (statistics.median(each[number] for each in found) for found in seen)
        ratio = statistics.median(a[number] / b[number] for a, b in zip(*seen, strict=True))
        print(f"{name:<14}{here:>10.1f}{there:>10.1f}{ratio:>14.3f}")


if __name__ == "__main__":
    main()
