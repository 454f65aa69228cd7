"""The mount of simulated mailboxes: direct access, refusals, parallel calls, the end."""

import contextlib
import errno
import mmap
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fiskal.errors import ConfigurationError
from fiskal.scu.transports.mailbox import DirectFile
from fiskal.simulators import fuse

pytestmark = pytest.mark.skipif(fuse.why_not() is not None, reason=fuse.why_not() or "")


class Drawer:
    """A mailbox that answers with its own block, letters turned upper case, and a file nobody may write.

    The file SLOW.DAT can be read when ``folder`` holds a file "open"; a file "gone" there unplugs the device.
    """

    def __init__(self, folder: str) -> None:
        self.block = bytes(512)
        self.folder = Path(folder)

    def sizes(self) -> dict[str, int]:
        if (self.folder / "gone").exists():
            return {}
        return {"BOX.DAT": 512, "STORE.001": 4096, "SLOW.DAT": 512}

    def read(self, name: str, offset: int, length: int) -> bytes:
        if (self.folder / "gone").exists():
            raise OSError(errno.ENODEV, "gone")
        while name == "SLOW.DAT" and not (self.folder / "open").exists():
            time.sleep(0.005)
        data = self.block if name == "BOX.DAT" else bytes(4096)
        return data[offset : offset + length]

    def write(self, name: str, offset: int, data: bytes) -> int:
        if name != "BOX.DAT" or offset:
            raise OSError(errno.EPERM, "no")
        self.block = data.upper()
        return len(data)


@pytest.fixture(scope="module")
def switches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("switches")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, switches: Path) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("a vólume")
    with fuse.Mount(Drawer, (str(switches),), place):
        yield place


def test_a_write_reaches_the_simulator_before_it_returns_also_past_the_cache(folder: Path) -> None:
    fd = os.open(folder / "BOX.DAT", os.O_RDWR | os.O_DIRECT | os.O_SYNC)
    try:
        buffer = mmap.mmap(-1, 512)
        for word in (b"one", b"two", b"three"):
            buffer[:] = word.ljust(512, b"\0")
            assert os.pwritev(fd, [buffer], 0) == 512
            assert os.preadv(fd, [buffer], 0) == 512
            assert buffer[:512].rstrip(b"\0") == word.upper()
    finally:
        os.close(fd)


def test_a_cached_reader_sees_what_is_there_now(folder: Path) -> None:
    with (folder / "BOX.DAT").open("rb") as reader:
        before = reader.read()
        assert before != b"X" * 512
        area = DirectFile(folder / "BOX.DAT")
        area.write(0, b"x" * 512)
        area.close()
        reader.seek(0)
        assert reader.read() == b"X" * 512


@pytest.mark.parametrize(
    "deed",
    [
        lambda f: (f / "NEW.DAT").write_bytes(b""),
        lambda f: (f / "BOX.DAT").unlink(),
        lambda f: (f / "BOX.DAT").rename(f / "B.DAT"),
        lambda f: os.truncate(f / "BOX.DAT", 0),
        lambda f: (f / "BOX.DAT").open("wb"),
        lambda f: (f / "folder").mkdir(),
        lambda f: (f / "link").symlink_to("BOX.DAT"),
        lambda f: (f / "BOX.DAT").chmod(0o600),
        lambda f: os.close(os.open(f / "BOX.DAT", os.O_WRONLY | os.O_APPEND)),
        lambda f: DirectFile(f / "STORE.001").write(512, bytes(512)),
    ],
)
def test_what_would_change_the_volume_is_refused(folder: Path, deed: object) -> None:
    with pytest.raises(PermissionError):
        deed(folder)  # type: ignore[operator]
    assert sorted(os.listdir(folder)) == ["BOX.DAT", "SLOW.DAT", "STORE.001"]
    assert (folder / "BOX.DAT").stat().st_size == 512


def test_a_read_that_waits_blocks_no_other_file(folder: Path, switches: Path) -> None:
    done = threading.Event()

    def slow() -> None:
        (folder / "SLOW.DAT").read_bytes()
        done.set()

    thread = threading.Thread(target=slow)
    thread.start()
    assert (folder / "STORE.001").read_bytes() == bytes(4096)
    assert not done.is_set()
    (switches / "open").touch()
    thread.join(10)
    assert done.is_set()


def test_an_unplugged_device_takes_its_files_along(folder: Path, switches: Path) -> None:
    area = DirectFile(folder / "BOX.DAT")
    area.read(0, 512)
    (switches / "gone").touch()
    with pytest.raises(OSError) as caught:
        area.read(0, 512)
    assert caught.value.errno == errno.ENODEV
    assert list(folder.iterdir()) == []
    (switches / "gone").unlink()
    assert len(area.read(0, 512)) == 512
    area.close()


@pytest.mark.parametrize("end", [fuse.Mount.close, fuse.Mount.kill])
def test_the_mount_ends_while_a_file_is_open(
    tmp_path: Path, switches: Path, end: Callable[[fuse.Mount], None]
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    mount = fuse.Mount(Drawer, (str(switches),), place)
    reader = (place / "BOX.DAT").open("rb")
    end(mount)
    assert not os.path.ismount(place)
    assert not mount.mounted
    with pytest.raises(OSError):
        reader.read()
    with contextlib.suppress(OSError):
        reader.close()


def test_the_volume_goes_when_the_process_that_mounted_it_dies(tmp_path: Path, switches: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    program = (
        "import sys, os, signal\n"
        "from fiskal.simulators.fuse import Mount\n"
        "from tests.simulators.test_fuse import Drawer\n"
        "if __name__ == '__main__':\n"
        "    mount = Mount(Drawer, (sys.argv[2],), sys.argv[1]); print(os.path.ismount(sys.argv[1]), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script), str(place), str(switches)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "True\n"
    until = time.monotonic() + 20
    while os.path.ismount(place) and time.monotonic() < until:
        time.sleep(0.02)
    assert not os.path.ismount(place)


def test_a_place_that_cannot_be_mounted_says_so(tmp_path: Path, switches: Path) -> None:
    with pytest.raises(ConfigurationError, match="Create it first"):
        fuse.Mount(Drawer, (str(switches),), tmp_path / "nothing")
