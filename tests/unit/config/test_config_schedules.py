"""Schedules as files have them, and the parsed form."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.market import spans, utc

from manager.config.models_schedule import ScheduleConfig
from manager.config.schedules import ScheduleBook
from manager.market.calendars import ExchangeCalendar
from manager.market.schedules import AtEndPositions, Outside, Timetable
from manager.market.sessions import SESSIONS

CALENDARS = Path(__file__).parents[2] / "fixtures" / "calendars"
FULL: dict[str, Any] = {
    "clock": "America/New_York+7h",
    "run": [
        {"session": "fx"},
        {"days": "mon-fri", "from": "08:00", "to": "16:30"},
        {"days": ["sun"], "from": "22:00", "for": "10h"},
        {"cron": "30 9 * * mon-fri", "for": "6h30m"},
        {"exchange": "XNYS"},
    ],
    "except": [
        {"dates": ["2026-12-25", "2026-12-31..2027-01-02"]},
        {"holidays": "XNYS"},
        {"rollover": {"before": "10m", "after": "20m", "days": ["wed"]}},
    ],
    "lead": "2m",
    "spread": "1m",
    "at_end": {"positions": "wait_flat", "wait": "30m"},
    "outside": "pause",
}
DAY = {"clock": "America/New_York", "run": [{"days": "mon-fri", "from": "08:00", "to": "16:30"}]}


def read(data: dict[str, Any]) -> ScheduleConfig:
    return ScheduleConfig.model_validate(data)


def book(**entries: dict[str, Any]) -> ScheduleBook:
    return ScheduleBook({name.replace("_", "-"): read(data) for name, data in entries.items()})


def openings(table: Timetable) -> list[tuple[str, str]]:
    return spans(table.windows(utc("2026-11-25 00:00"), utc("2026-11-27 00:00")))


def test_every_key_is_read() -> None:
    schedule = book().build(read(FULL))
    assert (len(schedule.run), len(schedule.rest)) == (5, 3)
    assert (schedule.lead, schedule.spread) == (timedelta(minutes=2), timedelta(minutes=1))
    assert (schedule.at_end, schedule.at_end_wait) == (AtEndPositions.WAIT_FLAT, timedelta(minutes=30))
    assert schedule.outside is Outside.PAUSE
    calendar = ExchangeCalendar.from_document(json.loads((CALENDARS / "XNYS.json").read_text()))
    table = Timetable(schedule, {"XNYS": calendar})
    assert openings(table) == [
        ("2026-11-25 00:00", "2026-11-25 21:50"),
        ("2026-11-25 22:20", "2026-11-26 05:00"),
    ]
    # Friday 25 December on the broker's clock begins at 17:00 of the day before in New York.
    assert table.next_close(utc("2026-12-24 12:00")) == utc("2026-12-24 22:00")


def test_what_is_written_as_json_is_read_again() -> None:
    config = read(FULL)
    written = json.loads(json.dumps(config.model_dump(mode="json", by_alias=True, exclude_none=True)))
    assert read(written) == config
    assert {key: written[key] for key in ("clock", "run", "except", "lead", "spread")} == {
        **{key: FULL[key] for key in ("clock", "except", "lead", "spread")},
        "run": [
            FULL["run"][0],
            {**FULL["run"][1], "days": ["mon", "tue", "wed", "thu", "fri"]},
            *FULL["run"][2:],
        ],
    }


def test_nothing_written_runs_always() -> None:
    schedule = book().build(read({}))
    assert Timetable(schedule).next_boundary(utc("2026-11-25 00:00")) is None
    assert (schedule.lead, schedule.spread, schedule.outside) == (timedelta(), timedelta(), Outside.STOP)


def test_a_close_that_is_not_later_belongs_to_the_next_day() -> None:
    night = {"clock": "UTC", "run": [{"from": "22:00", "to": "06:00"}]}
    assert openings(Timetable(book().build(read(night)))) == [
        ("2026-11-25 00:00", "2026-11-25 06:00"),
        ("2026-11-25 22:00", "2026-11-26 06:00"),
        ("2026-11-26 22:00", "2026-11-27 00:00"),
    ]
    whole = {"clock": "UTC", "run": [{"days": "wed", "from": "00:00", "to": "24:00"}]}
    assert openings(Timetable(book().build(read(whole)))) == [("2026-11-25 00:00", "2026-11-26 00:00")]


def test_a_name_is_an_entry_or_a_session() -> None:
    names = book(london_desk=DAY)
    assert names.named("london-desk").name == "london-desk"
    assert names.named("fx") is SESSIONS["fx"]
    with pytest.raises(
        ValueError, match=r"'london-dsk' is not a schedule or a session; did you mean london-desk\?"
    ):
        names.named("london-dsk")


def test_an_entry_builds_on_another_and_replaces_its_keys() -> None:
    names = book(base={**DAY, "lead": "5m"}, late={"use": "base", "lead": "1m", "outside": "pause"})
    late = names.named("late")
    assert (late.lead, late.outside) == (timedelta(minutes=1), Outside.PAUSE)
    assert late.run == names.named("base").run
    own = names.build(read({"use": "late", "clock": "Europe/London"}))
    assert openings(Timetable(own))[0] == ("2026-11-25 08:00", "2026-11-25 16:30")


def test_an_entry_replaces_a_session_everywhere_but_in_itself() -> None:
    names = book(fx={"use": "fx", "except": [{"dates": ["2026-11-26"]}]}, desk={"run": [{"session": "fx"}]})
    for name in ("fx", "desk"):
        assert openings(Timetable(names.named(name))) == [("2026-11-25 00:00", "2026-11-26 05:00")]


@pytest.mark.parametrize(
    "entries",
    [
        {"a": {"use": "a"}},
        {"a": {"use": "b"}, "b": {"use": "a"}},
        {"a": {"use": "b"}, "b": {"run": [{"session": "a"}]}},
        {"fx": {"run": [{"session": "metals"}]}, "metals": {"run": [{"session": "fx"}]}},
    ],
)
def test_a_circle_is_an_error_that_names_it(entries: dict[str, dict[str, Any]]) -> None:
    names = book(**entries)
    first = next(iter(entries))
    with pytest.raises(ValueError, match=rf"in a circle: {first} → (.* → )?{first}"):
        names.named(first)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"run": []}, "run is an empty list"),
        ({"clock": "America/NewYork"}, "did you mean America/New_York"),
        ({"run": [{}]}, "exactly one of session, from, cron and exchange; it has none"),
        ({"run": [{"session": "fx", "exchange": "XNYS"}]}, "it has session and exchange"),
        ({"run": [{"from": "08:00"}]}, "from needs exactly one of to and for"),
        ({"run": [{"from": "08:00", "to": "09:00", "for": "1h"}]}, "from needs exactly one of to and for"),
        ({"run": [{"from": "24:00", "to": "01:00"}]}, "must be from 00:00 to 23:59"),
        ({"run": [{"from": 480, "to": "09:00"}]}, "hours and minutes in quotes"),
        ({"run": [{"cron": "30 9 * * *"}]}, "cron needs for"),
        ({"run": [{"cron": "30 9 * * *", "for": "59s"}]}, "a window lasts at least 60s"),
        ({"run": [{"from": "08:00", "for": "32d"}]}, "for is at most 744h"),
        ({"run": [{"session": "fx", "days": "mon"}]}, "days has no meaning beside session"),
        ({"run": [{"session": "fx", "for": "1h"}]}, "for has no meaning beside session"),
        ({"run": [{"days": 5, "from": "08:00", "to": "09:00"}]}, "days are written as mon-fri"),
        ({"except": [{}]}, "exactly one of dates, holidays and rollover; it has none"),
        ({"except": [{"dates": []}]}, "dates is an empty list"),
        ({"except": [{"dates": ["2026-13-01"]}]}, "is not a day of the calendar"),
        ({"except": [{"rollover": {"before": "10s"}}]}, "at least 30s"),
        ({"except": [{"rollover": {"before": "10m", "days": ["sat"]}}]}, "no rollover on Saturday"),
        ({"lead": "2d"}, "lead is at most 24h"),
        ({"lead": 120}, "a number with its unit"),
        ({"at_end": {"wait": "8d"}}, "wait is at most 168h"),
        ({"outside": "flatten"}, "Input should be 'stop', 'pause' or 'close_only'"),
        ({"windows": []}, "Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_with_a_schedule(data: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        {"run": [{"from": "08:00", "to": "09:00"}]},
        {"run": [{"cron": "30 9 * * *", "for": "1h"}]},
        {"except": [{"dates": ["2026-12-25"]}]},
    ],
)
def test_a_time_needs_a_clock(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="clock is missing"):
        book().build(read(data))
    assert book().build(read({**data, "clock": "UTC"})).clock is not None


def test_a_wrong_cron_expression_is_reported() -> None:
    data = {"clock": "UTC", "run": [{"cron": "61 9 * * *", "for": "1h"}]}
    with pytest.raises(ValueError, match="bad minute"):
        book().build(read(data))
