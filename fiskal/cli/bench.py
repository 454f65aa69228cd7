"""``fiskal bench``."""

from __future__ import annotations

import csv
import io
import re
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fiskal.cli import common
from fiskal.host import config as configs
from fiskal.host.config import HostConfig, QueueConfig, ScuConfig
from fiskal.host.drivers import open_scu
from fiskal.host.middleware import Middleware
from fiskal.lazy import LazyModule
from fiskal.scu.contract import Scu
from fiskal.scu.core import ScuCore
from fiskal.scu.software import open_software_tse, rehearsal
from fiskal.sizing import text
from fiskal.sizing.bench import Bench, MakeTills, probe, productive_clients, scu_tills
from fiskal.sizing.drive import Arrival, Customer, Settings, Snapshot, Watcher
from fiskal.sizing.measurement import Measurement, Setup, encode
from fiskal.sizing.profiles import PROFILES, bare
from fiskal.sizing.service import ServiceTime
from fiskal.sizing.shop import FlowName, Shop
from fiskal.sizing.simulation import Cycle
from fiskal.sizing.tills import CLIENT_ID, SignTill, Till

if TYPE_CHECKING:
    from fiskal.sizing import html
else:
    html = LazyModule("fiskal.sizing.html")  # needs an extra

MAX_CHECKOUTS: Final = 500
AFTER_LAST_S: Final = 30.0
"""How long a run goes on after the last customer of a trace has come."""
_SIMULATED: Final = re.compile(r"(\d+(?:\.\d+)?)(?:ms)?(?::(\d+(?:\.\d+)?))?")


@click.group("bench")
def command() -> None:
    """Measure: how fast is this TSE, and where does the time of a receipt go?

    \b
    Examples:
      fiskal bench tse --simulate swissbit
      fiskal bench tse --data shop --checkouts 1,2,4,8 --out measured.json
    """


def _numbers(_: click.Context, __: click.Parameter, value: str) -> list[int]:
    try:
        numbers = [int(part) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers such as 1,2,4,8") from None
    if not numbers or min(numbers) < 1 or max(numbers) > MAX_CHECKOUTS:
        raise click.BadParameter(f"each number of checkouts is between 1 and {MAX_CHECKOUTS}")
    return numbers


def _simulated(
    _: click.Context, __: click.Parameter, value: str | None
) -> tuple[ServiceTime, ServiceTime] | None:
    if value is None:
        return None
    if value in PROFILES:
        return PROFILES[value].start, PROFILES[value].finish
    match = _SIMULATED.fullmatch(value)
    if match is None:
        raise click.BadParameter(
            f"{value!r} is neither one of {', '.join(PROFILES)} nor MS or MS:CV, e.g. 250:0.2"
        )
    try:
        one = ServiceTime(mean_s=float(match[1]) / 1000, cv=float(match[2] or 0.2))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return one, one


@command.command("tse")
@common.data_option(required=False)
@click.option("--scu", "scu_id", metavar="GUID", help="Which SCU of the host, if there are several.")
@click.option(
    "--simulate",
    metavar="FAMILY|MS[:CV]",
    callback=_simulated,
    help="Measure a simulated TSE instead: a family's speed, or milliseconds and coefficient of variation.",
)
@click.option(
    "--checkouts", default="1,2,4,8", show_default=True, callback=_numbers, help="One run for each."
)
@click.option(
    "--flow",
    type=click.Choice(["implicit", "explicit", "orders"]),
    default="implicit",
    show_default=True,
    help="Two signatures at payment, or a start at the first item and a finish; or orders and bills.",
)
@click.option("--items", type=click.IntRange(1, 1000), default=12, show_default=True, help="Mean per basket.")
@click.option("--orders-per-bill", type=common.NumberRange(0, 100), default=3.0, show_default=True)
@click.option(
    "--receipts-per-hour",
    metavar="N",
    type=common.NumberRange(0, 3600, min_open=True),
    help="Of each checkout. [default: no pauses, which shows the most the TSE can do]",
)
@click.option(
    "--arrival",
    type=click.Choice(["closed", "poisson", "trace"]),
    default="closed",
    show_default=True,
    help="A customer follows another; or customers come at random, or as recorded, free checkout or not.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="CSV with the seconds of each first item and, if known, the number of items.",
)
@click.option(
    "--through",
    type=click.Choice(["scu", "middleware"]),
    default="scu",
    show_default=True,
    help="Ask the SCU, or sign with the whole middleware on a scratch journal.",
)
@click.option(
    "--warmup",
    metavar="S",
    type=common.NumberRange(0, 3600),
    help="Not measured.  [default: 5, 0 with a trace]",
)
@click.option(
    "--duration",
    metavar="S",
    type=common.NumberRange(0, 86400, min_open=True),
    help="Of each run.  [default: 30, or as long as the trace]",
)
@click.option("--seed", type=int, default=1, show_default=True, help="The same customers every time.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the measurement for 'size'."
)
@click.option("--csv", "csv_path", type=click.Path(path_type=Path, dir_okay=False), help="Write a table.")
@click.option("--html", "html_path", type=click.Path(path_type=Path, dir_okay=False), help="Write a report.")
@click.option("--yes", is_flag=True, help="Do not ask before signing on a TSE with productive clients.")
@common.json_option("Print the measurement as JSON, errors too.")
@click.pass_context
def tse(
    ctx: click.Context,
    data: Path | None,
    scu_id: str | None,
    simulate: tuple[ServiceTime, ServiceTime] | None,
    checkouts: list[int],
    flow: FlowName,
    items: int,
    orders_per_bill: float,
    receipts_per_hour: float | None,
    arrival: Arrival,
    trace: Path | None,
    through: str,
    warmup: float | None,
    duration: float | None,
    seed: int,
    out: Path | None,
    csv_path: Path | None,
    html_path: Path | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Let checkouts sign training receipts on a TSE and measure requests per second and waiting times.

    Every signature stays in the log of the TSE for ever and counts against its life. A real TSE is therefore
    asked for first if other cash registers use it. The benchmark signs with a client id of its own
    (FISKAL-BENCH), writes nothing to the journal of the host, and leaves no transaction open, also after
    Ctrl-C. The host must not be running.

    \b
    Examples:
      fiskal bench tse --simulate swissbit --html report.html
      fiskal bench tse --simulate 150:1.0 --flow explicit --checkouts 20 --receipts-per-hour 60
      fiskal bench tse --data shop --checkouts 1,2,4,8 --out measured.json
      fiskal size --measurement measured.json --checkouts 40 --receipts-per-hour 50
    """
    _check(data, simulate, arrival, trace, receipts_per_hour)
    customers = () if trace is None else _read_trace(trace, items)
    if warmup is None:
        warmup = 0.0 if customers else 5.0
    if duration is None:
        duration = customers[-1].at_s + AFTER_LAST_S if customers else 30.0
    # Fails before anything is signed if the report could not be drawn.
    write_html = None if html_path is None else html_writer()
    with ExitStack() as stack:
        stack.enter_context(_quiet_switching())
        scu, driver = stack.enter_context(_simulated_scu(simulate) if simulate else _scu_of(data, scu_id))
        bench = Bench(scu, driver=driver, simulated=driver == "software")
        _ask(bench, simulate is not None, yes)
        with bench:
            settings = _settings(
                bench, flow, items, orders_per_bill, receipts_per_hour, arrival, customers, warmup, duration, seed,
                checkouts,
            )  # fmt: skip
            make: MakeTills = scu_tills
            if through == "middleware":
                make = stack.enter_context(_middleware_tills(bench, max(checkouts)))
            measurement = bench.run(
                checkouts,
                settings,
                Setup(
                    flow=flow,
                    items=items,
                    orders_per_bill=orders_per_bill,
                    arrival=arrival,
                    receipts_per_hour=receipts_per_hour,
                    through=through,
                    warmup_s=warmup,
                    duration_s=duration,
                    seed=seed,
                ),
                make_tills=make,
                watch=_watcher(as_json),
            )
    if common.is_watched(as_json):
        click.echo("\r\x1b[K", nl=False, err=True)
    # First what cannot fail: a full disk must not cost the measurement.
    if as_json:
        common.write(encode(measurement))
    else:
        click.echo(text.measurement(measurement))
    if out is not None:
        common.replace_file(out, lambda file: file.write(encode(measurement)))
    if csv_path is not None:
        common.replace_file(csv_path, lambda file: file.write(_csv(measurement)))
    if html_path is not None and write_html is not None:
        write_html(html_path, measurement)
    if measurement.stopped == "interrupted":
        ctx.exit(130)
    ctx.exit(common.BAD if measurement.stopped or measurement.left_open else 0)


def html_writer() -> Callable[[Path, Measurement], None]:
    """What writes the report; raises ExtraMissing if what draws it is not there."""
    draw = html.measurement

    def write(path: Path, measurement: Measurement) -> None:
        page = draw(measurement).encode()
        common.replace_file(path, lambda file: file.write(page))

    return write


# ---- what is measured ---------------------------------------------------------------------------


def _check(
    data: Path | None,
    simulate: object,
    arrival: str,
    trace: Path | None,
    receipts_per_hour: float | None,
) -> None:
    if (data is None) == (simulate is None):
        raise click.UsageError(
            "Name what to measure: --data DIR for a TSE, or --simulate for a simulated one."
        )
    if (arrival == "trace") != (trace is not None):
        raise click.UsageError("--arrival trace and --trace FILE go together.")
    if arrival == "poisson" and receipts_per_hour is None:
        raise click.UsageError("--arrival poisson needs --receipts-per-hour.")


@contextmanager
def _simulated_scu(times: tuple[ServiceTime, ServiceTime]) -> Iterator[tuple[ScuCore, str]]:
    """A software TSE of that speed in a scratch folder."""
    with tempfile.TemporaryDirectory(prefix="fiskal-bench-") as folder:
        scu = open_software_tse(
            folder,
            rehearse=rehearsal.convert({"service_time": rehearsed(*times)}),
            client_ids=[CLIENT_ID],
        )
        try:
            yield scu, "software"
        finally:
            scu.close()


def rehearsed(start: ServiceTime, finish: ServiceTime) -> dict[str, object]:
    """Service times as the software TSE takes them."""
    return {
        operation: {"kind": "lognormal", "mean_ms": time.mean_s * 1000, "cv": time.cv}
        for operation, time in (("start", start), ("update", start), ("finish", finish))
    }


@contextmanager
def _scu_of(data: Path | None, scu_id: str | None) -> Iterator[tuple[ScuCore, str]]:
    """The SCU of a data folder."""
    assert data is not None  # checked with the options
    config = configs.load(data)
    chosen = _choose(config.scus, scu_id)
    scu = open_scu(chosen, data)
    try:
        if not isinstance(scu, ScuCore):
            raise common.CommandError(
                "NOT_MEASURABLE",
                f"the driver {chosen.driver!r} does not tell how long a call waits",
                hint="Measure on the machine that holds the TSE.",
            )
        yield scu, chosen.driver
    finally:
        scu.close()


def _choose(scus: Sequence[ScuConfig], scu_id: str | None) -> ScuConfig:
    wanted = None if scu_id is None else configs.guid("SCU id", scu_id)
    found = [scu for scu in scus if wanted in (None, scu.id)]
    if len(found) != 1:
        raise common.CommandError(
            "SCU_ID_REQUIRED" if found else "SCU_ID_UNKNOWN",
            f"the host has {len(scus)} SCUs" + ("" if found else f", and none is {wanted}"),
            hint=f"Choose with --scu: {', '.join(scu.id for scu in scus)}.",
        )
    return found[0]


def _ask(bench: Bench, simulated: bool, yes: bool) -> None:
    productive = productive_clients(bench.info)
    if simulated or yes or not productive:
        return
    question = (
        f"The TSE {bench.info.serial_number_octet[:12]}… has productive clients "
        f"({', '.join(productive[:3])}{' …' if len(productive) > 3 else ''}).\n"
        "The benchmark signs training receipts on it; they stay in its log for ever and keep it busy. Go on?"
    )
    if not sys.stdin.isatty():
        raise common.CommandError(
            "PRODUCTIVE_TSE",
            f"the TSE has productive clients: {', '.join(productive)}",
            hint="Every signature stays in its log for ever. Add --yes if that is wanted.",
        )
    click.confirm(question, abort=True, err=True)


def _settings(
    bench: Bench,
    flow: FlowName,
    items: int,
    orders_per_bill: float,
    receipts_per_hour: float | None,
    arrival: Arrival,
    customers: tuple[Customer, ...],
    warmup: float,
    duration: float,
    seed: int,
    checkouts: list[int],
) -> Settings:
    cycle: Cycle | None = None
    rate = 0.0
    if receipts_per_hour is not None:
        shop = Shop(
            checkouts=max(checkouts),
            receipts_per_hour=receipts_per_hour,
            items=items,
            flow=flow,
            orders_per_bill=orders_per_bill,
        )
        service = ServiceTime(mean_s=max(probe(bench.scu), 1e-6), cv=0.0)
        cycle = shop.cycle(bare(service, "a few receipts before the measurement"))
        rate = shop.transactions_per_s
    return Settings(
        flow=flow,
        items=items,
        orders_per_bill=orders_per_bill,
        arrival=arrival,
        cycle=cycle,
        rate_per_s=rate,
        customers=customers,
        warmup_s=warmup,
        duration_s=duration,
        seed=seed,
    )


def _read_trace(path: Path, items: int) -> tuple[Customer, ...]:
    """Lines of ``seconds[,items]``; a first line with names is skipped. Times count from the earliest."""
    customers = []
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if not row or (number == 1 and not _is_number(row[0])):
                continue
            try:
                customer = Customer(float(row[0]), int(row[1]) if len(row) > 1 and row[1] else items)
                if not (0 <= customer.at_s < 10**9 and 1 <= customer.items <= 1000):
                    raise ValueError("out of range")
            except ValueError as error:
                raise common.CommandError(
                    "BAD_TRACE",
                    f"{path}, line {number}: {','.join(row)!r} is not 'seconds,items': {error}",
                ) from error
            customers.append(customer)
    if not customers:
        raise common.CommandError("BAD_TRACE", f"{path} holds no customers")
    first = min(customer.at_s for customer in customers)
    return tuple(
        sorted((Customer(one.at_s - first, one.items) for one in customers), key=lambda one: one.at_s)
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@contextmanager
def _middleware_tills(bench: Bench, most: int) -> Iterator[MakeTills]:
    """Checkouts with a queue each, on a journal in a scratch folder. All queues share the client id."""
    scu_id = str(uuid.uuid4())
    config = HostConfig(
        cash_box_id=str(uuid.uuid4()),
        access_token="",
        queues=[QueueConfig(id=str(uuid.uuid4()), client_id=CLIENT_ID, scu_id=scu_id) for _ in range(most)],
        scus=[ScuConfig(id=scu_id)],
    )
    with tempfile.TemporaryDirectory(prefix="fiskal-bench-") as folder:
        middleware = Middleware(config, Path(folder), scus={scu_id: bench.scu})
        try:
            tills = [SignTill(middleware.sign_json, config.cash_box_id, one.id) for one in config.queues]
            for till in tills:
                till.open_queue()

            def make(_: Scu, checkouts: int) -> Sequence[Till]:
                return tills[:checkouts]

            yield make
        finally:
            middleware.close()


# ---- output -------------------------------------------------------------------------------------


def _watcher(as_json: bool) -> Watcher | None:
    if not common.is_watched(as_json):
        return None

    def watch(snapshot: Snapshot) -> None:
        phase = "warming up" if snapshot.warming_up else f"{snapshot.receipts_per_s:6.2f} receipts/s"
        click.echo(
            f"\r\x1b[K{snapshot.checkouts:3} checkouts  {snapshot.elapsed_s:4.0f}/{snapshot.total_s:.0f} s  "
            f"{phase}  {snapshot.receipts} receipts  {snapshot.errors} errors",
            nl=False,
            err=True,
        )

    return watch


@contextmanager
def _quiet_switching() -> Iterator[None]:
    """A thread whose sleep has ended should not wait 5 ms for the interpreter."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _csv(measurement: Measurement) -> bytes:
    file = io.StringIO()
    csv.writer(file).writerows(text.measurement_table(measurement))
    return file.getvalue().encode()
