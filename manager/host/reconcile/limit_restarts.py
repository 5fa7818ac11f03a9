"""Whether a worker that a limit ended is restarted. Pure."""

from typing import Final

from manager.config import RecoveryConfig
from manager.host.reconcile.restart_policy import RestartPolicy
from manager.models import WorkerInfo

#: A worker that limits end this often within `recovery.window_seconds` is not restarted.
_MOST_TIMES: Final = 3


def refused_by_limit(
    info: WorkerInfo, reason: str, policy: RestartPolicy, recovery: RecoveryConfig, now: float
) -> str:
    """Return why a worker that a limit ended is not restarted; empty if it may be.

    Counts this time in the account's `policy`. `now` is in monotonic seconds.
    """
    placed = info.placement
    limit = placed.ended_by_limit
    if limit is None:
        return ""
    next_step = f"raise limits.{limit}, or find why the account needs more"
    if (placed.limits or {}).get("on_exceed") == "stop":
        return f"{reason}; it is not restarted (limits.on_exceed is stop): {next_step}"
    times = policy.exceeded(now, recovery)
    if times < _MOST_TIMES:
        return ""
    return (
        f"{reason}; it exceeds its limit again and again ({times} times in {recovery.window_seconds:g} s): "
        f"{next_step}"
    )
