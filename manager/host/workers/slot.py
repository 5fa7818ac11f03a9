"""One account of the pool.

Its lock, its worker, and the control channel to that worker.
"""

import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from manager.config import RecoveryConfig
from manager.config.models_limits import LimitsConfig
from manager.errors import ManagerError
from manager.fleet.event_types import HealthChange, ModeChange, Remark
from manager.fleet.run_types import NO_CAUSE, RunCause
from manager.host.reporting.health_changes import HealthChanges
from manager.host.workers.changes import Subscriber, WorkerChanged
from manager.host.workers.leases import LeaseGrant
from manager.host.workers.records import WorkerRecord
from manager.models import WorkerInfo, WorkerMetrics, WorkerPlacement, new_worker_id, utc_now
from manager.session.control import ControlError, ask
from manager.states import LIVE, TradingMode, WorkerHealth, WorkerLifecycleStatus, may_move


class IllegalTransitionError(ManagerError, RuntimeError):
    """Raised on a transition that the table in `manager.states` forbids.

    It shows a defect in this software.
    """

    code = "illegal_transition"


@dataclass(frozen=True, slots=True)
class Rest:
    """How an account rests: it should run, but has no worker for now."""

    #: The value of `metadata.resting`.
    resting: Mapping[str, Any]
    #: The desired-state generation.
    generation: int
    #: Whether the worker closes its positions first, whatever the account's file says.
    close_positions: bool = False


@dataclass(eq=False)
class Slot:
    """The state of one account in the pool.

    `lock` is held for a whole start or stop: an account's commands run one after the other and never wait for
    another account's. `guard` is held briefly, around the fields that the exit handler changes too.
    """

    account_id: str
    #: Called with every change of the worker's record.
    subscribers: Sequence[Subscriber] = ()
    lock: threading.Lock = field(default_factory=threading.Lock)
    guard: threading.Lock = field(default_factory=threading.Lock)
    info: WorkerInfo | None = None
    record: WorkerRecord | None = None
    #: Events of a running start: the worker's reports, `died`, `cancelled`.
    events: "queue.SimpleQueue[Mapping[str, Any]] | None" = None
    #: Set when the process is proven to have ended.
    exited: threading.Event = field(default_factory=threading.Event)
    exit_code: int | None = None
    #: The lease of the current worker, or the one that an ended worker left for the next.
    lease: LeaseGrant | None = None
    #: Set by a waiting stop, so that a start which waits (for its lease, its login) gives up.
    cancelled: threading.Event = field(default_factory=threading.Event)
    #: The id of the worker that a running start is about to create.
    next_worker: str | None = None
    #: Whether a start is running, from its first step on.
    starting: bool = False
    #: Set when a command gave up on a process that it could not end: the exit handler then records its end.
    unattended: bool = False
    #: Why the pool itself killed the worker, which the exit code does not show.
    kill_reason: str | None = None
    #: Whether the worker has ended, but processes of its program could not be killed.
    orphaned: bool = False
    #: The trading mode that its worker was last set to.
    mode: TradingMode = TradingMode.NORMAL
    #: Who asked for the start of its worker, and why.
    origin: RunCause = NO_CAUSE
    #: Whether its worker is being stopped because the account rests.
    rests: bool = False
    #: Whether its worker closes its positions when it is stopped, whatever the account's file says.
    closes_positions: bool = False
    #: How often its worker was restarted since the last command, and the reason of the last restart.
    restarts: int = 0
    last_cause: str | None = None
    #: The recovery settings that its last worker was started with; None if unknown.
    recovery: RecoveryConfig | None = None
    #: Its limits when it was started, or as its file was read later; None if unknown.
    limits: LimitsConfig | None = None
    #: The limit for whose excess this host ends the worker.
    ended_by_limit: str | None = None
    #: The last published health of the running worker.
    health: HealthChanges | None = None

    @property
    def status(self) -> WorkerLifecycleStatus | None:
        return self.info.status if self.info else None

    @property
    def live(self) -> bool:
        """Whether a process may exist."""
        return self.info is not None and self.info.status in LIVE

    @property
    def active(self) -> bool:
        """Whether a worker is starting, running or stopping.

        It neither awaits recovery nor left orphans.
        """
        return self.live and not (self.restarting or self.orphaned)

    @property
    def unrecorded(self) -> bool:
        """Whether a live worker has no record on this host.

        See `manager.host.workers.unrecorded`.
        """
        return self.status is WorkerLifecycleStatus.UNKNOWN

    @property
    def generation(self) -> int:
        """The desired-state generation that started the worker.

        It is 0 in a pool without a fleet.
        """
        return self.record.generation if self.record is not None else 0

    @property
    def resting(self) -> bool:
        """Whether it has no worker because of its schedule."""
        return self.info is not None and self.info.metadata.get("resting") is not None

    @property
    def restarting(self) -> bool:
        """Whether its worker has ended and awaits recovery."""
        return self.status is WorkerLifecycleStatus.RESTARTING

    def move(
        self,
        status: WorkerLifecycleStatus,
        *,
        through: WorkerLifecycleStatus | None = None,
        beat: Mapping[str, Any] | None = None,
        code: str | None = None,
        **changes: Any,
    ) -> WorkerInfo:
        """Change the status, with other changes to the record, and emit one event.

        The caller holds `guard`.

        `through` is a status that the worker passes on the way. `beat` and `code` go into the event. Returns
        the new record. Raises IllegalTransitionError.
        """
        before = self.info
        if before is None:
            raise IllegalTransitionError(f"{self.account_id} has no worker that may become {status}")
        path = [before.status, *([through] if through is not None else []), status]
        for current, target in pairwise(path):
            if not may_move(current, target):
                raise IllegalTransitionError(f"{self.account_id}: {current} may not become {target}")
        if status is WorkerLifecycleStatus.RUNNING:
            changes.setdefault("started_at", utc_now())
        elif status not in LIVE:
            changes.setdefault("stopped_at", utc_now())
        if status is not WorkerLifecycleStatus.RUNNING and before.metadata.get("exceeded"):
            changes["metadata"] = {**changes.get("metadata", {}), **WorkerPlacement(exceeded=None).to_dict()}
        if status is not WorkerLifecycleStatus.RUNNING and self.health is not None:
            # An ended worker must not show the health that it had while it ran.
            self.health = None
            unknown = WorkerMetrics(health=WorkerHealth.UNKNOWN, health_reason=None).to_dict()
            changes["metadata"] = {**unknown, **changes.get("metadata", {})}
        if isinstance(changes.get("error"), str):
            changes["error"] = self.strip_account(changes["error"])
        return self._emit(before.with_(status=status, **changes), beat=beat, code=code)

    def announce(self) -> WorkerInfo:
        """Emit the event of a worker that was just put into the slot.

        The caller holds `guard`.
        """
        if self.info is None:
            raise IllegalTransitionError(f"{self.account_id} has no worker to announce")
        return self._notify(None, self.info)

    def set_info(self, info: WorkerInfo) -> WorkerInfo:
        """Replace the record without a transition, and emit the event.

        The caller holds `guard`.
        """
        return self._emit(info)

    def set_mode(self, mode: TradingMode, by: str) -> WorkerInfo:
        """Record the worker's trading mode; emit an event if it differs from the recorded one.

        The caller holds `guard`. Raises IllegalTransitionError.
        """
        self.mode = mode
        if self.info is None:
            raise IllegalTransitionError(f"{self.account_id} has no worker that may become {mode}")
        before = self.info.trading_mode
        after = self.info.with_(metadata=WorkerMetrics(trading_mode=mode))
        if before is mode:
            return self._emit(after)
        return self._emit(after, mode=ModeChange(str(before), str(mode), by))

    def remark(self, remark: Remark, metadata: Mapping[str, Any]) -> None:
        """Change metadata of the record and emit the event of that. The caller holds `guard`."""
        if self.info is not None:
            self._emit(self.info.with_(metadata=metadata), remark=remark)

    def _emit(
        self,
        after: WorkerInfo,
        *,
        beat: Mapping[str, Any] | None = None,
        health: HealthChange | None = None,
        mode: ModeChange | None = None,
        remark: Remark | None = None,
        code: str | None = None,
    ) -> WorkerInfo:
        before, self.info = self.info, after
        return self._notify(before, after, beat=beat, health=health, mode=mode, remark=remark, code=code)

    def _notify(self, before: WorkerInfo | None, after: WorkerInfo, **details: Any) -> WorkerInfo:
        change = WorkerChanged(before=before, after=after, **details)
        for subscriber in self.subscribers:
            subscriber(change)
        return after

    def set_failure(self, reason: str, host: str) -> None:
        """Set the reason why the account has no worker. The caller holds `lock`."""
        reason = self.strip_account(reason)
        with self.guard:
            if self.info is None:  # it failed before a worker existed, for example after a reboot
                self.info = WorkerInfo(
                    worker_id=new_worker_id(),
                    account_id=self.account_id,
                    status=WorkerLifecycleStatus.CREATED,
                    metadata=WorkerPlacement(host=host).to_dict(),
                )
                self.move(WorkerLifecycleStatus.FAILED, error=reason)
            elif self.info.error != reason or self.resting:
                rests_no_more = WorkerPlacement(resting=None).to_dict() if self.resting else {}
                self.set_info(self.info.with_(error=reason, metadata=rests_no_more))

    def set_resting(self, rest: Rest | None, host: str) -> None:
        """Record why the account has no worker, or that it does not rest any more.

        The caller holds `lock`; the account has no worker.
        """
        resting = None if rest is None else dict(rest.resting)
        placement = WorkerPlacement(resting=resting).to_dict()
        if rest is not None and rest.generation:
            placement |= WorkerPlacement(generation=rest.generation).to_dict()
        with self.guard:
            if self.info is None:
                if rest is None:
                    return
                placement |= WorkerPlacement(host=host).to_dict()
                self.info = WorkerInfo(
                    worker_id=new_worker_id(),
                    account_id=self.account_id,
                    status=WorkerLifecycleStatus.CREATED,
                )
                self.move(WorkerLifecycleStatus.STOPPED, metadata=placement)
            elif any(self.info.metadata.get(name) != value for name, value in placement.items()):
                self.set_info(self.info.with_(metadata=placement))

    def ending(self, *, forced: bool = False) -> dict[str, Any]:
        """Return the metadata of how the worker's process ended."""
        ending = WorkerPlacement(exit_code=self.exit_code).to_dict()
        if self.ended_by_limit is not None:
            ending |= WorkerPlacement(ended_by_limit=self.ended_by_limit).to_dict()
        return ending | (WorkerPlacement(forced=True).to_dict() if forced else {})

    def strip_account(self, text: str) -> str:
        """Return an error text without the leading account id."""
        return text.removeprefix(f"{self.account_id}: ")

    def set_running(
        self, status: Mapping[str, Any], *, beat: Mapping[str, Any] | None = None, **changes: Any
    ) -> WorkerInfo:
        """Move to `running` with the health in the worker's status.

        The caller holds `guard`. `beat` is the worker's first heartbeat, for the event.
        """
        reported = WorkerMetrics.read(status)
        health = reported.health or WorkerHealth.UNKNOWN
        self.health = HealthChanges(health)
        metadata = WorkerMetrics(health=health, health_reason=reported.health_reason).to_dict()
        return self.move(WorkerLifecycleStatus.RUNNING, beat=beat, metadata=metadata, **changes)

    def update_health(self, status: Mapping[str, Any]) -> None:
        """Update the health from the worker's status; emit an event if due.

        The caller holds `guard`.
        """
        if self.health is None or self.info is None or self.status is not WorkerLifecycleStatus.RUNNING:
            return
        reported = WorkerMetrics.read(status)
        change = self.health.update(reported.health, reported.health_reason)
        if change is not None:
            metrics = WorkerMetrics(health=change.new, health_reason=change.reason)
            self._emit(self.info.with_(metadata=metrics), health=change)

    def set_orphaned(self, reason: str, *, recovering: bool) -> WorkerInfo:
        """Record that the worker has ended but its program has not.

        The caller holds `guard`.

        The account keeps its record and its lease until recovery or the next stop has ended the program.
        """
        self.orphaned = True
        status = WorkerLifecycleStatus.RESTARTING if recovering else WorkerLifecycleStatus.STOPPING
        if self.status is status and self.info is not None:
            return self._emit(self.info.with_(error=self.strip_account(reason)))
        return self.move(status, error=reason, metadata=self.ending())

    def notify_start(self, event: Mapping[str, Any]) -> bool:
        """Send an event to the running start; returns False if none is running."""
        with self.guard:
            if self.events is None:
                return False
            self.events.put(event)
            return True

    def ask(self, request: Mapping[str, Any], *, timeout: float = 2.0) -> dict[str, Any]:
        """Send a request over the worker's control channel and return the reply.

        Raises ControlError.
        """
        if self.record is None:
            raise ControlError("there is no worker")
        return ask(self.record.control_address, self.record.control_token, request, timeout=timeout)
