"""The file of an archived export: a ZIP with one TAR in it, stored in parts, written and read as a stream."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Final

from fiskal.core import format_ticks
from fiskal.errors import FiskalError
from fiskal.lazy import LazyModule
from fiskal.store.interface import Change, JournalDEPartRow, JournalDERow, Store

if TYPE_CHECKING:
    import zipfile

    from fiskal.tse import archive as archives
else:  # needed when an export is archived or read
    zipfile = LazyModule("zipfile")
    archives = LazyModule("fiskal.tse.archive")

PART_BYTES: Final = 192 << 10
"""Length of a part. A multiple of three, so that the parts can be shown in Base64 one by one; short, because
those who sign at the same time share its way to the disk."""

_COPY_BYTES: Final = 64 << 10
_ZIP64_FROM_BYTES: Final = 1 << 30
"""Larger archives get the fields that ZIP needs beyond 2 GiB; old programs do not know them."""


class ExportDamaged(FiskalError):
    """The stored file of an export is not what was written."""

    code = "EXPORT_DAMAGED"


class _Parts:
    """What is written becomes durable part by part."""

    def __init__(self, store: Store, journal_de_id: str) -> None:
        self._store = store
        self._id = journal_de_id
        self._pending = bytearray()
        self.count = 0
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        self._pending += data
        self.size += len(data)
        while len(self._pending) >= PART_BYTES:
            self._commit(PART_BYTES)
        return len(data)

    def flush(self) -> None:
        """ZipFile asks for it after every entry; a part is committed when it is full."""

    def finish(self) -> None:
        if self._pending:
            self._commit(len(self._pending))

    def _commit(self, size: int) -> None:
        change = Change()
        change.export_parts.append(JournalDEPartRow(self._id, self.count, bytes(self._pending[:size])))
        self._store.commit(change)
        self.count += 1
        del self._pending[:size]


def write(
    store: Store, row: JournalDERow, chunks: Iterator[bytes], expected_bytes: Callable[[], int], now: int
) -> tuple[int, int]:
    """Store a TAR archive as the file of the export ``row``; return its number of parts and its length.

    ``expected_bytes`` is asked after the first chunk for the length of the archive, -1 if that is not known;
    ``now`` (ticks) is the time of the entry. Raises StoreError, and what ``chunks`` raises; then parts may be
    stored already.
    """
    parts = _Parts(store, row.ftJournalDEId)
    date_time = _date_time(now)
    chunk: bytes | None = next(chunks, None)
    large = not 0 <= expected_bytes() < _ZIP64_FROM_BYTES
    # The stream cannot seek, which ZipFile finds out by itself; no more of it than a part is in memory.
    with zipfile.ZipFile(parts, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        entry = zipfile.ZipInfo(f"{row.FileName}.tar", date_time)
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.external_attr = 0o600 << 16
        with archive.open(entry, "w", force_zip64=large) as out:
            while chunk is not None:
                out.write(chunk)
                chunk = next(chunks, None)
    parts.finish()
    return parts.count, parts.size


def _date_time(ticks: int) -> tuple[int, int, int, int, int, int]:
    text = format_ticks(ticks)
    year, month, day = (int(part) for part in text[:10].split("-"))
    hour, minute, second = (int(part) for part in text[11:19].split(":"))
    return (min(max(year, 1980), 2107), month, day, hour, minute, second)


def parts(store: Store, row: JournalDERow) -> Iterator[bytes]:
    """The ZIP file part by part. Raises ExportDamaged if one is missing, StoreError."""
    for number in range(row.parts):
        yield _part(store, row, number)


def _part(store: Store, row: JournalDERow, number: int) -> bytes:
    data = store.export_part(row.ftJournalDEId, number)
    wanted = PART_BYTES if number < row.parts - 1 else row.zip_bytes - (row.parts - 1) * PART_BYTES
    if data is None or len(data) != wanted:
        raise ExportDamaged(f"part {number} of the export {row.FileName} is missing or has another length")
    return data


class _Reader(io.RawIOBase):
    """The parts as one file that can be read anywhere."""

    def __init__(self, store: Store, row: JournalDERow) -> None:
        self._store = store
        self._row = row
        self._at = 0
        self._number = -1
        self._part = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._row.zip_bytes}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self._at >= self._row.zip_bytes:
            return 0
        number, offset = divmod(self._at, PART_BYTES)
        if number != self._number:
            self._part = _part(self._store, self._row, number)
            self._number = number
        data = self._part[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Tar:
    """The TAR archive in the ZIP, unpacked as it is read; the CRC is checked at the end."""

    def __init__(self, entry: IO[bytes], name: str) -> None:
        self._entry = entry
        self._name = name

    def read(self, size: int, /) -> bytes:
        try:
            return self._entry.read(size)
        except archives.ZIP_ERRORS as error:
            raise _damaged(self._name, error) from error


"""What reading a file can raise that is no whole ZIP."""


def _damaged(name: str, error: Exception) -> ExportDamaged:
    return ExportDamaged(f"the file of the export {name} is damaged: {error}")


@contextmanager
def open_tar(store: Store, row: JournalDERow) -> Iterator[_Tar]:
    """The TAR archive of an export as a stream: its ``read`` gives at most so many bytes, none at the end.

    Opening and reading raise ExportDamaged where the file is not the ZIP that was written, and StoreError.
    """
    with ExitStack() as stack:
        try:
            file = io.BufferedReader(_Reader(store, row), _COPY_BYTES)
            archive = stack.enter_context(zipfile.ZipFile(file))
            (name,) = archive.namelist()
            entry = stack.enter_context(archive.open(name))
        except archives.ZIP_ERRORS as error:
            raise _damaged(row.FileName, error) from error
        yield _Tar(entry, row.FileName)


def tar_chunks(store: Store, row: JournalDERow) -> Iterator[bytes]:
    """The TAR archive of an export in chunks. Raises as :func:`open_tar`."""
    with open_tar(store, row) as tar:
        while chunk := tar.read(_COPY_BYTES):
            yield chunk


def check(store: Store, row: JournalDERow) -> None:
    """Read the file back and compare it with what the row says. Raises ExportDamaged, StoreError."""
    size = 0
    checksum = hashlib.sha256()
    for chunk in tar_chunks(store, row):
        size += len(chunk)
        checksum.update(chunk)
    if size != row.tar_bytes or base64.b64encode(checksum.digest()).decode() != row.tar_sha256:
        raise ExportDamaged(f"the file of the export {row.FileName} has another checksum than was stored")
