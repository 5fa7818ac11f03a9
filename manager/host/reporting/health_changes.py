"""Which changes of a worker's health become events: all, unless its health goes to and fro."""

import time
from collections.abc import Callable
from typing import Final

from manager.fleet.events import HealthChange
from manager.states import WorkerHealth

#: Changes of one worker that are told at once, and seconds for which one that was told counts as one of them.
#: The stream of events keeps 10,000: a health that goes to and fro must not push out what else happened.
BURST: Final = 4
SPAN_SECONDS: Final = 300.0
_HEALTHS: Final = frozenset(map(str, WorkerHealth))


class HealthChanges:
    """The health of one worker as it was told last. Used under the lock of its owner.

    What it is in the end is always told: a change that must wait is told later, if it still is one.
    """

    def __init__(self, told: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`told` is the health that readers know of already."""
        self._told = self._last = told
        self._clock = clock
        self._moments: list[float] = []
        self._untold = 0

    def look(self, health: object, reason: object) -> HealthChange | None:
        """Take what the worker says now; returns the change that is to be told, if one is."""
        if not isinstance(health, str) or health not in _HEALTHS:
            return None
        new = str(health)
        if new != self._last:
            self._last = new
            self._untold += 1
        if new == self._told:
            return None
        now = self._clock()
        self._moments = [moment for moment in self._moments if now - moment < SPAN_SECONDS]
        if len(self._moments) >= BURST:
            return None
        self._moments.append(now)
        change = HealthChange(self._told, new, str(reason) if reason else None, self._untold - 1)
        self._told, self._untold = new, 0
        return change
