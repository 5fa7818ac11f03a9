"""Rules about desired state that need neither Redis nor a file."""

import time

from manager.fleet.desired import DesiredState, DesiredStateRequest
from manager.fleet.desired_store import DesiredSnapshot


def without_redis(change: DesiredStateRequest, before: DesiredState | None, host: str) -> DesiredState:
    """Return the desired state after a command that cannot reach Redis.

    `before` is the state known on `host`. The generation is this machine's time in milliseconds, or one more
    than that of `before`.
    """
    now = int(time.time() * 1000)
    return DesiredState(
        account_id=change.account_id,
        state=change.state,
        generation=max(now, before.generation + 1 if before is not None else 0),
        restart=before.restart if before is not None else 0,
        host=before.host if before is not None and before.host else host,
        by=change.by,
        why=change.why,
        timeout=change.timeout,
        at=now,
    ).with_newest_mode(before)


def is_newer(desired: DesiredState, snapshot: DesiredSnapshot) -> bool:
    """Return whether Redis lacks this generation of desired state."""
    there = snapshot.desired.get(desired.account_id)
    return there is None or there.generation < desired.generation
