"""``fiskal demo``."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

import fiskal
from fiskal import clock
from fiskal.cli import common
from fiskal.cli.samples import HEADER, MASTER_DATA, Flow, Samples, Step
from fiskal.cli.verify import journal_as_plain
from fiskal.export.receipt import orders_before, printable
from fiskal.export.render import render_text
from fiskal.export.verify import verify_journal
from fiskal.germany.codes import DE, SignatureType
from fiskal.host import config as configs
from fiskal.pos import ReceiptRequest, ReceiptResponse
from fiskal.tse.verify import verify_qr

NOTICE = """\
This demo signs with the SOFTWARE TSE of fiskal. It is for development and
testing only: it is NO certified TSE, and what it signs has no legal value."""


CLIENT_ID = "KASSE-1"
"""Short, so that the QR codes of the demo fit into a terminal of 80 columns."""


@click.command("demo")
@click.option(
    "--data",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Work in this folder and keep it; it must not hold a host yet.",
)
@click.option("--keep", is_flag=True, help="Keep the temporary folder and say where it is.")
@click.option("--light", is_flag=True, help="The terminal has a light background.")
@common.json_option("Print one JSON summary instead of receipts; errors are JSON too.")
@click.pass_context
def command(ctx: click.Context, data: Path | None, keep: bool, light: bool, as_json: bool) -> None:
    """Create a host, sell a little, print the receipts, verify every QR code and the whole journal.

    Shows the flows a POS meets first: a short sale, orders over three days, a scanner checkout, a bakery
    that serves along its registers, a daily closing. Exit code 0 only if everything is verified.

    \b
    Example:
      fiskal demo --data demo
    """
    if data is not None and (data / configs.FILE_NAME).exists():
        raise common.CommandError(
            "ALREADY_INITIALISED",
            f"{data} holds a host already, and the demo sells on none but its own",
            hint="Choose another folder, or leave --data away.",
        )
    folder = Path(tempfile.mkdtemp(prefix="fiskal-demo-")) if data is None else data
    kept = data is not None or keep
    try:
        ok = _Demo(folder, as_json=as_json, light=light, kept=kept).run()
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    ctx.exit(0 if ok else common.BAD)


class _Demo:
    def __init__(self, folder: Path, *, as_json: bool, light: bool, kept: bool) -> None:
        self._folder = folder
        self._as_json = as_json
        self._light = light
        self._kept = kept
        self._receipts: list[dict[str, Any]] = []

    def run(self) -> bool:
        """Sell and verify. True if everything is as it must be."""
        self._say(NOTICE)
        config = configs.new_config(client_id=CLIENT_ID)
        config.master_data = MASTER_DATA
        configs.save(self._folder, config)
        with fiskal.open(self._folder) as middleware:
            samples = Samples(middleware.config.cash_box_id, clock.now())
            start = Flow("Start receipt: the queue goes into operation", [])
            start.steps.append(Step("Start receipt", samples.start(), False))
            for flow in (start, *samples.flows()):
                self._say(f"\n=== {flow.title} ===")
                for step in flow.steps:
                    self._sell(middleware, step)
            common.finish_exports(middleware, as_json=self._as_json)
            row = middleware.store.queue(middleware.queues[0].queue_id)
            assert row is not None  # the middleware has just signed with it
            report = verify_journal(middleware.store, row)
        good = sum(receipt["ok"] for receipt in self._receipts)
        codes = [receipt["qrValid"] for receipt in self._receipts if receipt["qrValid"] is not None]
        ok = report.ok and good == len(self._receipts)
        if self._as_json:
            folder = str(self._folder) if self._kept else None
            common.print_json(
                {
                    "ok": ok,
                    "data": folder,
                    "receipts": self._receipts,
                    "journal": journal_as_plain(row, report),
                }
            )
            return ok
        counts = ", ".join(f"{number} {name}" for name, number in report.counts.items() if number)
        self._say("\n=== Verified ===")
        self._say(f"receipts  {good} of {len(self._receipts)} signed, ftState ready")
        self._say(f"QR codes  {sum(codes)} of {len(codes)} valid")
        self._say(f"journal   {'good' if report.ok else 'BAD'} ({counts})")
        for where, what in report.problems:
            self._say(f"          {where}: {what}")
        if self._kept:
            self._say(f"kept in   {self._folder}")
        self._say(f"\n{NOTICE}")
        return ok

    def _say(self, text: str) -> None:
        if not self._as_json:
            click.echo(text)

    def _sell(self, middleware: fiskal.Middleware, step: Step) -> None:
        response = middleware.sign(step.request)
        assert response is not None  # no sample is a receipt request
        qr = _qr_of(response)
        valid = None if qr is None else verify_qr(qr).valid
        ok = response.ft_state == DE and valid is not False and (valid or not step.printed)
        self._receipts.append(
            {
                "title": step.title,
                "ok": bool(ok),
                "ftQueueItemID": response.ft_queue_item_id,
                "ftReceiptIdentification": response.ft_receipt_identification,
                "ftState": response.ft_state,
                "qrValid": valid,
            }
        )
        code = {None: "has no QR code", True: "QR code valid", False: "QR CODE NOT VALID"}[valid]
        self._say(f"{step.title}: {response.ft_receipt_identification}, {code}")
        if step.printed and not self._as_json:
            click.echo(self._draw(middleware, step.request, response))

    def _draw(self, middleware: fiskal.Middleware, request: ReceiptRequest, response: ReceiptResponse) -> str:
        row = middleware.store.queue(response.ft_queue_id)
        assert row is not None  # the queue has just answered
        ordered = orders_before(middleware.store, row.queue_no, request, response.ft_queue_row)
        receipt = printable(request, response, header=HEADER, orders_before=ordered)
        text = render_text(receipt, dark_background=not self._light)
        needed = max(map(len, text.splitlines()))
        # A QR code that a narrow terminal wraps can be read by nobody.
        if sys.stdout.isatty() and shutil.get_terminal_size().columns < needed:
            text = render_text(receipt, qr=False)
            text += f"(the QR code needs a terminal of {needed} columns)\n"
        return f"\n{text}"


def _qr_of(response: ReceiptResponse) -> str | None:
    for item in response.ft_signatures:
        if item.ft_signature_type == DE | SignatureType.QR_CODE:
            return item.data
    return None
