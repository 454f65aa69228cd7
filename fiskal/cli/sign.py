"""``fiskal sign``."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import click

import fiskal
from fiskal.cli import common
from fiskal.pos import decode_request, encode_request


@click.command("sign")
@click.argument("file", type=click.File("rb"), default="-")
@common.data_option()
@click.option("--queue-id", metavar="GUID", help="Sign with this queue, whatever ftQueueID says.")
@common.json_option("Print errors as JSON; the response is JSON anyway.")
def command(file: BinaryIO, data: Path, queue_id: str | None, as_json: bool) -> None:
    """Sign the ReceiptRequest in FILE (or standard input) and print the ReceiptResponse.

    The response is printed as it was stored and hashed. A receipt request without a match prints null. A
    TSE that fails is no error: ftState then carries bit 0x2. After a closing the command waits until the log
    of the TSE is archived.

    \b
    Example:
      fiskal sample sale --data shop | fiskal sign --data shop
    """
    body = file.read()
    if queue_id is not None:
        request = decode_request(body)
        request.ft_queue_id = queue_id
        body = encode_request(request)
    with fiskal.open(data) as middleware:
        common.write(middleware.sign_json(body) + b"\n")
        common.finish_exports(middleware, as_json=as_json)
