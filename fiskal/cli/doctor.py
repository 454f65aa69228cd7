"""``fiskal doctor``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

import fiskal
from fiskal import clock
from fiskal.cli import common, remote
from fiskal.errors import StoreError, StoreLocked
from fiskal.host import config as configs
from fiskal.host.doctor import Diagnosis, Finding, diagnosis, examine
from fiskal.store import open_store

_MARKS = {"good": "good", "note": "note", "bad": "BAD"}


@click.command("doctor")
@common.data_option()
@common.url_option()
@common.json_option()
@click.pass_context
def command(ctx: click.Context, data: Path, url: str | None, as_json: bool) -> None:
    """Say in plain words in which mode each queue is, since when, why, and what to do.

    The TSEs are asked whether they can sign; nothing is signed and no mode is changed. While 'fiskal serve'
    has the folder, the server is asked (at --url, or at its default address); if it cannot be found, the
    journal is read beside it and the TSE is not asked.

    Exit codes: 0 nothing is wrong, 1 something is, 2 the host could not be examined.

    \b
    Example:
      fiskal doctor --data shop
      fiskal doctor --data shop --url http://127.0.0.1:1200 --json
    """
    found = _examine(data, url)
    if as_json:
        common.print_json(found)
    else:
        _show(found)
    ctx.exit(0 if found.ok else common.BAD)


def _examine(data: Path, url: str | None) -> Diagnosis:
    config = configs.load(data)
    host = None if url is None else remote.Remote(url, config)
    if host is None:
        try:
            with fiskal.open(data) as middleware:
                return middleware.diagnose()
        except StoreLocked:
            host = remote.find(config)
            trouble = Finding(
                level="note",
                code="IN_USE",
                text="Another process has the journal open. This is what the journal says; the TSEs were not "
                "asked.",
                todo="Give the address of the running 'fiskal serve' with --url to ask its TSEs, too.",
            )
        except StoreError as error:
            trouble = Finding(
                level="bad",
                code="STORE",
                text="The journal cannot be opened for writing: nothing can be sold.",
                why=str(error),
            )
    if host is not None:
        try:
            return msgspec.json.decode(host.get("/doctor"), type=Diagnosis)
        except msgspec.DecodeError as error:
            raise common.CommandError(
                "HOST_UNKNOWN", "the server does not answer as 'fiskal serve' of this version would"
            ) from error
    store = open_store(data / configs.STORE_NAME, read_only=True)
    try:
        drivers = {scu.id: scu.driver for scu in config.scus}
        return diagnosis([trouble], examine(store, clock.now(), {}, drivers))
    finally:
        store.close()


def _show(found: Diagnosis) -> None:
    for finding in found.findings:
        _show_finding(finding, "")
    for queue in found.queues:
        click.echo(f"queue {queue.queue_id} ({queue.client_id}): {' and '.join(queue.modes)}")
        for finding in queue.findings:
            _show_finding(finding, "  ")
    click.echo("Nothing is wrong." if found.ok else "Something is wrong: see the lines with BAD.")


def _show_finding(finding: Finding, indent: str) -> None:
    common.show_text(finding.text, f"{indent}{_MARKS[finding.level]:<5}")
    for name, text in (("since", finding.since), ("why", finding.why), ("do", finding.todo)):
        if text:
            common.show_text(text, f"{indent}     {name:<6}")
