"""Named sessions, and the market hours of health checks."""

from datetime import UTC, datetime, timedelta
from typing import get_args
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.market import NEW_YORK, daily, spans, timetable, utc

from manager.config import HealthConfig
from manager.market.names import SessionName
from manager.market.rules import DailyRule
from manager.market.sessions import SESSIONS, market_is_open, session_timetable

ZONE = ZoneInfo("America/New_York")


def fx_by_hand(now: datetime) -> bool:
    """Sunday 17:00 to Friday 17:00, read off New York's clock."""
    there = now.astimezone(ZONE)
    minutes = there.weekday() * 1440 + there.hour * 60 + there.minute
    return not 4 * 1440 + 17 * 60 <= minutes < 6 * 1440 + 17 * 60


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-11-20T21:59", True),  # Friday 16:59 in New York, winter
        ("2026-11-20T22:00", False),
        ("2026-11-22T21:59", False),
        ("2026-11-22T22:00", True),  # Sunday 17:00
        ("2026-07-10T20:59", True),  # the same an hour earlier in summer
        ("2026-07-10T21:00", False),
        ("2026-07-12T21:00", True),
    ],
)
def test_the_week_of_foreign_exchange_is_new_yorks(moment: str, is_open: bool) -> None:
    now = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    assert market_is_open("fx", now) is is_open
    assert market_is_open("always", now)


@settings(deadline=None)
@given(st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001 - made aware below
@example(datetime(2026, 3, 8, 20, 59, 59, 999_999))  # noqa: DTZ001
def test_fx_agrees_with_new_yorks_clock(naive: datetime) -> None:
    now = naive.replace(tzinfo=UTC)
    assert market_is_open("fx", now) == fx_by_hand(now)
    assert market_is_open("always", now)


def test_every_name_has_a_session_and_health_accepts_it() -> None:
    assert set(SESSIONS) == set(get_args(SessionName))
    for name, schedule in SESSIONS.items():
        assert schedule.name == name
        assert HealthConfig(market_hours=name).market_hours == name


@pytest.mark.parametrize("name", ["metals", "us-index"])
def test_metals_are_the_week_without_an_hour_of_each_day(name: SessionName) -> None:
    week = DailyRule(
        clock=NEW_YORK, days=frozenset({6}), opens=timedelta(hours=18), closes=timedelta(days=5, hours=17)
    )
    literal = timetable(week, rest=(daily(NEW_YORK, "17:00", "18:00"),))
    span = utc("2026-01-01 00:00"), utc("2027-01-01 00:00")
    assert session_timetable(name).windows(*span) == literal.windows(*span)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sydney", ("2026-11-22 20:00", "2026-11-23 05:00")),
        ("tokyo", ("2026-11-23 00:00", "2026-11-23 09:00")),
        ("london", ("2026-11-23 08:00", "2026-11-23 17:00")),
        ("newyork", ("2026-11-23 13:00", "2026-11-23 22:00")),
    ],
)
def test_a_day_session_stands_on_its_own_clock(name: SessionName, expected: tuple[str, str]) -> None:
    first = session_timetable(name).next_opening(utc("2026-11-21 12:00"))
    assert first is not None
    window = session_timetable(name).window_at(first)
    assert window is not None
    assert spans([window]) == [expected]
