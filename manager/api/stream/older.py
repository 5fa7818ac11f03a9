"""Events that are older than the hub's ring, read from Redis once for all clients.

After a restart of the API every client is behind the new ring. When each read for itself, 200 clients took
minutes and 300 MB.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from starlette.concurrency import run_in_threadpool

from manager.api.stream.ring import EventRing, RingEvent
from manager.fleet.cursors import Cursor
from manager.fleet.events import EventStream

#: Events of one segment, and segments that are kept while clients read them: about 2 MB each.
_SEGMENT: Final = 1_000
_KEPT: Final = 8
#: Seconds after which a segment that no client reads is dropped.
_UNUSED_SECONDS: Final = 30.0


class OlderEvents:
    """Segments of the event stream. Used on one event loop."""

    def __init__(self, events: EventStream, clock: Callable[[], float] = time.monotonic) -> None:
        self._events = events
        self._clock = clock
        #: Each with the time of its last use, the least recently used first.
        self._segments: list[tuple[float, EventRing]] = []
        self._reading = asyncio.Lock()
        #: How often Redis lost events, so that what was read before is not kept after.
        self._losses = 0

    async def after(self, cursor: Cursor, most: int) -> Sequence[RingEvent]:
        """Return at most `most` events after a cursor; none if it is at the newest one.

        Raises CursorGoneError, FleetUnavailableError.
        """
        found = self._find(cursor, most)
        if found:
            return found
        async with self._reading:
            found = self._find(cursor, most)  # another client may have read it meanwhile
            if not found:
                losses = self._losses
                segment = await run_in_threadpool(self._read, cursor)
                if losses == self._losses:
                    self._segments = [*self._segments[-_KEPT + 1 :], (self._clock(), segment)]
                found = segment.since(cursor.position, most) or ()
        return found

    def forget(self) -> None:
        """Drop everything, because Redis lost events."""
        self._losses += 1
        self._segments.clear()

    def forget_unused(self) -> None:
        oldest = self._clock() - _UNUSED_SECONDS
        self._segments = [one for one in self._segments if one[0] >= oldest]

    def _find(self, cursor: Cursor, most: int) -> Sequence[RingEvent]:
        for index, (_, segment) in enumerate(self._segments):
            if segment.stream == cursor.stream and (found := segment.since(cursor.position, most)):
                del self._segments[index]
                self._segments.append((self._clock(), segment))
                return found
        return ()

    def _read(self, cursor: Cursor) -> EventRing:
        segment = EventRing(cursor)
        segment.extend(self._events.page(cursor, count=_SEGMENT).events)
        return segment
