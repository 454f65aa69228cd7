"""What is installed on request: the base installation sells without it, and says what to install."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fiskal.extras import PURPOSES, ExtraMissing, needs

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = {
    "server": ("starlette", "uvicorn"),
    "receipt": ("PIL", "zxingcpp"),
    "report": ("jinja2", "markupsafe"),
    "sizing": ("matplotlib", "numpy"),
    "speed": ("httptools", "uvloop"),
    "serial": ("serial",),
    "websocket": ("websockets",),
    "cloud": ("urllib3",),
}
"""What each extra makes it possible to import."""

BLOCK = (
    "import sys\n"
    "class Missing:\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name.partition('.')[0] in {blocked!r}:\n"
    "            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)\n"
    "sys.meta_path.insert(0, Missing())\n"
)


def run_without(extras: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a Python to which the packages of ``extras`` are not installed."""
    blocked = {package for extra in extras for package in PACKAGES[extra]}
    return subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked) + code],
        capture_output=True,
        text=True,
        check=False,
    )


def fiskal(*arguments: str, without: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return run_without(without, f"import fiskal.cli\nfiskal.cli.main({list(arguments)!r})\n")


EVERYTHING = tuple(PACKAGES)


def test_the_extras_are_those_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(PURPOSES) == set(PACKAGES) - {"speed"}  # which brings speed, but nothing to ask for
    assert set(PACKAGES) < set(extras)
    assert extras["all"] == [f"fiskal[{','.join(PACKAGES)}]"]


def test_embedding_loads_nothing_that_few_programs_need() -> None:
    heavy = {
        "asyncio", "click", "cryptography.x509", "email", "fiskal.cli", "fiskal.export.dsfinvk", "fiskal.host.http",
        "fiskal.scu.software", "fiskal.simulators", "fiskal.sizing", "http.client", "jinja2", "matplotlib", "PIL",
        "segno", "sqlite_utils", "ssl", "starlette", "urllib.request", "uvicorn", "xml.sax",
    }  # fmt: skip
    code = f"import fiskal, sys\nprint(sorted({heavy!r} & set(sys.modules)))"
    done = run_without(EVERYTHING, code)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_base_installation_sells_prints_and_verifies(tmp_path: Path) -> None:
    shop = str(tmp_path / "shop")
    done = fiskal("demo", "--data", shop, without=EVERYTHING)
    assert done.returncode == 0, done.stderr
    assert "█" in done.stdout  # the QR codes
    assert fiskal("verify", "journal", "--data", shop, without=EVERYTHING).returncode == 0
    out = str(tmp_path / "export.zip")
    done = fiskal("export", "dsfinvk", "--data", shop, "--out", out, without=EVERYTHING)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("serve", "--data", "x"), "server"),
        (("verify", "qr", "--image", __file__), "receipt"),
        (("verify", "tar", "--html", "x.html", __file__), "report"),
        (("size", "--checkouts", "5", "--kind", "supermarket", "--html", "x.html"), "sizing"),
    ],
)
def test_a_command_names_what_to_install(arguments: tuple[str, ...], extra: str) -> None:
    done = fiskal(*arguments, without=EVERYTHING)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert f"pip install 'fiskal[{extra}]'" in done.stderr
    assert "(EXTRA_MISSING)" in done.stderr


@pytest.mark.parametrize(
    ("module", "extra", "package"),
    [
        ("fiskal.host.http", "server", "starlette"),
        ("fiskal.export.picture", "receipt", "PIL"),
        ("fiskal.tse.qrimage", "receipt", "zxingcpp"),
        ("fiskal.export.tarpage", "report", "jinja2"),
        ("fiskal.sizing.html", "sizing", "matplotlib"),
    ],
)
@pytest.mark.parametrize("missing", ["one", "all"])
def test_a_module_names_what_to_install(module: str, extra: str, package: str, missing: str) -> None:
    done = run_without((extra,) if missing == "one" else EVERYTHING, f"import {module}")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("fiskal.extras.ExtraMissing: ")
    assert f"run: pip install 'fiskal[{extra}]'" in last
    if missing == "one":
        assert f"'{package}' is missing" in last


def test_what_is_missing_in_fiskal_itself_is_no_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"fiskal\.nothing") as caught, needs("server"):
        import fiskal.nothing  # noqa: F401
    assert not isinstance(caught.value, ExtraMissing)
