"""Opening what an auditor was given: TAR files, TAR files cut into parts, and ZIP files that hold them.

Everything is read as a stream and nothing is unpacked to the disk, so names that lead elsewhere and links do
no harm; what could eat memory or time without end has a limit and ends in an :class:`ArchiveError`.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Final

from fiskal.errors import FiskalError
from fiskal.tse.tar import Source, TarError

MAX_ZIP_MEMBERS: Final = 10_000
MAX_ZIP_DIRECTORY_BYTES: Final = 16 << 20
MAX_ZIP_RATIO: Final = 200
"""A TAR of log messages becomes 3 to 20 times smaller; what grows more than this is an attack."""
_FREE_BYTES: Final = 16 << 20
"""So much may come out of a ZIP file whatever its ratio."""
_PART: Final = re.compile(r"(.+\.tar)\.(\d{3})", re.IGNORECASE | re.DOTALL)


class ArchiveError(FiskalError):
    """A file that is no archive or that must not be read; the message names it."""

    code = "ARCHIVE"


@dataclass(frozen=True, slots=True)
class Archive:
    """One TAR archive, wherever it lies. ``size`` is in bytes, for progress; ``open`` gives it as a stream."""

    name: str
    size: int
    open: Callable[[], contextlib.AbstractContextManager[Source]]


def find_archives(paths: Iterable[Path]) -> list[Archive]:
    """Say what archives the files hold: ZIP files may hold several, parts ``.tar.001`` … are one.

    Raises :class:`ArchiveError` for a file that must not be read, OSError for one that cannot be.
    """
    found: list[Archive] = []
    parts: dict[str, dict[int, Path]] = {}
    for path in paths:
        match = _PART.fullmatch(str(path))
        if match:
            parts.setdefault(match[1], {})[int(match[2])] = path
        elif _is_zip(path):
            found += _in_zip(path)
        else:
            found.append(Archive(path.name, path.stat().st_size, lambda path=path: path.open("rb")))  # type: ignore[misc]
    for whole, numbered in parts.items():
        found.append(_joined(Path(whole).name, numbered))
    return found


# ---- parts --------------------------------------------------------------------------------------


def _joined(name: str, parts: dict[int, Path]) -> Archive:
    missing = sorted(set(range(1, max(parts) + 1)) - parts.keys())
    if missing:
        raise ArchiveError(
            f"{name}: the parts {', '.join(f'.{number:03d}' for number in missing)} are missing."
        )
    paths = [parts[number] for number in sorted(parts)]
    return Archive(name, sum(path.stat().st_size for path in paths), lambda: _Parts(paths))


class _Parts:
    """Files one behind the other, read as one."""

    def __init__(self, paths: list[Path]) -> None:
        self._left = paths[::-1]
        self._file: BinaryIO | None = None

    def read(self, size: int, /) -> bytes:
        while True:
            if self._file is None:
                if not self._left:
                    return b""
                self._file = self._left.pop().open("rb")
            data = self._file.read(size)
            if data or not size:
                return data
            self._file.close()
            self._file = None

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


# ---- ZIP ----------------------------------------------------------------------------------------


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def check_directory(file: IO[bytes], name: str) -> None:
    """Refuse a ZIP whose directory is too large before zipfile reads it into memory. Raises ArchiveError."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 22 - 65_535 - 76))
    tail = file.read()
    at = len(tail) - 22
    if tail[at : at + 4] != b"PK\x05\x06":
        at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < 22:
        raise ArchiveError(f"{name}: the ZIP file is damaged or cut off.")
    entries = int.from_bytes(tail[at + 10 : at + 12], "little")
    length = int.from_bytes(tail[at + 12 : at + 16], "little")
    big = tail.rfind(b"PK\x06\x06", 0, at)
    if big >= 0:  # ZIP64: the real numbers lie in a record of its own
        entries = max(entries % 0xFFFF, int.from_bytes(tail[big + 32 : big + 40], "little"))
        length = max(length % 0xFFFFFFFF, int.from_bytes(tail[big + 40 : big + 48], "little"))
    if entries > MAX_ZIP_MEMBERS or length > MAX_ZIP_DIRECTORY_BYTES:
        raise ArchiveError(f"{name}: the ZIP file has more than {MAX_ZIP_MEMBERS} members.")


ZIP_ERRORS: Final = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    OverflowError,
    LookupError,
    struct.error,
    OSError,
)
"""What zipfile raises about damaged files: NotImplementedError for a compression it does not know, OSError for
offsets that lie nowhere."""


def _in_zip(path: Path) -> Iterator[Archive]:
    with path.open("rb") as directory:
        check_directory(directory, path.name)
    try:
        with zipfile.ZipFile(path) as file:
            infos = [info for info in file.infolist() if not info.is_dir()]
    except ZIP_ERRORS as error:
        raise ArchiveError(f"{path.name}: the ZIP file cannot be read: {error}") from error
    tars = [info for info in infos if re.search(r"\.tar(\.\d{3})?$", info.filename, re.IGNORECASE)]
    if not tars and len(infos) == 1:
        tars = infos
    if not tars:
        raise ArchiveError(f"{path.name}: the ZIP file holds no TAR archive.")
    for info in tars:
        if info.flag_bits & 1:
            raise ArchiveError(
                f"{path.name}: {info.filename} is encrypted. Unpack it first and verify the TAR file."
            )
        yield Archive(
            f"{path.name}/{info.filename}",
            info.file_size,
            lambda info=info: _Zipped(path, info),  # type: ignore[misc]
        )


class _Zipped:
    """One member of a ZIP file as a stream."""

    def __init__(self, path: Path, info: zipfile.ZipInfo) -> None:
        self._name = f"{path.name}/{info.filename}"
        self._limit = max(_FREE_BYTES, info.compress_size * MAX_ZIP_RATIO)
        self._done = 0
        self._zip: zipfile.ZipFile | None = None
        try:
            self._zip = zipfile.ZipFile(path)
            self._file = self._zip.open(info)
        except ZIP_ERRORS as error:
            if self._zip is not None:
                self._zip.close()
            raise ArchiveError(f"{self._name}: cannot be unpacked: {error}") from error

    def read(self, size: int, /) -> bytes:
        try:
            data = self._file.read(size)
        except ZIP_ERRORS as error:
            raise TarError(f"The ZIP file is damaged: {error}") from error
        self._done += len(data)
        if self._done > self._limit:
            raise TarError(
                f"The ZIP file unpacks to more than {MAX_ZIP_RATIO} times its size, which no export does."
            )
        return data

    def __enter__(self) -> _Zipped:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._zip is not None:
            self._zip.close()
