"""Build hook: compile ``csrc/`` into ``fiskal/_core`` with cffi in API mode.

``pip install .`` and ``pip wheel .`` run :class:`CoreBuildHook` through hatchling (PEP 517).
``python build.py`` compiles in place, for work on the sources. ``python build.py --stubs`` writes
``fiskal/_core.pyi`` anew, which a change of a header asks for.
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


def declarations(header: Path) -> str:
    """Return the part of a header that cffi reads: the whole public surface of what it declares."""
    text = header.read_text(encoding="utf-8")
    blocks = re.findall(r"/\* cffi:begin \*/(.*?)/\* cffi:end \*/", text, re.DOTALL)
    if not blocks:
        raise RuntimeError(f"{header} holds no 'cffi:begin' section")
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
"""


def core_headers() -> list[Path]:
    """The headers of the core: those of ``fiskal.h`` in its order, what only tests call, and one for the framing of
    each TSE family."""
    topics = re.findall(r'^#include "(.*)"$', (CSRC / "fiskal.h").read_text(encoding="utf-8"), re.MULTILINE)
    return [CSRC / name for name in [*topics, "testing.h"]] + sorted((CSRC / "frames").glob("*.h"))


def _builder(name: str, headers: list[Path], preamble: str) -> FFI:
    """The module ``name`` of the C files beside ``headers``, which it declares."""
    ffi = FFI()
    for header in headers:
        ffi.cdef(declarations(header))
    if sys.platform == "win32":
        compile_args = ["/O2", "/std:c11"]
    else:
        compile_args = ["-O3", "-std=c11", "-fvisibility=hidden"]
    folders = sorted({header.parent for header in headers})
    ffi.set_source(
        name,
        preamble + "".join(f'#include "{header.name}"\n' for header in headers),
        sources=[
            path.relative_to(ROOT).as_posix() for folder in folders for path in sorted(folder.glob("*.c"))
        ],
        include_dirs=[folder.relative_to(ROOT).as_posix() for folder in folders],
        extra_compile_args=compile_args + os.environ.get("FISKAL_CFLAGS", "").split(),
        extra_link_args=os.environ.get("FISKAL_LDFLAGS", "").split(),
    )
    return ffi


def ffibuilders() -> list[FFI]:
    """The modules to build."""
    return [_builder("fiskal._core", core_headers(), PREAMBLE)]


def compile_all(verbose: bool = False) -> list[Path]:
    """Compile all modules, put them into ``fiskal/`` and return their paths."""
    with tempfile.TemporaryDirectory(prefix="fiskal-build-") as scratch:
        shutil.copytree(CSRC, Path(scratch, "csrc"))  # cffi compiles inside its scratch folder
        return [_install(Path(ffi.compile(tmpdir=scratch, verbose=verbose))) for ffi in ffibuilders()]


STUB_HEAD = '''"""Types of the compiled core, made by ``python build.py --stubs``. What they do is written in csrc/*.h.

Pointers to bytes that are only read take ``bytes`` as they are; everything else is cffi data.
"""

from collections.abc import Callable
from typing import Any, Final

CData = Any
Bytes = bytes | CData

class Buffer:
    """Memory of the core; a slice of it is a copy."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __getitem__(self, index: slice, /) -> bytes: ...

class _FFI:
    NULL: Final[CData]
    def new(self, cdecl: str, init: Any = ...) -> CData: ...
    def new_allocator(self, *, should_clear_after_alloc: bool = ...) -> Callable[..., CData]: ...
    def buffer(self, cdata: CData, size: int = ...) -> Buffer: ...
    def from_buffer(self, cdecl: str, data: bytes | bytearray | memoryview, require_writable: bool = ...) -> CData: ...
    def string(self, cdata: CData, maxlen: int = ...) -> bytes: ...
    def unpack(self, cdata: CData, length: int) -> Any: ...
    def sizeof(self, cdecl: str | CData) -> int: ...

ffi: Final[_FFI]

class _Lib:
'''
READ_ONLY = re.compile(r"const (uint8_t|char|void) \*$")


def stubs() -> str:
    """The text of ``fiskal/_core.pyi``: the constants and functions of all headers, a section for each."""
    sections = []
    for header in core_headers():
        text = re.sub(r"/\*.*?\*/", "", declarations(header), flags=re.DOTALL)
        names = re.findall(r"^#define (FK_\w+) ", text, re.MULTILINE)
        for members in re.findall(r"\benum\b[^{;]*\{(.*?)\}", text, re.DOTALL):
            names += re.findall(r"\b(FK_\w+)", members)
        lines = [f"    # csrc/{header.relative_to(CSRC).as_posix()}"]
        lines += [f"    {name}: Final[int]" for name in names]
        for result, name, parameters in re.findall(r"^(\w+) (fk_\w+)\(([^)]*)\);", text, re.MULTILINE):
            lines += _stub_of(result, name, " ".join(parameters.split()))
        sections.append("\n".join(lines))
    return STUB_HEAD + "\n\n".join(sections) + "\n\nlib: Final[_Lib]\n"


def _stub_of(result: str, name: str, parameters: str) -> list[str]:
    types = []
    for parameter in parameters.split(", ") if parameters != "void" else []:
        declared, called = re.fullmatch(r"(.*?)(\w+)", parameter).groups()  # type: ignore[union-attr]
        python = "Bytes" if READ_ONLY.match(declared) else "CData" if "*" in declared else "int"
        types.append(f"{called}: {python}")
    given = "None" if result == "void" else "int"
    line = f"    def {name}({', '.join(['self', *types] + ['/'] * bool(types))}) -> {given}: ..."
    if len(line) <= 110:
        return [line]
    inner = ", ".join(["self", *types, "/"])
    if len(inner) <= 102:
        return [f"    def {name}(", f"        {inner}", f"    ) -> {given}: ..."]
    each = [f"        {one}," for one in ["self", *types, "/"]]
    return [f"    def {name}(", *each, f"    ) -> {given}: ..."]


def _install(built: Path) -> Path:
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
        """Compiles the modules and marks the wheel as platform specific."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            if self.target_name != "wheel":
                return
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            for built in compile_all():
                build_data["force_include"][str(built)] = f"fiskal/{built.name}"


if __name__ == "__main__":
    if "--stubs" in sys.argv[1:]:
        (ROOT / "fiskal" / "_core.pyi").write_text(stubs(), encoding="utf-8")
        raise SystemExit
    for built in compile_all(verbose="-v" in sys.argv[1:]):
        print(built)
