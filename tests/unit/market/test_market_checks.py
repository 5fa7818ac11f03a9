"""Warnings about schedules, and lists of their windows."""

import json
from datetime import date, timedelta
from pathlib import Path

import pytest
from support.market import NEW_YORK, daily, spans, timetable, utc

from manager.market.calendars import ExchangeCalendar, ExchangeRule, HolidaysRule
from manager.market.checks import schedule_warnings
from manager.market.listing import list_windows
from manager.market.rollover import RolloverRule
from manager.market.rules import DailyRule, DatesRule
from manager.market.schedules import SessionRule, Timetable
from manager.market.sessions import SESSIONS, session_timetable

NOW = utc("2026-02-01 00:00")
DOCUMENT = json.loads((Path(__file__).parents[2] / "fixtures" / "calendars" / "XNYS.json").read_text())


def warnings(table: Timetable) -> list[str]:
    return list(schedule_warnings(table, NOW))


@pytest.mark.parametrize("name", SESSIONS)
def test_named_sessions_give_no_warning(name: str) -> None:
    assert warnings(Timetable(SESSIONS[name])) == []  # type: ignore[index]


def test_a_window_inside_a_gap_is_reported_with_its_day() -> None:
    assert warnings(timetable(daily(NEW_YORK, "02:15", "02:45"))) == [
        "no window on 8 March 2026: 02:15\N{EN DASH}02:45 does not exist in New York"
    ]
    assert warnings(timetable(daily(NEW_YORK, "02:15", "02:45", "mon-fri"))) == []
    assert warnings(timetable(daily(NEW_YORK, "02:15", "03:15"))) == []
    # On the broker's clock the same gap is at 09:00.
    assert warnings(timetable(daily("America/New_York+7h", "09:15", "09:45"))) == [
        "no window on 8 March 2026: 09:15\N{EN DASH}09:45 does not exist in New York+7h"
    ]


def test_a_gap_in_a_session_that_another_builds_on_is_found() -> None:
    inner = timetable(daily(NEW_YORK, "02:15", "02:45")).schedule
    assert len(warnings(timetable(SessionRule(inner)))) == 1


def test_a_schedule_that_never_opens_is_reported() -> None:
    never = timetable(daily(NEW_YORK, "08:00", "16:00"), rest=(daily(NEW_YORK, "00:00", "24:00"),))
    assert warnings(never) == ["never open within 14 days: check its days, dates and exceptions"]


def test_dates_that_are_past_are_reported() -> None:
    christmas = DatesRule(
        NEW_YORK, ((date(2025, 12, 25), date(2025, 12, 26)), (date(2026, 1, 1), date(2026, 1, 1)))
    )
    assert warnings(timetable(daily(NEW_YORK, "08:00", "16:00"), rest=(christmas,))) == [
        "dates 2025-12-25..2025-12-26, 2026-01-01 are all past: remove them"
    ]
    today = DatesRule(NEW_YORK, ((date(2026, 1, 31), date(2026, 1, 31)),))
    assert warnings(timetable(daily(NEW_YORK, "08:00", "16:00"), rest=(today,))) == []


@pytest.mark.parametrize("rule", [ExchangeRule("XNYS"), HolidaysRule("XNYS")])
def test_a_calendar_that_ends_soon_is_reported(rule: ExchangeRule | HolidaysRule) -> None:
    calendars = {"XNYS": ExchangeCalendar.from_document(DOCUMENT)}
    table = timetable(*SESSIONS["fx"].run, rest=(rule,), calendars=calendars)
    assert list(schedule_warnings(table, utc("2026-11-10 05:00"))) == []
    assert list(schedule_warnings(table, utc("2026-11-10 05:01"))) == [
        "the calendar of exchange XNYS ends on 2027-01-08: it is not being renewed"
    ]


def test_short_windows_are_reported_and_left_out() -> None:
    second = timedelta(seconds=1)
    pause = RolloverRule(10 * second, 15 * second, frozenset({2}))
    table = timetable(SessionRule(SESSIONS["fx"]), rest=(pause,))
    assert warnings(table)[0] == "the rest of 25 s at 2026-02-04 21:59 UTC is too short and is bridged"
    assert table.is_open(utc("2026-02-04 22:00"))
    short = DailyRule(clock=NEW_YORK, days=frozenset({2}), opens=timedelta(hours=9), lasts=59 * second)
    both = timetable(short, *daily_only("10:00", "11:00"))
    assert warnings(both)[0] == "the window of 59 s at 2026-02-04 14:00 UTC is too short and is left out"
    assert not both.is_open(utc("2026-02-04 14:00"))


def daily_only(opens: str, closes: str) -> tuple[DailyRule]:
    return (daily(NEW_YORK, opens, closes),)


def test_windows_are_listed_whole_with_the_changes_of_the_clock() -> None:
    listed = list(list_windows(session_timetable("fx"), utc("2026-03-03 00:00"), utc("2026-03-16 00:00")))
    assert spans([item.window for item in listed]) == [
        ("2026-03-01 22:00", "2026-03-06 22:00"),
        ("2026-03-08 21:00", "2026-03-13 21:00"),
        ("2026-03-15 21:00", "2026-03-20 21:00"),
    ]
    assert [item.marks for item in listed] == [(), ("clock goes forward 1h on Sun 8 Mar 2026 07:00 UTC",), ()]
    assert {f"{item.opens_wall:%a %H:%M}, {item.closes_wall:%a %H:%M}" for item in listed} == {
        "Sun 17:00, Fri 17:00"
    }


def test_a_change_inside_a_window_is_marked_there() -> None:
    listed = list(
        list_windows(
            timetable(daily(NEW_YORK, "00:30", "03:00")), utc("2026-10-31 00:00"), utc("2026-11-03 00:00")
        )
    )
    assert [len(item.marks) for item in listed] == [0, 1, 0]
    assert listed[1].marks == ("clock goes back 1h on Sun 1 Nov 2026 06:00 UTC",)
    assert listed[1].window.lasts == timedelta(hours=3, minutes=30)
