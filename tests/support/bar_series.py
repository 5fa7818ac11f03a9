"""A deterministic series of bars in integer ticks of 0.00001: no random generator, and no float in it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from manager.gateways.base import Bar

#: A Monday at noon, so that 300 bars of M5 stay within one week of foreign exchange.
START = datetime(2026, 11, 23, 12, tzinfo=UTC)
TICK = Decimal("0.00001")

Ticks = tuple[int, int, int, int]


def _sine(degrees: int) -> int:
    """Return Bhaskara's approximation of the sine, times 1000."""
    degrees %= 360
    sign = 1
    if degrees >= 180:
        degrees -= 180
        sign = -1
    return sign * 4000 * degrees * (180 - degrees) // (40500 - degrees * (180 - degrees))


def tick_bars(count: int = 300, base: int = 108_500) -> list[Ticks]:
    """Return open, high, low and close of each bar in ticks."""
    found = []
    before = base
    for t in range(count):
        close = base + 300 * _sine(8 * t) // 1000 + 140 * _sine(25 * t) // 1000 + 7919 * t % 97 - 48
        high = max(before, close) + 31 * t % 23
        low = min(before, close) - 17 * t % 19
        found.append((before, high, low, close))
        before = close
    return found


def bars_of(
    ticks: Sequence[Ticks], symbol: str = "EURUSD", timeframe: str = "M5", minutes: int = 5
) -> list[Bar]:
    """Return the bars as a gateway does, one every `minutes` from `START`."""
    return [
        Bar(
            symbol=symbol,
            timeframe=timeframe,
            time=START + n * timedelta(minutes=minutes),
            open=first * TICK,
            high=high * TICK,
            low=low * TICK,
            close=last * TICK,
        )
        for n, (first, high, low, last) in enumerate(ticks)
    ]


def flat_bars(closes: Sequence[int]) -> list[Bar]:
    """Return bars whose four prices are the given closes, in ticks."""
    return bars_of([(close, close, close, close) for close in closes])
