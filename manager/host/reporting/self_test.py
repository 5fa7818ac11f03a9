"""Whether this host agent still consumes what is sent to it: answering is not enough.

A consumer can lose its connection in ways after which it is alive and hears nothing, so each agent sends itself a small
message through the broker and waits for it.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from manager.system.spare_files import is_own_shortage

#: Intervals without an own message heard, while sending works, after which the agent is deaf.
_DEAF_AFTER: Final = 6
#: With this many commands under way its threads may just all be taken.
_BUSY: Final = 32


class SelfTest:
    """Sends, hears, and says when it should have heard. Thread-safe."""

    def __init__(self, interval_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.interval = interval_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._heard_at: float | None = None
        self._unheard_since: float | None = None
        self._commands = 0
        #: Since when no message could be sent, as this process may open no further file.
        self._short_since: float | None = None

    def sent(self) -> None:
        """Note that a message went out."""
        with self._lock:
            self._short_since = None
            if self._unheard_since is None or self._commands >= _BUSY:
                self._unheard_since = self._clock()

    def unsent(self, error: BaseException) -> None:
        """Note that a message could not be sent, and why."""
        with self._lock:
            if not is_own_shortage(error):
                self._short_since = None  # Redis is away: another process would not reach it either
            elif self._short_since is None:
                self._short_since = self._clock()

    def short(self) -> bool:
        """Return whether nothing could be sent for long because this process may open no further file.

        Another process starts with an empty table of open files, so it can.
        """
        deaf = self.deaf()  # of what went out before
        with self._lock:
            since = self._short_since
            return since is not None and (deaf or self._clock() - since > self.interval * _DEAF_AFTER)

    def heard(self) -> None:
        """Note that one came in."""
        with self._lock:
            self._heard_at = self._clock()
            self._unheard_since = None

    def begin_command(self) -> None:
        with self._lock:
            self._commands += 1

    def end_command(self) -> None:
        with self._lock:
            self._commands -= 1

    @property
    def heard_seconds_ago(self) -> float | None:
        with self._lock:
            return None if self._heard_at is None else self._clock() - self._heard_at

    def deaf(self) -> bool:
        """Say whether messages have been going out for long, and none came in."""
        with self._lock:
            if self._unheard_since is None or self._commands >= _BUSY:
                return False
            return self._clock() - self._unheard_since > self.interval * _DEAF_AFTER
