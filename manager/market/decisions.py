"""Decides whether an account runs or rests at one instant.

The decision combines desired state, override and schedule.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from manager.market.clocks import MarketClock
from manager.market.schedules import HORIZON, Outside, Timetable
from manager.market.windows import as_utc

#: Maximum age of `Decision.since`; no wait at the end of a window is longer.
LOOK_BACK: Final = timedelta(days=8)


class Action(StrEnum):
    """What an account's worker does."""

    #: It runs and trades.
    RUN = "run"
    #: It is connected and sends no orders, because its window opens soon.
    WAIT = "wait"
    #: It stays connected outside its window, paused.
    PAUSE = "pause"
    #: It stays connected outside its window and only closes positions.
    CLOSE_ONLY = "close_only"
    #: Its desired state is running, but its schedule or an override stops it for now.
    REST = "rest"
    #: Its desired state is stopped: no schedule starts it.
    STOP = "stop"


_OUTSIDE: Final = {
    Outside.STOP: Action.REST,
    Outside.PAUSE: Action.PAUSE,
    Outside.CLOSE_ONLY: Action.CLOSE_ONLY,
}


class OverrideKind(StrEnum):
    """How a person overrides a schedule."""

    RUN = "run"
    REST = "rest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A person's decision that overrides a schedule.

    In force from `at` until `until` (not included).
    """

    kind: OverrideKind
    at: datetime
    until: datetime
    by: str = ""
    reason: str = ""

    def in_force(self, instant: datetime) -> bool:
        """Return whether the override counts at an instant.

        An override from a clock that is ahead counts at once.
        """
        return instant < self.until

    def __str__(self) -> str:
        by = f" by {self.by}" if self.by else ""
        return f"override{by}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What an account does at one instant, why, and until when."""

    action: Action
    #: When the action changes without a command; None if not within the horizon.
    until: datetime | None
    #: Since when the schedule or the override has decided so. None if for longer than eight days, and for
    #: `Action.STOP`.
    since: datetime | None
    #: One line for people, without the account's name.
    text: str
    #: The override in force, if any.
    override: Override | None = None

    @property
    def runs(self) -> bool:
        """Whether the account should have a worker."""
        return self.action not in (Action.REST, Action.STOP)

    def resting(self) -> dict[str, Any] | None:
        """Return the value of `metadata.resting`; None if not resting."""
        if self.action is not Action.REST:
            return None
        until = self.until.isoformat() if self.until else None
        return {"for": "schedule", "until": until, "text": self.text, "unmet": []}


def decide(
    timetable: Timetable,
    account_id: str,
    now: datetime,
    *,
    desired_running: bool,
    override: Override | None = None,
) -> Decision:
    """Return what an account does at `now` (aware).

    A stop beats the override, the override beats the schedule. The answer depends on the arguments alone, so
    every host gives the same, and an agent that was down or suspended has missed nothing.
    """
    now = as_utc(now)
    if not desired_running:
        return Decision(action=Action.STOP, until=None, since=None, text="stopped until a start command")
    view = _View(timetable, timetable.schedule.head_start(account_id), override)
    action = view.action(now)
    until = view.changes_after(now)
    active = override if override is not None and override.in_force(now) else None
    return Decision(
        action=action,
        until=until,
        since=view.since(now),
        text=_text(action, until, timetable, active, now),
        override=active,
    )


def override_end(timetable: Timetable, account_id: str, kind: OverrideKind, now: datetime) -> datetime | None:
    """Return the end of an override until `next`.

    A rest ends when the account would next start; the rest of the current window is skipped. A run ends at
    the next boundary, from which the schedule decides again. Returns None if the schedule has no such
    boundary.
    """
    now = as_utc(now)
    if kind is OverrideKind.RUN:
        return timetable.next_boundary(now)
    head_start = timetable.schedule.head_start(account_id)
    opening = timetable.next_opening(now)
    while opening is not None and opening - head_start <= now:
        opening = timetable.next_opening(opening)
    return opening - head_start if opening is not None else None


@dataclass(frozen=True, slots=True)
class _View:
    """One account's schedule and override as levels over time."""

    timetable: Timetable
    head_start: timedelta
    override: Override | None

    def action(self, now: datetime) -> Action:
        if self.override is not None and self.override.in_force(now):
            return Action.RUN if self.override.kind is OverrideKind.RUN else Action.REST
        if self.timetable.is_open(now):
            return Action.RUN
        boundary = self.timetable.next_boundary(now, self.head_start)
        return Action.WAIT if boundary is not None else _OUTSIDE[self.timetable.schedule.outside]

    def changes_after(self, now: datetime) -> datetime | None:
        """Return the first instant after `now` at which the action differs."""
        action, at = self.action(now), now
        limit = now + HORIZON
        while True:
            later = min(self._events_after(at), default=None)
            if later is None or later > limit:
                return None
            if self.action(later) is not action:
                return later
            at = later

    def _events_after(self, at: datetime) -> Iterator[datetime]:
        """Yield instants after `at`, including the first possible change."""
        if self.override is not None and self.override.in_force(at):
            yield self.override.until
            return
        boundary = self.timetable.next_boundary(at)
        if boundary is None:
            return
        yield boundary
        opening = boundary if not self.timetable.is_open(at) else self.timetable.next_opening(at)
        if opening is not None and opening - self.head_start > at:
            yield opening - self.head_start

    def since(self, now: datetime) -> datetime | None:
        if self.override is not None and self.override.in_force(now):
            return self.override.at
        known = [self.timetable.previous_boundary(now, LOOK_BACK)]
        if self.action(now) is Action.WAIT:
            opening = self.timetable.next_boundary(now)
            known.append(opening - self.head_start if opening is not None else None)
        if self.override is not None and self.override.until <= now:
            known.append(self.override.until)
        return max((instant for instant in known if instant is not None), default=None)


def _text(
    action: Action, until: datetime | None, timetable: Timetable, override: Override | None, now: datetime
) -> str:
    schedule = timetable.schedule
    why = str(override) if override is not None else schedule.title
    at = show_instant(until, schedule.display_clock, now) if until is not None else None
    if action is Action.WAIT:
        return f"connected, sends no order until {at} ({why})"
    verb = {Action.RUN: "runs", Action.PAUSE: "paused", Action.CLOSE_ONLY: "close-only"}.get(action, "rests")
    if at is not None:
        return f"{verb} until {at} ({why})"
    return f"{verb}, no change within {HORIZON.days} days ({why})"


def show_instant(instant: datetime, clock: MarketClock, now: datetime) -> str:
    """Format an instant for people: `Sun 29 Nov 17:00 New York`.

    The text has the year if it is not the current one, and seconds if they are not zero. It has the UTC time
    if the clock shows the same time twice.
    """
    wall = clock.wall(instant)
    year = f" {wall.year}" if wall.year != clock.wall(now).year else ""
    seconds = f":{wall:%S}" if wall.second else ""
    twice = f" ({instant:%H:%M} UTC)" if len(clock.instants(wall)) > 1 else ""
    return f"{wall:%a} {wall.day} {wall:%b}{year} {wall:%H:%M}{seconds} {clock.label}{twice}"
