"""What an auditor may be given: ZIP files, parts, several archives, hostile ones; and that cores do not matter."""

from __future__ import annotations

import io
import json
import random
import re
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiskal.cli import main
from fiskal.export.tarpage import as_html
from fiskal.export.tarreport import as_plain
from fiskal.tse import archive as archive_module
from fiskal.tse import workers
from fiskal.tse.archive import ArchiveError, find_archives
from fiskal.tse.checking import Checker, Task
from fiskal.tse.findings import Code, Severity
from fiskal.tse.tar import (
    BLOCK,
    SEGMENT_BYTES,
    Member,
    TarError,
    header,
    members_of,
    read_members,
    read_segments,
)
from fiskal.tse.tarverify import TarReport, Trust, verify_archives, verify_tar
from tests.tse.test_tar import INFO, F, S, Tse, archive, certificates, day_archive, named, tse


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def verify(*paths: Path, **options: Any) -> TarReport:
    return verify_archives(find_archives(paths), workers=1, **options)


def long_log(count: int) -> list[bytes]:
    """One system log and many transactions."""
    messages = [tse().sys(1)]
    for number in range(1, count + 1):
        counter = len(messages) + 1
        messages.append(tse().tra(counter, number, S, f"POS-{number % 3}"))
        messages.append(tse().tra(counter + 1, number, F, f"POS-{number % 3}"))
    return messages


@pytest.fixture(scope="module")
def large() -> bytes:
    """More than three segments, in no order, the certificates in the middle."""
    logs = named(long_log(700))
    random.Random(1).shuffle(logs)
    return archive([*logs[:600], ("info.csv", INFO), *certificates(tse().chain), *logs[600:]])


# ---- cores ----------------------------------------------------------------------------------------


def without_order(report: TarReport) -> dict[str, Any]:
    plain = as_plain(report)
    plain["findings"] = sorted(plain["findings"], key=json.dumps)
    return plain


def test_processes_find_what_one_finds(large: bytes, tmp_path: Path) -> None:
    altered = bytearray(large)
    for at in range(700, len(altered), 40_000):
        altered[at] ^= 1
    for name, content in (("good", large), ("bad", bytes(altered)), ("cut", large[: len(large) // 2])):
        archives = find_archives([written(tmp_path / f"{name}.tar", content)])
        alone = verify_archives(archives, workers=1)
        together = verify_archives(archives, workers=3)
        assert without_order(together) == without_order(alone)
        assert alone.ok == (name == "good")
    assert alone.logs > 300


def test_messages_before_their_certificates_are_checked_when_these_come(large: bytes) -> None:
    report = verify_tar(io.BytesIO(large))
    assert (report.ok, report.valid, report.unchecked) == (True, 1401, 0)
    assert report.codes == {"UNTRUSTED_ROOT"}


def test_a_worker_that_dies_is_reported(
    large: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_encoder", Broken())
    archives = find_archives([written(tmp_path / "a.tar", large)])
    with pytest.raises(workers.WorkerError, match="has died"):
        verify_archives(archives, workers=2)


class Broken:
    """Encodes tasks so that no worker can read them."""

    def encode(self, _: object) -> bytes:
        return b"\xc1"


def test_a_worker_ends_with_its_input() -> None:
    package = Path(workers.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-P", "-c", workers._PROGRAM, str(package)],
        input=b"",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_worker_starts_nothing_it_does_not_need(tmp_path: Path) -> None:
    """No host, and nothing that lies in the folder it is started in."""
    (tmp_path / "msgspec.py").write_text("raise SystemExit(7)")
    package = Path(workers.__file__).parent.parent
    program = workers._PROGRAM.replace(
        "main()\n", "print([name for name in sys.modules if 'fiskal' in name])\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(package)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert "fiskal.tse.checking" in done.stdout
    for room in ("fiskal.queue", "fiskal.host", "fiskal.scu", "fiskal.store"):
        assert room not in done.stdout


def test_progress_ends_at_all_bytes(large: bytes, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    paths = [written(tmp_path / "a.tar", large), written(tmp_path / "b.tar", day_archive())]
    verify(*paths, progress=lambda done, total: seen.append((done, total)))
    total = sum(path.stat().st_size for path in paths)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) > 4


# ---- several archives -----------------------------------------------------------------------------


def test_archives_of_one_tse_are_one_log(tmp_path: Path) -> None:
    messages = long_log(20)
    pieces = [
        written(tmp_path / f"{index}.tar", day_archive(messages[index * 10 : index * 10 + 12]))
        for index in range(5)
    ]
    alone = verify(pieces[1])
    assert {"STARTS_LATER", "OPEN_TRANSACTIONS"} <= alone.codes
    joined = verify(*reversed(pieces))
    assert joined.ok
    assert joined.codes == {"UNTRUSTED_ROOT", "ARCHIVES_OVERLAP"}
    (one,) = joined.tses
    assert (one.messages, one.first_counter, one.last_counter, one.gaps) == (
        48,
        1,
        41,
        0,
    )  # 7 are there twice
    assert (one.transactions, one.open_count) == (20, 0)
    lacking = verify(pieces[0], *pieces[2:])
    assert "COUNTER_GAP" in lacking.codes
    finding = next(item for item in lacking.findings if item.code is Code.COUNTER_GAP)
    assert (finding.archive, finding.text) == ("2.tar", "13 to 20")
    assert "2.tar/Unixt_" in str(finding)


def test_parts_of_an_archive(tmp_path: Path, large: bytes) -> None:
    cuts = [large[at : at + 500_000] for at in range(0, len(large), 500_000)]
    parts = [written(tmp_path / f"Export.tar.{index + 1:03d}", cut) for index, cut in enumerate(cuts)]
    (found,) = find_archives(reversed(parts))
    assert (found.name, found.size) == ("Export.tar", len(large))
    assert verify(*reversed(parts)).valid == 1401
    with pytest.raises(ArchiveError, match=r"the parts \.002 are missing"):
        find_archives([parts[0], parts[2]])


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_archives_in_a_zip_file(tmp_path: Path, method: int, large: bytes) -> None:
    path = zipped(tmp_path / "a.zip", {"tse/Export.tar": large, "readme.txt": b"x"}, method)
    (found,) = find_archives([path])
    assert (found.name, found.size) == ("a.zip/tse/Export.tar", len(large))
    report = verify(path)
    assert (report.ok, report.valid) == (True, 1401)
    day = day_archive()
    both = zipped(tmp_path / "b.zip", {"1.tar": day, "2.TAR": day}, method)
    assert verify(both).codes == {"UNTRUSTED_ROOT", "ARCHIVES_OVERLAP"}
    assert verify(zipped(tmp_path / "c.zip", {"export": day_archive()}, method)).ok


# ---- trust ----------------------------------------------------------------------------------------


def test_with_trust_anchors_every_chain_must_lead_to_one(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", day_archive())
    chain = tse().chain.certificates
    assert verify(path, trusted_roots=[chain[-1]]).tses[0].trust is Trust.TRUSTED
    assert verify(path, trusted_roots=[chain[0]]).ok
    other = Tse().chain.certificates[-1]
    stranger = verify(path, trusted_roots=[other])
    assert not stranger.ok
    assert {"UNTRUSTED_ROOT"} == stranger.codes
    assert verify(path, trusted_roots=[other, chain[-1]]).ok
    alone = written(
        tmp_path / "b.tar", archive([("info.csv", INFO), *named(tse().day()), certificates(tse().chain)[0]])
    )
    assert not verify(alone, trusted_roots=[other]).ok
    assert verify(alone).ok


# ---- hostile archives -----------------------------------------------------------------------------


def test_nothing_leaves_the_archive(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for kind, name in (
            (tarfile.SYMTYPE, "link"),
            (tarfile.LNKTYPE, "hard"),
            (tarfile.CHRTYPE, "device"),
            (tarfile.FIFOTYPE, "pipe"),
        ):
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "/etc/passwd"
            tar.addfile(info)
        for name in ("../../outside", "/absolute", "a/../../b.log", "C:/windows", "..\\x"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    before = sorted(tmp_path.rglob("*"))
    report = verify_tar(io.BytesIO(out.getvalue()))
    kinds = [item.text for item in report.findings if item.code is Code.NOT_A_FILE]
    assert kinds == ["a symbolic link", "a hard link", "a device", "a pipe"]
    names = {item.member for item in report.findings if item.code is Code.UNSAFE_NAME}
    assert names == {"../../outside", "/absolute", "C:/windows", "..\\x"}
    assert "LOG_UNREADABLE" in report.codes
    assert sorted(tmp_path.rglob("*")) == before


def test_what_stands_behind_the_end_is_not_hidden() -> None:
    later = day_archive([tse().tra(7, 3, S)])
    report = verify_tar(io.BytesIO(day_archive() + bytes(5120) + later))
    assert (report.logs, report.valid) == (7, 7)
    (finding,) = [item for item in report.findings if item.code is Code.ARCHIVE_DAMAGED]
    assert (finding.severity, finding.text) == (
        Severity.WARNING,
        "another archive follows the end of this one",
    )
    for tail in (b"x" * 2000, b"x", bytes(700) + b"x"):
        report = verify_tar(io.BytesIO(day_archive() + tail))
        assert report.ok
        assert "ARCHIVE_DAMAGED" in report.codes
    for tail in (b"\0", bytes(511), bytes(100_000)):
        assert verify_tar(io.BytesIO(day_archive() + tail)).codes == {"UNTRUSTED_ROOT"}
    only_one_end = day_archive()[:-BLOCK]
    assert verify_tar(io.BytesIO(only_one_end)).codes == {"UNTRUSTED_ROOT"}


def test_padding_that_is_missing_or_not_zero() -> None:
    content = bytearray(archive([("a", b"abc"), ("b", b"de")]))
    content[600:1024] = b"x" * 424
    assert [member.data for member in read_members(io.BytesIO(bytes(content)))] == [b"abc", b"de"]
    found: list[Member] = []
    with pytest.raises(TarError, match="within a file"):
        found.extend(read_members(io.BytesIO(bytes(content[: 3 * 512 + 2]))))
    assert [member.data for member in found] == [b"abc", b"de"]


def test_headers_without_end_do_not_fill_the_memory() -> None:
    pax = header(b"P", 10, 0, b"x") + b"10 path=a\n".ljust(512, b"\0")

    class Endless:
        read_so_far = 0

        def read(self, size: int) -> bytes:
            self.read_so_far += size
            return (pax * (size // len(pax) + 1))[:size]

    stream = Endless()
    with pytest.raises(TarError, match="too long"):
        list(read_members(stream))
    assert stream.read_so_far < 8 << 20


def test_a_zip_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "_FREE_BYTES", 1 << 20)
    bomb = archive([("info.csv", INFO), *[("a.log", bytes(100))] * 40_000])
    report = verify(zipped(tmp_path / "a.zip", {"a.tar": bomb}))
    assert not report.ok
    (finding,) = [item for item in report.findings if item.code is Code.ARCHIVE_DAMAGED]
    assert "200 times" in finding.text
    assert report.logs < 40_000
    endless = header(b"info.csv", 1 << 32, 0) + bytes(30 << 20)
    report = verify(zipped(tmp_path / "b.zip", {"a.tar": endless}))
    assert "200 times" in report.findings[0].text


def test_zip_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = zipped(tmp_path / "a.zip", {"a.tar": day_archive()})
    whole = good.read_bytes()
    with pytest.raises(ArchiveError, match="damaged or cut off"):
        find_archives([written(tmp_path / "cut.zip", whole[:-30])])
    with pytest.raises(ArchiveError, match="no TAR"):
        find_archives([zipped(tmp_path / "none.zip", {"a": b"", "b": b""})])
    locked = bytearray(whole)
    locked[whole.rindex(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ArchiveError, match="encrypted"):
        find_archives([written(tmp_path / "locked.zip", bytes(locked))])
    monkeypatch.setattr(archive_module, "MAX_ZIP_MEMBERS", 3)
    with pytest.raises(ArchiveError, match="more than 3 members"):
        find_archives([zipped(tmp_path / "many.zip", {f"{index}.tar": b"" for index in range(4)})])
    path = tmp_path / "many64.zip"
    with zipfile.ZipFile(path, "w", allowZip64=True) as file:
        for index in range(4):
            file.writestr(f"{index}.tar", b"")
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    with pytest.raises(ArchiveError, match="more than 3 members"):
        find_archives([path])


@cache
def small_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.tar", day_archive())
    return out.getvalue()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_zip_files_raise_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(small_zip())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(
            st.integers(0, len(content) - 1) | st.integers(max(0, len(content) - 120), len(content) - 1)
        )
        content[at] = data.draw(st.integers(0, 255))
    path = written(tmp_path / "b.zip", bytes(content))
    try:
        report = verify(path)
    except ArchiveError:
        return
    assert report.ok or report.findings


# ---- segments ---------------------------------------------------------------------------------------


def test_segments_hold_whole_members(large: bytes) -> None:
    segments = list(read_segments(io.BytesIO(large)))
    assert b"".join(segment.data for segment in segments) == large[:-1024]
    assert all(len(segment.data) <= SEGMENT_BYTES for segment in segments)
    assert [member for segment in segments for member in members_of(segment.data)] == list(
        read_members(io.BytesIO(large))
    )
    assert sum(segment.logs for segment in segments) == 1401


# ---- the command ----------------------------------------------------------------------------------


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["verify", "tar", *[str(each) for each in arguments]])


def test_the_command_says_what_it_found(tmp_path: Path) -> None:
    path = written(tmp_path / "day.tar", day_archive())
    good = run(path)
    assert good.exit_code == 0
    assert good.stdout.startswith("valid\n  day.tar: 6 messages")
    assert "6 of 6 signatures hold" in good.stdout
    assert f"TSE {tse().chain.serial.hex()}" in good.stdout
    root = written(tmp_path / "root.pem", tse().chain.certificates[-1].public_bytes(Encoding.PEM))
    trusted = run(path, "--trust", root)
    assert (trusted.exit_code, "findings: none" in trusted.stdout) == (0, True)
    folder = tmp_path / "roots"
    folder.mkdir()
    written(folder / "other.der", Tse().chain.certificates[-1].public_bytes(Encoding.DER))
    assert run(path, "--trust", folder).exit_code == 1
    bad = run(written(tmp_path / "bad.tar", day_archive(tse().day()[:2] + tse().day()[3:])), "--json")
    assert bad.exit_code == 1
    found = json.loads(bad.stdout)
    assert found["counts"]["error"] == 2
    assert found["codes"]["COUNTER_GAP"] == 1
    assert found["findings"][0]["file"].endswith("_Client-POS-1.log")
    filtered = written(tmp_path / "filtered.tar", day_archive(tse().day()[:2] + tse().day()[3:]))
    assert run(filtered, "--filtered").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (lambda path: [path / "nothing.tar"], "does not exist"),
        (lambda path: [], "Missing argument"),
        (lambda path: [path / "empty.zip"], "damaged or cut off"),
        (lambda path: [path / "a.tar", "--trust", path / "a.tar"], "no X.509 certificate"),
        (lambda path: [path / "a.tar", "--trust", path / "none"], "holds no certificate"),
        (lambda path: [path / "a.tar", "--jobs", "0"], "not in the range"),
    ],
)
def test_what_cannot_be_done_is_explained(
    tmp_path: Path, arguments: Callable[[Path], list[object]], text: str
) -> None:
    written(tmp_path / "a.tar", day_archive())
    written(tmp_path / "empty.zip", b"PK\x03\x04")
    (tmp_path / "none").mkdir()
    result = run(*arguments(tmp_path))
    assert result.exit_code == 2
    assert text in result.stderr
    assert "Traceback" not in result.output


def test_a_full_disk_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("fiskal.tse.ledger.Ledger.add", full)
    result = run(written(tmp_path / "a.tar", day_archive()))
    assert result.exit_code == 2
    assert "disk is full. (TEMPORARY_SPACE)" in result.stderr
    assert "SQLITE_TMPDIR" in result.stderr


def test_an_archive_without_messages_is_not_called_valid(tmp_path: Path) -> None:
    result = run(written(tmp_path / "a.tar", archive([("info.csv", INFO)])))
    assert result.exit_code == 0
    assert result.stdout.startswith("nothing to verify")


def test_an_archive_that_is_none_is_bad_not_an_error_of_the_command(tmp_path: Path) -> None:
    result = run(written(tmp_path / "a.tar", b"GIF89a" * 1000))
    assert result.exit_code == 1
    assert "This is no TAR archive." in result.stdout


# ---- the report for people ------------------------------------------------------------------------


class Page(HTMLParser):
    """Notes whatever a page would load, and whether its elements are closed."""

    VOID = ("meta", "br", "circle", "rect", "line", "path", "link")

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.stack: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [
            f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset") or name.startswith("on")
        ]
        if tag in ("script", "iframe", "object", "link", "img"):
            self.loads.append(tag)
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(report: TarReport) -> Page:
    page = Page()
    page.feed(as_html(report, made_at=638_000_000_000_000_000))
    page.close()
    assert page.stack in (["html"], [])
    assert page.loads == []
    return page


def test_the_page_is_self_contained_and_shows_what_was_found(tmp_path: Path) -> None:
    attack = "<script>alert(1)</script>"
    content = archive(
        [
            ("info.csv", f'"description:","{attack}"'.encode()),
            (f"{attack}.txt", b""),
            *certificates(tse().chain),
            *named([*tse().day(), tse().client(7, "POS-1"), tse().tra(9, 3, S, "P<b>1")]),
        ]
    )
    page = page_of(verify_tar(io.BytesIO(content)))
    assert attack in page.text
    assert "1 error found" in page.text
    assert "8 to 8" in page.text
    assert "P<b>1" in page.text
    assert tse().chain.serial.hex() in page.text
    path = tmp_path / "r.html"
    result = run(written(tmp_path / "a.tar", content), "--html", path)
    assert result.exit_code == 1
    assert re.search(r"<title>TSE export: a\.tar</title>", path.read_text())


def test_every_kind_of_report_has_a_page() -> None:
    for content in (
        b"",
        archive([]),
        archive([("info.csv", INFO)]),
        day_archive(),
        day_archive([tse().sys(1)]),
    ):
        page_of(verify_tar(io.BytesIO(content)))
    empty = archive([("info.csv", INFO), *certificates(tse().chain)])
    assert "Nothing to verify" in page_of(verify_tar(io.BytesIO(empty))).text
    trusted = verify_tar(io.BytesIO(day_archive()), tse().chain.certificates)
    assert "Valid and trusted" in page_of(trusted).text
    assert "None." in page_of(trusted).text
    many = verify_tar(io.BytesIO(archive([(f"{index}.txt", b"") for index in range(300)])))
    assert "100 findings more of this kind" in page_of(many).text


def test_a_checker_learns_certificates_once_and_forgets_nothing() -> None:
    der = tse().chain.der
    segment = next(read_segments(io.BytesIO(archive(named(tse().day()))))).data
    checker = Checker()
    assert len(checker.check(Task(0, segment, [])).waiting) == 6
    assert checker.check(Task(0, segment, der[1:])).valid == 0
    assert checker.check(Task(0, segment, der)).valid == 6
    assert checker.check(Task(0, segment, [*der, b"no certificate"])).valid == 6
