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
import re
import secrets
from collections.abc import Iterable
from typing import Any, Final

from redis.exceptions import NoPermissionError, ReadOnlyError, ResponseError

from manager.errors import CursorGoneError, InvalidCursorError
from manager.fleet.cursors import START, Cursor, Position
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
STREAM_ID_KEY: Final = "manager:events:id"
_STREAM_ID: Final = re.compile(r"[0-9a-f]{8}")
#: Fraction of the kept entries from which a stream without `entries-added` (Redis 6.2) counts as trimmed.
_NEARLY_FULL: Final = 0.9


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
            return read_cursor(self._client, EVENTS_KEY, text, kept=self.kept)

    def next(self, after: Cursor, *, wait_seconds: float, only: EventFilter | None = None) -> EventPage:
        """Return matching events after a cursor.

        Blocks up to `wait_seconds` for the first entry of any type.
        Raises CursorGoneError if the stream was replaced meanwhile.
        """
        block = max(1, int(wait_seconds * 1000))
        with translated(self._url):
            answer = self._client.xread({EVENTS_KEY: str(after.position)}, count=1000, block=block)
        entries = answer[0][1] if answer else []
        if not entries:
            self.cursor(str(after))  # a stream that was replaced would stay silent for ever
            return EventPage([], after)
        events = [parse_event(entry_id, fields, after.stream) for entry_id, fields in entries]
        cursor = Cursor(after.stream, Position.parse(events[-1].id))
        return EventPage([event for event in events if only is None or only.matches(event)], cursor)

    def page(self, after: Cursor, *, count: int, only: EventFilter | None = None) -> EventPage:
        """Return up to `count` matching events after a cursor. Never waits.

        The page's cursor is at the last entry that was read, so that a reader whose filter matches nothing
        still advances.
        """
        found: list[Event] = []
        position = after.position
        while len(found) < count:
            with translated(self._url):
                entries = self._client.xrange(EVENTS_KEY, min=f"({position}", count=max(count, 100))
            for entry_id, fields in entries:
                event = parse_event(entry_id, fields, after.stream)
                position = Position.parse(event.id)
                if only is None or only.matches(event):
                    found.append(event)
                    if len(found) == count:
                        break
            if len(entries) < max(count, 100):
                break
        return EventPage(found, Cursor(after.stream, position))

    def until(self, last: Cursor, count: int) -> list[Event]:
        """Return the newest `count` events up to and including `last`, oldest first, without a gap."""
        with translated(self._url):
            found = self._client.xrevrange(EVENTS_KEY, max=str(last.position), count=count)
        return [parse_event(entry_id, fields, last.stream) for entry_id, fields in reversed(found or [])]

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


def _is_number(value: bytes) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _start_seconds(change: WorkerChange) -> float | None:
    """Return the duration of a start; None if the change does not end one."""
    info = change.info
    if info.status is not WorkerLifecycleStatus.RUNNING or change.health or change.before == "running":
        return None
    if info.started_at is None or info.metadata.get("adopted"):
        return None
    return max(0.0, (info.started_at - info.created_at).total_seconds())


def _bucket(seconds: float) -> str:
    return next((f"{bound:g}" for bound in START_BUCKETS if seconds <= bound), "+Inf")


def stream_id(client: Any) -> str:
    """Return the id of the event stream, and create it if it is missing.

    Returns an empty string if it is missing and this user may not write it. Errors of redis-py propagate.
    """
    found = client.get(STREAM_ID_KEY)
    if found is None:
        try:
            client.set(STREAM_ID_KEY, secrets.token_hex(4), nx=True)
        except (NoPermissionError, ReadOnlyError):
            return ""
        found = client.get(STREAM_ID_KEY)
    return bytes(found or b"").decode(errors="replace")


def read_cursor(client: Any, key: str, text: str, *, kept: int) -> Cursor:
    """Return the cursor that `text` names, ready to read after it.

    `text` is a cursor, `<id>:$` (now), `<id>:0` (the oldest entry kept), or any of these without an id.
    Errors of redis-py propagate.

    Raises:
        InvalidCursorError: `text` is not a cursor.
        CursorGoneError: its stream was replaced, or entries after it may have been trimmed.
    """
    stream, separator, place = text.rpartition(":")
    if separator and not _STREAM_ID.fullmatch(stream):
        raise InvalidCursorError(f"{text[:60]!r} is not a cursor: its stream id is not 8 hexadecimal digits")
    position = None if place == "$" else Position.parse(place)
    present = stream_id(client)
    if separator and stream != present:
        raise CursorGoneError(
            "the event stream was replaced after this cursor was returned, as when Redis lost its data: list "
            "the fleet again, then follow from the new cursor",
            oldest=str(Cursor(present, START)),
        )
    if position is None:
        return Cursor(present, _newest(client, key))
    if position != START:
        _require_kept(client, key, position, present, kept)
    return Cursor(present, position)


def _newest(client: Any, key: str) -> Position:
    entries = client.xrevrange(key, count=1)
    return Position.parse(entries[0][0].decode()) if entries else START


def _require_kept(client: Any, key: str, position: Position, present: str, kept: int) -> None:
    """Raise CursorGoneError if entries after `position` may have been trimmed."""
    try:
        info = client.xinfo_stream(key)
    except ResponseError:
        return  # no stream yet: nothing was trimmed
    first = info.get("first-entry")
    length = int(info.get("length", 0))
    added = info.get("entries-added")
    # `max-deleted-entry-id` does not show it: trimming leaves it at 0-0 (seen with Redis 7.0.15).
    trimmed = length >= kept * _NEARLY_FULL if added is None else int(added) > length
    if first is None or not trimmed:
        return
    oldest = Position.parse(first[0].decode())
    if position < oldest:
        raise CursorGoneError(
            "events after this cursor are no longer kept: list the fleet again, "
            "then follow from the new cursor",
            oldest=str(Cursor(present, oldest)),
        )
