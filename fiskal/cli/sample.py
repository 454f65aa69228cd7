"""``fiskal sample``."""

from __future__ import annotations

from pathlib import Path

import click

from fiskal import clock
from fiskal.cli import common
from fiskal.cli.samples import Samples
from fiskal.host import config as configs
from fiskal.pos import encode_request

NAMES = ("start", "sale", "order", "zero", "closing")


@click.command("sample")
@click.argument("name", type=click.Choice(NAMES))
@common.data_option()
def command(name: str, data: Path) -> None:
    """Print a sample request for the host in DIR, ready to be signed.

    \b
    start    the start receipt, the first request of every queue
    sale     two items paid in cash
    order    an order that is not paid yet
    zero     a zero receipt with information about the TSE
    closing  the daily closing

    \b
    Example:
      fiskal sample sale --data shop | fiskal sign --data shop
    """
    samples = Samples(configs.load(data).cash_box_id, clock.now())
    made = {
        "start": samples.start,
        "sale": samples.sale,
        "order": samples.order,
        "zero": samples.zero,
        "closing": samples.closing,
    }
    common.write(encode_request(made[name]()) + b"\n")
