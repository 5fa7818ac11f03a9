"""What a pool holds for one account: its lock, its worker, and how that worker is reached."""

import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from manager.config import RecoveryConfig
from manager.errors import ManagerError
from manager.fleet.events import HealthChange
from manager.host.reporting.health_changes import HealthChanges
from manager.host.workers.leases import LeaseGrant
from manager.host.workers.records import WorkerRecord
from manager.models import WorkerInfo, WorkerMetrics, WorkerPlacement, utc_now
from manager.session.control import ControlError, ask
from manager.states import LIVE, TradingMode, WorkerHealth, WorkerLifecycleStatus, may_move


class IllegalTransitionError(ManagerError, RuntimeError):
    """Raised when code of ours asks for a transition that the table of states forbids."""

    code = "illegal_transition"


@dataclass(eq=False)
class Slot:
    """One account of the pool.

    `lock` is held through a whole start or stop, so that an account's commands happen one after the other and never
    wait for another account's. `guard` is held for moments, around the fields that the watching thread changes too.
    """

    account_id: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    guard: threading.Lock = field(default_factory=threading.Lock)
    info: WorkerInfo | None = None
    record: WorkerRecord | None = None
    #: What happens during a start: words of the worker, `died`, `cancelled`.
    events: "queue.SimpleQueue[Mapping[str, Any]] | None" = None
    #: Set when the process is proven to have ended.
    exited: threading.Event = field(default_factory=threading.Event)
    exit_code: int | None = None
    #: What the present worker holds in the fleet, or what an ended one left for the next.
    held: LeaseGrant | None = None
    #: Set by a stop that waits for its turn, so that a start which waits for its lease makes room.
    cancelled: threading.Event = field(default_factory=threading.Event)
    #: The worker that a start is about to make.
    next_worker: str | None = None
    #: Whether a start is under way, from its first step on.
    starting: bool = False
    #: Set when a command gave up on a process that it could not end: the watching thread records that end.
    unattended: bool = False
    #: Why the pool itself ended the worker, where the exit code cannot say.
    ended_because: str | None = None
    #: Whether the worker has ended, but processes that its program started could not be killed.
    orphaned: bool = False
    #: The trading mode that its worker was given last.
    mode: TradingMode = TradingMode.NORMAL
    #: How often its worker was started again since the last command, and why the last time.
    restarts: int = 0
    last_cause: str | None = None
    #: How its last worker was to be recovered, by the file that it was started from; None if unknown.
    recovery: RecoveryConfig | None = None
    #: The health of the worker that runs, as it was told last.
    health: HealthChanges | None = None

    @property
    def status(self) -> WorkerLifecycleStatus | None:
        return self.info.status if self.info else None

    @property
    def live(self) -> bool:
        """Whether a process may exist."""
        return self.info is not None and self.info.status in LIVE

    @property
    def unrecorded(self) -> bool:
        """Whether a worker lives that this host has no record of; see `manager.host.workers.unrecorded`."""
        return self.status is WorkerLifecycleStatus.UNKNOWN

    @property
    def generation(self) -> int:
        """Of the command that its worker was started by; 0 where nobody keeps count."""
        return self.record.generation if self.record is not None else 0

    @property
    def restarting(self) -> bool:
        """Whether its worker has ended and the next one is waited for."""
        return self.status is WorkerLifecycleStatus.RESTARTING

    def move(self, status: WorkerLifecycleStatus, **changes: Any) -> WorkerInfo:
        """Go to `status` if the table allows it, with other changes to the record; returns the new record."""
        if self.info is None or not may_move(self.info.status, status):
            raise IllegalTransitionError(f"{self.account_id}: {self.status} may not become {status}")
        if status is WorkerLifecycleStatus.RUNNING:
            changes.setdefault("started_at", utc_now())
        elif status not in LIVE:
            changes.setdefault("stopped_at", utc_now())
        if status is not WorkerLifecycleStatus.RUNNING and self.health is not None:
            # What it was while it ran is not what an ended worker is.
            self.health = None
            unknown = WorkerMetrics(health=WorkerHealth.UNKNOWN, health_reason=None).to_dict()
            changes["metadata"] = {**unknown, **changes.get("metadata", {})}
        if isinstance(changes.get("error"), str):
            changes["error"] = self.without_account(changes["error"])
        self.info = self.info.with_(status=status, **changes)
        return self.info

    def ending(self, *, forced: bool = False) -> dict[str, Any]:
        """Return the metadata of how the worker's process ended."""
        ending = WorkerPlacement(exit_code=self.exit_code).to_dict()
        return ending | (WorkerPlacement(forced=True).to_dict() if forced else {})

    def without_account(self, text: str) -> str:
        """Return an error's text without the account's name before it, which the record has anyway."""
        return text.removeprefix(f"{self.account_id}: ")

    def run(self, status: Mapping[str, Any], **changes: Any) -> WorkerInfo:
        """Go to `running`, with the health that the worker's status tells; the caller holds `guard`."""
        reported = WorkerMetrics.read(status)
        health = reported.health or WorkerHealth.UNKNOWN
        self.health = HealthChanges(health)
        metadata = WorkerMetrics(health=health, health_reason=reported.health_reason).to_dict()
        return self.move(WorkerLifecycleStatus.RUNNING, metadata=metadata, **changes)

    def note_health(self, status: Mapping[str, Any]) -> HealthChange | None:
        """Take the health that the worker's status tells; the caller holds `guard`.

        Returns the change if an event is to tell of it; the record then has the new health.
        """
        if self.health is None or self.info is None or self.status is not WorkerLifecycleStatus.RUNNING:
            return None
        reported = WorkerMetrics.read(status)
        change = self.health.look(reported.health, reported.health_reason)
        if change is not None:
            self.info = self.info.with_(
                metadata=WorkerMetrics(health=change.new, health_reason=change.reason)
            )
        return change

    def orphan(self, reason: str, *, recovering: bool) -> WorkerInfo:
        """Note that the worker has ended and its program has not; the caller holds `guard`.

        Recovery, or the next stop, tries again to end it. Until then the account keeps its record and its lease.
        """
        self.orphaned = True
        status = WorkerLifecycleStatus.RESTARTING if recovering else WorkerLifecycleStatus.STOPPING
        if self.status is status and self.info is not None:
            self.info = self.info.with_(error=self.without_account(reason))
            return self.info
        return self.move(status, error=reason, metadata=self.ending())

    def tell(self, event: Mapping[str, Any]) -> bool:
        """Tell a start that is under way; False if none is."""
        with self.guard:
            if self.events is None:
                return False
            self.events.put(event)
            return True

    def ask(self, request: Mapping[str, Any], *, timeout: float = 2.0) -> dict[str, Any]:
        """Ask the worker over its control channel. Raises ControlError."""
        if self.record is None:
            raise ControlError("there is no worker")
        return ask(self.record.control_address, self.record.control_token, request, timeout=timeout)
