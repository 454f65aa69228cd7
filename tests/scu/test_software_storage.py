"""The software TSE and its folder: torn tails, damage, lost checkpoints, full disks, other processes."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fiskal.errors import FiskalError
from fiskal.scu.contract import RegisterClientIdRequest, TseState, TseStates
from fiskal.scu.core import ScuCore
from fiskal.scu.errors import Misconfigured, OutcomeUnknown, ScuError, TseRejected
from fiskal.scu.software import SoftwareTse, open_software_tse
from fiskal.scu.software.log import MAX_BODY, Record
from fiskal.tse.logmessage import parse


@pytest.fixture
def folder(tmp_path: Path, make_pos: Any) -> Path:
    """A closed TSE with 4 administrative messages, 3 finished transactions and one open."""
    scu = open_software_tse(tmp_path / "tse", client_ids=["POS-1"])
    pos = make_pos(scu)
    for _ in range(3):
        pos.finish(pos.start().transaction_number)
    pos.start()
    scu.close()
    return tmp_path / "tse"


def counters(folder: Path, **options: Any) -> list[int]:
    driver = SoftwareTse(folder, create=False, **options)
    try:
        found = list(driver.messages())
        assert all(parse(raw).verify(driver.chain.public_key) for _, raw in found)
        assert driver.info(None).current_number_of_signatures == len(found)
        return [counter for counter, _ in found]
    finally:
        driver.close()


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(Misconfigured) as caught:
        action()
    return caught.value.code


def record_offsets(folder: Path) -> list[int]:
    driver = SoftwareTse(folder)
    try:
        return [record.offset for record in driver._log.records()]
    finally:
        driver.close()


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_torn_last_record_is_cut_off_wherever_it_tore(
    folder: Path, checkpoint: bool, make_pos: Any, caplog: pytest.LogCaptureFixture
) -> None:
    last = record_offsets(folder)[-1]
    log = folder / "messages.log"
    whole = log.read_bytes()
    (folder / "checkpoint").unlink()
    if checkpoint:  # one from before the last record
        log.write_bytes(whole[:last])
        assert len(counters(folder)) == 10
    saved = {path: path.read_bytes() for path in folder.iterdir() if path.name != "messages.log"}
    for length in range(last, len(whole)):
        for path, content in saved.items():
            path.write_bytes(content)
        if not checkpoint:
            (folder / "checkpoint").unlink(missing_ok=True)
        log.write_bytes(whole[:length])
        caplog.clear()
        assert counters(folder) == list(range(1, 11))
        assert ("cut off" in caplog.text) == (length > last)
        assert log.stat().st_size == last
    scu = open_software_tse(folder)
    started = make_pos(scu).start()
    assert (started.transaction_number, started.signature_data.signature_counter) == (4, 11)
    scu.close()


def test_zeros_in_place_of_the_last_record_are_cut_off(folder: Path) -> None:
    last = record_offsets(folder)[-1]
    log = folder / "messages.log"
    whole = log.read_bytes()
    for kept in (0, 4, 12, 60, 200):
        (folder / "checkpoint").unlink(missing_ok=True)
        log.write_bytes(whole[: last + kept] + bytes(len(whole) - last - kept))
        assert counters(folder) == list(range(1, 11))


def test_damage_in_the_middle_is_reported_wherever_it_is(folder: Path) -> None:
    offsets = record_offsets(folder)
    log = folder / "messages.log"
    whole = log.read_bytes()
    (folder / "checkpoint").unlink()
    for at in range(offsets[4], offsets[5]):
        damaged = bytearray(whole)
        damaged[at] ^= 0x40
        log.write_bytes(damaged)
        assert code_of(lambda: SoftwareTse(folder)) == "LOG_DAMAGED"
        assert log.read_bytes() == damaged
    damaged = bytearray(whole)
    damaged[-1] ^= 1  # complete, so nobody died writing it
    log.write_bytes(damaged)
    assert code_of(lambda: SoftwareTse(folder)) == "LOG_DAMAGED"
    log.write_bytes(whole[: offsets[4]] + whole[offsets[5] :])
    assert code_of(lambda: SoftwareTse(folder)) == "LOG_DAMAGED"
    log.write_bytes(whole + bytes(MAX_BODY + 100) + b"x")
    assert code_of(lambda: SoftwareTse(folder)) == "LOG_DAMAGED"
    log.write_bytes(whole)
    assert counters(folder) == list(range(1, 12))


def test_a_log_that_lost_signatures_is_reported(folder: Path) -> None:
    last = record_offsets(folder)[-1]
    log = folder / "messages.log"
    whole = log.read_bytes()
    log.write_bytes(whole[:last])
    assert code_of(lambda: SoftwareTse(folder)) == "LOG_DAMAGED"
    log.unlink()
    assert code_of(lambda: SoftwareTse(folder)) == "LOG_DAMAGED"


@pytest.mark.parametrize("content", [None, b"", b"\0" * 200, b"00000000\n{}", b"x\n"])
def test_a_checkpoint_that_is_missing_or_damaged(folder: Path, content: bytes | None, make_pos: Any) -> None:
    (folder / "checkpoint").unlink()
    if content is not None:
        (folder / "checkpoint").write_bytes(content)
    scu = open_software_tse(folder)
    info = scu.get_tse_info()
    assert info.current_state is TseStates.INITIALIZED
    assert info.current_client_ids == ["POS-1"]
    assert info.current_started_transaction_numbers == [4]
    assert info.current_number_of_signatures == 11
    finished = make_pos(scu).finish(4)
    assert finished.signature_data.signature_counter == 12
    scu.close()
    assert counters(folder) == list(range(1, 13))


def test_a_checkpoint_that_a_dying_process_left_half_written_is_removed(folder: Path) -> None:
    (folder / "checkpoint.new").write_bytes(b"00000000\n{")
    scu = open_software_tse(folder)
    assert scu.get_tse_info().current_number_of_signatures == 11
    assert not (folder / "checkpoint.new").exists()
    scu.close()


def test_checkpoints_while_running(tmp_path: Path, make_pos: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tse"
    scu = ScuCore(SoftwareTse(folder, checkpoint_every=7))
    scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    scu.register_client_id(RegisterClientIdRequest(client_id="POS-1"))
    pos = make_pos(scu)
    numbers = [pos.start().transaction_number for _ in range(30)]
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    replayed: list[Record] = []
    original = SoftwareTse._apply

    def counting(self: SoftwareTse, record: Record) -> None:
        replayed.append(record)
        original(self, record)

    monkeypatch.setattr(SoftwareTse, "_apply", counting)
    reopened = open_software_tse(copy)
    assert reopened.get_tse_info().current_started_transaction_numbers == numbers
    assert len(replayed) < 7
    assert make_pos(reopened).finish(numbers[0]).start_transaction_time_stamp is not None
    reopened.close()
    scu.close()


def test_a_checkpoint_that_cannot_be_written_costs_nothing(
    folder: Path, make_pos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    scu = open_software_tse(folder)
    scu._driver._checkpoint_at = 0  # type: ignore[attr-defined]
    monkeypatch.setattr("fiskal.scu.software.tse.write_checkpoint", fail)
    make_pos(scu).start()
    scu.close()
    assert counters(folder) == list(range(1, 13))


def test_durable_syncs_every_signature(
    tmp_path: Path, make_pos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("fiskal.scu.software.log._sync", synced.append)
    scu = open_software_tse(tmp_path / "a", durable=True, client_ids=["POS-1"])
    make_pos(scu).start()
    assert len(synced) == 5
    scu.close()
    scu = open_software_tse(tmp_path / "b", client_ids=["POS-1"])
    make_pos(scu).start()
    assert len(synced) == 5
    scu.close()


def test_a_sync_that_fails_leaves_the_outcome_unknown(
    tmp_path: Path, make_pos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scu = open_software_tse(tmp_path / "a", durable=True, client_ids=["POS-1"])
    pos = make_pos(scu)

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    item = str(uuid.uuid4())
    with monkeypatch.context() as patch:
        patch.setattr("fiskal.scu.software.log._sync", fail)
        with pytest.raises(OutcomeUnknown):
            pos.start(item)
    assert pos.start(item, retry=True).transaction_number == 1
    assert pos.start().transaction_number == 2
    scu.close()
    assert counters(tmp_path / "a") == list(range(1, 7))


@pytest.mark.parametrize("written", [0, 1, 11, 12, 100, -1])
def test_a_full_disk_consumes_nothing(
    folder: Path, make_pos: Any, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    scu = open_software_tse(folder)
    pos = make_pos(scu)
    write = os.write

    def short(fd: int, data: bytes) -> int:
        if written < 0:
            raise OSError(errno.ENOSPC, "no space")
        return write(fd, data[:written])

    with monkeypatch.context() as patch:
        patch.setattr("fiskal.scu.software.log.os.write", short)
        with pytest.raises(TseRejected) as caught:
            pos.start()
        assert caught.value.code == "MEMORY_FULL"
    started = pos.start()
    assert (started.transaction_number, started.signature_data.signature_counter) == (5, 12)
    scu.close()
    assert counters(folder) == list(range(1, 13))


@pytest.mark.parametrize("point", ["before", "after"])
def test_an_interruption_while_writing(
    folder: Path, make_pos: Any, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """An interrupt between the write and the change in memory: the next call knows what was signed."""
    scu = open_software_tse(folder)
    pos = make_pos(scu)
    write = os.write

    def interrupted(fd: int, data: bytes) -> int:
        if point == "after":
            write(fd, data)
        raise KeyboardInterrupt

    item = str(uuid.uuid4())
    with monkeypatch.context() as patch:
        patch.setattr("fiskal.scu.software.log.os.write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pos.start(item)
    again = pos.start(item, retry=True)
    assert (again.transaction_number, again.signature_data.signature_counter) == (5, 12)
    assert pos.start().transaction_number == 6
    scu.close()
    assert counters(folder) == list(range(1, 14))


def test_a_bug_in_the_driver_is_an_unknown_outcome(
    folder: Path, make_pos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scu = open_software_tse(folder)
    pos = make_pos(scu)
    with monkeypatch.context() as patch:
        patch.setattr("fiskal.scu.software.tse.plain_signature", lambda *_: 1 / 0)
        with pytest.raises(OutcomeUnknown) as caught:
            pos.start()
        assert caught.value.code == "INTERNAL"
    with monkeypatch.context() as patch:
        patch.setattr(scu, "_require", lambda *_: 1 / 0)
        with pytest.raises(ScuError) as before:
            pos.start()
        assert (type(before.value).__name__, before.value.code) == ("Unreachable", "INTERNAL")
    assert pos.start().transaction_number == 5
    scu.close()
    assert counters(folder) == list(range(1, 13))


def test_an_open_tse_is_in_use(folder: Path) -> None:
    driver = SoftwareTse(folder)
    assert code_of(lambda: SoftwareTse(folder)) == "DEVICE_IN_USE"
    program = (
        "import sys\nfrom fiskal.scu.errors import Misconfigured\n"
        "from fiskal.scu.software import SoftwareTse\n"
        "try:\n    SoftwareTse(sys.argv[1])\nexcept Misconfigured as error:\n    print(error.code)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True
    )
    assert run.stdout == "DEVICE_IN_USE\n"
    driver.close()
    driver.close()
    SoftwareTse(folder).close()


def test_creation(tmp_path: Path) -> None:
    assert code_of(lambda: SoftwareTse(tmp_path / "none", create=False)) == "NOT_PERSONALISED"
    assert not (tmp_path / "none").exists()
    assert code_of(lambda: SoftwareTse(tmp_path, create=False)) == "NOT_PERSONALISED"
    folder = tmp_path / "a" / "b"
    driver = SoftwareTse(folder, curve="brainpoolP384r1", log_version=3)
    assert driver.description.serial == driver.chain.serial.hex()
    driver.close()
    if os.name == "posix":
        assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    driver = SoftwareTse(folder)
    assert (driver.description.curve, driver.description.log_version) == ("brainpoolP384r1", 3)
    assert driver.info(None).current_state is TseStates.UNINITIALIZED
    driver.close()
    for options in ({"curve": "secp256k1"}, {"log_version": 4}):
        with pytest.raises(FiskalError):
            SoftwareTse(tmp_path / "bad", **options)


@pytest.mark.parametrize("name", ["tse.json", "key.pem", "chain.pem"])
def test_a_folder_that_does_not_fit_together(folder: Path, tmp_path: Path, name: str) -> None:
    SoftwareTse(tmp_path / "other").close()
    shutil.copy(tmp_path / "other" / name, folder / name)
    assert code_of(lambda: SoftwareTse(folder)) == "LOG_DAMAGED"
    (folder / name).write_bytes(b"\0")
    assert code_of(lambda: SoftwareTse(folder)) == "LOG_DAMAGED"
    (folder / name).unlink()
    assert code_of(lambda: SoftwareTse(folder)) == "LOG_DAMAGED"


def test_a_creation_that_was_interrupted_begins_anew(tmp_path: Path) -> None:
    SoftwareTse(tmp_path).close()
    (tmp_path / "tse.json").unlink()
    (tmp_path / "checkpoint").unlink()
    SoftwareTse(tmp_path).close()
    assert counters(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="a file in place of a folder")
def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert code_of(lambda: SoftwareTse(tmp_path / "file" / "tse")) == "TSE_NOT_AVAILABLE"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"format": 1', '"format": 2'),
        ("secp256r1", "secp999"),
        ("unixTime", "lunarTime"),
        ('"log_version": 2', '"log_version": 5'),
    ],
)
def test_a_description_of_something_else(folder: Path, old: str, new: str) -> None:
    path = folder / "tse.json"
    path.write_text(path.read_text().replace(old, new))
    assert code_of(lambda: SoftwareTse(folder)) == "LOG_DAMAGED"


def test_a_self_test_that_fails(folder: Path) -> None:
    driver = SoftwareTse(folder)
    driver.self_test(None)
    driver._key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(TseRejected) as caught:
        driver.self_test(None)
    assert caught.value.code == "SECURE_STATE"
    driver.close()
    driver.close()


def test_messages_can_be_read_while_others_sign(folder: Path, make_pos: Any) -> None:
    scu = open_software_tse(folder)
    pos = make_pos(scu)
    seen = []
    for counter, _ in scu._driver.messages(8):  # type: ignore[attr-defined]
        seen.append(counter)
        pos.start()
    assert seen == [8, 9, 10, 11]
    scu.close()
