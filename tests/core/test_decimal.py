"""Exact decimals against slow models built on :mod:`decimal`."""

from __future__ import annotations

from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiskal._core import ffi, lib

LARGEST = 2**96 - 1
EXACT = Context(prec=400, Emax=10**6, Emin=-(10**6))

mantissas = st.one_of(
    st.integers(0, LARGEST),
    st.integers(0, 10**6),
    st.sampled_from([0, 1, LARGEST, LARGEST - 1, 2**64 - 1, 2**64, 2**63, 2**63 - 1]),
)
decimals = st.builds(
    lambda mantissa, scale, negative: Decimal(
        (int(negative and mantissa > 0), tuple(map(int, str(mantissa))), -scale)
    ),
    mantissas,
    st.integers(0, 28),
    st.booleans(),
)


def parse(text: str) -> Any:
    out = ffi.new("fk_decimal *")
    status = lib.fk_decimal_parse(text.encode(), len(text), out)
    return out if status == lib.FK_OK else status


def value(d: Any) -> Decimal:
    with localcontext(EXACT):
        magnitude = Decimal(d.high * 2**64 + d.low).scaleb(-d.scale)
        return -magnitude if d.negative else magnitude


def as_core(d: Decimal) -> Any:
    out = parse(format(d, "f"))
    assert not isinstance(out, int)
    assert value(out) == d
    return out


def text_of(d: Any, form: int) -> str:
    out = ffi.new("char[]", lib.FK_DECIMAL_TEXT)
    return bytes(ffi.buffer(out, lib.fk_decimal_format(d, form, out))).decode()


def model_parse(text: str) -> Decimal | None:
    """Rounded once, half to even, to the largest scale that fits; None if the whole part does not fit."""
    with localcontext(EXACT):
        exact = Decimal(text)
        scale = min(28, max(0, -int(exact.as_tuple().exponent)))
        while scale >= 0:
            rounded = exact.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_EVEN)
            if abs(int(rounded.scaleb(scale))) <= LARGEST:
                return rounded if rounded else abs(rounded)
            scale -= 1
        return None


@given(
    st.from_regex(r"-?(0|[1-9][0-9]{0,35})(\.[0-9]{1,40})?([eE][-+]?[0-9]{1,2})?", fullmatch=True),
)
def test_parse(text: str) -> None:
    expected = model_parse(text)
    out = parse(text)
    if expected is None:
        assert out == lib.FK_E_OVERFLOW
    else:
        assert value(out).as_tuple() == expected.as_tuple()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("79228162514264337593543950335", "79228162514264337593543950335"),
        ("79228162514264337593543950335.4", "79228162514264337593543950335"),
        ("7922816251426433759354395033.55", "7922816251426433759354395034"),
        ("0.00000000000000000000000000005", "0.0000000000000000000000000000"),
        ("0.00000000000000000000000000015", "0.0000000000000000000000000002"),
        ("0.000000000000000000000000000050000000001", "0.0000000000000000000000000001"),
        ("1e-400", "0.0000000000000000000000000000"),
        ("0e999999999999999999999", "0"),
        ("1E3", "1000"),
        ("-0.00", "0.00"),
        ("+1.50", "1.50"),
        (" 1.50 ", "1.50"),
        ("007", "7"),
    ],
)
def test_parse_edges(text: str, expected: str) -> None:
    assert value(parse(text)).as_tuple() == Decimal(expected).as_tuple()


@pytest.mark.parametrize(
    "text", ["79228162514264337593543950335.5", "79228162514264337593543950336", "1e29", "-1e99999999999"]
)
def test_parse_overflow(text: str) -> None:
    assert parse(text) == lib.FK_E_OVERFLOW


@pytest.mark.parametrize(
    "text", ["", "-", ".5", "5.", "1e", "1e+", "0x10", "1,5", "NaN", "1 2", "--1", "1.2.3", "١"]
)
def test_no_number(text: str) -> None:
    data = text.encode()
    assert lib.fk_decimal_parse(data, len(data), ffi.new("fk_decimal *")) == lib.FK_E_TYPE


@given(decimals)
def test_formats(d: Decimal) -> None:
    with localcontext(EXACT):
        core_value = as_core(d)
        canonical = text_of(core_value, lib.FK_FORM_CANONICAL)
        assert canonical == (format(d, "f") if "." in format(d, "f") else format(d, "f") + ".0")
        amount = d.quantize(Decimal("0.01"), ROUND_HALF_UP)
        assert text_of(core_value, lib.FK_FORM_AMOUNT) == format(amount if amount else abs(amount), "f")
        quantity = format(d.quantize(Decimal("1e-10"), ROUND_HALF_UP), "f").rstrip("0").rstrip(".")
        assert text_of(core_value, lib.FK_FORM_QUANTITY) == ("0" if quantity in {"-0", ""} else quantity)


@given(decimals, decimals)
def test_compare(a: Decimal, b: Decimal) -> None:
    assert lib.fk_decimal_compare(as_core(a), as_core(b)) == (a > b) - (a < b)


@given(decimals, decimals)
def test_unit_price(amount: Decimal, quantity: Decimal) -> None:
    out = ffi.new("char[]", lib.FK_DECIMAL_TEXT)
    text = bytes(ffi.buffer(out, lib.fk_unit_price(as_core(amount), as_core(quantity), out))).decode()
    if not quantity:
        assert text == "0.00"
        return
    with localcontext(EXACT):
        # 400 digits and cutting leave the half of a cent where it is
        quotient = abs(EXACT.divide(amount, quantity)).quantize(Decimal("1e-200"), ROUND_DOWN)
        assert text == format(quotient.quantize(Decimal("0.01"), ROUND_HALF_UP), "f")
