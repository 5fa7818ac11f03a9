"""Windows that open when a cron expression fires."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Final

from cronsim import CronSim, CronSimError

from manager.market.calendars import Calendars
from manager.market.clocks import MarketClock
from manager.market.parsing import show_duration
from manager.market.rules import days_around
from manager.market.windows import Window

_DAY: Final = timedelta(days=1)
#: An expression must fire within 50 years of this time; cronsim searches no further.
_ANY_DAY: Final = datetime(2024, 1, 1)  # noqa: DTZ001 - a wall time, as cronsim expects


@dataclass(frozen=True, slots=True)
class CronRule:
    """A window of `lasts` from each firing of a cron expression.

    The expression has five fields.

    An expression with fixed minutes and hours fires once at each wall time: at the first of two instants, or
    at the first instant after a gap. An expression whose minute or hour begins with `*` fires whenever the
    clock shows a matching time: never in a gap, twice in an overlap. These are the rules of Debian's cron.
    cronsim parses the fields. The clock converts wall times to instants, because cronsim has no clock such
    as `America/New_York+7h`.
    """

    clock: MarketClock
    expression: str
    lasts: timedelta

    @classmethod
    def parse(cls, clock: MarketClock, expression: str, lasts: timedelta) -> "CronRule":
        """Parse a rule. Raises ValueError if it is wrong or never fires."""
        fields = expression.split()
        if len(fields) != 5:
            raise ValueError(
                f"{expression[:80]!r} has {len(fields)} fields; cron takes five: minute, hour, day, "
                "month, day of week"
            )
        try:
            next(CronSim(expression, _ANY_DAY))
        except CronSimError as problem:
            raise ValueError(
                f"{expression[:80]!r} is not a cron expression: {str(problem).lower()}"
            ) from None
        except StopIteration:
            raise ValueError(f"{expression[:80]!r} does not fire within 50 years") from None
        return cls(clock, expression, lasts)

    def windows(self, start: datetime, end: datetime, calendars: Calendars) -> Iterator[Window]:
        """Yield the windows of all firings; overlapping ones may be joined."""
        for day in days_around(self.clock, start - self.lasts, end):
            if not _fires_on(self.expression, day):
                continue
            midnight = self.clock.midnight(day)
            if self.clock.midnight(day + _DAY) - midnight == _DAY:
                # A day without a clock change: its pattern is always the same, and computing up to 1440
                # firings is slow.
                for opens, lasts in _pattern(self.expression, self.lasts):
                    yield Window(midnight + opens, midnight + opens + lasts)
            else:
                for opening in self._on(day):
                    yield Window(opening, opening + self.lasts)

    def firings(self, start: datetime, end: datetime) -> list[datetime]:
        """Return the instants of all firings in `[start, end)`, sorted."""
        days = days_around(self.clock, start, end)
        found = {at for day in days if _fires_on(self.expression, day) for at in self._on(day)}
        return sorted(at for at in found if start <= at < end)

    def _on(self, day: date) -> Iterator[datetime]:
        minute, hour = self.expression.split()[:2]
        follows_clock = minute.startswith("*") or hour.startswith("*")
        midnight = datetime.combine(day, time())
        for since_midnight in _times(self.expression):
            wall = midnight + since_midnight
            yield from self.clock.instants(wall) if follows_clock else (self.clock.instant(wall),)

    def __str__(self) -> str:
        return f"cron {self.expression} for {show_duration(self.lasts)} {self.clock.label}"


@lru_cache(maxsize=256)
def _fields(expression: str) -> CronSim:
    """Return the parsed expression.

    Only its fields are used, because its own search tries every second.
    """
    return CronSim(expression, _ANY_DAY)


def _fires_on(expression: str, day: date) -> bool:
    fields = _fields(expression)
    return day.month in fields.months and fields.match_day(day)


@lru_cache(maxsize=256)
def _times(expression: str) -> tuple[timedelta, ...]:
    """Return the times of day of the firings, as distances from midnight."""
    fields = _fields(expression)
    return tuple(
        timedelta(hours=hour, minutes=minute)
        for hour in sorted(fields.hours)
        for minute in sorted(fields.minutes)
    )


@lru_cache(maxsize=256)
def _pattern(expression: str, lasts: timedelta) -> tuple[tuple[timedelta, timedelta], ...]:
    """Return the windows of a day without a clock change.

    Each is a distance from midnight and a duration.
    """
    joined: list[tuple[timedelta, timedelta]] = []
    for opens in _times(expression):
        if joined and opens <= sum(joined[-1], timedelta()):
            joined[-1] = (joined[-1][0], opens + lasts - joined[-1][0])
        else:
            joined.append((opens, lasts))
    return tuple(joined)
