"""Random changes against a store made of dicts, with the store reopened at random."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from rows import (
    START,
    action,
    change,
    doubtful,
    error_answer,
    export,
    export_part,
    failed,
    guid,
    item,
    master_data,
    open_transaction,
    queue,
    receipt,
    receipt_row,
    recovered,
    scu,
)

from fiskal.errors import StoreError
from fiskal.store import (
    ActionRow,
    AnswerRow,
    ExportState,
    JournalDERow,
    QueueItemRow,
    ReceiptRow,
    SqliteStore,
    StoredItem,
    writer,
)

QUEUES = st.integers(1, 3)
STAMPS = st.integers(START, START + 6)
REFERENCES = st.sampled_from(["", "A", "ß"])


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "store.sqlite"
        self.store = SqliteStore(self.path)
        self.items: dict[tuple[int, int], QueueItemRow] = {}
        self.life = 0
        self.answers: dict[tuple[int, int], AnswerRow] = {}
        self.receipts: dict[tuple[int, int], ReceiptRow] = {}
        self.actions: list[ActionRow] = []
        self.queues: dict[int, Any] = {}
        self.open: dict[tuple[int, str], Any] = {}
        self.failed: tuple[dict[tuple[int, str], Any], ...] = ({}, {})
        self.doubts: dict[tuple[int, str], Any] = {}
        self.recovered: dict[tuple[int, str], Any] = {}
        self.scus: dict[str, Any] = {}
        self.master_data: dict[int, Any] = {}
        self.exports: dict[tuple[int, int], JournalDERow] = {}
        self.parts: dict[tuple[int, int, int], bytes] = {}

    def teardown(self) -> None:
        self.store.close()
        self.directory.cleanup()

    @rule(
        no=QUEUES,
        stamp=STAMPS,
        reference=REFERENCES,
        terminal=st.sampled_from([None, "T1", "T2"]),
        large=st.sampled_from([False, False, False, True]),
        with_queue=st.booleans(),
    )
    def accept(
        self, no: int, stamp: int, reference: str, terminal: str | None, large: bool, with_queue: bool
    ) -> None:
        current = sum(1 for key in self.items if key[0] == no)
        if current and (no, current) not in self.answers:
            return
        row = item(
            no,
            current + 1,
            TimeStamp=stamp,
            cbReceiptReference=reference,
            cbTerminalID=terminal,
            request="ß" * (1 << 18 if large else 1),
        )
        queues = [queue(no, current, **self.counters(no, current))] if with_queue else []
        self.store.commit(change(items=[row], queues=queues))
        self.items[no, current + 1] = row
        self.queues.update((no, state) for state in queues)

    @rule(
        no=QUEUES,
        stamp=STAMPS,
        total=st.none() | st.decimals(allow_nan=False, allow_infinity=False, places=5),
        only_counters=st.booleans(),
        mark=st.booleans(),
    )
    def complete(self, no: int, stamp: int, total: object, only_counters: bool, mark: bool) -> None:
        number = sum(1 for key in self.items if key[0] == no)
        if not number or (no, number) in self.answers:
            return
        count = sum(1 for key in self.receipts if key[0] == no)
        paid = None if total is None else receipt(no, count + 1, ftReceiptTotal=str(total))
        done = error_answer(no, number, TimeStamp=stamp, receipt=paid)
        event = action(no, len(self.actions), TimeStamp=stamp)
        state = self.queues.get(no, queue(no)) if only_counters else queue(no)
        state = state._replace(
            ftCurrentRow=number,
            ftQueuedRow=max(state.ftQueuedRow, number),
            ftReceiptNumerator=count + (paid is not None),
            ftReceiptTotalizer=str(total),
            ftReceiptHash=state.ftReceiptHash if paid is None else paid.ftReceiptHash,
            TimeStamp=stamp,
            DeTimeStamp=stamp,
        )
        with mock.patch.object(writer, "MARK_EVERY", 1 if mark else 512):
            self.store.commit(change(answers=[done], actions=[event], queues=[state]))
        self.answers[no, number] = done
        if paid is not None:
            self.receipts[no, number] = receipt_row(done)
        self.actions.append(event)
        self.queues[no] = state

    @rule(no=QUEUES, removed=st.lists(REFERENCES), added=st.lists(REFERENCES), number=st.integers(0, 9))
    def transactions(self, no: int, removed: list[str], added: list[str], number: int) -> None:
        keys = [(no, reference) for reference in removed]
        opened = [open_transaction(no, reference, number) for reference in added]
        failures = [failed(no, reference, number) for reference in added]
        self.store.commit(
            change(
                open_transactions_removed=keys,
                open_transactions=opened,
                failed_starts_removed=keys,
                failed_starts=failures,
                failed_finishes_removed=keys,
                failed_finishes=failures,
                scus=[scu(str(no), number)],
            )
        )
        for table in (self.open, *self.failed):
            for key in keys:
                table.pop(key, None)
        for row in opened:
            self.open[no, row.cbReceiptReference] = row
        for failure in failures:
            for table in self.failed:
                table[no, failure.cbReceiptReference] = failure
        self.scus[guid(str(no))] = scu(str(no), number)

    @rule(no=QUEUES, removed=st.lists(REFERENCES), added=st.lists(REFERENCES))
    def doubt(self, no: int, removed: list[str], added: list[str]) -> None:
        gone = [doubtful(no, name)[:2] for name in removed]
        come = [doubtful(no, name) for name in added]
        self.store.commit(change(doubtful_starts_removed=gone, doubtful_starts=come))
        for key in gone:
            self.doubts.pop(key, None)
        self.doubts.update({row[:2]: row for row in come})

    @rule(no=QUEUES, names=st.lists(st.tuples(REFERENCES, st.sampled_from([None, "zero"]))))
    def recover(self, no: int, names: list[tuple[str, str | None]]) -> None:
        rows = [recovered(no, name, delivered) for name, delivered in names]
        self.store.commit(change(recovered=rows))
        self.recovered.update({row[:2]: row for row in rows})

    @rule(no=QUEUES, name=REFERENCES)
    def describe(self, no: int, name: str) -> None:
        self.master_data[no] = master_data(no, name)
        self.store.commit(change(master_data=[self.master_data[no]]))

    @rule(no=QUEUES, types=st.lists(st.sampled_from("AB"), unique=True), kind=st.sampled_from("ABC"))
    def acts(self, no: int, types: list[str], kind: str) -> None:
        event = action(no, len(self.actions), Type=kind)
        self.actions.append(event)
        self.store.commit(change(actions=[event]))
        own = [row for row in self.actions if row.ftQueueId == guid("queue", no)]
        wanted = [row for row in own if row.Type in types]
        assert self.store.last_action(guid("queue", no), *types) == (wanted[-1] if wanted else None)
        assert self.store.count_actions(guid("queue", no)) == len(own)

    @rule(no=QUEUES, number=st.integers(1, 4), state=st.sampled_from(ExportState), stamp=STAMPS)
    def exports_to(self, no: int, number: int, state: ExportState, stamp: int) -> None:
        row = export(no, number, State=state, TimeStamp=stamp)
        part = sum(1 for key in self.parts if key[:2] == (no, number))
        piece = export_part(no, number, part)
        self.store.commit(change(exports=[row], export_parts=[piece]))
        # a row that is replaced keeps its place among those with the same TimeStamp
        self.exports[no, number] = row
        self.parts[no, number, part] = piece.data

    @rule(no=QUEUES, number=st.integers(1, 4))
    def gives_up_export(self, no: int, number: int) -> None:
        self.store.commit(change(exports_removed=[guid("export", no, number)]))
        self.exports.pop((no, number), None)
        for part in range(sum(1 for key in self.parts if key[:2] == (no, number))):
            del self.parts[no, number, part]

    @precondition(lambda self: self.items)
    @rule(no=QUEUES)
    def refused(self, no: int) -> None:
        existing = next(iter(self.items.values()))
        with pytest.raises(StoreError):
            self.store.commit(change(queues=[queue(no, 99)], scus=[scu("refused")], items=[existing]))

    @rule(name=REFERENCES)
    def one_of_a_batch_is_refused(self, name: str) -> None:
        rows = [scu(name, 7), scu(name, 8)]
        good = [self.store.submit(change(scus=[row])) for row in rows[:1]]
        bad = self.store.submit(change(scus=[scu("bad")], answers=[error_answer(9, 9)]))
        good.append(self.store.submit(change(scus=rows[1:])))
        self.store.flush()
        assert [each.error for each in good] == [None, None]
        assert isinstance(bad.error, StoreError)
        self.scus[guid(name)] = rows[1]

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = SqliteStore(self.path)

    @rule()
    def die(self) -> None:
        """Go on with the files as they are while the store is open."""
        path = self.copied("life")
        self.store.close()
        self.path = path
        self.store = SqliteStore(self.path)

    def copied(self, name: str) -> Path:
        """The files as they are, in a folder of their own."""
        folder = Path(self.directory.name) / f"{name} {self.life}"
        self.life += 1
        folder.mkdir()
        for file in self.path.parent.iterdir():
            if file.is_file() and not file.name.endswith("-shm"):
                shutil.copy(file, folder / file.name)
        return folder / self.path.name

    def counters(self, no: int, current: int) -> dict[str, object]:
        """What a queue cannot go back from."""
        count = sum(1 for key in self.receipts if key[0] == no)
        return {"ftReceiptNumerator": count, "ftQueuedRow": current + 1}

    @rule(no=QUEUES, first=STAMPS, last=st.one_of(STAMPS, st.integers(-4, 0)))
    def ranges(self, no: int, first: int, last: int) -> None:
        items = self.stored(no)
        items.sort(key=lambda stored: (stored.answer or stored.item).TimeStamp)
        self.same(self.store.iter_items(no, first, last), items, first, last)
        receipts = [row for key, row in self.receipts.items() if key[0] == no]
        receipts.sort(key=lambda row: row.TimeStamp)
        self.same(self.store.iter_receipts(no, first, last), receipts, first, last)
        actions = [row for row in self.actions if row.ftQueueId == guid("queue", no)]
        actions.sort(key=lambda row: row.TimeStamp)
        self.same(self.store.iter_actions(guid("queue", no), first, last), actions, first, last)
        exports = [row for row in self.exports_of(no) if row.State == ExportState.STORED]
        exports.sort(key=lambda row: row.TimeStamp)
        self.same(self.store.iter_exports(guid("queue", no), first, last), exports, first, last)

    def exports_of(self, no: int) -> list[JournalDERow]:
        return [row for key, row in self.exports.items() if key[0] == no]

    def same(self, found: Any, rows: list[Any], first: int, last: int) -> None:
        def stamp(row: Any) -> int:
            return (row.answer or row.item).TimeStamp if isinstance(row, StoredItem) else row.TimeStamp

        expected = [row for row in rows if first <= stamp(row) and (last <= 0 or stamp(row) <= last)]
        assert list(found) == (expected[:-last] if last < 0 else expected)

    def stored(self, no: int) -> list[StoredItem]:
        return [StoredItem(row, self.answers.get(key)) for key, row in self.items.items() if key[0] == no]

    @rule(
        no=QUEUES, reference=REFERENCES, terminal=st.sampled_from([None, "", "T1"]), limit=st.integers(0, 3)
    )
    def references(self, no: int, reference: str, terminal: str | None, limit: int) -> None:
        expected = [
            stored
            for stored in reversed(self.stored(no))
            if stored.answer
            and stored.item.cbReceiptReference == reference
            and (not terminal or stored.item.cbTerminalID == terminal)
        ]
        assert self.store.items_by_reference(no, reference, terminal, limit) == expected[:limit]

    @invariant()
    def agrees(self) -> None:
        rows = {no: max((row for n, row in self.items if n == no), default=0) for no in self.queues}
        assert self.store.queues() == [
            row._replace(ftQueuedRow=max(row.ftQueuedRow, rows[no]))
            for no, row in sorted(self.queues.items())
        ]
        assert self.store.scus() == [self.scus[key] for key in sorted(self.scus)]
        for no in (1, 2, 3):
            assert self.store.master_data(no) == self.master_data.get(no)
            exports = self.exports_of(no)
            unfinished = [row for row in exports if row.State != ExportState.STORED]
            assert self.store.unfinished_exports(guid("queue", no)) == unfinished
            assert self.store.count_exports(guid("queue", no)) == len(exports) - len(unfinished)
            for number in range(1, 5):
                for part in range(3):
                    found = self.store.export_part(guid("export", no, number), part)
                    assert found == self.parts.get((no, number, part))
            stored = self.stored(no)
            assert list(self.store.iter_items_by_row(no)) == stored
            assert self.store.unanswered_items(no) == [row.item for row in stored if row.answer is None]
            receipts = [row for key, row in self.receipts.items() if key[0] == no]
            assert list(self.store.iter_receipts_by_number(no)) == receipts
            assert {row[:2]: row for row in self.store.doubtful_starts(no)} == {
                key: row for key, row in self.doubts.items() if key[0] == no
            }
            assert {row[:2]: row for row in self.store.undelivered(no)} == {
                key: row for key, row in self.recovered.items() if key[0] == no and row.DeliveredBy is None
            }
            for read, table in (
                (self.store.open_transactions, self.open),
                (self.store.failed_starts, self.failed[0]),
                (self.store.failed_finishes, self.failed[1]),
            ):
                found = {row.cbReceiptReference: row for row in read(no)}
                assert found == {key[1]: row for key, row in table.items() if key[0] == no}


StoreMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStore = StoreMachine.TestCase
