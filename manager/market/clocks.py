"""Wall clocks of markets and brokers.

A clock is an IANA time zone, for some brokers' servers plus a fixed number of hours.

Rules come from the `tzdata` package, not from the operating system's files, so that hosts with equal package
versions agree about every instant.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, lru_cache
from typing import Final, Self
from zoneinfo import ZoneInfo, available_timezones

import tzdata

#: A zone, then `+7h`, `-3h` or `+5h30m`. The `+7` of `Etc/GMT+7` has no unit and so belongs to the name.
_CLOCK: Final = re.compile(
    r"(?P<zone>.+?)(?P<plus>(?P<sign>[+-])(?P<hours>\d{1,2})h(?:(?P<minutes>\d{1,2})m)?)?"
)
#: No broker's server is further from its market than a day.
_MAX_PLUS: Final = timedelta(hours=24)
_SECOND: Final = timedelta(seconds=1)
_DAY: Final = timedelta(days=1)


def tz_database_version() -> str:
    """Return the version of the time zone rules, such as `2026f`."""
    return str(tzdata.IANA_VERSION)


@cache
def zone_names() -> frozenset[str]:
    """Return the names of the zones in the `tzdata` package."""
    from importlib.resources import files  # takes 10 ms, which programs that use no clock save

    return frozenset(files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())


@lru_cache(maxsize=1024)
def load_zone(name: str) -> ZoneInfo:
    """Return a zone of the `tzdata` package, else of this machine.

    Raises ValueError, with the closest names, if neither has it.
    """
    # Looked up by list, not by file: on Windows and macOS a file with another case would be found.
    from importlib.resources import files

    if name in zone_names():
        with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
            return ZoneInfo.from_file(file, key=name)
    known = available_timezones()
    if name in known:
        return ZoneInfo(name)
    from difflib import get_close_matches

    close = get_close_matches(name, sorted(known), n=2, cutoff=0.6)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"{name[:80]!r} is not a time zone (tzdata {tz_database_version()}){hint}")


@dataclass(frozen=True, slots=True)
class Shift:
    """A change of a clock's distance from UTC."""

    #: The first instant of the new distance.
    at: datetime
    before: timedelta
    after: timedelta

    @property
    def by(self) -> timedelta:
        """How far the clock goes forward; negative if it goes back."""
        return self.after - self.before


@dataclass(frozen=True)
class MarketClock:
    """A wall clock: a time zone and a fixed distance from it.

    Example: `America/New_York+7h`.
    """

    zone_name: str
    plus: timedelta = timedelta()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `Europe/London` or `America/New_York+7h`. Raises ValueError."""
        match = _CLOCK.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                "a clock is the name of a time zone, such as Europe/London or America/New_York+7h"
            )
        hours, minutes = int(match["hours"] or 0), int(match["minutes"] or 0)
        if minutes >= 60:
            raise ValueError(f"{match['plus']!r}: minutes after the hours are at most 59")
        plus = timedelta(hours=hours, minutes=minutes) * (-1 if match["sign"] == "-" else 1)
        if abs(plus) >= _MAX_PLUS:
            raise ValueError(f"{match['plus']!r}: a clock differs from its zone by less than 24h")
        load_zone(match["zone"])
        return cls(match["zone"], plus)

    @property
    def zone(self) -> ZoneInfo:
        """The time zone without the fixed distance."""
        return load_zone(self.zone_name)

    def __str__(self) -> str:
        return self.zone_name + self._plus_text()

    def _plus_text(self) -> str:
        if not self.plus:
            return ""
        hours, minutes = divmod(int(abs(self.plus).total_seconds()) // 60, 60)
        return f"{'-' if self.plus < timedelta() else '+'}{hours}h" + (f"{minutes:02}m" if minutes else "")

    @property
    def label(self) -> str:
        """Short name for messages: `New York`, `New York+7h`, `UTC`."""
        return self.zone_name.rpartition("/")[2].replace("_", " ") + self._plus_text()

    def instant(self, wall: datetime, *, end: bool = False) -> datetime:
        """Return the UTC instant at which this clock shows `wall` (naive).

        A time that the clock skips becomes the first instant after the gap. If the clock shows a time twice,
        the first instant counts, or with `end` the second, so that a window that closes then contains both.
        """
        there = (wall - self.plus).replace(tzinfo=self.zone)
        first = there.replace(fold=0).astimezone(UTC)
        second = there.replace(fold=1).astimezone(UTC)
        if first == second:
            return first
        if first < second:
            return second if end else first
        return self._first_of(self.offset(first), second, first)

    def instants(self, wall: datetime) -> tuple[datetime, ...]:
        """Return each UTC instant at which this clock shows `wall`.

        There are none in a gap and two in an overlap.
        """
        there = (wall - self.plus).replace(tzinfo=self.zone)
        first = there.replace(fold=0).astimezone(UTC)
        second = there.replace(fold=1).astimezone(UTC)
        if first == second:
            return (first,)
        return (first, second) if first < second else ()

    def wall(self, instant: datetime) -> datetime:
        """Return the wall time at an instant, as a naive datetime."""
        return instant.astimezone(self.zone).replace(tzinfo=None, fold=0) + self.plus

    def offset(self, instant: datetime) -> timedelta:
        """Return how far this clock is ahead of UTC at an instant."""
        return self.wall(instant) - instant.astimezone(UTC).replace(tzinfo=None)

    def midnight(self, day: date, *, end: bool = False) -> datetime:
        """Return the instant at which `day` begins on this clock."""
        return self.instant(datetime.combine(day, time()), end=end)

    def shifts(self, start: datetime, end: datetime) -> Iterator[Shift]:
        """Yield each change of the offset in `(start, end]`, sorted.

        Two changes on one day that cancel each other are missed; no zone has them.
        """
        low, before = start, self.offset(start)
        while low < end:
            high = min(low + _DAY, end)
            after = self.offset(high)
            if after != before:
                yield Shift(self._first_of(after, low, high), before, after)
            low, before = high, after

    def _first_of(self, offset: timedelta, low: datetime, high: datetime) -> datetime:
        """Return the first second in `(low, high]` with this offset."""
        # Offsets change at whole seconds, so the fractions of both ends can be dropped.
        low = low.astimezone(UTC).replace(microsecond=0)
        high = high.astimezone(UTC).replace(microsecond=0)
        while high - low > _SECOND:
            middle = (low + (high - low) / 2).replace(microsecond=0)
            if self.offset(middle) == offset:
                high = middle
            else:
                low = middle
        return high
