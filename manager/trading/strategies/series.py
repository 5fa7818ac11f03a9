"""Prices of bars as the formulas of strategies need them."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction

from manager.gateways.base import Bar


def closes(bars: Sequence[Bar]) -> list[float]:
    """Return the closes as floats, for indicators."""
    return [float(bar.close) for bar in bars]


def whole_closes(bars: Sequence[Bar]) -> list[int]:
    """Return the closes as integers, all multiplied by one power of ten.

    Sums of them are exact. Sums of floats differ by about 1e-16 on a flat price, which looks like a cross.
    """
    values = [bar.close for bar in bars]
    digits = max((_digits(value) for value in values), default=0)
    return [int(value.scaleb(digits)) for value in values]


def _digits(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def crossed(now: float, before: Iterable[float | None], noise: float = 0.0) -> int:
    """Return 1 if a difference has crossed zero upwards, -1 downwards, else 0.

    `before` are the earlier differences, latest first. One within `noise` of zero counts as zero; the
    latest one that is not zero is compared with.
    """
    if abs(now) <= noise:
        return 0
    for value in before:
        if value is None:
            return 0
        if abs(value) > noise:
            return (1 if now > 0 else -1) if (value > 0) != (now > 0) else 0
    return 0


def band_side(values: Sequence[int], k: Fraction) -> int:
    """Return where the last of `values` is relative to their bands.

    Computed exactly.

    1: at or above the upper band; -1: at or below the lower band; 0: inside, or the values are all equal and
    there is no band.
    """
    n, total = len(values), sum(values)
    variance = n * sum(value * value for value in values) - total * total
    if variance == 0:
        return 0
    away = n * values[-1] - total
    if away * away < k * k * variance:
        return 0
    return 1 if away > 0 else -1
