"""Named sessions: the hours of markets, on their clocks."""

from datetime import datetime, timedelta
from functools import cache
from typing import Final

from manager.market.clocks import MarketClock
from manager.market.names import SessionName
from manager.market.rules import AlwaysRule, DailyRule
from manager.market.schedules import Schedule, Timetable

_NEW_YORK: Final = MarketClock("America/New_York")
_SUNDAY: Final = 6
_WEEKDAYS: Final = frozenset(range(5))


def _day_session(name: str, zone: str, opens: int, closes: int) -> Schedule:
    clock = MarketClock(zone)
    rule = DailyRule(
        clock=clock, days=_WEEKDAYS, opens=timedelta(hours=opens), closes=timedelta(hours=closes)
    )
    return Schedule(name=name, clock=clock, run=(rule,))


def _fx() -> Schedule:
    """Sunday 17:00 to Friday 17:00 in New York."""
    week = DailyRule(
        clock=_NEW_YORK,
        days=frozenset({_SUNDAY}),
        opens=timedelta(hours=17),
        closes=timedelta(days=5, hours=17),
    )
    return Schedule(name="fx", clock=_NEW_YORK, run=(week,))


def _with_daily_break(name: str) -> Schedule:
    """Sunday to Friday in New York, from 18:00 to 17:00 of the next day."""
    rule = DailyRule(
        clock=_NEW_YORK,
        days=frozenset({_SUNDAY, 0, 1, 2, 3}),
        opens=timedelta(hours=18),
        closes=timedelta(days=1, hours=17),
    )
    return Schedule(name=name, clock=_NEW_YORK, run=(rule,))


def _always(name: str) -> Schedule:
    return Schedule(name=name, run=(AlwaysRule(),))


SESSIONS: Final[dict[SessionName, Schedule]] = {
    "fx": _fx(),
    "always": _always("always"),
    "crypto": _always("crypto"),
    "metals": _with_daily_break("metals"),
    "us-index": _with_daily_break("us-index"),
    "sydney": _day_session("sydney", "Australia/Sydney", 7, 16),
    "tokyo": _day_session("tokyo", "Asia/Tokyo", 9, 18),
    "london": _day_session("london", "Europe/London", 8, 17),
    "newyork": _day_session("newyork", "America/New_York", 8, 17),
}


@cache
def session_timetable(name: SessionName) -> Timetable:
    """Return the timetable of a named session, always the same object."""
    return Timetable(SESSIONS[name])


def market_is_open(session: SessionName, instant: datetime) -> bool:
    """Return whether a named session is open at an instant (aware)."""
    return session_timetable(session).is_open(instant)
