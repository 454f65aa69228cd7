"""The command ``fiskal``: thin commands over the public API.

A command's module is imported when the command is called, so that ``fiskal --help`` is quick and ``serve``
does not carry what only ``render`` needs.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any, Final

import click

from fiskal.cli import common
from fiskal.version import __version__

COMMANDS: Final = {
    "demo": "Sell a little on a software TSE, print and verify everything.",
    "init": "Create the data folder of a host: ids, access token, queues.",
    "serve": "Answer Echo, Sign and Journal over HTTP.",
    "sample": "Print a sample request, ready to be signed.",
    "sign": "Sign one receipt.",
    "echo": "Send a message through the middleware and back.",
    "render": "Draw the receipt of a queue item: text, SVG or PNG.",
    "journal": "Read a journal.",
    "export": "Make the DSFinV-K export that an auditor asks for.",
    "doctor": "Say in which mode each queue is, why, and what to do.",
    "transactions": "List open transactions of queues and TSEs, close orphans.",
    "verify": "Check a QR code, an export or a whole journal.",
    "tse": "Look at a TSE, initialise, export and rehearse it.",
    "simulate": "Simulate the TSE of a vendor, to try a driver with.",
    "size": "Plan how many TSEs and queues a shop needs.",
    "bench": "Measure how fast a TSE is.",
}
"""Commands with their short help, in the order in which one meets them."""

CTRL_C: Final = 130
BROKEN_PIPE: Final = 141
"""128 + SIGPIPE: what a shell sees of a program whose reader has gone."""


class _Fiskal(click.Group):
    """Imports a command when it is wanted and turns every error into one line, a hint and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"fiskal.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            ctx.exit(CTRL_C)
        except BrokenPipeError:
            # What Python still has to flush at exit must go somewhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(BROKEN_PIPE)
        except Exception as error:
            if os.environ.get("FISKAL_DEBUG") == "1":
                raise
            ctx.exit(common.report(error, as_json=common.wants_json(ctx)))


@click.group(cls=_Fiskal, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fiskal", message="%(prog)s %(version)s")
def main() -> None:
    """Fiscalisation middleware for German cash registers: Echo, Sign, Journal.

    \b
    Five minutes, no TSE needed:
      fiskal demo                                      see it sell
      fiskal init --data shop                          create a host
      fiskal sample start --data shop | fiskal sign --data shop
      fiskal sample sale  --data shop | fiskal sign --data shop
      fiskal serve --data shop                         the same over HTTP

    Exit codes: 0 good; 1 checked and bad (a receipt rejected, a verification failed); 2 could not be done
    (wrong usage, missing folder, a store that another process holds). Errors go to standard error; with
    --json they are one JSON object there, and standard output holds results only. FISKAL_DEBUG=1 shows
    tracebacks and the log. FISKAL_DATA is the default of --data.
    """
    # A one-shot command has its exit code and its error line; only serve speaks through the log.
    debug = os.environ.get("FISKAL_DEBUG") == "1"
    logging.basicConfig(level=logging.DEBUG if debug else logging.CRITICAL, format=common.LOG_FORMAT)
