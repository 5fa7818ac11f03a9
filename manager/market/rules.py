"""Rules, which yield the windows of a span of time.

A rule yields every window that overlaps the span, whole and in any order. It may yield other windows too.
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
#: More than the sum of a clock's offset from UTC (at most 38 h with a fixed part) and a gap (24 h in Apia
#: in 2011).
_MARGIN: Final = timedelta(days=3)


class Rule(Protocol):
    """Yields the windows of a span of time."""

    @property
    def clock(self) -> MarketClock | None:
        """The wall clock of the rule, or None."""

    def windows(self, start: datetime, end: datetime, calendars: Calendars) -> Iterator[Window]:
        """Yield the windows that overlap `[start, end)`. All times are UTC."""


@dataclass(frozen=True, slots=True)
class AlwaysRule:
    """Always open."""

    clock: MarketClock | None = None

    def windows(self, start: datetime, end: datetime, calendars: Calendars) -> Iterator[Window]:
        """Yield the span."""
        yield Window(start, end)

    def __str__(self) -> str:
        return "always"


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyRule:
    """A window that opens at a time of day on some days of the week.

    It closes at a wall time (`closes`) or after a duration (`lasts`): exactly one of the two is set.
    """

    clock: MarketClock
    days: frozenset[int] = EVERY_DAY
    #: Distances from the midnight before the opening; `closes` is later, and may be several days later.
    opens: timedelta
    closes: timedelta | None = None
    lasts: timedelta | None = None

    def on(self, day: date) -> Window | None:
        """Return the window that opens on `day`.

        Returns None if the day has no window, or if the clock skips all of it.
        """
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
        """Format the times: `08:00-16:30`, or `22:00 for 10h`."""
        if self.lasts is not None or self.closes is None:
            return f"{show_time(self.opens)} for {show_duration(self.lasts or timedelta())}"
        return f"{show_time(self.opens)}\N{EN DASH}{show_time(self.closes)}"

    def __str__(self) -> str:
        return f"{show_days(self.days)} {self.span()} {self.clock.label}"


@dataclass(frozen=True, slots=True)
class DatesRule:
    """Whole days, given by their dates; ranges include their last day."""

    clock: MarketClock
    ranges: tuple[tuple[date, date], ...]

    def windows(self, start: datetime, end: datetime, calendars: Calendars) -> Iterator[Window]:
        """Yield one window for each range; computes only its two ends."""
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
    """Yield the dates on which a window that overlaps a span may open."""
    day, last = clock.wall(start - _MARGIN).date(), clock.wall(end + _MARGIN).date()
    while day <= last:
        yield day
        day += _DAY
