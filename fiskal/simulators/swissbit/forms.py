"""The forms of the simulated Swissbit TSE: files of a volume, a folder that is watched, a block image."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self

from fiskal.simulators.swissbit.device import Device, Settings
from fiskal.simulators.swissbit.store import BLOCK, Image, Windows

INFO: Final = "TSE_INFO.DAT"
MAILBOX: Final = "TSE_COMM.DAT"
WATCH_S: Final = 0.0005
INFO_EVERY_S: Final = 1.0


def device_over_windows(
    folder: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    control: Path | None = None,
    volume: Path | None = None,
    monotonic: Callable[[], float] | None = None,
) -> Device:
    """A device in ``folder`` whose store lies as TSE_TAR files in ``volume`` (its own sub-folder without)."""
    chosen = settings or Settings()

    def store(own: Path) -> Windows:
        place = volume or own / "volume"
        place.mkdir(parents=True, exist_ok=True)
        return Windows(place, chosen.capacity_blocks, chosen.window_blocks)

    if monotonic is None:
        return Device(folder, chosen, store=store, control=control)
    return Device(folder, chosen, store=store, control=control, monotonic=monotonic)


class Volume:
    """The files of a device's volume, for a mount or for use in the same process."""

    def __init__(self, device: Device) -> None:
        self.device = device
        window = device.settings.window_blocks * BLOCK
        left = device.settings.capacity_blocks * BLOCK
        self._sizes = {INFO: BLOCK, MAILBOX: BLOCK}
        self._begin: dict[str, int] = {}
        while left > 0:
            name = f"TSE_TAR.{len(self._begin) + 1:03d}"
            self._begin[name] = len(self._begin) * window
            self._sizes[name] = min(left, window)
            left -= window

    def sizes(self) -> Mapping[str, int]:
        return self._sizes if self.device.present else {}

    def read(self, name: str, offset: int, length: int) -> bytes:
        if name == MAILBOX:
            return self.device.read_mailbox()[offset : offset + length]
        self.device.check()
        if name == INFO:
            return self.device.info()[offset : offset + length]
        begin = self._begin[name]
        return self.device.store.read(begin + offset, max(0, min(length, self._sizes[name] - offset)))

    def write(self, name: str, offset: int, data: bytes) -> int:
        if name == MAILBOX and offset == 0:
            return self.device.write_mailbox(data)
        self.device.check()
        begin = self._begin.get(name)
        if begin is None or offset % BLOCK or len(data) % BLOCK or offset + len(data) > self._sizes[name]:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        self.device.writes += 1
        self.device.store.write(begin + offset, data)
        return len(data)


def volume(folder: str, settings: Settings | None = None, control: str | None = None) -> Volume:
    """The volume of the device in ``folder``: what :class:`fiskal.simulators.fuse.Mount` is given."""
    return Volume(device_over_windows(folder, settings, control=None if control is None else Path(control)))


class _Watched:
    """A device behind a block of a file: a thread looks for blocks that it did not write itself."""

    def __init__(
        self, device: Device, path: Path, mailbox_at: int, show_info: Callable[[bytes], None]
    ) -> None:
        self.device = device
        self._fd = os.open(path, os.O_RDWR)
        self._at = mailbox_at
        self._show_info = show_info
        self._stop = threading.Event()
        self._shown = b""
        self._show(device.read_mailbox())
        show_info(device.info())
        self._thread = threading.Thread(target=self._watch, name="swissbit", daemon=True)
        self._thread.start()

    def _show(self, block: bytes) -> None:
        if len(block) == BLOCK and block != self._shown:
            os.pwrite(self._fd, block, self._at)
            self._shown = block

    def _watch(self) -> None:
        looks = 0
        while not self._stop.wait(WATCH_S):
            looks += 1
            found = os.pread(self._fd, BLOCK, self._at)
            with contextlib.suppress(OSError):
                if found != self._shown and len(found) == BLOCK:
                    self._shown = found
                    self.device.write_mailbox(found)
                    looks = 0
                self._show(self.device.read_mailbox())
                if looks % int(INFO_EVERY_S / WATCH_S) == 0:
                    self._show_info(self.device.info())

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._fd)
        self.device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class WatchedFolder(_Watched):
    """The volume as plain files in ``directory``, which a thread watches.

    For machines without FUSE: who reads right after the write may see the own command, and what goes wrong with reads
    and writes (short ones, errors, unplugging) cannot be shown. ``folder`` is where the device lives.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        directory: str | os.PathLike[str],
        settings: Settings | None = None,
        *,
        control: Path | None = None,
    ) -> None:
        place = Path(directory)
        place.mkdir(parents=True, exist_ok=True)
        for name in (INFO, MAILBOX):
            (place / name).write_bytes(bytes(BLOCK))
        info = place / INFO

        def show_info(block: bytes) -> None:
            with info.open("r+b") as file:
                file.write(block)

        device = device_over_windows(folder, settings, control=control, volume=place)
        super().__init__(device, place / MAILBOX, 0, show_info)


class BlockImage(_Watched):
    """The device as a sparse image of a block device without a file system, watched like a folder.

    ``info``, ``mailbox`` and ``store`` are the sectors where these areas begin; sector 8 tells them.
    """

    TABLE: Final = 8

    def __init__(
        self,
        folder: str | os.PathLike[str],
        image: str | os.PathLike[str],
        settings: Settings | None = None,
        *,
        info: int = 40,
        mailbox: int = 48,
        store: int = 4096,
        control: Path | None = None,
    ) -> None:
        path = Path(image)
        chosen = settings or Settings()
        device = Device(
            folder,
            chosen,
            store=lambda own: Image(path, store * BLOCK, chosen.capacity_blocks),
            control=control,
        )
        table = b"".join(sector.to_bytes(4, "big") for sector in (info, mailbox, store))

        def show_info(block: bytes) -> None:
            with path.open("r+b") as file:
                file.seek(info * BLOCK)
                file.write(block)

        with path.open("r+b") as file:
            file.seek(self.TABLE * BLOCK)
            file.write(table)
        super().__init__(device, path, mailbox * BLOCK, show_info)
