"""``fiskal size``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fiskal.cli import common
from fiskal.lazy import LazyModule
from fiskal.sizing import measurement as measurements
from fiskal.sizing import text
from fiskal.sizing.errors import ImpossibleShop
from fiskal.sizing.plan import Plan, plan
from fiskal.sizing.profiles import PROFILES, Profile
from fiskal.sizing.scenarios import Scenario, scenarios
from fiskal.sizing.shop import PRESETS, Shop, preset
from fiskal.sizing.simulation import EDF, FIFO

if TYPE_CHECKING:
    from fiskal.sizing import html
else:
    html = LazyModule("fiskal.sizing.html")  # needs an extra


@click.command("size")
@click.option("--checkouts", metavar="N", type=int, help="Checkouts or terminals that sell at the same time.")
@click.option(
    "--kind",
    type=click.Choice(list(PRESETS)),
    help="A usual kind of shop; every other option goes before it.",
)
@click.option(
    "--receipts-per-hour", metavar="N", type=float, help="Of each checkout at peak; bills with orders."
)
@click.option("--items", metavar="N", type=float, help="Mean per receipt.  [default: 12]")
@click.option("--seconds-per-item", metavar="S", type=float, help="Scanning time.  [default: 2.95]")
@click.option(
    "--flow",
    type=click.Choice(["implicit", "explicit", "orders"]),
    help="Both signatures at payment; a start at the first item; or orders and a bill.  [default: explicit]",
)
@click.option("--orders-per-bill", metavar="N", type=float, help="In flow orders.  [default: 3]")
@click.option(
    "--terminals-per-queue", metavar="N", type=int, help="Terminals that share a queue.  [default: 1]"
)
@click.option("--p95-wait", metavar="MS", type=float, help="What 95 % may wait for the TSE.  [default: 250]")
@click.option("--max-busy", metavar="SHARE", type=float, help="Utilisation at peak.  [default: 0.5]")
@click.option(
    "--spare", metavar="N", type=int, help="TSEs that may fail while the rest still does.  [default: 0]"
)
@click.option(
    "--peak-hours-per-day", metavar="H", type=float, help="A day's receipts in peak hours.  [default: 5]"
)
@click.option("--days-per-year", metavar="N", type=float, help="Days open.  [default: 310]")
@click.option(
    "--tse",
    "family",
    type=click.Choice(list(PROFILES)),
    help="The TSE family; also fills in what a measurement does not know.  [default: swissbit]",
)
@click.option(
    "--signature-ms", metavar="MS", type=float, help="Another mean time per signature for the family."
)
@click.option(
    "--measurement",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A file of 'fiskal bench tse --out'.",
)
@click.option(
    "--scheduling",
    type=click.Choice(["edf", "fifo"]),
    default="edf",
    show_default=True,
    help="Earliest deadline first, or each call as it comes.",
)
@click.option("--scenarios", "compare", is_flag=True, help="Compare the ways to place queues and TSEs.")
@click.option("--html", "html_path", type=click.Path(path_type=Path, dir_okay=False), help="Write a report.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the simulation.")
@common.json_option()
@click.pass_context
def command(
    ctx: click.Context,
    checkouts: int | None,
    kind: str | None,
    receipts_per_hour: float | None,
    items: float | None,
    seconds_per_item: float | None,
    flow: str | None,
    orders_per_bill: float | None,
    terminals_per_queue: int | None,
    p95_wait: float | None,
    max_busy: float | None,
    spare: int | None,
    peak_hours_per_day: float | None,
    days_per_year: float | None,
    family: str | None,
    signature_ms: float | None,
    measurement: Path | None,
    scheduling: str,
    compare: bool,
    html_path: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Plan how many TSEs and queues a shop needs, when to add one, and how long they last.

    Two models answer, and their difference is shown: queueing formulas and a simulation of the shop. The
    speed of the TSE is what its vendor says, or better, what you measured with 'fiskal bench tse'.
    Exit code 1: no number of TSEs does what was asked.

    \b
    Examples:
      fiskal size --checkouts 40 --kind supermarket
      fiskal size --checkouts 40 --kind supermarket --spare 1 --scenarios --html plan.html
      fiskal size --checkouts 30 --kind bar --flow implicit --p95-wait 500 --tse cryptovision
      fiskal size --checkouts 8 --receipts-per-hour 80 --measurement measured.json
    """
    shop = _shop(
        {
            "checkouts": checkouts,
            "receipts_per_hour": receipts_per_hour,
            "items": items,
            "seconds_per_item": seconds_per_item,
            "flow": flow,
            "orders_per_bill": orders_per_bill,
            "checkouts_per_queue": terminals_per_queue,
            "p95_wait_s": None if p95_wait is None else p95_wait / 1000,
            "max_utilisation": max_busy,
            "spare": spare,
            "peak_hours_per_day": peak_hours_per_day,
            "days_per_year": days_per_year,
            "scheduling": FIFO if scheduling == "fifo" else EDF,
        },
        kind,
    )
    profile = _profile(family, signature_ms, measurement)
    draw = None if html_path is None else html.plan  # what is missing shows before the long work
    watched = common.is_watched(as_json)

    def progress(what: str) -> None:
        if watched:
            click.echo(f"\r\x1b[K{what} …", nl=False, err=True)

    planned = plan(shop, profile, seed=seed, progress=progress)
    compared: list[Scenario] = []
    if compare:
        progress("scenarios")
        compared = scenarios(planned, seed=seed)
    page = None
    if draw is not None:
        progress("report")
        page = draw(planned, compared).encode()
    if watched:
        click.echo("\r\x1b[K", nl=False, err=True)
    if as_json:
        common.print_json(as_plain(planned, compared))
    else:
        click.echo(text.plan(planned, compared))
    if page is not None and html_path is not None:
        common.replace_file(html_path, lambda file: file.write(page))
    ctx.exit(0 if planned.tses is not None else common.BAD)


def as_plain(planned: Plan, compared: list[Scenario]) -> dict[str, Any]:
    """A plan for programs; seconds and shares, None where there is no steady state."""
    return {
        "ok": planned.tses is not None,
        "tses": planned.tses,
        "needed": planned.needed,
        "terminalsPerQueue": planned.checkouts_per_queue,
        "plan": planned,
        "scenarios": compared,
    }


def _shop(given: dict[str, Any], kind: str | None) -> Shop:
    values = preset(kind) if kind else {}
    values |= {name: value for name, value in given.items() if value is not None}
    for name, option in (("checkouts", "--checkouts 8"), ("receipts_per_hour", "--kind supermarket")):
        if name not in values:
            raise click.UsageError(f"Say how big the shop is: {option} is missing.")
    return Shop(**values)


def _profile(family: str | None, signature_ms: float | None, measurement: Path | None) -> Profile:
    like = PROFILES[family or "swissbit"]
    if measurement is not None:
        if signature_ms is not None:
            raise click.UsageError("--signature-ms and --measurement exclude each other.")
        like_measured = PROFILES[family] if family else None
        return measurements.profile_of(measurements.load(measurement), like_measured)
    if signature_ms is None:
        return like
    if not 1 <= signature_ms <= 60_000:
        raise ImpossibleShop(
            f"a signature of {signature_ms:g} ms is impossible; it takes 1 to 60000 ms",
            hint="Devices take 150 to 400 ms.",
        )
    return like.with_signature_s(signature_ms / 1000)
