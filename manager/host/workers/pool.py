"""The host's worker pool: one process for each account."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from manager.errors import (
    HostUnavailableError,
    NoWorkerError,
    OrphansLeftError,
    StartFailedError,
)
from manager.fleet.event_types import Event, EventFilter
from manager.fleet.run_types import Run
from manager.host.reporting.record_sink import NoSink, RecordSink
from manager.host.workers.adoption import Adoption, IsStopDesired
from manager.host.workers.changes import log_change, publish_to
from manager.host.workers.config_changes import ConfigChanges
from manager.host.workers.exits import ExitHandler, OnUnexpectedExit
from manager.host.workers.hang_check import HangCheck
from manager.host.workers.leases import Leases
from manager.host.workers.limit_actions import LimitActions
from manager.host.workers.limits import Clocks, PoolLimits
from manager.host.workers.login_throttle import LoginThrottle
from manager.host.workers.lost_records import LostRecords
from manager.host.workers.modes import ModeChanges
from manager.host.workers.parallel import run_for_accounts, run_requests
from manager.host.workers.queries import WorkerQueries
from manager.host.workers.records import RecordFiles
from manager.host.workers.refusals import no_fleet, no_worker
from manager.host.workers.slot import Rest
from manager.host.workers.slots import SlotTable
from manager.host.workers.start_flow import StartFlow
from manager.host.workers.starter import Starter
from manager.host.workers.stop_flow import StopFlow
from manager.host.workers.unrecorded import UnrecordedWorkers
from manager.models import BatchResult, WorkerInfo, WorkerPlacement
from manager.placement.engine import Needs
from manager.pool.arguments import check_timeout
from manager.pool.commands import CommandSpec
from manager.pool.protocol import Batch, Progress, StartRequest
from manager.states import TradingMode, WorkerLifecycleStatus
from manager.system.essential_threads import EssentialThread
from manager.system.process_watch import ProcessWatch


class WorkerPoolManager:
    """The worker pool of this host: a `manager.pool.protocol.WorkerPool`.

    Thread-safe. Commands to one account run one after the other; accounts never wait for each other. Workers
    outlive the pool: `close` does not affect them, and `adopt` finds them again.
    """

    def __init__(
        self,
        starter: Starter,
        records: RecordFiles,
        *,
        sink: RecordSink | None = None,
        stale_after_seconds: float = 10.0,
        leases: Leases,
        logins_per_second: float = 100.0,
        on_unexpected_exit: OnUnexpectedExit | None = None,
        unrecorded: UnrecordedWorkers | None = None,
        watch: ProcessWatch | None = None,
        limits: PoolLimits | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        """Create an empty pool; `adopt` fills it with the running workers."""
        sink, limits, clocks = sink or NoSink(), limits or PoolLimits(), clocks or Clocks()
        self.slots = slots = SlotTable((publish_to(sink), log_change))
        self.queries = queries = WorkerQueries(slots, stale_after_seconds)
        self._starter = starter
        self._exits = exits = ExitHandler(
            starter, records, leases, sink, on_unexpected_exit, watch or ProcessWatch(), limits
        )
        self._adoption = adoption = Adoption(slots, starter, records, leases, exits, limits, clocks)
        self._lost_records = LostRecords(slots, records, unrecorded, adoption, sink, limits, starter.runs)
        throttle = LoginThrottle(logins_per_second, clocks.monotonic)
        self._starts = StartFlow(
            slots, queries, starter, records, leases, throttle, self._lost_records, exits, sink, limits
        )
        self._stops = StopFlow(exits, limits, clocks)
        self._modes = ModeChanges(slots, queries, sink, limits)
        self.config_changes = ConfigChanges(slots, records, starter)
        self._hang_check = HangCheck(slots)
        self.limit_actions = LimitActions(slots, starter, limits, clocks)

    # commands to one account

    def start_worker(self, request: StartRequest) -> WorkerInfo:
        """See `WorkerPool.start_worker`."""
        slot = self.slots.get(request.account_id)
        with slot.lock:
            if slot.unattended and slot.record is not None:
                raise StartFailedError(
                    f"{request.account_id}: process {slot.record.process.pid} of its last worker could not "
                    f"be ended and may still trade: stop it again (`manager stop {request.account_id}`), "
                    "then start it"
                )
            if slot.active and slot.info is not None:
                # A worker of the same generation was started by this command, which arrived twice.
                already = slot.generation != request.generation or request.generation == 0
                return self.queries.with_metrics(slot, slot.info).with_(
                    metadata=WorkerPlacement(already_running=True).to_dict() if already else {}
                )
            slot.restarts, slot.last_cause = 0, None
            return self._starts.start(slot, request)

    def restart_worker(self, request: StartRequest) -> WorkerInfo:
        """See `WorkerPool.restart_worker`. An invalid configuration stops nothing."""
        slot = self.slots.get(request.account_id)
        with slot.lock:
            if slot.active and slot.info is not None and 0 < request.generation <= slot.generation:
                return self.queries.with_metrics(slot, slot.info)
            config = request.prepare()
            if slot.live:
                self._stops.stop(slot, None)
            slot.restarts, slot.last_cause = 0, None
            return self._starts.start(slot, replace(request, prepare=lambda: config))

    def stop_worker(self, account_id: str, timeout: float | None = None) -> bool:
        """See `WorkerPool.stop_worker`.

        Cancels a running start.

        An account whose worker has failed, or that awaits recovery, is recorded as stopped: True.
        """
        return self._stop_worker(account_id, check_timeout(timeout))

    def _stop_worker(
        self, account_id: str, timeout: float | None, rest: Callable[[], Rest | None] | None = None
    ) -> bool:
        """Stop the account's worker; with `rest` only if that returns a rest, and until it ends."""
        slot = self.slots.find(account_id)
        if slot is None or not (slot.live or slot.starting):
            slot = self._lost_records.find_slot(account_id) or slot
        if slot is None:
            raise no_worker(account_id)
        if rest is not None and rest() is None:
            return False
        slot.cancelled.set()
        # Read before the lock: if another stop ends the worker while this one waits, it succeeds for both.
        present = slot.live or slot.starting or slot.unrecorded or slot.lease is not None or slot.resting
        slot.notify_start({"event": "cancelled"})
        with slot.lock:
            slot.cancelled.clear()
            found = None if rest is None else rest()
            if rest is not None and found is None:
                return False  # a command that came before this stop changed what the account should do
            if slot.unrecorded and not slot.live:
                self._lost_records.end(slot, timeout)
                self._exits.release_lease(slot)
                return True
            slot.closes_positions, slot.rests = found is not None and found.close_positions, found is not None
            try:
                if not (self._stops.stop(slot, timeout) or present):
                    raise no_worker(account_id)
            finally:
                slot.closes_positions = slot.rests = False
            slot.set_resting(found, self._starter.host)
        return True

    def rest_worker(self, account_id: str, rest: Callable[[], Rest | None]) -> WorkerInfo | None:
        """Stop the account's worker until its schedule opens; desired state does not change.

        `rest` returns how the account rests, or None if it does not: then nothing happens. It is asked once
        more when the worker may be stopped, because this may wait for another command. It must not block.
        Returns the account's record. Raises what `stop_worker` raises, except NoWorkerError.
        """
        slot = self.slots.get(account_id)
        if self.queries.occupied(account_id):
            with contextlib.suppress(NoWorkerError):
                self._stop_worker(account_id, None, rest)
        with slot.lock:
            if not (slot.live or slot.unrecorded) and (found := rest()) is not None:
                slot.set_resting(found, self._starter.host)
            return slot.info

    def cancel_start(self, account_id: str) -> None:
        """Cancel the account's running start, if there is one."""
        slot = self.slots.get(account_id)
        slot.cancelled.set()
        slot.notify_start({"event": "cancelled"})

    def set_mode(
        self, command: CommandSpec, account_id: str, by: str = "", *, mode: TradingMode | None = None
    ) -> WorkerInfo:
        """See `WorkerPool.set_mode`.

        Waits for a running start or stop of the account. `mode` replaces the command's own mode, where the
        account's schedule requires a stricter one.
        """
        return self._modes.set_mode(command, account_id, by, mode)

    def move_worker(
        self, account_id: str, host: str, *, force: bool = False, needs: Needs | None = None
    ) -> WorkerInfo:
        """Raise HostUnavailableError: this pool has one host."""
        del force, needs
        raise HostUnavailableError(f"{account_id} cannot be moved to {host}: this pool has one host")

    def recover_worker(self, request: StartRequest) -> WorkerInfo | None:
        """Start the account's worker again after an unexpected exit.

        Returns None if it has a worker by now.

        If the start fails, the account keeps its lease: another attempt, `abandon` or a stop must follow.
        """
        slot = self.slots.get(request.account_id)
        with slot.lock:
            if slot.active:
                return None
            return self._starts.start(slot, request, recovering=True)

    def abandon(self, account_id: str, reason: str, *, stopped: bool = False) -> None:
        """Give up the recovery of an account and release its lease.

        Does nothing if the account has a worker.

        The account becomes `failed` with the reason, or `stopped` if `stopped` says that a stop is desired.
        """
        slot = self.slots.get(account_id)
        with slot.lock:
            if stopped and (slot.record is None or slot.orphaned):
                with contextlib.suppress(OrphansLeftError):  # a stop tries again
                    self._stops.stop(slot, None)
            elif slot.restarting:
                with contextlib.suppress(OrphansLeftError):  # a stop tries again
                    self._exits.record_end(slot, WorkerLifecycleStatus.FAILED, reason)
            elif not slot.live:
                slot.set_failure(reason, self._starter.host)
                self._exits.release_lease(slot)

    def forget(self, account_id: str) -> bool:
        """Remove the account from the pool unless it has a worker.

        Returns whether it was removed.
        """
        return self.slots.remove_unused(account_id)

    def has_account(self, account_id: str) -> bool:
        """Return whether this host has anything of the account.

        That includes a live worker without a record.
        """
        return self.slots.find(account_id) is not None or self._lost_records.find_slot(account_id) is not None

    def apply_mode(self, account_id: str, mode: TradingMode, by: str = "") -> bool:
        """See `ModeChanges.apply_mode`."""
        return self._modes.apply_mode(account_id, mode, by)

    def end_hung_workers(self) -> list[str]:
        """Kill every hung worker and update the health of the others.

        Returns the accounts whose worker was killed.
        """
        return self._hang_check.tick()

    # many accounts

    def start_many(
        self, requests: Sequence[StartRequest], progress: Progress | None = None, batch: Batch | None = None
    ) -> BatchResult:
        """See `WorkerPool.start_many`. Blocks, and stores no batch record."""
        del batch
        return run_requests(self.start_worker, requests, progress)

    def restart_many(
        self, requests: Sequence[StartRequest], progress: Progress | None = None, batch: Batch | None = None
    ) -> BatchResult:
        """See `WorkerPool.restart_many`. Blocks, and stores no batch record."""
        del batch
        return run_requests(self.restart_worker, requests, progress)

    def set_mode_many(
        self,
        command: CommandSpec,
        account_ids: Sequence[str],
        progress: Progress | None = None,
        batch: Batch | None = None,
    ) -> BatchResult:
        """See `WorkerPool.set_mode_many`. Blocks, and stores no batch record."""
        del batch
        return run_for_accounts(lambda account_id: self.set_mode(command, account_id), account_ids, progress)

    def stop_many(
        self,
        account_ids: Sequence[str],
        timeout: float | None = None,
        progress: Progress | None = None,
        batch: Batch | None = None,
    ) -> BatchResult:
        """See `WorkerPool.stop_many`. Blocks, and stores no batch record."""
        del batch

        def stop(account_id: str) -> WorkerInfo | None:
            self.stop_worker(account_id, timeout)
            return self.get_worker_info(account_id)

        return run_for_accounts(stop, account_ids, progress)

    # queries

    def list_workers(self) -> list[WorkerInfo]:
        """See `WorkerQueries.list_workers`."""
        return self.queries.list_workers()

    def get_worker_info(self, account_id: str) -> WorkerInfo | None:
        """See `WorkerQueries.get_worker_info`."""
        return self.queries.get_worker_info(account_id)

    def has_worker_for_account(self, account_id: str) -> bool:
        """See `WorkerQueries.has_worker_for_account`."""
        return self.queries.has_worker_for_account(account_id)

    def get_account_worker_id(self, account_id: str) -> str | None:
        """See `WorkerQueries.get_account_worker_id`."""
        return self.queries.get_account_worker_id(account_id)

    def health(self) -> dict[str, Any]:
        """See `WorkerQueries.health`."""
        return self.queries.health()

    def validate_many(self, needs: Mapping[str, Needs], progress: Progress | None = None) -> None:
        """See `WorkerPool.validate_many`. This host would run all of them."""
        del needs, progress

    def watch(
        self,
        after: str = "$",
        *,
        only: EventFilter | None = None,
        idle_seconds: float | None = None,
        closed: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """Raise NotSupportedError: this pool has no event stream."""
        del after, only, idle_seconds, closed
        raise no_fleet("has no event stream: watch the fleet")

    def runs(self, account_id: str, last: int | None = None) -> list[Run]:
        """Raise NotSupportedError: this pool keeps no history."""
        del account_id, last
        raise no_fleet("keeps no history: read it")

    def stoppable(self) -> list[str]:
        """See `WorkerPool.stoppable`."""
        return self.queries.live_accounts()

    def recorded_needs(self, account_ids: Sequence[str]) -> Mapping[str, Needs]:
        """See `WorkerPool.recorded_needs`. This pool records none."""
        del account_ids
        return {}

    # life of the pool

    def preload(self) -> None:
        """Prepare the launcher for the first start. Blocks for about a second."""
        self._starter.preload()

    def adopt(self, is_stop_desired: IsStopDesired = lambda _account_id: False) -> list[WorkerInfo]:
        """Adopt the workers that an earlier agent left running.

        Their sessions are not touched.

        A record whose process has ended becomes a `failed` worker with what is known of its end, or a
        `stopped` one if `is_stop_desired`. A worker that was still connecting is killed: its start failed
        when its agent died.
        """
        return self._adoption.adopt_all(is_stop_desired)

    def detect_unrecorded(self) -> bool:
        """Show live workers without a record as `unknown` until they end.

        Returns whether there are any: then the caller must call again. Raises FleetUnavailableError.
        """
        return self._lost_records.detect_all()

    def restore_records(self) -> None:
        """Write record files again that were removed while their workers run.

        Raises OSError.
        """
        self._adoption.restore_records()

    def close(self) -> None:
        """Stop watching. Workers keep running: only a command stops them."""
        self._exits.close()
        self._starter.close()

    @property
    def threads(self) -> list[EssentialThread]:
        """The threads that handle the exits of workers."""
        return self._exits.threads


__all__ = ["OnUnexpectedExit", "WorkerPoolManager"]
