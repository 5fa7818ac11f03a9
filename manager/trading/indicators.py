"""Technical indicators with TA-Lib's definitions, in plain Python.

Values are given oldest first, and a result has one entry for each of them: None where it is not defined yet.
Indicators are floats: they decide, but are never amounts of money.
"""

from collections.abc import Sequence
from math import sqrt

Values = list[float | None]


def sma(values: Sequence[float], n: int) -> Values:
    """Return the mean of the last `n` values, defined from index n-1."""
    return [None if at < n - 1 else sum(values[at - n + 1 : at + 1]) / n for at in range(len(values))]


def ema(values: Sequence[float], n: int) -> Values:
    """Return the exponential mean with factor 2/(n+1), defined from index n-1.

    The first one is the mean of the first `n` values.
    """
    return _ema(values, n, 0)


def _ema(values: Sequence[float], n: int, start: int) -> Values:
    """Return the exponential mean of the values from index `start` on."""
    found: Values = [None] * len(values)
    first = start + n - 1
    if len(values) <= first:
        return found
    mean = sum(values[start : start + n]) / n
    factor = 2 / (n + 1)
    found[first] = mean
    for at in range(first + 1, len(values)):
        mean += factor * (values[at] - mean)
        found[at] = mean
    return found


def rsi(values: Sequence[float], n: int) -> Values:
    """Return Wilder's relative strength index, defined from index n.

    None while there was neither a gain nor a loss: on a flat price the index says nothing.
    """
    found: Values = [None] * len(values)
    if len(values) <= n:
        return found
    gain = loss = 0.0
    for at in range(1, n + 1):
        change = values[at] - values[at - 1]
        gain += max(change, 0.0)
        loss += max(-change, 0.0)
    gain /= n
    loss /= n
    found[n] = _strength(gain, loss)
    for at in range(n + 1, len(values)):
        change = values[at] - values[at - 1]
        gain = (gain * (n - 1) + max(change, 0.0)) / n
        loss = (loss * (n - 1) + max(-change, 0.0)) / n
        found[at] = _strength(gain, loss)
    return found


def _strength(gain: float, loss: float) -> float | None:
    return 100 * gain / (gain + loss) if gain + loss else None


def macd(values: Sequence[float], fast: int, slow: int, signal: int) -> tuple[Values, Values, Values]:
    """Return the MACD line, its signal and their difference (the histogram).

    All are defined from index slow+signal-2. The fast mean begins with the `fast` values that end where the
    first slow mean is defined, as in TA-Lib.
    """
    quick, steady = _ema(values, fast, slow - fast), _ema(values, slow, 0)
    differences = [a - b for a, b in zip(quick, steady, strict=True) if a is not None and b is not None]
    smooth = ema(differences, signal)
    undefined: Values = [None] * min(len(values), slow + signal - 2)
    defined = [(a, b) for a, b in zip(differences, smooth, strict=True) if b is not None]
    line = [a for a, _ in defined]
    signals = [b for _, b in defined]
    histogram = [a - b for a, b in defined]
    return undefined + line, undefined + signals, undefined + histogram


def bollinger(values: Sequence[float], n: int, k: float) -> tuple[Values, Values, Values]:
    """Return the upper, middle and lower band, defined from index n-1.

    The middle is the mean of `n` values; the others are `k` population standard deviations away.
    """
    middle = sma(values, n)
    upper: Values = [None] * len(values)
    lower: Values = [None] * len(values)
    for at, mean in enumerate(middle):
        if mean is not None:
            window = values[at - n + 1 : at + 1]
            deviation = sqrt(sum((value - mean) ** 2 for value in window) / n)
            upper[at] = mean + k * deviation
            lower[at] = mean - k * deviation
    return upper, middle, lower


def atr(highs: Sequence[float], lows: Sequence[float], closes: Sequence[float], n: int) -> Values:
    """Return Wilder's average true range, defined from index n.

    The first one is the mean of the true ranges 1 to n; the bar 0 has none.
    """
    found: Values = [None] * len(closes)
    if len(closes) <= n:
        return found
    ranges = [
        max(high - low, abs(high - before), abs(low - before))
        for high, low, before in zip(highs[1:], lows[1:], closes, strict=False)
    ]
    mean = sum(ranges[:n]) / n
    found[n] = mean
    for at in range(n, len(ranges)):
        mean = (mean * (n - 1) + ranges[at]) / n
        found[at + 1] = mean
    return found
