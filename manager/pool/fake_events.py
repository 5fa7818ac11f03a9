"""The event stream of an in-memory pool."""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

from manager.fleet.cursors import Cursor, Position
from manager.fleet.event_types import Event, EventFilter
from manager.models import WorkerInfo

#: The id of the stream, and seconds that a watch waits before it checks whether it was closed.
_STREAM: Final = "fa4efa4e"
_WATCH_SECONDS: Final = 0.2


class FakeEvents:
    """Events in a list, oldest first. Thread-safe."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()

    def add(self, host: str, info: WorkerInfo, now: datetime) -> None:
        """Add the event of a worker's new state."""
        with self._changed:
            position = Position(len(self.events) + 1, 0)
            event = Event(
                id=str(position),
                time=now,
                host=host,
                account_id=info.account_id,
                worker_id=info.worker_id,
                status=str(info.status),
                error=info.error,
                type=f"worker.{info.status}",
                cursor=str(Cursor(_STREAM, position)),
            )
            self.events.append(event)
            self._changed.notify_all()

    def watch(
        self, after: str, only: EventFilter | None, idle_seconds: float | None, closed: Callable[[], bool]
    ) -> Iterator[Event]:
        """See `manager.pool.testing.FakePool.watch`."""
        with self._changed:
            place = after.rpartition(":")[2]
            position = Position(len(self.events), 0) if place == "$" else Position.parse(place)
        while not closed():
            with self._changed:
                if len(self.events) <= position.ms:
                    came = self._changed.wait(_WATCH_SECONDS if idle_seconds is None else idle_seconds)
                    if not came and idle_seconds is not None:
                        return
                found = self.events[position.ms :]
            position = Position(position.ms + len(found), 0)
            yield from (event for event in found if only is None or only.matches(event))
