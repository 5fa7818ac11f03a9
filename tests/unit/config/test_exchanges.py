"""Calendars of exchanges: prepared apart, kept, and missed with a reason."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from support.waiting import eventually

from manager.config.calendar_writer import NOT_INSTALLED, exchange_calendar
from manager.config.exchanges import ExchangeCalendars, prepare_calendar
from manager.market.calendars import MissingCalendarError

TODAY = date(2026, 11, 20)


def document(mic: str = "XNYS", opens: str = "2026-11-27T14:30:00Z") -> str:
    return json.dumps(
        {
            "mic": mic,
            "zone": "America/New_York",
            "first": "2026-11-01",
            "last": "2027-12-06",
            "sessions": {"2026-11-27": [[opens, "2026-11-27T18:00:00Z"]]},
        }
    )


#: exchange_calendars uses parts of pandas that pandas 4 will drop; they run in a process of their own.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_early_close_after_thanksgiving() -> None:
    found = exchange_calendar("XNYS", TODAY)
    (window,) = found.sessions[date(2026, 11, 27)]
    assert (window.opens, window.closes) == (
        datetime(2026, 11, 27, 14, 30, tzinfo=UTC),
        datetime(2026, 11, 27, 18, tzinfo=UTC),
    )
    assert date(2026, 11, 26) not in found.sessions, "Thanksgiving"
    assert found.ends > datetime(2026, 11, 20, tzinfo=UTC) + timedelta(days=400)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_lunch_break_makes_two_windows() -> None:
    found = exchange_calendar("XHKG", TODAY)
    hours = [(one.opens.hour, one.closes.hour) for one in found.sessions[date(2026, 11, 23)]]
    assert hours == [(1, 4), (5, 8)]


def test_the_process_that_prepares_a_calendar_keeps_pandas_out_of_ours() -> None:
    calendar = json.loads(prepare_calendar("XLON"))
    assert calendar["zone"] == "Europe/London"
    code = (
        "import sys, manager.config.exchanges as e; e.prepare_calendar('XLON'); "
        "print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_unknown_exchange_is_named_with_a_similar_one() -> None:
    with pytest.raises(ValueError, match=r"does not know it; did you mean XNYS\?"):
        prepare_calendar("XNYX")


def test_without_the_package_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexit {NOT_INSTALLED}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ValueError, match=r"pip install 'worker-manager\[calendars\]'"):
        prepare_calendar("XNYS")


class Prepared:
    """Counts what is prepared; fails while `error` is set."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error = ""

    def __call__(self, mic: str) -> str:
        self.asked.append(mic)
        if self.error:
            raise ValueError(self.error)
        return document(mic)


def test_a_calendar_is_prepared_once_a_day(tmp_path: Path) -> None:
    prepare, now = Prepared(), [1_000_000.0]
    calendars = ExchangeCalendars(tmp_path / "calendars", prepare=prepare, clock=lambda: now[0])
    assert calendars.of(["XNYS"])["XNYS"] is calendars.of(["XNYS"])["XNYS"]
    assert prepare.asked == ["XNYS"]
    now[0] += 90_000
    calendars.of(["XNYS"])
    assert prepare.asked == ["XNYS", "XNYS"]


def test_an_old_calendar_serves_while_a_new_one_cannot_be_prepared(tmp_path: Path) -> None:
    prepare, now = Prepared(), [1_000_000.0]
    directory = tmp_path / "calendars"
    ExchangeCalendars(directory, prepare=prepare, clock=lambda: now[0]).of(["XNYS"])
    prepare.error = "no memory"
    later = ExchangeCalendars(directory, prepare=prepare, clock=lambda: 10**11)
    assert later.of(["XNYS"])["XNYS"].mic == "XNYS"
    later.of(["XNYS"])
    assert len(prepare.asked) == 2, "a failure is not repeated at each question"


def test_a_missing_calendar_says_why(tmp_path: Path) -> None:
    prepare = Prepared()
    prepare.error = "no memory"
    with pytest.raises(MissingCalendarError, match="exchange XNYS: no memory"):
        ExchangeCalendars(tmp_path, prepare=prepare).of(["XNYS"])
    with pytest.raises(MissingCalendarError, match="not the code of an exchange"):
        ExchangeCalendars(tmp_path, prepare=prepare).of(["../../etc"])


def test_a_thread_that_may_not_wait_gets_it_a_moment_later(tmp_path: Path) -> None:
    prepare = Prepared()
    calendars = ExchangeCalendars(tmp_path, prepare=prepare)

    def asked() -> bool:
        try:
            return calendars.of(["XNYS"], wait=False)["XNYS"].mic == "XNYS"
        except MissingCalendarError as error:
            assert "being prepared" in str(error)
            return False

    eventually(asked)


@pytest.mark.parametrize("damage", [lambda path: path.write_text("{"), lambda path: path.write_text("[]")])
def test_a_damaged_file_is_prepared_again(tmp_path: Path, damage: "Callable[[Path], object]") -> None:
    prepare = Prepared()
    ExchangeCalendars(tmp_path, prepare=prepare).of(["XNYS"])
    damage(tmp_path / "XNYS.json")
    assert ExchangeCalendars(tmp_path, prepare=prepare).of(["XNYS"])["XNYS"].mic == "XNYS"
