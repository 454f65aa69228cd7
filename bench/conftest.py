"""Prints the ratios to the baselines, because they are what counts; saves nothing about whose machine it was."""

from __future__ import annotations

from typing import Any


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """A baseline names the processor and the interpreter, and that is all."""
    cpu = machine_info.get("cpu", {})
    kept = {
        name: machine_info[name] for name in ("machine", "python_implementation", "python_version", "system")
    }
    machine_info.clear()
    machine_info.update(kept, cpu={"brand_raw": cpu.get("brand_raw", ""), "count": cpu.get("count", 0)})


def pytest_benchmark_update_commit_info(config: Any, commit_info: dict[str, Any]) -> None:
    """Which version it was stands in the name of the file."""
    commit_info.clear()
    commit_info.update(id="", time="", author_time="", dirty=False, project="fiskal", branch="")


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
