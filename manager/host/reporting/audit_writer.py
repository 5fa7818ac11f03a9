"""Writes the outcomes of commands to the audit trail.

It has its own thread, so that no command waits for Redis.
"""

import logging
import queue
import threading
from collections.abc import Callable
from typing import Final

from manager.errors import FleetUnavailableError
from manager.fleet.audit import AuditTrail
from manager.system import logs
from manager.system.essential_threads import EssentialThread

logger = logging.getLogger(__name__)

#: Entries that wait at most while Redis is down; later ones are in the log alone.
_CAPACITY: Final = 10_000
#: Attempts for an entry that fails for another reason than Redis.
_ATTEMPTS: Final = 20
#: Seconds between two attempts.
_RETRY_SECONDS: Final = 1.0

_End = object()


class AuditWriter:
    """Queues outcomes of commands and writes them.

    `note` from any thread; `start` and `close` once each.
    """

    def __init__(
        self,
        trail: AuditTrail,
        host: str,
        *,
        capacity: int = _CAPACITY,
        retry_seconds: float = _RETRY_SECONDS,
    ) -> None:
        """`capacity`: entries that wait at most.

        `retry_seconds`: time between two attempts to write one.
        """
        self._capacity = capacity
        self._retry_seconds = retry_seconds
        self._trail = trail
        self._host = host
        self._closing = threading.Event()
        self._entries: queue.SimpleQueue[Callable[[], None] | object] = queue.SimpleQueue()
        self.thread = EssentialThread("audit", self._run)

    def start(self) -> None:
        self.thread.start()

    def note(self, what: str, account_id: str, by: str, command: str, outcome: str, text: str = "") -> None:
        """Log one outcome and queue it for the audit trail. Does not wait."""
        logs.event(
            logger,
            logging.INFO,
            "audit",
            text,
            what=what,
            account=account_id,
            by=by,
            task=command,
            outcome=outcome,
        )

        def write() -> None:
            self._trail.note(
                what,
                by=by,
                host=self._host,
                account_id=account_id,
                command=command,
                outcome=outcome,
                text=text,
            )

        if self._entries.qsize() < self._capacity:
            self._entries.put(write)
        else:
            self._lost("too many entries wait for Redis")

    def close(self) -> None:
        """Write the queued entries up to the first that fails.

        The agent's end must not wait for Redis.
        """
        self._closing.set()
        if self.thread.alive:
            self._entries.put(_End)
            self.thread.join()
        self._trail.close()

    def _run(self) -> None:
        while True:
            entry = self._entries.get()
            if not callable(entry):
                return
            attempts = 0
            while not self._write(entry):
                attempts += 1
                if attempts >= _ATTEMPTS and self.thread.trouble is not None:
                    self._lost("an entry cannot be written")
                    break
                if self._closing.is_set():
                    self._lost("Redis is down while the agent ends")
                    return
                self._closing.wait(self._retry_seconds)

    @staticmethod
    def _lost(why: str) -> None:
        logs.event(logger, logging.ERROR, "audit_lost", f"{why}: these entries are in this log alone")

    def _write(self, entry: Callable[[], object]) -> bool:
        try:
            entry()
        except FleetUnavailableError:
            return False
        except BaseException as error:
            self.thread.failed(error)
            return False
        return True
