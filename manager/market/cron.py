"""Windows that open when a cron expression fires."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cronsim import CronSim, CronSimError

from manager.market.calendars import Calendars
from manager.market.clocks import MarketClock
from manager.market.parsing import show_duration
from manager.market.windows import Window

#: More than any clock skips (24 h in Apia in 2011) or repeats.
_MARGIN: Final = timedelta(days=2)
#: From here an expression must fire once to be accepted; cronsim gives up after 50 years.
_ANY_DAY: Final = datetime(2024, 1, 1)  # noqa: DTZ001 - a wall time: cronsim is only asked about these


@dataclass(frozen=True, slots=True)
class CronRule:
    """A window of `lasts` from each firing of a cron expression with five fields.

    An expression with fixed minutes and hours fires once at a wall time: at the first of two, and at the first instant
    after a gap that contains it. One whose minute or hour begins with `*` fires whenever the clock shows such a time:
    in a gap not at all, in an overlap twice. These are the rules of Debian's cron. cronsim finds the wall times; the
    clock turns them into instants, since cronsim has no clock such as `America/New_York+7h`.
    """

    clock: MarketClock
    expression: str
    lasts: timedelta

    @classmethod
    def parse(cls, clock: MarketClock, expression: str, lasts: timedelta) -> "CronRule":
        """Return a rule. Raises ValueError if the expression is wrong or never fires."""
        fields = expression.split()
        if len(fields) != 5:
            raise ValueError(
                f"{expression[:80]!r} has {len(fields)} fields; cron takes five: minute, hour, day, month, day of week"
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
        """Yield one window for each firing; windows of close firings overlap."""
        for opens in self.firings(start - self.lasts, end):
            yield Window(opens, opens + self.lasts)

    def firings(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """Yield each instant in `[start, end)` at which the expression fires, sorted."""
        found: set[datetime] = set()
        last = self.clock.wall(end) + _MARGIN
        for wall in CronSim(self.expression, self.clock.wall(start) - _MARGIN):
            if wall > last:
                break
            found.update(self.clock.instants(wall) if self._follows_time() else (self.clock.instant(wall),))
        yield from sorted(instant for instant in found if start <= instant < end)

    def _follows_time(self) -> bool:
        minute, hour = self.expression.split()[:2]
        return minute.startswith("*") or hour.startswith("*")

    def __str__(self) -> str:
        return f"cron {self.expression} for {show_duration(self.lasts)} {self.clock.label}"
