"""Why a command still waits: what each account does, and the quarantine."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from manager.errors import FleetUnavailableError
from manager.fleet import FleetStore
from manager.fleet.leases import LeaseStore
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus

#: State of a pending account → text for the screen.
_DOING: Final = {
    WorkerLifecycleStatus.STARTING: "logging in",
    WorkerLifecycleStatus.STOPPING: "stopping",
    WorkerLifecycleStatus.RESTARTING: "restarting",
}
#: Accounts that the waiting line names; the others are counted.
_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Wait:
    """Why one account is still pending."""

    account_id: str
    doing: str
    #: Seconds since it began this; None if it has not begun.
    seconds: float | None = None

    @property
    def what(self) -> str:
        long = self.seconds is not None and self.seconds >= 1
        return f"{self.doing} {self.seconds:.0f} s" if long else self.doing

    def __str__(self) -> str:
        return f"{self.account_id} ({self.what})"


class PendingReasons:
    """Reads from Redis what pending accounts do. Not thread-safe."""

    def __init__(self, store: FleetStore, leases: LeaseStore | None) -> None:
        """Pass `leases` for commands that start workers: only those wait for the quarantine."""
        self._store = store
        self._leases = leases
        #: Account → its activity and when this process first saw it. Clocks of hosts may differ from ours.
        self._since: dict[str, tuple[str, float]] = {}

    def read(self, account_ids: Collection[str]) -> list[Wait]:
        """Return why these accounts are pending, the longest wait first.

        Empty if Redis does not answer.
        """
        try:
            _, workers = self._store.snapshot(list(account_ids))
        except FleetUnavailableError:
            return []
        return self.explain(account_ids, {info.account_id: info for info in workers}, time.monotonic())

    def explain(
        self, account_ids: Collection[str], workers: Mapping[str, WorkerInfo], now: float
    ) -> list[Wait]:
        """Return why these accounts are pending, from their records.

        `now` is monotonic seconds.
        """
        waits: list[Wait] = []
        for account_id in sorted(account_ids):
            info = workers.get(account_id)
            if info is not None and info.status is WorkerLifecycleStatus.UNKNOWN:
                waits.append(Wait(account_id, f"host {info.placement.host} is silent"))
                continue
            doing = None if info is None else _DOING.get(info.status)
            if doing is None:
                waits.append(Wait(account_id, "queued"))
                continue
            before, since = self._since.get(account_id, ("", now))
            since = since if before == doing else now
            self._since[account_id] = (doing, since)
            waits.append(Wait(account_id, doing, now - since))
        return sorted(waits, key=lambda wait: -1.0 if wait.seconds is None else wait.seconds, reverse=True)

    def quarantine(self) -> str:
        """Return a line about the remaining quarantine; empty if there is none."""
        if self._leases is None:
            return ""
        try:
            seconds = self._leases.quarantine_seconds()
        except FleetUnavailableError:
            return ""
        if seconds <= 0:
            return ""
        return (
            f"starts wait {max(1, round(seconds))} s more: Redis was restarted or has lost data, so a "
            "worker without a lease in Redis may still run. Running workers are not affected"
        )


def waiting_line(account_ids: Collection[str], waits: Sequence[Wait]) -> str:
    """Return one line: how many accounts are pending, and the first of them by name."""
    named = [str(wait) for wait in waits if wait.account_id in account_ids][:_NAMED]
    if not account_ids or not named:
        return ""
    more = len(account_ids) - len(named)
    return f"waiting for {len(account_ids)}: {', '.join(named)}" + (f", and {more} more" if more else "")
