"""Whether a worker hangs, judged from outside: one that does cannot say so."""

from typing import Final

from manager.host.workers.records import WorkerRecord
from manager.session.heartbeat_file import Heartbeat

#: Seconds that a call may be past its deadline before it counts as hung: the gateway's own timeout comes first.
_OVERDUE_SECONDS: Final = 1.0


def why_hung(record: WorkerRecord, heartbeat: Heartbeat | None) -> str | None:
    """Return by what the worker's beat file shows that it hangs; None while it does not, or nobody can say."""
    if heartbeat is None:
        return None
    if heartbeat.overdue_seconds is not None and heartbeat.overdue_seconds > _OVERDUE_SECONDS:
        return f"it hung: the call {heartbeat.call} was {heartbeat.overdue_seconds:.1f} s past its deadline"
    if heartbeat.age_seconds > record.hang_after_seconds:
        return f"it hung: no sign of life for {heartbeat.age_seconds:.0f} s"
    return None
