"""``fiskal size`` and ``fiskal bench tse``: what a planner types and reads."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import fiskal
from fiskal.cli import main
from fiskal.cli.samples import Samples
from fiskal.clock import now
from fiskal.scu.software import open_software_tse
from fiskal.sizing import measurement
from fiskal.sizing.tills import CLIENT_ID

QUICK = ["--warmup", "0.1", "--duration", "0.5"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def good(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A host in operation, with one productive client on its TSE, which takes 3 ms per signature."""
    folder = tmp_path / "shop"
    good("init", "--data", str(folder), "--client-id", "KASSE-1")
    config = json.loads((folder / "fiskal.json").read_bytes())
    config["scus"][0]["options"] = {"rehearse": {"service_time": {"start": 3, "finish": 3}}}
    (folder / "fiskal.json").write_text(json.dumps(config))
    with fiskal.open(folder) as middleware:
        middleware.sign(Samples(middleware.config.cash_box_id, now()).start())
    return folder


def tse_folder(shop: Path) -> Path:
    (folder,) = (shop / "scu").iterdir()
    return folder


def info_of(shop: Path) -> Any:
    scu = open_software_tse(tse_folder(shop), create=False)
    try:
        return scu.get_tse_info()
    finally:
        scu.close()


# ---- size ---------------------------------------------------------------------------------------


def test_size_answers_for_a_supermarket() -> None:
    told = good("size", "--checkouts", "40", "--kind", "supermarket", "--spare", "1")
    assert "=> 2 TSEs: 1 to do the work and 1 so that one may fail." in told
    assert "difference" in told


def test_size_answers_as_json() -> None:
    found = json.loads(good("size", "--checkouts", "8", "--kind", "discounter", "--scenarios", "--json"))
    assert found["ok"] is True
    assert found["tses"] == 1
    assert len(found["scenarios"]) == 6
    (chosen, *_) = found["plan"]["variants"]
    assert chosen["load"]["simulation"]["wait_s"][1] < 0.25


def test_size_under_overload_says_so_and_names_no_p95() -> None:
    result = run("size", "--checkouts", "30", "--kind", "bar", "--terminals-per-queue", "30")
    assert result.exit_code == 1
    assert "NO NUMBER OF TSEs DOES THIS" in result.stdout
    assert "grows by 25 s every minute" in result.stdout
    plain = json.loads(
        run("size", "--checkouts", "30", "--kind", "bar", "--terminals-per-queue", "30", "--json").stdout
    )
    assert plain["ok"] is False
    assert plain["plan"]["variants"][0]["load"]["simulation"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--checkouts", "0", "--kind", "bar"], "checkouts: 0 is impossible"),
        (["--checkouts", "5", "--receipts-per-hour", "-3"], "receipts per hour: -3 is impossible"),
        (["--checkouts", "5", "--kind", "bar", "--signature-ms", "0"], "a signature of 0 ms is impossible"),
        (["--checkouts", "5", "--kind", "bar", "--terminals-per-queue", "6"], "6 terminals per queue"),
        (["--kind", "bar"], "--checkouts 8 is missing"),
        (["--checkouts", "5"], "--kind supermarket is missing"),
    ],
)
def test_size_refuses_impossible_shops(arguments: list[str], words: str) -> None:
    result = run("size", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stdout == ""


def test_size_refuses_a_measurement_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text('{"format": "fiskal-tse-measurement", "version": 99}')
    result = run("size", "--checkouts", "4", "--kind", "bakery", "--measurement", str(path))
    assert result.exit_code == 2
    assert "measurement of version 99" in result.stderr
    assert "hint: Update fiskal" in result.stderr


def test_size_draws_a_report_that_needs_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.html"
    good("size", "--checkouts", "40", "--kind", "supermarket", "--html", str(path))
    page = path.read_text()
    assert page.count("<svg") == 3
    assert not re.search(r'(src|href)="https?:|@import|<script', page)
    again = tmp_path / "again.html"
    good("size", "--checkouts", "40", "--kind", "supermarket", "--html", str(again))
    assert again.read_text() == page


def test_size_draws_a_report_of_an_overloaded_shop_too(tmp_path: Path) -> None:
    path = tmp_path / "plan.html"
    result = run(
        "size", "--checkouts", "30", "--kind", "bar", "--terminals-per-queue", "30", "--html", str(path)
    )
    assert result.exit_code == 1
    assert 'class="answer bad"' in path.read_text()


# ---- bench --------------------------------------------------------------------------------------


def test_bench_measures_a_simulated_tse_and_size_plans_with_it(tmp_path: Path) -> None:
    out, table, page = (tmp_path / name for name in ("measured.json", "measured.csv", "report.html"))
    told = good(
        "bench", "tse", "--simulate", "5:0.2", "--checkouts", "1,3", *QUICK, "--out", str(out), "--csv", str(table),
        "--html", str(page),
    )  # fmt: skip
    assert "checkouts  receipts/s" in told
    assert len(measurement.load(out).points) == 2
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["checkouts"] for row in rows] == ["1", "3"]
    assert float(rows[0]["tse_p50_ms"]) >= 5
    assert page.read_text().count("<svg") == 3
    planned = good("size", "--checkouts", "8", "--kind", "discounter", "--measurement", str(out))
    assert "measured: " in planned


def test_bench_through_the_middleware_splits_the_time(shop: Path) -> None:
    before = (shop / "journal.sqlite").read_bytes()
    found = json.loads(
        good(
            "bench",
            "tse",
            "--data",
            str(shop),
            "--checkouts",
            "2",
            *QUICK,
            "--through",
            "middleware",
            "--flow",
            "explicit",
            "--yes",
            "--json",
        )
    )
    (point,) = found["points"]
    assert point["receipts"] > 0
    assert point["errors"] == {}
    assert point["middleware"]["sum_us"] > 0
    assert (shop / "journal.sqlite").read_bytes() == before  # the journal of the host is not touched
    info = info_of(shop)
    assert info.current_client_ids == ["KASSE-1"]
    assert info.current_started_transaction_numbers == []


def test_bench_asks_before_it_signs_on_a_productive_tse(shop: Path) -> None:
    before = info_of(shop).current_number_of_signatures
    result = run("bench", "tse", "--data", str(shop), *QUICK)
    assert result.exit_code == 2
    assert "productive clients: KASSE-1" in result.stderr
    assert "--yes" in result.stderr
    assert info_of(shop).current_number_of_signatures == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Name what to measure"),
        (["--simulate", "5", "--data", "x"], "Name what to measure"),
        (["--simulate", "fast"], "neither one of"),
        (["--simulate", "5", "--orders-per-bill", "nan"], "'nan' is not a number"),
        (["--simulate", "0"], "longer than nothing"),
        (["--simulate", "5", "--checkouts", "0"], "between 1 and"),
        (["--simulate", "5", "--checkouts", "a"], "no list of numbers"),
        (["--simulate", "5", "--arrival", "poisson"], "needs --receipts-per-hour"),
        (["--simulate", "5", "--arrival", "trace"], "go together"),
    ],
)
def test_bench_explains_wrong_usage(arguments: list[str], words: str) -> None:
    result = run("bench", "tse", *arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_bench_replays_a_trace_and_names_a_bad_line(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("seconds,items\n100.0,2\n100.2,1\n100.3\n")
    found = json.loads(
        good(
            "bench",
            "tse",
            "--simulate",
            "5",
            "--checkouts",
            "2",
            "--arrival",
            "trace",
            "--trace",
            str(trace),
            "--json",
        )
    )
    assert found["points"][0]["receipts"] == 3
    trace.write_text("0,1\nsoon,2\n")
    result = run("bench", "tse", "--simulate", "5", "--arrival", "trace", "--trace", str(trace))
    assert result.exit_code == 2
    assert "line 2: 'soon,2'" in result.stderr


def test_bench_chooses_among_several_scus(shop: Path) -> None:
    config = json.loads((shop / "fiskal.json").read_bytes())
    other = "00000001-0000-4000-8000-000000000001"
    config["scus"].append({"id": other})
    (shop / "fiskal.json").write_text(json.dumps(config))
    result = run("bench", "tse", "--data", str(shop), *QUICK, "--yes")
    assert result.exit_code == 2
    assert other in result.stderr
    result = run("bench", "tse", "--data", str(shop), *QUICK, "--scu", other)
    assert result.exit_code == 2
    assert "not in operation" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
def test_ctrl_c_reports_what_was_measured_and_leaves_nothing_open(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "measured.json"
    program = subprocess.Popen(
        [
            sys.executable, "-m", "fiskal", "bench", "tse", "--data", str(shop), "--flow", "explicit",
            "--receipts-per-hour", "3600", "--checkouts", "8", "--warmup", "0", "--duration", "600", "--yes",
            "--out", str(out),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    log = tse_folder(shop) / "messages.log"
    size = log.stat().st_size
    deadline = time.monotonic() + 60
    while log.stat().st_size < size + 10_000 and time.monotonic() < deadline:
        time.sleep(0.05)  # until some dozens of receipts are signed
    program.send_signal(signal.SIGINT)
    told, errors = program.communicate(timeout=60)
    assert program.returncode == 130, errors
    assert b"ENDED EARLY: interrupted" in told
    assert measurement.load(out).points[0].receipts > 0
    info = info_of(shop)
    assert info.current_started_transaction_numbers == []
    assert CLIENT_ID not in info.current_client_ids
