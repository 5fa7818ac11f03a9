"""A clock that only a test advances.

With it, tests of slow starts need not wait.
"""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

_BEGIN: Final = datetime(2024, 1, 1, tzinfo=UTC)


class FakeClock:
    """A clock that changes only by `advance`. Thread-safe."""

    def __init__(self, now: datetime = _BEGIN) -> None:
        self._now = now
        self._changed = threading.Condition()

    def now(self) -> datetime:
        """Return the current time, in UTC."""
        with self._changed:
            return self._now

    def advance(self, seconds: float) -> None:
        """Advance the time; each `wait` whose time is over returns."""
        with self._changed:
            self._now += timedelta(seconds=seconds)
            self._changed.notify_all()

    def recheck(self) -> None:
        """Make every `wait` call its `interrupted` again."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, seconds: float, interrupted: Callable[[], bool]) -> bool:
        """Block until the time has advanced by `seconds`.

        Returns True if `interrupted()` became true before.
        """
        with self._changed:
            until = self._now + timedelta(seconds=seconds)
            self._changed.wait_for(lambda: self._now >= until or interrupted())
            return self._now < until
