"""Sends a worker's heartbeats, which renew its lease.

It uses a thread, so that no call waits for Redis.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from manager.fleet.leases import Holder, LeaseHeld
from manager.session.lease import Lease, lease_clock
from manager.system import logs

logger = logging.getLogger(__name__)

#: Longest interval between attempts while Redis is unavailable, in seconds; the first is the heartbeat's.
_MAX_BACKOFF: Final = 1.0


class Sender(Protocol):
    """Sends a heartbeat."""

    def send(self, account_id: str, beat: Mapping[str, Any]) -> None: ...


class Reporter:
    """Calls `snapshot` at each interval and sends the result."""

    def __init__(
        self,
        sender: Sender,
        account_id: str,
        snapshot: Callable[[], Mapping[str, Any]],
        interval_seconds: float,
        lease: Lease,
    ) -> None:
        self._sender = sender
        self._account_id = account_id
        self._snapshot = snapshot
        self._interval = interval_seconds
        self._lease = lease
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread.

        It sends no last heartbeat, which would show an ended worker as running.
        """
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1.0)

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            asked_at = lease_clock()
            try:
                self._sender.send(self._account_id, self._snapshot())
            except LeaseHeld as error:
                self._lease.lose(_who(error.holder))
                return
            except Exception as error:
                failures += 1
                if failures == 1:
                    logs.event(
                        logger,
                        logging.WARNING,
                        "report_failed",
                        f"Redis is unavailable ({error}); trading continues",
                    )
            else:
                if failures:
                    logs.event(logger, logging.INFO, "report_resumed", missed=failures)
                failures = 0
                self._lease.renewed(asked_at)
            self._lease.tick(lease_clock())
            self._stop.wait(min(self._interval * 2 ** min(failures, 6), max(_MAX_BACKOFF, self._interval)))


def _who(holder: Holder) -> str:
    if holder.worker_id == "":
        return "its lease was revoked"
    return f"worker {holder.worker_id} on host {holder.host} has it"
