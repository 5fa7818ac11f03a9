"""Login throttle.

Brokers lock out a host that sends hundreds of logins in a second.
"""

import threading
import time
from collections.abc import Callable, Hashable


class LoginThrottle:
    """Spreads logins evenly, at `per_second` for each server. Thread-safe."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = 1.0 / per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._next_turn: dict[Hashable, float] = {}

    def wait(self, server: Hashable, cancelled: threading.Event) -> None:
        """Block until the next free turn at `server`, or until `cancelled` is set."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next_turn.get(server, 0.0))
            self._next_turn[server] = turn + self._interval
        if turn > now:
            cancelled.wait(turn - now)
