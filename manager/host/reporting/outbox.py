"""What the publisher has to write, and what it has written.

No event is lost, and none is written twice as far as that can be known.

Each write carries a mark that Redis keeps in the same transaction. A write whose reply was lost is recognised
by it, and a Redis that lost its last writes shows an older mark. Redis may still get an event twice: if it
loses the mark of a write and keeps the event, as after somebody deleted keys by hand.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Final
from uuid import uuid4

from manager.fleet.events import HealthChange
from manager.models import WorkerInfo

#: Changes that wait at most while Redis is away. The oldest go first: what an account is now matters more
#: than what it was.
MAX_WAITING: Final = 20_000
#: Seconds before Redis was last heard of. It may lose what it took then: `appendfsync everysec`, a replica
#: that lags.
KEPT_SECONDS: Final = 60.0
#: Changes that are kept at most after they were written.
_MAX_KEPT: Final = 10_000


@dataclass(frozen=True, slots=True)
class Change:
    """A worker's record as it was at one moment; `at` is `time.monotonic()`."""

    info: WorkerInfo
    at: float
    #: Where its health alone has changed.
    health: HealthChange | None = None


@dataclass(slots=True)
class Batch:
    """What one write takes to Redis."""

    #: Of the last try to write it; 0: none was made.
    number: int = 0
    changes: list[Change] = field(default_factory=list)
    beats: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    waiting: list[Event] = field(default_factory=list)


class Outbox:
    """Changes in order: waiting, under way, and written a short while ago. Used under its owner's lock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._life = uuid4().hex[:12]
        self._waiting = Batch()
        self._under_way: Batch | None = None
        #: Of the last write that was tried, and of the last one that Redis took.
        self._tried = self._number = 0
        self._kept: deque[tuple[int, float, Change]] = deque()
        #: Changes that found no room while Redis was away.
        self.dropped = 0

    def add(
        self, info: WorkerInfo, beat: Mapping[str, Any] | None, health: HealthChange | None = None
    ) -> Event:
        """Take a change; returns what is set once it is written. A change of health keeps the heartbeat."""
        waiting, written = self._waiting, Event()
        waiting.changes.append(Change(info, self._clock(), health))
        excess = len(waiting.changes) - MAX_WAITING
        if excess > 0:
            del waiting.changes[:excess]
            self.dropped += excess
        if beat is None and health is None:
            waiting.beats.pop(info.account_id, None)
        elif beat is not None:
            waiting.beats[info.account_id] = beat
        waiting.waiting.append(written)
        return written

    def flushed(self) -> Event:
        """Return what is set once everything that was added is written; it is set already if that is so."""
        written = Event()
        if self._waiting.changes:
            self._waiting.waiting.append(written)
        elif self._under_way is not None:
            self._under_way.waiting.append(written)
        else:
            written.set()
        return written

    @property
    def empty(self) -> bool:
        return self._under_way is None and not self._waiting.changes

    def next(self) -> Batch | None:
        """Return what is to be written; None if nothing is.

        A write that failed comes first, as it was.
        """
        if self._under_way is None and self._waiting.changes:
            self._under_way, self._waiting = self._waiting, Batch()
        return self._under_way

    def mark(self, batch: Batch) -> str:
        """Return the mark for the next try to write it."""
        self._tried += 1
        batch.number = self._tried
        return self._mark(batch.number)

    def took(self, batch: Batch, mark: str | None) -> bool:
        """Say whether a Redis with this mark has taken it, though the try seemed to fail."""
        return batch.number > 0 and mark == self._mark(batch.number)

    def written(self, batch: Batch) -> None:
        """Note that Redis has it."""
        self._number = batch.number
        if batch is self._under_way:
            self._under_way = None
        now = self._clock()
        self._kept.extend((batch.number, now, change) for change in batch.changes)
        while len(self._kept) > _MAX_KEPT:
            self._kept.popleft()
        for written in batch.waiting:
            written.set()

    def intact(self) -> None:
        """Note that Redis has everything that was written: what it took a while ago it keeps."""
        before = self._clock() - KEPT_SECONDS
        while self._kept and self._kept[0][1] < before:
            self._kept.popleft()

    def lost(self, mark: str | None) -> list[Change]:
        """Return the changes that were written and that a Redis with this mark has lost, in order."""
        life, _, number = (mark or "").partition(":")
        last = int(number) if life == self._life and number.isdecimal() else 0
        return [change for number, _, change in self._kept if number > last]

    def has(self, mark: str | None) -> bool:
        """Say whether a Redis with this mark has everything that was written."""
        return self._number == 0 or mark == self._mark(self._number)

    def again(self) -> str:
        """Return the mark for telling again what was lost; until Redis has it, `has` says no."""
        self._tried += 1
        self._number = self._tried
        return self._mark(self._number)

    def _mark(self, number: int) -> str:
        return f"{self._life}:{number}"
