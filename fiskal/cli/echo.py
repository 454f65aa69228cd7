"""``fiskal echo``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

import fiskal
from fiskal.cli import common
from fiskal.pos import EchoRequest, decode_echo, encode_echo


@click.command("echo")
@click.argument("message")
@common.data_option(required=False)
@common.json_option()
def command(message: str, data: Path | None, as_json: bool) -> None:
    """Send MESSAGE through the middleware and print what comes back.

    With --data the host in DIR is opened, which proves that its configuration, its store and its TSE can be.

    \b
    Example:
      fiskal echo hello --data shop
    """
    body = encode_echo(EchoRequest(message=message))
    if data is None:
        answer = encode_echo(decode_echo(body))
    else:
        with fiskal.open(data) as middleware:
            answer = middleware.echo_json(body)
    if as_json:
        common.write(answer + b"\n")
    else:
        click.echo(msgspec.json.decode(answer)["Message"])
