"""Many callers share a flush, and none of them can hurt another."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import accepted, action, answer, change, completed, counted, guid, item, queue, run_threads, scu

from fiskal.errors import StoreError
from fiskal.store import Change, NullStore, SqliteReader, SqliteStore
from fiskal.store.writer import Writer


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


class Batches:
    """Holds the first write back until ``expected`` callers wait, and records the size of every batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: SqliteStore, expected: int) -> None:
        self.sizes: list[int] = []
        self.writing = threading.Event()
        original = Writer.write

        def write(writer: Writer, changes: list[Change], failed: Callable[..., None]) -> None:
            if not self.sizes:
                self.writing.set()
                while len(store._line) < expected + 1:
                    pass
            self.sizes.append(len(changes))
            self.before_write(changes)
            original(writer, changes, failed)
            self.after_write(changes)

        monkeypatch.setattr(Writer, "write", write)

    def before_write(self, changes: list[Change]) -> None: ...
    def after_write(self, changes: list[Change]) -> None: ...


def count(store: SqliteStore) -> int:
    return sum(len(list(store.iter_items_by_row(number))) for number in range(50))


def test_waiting_callers_share_one_flush(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(monkeypatch, store, 15)
    assert run_threads(lambda number: store.commit(accepted(number, 1)), 16) == []
    assert batches.sizes == [1, 15]
    assert count(store) == 16


def test_a_submit_waits_for_nothing_and_a_flush_takes_all_in_order(store: SqliteStore) -> None:
    receipts = [made(1, row) for row in range(1, 6) for made in (accepted, completed)]
    durables = [store.submit(each) for each in receipts]
    assert not any(each.done for each in durables)
    assert list(store.iter_items_by_row(1)) == []
    durables[3].call()
    assert all(each.done and each.error is None for each in durables)
    assert [found.answer for found in store.iter_items_by_row(1)] == [answer(1, row) for row in range(1, 6)]
    assert store.queues() == [counted(1, 5)]
    assert store.flush_s > 0
    store.flush()


def test_a_flush_of_nothing_takes_nothing(store: SqliteStore) -> None:
    store.flush()
    assert store.flush_s == 0


def test_a_bad_change_fails_alone_with_an_error_of_its_own(store: SqliteStore) -> None:
    changes = [
        change(items=[item(number, 1, request=None)]) if number in (3, 8) else accepted(number, 1)
        for number in range(16)
    ]
    durables = [store.submit(each) for each in changes]
    store.flush()
    assert [number for number, each in enumerate(durables) if each.error] == [3, 8]
    assert all(each.done for each in durables)
    assert durables[3].error is not durables[8].error
    with pytest.raises(StoreError, match="the change cannot be stored"):
        durables[8].call()
    assert [found.queue_no for found in store.queues()] == [n for n in range(16) if n not in (3, 8)]


def test_what_depends_on_a_bad_change_fails_with_it(store: SqliteStore) -> None:
    bad = [change(items=[item(1, 1)], scus=[scu()._replace(Url=None)]), completed(1, 1), accepted(1, 2)]
    durables = [store.submit(each) for each in (*bad, accepted(1, 1))]
    store.flush()
    assert [each.error is None for each in durables] == [False, False, False, True]
    assert store.unanswered_items(1) == [item(1, 1)]


def test_a_disk_error_reaches_everybody_and_passes(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = Batches(monkeypatch, store, 15)

    def fail(changes: list[Change]) -> None:
        if len(changes) > 1:
            raise StoreError("could not write")

    batches.before_write = fail  # type: ignore[method-assign]
    errors = run_threads(lambda number: store.commit(accepted(number, 1)), 16)
    assert [str(error) for error in errors] == ["could not write"] * 15
    assert len({id(error) for error in errors}) == 15
    assert count(store) == 1
    store.commit(accepted(40, 1))
    assert count(store) == 2


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_of_who_flushes_hurts_nobody(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    batches = Batches(monkeypatch, store, 15)

    def interrupt(changes: list[Change]) -> None:
        if len(batches.sizes) == 2:
            raise KeyboardInterrupt

    setattr(batches, f"{moment}_write", interrupt)
    errors = run_threads(lambda number: store.commit(accepted(number, 1)), 16)
    assert [type(error) for error in errors] == [KeyboardInterrupt]
    assert count(store) == 16
    store.commit(accepted(40, 1))


@pytest.mark.parametrize("where", ["BEGIN IMMEDIATE", "COMMIT"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_in_a_transaction_stores_it_once(store: SqliteStore, where: str, moment: str) -> None:
    store.commit(change(queues=[queue()]))
    writer = store._writer
    assert writer is not None
    original = writer.connection
    armed = True

    class Interrupted:
        def __getattr__(self, name: str) -> object:
            return getattr(original, name)

        def execute(self, sql: str, *values: object) -> object:
            nonlocal armed
            hit, armed = armed and sql == where, armed and sql != where
            if hit and moment == "before":
                raise KeyboardInterrupt
            result = original.execute(sql, *values)  # type: ignore[arg-type]
            if hit:
                raise KeyboardInterrupt
            return result

    writer.connection = Interrupted()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        store.commit(change(actions=[action(number=n) for n in range(20)]))
    writer.connection = original
    assert not original.in_transaction
    assert len(list(store.iter_actions(guid("queue", 1)))) == 20


def test_a_reader_in_another_process_sees_everything_at_once(store: SqliteStore, path: Path) -> None:
    reader = SqliteReader(path)
    for row in range(1, 4):
        store.commit(accepted(1, row))
        assert reader.unanswered_items(1) == [item(1, row)]
        store.commit(completed(1, row))
        found = reader.item(guid("item", 1, row))
        assert found is not None
        assert found.answer == answer(1, row)
    assert reader.queues() == store.queues() == [counted(1, 3)]
    durable = reader.submit(accepted(1, 4))
    assert durable.done
    with pytest.raises(StoreError, match="open for reading only"):
        reader.commit(accepted(1, 4))
    reader.close()


def test_a_closed_store_refuses_what_is_submitted(store: SqliteStore) -> None:
    waiting = store.submit(accepted(1, 1))
    store.close()
    assert waiting.done
    assert waiting.error is None
    late = store.submit(accepted(1, 2))
    store.flush()
    assert "closed" in str(late.error)


def test_the_null_store_is_done_at_once() -> None:
    store = NullStore()
    durable = store.submit(accepted(1, 1))
    assert durable.done
    durable.call()
    assert store.flush_s == 0


def test_a_sale_is_two_rows(store: SqliteStore, path: Path) -> None:
    """ftQueue is left alone while nothing but counters changes, and what it lacks is written at the mark."""
    store.commit(change(items=[item(1, 1)], queues=[counted(1, 0, ftReceiptHash=None)]))
    rows: list[Any] = []
    for row in (1, 2, 3):
        rows += store._query("SELECT ftCurrentRow FROM ftQueue")
        store.commit(completed(1, row))
        store.commit(change(items=[item(1, row + 1)]))
    assert rows == [(0,)] * 3
    assert store.queues() == [counted(1, 3, ftQueuedRow=4)]
    store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT ftCurrentRow FROM ftQueue").fetchall() == [(3,)]
    connection.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals between threads")
def test_real_interrupts_leave_nobody_hanging(path: Path) -> None:
    script = textwrap.dedent(
        """
        import random, signal, sys, threading, time
        sys.path[:0] = [sys.argv[2]]
        from rows import accepted
        from fiskal.store import SqliteStore
        store = SqliteStore(sys.argv[1])
        def commit(number, row):
            store.commit(accepted(number, row))
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
        print("interrupts", interrupts)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) > 10


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
