"""Limits the events about a worker's health.

A health that alternates must not flood the event stream.
"""

import time
from collections.abc import Callable
from typing import Final

from manager.fleet.event_types import HealthChange
from manager.states import WorkerHealth

#: Events per worker within `SPAN_SECONDS`. The event stream has room for 10,000, and other events must stay
#: in it.
BURST: Final = 4
SPAN_SECONDS: Final = 300.0
_HEALTHS: Final = frozenset(map(str, WorkerHealth))


class HealthChanges:
    """The health of one worker as it was last published.

    The owner locks every call. A change beyond the limit is published later if the health still differs then,
    so the last health is always published.
    """

    def __init__(self, published: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with the health that readers know already.

        `clock` returns monotonic seconds.
        """
        self._published = self._last = published
        self._clock = clock
        self._moments: list[float] = []
        self._unpublished = 0

    def update(self, health: object, reason: object) -> HealthChange | None:
        """Take the worker's present health; return the change to publish, or None.

        Ignores unknown values.
        """
        if not isinstance(health, str) or health not in _HEALTHS:
            return None
        new = str(health)
        if new != self._last:
            self._last = new
            self._unpublished += 1
        if new == self._published:
            return None
        now = self._clock()
        self._moments = [moment for moment in self._moments if now - moment < SPAN_SECONDS]
        if len(self._moments) >= BURST:
            return None
        self._moments.append(now)
        change = HealthChange(self._published, new, str(reason) if reason else None, self._unpublished - 1)
        self._published, self._unpublished = new, 0
        return change
