"""Windows: half-open spans `[opens, closes)` of time in UTC.

Functions unite, subtract and tidy lists of windows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

#: A shorter window is left out: its worker would stop before it is connected.
SHORTEST_WINDOW: Final = timedelta(seconds=60)
#: A shorter rest is bridged: it would cost a login without a benefit.
SHORTEST_REST: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A span of time: `opens` is inside, `closes` is not. Both are UTC."""

    opens: datetime
    closes: datetime

    def __contains__(self, instant: datetime) -> bool:
        return self.opens <= instant < self.closes

    def __str__(self) -> str:
        return f"{self.opens:%Y-%m-%d %H:%M} to {self.closes:%Y-%m-%d %H:%M} UTC"

    @property
    def lasts(self) -> timedelta:
        """The duration from opening to close."""
        return self.closes - self.opens

    def clip(self, start: datetime, end: datetime) -> "Window | None":
        """Return the part inside `[start, end)`, or None if there is none."""
        opens, closes = max(self.opens, start), min(self.closes, end)
        return Window(opens, closes) if opens < closes else None


def clip(windows: Iterable[Window], start: datetime, end: datetime) -> list[Window]:
    """Return the parts of `windows` inside `[start, end)`."""
    return [part for window in windows if (part := window.clip(start, end)) is not None]


def unite(windows: Iterable[Window]) -> list[Window]:
    """Return the union: sorted, disjoint windows that do not touch.

    Empty windows are dropped.
    """
    united: list[Window] = []
    for window in sorted(windows):
        if window.opens >= window.closes:
            continue
        if united and window.opens <= united[-1].closes:
            if window.closes > united[-1].closes:
                united[-1] = Window(united[-1].opens, window.closes)
        else:
            united.append(window)
    return united


def subtract(windows: Sequence[Window], cuts: Sequence[Window]) -> list[Window]:
    """Return `windows` without `cuts`. Both must be united."""
    left: list[Window] = []
    first = 0
    for window in windows:
        opens = window.opens
        while first < len(cuts) and cuts[first].closes <= opens:
            first += 1
        at = first
        while at < len(cuts) and cuts[at].opens < window.closes:
            if cuts[at].opens > opens:
                left.append(Window(opens, cuts[at].opens))
            opens = max(opens, cuts[at].closes)
            at += 1
        if opens < window.closes:
            left.append(Window(opens, window.closes))
    return left


@dataclass(frozen=True, slots=True)
class Tidied:
    """A list of windows without short windows and rests, and what changed."""

    windows: list[Window]
    #: Rests that were bridged: the account runs during them.
    bridged: list[Window]
    #: Windows that were left out: the account rests during them.
    dropped: list[Window]


def tidy(windows: Sequence[Window]) -> Tidied:
    """Bridge short rests, then leave out short windows.

    The limits are `SHORTEST_REST` and `SHORTEST_WINDOW`.

    The windows must be united.
    """
    joined: list[Window] = []
    bridged: list[Window] = []
    for window in windows:
        if joined and window.opens - joined[-1].closes < SHORTEST_REST:
            bridged.append(Window(joined[-1].closes, window.opens))
            joined[-1] = Window(joined[-1].opens, window.closes)
        else:
            joined.append(window)
    dropped = [window for window in joined if window.lasts < SHORTEST_WINDOW]
    return Tidied([window for window in joined if window.lasts >= SHORTEST_WINDOW], bridged, dropped)


def as_utc(instant: datetime) -> datetime:
    """Convert an aware instant to UTC. Raises ValueError if it is naive."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant.isoformat()} has no time zone: an instant needs one")
    return instant.astimezone(UTC)
