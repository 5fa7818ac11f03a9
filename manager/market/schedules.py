"""Schedules, and timetables that evaluate them.

A schedule is data. A timetable is a schedule with the exchange calendars that it needs. It computes windows
in chunks of a few days and caches the latest, so that an answer is a search in a short list.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Final

from manager.market.calendars import Calendars, ExchangeRule, HolidaysRule
from manager.market.clocks import MarketClock
from manager.market.rules import AlwaysRule, Rule
from manager.market.windows import Tidied, Window, as_utc, clip, subtract, tidy, unite

#: How far ahead a timetable searches for an opening or close; prepared calendars cover as much.
HORIZON: Final = timedelta(days=400)

#: A weekly window needs one or two chunks; computing a chunk takes about a millisecond.
_CHUNK: Final = timedelta(days=16)
#: Chunks are computed with this margin, so that rests and windows at their edges are complete.
_PAD: Final = timedelta(hours=1)
_KEPT_CHUNKS: Final = 64
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class AtEndPositions(StrEnum):
    """What happens to open positions when a window closes."""

    KEEP = "keep"
    CLOSE = "close"
    #: Close-only until the account is flat or the wait is over; then `execution.open_positions` applies.
    WAIT_FLAT = "wait_flat"


class Outside(StrEnum):
    """What an account does outside its windows."""

    STOP = "stop"
    PAUSE = "pause"
    CLOSE_ONLY = "close_only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When an account runs: inside any of `run` and outside all of `rest`."""

    #: Its name; empty for a schedule in an account file.
    name: str = ""
    run: tuple[Rule, ...] = (AlwaysRule(),)
    rest: tuple[Rule, ...] = ()
    clock: MarketClock | None = None
    #: The account is connected this long before a window opens.
    lead: timedelta = timedelta()
    #: Starts of many accounts are spread over this long before the lead.
    spread: timedelta = timedelta()
    at_end: AtEndPositions = AtEndPositions.KEEP
    #: Maximum wait of `wait_flat`.
    at_end_wait: timedelta = timedelta(minutes=30)
    outside: Outside = Outside.STOP

    @property
    def display_clock(self) -> MarketClock:
        """The clock of displayed times: its own, else its first rule's, else UTC."""
        clocks = (self.clock, *(rule.clock for rule in (*self.run, *self.rest)))
        return next((clock for clock in clocks if clock is not None), MarketClock("UTC"))

    @property
    def title(self) -> str:
        """The name of the schedule in messages."""
        return f"schedule {self.name}" if self.name else "its schedule"

    def head_start(self, account_id: str) -> timedelta:
        """Return how long before an opening this account starts.

        It is the lead plus the account's part of the spread.

        Every host computes the same value.
        """
        spread_ms = self.spread // timedelta(milliseconds=1)
        if not spread_ms:
            return self.lead
        number = int.from_bytes(sha256(account_id.encode()).digest()[:8], "big")
        return self.lead + timedelta(milliseconds=number % spread_ms)


def raw_windows(schedule: Schedule, start: datetime, end: datetime, calendars: Calendars) -> list[Window]:
    """Return `run` without `rest` in `[start, end)`, short windows included."""
    run, rest = (
        unite(clip((window for rule in rules for window in rule.windows(start, end, calendars)), start, end))
        for rules in (schedule.run, schedule.rest)
    )
    return subtract(run, rest)


@dataclass(frozen=True, slots=True)
class SessionRule:
    """The windows of another schedule, on that schedule's clock."""

    session: Schedule

    @property
    def clock(self) -> MarketClock | None:
        """The clock of the other schedule."""
        return self.session.display_clock

    def windows(self, start: datetime, end: datetime, calendars: Calendars) -> Iterator[Window]:
        """Yield the other schedule's windows, clipped to the span."""
        yield from raw_windows(self.session, start, end, calendars)

    def __str__(self) -> str:
        return f"session {self.session.name}"


def leaves(rules: tuple[Rule, ...]) -> Iterator[Rule]:
    """Yield the rules that use no other schedule, those of named schedules included."""
    for rule in rules:
        if isinstance(rule, SessionRule):
            yield from leaves((*rule.session.run, *rule.session.rest))
        else:
            yield rule


def exchanges_of(schedule: Schedule) -> frozenset[str]:
    """Return the codes of the exchanges whose calendars a schedule needs."""
    return frozenset(
        rule.mic
        for rule in leaves((*schedule.run, *schedule.rest))
        if isinstance(rule, ExchangeRule | HolidaysRule)
    )


class Timetable:
    """Computes when a schedule is open.

    Thread-safe and immutable except for a cache. Instants must be aware.
    Methods raise MissingCalendarError if the schedule needs a calendar that was not given.
    """

    def __init__(self, schedule: Schedule, calendars: Calendars | None = None) -> None:
        self.schedule = schedule
        self.calendars: Calendars = dict(calendars or {})
        self._chunks: dict[int, tuple[list[datetime], list[Window]]] = {}

    def is_open(self, instant: datetime) -> bool:
        """Return whether `instant` is inside a window."""
        return self._part(as_utc(instant)) is not None

    def window_at(self, instant: datetime) -> Window | None:
        """Return the whole window around `instant`, or None if outside.

        Its ends are at most `HORIZON` away.
        """
        if not self.is_open(instant):
            return None
        opens = self.previous_boundary(instant) or as_utc(instant) - HORIZON
        return Window(opens, self.next_boundary(instant) or as_utc(instant) + HORIZON)

    def next_boundary(self, instant: datetime, within: timedelta = HORIZON) -> datetime | None:
        """Return the next opening or close after `instant`.

        Returns None if the schedule does neither `within` that time.
        """
        now = as_utc(instant)
        level, limit = self.is_open(now), now + within
        while now <= limit:
            boundary = self._next_in_chunk(now, level)
            if boundary is not None:
                return boundary if boundary <= limit else None
            now = _chunk_start(_chunk_of(now) + 1)
            # The schedule may open or close exactly where two chunks meet.
            if now <= limit and self.is_open(now) != level:
                return now
        return None

    def previous_boundary(self, instant: datetime, within: timedelta = HORIZON) -> datetime | None:
        """Return the last opening or close until `instant`, itself included.

        Returns None if there was none `within` that time.
        """
        now = as_utc(instant)
        level, limit = self.is_open(now), now - within
        while now >= limit:
            start = _chunk_start(_chunk_of(now))
            since = self._since_in_chunk(now, level)
            if since > start or self._level_before(start) != level:
                return since if since >= limit else None
            now = start - timedelta(microseconds=1)
        return None

    def next_opening(self, instant: datetime, within: timedelta = HORIZON) -> datetime | None:
        """Return the next opening after `instant`; None if none `within`."""
        return self._next(instant, within, opening=True)

    def next_close(self, instant: datetime, within: timedelta = HORIZON) -> datetime | None:
        """Return the next close after `instant`; None if none `within`."""
        return self._next(instant, within, opening=False)

    def _next(self, instant: datetime, within: timedelta, *, opening: bool) -> datetime | None:
        boundary = self.next_boundary(instant, within)
        if boundary is None or self.is_open(boundary) == opening:
            return boundary
        return self.next_boundary(boundary, within - (boundary - as_utc(instant)))

    def windows(self, start: datetime, end: datetime) -> list[Window]:
        """Return the windows in `[start, end)`, clipped to it.

        They are sorted and disjoint, and do not touch.
        """
        start, end = as_utc(start), as_utc(end)
        if start >= end:
            return []
        chunks = range(_chunk_of(start), _chunk_of(end) + 1)
        return unite(clip((window for number in chunks for window in self._chunk(number)[1]), start, end))

    def tidied(self, start: datetime, end: datetime) -> Tidied:
        """Return the windows in `[start, end)`, and what tidying changed."""
        return tidy(raw_windows(self.schedule, as_utc(start), as_utc(end), self.calendars))

    def _part(self, now: datetime) -> Window | None:
        """Return the part of the window around `now` in its chunk."""
        openings, windows = self._chunk(_chunk_of(now))
        at = bisect_right(openings, now) - 1
        return windows[at] if at >= 0 and now in windows[at] else None

    def _level_before(self, instant: datetime) -> bool:
        return self.is_open(instant - timedelta(microseconds=1))

    def _next_in_chunk(self, now: datetime, level: bool) -> datetime | None:
        """Return the first change after `now` in its chunk, before its end."""
        number = _chunk_of(now)
        openings, windows = self._chunk(number)
        at = bisect_right(openings, now)
        if level:
            closes = windows[at - 1].closes
            return closes if closes < _chunk_start(number + 1) else None
        return openings[at] if at < len(openings) else None

    def _since_in_chunk(self, now: datetime, level: bool) -> datetime:
        """Return the last change until `now`, or the start of its chunk."""
        number = _chunk_of(now)
        openings, windows = self._chunk(number)
        at = bisect_right(openings, now) - 1
        if at < 0:
            return _chunk_start(number)
        return windows[at].opens if level else windows[at].closes

    def _chunk(self, number: int) -> tuple[list[datetime], list[Window]]:
        """Return the openings and windows of one chunk, clipped to it."""
        known = self._chunks.get(number)
        if known is not None:
            return known
        start, end = _chunk_start(number), _chunk_start(number + 1)
        windows = clip(self.tidied(start - _PAD, end + _PAD).windows, start, end)
        found = ([window.opens for window in windows], windows)
        if len(self._chunks) >= _KEPT_CHUNKS:
            # A new dict: another thread may be reading the old one.
            self._chunks = {}
        self._chunks[number] = found
        return found


def _chunk_of(instant: datetime) -> int:
    return (instant - _EPOCH) // _CHUNK


def _chunk_start(number: int) -> datetime:
    return _EPOCH + _CHUNK * number
