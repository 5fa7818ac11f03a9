"""Windows on days of clock changes, with instants computed manually."""

import itertools
import json
from datetime import date, timedelta
from pathlib import Path

import pytest
from support.market import NEW_YORK, daily, spans, timetable, utc

from manager.market.calendars import ExchangeCalendar, ExchangeRule
from manager.market.clocks import MarketClock
from manager.market.rules import DailyRule
from manager.market.sessions import session_timetable

CALENDARS = Path(__file__).parents[2] / "fixtures" / "calendars"
LORD_HOWE = "Australia/Lord_Howe"


@pytest.mark.parametrize(
    ("zone", "opens", "closes", "day", "expected"),
    [
        # New York skips 02:00 to 03:00 on 8 March 2026.
        ("America/New_York", "01:30", "02:30", "2026-03-08", ("2026-03-08 06:30", "2026-03-08 07:00")),
        ("America/New_York", "02:15", "02:45", "2026-03-08", None),
        ("America/New_York", "02:30", "04:00", "2026-03-08", ("2026-03-08 07:00", "2026-03-08 08:00")),
        ("America/New_York", "22:00", "02:30", "2026-03-07", ("2026-03-08 03:00", "2026-03-08 07:00")),
        # It shows 01:00 to 02:00 twice on 1 November 2026.
        ("America/New_York", "01:15", "01:45", "2026-11-01", ("2026-11-01 05:15", "2026-11-01 06:45")),
        ("America/New_York", "00:30", "01:30", "2026-11-01", ("2026-11-01 04:30", "2026-11-01 06:30")),
        ("America/New_York", "01:30", "03:00", "2026-11-01", ("2026-11-01 05:30", "2026-11-01 08:00")),
        ("Europe/London", "08:00", "17:00", "2026-03-29", ("2026-03-29 07:00", "2026-03-29 16:00")),
        # Lord Howe's summer time is half an hour.
        (LORD_HOWE, "02:10", "02:20", "2026-10-04", None),
        (LORD_HOWE, "01:40", "01:50", "2026-04-05", ("2026-04-04 14:40", "2026-04-04 15:20")),
        # Apia had no 30 December 2011.
        ("Pacific/Apia", "09:00", "17:00", "2011-12-29", ("2011-12-29 19:00", "2011-12-30 03:00")),
        ("Pacific/Apia", "09:00", "17:00", "2011-12-30", None),
        ("Pacific/Apia", "09:00", "17:00", "2011-12-31", ("2011-12-30 19:00", "2011-12-31 03:00")),
    ],
)
def test_a_daily_window_at_a_change_of_the_clock(
    zone: str, opens: str, closes: str, day: str, expected: tuple[str, str] | None
) -> None:
    window = daily(zone, opens, closes).on(date.fromisoformat(day))
    assert (spans([window])[0] if window else None) == expected


def test_a_day_that_does_not_exist_has_no_window() -> None:
    found = timetable(daily("Pacific/Apia", "09:00", "17:00"))
    assert spans(found.windows(utc("2011-12-29 12:00"), utc("2011-12-31 12:00"))) == [
        ("2011-12-29 19:00", "2011-12-30 03:00"),
        ("2011-12-30 19:00", "2011-12-31 03:00"),
    ]


def test_the_week_of_foreign_exchange() -> None:
    found = session_timetable("fx")
    spring = found.windows(utc("2026-03-01 12:00"), utc("2026-03-14 12:00"))
    autumn = found.windows(utc("2026-10-25 12:00"), utc("2026-11-07 12:00"))
    assert spans([*spring, *autumn]) == [
        ("2026-03-01 22:00", "2026-03-06 22:00"),
        ("2026-03-08 21:00", "2026-03-13 21:00"),
        ("2026-10-25 21:00", "2026-10-30 21:00"),
        ("2026-11-01 22:00", "2026-11-06 22:00"),
    ]
    assert {window.lasts for window in (*spring, *autumn)} == {timedelta(hours=120)}


def test_athens_is_not_the_brokers_clock() -> None:
    """Brokers' servers are New York plus 7 h; Athens changes on other days."""
    broker, athens = MarketClock.parse("America/New_York+7h"), MarketClock.parse("Europe/Athens")
    day = date(2026, 3, 17)
    assert broker.midnight(day) == utc("2026-03-16 21:00")
    assert athens.midnight(day) == utc("2026-03-16 22:00")
    differ = [
        day
        for step in range(365)
        if broker.midnight(day := date(2026, 1, 1) + timedelta(days=step)) != athens.midnight(day)
    ]
    assert (differ[0], differ[20]) == (date(2026, 3, 9), date(2026, 3, 29))
    assert differ[21:] == [date(2026, 10, 26) + timedelta(days=step) for step in range(7)]


def test_an_exchange_closes_early_the_day_after_thanksgiving() -> None:
    calendar = ExchangeCalendar.from_document(json.loads((CALENDARS / "XNYS.json").read_text()))
    found = timetable(ExchangeRule("XNYS"), calendars={"XNYS": calendar})
    assert spans(found.windows(utc("2026-11-26 00:00"), utc("2026-11-28 00:00"))) == [
        ("2026-11-27 14:30", "2026-11-27 18:00")
    ]


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/London", LORD_HOWE])
def test_a_year_of_a_daily_window_has_365_windows_and_none_overlap(zone: str) -> None:
    rule = daily(zone, "01:30", "02:30")
    days = [date(2026, 1, 1) + timedelta(days=step) for step in range(365)]
    windows = [window for day in days if (window := rule.on(day)) is not None]
    assert len(windows) == 365
    assert all(earlier.closes <= later.opens for earlier, later in itertools.pairwise(windows))
    clock = MarketClock(zone)
    found = timetable(rule).windows(clock.midnight(days[0]), clock.midnight(date(2027, 1, 1)))
    assert found == windows


def test_real_time_counts_from_the_opening() -> None:
    rule = DailyRule(clock=NEW_YORK, opens=timedelta(hours=1), lasts=timedelta(hours=10))
    window = rule.on(date(2026, 11, 1))
    assert window is not None
    assert spans([window]) == [("2026-11-01 05:00", "2026-11-01 15:00")]
