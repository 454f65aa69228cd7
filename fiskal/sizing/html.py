"""Reports as one HTML file each, with everything in it. Needs ``pip install 'fiskal[sizing]'``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fiskal.extras import needs
from fiskal.sizing import text
from fiskal.sizing.measurement import Measurement
from fiskal.sizing.plan import Plan
from fiskal.sizing.scenarios import Scenario
from fiskal.version import __version__

with needs("sizing"):
    from markupsafe import Markup

    from fiskal import pages
    from fiskal.sizing import plots


def plan(planned: Plan, compared: Sequence[Scenario] = ()) -> str:
    """The report of a plan."""
    parts = text.plan_parts(planned, compared)
    answer, question = parts.pop("answer"), parts.pop("question")
    return _page(
        "plan.html",
        title="How many TSEs?",
        question=question,
        answer=answer.removeprefix("=> "),
        found=planned.tses is not None,
        growth=Markup(plots.growth(planned)),
        responses=Markup(plots.responses(planned)),
        by_tses=Markup(plots.by_tses(planned)),
        parts=[(text.TITLES[name], part) for name, part in parts.items()],
    )


def measurement(measured: Measurement) -> str:
    """The report of a measurement."""
    whole = text.measurement(measured)
    ended = ""
    if measured.stopped or measured.left_open:
        ended = "\n".join(line for line in whole.splitlines() if line.startswith(("ENDED", "LEFT")))
    kind = "simulated TSE" if measured.tse.simulated else "TSE"
    return _page(
        "measurement.html",
        title=f"Measurement of the {kind} {measured.tse.serial_number[:12]}…",
        measured_at=measured.measured_at,
        ended=ended,
        throughput=Markup(plots.throughput(measured)),
        latencies=Markup(plots.latencies(measured)),
        where=Markup(plots.where(measured)),
        text=whole,
    )


def _page(template: str, **values: Any) -> str:
    return pages.render("fiskal.sizing", template, {"version": __version__, **values})
