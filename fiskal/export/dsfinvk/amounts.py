"""Amounts as integers of 10⁻⁵, and their text. Nothing here is a float."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Final

PLACES: Final = 5
CENT: Final = 1000
"""One cent in units of 10⁻⁵."""

_EXACT: Final = Context(prec=120, rounding=ROUND_HALF_UP)


def scaled(value: Decimal, places: int = PLACES) -> int:
    """``value`` in units of 10^-places, half away from zero. It has the digits of a decimal of the interface."""
    return int(_EXACT.scaleb(value, places).to_integral_value(context=_EXACT))


def cents(amount: int) -> int:
    """Units of 10⁻⁵ in cents, half away from zero."""
    return divided(amount, CENT)


def divided(numerator: int, denominator: int) -> int:
    """The quotient, half away from zero; ``denominator`` is positive."""
    quotient = (2 * abs(numerator) + denominator) // (2 * denominator)
    return -quotient if numerator < 0 else quotient


def net(gross: int, rate: Decimal) -> int:
    """The amount without VAT, half away from zero. A rate of -100 % or less is none."""
    if not rate or rate <= -100:
        return gross
    numerator, denominator = rate.as_integer_ratio()
    return divided(gross * 100 * denominator, 100 * denominator + numerator)


def written(value: int, places: int) -> str:
    """The text of ``value`` units of 10^-places: decimal comma, all places, no grouping, never a negative zero."""
    if not places:
        return str(value)
    digits = str(abs(value)).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]},{digits[-places:]}"


def signed(amount: Decimal, quantity: Decimal, *, cancellation: bool) -> Decimal:
    """The amount with the sign that counts in processData: a negative quantity makes it negative, unless the item
    is the cancellation of a position."""
    if not cancellation and quantity < 0 < amount:
        return -amount
    return amount
