"""Waits for the answer to one command."""

import time
from typing import Any, Final

from celery.exceptions import TimeoutError as ResultTimeoutError

from manager import wire
from manager.client.commands import Command
from manager.client.outcomes import recorded_outcome
from manager.errors import CommandTimeoutError, FleetUnavailableError
from manager.fleet import FleetStore
from manager.fleet.desired_store import DesiredStore

#: Seconds between two checks of the host whose answer is missing, and checks in a row that must find it
#: silent before the wait ends.
_RECHECK_SECONDS: Final = 2.0
_SILENT_CHECKS: Final = 3


class CommandAnswers:
    """Waits for the answers of hosts, as long as the host is live."""

    def __init__(self, store: FleetStore, desired: DesiredStore) -> None:
        self._store = store
        self._desired = desired

    def wait(self, result: Any, command: Command, wait_seconds: float) -> Any:
        """Block until the command's result arrives, and return it.

        `result` is the Celery result of its task.

        Raises:
            CommandTimeoutError: no result arrived within `wait_seconds`, or its host became silent. The
                command may still be carried out.
            ManagerError: what the host raised.
        """
        deadline = time.monotonic() + wait_seconds
        host = wire.host_of_queue(command.queue)
        silent = 0
        while True:
            left = deadline - time.monotonic()
            try:
                return result.get(timeout=max(0.0, min(left, _RECHECK_SECONDS)))
            except ResultTimeoutError:
                if left <= _RECHECK_SECONDS:
                    why = f"no answer to {command.spec.task} within {wait_seconds:g} s (task {result.id})"
                elif host is not None and self._is_silent(host):
                    silent += 1
                    if silent < _SILENT_CHECKS:
                        continue
                    why = f"host {host}, which should carry it out, is silent"
                else:
                    silent = 0
                    continue
                recorded = self._recorded(command)
                if recorded is not None:
                    return recorded
                raise CommandTimeoutError(
                    f"{command.account_id}: {why}: it may still be carried out; `manager info "
                    f"{command.account_id}` shows whether it was, `manager doctor` looks for the cause"
                ) from None

    def _recorded(self, command: Command) -> Any:
        """Return the command's result if records show that it was carried out.

        Returns None if they do not. A renamed host, or one whose agent was killed, applies desired state but
        never answers the tasks from before.
        """
        account_id = command.account_id
        try:
            desired, info = self._desired.read(account_id), self._store.get_worker(account_id)
        except FleetUnavailableError:
            return None
        found = recorded_outcome(command.name, command.generation or None, desired, info)
        if found is None or found[0] == "failed":
            return None
        return True if command.spec.state == "stopped" else found[1].to_wire()

    def _is_silent(self, host: str) -> bool:
        try:
            return not any(one.live for one in self._store.hosts() if one.name == host)
        except FleetUnavailableError:
            return False  # unknown: the wait continues
