"""Follows the event stream from a cursor, across outages of Redis."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from manager.errors import FleetUnavailableError
from manager.fleet.event_types import Event, EventFilter
from manager.fleet.events import EventStream

#: Seconds that one read waits, and seconds before a new attempt to reach Redis.
_WAIT_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 0.5
_PAGE: Final = 500


def watch_events(
    stream: EventStream,
    after: str = "$",
    *,
    only: EventFilter | None = None,
    idle_seconds: float | None = None,
    closed: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Yield each event after a cursor once, in stream order.

    The cursor may be `$` (now) or `0` (the oldest kept). Blocks between events. Ends once `closed` returns
    True, or after `idle_seconds` without an event. During an outage of Redis it waits; then it continues
    after the last event.

    Raises:
        FleetUnavailableError: Redis cannot be used when the watch begins.
        InvalidCursorError: `after` is not a cursor.
        CursorGoneError: events after the cursor are no longer kept, or Redis lost its data.
    """
    cursor = stream.cursor(after)
    pause = threading.Event()
    last = time.monotonic()
    while not closed():
        try:
            page = stream.page(cursor, count=_PAGE, only=only)
            if not page.events:
                page = stream.next(page.cursor, wait_seconds=_WAIT_SECONDS, only=only)
        except FleetUnavailableError:
            pause.wait(_RETRY_SECONDS)
            continue
        cursor = page.cursor
        yield from page.events
        if page.events:
            last = time.monotonic()
        elif idle_seconds is not None and time.monotonic() - last >= idle_seconds:
            return
