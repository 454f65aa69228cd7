"""Predictions of ``fiskal size`` against real runs on simulated TSEs.

    python -m bench.validate_sizing [--loads 0.3,0.6,0.8,0.9] [--flows implicit,explicit] [--seconds 120]

Every TSE is a software TSE that rehearses a device: it really signs, and takes the time that was configured.
Checkouts are threads that sleep between receipts, as ``fiskal bench tse`` drives them. Several TSEs with
checkouts of their own run beside each other, so that a run of minutes shows a p95; what is compared is all of
them together. Prints a table in Markdown; exit code 1 if an error exceeds its limit. Runs for about
(number of loads) x (number of flows) x (seconds + 15).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import threading
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
from fiskal.sizing.simulation import EDF, FIFO, Scheduling, simulate
from fiskal.sizing.tills import CLIENT_ID, ScuTill

LARGEST_THROUGHPUT_ERROR = 0.03
LARGEST_WAIT_ERROR = 0.15
SIMULATED_RECEIPTS = 100_000
WARMUP_S = 15.0

SCHEDULINGS = {
    "edf": EDF,
    "fifo": FIFO,
    "fifo-together": Scheduling(start_s=0.0, back_to_back=True),
}


class Case(NamedTuple):
    """One row: what was predicted and what happened; waits are p95 in seconds.

    ``signature_s`` is how long the TSE was taken for a signature: the configured time, and what a busy machine
    makes of it.
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
    signature_s: float

    @property
    def rate_error(self) -> float:
        return self.simulated_rate / self.measured_rate - 1

    @property
    def wait_error(self) -> float:
        return self.simulated_wait / self.measured_wait - 1 if self.measured_wait else 0.0


def run_case(
    flow: str, load: float, service: ServiceTime, scheduling: Scheduling, options: argparse.Namespace
) -> Case:
    """Predict and measure one load of one flow."""
    profile = bare(service, "configured")
    rate = 3600 * load / (options.checkouts * 2 * service.mean_s)
    shop = Shop(checkouts=options.checkouts, receipts_per_hour=rate, flow=flow, items=4, seconds_per_item=0.5)  # type: ignore[arg-type]
    cycle = shop.cycle(profile)
    simulated = simulate(
        options.checkouts,
        cycle,
        shop.tse_flow,
        service,
        service,
        scheduling=scheduling,
        seconds=SIMULATED_RECEIPTS * 3600 / rate / options.checkouts,
    )
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
        simulated.receipts_per_s,
        formulas.receipts_per_s,
        waits.quantile(0.95),
        simulated.wait.quantile(0.95),
        formulas.wait_quantile(0.95),
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loads", default="0.3,0.6,0.8,0.9", help="offered utilisation of each TSE")
    parser.add_argument("--flows", default="implicit,explicit")
    parser.add_argument("--scheduling", choices=SCHEDULINGS, default="edf", help="what the SCU does")
    parser.add_argument("--mean-ms", type=float, default=100.0)
    parser.add_argument("--cv", type=float, default=0.2)
    parser.add_argument("--checkouts", type=int, default=20, help="on each TSE")
    parser.add_argument("--tses", type=int, default=8, help="beside each other")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    sys.setswitchinterval(0.0005)
    service = ServiceTime(mean_s=options.mean_ms / 1000, cv=options.cv)
    scheduling = SCHEDULINGS[options.scheduling]
    print(
        f"{options.tses} TSEs, {options.mean_ms:g} ms (cv {options.cv:g}), {options.checkouts} checkouts each, "
        f"{options.seconds:g} s, order {options.scheduling}; other work on the machine: "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs\n"
    )
    print(
        "| flow | load | receipts | receipts/s measured | simulation | error | formulas "
        "| p95 wait measured, ms | simulation | error | formulas | signature measured, ms |"
    )
    print("|---|" + "---:|" * 11)
    good = True
    for flow in options.flows.split(","):
        for load in options.loads.split(","):
            case = run_case(flow, float(load), service, scheduling, options)
            good &= abs(case.rate_error) <= LARGEST_THROUGHPUT_ERROR
            good &= abs(case.wait_error) <= LARGEST_WAIT_ERROR
            print(
                f"| {case.flow} | {case.load:.0%} | {case.receipts} | {case.measured_rate:.3f} "
                f"| {case.simulated_rate:.3f} | {case.rate_error:+.1%} | {case.formula_rate:.3f} "
                f"| {case.measured_wait * 1000:.0f} | {case.simulated_wait * 1000:.0f} | {case.wait_error:+.1%} "
                f"| {case.formula_wait * 1000:.0f} | {case.signature_s * 1000:.1f} |",
                flush=True,
            )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
