"""What was accepted is never lost: in the log until it is answered, in the journals from then on."""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
from pathlib import Path

import pytest
from rows import answer, change, completed, error_answer, guid, item, queue, run_threads

from fiskal.errors import StoreError
from fiskal.fairlock import Turn
from fiskal.store import Change, QueueItemRow, SqliteStore, acceptance


def accept(no: int, row: int, **columns: object) -> Change:
    return change(accepted=[item(no, row, **columns)])


def log_of(path: Path) -> Path:
    return path.with_name(path.name + "-accepted")


def died(store: SqliteStore, path: Path, name: str = "died") -> Path:
    """The files as a killed process leaves them, in a folder of their own."""
    folder = path.parent / name
    folder.mkdir()
    for file in path.parent.iterdir():
        if file.is_file():
            shutil.copy(file, folder / file.name)
    return folder / path.name


def rows(store: SqliteStore, no: int = 1) -> list[QueueItemRow]:
    return [stored.item for stored in store.iter_items_by_row(no)]


def test_an_item_is_journalled_with_its_answer(store: SqliteStore) -> None:
    store.commit(accept(1, 1))
    assert rows(store) == []
    assert store.item(guid("item", 1, 1)) is None
    store.commit(completed(1, 1))
    stored = store.item(guid("item", 1, 1))
    assert stored is not None
    assert (stored.item, stored.answer) == (item(1, 1), answer(1, 1))
    assert store.unanswered_items(1) == []


def test_an_error_answer_journals_its_item_too(store: SqliteStore) -> None:
    store.commit(accept(1, 1))
    store.commit(change(answers=[error_answer(1, 1)], queues=[queue(1, 1)]))
    assert [stored.answer for stored in store.iter_items(1)] == [error_answer(1, 1)]


def test_what_a_dead_process_accepted_is_unanswered_in_the_next(store: SqliteStore, path: Path) -> None:
    bare = {"cbTerminalID": None, "cbReceiptReference": None, "request_raw_sha256": None}
    store.commit(accept(1, 1))
    store.commit(completed(1, 1))
    store.commit(accept(1, 2, request="ß 漢 \0 " * 50))
    store.commit(accept(2, 1, **bare))
    copy = died(store, path)
    for _ in range(2):
        with SqliteStore(copy) as other:
            assert other.unanswered_items(1) == [item(1, 2, request="ß 漢 \0 " * 50)]
            assert other.unanswered_items(2) == [item(2, 1, **bare)]
    with SqliteStore(copy) as other:
        other.commit(completed(1, 2))
        other.commit(accept(1, 3))
        assert rows(other) == [item(1, 1), item(1, 2, request="ß 漢 \0 " * 50)]
        assert [row.ftQueueRow for row in rows(SqliteStore(died(other, copy, "again")))] == [1, 2, 3]


def test_accepted_items_of_a_queue_are_journalled_on_demand(store: SqliteStore, path: Path) -> None:
    store.commit(accept(1, 1))
    store.commit(accept(2, 1))
    store.commit(change(unanswered=[1]))
    assert store.unanswered_items(1) == [item(1, 1)]
    assert store.unanswered_items(2) == []
    store.commit(change(unanswered=[1]))
    store.commit(completed(1, 1))
    assert [stored.answer for stored in store.iter_items(1)] == [answer(1, 1)]
    with SqliteStore(died(store, path)) as other:
        assert rows(other) == [item(1, 1)]
        assert other.unanswered_items(2) == [item(2, 1)]


def test_a_log_that_goes_round_loses_nothing(store: SqliteStore, path: Path) -> None:
    """Queue 9 has to wait for its answer while others fill both segments."""
    per_segment = acceptance.SEGMENT_BYTES // acceptance.BLOCK_BYTES
    store.commit(accept(9, 1))
    for row in range(1, 2 * per_segment + 10):
        store.commit(accept(1, row))
        store.commit(completed(1, row))
        if row == per_segment - 1:
            assert store.unanswered_items(9) == []
    assert store.unanswered_items(9) == [item(9, 1)]
    size = acceptance.BLOCK_BYTES + 2 * acceptance.SEGMENT_BYTES
    assert log_of(path).stat().st_size == size
    store.commit(accept(1, 2 * per_segment + 10))
    with SqliteStore(died(store, path)) as other:
        assert len(rows(other)) == 2 * per_segment + 10
        assert other.unanswered_items(1) == [item(1, 2 * per_segment + 10)]
        assert other.unanswered_items(9) == [item(9, 1)]


def test_a_large_item_is_journalled_at_once(store: SqliteStore, path: Path) -> None:
    large = {"request": "x" * acceptance.MAX_ITEM_BYTES}
    wide = {"request": "漢" * 2990}
    store.commit(accept(1, 1, **large))
    assert rows(store) == [item(1, 1, **large)]
    store.commit(completed(1, 1))
    store.commit(accept(1, 2, **wide))
    assert len(rows(store)) == 1
    with SqliteStore(died(store, path)) as other:
        assert rows(other) == [item(1, 1, **large), item(1, 2, **wide)]


def test_a_full_batch_of_the_largest_items_fits_a_segment() -> None:
    widest = item(1, 1, request="x" * (acceptance.MAX_ITEM_BYTES - 600))
    assert acceptance.fits(widest)
    one = len(acceptance._encoded([widest]))
    assert acceptance.MAX_BATCH_ITEMS * acceptance.MAX_ITEM_BYTES + 100 <= acceptance.SEGMENT_BYTES
    assert one <= acceptance.MAX_ITEM_BYTES


@pytest.mark.parametrize(
    "columns", [{"request": "\ud800"}, {"ftQueueMoment": 1 << 63}, {"country": object()}]
)
def test_an_item_that_cannot_be_stored_fails_alone(store: SqliteStore, columns: dict[str, object]) -> None:
    def sell(number: int) -> None:
        store.commit(accept(number, 1, **(columns if number == 5 else {})))
        store.commit(completed(number, 1))

    (error,) = run_threads(sell, 12)
    assert isinstance(error, StoreError)
    assert [no for no in range(12) if rows(store, no)] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]


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
    def fail(fd: int) -> None:
        raise OSError(code, os.strerror(code))

    store.commit(accept(1, 1))
    store.commit(completed(1, 1))
    with monkeypatch.context() as patched:
        patched.setattr(acceptance, "_sync", fail)
        with pytest.raises(StoreError, match=advice):
            store.commit(accept(1, 2, cbReceiptReference="lost"))
    # What the disk refused to confirm may be in the log all the same; the next of that row counts.
    store.commit(accept(1, 2, cbReceiptReference="kept"))
    with SqliteStore(died(store, path)) as other:
        assert other.unanswered_items(1) == [item(1, 2, cbReceiptReference="kept")]
    store.commit(completed(1, 2))
    assert [row.cbReceiptReference for row in rows(store)][1] == "kept"


def test_a_database_that_refuses_keeps_the_item_for_later(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit(accept(1, 1))
    writer = store._group._writer
    assert writer is not None
    writer.connection.execute("PRAGMA query_only = ON")  # type: ignore[attr-defined]
    with pytest.raises(StoreError):
        store.commit(completed(1, 1))
    store.commit(completed(1, 1))
    assert rows(store) == [item(1, 1)]


def test_a_torn_or_altered_batch_is_left_out_whole(store: SqliteStore, path: Path) -> None:
    store.commit(accept(1, 1))
    store.commit(accept(2, 1))
    copy = died(store, path)
    log = log_of(copy)
    whole = log.read_bytes()
    second = acceptance.BLOCK_BYTES * 2
    end = second + len(whole[second:].rstrip(b"\0"))
    random_ = random.Random(3)
    seen = set()
    for _ in range(150):
        torn = bytearray(whole)
        at = random_.randrange(second, end)
        if random_.random() < 0.5:
            torn[at:] = bytes(len(torn) - at)
        else:
            torn[at] ^= 1 << random_.randrange(8)
        batches = []
        log.write_bytes(torn)
        for _sequence, items in acceptance.read(log, whole[8:24]):
            batches.append(items)
        assert batches in ([[item(1, 1)]], [[item(1, 1)], [item(2, 1)]])
        seen.add(len(batches))
        if len(batches) == 2:  # only the sequence, which the order of batches does not need here
            assert torn[second + 20 :] == whole[second + 20 :]
    assert 1 in seen


def test_any_bytes_in_place_of_the_log_are_survived(store: SqliteStore, path: Path) -> None:
    store.commit(accept(1, 1))
    copy = died(store, path)
    store_bytes = copy.read_bytes()
    log = log_of(copy)
    whole = log.read_bytes()
    random_ = random.Random(5)
    for length in (0, 1, 23, 24, 25, 4095, 4096, 4100, 4130, len(whole)):
        log.write_bytes(
            random_.randbytes(length) if length < len(whole) else whole[:24] + random_.randbytes(9000)
        )
        with SqliteStore(copy) as other:
            assert rows(other) == []
            other.commit(accept(1, 1))
            other.commit(completed(1, 1))
        copy.write_bytes(store_bytes)
        for suffix in ("-wal", "-shm"):
            copy.with_name(copy.name + suffix).unlink(missing_ok=True)


def test_the_log_of_another_store_is_not_taken(
    store: SqliteStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.commit(accept(1, 1))
    copy = died(store, path)
    copy.unlink()
    for suffix in ("-wal", "-shm"):
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)
    with caplog.at_level(logging.WARNING, "fiskal.store"), SqliteStore(copy) as new:
        assert rows(new) == []
        new.commit(accept(1, 1, cbReceiptReference="new"))
        with SqliteStore(died(new, copy, "again")) as other:
            assert rows(other) == [item(1, 1, cbReceiptReference="new")]
    assert "belongs to another store" in caplog.text


def test_rows_beyond_an_older_copy_of_the_journal_are_left_out(
    store: SqliteStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.commit(accept(1, 1))
    store.commit(completed(1, 1))
    copy = died(store, path)
    for row in (2, 3):
        store.commit(accept(1, row))
        store.commit(completed(1, row))
    per_segment = acceptance.SEGMENT_BYTES // acceptance.BLOCK_BYTES
    for row in range(4, 2 * per_segment + 5):
        store.commit(accept(1, row))
        store.commit(completed(1, row))
    store.close()
    shutil.copy(log_of(path), log_of(copy))
    with caplog.at_level(logging.ERROR, "fiskal.store"), SqliteStore(copy) as old:
        assert rows(old) == [item(1, 1)]
    assert "older copy of the journal" in caplog.text


def test_without_room_for_the_log_nothing_is_accepted(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def full(fd: int, data: bytes) -> int:
        return 0

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StoreError, match="the disk is full"):
            store.commit(accept(1, 1))
    assert os.write is real
    store.commit(accept(1, 1))
    store.commit(completed(1, 1))
    assert rows(store) == [item(1, 1)]


def test_a_closed_store_accepts_nothing(path: Path) -> None:
    store = SqliteStore(path)
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.commit(accept(1, 1))
