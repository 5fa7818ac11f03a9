"""Clocks: their syntax, the source of their rules, and errors."""

import pickle
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
import tzdata
from support.market import NEW_YORK, utc

from manager.market.clocks import MarketClock, load_zone, tz_database_version, zone_names
from manager.market.windows import as_utc


@pytest.mark.parametrize(
    ("text", "zone", "plus", "label"),
    [
        ("America/New_York", "America/New_York", timedelta(), "New York"),
        ("America/New_York+7h", "America/New_York", timedelta(hours=7), "New York+7h"),
        ("Europe/London-1h30m", "Europe/London", -timedelta(hours=1, minutes=30), "London-1h30m"),
        ("Etc/GMT+7", "Etc/GMT+7", timedelta(), "GMT+7"),
        ("Etc/GMT-2+1h", "Etc/GMT-2", timedelta(hours=1), "GMT-2+1h"),
        ("UTC", "UTC", timedelta(), "UTC"),
    ],
)
def test_a_clock_is_a_zone_and_a_fixed_part(text: str, zone: str, plus: timedelta, label: str) -> None:
    clock = MarketClock.parse(text)
    assert (clock.zone_name, clock.plus, clock.label, str(clock)) == (zone, plus, label, text)
    assert MarketClock.parse(str(clock)) == clock
    assert pickle.loads(pickle.dumps(clock)) == clock


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "a clock is the name of a time zone"),
        ("America/NewYork", "did you mean America/New_York"),
        ("america/new_york", "is not a time zone"),
        ("../../etc/passwd", "is not a time zone"),
        ("EST5EDT4", "is not a time zone"),
        ("America/New_York+24h", "less than 24h"),
        ("America/New_York+7h75m", "at most 59"),
        ("America/New_York+7", "is not a time zone"),
    ],
)
def test_invalid_clocks(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        MarketClock.parse(text)


def test_rules_come_from_the_package_and_not_from_the_system() -> None:
    assert tz_database_version() == tzdata.IANA_VERSION
    assert len(zone_names()) > 500
    # `ZoneInfo(name)` prefers the system's files and returns one object for each name.
    assert load_zone("America/New_York") is not ZoneInfo("America/New_York")


def test_every_zone_of_this_machine_is_a_clock() -> None:
    for name in available_timezones():
        MarketClock.parse(name)


def test_changes_of_a_clock() -> None:
    year = list(NEW_YORK.shifts(utc("2026-01-01 00:00"), utc("2027-01-01 00:00")))
    hour = timedelta(hours=1)
    assert [(shift.at, shift.by) for shift in year] == [
        (utc("2026-03-08 07:00"), hour),
        (utc("2026-11-01 06:00"), -hour),
    ]
    assert list(NEW_YORK.shifts(utc("2026-03-08 07:00"), utc("2026-03-09 00:00"))) == []
    assert len(list(NEW_YORK.shifts(utc("2026-03-08 06:59"), utc("2026-03-08 07:00")))) == 1


def test_a_gap_is_found_to_the_second() -> None:
    wall = datetime(2026, 3, 8, 2, 0, 0, 500_000)  # noqa: DTZ001 - a wall time
    assert NEW_YORK.instant(wall) == utc("2026-03-08 07:00")
    # Amsterdam's offset had seconds: 19 min 32 s until 1937.
    amsterdam = MarketClock("Europe/Amsterdam")
    shift = next(amsterdam.shifts(datetime(1892, 4, 1, tzinfo=UTC), datetime(1892, 6, 1, tzinfo=UTC)))
    assert shift.at.microsecond == 0
    assert amsterdam.offset(shift.at - timedelta(seconds=1)) == shift.before
    assert amsterdam.offset(shift.at) == shift.after


def test_a_naive_time_is_not_an_instant() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        as_utc(datetime(2026, 3, 8))  # noqa: DTZ001
