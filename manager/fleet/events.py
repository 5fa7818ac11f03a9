"""The event stream: changes of workers, hosts, commands and configuration.

    manager:events                stream: one entry for each event
    manager:events:id             8 hex digits that change when the stream is lost and begins again
    manager:host:<name>:counters  hash: event type → count, and `start_seconds` buckets; values only grow

An entry has the six fields of version 0.2 (`host account_id worker_id status error epoch`), empty where they
do not apply, and `kind`, so that readers of that version still work. Later versions add `v` (1), `type`,
`by`, `command` and `data`, a JSON object of at most 2 KB without secrets. Larger data is cut and gets `"cut":
true`. An entry without a type was written by version 0.2.
"""

import logging
import math
from collections.abc import Iterable
from typing import Any, Final

from manager.fleet.cursors import Cursor, Position
from manager.fleet.event_places import queue_place, read_cursor, read_place, stream_id
from manager.fleet.event_types import (
    Event,
    EventFilter,
    EventPage,
    Notice,
    WorkerChange,
    change_fields,
    parse_event,
)
from manager.fleet.keys import EVENTS_KEY, counters_key
from manager.fleet.parsing import string
from manager.fleet.redis_client import translated
from manager.states import WorkerLifecycleStatus
from manager.system import logs

logger = logging.getLogger(__name__)

#: Default number of entries that the stream keeps: about 18 MB of Redis's memory.
EVENTS_KEPT: Final = 100_000

#: Upper bounds, in seconds, of the buckets that count starts by duration. One more bucket has no bound.
START_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class EventStream:
    """Reads and writes the stream of events.

    Every method that reads raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, url: str, client: Any, *, kept: int = EVENTS_KEPT) -> None:
        """Create a stream that keeps at least about `kept` entries."""
        self._url = url
        self._client = client
        self.kept = kept

    def add_to(self, pipe: Any, host: str, change: WorkerChange) -> None:
        """Queue the event of a worker's change in a redis-py pipeline.

        Also increments the host's counters.
        """
        fields = change_fields(host, change)
        pipe.xadd(EVENTS_KEY, fields, maxlen=self.kept, approximate=True)
        pipe.hincrby(counters_key(host), fields["type"], 1)
        took = _start_seconds(change)
        if took is not None:
            pipe.hincrby(counters_key(host), f"start_seconds:{_bucket(took)}", 1)
            pipe.hincrbyfloat(counters_key(host), "start_seconds:sum", round(took, 3))

    def add(self, notice: Notice) -> None:
        """Write one event. Raises FleetUnavailableError."""
        self.add_many([notice])

    def add_many(self, notices: Iterable[Notice]) -> None:
        """Write events in one round trip. Raises FleetUnavailableError."""
        with translated(self._url):
            pipe = self._client.pipeline(transaction=False)
            for notice in notices:
                pipe.xadd(EVENTS_KEY, notice.fields(), maxlen=self.kept, approximate=True)
            pipe.execute()

    def ensure_id(self) -> None:
        """Give the stream an id if it has none and this user may write one. Raises FleetUnavailableError."""
        with translated(self._url):
            stream_id(self._client)

    def log_refused(self, host: str, error: Exception) -> None:
        """Log that Redis refused an event.

        A client with access to the stream can make it unusable with an entry of the highest id. The records
        that are written in the same transaction must not fail with it.
        """
        logs.event(logger, logging.ERROR, "event_lost", f"{EVENTS_KEY}: {error}", host=host)

    def newest(self, count: int) -> list[Event]:
        """Return the newest `count` events, oldest first."""
        with translated(self._url):
            found = self._client.xrevrange(EVENTS_KEY, count=count)
        return [parse_event(entry_id, fields) for entry_id, fields in reversed(found or [])]

    def follow(self, after: str, wait_seconds: float, count: int | None = None) -> list[Event]:
        """Return events newer than the entry `after`.

        Blocks up to `wait_seconds` for the first one.
        """
        block = max(1, int(wait_seconds * 1000))
        with translated(self._url):
            answer = self._client.xread({EVENTS_KEY: after}, count=count, block=block)
        entries = answer[0][1] if answer else []
        return [parse_event(entry_id, fields) for entry_id, fields in entries]

    def cursor(self, text: str = "$") -> Cursor:
        """Return the cursor that `text` names.

        `text` is a cursor, `$` (now) or `0` (the oldest entry kept).

        Raises:
            InvalidCursorError: `text` is not a cursor.
            CursorGoneError: its stream was replaced, or entries after it are no longer kept.
            FleetUnavailableError: Redis cannot be used.
        """
        with translated(self._url):
            return read_cursor(self._client, text, kept=self.kept)

    def next(self, after: Cursor, *, wait_seconds: float, only: EventFilter | None = None) -> EventPage:
        """Return matching events after a cursor.

        Blocks up to `wait_seconds` for the first entry of any type. Raises CursorGoneError if the stream was
        replaced meanwhile, or if entries after the cursor were trimmed.
        """
        block = max(1, int(wait_seconds * 1000))
        with translated(self._url):
            answer = self._client.xread({EVENTS_KEY: str(after.position)}, count=1000, block=block)
            pipe = self._client.pipeline(transaction=False)
            queue_place(pipe)
            place = read_place(pipe.execute(raise_on_error=False))
        place.require(after, kept=self.kept)  # a stream that was replaced would stay silent for ever
        return _page(answer[0][1] if answer else [], after, only)

    def page(
        self, after: Cursor, *, count: int, only: EventFilter | None = None, until: Position | None = None
    ) -> EventPage:
        """Return up to `count` matching events after a cursor and at most at `until`. Never waits.

        The page's cursor is at the last entry that was read, so that a reader whose filter matches nothing
        still advances. Raises CursorGoneError as `next` does.
        """
        found: list[Event] = []
        size = max(count, 100)
        while True:
            with translated(self._url):
                pipe = self._client.pipeline(transaction=False)
                pipe.xrange(EVENTS_KEY, min=f"({after.position}", max=str(until or "+"), count=size)
                # After the entries: those that are trimmed while they are read must not be missed silently.
                queue_place(pipe)
                entries, *answers = pipe.execute(raise_on_error=False)
                place = read_place(answers)
            if isinstance(entries, Exception):
                raise entries
            place.require(after, kept=self.kept)
            page = _page(entries, after, only, most=count - len(found))
            found += page.events
            after = page.cursor
            if len(found) == count or len(entries) < size:
                return EventPage(found, after)

    def counters(self, hosts: Iterable[str]) -> dict[str, dict[str, float]]:
        """Return host → counter → value.

        A counter is an event type or `start_seconds:<bound>`.
        """
        names = list(hosts)
        with translated(self._url):
            pipe = self._client.pipeline(transaction=False)
            for name in names:
                pipe.hgetall(counters_key(name))
            answers = pipe.execute()
        return {
            name: {string(key): float(value) for key, value in answer.items() if _is_number(value)}
            for name, answer in zip(names, answers, strict=True)
        }


def _page(
    entries: Iterable[tuple[bytes, dict[bytes, bytes]]],
    after: Cursor,
    only: EventFilter | None,
    most: int | None = None,
) -> EventPage:
    """Return the matching events, and the cursor at the last entry that was looked at."""
    found: list[Event] = []
    for entry_id, fields in entries:
        event = parse_event(entry_id, fields, after.stream)
        after = Cursor(after.stream, Position.parse(event.id))
        if only is None or only.matches(event):
            found.append(event)
            if len(found) == most:
                break
    return EventPage(found, after)


def _is_number(value: bytes) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _start_seconds(change: WorkerChange) -> float | None:
    """Return the duration of a start; None if the change does not end one."""
    info = change.info
    only_running = change.health or change.mode or change.remark or change.before == "running"
    if info.status is not WorkerLifecycleStatus.RUNNING or only_running:
        return None
    if info.started_at is None or info.metadata.get("adopted"):
        return None
    return max(0.0, (info.started_at - info.created_at).total_seconds())


def _bucket(seconds: float) -> str:
    return next((f"{bound:g}" for bound in START_BUCKETS if seconds <= bound), "+Inf")
