"""Receives urgent stops over a Redis list of this host.

So a stop does not wait behind slow starts in the task queue.
"""

import threading
from collections.abc import Callable
from typing import Final

from manager.errors import FleetUnavailableError
from manager.fleet.desired import DesiredStateRequest
from manager.fleet.desired_store import DesiredStore
from manager.system.essential_threads import EssentialThread

#: Seconds before the list is read again after an error.
_RETRY_SECONDS: Final = 1.0


class UrgentStopListener:
    """Reads urgent stops on its own thread and passes each to `carry_out`.

    `start` and `close` once each.
    """

    def __init__(
        self, host: str, desired: DesiredStore, carry_out: Callable[[DesiredStateRequest], None]
    ) -> None:
        self._host = host
        self._desired = desired
        self._carry_out = carry_out
        self._closing = threading.Event()
        self.thread = EssentialThread("urgent-stops", self._run)

    def start(self) -> None:
        self.thread.start()

    def close(self) -> None:
        """End the thread; waits up to a second for its blocking read of Redis."""
        self._closing.set()
        self.thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                urgent_stop = self._desired.next_urgent_stop(self._host, 1)
                if urgent_stop is None:
                    continue
                change = DesiredStateRequest(
                    account_id=urgent_stop.account_id,
                    state="stopped",
                    token=urgent_stop.token,
                    by=urgent_stop.by,
                    why="stop",
                )
                self._carry_out(change)
            except FleetUnavailableError:
                self._closing.wait(_RETRY_SECONDS)
            except BaseException as error:
                self.thread.failed(error)
                self._closing.wait(_RETRY_SECONDS)
