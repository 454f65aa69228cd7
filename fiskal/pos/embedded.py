"""JSON inside texts of a request or a journal: ftReceiptCaseData, cbCustomer, ftStateData, the case data of items.

A POS may put anything there, and a journal may come from anywhere, so nothing is ever an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any


def json_object(text: object, *, number: Callable[[str], Any] = Decimal) -> dict[str, Any]:
    """The JSON object in ``text``; empty for anything else: no text, no JSON, NaN or Infinity
    in it, nested too deep.

    ``number`` makes the value of a number with a fraction or an exponent. Whole numbers are int.
    """
    if not isinstance(text, str | bytes) or not text:
        return {}
    try:
        value = json.loads(text, parse_float=number, parse_constant=_refuse)
    except (ValueError, RecursionError, ArithmeticError):
        return {}
    return value if isinstance(value, dict) else {}


def _refuse(constant: str) -> None:
    raise ValueError(constant)
