"""JSON inside texts of a request, its names compared without regard to letter case."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from fiskal.pos.embedded import json_object

_NOTHING: Final[dict[str, Any]] = {}


def members(text: str | None) -> dict[str, Any]:
    """The members of the JSON object in ``text``, names in lower case, fractions as decimals; empty if it is none."""
    if not text or "{" not in text:
        return _NOTHING
    return lowered(json_object(text))


def lowered(value: object) -> dict[str, Any]:
    """An object with its names in lower case; empty for anything else."""
    return {name.lower(): each for name, each in value.items()} if isinstance(value, dict) else _NOTHING


def text(data: dict[str, Any], name: str) -> str:
    """A member as text: numbers as they are written, nothing for objects, arrays and null."""
    value = data.get(name)
    if isinstance(value, str):
        return value
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return str(value)
    return ""


def number(data: dict[str, Any], name: str) -> Decimal | None:
    """A member as a decimal, which may be sent as text; None if it is none that an amount can be."""
    try:
        value = Decimal(text(data, name))
    except ArithmeticError:
        return None
    return value if value.is_finite() and -28 <= value.adjusted() <= 28 else None
