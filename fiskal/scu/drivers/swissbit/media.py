"""The areas of a Swissbit TSE: info block, mailbox and store, on a mounted volume or in sectors (tse-swissbit §3).

Which of the two it is nobody above needs to know. Nothing but the mailbox and blocks that the device itself named is
ever written.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final, Protocol

from fiskal.frames import swissbit as frames
from fiskal.scu.transports import NotSent
from fiskal.scu.transports.blockdevice import Sectors, open_device
from fiskal.scu.transports.mailbox import Area, DirectFile, DirectIo

INFO_FILE: Final = "TSE_INFO.DAT"
MAILBOX_FILE: Final = "TSE_COMM.DAT"
STORE_FILE: Final = "TSE_TAR.%03d"
BLOCK: Final = frames.BLOCK
WINDOW_BLOCKS: Final = 2_097_152
TABLE_SECTOR: Final = 8
MAX_STORE_BLOCKS: Final = 1 << 28
_UDEV: Final = "A udev rule or the mount option uid= does that; see docs/devices/swissbit.md."


class Medium(Protocol):
    """One device. Every method raises OSError or a TransportError; used by one thread at a time."""

    name: str
    mailbox: Area

    def read_info(self) -> bytes:
        """The info block, 512 bytes."""
        ...

    def read_store(self, block: int, count: int) -> bytes: ...
    def write_store(self, block: int, data: bytes) -> None: ...
    def forget(self) -> None:
        """Close what is open but the mailbox; the next use opens it again."""
        ...

    def close(self) -> None: ...


class FilesMedium:
    """A mounted volume. ``window_blocks`` is how much of the store one file holds."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        direct_io: DirectIo = "required",
        window_blocks: int = WINDOW_BLOCKS,
    ) -> None:
        self._root = Path(root)
        self.name = str(self._root)
        self._direct_io = direct_io
        self._window = window_blocks
        self._info = DirectFile(
            self._root / INFO_FILE, direct_io=direct_io, writable=False, volume_hint=_UDEV
        )
        self.mailbox: Area = DirectFile(self._root / MAILBOX_FILE, direct_io=direct_io, volume_hint=_UDEV)
        self._windows: list[DirectFile] = []

    def read_info(self) -> bytes:
        self._info.open()
        return self._info.read(0, BLOCK)

    def _find_windows(self) -> list[DirectFile]:
        if not self._windows:
            number = 1
            while (path := self._root / (STORE_FILE % number)).exists() and number <= 99:
                self._windows.append(DirectFile(path, direct_io=self._direct_io, volume_hint=_UDEV))
                number += 1
            if not self._windows:
                raise NotSent(
                    f"{self._root} has no {STORE_FILE % 1}.", hint="Is it a TSE, and is it mounted?"
                )
        return self._windows

    def _parts(self, block: int, count: int) -> list[tuple[DirectFile, int, int]]:
        """File, its block and number of blocks of each window that a stretch touches."""
        windows = self._find_windows()
        parts = []
        while count > 0:
            index, at = divmod(block, self._window)
            if index >= len(windows):
                raise NotSent(f"The store of {self._root} has no block {block}.")
            size = min(count, self._window - at)
            parts.append((windows[index], at, size))
            block += size
            count -= size
        return parts

    def read_store(self, block: int, count: int) -> bytes:
        return b"".join(file.read(at * BLOCK, size * BLOCK) for file, at, size in self._parts(block, count))

    def write_store(self, block: int, data: bytes) -> None:
        done = 0
        for file, at, size in self._parts(block, len(data) // BLOCK):
            file.write(at * BLOCK, data[done : done + size * BLOCK])
            done += size * BLOCK

    def forget(self) -> None:
        self._info.close()
        for file in self._windows:
            file.close()
        self._windows = []

    def close(self) -> None:
        self.forget()
        self.mailbox.close()


class BlockMedium:
    """Sectors of a block device: a table in sector 8 says where the areas begin. Raises NotSent for another device.

    Experimental until it was proven on a stick: the route is known from one source only.
    """

    def __init__(self, path: str | os.PathLike[str], *, writable: bool = True) -> None:
        self.name = str(path)
        self._device = open_device(path, writable=writable)
        self._device.open()
        try:
            table = frames.read_sector_table(self._device.read(TABLE_SECTOR * BLOCK, BLOCK))
            info, mailbox, store = table
            if not all(table) or len(set(table)) < 3 or TABLE_SECTOR in table:
                raise NotSent(f"{path} is no Swissbit TSE: sector 8 holds no table of its areas.")
            self._info = Sectors(self._device, info, 1, "info", writable=False)
            if not frames.read_info(self._info.read(0, BLOCK)).has_magic:
                raise NotSent(f"{path} is no Swissbit TSE: its info sector does not begin with GMISRLS.")
        except OSError as error:
            self._device.close()
            raise NotSent(f"{path} cannot be read: {error.strerror}.") from error
        except BaseException:
            self._device.close()
            raise
        self.mailbox: Area = Sectors(self._device, mailbox, 1, "mailbox", writable=writable)
        self._store = Sectors(self._device, store, MAX_STORE_BLOCKS, "store", writable=writable)

    def read_info(self) -> bytes:
        return self._info.read(0, BLOCK)

    def read_store(self, block: int, count: int) -> bytes:
        return self._store.read(block * BLOCK, count * BLOCK)

    def write_store(self, block: int, data: bytes) -> None:
        self._store.write(block * BLOCK, data)

    def forget(self) -> None:
        """Nothing: there is one file, which the mailbox reopens."""

    def close(self) -> None:
        self._device.close()


def info_of(medium: Medium) -> frames.Info:
    """The info block, read anew where the device just came back. Raises as the medium, and FrameError."""
    with contextlib.suppress(OSError):
        return frames.read_info(medium.read_info())
    medium.forget()
    return frames.read_info(medium.read_info())
