"""``fiskal tse rehearse``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from fiskal.cli import common
from fiskal.host.drivers import scu_folder
from fiskal.scu.service_time import MAX_MS, Empirical, LogNormal, ServiceTime, mean_s
from fiskal.scu.software import control, rehearsal
from fiskal.scu.software.control import Effect
from fiskal.scu.software.limits import Limits
from fiskal.scu.software.rehearsal import FAULT_KINDS, Fault, Rehearsal, ServiceTimes

LIMITS: Final = {
    "clients": "max_clients",
    "open-transactions": "max_open_transactions",
    "signatures": "max_signatures",
    "memory": "max_log_memory_bytes",
}
OPERATIONS: Final = ServiceTimes.__struct_fields__
GROUPS: Final = {"transaction": ("start", "update", "finish")}


def _time(text: str) -> tuple[tuple[str, ...], ServiceTime | None]:
    """OPERATION=TIME."""
    operation, _, described = text.partition("=")
    if operation not in OPERATIONS and operation not in GROUPS:
        raise click.BadParameter(f"{operation!r} is none of {', '.join((*GROUPS, *OPERATIONS))}")
    try:
        return GROUPS.get(operation, (operation,)), _service_time(described)
    except (ValueError, OSError) as error:
        raise click.BadParameter(f"{described!r}: {error}") from error


def _service_time(text: str) -> ServiceTime | None:
    """``250``, ``lognormal:250:0.2``, ``lognormal:250:0.2:5000``, ``@FILE``, ``none``. Raises ValueError, OSError."""
    if text == "none":
        return None
    if text.startswith("@"):
        return Empirical([_number(line) for line in Path(text[1:]).read_text().split()])
    kind, *numbers = text.split(":")
    if kind == "lognormal" and len(numbers) in (2, 3):
        mean_ms, cv, *longest = map(_number, numbers)
        return LogNormal(mean_ms=mean_ms, cv=cv, **({"max_ms": longest[0]} if longest else {}))
    if numbers:
        raise ValueError("write milliseconds, lognormal:MEAN:CV[:MAX], @FILE or none")
    return _number(text)


def _number(text: str) -> float:
    """A number of milliseconds or a coefficient. Raises ValueError, for NaN and infinity too."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is not a finite number")
    return number


def _limit(text: str) -> tuple[str, int]:
    """NAME=N."""
    limit, _, number = text.partition("=")
    if limit not in LIMITS or not number.isdecimal():
        raise click.BadParameter(f"{text!r} is no NAME=N with one of {', '.join(LIMITS)}")
    return LIMITS[limit], int(number)


HELP: Final = """\
Let the software TSE behave like a device: slow, full, or failing.

Without options shows what is rehearsed. A running host that was started with a rehearsal takes a change over
at once, another one with its next start.

\b
What can --fail:
{kinds}

\b
Times are milliseconds: 250, lognormal:MEAN:CV[:MAX], @FILE with one
measured time per line, or none. They are those of
  {operations}

\b
Examples:
  fiskal tse rehearse --data shop --time transaction=lognormal:250:0.2
  fiskal tse rehearse --data shop --fail lose_answer --operation finish --times 1
  fiskal tse rehearse --data shop --limit open-transactions=10
  fiskal tse rehearse --data shop --clear
""".format(
    kinds="\n".join(f"  {kind:<20} {text}" for kind, (_, text) in FAULT_KINDS.items()),
    operations=" ".join((*GROUPS, *OPERATIONS)),
)


@click.command("rehearse", help=HELP)
@common.data_option()
@click.option("--scu-id", metavar="GUID", help="Which SCU, if the host has several.")
@click.option("--fail", "kind", type=click.Choice(list(FAULT_KINDS)), help="Add a fault.")
@click.option(
    "--operation",
    type=click.Choice([*OPERATIONS, "transaction", "any"]),
    help="What the fault happens to, if not to what it usually does.",
)
@click.option("--times", metavar="N", type=click.IntRange(1), help="How many calls fail; all if not given.")
@click.option(
    "--time", "times_taken", metavar="OPERATION=TIME", type=_time, multiple=True, help="Set a service time."
)
@click.option("--limit", "limits", metavar="NAME=N", type=_limit, multiple=True, help="Set a limit.")
@click.option("--seed", metavar="N", type=int, help="Of the random times.")
@click.option("--no-faults", is_flag=True, help="Take all faults away.")
@click.option("--clear", is_flag=True, help="Take everything away but what fiskal.json says.")
@common.json_option()
def rehearse(
    data: Path,
    scu_id: str | None,
    kind: rehearsal.FaultKind | None,
    operation: Any,
    times: int | None,
    times_taken: tuple[tuple[tuple[str, ...], ServiceTime | None], ...],
    limits: tuple[tuple[str, int], ...],
    seed: int | None,
    no_faults: bool,
    clear: bool,
    as_json: bool,
) -> None:
    scu = common.choose_scu(data, scu_id)
    if scu.driver != "software":
        raise common.CommandError(
            "NOT_IMPLEMENTED", f"SCU {scu.id} has the driver {scu.driver}; only the software TSE rehearses"
        )
    if kind is None and (operation is not None or times is not None):
        raise click.UsageError("--operation and --times belong to --fail.")
    folder = scu_folder(data, scu.id)
    options = rehearsal.convert(scu.options.get("rehearse", {}))
    over = Rehearsal() if clear else rehearsal.read(folder) or Rehearsal()
    # What is changed begins with what counts so far, which the file may have from the options.
    plan = rehearsal.merge(options, over)
    changes: dict[str, Any] = {}
    if seed is not None:
        changes["seed"] = seed
    if times_taken:
        chosen = {name: time for names, time in times_taken for name in names}
        changes["service_time"] = msgspec.structs.replace(plan.service_time or ServiceTimes(), **chosen)
    if limits:
        changes["limits"] = msgspec.structs.replace(plan.limits or Limits(), **dict(limits))
    if no_faults:
        changes["faults"] = []
    if kind is not None:
        known = [] if no_faults else plan.faults or []
        changes["faults"] = [*known, Fault(kind=kind, operation=operation, times=times)]
    effect: Effect | None = None
    if clear or changes:
        over = rehearsal.convert(msgspec.structs.replace(over, **changes))
        effect = control.change(folder, over)
        plan = rehearsal.merge(options, rehearsal.read(folder))
    if as_json:
        common.print_json({"rehearsal": _plain(folder, plan), "effect": effect})
        return
    _show(folder, plan)
    if effect is not None:
        click.echo(f"This counts {effect}.")


def _plain(folder: Path, plan: Rehearsal) -> Any:
    """The rehearsal as plain values, each fault with how often it will still happen."""
    plain = msgspec.to_builtins(plan)
    left = control.remaining(folder, plan.faults or [])
    for fault, (_, remaining) in zip(plain.get("faults", ()), left, strict=True):
        fault["remaining"] = remaining
    return plain


def _show(folder: Path, plan: Rehearsal) -> None:
    if plan == Rehearsal() or (plan.faults == [] and plan == Rehearsal(faults=[])):
        click.echo("Nothing is rehearsed.")
        return
    times = plan.service_time or ServiceTimes()
    for name in OPERATIONS:
        service_time = getattr(times, name)
        if service_time is not None:
            click.echo(f"time   {name:<12} {_described(service_time)}")
    limits = plan.limits or Limits()
    for name, member in LIMITS.items():
        if getattr(limits, member) is not None:
            click.echo(f"limit  {name:<18} {getattr(limits, member)}")
    for fault, left in control.remaining(folder, plan.faults or []):
        often = "until it is taken away" if left is None else f"{left} of {fault.times} times left"
        where = fault.operation or "/".join(sorted(fault.operations))
        click.echo(f"fail   {fault.kind:<20} {where}: {often}")


def _described(service_time: ServiceTime) -> str:
    mean = f"{mean_s(service_time) * 1000:g} ms"
    if isinstance(service_time, LogNormal):
        longest = f", at most {service_time.max_ms:g} ms" if service_time.max_ms < MAX_MS else ""
        return f"log-normal, mean {mean}, variation {service_time.cv:g}{longest}"
    if isinstance(service_time, Empirical):
        return f"{len(service_time.ms)} measured times, mean {mean}"
    return mean
