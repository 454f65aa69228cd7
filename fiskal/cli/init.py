"""``fiskal init``."""

from __future__ import annotations

import uuid
from pathlib import Path

import click

from fiskal.cli import common
from fiskal.host import config as configs
from fiskal.host.config import QueueConfig


@click.command("init")
@common.data_option()
@click.option("--cashbox-id", "cash_box_id", metavar="GUID", help="ftCashBoxID; made up if not given.")
@click.option("--queue-id", metavar="GUID", help="ftQueueID of the first queue; made up if not given.")
@click.option("--client-id", metavar="TEXT", help="Cash register serial number, the client id at the TSE.")
@click.option("--queues", metavar="N", type=click.IntRange(1, 100), default=1, help="How many queues.")
@common.json_option()
def command(
    data: Path,
    cash_box_id: str | None,
    queue_id: str | None,
    client_id: str | None,
    queues: int,
    as_json: bool,
) -> None:
    """Create the data folder of a host with its ids, its access token and a software TSE.

    The software TSE is for development and testing; it is no certified TSE. Everything is written to
    fiskal.json in DIR, which is the truth from then on. An existing one is never overwritten.

    \b
    Example:
      fiskal init --data shop --client-id KASSE-1
    """
    path = data / configs.FILE_NAME
    if path.exists():
        raise common.CommandError(
            "ALREADY_INITIALISED",
            f"{path} exists already; overwriting it would orphan its journal",
            hint="Choose another folder, or edit the file.",
        )
    config = configs.new_config(cash_box_id=cash_box_id, queue_id=queue_id, client_id=client_id)
    first = config.queues[0]
    for number in range(2, queues + 1):
        new_id = str(uuid.uuid4())
        name = f"{client_id}-{number}" if client_id else f"POS-{new_id[:8].upper()}"
        config.queues.append(
            QueueConfig(id=new_id, client_id=configs.check_client_id(name), scu_id=first.scu_id)
        )
    configs.save(data, config)
    if as_json:
        common.print_json(
            {
                "file": str(path),
                "ftCashBoxID": config.cash_box_id,
                "accesstoken": config.access_token,
                "queues": [
                    {"ftQueueID": queue.id, "ftCashBoxIdentification": queue.client_id}
                    for queue in config.queues
                ],
            }
        )
        return
    click.echo(f"created      {path}")
    click.echo(f"ftCashBoxID  {config.cash_box_id}")
    click.echo(f"accesstoken  {config.access_token}")
    for queue in config.queues:
        click.echo(f"ftQueueID    {queue.id}  (serial number {queue.client_id})")
    click.echo()
    click.echo("This host signs with a software TSE: for development and testing, no certified TSE.")
    click.echo("Every queue begins with a start receipt:")
    for queue in config.queues:
        which = f" --queue-id {queue.id}" if queues > 1 else ""
        click.echo(f"  fiskal sample start --data {data} | fiskal sign --data {data}{which}")
