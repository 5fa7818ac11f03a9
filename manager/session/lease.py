"""A worker's local view of its lease: whether it may trade.

The worker's clock decides, without a network call. With `failover: auto` the worker must be gone before
another host starts one. It stops itself half a lease time after the last successful renewal. Its guardian
process kills it at four fifths, so a paused worker or a blocked call ends too.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from manager.gateways.base import GatewayError
from manager.session.exit_codes import WorkerExit

#: Fractions of the lease time since the last successful renewal: the worker stops, the guardian kills it.
_STOP_AT: Final = 0.5
_GONE_AT: Final = 0.8
#: Seconds that a worker without a lease gets to close its session before it exits.
_LEAVE_SECONDS: Final = 5.0


def last_moment(asked_at: float, seconds: float) -> float:
    """Return when a worker must be gone, by `lease_clock`.

    `asked_at` is when its last successful renewal was sent, `seconds` the lease time.
    """
    return asked_at + seconds * _GONE_AT


class LeaseLost(GatewayError):  # noqa: N818 - beside ConnectionLost, in the words of the protocol
    """Raised instead of a gateway call when the worker has no lease."""

    code = "lease_lost"
    ends_session = True


if sys.platform == "linux":

    def lease_clock() -> float:
        """Return seconds of a clock that all processes share.

        It continues while the machine is suspended.
        """
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:

    def lease_clock() -> float:
        """Return seconds of a clock that all processes of a machine share."""
        return time.monotonic()


def exit_without_lease() -> None:
    """Exit this process in 5 s, without waiting for other threads.

    A blocked gateway call cannot delay the exit.
    """
    timer = threading.Timer(_LEAVE_SECONDS, os._exit, [WorkerExit.LEASE_LOST])
    timer.daemon = True
    timer.start()


class Lease:
    """Whether this worker may act.

    Thread-safe: the trading loop calls `check`, the reporter the rest.
    """

    def __init__(
        self,
        seconds: float,
        asked_at: float,
        on_lost: Callable[[str], None],
        extend: Callable[[float], None] | None = None,
        *,
        clock: Callable[[], float] = lease_clock,
        schedule_exit: Callable[[], None] = exit_without_lease,
    ) -> None:
        """Begin with a lease that was requested at `asked_at` (by `clock`).

        `seconds` is the lease time; 0: the lease does not expire and ends only when another worker takes it.
        `extend` tells the guardian until when this process may live. `schedule_exit` is called once, after
        `on_lost`.
        """
        self._seconds = seconds
        self._on_lost = on_lost
        self._extend = extend
        self._clock = clock
        self._schedule_exit = schedule_exit
        self._lock = threading.Lock()
        self._renewed_at = asked_at
        self._lost: str | None = None

    @property
    def lost(self) -> str | None:
        """Why the lease is lost, or None while the worker has it."""
        return self._lost

    def renewed(self, asked_at: float) -> None:
        """Record a successful renewal whose request was sent at `asked_at`.

        Ignored once the lease is lost.
        """
        with self._lock:
            if self._lost is None:
                self._renewed_at = asked_at
                if self._extend is not None:
                    self._extend(last_moment(asked_at, self._seconds))

    def lose(self, why: str) -> None:
        """Mark the lease as lost and schedule this process's exit.

        Idempotent; the first reason counts.
        """
        with self._lock:
            if self._lost is not None:
                return
            self._lost = why
        self._on_lost(why)
        self._schedule_exit()

    def check(self) -> None:
        """Raise LeaseLost unless this worker may act now.

        Called before every gateway call.
        """
        self.tick(self._clock())
        if self._lost is not None:
            raise LeaseLost(self._lost)

    def tick(self, now: float) -> None:
        """Lose the lease if it is overdue at `now` (seconds by the lease's clock).

        Raises nothing.
        """
        overdue = self._seconds > 0 and now - self._renewed_at > self._seconds * _STOP_AT
        if self._lost is None and overdue:
            self.lose(f"it could not be renewed for {now - self._renewed_at:.1f} s")
