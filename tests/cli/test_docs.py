"""The documentation is run and compared, so that it cannot drift from the program."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

import fiskal
from fiskal.cli import COMMANDS
from fiskal.host.http import V0_PREFIXES, V1_PREFIXES
from fiskal.pos.prepared import _PARSE_ERRORS, _PAYLOAD_ERRORS
from fiskal.tse.findings import Code
from tests.tse.test_tar import day_archive, tse

PACKAGE = Path(fiskal.__file__).parent
DOCS = PACKAGE.parent / "docs"
CLI = (DOCS / "cli.md").read_text()
HTTP = (DOCS / "http.md").read_text()
VERIFICATION = (DOCS / "verification.md").read_text()


def test_every_command_has_its_chapter() -> None:
    assert set(re.findall(r"^## (\S+)$", CLI, re.MULTILINE)) == set(COMMANDS)


def test_the_examples_of_the_command_line_work(tmp_path: Path) -> None:
    blocks = re.findall(r"^```console\n(.*?)^```", CLI, re.MULTILINE | re.DOTALL)
    commands = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) > 15
    script = [
        "set -e -o pipefail",
        f'fiskal() {{ "{sys.executable}" -m fiskal "$@"; }}',
        f'python3() {{ "{sys.executable}" "$@"; }}',
        *commands,
    ]
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "receipt.png").read_bytes().startswith(b"\x89PNG")


def raised_codes() -> Iterator[str]:
    """Every code that a request can be refused with."""
    for table in (_PARSE_ERRORS, _PAYLOAD_ERRORS):
        yield from (entry[0] for entry in table.values())
    for file in PACKAGE.rglob("*.py"):
        if {"simulators", "drivers"} & set(file.parts):
            continue  # what a device refuses is no answer of the host
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("ReceiptRejected", "Refused"):
                texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                yield from (
                    text for text in texts if isinstance(text, str) and re.fullmatch(r"[A-Z_]+", text)
                )


def test_every_error_code_is_documented() -> None:
    missing = sorted({code for code in raised_codes() if f"`{code}`" not in HTTP})
    assert missing == []


def test_every_prefix_is_documented() -> None:
    for prefix in (*V0_PREFIXES, *V1_PREFIXES):
        assert f"`{prefix}`" in HTTP or not prefix


def test_the_findings_that_are_explained_exist() -> None:
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", VERIFICATION)) - {"SQLITE_TMPDIR"}
    assert len(named) > 8
    assert named <= set(Code.__members__)


def test_the_example_of_verification_runs(tmp_path: Path) -> None:
    (tmp_path / "export.tar").write_bytes(day_archive())
    (tmp_path / "root.pem").write_bytes(tse().chain.certificates[-1].public_bytes(Encoding.PEM))
    (block,) = re.findall(r"^```python\n(.*?)^```", VERIFICATION, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"True 6 of 6\n{tse().chain.serial.hex()} trusted 1 6 []\n"
