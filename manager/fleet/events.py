"""The stream of events: one entry for each change of a worker's state or health."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from manager.fleet.keys import EVENTS_KEY
from manager.fleet.parsing import string
from manager.fleet.redis_client import translated
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus
from manager.system import logs

logger = logging.getLogger(__name__)

#: Entries that the stream keeps: about a week for a fleet of a hundred workers that restart daily.
EVENTS_KEPT: Final = 10_000

#: Seconds. An event that is written this much later than it happened carries its delay.
_LATE_SECONDS: Final = 1.0


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


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a worker's state or health.

    `id` orders events, and is the cursor from which a reader continues. `time` is when the change happened, by
    Redis's clock: an event that was written late, as after an outage, is dated back.
    """

    id: str
    time: datetime
    host: str
    account_id: str
    worker_id: str
    status: str
    error: str | None
    #: The fencing token of the worker's lease; 0 where it had none.
    epoch: int = 0
    #: `state`, or `health` where only the health changed.
    kind: str = "state"
    #: The health of a running worker after the change.
    health: str | None = None
    #: Of a `health` event, the health before the change.
    health_before: str | None = None
    #: Why the health is not `healthy`.
    reason: str | None = None
    #: Changes of health in between that have no event, because there were too many.
    untold: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "time": self.time.isoformat()}


class EventStream:
    """Reads and writes the stream of events.

    Every method that reads raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, url: str, client: Any) -> None:
        self._url = url
        self._client = client

    def add_to(self, pipe: Any, host: str, change: WorkerChange) -> None:
        """Queue the event of a change of one of `host`'s workers in a redis-py pipeline."""
        pipe.xadd(EVENTS_KEY, _fields(host, change), maxlen=EVENTS_KEPT, approximate=True)

    def log_refused(self, host: str, error: Exception) -> None:
        """Log that Redis refused an event.

        A client with access to the stream can make it unusable with an entry of the highest id. The records that
        are written in the same transaction must not fail with it.
        """
        logs.event(logger, logging.ERROR, "event_lost", f"{EVENTS_KEY}: {error}", host=host)

    def newest(self, count: int) -> list[Event]:
        """Return the newest `count` events, oldest first."""
        with translated(self._url):
            found = self._client.xrevrange(EVENTS_KEY, count=count)
        return [_parse(entry_id, fields) for entry_id, fields in reversed(found or [])]

    def follow(self, after: str, wait_seconds: float) -> list[Event]:
        """Return events newer than the entry `after`; block up to `wait_seconds` for the first one."""
        with translated(self._url):
            answer = self._client.xread({EVENTS_KEY: after}, block=int(wait_seconds * 1000))
        entries = answer[0][1] if answer else []
        return [_parse(entry_id, fields) for entry_id, fields in entries]


def _fields(host: str, event: WorkerChange) -> dict[Any, Any]:
    info, age_seconds, change = event
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
    if change is not None:
        fields |= {"health": change.new, "health_before": change.old, "reason": change.reason or ""}
        fields |= {"untold": str(change.untold)} if change.untold else {}
    # A delay, not a time, because the clocks of hosts differ.
    return {**fields, "late": f"{age_seconds:.3f}"} if age_seconds >= _LATE_SECONDS else fields


def _parse(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Event:
    text = {string(key): string(value) for key, value in fields.items()}
    written = int(entry_id.split(b"-")[0]) / 1000
    return Event(
        id=entry_id.decode(),
        time=_datetime(written - _delay(text.get("late"), written)),
        host=text.get("host", ""),
        account_id=text.get("account_id", ""),
        worker_id=text.get("worker_id", ""),
        status=text.get("status", ""),
        error=text.get("error") or None,
        epoch=_integer(text.get("epoch")),
        kind=text.get("kind") or "state",
        health=text.get("health") or None,
        health_before=text.get("health_before") or None,
        reason=text.get("reason") or None,
        untold=_integer(text.get("untold")),
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
