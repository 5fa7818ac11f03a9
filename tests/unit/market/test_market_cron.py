"""Windows from cron expressions, over the days on which clocks change."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st
from support.market import NEW_YORK, spans, timetable, utc

from manager.market.clocks import MarketClock
from manager.market.cron import CronRule
from manager.market.windows import Window, clip, unite

HALF_HOUR = timedelta(minutes=30)
SPRING = utc("2026-03-08 05:00"), utc("2026-03-09 04:00")
AUTUMN = utc("2026-11-01 04:00"), utc("2026-11-02 05:00")


def firings(expression: str, span: tuple[object, object], clock: MarketClock = NEW_YORK) -> list[str]:
    rule = CronRule.parse(clock, expression, HALF_HOUR)
    return [f"{at:%H:%M}" for at in rule.firings(*span)]  # type: ignore[arg-type]


def test_croniter_runs_twice_at_dst_end_and_this_does_not() -> None:
    assert firings("30 1 * * *", AUTUMN) == ["05:30"]
    assert firings("0,30 1 * * *", AUTUMN) == ["05:00", "05:30"]


def test_a_fixed_time_in_a_gap_fires_at_the_first_instant_after_it() -> None:
    assert firings("15 2 * * *", SPRING) == ["07:00"]
    assert firings("15,45 2 * * *", SPRING) == ["07:00"]


def test_a_wildcard_follows_the_clock_as_it_is_shown() -> None:
    assert firings("0 * * * *", SPRING)[:4] == ["05:00", "06:00", "07:00", "08:00"]
    assert firings("0 * * * *", AUTUMN)[:4] == ["04:00", "05:00", "06:00", "07:00"]
    assert firings("*/30 1 * * *", AUTUMN) == ["05:00", "05:30", "06:00", "06:30"]
    assert firings("*/30 2 * * *", SPRING) == []


def test_a_wildcard_meets_a_change_of_half_an_hour() -> None:
    lord_howe = MarketClock("Australia/Lord_Howe")
    span = utc("2026-04-04 12:00"), utc("2026-04-04 18:00")
    # 01:30 is shown twice, 02:00 comes 90 minutes after 01:00.
    assert firings("*/30 * * * *", span, lord_howe)[3:9] == [
        "13:30",
        "14:00",
        "14:30",
        "15:00",
        "15:30",
        "16:00",
    ]
    assert firings("* 3 * * *", span, lord_howe)[0] == "16:30"


def test_an_expression_stands_on_the_brokers_clock() -> None:
    broker = MarketClock.parse("America/New_York+7h")
    assert firings("30 9 * * *", (utc("2026-11-27 00:00"), utc("2026-11-28 00:00")), broker) == ["07:30"]


def test_each_firing_opens_a_window() -> None:
    rule = CronRule.parse(NEW_YORK, "30 9 * * mon-fri", timedelta(hours=6, minutes=30))
    found = timetable(rule).windows(utc("2026-11-27 00:00"), utc("2026-12-01 00:00"))
    assert spans(found) == [
        ("2026-11-27 14:30", "2026-11-27 21:00"),
        ("2026-11-30 14:30", "2026-11-30 21:00"),
    ]


def test_windows_of_close_firings_are_one() -> None:
    rule = CronRule.parse(NEW_YORK, "*/10 * * * *", timedelta(minutes=10))
    assert len(timetable(rule).windows(utc("2026-11-01 00:00"), utc("2026-11-20 00:00"))) == 1


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("30 9 * *", "has 4 fields; cron takes five"),
        ("0 30 9 * * *", "has 6 fields"),
        ("61 9 * * *", "is not a cron expression: bad minute"),
        ("0 9 * * funday", "is not a cron expression: bad day-of-week"),
        ("0 9 31 2 *", "is not a cron expression: bad day-of-month"),
    ],
)
def test_invalid_cron_expressions(expression: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        CronRule.parse(NEW_YORK, expression, HALF_HOUR)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(
        [
            "30 1 * * *",
            "0,30 1,2 * * *",
            "15 0 1,8 3,11 sun",
            "0 2 * * sat,sun",
            "30 1 l * *",
            "0 3 * * sun#2",
        ]
    ),
    st.sampled_from(["America/New_York", "Europe/London", "Australia/Sydney", "Asia/Tokyo"]),
    st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)),  # noqa: DTZ001 - made aware below
)
def test_fixed_times_fire_when_cronsim_says(expression: str, zone: str, naive: datetime) -> None:
    start = naive.replace(tzinfo=UTC, microsecond=0)
    end = start + timedelta(days=40)
    expected = []
    for firing in CronSim(expression, (start - timedelta(seconds=1)).astimezone(ZoneInfo(zone))):
        if firing.astimezone(UTC) >= end:
            break
        expected.append(firing.astimezone(UTC))
    assert firings_at(expression, start, end, MarketClock(zone)) == sorted(set(expected))


def firings_at(expression: str, start: datetime, end: datetime, clock: MarketClock) -> list[datetime]:
    return CronRule.parse(clock, expression, HALF_HOUR).firings(start, end)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["* * * * *", "*/7 * * * *", "0,5,50 1-3 * * *", "30 23 * * sun", "0 0 1 * *"]),
    st.integers(1, 3_000),
    st.sampled_from(["America/New_York", "Australia/Lord_Howe", "America/Havana"]),
    st.integers(0, 365),
)
def test_joined_windows_cover_exactly_the_firings(expression: str, minutes: int, zone: str, day: int) -> None:
    start = utc("2026-01-01 00:00") + timedelta(days=day)
    end = start + timedelta(days=2)
    rule = CronRule.parse(MarketClock(zone), expression, timedelta(minutes=minutes))
    openings = rule.firings(start - rule.lasts, end)
    expected = clip(unite(Window(opens, opens + rule.lasts) for opens in openings), start, end)
    assert clip(unite(rule.windows(start, end, {})), start, end) == expected
