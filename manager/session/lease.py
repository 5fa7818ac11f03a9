"""A worker's own view of its lease: whether it may still act, judged by its own clock and without asking anybody.

Where another host may take over (`failover: auto`) the worker must have stopped before that: it stops itself when it
could not renew for half of the lease's time, and its guardian (a process of its own) ends it at four fifths: a call
that never returns, or a pause, cannot hold that up.
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

#: Parts of the lease's time, from the last renewal that went well: stop in order, and be gone.
_STOP_AT: Final = 0.5
_GONE_AT: Final = 0.8
#: Seconds that a worker whose lease another one has may take to leave its session.
_LEAVE_SECONDS: Final = 5.0


def last_moment(asked_at: float, seconds: float) -> float:
    """Return when (by `lease_clock`) a worker must be gone whose lease was renewed last at `asked_at`."""
    return asked_at + seconds * _GONE_AT


class LeaseLost(GatewayError):  # noqa: N818 - beside ConnectionLost, in the words of the protocol
    """Raised instead of a call that a worker without a lease would make."""

    code = "lease_lost"
    ends_session = True


class Lease:
    """Whether this worker may act. Thread-safe: the loop asks, the reporter tells."""

    def __init__(
        self,
        seconds: float,
        asked_at: float,
        on_lost: Callable[[str], None],
        extend: Callable[[float], None] | None = None,
    ) -> None:
        """`extend` tells the guardian until when this process may live."""
        #: 0: it has no time to live, and is lost only to somebody who has it.
        self._seconds = seconds
        self._on_lost = on_lost
        self._extend = extend
        self._lock = threading.Lock()
        self._renewed_at = asked_at
        self._lost: str | None = None

    @property
    def lost(self) -> str | None:
        """Why it is lost; None while it is not."""
        return self._lost

    def renewed(self, asked_at: float) -> None:
        """Note that a renewal which was asked for at `asked_at` went well."""
        with self._lock:
            if self._lost is None:
                self._renewed_at = asked_at
                if self._extend is not None:
                    self._extend(last_moment(asked_at, self._seconds))

    def lose(self, why: str) -> None:
        """Another one has it: act no more, and be gone soon. The first reason counts."""
        with self._lock:
            if self._lost is not None:
                return
            self._lost = why
        self._on_lost(why)
        timer = threading.Timer(_LEAVE_SECONDS, os._exit, [WorkerExit.LEASE_LOST])
        timer.daemon = True
        timer.start()

    def check(self) -> None:
        """Raise LeaseLost unless this worker may act now. Called before every call to the venue."""
        if self._lost is None and self._overdue() > 0:
            self.lose(f"it could not be renewed for {lease_clock() - self._renewed_at:.1f} s")
        if self._lost is not None:
            raise LeaseLost(self._lost)

    def tend(self) -> None:
        """Lose it if it is time; for the thread that renews."""
        with contextlib.suppress(LeaseLost):
            self.check()

    def _overdue(self) -> float:
        return lease_clock() - self._renewed_at - self._seconds * _STOP_AT if self._seconds else -1.0


if sys.platform == "linux":

    def lease_clock() -> float:
        """Return seconds by a clock that all processes of a machine share and that goes on while it sleeps."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:

    def lease_clock() -> float:
        """Return seconds by a clock that all processes of a machine share."""
        return time.monotonic()
