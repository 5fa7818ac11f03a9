"""Writes what became of commands to the audit trail, from a thread of its own: no command waits for it."""

import logging
import queue
import threading
from collections.abc import Callable
from typing import Final

from manager import logs
from manager.errors import FleetUnavailableError
from manager.fleet.audit import AuditTrail

logger = logging.getLogger(__name__)

#: Entries that wait at most while Redis is away; what comes then is in the log alone.
_WAITING: Final = 10_000
#: Seconds between two tries.
_AGAIN_SECONDS: Final = 1.0

_End = object()


class Auditor:
    """`note` from any thread; `close` writes what is left if Redis is there."""

    def __init__(self, trail: AuditTrail, host: str) -> None:
        self._trail = trail
        self._host = host
        self._closing = threading.Event()
        self._entries: queue.Queue[Callable[[], None] | object] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    def start(self) -> None:
        self._thread.start()

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

        try:
            self._entries.put_nowait(write)
        except queue.Full:
            logs.event(
                logger, logging.ERROR, "audit_lost", "Redis is away for too long; this log has the entries"
            )

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._entries.put(_End)
            self._thread.join()
        self._trail.close()

    def _run(self) -> None:
        while True:
            entry = self._entries.get()
            if not callable(entry):
                return
            while True:
                try:
                    entry()
                except FleetUnavailableError:
                    if self._closing.wait(_AGAIN_SECONDS):
                        break
                else:
                    break
