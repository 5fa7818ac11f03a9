"""Syntax of days, times, durations and dates."""

from datetime import date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manager.market.parsing import (
    parse_dates,
    parse_days,
    parse_duration,
    parse_time,
    show_days,
    show_duration,
    show_time,
)


@pytest.mark.parametrize(
    ("value", "days", "shown"),
    [
        ("mon-fri", {0, 1, 2, 3, 4}, "mon-fri"),
        (["sun"], {6}, "sun"),
        ("Mon, Wed", {0, 2}, "mon, wed"),
        ("fri-mon", {4, 5, 6, 0}, "mon, fri, sat, sun"),
        (["mon-tue", "sat"], {0, 1, 5}, "mon, tue, sat"),
        ("mon-sun", set(range(7)), "every day"),
    ],
)
def test_days(value: str | list[str], days: set[int], shown: str) -> None:
    assert parse_days(value) == days
    assert show_days(parse_days(value)) == shown
    assert parse_days(shown.replace("every day", "mon-sun")) == days


def test_times() -> None:
    assert parse_time("08:30") == timedelta(hours=8, minutes=30)
    assert parse_time("24:00", end=True) == timedelta(days=1)
    assert [show_time(timedelta(hours=hours)) for hours in (0, 17, 24, 41)] == [
        "00:00",
        "17:00",
        "24:00",
        "17:00",
    ]


@settings(deadline=None)
@given(st.integers(0, 10**7).map(lambda seconds: timedelta(seconds=seconds)))
def test_a_duration_that_is_shown_can_be_read(duration: timedelta) -> None:
    assert parse_duration(show_duration(duration)) == duration


def test_dates() -> None:
    assert parse_dates("2026-12-25") == (date(2026, 12, 25), date(2026, 12, 25))
    assert parse_dates("2026-12-31..2027-01-02") == (date(2026, 12, 31), date(2027, 1, 2))
    assert parse_dates(date(2026, 12, 25)) == (date(2026, 12, 25), date(2026, 12, 25))


@pytest.mark.parametrize(
    ("parse", "value", "problem"),
    [
        (parse_days, "monday", "is not a day; days are mon, tue"),
        (parse_days, "mon-", "is not a day"),
        (parse_days, [], "contains no day"),
        (parse_time, "8:00", "is not a time of day"),
        (parse_time, "24:00", "00:00 to 23:59"),
        (parse_time, "12:60", "00:00 to 23:59"),
        (parse_time, 480, "hours and minutes in quotes"),
        (parse_duration, "", "is not a duration"),
        (parse_duration, "10", "a number with its unit"),
        (parse_duration, 10, "a number with its unit"),
        (parse_duration, "30m6h", "is not a duration"),
        (parse_dates, "25.12.2026", "is not a date; write 2026-12-25"),
        (parse_dates, "20261225", "is not a date"),
        (parse_dates, "2026-02-30", "is not a day of the calendar"),
        (parse_dates, "2027-01-02..2026-12-31", "ends before it begins"),
        (parse_dates, datetime(2026, 12, 25, 10), "is not a date"),  # noqa: DTZ001
    ],
)
def test_invalid_texts(parse: object, value: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse(value)  # type: ignore[operator]


def test_an_end_after_midnight_is_not_a_time_of_day() -> None:
    with pytest.raises(ValueError, match="00:00 to 24:00"):
        parse_time("24:01", end=True)
