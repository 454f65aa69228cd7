"""Prints the ratios to the baselines, because they are what counts."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    session = getattr(config, "_benchmarksession", None)
    rows = [
        (bench.name, bench.extra_info)
        for bench in (session.benchmarks if session else [])
        if "ratio" in bench.extra_info
    ]
    if not rows:
        return
    terminalreporter.section("ratios")
    for name, info in rows:
        terminalreporter.write_line(
            f"{name}: {info['ratio']}  ({info['ours_us']} us; {info['baseline']}: {info['baseline_us']} us)"
        )
