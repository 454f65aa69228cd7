"""``fiskal simulate`` says where the TSE is once it is there, and ends cleanly; ``fiskal tse find`` finds it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from fiskal.cli import main
from fiskal.simulators import fuse


@contextmanager
def simulated(*arguments: str, cwd: Path) -> Iterator[str]:
    """The place that the command prints, while it runs; it has to end with 0 and without a word."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fiskal", "simulate", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert out == ""


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (("epson", "--listen", "127.0.0.1:0"), "127.0.0.1:"),
        (("diebold-nixdorf", "--pty"), "/"),
        (("diebold-nixdorf", "--listen", "127.0.0.1:0"), "127.0.0.1:"),
        (("fiskaly", "--ca-out", "ca.pem"), "https://127.0.0.1:"),
        (("fcc",), "https://127.0.0.1:"),
        (("swissbit-cloud",), "https://127.0.0.1:"),
        (("swissbit", "--folder", "volume"), "volume"),
        (("cryptovision", "--folder", "volume"), "volume"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_it_says_where_the_tse_is_and_ends_when_told_to(
    arguments: tuple[str, ...], begins: str, tmp_path: Path
) -> None:
    with simulated(*arguments, cwd=tmp_path) as place:
        assert place.startswith(begins)
    if "ca.pem" in arguments:
        assert (tmp_path / "ca.pem").read_text().startswith("-----BEGIN CERTIFICATE-----")


@pytest.mark.skipif(fuse.why_not() is not None, reason=f"no FUSE here: {fuse.why_not()}")
def test_a_mounted_tse_is_found(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    with simulated("swissbit", "--mount", str(volume), cwd=tmp_path) as place:
        assert place == str(volume)
        done = CliRunner().invoke(main, ["tse", "find", "--json"])
        assert done.exit_code == 0, done.output
        (found,) = [one for one in json.loads(done.stdout) if one["place"] == place]
        assert found["family"] == "swissbit"
        assert found["options"] == {"path": place}
    assert not os.path.ismount(volume)


def test_what_cannot_be_simulated_is_said(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(main, ["simulate", *arguments, "--data", str(tmp_path / "tse")])
        assert done.exit_code == 2
        return done.output

    assert "--mount DIR, or --folder DIR" in run("swissbit")
    assert "--pty for a serial port" in run("diebold-nixdorf")
    assert "is no HOST:PORT" in run("epson", "--listen", "8009")
    assert "is no NAME=VALUE" in run("epson", "--set", "curve")
    assert "There is capacity_sectors" in run("epson", "--set", "curv=secp256r1")
