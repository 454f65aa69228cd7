"""What the commands share: options, output, errors and their exit codes."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from fiskal.errors import ConfigurationError, FiskalError, ReceiptRejected, StoreLocked
from fiskal.files import replacing
from fiskal.host import config as configs
from fiskal.host.config import ScuConfig
from fiskal.host.middleware import Middleware
from fiskal.store import QueueRow, Store, open_store

DEFAULT_PORT: Final = 1200
"""Where 'fiskal serve' answers unless it is told otherwise."""
WIDTH: Final = 100

LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

BAD: Final = 1
"""Checked and bad: a receipt was rejected, a verification failed."""
UNABLE: Final = 2
"""Could not be done."""

EXPORT_NOTICE_S: Final = 0.5
"""A TAR export that takes longer is spoken of."""

_JSON_KEY = "fiskal.json"
_F = TypeVar("_F", bound=Callable[..., Any])


class CommandError(FiskalError):
    """A command that cannot do its work; ``hint`` says what would help."""

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


INPUT_FILE: Final = click.Path(path_type=Path, exists=True, dir_okay=False, readable=True)

# ---- options ------------------------------------------------------------------------------------


def data_option(*, required: bool = True) -> Callable[[_F], _F]:
    """``--data DIR``, the folder that 'fiskal init' made."""
    return click.option(
        "--data",
        metavar="DIR",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="FISKAL_DATA",
        show_envvar=True,
        required=required,
        help="The data folder of the host.",
    )


def json_option(what: str = "Print the result as JSON, errors too.") -> Callable[[_F], _F]:
    """``--json``. The choice is kept in the context, because errors are reported from outside."""

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
        ctx.meta[_JSON_KEY] = value
        return value

    return click.option("--json", "as_json", is_flag=True, callback=remember, is_eager=True, help=what)


def wants_json(ctx: click.Context) -> bool:
    return bool(ctx.meta.get(_JSON_KEY))


def url_option() -> Callable[[_F], _F]:
    """``--url URL``, the running 'fiskal serve' of the folder."""
    return click.option(
        "--url",
        metavar="URL",
        help=f"Ask the running 'fiskal serve' there.  [default: http://127.0.0.1:{DEFAULT_PORT} if the folder "
        "is in use]",
    )


class NumberRange(click.FloatRange):
    """A number within limits, and never NaN, which no comparison finds outside of any."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


# ---- output -------------------------------------------------------------------------------------


def print_json(value: Any) -> None:
    """One JSON document on standard output; indented for eyes, compact for pipes."""
    text = msgspec.json.encode(value)
    if sys.stdout.isatty():
        text = msgspec.json.format(text, indent=2)
    write(text + b"\n")


def write(data: bytes) -> None:
    """Bytes to standard output, unchanged."""
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def show_text(text: str, prefix: str) -> None:
    """A paragraph behind ``prefix``, which its further lines are indented by."""
    click.echo(click.wrap_text(text, WIDTH, prefix, " " * len(prefix)))


def is_watched(as_json: bool = False) -> bool:
    """Is there a person to show progress to?"""
    return not as_json and sys.stderr.isatty()


def finish_exports(middleware: Middleware, *, as_json: bool = False) -> None:
    """Wait for the TAR export that a closing left behind; it would be cut off with the process."""
    if middleware.wait_for_exports(EXPORT_NOTICE_S):
        return
    if is_watched(as_json):
        click.echo("archiving the log of the TSE; Ctrl-C leaves it for the next start", err=True)
    middleware.wait_for_exports()


def report(error: Exception, *, as_json: bool) -> int:
    """Say on standard error what went wrong and what to do. Returns the exit code."""
    status, code, detail, hint = _explain(error)
    field = str(getattr(error, "field", ""))
    if as_json:
        found: dict[str, Any] = {"code": code, "detail": detail, "field": field, "hint": hint}
        response = getattr(error, "response", None)
        if response is not None:
            found["response"] = msgspec.Raw(response.encode())
        click.echo(msgspec.json.encode({"error": found}), err=True)
        return status
    where = f" [{field}]" if field else ""
    click.echo(f"error: {detail}{where} ({code})", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    return status


def _explain(error: Exception) -> tuple[int, str, str, str]:
    """Exit code, code, text and hint of an error."""
    hint = str(getattr(error, "hint", ""))
    if isinstance(error, ReceiptRejected):
        return BAD, error.code, error.message, hint
    if isinstance(error, StoreLocked):
        hint = "A running 'fiskal serve' holds the folder: ask it over HTTP, or stop it first."
    if isinstance(error, FiskalError):
        return UNABLE, error.code, str(error), hint
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return UNABLE, "OS", f"{name}{error.strerror or error}", hint
    return (
        UNABLE,
        "INTERNAL",
        f"{type(error).__name__}: {error}",
        "This should not happen. Run it again with FISKAL_DEBUG=1 and report what it prints.",
    )


# ---- the store without its host -----------------------------------------------------------------


def open_journal(data: Path) -> Store:
    """The store of a host to read from, without its TSE. Raises ConfigurationError or StoreError."""
    configs.load(data)
    path = data / configs.STORE_NAME
    if not path.exists():
        raise ConfigurationError(f"{path} is missing: nothing was signed here yet")
    return open_store(path, create=False)


def choose_queues(store: Store, queue_id: str | None) -> list[QueueRow]:
    """The queue of that id, or all of them."""
    rows = store.queues()
    if queue_id is None:
        return rows
    wanted = configs.guid("queue id", queue_id)
    found = [row for row in rows if row.ftQueueId == wanted]
    if not found:
        raise CommandError(
            "QUEUE_ID_MISMATCH",
            f"the store holds no queue {wanted}",
            hint=f"It holds {', '.join(row.ftQueueId for row in rows) or 'none'}.",
        )
    return found


def choose_scu(data: Path, scu_id: str | None) -> ScuConfig:
    """The SCU of that id, or the only one of the host. Raises ConfigurationError or CommandError."""
    scus = configs.load(data).scus
    wanted = None if scu_id is None else configs.guid("SCU id", scu_id)
    found = [scu for scu in scus if wanted in (None, scu.id)]
    if len(found) != 1:
        raise CommandError(
            "SCU_ID_REQUIRED" if scu_id is None else "SCU_ID_MISMATCH",
            f"the host has {len(scus)} SCUs; which one?"
            if scu_id is None
            else f"the host has no SCU {wanted}",
            hint=f"--scu-id is one of {', '.join(scu.id for scu in scus) or 'none'}.",
        )
    return found[0]


def replace_file(path: Path, fill: Callable[[Any], None]) -> None:
    """Write ``path`` so that it appears whole or not at all; ``fill`` gets the open binary file."""
    with replacing(path, 0o666) as file:
        fill(file)
