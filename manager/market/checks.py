"""Warnings about schedules that are valid but probably wrong."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Final

from manager.market.calendars import ExchangeRule, HolidaysRule, find_calendar
from manager.market.rules import DailyRule, DatesRule
from manager.market.schedules import HORIZON, Timetable, leaves
from manager.market.windows import Window, as_utc

#: A schedule that does not open within this time is probably wrong.
_SOON: Final = timedelta(days=14)
#: A prepared calendar that ends within this time has probably not been renewed.
_CALENDAR_LEFT: Final = timedelta(days=60)
_DAY: Final = timedelta(days=1)


def schedule_warnings(timetable: Timetable, now: datetime) -> Iterator[str]:
    """Yield warnings about a schedule, as seen at `now` (aware).

    Raises MissingCalendarError.
    """
    now = as_utc(now)
    if not timetable.windows(now, now + _SOON):
        yield f"never open within {_SOON.days} days: check its days, dates and exceptions"
    yield from _tidied(timetable, now)
    for rule in leaves((*timetable.schedule.run, *timetable.schedule.rest)):
        if isinstance(rule, DailyRule):
            yield from _swallowed(rule, now)
        elif isinstance(rule, DatesRule) and rule.last < rule.clock.wall(now).date():
            yield f"dates {rule} are all past: remove them"
        elif isinstance(rule, ExchangeRule | HolidaysRule):
            calendar = find_calendar(rule.mic, timetable.calendars)
            if calendar.ends - now < _CALENDAR_LEFT:
                yield f"the calendar of exchange {rule.mic} ends on {calendar.last}: it is not being renewed"


def _swallowed(rule: DailyRule, now: datetime) -> Iterator[str]:
    """Yield a warning for each day on which the clock skips the window."""
    if rule.lasts is not None:
        return
    # Only a day on which the clock goes forward can lack the window.
    for shift in rule.clock.shifts(now, now + HORIZON):
        around = rule.clock.wall(shift.at).date()
        first = around - _DAY - (rule.closes or _DAY)
        for step in range((around - first) // _DAY + 2):
            day = first + _DAY * step
            if shift.by > timedelta() and day.weekday() in rule.days and rule.on(day) is None:
                yield f"no window on {_long(day)}: {rule.span()} does not exist in {rule.clock.label}"


def _tidied(timetable: Timetable, now: datetime) -> Iterator[str]:
    tidied = timetable.tidied(now - _DAY, now + _SOON + _DAY)
    inside = Window(now, now + _SOON)
    for rest in tidied.bridged:
        if rest.opens in inside:
            yield (
                f"the rest of {rest.lasts.total_seconds():g} s at {rest.opens:%Y-%m-%d %H:%M} UTC is too "
                "short and is bridged"
            )
    for window in tidied.dropped:
        if window.opens in inside:
            yield (
                f"the window of {window.lasts.total_seconds():g} s at {window.opens:%Y-%m-%d %H:%M} UTC "
                "is too short and is left out"
            )


def _long(day: date) -> str:
    return f"{day.day} {day:%B %Y}"
