"""When a worker that exited unexpectedly is restarted.

Pure arithmetic: time and random numbers are parameters.
"""

import random
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

from manager.config import RecoveryConfig

#: Random fraction of a delay, so that workers which failed for one cause do not restart at the same moment.
_JITTER: Final = 0.5


@dataclass(frozen=True, slots=True)
class Blocked:
    """An account that is not restarted until something changes."""

    generation: int
    #: Configuration and credential at the failure; a change of them unblocks. None: only a command unblocks.
    fingerprint: Hashable | None
    #: Why a limit that was exceeded allows no restart; empty: restarts are exhausted.
    limit: str = ""


class RestartPolicy:
    """The restarts of one account, with growing delays and a limit."""

    def __init__(self, random_fraction: Callable[[], float] = random.random) -> None:
        """`random_fraction` returns a number from 0 to 1."""
        self._random_fraction = random_fraction
        self._streak = 0
        self._restarts: deque[float] = deque()
        #: When limits ended the worker.
        self._exceeded: deque[float] = deque()
        self._running_since: float | None = None

    def started(self, now: float) -> None:
        """Record that the account runs since `now`."""
        self._running_since = now

    def next_delay(self, now: float, config: RecoveryConfig) -> float | None:
        """Count a restart and return its delay in seconds.

        None if the limit is reached. Call it when a worker has exited or a start has failed. Times are
        monotonic seconds.
        """
        if self._running_since is not None and now - self._running_since >= config.healthy_after_seconds:
            self._streak = 0
        self._running_since = None
        while self._restarts and now - self._restarts[0] > config.window_seconds:
            self._restarts.popleft()
        if len(self._restarts) >= config.max_restarts:
            return None
        delay = 0.0
        if self._streak > 0:
            longest = min(
                config.max_backoff_seconds, config.backoff_seconds * 2.0 ** min(self._streak - 1, 30)
            )
            delay = longest * (1.0 - _JITTER * self._random_fraction())
        self._streak += 1
        self._restarts.append(now + delay)
        return delay

    def exceeded(self, now: float, config: RecoveryConfig) -> int:
        """Count that a limit ended the worker; returns how often within the window."""
        while self._exceeded and now - self._exceeded[0] > config.window_seconds:
            self._exceeded.popleft()
        self._exceeded.append(now)
        return len(self._exceeded)

    @property
    def restarts(self) -> int:
        """The number of restarts within the window."""
        return len(self._restarts)
