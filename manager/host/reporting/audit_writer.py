"""Writes what became of commands to the audit trail, from a thread of its own: no command waits for it."""

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

#: Entries that wait at most while Redis is away; what comes then is in the log alone.
_WAITING: Final = 10_000
#: Tries of an entry that fails for another reason than Redis.
_TRIES: Final = 20
#: Seconds between two tries.
_AGAIN_SECONDS: Final = 1.0

_End = object()


class AuditWriter:
    """`note` from any thread; `close` writes what is left if Redis is there."""

    def __init__(self, trail: AuditTrail, host: str) -> None:
        self._trail = trail
        self._host = host
        self._closing = threading.Event()
        self._entries: queue.SimpleQueue[Callable[[], None] | object] = queue.SimpleQueue()
        self.thread = EssentialThread("audit", self._run)

    def start(self) -> None:
        self.thread.start()

    def note(self, what: str, account_id: str, by: str, command: str, outcome: str, text: str = "") -> None:
        """Hand over one outcome."""
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

        if self._entries.qsize() < _WAITING:
            self._entries.put(write)
        else:
            self._lost("Redis is away for too long")

    def close(self) -> None:
        """Write what waits, up to the first that Redis does not take: whoever ends must not wait for it."""
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
            tries = 0
            while not self._written(entry):
                tries += 1
                if tries >= _TRIES and self.thread.trouble is not None:
                    self._lost("an entry cannot be written")
                    break
                if self._closing.is_set():
                    self._lost("Redis is away at the end")
                    return
                self._closing.wait(_AGAIN_SECONDS)

    @staticmethod
    def _lost(why: str) -> None:
        logs.event(logger, logging.ERROR, "audit_lost", f"{why}: the entries are in this log alone")

    def _written(self, entry: Callable[[], object]) -> bool:
        try:
            entry()
        except FleetUnavailableError:
            return False
        except BaseException as error:
            self.thread.failed(error)
            return False
        return True
