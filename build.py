"""Build hook: compile ``csrc/`` into ``fiskal/_core`` with cffi in API mode.

``pip install .`` and ``pip wheel .`` run :class:`CoreBuildHook` through hatchling (PEP 517).
``python build.py`` compiles in place, for work on the sources.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from cffi import FFI

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
HEADER = CSRC / "fiskal.h"


def declarations() -> str:
    """Return the part of ``csrc/fiskal.h`` that cffi reads: the whole public surface of the core."""
    text = HEADER.read_text(encoding="utf-8")
    blocks = re.findall(r"/\* cffi:begin \*/(.*?)/\* cffi:end \*/", text, re.DOTALL)
    if not blocks:
        raise RuntimeError(f"{HEADER} holds no 'cffi:begin' section")
    return "\n".join(blocks)


# cffi gives the interpreter lock away around every call. The calls of the core are shorter than the thread
# switch that invites: under load a receipt would stand in line for the lock a dozen times for nothing.
PREAMBLE = """
#ifdef Py_BEGIN_ALLOW_THREADS
#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
#define Py_BEGIN_ALLOW_THREADS {
#define Py_END_ALLOW_THREADS }
#endif
#include "fiskal.h"
"""


def ffibuilder() -> FFI:
    ffi = FFI()
    ffi.cdef(declarations())
    if sys.platform == "win32":
        compile_args = ["/O2", "/std:c11"]
    else:
        compile_args = ["-O3", "-std=c11", "-fvisibility=hidden"]
    ffi.set_source(
        "fiskal._core",
        PREAMBLE,
        sources=[f"csrc/{path.name}" for path in sorted(CSRC.glob("*.c"))],
        include_dirs=["csrc"],
        extra_compile_args=compile_args + os.environ.get("FISKAL_CFLAGS", "").split(),
        extra_link_args=os.environ.get("FISKAL_LDFLAGS", "").split(),
    )
    return ffi


def compile_core(verbose: bool = False) -> Path:
    """Compile the core and put the extension module beside ``fiskal/core.py``; return its path."""
    with tempfile.TemporaryDirectory(prefix="fiskal-build-") as scratch:
        shutil.copytree(CSRC, Path(scratch, "csrc"))  # cffi compiles inside its scratch folder
        built = Path(ffibuilder().compile(tmpdir=scratch, verbose=verbose))
        target = ROOT / "fiskal" / built.name
        staged = target.with_suffix(target.suffix + ".new")
        staged.write_bytes(built.read_bytes())
        staged.replace(target)  # a running process keeps the module it has loaded
        return target


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # plain ``python build.py`` needs cffi only
    pass
else:

    class CoreBuildHook(BuildHookInterface):  # type: ignore[type-arg]
        """Compiles the core and marks the wheel as platform specific."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            if self.target_name != "wheel":
                return
            built = compile_core()
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            build_data["force_include"][str(built)] = f"fiskal/{built.name}"


if __name__ == "__main__":
    print(compile_core(verbose="-v" in sys.argv[1:]))
