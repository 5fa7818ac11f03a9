"""Worker states and their legal transitions.

A leaf: imports no other module of the project.
"""

from enum import StrEnum
from typing import Final


class WorkerLifecycleStatus(StrEnum):
    """The lifecycle status of a worker.

    The values are part of the wire contract.
    """

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    RESTARTING = "restarting"
    #: The host or the worker is silent, or the host lost the record of a live worker.
    UNKNOWN = "unknown"


class WorkerHealth(StrEnum):
    """The health of a worker, independent of its lifecycle status."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


class TradingMode(StrEnum):
    """What a session may do, independent of lifecycle status and health."""

    NORMAL = "normal"
    #: The session is connected and sends no new order until its window opens.
    WAITING = "waiting"
    #: The session sends no order that opens a position.
    CLOSE_ONLY = "close_only"
    #: The session stays connected and runs no trading cycle until it is resumed.
    PAUSED = "paused"

    @property
    def strictness(self) -> int:
        """The place in the sequence from `normal` to `paused`: of two modes the stricter one applies."""
        return _STRICTNESS[self]

    def stricter(self, other: "TradingMode") -> "TradingMode":
        """Return the stricter of this mode and another."""
        return other if other.strictness > self.strictness else self


_STRICTNESS: Final = {mode: place for place, mode in enumerate(TradingMode)}


_S = WorkerLifecycleStatus

#: The legal transitions.
TRANSITIONS: Final[dict[WorkerLifecycleStatus, frozenset[WorkerLifecycleStatus]]] = {
    _S.CREATED: frozenset({_S.STARTING, _S.STOPPED, _S.FAILED}),
    _S.STARTING: frozenset({_S.RUNNING, _S.STOPPING, _S.FAILED}),
    _S.RUNNING: frozenset({_S.STOPPING, _S.RESTARTING, _S.FAILED, _S.STOPPED}),
    _S.STOPPING: frozenset({_S.STOPPED, _S.FAILED}),
    _S.STOPPED: frozenset({_S.STARTING}),
    # A stop of an account whose worker has failed: no process is left, and desired state becomes stopped.
    _S.FAILED: frozenset({_S.STARTING, _S.STOPPED}),
    _S.RESTARTING: frozenset({_S.STARTING, _S.STOPPING, _S.FAILED}),
    _S.UNKNOWN: frozenset(),
}

#: States in which a worker process may exist.
LIVE: Final = frozenset({_S.STARTING, _S.RUNNING, _S.STOPPING, _S.RESTARTING})

#: States before the session is connected: the health is unknown.
NOT_UP: Final = frozenset({_S.STARTING, _S.RESTARTING})

#: States in which certainly no process exists.
SETTLED: Final = frozenset({_S.STOPPED, _S.FAILED})


def may_move(current: WorkerLifecycleStatus, target: WorkerLifecycleStatus) -> bool:
    """Return whether a worker may go from `current` to `target`."""
    return target in TRANSITIONS[current]
