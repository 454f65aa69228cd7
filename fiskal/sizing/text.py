"""Plans and measurements in plain text, for a terminal of 100 columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from fiskal.histogram import Histogram
from fiskal.sizing.measurement import Measurement, Point
from fiskal.sizing.plan import ISOLATION, Load, Plan
from fiskal.sizing.scenarios import Scenario
from fiskal.sizing.simulation import Scheduling

COLUMNS: Final = (
    "checkouts",
    "seconds",
    "receipts",
    "receipts_per_s",
    "signatures_per_s",
    "utilisation",
    *(
        f"{part}_{share}_ms"
        for part in ("latency", "in_line", "wait", "tse", "middleware")
        for share in ("p50", "p95", "p99", "max")
    ),
    "errors",
)
"""Of the table of a measurement."""


def measurement_table(measured: Measurement) -> list[list[str]]:
    """Header and one row for each point; times in milliseconds."""
    rows = [list(COLUMNS)]
    for point in measured.points:
        row = [
            str(point.checkouts),
            f"{point.seconds:.1f}",
            str(point.receipts),
            f"{point.receipts_per_s:.3f}",
            f"{point.signatures_per_s:.3f}",
            f"{point.utilisation:.3f}",
        ]
        for part in (point.latency, point.in_line, point.wait, point.tse, point.middleware):
            histogram = Histogram.load(part)
            quantiles = [*histogram.quantiles((0.5, 0.95, 0.99)), histogram.max]
            row += [f"{value * 1000:.1f}" for value in quantiles]
        rows.append([*row, str(sum(point.errors.values()))])
    return rows


def measurement(measured: Measurement) -> str:
    """What was measured, for people."""
    tse, setup = measured.tse, measured.setup
    what = "simulated TSE" if tse.simulated else "TSE"
    pauses = (
        "no pauses" if setup.receipts_per_hour is None else f"{setup.receipts_per_hour:g} receipts/h each"
    )
    lines = [
        f"{what} {tse.serial_number[:16]}…, driver {tse.driver}, {tse.certification}",
        f"{setup.flow} flow, {setup.items} items, {setup.arrival} arrivals, {pauses}, through the "
        f"{'SCU' if setup.through == 'scu' else 'whole middleware'}, {setup.duration_s:g} s each",
        "",
    ]
    head = ["checkouts", "receipts/s", "sign./s", "busy", "p50", "p95", "p99", "max", "wait p95", "TSE p50",
            "mw p50", "errors"]  # fmt: skip
    rows = [head, *(_row(point) for point in measured.points)]
    lines += align(rows)
    lines.append("")
    lines.append(
        "p50 to max: what the customer waits for, in ms; wait: for the TSE; mw: the middleware itself"
    )
    if setup.flow == "explicit":
        lines.append("the start runs while goods are scanned; the customer waits for the finish alone")
    lines.append("")
    for op, data in measured.service.items():
        histogram = Histogram.load(data)
        if histogram.count:
            cv = histogram.variance**0.5 / histogram.mean if histogram.mean else 0.0
            p50, p95, p99 = (value * 1000 for value in histogram.quantiles((0.5, 0.95, 0.99)))
            lines.append(
                f"{op:<7} {histogram.count:6} signatures: mean {histogram.mean * 1000:.1f} ms, cv {cv:.2f}, "
                f"p50 {p50:.1f}, p95 {p95:.1f}, p99 {p99:.1f}, max {histogram.max * 1000:.1f}"
            )
    for point in measured.points:
        for code, count in point.errors.items():
            lines.append(f"{point.checkouts} checkouts: {count} times {code}")
    if measured.stopped:
        lines.append(f"ENDED EARLY: {measured.stopped}. What is shown was measured until then.")
    if measured.left_open:
        numbers = ", ".join(str(number) for number in measured.left_open if number)
        unknown = measured.left_open.count(0)
        lines.append(
            f"LEFT OPEN: the TSE did not answer any more, {len(measured.left_open)} transactions stay open"
            + (f": {numbers}" if numbers else "")
            + (f"; {unknown} starts with unknown outcome" if unknown else "")
        )
    return "\n".join(lines).rstrip()


def _row(point: Point) -> list[str]:
    latency = Histogram.load(point.latency)
    quantiles = [*latency.quantiles((0.5, 0.95, 0.99)), latency.max]
    return [
        str(point.checkouts),
        f"{point.receipts_per_s:.2f}",
        f"{point.signatures_per_s:.2f}",
        f"{point.utilisation:.0%}",
        *(f"{value * 1000:.0f}" for value in quantiles),
        f"{Histogram.load(point.wait).quantile(0.95) * 1000:.0f}",
        f"{Histogram.load(point.tse).quantile(0.5) * 1000:.0f}",
        f"{Histogram.load(point.middleware).quantile(0.5) * 1000:.2f}",
        str(sum(point.errors.values())),
    ]


def align(rows: Sequence[Sequence[str]], *, left: Collection[int] = ()) -> list[str]:
    """Columns of equal width, to the right but for those in ``left``."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


# ---- plans --------------------------------------------------------------------------------------


TITLES: Final = {
    "capacity": "When to add a TSE",
    "variants": "With more or fewer TSEs",
    "models": "Formulas and simulation",
    "queues": "Queues",
    "life": "How long they last",
    "stalls": "When a TSE is away",
    "scenarios": "Ways to place queues and TSEs",
    "assumptions": "Assumptions",
}
"""Headings of the parts of a plan, where there is room for them."""


def plan(planned: Plan, compared: Sequence[Scenario] = ()) -> str:
    """The answer for a planner, for people."""
    parts = plan_parts(planned, compared)
    parts["assumptions"] = "Assumptions\n" + parts["assumptions"]
    return "\n\n".join(parts.values())


def plan_parts(planned: Plan, compared: Sequence[Scenario] = ()) -> dict[str, str]:
    """The parts of a plan by name, in order: question and answer, then those of ``TITLES`` that apply."""
    shop, profile = planned.shop, planned.profile
    parts = {
        "question": _question(planned),
        "answer": _answer(planned),
        "capacity": _capacity(planned),
        "variants": _variants(planned),
    }
    if planned.chosen is not None and not planned.chosen.load.overloaded:
        parts["models"] = _models(planned.chosen.load)
    parts["queues"] = _queues(planned)
    parts["life"] = _life(planned)
    if planned.stalls:
        parts["stalls"] = _stalls(planned)
    if compared:
        parts["scenarios"] = _scenarios(compared)
    parts["assumptions"] = (
        f"  speed       {profile.source}\n"
        f"  uncertain   {profile.uncertainty}\n"
        f"  checkouts   {shop.seconds_per_item:g} s per item, at most half of a cycle; no customer leaves the "
        "line\n"
        f"  TSE         one call after the other, {order(shop.scheduling)}\n"
        "  measure     fiskal bench tse --data DIR --out measured.json, then fiskal size --measurement "
        "measured.json"
    )
    return parts


def order(scheduling: Scheduling) -> str:
    """How calls are put in order, in words."""
    apart = ", the two calls of a receipt together" if scheduling.back_to_back else ", call by call"
    if scheduling.start_s == 0:
        return f"first come, first served{apart}"
    if scheduling.start_s == float("inf"):
        return f"finishes always first{apart}"
    return f"earliest deadline first (a finish now, a start within {scheduling.start_s:g} s{apart})"


def _question(planned: Plan) -> str:
    shop, profile = planned.shop, planned.profile
    orders = f", {shop.orders_per_bill:g} orders before each" if shop.flow == "orders" else ""
    what = "bills" if shop.flow == "orders" else "receipts"
    spare = f", {shop.spare} TSE may fail" if shop.spare else ""
    return (
        f"{shop.checkouts} checkouts, {shop.receipts_per_hour:g} {what} per hour each at peak, "
        f"{shop.items:g} items, {shop.flow} flow{orders}\n"
        f"TSE: {profile.title}, {profile.signature_s * 1000:.0f} ms per signature "
        f"(cv {max(profile.start.cv, profile.finish.cv):.2g})\n"
        f"wanted: 95 of 100 customers wait at most {shop.p95_wait_s * 1000:g} ms for the TSE beyond its own "
        f"time,\n        and a TSE is busy at most {shop.max_utilisation:.0%} of the peak{spare}"
    )


def _answer(planned: Plan) -> str:
    shop = planned.shop
    if planned.tses is None or planned.needed is None:
        last = planned.variants[-1]
        lines = ["=> NO NUMBER OF TSEs DOES THIS."]
        lines += [f"   With {plural(last.tses)}: {problem}." for problem in last.problems]
        if last.load.overloaded:
            lines.append(f"   {overload(last.load)}")
        lines.append("   A faster TSE, another flow, more queues or a longer wait would.")
        return "\n".join(lines)
    spares = planned.tses - planned.needed
    text = f"=> {plural(planned.tses)}" + (
        f": {planned.needed} to do the work and {spares} so that one may fail." if spares else "."
    )
    chosen = planned.chosen
    if chosen is not None and chosen.load.simulation is not None:
        load, response = chosen.load, chosen.load.simulation.response_s
        text += (
            f"\n   {load.checkouts} checkouts on each; at peak it is busy {load.offered_utilisation:.0%}, and "
            f"95 of 100 customers\n   wait at most {ms(load.p95_wait_s or 0)} ms in line and "
            f"{ms(response[1])} ms in all for their signature."
        )
    if shop.spare and spares < shop.spare:
        text += f"\n   There are only {planned.tses} queues: more TSEs than that have nothing to do."
    if chosen is not None and chosen.load.checkouts > ISOLATION and not planned.profile.cloud:
        text += (
            f"\n   One dead TSE leaves {chosen.load.checkouts} checkouts without signatures: {ISOLATION} on one "
            "is what we advise,"
            f"\n   that is {-(-shop.checkouts // ISOLATION)} TSEs, whatever the speed."
        )
    return text


def overload(load: Load) -> str:
    """How fast it gets worse."""
    return (
        f"At peak {load.checkouts} checkouts bring {load.offered_utilisation:.2f} s of work per second. The wait "
        f"grows by {load.growth_s_per_min:.0f} s every minute;\n   no more than {load.receipts_per_s:.2f} "
        "transactions/s get through, however long they wait."
    )


def _capacity(planned: Plan) -> str:
    shop, capacity = planned.shop, planned.capacity
    rows = [["one TSE carries", "checkouts", "receipts/s", "signatures/s", "limited by"]]
    for name, each in (
        (f"at {planned.profile.high_s * 1000:.0f} ms, the slow end", planned.capacity_low),
        (f"at {planned.profile.signature_s * 1000:.0f} ms", capacity),
        (f"at {planned.profile.low_s * 1000:.0f} ms, the fast end", planned.capacity_high),
    ):
        rows.append(
            [
                name,
                str(each.checkouts),
                f"{each.receipts_per_s:.2f}",
                f"{each.signatures_per_s:.2f}",
                each.limited_by,
            ]
        )
    text = "\n".join(align(rows, left={0}))
    if capacity.checkouts and planned.tses:
        text += (
            f"\nAdd a TSE when one of them gets more than {capacity.receipts_per_s:.2f} receipts/s "
            f"({capacity.receipts_per_s * 3600:.0f} per hour) in the busiest\nquarter of an hour, or more "
            f"than {plural(capacity.checkouts, 'checkout')} of this kind; with {planned.tses} now, the shop has room "
            f"for {plural(max(0, capacity.checkouts * (planned.tses - shop.spare) - shop.checkouts), 'checkout')} more."
        )
    return text


def _variants(planned: Plan) -> str:
    rows = [["TSEs", "checkouts each", "busy", "p95 wait", "p50", "p95", "p99 response", ""]]
    for each in planned.variants:
        load = each.load
        mark = "<=" if each.tses == planned.tses else ""
        note = "; ".join(each.problems) or "good"
        if load.simulation is None:
            cells = ["grows", "-", "-", "-"]
        else:
            cells = [ms(load.p95_wait_s or 0), *(ms(value) for value in load.simulation.response_s)]
        busy = f"{load.offered_utilisation:.0%}"
        rows.append([str(each.tses), str(load.checkouts), busy, *cells, f"{note} {mark}".strip()])
    text = "\n".join(["At peak, in ms", *align(rows, left={7})])
    for each in planned.variants:
        if each.load.overloaded:
            text += f"\n{plural(each.tses)}: {overload(each.load)}"
    return text


def _models(load: Load) -> str:
    rows = [["", "formulas", "simulation", "difference"]]
    formulas, simulation = load.formulas, load.simulation
    assert formulas is not None  # not overloaded
    assert simulation is not None
    pairs = [
        ("receipts/s", formulas.receipts_per_s, simulation.receipts_per_s, "{:.3f}", 1.0),
        ("utilisation", formulas.utilisation, simulation.utilisation, "{:.3f}", 1.0),
        ("wait p95, ms", formulas.wait_s[1], simulation.wait_s[1], "{:.0f}", 1000.0),
        ("wait p99, ms", formulas.wait_s[2], simulation.wait_s[2], "{:.0f}", 1000.0),
        ("response p50, ms", formulas.response_s[0], simulation.response_s[0], "{:.0f}", 1000.0),
        ("response p95, ms", formulas.response_s[1], simulation.response_s[1], "{:.0f}", 1000.0),
        ("response p99, ms", formulas.response_s[2], simulation.response_s[2], "{:.0f}", 1000.0),
        ("start wait p95, ms", formulas.start_wait_p95_s, simulation.start_wait_p95_s, "{:.0f}", 1000.0),
    ]
    for name, one, other, form, scale in pairs:
        difference = f"{one / other - 1:+.1%}" if other else "-"
        rows.append([name, form.format(one * scale), form.format(other * scale), difference])
    return "\n".join([f"Two models of one TSE with {load.checkouts} checkouts", *align(rows, left={0})])


def _queues(planned: Plan) -> str:
    shop = planned.shop
    text = (
        "Queues: one for every register that is notified to the tax office. Input devices without own register\n"
        f"may share one, {plural(planned.checkouts_per_queue, 'terminal')} like these at the most. A further queue "
        "makes no TSE faster."
    )
    if shop.checkouts_per_queue > 1:
        text += f"\nWith {shop.checkouts_per_queue} terminals each, a queue is busy {planned.queue_busy:.0%}."
        if planned.queue_busy > 0.5:
            text += " That is too much: its receipts wait for each other."
    return text


def _life(planned: Plan) -> str:
    life = planned.lifetime
    lines = [
        f"Lifetime of each TSE: {life.signatures_per_day:,.0f} signatures and "
        f"{life.log_bytes_per_day / 1e6:.1f} MB of log a day, {life.signatures_per_month:,.0f} signatures a month",
    ]
    for name, years, note in (
        ("signatures", life.years_of_signatures, ""),
        ("log memory", life.years_of_log_memory, ", if the log is never exported and deleted"),
        ("certificate", life.certificate_years, " from its issue"),
    ):
        if years is not None:
            lines.append(f"  {name:<12} {duration(years)}{note}")
    if life.ends is not None:
        lines.append(f"  ends first   {life.ends[0]}")
    return "\n".join(lines)


def _stalls(planned: Plan) -> str:
    rows = [["a TSE away at peak for", "customers wait", "signatures to catch up", "caught up after"]]
    rows += [
        [
            f"{each.seconds:g} s",
            f"{each.customers:.0f}",
            f"{each.backlog_signatures:.0f}",
            f"{each.drained_after_s:.0f} s",
        ]
        for each in planned.stalls
    ]
    return "\n".join(
        [*align(rows, left={0}), "Self tests and exports belong into the night; 45 s is an export of 500 MB."]
    )


def _scenarios(compared: Sequence[Scenario]) -> str:
    rows = [
        ["scenario", "TSEs", "queues", "busy", "p95 wait", "p95 resp.", "if a TSE fails", "if its host fails"]
    ]
    for each in compared:
        load = each.variant.load
        waits = ["grows", "-"]
        if load.simulation is not None:
            waits = [f"{ms(load.p95_wait_s or 0)} ms", f"{ms(load.simulation.response_s[1])} ms"]
        rows.append(
            [
                each.name,
                str(each.tses),
                str(each.queues),
                f"{load.offered_utilisation:.0%}",
                *waits,
                each.if_tse_fails,
                each.if_host_fails,
            ]
        )
    lines = align(rows, left={0, 6, 7})
    for each in compared:
        lines += [f"  {each.name}: {problem}" for problem in each.variant.problems]
    return "\n".join(lines)


def ms(seconds: float) -> str:
    """Milliseconds without a unit."""
    return f"{seconds * 1000:.0f}"


def plural(number: int, what: str = "TSE") -> str:
    """1 TSE, 2 TSEs."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def duration(years: float) -> str:
    """Years, or months if there are few."""
    if years >= 100:
        return "more than 100 years"
    return f"{years:.1f} years" if years >= 2 else f"{years * 12:.0f} months"
