"""What a commit costs: ``pytest bench/test_store.py --benchmark-enable -s``.

``python bench/test_store.py [threads] [receipts]`` measures threads that sell at the same time, each on its own
queue: receipts (two commits each) per second, CPU and WAL frames per receipt. Without arguments it measures
one caller beside the bare baseline, in turns, and then 32 threads.

The sizes are those of a short sale, signed by the software TSE.
"""

from __future__ import annotations

import gc
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from fiskal.store import AnswerRow, Change, QueueItemRow, QueueRow, Receipt, SqliteStore

REQUEST = "q" * 650
RESPONSE = "a" * 3400
HASH = "h" * 44
CALLS = "S351:701:638355968021130000 F351:702:638355968021140000"
MOMENT = 638_397_792_000_000_000
WAL_HEADER, FRAME_HEADER = 32, 24


def _queue(no: int, row: int) -> QueueRow:
    identifier = f"{no:036d}"
    return QueueRow(
        no, identifier, identifier, row, row, row, "123.45", HASH, MOMENT, None, "DE", 1500, MOMENT + row,
        identifier, "DEMO-1", 0, None, None, 0, None, None, None, 0, MOMENT,
    )  # fmt: skip


def accepted(no: int, row: int) -> Change:
    """T1: the item."""
    change = Change()
    change.items.append(
        QueueItemRow(
            no, row, str(uuid.uuid4()), MOMENT, 1500, MOMENT, "T1", f"R-{no}-{row}", "DE", "v1", REQUEST,
            HASH, MOMENT + row, "fiskal 0.1.0", bytes(32),
        )
    )  # fmt: skip
    return change


def completed(no: int, row: int) -> Change:
    """T2: the answer with its receipt, the state of the queue."""
    change = Change()
    receipt = Receipt(row, str(uuid.uuid4()), MOMENT, "12.34", HASH)
    change.answers.append(AnswerRow(no, row, MOMENT, MOMENT, RESPONSE, HASH, MOMENT + row, CALLS, receipt))
    change.queues.append(_queue(no, row))
    return change


@contextmanager
def _bare(path: Path) -> Iterator[Callable[[], None]]:
    """The baseline: a commit of one request in a table without indexes, with the same pragmas."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, request TEXT)")

    def commit() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO item (request) VALUES (?)", (REQUEST,))
        connection.execute("COMMIT")

    yield commit
    connection.close()


def _keep_wal(store: SqliteStore) -> tuple[Path, int]:
    """Checkpoint once and then no more, so that the WAL shows all that is written; its path, its frame size."""
    store._applier.apply()
    writer = store._applier._writer
    assert writer is not None
    writer.connection.execute("PRAGMA wal_autocheckpoint = 0")
    writer.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (page_size,) = writer.connection.execute("PRAGMA page_size").fetchone()
    return store.path.with_name(store.path.name + "-wal"), page_size + FRAME_HEADER


def _frames(store: SqliteStore, wal: Path, size: int) -> int:
    store._applier.apply()
    return max(wal.stat().st_size - WAL_HEADER, 0) // size


def test_bare_sqlite(benchmark: Any, tmp_path: Path) -> None:
    with _bare(tmp_path / "bare.sqlite") as commit:
        benchmark.pedantic(commit, rounds=1000, warmup_rounds=50)


def _measure(benchmark: Any, path: Path, first: bool, second: bool) -> None:
    rows = count(1)
    with SqliteStore(path) as store:

        def setup() -> tuple[tuple[Change, ...], dict[str, Any]]:
            row = next(rows)
            changes = accepted(1, row), completed(1, row)
            if first and second:
                return changes, {}
            if second:
                store.commit(changes[0])
            return (changes[1] if second else changes[0],), {}

        def commit(*changes: Change) -> None:
            for change in changes:
                store.commit(change)

        benchmark.pedantic(commit, setup=setup, rounds=1000, warmup_rounds=50)


def test_accept(benchmark: Any, tmp_path: Path) -> None:
    _measure(benchmark, tmp_path / "store.sqlite", first=True, second=False)


def test_complete(benchmark: Any, tmp_path: Path) -> None:
    _measure(benchmark, tmp_path / "store.sqlite", first=False, second=True)


def test_receipt(benchmark: Any, tmp_path: Path) -> None:
    _measure(benchmark, tmp_path / "store.sqlite", first=True, second=True)


def test_frames_per_receipt(tmp_path: Path) -> None:
    """A page more per receipt is a cost nobody would notice otherwise."""
    with SqliteStore(tmp_path / "store.sqlite") as store:
        for row in range(1, 501):
            store.commit(accepted(1, row))
            store.commit(completed(1, row))
        wal, size = _keep_wal(store)
        for row in range(501, 1001):
            store.commit(accepted(1, row))
            store.commit(completed(1, row))
        frames = _frames(store, wal, size) / 500
    print(f"{frames:.2f} frames of {size} bytes per receipt")
    assert frames < 4


def compare(receipts: int) -> None:
    """Print what the two commits of a receipt cost one caller, in turns with two bare commits."""
    names = ("bare", "T1", "T2")
    walls: dict[str, list[int]] = {name: [] for name in names}
    cpus = dict.fromkeys(names, 0)

    def timed(name: str, work: Callable[[], None]) -> None:
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        work()
        cpus[name] += time.process_time_ns() - cpu
        walls[name].append(time.perf_counter_ns() - wall)

    with (
        tempfile.TemporaryDirectory() as directory,
        SqliteStore(Path(directory) / "store.sqlite") as store,
        _bare(Path(directory) / "bare.sqlite") as bare,
    ):
        for row in range(1, receipts + 1):
            first, second = accepted(1, row), completed(1, row)
            timed("bare", bare)
            timed("T1", lambda: store.commit(first))  # noqa: B023
            timed("bare", bare)
            timed("T2", lambda: store.commit(second))  # noqa: B023
    median = {name: statistics.median(values) / 1000 for name, values in walls.items()}
    cpu = {name: cpus[name] / len(walls[name]) / 1000 for name in names}
    both = median["T1"] + median["T2"]
    print(
        "one caller, median µs (CPU µs): " + ", ".join(f"{n} {median[n]:.0f} ({cpu[n]:.0f})" for n in names)
    )
    print(
        f"one caller, both commits: {both:.0f} µs, {both / (2 * median['bare']):.2f} x two bare ones,"
        f" CPU {(cpu['T1'] + cpu['T2']) / (2 * cpu['bare']):.2f} x"
    )


def throughput(threads: int, receipts: int, *, frames: bool = False) -> None:
    """Print what ``threads`` queues with ``receipts`` each cost: CPU per receipt, commit times.

    The changes are made before the clock starts: the CPU is that of the store alone. With ``frames`` the WAL
    frames are counted instead, which needs one that is never reused and therefore takes other times.
    """
    times: list[float] = []
    changes = [
        [make(no, row) for row in range(1, receipts + 1) for make in (accepted, completed)]
        for no in range(1, threads + 1)
    ]
    gc.collect()
    gc.freeze()

    def sell(mine: list[Change]) -> None:
        took = []
        for change in mine:
            start = time.perf_counter()
            store.commit(change)
            took.append(time.perf_counter() - start)
        times.extend(took)

    with tempfile.TemporaryDirectory() as directory, SqliteStore(Path(directory) / "store.sqlite") as store:
        wal, size = _keep_wal(store) if frames else (store.path, 1)
        sellers = [threading.Thread(target=sell, args=(mine,)) for mine in changes]
        start, cpu = time.perf_counter(), time.process_time()
        for seller in sellers:
            seller.start()
        for seller in sellers:
            seller.join()
        duration_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
        written = _frames(store, wal, size) if frames else 0
    gc.unfreeze()
    done = threads * receipts
    if frames:
        print(f"{threads} threads: {written / done:.2f} frames of {size} bytes per receipt")
        return
    times.sort()
    p50, p99 = (times[len(times) * percent // 100] * 1000 for percent in (50, 99))
    print(
        f"{threads} threads: {done / duration_s:.0f} receipts/s, CPU {cpu_s / done * 1e6:.1f} µs per receipt,"
        f" commit p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {times[-1] * 1000:.1f} ms"
    )


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    if not arguments:
        compare(2000)
        throughput(1, 2000, frames=True)
    arguments += [32, 500][len(arguments) :]
    throughput(*arguments[:2], frames=True)
    throughput(*arguments[:2])
