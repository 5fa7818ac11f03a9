"""Short spellings for tests of market time."""

from datetime import UTC, datetime, timedelta
from typing import Any

from manager.market.clocks import MarketClock
from manager.market.parsing import parse_days, parse_time
from manager.market.rules import DailyRule, Rule
from manager.market.schedules import Schedule, Timetable
from manager.market.windows import Window

NEW_YORK = MarketClock("America/New_York")


def utc(text: str) -> datetime:
    """Read `2026-11-27 14:30` as UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def daily(clock: MarketClock | str, opens: str, closes: str, days: str = "mon-sun") -> DailyRule:
    """Return a daily window.

    A close that is not later belongs to the next day.
    """
    start, end = parse_time(opens), parse_time(closes, end=True)
    return DailyRule(
        clock=MarketClock.parse(clock) if isinstance(clock, str) else clock,
        days=parse_days(days),
        opens=start,
        closes=end if end > start else end + timedelta(days=1),
    )


def timetable(*run: Rule, **fields: Any) -> Timetable:
    """Return the timetable of a schedule with these rules."""
    calendars = fields.pop("calendars", None)
    return Timetable(Schedule(run=run, **fields), calendars)


def spans(windows: list[Window]) -> list[tuple[str, str]]:
    """Return windows as pairs of texts, UTC."""
    return [(f"{window.opens:%Y-%m-%d %H:%M}", f"{window.closes:%Y-%m-%d %H:%M}") for window in windows]
