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
        cpu = f", processor time {info['cpu_ratio']}" if "cpu_ratio" in info else ""
        terminalreporter.write_line(
            f"{name}: {info['ratio']}{cpu}"
            f"  ({info['ours_us']} us; {info['baseline']}: {info['baseline_us']} us)"
        )
