"""Files that are locked, foreign, damaged, full or read-only end in a StoreError that says so."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rows import accepted, answer, change, completed, guid, item

from fiskal.errors import StoreError
from fiskal.store import Change, SqliteStore, reading, schema, writer


def filled(path: Path, rows: int = 300) -> None:
    with SqliteStore(path) as store:
        for row in range(1, rows + 1):
            store.commit(accepted(1, row))
            store.commit(completed(1, row))


def test_a_missing_store_is_not_made_without_create(path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no store at .*store #1"):
        SqliteStore(path, create=False)
    assert list(path.parent.iterdir()) == []


def test_a_second_opening_is_refused(path: Path) -> None:
    with SqliteStore(path):
        with pytest.raises(StoreError, match=r"already open: .*\.lock is locked"):
            SqliteStore(path)
        code = f"from fiskal.store import Change, SqliteStore; SqliteStore({str(path)!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "StoreLocked: the store is already open" in done.stderr
    SqliteStore(path).close()


def test_a_foreign_database_is_refused_and_not_touched(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE cooking (recipe)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not a fiskal store"):
        SqliteStore(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"no database at all" * 500, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_without_a_valid_header_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"store #1 ä\.sqlite"):
        SqliteStore(path)
    assert path.read_bytes() == content


def test_a_directory_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing" / "a.sqlite", tmp_path / "file" / "a.sqlite"):
        with pytest.raises(StoreError, match="the directory must exist and be writable"):
            SqliteStore(path)


@pytest.mark.skipif(
    sys.platform == "win32" or (os.getuid() == 0 and shutil.which("setpriv") is None),
    reason="needs file modes",
)
@pytest.mark.parametrize("what", ["file", "directory"])
def test_read_only_is_said(path: Path, tmp_path: Path, what: str) -> None:
    filled(path, 2)
    tmp_path.chmod(0o777)
    target, mode = (path, 0o444) if what == "file" else (tmp_path, 0o555)
    for file in tmp_path.iterdir():
        file.chmod(0o666)
    if what == "directory":
        (tmp_path / (path.name + ".lock")).unlink()
    target.chmod(mode)
    for parent in tmp_path.parents[:2]:
        parent.chmod(parent.stat().st_mode | 0o055)
    code = f"from fiskal.store import Change, SqliteStore; SqliteStore({str(path)!r})"
    as_user = ["setpriv", "--reuid=65534", "--clear-groups"] if os.getuid() == 0 else []
    if (
        as_user
        and subprocess.run([*as_user, sys.executable, "-c", ""], capture_output=True, check=False).returncode
    ):
        pytest.skip("this Python is installed where only root can run it")
    done = subprocess.run([*as_user, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    target.chmod(0o777)
    assert "StoreError" in done.stderr, done.stderr
    assert "writable" in done.stderr or "read-only" in done.stderr


def use(path: Path) -> str | None:
    """What a store says that is read and written once; None if it noticed nothing."""
    try:
        with SqliteStore(path) as store:
            list(store.iter_items(1))
            list(store.iter_receipts(1))
            store.items_by_reference(1, "R-Ä1", None, 5)
            store.commit(accepted(1, 301))
    except StoreError as error:
        return str(error)
    return None


def fill_up(store: SqliteStore, no: int, row: int) -> int:
    """Accept rows until the disk is full; the last that was confirmed."""
    for row_ in range(row, row + 10_000):
        try:
            store.commit(accepted(no, row_))
        except StoreError as error:
            if "the disk is full; make room, then repeat" not in str(error):
                raise
            return row_ - 1
    raise AssertionError("the disk was never full")


def test_damaged_pages_are_errors_not_crashes(path: Path) -> None:
    filled(path)
    whole = path.read_bytes()
    random_ = random.Random(1)
    errors = 0
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(40):
            page = random_.randrange(len(broken) // 4096) * 4096
            start = page + random_.choice([0, 3, 5, 8, 100, 2000])
            broken[start : start + 8] = random_.randbytes(8)
        path.write_bytes(broken)
        message = use(path)
        errors += message is not None
        assert message is None or path.name in message
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    assert errors > 30


def test_a_full_database_says_so_and_recovers(path: Path) -> None:
    with SqliteStore(path) as store:
        store.commit(accepted(1, 1))
        connected = store._writer
        assert connected is not None
        (limit,) = connected.connection.execute("PRAGMA page_count").fetchone()
        connected.connection.execute(f"PRAGMA max_page_count = {limit}")
        last = fill_up(store, 1, 2)
        store.commit(accepted(1, last + 1))
        assert [found.item for found in store.iter_items_by_row(1)] == [
            item(1, n) for n in range(1, last + 2)
        ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount, umount = shutil.which("mount"), shutil.which("umount")
    directory = tmp_path / "small"
    directory.mkdir()
    if mount is None or umount is None:
        pytest.skip("cannot mount a tmpfs")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", directory], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("cannot mount a tmpfs")
    yield directory
    subprocess.run([umount, directory], check=True)


def test_a_full_disk_says_so_and_recovers(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2 << 20))
    with SqliteStore(small_disk / "store.sqlite") as store:
        row = fill_up(store, 1, 1) + 1
        with pytest.raises(StoreError):
            store.commit(accepted(1, row))
        ballast.unlink()
        store.commit(accepted(1, row))
        assert store.item(guid("item", 1, row)) is not None
    with SqliteStore(small_disk / "store.sqlite") as store:
        assert [found.item for found in store.iter_items_by_row(1)] == [item(1, n) for n in range(1, row + 1)]


def test_a_foreign_writer_is_waited_for_and_then_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BUSY_TIMEOUT_MS", 50)
    with SqliteStore(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another program keeps the file locked"):
            store.commit(accepted(1, 1))
        other.execute("ROLLBACK")
        other.close()
        store.commit(accepted(1, 1))


def test_a_closed_store_is_one_file(path: Path, tmp_path: Path) -> None:
    """Who copies the file of a host that was stopped has everything."""
    with SqliteStore(path) as store:
        store.commit(accepted(1, 1))
        assert store.item(guid("item", 1, 1)) is not None  # a reader stays open
    assert not path.with_name(path.name + "-wal").exists()
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(path.read_bytes())
    with SqliteStore(copy) as store:
        assert store.item(guid("item", 1, 1)) is not None


def test_a_row_that_was_moved_does_not_keep_the_store_from_opening(path: Path) -> None:
    with SqliteStore(path) as store:
        change = Change()
        change.items.append(item(1, 1))
        store.commit(change)
    with SqliteStore(path) as store:
        assert [found.item for found in store.iter_items_by_row(1)] == [item(1, 1)]
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE ftQueueItem SET queue_no = 2")
    connection.close()
    with SqliteStore(path) as store:
        assert list(store.iter_items_by_row(1)) == []


def test_a_newer_schema_is_refused(path: Path) -> None:
    SqliteStore(path).close()
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("INSERT INTO fiskal_migration VALUES (99, 'later', '')")
    connection.close()
    with pytest.raises(StoreError, match=f"schema version 99, this fiskal knows up to {schema.VERSION}"):
        SqliteStore(path)


def test_a_store_that_was_made_in_part_is_made_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(schema, "note_version", dies)
        with pytest.raises(RuntimeError, match="power cut"):
            SqliteStore(path)
    filled(path, 2)


def test_an_opening_looks_through_little(path: Path, tmp_path: Path) -> None:
    """What a process that died leaves behind the mark is bounded, and nothing is missed in it."""
    with SqliteStore(path) as store:
        store.commit(change(items=[item(2, 1)]))
        for row in range(1, 2 * writer.MARK_EVERY + 10):
            store.commit(change(items=[item(1, row)]))
            store.commit(completed(1, row))
        (below,) = store._query("SELECT answered_below FROM fiskal_mark")[0]
        assert below > writer.MARK_EVERY
        assert store.unanswered_items(2) == [item(2, 1)]
        assert store.item(guid("item", 2, 1)) is not None
        copy = tmp_path / "copy.sqlite"
        for suffix in ("", "-wal"):
            shutil.copy(path.with_name(path.name + suffix), copy.with_name(copy.name + suffix))
    with SqliteStore(copy) as store:
        assert store.unanswered_items(2) == [item(2, 1)]
        store.commit(change(items=[item(1, row + 1)]))
        store.commit(completed(1, row + 1))
        store.commit(change(answers=[answer(2, 1)]))
        assert store.unanswered_items(2) == []
