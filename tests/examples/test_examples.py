"""Every example runs as its reader would run it: embedded, and over HTTP against a served host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fiskal
from fiskal.export.verify import verify_journal
from tests.cli.test_serve import ENVIRONMENT, ROOT, sample, serving

EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("[0-9]*.py"))
ANSWER = re.compile(r"^(.+): (ft[0-9A-F]+#(?:ST|UT|DT|IT|T)?[0-9]*), ftState ([0-9a-f]{16})$", re.MULTILINE)

FAILED = "4445000000000002"
READY = "4445000000000000"
LATE = "4445000000000008"

TAKES_THE_TSE = {"07_tse_fails.py", "11_failures_at_once.py"}
"""Over HTTP they need the folder of the host, to take its TSE away."""
OWN_HOST = {"08_tse_fails_between.py", "12_host_dies.py"}
"""They stop or kill their host, and so have one of their own."""

EXPECTED = {
    "01_short_sale.py": [("Receipt", "ft1#IT2", READY)],
    "02_orders_over_days.py": [
        ("Day 1, order", "ft1#IT2", READY),
        ("Day 2, order", "ft2#IT3", READY),
        ("Day 3, receipt", "ft3#IT4", READY),
    ],
    "03_scanner_checkout.py": [("First scan", "ft1#ST2", READY), ("Payment", "ft2#T2", READY)],
    "04_bakery.py": [
        ("Register 1, empty order", "ft1#IT2", READY),
        ("Register 3, receipt", "ft2#IT3", READY),
    ],
    "05_threads.py": [],
    "06_lost_answer.py": [("Receipt", "ft1#IT2", READY), ("Receipt", "ft2#IT3", READY)],
    "07_tse_fails.py": [
        ("Receipt without TSE", "ft1#", FAILED),
        ("Another one", "ft2#", FAILED),
        ("Zero receipt, too early", "ft3#", FAILED),
        ("Receipt, TSE there but not asked", "ft4#", FAILED),
        ("Zero receipt", "ft5#IT2", READY),
        ("Receipt with TSE", "ft6#IT3", READY),
    ],
    "08_tse_fails_between.py": [
        ("First scan of A", "ft1#ST2", READY),
        ("A is paid, no TSE", "ft2#", FAILED),
        ("First scan of B, no TSE", "ft3#", FAILED),
        ("First scan of C, no TSE", "ft4#", FAILED),
        ("C is paid, no TSE", "ft5#", FAILED),
        ("Zero receipt", "ft6#IT3", READY),
        ("B is paid", "ft7#T4", READY),
    ],
    "09_middleware_unreachable.py": [
        ("Receipt 1-1", "ft1#IT2", READY),
        ("Receipt 1-2 had been signed", "ft2#IT3", READY),
        ("Receipt 1-3 handed in", "ft3#", LATE),
        ("Receipt 1-4 handed in", "ft4#", LATE),
        ("Zero receipt", "ft5#IT4", READY),
        ("Receipt 1-5", "ft6#IT5", READY),
    ],
    "10_register_down.py": [("Block 7, 031", "ft1#", READY), ("Block 7, 032", "ft2#", READY)],
    "11_failures_at_once.py": [
        ("Receipt without TSE", "ft1#", FAILED),
        ("Receipt handed in late", "ft2#", LATE),
        ("Handwritten receipt", "ft3#", READY),
        ("Zero receipt, too early", "ft4#", FAILED),
        ("Zero receipt", "ft5#IT2", READY),
        ("Receipt with TSE", "ft6#IT3", READY),
    ],
    "12_host_dies.py": [
        ("Receipt S-1", "ft1#IT2", READY),
        ("Receipt S-2", "ft2#IT3", READY),
        ("Receipt S-3", "ft3#IT4", READY),
    ],
}
PRINTS = {
    "01_short_sale.py": ["start of the action  2020-05-22T10:47:40.960Z", "QR code              V0;"],
    "02_orders_over_days.py": ['1;"0,5 Soda Zitrone";3.50', "start of the action  2020-05-26T10:31:34.960Z"],
    "03_scanner_checkout.py": ["start of the action  2020-05-22T10:47:50.960Z"],
    "04_bakery.py": ["Beleg^2.50_9.00_0.00_0.00_0.00^11.50:Bar", "action  2020-05-22T07:12:05.120Z"],
    "05_threads.py": ["row 2: Kasse", "row 21: Kasse", ", ft14#IT21"],
    "06_lost_answer.py": ["it was signed; this is its answer", "null: it never arrived, so send it"],
    "07_tse_fails.py": [
        "fehlgeschlagen Fehlerzähler seit ",
        "Z: 4\n",
        "4 Aktionen ohne TSE Kommunikation im",
    ],
    "08_tse_fails_between.py": [
        "made good: Beleg^4.00_0.00_0.00_0.00_0.00^4.00:Bar\n",
        "4 Aktionen ohne TSE Kommunikation im",
        "QR code              V0;",
    ],
    "09_middleware_unreachable.py": [
        "    Elektronisches Aufzeichnungssystem ausgefallen, Beleg 3\n",
        "    Ausfallsnacherfassung vom 22.05.2020 11:35:00 Elektronisches Aufzeichnungssystem ausgefallen\n",
        "2 Aktionen im Zeitraum von 22.05.2020 11:35:00 bis 22.05.2020 11:36:00\n",
    ],
    "10_register_down.py": ["    Handschriftbelegerfassung vom 22.05.2020 12:00:00\n"],
    "11_failures_at_once.py": [
        "2 Aktionen ohne TSE Kommunikation im",
        "1 Aktionen im Zeitraum von 22.05.2020 07:30:00 bis 22.05.2020 07:30:00\n",
    ],
    "12_host_dies.py": ["The host is killed while receipt S-2 is on its way\n    "],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a new host."""
    folder = tmp_path / "shop"
    fiskal.open(folder, create=True).close()
    return folder


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        capture_output=True, text=True, encoding="utf-8", check=False, timeout=60,
        env={**ENVIRONMENT, "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def check(name: str, printed: str) -> None:
    assert ANSWER.findall(printed) == EXPECTED[name]
    for text in PRINTS[name]:
        assert text in printed


def test_every_example_is_known_and_in_the_index() -> None:
    assert sorted(EXPECTED) == EXAMPLES
    index = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    for name in EXAMPLES:
        assert f"[{name}]({name})" in index


@pytest.mark.parametrize("name", EXAMPLES)
def test_embedded(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    check(name, run(name, "--data", str(folder)))
    with fiskal.open(folder) as middleware:
        row = middleware.store.queue(middleware.queues[0].queue_id)
        assert row is not None
        report = verify_journal(middleware.store, row)
    assert report.ok, report.problems


def test_without_a_folder_nothing_is_left_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / EXAMPLES[0])],
        env={**os.environ, **ENVIRONMENT, "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    check(EXAMPLES[0], done.stdout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_over_http(name: str, data: Path) -> None:
    with fiskal.open(data) as middleware:
        middleware.sign_json(sample(data, "start"))
    with serving(data) as served:
        if name in OWN_HOST:
            with pytest.raises(AssertionError, match="leave out --url"):
                run(name, "--url", served.url)
            return
        more = ("--data", str(data)) if name in TAKES_THE_TSE else ()
        check(name, run(name, "--url", served.url, *more))
        served.stop()


def test_over_http_with_a_new_host_and_a_token(data: Path) -> None:
    with fiskal.open(data) as middleware:
        token = middleware.config.access_token
    with serving(data, "--require-token") as served:
        check(EXAMPLES[0], run(EXAMPLES[0], "--url", served.url, "--token", token))
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples" / EXAMPLES[0]), "--url", served.url],
            env=ENVIRONMENT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "the headers cashboxid and accesstoken are missing or wrong" in done.stderr
        served.stop()
