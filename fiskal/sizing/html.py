"""Reports as one HTML file each, with everything in it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from fiskal.sizing import plots, text
from fiskal.sizing.measurement import Measurement
from fiskal.sizing.plan import Plan
from fiskal.sizing.scenarios import Scenario
from fiskal.version import __version__

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1f2937; margin: 2rem auto; max-width: 62rem;
  padding: 0 1.2rem; }}
h1 {{ font-size: 1.6rem; margin-bottom: .2rem; }}
h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
.answer {{ background: #eef6ee; border-left: 6px solid #2e7d32; padding: .8rem 1.2rem; font-size: 1.05rem;
  white-space: pre-line; }}
.answer.bad {{ background: #fbeeed; border-color: #b3261e; }}
.muted {{ color: #6b7280; }}
pre {{ font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; background: #f9fafb; padding: .8rem 1rem;
  overflow-x: auto; white-space: pre-wrap; }}
figure {{ margin: 1.2rem 0; }}
figure svg {{ max-width: 100%; height: auto; }}
.pair {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }}
</style></head><body>
<h1>{title}</h1>
{body}
<p class="muted">fiskal {version}</p>
</body></html>
"""


def plan(planned: Plan, compared: Sequence[Scenario] = ()) -> str:
    """The report of a plan."""
    parts = text.plan_parts(planned, compared)
    answer = parts.pop("answer")
    question = parts.pop("question")
    bad = "" if planned.tses is not None else " bad"
    body = [
        f"<pre>{escape(question)}</pre>",
        f'<div class="answer{bad}">{escape(answer.removeprefix("=> "))}</div>',
        _figure(plots.growth(planned)),
        '<div class="pair">',
        _figure(plots.responses(planned)),
        _figure(plots.by_tses(planned)),
        "</div>",
    ]
    for name, part in parts.items():
        body += [f"<h2>{escape(text.TITLES[name])}</h2>", f"<pre>{escape(part)}</pre>"]
    return _PAGE.format(title="How many TSEs?", body="\n".join(body), version=__version__)


def measurement(measured: Measurement) -> str:
    """The report of a measurement."""
    ended = ""
    if measured.stopped or measured.left_open:
        ended = '<div class="answer bad">' + escape(
            "\n".join(
                line for line in text.measurement(measured).splitlines() if line.startswith(("ENDED", "LEFT"))
            )
        )
        ended += "</div>"
    body = [
        f'<p class="muted">{escape(measured.measured_at)}</p>',
        ended,
        _figure(plots.throughput(measured)),
        '<div class="pair">',
        _figure(plots.latencies(measured)),
        _figure(plots.where(measured)),
        "</div>",
        f"<pre>{escape(text.measurement(measured))}</pre>",
    ]
    kind = "simulated TSE" if measured.tse.simulated else "TSE"
    title = f"Measurement of the {kind} {measured.tse.serial_number[:12]}…"
    return _PAGE.format(title=escape(title), body="\n".join(body), version=__version__)


def _figure(svg: str) -> str:
    return f"<figure>{svg}</figure>" if svg else ""
