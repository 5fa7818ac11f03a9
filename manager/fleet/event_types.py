"""Events, and their conversion to and from entries of the stream.

Needs no Redis; `manager.fleet.events` reads and writes the stream.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

from manager.fleet.cursors import Cursor
from manager.fleet.parsing import json_object, string
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus

#: Seconds. An event that is written later than this carries its delay.
_LATE_SECONDS: Final = 1.0
#: Maximum size of an entry's `data`, in bytes.
_MAX_DATA: Final = 2048
#: Metadata of a worker's record that its events contain.
_EVENT_METADATA: Final = ("exit_code", "config_version", "version", "restarts")


@dataclass(frozen=True, slots=True)
class HealthChange:
    """A change of a running worker's health."""

    old: str
    new: str
    #: Why the new health is not `healthy`; None if it is.
    reason: str | None
    #: Changes in between that have no event, because there were too many.
    untold: int = 0


@dataclass(frozen=True, slots=True)
class ModeChange:
    """A change of a worker's trading mode."""

    old: str
    new: str
    #: Who asked for it; empty if unknown.
    by: str = ""


@dataclass(frozen=True, slots=True)
class Remark:
    """A change of a worker beside its state, health and trading mode: an event's type and data."""

    type: str
    data: Mapping[str, Any]
    #: Who caused it; empty if nobody did.
    by: str = ""


class Cause(NamedTuple):
    """The command that caused a change: its sender and its id.

    Both are empty if no command caused it.
    """

    by: str = ""
    command: str = ""


class WorkerChange(NamedTuple):
    """A change of a worker that becomes an event."""

    #: The worker's record after the change.
    info: WorkerInfo
    age_seconds: float = 0.0
    #: The change of health, if only the health changed.
    health: HealthChange | None = None
    #: The status before the change; empty if unknown.
    before: str = ""
    #: The command that caused the change.
    by: str = ""
    command: str = ""
    #: The change of the trading mode, if only the mode changed.
    mode: ModeChange | None = None
    #: Any other change, if the status did not change.
    remark: Remark | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Events are ordered by `id`, their position in the stream. `time` is when it happened, by Redis's clock,
    also if the event was written later, as after an outage.
    """

    id: str
    time: datetime
    host: str
    account_id: str
    worker_id: str
    #: The worker's status after the change; empty for events that are not about a worker.
    status: str
    error: str | None
    #: The epoch of the worker's lease; 0 if it had none.
    epoch: int = 0
    #: `state`, `health` if only a worker's health changed, or `other`.
    kind: str = "state"
    #: The health of a running worker after the change.
    health: str | None = None
    #: The health before the change, in a `health` event.
    health_before: str | None = None
    #: Why the health is not `healthy`.
    reason: str | None = None
    #: Changes of health in between that have no event, because there were too many.
    untold: int = 0
    #: For example `worker.running`, `command.done` or `host.lost`; see docs/reference/events.md.
    type: str = ""
    #: The sender of the command that caused it; empty if none did.
    by: str = ""
    #: The command's id, which is its Celery task's id.
    command: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    #: The cursor from which a reader of this event continues; empty if the stream's id was not read.
    cursor: str = ""

    def to_dict(self) -> dict[str, Any]:
        # `asdict` copies every value deeply, and took most of the time of a stream.
        found = {name: getattr(self, name) for name in _NAMES}
        return {**found, "time": self.time.isoformat(), "data": dict(self.data)}


_NAMES: Final = tuple(one.name for one in dataclass_fields(Event))


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


def _envelope(kind: str, by: str, command: str, data: Mapping[str, Any]) -> dict[str, str]:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    if len(text.encode()) > _MAX_DATA:
        short = {key: value for key, value in data.items() if len(json.dumps(value)) <= _MAX_DATA // 16}
        text = json.dumps({**short, "cut": True}, ensure_ascii=False, separators=(",", ":"))
        if len(text.encode()) > _MAX_DATA:
            text = '{"cut":true}'
    return {"v": "1", "type": kind, "by": by[:200], "command": command[:100], "data": text}


def change_fields(host: str, event: WorkerChange) -> dict[str, str]:
    info, change = event.info, event.health
    fields = {
        "host": host,
        "account_id": info.account_id,
        "worker_id": info.worker_id,
        "status": str(info.status),
        "error": info.error or "",
        "epoch": str(info.placement.epoch or 0),
        "kind": "health" if change is not None else "other" if event.mode or event.remark else "state",
    }
    if info.status is WorkerLifecycleStatus.RUNNING:
        fields["health"] = info.metrics.health or "unknown"
        fields["reason"] = info.metrics.health_reason or ""
    data: dict[str, Any]
    if change is not None:
        fields |= {"health": change.new, "health_before": change.old, "reason": change.reason or ""}
        fields |= {"untold": str(change.untold)} if change.untold else {}
        kind, data = "worker.health", {"from": change.old, "to": change.new, "reason": change.reason}
    elif event.remark is not None:
        kind, data = event.remark.type, dict(event.remark.data)
    elif info.placement.resting is not None and event.before in {"", str(info.status)}:
        # It has had no worker, so nothing else of it has changed.
        kind = "account.resting"
        data = {key: info.placement.resting.get(key) for key in ("for", "until", "text")}
    elif event.mode is not None:
        kind, data = "worker.mode", {"from": event.mode.old, "to": event.mode.new}
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
