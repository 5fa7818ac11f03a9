"""Redis's clock, derived from this machine's monotonic clock."""

import threading
from collections.abc import Callable


class RedisClock:
    """Continues Redis's time between two reads of it. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` returns monotonic seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        #: Milliseconds of Redis's clock minus those of ours, or None before the first `set`.
        self._offset: float | None = None

    def set(self, milliseconds: float) -> None:
        """Note Redis's time of this moment, in milliseconds since the epoch."""
        with self._lock:
            self._offset = milliseconds - self._clock() * 1000

    def advance(self, seconds: float) -> None:
        """Add time during which the monotonic clock stood still, as in a suspend."""
        with self._lock:
            if self._offset is not None:
                self._offset += seconds * 1000

    def milliseconds(self) -> float | None:
        """Return Redis's time in milliseconds since the epoch, if known."""
        with self._lock:
            return None if self._offset is None else self._clock() * 1000 + self._offset
