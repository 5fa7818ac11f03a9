"""When a worker that ended unasked is started again: pure arithmetic, with the clock and the dice handed in."""

import random
from collections import deque
from collections.abc import Callable
from typing import Final

from manager.config import RecoveryConfig

#: The part of a pause that is left to chance, so that workers which one cause ended do not come back in one moment.
_JITTER: Final = 0.5


class RestartPolicy:
    """One account's restarts: at once, then after growing pauses, within a budget."""

    def __init__(self, dice: Callable[[], float] = random.random) -> None:
        self._dice = dice
        self._streak = 0
        self._restarts: deque[float] = deque()
        self._running_since: float | None = None

    def started(self, now: float) -> None:
        """Note that the account runs since `now`."""
        self._running_since = now

    def next_delay(self, now: float, config: RecoveryConfig) -> float | None:
        """Return how long to wait before the next start, and count it; None if the budget is spent.

        Called when a worker has ended or a start has failed. Times are seconds of one monotonic clock.
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
            delay = longest * (1.0 - _JITTER * self._dice())
        self._streak += 1
        self._restarts.append(now + delay)
        return delay

    @property
    def restarts(self) -> int:
        """How many there were within the window."""
        return len(self._restarts)
