"""What was committed is never lost: in the log at first, in the database a moment later, never in neither or twice."""

from __future__ import annotations

import errno
import gc
import logging
import os
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import (
    action,
    answer,
    change,
    completed,
    doubtful,
    error_answer,
    export,
    export_part,
    failed,
    guid,
    item,
    master_data,
    open_transaction,
    queue,
    recovered,
    run_threads,
    scu,
)

from fiskal.errors import StoreError
from fiskal.fairlock import Turn
from fiskal.germany.codes import ReceiptFlag
from fiskal.queue import interrupted
from fiskal.store import (
    Change,
    ExportState,
    QueueItemRow,
    SqliteReader,
    SqliteStore,
    applier,
    blockfile,
    commitlog,
)
from fiskal.store.entry import decode_entries, encode_entries, entry_of
from fiskal.store.writer import Writer
from tests.support.disk import begin_commits, count_as_fast, refuse_to_confirm, without_flights


@pytest.fixture(autouse=True, params=["while the caller waits", "begun and ended"])
def _way_to_commit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "begun and ended":
        begin_commits(monkeypatch)


@pytest.fixture(autouse=True)
def _known_queues(request: pytest.FixtureRequest) -> None:
    """The log takes up what continues a queue that the store knows."""
    if "store" in request.fixturenames:
        request.getfixturevalue("store").commit(known())


def known() -> Change:
    return change(queues=[queue(number, 0) for number in range(20)])


def accept(no: int, row: int, **columns: object) -> Change:
    return change(items=[item(no, row, **columns)])


def log_of(path: Path) -> Path:
    return path.with_name(path.name + "-commits")


def died(store: SqliteStore, path: Path, name: str = "died") -> Path:
    """The files as a killed process leaves them, in a folder of their own."""
    folder = path.parent / name
    folder.mkdir()
    with store._applier._lock:  # SQLite does not write while they are copied
        for file in path.parent.iterdir():
            if file.is_file():
                shutil.copy(file, folder / file.name)
    return folder / path.name


def rows(store: SqliteStore, no: int = 1) -> list[QueueItemRow]:
    return [stored.item for stored in store.iter_items_by_row(no)]


def in_database(path: Path) -> int:
    """How many items are in the database itself, whatever the log has."""
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT count(*) FROM ftQueueItem").fetchone()[0])
    finally:
        connection.close()


@pytest.fixture
def lazy(path: Path, monkeypatch: pytest.MonkeyPatch) -> SqliteStore:
    """A store whose log is brought into the database only when somebody asks for it."""
    monkeypatch.setattr(applier, "APPLY_CHANGES", 1_000_000)
    store = SqliteStore(path, background=False)
    store.commit(known())
    return store


def test_what_was_committed_is_seen_at_once(lazy: SqliteStore, path: Path) -> None:
    lazy.commit(accept(1, 1))
    assert in_database(path) == 0
    assert rows(lazy) == lazy.unanswered_items(1) == [item(1, 1)]
    assert in_database(path) == 1
    lazy.commit(completed(1, 1))
    stored = lazy.item(guid("item", 1, 1))
    assert stored is not None
    assert (stored.item, stored.answer) == (item(1, 1), answer(1, 1))
    assert lazy.unanswered_items(1) == []
    lazy.close()


def test_the_database_has_it_soon_without_being_asked(store: SqliteStore, path: Path) -> None:
    store.commit(accept(1, 1))
    until = time.monotonic() + 60
    while not in_database(path):
        assert time.monotonic() < until
        time.sleep(0.01)
    with SqliteReader(path) as reader:  # as another process does
        assert rows(reader) == [item(1, 1)]


def test_enough_changes_do_not_wait(store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applier, "LINGER_S", 1000)
    for row in range(1, applier.APPLY_CHANGES + 1):
        store.commit(accept(1, row))
    until = time.monotonic() + 60
    while not in_database(path):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_comes_while_the_log_is_stored_waits_for_others(
    lazy: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a busy host would store every few changes in a transaction of their own."""
    original = Writer.write
    sizes: list[int] = []

    def write(writer: Writer, changes: Sequence[Change], sequence: int) -> None:
        sizes.append(len(changes))
        if len(sizes) == 1:
            lazy.commit(accept(1, 2))
        original(writer, changes, sequence)

    monkeypatch.setattr(Writer, "write", write)
    lazy.commit(accept(1, 1))
    lazy.commit(completed(1, 1))
    lazy._applier.apply()
    assert (sizes, in_database(path)) == ([2], 1)
    assert (rows(lazy), sizes) == ([item(1, 1), item(1, 2)], [2, 1])
    lazy.close()


def test_a_store_that_nobody_closed_goes_with_its_thread(path: Path) -> None:
    store = SqliteStore(path)
    store.commit(known())
    store.commit(accept(1, 1))
    thread = store._applier._thread
    assert thread is not None
    assert thread.is_alive()
    store._lock.release()
    del store
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


def test_what_a_dead_process_committed_is_there_in_the_next(lazy: SqliteStore, path: Path) -> None:
    bare = {"cbTerminalID": None, "cbReceiptReference": None, "request_raw_sha256": None}
    odd = {"request": "ß 漢 \0 " * 50}
    lazy.commit(accept(1, 1))
    lazy.commit(completed(1, 1))
    lazy.commit(accept(1, 2, **odd))
    lazy.commit(change(answers=[error_answer(1, 2)], queues=[queue(1, 2)]))
    lazy.commit(accept(2, 1, **bare))
    copy = died(lazy, path)
    for _ in range(2):
        with SqliteStore(copy) as other:
            assert rows(other) == [item(1, 1), item(1, 2, **odd)]
            assert [found.answer for found in other.iter_items(1)] == [answer(1, 1), error_answer(1, 2)]
            assert other.unanswered_items(2) == [item(2, 1, **bare)]
    with SqliteStore(copy) as other:
        other.commit(accept(1, 3))
        assert [row.ftQueueRow for row in rows(SqliteStore(died(other, copy, "again")))] == [1, 2, 3]
    lazy.close()


def every_list() -> Change:
    return change(
        items=[item(1, 1)],
        answers=[answer(1, 1)],
        queues=[queue(1, 1)],
        actions=[action(), action(number=2, Type=None, DataJson=None)],
        open_transactions=[open_transaction()],
        open_transactions_removed=[(1, "gone")],
        failed_starts=[failed()],
        failed_starts_removed=[(1, "gone")],
        failed_finishes=[failed(number=4)],
        failed_finishes_removed=[(1, "gone")],
        doubtful_starts=[doubtful()],
        doubtful_starts_removed=[(1, "gone")],
        recovered=[recovered(), recovered(name="B", delivered="zero")],
    )


@pytest.mark.parametrize("count", [1, 15, 16, 17, 255, 256, 65535])
def test_a_batch_is_an_array_of_messagepack(count: int) -> None:
    entry = entry_of(accept(1, 1))
    assert entry is not None
    body = encode_entries([entry] * count)
    assert body == msgspec.msgpack.encode([msgspec.Raw(entry.data)] * count)


def test_every_row_survives_the_log(lazy: SqliteStore, path: Path) -> None:
    whole = every_list()
    entry = entry_of(whole)
    assert entry is not None
    (read,) = decode_entries(encode_entries([entry]))
    for kept in (entry.change, read.change):
        assert all(list(getattr(kept, name)) == getattr(whole, name) for name in Change.__slots__)
    lazy.commit(whole)
    assert in_database(path) == 0
    copy = died(lazy, path)
    lazy.close()
    for place in (path, copy):
        with SqliteStore(place) as other:
            assert [found.answer for found in other.iter_items(1)] == [answer(1, 1)]
            assert other.queue(guid("queue", 1)) == queue(1, 1)
            assert len(list(other.iter_actions(guid("queue", 1)))) == 2
            assert other.open_transactions(1) == [open_transaction()]
            assert (other.failed_starts(1), other.failed_finishes(1)) == ([failed()], [failed(number=4)])
            assert other.doubtful_starts(1) == [doubtful()]
            assert other.undelivered(1) == [recovered()]


@pytest.mark.parametrize(
    "columns",
    [{"request": "\ud800"}, {"ftQueueMoment": 1 << 63}, {"ftQueueMoment": True}, {"country": object()}],
)
def test_what_a_column_could_refuse_does_not_go_into_the_log(columns: dict[str, object]) -> None:
    assert entry_of(accept(1, 1)) is not None
    assert entry_of(accept(1, 1, **columns)) is None
    assert entry_of(change(answers=[answer(1, 1)._replace(receipt=("too", "short"))])) is None  # type: ignore[arg-type]
    assert entry_of(change(open_transactions_removed=[(1, None)])) is None
    assert entry_of(change(items=[(1, 2)])) is None


KINDS = (interrupted.Kind.UNDECIDED, ReceiptFlag.FAILED_RECEIPT)
"""Members of enumerations, which the database may take for what they are not."""


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_what_goes_into_the_log_is_what_the_database_takes(data: st.DataObject) -> None:
    """Any value in any column: if the log would take the row, the database must."""
    values = st.one_of(
        st.none(),
        st.integers(-(1 << 65), 1 << 65),
        st.text(max_size=5),
        st.text(st.characters(categories=["Cs", "Lu"]), max_size=3),
        st.binary(max_size=3),
        st.booleans(),
        st.floats(),
        st.decimals(),
        st.datetimes(),
        st.uuids(),
        st.sampled_from([*ExportState, *KINDS, [], {}, object()]),
    )
    whole = every_list()
    name = data.draw(st.sampled_from([name for name in Change.__slots__ if getattr(whole, name)]))
    row = list(getattr(whole, name)[0])
    row[data.draw(st.integers(0, len(row) - 1))] = data.draw(values)
    kind = type(getattr(whole, name)[0])
    getattr(whole, name)[0] = kind._make(row) if kind is not tuple else tuple(row)
    if entry_of(whole) is None:
        return
    if name in (
        "items",
        "answers",
        "queues",
        "recovered",
    ):  # by keys that others have is another test's matter
        for other in Change.__slots__:
            if other != name:
                setattr(whole, other, [])
    entry = entry_of(whole)
    assert entry is not None
    connection = sqlite3.connect(":memory:", isolation_level=None)
    store_of_schema(connection)
    writer = Writer(connection, ":memory:")
    if name == "answers":
        found = entry.change.answers[0]
        writer.write([change(items=[item(found.queue_no, found.ftQueueRow)])])
    writer.write([entry.change], 1)
    connection.close()
    (read,) = decode_entries(encode_entries([entry]))
    assert all(getattr(read.change, each) == getattr(entry.change, each) for each in Change.__slots__)


def store_of_schema(connection: sqlite3.Connection) -> None:
    from fiskal.store.schema import MIGRATIONS, migrate

    migrate(connection, ":memory:", MIGRATIONS)


@pytest.mark.parametrize(
    "strange",
    [
        accept(1, 1),  # again
        accept(1, 3),  # not the next one
        change(answers=[answer(1, 1)]),  # again
        change(answers=[answer(1, 2)]),  # without an item
        change(queues=[queue(1, 1, ftQueueId=guid("queue", 2))]),
        change(queues=[queue(99)], items=[item(1, 2), item(1, 2)]),
    ],
)
def test_what_does_not_continue_a_queue_goes_to_the_database_itself(
    store: SqliteStore, strange: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit(accept(1, 1))
    store.commit(completed(1, 1))
    direct: list[int] = []
    original = store._direct.commit

    def commit(*arguments: object, **named: object) -> None:
        direct.append(1)
        original(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(store._direct, "commit", commit)
    refused = strange.answers or len(strange.items) != 1 or strange.items[0].ftQueueRow == 1
    with pytest.raises(StoreError, match="the change cannot be stored") if refused else nullcontext():
        store.commit(strange)
    assert direct == [1]
    store.commit(accept(1, 2) if len(rows(store)) == 1 else accept(2, 1))
    assert direct == [1]


def test_a_log_that_goes_round_loses_nothing(store: SqliteStore, path: Path) -> None:
    """Queue 9 has to wait for its answer while others fill both segments."""
    per_segment = commitlog.SEGMENT_BYTES // commitlog.BLOCK_BYTES
    store.commit(accept(9, 1))
    for row in range(1, 2 * per_segment + 10):
        store.commit(accept(1, row))
        store.commit(completed(1, row))
    assert store.unanswered_items(9) == [item(9, 1)]
    size = 2 * commitlog.BLOCK_BYTES + 2 * commitlog.SEGMENT_BYTES  # with header and note
    assert log_of(path).stat().st_size == size
    store.commit(accept(1, 2 * per_segment + 10))
    with SqliteStore(died(store, path)) as other:
        assert len(rows(other)) == 2 * per_segment + 10
        assert other.unanswered_items(1) == [item(1, 2 * per_segment + 10)]
        assert other.unanswered_items(9) == [item(9, 1)]


def test_a_large_change_goes_to_the_database_at_once(lazy: SqliteStore, path: Path) -> None:
    lazy.commit(accept(1, 1, request="x" * commitlog.MAX_ENTRY_BYTES))
    assert in_database(path) == 1
    lazy.commit(accept(1, 2, request="x" * (commitlog.MAX_ENTRY_BYTES - 1000)))
    assert in_database(path) == 1
    lazy.close()
    assert in_database(path) == 2


def test_many_queues_accept_and_answer_beside_each_other(store: SqliteStore, path: Path) -> None:
    turn = Turn()

    def sell(number: int) -> None:
        for row in range(1, 41):
            store.commit(accept(number, row), turn, in_turn=False)
            if row < 40 or number % 2:
                store.commit(completed(number, row), turn)
            turn.leave()

    assert run_threads(sell, 16) == []
    copy = died(store, path)
    with SqliteStore(copy) as other:
        for number in range(16):
            assert [row.ftQueueRow for row in rows(other, number)] == list(range(1, 41))
            assert len(other.unanswered_items(number)) == (number % 2 == 0)


def test_readers_and_writers_beside_each_other_see_what_was_committed(store: SqliteStore) -> None:
    def sell(number: int) -> None:
        for row in range(1, 61):
            store.commit(accept(number, row))
            assert store.unanswered_items(number) == [item(number, row)]
            if row % 7 == 0:  # past the log
                store.commit(
                    change(answers=[answer(number, row)], queues=[queue(number, row)], master_data=[])
                )
            else:
                store.commit(completed(number, row))
            assert [
                found.item.ftQueueRow for found in store.items_by_reference(number, f"R-Ä{row}", None, 9)
            ] == [row]

    assert run_threads(sell, 8) == []


# ---- what fails -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.EIO, "the disk reported an error"),
        (errno.ENOSPC, "the disk is full; make room"),
        (errno.EROFS, "read-only"),
        (errno.ENODEV, "the system refused"),
    ],
)
def test_a_disk_that_refuses_is_named_and_the_row_is_taken_again(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
) -> None:
    store.commit(accept(1, 1))
    store.commit(completed(1, 1))
    with monkeypatch.context() as patched:
        refuse_to_confirm(patched, code)
        with pytest.raises(StoreError, match=advice):
            store.commit(accept(1, 2, cbReceiptReference="lost"))
    # What the disk refused to confirm may be in the log all the same; the next takes its place.
    store.commit(accept(1, 2, cbReceiptReference="kept"))
    with SqliteStore(died(store, path)) as other:
        assert other.unanswered_items(1) == [item(1, 2, cbReceiptReference="kept")]
    store.commit(completed(1, 2))
    assert [row.cbReceiptReference for row in rows(store)][1] == "kept"


def test_what_was_refused_in_a_new_segment_is_written_over(
    lazy: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that was refused at the start of the other segment must not come back beside a smaller one."""
    blocks = commitlog.SEGMENT_BYTES // commitlog.BLOCK_BYTES
    for row in range(1, blocks):
        lazy.commit(accept(1, row))
    large = {"request": "x" * 3 * commitlog.BLOCK_BYTES}
    with monkeypatch.context() as patched:
        refuse_to_confirm(patched)
        with pytest.raises(StoreError):
            lazy.commit(accept(1, blocks, cbReceiptReference="lost", **large))
    lazy.commit(accept(1, blocks, cbReceiptReference="kept"))
    with SqliteStore(died(lazy, path)) as other:
        assert [row.cbReceiptReference for row in rows(other)][-1] == "kept"
        assert len(rows(other)) == blocks
    lazy.close()


PER_SEGMENT = commitlog.SEGMENT_BYTES // commitlog.BLOCK_BYTES
LARGE = {"request": "x" * commitlog.MAX_ENTRY_BYTES}
"""What goes past the log."""


@pytest.mark.parametrize("before", [1, PER_SEGMENT], ids=["behind others", "in a new segment"])
@pytest.mark.parametrize("refusals", [1, 2])
def test_what_was_refused_does_not_come_back_beside_what_went_past_the_log(
    lazy: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch, before: int, refusals: int
) -> None:
    """The refused batch is whole on the disk, and its row is stored without the log: it must not be stored again."""
    for row in range(1, before + 1):
        lazy.commit(accept(1, row))
    with monkeypatch.context() as patched:
        refuse_to_confirm(patched)
        for _ in range(refusals):
            with pytest.raises(StoreError, match="the disk reported an error"):
                lazy.commit(accept(1, before + 1, cbReceiptReference="lost"))
    lazy.commit(accept(1, before + 1, **LARGE))
    wanted = [item(1, row) for row in range(1, before + 1)] + [item(1, before + 1, **LARGE)]
    with SqliteStore(died(lazy, path)) as other:
        assert rows(other) == wanted
    for row in (before + 2, before + 3):
        lazy.commit(accept(1, row))
        wanted.append(item(1, row))
    copy = died(lazy, path, "later")
    assert in_database(copy) == before + 1
    with SqliteStore(copy) as other:
        assert rows(other) == wanted
        other.commit(completed(1, before + 3))
    lazy.close()


@pytest.mark.parametrize("segments", [1, 2])
def test_what_was_refused_at_the_end_of_a_segment_does_not_come_back_in_place_of_what_needed_the_next(
    lazy: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch, segments: int
) -> None:
    last = segments * PER_SEGMENT
    for row in range(1, last):
        lazy.commit(accept(1, row))
    with monkeypatch.context() as patched:
        refuse_to_confirm(patched)
        with pytest.raises(StoreError):
            lazy.commit(accept(1, last, cbReceiptReference="lost"))
    kept = {"cbReceiptReference": "kept", "request": "x" * commitlog.BLOCK_BYTES}
    lazy.commit(accept(1, last, **kept))
    lazy.commit(accept(1, last + 1))
    copy = died(lazy, path)
    with SqliteStore(copy) as other:
        assert rows(other)[-2:] == [item(1, last, **kept), item(1, last + 1)]
    lazy.close()


def test_while_the_database_refuses_nothing_follows_what_the_log_refused(
    lazy: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lazy.commit(accept(1, 1))
    with monkeypatch.context() as patched:
        refuse_to_confirm(patched)
        with pytest.raises(StoreError):
            lazy.commit(accept(1, 2, cbReceiptReference="lost"))
    with monkeypatch.context() as patched:
        patched.setattr(Writer, "write", _refuses(StoreError("could not write: locked")))
        for columns in ({}, LARGE):
            with pytest.raises(StoreError, match="locked"):
                lazy.commit(accept(1, 2, **columns))
    lazy.commit(accept(1, 2, **LARGE))
    lazy.commit(completed(1, 2))
    with SqliteStore(died(lazy, path)) as other:
        assert rows(other) == [item(1, 1), item(1, 2, **LARGE)]
    lazy.close()


def test_many_write_past_the_log_and_into_it_while_it_refuses(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever follows whatever: what was confirmed is there, and what was refused is not."""
    random_ = random.Random(11)
    original, finish = blockfile.BlockFile.store, blockfile.BlockFile.finish
    refused = [random_.random() < 0.2 for _ in range(100_000)]

    def store_and_refuse(self: blockfile.BlockFile, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        if refused.pop():
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def finish_and_refuse(self: blockfile.BlockFile) -> None:
        finish(self)
        if refused.pop():
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def sell(number: int) -> None:
        for row in range(1, 61):
            large = LARGE if (number + row) % 5 == 0 else {}
            for attempt in range(100):
                try:
                    store.commit(accept(number, row, cbReceiptReference=f"{attempt}", **large))
                except StoreError:
                    continue
                confirmed[number].append(f"{attempt}")
                break

    confirmed: list[list[str]] = [[] for _ in range(8)]
    with monkeypatch.context() as patched:
        patched.setattr(blockfile.BlockFile, "store", store_and_refuse)
        patched.setattr(blockfile.BlockFile, "finish", finish_and_refuse)
        assert run_threads(sell, 8) == []
        copy = died(store, path)
    assert [len(each) for each in confirmed] == [60] * 8
    assert sum(reference != "0" for each in confirmed for reference in each) > 20
    for each in (copy, path):
        if each is path:
            store.close()
        with SqliteStore(each) as other:
            for number in range(8):
                assert [row.cbReceiptReference for row in rows(other, number)] == confirmed[number]


def test_a_log_that_was_deleted_in_operation_is_made_anew_behind_what_it_held(
    lazy: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lazy.commit(accept(1, 1))
    log_of(path).unlink()
    with monkeypatch.context() as patched:
        refuse_to_confirm(patched)
        with pytest.raises(StoreError):  # it is opened again after this
            lazy.commit(accept(2, 1))
    lazy.commit(accept(2, 1))
    with SqliteStore(died(lazy, path)) as other:
        assert (rows(other, 1), rows(other, 2)) == ([item(1, 1)], [item(2, 1)])
    lazy.close()


def test_a_database_that_refuses_is_asked_before_the_log_takes_more(
    lazy: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lazy.commit(accept(1, 1))
    with monkeypatch.context() as patched:
        patched.setattr(applier, "APPLY_CHANGES", 1)
        patched.setattr(Writer, "write", _refuses(StoreError("could not write: locked")))
        lazy.commit(completed(1, 1))  # durable in the log; then the database is tried
        assert "not in the database: could not write: locked" in caplog.text
        for _ in range(2):
            with pytest.raises(StoreError, match="locked"):
                lazy.commit(accept(1, 2))
        with pytest.raises(StoreError, match="locked"):
            lazy.item(guid("item", 1, 1))
    lazy.commit(accept(1, 2))
    assert rows(lazy) == [item(1, 1), item(1, 2)]
    lazy.close()


def test_who_waits_for_a_failing_database_shares_its_error(
    lazy: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one after the other: with a lock that is waited for, the last of many would wait for minutes."""
    lazy.commit(accept(1, 1))
    attempts = []
    arrived = threading.Barrier(9)

    def write(*_: object) -> None:
        if not attempts:
            arrived.wait(60)
            until = time.monotonic() + 60
            while lazy._applier._lock_waiters < 8 and time.monotonic() < until:
                time.sleep(0.01)
        attempts.append(1)
        raise StoreError("locked")

    class Counting:
        """The lock, which says how many wait for it."""

        def __init__(self) -> None:
            self._lock = threading.Lock()

        def __enter__(self) -> None:
            lazy._applier._lock_waiters += 1  # type: ignore[attr-defined]
            self._lock.acquire()
            lazy._applier._lock_waiters -= 1  # type: ignore[attr-defined]

        def __exit__(self, *_: object) -> None:
            self._lock.release()

    def read(number: int) -> None:
        if number:
            arrived.wait(60)
        lazy.item(guid("item", 1, 1))

    lazy._applier._lock_waiters = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(lazy._applier, "_lock", Counting())
    with monkeypatch.context() as patched:
        patched.setattr(Writer, "write", write)
        errors = run_threads(read, 9)
    assert [str(error) for error in errors] == ["locked"] * 9
    assert len({id(error) for error in errors}) == 9
    assert len(attempts) == 1
    assert rows(lazy) == [item(1, 1)]
    lazy.close()


def test_a_database_that_will_never_take_it_stops_the_store_and_loses_nothing(
    lazy: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a defect lets into the log: no receipt is taken any more, and what was stays readable."""
    lazy.commit(accept(1, 1))
    lazy.commit(accept(2, 1, ftQueueItemId=guid("item", 1, 1)))  # two items with one id
    for _ in range(2):
        with pytest.raises(StoreError, match="Nothing is lost: keep the journal and its log"):
            rows(lazy)
    lazy._applier._try()
    with pytest.raises(StoreError, match="report this"):
        lazy.commit(accept(3, 1))
    lazy.close()
    with pytest.raises(StoreError, match=r"UNIQUE constraint failed: ftQueueItem\.ftQueueItemId"):
        SqliteStore(path)


def _refuses(error: Exception) -> Callable[..., None]:
    def write(*_: object) -> None:
        raise error

    return write


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_while_the_log_is_stored_stores_it_once(
    lazy: SqliteStore, path: Path, when: str
) -> None:
    lazy.commit(accept(1, 1))
    lazy.commit(completed(1, 1))
    writer = lazy._applier._writer
    assert writer is not None
    original = writer.connection

    class Interrupted:
        def __getattr__(self, name: str) -> object:
            return getattr(original, name)

        def execute(self, sql: str, *values: object) -> object:
            if sql == "COMMIT" and when == "before":
                raise KeyboardInterrupt
            done = original.execute(sql, *values)
            if sql == "COMMIT":
                raise KeyboardInterrupt
            return done

    writer.connection = Interrupted()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        rows(lazy)
    writer.connection = original
    lazy.commit(accept(1, 2))
    assert rows(lazy) == [item(1, 1), item(1, 2)]
    assert in_database(path) == 2
    lazy.close()


@pytest.mark.parametrize("again", [None, {}, LARGE], ids=["published", "into the log", "past the log"])
def test_an_interrupt_between_the_flush_and_the_note_that_it_happened_stores_it_once(
    lazy: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch, again: dict[str, str] | None
) -> None:
    """Before it was published it is not stored, and comes ``again``; what stands in the file counts no more."""
    original = applier.Applier.publish

    def publish(self: applier.Applier, sequence: int, entries: object) -> None:
        if again is None:
            original(self, sequence, entries)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(lazy._log._open_writer(), "_publish", publish.__get__(lazy._applier))
        with pytest.raises(KeyboardInterrupt):
            lazy.commit(accept(1, 1))
    if again is not None:
        lazy.commit(accept(1, 1, **again))
    wanted = [item(1, 1, **(again or {})), item(1, 2)]
    with SqliteStore(died(lazy, path)) as other:
        assert rows(other) == wanted[:1]
    lazy.commit(completed(1, 1))
    lazy.commit(accept(1, 2))
    with SqliteStore(died(lazy, path, "later")) as other:
        assert rows(other) == wanted
    assert rows(lazy) == wanted
    lazy.close()


# ---- what stands in the file ---------------------------------------------------------------------------------


def batches_in(path: Path, applied: int = 0) -> list[int]:
    identity = log_of(path).read_bytes()[8:24]
    return [sequence for sequence, _ in commitlog.read(log_of(path), identity, applied, 99)]


def test_a_torn_or_altered_last_batch_is_left_out_whole(lazy: SqliteStore, path: Path) -> None:
    lazy.commit(accept(1, 1))
    lazy.commit(accept(2, 1))
    copy = died(lazy, path)
    log = log_of(copy)
    whole = log.read_bytes()
    second = commitlog.BLOCK_BYTES * 2
    end = second + len(whole[second : -commitlog.BLOCK_BYTES].rstrip(b"\0"))  # before the note
    random_ = random.Random(3)
    assert batches_in(copy) == [1, 2]
    for _ in range(300):
        torn = bytearray(whole)
        at = random_.randrange(second, end)
        if random_.random() < 0.5:
            torn[at:] = bytes(len(torn) - at)
        else:
            torn[at] ^= 1 << random_.randrange(8)
        log.write_bytes(torn)
        assert batches_in(copy) == [1]
    lazy.close()


def test_a_batch_damaged_later_is_missed(lazy: SqliteStore, path: Path) -> None:
    """Behind a torn batch there is nothing. Behind one that was damaged there is: nobody goes on without it."""
    for row in range(1, 6):
        lazy.commit(accept(1, row))
    copy = died(lazy, path)
    lazy.close()
    log = log_of(copy)
    damaged = bytearray(log.read_bytes())
    damaged[commitlog.BLOCK_BYTES * 3 + 200] ^= 1
    log.write_bytes(damaged)
    with pytest.raises(StoreError, match="continues at commit 4, but the journal beside it ends at commit 2"):
        SqliteStore(copy)
    assert log.read_bytes() == bytes(damaged)
    log.unlink()
    with SqliteStore(copy) as other:
        assert rows(other) == []


def test_any_bytes_in_place_of_the_log_are_survived(lazy: SqliteStore, path: Path) -> None:
    lazy.commit(accept(1, 1))
    copy = died(lazy, path)
    lazy.close()
    folder = [(file, file.read_bytes()) for file in copy.parent.iterdir()]
    log = log_of(copy)
    whole = log.read_bytes()
    random_ = random.Random(5)
    for length in (0, 1, 39, 40, 41, 4095, 4096, 4100, 4130, len(whole)):
        for file in copy.parent.iterdir():
            file.unlink()
        for file, content in folder:
            file.write_bytes(content)
        log.write_bytes(
            random_.randbytes(length) if length < len(whole) else whole[:40] + random_.randbytes(9000)
        )
        with SqliteStore(copy) as other:
            assert rows(other) == []
            other.commit(accept(1, 1))
            other.commit(completed(1, 1))


def test_a_text_that_looks_like_a_batch_is_none(lazy: SqliteStore, path: Path) -> None:
    """A POS that knows the format does not know the random bytes of the file."""
    forged = entry_of(accept(3, 1))
    assert forged is not None
    body = encode_entries([forged])
    frame = commitlog._BATCH.pack(b"FCB1", len(body), commitlog._checksum(0, 2, body), 2) + body
    lazy.commit(accept(1, 1, request="x" * (commitlog.BLOCK_BYTES - 500)))
    lazy.commit(accept(1, 2))
    copy = died(lazy, path)
    lazy.close()
    log = log_of(copy)
    data = bytearray(log.read_bytes())
    at = commitlog.BLOCK_BYTES * 2
    data[at : at + len(frame)] = frame
    log.write_bytes(data)
    assert batches_in(copy) == [1]


def test_the_log_of_another_store_is_not_taken(
    lazy: SqliteStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lazy.commit(accept(1, 1))
    copy = died(lazy, path)
    lazy.close()
    copy.unlink()
    for suffix in ("-wal", "-shm"):
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)
    with caplog.at_level(logging.WARNING, "fiskal.store"), SqliteStore(copy) as new:
        assert rows(new) == []
        new.commit(known())
        new.commit(accept(1, 1, cbReceiptReference="new"))
        with SqliteStore(died(new, copy, "again")) as other:
            assert rows(other) == [item(1, 1, cbReceiptReference="new")]
    assert "belongs to another store" in caplog.text


def test_an_older_copy_of_the_journal_is_refused(store: SqliteStore, path: Path) -> None:
    """To open it would lose what was answered since, or fork the chain."""
    store.commit(accept(1, 1))
    store.commit(completed(1, 1))
    assert rows(store) == [item(1, 1)]
    copy = died(store, path)
    for row in range(2, commitlog.SEGMENT_BYTES // commitlog.BLOCK_BYTES + 5):
        store.commit(accept(1, row))
        store.commit(completed(1, row))
    store.close()
    shutil.copy(log_of(path), log_of(copy))
    with pytest.raises(StoreError, match="older copy of the journal"):
        SqliteStore(copy)
    log_of(copy).unlink()
    with SqliteStore(copy) as old:
        assert rows(old) == [item(1, 1)]


# ---- direct writes, which go past the log ---------------------------------------------------------------------


PAST_THE_LOG = [
    pytest.param(change(master_data=[master_data()]), id="master data"),
    pytest.param(change(scus=[scu()]), id="SCU"),
    pytest.param(change(exports=[export()], export_parts=[export_part()]), id="export"),
    pytest.param(change(exports_removed=[guid("export", 1, 1)]), id="no export"),
    pytest.param(accept(2, 1, **LARGE), id="large"),
    pytest.param(change(queues=[queue(99)]), id="a queue unknown"),
]


def beside_the_log(older: Path, path: Path) -> Path:
    """The database of ``older`` with the log of ``path``, in a folder of their own."""
    folder = older.parent / f"beside {len(list(older.parent.iterdir()))}"
    folder.mkdir()
    for file in older.parent.iterdir():
        if file.is_file():
            shutil.copy(file, folder / file.name)
    shutil.copy(log_of(path), log_of(folder / older.name))
    return folder / older.name


def is_refused(older: Path, path: Path) -> bool:
    """Whether the database of ``older`` is known by the note in the log of ``path`` to be older."""
    try:
        SqliteStore(beside_the_log(older, path)).close()
    except StoreError as error:
        if "was last used with a journal that had change" not in str(error):
            raise
        return True
    return False


@pytest.mark.parametrize("past", PAST_THE_LOG)
@pytest.mark.parametrize("later", [0, 1])
def test_an_older_copy_that_lacks_what_went_past_the_log_is_refused(
    lazy: SqliteStore, path: Path, past: Change, later: int
) -> None:
    """The batches of the log follow each other without a gap, and still something is missing."""
    lazy.commit(accept(1, 1))
    older = died(lazy, path)
    lazy.commit(past)
    for row in range(2, 2 + later):
        lazy.commit(accept(1, row))
    assert batches_in(path) == list(range(1, 2 + later))
    beside = beside_the_log(older, path)
    log = log_of(beside).read_bytes()
    for _ in range(2):
        with pytest.raises(
            StoreError, match=r"had change 2 .* at change 1 of these: an older copy of the journal"
        ):
            SqliteStore(beside)
    assert log_of(beside).read_bytes() == log
    log_of(beside).unlink()
    with SqliteStore(beside) as other:
        assert rows(other) == []
    with SqliteStore(died(lazy, path, "newer")) as other:
        assert [row.ftQueueRow for row in rows(other)] == list(range(1, 2 + later))
    lazy.close()
    assert is_refused(older, path)


def test_an_older_copy_that_lacks_only_what_is_in_the_log_gets_it(lazy: SqliteStore, path: Path) -> None:
    lazy.commit(accept(1, 1))
    lazy.commit(change(master_data=[master_data()]))
    older = died(lazy, path)
    lazy.commit(completed(1, 1))
    lazy.commit(accept(1, 2))
    with pytest.raises(StoreError, match="cannot be stored"):
        lazy.commit(change(queues=[queue(1, ftQueueId=guid("queue", 2))]))  # past the log, and refused
    lazy.commit(completed(1, 2))
    lazy.close()
    with SqliteStore(beside_the_log(older, path)) as other:
        assert [found.answer for found in other.iter_items(1)] == [answer(1, 1), answer(1, 2)]
        assert other.master_data(1) == master_data()


def test_a_crash_between_the_database_and_the_note_harms_nothing(
    lazy: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lazy.commit(accept(1, 1))
    assert rows(lazy) == [item(1, 1)]
    older = died(lazy, path)
    copies = []
    with monkeypatch.context() as patched:
        patched.setattr(commitlog.CommitLog, "note", lambda _: copies.append(died(lazy, path, "before")))
        lazy.commit(change(master_data=[master_data()]))
    lazy.close()
    (copy,) = copies
    assert not is_refused(copy, copy)
    with SqliteStore(copy) as other:
        assert (other.master_data(1), rows(other)) == (master_data(), [item(1, 1)])
        other.commit(accept(1, 2))
        assert is_refused(older, copy)
    with SqliteStore(copy) as other:
        assert rows(other) == [item(1, 1), item(1, 2)]


@pytest.mark.parametrize("written", [False, True])
def test_a_disk_that_refuses_the_note_does_not_refuse_the_change(
    lazy: SqliteStore,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    written: bool,
) -> None:
    """The database has it. The note is made up for before a receipt that may rely on it."""
    lazy.commit(accept(1, 1))
    older = died(lazy, path)
    with monkeypatch.context() as patched:
        if written:
            refuse_to_confirm(patched)
        else:
            patched.setattr(blockfile.BlockFile, "store", _refuses(OSError(errno.EIO, "broken")))
        lazy.commit(change(master_data=[master_data()]))
        assert "could not note" in caplog.text
        with SqliteStore(died(lazy, path, "before")) as other:
            assert other.master_data(1) == master_data()
        with pytest.raises(StoreError, match="the disk reported an error"):
            lazy.commit(accept(1, 2, cbReceiptReference="lost"))
    assert batches_in(path) == [1]  # a receipt was refused with the note it came behind
    lazy.commit(accept(1, 2))
    assert is_refused(older, path)
    copy = died(lazy, path, "after")
    lazy.close()
    with SqliteStore(copy) as other:
        assert (other.master_data(1), rows(other)) == (master_data(), [item(1, 1), item(1, 2)])


@pytest.mark.parametrize(
    "place", [(Writer, "write"), (blockfile.BlockFile, "store")], ids=["database", "note"]
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupted_direct_write_is_noted_if_it_is_stored(
    lazy: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch, place: tuple[type, str], when: str
) -> None:
    lazy.commit(accept(1, 1))
    older = died(lazy, path)
    original = getattr(*place)

    def interrupted(*arguments: object, **named: object) -> None:
        is_applier = place[0] is Writer and "direct" not in named
        if is_applier or when == "after":
            original(*arguments, **named)
        if not is_applier:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(*place, interrupted)
        with pytest.raises(KeyboardInterrupt):
            lazy.commit(change(master_data=[master_data()]))
    stored = lazy.master_data(1) is not None
    assert stored == ((place[0], when) != (Writer, "before"))
    assert not is_refused(died(lazy, path, "at once"), path)
    lazy.commit(accept(1, 2))
    assert is_refused(older, path) == stored
    copy = died(lazy, path, "later")
    with SqliteStore(copy) as other:
        assert rows(other) == [item(1, 1), item(1, 2)]
        assert (other.master_data(1) is not None) == stored
    lazy.commit(change(scus=[scu()]))
    assert is_refused(older, path)
    assert is_refused(copy, path)
    assert not is_refused(died(lazy, path, "last"), path)
    lazy.close()


def test_a_new_log_in_place_of_a_lost_one_is_noted_in(lazy: SqliteStore, path: Path) -> None:
    lazy.commit(accept(1, 1))
    assert rows(lazy) == [item(1, 1)]
    older = died(lazy, path)
    lazy.commit(change(master_data=[master_data()]))
    lazy._log._open_writer().close()  # as after an error of the disk
    log_of(path).unlink()
    lazy.commit(accept(1, 2))
    assert batches_in(path, applied=1) == [2]
    assert is_refused(older, path)
    copy = died(lazy, path, "later")
    lazy.close()
    with SqliteStore(copy) as other:
        assert rows(other) == [item(1, 1), item(1, 2)]


def test_a_damaged_note_is_none(lazy: SqliteStore, path: Path) -> None:
    lazy.commit(accept(1, 1))
    lazy.commit(change(master_data=[master_data()]))
    copy = died(lazy, path)
    whole = log_of(copy).read_bytes()
    identity = whole[8:24]
    assert commitlog.last_of(log_of(copy), identity) == (1, 2)
    for bit in range(commitlog._NOTE.size * 8):
        damaged = bytearray(whole)
        damaged[len(whole) - commitlog.BLOCK_BYTES + bit // 8] ^= 1 << bit % 8
        log_of(copy).write_bytes(damaged)
        assert commitlog.last_of(log_of(copy), identity) == (1, 0)
        assert len(commitlog.read(log_of(copy), identity, 0, 0)) == 1
    with SqliteStore(copy) as other:
        other.commit(completed(1, 1))
        assert commitlog.last_of(log_of(copy), identity) == (2, 2)
    lazy.close()


def test_a_log_and_a_database_from_before_there_were_notes_open(lazy: SqliteStore, path: Path) -> None:
    lazy.commit(accept(1, 1))
    lazy.commit(change(master_data=[master_data()]))
    lazy.commit(completed(1, 1))
    lazy.commit(accept(1, 2))
    copy = died(lazy, path)
    lazy.close()
    connection = sqlite3.connect(copy, isolation_level=None)
    connection.execute("ALTER TABLE fiskal_commit_log DROP COLUMN direct")
    connection.execute("DELETE FROM fiskal_migration WHERE version = 5")
    connection.close()
    assert in_database(copy) == 1
    with log_of(copy).open("r+b") as file:
        file.truncate(commitlog.BLOCK_BYTES + 2 * commitlog.SEGMENT_BYTES)
    with SqliteStore(copy) as other:
        assert rows(other) == [item(1, 1), item(1, 2)]
        older = died(other, copy, "older")
        other.commit(completed(1, 2))
        assert not is_refused(older, copy)
        other.commit(change(master_data=[master_data(name="New")]))
        assert is_refused(older, copy)
    with SqliteStore(copy) as other:
        assert [found.answer for found in other.iter_items(1)] == [answer(1, 1), answer(1, 2)]


def test_every_copy_of_a_busy_store_opens_and_beside_the_last_log_is_whole_or_refused(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many write into the log and past it, and the disk refuses batches and notes."""
    random_ = random.Random(12)
    original, finish = blockfile.BlockFile.store, blockfile.BlockFile.finish
    fates = [random_.choice(["taken", "taken", "taken", "lost", "not confirmed"]) for _ in range(100_000)]
    copies: list[tuple[Path, list[int]]] = []
    sold = [0] * 6

    def store_or_refuse(self: blockfile.BlockFile, *arguments: Any, **options: Any) -> None:
        fate = fates.pop()
        if fate != "lost":
            original(self, *arguments, **options)
        if fate != "taken":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def finish_or_refuse(self: blockfile.BlockFile) -> None:
        finish(self)
        if fates.pop() != "taken":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def work(number: int) -> None:
        while number == 6 and min(sold) < 30:
            before = list(sold)
            copies.append((died(store, path, f"copy {len(copies)}"), before))
            time.sleep(0.02)
        for row in range(1, 31 if number < 6 else 0):
            for _ in range(100):
                try:
                    # Many in a row go into the log alone, so that some copies lack nothing else.
                    large = LARGE if row in (number + 1, number + 8) else {}
                    store.commit(accept(number, row, **large))
                except StoreError:
                    continue
                sold[number] = row
                break

    with monkeypatch.context() as patched:
        patched.setattr(blockfile.BlockFile, "store", store_or_refuse)
        patched.setattr(blockfile.BlockFile, "finish", finish_or_refuse)
        assert run_threads(work, 7) == []
        copies.append((died(store, path, "last"), list(sold)))
    assert sold == [30] * 6
    store.commit(accept(7, 1))
    refused = 0
    for copy, before in copies:
        beside = beside_the_log(copy, path)
        try:
            with SqliteStore(beside) as other:
                assert [len(rows(other, number)) for number in range(8)] == [30] * 6 + [0, 1]
        except StoreError as error:
            refused += 1
            if "older copy of the journal" not in str(error):
                raise
        with SqliteStore(copy) as other:
            for number in range(6):
                found = [row.ftQueueRow for row in rows(other, number)]
                assert found == list(range(1, len(found) + 1))
                assert len(found) >= before[number]
    assert 0 < refused < len(copies)


def test_the_log_stays_closed_when_a_direct_write_ends_with_the_store(
    lazy: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Writer.write
    writing, closing = threading.Event(), threading.Event()

    def write(*arguments: object, **named: object) -> None:
        if "direct" in named:
            writing.set()
            closing.wait(60)
        original(*arguments, **named)  # type: ignore[arg-type]

    def work(number: int) -> None:
        if number == 0:
            lazy.commit(change(master_data=[master_data()]))
            return
        writing.wait(60)
        threading.Timer(0.3, closing.set).start()
        lazy.close()

    older = died(lazy, path)
    monkeypatch.setattr(Writer, "write", write)
    log = lazy._log._open_writer()
    assert run_threads(work, 2) == []
    assert log._file is None  # type: ignore[attr-defined]
    assert is_refused(older, path)


def test_who_reads_an_older_copy_is_told(
    lazy: SqliteStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older = died(lazy, path)
    SqliteReader(older).close()
    assert "older copy" not in caplog.text
    lazy.commit(change(master_data=[master_data()]))
    SqliteReader(path).close()
    assert "older copy" not in caplog.text
    SqliteReader(beside_the_log(older, path)).close()
    assert "is an older copy" in caplog.text
    lazy.close()


def test_an_older_log_changes_nothing(store: SqliteStore, path: Path) -> None:
    store.commit(accept(1, 1))
    old = log_of(path).read_bytes()
    store.commit(completed(1, 1))
    store.commit(accept(1, 2))
    store.close()
    log_of(path).write_bytes(old)
    with SqliteStore(path) as other:
        assert rows(other) == [item(1, 1), item(1, 2)]
        other.commit(completed(1, 2))
        with SqliteStore(died(other, path)) as again:
            assert [found.answer for found in again.iter_items(1)] == [answer(1, 1), answer(1, 2)]


def test_without_room_for_the_log_nothing_is_accepted(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        without_flights(patched)
        patched.setattr(blockfile, "_pwrite", lambda fd, data, at: 0)
        with pytest.raises(StoreError, match="the disk is full"):
            store.commit(accept(1, 1))
    store.commit(accept(1, 1))
    store.commit(completed(1, 1))
    assert rows(store) == [item(1, 1)]


@pytest.mark.parametrize("write", [blockfile._pwrite, blockfile._seek_and_write])
@pytest.mark.parametrize("piece", [100, 512])
def test_a_write_in_pieces_is_whole(
    store: SqliteStore,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[int, memoryview, int], int],
    piece: int,
) -> None:
    """Also in pieces that no direct write may have."""
    without_flights(monkeypatch)
    monkeypatch.setattr(blockfile, "_pwrite", lambda fd, data, at: write(fd, data[:piece], at))
    store.commit(accept(1, 1))
    with SqliteStore(died(store, path)) as other:
        assert rows(other) == [item(1, 1)]


# ---- what is begun and ended --------------------------------------------------------------------------------


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk counts as fast, whatever it is."""
    count_as_fast(monkeypatch)


def begin(store: SqliteStore, what: Change) -> None:
    store.commit(accept(9, 1))  # the log is open
    if not store.begin(what):
        pytest.skip("the file system of the temporary folder has no writes that go on by themselves")


@pytest.mark.usefixtures("fast")
def test_what_was_begun_counts_when_it_was_ended(lazy: SqliteStore, path: Path) -> None:
    begin(lazy, accept(1, 1))
    assert rows(lazy) == []
    lazy.end(accept(1, 1))
    assert rows(lazy) == [item(1, 1)]
    lazy.commit(completed(1, 1))
    with SqliteStore(died(lazy, path)) as other:
        assert rows(other) == [item(1, 1)]
    lazy.close()


@pytest.mark.usefixtures("fast")
def test_who_has_begun_something_ends_it_before_anything_else(lazy: SqliteStore) -> None:
    begin(lazy, accept(1, 1))
    assert not lazy.begin(accept(2, 1))
    with pytest.raises(RuntimeError, match="has to end that first"):
        lazy.commit(accept(2, 1), None)
    lazy.end(accept(1, 1))
    lazy.commit(accept(2, 1))
    lazy.close()


@pytest.mark.usefixtures("fast")
def test_others_wait_until_it_is_ended(lazy: SqliteStore) -> None:
    begin(lazy, accept(1, 1))
    order = ["begun"]

    def others(number: int) -> None:
        lazy.end(accept(1, 1))  # which is not theirs to end
        lazy.commit(accept(2 + number, 1))
        order.append("theirs")

    threads = [threading.Thread(target=others, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while len(lazy._log._tickets) < 4:
        time.sleep(0.001)
    order.append("ended")
    lazy.end(accept(1, 1))
    for thread in threads:
        thread.join()
    assert order == ["begun", "ended", *["theirs"] * 4]
    lazy.close()


@pytest.mark.usefixtures("fast")
def test_who_cannot_begin_after_all_leaves_the_turn_while_it_waits(
    lazy: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody leads already, and waits for the turn before he writes for both."""
    begin(lazy, accept(1, 1))
    lazy.end(accept(1, 1))
    turn = Turn()
    turn.__enter__()
    leader = threading.Thread(target=lazy.commit, args=(accept(2, 1), turn), kwargs={"in_turn": False})
    leader.start()
    while not lazy._log._role:
        time.sleep(0.001)
    with monkeypatch.context() as patched:
        patched.setattr(SqliteStore, "can_begin", True)
        done = []

        def sell() -> None:
            done.append(lazy.begin(accept(3, 1), turn))
            lazy.end(accept(3, 1))
            turn.leave()

        other = threading.Thread(target=sell, daemon=True)
        other.start()
        other.join(60)
    assert done == [True], "a caller was left hanging"
    leader.join()
    turn.leave()  # the leader's
    assert (rows(lazy, 2), rows(lazy, 3)) == ([item(2, 1)], [item(3, 1)])
    lazy.close()


@pytest.mark.usefixtures("fast")
def test_a_write_past_the_log_waits_for_what_was_begun(lazy: SqliteStore, path: Path) -> None:
    begin(lazy, accept(1, 1))
    thread = threading.Thread(target=lazy.commit, args=(accept(2, 1, **LARGE), None))
    thread.start()
    thread.join()
    lazy.end(accept(1, 1))
    assert (rows(lazy, 1), rows(lazy, 2)) == ([item(1, 1)], [item(2, 1, **LARGE)])
    with SqliteStore(died(lazy, path)) as other:
        assert (rows(other, 1), rows(other, 2)) == ([item(1, 1)], [item(2, 1, **LARGE)])
    lazy.close()


@pytest.mark.usefixtures("fast")
def test_a_write_past_the_log_uses_up_what_was_begun_and_refused(
    lazy: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(lazy, accept(1, 1, cbReceiptReference="lost"))
    with monkeypatch.context() as patched:
        refuse_to_confirm(patched)
        thread = threading.Thread(target=lazy.commit, args=(accept(2, 1, **LARGE), None))
        thread.start()
        thread.join()
        with pytest.raises(StoreError, match="the disk reported an error"):
            lazy.end(accept(1, 1))
    assert rows(lazy, 1) == []
    lazy.commit(accept(1, 1))
    with SqliteStore(died(lazy, path)) as other:
        assert (rows(other, 1), rows(other, 2)) == ([item(1, 1)], [item(2, 1, **LARGE)])
    lazy.close()


@pytest.mark.usefixtures("fast")
def test_a_process_that_dies_in_between_has_it_or_has_it_not(lazy: SqliteStore, path: Path) -> None:
    begin(lazy, accept(1, 1))
    with SqliteStore(died(lazy, path)) as other:
        assert rows(other) in ([], [item(1, 1)])
        other.commit(accept(1, len(rows(other)) + 1))
    lazy.end(accept(1, 1))
    lazy.close()


@pytest.mark.usefixtures("fast")
def test_where_a_segment_ends_it_is_stored_at_once(lazy: SqliteStore, path: Path) -> None:
    begin(lazy, accept(1, 1))
    lazy.end(accept(1, 1))
    for row in range(2, 3 * PER_SEGMENT):
        assert lazy.begin(accept(1, row))
        lazy.end(accept(1, row))
    with SqliteStore(died(lazy, path)) as other:
        assert [row.ftQueueRow for row in rows(other)] == list(range(1, 3 * PER_SEGMENT))
    lazy.close()


def test_a_slow_disk_is_waited_for(lazy: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy.commit(accept(1, 1))
    monkeypatch.setattr(blockfile.BlockFile, "can_begin", False)
    assert not lazy.begin(accept(1, 2))
    lazy.end(accept(1, 2))
    lazy.commit(accept(1, 2))
    assert rows(lazy) == [item(1, 1), item(1, 2)]
    lazy.close()


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    "what",
    [accept(1, 7), change(scus=[scu()]), accept(1, 1, **LARGE)],
    ids=["not the next row", "past the log", "large"],
)
def test_what_does_not_go_into_the_log_is_not_begun(lazy: SqliteStore, what: Change) -> None:
    lazy.commit(accept(9, 1))
    assert not lazy.begin(what)
    lazy.commit(accept(1, 1))
    lazy.close()


def test_a_closed_store_accepts_nothing(path: Path) -> None:
    store = SqliteStore(path)
    store.commit(known())
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.commit(accept(1, 1))
    assert threading.active_count() < 50
