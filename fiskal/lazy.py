"""Modules that are imported when they are first used: what most programs never ask for costs them nothing."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class LazyModule:
    """Stands for a module at the top of another, where its imports are read, and imports it at the first look at one
    of its names. Python's own lock makes that safe in threads. Type checkers are told the real thing::

        if TYPE_CHECKING:
            from fiskal.export import dsfinvk
        else:
            dsfinvk = LazyModule("fiskal.export.dsfinvk")
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)

    def __repr__(self) -> str:
        return f"<lazy module {self._name!r}>"
