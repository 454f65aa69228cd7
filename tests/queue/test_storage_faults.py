"""A disk that is full, read-only, broken, locked or damaged, and a clock that goes back: a clear error to the POS,
never a wrong answer, and never a fork in the chain."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fiskal.clock import TICKS_PER_SECOND
from fiskal.conversation import Call
from fiskal.errors import FiskalError, StoreError
from fiskal.export.verify import verify_journal
from fiskal.host.config import STORE_NAME
from fiskal.store import Change, SqliteStore, reading, sqlite
from fiskal.store.writer import Writer
from tests.support.disk import refuse_to_confirm
from tests.support.shop import DE, Shop

RECEIPT_REQUEST = 0x8000_0000_0000
HOUR = 3600 * TICKS_PER_SECOND


class FailingStore:
    """Fails a commit before or after it is stored, as a disk does that dies while it flushes."""

    def __init__(self, store: Any, at: int, *, stored: bool) -> None:
        self._store = store
        self._at = at
        self._stored = stored
        self.commits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def submit(self, change: Change) -> Any:
        return Call(partial(self.commit, change))

    def commit(self, change: Change) -> None:
        self.commits += 1
        fails = self.commits == self._at
        if fails and not self._stored:
            raise StoreError("could not write: the disk reported an error")
        self._store.commit(change)
        if fails:
            raise StoreError("could not write: the disk reported an error")


def ask(shop: Shop, reference: str) -> Any:
    return shop.sale(reference, case=0x01 | RECEIPT_REQUEST)


def check(shop: Shop) -> dict[str, int]:
    """Everything verifies, and the TSE signed no sale twice."""
    report = verify_journal(shop.middleware.store, shop.row)
    assert report.ok, report.problems
    assert report.counts["unanswered"] == 0
    numbers = sorted(item["ftReceiptNumber"] for item in shop.journal(2))  # the journal goes by TimeStamp
    assert numbers == list(range(1, len(numbers) + 1))
    return report.counts


def sell_until_error(shop: Shop, match: str, first: int = 0) -> dict[str, Any]:
    """Sell until the disk refuses; the answers by reference, from S-``first`` on. The last one has none."""
    answers: dict[str, Any] = {}
    for number in range(first, 10_000):
        try:
            answers[f"S-{number}"] = shop.sale(f"S-{number}")
        except StoreError as error:
            refusal = str(error)
            break
    else:
        raise AssertionError("the disk took everything")
    assert re.search(match, refusal)
    return answers


def check_after(shop: Shop, answers: dict[str, Any]) -> None:
    """What was answered is there as it was answered; the receipt without an answer is signed once at most."""
    for reference, answer in answers.items():
        assert ask(shop, reference) == answer
    lost = f"S-{len(answers)}"
    before = shop.tse.scu.get_tse_info().current_number_of_signatures
    found = ask(shop, lost)
    again = shop.sale(lost) if found is None else found
    assert again["ftState"] == DE
    after = shop.tse.scu.get_tse_info().current_number_of_signatures
    assert after - before == (2 if found is None else 0)
    assert shop.open_on_tse() == []
    check(shop)


# ---- one commit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("restarts", [False, True], ids=["goes on", "restarts"])
def test_a_commit_that_fails(shop: Shop, at: int, stored: bool, restarts: bool) -> None:
    answers = {"S-0": shop.sale("S-0")}
    queue = shop.middleware.queue(shop.queue_id)
    store = queue.journal.store
    queue.journal.store = FailingStore(store, at, stored=stored)
    with pytest.raises(StoreError, match="the disk reported an error"):
        shop.sale("S-1")
    queue.journal.store = store
    if restarts:
        shop.reopen()
    check_after(shop, answers)


@pytest.mark.parametrize("at", range(1, 8))
@pytest.mark.parametrize("stored", [False, True], ids=["before", "after"])
def test_a_day_on_a_disk_that_fails_once_in_a_while(shop: Shop, at: int, stored: bool) -> None:
    """Every receipt of a day, repeated as a POS repeats it, ends up signed once whichever commit fails."""
    queue = shop.middleware.queue(shop.queue_id)
    queue.journal.store = FailingStore(queue.journal.store, at, stored=stored)
    day = [(0x08, "A"), (0x10, "O"), (0x01, "S"), (0x0B, "A"), (0x07, "D")]
    for case, reference in day:
        members = {} if case != 0x0B else {"flow": "explicit"}
        for _ in range(3):
            with contextlib.suppress(StoreError):
                found = shop.send(case | RECEIPT_REQUEST, reference, **members)
                answer = found or shop.send(case, reference, **members)
                break
        assert answer["ftState"] == DE
    assert shop.row.DailyClosingNumber == 1
    assert shop.open_on_tse() == shop.open_references() == []
    receipts = check(shop)["receipts"]
    assert receipts == 1 + len(day)
    assert shop.tse.scu.get_tse_info().current_started_transaction_numbers == []


# ---- real disks ----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount, umount = shutil.which("mount"), shutil.which("umount")
    folder = tmp_path / "small"
    folder.mkdir()
    command = [mount or "", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if (
        mount is None
        or umount is None
        or subprocess.run(command, capture_output=True, check=False).returncode
    ):
        pytest.skip("cannot mount a tmpfs")
    yield folder
    subprocess.run([umount, folder], check=True)


def test_a_full_disk_refuses_and_goes_on_when_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(14 << 20))
    shop = Shop(tmp_path / "shop", start=False)
    shop.close()
    shutil.move(tmp_path / "shop" / STORE_NAME, small_disk / STORE_NAME)
    (tmp_path / "shop" / STORE_NAME).symlink_to(small_disk / STORE_NAME)
    shop.open()
    try:
        shop.send(0x03)
        answers = sell_until_error(shop, "the disk is full; make room, then repeat")
        with pytest.raises(StoreError, match="the disk is full"):
            shop.sale("another")
        for reference, answer in list(answers.items())[-5:]:
            with contextlib.suppress(StoreError):  # what is found is noted, and there is no room for the note
                assert ask(shop, reference) == answer
        ballast.unlink()
        check_after(shop, answers)
        shop.reopen()
        check(shop)
    finally:
        shop.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_disk_that_fails_while_it_writes(shop: Shop) -> None:
    """A file that may not grow: the write fails in the middle, with another error than for a full disk."""
    import resource

    answers = {f"S-{number}": shop.sale(f"S-{number}") for number in range(3)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    wal = shop.folder / f"{STORE_NAME}-wal"
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size + 100, hard))
    try:
        answers |= sell_until_error(shop, r"the disk reported an error|the disk is full", first=len(answers))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    check_after(shop, answers)


def test_a_file_that_turns_read_only(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"S-0": shop.sale("S-0")}
    store = shop.middleware.store
    assert isinstance(store, SqliteStore)
    open_writer, connected = sqlite._open_writer, store._writer

    def read_only(path: Path) -> Writer:
        writer = open_writer(path)
        writer.connection.execute("PRAGMA query_only = ON")
        return writer

    assert connected is not None
    connected.connection.execute("PRAGMA query_only = ON")
    monkeypatch.setattr(sqlite, "_open_writer", read_only)
    answers |= sell_until_error(shop, "read-only", first=len(answers))
    monkeypatch.undo()
    check_after(shop, answers)


def test_a_file_that_somebody_else_locks(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BUSY_TIMEOUT_MS", 50)
    shop.reopen()
    answers = {"S-0": shop.sale("S-0")}
    other = sqlite3.connect(shop.folder / STORE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answers |= sell_until_error(
        shop, "another program keeps the file locked; close it, then repeat", first=len(answers)
    )
    other.execute("ROLLBACK")
    other.close()
    check_after(shop, answers)


def test_a_disk_that_dies_while_the_tse_signs(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """T1 is stored, T2 is not: the signature exists, and the answer follows when the disk works again."""
    answers = {"S-0": shop.sale("S-0")}
    sign = shop.tse.scu.finish_transaction

    def finish(*args: Any) -> Any:
        answer = sign(*args)
        refuse_to_confirm(monkeypatch)
        return answer

    monkeypatch.setattr(shop.tse.scu, "finish_transaction", finish)
    with pytest.raises(StoreError, match="the disk reported an error"):
        shop.sale("S-1")
    with pytest.raises(StoreError, match="the disk reported an error"):
        shop.sale("S-2")
    monkeypatch.undo()
    assert ask(shop, "S-1")["ftReceiptIdentification"] == "ft2#IT3"
    check_after(shop, answers)


def test_damaged_pages_never_give_a_wrong_answer(tmp_path: Path) -> None:
    """Whatever page is damaged: an old receipt is found as it was, or the damage is said."""
    shop = Shop(tmp_path)
    answers = {f"S-{number}": shop.sale(f"S-{number}") for number in range(40)}
    shop.close()
    path = tmp_path / STORE_NAME
    whole = path.read_bytes()
    chance = random.Random(3)
    said: list[str] = []

    def restore(data: bytes) -> None:
        """Without what belongs to the file that was there."""
        path.write_bytes(data)
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)

    for page in range(1, len(whole) // 4096):
        broken = bytearray(whole)
        broken[page * 4096 : (page + 1) * 4096] = chance.randbytes(4096)
        restore(bytes(broken))
        try:
            shop.open()
        except FiskalError as error:
            said.append(str(error))
            continue
        try:
            for reference in ("S-0", "S-20", "S-39"):
                assert ask(shop, reference) == answers[reference]
        except StoreError as error:
            said.append(str(error))
        finally:
            shop.close()
    assert said
    assert [text for text in said if "damaged" not in text] == []
    restore(whole)
    shop.open()
    check(shop)
    shop.close()


@pytest.mark.parametrize("where", ["T1", "T2"])
def test_an_error_says_what_to_do(shop: Shop, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """The error of a real write names the file and the remedy."""

    if where == "T1":
        refuse_to_confirm(monkeypatch, sqlite3.SQLITE_READONLY)
    else:
        start = shop.tse.scu.start_transaction

        def sign(*args: Any) -> Any:
            refuse_to_confirm(monkeypatch, sqlite3.SQLITE_READONLY)
            return start(*args)

        monkeypatch.setattr(shop.tse.scu, "start_transaction", sign)
    with pytest.raises(StoreError) as caught:
        shop.sale("S-0")
    assert STORE_NAME in str(caught.value)
    assert "make them writable, then repeat" in str(caught.value)


# ---- the disk of the TSE -------------------------------------------------------------------------------


def test_a_tse_whose_disk_is_full_is_failed_mode(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    write, log = os.write, shop.tse.scu._driver._log._fd  # type: ignore[attr-defined]

    def full(descriptor: int, data: bytes) -> int:
        if descriptor == log:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr("fiskal.scu.software.log.os.write", full)
    assert shop.sale("S-0")["ftState"] == DE + 2
    monkeypatch.undo()
    assert shop.send(0x02)["ftState"] == DE
    assert shop.sale("S-1")["ftState"] == DE
    check(shop)


# ---- clocks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [1, 24, 24 * 400])
def test_a_clock_that_goes_back(shop: Shop, hours: int) -> None:
    answers = {"S-0": shop.sale("S-0")}
    shop.clock.ticks -= hours * HOUR
    answers["S-1"] = shop.sale("S-1")
    shop.reopen()
    answers["S-2"] = shop.sale("S-2")
    shop.send(0x07)
    assert shop.row.DailyClosingNumber == 1
    for reference, answer in answers.items():
        assert ask(shop, reference) == answer
    counts = check(shop)
    assert counts["receipts"] == 5
    rows = [item["ftQueueRow"] for item in shop.journal(3)]
    assert sorted(rows) == [1, 2, 3, 4, 5]
    last = json.loads(shop.actions_of("4445000000000007")[-1].DataJson)
    assert last["ftReceiptNumerator"] == 5


def test_a_clock_that_goes_back_over_an_interrupted_receipt(shop: Shop) -> None:
    queue = shop.middleware.queue(shop.queue_id)
    queue.journal.store = FailingStore(queue.journal.store, 2, stored=False)
    with pytest.raises(StoreError):
        shop.sale("S-0")
    shop.clock.ticks -= 24 * HOUR
    shop.reopen()
    answer = shop.sale("S-0")
    assert answer["ftReceiptIdentification"] == "ft1#IT2"
    assert shop.sale("S-1")["ftReceiptIdentification"] == "ft2#IT3"
    check(shop)
