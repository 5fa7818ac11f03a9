"""Checks of the bars that a strategy decides on.

A decision on bars that are missing, repeated or out of order is a decision on another market. The checks
therefore refuse such bars; nothing repairs them.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

from manager.gateways.base import Bar
from manager.market.names import SessionName
from manager.market.rollover import rollovers
from manager.market.sessions import session_timetable
from manager.market.windows import Window, clip, subtract, unite
from manager.trading.timeframes import bar_end, is_aligned, length

#: Venues pause around the rollover, and metals rest for an hour after it.
_BEFORE_ROLLOVER: Final = timedelta(minutes=5)
_AFTER_ROLLOVER: Final = timedelta(minutes=65)
#: A market that was closed for this long in its hours had a holiday.
_HOLIDAY: Final = timedelta(hours=12)
_LONGEST_HOLIDAY: Final = timedelta(days=10)
_WEEK: Final = timedelta(weeks=1)
_EVERY_DAY: Final = frozenset(range(7))
_NO_HOLIDAYS: Final = frozenset({"always", "crypto"})
#: A venue whose clock changes to summer time has a bar that is an hour shorter.
_CLOCK_CHANGE: Final = timedelta(hours=1)
#: How far the end of a bar may be ahead of the venue's time.
_SKEW: Final = timedelta(seconds=5)
#: Bars may be late by this many lengths before they count as missing.
_LATE: Final = 2


class BarsError(ValueError):
    """Raised for bars that no decision may be based on.

    The text says which bars and why.
    """


class MarketHours:
    """Tells a rest of the market from bars that are missing."""

    def __init__(self, session: SessionName) -> None:
        self._timetable = session_timetable(session)
        self._rests = session not in _NO_HOLIDAYS

    def missing(self, start: datetime, end: datetime) -> timedelta:
        """Return for how long the market was open in `[start, end)`.

        Asked about a time without bars. The rollover is no opening time, and neither are 12 hours and more,
        which are a holiday.
        Markets that never close have neither.
        """
        if end <= start:
            return timedelta()
        windows = unite(clip(self._timetable.windows(start, end), start, end))
        if self._rests:
            around = rollovers(start - _AFTER_ROLLOVER, end + _BEFORE_ROLLOVER, days=_EVERY_DAY)
            cuts = [Window(one.at - _BEFORE_ROLLOVER, one.at + _AFTER_ROLLOVER) for one in around]
            windows = subtract(windows, unite(cuts))
        lasts = sum((window.lasts for window in windows), timedelta())
        return timedelta() if self._rests and _HOLIDAY <= lasts <= _LONGEST_HOLIDAY else lasts


def check_bars(
    bars: Sequence[Bar],
    *,
    symbol: str,
    timeframe: str,
    now: datetime,
    hours: MarketHours,
    known: int = 0,
) -> None:
    """Raise BarsError unless the bars are closed, complete and in order.

    `now` is the venue's time. The first `known` bars have passed this check before. An empty sequence passes.
    """
    for bar in bars[known:]:
        _check_one(bar, symbol, timeframe)
    for before, after in pairwise(bars[max(0, known - 1) :]):
        _check_pair(before, after, hours)
    if not bars:
        return
    end = bar_end(bars[-1].time, timeframe)
    if end > now + _SKEW:
        raise BarsError(
            f"the bar of {_at(bars[-1])} is not closed: it ends {(end - now).total_seconds():g} s later"
        )
    if _missing(hours, end, now, timeframe) >= _LATE * length(timeframe):
        raise BarsError(f"bars are missing since {end:%Y-%m-%d %H:%M} UTC, and the market is open")


def _check_one(bar: Bar, symbol: str, timeframe: str) -> None:
    if (bar.symbol, bar.timeframe) != (symbol, timeframe):
        raise BarsError(
            f"{symbol} {timeframe} was asked for, and the venue sent {bar.symbol} {bar.timeframe}"
        )
    if bar.time.tzinfo is None:
        raise BarsError(f"the bar of {bar.time.isoformat()} has no time zone")
    if not is_aligned(bar.time, timeframe):
        raise BarsError(f"the bar of {bar.time.isoformat()} does not begin where a bar of {timeframe} begins")
    prices = (bar.low, bar.open, bar.close, bar.high)
    if not all(price.is_finite() and price > 0 for price in prices):
        raise BarsError(f"the bar of {_at(bar)} has a price that is not a number above 0")
    if min(prices) != bar.low or max(prices) != bar.high:
        raise BarsError(f"the bar of {_at(bar)} has prices outside its high {bar.high} and low {bar.low}")


def _check_pair(before: Bar, after: Bar, hours: MarketHours) -> None:
    if after.time == before.time:
        raise BarsError(f"the bar of {_at(after)} is repeated")
    if after.time < before.time:
        raise BarsError(f"bars are out of order: {_at(after)} follows {_at(before)}")
    size = length(before.timeframe)
    end = bar_end(before.time, before.timeframe)
    if end - after.time > (_CLOCK_CHANGE if size >= timedelta(hours=4) else timedelta()):
        raise BarsError(f"the bar of {_at(after)} begins before that of {_at(before)} ends")
    if _missing(hours, end, after.time, before.timeframe) >= min(size, _WEEK):
        raise BarsError(f"bars are missing between {_at(before)} and {_at(after)}, while the market was open")


def _missing(hours: MarketHours, start: datetime, end: datetime, timeframe: str) -> timedelta:
    # No market rests for a whole week.
    return end - start if length(timeframe) >= _WEEK else hours.missing(start, end)


def _at(bar: Bar) -> str:
    return f"{bar.time:%Y-%m-%d %H:%M}"
