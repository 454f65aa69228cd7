"""Checking a DSFinV-K export, ours or anybody's: its form, its keys, its sums and its signatures.

The rows go into a temporary SQLite database, not into memory: an export may hold many years.
Nothing of the journal is asked: what an auditor has is enough.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from fiskal.export.dsfinvk import indexread, rules
from fiskal.export.dsfinvk.indexread import DeclaredTable, NoIndex
from fiskal.export.dsfinvk.indexxml import DTD_NAME, INDEX_NAME
from fiskal.export.dsfinvk.records import Broken, Reader, records
from fiskal.export.dsfinvk.report import CheckReport, DsfinvkUnreadable
from fiskal.export.dsfinvk.schema import TABLES, Table
from fiskal.tse.archive import MAX_ZIP_RATIO, ZIP_ERRORS, ArchiveError, check_directory

MAX_MEMBERS: Final = 1_000
MAX_INDEX_BYTES: Final = 4 << 20
RATIO_COUNTS_FROM: Final = 64 << 20
"""Below so many unpacked bytes MAX_ZIP_RATIO does not matter. Tables of text reach a tenth of it."""

_BATCH: Final = 500
Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes in all)."""


def check(
    file: Path | IO[bytes], *, signatures: bool = True, progress: Progress | None = None
) -> CheckReport:
    """Check an export: files, index.xml, types, keys, sums, and, unless ``signatures`` is False, that every
    signature of a TSE holds.

    Raises DsfinvkUnreadable if it is no ZIP, holds no index.xml that says anything, or unpacks to more than it can
    be; OSError if it cannot be opened. Everything else is a finding.
    """
    report = CheckReport()
    with contextlib.ExitStack() as stack:
        if isinstance(file, Path):
            file = stack.enter_context(file.open("rb"))
        try:
            check_directory(file, "the file")
            archive = stack.enter_context(zipfile.ZipFile(file))
        except (ArchiveError, *ZIP_ERRORS) as error:
            raise DsfinvkUnreadable(f"it is no ZIP that can be read: {error}") from error
        members = _members(archive, report)
        declared = _index(archive, members, report)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fiskal-dsfinvk-"))
        db = stack.enter_context(contextlib.closing(sqlite3.connect(os.path.join(folder, "rows.sqlite"))))
        db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16384")
        loader = _Loader(db, archive, report, progress, sum(info.file_size for info in members.values()))
        for table in TABLES.values():
            loader.load(table, members.get(table.file_name), declared.get(table.file_name))
        if progress is not None:
            progress(loader.total, loader.total)
        rules.apply(db, report, signatures=signatures)
    report.findings.sort(key=lambda finding: finding.severity)
    return report


def _members(archive: zipfile.ZipFile, report: CheckReport) -> dict[str, zipfile.ZipInfo]:
    """The files of the export by name."""
    known = {INDEX_NAME, DTD_NAME, *(table.file_name for table in TABLES.values())}
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise DsfinvkUnreadable(f"it has {len(infos)} files; a DSFinV-K export has {len(known)}")
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename
        if name not in known:
            flat = "/" not in name and "\\" not in name
            report.error(
                "FILE", name[:80], "is no file of an export" if flat else "is not at the top of the ZIP"
            )
        elif name in found:
            report.error("FILE", name, "is there twice")
        elif info.flag_bits & 1:
            report.error("FILE", name, "is encrypted")
        elif info.file_size > RATIO_COUNTS_FROM and info.file_size > MAX_ZIP_RATIO * info.compress_size:
            raise DsfinvkUnreadable(
                f"{name} would unpack to {info.file_size} bytes from {info.compress_size}: that is no table of text"
            )
        else:
            found[name] = info
    for name in sorted(known - found.keys()):
        report.error("FILE", name, "is missing")
    return found


def _index(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], report: CheckReport
) -> dict[str, DeclaredTable]:
    info = members.get(INDEX_NAME)
    if info is None:
        raise DsfinvkUnreadable("it has no index.xml")
    if info.file_size > MAX_INDEX_BYTES:
        raise DsfinvkUnreadable(f"its index.xml has {info.file_size} bytes")
    try:
        with archive.open(info) as file:
            index = indexread.read_index(file.read(MAX_INDEX_BYTES))
    except (NoIndex, *ZIP_ERRORS) as error:
        raise DsfinvkUnreadable(f"its index.xml cannot be used: {error}") from error
    for fault in index.faults:
        report.error("INDEX", INDEX_NAME, fault)
    found: dict[str, DeclaredTable] = {}
    for table in index.tables:
        if table.url in found:
            report.error("INDEX", table.url[:80], "is declared twice")
        elif table.url not in members:
            report.error("INDEX", table.url[:80], "is declared, but not there")
        else:
            found[table.url] = table
    for name in members.keys() - found.keys() - {INDEX_NAME, DTD_NAME}:
        report.error("INDEX", name, "is not declared in index.xml")
    return found


class _Loader:
    """Reads tables into the database, and says what is wrong with their form."""

    def __init__(
        self,
        db: sqlite3.Connection,
        archive: zipfile.ZipFile,
        report: CheckReport,
        progress: Progress | None,
        total: int,
    ) -> None:
        self._db = db
        self._archive = archive
        self._report = report
        self._progress = progress
        self.total = total
        self._done = 0
        self._closings: dict[tuple[Any, ...], int] = {}

    def load(self, table: Table, info: zipfile.ZipInfo | None, declared: DeclaredTable | None) -> None:
        columns = ", ".join(
            f"{column.name} {'INTEGER' if column.is_number else 'TEXT'}" for column in table.columns
        )
        self._db.execute(f"CREATE TABLE {_quoted(table.stem)} (z INTEGER, record INTEGER, {columns}) STRICT")
        if info is None or declared is None or not self._is_form_known(table, declared):
            return
        marks = ", ".join("?" * (len(table.columns) + 2))
        insert = f"INSERT INTO {_quoted(table.stem)} VALUES ({marks})"
        batch: list[list[Any]] = []
        try:
            with self._archive.open(info) as file:
                for row in self._rows(table, declared, file):
                    batch.append(row)
                    if len(batch) == _BATCH:
                        self._db.executemany(insert, batch)
                        batch.clear()
                        if self._progress is not None:
                            self._progress(self._done + file.tell(), self.total)
        except Broken as error:
            self._report.error("RECORD", table.file_name, str(error))
        except ZIP_ERRORS as error:
            self._report.error("FILE", table.file_name, f"cannot be unpacked: {error}")
        self._db.executemany(insert, batch)
        self._db.commit()
        self._done += info.file_size
        if self._progress is not None:
            self._progress(self._done, self.total)

    def _is_form_known(self, table: Table, declared: DeclaredTable) -> bool:
        """Hold what index.xml says about a table against the schema. False if its records cannot be read."""
        name = table.file_name
        error = self._report.error
        if not declared.is_utf8:
            error("INDEX", name, "is not declared as UTF-8")
        if declared.first_record != 2:
            error("INDEX", name, f"its data begin with record {declared.first_record}, not 2")
        apart = {declared.delimiter, declared.quote}
        if (
            len(apart) != 2
            or not declared.record_end
            or any(len(each) != 1 or each in f"{declared.record_end}\r\n\0 " for each in apart)
        ):
            error("INDEX", name, "its delimiters cannot be told apart")
            return False
        if len(declared.decimal_symbol) != 1 or declared.decimal_symbol in "0123456789-":
            error("INDEX", name, f"its decimal symbol is declared as {declared.decimal_symbol!r}")
            return False
        names = [column.name for column in declared.columns]
        if names[: len(table.columns)] != table.header:
            missing = [column for column in table.header if column not in names]
            error(
                "COLUMNS",
                name,
                f"{', '.join(missing)} missing" if missing else "the order of columns is wrong",
            )
        elif len(set(names)) != len(names):
            error("COLUMNS", name, "a column is declared twice")
        by_name = {column.name: column for column in declared.columns}
        for column in table.columns:
            other = by_name.get(column.name)
            if other is None:
                continue
            if other.is_number != column.is_number:
                error(
                    "COLUMNS",
                    name,
                    f"{column.name} is declared as {'a number' if other.is_number else 'text'}",
                )
            elif other.size != column.size:
                self._report.warning(
                    "SIZE", name, f"{column.name} is declared with {other.size}, DSFinV-K has {column.size}"
                )
        return True

    def _rows(self, table: Table, declared: DeclaredTable, file: IO[bytes]) -> Iterator[list[Any]]:
        report, name = self._report, table.file_name
        reader = Reader(table, declared)
        header = [column.name for column in declared.columns]

        def of_record(code: str, number: int, text: str) -> None:
            report.error(code, f"{name} record {number}", text)

        for number, fields in records(file, declared, of_record):
            if number == 1:
                if fields != header:
                    of_record("HEADER", 1, "the header is not the declared columns in their order")
                continue
            if len(fields) != len(header):
                of_record("RECORD", number, f"it has {len(fields)} fields, {len(header)} are declared")
                continue
            report.counts["rows"] += 1
            values = reader.values(fields, lambda code, text, n=number: self._wrong(table, n, code, text))  # type: ignore[misc]
            key = tuple(values[:3])
            if table.stem == "cashpointclosing":
                if key in self._closings:
                    of_record("KEY", number, "this closing is there twice")
                z = self._closings.setdefault(key, len(self._closings) + 1)
            else:
                known = self._closings.get(key)
                if known is None:
                    of_record("KEY", number, "its closing is not in cashpointclosing.csv")
                    continue
                z = known
            if table.stem == "tse":
                self._certificate(table, header, fields, values)
            yield [z, number, *values]

    def _wrong(self, table: Table, number: int, code: str, text: str) -> None:
        if code == "EMPTY" and text.startswith(("Z_START_ID", "Z_ENDE_ID")):
            return  # a closing of no Vorgang has none; the rules look at that
        self._report.error(code, f"{table.file_name} record {number}", text)

    @staticmethod
    def _certificate(table: Table, header: list[str], fields: list[str], values: list[Any]) -> None:
        """Put a certificate together: further columns are allowed behind the two of the schema."""
        whole = "".join(
            field for name, field in zip(header, fields, strict=True) if name.startswith("TSE_ZERTIFIKAT_")
        )
        values[table.header.index("TSE_ZERTIFIKAT_I")] = whole


def _quoted(name: str) -> str:
    return f'"{name}"'
