"""Dying while the software TSE erases: what is found afterwards is the old log or the new one."""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fiskal.scu.errors import Misconfigured, ScuError, TseRejected
from fiskal.scu.software import SoftwareTse, open_software_tse
from fiskal.scu.software import log as records
from fiskal.tse.logmessage import parse
from fiskal.tse.tar import read_members
from fiskal.tse.tarverify import verify_tar

ITEM = str(uuid.uuid4())


class Died(BaseException):
    """The process is gone; nothing after this happens."""


STEPS: dict[str, tuple[Any, str]] = {
    "create": (os, "open"),
    "write": (os, "fdopen"),
    "sync": (os, "fsync"),
    "close": (os, "close"),
    "replace": (Path, "replace"),
    "sync_folder": (records, "sync_folder"),
}


@contextmanager
def failing(step: str, error: BaseException, after: bool) -> Iterator[None]:
    """Let one step of an erasure fail, before or after it was done."""
    owner, name = STEPS[step]
    original = getattr(owner, name)

    def fail(*args: Any, **options: Any) -> Any:
        if after:
            result = original(*args, **options)
            if name == "fdopen":
                result.close()
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, fail)
        yield


@pytest.fixture
def driver(tmp_path: Path, make_pos: Any) -> Iterator[SoftwareTse]:
    """Counters 1 to 11, nothing open; counters 1 to 4 were erased before, so that there is a base already."""
    scu = open_software_tse(tmp_path / "tse", client_ids=["POS-1"])
    scu._driver.erase(4, None)
    pos = make_pos(scu)
    for _ in range(2):
        pos.finish(pos.start().transaction_number)
    pos.finish(pos.start(ITEM).transaction_number)
    driver = scu._driver
    assert isinstance(driver, SoftwareTse)
    yield driver
    scu.close()


def found(folder: Path, make_pos: Any) -> list[int]:
    """The counters of a log, which must be sound and go on."""
    scu = open_software_tse(folder)
    driver = scu._driver
    assert isinstance(driver, SoftwareTse)
    messages = [parse(raw) for _, raw in driver.messages()]
    assert all(message.verify(driver.chain.public_key) for message in messages)
    counters = [message.signature_counter for message in messages]
    info = scu.get_tse_info()
    assert counters == list(range(counters[0], info.current_number_of_signatures + 1))
    assert info.current_client_ids == ["POS-1"]
    assert info.current_started_transaction_numbers == []
    pos = make_pos(scu)
    assert pos.start(ITEM, retry=True).transaction_number == 3
    started = pos.start()
    assert started.transaction_number == 4
    assert started.signature_data.signature_counter == counters[-1] + 1
    scu.close()
    assert not list(folder.glob("messages.log.new"))
    return counters


OLD = list(range(5, 12))
NEW = [10, 11, 12]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_dying_at_any_step(
    driver: SoftwareTse, tmp_path: Path, make_pos: Any, step: str, after: bool
) -> None:
    with failing(step, Died(), after), pytest.raises(Died):
        driver.erase(9, None)
    copy = tmp_path / "copy"
    shutil.copytree(driver.directory, copy)
    expected = (
        NEW if (step, after) in {("replace", True), ("sync_folder", False), ("sync_folder", True)} else OLD
    )
    assert found(copy, make_pos) == expected


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", ["create", "write", "sync", "replace", "sync_folder"])
def test_a_disk_that_refuses(driver: SoftwareTse, make_pos: Any, step: str, after: bool) -> None:
    error = OSError(errno.EIO, "input/output error")
    with failing(step, error, after), pytest.raises(TseRejected) as caught:
        driver.erase(9, None)
    assert caught.value.code == "ERASE_FAILED"
    assert driver.info(None).current_number_of_signatures in (11, 12)  # goes on without being opened again
    driver.erase(9, None)
    driver.close()
    counters = found(driver.directory, make_pos)
    assert counters[0] == 10
    assert counters[-1] == 12


def test_a_torn_new_log_is_never_used(driver: SoftwareTse, make_pos: Any) -> None:
    driver.close()
    staged = driver.directory / "messages.log.new"
    staged.write_bytes(b"FTL1 and nothing else")
    scu = open_software_tse(driver.directory)
    scu._driver.erase(9, None)
    scu.close()
    assert found(driver.directory, make_pos) == NEW


@pytest.mark.parametrize("checkpoint", ["old", "none", "current"])
def test_the_checkpoint_of_another_log(driver: SoftwareTse, make_pos: Any, checkpoint: str) -> None:
    path = driver.directory / "checkpoint"
    driver._checkpoint()
    old = path.read_bytes()
    driver.erase(9, None)
    driver.close()
    if checkpoint == "old":
        path.write_bytes(old)
    elif checkpoint == "none":
        path.unlink()
    assert found(driver.directory, make_pos) == NEW


def test_a_log_from_before_an_erasure_is_reported(driver: SoftwareTse) -> None:
    path = driver.directory / "messages.log"
    old = path.read_bytes()
    driver.erase(9, None)
    driver.close()
    path.write_bytes(old)
    with pytest.raises(Misconfigured) as caught:
        SoftwareTse(driver.directory)
    assert caught.value.code == "LOG_DAMAGED"


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_damaged_base_is_reported(driver: SoftwareTse, checkpoint: bool) -> None:
    driver.close()
    path = driver.directory / "messages.log"
    whole = path.read_bytes()
    if not checkpoint:
        (driver.directory / "checkpoint").unlink()
    end = records.RecordLog(path, durable=False)
    length = end.read(0).end
    end.close()
    for at in range(length):
        damaged = bytearray(whole)
        damaged[at] ^= 0x40
        path.write_bytes(damaged)
        with pytest.raises(Misconfigured) as caught:
            SoftwareTse(driver.directory)
        assert caught.value.code == "LOG_DAMAGED"


def test_an_erased_log_that_lost_signatures_is_reported(driver: SoftwareTse) -> None:
    driver.erase(9, None)
    driver.close()
    path = driver.directory / "messages.log"
    (driver.directory / "checkpoint").unlink()
    whole = path.read_bytes()
    log = records.RecordLog(path, durable=False)
    assert log.base is not None
    offset = log.base.checkpoint.offset
    log.close()
    path.write_bytes(whole[: offset - 1])
    with pytest.raises(ScuError) as caught:
        SoftwareTse(driver.directory)
    assert caught.value.code == "LOG_DAMAGED"


def test_bytes_that_look_like_a_record_in_a_message(tmp_path: Path, make_pos: Any) -> None:
    """Process data may hold a whole record; walking back through the log must not take it for one."""
    scu = open_software_tse(tmp_path / "tse", client_ids=["POS-1"])
    pos = make_pos(scu)
    false = records.encode(records.OP_FINISH, 3, 1, 0, 0, b"item", b"POS-1", b"no message")
    for _ in range(3):
        pos.finish(pos.start().transaction_number, records.MAGIC * 3 + false + records.MAGIC)
    scu._driver.erase(8, None)
    driver = scu._driver
    assert isinstance(driver, SoftwareTse)
    assert [counter for counter, _ in driver.messages()] == [9, 10, 11]
    scu.close()
    with open_and_read(tmp_path / "tse") as counters:
        assert counters == [9, 10, 11]


@contextmanager
def open_and_read(folder: Path) -> Iterator[list[int]]:
    driver = SoftwareTse(folder)
    yield [counter for counter, _ in driver.messages()]
    driver.close()


def test_many_calls_are_remembered_and_no_more(
    tmp_path: Path, make_pos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fiskal.scu.software.tse.RECENT_CALLS", 4)
    scu = open_software_tse(tmp_path / "tse", client_ids=["POS-1"])
    pos = make_pos(scu)
    items = [str(uuid.uuid4()) for _ in range(6)]
    for item in items:
        pos.finish(pos.start(item).transaction_number, item=item)
    scu._driver.erase(14, None)  # the finish of the fifth
    before = scu.get_tse_info().current_number_of_signatures
    for number, item in list(enumerate(items, 1))[3:]:
        assert pos.finish(number, item=item, retry=True).transaction_number == number
    assert scu.get_tse_info().current_number_of_signatures == before
    with pytest.raises(TseRejected):
        pos.finish(1, item=items[0], retry=True)
    scu.close()


PROGRAM = """
import base64, hashlib, os, sys, time, uuid
from fiskal.scu.contract import *
from fiskal.scu.software import open_software_tse
scu = open_software_tse(sys.argv[1], client_ids=["POS-1"])
info = scu.get_tse_info()
def finish(number):
    done = scu.finish_transaction(FinishTransactionRequest(client_id="POS-1", transaction_number=number))
    print("signed", done.signature_data.signature_counter, flush=True)
for number in info.current_started_transaction_numbers:
    finish(number)
print("ready", flush=True)
while True:
    for _ in range(5):
        began = scu.start_transaction(StartTransactionRequest(client_id="POS-1", queue_item_id=str(uuid.uuid4())))
        print("signed", began.signature_data.signature_counter, flush=True)
        finish(began.transaction_number)
    token = scu.start_export_session(StartExportSessionRequest(erase=True)).token_id
    while not (part := scu.export_data(ExportDataRequest(token_id=token, max_chunk_size=1 << 20))
               ).total_tar_file_size_available:
        time.sleep(0.001)
    tar = base64.b64decode(part.tar_file_byte_chunk_base64)
    assert part.tar_file_end_of_file
    name = sys.argv[2] + "/" + token + ".tar"
    with open(name + ".part", "wb") as out:
        out.write(tar)
    os.replace(name + ".part", name)
    checksum = base64.b64encode(hashlib.sha256(tar).digest()).decode()
    ended = scu.end_export_session(
        EndExportSessionRequest(token_id=token, sha256_checksum_base64=checksum, erase=True))
    assert ended.is_erased
    print("erased", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_kill_9_while_exporting_and_erasing(tmp_path: Path) -> None:
    """Every signature that was answered is in an archive or in the log, and none is there in two forms."""
    source = random.Random(7)
    archive = tmp_path / "archive"
    archive.mkdir()
    answered: set[int] = set()
    erased = rounds = 0
    while rounds < 10 or (erased <= 10 and rounds < 100):  # a busy machine gets less done between two kills
        rounds += 1
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "tse"), str(archive)],
            stdout=subprocess.PIPE,
            text=True,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        with process.stdout as stdout:
            while stdout.readline() != "ready\n":
                assert process.poll() is None
            # So far by what it says it has done, which is the same on a busy machine; then at any moment.
            lines = [stdout.readline() for _ in range(source.randrange(12, 24))]
            time.sleep(source.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
            lines += stdout.read().splitlines(keepends=True)
        process.wait()
        answered |= {
            int(line.split()[1]) for line in lines if line.startswith("signed") and line.endswith("\n")
        }
        erased += lines.count("erased\n")
    messages: dict[int, bytes] = {}
    for path in archive.glob("*.tar"):
        content = path.read_bytes()
        report = verify_tar(io.BytesIO(content))
        assert report.ok, report.findings
        for member in read_members(io.BytesIO(content)):
            if member.name.endswith(".log"):
                assert member.data is not None
                counter = parse(member.data).signature_counter
                assert messages.setdefault(counter, member.data) == member.data
    driver = SoftwareTse(tmp_path / "tse", create=False)
    for counter, raw in driver.messages():
        assert messages.setdefault(counter, raw) == raw
    assert sorted(messages) == list(range(1, driver.info(None).current_number_of_signatures + 1))
    assert answered <= messages.keys()
    assert erased > 10
    assert not list((tmp_path / "tse").glob("*.new"))
    driver.close()
