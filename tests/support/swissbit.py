"""Swissbit TSEs for tests: the simulated device in each of its forms, with the driver that uses it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from fiskal.scu.callstore import SqliteCallStore
from fiskal.scu.core import ScuCore
from fiskal.scu.drivers.swissbit.driver import SwissbitDriver
from fiskal.scu.drivers.swissbit.media import BlockMedium, FilesMedium, Medium
from fiskal.scu.drivers.swissbit.options import Options
from fiskal.scu.transports import NotSent
from fiskal.scu.transports.mailbox import ShortTransfer
from fiskal.simulators import fuse
from fiskal.simulators.plan import Fault, Plan
from fiskal.simulators.swissbit import (
    BlockImage,
    Device,
    Settings,
    Volume,
    WatchedFolder,
    commission,
    device_over_windows,
    volume,
)

PUK, ADMIN_PIN, TIME_PIN = "314159", "27182", "16180"
CLIENT: Final = "KASSE-01"
MANAGEMENT: Final = "fiskal"
FAST: Final = Plan(scale=0)
SMALL: Final = 65_536
"""Blocks of the store of a device for tests: 32 MiB, sparse."""


def settings(**changes: Any) -> Settings:
    return msgspec.structs.replace(
        Settings(plan=FAST, capacity_blocks=SMALL, window_blocks=SMALL // 2), **changes
    )


def options(folder: Path, **changes: Any) -> Options:
    base: dict[str, Any] = {
        "admin_pin": ADMIN_PIN,
        "time_admin_pin": TIME_PIN,
        "puk": PUK,
        "direct_io": "auto",
        "stale_limit_s": 0.3,
        "data_late_s": 0.3,
        "close_timeout_s": 1,
        "timeout_s": 1,
        "lock_directory": str(folder),
    }
    return Options(**{**base, **changes})


class AreaOfVolume:
    """A file of a simulated volume in the same process, as a driver's area."""

    def __init__(self, files: Volume, name: str) -> None:
        self._files = files
        self.name = name

    def read(self, offset: int, length: int) -> bytes:
        data = self._files.read(self.name, offset, length)
        if len(data) != length:
            raise ShortTransfer("read", len(data), length)
        return data

    def write(self, offset: int, data: bytes) -> None:
        done = self._files.write(self.name, offset, data)
        if done != len(data):
            raise ShortTransfer("written", done, len(data))

    def reopen(self) -> None:
        if not self._files.device.present:
            raise NotSent("The simulated device is unplugged.")

    def close(self) -> None:
        pass


class InProcessMedium:
    """The medium over a simulated volume in the same process."""

    def __init__(self, files: Volume) -> None:
        self.name = "in process"
        self.mailbox = AreaOfVolume(files, "TSE_COMM.DAT")
        self.files = files
        self._window = files.device.settings.window_blocks

    def read_info(self) -> bytes:
        return AreaOfVolume(self.files, "TSE_INFO.DAT").read(0, 512)

    def _parts(self, block: int, count: int) -> Iterator[tuple[AreaOfVolume, int, int]]:
        while count > 0:
            index, at = divmod(block, self._window)
            size = min(count, self._window - at)
            yield AreaOfVolume(self.files, f"TSE_TAR.{index + 1:03d}"), at * 512, size * 512
            block += size
            count -= size

    def read_store(self, block: int, count: int) -> bytes:
        return b"".join(area.read(at, size) for area, at, size in self._parts(block, count))

    def write_store(self, block: int, data: bytes) -> None:
        for area, at, size in self._parts(block, len(data) // 512):
            area.write(at, data[:size])
            data = data[size:]

    def forget(self) -> None:
        pass

    def close(self) -> None:
        pass


def ready_device(folder: Path, chosen: Settings | None = None, **more: Any) -> Device:
    device = device_over_windows(folder / "device", chosen or settings(), **more)
    commission(device, PUK, ADMIN_PIN, TIME_PIN, [MANAGEMENT, CLIENT])
    return device


class Bench:
    """A device, the driver on it and the SCU over both, in ``folder``; ``restart`` opens driver and SCU anew."""

    def __init__(
        self, folder: Path, medium: Callable[[], Medium], device: Device | None, **changes: Any
    ) -> None:
        self.folder = folder
        self.device = device
        self.medium = medium
        self.changes = changes
        (folder / "scu").mkdir(exist_ok=True)
        self._open()

    def _open(self) -> None:
        self.driver = SwissbitDriver(
            self.medium, options(self.folder, **self.changes), folder=self.folder / "scu"
        )
        self.scu = ScuCore(self.driver, calls=SqliteCallStore(self.folder / "scu" / "calls.sqlite"))

    def close(self) -> None:
        self.scu.close()

    def restart(self, **changes: Any) -> None:
        self.scu.close()
        self.changes.update(changes)
        self._open()

    def inject(self, kind: str, command: str = "*", **more: Any) -> None:
        assert self.device is not None
        self.device.conductor.inject(Fault(kind=kind, command=command, **more))

    def calm(self) -> None:
        assert self.device is not None
        self.device.conductor.take(FAST)


@contextmanager
def in_process(folder: Path, chosen: Settings | None = None, **changes: Any) -> Iterator[Bench]:
    device = ready_device(folder, chosen)
    bench = Bench(folder, lambda: InProcessMedium(Volume(device)), device, **changes)
    try:
        yield bench
    finally:
        bench.scu.close()
        device.close()


@contextmanager
def watched_folder(folder: Path, chosen: Settings | None = None, **changes: Any) -> Iterator[Bench]:
    chosen = chosen or settings()
    ready_device(folder, chosen).close()
    place = folder / "a vólume"
    with WatchedFolder(folder / "device", place, chosen) as form:
        bench = Bench(
            folder,
            lambda: FilesMedium(place, direct_io="auto", window_blocks=chosen.window_blocks),
            form.device,
            **changes,
        )
        try:
            yield bench
        finally:
            bench.scu.close()


@contextmanager
def mounted(folder: Path, chosen: Settings | None = None, **changes: Any) -> Iterator[Bench]:
    chosen = chosen or settings()
    ready_device(folder, chosen).close()
    place = folder / "mnt"
    place.mkdir()
    with (
        fuse.Mount(volume, (str(folder / "device"), chosen, str(folder / "plan.json")), place) as _,
        ExitStack() as stack,
    ):
        bench = Bench(
            folder,
            lambda: FilesMedium(place, window_blocks=chosen.window_blocks),
            None,
            **{"direct_io": "required", **changes},
        )
        stack.callback(bench.close)
        yield bench


@contextmanager
def block_image(folder: Path, chosen: Settings | None = None, **changes: Any) -> Iterator[Bench]:
    chosen = chosen or settings()
    ready_device(folder, chosen).close()
    image = folder / "image"
    with BlockImage(folder / "device", image, chosen) as form:
        bench = Bench(folder, lambda: BlockMedium(image), form.device, **changes)
        try:
            yield bench
        finally:
            bench.scu.close()


FORMS: Final = {
    "in process": in_process,
    "watched folder": watched_folder,
    "mounted": mounted,
    "block image": block_image,
}


def scratch() -> Path:
    """A folder on a memory file system where there is one: a simulator writes much that nobody has to keep."""
    return Path(tempfile.mkdtemp(prefix="fiskal-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
