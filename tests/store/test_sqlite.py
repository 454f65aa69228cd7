"""What is committed can be read, in the right order, also after the store was reopened."""

from __future__ import annotations

import sqlite3
import tracemalloc
from pathlib import Path

import pytest
from rows import (
    START,
    accepted,
    action,
    answer,
    change,
    completed,
    counted,
    error_answer,
    failed,
    guid,
    item,
    open_transaction,
    queue,
    receipt,
    receipt_row,
    scu,
)

from fiskal.errors import StoreError
from fiskal.store import Change, NullStore, Receipt, SqliteStore, Store, StoredItem, open_store


def test_every_row_type_survives_reopening(path: Path) -> None:
    with SqliteStore(path) as store:
        store.commit(
            change(
                items=[
                    item(1, 1),
                    item(1, 2, cbTerminalID=None, cbReceiptReference=None, request_raw_sha256=None),
                ],
                answers=[answer(1, 1)],
                queues=[queue(1, ftQueuedRow=2), queue(2, ftReceiptHash=None, StartMoment=None)],
                actions=[action(), action(number=2, Type=None, DataJson=None, DataBase64="YQ==")],
                open_transactions=[open_transaction(), open_transaction(reference="")],
                failed_starts=[failed()],
                failed_finishes=[failed(number=4)],
                scus=[scu()],
            )
        )
    with open_store(path, create=False) as store:  # type: ignore[attr-defined]
        assert store.queues() == [queue(1, ftQueuedRow=2), queue(2, ftReceiptHash=None, StartMoment=None)]
        assert store.queue(guid("queue", 2)) == store.queues()[1]
        assert store.queue("unknown") is None
        assert store.item(guid("item", 1, 1)) == StoredItem(item(1, 1), answer(1, 1))
        second = item(1, 2, cbTerminalID=None, cbReceiptReference=None, request_raw_sha256=None)
        assert store.item(guid("item", 1, 2)) == StoredItem(second, None)
        assert store.item("unknown") is None
        assert store.unanswered_items(1) == [second]
        assert list(store.iter_receipts(1)) == [receipt_row(answer(1, 1))]
        assert list(store.iter_actions(guid("queue", 1))) == [
            action(),
            action(number=2, Type=None, DataJson=None, DataBase64="YQ=="),
        ]
        assert store.open_transactions(1) == [open_transaction(reference=""), open_transaction()]
        assert store.failed_starts(1) == [failed()]
        assert store.failed_finishes(1) == [failed(number=4)]
        assert store.scus() == [scu()]


def test_removals_come_before_insertions_of_the_same_change(store: SqliteStore) -> None:
    store.commit(change(open_transactions=[open_transaction(number=1)], failed_starts=[failed()]))
    store.commit(
        change(
            open_transactions_removed=[(1, "A"), (1, "never there")],
            open_transactions=[open_transaction(number=2)],
            failed_starts_removed=[(1, "A")],
            failed_finishes_removed=[(9, "A")],
        )
    )
    assert store.open_transactions(1) == [open_transaction(number=2)]
    assert store.failed_starts(1) == []


def test_a_change_of_many_rows_is_stored_whole_or_not_at_all(store: SqliteStore) -> None:
    many = [item(1, row) for row in range(1, 3001)]
    with pytest.raises(StoreError, match="row 1 does not continue queue 1"):
        store.commit(change(items=[*many, many[0]]))
    assert list(store.iter_items_by_row(1)) == []
    store.commit(change(items=many))
    assert [stored.item for stored in store.iter_items_by_row(1)] == many


def test_an_empty_change_is_fine(store: SqliteStore) -> None:
    store.commit(Change())


@pytest.mark.parametrize(
    "bad",
    [
        change(answers=[answer(1, 1)]),
        change(answers=[error_answer(1, 1)]),
        change(answers=[answer(1, 2)]),
        change(answers=[answer(2, 1)]),
        change(items=[item(1, 2)], answers=[answer(1, 2), answer(1, 2)]),
        change(items=[item(1, 2)], answers=[answer(1, 2, response=None)]),
        *(
            change(items=[item(1, 2)], answers=[answer(1, 2, receipt=receipt()._replace(**{name: None}))])
            for name in Receipt._fields
        ),
        change(items=[item(1, 1, ftQueueItemId="another")]),
        change(items=[item(1, 3)]),
        change(items=[item(1, 2, ftQueueItemId=guid("item", 5, 1))]),
        change(items=[item(1, 2, ftQueueItemId=guid("item", 1, 1))]),
        change(items=[item(1, 2, ftQueueItemId="no GUID")]),
        change(items=[item(1, 2, ftQueueItemId=guid("item", 1, 2).upper())]),
        change(items=[item(1, 2)], answers=[answer(1, 2, receipt=receipt(1, 3))]),
        change(items=[item(1, 2)], answers=[answer(1, 2, receipt=receipt(1, 1))]),
        change(queues=[queue(1, 0)]),
        change(items=[item(1, 2, request=None)]),
        change(items=[item(1, 2, ftQueueMoment="soon")]),
        change(items=[item(1, 2, ftQueueMoment=1 << 64)]),
        change(items=[item(1, 2, request="\ud800")]),
        change(items=[item(1, 2, request=object())]),
        change(items=[(1, 2)]),
        change(items=[7]),
        change(queues=[queue(1, ftQueueId=guid("queue", 2))]),
        change(queues=[queue(2, ftQueueId=guid("queue", 1))]),
        change(queues=[queue(3)], answers=[answer(1, 1)]),
    ],
)
def test_a_bad_change_is_refused_and_leaves_nothing(store: SqliteStore, bad: Change) -> None:
    store.commit(accepted(1, 1))
    store.commit(completed(1, 1))
    store.commit(change(items=[item(5, 1)]))
    with pytest.raises(StoreError, match="the change cannot be stored"):
        store.commit(bad)
    assert store.queues() == [counted(1, 1)]
    assert len(list(store.iter_items(1))) == 1
    store.commit(change(items=[item(1, 2)]))
    store.commit(completed(1, 2))


def test_ranges_run_on_the_timestamp(store: SqliteStore) -> None:
    for row in range(1, 6):
        store.commit(accepted(1, row))
        store.commit(completed(1, row))
        store.commit(completed_of_another_queue(row))
    store.commit(change(actions=[action(number=n) for n in (3, 1, 2)]))

    def rows(from_ticks: int, to_ticks: int) -> list[int]:
        found = [stored.item.ftQueueRow for stored in store.iter_items(1, from_ticks, to_ticks)]
        receipts = [found.ftReceiptNumber for found in store.iter_receipts(1, from_ticks, to_ticks)]
        assert receipts == found
        return found

    assert rows(0, 0) == [1, 2, 3, 4, 5]
    assert rows(START + 25, 0) == [2, 3, 4, 5]
    assert rows(START + 26, 0) == [3, 4, 5]
    assert rows(START + 25, START + 45) == [2, 3, 4]
    assert rows(START + 25, -2) == [2, 3]
    assert rows(0, -100) == rows(0, -(1 << 63)) == [1, 2, 3, 4, 5]
    assert rows(START + 45, START + 25) == []
    stamps = [found.TimeStamp for found in store.iter_actions(guid("queue", 1), START + 11, -5)]
    assert stamps == [START + 20, START + 30]


def completed_of_another_queue(row: int) -> Change:
    return change(items=[item(2, row)], answers=[answer(2, row)])


def test_unanswered_items_stand_among_the_answered_by_their_own_timestamp(store: SqliteStore) -> None:
    store.commit(change(items=[item(1, 1), item(1, 2, TimeStamp=START + 1), item(1, 3)]))
    store.commit(change(answers=[answer(1, 1), answer(1, 3, receipt=receipt(1, 2))], queues=[queue(1, 1)]))
    assert [stored.item.ftQueueRow for stored in store.iter_items(1)] == [2, 1, 3]
    assert [stored.item.ftQueueRow for stored in store.iter_items(1, 0, -2)] == [2, 1]
    assert [stored.item.ftQueueRow for stored in store.iter_items(1, START + 2)] == [1, 3]
    assert store.unanswered_items(1) == [item(1, 2, TimeStamp=START + 1)]


def test_equal_timestamps_keep_the_order_of_rows(store: SqliteStore) -> None:
    rows = range(1, 251)
    store.commit(change(items=[item(1, row) for row in rows], queues=[queue(1, 250)]))
    store.commit(change(answers=[answer(1, row, TimeStamp=START) for row in rows]))
    assert [stored.item.ftQueueRow for stored in store.iter_items(1)] == list(rows)
    assert [found.ftReceiptNumber for found in store.iter_receipts(1)] == list(rows)


def test_an_error_answer_has_no_receipt(store: SqliteStore, path: Path) -> None:
    store.commit(change(items=[item(1, row) for row in range(1, 501)], queues=[queue(1, 500)]))
    answers = [
        answer(1, row, receipt=receipt(1, row // 7 + 1)) if row % 7 == 3 else error_answer(1, row)
        for row in range(1, 501)
    ]
    store.commit(change(answers=answers))
    paid = [receipt_row(found) for found in answers if found.receipt]
    assert [stored.answer for stored in store.iter_items(1)] == answers
    assert [stored.answer for stored in store.iter_items_by_row(1)] == answers
    assert list(store.iter_receipts(1)) == list(store.iter_receipts_by_number(1)) == paid
    assert list(store.iter_receipts(1, 0, -3)) == paid[:3]
    assert list(store.iter_receipts(1, paid[5].TimeStamp, paid[8].TimeStamp)) == paid[5:9]
    with sqlite3.connect(path) as connection:
        (count,) = connection.execute("SELECT count(*) FROM ftReceiptJournal").fetchone()
    connection.close()
    assert count == len(paid)


def test_queues_may_answer_in_another_order_than_they_accept(store: SqliteStore) -> None:
    store.commit(change(items=[item(1, 1)]))
    store.commit(change(items=[item(2, 1), item(3, 1)]))
    store.commit(completed(2, 1))
    items, receipts = store.iter_items(1), store.iter_receipts(1)
    others = store.iter_receipts_by_number(1), store.iter_receipts(3, 0, -1)
    store.commit(completed(1, 1))
    store.commit(completed(3, 1))
    store.commit(accepted(1, 2))
    assert list(items) == [StoredItem(item(1, 1), None)]
    assert list(receipts) == list(others[0]) == list(others[1]) == []
    for no in (1, 2, 3):
        assert list(store.iter_receipts(no)) == [receipt_row(answer(no, 1))]


def test_items_by_reference_are_answered_and_newest_first(store: SqliteStore) -> None:
    for row, terminal in ((1, "T1"), (2, "T2"), (3, None), (4, "T1")):
        store.commit(change(items=[item(1, row, cbReceiptReference="X", cbTerminalID=terminal)]))
    store.commit(change(items=[item(2, 1, cbReceiptReference="X")], answers=[answer(2, 1)]))
    store.commit(change(answers=[error_answer(1, row) for row in (3, 2, 1)]))

    def found(terminal: str | None, limit: int = 10) -> list[int]:
        return [stored.item.ftQueueRow for stored in store.items_by_reference(1, "X", terminal, limit)]

    assert found(None) == found("") == [3, 2, 1]
    assert found("T1") == [1]
    assert found(None, 2) == [3, 2]
    assert found(None, 0) == []


def test_items_before_are_those_of_lower_rows(store: SqliteStore) -> None:
    for row in range(1, 6):
        store.commit(change(items=[item(1, row, cbReceiptReference="X" if row != 3 else "Y")]))
    store.commit(change(items=[item(2, 1, cbReceiptReference="X")], answers=[answer(2, 1)]))
    store.commit(change(answers=[error_answer(1, row) for row in (1, 3, 4, 5)]))

    def found(before: int, limit: int = 10) -> list[int]:
        return [each.item.ftQueueRow for each in store.items_before(1, "X", guid("item", 1, before), limit)]

    assert found(5) == [4, 1]
    assert found(5, 1) == [4]
    assert found(4) == found(3) == [1]
    assert found(1) == []
    assert store.items_before(1, "X", guid("item", 1, 9), 10) == []


def test_items_by_row_may_begin_behind_a_row(store: SqliteStore) -> None:
    store.commit(change(items=[item(1, row) for row in range(1, 251)]))
    for after in (0, 1, 120, 249, 250, 251):
        rows = [stored.item.ftQueueRow for stored in store.iter_items_by_row(1, after)]
        assert rows == list(range(after + 1, 251))


def test_iterators_show_the_moment_of_their_call(store: SqliteStore) -> None:
    for row in range(1, 301):
        store.commit(change(items=[item(1, row)]))
    store.commit(change(answers=[answer(1, row) for row in range(1, 300)], queues=[queue(1, 299)]))
    items, by_row = store.iter_items(1), store.iter_items_by_row(1)
    receipts, by_number = store.iter_receipts(1), store.iter_receipts_by_number(1)
    before = [next(items), next(by_row), next(receipts), next(by_number)]
    assert all(before)
    store.commit(completed(1, 300))
    # A clock that stepped back puts the new rows before those the iterators show next.
    store.commit(change(items=[item(1, 301)], answers=[answer(1, 301, TimeStamp=START + 1200)]))
    rest = list(items)
    assert [stored.item.ftQueueRow for stored in rest] == list(range(2, 301))
    assert rest[-1].answer is None
    assert len(list(by_row)) == 299
    assert len(list(receipts)) == len(list(by_number)) == 298


def test_iterators_need_constant_memory(store: SqliteStore) -> None:
    count = 100_000
    for start in range(1, count, 10_000):
        rows = range(start, start + 10_000)
        store.commit(
            change(
                items=[item(1, row) for row in rows],
                answers=[answer(1, row) for row in rows],
                queues=[queue(1, rows[-1])],
            )
        )
    tracemalloc.start()
    try:
        for rows_of in (
            store.iter_items,
            store.iter_items_by_row,
            store.iter_receipts,
            store.iter_receipts_by_number,
        ):
            tracemalloc.reset_peak()
            assert sum(1 for _ in rows_of(1)) == count
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_the_view_shows_the_columns_of_the_reference(store: SqliteStore, path: Path) -> None:
    store.commit(change(queues=[queue()], items=[item(1, 1), item(1, 2)], answers=[answer(1, 1)]))
    with sqlite3.connect(path) as connection:
        cursor = connection.execute("SELECT * FROM ftQueueItemJournal ORDER BY ftQueueRow")
        names = [column[0] for column in cursor.description]
        rows = cursor.fetchall()
    connection.close()
    assert " ".join(names) == (
        "ftQueueItemId ftQueueId ftQueueRow ftQueueMoment ftQueueTimeout ftWorkMoment ftDoneMoment"
        " cbReceiptMoment cbTerminalID cbReceiptReference country version request requestHash response"
        " responseHash TimeStamp ProcessingVersion"
    )
    assert rows[0][1] == guid("queue", 1)
    assert [row[names.index("TimeStamp")] for row in rows] == [answer(1, 1).TimeStamp, item(1, 2).TimeStamp]


def test_the_view_of_the_receipts_shows_the_columns_of_the_reference(store: SqliteStore, path: Path) -> None:
    store.commit(change(queues=[queue()], items=[item(1, 1), item(1, 2), item(1, 3)]))
    store.commit(change(answers=[error_answer(1, 1), answer(1, 2, receipt=receipt(1, 1))]))
    with sqlite3.connect(path) as connection:
        cursor = connection.execute("SELECT * FROM ftReceiptJournal")
        names = [column[0] for column in cursor.description]
        rows = cursor.fetchall()
    connection.close()
    assert " ".join(names) == (
        "ftReceiptJournalId ftReceiptMoment ftReceiptNumber ftReceiptTotal ftQueueId ftQueueItemId"
        " ftReceiptHash TimeStamp"
    )
    expected = {
        **receipt_row(answer(1, 2, receipt=receipt(1, 1)))._asdict(),
        "ftQueueId": guid("queue", 1),
    }
    assert rows == [tuple(expected[name] for name in names)]


def test_a_closed_store_refuses(path: Path) -> None:
    store = SqliteStore(path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.commit(accepted(1, 1))
    with pytest.raises(StoreError, match="closed"):
        store.queues()


def test_the_null_store_keeps_nothing() -> None:
    store: Store = NullStore()
    store.commit(accepted(1, 1))
    assert store.queues() == store.scus() == store.open_transactions(1) == store.unanswered_items(1) == []
    assert (
        store.failed_starts(1) == store.failed_finishes(1) == store.items_by_reference(1, "", None, 1) == []
    )
    assert store.queue("") is None
    assert store.item("") is None
    iterators = (store.iter_items(1), store.iter_items_by_row(1), store.iter_receipts(1))
    assert [
        list(rows) for rows in (*iterators, store.iter_receipts_by_number(1), store.iter_actions(""))
    ] == [[]] * 5
    store.close()
