"""Exact arithmetic for money, prices and volumes.

Decimal division rounds, and binary floats are not the numbers that people write. Quotients are therefore
computed with Fraction, and converted to Decimal once, in a stated direction.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from typing import Final

#: Significant digits of a quotient that is reported as Decimal.
_DIGITS: Final = 28


def exact(value: Decimal | int) -> Fraction:
    """Return the number as a Fraction.

    Raises TypeError for a float, and ValueError for NaN or an infinity.
    """
    if not is_number(value):
        raise ValueError(f"{value} is not a number")
    return Fraction(value)


def is_number(value: Decimal | int) -> bool:
    """Return whether the value is neither NaN nor an infinity.

    Raises TypeError for anything but Decimal and int.
    """
    if isinstance(value, bool) or not isinstance(value, Decimal | int):
        raise TypeError(f"{value!r} is a {type(value).__name__}; Decimal is required, so that nothing rounds")
    return not isinstance(value, Decimal) or value.is_finite()


def written(value: Decimal | float) -> Decimal:
    """Return a number of an account file as it was written: 0.1 is 0.1."""
    return value if isinstance(value, Decimal) else Decimal(repr(value))


def rounded_down(value: Fraction) -> Decimal:
    """Return the fraction with 28 significant digits, rounded down."""
    return _quotient(value, ROUND_FLOOR)


def rounded_up(value: Fraction) -> Decimal:
    """Return the fraction with 28 significant digits, rounded up."""
    return _quotient(value, ROUND_CEILING)


def _quotient(value: Fraction, rounding: str) -> Decimal:
    return Context(prec=_DIGITS, rounding=rounding).divide(
        Decimal(value.numerator), Decimal(value.denominator)
    )


def on_grid(value: Fraction, step: Decimal, origin: Decimal = Decimal(0)) -> Decimal:
    """Return the greatest `origin + n * step` that is not above `value`."""
    steps = (value - exact(origin)) // exact(step)
    return origin + steps * step


def price_on_tick(price: Decimal, tick: Decimal, *, down: bool) -> Decimal:
    """Return the price rounded to a multiple of the tick, down or up."""
    steps = exact(price) / exact(tick)
    whole = steps.__floor__() if down else steps.__ceil__()
    return whole * tick
