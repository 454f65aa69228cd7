"""``fiskal journal``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import click

import fiskal
from fiskal.cli import common
from fiskal.core import parse_moment
from fiskal.germany.codes import JournalType

CHUNK_BYTES = 64 * 1024

NAMES = {
    "version": JournalType.VERSION,
    "action": JournalType.ACTION_JOURNAL,
    "receipt": JournalType.RECEIPT_JOURNAL,
    "queueitems": JournalType.QUEUE_ITEMS,
    "configuration": JournalType.CONFIGURATION,
    "status": JournalType.DE_STATUS,
    "exports": JournalType.JOURNAL_DE,
    "tar": JournalType.DE_TAR_FROM_TSE,
    "dsfinvk": JournalType.DE_DSFINVK,
    "tar-database": JournalType.DE_TAR_FROM_DATABASE,
}


def _type(text: str) -> int:
    known = NAMES.get(text.lower())
    if known is not None:
        return int(known)
    try:
        number = int(text, 16 if text.lower().startswith("0x") else 10)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number nor one of {', '.join(NAMES)}") from None
    if not 0 <= number < 1 << 63:
        raise click.BadParameter(f"{text} is no positive 64-bit number")
    return number


def _moment(text: str, suffix: str) -> int:
    """Ticks; or an ISO 8601 moment; or a date, completed by ``suffix`` to its first or its last tick."""
    if re.fullmatch(r"-?[0-9]{1,19}", text):
        return int(text)
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        text += suffix
    try:
        return parse_moment(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither ticks nor a moment such as 2026-01-31T08:00:00Z"
        ) from None


def first_moment(text: str) -> int:
    """An option's moment; a date is its first tick."""
    return _moment(text, "T00:00:00Z")


def last_moment(text: str) -> int:
    """An option's moment; a date is its last tick."""
    return _moment(text, "T23:59:59.9999999Z")


@click.command("journal")
@common.data_option()
@click.option("--type", "journal_type", metavar="TYPE", type=_type, required=True, help="Which journal.")
@click.option("--from", "first", metavar="MOMENT", type=first_moment, default="0", help="From here.")
@click.option(
    "--to",
    "last",
    metavar="MOMENT",
    type=last_moment,
    default="0",
    help="To here, or -N entries.",
)
@click.option("--queue-id", metavar="GUID", help="Which queue, if the host has several.")
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write to FILE.")
@common.json_option("Print errors as JSON.")
def command(
    data: Path,
    journal_type: int,
    first: int,
    last: int,
    queue_id: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Read a journal, to standard output or to FILE. FILE appears when it is complete.

    TYPE is a number (3), a hex number (0x4445000000000000) or a name: version, action, receipt, queueitems,
    configuration, status, exports, tar (the log of the TSE as it is now), tar-database (what closings archived
    of it), dsfinvk. --from and --to are compared with TimeStamp: .NET ticks, an ISO 8601 moment or a date in
    UTC. --to -10 gives the first ten entries.

    \b
    Example:
      fiskal journal --data shop --type queueitems --from 2026-01-01 --out items.json
      fiskal journal --data shop --type tar-database --from 2026-01-01 --out tse.tar
    """
    with fiskal.open(data) as middleware:
        chunks = middleware.journal(journal_type, first, last, CHUNK_BYTES, queue_id=queue_id)
        if out is None:
            for chunk in chunks:
                common.write(chunk)
            if sys.stdout.isatty():
                click.echo()
            return
        # How long a journal will be is not known before; the bar only shows that it grows.
        watched: Iterable[bytes]
        with click.progressbar(
            chunks, label=f"writing {out.name}", file=sys.stderr, hidden=not common.is_watched(as_json)
        ) as watched:
            common.replace_file(out, lambda file: file.writelines(watched))
