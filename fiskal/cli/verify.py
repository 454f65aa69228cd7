"""``fiskal verify``."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from cryptography import x509

from fiskal import clock
from fiskal.cli import common
from fiskal.export import dsfinvk
from fiskal.export.evidence import Evidence, Problem, client_ids
from fiskal.export.tarreport import as_plain, second
from fiskal.export.verify import MAX_PROBLEMS, JournalReport, verify_journal
from fiskal.lazy import LazyModule
from fiskal.store import QueueRow, Store
from fiskal.tse.archive import find_archives
from fiskal.tse.certificates import CertificateError, load_certificates
from fiskal.tse.findings import Severity
from fiskal.tse.qr import format_time
from fiskal.tse.revocation import Revocation, RevocationListError, load_revocation_lists
from fiskal.tse.tarverify import Progress, TarReport, TseReport, VerifiedLog, verified_log, verify_archives
from fiskal.tse.verify import QrResult, finish_statement, verify_qr

if TYPE_CHECKING:
    from fiskal.export import tarpage
    from fiskal.tse import qrimage
else:  # each needs an extra
    tarpage = LazyModule("fiskal.export.tarpage")
    qrimage = LazyModule("fiskal.tse.qrimage")

SHOWN_PROBLEMS = 20
MAX_QR_BYTES = 1 << 20
"""What is read from standard input; a QR code holds 2953 bytes."""


@click.group("verify")
def command() -> None:
    """Check a QR code of a receipt, the TAR export of a TSE, a DSFinV-K export, or the whole journal of a host.

    \b
    Examples:
      fiskal verify tar export.tar
      fiskal verify dsfinvk dsfinvk.zip
      fiskal verify journal --data shop
      fiskal verify qr "V0;POS-1;Kassenbeleg-V1;Beleg^7.50_…"
    """


# ---- what the commands share -----------------------------------------------------------------------


_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")


def trust_option() -> Callable[[_F], _F]:
    """``--trust PATH``: trust anchors."""
    return click.option(
        "--trust",
        "anchors",
        metavar="PATH",
        multiple=True,
        type=click.Path(path_type=Path, exists=True),
        help="A certificate (PEM or DER), or a folder of them, that is trusted: the root of the TSE's maker, not "
        "the one from the archive. May be repeated. With it, every chain must lead to one of them.",
    )


def tar_option(what: str) -> Callable[[_F], _F]:
    """``--tar FILE``: the log of the TSE, to compare with."""
    return click.option("--tar", "tars", metavar="FILE", multiple=True, type=common.INPUT_FILE, help=what)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files themselves, and those of folders in order of their names."""
    for path in paths:
        yield from sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]


def _load(
    paths: Sequence[Path],
    read: Callable[[bytes], Sequence[_T]],
    refused: type[Exception],
    code: str,
    name: str,
    hint: str,
) -> list[_T]:
    """What ``read`` finds in files and folders, any number in each. Raises CommandError ``code`` for a file that it
    refuses, or if none has a ``name``."""
    found: list[_T] = []
    for file in _files(paths):
        try:
            found += read(file.read_bytes())
        except refused as error:
            raise common.CommandError(code, f"{file}: {error}", hint=hint) from error
    if paths and not found:
        raise common.CommandError(code, f"{paths[0]} holds no {name}")
    return found


def load_anchors(paths: Sequence[Path]) -> list[x509.Certificate]:
    """The certificates of files and folders. Raises CommandError for a file that holds none."""
    hint = "A trust anchor is an X.509 certificate, PEM or DER."
    return _load(paths, load_certificates, CertificateError, "CERTIFICATE", "certificate", hint)


def load_lists(paths: Sequence[Path]) -> list[x509.CertificateRevocationList]:
    """The revocation lists of files and folders. Raises CommandError for a file that holds none."""
    hint = "It is what the issuer publishes as .crl."
    name = "revocation list"
    return _load(paths, load_revocation_lists, RevocationListError, "REVOCATION_LIST", name, hint)


@contextlib.contextmanager
def archive_progress(label: str, *, as_json: bool) -> Iterator[Progress]:
    """A progress bar that counts bytes, for people."""
    with click.progressbar(
        length=1, label=label, file=sys.stderr, hidden=not common.is_watched(as_json)
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = max(total, 1)
            bar.update(done - bar.pos)

        yield progress


# ---- QR codes -------------------------------------------------------------------------------------


@command.command("qr")
@click.argument("text", default="-")
@click.option(
    "--image",
    metavar="FILE",
    type=common.INPUT_FILE,
    help="Read the code from a picture: a photo, a scan, a PNG.",
)
@tar_option("A TAR export of the TSE, which must have the receipt. May be repeated.")
@trust_option()
@common.json_option()
@click.pass_context
def qr(
    ctx: click.Context,
    text: str,
    image: Path | None,
    tars: tuple[Path, ...],
    anchors: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Check the signature of a QR code: TEXT is what a scanner reads, - is standard input.

    A valid code proves that the key in the code signed it. That the key is one of a certified TSE takes the
    TSE's certificate, and with --tar its log is asked for the very same signature.

    \b
    Examples:
      zbarimg --raw -q receipt.png | fiskal verify qr
      fiskal verify qr --image receipt.jpg --tar export.tar --trust root.pem
    """
    trusted = load_anchors(anchors)
    archives = find_archives(tars)
    if trusted and not archives:
        raise click.UsageError("--trust needs --tar: a QR code has no certificate.")
    if image is not None:
        text = qrimage.read_qr_image(image)[0]
    elif text == "-":
        # As bytes: reading text would turn the CR between the lines of an order into LF.
        text = sys.stdin.buffer.read(MAX_QR_BYTES).decode(errors="replace")
    result = verify_qr(text.rstrip("\r\n"))  # a scanner ends its text with a line break
    problems: list[str] = []
    if archives:
        with (
            archive_progress("log of the TSE", as_json=as_json) as progress,
            verified_log(archives, trusted, progress=progress) as log,
        ):
            problems = against_log(result, log, trusted)
    ok = result.valid and not problems
    found = result.qr
    facts: dict[str, Any] = {}
    if found is not None:
        facts = {
            "clientId": found.client_id,
            "processType": found.process_type,
            "processData": found.process_data,
            "transactionNumber": found.transaction_number,
            "signatureCounter": found.signature_counter,
            "startTime": format_time(found.start_time),
            "logTime": format_time(found.log_time),
            "tseSerialNumber": result.serial,
        }
    if as_json:
        plain = {
            "ok": ok,
            "reason": result.reason,
            "detail": result.detail,
            "meaning": result.meaning,
            "findings": result.findings,
            **facts,
        }
        if archives:
            plain["log"] = {"ok": not problems, "problems": problems}
        common.print_json(plain)
    else:
        click.echo("valid" if ok else "NOT VALID")
        for name, value in facts.items():
            click.echo(f"  {name:<18} {value!r}" if name == "processData" else f"  {name:<18} {value}")
        for line in (result.detail, result.meaning, *result.findings, *problems):
            if line:
                click.echo(f"  {line}")
        if archives and not problems:
            click.echo("  the log of the TSE has this signature")
    ctx.exit(0 if ok else common.BAD)


def against_log(result: QrResult, log: VerifiedLog, trusted: Sequence[x509.Certificate]) -> list[str]:
    """What the log of the TSE says against a QR code; empty if it has the same signature."""
    if result.qr is None or result.serial is None:
        return []
    evidence = Evidence((), log, trusted)
    serial = bytes.fromhex(result.serial)
    said = finish_statement(result.qr)
    problems = [
        evidence.key(serial),
        evidence.moment(serial, said.log_time),
        evidence.signature(
            serial,
            said.signature_counter,
            said.operation,
            said.transaction_number,
            result.qr.signature,
        ),
    ]
    if evidence.later:
        problems.append("the receipt is younger than the log that was given")
    if not log.report.ok:
        problems.append("the log of the TSE is not valid itself: see 'fiskal verify tar'")
    return [problem for problem in problems if problem]


# ---- archives -------------------------------------------------------------------------------------


@command.command("tar")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=common.INPUT_FILE)
@trust_option()
@click.option(
    "--crl",
    "lists",
    metavar="PATH",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="A revocation list (PEM or DER), or a folder of them, of the makers of the certificates: today's. May be "
    "repeated. Nothing is fetched from anywhere.",
)
@click.option(
    "--filtered", is_flag=True, help="The export was asked for only a part of the log: gaps prove nothing."
)
@click.option(
    "--html", "html", metavar="FILE", type=click.Path(path_type=Path), help="Write a report for people."
)
@click.option(
    "--jobs", metavar="N", type=click.IntRange(1, 256), help="Processes to use. Default: one per core."
)
@common.json_option()
@click.pass_context
def tar(
    ctx: click.Context,
    files: tuple[Path, ...],
    anchors: tuple[Path, ...],
    lists: tuple[Path, ...],
    filtered: bool,
    html: Path | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Verify TAR exports of any TSE: signatures, certificates, counters, transactions, time.

    FILE is a TAR archive, a ZIP file that holds some, or the parts .tar.001, .tar.002 … of one. Several files
    are taken as parts of one log: what is missing in one may be in another. Nothing is unpacked or changed.

    An error means that the archive does not prove what it says; a warning is unusual; a note is good to know.

    \b
    Examples:
      fiskal verify tar export.tar
      fiskal verify tar 2023/*.tar 2024/*.tar --trust roots/ --html report.html
      fiskal verify tar export.tar --trust root.pem --crl sub-ca.crl --crl root.crl
    """
    draw = None if html is None else tarpage.as_html  # what is missing shows before the long work
    trusted = load_anchors(anchors)
    crls = load_lists(lists)
    archives = find_archives(files)
    with archive_progress("verifying", as_json=as_json) as progress:
        report = verify_archives(
            archives, trusted, filtered=filtered, revocation_lists=crls, workers=jobs, progress=progress
        )
    if html is not None and draw is not None:
        page = draw(report, made_at=clock.now()).encode()
        common.replace_file(html, lambda file: file.write(page))
    if as_json:
        common.print_json(as_plain(report))
    else:
        _show_tar(report)
        if html is not None:
            click.echo(f"report: {html}")
    ctx.exit(0 if report.ok else common.BAD)


_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}


def _show_tar(report: TarReport) -> None:
    if report.ok and not report.logs:
        click.secho("nothing to verify: there are no log messages", bold=True, fg="yellow")
    else:
        click.secho("valid" if report.ok else "NOT VALID", bold=True, fg="green" if report.ok else "red")
    for archive in report.archives:
        maker = ", ".join(value for value in archive.info.values() if value)[:60]
        click.echo(f"  {archive.name}: {archive.logs} messages{f' ({maker})' if maker else ''}")
    checked = f"{report.valid} of {report.logs} signatures hold"
    for count, text in (
        (report.invalid, "do not hold"),
        (report.unchecked, "not checked"),
        (report.unreadable, "unreadable"),
    ):
        checked += f", {count} {text}" if count else ""
    click.echo(f"  {checked}")
    for tse in report.tses:
        _show_tse(tse)
    counts = ", ".join(
        f"{count} {severity.value}{'' if count == 1 else 's'}"
        for severity, count in report.counts.items()
        if count
    )
    click.echo(f"findings: {counts or 'none'}")
    for finding in report.findings[:SHOWN_PROBLEMS]:
        click.secho(f"  {finding.severity.value}: ", fg=_COLOURS[finding.severity], nl=False)
        place = "/".join(part for part in (finding.archive, finding.member) if part)
        click.echo(
            f"{f'{place}: ' if place else ''}{finding.code.value}{f': {finding.text}' if finding.text else ''}"
        )
    more = sum(report.counts.values()) - SHOWN_PROBLEMS
    if more > 0:
        click.echo(f"  and {more} more; --json and --html list up to 200 of a kind")


def _show_tse(tse: TseReport) -> None:
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(tse.kinds.items()))
    click.echo(f"TSE {tse.serial}")
    for name, value in (
        (
            "certificates",
            tse.trust.value
            + ("" if tse.revocation is Revocation.NOT_CHECKED else f", revocation: {tse.revocation.value}"),
        ),
        ("format", ", ".join(tse.traits)),
        ("log time", f"{second(tse.first_time)} to {second(tse.last_time)} UTC"),
        ("counters", f"{tse.first_counter} to {tse.last_counter}, {tse.gaps or 'no'} gaps"),
        ("messages", f"{tse.messages}: {kinds}"),
        ("transactions", f"{tse.transactions}, {tse.open_count} open"),
        ("clients", ", ".join(client.client_id or "?" for client in tse.clients[:8]) or "none"),
    ):
        click.echo(f"  {name:<13} {value}")


# ---- DSFinV-K -------------------------------------------------------------------------------------


@command.command("dsfinvk")
@click.argument("file", type=common.INPUT_FILE)
@click.option("--no-signatures", is_flag=True, help="Do not check the signatures of the TSE.")
@common.json_option()
@click.pass_context
def dsfinvk_export(ctx: click.Context, file: Path, no_signatures: bool, as_json: bool) -> None:
    """Check a DSFinV-K export, of this or any other software: FILE is its ZIP.

    Files and index.xml, columns, types and codes, keys and references, sums from the lines up to the closing, that
    what the TSE signed says the same as the tables, and that every signature holds. Nothing else is needed.

    \b
    Example:
      fiskal verify dsfinvk dsfinvk.zip
    """
    report = run_check(file, signatures=not no_signatures, as_json=as_json)
    if as_json:
        common.print_json(check_as_plain(report))
    else:
        show_check(report)
    ctx.exit(0 if report.ok else common.BAD)


def run_check(file: Path, *, signatures: bool, as_json: bool) -> dsfinvk.CheckReport:
    """Check an export, with a bar if somebody watches."""
    with click.progressbar(
        length=1, label=f"checking {file.name}", file=sys.stderr, hidden=not common.is_watched(as_json)
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = max(total, 1)
            bar.update(done - bar.pos)

        return dsfinvk.check(file, signatures=signatures, progress=progress)


def check_as_plain(report: dsfinvk.CheckReport) -> dict[str, Any]:
    """A report as plain values."""
    return {
        "ok": report.ok,
        "errors": report.errors,
        "warnings": report.warnings,
        "counts": report.counts,
        "codes": report.totals,
        "findings": [finding._asdict() for finding in report.findings],
    }


def show_check(report: dsfinvk.CheckReport) -> None:
    """A report for people."""
    counts = ", ".join(f"{number} {name}" for name, number in report.counts.items())
    click.secho("valid" if report.ok else "NOT VALID", bold=True, fg="green" if report.ok else "red")
    click.echo(f"  {counts}")
    click.echo(f"findings: {report.errors} errors, {report.warnings} warnings")
    for finding in report.findings[:SHOWN_PROBLEMS]:
        click.secho(f"  {finding.severity}: ", fg=_COLOURS[Severity(finding.severity)], nl=False)
        click.echo(f"{finding.code} {finding.where}: {finding.text}")
    more = report.errors + report.warnings - SHOWN_PROBLEMS
    if more > 0:
        click.echo(f"  and {more} more; --json lists up to 20 of a kind")


# ---- journals -------------------------------------------------------------------------------------


@command.command("journal")
@common.data_option()
@click.option("--queue-id", metavar="GUID", help="Only this queue.")
@tar_option("A TAR export of the TSE, to match with the journal. May be repeated.")
@trust_option()
@common.json_option()
@click.pass_context
def journal(
    ctx: click.Context,
    data: Path,
    queue_id: str | None,
    tars: tuple[Path, ...],
    anchors: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Check the journal of every queue: hash chain, numbers, totals, every signature, archived TAR exports.

    Every key that signed must be that of a TSE's certificate. With --tar the journal and the log of the TSE are
    compared both ways: what is journalled as signed must be in the log, and what the TSE signed for these queues
    must be in the journal.

    Nothing is changed. The folder must not be in use by a running 'fiskal serve'.

    \b
    Examples:
      fiskal verify journal --data shop
      fiskal verify journal --data shop --tar export.tar --trust roots/
    """
    trusted = load_anchors(anchors)
    archives = find_archives(tars)
    with contextlib.ExitStack() as stack:
        store = common.open_journal(data)
        stack.callback(store.close)
        chosen = common.choose_queues(store, queue_id)
        log = None
        if archives:
            with archive_progress("log of the TSE", as_json=as_json) as progress:
                log = stack.enter_context(verified_log(archives, trusted, progress=progress))
        evidence = Evidence(store.scus(), log, trusted)
        reports = [(row, _check(store, row, evidence, as_json=as_json)) for row in chosen]
        everyone = store.queues()
        others = [row for row in everyone if row not in chosen]
        missing = list(itertools.islice(evidence.unjournalled(client_ids(chosen, others)), MAX_PROBLEMS))
    ok = all(found.ok for _, found in reports) and not missing and (log is None or log.report.ok)
    if as_json:
        result: dict[str, Any] = {
            "ok": ok,
            "queues": [journal_as_plain(row, found) for row, found in reports],
        }
        if log is not None:
            result |= {
                "notJournalled": [{"where": where, "what": what} for where, what in missing],
                "laterThanLog": evidence.later,
                "tar": as_plain(log.report),
            }
        common.print_json(result)
    else:
        for row, found in reports:
            _show(row, found)
        if log is not None:
            _show_tar(log.report)
            _show_match(evidence, missing)
    ctx.exit(0 if ok else common.BAD)


def journal_as_plain(row: QueueRow, found: JournalReport) -> dict[str, Any]:
    """A report as plain values."""
    return {
        "ftQueueID": row.ftQueueId,
        "ok": found.ok,
        "counts": found.counts,
        "problemCount": found.problem_count,
        "problems": [{"where": where, "what": what} for where, what in found.problems],
        "notes": found.notes,
    }


def _check(store: Store, row: QueueRow, evidence: Evidence, *, as_json: bool) -> JournalReport:
    with click.progressbar(
        length=row.ftQueuedRow,
        label=f"queue {row.ftQueueId}",
        file=sys.stderr,
        hidden=not common.is_watched(as_json),
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        return verify_journal(store, row, evidence=evidence, progress=progress)


def _show(row: QueueRow, found: JournalReport) -> None:
    counts = ", ".join(f"{number} {name}" for name, number in found.counts.items())
    click.echo(f"queue {row.ftQueueId}: {'good' if found.ok else 'BAD'} ({counts})")
    for where, what in found.problems[:SHOWN_PROBLEMS]:
        click.echo(f"  {where}: {what}")
    more = found.problem_count - SHOWN_PROBLEMS
    if more > 0:
        click.echo(f"  and {more} problems more; --json lists up to 1000")
    for note in found.notes:
        click.echo(f"  note: {note}")


def _show_match(evidence: Evidence, missing: Sequence[Problem]) -> None:
    """How journal and log agree."""
    if not missing:
        click.echo("journal and log: everything that the TSE signed for these queues is journalled")
    else:
        click.secho(f"journal and log: {len(missing)} signatures are not journalled", fg="red")
        for where, what in missing[:SHOWN_PROBLEMS]:
            click.echo(f"  {where}: {what}")
    if evidence.later:
        click.echo(f"  note: {evidence.later} signatures are younger than the log that was given")
