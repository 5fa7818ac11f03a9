"""The end of an override, as people write it."""

import re
from datetime import datetime, timedelta
from typing import Final

from manager.market.clocks import MarketClock
from manager.market.parsing import parse_duration, parse_time
from manager.market.windows import as_utc

#: An override ends within this time.
LONGEST_OVERRIDE: Final = timedelta(days=366)

_TIME: Final = re.compile(r"\d{1,2}:\d{2}")
_DURATION: Final = re.compile(r"(\d+(\.\d+)?[smhd])+", re.IGNORECASE)


def parse_until(text: str, clock: MarketClock, now: datetime) -> datetime:
    """Return the instant that `text` means, in UTC.

    `text` is a duration (`90m`, `2d`), a time of day (`17:30`: the next one), or a date with a time in ISO
    8601. Times without a zone are on `clock`. Raises ValueError if it is none of these, in the past, or more
    than 366 days ahead.
    """
    text = text.strip()
    now = as_utc(now)
    if _DURATION.fullmatch(text):
        until = now + parse_duration(text)
    elif _TIME.fullmatch(text):
        until = _next_time(parse_time(text), clock, now)
    else:
        until = _instant(text, clock)
    if until <= now:
        raise ValueError(f"{text} is in the past: it was {until:%Y-%m-%d %H:%M} UTC")
    if until > now + LONGEST_OVERRIDE:
        raise ValueError(f"{text} is more than {LONGEST_OVERRIDE.days} days ahead")
    return until


def _next_time(time: timedelta, clock: MarketClock, now: datetime) -> datetime:
    today = clock.wall(now).date()
    for day in range(3):
        midnight = datetime.combine(today + timedelta(days=day), datetime.min.time())
        instant = clock.instant(midnight + time)
        if instant > now:
            return instant
    raise ValueError("the clock has no such time within three days")


def _instant(text: str, clock: MarketClock) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text[:40]!r} is no time: write next, a duration (90m, 2d), a time (17:30), or a date and a "
            "time (2026-12-24T18:00)"
        ) from None
    return as_utc(found) if found.tzinfo is not None else clock.instant(found)
