"""``fiskal verify``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from fiskal.cli import common
from fiskal.export.verify import JournalReport, verify_journal
from fiskal.store import QueueRow, Store
from fiskal.tse.qr import format_time
from fiskal.tse.verify import verify_qr

SHOWN_PROBLEMS = 20


@click.group("verify")
def command() -> None:
    """Check a QR code of a receipt, or the whole journal of a host.

    \b
    Examples:
      fiskal verify journal --data shop
      fiskal verify qr "V0;POS-1;Kassenbeleg-V1;Beleg^7.50_…"
    """


@command.command("qr")
@click.argument("text", default="-")
@common.json_option()
@click.pass_context
def qr(ctx: click.Context, text: str, as_json: bool) -> None:
    """Check the signature of a QR code: TEXT is what a scanner reads, - is standard input.

    A valid code proves that the key in the code signed it. That the key is one of a certified TSE takes the
    TSE's certificate.

    \b
    Example:
      zbarimg --raw -q receipt.png | fiskal verify qr
    """
    if text == "-":
        # As bytes: reading text would turn the CR between the lines of an order into LF.
        text = sys.stdin.buffer.read().decode(errors="replace")
    result = verify_qr(text.rstrip("\r\n"))  # a scanner ends its text with a line break
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
        common.print_json(
            {
                "ok": result.valid,
                "reason": result.reason,
                "detail": result.detail,
                "meaning": result.meaning,
                "findings": result.findings,
                **facts,
            }
        )
    else:
        click.echo("valid" if result.valid else "NOT VALID")
        for name, value in facts.items():
            click.echo(f"  {name:<18} {value!r}" if name == "processData" else f"  {name:<18} {value}")
        for line in (result.detail, result.meaning, *result.findings):
            if line:
                click.echo(f"  {line}")
    ctx.exit(0 if result.valid else common.BAD)


@command.command("journal")
@common.data_option()
@click.option("--queue-id", metavar="GUID", help="Only this queue.")
@common.json_option()
@click.pass_context
def journal(ctx: click.Context, data: Path, queue_id: str | None, as_json: bool) -> None:
    """Check the journal of every queue: hash chain, numbers, totals, every signature, archived TAR exports.

    Nothing is changed. The folder must not be in use by a running 'fiskal serve'.

    \b
    Example:
      fiskal verify journal --data shop
    """
    store = common.open_journal(data)
    try:
        reports = [
            (row, _check(store, row, as_json=as_json)) for row in common.choose_queues(store, queue_id)
        ]
    finally:
        store.close()
    ok = all(found.ok for _, found in reports)
    if as_json:
        common.print_json({"ok": ok, "queues": [as_plain(row, found) for row, found in reports]})
    else:
        for row, found in reports:
            _show(row, found)
    ctx.exit(0 if ok else common.BAD)


def as_plain(row: QueueRow, found: JournalReport) -> dict[str, Any]:
    """A report as plain values."""
    return {
        "ftQueueID": row.ftQueueId,
        "ok": found.ok,
        "counts": found.counts,
        "problemCount": found.problem_count,
        "problems": [{"where": where, "what": what} for where, what in found.problems],
    }


def _check(store: Store, row: QueueRow, *, as_json: bool) -> JournalReport:
    with click.progressbar(
        length=row.ftQueuedRow,
        label=f"queue {row.ftQueueId}",
        file=sys.stderr,
        hidden=not common.is_watched(as_json),
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        return verify_journal(store, row, progress=progress)


def _show(row: QueueRow, found: JournalReport) -> None:
    counts = ", ".join(f"{number} {name}" for name, number in found.counts.items())
    click.echo(f"queue {row.ftQueueId}: {'good' if found.ok else 'BAD'} ({counts})")
    for where, what in found.problems[:SHOWN_PROBLEMS]:
        click.echo(f"  {where}: {what}")
    more = found.problem_count - SHOWN_PROBLEMS
    if more > 0:
        click.echo(f"  and {more} problems more; --json lists up to 1000")
