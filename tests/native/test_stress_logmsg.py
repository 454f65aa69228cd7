"""The log message encoder under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
STRICT = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wconversion"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_encoder_under_sanitizers(tmp_path: Path) -> None:
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }\n")
    probe = subprocess.run(
        ["gcc", *SANITIZERS, "empty.c", "-o", "empty"], cwd=tmp_path, capture_output=True, check=False
    )
    if probe.returncode != 0:
        pytest.skip("no sanitizers")
    program = tmp_path / "stress"
    sources = [*sorted(CSRC.glob("*.c")), HERE / "stress_logmsg.c"]
    subprocess.run(
        ["gcc", *STRICT, *SANITIZERS, f"-I{CSRC}", *map(str, sources), "-o", str(program)], check=True
    )
    run = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "ok\n"), run.stderr
