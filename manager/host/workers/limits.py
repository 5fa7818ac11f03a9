"""Time limits of the pool's operations, and its clocks."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from manager.session.lease import lease_clock


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """Limits in seconds."""

    #: Added to the account's own `timeout`, for the worker to report how its connection attempt ended.
    start_margin_seconds: float = 5.0
    #: For a worker that reported a failure, or whose agent died during its start, to end by itself.
    exit_seconds: float = 2.0
    #: For a killed process to be gone. If it takes longer, the kernel holds it (a hung disk or driver).
    kill_seconds: float = 5.0
    #: For the processes of a dead worker's program to be gone after they were killed.
    orphan_seconds: float = 2.0
    #: For a command to wait until its record is in Redis, so that a listing right after it is current.
    publish_seconds: float = 2.0
    #: For an order in flight, before a worker refuses a change of its trading mode.
    order_seconds: float = 10.0
    #: For the reply to a change of the trading mode, added to `order_seconds`.
    reply_seconds: float = 2.0
    #: Between two attempts to handle the same exit.
    exit_retry_seconds: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """The clocks of a pool and its leases; tests hand in their own."""

    #: Seconds; for deadlines.
    monotonic: Callable[[], float] = time.monotonic
    #: Seconds; shared by all processes of the machine, and continues while it sleeps.
    lease: Callable[[], float] = lease_clock
    #: Aware UTC; for times that people read.
    utc: Callable[[], datetime] = lambda: datetime.now(UTC)
