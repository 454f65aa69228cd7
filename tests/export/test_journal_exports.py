"""The journals of the TSE's exports: archived rows, archived TAR, live TAR, and the check of the archives."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import sqlite3
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest

from fiskal.export.journal import JournalError, TarExportFailed
from fiskal.export.verify import verify_journal
from fiskal.germany.codes import JournalType
from fiskal.scu.contract import EndExportSessionResponse
from fiskal.scu.errors import TseRejected, Unreachable
from fiskal.store import Change, ExportState, JournalDEPartRow, JournalDERow, exportfile
from fiskal.tse.logmessage import parse
from fiskal.tse.tar import TarWriter, read_members
from fiskal.tse.tarverify import verify_tar
from tests.support.memory import peak
from tests.support.shop import Shop

DAILY, MONTHLY = 0x07, 0x05
EXPORTS, LIVE, ARCHIVED = (
    JournalType.JOURNAL_DE,
    JournalType.DE_TAR_FROM_TSE,
    JournalType.DE_TAR_FROM_DATABASE,
)


def read(shop: Shop, kind: int, first: int = 0, last: int = 0, size: int = 4096) -> bytes:
    return b"".join(shop.middleware.journal(kind, first, last, size))


def counters(tar: bytes) -> list[int]:
    return [
        parse(member.data or b"").signature_counter
        for member in read_members(io.BytesIO(tar))
        if member.name.endswith(".log")
    ]


def rows(shop: Shop) -> list[JournalDERow]:
    return list(shop.middleware.store.iter_exports(shop.queue_id))


def problems(shop: Shop) -> list[str]:
    report = verify_journal(shop.middleware.store, shop.row)
    return [f"{problem.where}: {problem.what}" for problem in report.problems]


# ---- ftJournalDE --------------------------------------------------------------------------------


def test_without_exports_the_journals_are_empty(shop: Shop) -> None:
    assert read(shop, EXPORTS) == b"[]"
    assert read(shop, ARCHIVED) == b""


def test_the_rows_of_the_journal(shop: Shop) -> None:
    answers = [shop.send(DAILY, "D-1"), shop.send(DAILY, "D-2")]
    found = json.loads(read(shop, EXPORTS))
    assert [list(row) for row in found] == [
        [
            "ftJournalDEId",
            "Number",
            "FileName",
            "FileExtension",
            "FileContentBase64",
            "ftQueueItemId",
            "ftQueueId",
            "TimeStamp",
        ]
    ] * 2
    for row, answer, stored in zip(found, answers, rows(shop), strict=True):
        assert (row["Number"], row["FileExtension"]) == (stored.Number, ".zip")
        assert (row["ftQueueItemId"], row["ftQueueId"]) == (answer["ftQueueItemID"], shop.queue_id)
        assert row["TimeStamp"] == stored.TimeStamp
        with zipfile.ZipFile(io.BytesIO(base64.b64decode(row["FileContentBase64"]))) as archive:
            tar = archive.read(f"{row['FileName']}.tar")
        assert verify_tar(io.BytesIO(tar)).ok


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20, 0, -1])
def test_chunks_of_every_size_make_the_same_journal(shop: Shop, size: int) -> None:
    shop.send(DAILY)
    assert read(shop, EXPORTS, size=size) == read(shop, EXPORTS)
    assert read(shop, ARCHIVED, size=size) == read(shop, ARCHIVED)


@pytest.mark.parametrize("kind", [EXPORTS, ARCHIVED])
def test_ranges(shop: Shop, kind: JournalType) -> None:
    for _ in range(3):
        shop.sale()
        shop.send(DAILY)
    stamps = [row.TimeStamp for row in rows(shop)]

    def found(first: int, last: int) -> int:
        """The number of archives in a range, which all begin with another counter."""
        data = read(shop, kind, first, last)
        if kind == EXPORTS:
            return len(json.loads(data))
        inside = set(counters(data)) if data else set()
        return sum(1 for each in whole if each <= inside)

    whole = [set(counters(b"".join(exportfile.tar_chunks(shop.middleware.store, row)))) for row in rows(shop)]
    assert found(0, 0) == 3
    assert found(stamps[1], 0) == 2
    assert found(stamps[1] + 1, 0) == 1
    assert found(0, stamps[1]) == 2
    assert found(0, stamps[1] - 1) == 1
    assert found(stamps[1], stamps[1]) == 1
    assert found(0, -2) == 2
    assert found(stamps[2], -2) == 1
    assert found(stamps[2] + 1, 0) == 0


def test_an_export_that_is_not_finished_is_not_shown(shop: Shop) -> None:
    shop.send(DAILY)
    (row,) = rows(shop)
    before = read(shop, ARCHIVED)
    change = Change()
    change.exports += [
        row._replace(ftJournalDEId="due", State=ExportState.DUE),
        row._replace(ftJournalDEId="written", State=ExportState.WRITTEN),
    ]
    shop.middleware.store.commit(change)
    assert len(json.loads(read(shop, EXPORTS))) == 1
    assert read(shop, ARCHIVED) == before


# ---- archived TAR -------------------------------------------------------------------------------


def test_one_archive_is_given_as_it_was_exported(shop: Shop) -> None:
    shop.send(DAILY)
    (row,) = rows(shop)
    tar = read(shop, ARCHIVED)
    assert base64.b64encode(hashlib.sha256(tar).digest()).decode() == row.tar_sha256


def test_several_archives_are_given_as_one_that_verifies_as_a_whole(shop: Shop) -> None:
    for _ in range(3):
        shop.sale()
        shop.send(DAILY)
    tar = read(shop, ARCHIVED)
    assert counters(tar) == list(range(1, counters(tar)[-1] + 1))
    report = verify_tar(io.BytesIO(tar))
    assert report.ok
    assert "MESSAGE_TWICE" not in report.codes
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:  # another program reads it, too
        names = archive.getnames()
        assert len(names) == len(set(names))
        assert all(member.mtime > 1_600_000_000 for member in archive.getmembers())


def test_what_was_exported_twice_is_given_once(shop: Shop) -> None:
    shop.send(0x08, "T-1")  # keeps the TSE from erasing
    shop.send(MONTHLY)
    shop.send(MONTHLY)
    assert [row.erased for row in rows(shop)] == [0, 0]
    tar = read(shop, ARCHIVED)
    assert counters(tar) == list(range(1, counters(tar)[-1] + 1))


def test_a_damaged_archive_breaks_the_journal_off(shop: Shop) -> None:
    shop.send(DAILY)
    damage(shop, "DELETE FROM ftJournalDEPart")
    with pytest.raises(exportfile.ExportDamaged, match=r"part 0 .* is missing"):
        read(shop, ARCHIVED)
    with pytest.raises(exportfile.ExportDamaged):
        read(shop, EXPORTS)


# ---- TAR from the TSE ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, 0])
def test_the_live_export_is_the_log_of_the_tse_and_erases_nothing(shop: Shop, size: int) -> None:
    shop.sale()
    tar = read(shop, LIVE, size=size)
    last = shop.tse.scu.get_tse_info().current_number_of_signatures
    assert counters(tar) == list(range(1, last + 1))
    assert verify_tar(io.BytesIO(tar)).ok
    assert counters(read(shop, LIVE, 5, -1)) == counters(tar)  # the range is ignored
    assert rows(shop) == []


def test_the_chunk_size_of_a_live_export_is_a_mebibyte_by_default(shop: Shop) -> None:
    chunks = list(shop.middleware.journal(LIVE, 0, 0, 0))
    assert len(chunks) == 1
    assert len(chunks[0]) > 4096


def test_a_live_export_that_nobody_reads_to_its_end_is_given_up(shop: Shop) -> None:
    stream: Any = shop.middleware.journal(LIVE, 0, 0, 512)
    next(stream)
    stream.close()
    assert shop.tse.scu._exports._sessions == {}  # type: ignore[attr-defined]


def test_a_live_export_with_another_checksum_is_an_error_at_its_end(shop: Shop) -> None:
    def refuse(request: Any, deadline: Any = None) -> Any:
        return EndExportSessionResponse(token_id=request.token_id, is_valid=False, is_erased=False)

    shop.tse.scu.end_export_session = refuse  # type: ignore[method-assign]
    stream = shop.middleware.journal(LIVE, 0, 0, 512)
    next(stream)
    with pytest.raises(TarExportFailed, match=r"^The TAR file export was not successful\.$"):
        for _ in stream:
            pass


def test_a_live_export_without_tse_is_an_error_before_the_first_byte(shop: Shop) -> None:
    shop.tse.down = Unreachable("CONNECT_FAILED", "The TSE is not available.")
    with pytest.raises(Unreachable):
        next(shop.middleware.journal(LIVE))


def test_a_live_export_that_the_tse_refuses_is_an_error(shop: Shop) -> None:
    shop.tse.fail_before("export_data", TseRejected("EXPORT_FAILED", "No."))
    with pytest.raises(TseRejected):
        next(shop.middleware.journal(LIVE))
    assert shop.tse.scu._exports._sessions == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [0x4154_0000_0000_0001, 0x4652_0000_0000_0003])
def test_journals_of_another_country_are_refused(shop: Shop, kind: int) -> None:
    with pytest.raises(JournalError, match=f"0x'{kind:x}' cannot be used with the current Queue"):
        shop.middleware.journal(kind)


@pytest.mark.parametrize("kind", [JournalType.JOURNAL_AT, JournalType.JOURNAL_FR, JournalType.JOURNAL_ME])
def test_the_arrays_of_other_markets_are_empty(shop: Shop, kind: int) -> None:
    assert read(shop, kind) == b"[]"


@pytest.mark.parametrize("kind", [0x4445_0000_0000_0004, 0x4445_7FFF_FFFF_FFFF])
def test_unknown_german_types_are_the_status_of_the_queue(shop: Shop, kind: int) -> None:
    assert read(shop, kind) == read(shop, JournalType.DE_STATUS)


@pytest.mark.parametrize("kind", [4, 0x1234, 0x4444])
def test_unknown_types_without_country_are_the_version(shop: Shop, kind: int) -> None:
    assert read(shop, kind) == read(shop, JournalType.VERSION)


# ---- the check ----------------------------------------------------------------------------------


def damage(shop: Shop, sql: str, *values: Any) -> None:
    shop.close()
    with sqlite3.connect(shop.folder / "journal.sqlite") as connection:
        assert connection.execute(sql, values).rowcount
    connection.close()
    shop.open()


def test_the_check_counts_the_archives_and_finds_nothing(shop: Shop) -> None:
    shop.send(DAILY)
    shop.send(0x08, "T-1")
    shop.send(MONTHLY)
    report = verify_journal(shop.middleware.store, shop.row)
    assert report.ok, report.problems
    assert report.counts["exports"] == 2


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("DELETE FROM ftJournalDEPart", "part 0 .* is missing"),
        ("UPDATE ftJournalDEPart SET data = CAST(data || x'00' AS BLOB)", "another length"),
        ("UPDATE ftJournalDE SET tar_bytes = tar_bytes + 1", "not have the stored checksum"),
        ("UPDATE ftJournalDE SET tar_sha256 = 'AAAA'", "not have the stored checksum"),
        ("UPDATE ftJournalDE SET Number = Number + 1", "Number is 3, its receipt has the number 2"),
        ("UPDATE ftJournalDE SET ftQueueItemId = 'x'", "queue item x is not in the journal"),
        ("UPDATE ftJournalDE SET zip_bytes = 0, parts = 0", "is damaged"),
    ],
)
def test_the_check_finds_a_changed_archive(shop: Shop, sql: str, text: str) -> None:
    shop.send(DAILY)
    assert problems(shop) == []
    damage(shop, sql)
    found = problems(shop)
    assert len(found) == 1
    assert re.search(text, found[0]), found


def test_the_check_finds_every_flipped_byte_of_an_archive(shop: Shop) -> None:
    shop.send(DAILY)
    (row,) = rows(shop)
    store: Any = shop.middleware.store
    intact = store.export_part(row.ftJournalDEId, 0)
    export_part = store.export_part
    checked = 0
    for at in range(0, len(intact), max(1, len(intact) // 150)):
        flipped = bytearray(intact)
        flipped[at] ^= 0x10
        store.export_part = lambda *_, data=bytes(flipped): data
        try:
            tar = b"".join(exportfile.tar_chunks(store, row))
        except exportfile.ExportDamaged:
            checked += 1
        else:
            # fields of the ZIP that say nothing of the content, such as the time of the entry
            assert hashlib.sha256(tar).digest() == base64.b64decode(row.tar_sha256)
    store.export_part = export_part
    assert checked > 100


def test_the_check_finds_a_forged_message_in_an_archive(shop: Shop) -> None:
    shop.send(DAILY)
    (row,) = rows(shop)
    store = shop.middleware.store
    out = io.BytesIO()
    tar = TarWriter(out, 0)
    for member in read_members(io.BytesIO(b"".join(exportfile.tar_chunks(store, row)))):
        data = bytearray(member.data or b"")
        if "_Sig-3_" in member.name:
            data[-1] ^= 1
        tar.add(member.name, bytes(data))
    tar.close()
    forged = out.getvalue()
    other = row._replace(
        ftJournalDEId="forged",
        tar_bytes=len(forged),
        tar_sha256=base64.b64encode(hashlib.sha256(forged).digest()).decode(),
    )
    parts, size = exportfile.write(store, other, iter([forged]), lambda: len(forged), shop.clock())
    change = Change()
    change.exports.append(other._replace(parts=parts, zip_bytes=size))
    store.commit(change)
    (found,) = problems(shop)
    assert "the signature does not hold" in found


# ---- memory -------------------------------------------------------------------------------------


def random_bytes(count: int) -> Iterator[bytes]:
    """What no compression makes smaller."""
    for number in range(count):
        yield b"".join(hashlib.sha512(b"%d %d" % (number, each)).digest() for each in range(1024))


def big_archive(shop: Shop, name: str, mebibytes: int) -> None:
    """An export with large members, which are what a reader could keep."""
    store = shop.middleware.store
    row = shop.middleware.queue().exports.due(shop.row.ftQueueId, 1, "scu", shop.clock())

    def tar() -> Iterator[bytes]:
        out = io.BytesIO()
        writer = TarWriter(out, 0)
        for number, data in enumerate(random_bytes(mebibytes * 16)):
            writer.add(f"{name}{number}.bin", data + name.encode())
            yield out.getvalue()
            out.seek(0)
            out.truncate()
        writer.close()
        yield out.getvalue()

    parts, size = exportfile.write(store, row, tar(), lambda: -1, shop.clock())
    change = Change()
    change.exports.append(row._replace(parts=parts, zip_bytes=size, State=ExportState.STORED))
    store.commit(change)


@pytest.mark.parametrize("kind", [EXPORTS, ARCHIVED])
def test_archives_are_read_in_memory_that_does_not_grow_with_them(shop: Shop, kind: JournalType) -> None:
    big_archive(shop, "a", 1)
    big_archive(shop, "b", 1)
    small, used = peak(shop.middleware.journal(kind, 0, 0, 65536))
    big_archive(shop, "c", 12)
    large, needed = peak(shop.middleware.journal(kind, 0, 0, 65536))
    assert large > small + (11 << 20)
    assert needed < used + (2 << 20)


def test_an_archive_is_written_in_memory_that_does_not_grow_with_it(shop: Shop) -> None:
    store = shop.middleware.store
    row = shop.middleware.queue().exports.due("item", 1, "scu", shop.clock())
    tracemalloc.start()
    _, size = exportfile.write(store, row, random_bytes(16 * 12), lambda: -1, shop.clock())
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 12 << 20
    assert used < 4 << 20


def test_parts_of_another_export_are_no_part_of_this_one(shop: Shop) -> None:
    shop.send(DAILY)
    (row,) = rows(shop)
    change = Change()
    change.export_parts.append(JournalDEPartRow("other", 0, b"x"))
    shop.middleware.store.commit(change)
    assert hashlib.sha256(b"".join(exportfile.tar_chunks(shop.middleware.store, row))).digest() == (
        base64.b64decode(row.tar_sha256)
    )
