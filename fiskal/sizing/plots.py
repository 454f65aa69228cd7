"""The pictures of a report, as SVG. Needs matplotlib (``pip install 'fiskal[sizing]'``)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fiskal.histogram import Histogram
from fiskal.sizing.measurement import Measurement, Point
from fiskal.sizing.plan import Plan, formulas, run
from fiskal.sizing.text import plural

BLUE: Final = "#1f5fa8"
ORANGE: Final = "#d1600a"
GREEN: Final = "#2e7d32"
RED: Final = "#b3261e"
GREY: Final = "#6b7280"

_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "fiskal",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.edgecolor": "#9ca3af",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
_SIZE: Final = (7.2, 3.7)
_FEW_RECEIPTS: Final = 8000
_POINTS: Final = 9
_LINES: Final = 40


def growth(planned: Plan) -> str:
    """p95 wait against the number of checkouts on one TSE, both models, up to where it is overloaded."""
    shop, profile = planned.shop, planned.profile
    each = shop.offered_utilisation(profile, 1)
    limit_by_load = max(1, int(shop.max_utilisation / each))
    full = 1 / each
    most = max(2, min(int(full * 0.97), limit_by_load * 2, 400))
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(
            "How the wait grows with checkouts on one TSE", "checkouts on one TSE", "p95 wait for the TSE, ms"
        )
        numbers = _spread(1, most, _LINES)
        line = [formulas(shop, profile, n).wait_quantile(0.95) * 1000 for n in numbers]
        axes.plot(numbers, line, color=BLUE, linewidth=1.8, label="formulas")
        dots = _spread(max(1, most // _POINTS), most, _POINTS)
        seen = [run(shop, profile, n, receipts=_FEW_RECEIPTS).total_wait.quantile(0.95) * 1000 for n in dots]
        axes.plot(dots, seen, "o", color=ORANGE, markersize=5, label="simulation")
        highest = max(*line, *seen, shop.p95_wait_s * 1300)
        top = min(highest, max(shop.p95_wait_s * 8000, 100))
        axes.set_ylim(0, top * 1.08)
        axes.set_xlim(0, max(most * 1.04, min(full * 1.08, most * 1.3)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.get_xlim()[1] > full:
            axes.axvspan(full, axes.get_xlim()[1], color=RED, alpha=0.10, linewidth=0)
            axes.text(full, top * 0.75, "overloaded ", color=RED, ha="right", rotation=90, va="top")
        axes.axhline(shop.p95_wait_s * 1000, color=RED, linewidth=1.2, linestyle="--")
        axes.text(
            0, shop.p95_wait_s * 1000, f" wanted: {shop.p95_wait_s * 1000:g} ms", color=RED, va="bottom"
        )
        if limit_by_load <= most:
            axes.axvline(limit_by_load, color=GREY, linewidth=1.2, linestyle=":")
            axes.text(limit_by_load, top * 1.06, f" busy {shop.max_utilisation:.0%}", color=GREY, va="top")
        if planned.capacity.checkouts:
            axes.axvspan(0, planned.capacity.checkouts, color=GREEN, alpha=0.07, linewidth=0)
            axes.text(
                0,
                top * 0.95,
                f"  one TSE carries {planned.capacity.checkouts}",
                color=GREEN,
            )
        chosen = planned.chosen
        if chosen is not None and chosen.load.p95_wait_s is not None and chosen.load.checkouts <= most:
            axes.plot(
                [chosen.load.checkouts],
                [chosen.load.p95_wait_s * 1000],
                "s",
                color=GREEN,
                markersize=9,
                markerfacecolor="none",
                markeredgewidth=2,
                label=f"this plan: {chosen.load.checkouts} on each",
            )
        axes.legend(loc="center left", bbox_to_anchor=(0.01, 0.62))
        return _svg(figure)


def responses(planned: Plan) -> str:
    """The distribution of what customers wait for, both models; nothing under overload."""
    chosen = planned.chosen
    if chosen is None or chosen.load.simulation is None:
        return ""
    shop, profile, checkouts = planned.shop, planned.profile, chosen.load.checkouts
    outcome = run(shop, profile, checkouts)
    prediction = formulas(shop, profile, checkouts)
    longest = outcome.response.quantile(0.999) * 1.05
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(
            "How long customers wait for their signature",
            "milliseconds from the wish for the receipt",
            "share of customers that wait longer",
        )
        seconds = [longest * n / 300 for n in range(301)]
        axes.plot(
            [each * 1000 for each in seconds],
            [prediction.response(each) for each in seconds],
            color=BLUE,
            linewidth=1.8,
            label="formulas",
        )
        _tail(axes, outcome.response, ORANGE, "simulation")
        axes.set_yscale("log")
        axes.set_ylim(0.001, 1.1)
        axes.set_xlim(0, longest * 1000)
        _per_cent(axes)
        p95 = outcome.response.quantile(0.95) * 1000
        axes.axvline(p95, color=GREY, linewidth=1, linestyle=":")
        axes.text(p95, 0.75, f" 95 % within {p95:.0f} ms", color=GREY, va="top")
        axes.legend(loc="lower left")
        return _svg(figure)


def by_tses(planned: Plan) -> str:
    """Utilisation and p95 wait against the number of TSEs."""
    variants = [each for each in planned.variants if not each.load.overloaded]
    if not variants:
        return ""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("What another TSE brings", "TSEs at work", "p95 of the response, ms")
        names = [str(each.tses) for each in variants]
        for place, each in enumerate(variants):
            simulation = each.load.simulation
            assert simulation is not None  # the overloaded ones are left out
            color = GREEN if each.tses == planned.tses else BLUE if each.good else RED
            axes.bar(place, simulation.response_s[1] * 1000, width=0.55, color=color)
            note = f"{plural(each.load.checkouts, 'checkout')}, busy {each.load.offered_utilisation:.0%}"
            axes.text(place, simulation.response_s[1] * 1000, note, ha="center", va="bottom", fontsize=8.5)
        axes.set_xticks(range(len(names)), names)
        axes.margins(y=0.15)
        axes.grid(visible=False, axis="x")
        return _svg(figure)


def throughput(measured: Measurement) -> str:
    """Requests and signatures per second, and p95, against the number of checkouts."""
    points = sorted(measured.points, key=lambda point: point.checkouts)
    if not points:
        return ""
    numbers = [point.checkouts for point in points]
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("Throughput and p95 against the number of checkouts", "checkouts", "per second")
        axes.plot(numbers, [p.signatures_per_s for p in points], "s--", color=GREY, label="signatures/s")
        axes.plot(numbers, [p.receipts_per_s for p in points], "o-", color=BLUE, label="receipts/s")
        axes.set_ylim(0, None)
        axes.set_xlim(0, max(numbers) * 1.06)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        right = axes.twinx()
        right.spines["right"].set_visible(True)
        right.grid(visible=False)
        for name, color in (("latency", ORANGE), ("wait", RED)):
            values = [Histogram.load(getattr(p, name)).quantile(0.95) * 1000 for p in points]
            label = "p95 of all, ms" if name == "latency" else "p95 of the wait for the TSE, ms"
            right.plot(numbers, values, "^-", color=color, label=label)
        right.set_ylabel("milliseconds", color=ORANGE)
        right.set_ylim(0, None)
        handles, labels = axes.get_legend_handles_labels()
        more, names = right.get_legend_handles_labels()
        figure.legend(handles + more, labels + names, loc="outside lower center", ncols=4, frameon=False)
        return _svg(figure)


def latencies(measured: Measurement) -> str:
    """The distribution of the latency at every point."""
    points = [point for point in measured.points if point.receipts]
    if not points:
        return ""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(
            "Distribution of the latency", "milliseconds", "share of receipts that took longer"
        )
        for place, point in enumerate(points):
            shade = place / max(1, len(points) - 1)
            color = (0.12 + 0.7 * shade, 0.37 + 0.0 * shade, 0.66 - 0.6 * shade)
            _tail(axes, Histogram.load(point.latency), color, plural(point.checkouts, "checkout"))
        least = min(1 / max(point.receipts for point in points), 0.05)
        axes.set_yscale("log")
        axes.set_ylim(max(least, 1e-4), 1.1)
        axes.set_xlim(0, None)
        _per_cent(axes)
        axes.legend(frameon=True, framealpha=0.9, edgecolor="none")
        return _svg(figure)


def where(measured: Measurement) -> str:
    """The mean of each part of the latency at every point."""
    points = [point for point in measured.points if point.receipts]
    if not points:
        return ""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("Where the time goes", "checkouts", "mean of a receipt, ms")
        bottoms = [0.0] * len(points)
        for name, label, color in (
            ("tse", "the TSE signs", BLUE),
            ("wait", "waiting for the TSE", RED),
            ("in_line", "waiting for the checkout or the own start", ORANGE),
            ("middleware", "the middleware", GREEN),
        ):
            values = [_mean_ms(point, name) for point in points]
            axes.bar(range(len(points)), values, bottom=bottoms, width=0.55, color=color, label=label)
            bottoms = [below + value for below, value in zip(bottoms, values, strict=True)]
        axes.set_xticks(range(len(points)), [str(point.checkouts) for point in points])
        axes.grid(visible=False, axis="x")
        axes.margins(y=0.25)
        axes.legend(loc="upper left")
        return _svg(figure)


def _mean_ms(point: Point, part: str) -> float:
    return Histogram.load(getattr(point, part)).mean * 1000


def _axes(title: str, across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    return figure, axes


def _tail(axes: Axes, histogram: Histogram, color: str | tuple[float, float, float], label: str) -> None:
    left = histogram.count
    across, up = [0.0], [1.0]
    for value, count in histogram.values():
        left -= count
        across.append(value * 1000)
        up.append(max(left, 0.1) / histogram.count)
    axes.step(across, up, where="post", color=color, linewidth=1.4, label=label)


def _per_cent(axes: Axes) -> None:
    ticks = [1.0, 0.5, 0.1, 0.05, 0.01, 0.001]
    low, high = axes.get_ylim()
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(shown, [f"{tick * 100:g} %" for tick in shown])
    axes.minorticks_off()


def _spread(low: int, high: int, count: int) -> Sequence[int]:
    """About ``count`` different whole numbers from ``low`` to ``high``."""
    return sorted({round(low + (high - low) * n / max(1, count - 1)) for n in range(count)})


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
