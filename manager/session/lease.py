"""A worker's local view of its lease, by its own clock and without I/O.

With `failover: auto` the account can be reassigned to another host, and the worker must have ended before
that. It stops itself when it could not renew for half of the lease's time to live. Its guardian process kills
it at four fifths, even if it is paused or inside a call that never returns.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from manager.gateways.base import GatewayError
from manager.session.exit_codes import WorkerExit

#: Fractions of the lease's time to live since the last renewal: when the worker stops, and when it is killed.
_STOP_AT: Final = 0.5
_GONE_AT: Final = 0.8
#: Seconds that a worker may take to close its session after another worker got its lease.
_LEAVE_SECONDS: Final = 5.0


def last_moment(asked_at: float, seconds: float) -> float:
    """Return when a worker is killed whose last renewal began at `asked_at`.

    Both are in seconds of `lease_clock`.
    """
    return asked_at + seconds * _GONE_AT


class LeaseLost(GatewayError):  # noqa: N818 - beside ConnectionLost, in the words of the protocol
    """Raised when a worker without a lease would call its venue."""

    code = "lease_lost"
    ends_session = True


class Lease:
    """Whether this worker may act.

    Thread-safe: the loop checks, the reporter renews.
    """

    def __init__(
        self,
        seconds: float,
        asked_at: float,
        on_lost: Callable[[str], None],
        extend: Callable[[float], None] | None = None,
    ) -> None:
        """`extend` sends a new deadline to the guardian."""
        #: 0: it never expires, and is lost only if another worker gets it.
        self._seconds = seconds
        self._on_lost = on_lost
        self._extend = extend
        self._lock = threading.Lock()
        self._renewed_at = asked_at
        self._lost: str | None = None

    @property
    def lost(self) -> str | None:
        """Why the lease is lost; None while it is held."""
        return self._lost

    def renewed(self, asked_at: float) -> None:
        """Record a successful renewal that was sent at `asked_at`."""
        with self._lock:
            if self._lost is None:
                self._renewed_at = asked_at
                if self._extend is not None:
                    self._extend(last_moment(asked_at, self._seconds))

    def lose(self, why: str) -> None:
        """Mark the lease as lost and end this process within a few seconds.

        The first reason is kept.
        """
        with self._lock:
            if self._lost is not None:
                return
            self._lost = why
        self._on_lost(why)
        timer = threading.Timer(_LEAVE_SECONDS, os._exit, [WorkerExit.LEASE_LOST])
        timer.daemon = True
        timer.start()

    def check(self) -> None:
        """Raise LeaseLost unless this worker may act now.

        Precedes every call to the venue.
        """
        if self._lost is None and self._overdue() > 0:
            self.lose(f"it could not be renewed for {lease_clock() - self._renewed_at:.1f} s")
        if self._lost is not None:
            raise LeaseLost(self._lost)

    def expire_if_due(self) -> None:
        """Mark the lease as lost if it has expired; for the thread that renews."""
        with contextlib.suppress(LeaseLost):
            self.check()

    def _overdue(self) -> float:
        return lease_clock() - self._renewed_at - self._seconds * _STOP_AT if self._seconds else -1.0


if sys.platform == "linux":

    def lease_clock() -> float:
        """Return seconds of a clock that all processes of a machine share.

        It counts during suspend.
        """
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:

    def lease_clock() -> float:
        """Return seconds of a clock that all processes of a machine share."""
        return time.monotonic()
