"""The event stream: changes of workers, hosts, commands and configuration.

    manager:events                stream: one entry for each event
    manager:events:id             8 hex digits that change when the stream is lost and begins again
    manager:host:<name>:counters  hash: event type → count, and `start_seconds` buckets; values only grow

An entry has the six fields of version 0.2 (`host account_id worker_id status error epoch`), empty where they
do not apply, and `kind`, so that readers of that version still work. Later versions add `v` (1), `type`,
`by`, `command` and `data`, a JSON object of at most 2 KB without secrets. Larger data is cut and gets `"cut":
true`. An entry without a type was written by version 0.2.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

from manager.fleet.cursors import Cursor, Position, read_cursor
from manager.fleet.keys import EVENTS_KEY, counters_key
from manager.fleet.parsing import json_object, string
from manager.fleet.redis_client import translated
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus
from manager.system import logs

logger = logging.getLogger(__name__)

#: Default number of entries that the stream keeps: about 18 MB of Redis's memory.
EVENTS_KEPT: Final = 100_000

#: Seconds. An event that is written this much later than it happened carries its delay.
_LATE_SECONDS: Final = 1.0
#: Maximum size of an entry's `data`, in bytes.
_MAX_DATA: Final = 2048
#: Upper bounds, in seconds, of the buckets that count starts by duration. One more bucket has no bound.
START_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Metadata of a worker's record that its events contain.
_EVENT_METADATA: Final = ("exit_code", "config_version", "version", "restarts")


@dataclass(frozen=True, slots=True)
class HealthChange:
    """A change of a running worker's health."""

    old: str
    new: str
    #: Why the new health is not `healthy`; None where it is.
    reason: str | None
    #: Changes in between that have no event, because there were too many.
    untold: int = 0


class WorkerChange(NamedTuple):
    """A change of a worker that becomes an event."""

    #: The worker's record after the change.
    info: WorkerInfo
    age_seconds: float = 0.0
    #: The change of health, if only the health changed.
    health: HealthChange | None = None
    #: The status before the change; empty if unknown.
    before: str = ""
    #: The sender and the id of the command that caused it; empty where no command did.
    by: str = ""
    command: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    `id` orders events, and is the position from which a reader continues. `time` is when it happened, by
    Redis's clock: an event that was written late, as after an outage, is dated back.
    """

    id: str
    time: datetime
    host: str
    account_id: str
    worker_id: str
    #: The worker's status after the change; empty for events that are not about a worker.
    status: str
    error: str | None
    #: The fencing token of the worker's lease; 0 where it had none.
    epoch: int = 0
    #: `state`, `health` where only a worker's health changed, or `other`.
    kind: str = "state"
    #: The health of a running worker after the change.
    health: str | None = None
    #: Of a `health` event, the health before the change.
    health_before: str | None = None
    #: Why the health is not `healthy`.
    reason: str | None = None
    #: Changes of health in between that have no event, because there were too many.
    untold: int = 0
    #: For example `worker.running`, `command.done` or `host.lost`; see docs/reference/events.md.
    type: str = ""
    #: The sender of the command that caused it; empty where no command did.
    by: str = ""
    #: The command's id, which is its Celery task's id.
    command: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    #: Where a reader that has this event continues; empty where the stream's id was not read.
    cursor: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "time": self.time.isoformat()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """An event about a host, a command, a batch or configuration."""

    type: str
    host: str = ""
    account_id: str = ""
    by: str = ""
    command: str = ""
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def fields(self) -> dict[str, str]:
        return {
            "host": self.host,
            "account_id": self.account_id,
            "worker_id": "",
            "status": "",
            "error": self.text,
            "epoch": "0",
            "kind": "other",
            **_envelope(self.type, self.by, self.command, self.data),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Selects events by type and account.

    `types` are patterns such as `worker.*`; empty selects all. `accounts` is None for all accounts.
    """

    types: tuple[str, ...] = ()
    accounts: frozenset[str] | None = None

    def matches(self, event: Event) -> bool:
        if self.accounts is not None and event.account_id not in self.accounts:
            return False
        return not self.types or any(fnmatchcase(event.type, pattern) for pattern in self.types)


class EventPage(NamedTuple):
    """Events, oldest first, and the cursor of the next page."""

    events: list[Event]
    cursor: Cursor


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
        fields = _fields(host, change)
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
        """Return matching events after a cursor; block up to `wait_seconds` for the first entry of any kind.

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
        float(value)
    except ValueError:
        return False
    return True


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


def _envelope(kind: str, by: str, command: str, data: Mapping[str, Any]) -> dict[str, str]:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    if len(text.encode()) > _MAX_DATA:
        short = {key: value for key, value in data.items() if len(json.dumps(value)) <= _MAX_DATA // 16}
        text = json.dumps({**short, "cut": True}, ensure_ascii=False, separators=(",", ":"))
        if len(text.encode()) > _MAX_DATA:
            text = '{"cut":true}'
    return {"v": "1", "type": kind, "by": by[:200], "command": command[:100], "data": text}


def _fields(host: str, event: WorkerChange) -> dict[str, str]:
    info, change = event.info, event.health
    fields = {
        "host": host,
        "account_id": info.account_id,
        "worker_id": info.worker_id,
        "status": str(info.status),
        "error": info.error or "",
        "epoch": str(info.placement.epoch or 0),
        "kind": "state" if change is None else "health",
    }
    if info.status is WorkerLifecycleStatus.RUNNING:
        fields["health"] = info.metrics.health or "unknown"
        fields["reason"] = info.metrics.health_reason or ""
    data: dict[str, Any]
    if change is not None:
        fields |= {"health": change.new, "health_before": change.old, "reason": change.reason or ""}
        fields |= {"untold": str(change.untold)} if change.untold else {}
        kind, data = "worker.health", {"from": change.old, "to": change.new, "reason": change.reason}
    else:
        kind = f"worker.{info.status}"
        reason = info.error or info.metadata.get("last_cause")
        data = {"from": event.before or None, "reason": reason}
        data |= {key: info.metadata[key] for key in _EVENT_METADATA if info.metadata.get(key) is not None}
    data = {key: value for key, value in data.items() if value is not None}
    fields |= _envelope(kind, event.by, event.command, data)
    # A delay, not a time, because the clocks of hosts differ.
    late = event.age_seconds
    return {**fields, "late": f"{late:.3f}"} if late >= _LATE_SECONDS else fields


def parse_event(entry_id: bytes, fields: Mapping[bytes, bytes], stream: str = "") -> Event:
    """Read one entry of the stream `stream`; values that do not fit count as missing."""
    text = {string(key): string(value) for key, value in fields.items()}
    written = int(entry_id.split(b"-")[0]) / 1000
    kind = text.get("kind") or "state"
    status = text.get("status", "")
    return Event(
        id=entry_id.decode(),
        time=_datetime(written - _delay(text.get("late"), written)),
        host=text.get("host", ""),
        account_id=text.get("account_id", ""),
        worker_id=text.get("worker_id", ""),
        status=status,
        error=text.get("error") or None,
        epoch=_integer(text.get("epoch")),
        kind=kind,
        health=text.get("health") or None,
        health_before=text.get("health_before") or None,
        reason=text.get("reason") or None,
        untold=_integer(text.get("untold")),
        type=text.get("type") or ("worker.health" if kind == "health" else f"worker.{status}"),
        by=text.get("by", ""),
        command=text.get("command", ""),
        data=json_object(text.get("data")) or {},
        cursor=f"{stream}:{entry_id.decode()}" if stream else "",
    )


def _delay(text: str | None, most: float) -> float:
    try:
        seconds = float(text or 0.0)
    except ValueError:
        return 0.0
    return seconds if 0.0 <= seconds <= most else 0.0


def _datetime(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        # A client with access to the stream can add entries with any id, also beyond every calendar.
        return datetime.fromtimestamp(0, UTC)


def _integer(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
