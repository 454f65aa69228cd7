"""Journal and TSE log held against each other: every difference is found, in both directions."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import Encoding

from fiskal.cli import main
from fiskal.export.evidence import Evidence, Problem, client_ids
from fiskal.export.verify import JournalReport, verify_journal
from fiskal.host.config import STORE_NAME
from fiskal.queue.settings import QueueSettings, TarFileExportMode
from fiskal.scu.contract import StartTransactionRequest
from fiskal.scu.driver import Selection
from fiskal.scu.software.tse import SoftwareTse
from fiskal.store import open_store
from fiskal.tse.archive import find_archives
from fiskal.tse.logmessage import parse
from fiskal.tse.tar import TarWriter, read_members
from fiskal.tse.tarverify import verified_log
from tests.export.test_verify_journal import fill
from tests.support.shop import Shop


class Site:
    """A closed shop: its data folder, and the log of its TSE as the members of an archive."""

    def __init__(self, folder: Path, *, strangers: bool = False) -> None:
        self.folder = folder
        keep = QueueSettings(tar_file_export_mode=TarFileExportMode.NONE)  # closings leave the log alone
        shop = Shop(folder, settings=keep)
        fill(shop)
        self.qr = str(shop.sale("QR-1")["ftSignatures"][0]["Data"])
        if strangers:  # somebody else signs with the client id of the queue
            shop.tse.scu.start_transaction(StartTransactionRequest(client_id="POS-1"))
        shop.close()
        self.queue_id = shop.queue_id
        with_tse = SoftwareTse(folder / "scu" / shop.scu_id, clock=shop.clock, create=False)
        out = io.BytesIO()
        with_tse.export(Selection(), out, nullcontext)
        with_tse.close()
        self.members = [
            (member.name, member.data or b"") for member in read_members(io.BytesIO(out.getvalue()))
        ]
        self.root = with_tse.chain.certificates[-1]

    def counters(self) -> list[int]:
        return [parse(data).signature_counter for name, data in self.members if name.endswith(".log")]

    def tar(self, *, without: set[int] = frozenset()) -> Path:  # type: ignore[assignment]
        """The archive, without the messages with these counters."""
        path = self.folder / f"log-{len(without)}.tar"
        with path.open("wb") as file:
            tar = TarWriter(file, 0)
            for name, data in self.members:
                if not name.endswith(".log") or parse(data).signature_counter not in without:
                    tar.add(name, data)
            tar.close()
        return path

    @contextmanager
    def checked(
        self, path: Path | None, *anchors: Any
    ) -> Iterator[tuple[JournalReport, Evidence, list[Problem]]]:
        store = open_store(self.folder / STORE_NAME, create=False)
        archives = find_archives([path] if path else [])
        try:
            with verified_log(archives, anchors, workers=1) as log:
                row = store.queue(self.queue_id)
                assert row is not None
                evidence = Evidence(store.scus(), log if path else None, anchors)
                report = verify_journal(store, row, evidence=evidence)
                yield report, evidence, list(evidence.unjournalled(client_ids([row], [])))
        finally:
            store.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("shop"))


def test_a_journal_and_its_log_agree(site: Site) -> None:
    with site.checked(site.tar(), site.root) as (report, evidence, missing):
        assert report.ok, report.problems
        assert (missing, evidence.later, report.notes) == ([], 0, [])


def test_every_message_that_is_missing_in_the_log_is_noticed(site: Site) -> None:
    messages = [parse(data) for name, data in site.members if name.endswith(".log")]
    steps = [message for message in messages if message.transaction_number is not None]
    assert len(steps) > 20
    for message in steps[:-1]:
        counter = message.signature_counter
        with site.checked(site.tar(without={counter})) as (report, _, missing):
            assert any(
                f"(signatureCounter {counter}) is not in the log" in what for _, what in report.problems
            )
            assert missing == []


def test_a_log_that_ends_early_is_no_contradiction(site: Site) -> None:
    last = max(site.counters())
    with site.checked(site.tar(without={last - 1, last})) as (report, evidence, missing):
        assert report.ok, report.problems
        assert evidence.later == 2
        assert missing == []


def test_a_log_that_begins_late_is_a_problem(site: Site) -> None:
    with site.checked(site.tar(without=set(range(8)))) as (report, _, _):
        assert any("give the earlier archives too" in what for _, what in report.problems)


def test_the_log_of_another_tse_proves_nothing(site: Site, tmp_path: Path) -> None:
    other = Site(tmp_path)
    with site.checked(other.tar()) as (report, _, _):
        assert any("whose log was not given" in what for _, what in report.problems)


def test_what_was_signed_past_the_journal_is_found(tmp_path: Path) -> None:
    site = Site(tmp_path, strangers=True)
    with site.checked(site.tar()) as (report, _, missing):
        assert report.ok, report.problems
        assert [what for _, what in missing] == [
            f"the TSE signed a start (signatureCounter {max(site.counters())}) that is not in the journal"
        ]
        assert missing[0].where.endswith("_Start_Client-POS-1.log")


def test_a_foreign_key_is_no_tse(site: Site, tmp_path: Path) -> None:
    """The store's certificates are of another TSE than the one whose key stands in the responses."""
    other = Site(tmp_path)
    path = other.folder / STORE_NAME
    with sqlite3.connect(site.folder / STORE_NAME) as source, sqlite3.connect(path) as target:
        (info,) = source.execute("SELECT TseInfoJson FROM ftSignaturCreationUnitDE").fetchone()
        target.execute("UPDATE ftSignaturCreationUnitDE SET TseInfoJson = ?", (info,))
    source.close()
    target.close()
    with other.checked(None) as (report, _, _):
        assert any("no certificate of a TSE has the key" in what for _, what in report.problems)


def test_trust_anchors_must_be_reached(site: Site, tmp_path: Path) -> None:
    other = Site(tmp_path)
    with site.checked(None, other.root) as (report, _, _):
        assert any("leads to no trust anchor" in what for _, what in report.problems)
    with site.checked(None, site.root) as (report, _, _):
        assert report.ok, report.problems


def test_log_times_outside_of_the_certificate(site: Site) -> None:
    """Expired is a problem; before its time is only noted, for the clock was wrong."""
    store = open_store(site.folder / STORE_NAME, create=False)
    row = store.queue(site.queue_id)
    assert row is not None
    for change, problems, notes in (
        (lambda held: replace(held, not_after=0), "had expired at the log time", []),
        (lambda held: replace(held, not_before=2**62), "", ["have a log time before"]),
    ):
        evidence = Evidence(store.scus())
        evidence._held = {serial: change(held) for serial, held in evidence._held.items()}
        report = verify_journal(store, row, evidence=evidence)
        assert report.ok == (not problems)
        assert all(problems in what for _, what in report.problems)
        assert len(report.notes) == len(notes)
        assert all(text in note for text, note in zip(notes, report.notes, strict=True))
    store.close()


def test_without_any_certificate_a_note_says_what_is_not_proven(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with sqlite3.connect(site.folder / STORE_NAME) as store:
        store.execute("UPDATE ftSignaturCreationUnitDE SET TseInfoJson = NULL")
    store.close()
    with site.checked(None) as (report, _, _):
        assert report.ok, report.problems
        assert report.notes == ["no certificate of a TSE is known: whose keys have signed is not proven"]


def test_the_command(site: Site) -> None:
    def run(*more: str) -> Any:
        return CliRunner().invoke(main, ["verify", "journal", "--data", str(site.folder), *more])

    good = run("--tar", str(site.tar()), "--json")
    assert good.exit_code == 0, good.output
    found = json.loads(good.stdout)
    assert (found["ok"], found["notJournalled"], found["tar"]["ok"]) == (True, [], True)
    text = run("--tar", str(site.tar()))
    assert "everything that the TSE signed for these queues is journalled" in text.stdout
    bad = run("--tar", str(site.tar(without={9})))
    assert bad.exit_code == 1
    assert "signatureCounters are missing: 9 to 9" in bad.stdout


def test_a_qr_code_is_looked_up_in_the_log(site: Site, tmp_path: Path) -> None:
    def run(*more: object) -> Any:
        return CliRunner().invoke(main, ["verify", "qr", site.qr, *[str(each) for each in more]])

    root = tmp_path / "root.pem"
    root.write_bytes(site.root.public_bytes(Encoding.PEM))
    good = run("--tar", site.tar(), "--trust", root)
    assert good.exit_code == 0, good.output
    assert "the log of the TSE has this signature" in good.stdout
    last = max(site.counters())
    younger = run("--tar", site.tar(without={last}), "--json")
    assert younger.exit_code == 1
    assert json.loads(younger.stdout)["log"]["problems"] == [
        "the receipt is younger than the log that was given"
    ]
    other = Site(tmp_path / "other")
    stranger = run("--tar", other.tar(), "--trust", root)
    assert stranger.exit_code == 1
    assert "no certificate of a TSE has the key" in stranger.stdout
    assert run("--trust", root).exit_code == 2
    assert run().exit_code == 0
