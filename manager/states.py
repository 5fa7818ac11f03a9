"""The states of a worker and which transitions between them are legal. A leaf: imports nothing of ours."""

from enum import StrEnum
from typing import Final


class WorkerLifecycleStatus(StrEnum):
    """Where a worker is in its life. The values are part of the wire contract."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    RESTARTING = "restarting"
    #: The host or the worker fell silent, or the host lost its record of a worker that lives: nothing is certain.
    UNKNOWN = "unknown"


class WorkerHealth(StrEnum):
    """How well a worker does, a separate thing from its state."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


class TradingMode(StrEnum):
    """What a connected session may do; a separate thing from its state and its health."""

    NORMAL = "normal"
    #: The session stays connected and runs no cycle, until it is resumed.
    PAUSED = "paused"


_S = WorkerLifecycleStatus

#: The one table of legal transitions; nothing else in the project decides this.
TRANSITIONS: Final[dict[WorkerLifecycleStatus, frozenset[WorkerLifecycleStatus]]] = {
    _S.CREATED: frozenset({_S.STARTING, _S.STOPPED, _S.FAILED}),
    _S.STARTING: frozenset({_S.RUNNING, _S.STOPPING, _S.FAILED}),
    _S.RUNNING: frozenset({_S.STOPPING, _S.RESTARTING, _S.FAILED, _S.STOPPED}),
    _S.STOPPING: frozenset({_S.STOPPED, _S.FAILED}),
    _S.STOPPED: frozenset({_S.STARTING}),
    # A stop of an account whose worker has failed: it has ended and is wanted stopped.
    _S.FAILED: frozenset({_S.STARTING, _S.STOPPED}),
    _S.RESTARTING: frozenset({_S.STARTING, _S.STOPPING, _S.FAILED}),
    _S.UNKNOWN: frozenset(),
}

#: States in which a worker process may exist.
LIVE: Final = frozenset({_S.STARTING, _S.RUNNING, _S.STOPPING, _S.RESTARTING})

#: States in which a worker is about to be there: nothing can be said of its health.
NOT_UP: Final = frozenset({_S.STARTING, _S.RESTARTING})

#: States in which it is certain that no process exists.
SETTLED: Final = frozenset({_S.STOPPED, _S.FAILED})


def may_move(current: WorkerLifecycleStatus, target: WorkerLifecycleStatus) -> bool:
    """Say whether the table allows a worker to go from `current` to `target`."""
    return target in TRANSITIONS[current]
