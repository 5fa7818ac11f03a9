"""Decisions: desired state, override and schedule at one instant."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.market import NEW_YORK, daily, timetable, utc

from manager.market.decisions import (
    Action,
    Decision,
    Override,
    OverrideKind,
    decide,
    override_end,
    show_instant,
)
from manager.market.schedules import Outside, Timetable
from manager.market.sessions import SESSIONS, session_timetable

FX = session_timetable("fx")
WEDNESDAY, SATURDAY = utc("2026-11-25 12:00"), utc("2026-11-28 12:00")
SUNDAY_OPEN = utc("2026-11-29 22:00")
MINUTE = timedelta(minutes=1)


def at(now: datetime, table: Timetable = FX, override: Override | None = None) -> Decision:
    return decide(table, "account-001", now, desired_running=True, override=override)


def overrule(kind: str, until: datetime, made: datetime = WEDNESDAY) -> Override:
    return Override(kind=OverrideKind(kind), at=made, until=until, by="dealer", reason="broker maintenance")


def test_inside_its_window_an_account_runs() -> None:
    decision = at(WEDNESDAY)
    assert decision.action is Action.RUN
    assert decision.runs
    assert decision.text == "runs until Fri 27 Nov 17:00 New York (schedule fx)"
    assert (decision.since, decision.until) == (utc("2026-11-22 22:00"), utc("2026-11-27 22:00"))
    assert decision.resting() is None


def test_outside_it_rests_until_the_next_opening() -> None:
    decision = at(SATURDAY)
    assert decision.action is Action.REST
    assert not decision.runs
    assert decision.text == "rests until Sun 29 Nov 17:00 New York (schedule fx)"
    assert decision.since == utc("2026-11-27 22:00")
    assert decision.resting() == {
        "for": "schedule",
        "until": "2026-11-29T22:00:00+00:00",
        "text": decision.text,
        "unmet": [],
    }


def test_a_stop_beats_override_and_schedule() -> None:
    decision = decide(
        FX, "account-001", WEDNESDAY, desired_running=False, override=overrule("run", SUNDAY_OPEN)
    )
    assert (decision.action, decision.until, decision.resting()) == (Action.STOP, None, None)


def test_a_schedule_that_never_changes() -> None:
    assert (
        at(WEDNESDAY, session_timetable("crypto")).text == "runs, no change within 400 days (schedule crypto)"
    )
    never = timetable(daily(NEW_YORK, "08:00", "16:00"), rest=(daily(NEW_YORK, "00:00", "24:00"),))
    assert at(WEDNESDAY, never).text == "rests, no change within 400 days (its schedule)"
    resting = at(WEDNESDAY, never).resting()
    assert resting is not None
    assert resting["until"] is None


@pytest.mark.parametrize("outside", list(Outside))
def test_what_an_account_does_outside_its_window(outside: Outside) -> None:
    found = at(utc("2026-11-25 04:00"), timetable(daily(NEW_YORK, "08:00", "16:00"), outside=outside))
    actions = {"stop": Action.REST, "pause": Action.PAUSE, "close_only": Action.CLOSE_ONLY}
    assert found.action is actions[outside]
    assert found.runs is (outside is not Outside.STOP)
    assert (found.resting() is None) is found.runs
    assert found.until == utc("2026-11-25 13:00")


def test_it_is_connected_before_its_window_opens() -> None:
    table = timetable(daily(NEW_YORK, "08:00", "16:00"), lead=2 * MINUTE)
    opening = utc("2026-11-25 13:00")
    assert at(opening - 2 * MINUTE - timedelta(microseconds=1), table).action is Action.REST
    waiting = at(opening - 2 * MINUTE, table)
    assert (waiting.action, waiting.until) == (Action.WAIT, opening)
    assert waiting.since == opening - 2 * MINUTE
    assert waiting.text == "connected, sends no order until Wed 25 Nov 08:00 New York (its schedule)"
    assert at(opening, table).action is Action.RUN
    assert at(utc("2026-11-24 22:00"), table).until == opening - 2 * MINUTE


def test_a_rest_shorter_than_the_lead_keeps_the_session() -> None:
    table = timetable(daily(NEW_YORK, "08:00", "12:00"), daily(NEW_YORK, "12:01", "16:00"), lead=2 * MINUTE)
    assert at(utc("2026-11-25 16:59"), table).until == utc("2026-11-25 17:00")
    assert at(utc("2026-11-25 17:00"), table).action is Action.WAIT


def test_starts_are_spread_and_every_host_spreads_them_alike() -> None:
    schedule = timetable(spread=MINUTE, lead=2 * MINUTE).schedule
    starts = [schedule.head_start(f"account-{number:03}") for number in range(1000)]
    assert starts == [schedule.head_start(f"account-{number:03}") for number in range(1000)]
    assert schedule.head_start("account-001") == timedelta(minutes=2, seconds=7.285)
    assert min(starts) >= 2 * MINUTE
    assert max(starts) < 3 * MINUTE
    tenths = [
        sum(1 for start in starts if (start - 2 * MINUTE) // timedelta(seconds=6) == tenth)
        for tenth in range(10)
    ]
    assert min(tenths) > 60


def test_an_override_has_an_end() -> None:
    rest = overrule("rest", utc("2026-11-25 18:00"))
    decision = at(WEDNESDAY, override=rest)
    assert (decision.action, decision.override, decision.since) == (Action.REST, rest, WEDNESDAY)
    assert decision.text == "rests until Wed 25 Nov 13:00 New York (override by dealer: broker maintenance)"
    after = at(rest.until, override=rest)
    assert (after.action, after.override, after.since) == (Action.RUN, None, rest.until)
    assert after.text == at(rest.until).text


def test_an_override_that_ends_outside_a_window_names_the_opening() -> None:
    decision = at(WEDNESDAY, override=overrule("rest", utc("2026-11-28 18:00")))
    assert decision.until == SUNDAY_OPEN
    run = at(SATURDAY, override=overrule("run", SUNDAY_OPEN + MINUTE))
    assert (run.action, run.until) == (Action.RUN, utc("2026-12-04 22:00"))


def test_where_an_override_until_next_ends() -> None:
    assert override_end(FX, "a", OverrideKind.RUN, SATURDAY) == SUNDAY_OPEN
    assert override_end(FX, "a", OverrideKind.RUN, WEDNESDAY) == utc("2026-11-27 22:00")
    assert override_end(FX, "a", OverrideKind.REST, WEDNESDAY) == SUNDAY_OPEN
    assert override_end(session_timetable("always"), "a", OverrideKind.REST, WEDNESDAY) is None
    table = timetable(daily(NEW_YORK, "08:00", "16:00"), lead=2 * MINUTE)
    opening = utc("2026-11-25 13:00")
    assert override_end(table, "a", OverrideKind.REST, utc("2026-11-25 04:00")) == opening - 2 * MINUTE
    # Already connected for the window that opens in a minute: that one is skipped.
    next_day = opening + timedelta(days=1) - 2 * MINUTE
    assert override_end(table, "a", OverrideKind.REST, opening - MINUTE) == next_day


overrides = st.one_of(
    st.none(),
    st.builds(
        lambda kind, start, lasts: Override(
            kind=kind, at=WEDNESDAY + start * MINUTE, until=WEDNESDAY + (start + lasts) * MINUTE
        ),
        st.sampled_from(OverrideKind),
        st.integers(-5_000, 0),
        st.integers(1, 20_000),
    ),
)
tables = st.sampled_from(
    [
        FX,
        session_timetable("metals"),
        session_timetable("always"),
        timetable(
            daily(NEW_YORK, "08:00", "12:00"),
            daily(NEW_YORK, "12:03", "24:00"),
            lead=5 * MINUTE,
            spread=MINUTE,
        ),
        timetable(*SESSIONS["london"].run, outside=Outside.PAUSE, lead=2 * MINUTE),
    ]
)


@settings(deadline=None)
@given(tables, overrides, st.integers(0, 20_000), st.data())
def test_the_action_holds_until_its_end_and_changes_there(
    table: Timetable, override: Override | None, minutes: int, data: st.DataObject
) -> None:
    now = WEDNESDAY + minutes * MINUTE
    decision = at(now, table, override)
    end = decision.until or now + timedelta(days=30)
    between = now + (end - now) * data.draw(st.floats(0, 0.9999))
    assert at(between, table, override).action is decision.action
    if decision.until is not None:
        assert at(decision.until, table, override).action is not decision.action


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        ("2026-11-29 22:00", "Sun 29 Nov 17:00 New York"),
        ("2026-11-01 16:30:15", "Sun 1 Nov 11:30:15 New York"),
        ("2027-01-03 22:00", "Sun 3 Jan 2027 17:00 New York"),
        ("2026-11-01 06:30", "Sun 1 Nov 01:30 New York (06:30 UTC)"),
    ],
)
def test_how_an_instant_is_shown(instant: str, text: str) -> None:
    assert show_instant(utc(instant), NEW_YORK, WEDNESDAY) == text
