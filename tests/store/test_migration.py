"""Folders that older versions made open, with everything that was in them; whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import pytest
from rows import accepted, answer, change, error_answer, guid, item, receipt

from fiskal.errors import StoreError
from fiskal.store import SqliteReader, SqliteStore, migration
from fiskal.store.writer import Writer

FOLDERS = Path(__file__).parent / "folders"
NAMES = ["version-1", "version-2", "version-3", "version-4", "version-5-killed", "version-5-closed"]


def unpacked(name: str, folder: Path) -> tuple[Path, Any]:
    """The store in the folder ``name``, and what the version that wrote it read there."""
    with tarfile.open(FOLDERS / f"{name}.tar.xz") as tar:
        for member in tar.getmembers():
            tar.extract(member, folder)
    expected = folder / "expected.json"
    read = json.loads(expected.read_text())
    expected.unlink()
    return folder / "journal.sqlite", read


def plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def dump(store: Any) -> dict[str, Any]:
    out: dict[str, Any] = {"queues": plain(store.queues()), "scus": plain(store.scus())}
    for no in (1, 2, 3):
        queue_id = guid("queue", no)
        out[str(no)] = {
            "items": plain(list(store.iter_items_by_row(no))),
            "by_time": plain(list(store.iter_items(no))),
            "receipts": plain(list(store.iter_receipts_by_number(no))),
            "actions": plain(list(store.iter_actions(queue_id))),
            "unanswered": plain(store.unanswered_items(no)),
            "open": plain(store.open_transactions(no)),
            "failed_starts": plain(store.failed_starts(no)),
            "failed_finishes": plain(store.failed_finishes(no)),
            "doubtful": plain(store.doubtful_starts(no)),
            "undelivered": plain(store.undelivered(no)),
            "master_data": plain(store.master_data(no)),
            "exports": plain(list(store.iter_exports(queue_id))),
            "part": plain(store.export_part(guid("export", no, 1), 0)),
        }
    return out


def same(store: Any, expected: dict[str, Any]) -> None:
    found = dump(store)
    for row, was in zip(found["queues"], expected["queues"], strict=True):
        # The number of the last accepted row: it counts from the rows now, as it always should have.
        rows = [each[0][1] for each in expected[str(row[0])]["items"]]
        assert row[4] == max([was[4], *rows])
        row[4] = was[4]
    assert found == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_an_older_version_opens_with_everything(name: str, tmp_path: Path) -> None:
    path, expected = unpacked(name, tmp_path)
    for _ in range(2):
        with SqliteStore(path, create=False) as store:
            same(store, expected)
    same(SqliteReader(path), expected)
    assert not (tmp_path / "journal.sqlite-commits").exists()
    assert not (tmp_path / "journal.sqlite-migrating").exists()
    with SqliteStore(path) as store:
        for no in (1, 2):
            for row in store.unanswered_items(no):
                store.commit(change(answers=[error_answer(no, row.ftQueueRow)]))
            last = len(list(store.iter_items_by_row(no)))
            number = len(list(store.iter_receipts(no))) + 1
            store.commit(change(items=[item(no, last + 1)]))
            store.commit(change(answers=[answer(no, last + 1, receipt=receipt(no, number))]))
            assert store.unanswered_items(no) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_old_store_is_kept_whole(name: str, tmp_path: Path) -> None:
    path, expected = unpacked(name, tmp_path)
    SqliteStore(path).close()
    version = name.split("-")[1]
    kept = tmp_path / "kept"
    kept.mkdir()
    for suffix in ("", "-commits"):
        backup = tmp_path / f"journal.sqlite-version-{version}{suffix}"
        if backup.exists():
            shutil.copy(backup, kept / f"journal.sqlite{suffix}")
    with SqliteStore(kept / "journal.sqlite") as store:
        same(store, expected)


STEPS = ["_copy_journal", "_complete", "_check", "_swap", "_sync_file", "_sync_folder"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("name", ["version-3", "version-5-killed"])
def test_a_process_that_dies_meanwhile_loses_nothing(
    name: str, step: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, expected = unpacked(name, tmp_path)
    called = 0
    original = getattr(migration, step)

    def dies(*arguments: Any) -> Any:
        nonlocal called
        called += 1
        if called == times:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(migration, "BATCH_ROWS", 2)
        patched.setattr(migration, step, dies)
        try:
            SqliteStore(path).close()
        except KeyboardInterrupt:
            pass
    with SqliteStore(path) as store:
        same(store, expected)
    assert not (tmp_path / "journal.sqlite-commits").exists()


def test_it_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = unpacked("version-5-killed", tmp_path)

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(migration, "_complete", dies)
        with pytest.raises(KeyboardInterrupt):
            SqliteStore(path)
    with sqlite3.connect(tmp_path / "journal.sqlite-migrating") as copy:
        copy.execute("UPDATE ftActionJournal SET Message = 'copied before'")
    copy.close()
    with SqliteStore(path) as store:
        messages = {each.Message for each in store.iter_actions(guid("queue", 1))}
    assert "copied before" in messages


def test_what_was_used_since_is_copied_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = unpacked("version-5-closed", tmp_path)

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(migration, "_complete", dies)
        with pytest.raises(KeyboardInterrupt):
            SqliteStore(path)
    with sqlite3.connect(path) as old:
        old.execute("UPDATE ftActionJournal SET Message = 'since then'")
    old.close()
    os.utime(path, ns=(1, 1))
    with SqliteStore(path) as store:
        assert {each.Message for each in store.iter_actions(guid("queue", 1))} == {"since then"}


def test_a_database_that_is_older_than_its_log_is_refused(tmp_path: Path) -> None:
    path, _ = unpacked("version-5-older-copy", tmp_path)
    with pytest.raises(StoreError, match=r"older copy of the journal.*Restore the journal that belongs"):
        SqliteStore(path)
    with pytest.raises(StoreError, match="has schema version 5"):
        SqliteReader(path)
    assert not (tmp_path / "journal.sqlite-migrating").exists()
    (tmp_path / "journal.sqlite-commits").rename(tmp_path / "away")
    SqliteStore(path).close()


def test_a_gap_in_the_log_is_refused(tmp_path: Path) -> None:
    path, _ = unpacked("version-5-killed", tmp_path)
    log = tmp_path / "journal.sqlite-commits"
    data = bytearray(log.read_bytes())
    batches = [at for at in range(4096, len(data), 4096) if data[at : at + 4] == b"FCB1"]
    data[batches[-3] + 30] ^= 1
    log.write_bytes(data)
    with pytest.raises(StoreError, match="continues at commit"):
        SqliteStore(path)


def test_a_torn_last_batch_is_left_out(tmp_path: Path) -> None:
    path, _ = unpacked("version-5-killed", tmp_path)
    log = tmp_path / "journal.sqlite-commits"
    data = bytearray(log.read_bytes())
    last = max(at for at in range(4096, len(data), 4096) if data[at : at + 4] == b"FCB1")
    data[last + 30] ^= 1
    log.write_bytes(data)
    with SqliteStore(path) as store:
        assert store.item(guid("item", 1, 9)) is None
        assert store.item(guid("item", 2, 4)) is not None


def test_a_full_disk_leaves_room_and_the_old_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, expected = unpacked("version-5-killed", tmp_path)

    def full(*_: Any) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        error.sqlite_errorname = "SQLITE_FULL"
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "drain", full)
        with pytest.raises(StoreError, match="the disk is full; make room"):
            SqliteStore(path)
    assert not (tmp_path / "journal.sqlite-migrating").exists()
    with SqliteStore(path) as store:
        same(store, expected)


def test_what_it_cannot_read_is_refused_and_not_touched(tmp_path: Path) -> None:
    path, _ = unpacked("version-3", tmp_path)
    with sqlite3.connect(path) as old:
        old.execute("UPDATE ftQueueItem SET ftQueueItemId = 'x' WHERE id = 3")
    old.close()
    with pytest.raises(StoreError, match=r"row 3 has an id that is no GUID .*restore a backup"):
        SqliteStore(path)
    with sqlite3.connect(path) as old:
        assert old.execute("SELECT max(version) FROM fiskal_migration").fetchone() == (3,)
    old.close()


def test_a_log_beside_a_migrated_store_is_not_thrown_away(tmp_path: Path) -> None:
    path, _ = unpacked("version-5-killed", tmp_path)
    _, _ = unpacked("version-5-closed", tmp_path / "other")
    log = (tmp_path / "journal.sqlite-commits").read_bytes()
    SqliteStore(path).close()
    for backup in tmp_path.glob("*-version-*"):
        backup.unlink()
    (tmp_path / "journal.sqlite-commits").write_bytes(log)
    with pytest.raises(StoreError, match="holds receipts of an older fiskal"):
        SqliteStore(path)
    (tmp_path / "journal.sqlite-commits").unlink()
    with SqliteStore(path) as store:
        store.commit(accepted(7, 1))


def test_a_reader_leaves_it_to_the_writer(tmp_path: Path) -> None:
    path, _ = unpacked("version-5-closed", tmp_path)
    with pytest.raises(StoreError, match="has schema version 5, this fiskal reads version 6"):
        SqliteReader(path)
