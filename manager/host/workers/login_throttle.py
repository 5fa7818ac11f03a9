"""How fast a host logs in: a broker that sees two hundred logins in a second locks them out."""

import threading
import time
from collections.abc import Callable, Hashable


class LoginThrottle:
    """Lets so many through a second at each place, evenly. Thread-safe."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = 1.0 / per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._next: dict[Hashable, float] = {}

    def wait(self, place: Hashable, cancelled: threading.Event) -> None:
        """Wait for a turn; at once if nobody came lately, or when `cancelled` is set."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next.get(place, 0.0))
            self._next[place] = turn + self._interval
        if turn > now:
            cancelled.wait(turn - now)
