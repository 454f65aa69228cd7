"""TAR exports of closings: what is archived, what is erased, and that nothing is lost in between."""

from __future__ import annotations

import io
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import fiskal
from fiskal.errors import StoreError
from fiskal.export.verify import verify_journal
from fiskal.host.config import HostConfig, QueueConfig
from fiskal.queue.exports import ExportRunner
from fiskal.queue.settings import QueueSettings, TarFileExportMode
from fiskal.scu.errors import Misconfigured, OutcomeUnknown, TseRejected, Unreachable
from fiskal.store import Change, ExportState, JournalDERow, exportfile
from fiskal.tse.logmessage import parse
from fiskal.tse.tar import read_members
from fiskal.tse.tarverify import verify_tar
from tests.queue.test_switch import SwitchShop, two_scus
from tests.support.shop import DE, DyingStore, Shop

DAILY, MONTHLY, YEARLY, ZERO, STOP, MIGRATION = 0x07, 0x05, 0x06, 0x02, 0x04, 0x19
TAR, BYPASS = 0x0200_0000, 0x0400_0000
MODES = TarFileExportMode
DOWN = Unreachable("CONNECT_FAILED", "The TSE is not available.")
FULL = TseRejected("MEMORY_FULL", "The memory of the TSE is full.")
CALLS = ["start_export_session", "export_data", "end_export_session"]


class Death(BaseException):
    """The process dies here."""


def rows(shop: Shop) -> list[JournalDERow]:
    return list(shop.middleware.store.iter_exports(shop.queue_id))


def tar_of(shop: Shop, row: JournalDERow) -> bytes:
    return b"".join(exportfile.tar_chunks(shop.middleware.store, row))


def archived(shop: Shop) -> list[list[int]]:
    """The signature counters of every archive."""
    return [
        [
            parse(member.data or b"").signature_counter
            for member in read_members(io.BytesIO(tar_of(shop, row)))
            if member.name.endswith(".log")
        ]
        for row in rows(shop)
    ]


def on_tse(shop: Shop) -> list[int]:
    return [counter for counter, _ in shop.tse.scu._driver.messages()]  # type: ignore[attr-defined]


def nothing_is_lost(shop: Shop) -> None:
    """Every message the TSE ever signed is in an archive or still there."""
    counters = {counter for each in archived(shop) for counter in each} | set(on_tse(shop))
    last = shop.tse.scu.get_tse_info().current_number_of_signatures
    assert counters == set(range(1, last + 1))
    report = verify_journal(shop.middleware.store, shop.row)
    assert report.ok, report.problems
    assert shop.tse.scu._exports._sessions == {}  # type: ignore[attr-defined]


def nothing_is_left(shop: Shop) -> None:
    """No part of a file without an export in the journal."""
    store: Any = shop.middleware.store
    assert store.unfinished_exports(shop.queue_id) == []
    parts = store._query("SELECT DISTINCT ftJournalDEId FROM ftJournalDEPart")
    assert {each for (each,) in parts} == {row.ftJournalDEId for row in rows(shop)}


def complaints(shop: Shop) -> list[str]:
    return [text for text in shop.actions() if "TAR export" in text]


def make(folder: Path, mode: TarFileExportMode = MODES.ALL, **settings: Any) -> Shop:
    return Shop(folder, settings=QueueSettings(tar_file_export_mode=mode, **settings))


@pytest.fixture
def erasing(tmp_path: Path) -> Iterator[Shop]:
    """A shop in mode Erased."""
    made = make(tmp_path, MODES.ERASED)
    yield made
    made.close()


def start_transaction(shop: Shop) -> None:
    shop.send(0x08, "T-1")


# ---- what is archived ---------------------------------------------------------------------------


@pytest.mark.parametrize("case", [DAILY, MONTHLY, YEARLY, ZERO | TAR])
def test_the_whole_log_is_archived_and_erased(shop: Shop, case: int) -> None:
    shop.sale()
    before = on_tse(shop)
    answer = shop.send(case, "C-1")
    assert answer["ftState"] == DE
    (row,) = rows(shop)
    assert archived(shop) == [[*before, before[-1] + 1, before[-1] + 2]]
    assert on_tse(shop) == [before[-1] + 3]  # the system log of the erasure
    assert (row.ftQueueItemId, row.Number) == (answer["ftQueueItemID"], shop.row.ftReceiptNumerator)
    assert (row.FileExtension, row.erased, row.scu_id) == (".zip", 1, shop.scu_id)
    assert row.FileName.startswith("20231114")
    assert row.FileName.endswith("_POS-1")
    assert verify_tar(io.BytesIO(tar_of(shop, row))).ok
    assert complaints(shop) == []
    nothing_is_lost(shop)
    nothing_is_left(shop)


def test_the_file_is_a_zip_with_one_tar(shop: Shop) -> None:
    shop.send(DAILY)
    (row,) = rows(shop)
    file = b"".join(exportfile.parts(shop.middleware.store, row))
    assert len(file) == row.zip_bytes
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        assert archive.testzip() is None
        (entry,) = archive.infolist()
        assert (entry.filename, entry.file_size) == (f"{row.FileName}.tar", row.tar_bytes)
        assert archive.read(entry) == tar_of(shop, row)


def test_every_closing_archives_what_came_since(shop: Shop) -> None:
    for _ in range(3):
        shop.sale()
        shop.send(DAILY)
    counters = [counter for each in archived(shop) for counter in each]
    assert counters == list(range(1, counters[-1] + 1))
    assert [row.Number for row in rows(shop)] == [3, 5, 7]
    nothing_is_lost(shop)


@pytest.mark.parametrize("case", [DAILY, MONTHLY, YEARLY, MIGRATION, STOP, ZERO])
def test_no_export_where_the_flags_ask_for_none(shop: Shop, case: int) -> None:
    shop.send(case | (BYPASS if case != ZERO else 0), "C-1")
    assert rows(shop) == []
    assert not set(CALLS) & set(shop.tse.calls)


@pytest.mark.parametrize("case", [DAILY, ZERO | TAR, STOP])
def test_mode_none_exports_nothing(tmp_path: Path, case: int) -> None:
    shop = make(tmp_path, MODES.NONE)
    shop.send(case)
    assert rows(shop) == []
    assert not set(CALLS) & set(shop.tse.calls)
    shop.close()


@pytest.mark.parametrize("flags", [0x1_0000, 0x8_0000], ids=["late", "handwritten"])
@pytest.mark.parametrize("case", [DAILY, ZERO | TAR])
def test_a_receipt_that_reaches_no_tse_exports_nothing(shop: Shop, case: int, flags: int) -> None:
    shop.send(case | flags)
    assert rows(shop) == []
    assert not set(CALLS) & set(shop.tse.calls)


def test_a_closing_in_failed_mode_does_not_ask_the_tse_for_its_log(shop: Shop) -> None:
    shop.tse.fail_before("start_transaction", DOWN)
    assert shop.send(DAILY)["ftState"] == DE + 2
    assert shop.send(DAILY)["ftState"] == DE + 2
    assert not set(CALLS) & set(shop.tse.calls)


def test_a_zero_receipt_makes_room_on_a_tse_that_is_full(shop: Shop) -> None:
    shop.tse.fail_before("start_transaction", FULL)
    assert shop.send(ZERO | TAR)["ftState"] == DE + 2
    (row,) = rows(shop)
    assert row.erased == 1
    assert shop.send(ZERO)["ftState"] == DE
    nothing_is_lost(shop)


# ---- open transactions --------------------------------------------------------------------------


def test_with_open_transactions_mode_all_archives_and_says_that_nothing_was_erased(shop: Shop) -> None:
    start_transaction(shop)
    before = on_tse(shop)
    shop.send(MONTHLY)
    assert [row.erased for row in rows(shop)] == [0]
    assert on_tse(shop)[: len(before)] == before
    assert "did not erase" in complaints(shop)[0]
    nothing_is_left(shop)


def test_with_open_transactions_mode_erased_does_not_begin(erasing: Shop) -> None:
    start_transaction(erasing)
    erasing.send(MONTHLY)
    assert rows(erasing) == []
    assert not set(CALLS) & set(erasing.tse.calls)
    assert "1 transactions are open on the TSE" in complaints(erasing)[0]
    nothing_is_left(erasing)


def test_mode_erased_archives_nothing_that_was_not_erased(erasing: Shop) -> None:
    export_data = erasing.tse.scu.export_data

    def open_meanwhile(*args: Any, **options: Any) -> Any:
        if not erasing.open_on_tse():
            start_transaction(erasing)
        return export_data(*args, **options)

    erasing.tse.scu.export_data = open_meanwhile  # type: ignore[method-assign]
    erasing.send(DAILY)
    assert rows(erasing) == []
    assert "did not erase" in complaints(erasing)[0]
    nothing_is_left(erasing)
    nothing_is_lost(erasing)


def test_mode_erased_archives_what_was_erased(erasing: Shop) -> None:
    erasing.send(DAILY)
    assert [row.erased for row in rows(erasing)] == [1]
    nothing_is_lost(erasing)


# ---- the end of a queue -------------------------------------------------------------------------


def test_a_stop_receipt_archives_the_log_with_its_own_signature_before_the_tse_is_terminated(
    shop: Shop,
) -> None:
    shop.send(STOP)
    (row,) = rows(shop)
    assert row.Number == 2
    assert 7 in archived(shop)[0]  # the finish of the stop receipt
    calls = shop.tse.calls
    assert calls.index("end_export_session") < calls.index("unregister_client_id")
    nothing_is_lost(shop)


def test_a_stop_receipt_that_the_tse_refuses_to_sign_archives_the_log(shop: Shop) -> None:
    shop.tse.fail_before("start_transaction", FULL)
    shop.send(STOP)
    assert len(rows(shop)) == 1


def test_a_stop_receipt_without_tse_does_not_try(shop: Shop) -> None:
    shop.tse.down = DOWN
    shop.send(STOP)
    assert not set(CALLS) & set(shop.tse.calls)


def test_an_scu_switch_archives_the_log_of_its_source_once(tmp_path: Path) -> None:
    shop = SwitchShop(tmp_path, prepare=two_scus)
    shop.send(DAILY)
    shop.send(0x17)
    assert [row.Number for row in rows(shop)] == [2, 3]
    assert shop.tse.calls.count("start_export_session") == 2
    nothing_is_lost(shop)
    shop.close()


def test_an_export_that_fails_does_not_fail_the_stop_receipt(shop: Shop) -> None:
    shop.tse.fail_before("start_export_session", FULL)
    assert shop.send(STOP)["ftState"] == DE
    assert "MEMORY_FULL" in complaints(shop)[0]


# ---- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [MODES.ALL, MODES.ERASED])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "error",
    [FULL, Misconfigured("WRONG_TSE", "That is another TSE."), ValueError("a bug")],
    ids=["rejected", "misconfigured", "bug"],
)
@pytest.mark.parametrize("call", CALLS)
def test_an_export_that_fails_is_journalled_and_the_next_one_makes_it_good(
    tmp_path: Path, mode: TarFileExportMode, call: str, error: Exception, after: bool
) -> None:
    shop = make(tmp_path, mode)
    (shop.tse.fail_after if after else shop.tse.fail_before)(call, error)
    answer = shop.send(DAILY)
    assert answer["ftState"] == DE
    assert shop.row.SSCDFailCount == 0
    assert len(complaints(shop)) == 1
    ends = call == "end_export_session"  # it may have erased, so what was fetched is kept
    assert [row.erased for row in rows(shop)] == ([None] if ends else [])
    nothing_is_left(shop)
    if not ends:
        assert archived(shop) == []
    shop.send(DAILY)
    assert [row.erased for row in rows(shop)][-1] == 1
    shop.tse.scu._exports._sessions.clear()  # type: ignore[attr-defined]  # a lost token expires
    nothing_is_lost(shop)
    shop.close()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", ["export_data", "end_export_session"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_lost_answer_is_asked_for_again(shop: Shop, call: str, after: bool, times: int) -> None:
    for _ in range(times):
        fail = shop.tse.fail_after if after else shop.tse.fail_before
        fail(call, OutcomeUnknown("NO_RESPONSE", "The answer was lost."))
    shop.send(DAILY)
    assert [row.erased for row in rows(shop)] == [1]
    assert complaints(shop) == []
    nothing_is_lost(shop)


def test_a_checksum_that_the_tse_does_not_confirm_archives_and_erases_nothing(shop: Shop) -> None:
    export_data = shop.tse.scu.export_data

    def damaged(*args: Any, **options: Any) -> Any:
        answer = export_data(*args, **options)
        if not answer.tar_file_byte_chunk_base64:
            return answer
        return msgspec.structs.replace(answer, tar_file_byte_chunk_base64="AAAA")

    shop.tse.scu.export_data = damaged  # type: ignore[method-assign]
    before = on_tse(shop)
    shop.send(DAILY)
    assert rows(shop) == []
    assert on_tse(shop)[: len(before)] == before
    assert len(complaints(shop)) == 1
    nothing_is_left(shop)


def test_an_archive_that_does_not_read_back_is_given_up_before_anything_is_erased(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = shop.middleware.store
    export_part = store.export_part

    def flipped(journal_de_id: str, part: int) -> bytes:
        data = bytearray(export_part(journal_de_id, part))
        data[len(data) // 2] ^= 1
        return bytes(data)

    monkeypatch.setattr(store, "export_part", flipped)
    shop.send(DAILY)
    assert "EXPORT_DAMAGED" in complaints(shop)[0]
    assert "end_export_session" not in shop.tse.calls
    monkeypatch.undo()
    nothing_is_left(shop)
    nothing_is_lost(shop)


def test_an_export_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    shop = make(tmp_path, tar_export_timeout_s=0.05)
    scu: Any = shop.tse.scu
    scu._exports._run = lambda session: None  # it never becomes ready
    shop.send(DAILY)
    assert "EXPORT_TIMEOUT" in complaints(shop)[0]
    nothing_is_left(shop)
    shop.close()


# ---- crashes ------------------------------------------------------------------------------------


def use_store(shop: Shop, wrap: Callable[[Any], Any]) -> None:
    queue: Any = shop.middleware.queue(shop.queue_id)
    queue.journal.store = queue.exports._store = wrap(queue.journal.store)


def after_the_crash(shop: Shop) -> None:
    """What a start and the next receipt make of it."""
    shop.reopen()
    if shop.middleware.queue().status()["state"] != "migrated":  # a migration is completed by the start
        shop.sale("after")
    nothing_is_left(shop)
    nothing_is_lost(shop)


@pytest.mark.parametrize("mode", [MODES.ALL, MODES.ERASED])
@pytest.mark.parametrize("case", [DAILY, STOP, MIGRATION, ZERO | TAR])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", CALLS)
def test_a_death_at_a_call_loses_nothing(
    tmp_path: Path, mode: TarFileExportMode, case: int, call: str, after: bool
) -> None:
    shop = make(tmp_path, mode)
    shop.sale()
    (shop.tse.fail_after if after else shop.tse.fail_before)(call, Death())
    with pytest.raises(Death):
        shop.send(case)
    answered = case in (DAILY, ZERO | TAR)
    number = shop.row.ftReceiptNumerator
    assert number == (3 if answered else 2)
    after_the_crash(shop)
    assert len(rows(shop)) == 1
    shop.close()


@pytest.mark.parametrize("error", [Death(), StoreError("the disk is full")], ids=["death", "disk"])
@pytest.mark.parametrize("case", [DAILY, STOP])
def test_a_death_or_a_dead_disk_at_any_commit_loses_nothing(
    tmp_path: Path, case: int, error: BaseException
) -> None:
    seen = set()
    for commits in range(9):
        shop = make(tmp_path / str(commits), MODES.ALL)
        shop.sale()
        use_store(shop, lambda store, n=commits: DyingStore(store, n, error))
        try:
            shop.send(case)
            seen.add("answered")
        except (Death, StoreError):
            seen.add("died")
        after_the_crash(shop)
        seen.add(len(rows(shop)))
        shop.close()
    assert {"answered", "died", 0, 1} <= seen


def test_a_due_export_is_forgotten_when_the_mode_becomes_none(shop: Shop) -> None:
    shop.tse.fail_before("export_data", Death())
    with pytest.raises(Death):
        shop.send(DAILY)

    def none(config: HostConfig) -> None:
        config.queues[0].settings = QueueSettings(tar_file_export_mode=MODES.NONE)

    shop.reopen(none)
    shop.sale()
    assert rows(shop) == []
    nothing_is_left(shop)
    nothing_is_lost(shop)


def test_several_due_exports_of_one_tse_become_one(shop: Shop) -> None:
    for _ in range(3):
        shop.tse.fail_before("start_export_session", Death())
        with pytest.raises(Death):
            shop.send(DAILY)
        # what is due stays due, as it does when the process dies
        shop.middleware.queue().due.clear()
    assert len(shop.middleware.store.unfinished_exports(shop.queue_id)) == 3
    after_the_crash(shop)
    assert [row.Number for row in rows(shop)] == [4]


# ---- files --------------------------------------------------------------------------------------


def test_archives_are_kept_as_files_if_the_settings_ask_for_it(tmp_path: Path) -> None:
    shop = make(tmp_path, store_temporary_export_files=True)
    shop.send(DAILY)
    shop.send(DAILY)
    folder = tmp_path / "exports" / shop.queue_id / "TAR"
    wanted = {f"{row.FileName}.tar": tar_of(shop, row) for row in rows(shop)}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == wanted
    assert len(wanted) == 2
    shop.close()


def test_a_file_that_cannot_be_written_does_not_fail_the_export(tmp_path: Path) -> None:
    shop = make(tmp_path, store_temporary_export_files=True)
    (tmp_path / "exports").write_text("not a folder")
    shop.send(DAILY)
    assert [row.erased for row in rows(shop)] == [1]
    assert "could not be written" in complaints(shop)[0]
    shop.close()


def test_no_bug_behind_the_erasure_takes_the_archive_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = make(tmp_path, store_temporary_export_files=True)

    def bug(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("fiskal.queue.exports.os", SimpleNamespace(fsync=bug))
    shop.send(DAILY)
    assert [row.erased for row in rows(shop)] == [1]
    assert "could not be written: a bug" in complaints(shop)[0]
    nothing_is_lost(shop)
    exports: Any = shop.middleware.queue().exports
    put = exports._put

    def only_written(row: JournalDERow) -> None:
        if row.State == ExportState.STORED:
            bug()
        put(row)

    exports._put = only_written
    shop.send(DAILY)
    assert "not yet in the journal" in complaints(shop)[1]
    after_the_crash(shop)
    assert len(rows(shop)) == 2
    shop.close()


def test_a_death_leaves_no_half_file_and_the_next_start_writes_it(tmp_path: Path) -> None:
    shop = make(tmp_path, store_temporary_export_files=True)
    folder = tmp_path / "exports" / shop.queue_id / "TAR"
    folder.mkdir(parents=True)
    (folder / "20231114.tar.part").write_bytes(b"half")
    shop.tse.fail_after("end_export_session", Death())
    with pytest.raises(Death):
        shop.send(DAILY)
    shop.reopen()
    (row,) = rows(shop)
    assert [path.name for path in folder.iterdir()] == [f"{row.FileName}.tar"]
    assert (folder / f"{row.FileName}.tar").read_bytes() == tar_of(shop, row)
    shop.close()


def test_no_file_is_left_without_that_setting(shop: Shop) -> None:
    shop.send(DAILY)
    assert not (shop.folder / "exports").exists()


# ---- beside selling -----------------------------------------------------------------------------


class Gate:
    """Holds back the first chunk of an export until it is opened."""

    def __init__(self, scu: Any) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        export_data = scu.export_data

        def held(*args: Any, **options: Any) -> Any:
            self.reached.set()
            assert self.opened.wait(30)
            return export_data(*args, **options)

        scu.export_data = held


def in_background(shop: Shop) -> None:
    runner = ExportRunner(background=True)
    shop.middleware._export_runner = runner
    for queue in shop.middleware.queues:
        queue.export_runner = runner


def test_the_closing_is_answered_and_receipts_go_on_while_its_export_is_made(shop: Shop) -> None:
    in_background(shop)
    gate = Gate(shop.tse.scu)
    assert shop.send(DAILY)["ftState"] == DE
    assert gate.reached.wait(30)
    assert shop.sale("during")["ftState"] == DE
    assert not shop.middleware.wait_for_exports(0.01)
    assert rows(shop) == []
    gate.opened.set()
    assert shop.middleware.wait_for_exports(30)
    assert [row.erased for row in rows(shop)] == [1]
    nothing_is_lost(shop)


def test_the_queue_is_free_during_an_export_in_the_caller_of_the_closing(shop: Shop) -> None:
    gate = Gate(shop.tse.scu)
    closing = threading.Thread(target=lambda: shop.send(DAILY))
    closing.start()
    assert gate.reached.wait(30)
    assert shop.sale("during")["ftState"] == DE
    gate.opened.set()
    closing.join(30)
    assert len(rows(shop)) == 1
    nothing_is_lost(shop)


def test_an_export_cut_off_by_closing_the_host_is_made_after_the_next_start(shop: Shop) -> None:
    in_background(shop)
    gate = Gate(shop.tse.scu)
    shop.send(DAILY)
    assert gate.reached.wait(30)
    threading.Timer(0.05, gate.opened.set).start()
    shop.close()
    shop.open()
    assert rows(shop) == []
    shop.sale()
    assert [row.Number for row in rows(shop)] == [2]
    nothing_is_left(shop)
    nothing_is_lost(shop)


@pytest.mark.parametrize("in_process", [True, False])
@pytest.mark.parametrize("case", [DAILY, STOP, MIGRATION])
def test_receipts_of_other_queues_go_on_during_an_export(tmp_path: Path, case: int, in_process: bool) -> None:
    shop = Shop(tmp_path, prepare=two_queues)
    first, second = shop.config.queues
    if in_process:
        shop.tse.block()
    else:
        shop.tse.be_outside()
    shop.queue_id = second.id
    shop.send(0x03, "second")
    gate = Gate(shop.tse.scu)
    closing = shop.request(case | (0x0100_0000 if case == STOP else 0), "C-1")
    shop.queue_id = first.id
    sale = shop.request(ZERO, "during")
    answers: dict[str, Any] = {}

    def post(name: str, request: dict[str, Any]) -> None:
        answers[name] = shop.post(request)

    ends = threading.Thread(target=post, args=("closing", closing))
    ends.start()
    assert gate.reached.wait(30)
    sells = threading.Thread(target=post, args=("sale", sale))
    sells.start()
    sells.join(30)
    assert answers["sale"]["ftState"] == DE
    assert "closing" not in answers
    gate.opened.set()
    ends.join(30)
    assert answers["closing"]["ftState"] == DE
    shop.queue_id = second.id
    assert len(rows(shop)) == 1
    shop.close()


def two_queues(config: HostConfig) -> None:
    config.queues.append(QueueConfig(id=str(uuid.uuid4()), client_id="POS-2", scu_id=config.scus[0].id))


def test_queues_of_one_tse_export_one_after_the_other_and_nothing_twice(tmp_path: Path) -> None:
    shop = Shop(tmp_path, prepare=two_queues)
    first, second = shop.config.queues
    shop.queue_id = second.id
    shop.send(0x03, "second")
    in_background(shop)
    gate = Gate(shop.tse.scu)
    shop.send(DAILY)
    assert gate.reached.wait(30)
    shop.queue_id = first.id
    shop.send(DAILY)
    assert shop.tse.calls.count("start_export_session") == 1
    gate.opened.set()
    assert shop.middleware.wait_for_exports(30)
    counters = sorted(counter for each in archived(shop) for counter in each)
    shop.queue_id = second.id
    counters = sorted(counters + [counter for each in archived(shop) for counter in each])
    assert counters == list(range(1, counters[-1] + 1))
    shop.close()


def test_an_opened_host_answers_the_closing_before_its_export(tmp_path: Path) -> None:
    Shop(tmp_path).close()
    with fiskal.open(tmp_path) as middleware:
        assert middleware._export_runner._background


def test_a_due_export_whose_scu_left_the_configuration_is_given_up(tmp_path: Path) -> None:
    shop = SwitchShop(tmp_path, prepare=two_scus)
    shop.tse.fail_before("export_data", Death())
    with pytest.raises(Death):
        shop.send(DAILY)  # answered; its export is interrupted
    shop.reopen()
    shop.middleware.queue().due.clear()  # nobody signs before the switch
    shop.tse.down = DOWN
    shop.send(0x17 | 0x4000_0000)
    shop.send(0x18)

    def forget_source(config: HostConfig) -> None:
        source = config.scus.pop(0)
        config.queues[0].scu_id = config.scus[0].id
        assert source.id != config.scus[0].id

    shop.reopen(forget_source)
    shop.sale()
    assert "NO_SCU" in complaints(shop)[-1]
    nothing_is_left(shop)
    shop.close()


def test_a_commit_of_an_export_carries_no_more_than_one_part(shop: Shop) -> None:
    """Others share the flush of such a commit."""
    store = shop.middleware.store
    sizes: list[int] = []
    commit = store.commit

    def watched(change: Change, *args: Any, **options: Any) -> None:
        sizes.append(sum(len(part.data) for part in change.export_parts))
        commit(change, *args, **options)

    store.commit = watched  # type: ignore[method-assign]
    data = bytes(range(256)) * 16 + uuid.uuid4().bytes
    random = [uuid.uuid5(uuid.NAMESPACE_OID, str(n)).bytes * 4096 + data for n in range(8)]
    chunks = [bytes(a ^ b for a, b in zip(each, each[7:] + data, strict=False)) for each in random]
    row = shop.middleware.queue().exports.due("item", 1, "scu", shop.clock())
    parts, size = exportfile.write(store, row, iter(chunks), lambda: -1, shop.clock())
    assert max(sizes) <= exportfile.PART_BYTES
    assert sum(sizes) == size
    assert len(sizes) == parts
