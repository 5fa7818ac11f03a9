"""What windows are made of: rules that yield the windows of a span of time.

A rule yields at least every window that has a part in the span, whole, in no promised order; it may yield
others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Final, Protocol

from manager.market.calendars import Calendars
from manager.market.clocks import MarketClock
from manager.market.parsing import EVERY_DAY, show_dates, show_days, show_duration, show_time
from manager.market.windows import Window

_DAY: Final = timedelta(days=1)
#: More than a clock's distance from UTC (at most 38 h with a fixed part) and a gap (24 h in Apia in 2011)
#: together.
_MARGIN: Final = timedelta(days=3)


class Rule(Protocol):
    """Yields windows."""

    @property
    def clock(self) -> MarketClock | None:
        """The wall clock on which the rule stands, or None if it has none."""

    def windows(self, start: datetime, end: datetime, calendars: Calendars) -> Iterator[Window]:
        """Yield the windows that have a part in `[start, end)`, which are UTC."""


@dataclass(frozen=True, slots=True)
class AlwaysRule:
    """One window without an end."""

    clock: MarketClock | None = None

    def windows(self, start: datetime, end: datetime, calendars: Calendars) -> Iterator[Window]:
        """Yield the span."""
        yield Window(start, end)

    def __str__(self) -> str:
        return "always"


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyRule:
    """A window that begins at one time of day on some days of the week.

    It ends at a wall time (`closes`) or after real time (`lasts`): exactly one of the two is set.
    """

    clock: MarketClock
    days: frozenset[int] = EVERY_DAY
    #: Distances from the midnight at which the day of the opening begins; `closes` is later and may be days
    #: later.
    opens: timedelta
    closes: timedelta | None = None
    lasts: timedelta | None = None

    def on(self, day: date) -> Window | None:
        """Return the window that begins on `day`; None if the day has none, or the clock skips all of it."""
        if day.weekday() not in self.days:
            return None
        midnight = datetime.combine(day, time())
        opens = self.clock.instant(midnight + self.opens)
        if self.lasts is not None:
            return Window(opens, opens + self.lasts)
        closes = self.clock.instant(midnight + self.closes, end=True) if self.closes is not None else opens
        return Window(opens, closes) if opens < closes else None

    def windows(self, start: datetime, end: datetime, calendars: Calendars) -> Iterator[Window]:
        """Yield one window for each day of the rule."""
        for day in days_around(self.clock, start - (self.lasts or self.closes or _DAY), end):
            window = self.on(day)
            if window is not None:
                yield window

    def span(self) -> str:
        """Return the times of day with a dash between, or `22:00 for 10h`."""
        if self.lasts is not None or self.closes is None:
            return f"{show_time(self.opens)} for {show_duration(self.lasts or timedelta())}"
        return f"{show_time(self.opens)}\N{EN DASH}{show_time(self.closes)}"

    def __str__(self) -> str:
        return f"{show_days(self.days)} {self.span()} {self.clock.label}"


@dataclass(frozen=True, slots=True)
class DatesRule:
    """Whole days of a clock, given by their dates; each range includes its last day."""

    clock: MarketClock
    ranges: tuple[tuple[date, date], ...]

    def windows(self, start: datetime, end: datetime, calendars: Calendars) -> Iterator[Window]:
        """Yield one window for each range. Only its two ends are computed, so its length costs nothing."""
        for first, last in self.ranges:
            opens = self.clock.midnight(first)
            closes = self.clock.midnight(last + _DAY, end=True)
            if opens < closes and opens < end and closes > start:
                yield Window(opens, closes)

    @property
    def last(self) -> date:
        """The last day of all ranges."""
        return max(last for _, last in self.ranges)

    def __str__(self) -> str:
        return ", ".join(show_dates(first, last) for first, last in self.ranges)


def days_around(clock: MarketClock, start: datetime, end: datetime) -> Iterator[date]:
    """Yield each date of a clock on which a window with a part in `[start, end)` may begin."""
    day, last = clock.wall(start - _MARGIN).date(), clock.wall(end + _MARGIN).date()
    while day <= last:
        yield day
        day += _DAY
