"""``fiskal export``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click

from fiskal.cli import common
from fiskal.cli.journal import first_moment, last_moment
from fiskal.cli.verify import check_as_plain, run_check, show_check
from fiskal.export import dsfinvk
from fiskal.host import config as configs
from fiskal.host.middleware import dsfinvk_options
from fiskal.store import QueueRow


@click.group("export")
def command() -> None:
    """Make the files that an auditor asks for.

    \b
    Example:
      fiskal export dsfinvk --data shop --from 2026-01-01 --to 2026-03-31 -o dsfinvk.zip
    """


@command.command("dsfinvk")
@common.data_option()
@click.option("--from", "first", metavar="MOMENT", type=first_moment, default="0", help="From here.")
@click.option("--to", "last", metavar="MOMENT", type=last_moment, default="0", help="To here.")
@click.option("--queue-id", metavar="GUID", help="Which queue, if the host has several.")
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Write to FILE.",
)
@click.option("--no-check", is_flag=True, help="Do not check what was written.")
@common.json_option()
@click.pass_context
def export_dsfinvk(
    ctx: click.Context,
    data: Path,
    first: int,
    last: int,
    queue_id: str | None,
    out: Path,
    no_check: bool,
    as_json: bool,
) -> None:
    """Write the DSFinV-K export of a queue and check it, as 'fiskal verify dsfinvk' does.

    It holds the daily closings whose receipt lies between --from and --to (.NET ticks, ISO 8601 moments or dates in
    UTC), each of them whole. No TSE is needed. The folder must not be in use by a running 'fiskal serve'; ask that
    for journal type 0x4445000000000002 instead.

    Exit code 1 says that the file was written and the check found errors in it: data that the POS or the master data
    lack.

    \b
    Example:
      fiskal export dsfinvk --data shop --from 2026-01-01 -o dsfinvk.zip
    """
    with contextlib.closing(common.open_journal(data)) as store:
        queue = _only(common.choose_queues(store, queue_id))
        settings = next(
            (each.settings for each in configs.load(data).queues if each.id == queue.ftQueueId), None
        )
        options = dsfinvk.DEFAULTS if settings is None else dsfinvk_options(settings)
        made: list[dsfinvk.Summary] = []

        def fill(file: IO[bytes]) -> None:
            with _progress(f"writing {out.name}", as_json=as_json) as progress:
                summary = dsfinvk.export(store, queue, file, first, last, options=options, progress=progress)
            if not summary.closings:
                raise common.CommandError(
                    "NO_CLOSING",
                    "no daily closing lies in the range, and without one there is nothing to export",
                    hint="Send a daily closing (0x0007) at the end of every day of business, or widen the range.",
                )
            made.append(summary)

        common.replace_file(out, fill)
    (summary,) = made
    report = None if no_check else run_check(out, signatures=True, as_json=as_json)
    if as_json:
        result: dict[str, Any] = {
            "file": str(out),
            "ftQueueID": queue.ftQueueId,
            "closings": summary.closings,
            "transactions": summary.receipts,
        }
        if report is not None:
            result["check"] = check_as_plain(report)
        common.print_json(result)
    else:
        click.echo(f"{out}: {summary.closings} closings, {summary.receipts} transactions")
        if report is not None:
            show_check(report)
    ctx.exit(common.BAD if report is not None and not report.ok else 0)


def _only(rows: list[QueueRow]) -> QueueRow:
    if len(rows) != 1:
        raise common.CommandError(
            "QUEUE_ID_REQUIRED",
            f"the store holds {len(rows)} queues; which one?",
            hint=f"--queue-id is one of {', '.join(row.ftQueueId for row in rows) or 'none'}.",
        )
    return rows[0]


@contextlib.contextmanager
def _progress(label: str, *, as_json: bool) -> Iterator[dsfinvk.Progress]:
    with click.progressbar(
        length=1, label=label, file=sys.stderr, hidden=not common.is_watched(as_json)
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield progress
