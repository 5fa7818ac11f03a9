"""Waits for a new worker to report that its session is connected."""

import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from manager.config import AccountConfig
from manager.errors import (
    AuthenticationRefusedError,
    ConnectionFailedError,
    DiskRefusesError,
    StartCancelledError,
    StartFailedError,
    StartTimeoutError,
    WorkerDiedError,
    WrongAccountError,
)
from manager.host.workers.exit_reason import describe_exit
from manager.host.workers.launcher import Launched
from manager.host.workers.limits import PoolLimits
from manager.host.workers.slot import Slot
from manager.session.heartbeat_file import read_heartbeat
from manager.system import logs

logger = logging.getLogger(__name__)

Events = queue.SimpleQueue[Mapping[str, Any]]

_ERRORS: Final[dict[str, type[StartFailedError]]] = {
    "authentication_failed": AuthenticationRefusedError,
    "wrong_account": WrongAccountError,
    "connect_timeout": ConnectionFailedError,
    "connection_lost": ConnectionFailedError,
    "venue_not_found": ConnectionFailedError,
    DiskRefusesError.code: DiskRefusesError,
}


class ConnectWait:
    """Waits for the session of one new worker to connect."""

    def __init__(
        self, config: AccountConfig, log_file: Path, limits: PoolLimits, clock: Callable[[], float]
    ) -> None:
        self._config = config
        self._log_file = log_file
        self._limits = limits
        self._clock = clock
        #: The worker's reports, `cancelled` from a stop, `died` from the exit handler.
        self.events: Events = queue.SimpleQueue()

    def listen(self, launched: Launched) -> None:
        """Read the worker's reports on a thread until its start has ended."""
        threading.Thread(
            target=_listen,
            args=(launched, self.events),
            name=f"launch-{self._config.account_id}",
            daemon=True,
        ).start()

    def wait(self, slot: Slot) -> Mapping[str, Any]:
        """Block until the session is connected; returns the worker's report.

        Raises:
            StartFailedError: The worker reported a failure; a subclass says which.
            StartCancelledError: A stop arrived.
            StartTimeoutError: No report within the account's `timeout` plus a margin.
            WorkerDiedError: The process ended without a report.
        """
        config = self._config
        deadline = self._clock() + config.timeout / 1000 + self._limits.start_margin_seconds
        if config.command is not None:
            # A program that is not ready in time gets the time of a regular stop: it may have orders already.
            deadline += config.stop.deadline_seconds
        died = closed = False
        while not (died and closed):
            try:
                event = self.events.get(timeout=max(0.0, deadline - self._clock()))
            except queue.Empty:
                if died:
                    break
                raise StartTimeoutError(
                    f"{config.account_id}: no connected session after {config.timeout / 1000:g} s (its "
                    f"`timeout` is {config.timeout} ms) and no report from the worker: see {self._log_file}"
                ) from None
            match event.get("event"):
                case "connected":
                    return event
                case "failed":
                    error = _ERRORS.get(str(event.get("code")), StartFailedError)
                    raise error(f"{config.account_id}: {event.get('message')}")
                case "cancelled":
                    raise StartCancelledError(f"{config.account_id}: a stop arrived while it was starting")
                case "died":
                    # Its own report, written before it ended, may still be in the pipe.
                    died, deadline = True, min(deadline, self._clock() + self._limits.exit_seconds)
                case "closed":
                    closed = True
        raise self.died(slot)

    def died(self, slot: Slot) -> WorkerDiedError:
        """Return the error for a worker that died before it was connected."""
        heartbeat = read_heartbeat(slot.record.beat_file) if slot.record else None
        reason = describe_exit(slot.exit_code, heartbeat.exit_reason if heartbeat else None)
        return WorkerDiedError(f"{self._config.account_id}: while starting, {reason}; see {self._log_file}")


def _listen(launched: Launched, events: Events) -> None:
    """Queue the worker's reports until its start has ended; close the pipe."""
    try:
        for line in launched.reader:
            message = json.loads(line)
            events.put(message)
            if message.get("event") in ("connected", "failed"):
                return
    except (OSError, ValueError) as error:
        logs.event(logger, logging.DEBUG, "launch_pipe_broken", str(error))
    finally:
        events.put({"event": "closed"})
        launched.close()
