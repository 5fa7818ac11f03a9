"""Time that workers get to send heartbeats after a pause.

Either this process was paused, or the whole machine.
"""

from typing import Final

#: A wait that takes this many seconds longer than planned means that this process was paused.
_PAUSED_SECONDS: Final = 10.0
#: Seconds that workers get after a pause: they were paused as well and could send no heartbeat.
GRACE_SECONDS: Final = 10.0


class HangGrace:
    """Suspends the check for hung workers after a pause.

    Used by one thread; times are monotonic seconds.
    """

    def __init__(self) -> None:
        self._until = float("-inf")

    def waited(self, planned: float, actual: float, now: float) -> bool:
        """Note that a wait of `planned` seconds took `actual`.

        Returns whether this process was paused. Only waits count. A pass that took long, as with a Redis that
        hangs, is not a pause, and workers that hang meanwhile are ended.
        """
        paused = actual - planned > _PAUSED_SECONDS
        if paused:
            self.begin(now)
        return paused

    def begin(self, now: float) -> None:
        """Suspend the check until `GRACE_SECONDS` after `now`."""
        self._until = now + GRACE_SECONDS

    def active(self, now: float) -> bool:
        """Return whether workers must not be called hung at `now`."""
        return now < self._until
