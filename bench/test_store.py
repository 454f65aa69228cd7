"""What a commit costs: ``pytest bench/test_store.py --benchmark-enable``.

``python bench/test_store.py [threads] [receipts]`` measures how many receipts (two commits each) threads that
sell at the same time store per second.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from fiskal.store import AnswerRow, Change, QueueItemRow, QueueRow, ReceiptRow, SqliteStore

REQUEST = "q" * 1500
RESPONSE = "a" * 2500
HASH = "h" * 44
MOMENT = 638_397_792_000_000_000


def _queue(no: int, row: int) -> QueueRow:
    identifier = f"{no:036d}"
    return QueueRow(
        no, identifier, identifier, row, row, row, "123.45", HASH, MOMENT, None, "DE", 1500, MOMENT + row,
        identifier, "DEMO-1", 0, None, None, 0, None, None, None, 0, MOMENT,
    )  # fmt: skip


def accepted(no: int, row: int) -> Change:
    """T1: the item and the state of its queue."""
    change = Change()
    change.items.append(
        QueueItemRow(
            no, row, str(uuid.uuid4()), MOMENT, 1500, MOMENT, "T1", f"R-{no}-{row}", "DE", "v1", REQUEST,
            HASH, MOMENT + row, "1.0", None,
        )
    )  # fmt: skip
    change.queues.append(_queue(no, row - 1))
    return change


def completed(no: int, row: int) -> Change:
    """T2: the answer, the receipt, the state of the queue."""
    change = Change()
    change.answers.append(AnswerRow(no, row, MOMENT, MOMENT, RESPONSE, HASH, MOMENT + row))
    identifier = str(uuid.uuid4())
    change.receipts.append(ReceiptRow(no, row, identifier, MOMENT, "12.34", identifier, HASH, MOMENT + row))
    change.queues.append(_queue(no, row))
    return change


def test_bare_sqlite(benchmark: Any, tmp_path: Path) -> None:
    """The baseline: one request in a table without indexes, with the same pragmas."""
    connection = sqlite3.connect(tmp_path / "bare.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, request TEXT)")

    def commit() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO item (request) VALUES (?)", (REQUEST,))
        connection.execute("COMMIT")

    benchmark.pedantic(commit, rounds=1000, warmup_rounds=50)
    connection.close()


def _measure(benchmark: Any, path: Path, make: Callable[[int, int], Change], prepare: bool) -> None:
    rows = count(1)
    with SqliteStore(path) as store:

        def setup() -> tuple[tuple[Change], dict[str, Any]]:
            row = next(rows)
            if prepare:
                store.commit(accepted(1, row))
            return (make(1, row),), {}

        benchmark.pedantic(store.commit, setup=setup, rounds=1000, warmup_rounds=50)


def test_accept(benchmark: Any, tmp_path: Path) -> None:
    _measure(benchmark, tmp_path / "store.sqlite", accepted, prepare=False)


def test_complete(benchmark: Any, tmp_path: Path) -> None:
    _measure(benchmark, tmp_path / "store.sqlite", completed, prepare=True)


def throughput(threads: int, receipts: int) -> None:
    """Print the receipts per second of ``threads`` queues with ``receipts`` each, and the commit times."""
    times: list[float] = []

    def sell(no: int) -> None:
        mine = []
        for row in range(1, receipts + 1):
            for change in (accepted(no, row), completed(no, row)):
                start = time.perf_counter()
                store.commit(change)
                mine.append(time.perf_counter() - start)
        times.extend(mine)

    with tempfile.TemporaryDirectory() as directory, SqliteStore(Path(directory) / "store.sqlite") as store:
        sellers = [threading.Thread(target=sell, args=(no,)) for no in range(1, threads + 1)]
        start = time.perf_counter()
        for seller in sellers:
            seller.start()
        for seller in sellers:
            seller.join()
        duration_s = time.perf_counter() - start
    times.sort()
    p50, p99 = (times[len(times) * percent // 100] * 1000 for percent in (50, 99))
    print(
        f"{threads} threads: {threads * receipts / duration_s:.0f} receipts/s,"
        f" {len(times) / duration_s:.0f} commits/s, p50 {p50:.2f} ms, p99 {p99:.2f} ms,"
        f" max {times[-1] * 1000:.1f} ms"
    )


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]] + [32, 500][len(sys.argv) - 1 :]
    throughput(*arguments[:2])
