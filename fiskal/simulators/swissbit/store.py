"""The store of a simulated Swissbit TSE: the TAR archive in window files or in a block image, with raw access."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Protocol

BLOCK: Final = 512
SENTINEL: Final = b"\xee" * BLOCK
"""What reserved blocks hold until the host has written them."""


class Store(Protocol):
    """Bytes at offsets; what was never written is zero."""

    def read(self, offset: int, length: int) -> bytes: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def clear(self) -> None: ...
    def close(self) -> None: ...


class Windows:
    """Sparse files TSE_TAR.001, .002 … of one size in a folder."""

    def __init__(self, folder: Path, blocks: int, window_blocks: int) -> None:
        self._window = window_blocks * BLOCK
        self._fds: list[int] = []
        self.names: list[str] = []
        left = blocks * BLOCK
        while left > 0:
            self.names.append(f"TSE_TAR.{len(self.names) + 1:03d}")
            fd = os.open(folder / self.names[-1], os.O_RDWR | os.O_CREAT, 0o666)
            self._fds.append(fd)
            os.truncate(fd, min(left, self._window))
            left -= self._window

    def _parts(self, offset: int, length: int) -> list[tuple[int, int, int]]:
        """Descriptor, offset and length of every window that a stretch touches."""
        parts = []
        while length > 0:
            index, at = divmod(offset, self._window)
            if index >= len(self._fds):
                break
            size = min(length, self._window - at)
            parts.append((self._fds[index], at, size))
            offset += size
            length -= size
        return parts

    def read(self, offset: int, length: int) -> bytes:
        return b"".join(os.pread(fd, size, at) for fd, at, size in self._parts(offset, length))

    def write(self, offset: int, data: bytes) -> None:
        done = 0
        for fd, at, size in self._parts(offset, len(data)):
            os.pwrite(fd, data[done : done + size], at)
            done += size

    def clear(self) -> None:
        for fd in self._fds:
            size = os.fstat(fd).st_size
            os.truncate(fd, 0)
            os.truncate(fd, size)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []


class Image:
    """The store within a block image, from byte ``base`` on. The image has room for ``blocks`` of it, sparsely."""

    def __init__(self, path: Path, base: int, blocks: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._base = base
        self._size = blocks * BLOCK
        os.truncate(self._fd, base + self._size)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, max(0, min(length, self._size - offset)), self._base + offset)

    def write(self, offset: int, data: bytes) -> None:
        os.pwrite(self._fd, data, self._base + offset)

    def clear(self) -> None:
        os.truncate(self._fd, self._base)
        os.truncate(self._fd, self._base + self._size)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
