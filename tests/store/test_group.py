"""Many callers share a flush, and none of them can hurt another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rows import accepted, action, answer, change, completed, guid, item, master_data, queue, run_threads

from fiskal.errors import StoreError
from fiskal.store import SqliteStore, commitlog, sqlite
from fiskal.store.commitlog import CommitLog
from fiskal.store.group import GroupCommit
from fiskal.store.writer import Writer
from tests.support.disk import has_flights


class Way:
    """One of the two ways a change takes to the disk: past the log into the database, or into the log."""

    def __init__(self, store: SqliteStore, name: str) -> None:
        self.is_log = name == "log"
        self.group: GroupCommit[Any] = store._log if self.is_log else store._direct
        self.writer: Any = CommitLog if self.is_log else Writer
        self._store = store
        if self.is_log:
            store.commit(change(queues=[queue(number, 0) for number in range(50)]))

    def accept(self, number: int) -> None:
        """A queue that the store does not know yet cannot be taken up by the log."""
        self._store.commit(change(items=[item(number, 1)]) if self.is_log else accepted(number, 1))

    def count(self) -> int:
        return sum(len(list(self._store.iter_items_by_row(number))) for number in range(50))


@pytest.fixture(params=["database", "log"])
def way(request: pytest.FixtureRequest, store: SqliteStore) -> Way:
    return Way(store, request.param)


class Batches:
    """Holds the first write back until ``expected`` callers wait, and records the size of every batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, way: Way, expected: int) -> None:
        self.sizes: list[int] = []
        self.writing = threading.Event()
        original = way.writer.write

        def write(writer: Any, batch: Sequence[Any], *sequence: int, **direct: int) -> None:
            if sequence:  # the applier, which nobody waits for
                original(writer, batch, *sequence)
                return
            if not self.sizes:
                self.writing.set()
                while len(way.group._tickets) < expected:
                    pass
            self.sizes.append(len(batch))
            self.before_write(writer, batch)
            original(writer, batch, **direct)
            self.after_write(writer, batch)

        monkeypatch.setattr(way.writer, "write", write)

    def before_write(self, writer: Any, batch: Sequence[Any]) -> None: ...
    def after_write(self, writer: Any, batch: Sequence[Any]) -> None: ...


def test_sixteen_threads_store_everything_in_order(store: SqliteStore) -> None:
    def work(number: int) -> None:
        for row in range(1, 41):
            store.commit(accepted(number, row))
            assert store.unanswered_items(number) == [item(number, row)]
            store.commit(completed(number, row))
            stored = store.item(guid("item", number, row))
            assert stored is not None
            assert stored.answer == answer(number, row)

    assert run_threads(work, 16) == []
    for number in range(16):
        assert [found.item.ftQueueRow for found in store.iter_items_by_row(number)] == list(range(1, 41))
        assert [found.ftReceiptNumber for found in store.iter_receipts_by_number(number)] == list(
            range(1, 41)
        )
    assert [found.ftCurrentRow for found in store.queues()] == [40] * 16


def test_waiting_callers_share_one_batch(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(monkeypatch, way, 15)
    assert run_threads(way.accept, 16) == []
    assert batches.sizes == [1, 15]
    assert way.count() == 16


def test_a_batch_of_the_log_has_a_limit(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    way = Way(store, "log")
    batches = Batches(monkeypatch, way, 15)
    size = commitlog.MAX_ENTRY_BYTES - 2000
    large = {"request": "x" * size}

    def work(number: int) -> None:
        store.commit(change(items=[item(number, 1, **large)]))

    assert run_threads(work, 16) == []
    per_batch = commitlog.MAX_BATCH_BYTES // size
    assert batches.sizes == [
        1,
        *[per_batch] * (15 // per_batch),
        *([15 % per_batch] if 15 % per_batch else []),
    ]
    assert way.count() == 16


def test_a_bad_change_fails_alone(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(monkeypatch, Way(store, "database"), 15)

    def work(number: int) -> None:
        batches.writing.wait() if number else None
        bad = number in (3, 8)
        store.commit(change(items=[item(number, 1, request=None)]) if bad else accepted(number, 1))

    errors = run_threads(work, 16)
    assert [type(error) for error in errors] == [StoreError, StoreError]
    assert batches.sizes == [1, 15] + [1] * 15
    assert [found.queue_no for found in store.queues()] == [n for n in range(16) if n not in (3, 8)]


def test_a_disk_error_reaches_everybody_and_passes(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(monkeypatch, way, 15)

    def fail(writer: Any, batch: Sequence[Any]) -> None:
        if len(batch) > 1:
            raise StoreError("could not write")

    batches.before_write = fail  # type: ignore[method-assign]
    errors = run_threads(way.accept, 16)
    assert [str(error) for error in errors] == ["could not write"] * 15
    assert len({id(error) for error in errors}) == 15
    assert way.count() == 1
    way.accept(40)
    assert way.count() == 2


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_of_the_leader_hurts_only_the_leader(
    way: Way, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    batches = Batches(monkeypatch, way, 15)

    def interrupt(writer: Any, batch: Sequence[Any]) -> None:
        if len(batches.sizes) == 2:
            if moment == "after" and not way.is_log:
                # As if it hit between the return of SQLite and the next step.
                writer._finished = False
            raise KeyboardInterrupt

    setattr(batches, f"{moment}_write", interrupt)
    errors = run_threads(way.accept, 16)
    assert [type(error) for error in errors] == [KeyboardInterrupt]
    assert way.count() == (15 if moment == "before" else 16)
    assert way.group._role == {}
    way.accept(40)


def test_an_interrupt_inside_a_long_transaction_leaves_none_open(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit(change(master_data=[master_data()]))
    direct = store._direct._writer
    assert isinstance(direct, sqlite._Direct)
    writer = direct._writer
    assert writer is not None
    original = writer.connection

    class Interrupted:
        def __getattr__(self, name: str) -> object:
            return getattr(original, name)

        def execute(self, sql: str, *values: object) -> object:
            if sql == "COMMIT":
                raise KeyboardInterrupt
            return original.execute(sql, *values)

    writer.connection = Interrupted()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        store.commit(change(actions=[action(number=n) for n in range(2000)]))
    writer.connection = original
    assert not original.in_transaction
    store.commit(change(queues=[queue()]))
    assert list(store.iter_actions(guid("queue", 1))) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals between threads")
@pytest.mark.parametrize("way", ["past the log", "into the log", "begun and ended"])
def test_real_interrupts_leave_nobody_hanging(path: Path, way: str) -> None:
    script = textwrap.dedent(
        """
        import random, signal, sys, threading, time
        sys.path[:0] = [sys.argv[2]]
        from rows import accepted, change, item, queue
        from fiskal.store import SqliteStore
        from fiskal.store.blockfile import BlockFile
        store = SqliteStore(sys.argv[1])
        way = sys.argv[3]
        if way != "past the log":
            store.commit(change(queues=[queue(number, 0) for number in range(5)]))
            accepted = lambda number, row: change(items=[item(number, row)])
        BlockFile.can_begin = property(lambda file: file._flight is not None)
        begun = 0
        def commit(number, row):
            global begun
            made = accepted(number, row)
            if way != "begun and ended":
                store.commit(made)
                return
            try:
                if store.begin(made):
                    begun += 1
                else:
                    store.commit(made)
                store.end(made)
            except KeyboardInterrupt:
                while True:
                    try:
                        store.end(made)
                    except KeyboardInterrupt:
                        continue
                    break
                raise
        armed = False
        def interrupt(*_):
            global armed
            if armed:
                armed = False  # the next one waits until this one was caught
                raise KeyboardInterrupt
        signal.signal(signal.SIGUSR1, interrupt)
        stop = threading.Event()
        done = [0] * 5
        def work(number):
            while not stop.is_set():
                commit(number, done[number] + 1)
                done[number] += 1
                if way == "begun and ended":
                    time.sleep(random.random() * 0.01)  # now and then nobody else is there
        threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
        for thread in threads: thread.start()
        me = threading.main_thread().ident
        def shoot():
            for _ in range(300):
                time.sleep(random.random() * 0.003)
                signal.pthread_kill(me, signal.SIGUSR1)
            stop.set()
        shooter = threading.Thread(target=shoot)
        row = interrupts = 0
        started = False
        known = True
        while not stop.is_set():
            try:
                armed = True
                if not started:
                    started = True
                    shooter.start()
                if not known:
                    row = sum(1 for _ in store.iter_items_by_row(0))
                    known = True
                row += 1
                commit(0, row)
                done[0] = row
            except KeyboardInterrupt:
                interrupts += 1
                known = False
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        for thread in threads: thread.join(20); assert not thread.is_alive(), "hanging"
        for number in range(1, 5):
            rows = [found.item.ftQueueRow for found in store.iter_items_by_row(number)]
            assert rows == list(range(1, done[number] + 1)), number
        store.close()
        print("interrupts", interrupts, "begun", begun)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(Path(__file__).parent), way],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) > 10
    if way == "begun and ended" and has_flights(path):
        assert int(done.stdout.split()[3]) > 10


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("seed", range(4))
def test_what_was_confirmed_survives_kill_9(path: Path, seed: int) -> None:
    script = textwrap.dedent(
        """
        import os, sys, threading
        sys.path[:0] = [sys.argv[2]]
        from rows import accepted, completed
        from fiskal.store import SqliteStore
        store = SqliteStore(sys.argv[1])
        last = {found.queue_no: found.ftCurrentRow for found in store.queues()}
        def work(number):
            row = last.get(number, 0)
            while True:
                row += 1
                if not store.unanswered_items(number):
                    store.commit(accepted(number, row))
                    os.write(1, b"T1 %d %d\\n" % (number, row))
                store.commit(completed(number, row))
                os.write(1, b"T2 %d %d\\n" % (number, row))
        for number in range(4): threading.Thread(target=work, args=(number,)).start()
        """
    )
    confirmed: set[tuple[str, int, int]] = set()
    for round_no in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(path), str(Path(__file__).parent)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(40 + 37 * seed + round_no)]
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.read().splitlines()
        process.wait()
        process.stdout.close()
        for line in lines:
            step, number, row = line.split()
            confirmed.add((step.decode(), int(number), int(row)))
        with SqliteStore(path) as store:
            stored: set[tuple[str, int, int]] = set()
            for number in range(4):
                for found in store.iter_items_by_row(number):
                    row = found.item.ftQueueRow
                    assert found.item == item(number, row)
                    stored.add(("T1", number, row))
                    if found.answer is not None:
                        assert found.answer == answer(number, row)
                        stored.add(("T2", number, row))
            assert confirmed <= stored
            for state in store.queues():
                receipts = [found.ftReceiptNumber for found in store.iter_receipts_by_number(state.queue_no)]
                assert receipts == list(range(1, state.ftCurrentRow + 1))
