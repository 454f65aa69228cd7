"""Files are whole or not there, whatever happens in between."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fiskal import files

OLD, NEW = b"old" * 1000, b"new" * 2000
posix_only = pytest.mark.skipif(os.name != "posix", reason="permissions and folder sync are POSIX's")


class Crash(BaseException):
    """The process ends here."""


STEPS = {
    "create": (os, "open"),
    "fill": (os, "fdopen"),
    "sync": (os, "fsync"),
    "replace": (Path, "replace"),
    "sync_folder": (files, "sync_folder"),
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_crash_leaves_the_old_file_or_the_new_one(
    step: str, after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, OLD, 0o600)
    owner, name = STEPS[step]
    real = getattr(owner, name)

    def crash(*arguments: Any, **named: Any) -> Any:
        if after:
            done = real(*arguments, **named)
            if step == "create":
                os.close(done)
            elif step == "fill":
                done.close()
        monkeypatch.undo()
        monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # a process that died takes nothing away
        raise Crash

    monkeypatch.setattr(owner, name, crash)
    with pytest.raises(Crash):
        files.write_atomically(path, NEW, 0o600)
    monkeypatch.undo()
    is_new = (step, after) == ("replace", True) or step == "sync_folder"
    assert path.read_bytes() == (NEW if is_new else OLD)
    files.write_atomically(path, NEW, 0o600)  # what was left behind is in nobody's way
    assert path.read_bytes() == NEW
    assert os.listdir(tmp_path) == ["file"]


def test_it_is_on_the_disk_before_it_takes_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is the promise: content, place, name."""
    seen: list[str] = []
    for step in ("sync", "replace", "sync_folder"):
        owner, name = STEPS[step]
        real = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *given, _step=step, _real=real: (seen.append(_step), _real(*given))[1]
        )
    files.write_atomically(tmp_path / "file", NEW)
    assert seen == ["sync", "replace", "sync_folder", *["sync"] * (os.name == "posix")]
    seen.clear()
    files.write_atomically(tmp_path / "file", OLD, durable=False)
    assert seen == ["replace"]


def test_a_block_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, OLD)

    def fill_half() -> None:
        with files.replacing(path) as file:
            file.write(NEW)
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half"):
        fill_half()
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["file"]


def test_a_disk_that_is_full_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, OLD)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_atomically(path, NEW)
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["file"]


@posix_only
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_secret_is_one_from_its_first_byte(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    path.chmod(0o666)
    files.staged_path(path).write_bytes(b"left behind, and readable by all")
    files.staged_path(path).chmod(0o666)
    before = os.umask(0)
    try:
        with files.replacing(path, mode) as file:
            assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == mode
            file.write(NEW)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_bytes() == NEW


HOLD = """
import sys
from pathlib import Path
from fiskal.files import FileLock
lock = FileLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = files.FileLock(path)
    with pytest.raises(files.Taken, match="is locked"):
        files.FileLock(path)
    lock.release()
    lock.release()
    files.FileLock(path).release()
    assert path.exists()
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"held"
        with pytest.raises(files.Taken):
            files.FileLock(path)
        other.kill()
    files.FileLock(path).release()


def test_a_lock_where_no_file_can_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.FileLock(tmp_path / "nowhere" / "lock")
