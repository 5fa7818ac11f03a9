"""Exchange calendars and rollovers."""

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.market import spans, timetable, utc

from manager.market.calendars import ExchangeCalendar, ExchangeRule, HolidaysRule, MissingCalendarError
from manager.market.rollover import RolloverRule, rollovers
from manager.market.schedules import SessionRule
from manager.market.sessions import SESSIONS

DOCUMENT = json.loads((Path(__file__).parents[2] / "fixtures" / "calendars" / "XNYS.json").read_text())
XNYS = {"XNYS": ExchangeCalendar.from_document(DOCUMENT)}


def test_a_calendar_can_be_written_and_read() -> None:
    assert XNYS["XNYS"].to_document() == DOCUMENT
    assert ExchangeCalendar.from_document(XNYS["XNYS"].to_document()) == XNYS["XNYS"]


def test_a_holiday_is_a_whole_day_of_the_exchange() -> None:
    found = timetable(HolidaysRule("XNYS"), calendars=XNYS)
    assert spans(found.windows(utc("2026-11-24 00:00"), utc("2026-11-30 12:00"))) == [
        ("2026-11-26 05:00", "2026-11-27 05:00"),
        ("2026-11-28 05:00", "2026-11-30 05:00"),
    ]


def test_holidays_are_taken_out_of_a_session() -> None:
    found = timetable(SessionRule(SESSIONS["fx"]), rest=(HolidaysRule("XNYS"),), calendars=XNYS)
    assert not found.is_open(utc("2026-12-25 15:00"))
    assert found.is_open(utc("2026-12-24 15:00"))
    assert found.next_boundary(utc("2026-12-25 15:00")) == utc("2026-12-28 05:00")


def test_a_break_makes_two_windows_of_one_session() -> None:
    document = {
        "mic": "XHKG",
        "zone": "Asia/Hong_Kong",
        "first": "2026-11-20",
        "last": "2026-11-20",
        "sessions": {
            "2026-11-20": [
                ["2026-11-20T01:30:00Z", "2026-11-20T04:00:00Z"],
                ["2026-11-20T05:00:00Z", "2026-11-20T08:00:00Z"],
            ]
        },
    }
    found = timetable(ExchangeRule("XHKG"), calendars={"XHKG": ExchangeCalendar.from_document(document)})
    assert [found.is_open(utc(f"2026-11-20 {at}")) for at in ("03:59", "04:00", "04:59", "05:00")] == [
        True, False, False, True,
    ]  # fmt: skip


def test_after_its_end_a_calendar_opens_nothing_and_closes_nothing() -> None:
    assert XNYS["XNYS"].ends == utc("2027-01-09 05:00")
    span = utc("2027-01-09 05:00"), utc("2027-03-01 00:00")
    assert timetable(ExchangeRule("XNYS"), calendars=XNYS).windows(*span) == []
    assert timetable(HolidaysRule("XNYS"), calendars=XNYS).windows(*span) == []


@pytest.mark.parametrize("rule", [ExchangeRule("XLON"), HolidaysRule("XLON")])
def test_a_missing_calendar_is_an_error_and_not_a_closed_market(rule: Any) -> None:
    with pytest.raises(MissingCalendarError, match="XLON is not prepared on this host"):
        timetable(rule, calendars=XNYS).is_open(utc("2026-11-26 00:00"))


@pytest.mark.parametrize(
    "change",
    [
        {"zone": "Mars/Base"},
        {"sessions": []},
        {"sessions": {"2026-11-27": []}},
        {"sessions": {"2026-11-27": [["2026-11-27T18:00:00Z", "2026-11-27T14:30:00Z"]]}},
        {"sessions": {"2026-11-27": [["2026-11-27T14:30:00", "2026-11-27T18:00:00"]]}},
        {"sessions": {"2025-11-27": [["2025-11-27T14:30:00Z", "2025-11-27T18:00:00Z"]]}},
        {"first": None},
    ],
)
def test_a_malformed_document_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the prepared calendar"):
        ExchangeCalendar.from_document({**DOCUMENT, **change})


def test_a_week_of_rollovers_books_seven_nights() -> None:
    week = list(rollovers(utc("2026-11-22 00:00"), utc("2026-11-29 00:00")))
    assert [(rollover.day, rollover.nights) for rollover in week] == [
        (date(2026, 11, 23) + timedelta(days=step), 3 if step == 2 else 1) for step in range(5)
    ]
    assert {rollover.at.hour for rollover in week} == {22}
    summer = next(rollovers(utc("2026-07-06 00:00"), utc("2026-07-08 00:00")))
    assert summer.at == utc("2026-07-06 21:00")


def test_a_broker_may_book_three_nights_on_another_day() -> None:
    week = rollovers(utc("2026-11-22 00:00"), utc("2026-11-29 00:00"), triple_day=4)
    assert [rollover.nights for rollover in week] == [1, 1, 1, 1, 3]


def test_a_pause_around_the_rollover() -> None:
    rule = RolloverRule(timedelta(minutes=10), timedelta(minutes=20))
    found = timetable(SessionRule(SESSIONS["fx"]), rest=(rule,))
    assert spans(found.windows(utc("2026-11-25 12:00"), utc("2026-11-26 12:00"))) == [
        ("2026-11-25 12:00", "2026-11-25 21:50"),
        ("2026-11-25 22:20", "2026-11-26 12:00"),
    ]
    triple = RolloverRule(timedelta(minutes=10), timedelta(minutes=20), frozenset({2}))
    assert len(timetable(triple).windows(utc("2026-11-01 00:00"), utc("2026-11-29 00:00"))) == 4
