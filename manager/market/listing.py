"""A schedule's windows for people.

It shows whole windows in UTC and on the schedule's clock, with the clock changes that matter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from manager.market.clocks import Shift
from manager.market.parsing import show_duration
from manager.market.schedules import Timetable
from manager.market.windows import Window, as_utc

#: The first window lists changes of the clock up to this long before it.
_BEFORE_FIRST: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class ListedWindow:
    """One window of a list."""

    window: Window
    #: Opening and close on the schedule's clock, naive.
    opens_wall: datetime
    closes_wall: datetime
    #: Changes of the clock since the window before, or inside: `clock goes forward 1h on Sun 8 Mar 2026 07:00
    #: UTC`.
    marks: tuple[str, ...]


def list_windows(timetable: Timetable, start: datetime, end: datetime) -> Iterator[ListedWindow]:
    """Yield each window that overlaps `[start, end)`, whole and sorted."""
    clock = timetable.schedule.display_clock
    parts = timetable.windows(start, end)
    since = as_utc(start) - _BEFORE_FIRST
    for part in parts:
        window = _whole(timetable, part, as_utc(start), as_utc(end))
        marks = tuple(_mark(shift) for shift in clock.shifts(min(since, window.opens), window.closes))
        yield ListedWindow(window, clock.wall(window.opens), clock.wall(window.closes), marks)
        since = window.closes


def _whole(timetable: Timetable, part: Window, start: datetime, end: datetime) -> Window:
    if part.opens > start and part.closes < end:
        return part
    return timetable.window_at(part.opens) or part


def _mark(shift: Shift) -> str:
    way = "forward" if shift.by > timedelta() else "back"
    at = f"{shift.at:%a} {shift.at.day} {shift.at:%b %Y %H:%M} UTC"
    return f"clock goes {way} {show_duration(abs(shift.by))} on {at}"
