"""The rollover of foreign exchange, at 17:00 in New York.

At the rollover, positions move to the next value date and swap is booked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Final

from manager.market.calendars import Calendars
from manager.market.clocks import MarketClock
from manager.market.parsing import show_days, show_duration
from manager.market.windows import Window

ROLLOVER_CLOCK: Final = MarketClock("America/New_York")
ROLLOVER_TIME: Final = timedelta(hours=17)
#: Monday to Friday.
ROLLOVER_DAYS: Final = frozenset(range(5))
#: Wednesday: spot settles after two days, so the rollover of Wednesday carries over the weekend.
TRIPLE_SWAP_DAY: Final = 2

_DAY: Final = timedelta(days=1)
#: More than the difference between New York's date and UTC's.
_MARGIN: Final = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Rollover:
    """A rollover at one instant."""

    at: datetime
    #: The day in New York that this rollover ends.
    day: date
    #: Nights of swap that it books: 1, or 3 on the triple-swap day.
    nights: int


def rollovers(
    start: datetime,
    end: datetime,
    *,
    days: frozenset[int] = ROLLOVER_DAYS,
    triple_day: int = TRIPLE_SWAP_DAY,
) -> Iterator[Rollover]:
    """Yield the rollovers in `[start, end)`, sorted.

    `triple_day` (Monday is 0) is Wednesday for currencies and metals; many brokers book indices on Friday.
    Holidays, which move value dates, are ignored.
    """
    day = ROLLOVER_CLOCK.wall(start - _MARGIN).date()
    last = ROLLOVER_CLOCK.wall(end + _MARGIN).date()
    while day <= last:
        at = ROLLOVER_CLOCK.instant(datetime.combine(day, time()) + ROLLOVER_TIME)
        if day.weekday() in days and start <= at < end:
            yield Rollover(at, day, 3 if day.weekday() == triple_day else 1)
        day += _DAY


@dataclass(frozen=True, slots=True)
class RolloverRule:
    """A window around each rollover, from `before` it until `after` it."""

    before: timedelta
    after: timedelta
    days: frozenset[int] = ROLLOVER_DAYS

    @property
    def clock(self) -> MarketClock:
        """The clock of New York."""
        return ROLLOVER_CLOCK

    def windows(self, start: datetime, end: datetime, calendars: Calendars) -> Iterator[Window]:
        """Yield one window for each rollover."""
        for rollover in rollovers(start - self.after, end + self.before + _DAY, days=self.days):
            yield Window(rollover.at - self.before, rollover.at + self.after)

    def __str__(self) -> str:
        return (
            f"rollover {show_days(self.days)} 17:00 New York,"
            f" {show_duration(self.before)} before to {show_duration(self.after)} after"
        )
