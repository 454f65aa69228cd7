"""``fiskal tse find``: which TSEs this machine can reach."""

from __future__ import annotations

from importlib import import_module

import click
import msgspec

from fiskal.cli import common
from fiskal.errors import FiskalError
from fiskal.scu.drivers import Found

FAMILIES = ("swissbit", "cryptovision", "epson", "diebold_nixdorf")


@click.command("find")
@common.json_option()
def find(as_json: bool) -> None:
    """List the TSEs that this machine can reach: mounted volumes, block devices, serial ports, its own port 8009.

    Nothing is written. Serial ports are listed by their USB ids and not opened, because card terminals and scales live
    there too. Cloud TSEs are known by their credentials and are not looked for.
    """
    found: list[Found] = []
    for family in FAMILIES:
        try:
            found += import_module(f"fiskal.scu.drivers.{family}").find()
        except (FiskalError, OSError) as error:
            click.echo(f"{family.replace('_', '-')}: could not look: {error}", err=True)
    if as_json:
        common.print_json(msgspec.to_builtins(found))
        return
    if not found:
        click.echo(
            "No TSE found. Is it plugged in and mounted? One at another address has to be named in fiskal.json."
        )
    for one in found:
        click.echo(f"{one.family:<16} {one.place}")
        for name in ("serial", "state", "certificate_end", "signatures_left", "memory_left_bytes"):
            value = getattr(one, name)
            if value is not None:
                click.echo(f"  {name.replace('_', ' '):<16} {value}")
        if one.note:
            click.echo(f"  {one.note}")
        click.echo(f"  options          {msgspec.json.encode(one.options).decode()}")
