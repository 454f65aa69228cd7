"""``fiskal transactions``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

import fiskal
from fiskal import clock
from fiskal.cli import common, remote
from fiskal.errors import StoreLocked
from fiskal.host import config as configs
from fiskal.host.transactions import TransactionEntry, TseTransactions, abort_request, choose
from fiskal.pos import ReceiptResponse, decode_response, encode_request

_LIST = list[TseTransactions]
_Sign = Callable[[bytes], bytes]


@click.command("transactions")
@common.data_option()
@common.url_option()
@click.option("--scu-id", metavar="GUID", help="Only the TSE of this SCU.")
@click.option("--close-orphans", is_flag=True, help="End what is open on the TSE and known to no queue.")
@click.option(
    "--number", "numbers", metavar="N", type=click.IntRange(min=0), multiple=True,
    help="With --close-orphans: only this transaction. May be given several times.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Close without asking.")
@common.json_option()
@click.pass_context
def command(
    ctx: click.Context,
    data: Path,
    url: str | None,
    scu_id: str | None,
    close_orphans: bool,
    numbers: tuple[int, ...],
    yes: bool,
    as_json: bool,
) -> None:
    """List the open transactions of queues and TSEs side by side, and close orphans.

    An orphan is open on the TSE, and no queue of this host knows it. --close-orphans ends orphans as aborted
    with a fail-transaction receipt (0x000B) of one queue, which is signed and journalled like any other. What
    a queue knows is never touched: its POS finishes it, or the daily closing ends it. While 'fiskal serve'
    has the folder, the server is asked, at --url or at its default address.

    Exit codes: 0 queues and TSEs agree, 1 they do not, or a TSE does not answer, 2 could not be done.

    \b
    Example:
      fiskal transactions --data shop
      fiskal transactions --data shop --close-orphans
      fiskal transactions --data shop --close-orphans --number 17 --yes --json
    """
    if numbers and not close_orphans:
        raise click.UsageError("--number needs --close-orphans.")
    config = configs.load(data)
    scu = None if scu_id is None else configs.guid("SCU id", scu_id)

    def work(listed: _LIST, relist: Callable[[], _LIST], sign: _Sign) -> None:
        answers: list[ReceiptResponse] = []
        if close_orphans:
            if not as_json:
                _show(_only(listed, scu))
            chosen = choose(listed, list(numbers) or None, scu)
            if chosen and not yes:
                _ask([number for _, orphans in chosen for number in orphans])
            for queue_id, orphans in chosen:
                request = abort_request(config.cash_box_id, queue_id, orphans, clock.now())
                answers.append(decode_response(sign(encode_request(request))))
                if not as_json:
                    click.echo(_closed(answers[-1], orphans))
            listed = relist()
        listed = _only(listed, scu)
        good = all(_agrees(tse) for tse in listed)
        if as_json:
            common.print_json({"ok": good, "tses": listed, "closedBy": answers})
        elif not close_orphans:
            _show(listed)
        elif not chosen:
            click.echo("There is no orphan to close.")
        ctx.exit(0 if good else common.BAD)

    host = remote.Remote(url, config) if url is not None else None
    if host is None:
        try:
            with fiskal.open(data) as middleware:
                work(middleware.transactions(), middleware.transactions, middleware.sign_json)
        except StoreLocked as error:
            host = remote.find(config)
            if host is None:
                raise common.CommandError(
                    "STORE",
                    str(error),
                    hint="Give the address of the running 'fiskal serve' with --url.",
                ) from error
    assert host is not None  # with the folder to itself the command has ended
    found = host

    def relist() -> _LIST:
        return msgspec.json.decode(found.get("/transactions"), type=_LIST)

    work(relist(), relist, found.sign)


def _only(listed: _LIST, scu_id: str | None) -> _LIST:
    return [tse for tse in listed if scu_id is None or tse.scu_id == scu_id]


def _ask(numbers: list[int]) -> None:
    text = ", ".join(map(str, numbers))
    if not sys.stdin.isatty():
        raise common.CommandError(
            "CONFIRMATION_NEEDED",
            f"transactions {text} would be closed as aborted, and nobody can be asked",
            hint="Add --yes to close them without asking.",
        )
    click.confirm(f"Close as aborted: {text}?", abort=True, err=True)


def _closed(answer: ReceiptResponse, numbers: list[int]) -> str:
    text = ", ".join(map(str, numbers))
    if answer.ft_state & 0x2:
        return f"NOT closed: {text}. The TSE failed, see 'fiskal doctor'."
    return (
        f"Closed {text} with the receipt {answer.ft_receipt_identification}, item {answer.ft_queue_item_id}."
    )


def _agrees(tse: TseTransactions) -> bool:
    return not tse.error and not tse.orphans and all(_is_fine(entry) for entry in tse.entries)


def _is_fine(entry: TransactionEntry) -> bool:
    return entry.on_tse is True if entry.number is not None else False


def _show(listed: _LIST) -> None:
    for tse in listed:
        click.echo(f"TSE of SCU {tse.scu_id}")
        if tse.error:
            click.echo(f"  does not answer: {tse.error}")
        if tse.foreign_clients:
            click.echo(f"  is also used by {', '.join(tse.foreign_clients)}")
        if not tse.entries:
            click.echo(
                "  no open transactions" if not tse.error else "  the queues have no open transactions"
            )
            continue
        click.echo(f"  {'number':>8}  {'TSE':<7}  {'queue':<36}  {'since':<24}  reference")
        for entry in tse.entries:
            on_tse = "?" if entry.on_tse is None else "open" if entry.on_tse else "not open"
            number = "-" if entry.number is None else str(entry.number)
            what = "" if entry.kind in ("open", "orphan") else f" ({entry.kind})"
            click.echo(
                f"  {number:>8}  {on_tse:<8} {entry.queue_id or 'no queue knows it':<36}  "
                f"{entry.since or '-':<24}  {entry.reference or ''}{what}"
            )
