"""tse.py, a client for Epson TSEs by other people, runs unmodified against the simulator.

It is installed into an environment of its own, and knows only the port 8009.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiskal.simulators.epson import Settings, Simulator
from fiskal.simulators.plan import Plan
from fiskal.tse.tarverify import TarReport, verify_tar

PACKAGE = "tse.py==1.0.4"
HOST = "127.0.0.80"
"""All of 127.0.0.0/8 is this machine on Linux; nobody else listens here."""
SESSION = Path(__file__).with_name("tse_py_session.py")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has tse.py and nothing of this project."""
    folder = tmp_path_factory.mktemp("interop") / "venv"
    steps = (
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        [sys.executable, "-m", "pip", "--python", str(folder), "install", "--quiet", "--no-deps", PACKAGE],
    )
    for step in steps:
        try:
            done = subprocess.run(step, capture_output=True, text=True, timeout=120, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"{PACKAGE} cannot be installed: {error}")
        if done.returncode:
            pytest.skip(f"{PACKAGE} cannot be installed: {done.stderr.strip()[-200:]}")
    return folder / "bin" / "python"


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    settings = Settings(
        folder=str(tmp_path / "epson"),
        host=HOST,
        plan=Plan(scale=0),
        export_status="EXPORT_INCOMPETE",
        export_chunk_bytes=3000,
    )
    try:
        simulator = Simulator(settings)
    except OSError as error:
        pytest.skip(f"{HOST}:8009 is not to be had here: {error}")
    with simulator:
        yield simulator


def verified(simulator: Simulator, path: Path, *, filtered: bool = False) -> TarReport:
    with path.open("rb") as archive:
        return verify_tar(archive, simulator.device.tse.chain.certificates[-1:], filtered=filtered)


def test_a_shop_with_tse_py(python: Path, simulator: Simulator, tmp_path: Path) -> None:
    done = subprocess.run(
        [python, "-I", SESSION, HOST, tmp_path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["numbers"] == [1, 2, 3, 4, 5]
    whole = verified(simulator, tmp_path / "whole.tar")
    assert whole.ok
    assert not whole.findings
    assert whole.tses[0].transactions == 5
    assert base64.b64decode(answer["signature"]) in (tmp_path / "whole.tar").read_bytes()
    part = verified(simulator, tmp_path / "part.tar", filtered=True)
    assert part.ok
    assert part.tses[0].transactions == 2
    rest = verified(simulator, tmp_path / "rest.tar")
    assert rest.ok
    assert rest.tses[0].transactions == 0
