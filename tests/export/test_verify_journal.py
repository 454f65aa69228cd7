"""One changed byte anywhere in the journal is found; a good journal has no problems."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiskal.export.verify import JournalReport, verify_journal
from fiskal.host.config import STORE_NAME
from fiskal.scu.errors import Unreachable
from fiskal.store import open_store
from tests.support.shop import IMPLICIT, Shop

DOWN = Unreachable("CONNECT_FAILED", "nobody answers")

PROTECTED = {
    "ftQueueItem": (
        "ftQueueRow",
        "cbReceiptMoment",
        "cbTerminalID",
        "cbReceiptReference",
        "request",
        "requestHash",
        "ftQueueItemId",
        "queue_no",
    ),
    "ftQueueItemAnswer": (
        "id",
        "queue_no",
        "response",
        "responseHash",
        "ftReceiptNumber",
        "ftReceiptJournalId",
        "ftReceiptMoment",
        "ftReceiptTotal",
        "ftReceiptHash",
    ),
    "ftQueue": ("ftCurrentRow", "ftReceiptNumerator", "ftReceiptTotalizer", "ftReceiptHash"),
}


def fill(shop: Shop) -> None:
    """Every kind of signature block: all lists, failed mode, recovery, errors, closings."""
    shop.sale("S-1", "7.53")
    shop.send(0x08, "E-1")
    shop.send(0x09, "E-1")
    shop.send(0x08, "E-2")
    shop.send(0x10, "O-1")
    shop.tse.fail_before("finish_transaction", DOWN)
    shop.sale("E-1", flow="explicit")
    shop.send(0x08, "E-3")
    shop.send(0x02, "Z-1")
    shop.sale("E-3", flow="explicit")
    shop.send(0x08, "E-4")
    shop.post(shop.request(0x0B | IMPLICIT, "", ftReceiptCaseData='{"CurrentStartedTransactionNumbers":[7]}'))
    shop.sale("L-1", case=0x1_0001)
    shop.send(0x07, "D-1")
    with pytest.raises(Exception, match="No transactionnumber"):
        shop.sale("nobody", flow="explicit")
    shop.sale("S-2")


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("shop")
    shop = Shop(folder)
    fill(shop)
    queue_id = shop.queue_id
    shop.close()
    return folder / STORE_NAME, queue_id


def check(journal: tuple[Path, str]) -> JournalReport:
    path, queue_id = journal
    store = open_store(path, create=False)
    try:
        row = store.queue(queue_id)
        assert row is not None
        return verify_journal(store, row)
    finally:
        store.close()


def test_good_journal(journal: tuple[Path, str]) -> None:
    report = check(journal)
    assert report.ok, report.problems
    assert report.counts["receipts"] == report.counts["items"] - 1
    assert report.counts["errors"] == 1
    assert report.counts["signatures"] >= 25


def rowids(connection: sqlite3.Connection, table: str) -> list[int]:
    return [row[0] for row in connection.execute(f"SELECT rowid FROM {table} ORDER BY rowid")]


def change(value: object, where: int) -> object:
    """``value`` with one byte changed, still storable in its column."""
    if isinstance(value, int):
        return value + 1
    text = str(value)
    if not text:
        return "A"
    at = where % len(text)
    other = "1" if text[at] == "0" else "0" if text[at].isdigit() else "A" if text[at] != "A" else "B"
    return text[:at] + other + text[at + 1 :]


@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table, columns in PROTECTED.items() for column in columns]
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_changed_byte_is_found(
    journal: tuple[Path, str], table: str, column: str, data: st.DataObject
) -> None:
    connection = sqlite3.connect(journal[0], isolation_level=None)
    try:
        row = data.draw(st.sampled_from(rowids(connection, table)))
        (value,) = connection.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", (row,)).fetchone()
        if value is None:
            return
        changed = change(value, data.draw(st.integers(0, 10_000)))
        try:
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (changed, row))
        except sqlite3.IntegrityError:
            return  # the schema itself does not allow it
        try:
            report = check(journal)
        finally:
            now = changed if column == "id" else row
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, now))
    finally:
        connection.close()
    assert not report.ok, (table, column, row, value, changed)


@pytest.mark.parametrize("table", ["ftQueueItem", "ftQueueItemAnswer"])
def test_a_missing_row_is_found(journal: tuple[Path, str], table: str, tmp_path: Path) -> None:
    copy = tmp_path / STORE_NAME
    source = sqlite3.connect(journal[0])
    target = sqlite3.connect(copy)
    source.backup(target)
    source.close()
    for row in rowids(target, table)[1::4]:
        target.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
    target.commit()
    target.close()
    report = check((copy, journal[1]))
    assert not report.ok


@pytest.mark.parametrize("total", ["sNaN", "NaN", "-Infinity", "a"])
def test_a_total_that_is_no_number_is_found(journal: tuple[Path, str], total: str, tmp_path: Path) -> None:
    copy = tmp_path / STORE_NAME
    source = sqlite3.connect(journal[0])
    target = sqlite3.connect(copy)
    source.backup(target)
    source.close()
    target.execute("UPDATE ftQueue SET ftReceiptTotalizer = ?", (total,))
    target.commit()
    target.close()
    report = check((copy, journal[1]))
    assert any(f"ftReceiptTotalizer {total!r} is no number" in str(each) for each in report.problems)


def test_a_receipt_that_is_taken_away_or_given_to_an_error_is_found(
    journal: tuple[Path, str], tmp_path: Path
) -> None:
    columns = ["ftReceiptNumber", "ftReceiptJournalId", "ftReceiptMoment", "ftReceiptTotal", "ftReceiptHash"]
    nothing = ", ".join(f"{name} = NULL" for name in columns)
    error, last = (
        "ftReceiptNumber IS NULL",
        "ftReceiptNumber = (SELECT max(ftReceiptNumber) FROM ftQueueItemAnswer)",
    )
    gift = ", ".join(f"{name} = (SELECT {name} FROM ftQueueItemAnswer WHERE {last})" for name in columns)
    for change_, where, what in (
        (nothing, last, "was answered without error, but has no receipt journal entry"),
        (gift, error, "was answered with an error, but has a receipt journal entry"),
    ):
        copy = tmp_path / STORE_NAME
        source, target = sqlite3.connect(journal[0]), sqlite3.connect(copy)
        source.backup(target)
        source.close()
        assert target.execute(f"UPDATE ftQueueItemAnswer SET {change_} WHERE {where}").rowcount == 1
        target.commit()
        target.close()
        assert what in [problem.what for problem in check((copy, journal[1])).problems]


def test_a_rewritten_response_with_fitting_hashes_is_found_by_its_signatures(
    journal: tuple[Path, str], tmp_path: Path
) -> None:
    """Whoever can rewrite every hash still cannot sign."""
    import base64
    import hashlib
    import uuid

    copy = tmp_path / STORE_NAME
    source = sqlite3.connect(journal[0])
    target = sqlite3.connect(copy)
    source.backup(target)
    source.close()
    (row, text) = target.execute(
        "SELECT rowid, response FROM ftQueueItemAnswer WHERE response LIKE '%7.53%' LIMIT 1"
    ).fetchone()
    forged = text.replace("7.53", "1.53").replace(
        base64.b64encode(b"Beleg^7.53_0.00_0.00_0.00_0.00^7.53:Bar").decode(),
        base64.b64encode(b"Beleg^1.53_0.00_0.00_0.00_0.00^1.53:Bar").decode(),
    )
    assert forged != text
    digest = base64.b64encode(hashlib.sha256(forged.encode()).digest()).decode()
    target.execute(
        "UPDATE ftQueueItemAnswer SET response = ?, responseHash = ? WHERE rowid = ?", (forged, digest, row)
    )
    previous = b""
    for number, journal_id, moment, request_hash, response_hash in target.execute(
        "SELECT ftReceiptNumber, ftReceiptJournalId, ftReceiptMoment, requestHash, responseHash"
        " FROM ftQueueItem JOIN ftQueueItemAnswer USING (id) WHERE ftReceiptNumber NOTNULL"
        " ORDER BY ftReceiptNumber"
    ).fetchall():
        previous = hashlib.sha256(
            previous
            + uuid.UUID(bytes=journal_id).bytes_le
            + moment.to_bytes(8, "little")
            + number.to_bytes(8, "little")
            + base64.b64decode(request_hash)
            + base64.b64decode(response_hash)
        ).digest()
        last = base64.b64encode(previous).decode()
        target.execute(
            "UPDATE ftQueueItemAnswer SET ftReceiptHash = ? WHERE ftReceiptNumber = ?", (last, number)
        )
    target.execute("UPDATE ftQueue SET ftReceiptHash = ?", (last,))
    target.commit()
    target.close()
    report = check((copy, journal[1]))
    assert [problem.what for problem in report.problems] == [
        "the QR code does not verify: the signature does not hold"
    ]
