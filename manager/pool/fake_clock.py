"""A clock that moves only when a test moves it: starts that take minutes are tested without waiting."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

_BEGIN: Final = datetime(2024, 1, 1, tzinfo=UTC)


class FakeClock:
    """A time that stands still until `advance`. Any thread may use it."""

    def __init__(self, now: datetime = _BEGIN) -> None:
        self._now = now
        self._moved = threading.Condition()

    def now(self) -> datetime:
        """Return the present moment, in UTC."""
        with self._moved:
            return self._now

    def advance(self, seconds: float) -> None:
        """Move the time on; everything that waits for a moment up to then goes on."""
        with self._moved:
            self._now += timedelta(seconds=seconds)
            self._moved.notify_all()

    def look(self) -> None:
        """Have everything that waits look again at what else it waits for."""
        with self._moved:
            self._moved.notify_all()

    def wait(self, seconds: float, interrupted: Callable[[], bool]) -> bool:
        """Wait until the time has moved on by `seconds`; True if `interrupted` became true before."""
        with self._moved:
            until = self._now + timedelta(seconds=seconds)
            self._moved.wait_for(lambda: self._now >= until or interrupted())
            return self._now < until
