"""The event for every change of a worker's record, and its subscribers."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from manager.fleet.event_types import HealthChange, ModeChange, Remark
from manager.host.reporting.record_sink import RecordSink
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus
from manager.system import logs

logger = logging.getLogger(__name__)

_S = WorkerLifecycleStatus
_ENDED: Final = frozenset({_S.STOPPED, _S.FAILED, _S.RESTARTING})


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerChanged:
    """A worker's record before and after one change.

    The change is one of state, error, trading mode or health.
    """

    #: None for a worker that was just created.
    before: WorkerInfo | None
    after: WorkerInfo
    #: The first metrics of a worker that now runs.
    beat: Mapping[str, Any] | None = None
    #: Set if only the health changed.
    health: HealthChange | None = None
    #: Set if only the trading mode changed.
    mode: ModeChange | None = None
    #: Set if only something else changed.
    remark: Remark | None = None
    #: The error code of a failed start.
    code: str | None = None

    @property
    def state_changed(self) -> bool:
        return self.before is None or self.before.status is not self.after.status


#: Called in the order of the changes, while the slot's guard is held: it must not block, raise, or use the
#: slot.
Subscriber = Callable[[WorkerChanged], None]


def publish_to(sink: RecordSink) -> Subscriber:
    """Return a subscriber that passes each change to `sink`.

    The sink writes the record and its event in one transaction.
    """

    def publish(change: WorkerChanged) -> None:
        if change.health is not None:
            sink.publish_health(change.after, change.health)
        elif change.mode is not None:
            sink.publish_mode(change.after, change.mode)
        elif change.remark is not None:
            sink.publish_remark(change.after, change.remark)
        else:
            sink.publish(change.after, change.beat)

    return publish


def log_change(change: WorkerChanged) -> None:
    """Write the log line of a change, if it has one."""
    before, after = change.before, change.after
    ids = {"account": after.account_id, "worker": after.worker_id}
    text = after.error or ""
    if change.health is not None:
        reason = change.health.reason
        level = logging.INFO if reason is None else logging.WARNING
        old, new = change.health.old, change.health.new
        logs.event(logger, level, "health_changed", reason or "", **ids, old=old, new=new)
    elif after.status is _S.UNKNOWN and change.state_changed:
        logs.event(logger, logging.WARNING, "worker_unrecorded", text, **ids)
    elif before is None or before.status is _S.CREATED or not change.state_changed:
        return  # a worker that has no process (yet), or the same state
    elif after.status is _S.RUNNING and not after.metadata.get("adopted"):
        seconds = (after.started_at - after.created_at).total_seconds() if after.started_at else 0.0
        pid = after.metadata.get("pid")
        logs.event(logger, logging.INFO, "worker_started", **ids, pid=pid, seconds=round(seconds, 3))
    elif after.status in _ENDED and change.code is not None:
        logs.event(logger, logging.WARNING, "start_failed", text, **ids, code=change.code)
    elif after.status in _ENDED:
        level = logging.INFO if after.error is None else logging.WARNING
        code = after.metadata.get("exit_code")
        logs.event(logger, level, "worker_ended", text, **ids, status=after.status, code=code)
