"""Predictions of ``fiskal size`` against real runs on simulated TSEs.

    python -m bench.validate_sizing [--loads 0.3,0.6,0.8,0.9] [--flows implicit,explicit] [--seconds 120]

Every TSE is a software TSE that rehearses a device: it really signs, and takes the time that was configured.
Checkouts are threads that sleep between receipts, as ``fiskal bench tse`` drives them. Several TSEs with
checkouts of their own run beside each other, so that a run of minutes shows a p95; what is compared is all of
them together. Runs for about (number of loads) x (number of flows) x (seconds + 15); with ``--beside`` all rows
run at once, each in a process of its own.

Prints a table in Markdown; exit code 1 if an error exceeds its limit. ``chance`` is the model against itself: how
far the p95 of 95 of 100 simulated runs of the same length is from the true one. An error within it shows nothing.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from fiskal.cli.bench import rehearsed
from fiskal.histogram import Histogram
from fiskal.scu.core import ScuCore
from fiskal.scu.software import open_software_tse, rehearsal
from fiskal.sizing.analytic import predict
from fiskal.sizing.drive import Clockwork, Result, Settings, measure
from fiskal.sizing.profiles import bare
from fiskal.sizing.service import ServiceTime
from fiskal.sizing.shop import Shop
from fiskal.sizing.simulation import EDF, Scheduling, simulate
from fiskal.sizing.tills import CLIENT_ID, ScuTill

LARGEST_THROUGHPUT_ERROR = 0.03
LARGEST_WAIT_ERROR = 0.15
SIMULATED_RECEIPTS = 100_000
CHANCE_RUNS = 100
WARMUP_S = 15.0

SCHEDULINGS = {"edf": EDF, "fifo": Scheduling(start_s=0.0)}
"""What the SCU does, and each call as it comes: how much the order explains."""


class Case(NamedTuple):
    """One row: what was predicted and what happened; waits are p95 in seconds.

    ``signature_s`` is how long the TSE was taken for a signature: the configured time, and what a busy machine
    makes of it. ``chance`` is a share of the wait.
    """

    flow: str
    load: float
    receipts: int
    measured_rate: float
    simulated_rate: float
    formula_rate: float
    measured_wait: float
    simulated_wait: float
    formula_wait: float
    chance: float
    signature_s: float

    @property
    def rate_error(self) -> float:
        return self.simulated_rate / self.measured_rate - 1

    @property
    def wait_error(self) -> float:
        return self.simulated_wait / self.measured_wait - 1 if self.measured_wait else 0.0


def run_case(flow: str, load: float, service: ServiceTime, options: argparse.Namespace) -> Case:
    """Predict and measure one load of one flow."""
    profile = bare(service, "configured")
    rate = 3600 * load / (options.checkouts * 2 * service.mean_s)
    shop = Shop(checkouts=options.checkouts, receipts_per_hour=rate, flow=flow, items=4, seconds_per_item=0.5)  # type: ignore[arg-type]
    cycle = shop.cycle(profile)
    scheduling = SCHEDULINGS[options.scheduling]

    def simulated_for(seconds: float, seed: int) -> tuple[float, float]:
        outcome = simulate(
            options.checkouts,
            cycle,
            shop.tse_flow,
            service,
            service,
            scheduling=scheduling,
            seconds=seconds,
            seed=seed,
        )
        return outcome.receipts_per_s, outcome.wait.quantile(0.95)

    simulated_rate, simulated_wait = simulated_for(SIMULATED_RECEIPTS * 3600 / rate / options.checkouts, 1)
    runs = [simulated_for(options.seconds * options.tses, 1000 + n)[1] for n in range(CHANCE_RUNS)]
    off = sorted(abs(run / simulated_wait - 1) for run in runs)
    formulas = predict(options.checkouts, cycle, shop.tse_flow, service, service, scheduling=scheduling)
    settings = Settings(
        flow=shop.flow,
        items=4,
        orders_per_bill=0,
        arrival="closed",
        cycle=cycle,
        rate_per_s=0,
        customers=(),
        warmup_s=WARMUP_S,
        duration_s=options.seconds,
        seed=options.seed,
    )
    results = run_replicas(options, service, settings)
    waits = Histogram()
    for result in results:
        if result.stopped or result.point.errors:
            raise SystemExit(f"a run failed: {result.stopped or result.point.errors}")
        waits.merge(Histogram.load(result.point.wait))
    receipts = sum(result.point.receipts for result in results)
    return Case(
        flow,
        load,
        receipts,
        receipts / options.seconds / len(results),
        simulated_rate,
        formulas.receipts_per_s,
        waits.quantile(0.95),
        simulated_wait,
        formulas.wait_quantile(0.95),
        off[int(0.95 * CHANCE_RUNS)],
        sum(result.point.utilisation for result in results)
        * options.seconds
        / sum(result.point.signatures for result in results),
    )


def run_replicas(options: argparse.Namespace, service: ServiceTime, settings: Settings) -> list[Result]:
    """Run all TSEs beside each other, each with its own checkouts and its own random numbers."""
    results: list[Result] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fiskal-validate-")))
        scus = []
        for number in range(options.tses):
            plan = {"seed": options.seed * 1000 + number, "service_time": rehearsed(service, service)}
            scu = open_software_tse(
                folder / str(number), rehearse=rehearsal.convert(plan), client_ids=[CLIENT_ID]
            )
            stack.callback(scu.close)
            scu.scheduler.client_step_s = 0.0  # checkouts of a shop are clients of their own
            scus.append(scu)

        def one(number: int, scu: ScuCore) -> None:
            clockwork = Clockwork()
            scu.observer = clockwork
            tills = [ScuTill(scu) for _ in range(options.checkouts)]
            own = {**{name: getattr(settings, name) for name in settings.__struct_fields__}}
            own["seed"] = options.seed * 1000 + number
            results.append(measure(tills, Settings(**own), clockwork))

        threads = [threading.Thread(target=one, args=pair) for pair in enumerate(scus)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return results


def row(case: Case) -> str:
    """One line of the table."""
    return (
        f"| {case.flow} | {case.load:.0%} | {case.receipts} | {case.measured_rate:.3f} "
        f"| {case.simulated_rate:.3f} | {case.rate_error:+.1%} | {case.formula_rate:.3f} "
        f"| {case.measured_wait * 1000:.0f} | {case.simulated_wait * 1000:.0f} | {case.wait_error:+.1%} "
        f"| ±{case.chance:.0%} | {case.formula_wait * 1000:.0f} | {case.signature_s * 1000:.1f} |"
    )


def beside(flows: list[str], loads: list[str]) -> Iterator[tuple[str, bool]]:
    """All rows at once, each by this program in a process of its own: (row, whether it is good)."""
    running = []
    for flow in flows:
        for load in loads:
            arguments = [sys.executable, "-m", "bench.validate_sizing", *sys.argv[1:]]
            arguments += ["--flows", flow, "--loads", load, "--only-row"]
            running.append(subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True))
    for process in running:
        out, _ = process.communicate()
        if process.returncode not in (0, 1) or not out:
            raise SystemExit(f"a run ended with {process.returncode}")
        yield out.strip(), process.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loads", default="0.3,0.6,0.8,0.9", help="offered utilisation of each TSE")
    parser.add_argument("--flows", default="explicit,implicit")
    parser.add_argument("--scheduling", choices=SCHEDULINGS, default="edf", help="of the prediction")
    parser.add_argument("--mean-ms", type=float, default=100.0)
    parser.add_argument("--cv", type=float, default=0.2)
    parser.add_argument("--checkouts", type=int, default=20, help="on each TSE")
    parser.add_argument("--tses", type=int, default=8, help="beside each other")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--beside", action="store_true", help="all rows at once")
    parser.add_argument("--only-row", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    sys.setswitchinterval(0.0005)
    flows, loads = options.flows.split(","), options.loads.split(",")
    service = ServiceTime(mean_s=options.mean_ms / 1000, cv=options.cv)
    if not options.only_row:
        print(
            f"{options.tses} TSEs, {options.mean_ms:g} ms (cv {options.cv:g}), {options.checkouts} checkouts each, "
            f"{options.seconds:g} s, order {options.scheduling}, seed {options.seed}; other work on the machine: "
            f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs\n"
        )
        print(
            "| flow | load | receipts | receipts/s measured | simulation | error | formulas "
            "| p95 wait measured, ms | simulation | error | chance | formulas | signature measured, ms |"
        )
        print("|---|" + "---:|" * 12, flush=True)
    if options.beside and not options.only_row:
        rows = beside(flows, loads)
    else:
        cases = (run_case(flow, float(load), service, options) for flow in flows for load in loads)
        rows = (
            (
                row(case),
                abs(case.rate_error) <= LARGEST_THROUGHPUT_ERROR
                and abs(case.wait_error) <= LARGEST_WAIT_ERROR,
            )
            for case in cases
        )
    good = True
    for line, fine in rows:
        print(line, flush=True)
        good &= fine
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
