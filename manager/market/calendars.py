"""Exchange calendars: trading hours with holidays and early closes.

A calendar is prepared in advance and read from a document.

The document is JSON: `{"mic": "XNYS", "zone": "America/New_York", "first": "2026-11-01", "last":
"2027-12-06", "sessions": {"2026-11-27": [["2026-11-27T14:30:00Z", "2026-11-27T18:00:00Z"]]}}`. A session with
a lunch break has two windows. Only days from `first` to `last` are known.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any, Final, Self

from manager.market.clocks import MarketClock
from manager.market.windows import Window, as_utc

_DAY: Final = timedelta(days=1)


class MissingCalendarError(ValueError):
    """Raised when this host lacks an exchange calendar of a schedule."""


@dataclass(frozen=True)
class ExchangeCalendar:
    """The sessions of one exchange, for each day from `first` to `last`.

    Both days are included. Days are those of the exchange's clock.
    """

    mic: str
    clock: MarketClock
    first: date
    last: date
    #: Day → its windows: one, or several around breaks. Days without an entry have no session.
    sessions: Mapping[date, tuple[Window, ...]] = field(hash=False)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read a prepared document. Raises ValueError if it is malformed."""
        try:
            sessions = {
                date.fromisoformat(day): tuple(
                    Window(as_utc(datetime.fromisoformat(opens)), as_utc(datetime.fromisoformat(closes)))
                    for opens, closes in windows
                )
                for day, windows in document["sessions"].items()
            }
            found = cls(
                str(document["mic"]),
                MarketClock.parse(str(document["zone"])),
                date.fromisoformat(document["first"]),
                date.fromisoformat(document["last"]),
                dict(sorted(sessions.items())),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as problem:
            raise ValueError(f"the prepared calendar cannot be read: {problem!r}") from problem
        found._check()
        return found

    def to_document(self) -> dict[str, Any]:
        """Return the document that `from_document` reads."""
        return {
            "mic": self.mic,
            "zone": str(self.clock),
            "first": self.first.isoformat(),
            "last": self.last.isoformat(),
            "sessions": {
                day.isoformat(): [[_stamp(window.opens), _stamp(window.closes)] for window in windows]
                for day, windows in self.sessions.items()
            },
        }

    def _check(self) -> None:
        for day, windows in self.sessions.items():
            if not self.first <= day <= self.last:
                raise ValueError(f"the prepared calendar {self.mic} has a session on {day}, outside its span")
            if not windows or any(window.opens >= window.closes for window in windows):
                raise ValueError(f"the prepared calendar {self.mic} has an empty session on {day}")

    @property
    def ends(self) -> datetime:
        """The end of the calendar's last day, as an instant."""
        return self.clock.midnight(self.last + _DAY)

    @cached_property
    def trading(self) -> tuple[Window, ...]:
        """The windows of all sessions, sorted."""
        return tuple(window for windows in self.sessions.values() for window in windows)

    @cached_property
    def closed_days(self) -> tuple[Window, ...]:
        """One window for each whole day without a session, weekends included."""
        days = ((self.last - self.first) // _DAY) + 1
        closed = (self.first + _DAY * step for step in range(days))
        return tuple(
            Window(self.clock.midnight(day), self.clock.midnight(day + _DAY, end=True))
            for day in closed
            if day not in self.sessions
        )


#: Prepared calendars by the code of their exchange (`XNYS`).
Calendars = Mapping[str, ExchangeCalendar]


def _stamp(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def find_calendar(mic: str, calendars: Calendars) -> ExchangeCalendar:
    """Return the calendar of an exchange. Raises MissingCalendarError."""
    found = calendars.get(mic)
    if found is None:
        raise MissingCalendarError(f"the calendar of exchange {mic} is not prepared on this host")
    return found


@dataclass(frozen=True, slots=True)
class ExchangeRule:
    """The trading hours of an exchange; no windows after its calendar ends."""

    mic: str
    clock: MarketClock | None = None

    def windows(self, start: datetime, end: datetime, calendars: Calendars) -> Iterator[Window]:
        """Yield the exchange's windows. Raises MissingCalendarError."""
        yield from _inside(find_calendar(self.mic, calendars).trading, start, end)

    def __str__(self) -> str:
        return f"exchange {self.mic}"


@dataclass(frozen=True, slots=True)
class HolidaysRule:
    """The days without a session, on the exchange's clock.

    There are no windows after the calendar ends.
    """

    mic: str
    clock: MarketClock | None = None

    def windows(self, start: datetime, end: datetime, calendars: Calendars) -> Iterator[Window]:
        """Yield the days. Raises MissingCalendarError."""
        yield from _inside(find_calendar(self.mic, calendars).closed_days, start, end)

    def __str__(self) -> str:
        return f"holidays {self.mic}"


def _inside(windows: tuple[Window, ...], start: datetime, end: datetime) -> Iterator[Window]:
    for window in windows:
        if window.opens >= end:
            return
        if window.closes > start:
            yield window
