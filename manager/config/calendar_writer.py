"""Writes the calendar of one exchange as JSON to standard output.

Run as a separate process, `python -m manager.config.calendar_writer XNYS`, because exchange_calendars loads
pandas: 67 MB that no agent should keep. Exit code 3: exchange_calendars is not installed; 4: it does not
know the exchange.
"""

import json
import sys
from datetime import UTC, date, datetime, timedelta
from importlib import import_module
from typing import Any, Final

from manager.market.calendars import ExchangeCalendar
from manager.market.clocks import MarketClock
from manager.market.schedules import HORIZON
from manager.market.windows import Window

NOT_INSTALLED: Final = 3
UNKNOWN_EXCHANGE: Final = 4

#: Days before today, and beyond the horizon of schedules: an answer reads whole chunks of days around it.
_MARGIN: Final = timedelta(days=40)


def exchange_calendar(mic: str, today: date) -> ExchangeCalendar:
    """Return the calendar of an exchange around `today`.

    Raises ImportError without exchange_calendars, ValueError for an unknown exchange.
    """
    exchange_calendars: Any = import_module("exchange_calendars")
    first, last = today - _MARGIN, today + HORIZON + _MARGIN
    try:
        found = exchange_calendars.get_calendar(mic, start=first.isoformat(), end=last.isoformat())
    except exchange_calendars.errors.InvalidCalendarName:
        known = exchange_calendars.get_calendar_names(include_aliases=False)
        raise ValueError(" ".join(name for name in known if len(name) == len(mic))) from None
    sessions: dict[date, tuple[Window, ...]] = {}
    for day, row in found.schedule.iterrows():
        opens, closes = _instant(row["open"]), _instant(row["close"])
        begin, end = row["break_start"], row["break_end"]
        paused = str(begin) != "NaT"
        sessions[day.date()] = (
            (Window(opens, _instant(begin)), Window(_instant(end), closes))
            if paused
            else (Window(opens, closes),)
        )
    return ExchangeCalendar(mic, MarketClock.parse(str(found.tz)), first, last, sessions)


def _instant(stamp: Any) -> datetime:
    return datetime.fromtimestamp(stamp.timestamp(), UTC)


def main(mic: str) -> int:
    """Write the calendar; return the exit code."""
    try:
        found = exchange_calendar(mic, datetime.now(UTC).date())
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return NOT_INSTALLED
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return UNKNOWN_EXCHANGE
    json.dump(found.to_document(), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
