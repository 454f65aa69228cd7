"""The compiled core, its headers and its types belong together."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from fiskal import core
from fiskal._core import ffi, lib

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    pytest.importorskip("cffi")
    spec = importlib.util.spec_from_file_location("fiskal_build", ROOT / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_types_are_those_of_the_headers(build: ModuleType) -> None:
    made = build.stubs()
    stored = (ROOT / "fiskal" / "_core.pyi").read_text(encoding="utf-8")
    assert stored == made, "a header has changed: run 'python build.py --stubs'"


def test_the_types_are_those_of_the_module(build: ModuleType) -> None:
    named = set(re.findall(r"^    (?:def )?((?:FK|fk)_\w+)", build.stubs(), re.MULTILINE))
    assert named == set(dir(lib)), "a header has changed: run 'python build.py'"


def test_every_header_is_in_the_module(build: ModuleType) -> None:
    """But for what the sources share with each other."""
    headers = set((ROOT / "csrc").glob("*.h")) | set((ROOT / "csrc" / "frames").glob("*.h"))
    private = {header for header in headers if "cffi:begin" not in header.read_text(encoding="utf-8")}
    assert set(build.core_headers()) == headers - private
    assert {header.name for header in private} >= {"fiskal.h", "internal.h"}


def test_a_structure_of_another_size_is_refused() -> None:
    assert core.layout("=152s", "fk_completed").size == ffi.sizeof("fk_completed")
    with pytest.raises(ImportError, match=r"fk_completed has 152 bytes .* not 151: .*python build\.py"):
        core.layout("=151s", "fk_completed")
