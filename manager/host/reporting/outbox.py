"""The publisher's queue of changes, and those it wrote recently.

No event is lost, and almost none is written twice. Each write stores a mark in the same transaction. The mark
shows that a write whose reply was lost has succeeded; an older mark shows that Redis lost its last writes. An
event is written twice only if Redis loses the mark and keeps the event, as after an operator deleted keys.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Final
from uuid import uuid4

from manager.fleet.event_types import HealthChange, ModeChange, Remark
from manager.models import WorkerInfo

#: Changes that wait at most while Redis is down. The oldest are dropped first: an account's present state
#: matters more than its past.
MAX_WAITING: Final = 20_000
#: Seconds for which written changes are kept here. Redis may lose its latest writes: `appendfsync everysec`,
#: a replica that lags.
KEPT_SECONDS: Final = 60.0
#: Written changes that are kept at most.
_MAX_KEPT: Final = 10_000


@dataclass(frozen=True, slots=True)
class Change:
    """A worker's record as it was at `at` (monotonic seconds)."""

    info: WorkerInfo
    at: float
    #: Set if only the worker's health has changed.
    health: HealthChange | None = None
    #: The status of the account's change before; empty for its first.
    before: str = ""
    #: Set if only the worker's trading mode has changed.
    mode: ModeChange | None = None
    #: Set if only something else has changed.
    remark: Remark | None = None


@dataclass(slots=True)
class Batch:
    """The changes of one write to Redis."""

    #: Number of the last attempt to write it; 0: there was none.
    number: int = 0
    changes: list[Change] = field(default_factory=list)
    beats: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    waiting: list[Event] = field(default_factory=list)


class Outbox:
    """Changes in their order: waiting, being written, recently written.

    The owner locks every call.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._life = uuid4().hex[:12]
        self._waiting = Batch()
        #: Account → status of its last change.
        self._statuses: dict[str, str] = {}
        self._current: Batch | None = None
        #: Numbers of the last attempt to write, and of the last write that succeeded.
        self._tried = self._number = 0
        self._kept: deque[tuple[int, float, Change]] = deque()
        #: Changes that were dropped since the owner last reset this count.
        self.dropped = 0

    def add(
        self,
        info: WorkerInfo,
        beat: Mapping[str, Any] | None,
        health: HealthChange | None = None,
        mode: ModeChange | None = None,
        remark: Remark | None = None,
    ) -> Event:
        """Queue a change; return an event that is set once it is written.

        A change without `beat` drops the heartbeat that is queued for the account, unless its status has not
        changed.
        """
        waiting, written = self._waiting, Event()
        before = self._statuses.get(info.account_id, "")
        self._statuses[info.account_id] = str(info.status)
        waiting.changes.append(Change(info, self._clock(), health, before, mode, remark))
        excess = len(waiting.changes) - MAX_WAITING
        if excess > 0:
            del waiting.changes[:excess]
            self.dropped += excess
        if beat is None and health is None and mode is None and remark is None:
            waiting.beats.pop(info.account_id, None)
        elif beat is not None:
            waiting.beats[info.account_id] = beat
        waiting.waiting.append(written)
        return written

    def flushed(self) -> Event:
        """Return an event that is set once everything queued so far is written."""
        written = Event()
        if self._waiting.changes:
            self._waiting.waiting.append(written)
        elif self._current is not None:
            self._current.waiting.append(written)
        else:
            written.set()
        return written

    @property
    def empty(self) -> bool:
        return self._current is None and not self._waiting.changes

    def next(self) -> Batch | None:
        """Return the batch to write, or None if nothing is queued.

        A batch whose write failed comes first, unchanged.
        """
        if self._current is None and self._waiting.changes:
            self._current, self._waiting = self._waiting, Batch()
        return self._current

    def mark(self, batch: Batch) -> str:
        """Return the mark for the next attempt to write the batch."""
        self._tried += 1
        batch.number = self._tried
        return self._mark(batch.number)

    def was_written(self, batch: Batch, mark: str | None) -> bool:
        """Return whether a Redis with this mark has the batch.

        An attempt may succeed and seem to fail.
        """
        return batch.number > 0 and mark == self._mark(batch.number)

    def written(self, batch: Batch) -> None:
        """Note that the batch is in Redis."""
        self._number = batch.number
        if batch is self._current:
            self._current = None
        now = self._clock()
        self._kept.extend((batch.number, now, change) for change in batch.changes)
        while len(self._kept) > _MAX_KEPT:
            self._kept.popleft()
        for written in batch.waiting:
            written.set()

    def trim(self) -> None:
        """Forget changes older than `KEPT_SECONDS`.

        Call it when Redis has everything that was written.
        """
        before = self._clock() - KEPT_SECONDS
        while self._kept and self._kept[0][1] < before:
            self._kept.popleft()

    def lost(self, mark: str | None) -> list[Change]:
        """Return the changes that a Redis with this mark has lost, oldest first."""
        life, _, number = (mark or "").partition(":")
        last = int(number) if life == self._life and number.isdecimal() else 0
        return [change for number, _, change in self._kept if number > last]

    def is_complete(self, mark: str | None) -> bool:
        """Return whether a Redis with this mark has everything that was written."""
        return self._number == 0 or mark == self._mark(self._number)

    def new_mark(self) -> str:
        """Return the mark for writing lost changes again.

        `is_complete` is False until Redis has it.
        """
        self._tried += 1
        self._number = self._tried
        return self._mark(self._number)

    def _mark(self, number: int) -> str:
        return f"{self._life}:{number}"
