"""``fiskal render``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fiskal.cli import common
from fiskal.export.receipt import orders_before, printable
from fiskal.export.render import render_svg, render_text
from fiskal.host import config as configs
from fiskal.lazy import LazyModule
from fiskal.pos import decode_canonical, decode_response

if TYPE_CHECKING:
    from fiskal.export import picture as pictures
else:
    pictures = LazyModule("fiskal.export.picture")  # needs an extra


@click.command("render")
@click.argument("queue_item_id")
@common.data_option()
@click.option(
    "--format", "form", type=click.Choice(["text", "svg", "png"]), default="text", show_default=True
)
@click.option(
    "--mode",
    type=click.Choice(["qr", "text"]),
    default="qr",
    show_default=True,
    help="Print the QR code, or all of the TSE's data as text.",
)
@click.option("--header", metavar="LINE", multiple=True, help="A line above the receipt; may be repeated.")
@click.option("--light", is_flag=True, help="The terminal has a light background (format text).")
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write to FILE.")
def command(
    queue_item_id: str,
    data: Path,
    form: str,
    mode: Literal["qr", "text"],
    header: tuple[str, ...],
    light: bool,
    out: Path | None,
) -> None:
    """Draw the receipt of the queue item QUEUE_ITEM_ID (ftQueueItemID of its response).

    \b
    Example:
      fiskal render 63b8bd3e-6b3f-4b2c-9d0c-2f6f9a1f8a55 --data shop --format png --out receipt.png
    """
    wanted = configs.guid("queue item id", queue_item_id)
    store = common.open_journal(data)
    try:
        stored = store.item(wanted)
        if stored is None or stored.answer is None:
            what = "holds no item" if stored is None else "has no answer yet to the item"
            raise common.CommandError(
                "QUEUE_ITEM_NOT_FOUND",
                f"the journal {what} {wanted}",
                hint="Its id stands in the response as ftQueueItemID, and in the journal 'queueitems'.",
            )
        request = decode_canonical(stored.item.request.encode())
        ordered = orders_before(store, stored.item.queue_no, request, stored.item.ftQueueRow)
    finally:
        store.close()
    receipt = printable(
        request, decode_response(stored.answer.response), header=header, mode=mode, orders_before=ordered
    )
    if form == "png":
        picture = pictures.render_png(receipt)
    elif form == "svg":
        picture = render_svg(receipt).encode()
    else:
        picture = render_text(receipt, qr=mode == "qr", dark_background=not light).encode()
    if out is not None:
        common.replace_file(out, lambda file: file.write(picture))
    elif form == "png" and sys.stdout.isatty():
        raise common.CommandError("TERMINAL", "a terminal cannot show a PNG", hint="Add --out receipt.png.")
    else:
        common.write(picture)
