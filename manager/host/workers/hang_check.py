"""Whether a worker hangs, judged from outside: one that does cannot say so."""

from typing import Final

from manager.host.workers.records import WorkerRecord
from manager.session.heartbeat_file import read_pulse

#: Seconds that a call may be past its deadline before it counts as hung: the gateway's own timeout comes first.
_OVERDUE_SECONDS: Final = 1.0


def why_hung(record: WorkerRecord) -> str | None:
    """Return by what the worker's beat file shows that it hangs; None while it does not, or nobody can say."""
    pulse = read_pulse(record.beat_file)
    if pulse is None:
        return None
    if pulse.overdue_seconds is not None and pulse.overdue_seconds > _OVERDUE_SECONDS:
        return f"it hung: the call {pulse.call} was {pulse.overdue_seconds:.1f} s past its deadline"
    if pulse.age_seconds > record.hang_after_seconds:
        return f"it hung: no sign of life for {pulse.age_seconds:.0f} s"
    return None
