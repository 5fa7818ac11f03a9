"""Daily windows as people write them on a command line: `sat 00:00-12:00 UTC`."""

import re
from datetime import timedelta
from typing import Final

from manager.market.clocks import MarketClock
from manager.market.parsing import parse_days, parse_time
from manager.market.rules import DailyRule
from manager.market.schedules import Schedule, Timetable

_WINDOW: Final = re.compile(
    r"(?:(?P<days>[a-z][a-z, -]*?)\s+)?(?P<opens>\d{1,2}:\d{2})\s*[-\N{EN DASH}]\s*(?P<closes>\d{1,2}:\d{2})"
    r"(?:\s+(?P<zone>\S+))?",
    re.IGNORECASE,
)
_DAY: Final = timedelta(days=1)


def parse_daily(text: str) -> Timetable:
    """Return the timetable of a daily window: days, opening and closing time, time zone.

    Without days it opens every day, without a zone its clock is UTC. A window that closes before it opens
    closes on the next day. Raises ValueError.
    """
    found = _WINDOW.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a window such as `sat 00:00-12:00 UTC` or `22:00-06:00`")
    clock = MarketClock.parse(found["zone"] or "UTC")
    opens, closes = parse_time(found["opens"]), parse_time(found["closes"], end=True)
    closes += _DAY if closes <= opens else timedelta()
    days = parse_days(found["days"] or "mon-sun")
    return Timetable(Schedule(run=(DailyRule(clock=clock, days=days, opens=opens, closes=closes),)))
