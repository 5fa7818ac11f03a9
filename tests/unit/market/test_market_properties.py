"""Properties of timetables for any windows, zones and instants.

Each is compared with a definition that only reads the clock minute by minute.
"""

import itertools
from bisect import bisect_right
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import available_timezones

from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.market import timetable

from manager.market.clocks import MarketClock
from manager.market.cron import CronRule
from manager.market.rollover import RolloverRule
from manager.market.rules import DailyRule, DatesRule, Rule
from manager.market.windows import SHORTEST_REST, SHORTEST_WINDOW, Window, subtract, tidy, unite

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
#: Zones had offsets with seconds until 1972; a scan by minutes is exact after it.
FIRST, LAST = datetime(1973, 1, 1, tzinfo=UTC), datetime(2090, 1, 1, tzinfo=UTC)

zones = st.sampled_from(sorted(available_timezones()))
shifts = st.sampled_from(
    [timedelta(), timedelta(hours=7), timedelta(hours=-3), timedelta(hours=5, minutes=30)]
)
clocks = st.builds(MarketClock, zones, shifts)
minutes_of_day = st.integers(0, 1439)
anywhere = st.integers(0, (LAST - FIRST) // MINUTE).map(lambda count: FIRST + count * MINUTE)


@st.composite
def instants(draw: st.DrawFn, clock: MarketClock) -> datetime:
    """Draw an instant; half of them are within two days of a clock change."""
    at = draw(anywhere)
    if draw(st.booleans()):
        changes = list(clock.shifts(at, at + timedelta(days=366)))
        if changes:
            near = draw(st.sampled_from(changes)).at + draw(st.integers(-2 * 1440, 2 * 1440)) * MINUTE
            return near.replace(second=0)
    return at


@st.composite
def daily_rules(draw: st.DrawFn, clock: MarketClock) -> DailyRule:
    opens = draw(minutes_of_day)
    days = draw(st.frozensets(st.integers(0, 6), min_size=1))
    if draw(st.booleans()):
        lasts = draw(st.integers(1, 3 * 1440)) * MINUTE
        return DailyRule(clock=clock, days=days, opens=opens * MINUTE, lasts=lasts)
    closes = draw(st.integers(opens + 1, opens + 1440)) * MINUTE
    return DailyRule(clock=clock, days=days, opens=opens * MINUTE, closes=closes)


@lru_cache(maxsize=64)
def shown(clock: MarketClock, day: date) -> tuple[list[datetime], list[datetime]]:
    """Return the minutes around a day, and the wall time at each."""
    start = datetime.combine(day, time(), UTC) - timedelta(hours=45)
    instants_ = [start + step * MINUTE for step in range(135 * 60)]
    return instants_, [clock.wall(instant) for instant in instants_]


def first_shown(clock: MarketClock, wall: datetime, day: date) -> datetime:
    """Return the first minute at which the clock shows `wall` or later."""
    instants_, walls = shown(clock, day)
    if wall in walls:
        return instants_[walls.index(wall)]
    return next(instant for instant, seen in zip(instants_, walls, strict=True) if seen > wall)


def last_shown(clock: MarketClock, wall: datetime, day: date) -> datetime:
    instants_, walls = shown(clock, day)
    if wall in walls:
        return instants_[len(walls) - 1 - walls[::-1].index(wall)]
    return first_shown(clock, wall, day)


def by_definition(rule: DailyRule, day: date) -> Window | None:
    """Return the window of one day by reading the clock each minute."""
    if day.weekday() not in rule.days:
        return None
    midnight = datetime.combine(day, time())
    opens = first_shown(rule.clock, midnight + rule.opens, day)
    if rule.lasts is not None:
        return Window(opens, opens + rule.lasts)
    assert rule.closes is not None
    closes = last_shown(rule.clock, midnight + rule.closes, day)
    return Window(opens, closes) if opens < closes else None


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[DailyRule], list[DailyRule], datetime]:
    clock = draw(clocks)
    other = draw(st.one_of(st.just(clock), clocks))
    run = draw(st.lists(daily_rules(clock), min_size=1, max_size=3))
    run += draw(st.lists(daily_rules(other), max_size=1))
    rest = draw(st.lists(daily_rules(draw(st.sampled_from([clock, other]))), max_size=2))
    return run, rest, draw(instants(clock))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_wall_time_becomes_the_instant_that_reading_the_clock_gives(data: st.DataObject) -> None:
    clock = data.draw(clocks)
    wall = clock.wall(data.draw(instants(clock)))
    wall += data.draw(st.integers(-180, 180)) * MINUTE
    assert clock.instant(wall) == first_shown(clock, wall, wall.date())
    assert clock.instant(wall, end=True) == last_shown(clock, wall, wall.date())
    instants_, walls = shown(clock, wall.date())
    every = tuple(at for at, seen in zip(instants_, walls, strict=True) if seen == wall)
    assert clock.instants(wall) == every


@settings(max_examples=40, deadline=None)
@given(cases())
def test_an_instant_is_inside_if_and_only_if_the_union_contains_it(
    case: tuple[list[DailyRule], list[DailyRule], datetime],
) -> None:
    run, rest, instant = case
    found = timetable(*run, rest=tuple(rest))

    def inside(rules: list[DailyRule]) -> bool:
        days = [rule.clock.wall(instant).date() + step * DAY for rule in rules[:1] for step in range(-5, 2)]
        return any(
            (window := by_definition(rule, day)) is not None and instant in window
            for rule in rules
            for day in days
        )

    assert found.is_open(instant) == (inside(run) and not inside(rest))


def brute_force_boundary(levels: list[bool], start: datetime, instant: datetime) -> datetime | None:
    at = (instant - start) // MINUTE
    for step in range(at + 1, len(levels)):
        if levels[step] != levels[at]:
            return start + step * MINUTE
    return None


@settings(max_examples=40, deadline=None)
@given(cases())
def test_the_next_boundary_equals_a_scan_by_minutes(
    case: tuple[list[DailyRule], list[DailyRule], datetime],
) -> None:
    run, rest, instant = case
    start = instant - 9 * DAY
    fresh = timetable(*run, rest=tuple(rest))
    levels = [fresh.is_open(start + step * MINUTE) for step in range(18 * 1440)]
    expected = brute_force_boundary(levels, start, instant)
    assert timetable(*run, rest=tuple(rest)).next_boundary(instant, 9 * DAY - MINUTE) == expected
    before = [step for step in range(1, 9 * 1440 + 1) if levels[step] != levels[step - 1]]
    previous = timetable(*run, rest=tuple(rest)).previous_boundary(instant, 9 * DAY - MINUTE)
    assert previous == (start + before[-1] * MINUTE if before else None)


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(0, 60 * 1440))
def test_windows_are_sorted_and_disjoint_and_agree_with_is_open(
    case: tuple[list[DailyRule], list[DailyRule], datetime], length: int
) -> None:
    run, rest, start = case
    end = start + length * MINUTE
    found = timetable(*run, rest=tuple(rest))
    windows = found.windows(start, end)
    assert all(start <= window.opens < window.closes <= end for window in windows)
    assert all(earlier.closes < later.opens for earlier, later in itertools.pairwise(windows))
    for window in windows:
        assert found.is_open(window.opens)
        assert window.closes == end or not found.is_open(window.closes)
        assert window.opens == start or not found.is_open(window.opens - timedelta(microseconds=1))
        whole = found.window_at(window.opens)
        assert whole is not None
        assert whole.clip(start, end) == window


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_day_has_two_openings_of_one_daily_window(data: st.DataObject) -> None:
    clock = data.draw(clocks)
    opens = data.draw(minutes_of_day)
    rule = DailyRule(
        clock=clock, opens=opens * MINUTE, closes=data.draw(st.integers(opens + 1, opens + 720)) * MINUTE
    )
    start = data.draw(instants(clock)) - 5 * DAY
    openings = [window.opens for window in timetable(rule).windows(start, start + 30 * DAY)][1:]
    days = [clock.wall(at).date() for at in openings]
    assert len(set(days)) == len(days)


fractions = st.integers(0, 4_000).map(lambda seconds: FIRST + timedelta(seconds=seconds))
raw = st.lists(st.tuples(fractions, fractions).map(lambda pair: Window(*pair)), max_size=12)


@settings(deadline=None)
@given(raw, raw, fractions)
@example([Window(FIRST, FIRST + DAY)], [Window(FIRST, FIRST + DAY)], FIRST)
def test_union_and_difference_are_those_of_sets(run: list[Window], rest: list[Window], at: datetime) -> None:
    left = subtract(unite(run), unite(rest))
    inside = any(at in window for window in run) and not any(at in window for window in rest)
    assert any(at in window for window in left) == inside
    assert unite(left) == left


@settings(deadline=None)
@given(raw)
def test_tidied_windows_and_rests_are_long_enough(run: list[Window]) -> None:
    tidied = tidy(unite(run))
    assert all(window.lasts >= SHORTEST_WINDOW for window in tidied.windows)
    rests = [later.opens - earlier.closes for earlier, later in itertools.pairwise(tidied.windows)]
    assert all(rest >= SHORTEST_REST for rest in rests)
    everything = unite([*tidied.windows, *tidied.dropped])
    assert unite([*run, *tidied.bridged]) == everything


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_kind_of_rule_gives_the_same_in_any_span(data: st.DataObject) -> None:
    """A rule yields the same windows for a long span and for its parts."""
    clock = data.draw(clocks)
    start = data.draw(instants(clock))
    day = clock.wall(start).date()
    rules: list[Rule] = [
        data.draw(daily_rules(clock)),
        CronRule.parse(
            clock, data.draw(st.sampled_from(["30 2 * * *", "*/7 1-3 * * sun", "0 0 1 * *"])), 90 * MINUTE
        ),
        DatesRule(clock, ((day, day + data.draw(st.integers(0, 40)) * DAY),)),
        RolloverRule(data.draw(st.integers(1, 60)) * MINUTE, data.draw(st.integers(1, 60)) * MINUTE),
    ]
    rule = data.draw(st.sampled_from(rules))
    end = start + data.draw(st.integers(1, 20 * 1440)) * MINUTE
    long = unite(rule.windows(start - 40 * DAY, end + 40 * DAY, {}))
    short = unite(rule.windows(start, end, {}))
    assert _clipped(long, start, end) == _clipped(short, start, end)


def _clipped(windows: list[Window], start: datetime, end: datetime) -> list[Window]:
    at = bisect_right([window.closes for window in windows], start)
    return [part for window in windows[at:] if (part := window.clip(start, end)) is not None]
