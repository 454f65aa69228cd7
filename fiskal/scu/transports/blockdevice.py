"""Block devices without a mounted file system: sectors of a node as an :class:`fiskal.scu.transports.mailbox.Area`.

What lies where is for the protocol to find out. A wrong sector would destroy a partition table or somebody's data, so
an area writes only within the sectors it was made for, and only whole removable devices that nobody has mounted are
listed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fiskal.scu.transports.mailbox import SECTOR, DirectFile

_NAMES: Final = re.compile(r"(sd[a-z]+|mmcblk\d+|nvme\d+n\d+)")
_PART: Final = re.compile(r"(sd[a-z]+\d+|mmcblk\d+p\d+|nvme\d+n\d+p\d+)")


class Sectors:
    """``count`` sectors from ``first`` on of a device that several of these share. Offsets count from ``first``."""

    def __init__(self, device: DirectFile, first: int, count: int, name: str, *, writable: bool) -> None:
        self._device = device
        self._begin = first * SECTOR
        self._size = count * SECTOR
        self._writable = writable
        self.name = f"{device.name} ({name})"

    def _place(self, offset: int, length: int) -> int:
        if offset < 0 or offset + length > self._size:
            raise ValueError(f"bytes {offset} to {offset + length} do not belong to {self.name}")
        return self._begin + offset

    def read(self, offset: int, length: int) -> bytes:
        return self._device.read(self._place(offset, length), length)

    def write(self, offset: int, data: bytes) -> None:
        if not self._writable:
            raise ValueError(f"{self.name} is not to be written")
        self._device.write(self._place(offset, len(data)), data)

    def reopen(self) -> None:
        self._device.reopen()

    def close(self) -> None:
        self._device.close()


def open_device(path: str | os.PathLike[str], *, writable: bool = True) -> DirectFile:
    """The node of a block device, exclusively if it is one (a mounted one then refuses), or a file in its place."""
    exclusive = os.O_EXCL if Path(path).is_block_device() and writable else 0
    return DirectFile(
        path,
        writable=writable,
        extra_flags=exclusive,
        volume_hint="Put this user into the group disk, or add a udev rule for the device.",
    )


def removable(
    sys_block: str = "/sys/block", dev: str = "/dev", mounts: str = "/proc/self/mounts"
) -> Iterator[Path]:
    """Nodes that may be a TSE without a mounted file system: each removable device and its first partition.

    Fixed disks are never given, nor devices of which anything is mounted.
    """
    try:
        mounted = {line.split(" ", 1)[0] for line in Path(mounts).read_text(errors="replace").splitlines()}
        names = sorted(os.listdir(sys_block))
    except OSError:
        return
    for name in names:
        folder = Path(sys_block, name)
        try:
            fixed = (folder / "removable").read_text().strip() != "1"
        except OSError:
            continue
        if fixed or not _NAMES.fullmatch(name):
            continue
        parts = sorted(part for part in os.listdir(folder) if _PART.fullmatch(part) and part.startswith(name))
        if any(str(Path(dev, node)) in mounted for node in (name, *parts)):
            continue
        yield Path(dev, name)
        if parts:
            yield Path(dev, parts[0])
