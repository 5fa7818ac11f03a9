"""Reconciliation loop: makes workers match the desired state.

It starts, stops and adopts workers. It runs on its own threads and keeps working while Redis or Celery is
down.

It compares desired with actual state every two seconds, at the start, and after a command. In between it
restarts workers that exited unexpectedly, with growing delays, and kills workers that hang.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from typing import Final

from manager.errors import ManagerError
from manager.fleet.desired import FORGOTTEN, DesiredState, DesiredStateRequest
from manager.fleet.desired_store import DesiredStore
from manager.host.limits.watch import LimitWatch
from manager.host.reconcile.clock_watch import ClockWatch
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.drain import Drain
from manager.host.reconcile.drain_state import DrainState
from manager.host.reconcile.fleet_snapshot import FleetSnapshot
from manager.host.reconcile.hang_grace import GRACE_SECONDS, HangGrace
from manager.host.reconcile.reassignment import Reassignment
from manager.host.reconcile.recovery import Restarts
from manager.host.reconcile.reload import ConfigReload
from manager.host.reconcile.resting import Resting
from manager.host.reconcile.rollouts import RolloutSteps
from manager.host.reconcile.schedules import AccountSchedules
from manager.host.reconcile.stops import Stops
from manager.host.reconcile.trading_modes import TradingModes
from manager.host.reconcile.urgent_stops import UrgentStopListener
from manager.host.reconcile.whereabouts import Whereabouts
from manager.host.workers.fleet_leases import FleetLeases
from manager.host.workers.pool import WorkerPoolManager
from manager.system import logs
from manager.system.essential_threads import EssentialThread
from manager.system.thread_pool import ThreadPool

logger = logging.getLogger(__name__)

#: Seconds between two reconciliations, and between two checks for hung workers.
_RECONCILE_SECONDS: Final = 2.0
_HANG_CHECK_SECONDS: Final = 1.0
#: Seconds between two saves of desired state while commands arrive.
_SAVE_SECONDS: Final = 0.2
#: Seconds that `start` waits for the stops that arrived while no agent ran.
_MISSED_STOPS_SECONDS: Final = 30.0

#: Receives the outcome of an urgent stop: the command's token, and True or the error.
ReportStop = Callable[[str, "bool | ManagerError"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcilerParts:
    """The parts of a reconciler; see `factory.build_reconciler`."""

    desired_cache: DesiredStateCache
    drain_state: DrainState
    fleet_snapshot: FleetSnapshot
    whereabouts: Whereabouts
    restarts: Restarts
    stops: Stops
    #: The threads of `stops` and `trading_modes`.
    stop_threads: ThreadPool
    trading_modes: TradingModes
    reload: ConfigReload
    rollouts: RolloutSteps
    schedules: AccountSchedules
    resting: Resting
    #: None: this host watches no limits.
    limits: LimitWatch | None
    reassignment: Reassignment
    drain: Drain
    #: Ends the loop's wait.
    wake: threading.Event


class Reconciler:
    """One host's reconciler.

    `start` and `close` once each; `tick` from one thread, everything else from any.
    """

    def __init__(
        self,
        parts: ReconcilerParts,
        *,
        host: str,
        pool: WorkerPoolManager,
        desired: DesiredStore,
        leases: FleetLeases,
        report_stop: ReportStop,
        record_removed: Callable[[str], None],
        settle: Callable[[], bool],
        clocks: ClockWatch,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare, without starting a loop. `clock` returns monotonic seconds.

        `settle` corrects records in Redis of workers that this host does not have; it is called until it
        returns True. `record_removed` is called with an account whose worker record this host has removed.
        """
        self.desired_cache = parts.desired_cache
        self.drain_state = parts.drain_state
        self.drain = parts.drain
        self.fleet_snapshot = parts.fleet_snapshot
        self.restarts = parts.restarts
        self.whereabouts = parts.whereabouts
        self.clocks = clocks
        #: How often desired and actual state were compared.
        self.reconciliations = 0
        self._stops = parts.stops
        self._stop_threads = parts.stop_threads
        self._trading_modes = parts.trading_modes
        self.reload = parts.reload
        self._rollouts = parts.rollouts
        self.schedules = parts.schedules
        self.resting = self._resting = parts.resting
        self.limits = parts.limits
        self._reassignment = parts.reassignment
        self._wake = parts.wake
        self._pool = pool
        self._host = host
        self._leases = leases
        self._report_stop = report_stop
        self._record_removed = record_removed
        self._settle, self._settled = settle, False
        self._clock = clock
        self._closing = threading.Event()
        self._hang_grace = HangGrace()
        now = clock()
        self._next_reconcile = now + _RECONCILE_SECONDS
        self._next_hang_check = self._next_save = now
        self._thread = EssentialThread("reconciler", self._run)
        self._urgent_stops = UrgentStopListener(host, desired, self._stop_urgently)

    # life

    def start(self) -> None:
        """Run missed stops, begin missing starts, then start the threads.

        Missed stops arrived while no agent ran. Blocks up to 30 s for those stops.
        """
        self.desired_cache.read()
        self.schedules.read()
        self.drain_state.read()
        self.desired_cache.adopt_running(self._pool.queries.live_records())
        missed = self._stops.stop_undesired()
        if missed:
            wait_for(missed, timeout=_MISSED_STOPS_SECONDS)
        self.start_missing(at_once=True)
        self._next_reconcile = self._clock() + _RECONCILE_SECONDS
        self._thread.start()
        self._urgent_stops.start()

    def close(self) -> None:
        """End the threads and save desired state.

        Cancels restarts that have begun; running workers are not affected.
        """
        self._closing.set()
        self._wake.set()
        self.restarts.close()
        self._thread.join()
        if self.limits is not None:
            self.limits.close()
        self._urgent_stops.close()
        self.reload.close()
        self._rollouts.close()
        self._stop_threads.shutdown()
        self.drain.close()
        self.desired_cache.save()

    @property
    def threads(self) -> list[EssentialThread]:
        """Every thread whose death makes this host agent useless."""
        pools = [
            self._stop_threads,
            self.restarts.thread_pool,
            self.reload.thread_pool,
            self._rollouts.thread_pool,
            self.drain.thread_pool,
            *([] if self.limits is None else self.limits.thread_pools),
        ]
        return [self._thread, self._urgent_stops.thread, *(one for pool in pools for one in pool.threads)]

    # commands

    def set_desired(self, change: DesiredStateRequest) -> tuple[int, DesiredState]:
        """Write a command's desired state to Redis and to this host.

        Returns its generation and the state now desired. Raises FleetUnavailableError, except for a stop,
        which is saved here and written to Redis later.
        """
        generation, desired = self.desired_cache.set_desired(change)
        if desired.running:
            self.restarts.reset(change.account_id)
        self._wake.set()
        return generation, desired

    def stop(self, desired: DesiredState) -> "Future[bool]":
        """Stop the account's worker without waiting; see `Stops.stop`."""
        return self._stops.stop(desired)

    def knows_stop(self, desired: DesiredState) -> bool:
        """Return whether a stop of this generation was submitted already."""
        return self._stops.knows(desired)

    def stop_locally(self, change: DesiredStateRequest, least_generation: int = 0) -> "Future[bool]":
        """Stop an account by a command that did not come through Redis.

        Works while Redis is down or hangs.
        """
        here = self._pool.queries.occupied(change.account_id)
        desired = self.desired_cache.stop_locally(change, least_generation=least_generation, here=here)
        self._wake.set()
        return self.stop(desired)

    def _stop_urgently(self, change: DesiredStateRequest) -> None:
        generation, desired = self.set_desired(change)
        if desired.running or generation != desired.generation:
            return  # a later command overrules it; the task of this stop answers its caller
        self.stop(desired).add_done_callback(lambda done: self._report(change.token, done))

    def _report(self, token: str, done: "Future[bool]") -> None:
        error = done.exception()
        if error is None or isinstance(error, ManagerError):
            self._report_stop(token, error or True)

    # the loop

    def _run(self) -> None:
        while not self._closing.is_set():
            due = self.tick(self._clock())
            self._wait(max(0.0, due - self._clock()))

    def tick(self, now: float) -> float:
        """Do everything that is due at `now`.

        Returns when the next tick is due. Both are monotonic seconds. Raises nothing.
        """
        try:
            if self._machine_was_suspended(now):
                self._next_reconcile = now
            self.restarts.tick(now)
            if self.desired_cache.unsaved and now >= self._next_save:
                self._next_save = now + _SAVE_SECONDS
                self.desired_cache.save()
            if now >= self._next_hang_check:
                self._next_hang_check = now + _HANG_CHECK_SECONDS
                if not self._hang_grace.active(now):
                    self._pool.end_hung_workers()
            if self.limits is not None:
                self.limits.tick(now)
            if now >= self._next_reconcile:
                self._next_reconcile = now + _RECONCILE_SECONDS
                self.reconcile()
        except BaseException as error:
            self._thread.failed(error)
        return min(self._due_times())

    def _due_times(self) -> list[float]:
        times = [self._next_reconcile, self._next_hang_check]
        if self.desired_cache.unsaved:
            times.append(self._next_save)
        boundary = self.schedules.next_change()
        if boundary is not None:
            self._next_reconcile = min(self._next_reconcile, self._clock() + boundary)
            times.append(self._next_reconcile)
        restart = self.restarts.next_due()
        return times if restart is None else [*times, restart]

    def _wait(self, seconds: float) -> None:
        """Wait until something is due, and detect a pause of this process."""
        began = self._clock()
        self._wake.wait(seconds)
        self._wake.clear()
        now = self._clock()
        if self._hang_grace.waited(seconds, now - began, now):
            logs.event(
                logger,
                logging.WARNING,
                "agent_stalled",
                f"this host agent did not run for {now - began - seconds:.0f} s (paused, or the machine is "
                f"overloaded); workers get {GRACE_SECONDS:g} s to show that they run",
            )

    def _machine_was_suspended(self, now: float) -> bool:
        """Log a suspend of the machine or a clock that was set.

        Returns whether the machine was suspended.
        """
        changes = self.clocks.tick()
        for change in changes:
            logs.event(
                logger,
                logging.WARNING,
                change.kind,
                f"{change.text}; {change.effect}",
                seconds=round(change.seconds, 1),
            )
        suspended = sum(change.seconds for change in changes if change.kind == "suspended")
        if suspended:
            self._hang_grace.begin(now)
            self.desired_cache.invalidate(suspended)
        return bool(suspended)

    # desired against actual

    def reconcile(self) -> None:
        """Compare desired with actual state once.

        A step that fails does not prevent the later ones.
        """
        was_draining = self.drain_state.active
        for step in (
            self._leases.retry_releases,
            self._settle_once,
            self.desired_cache.read,
            self.schedules.read,
            self.drain_state.read,
            self._stops.stop_undesired,
            self._resting.apply,
            lambda: self.start_missing(at_once=was_draining and not self.drain_state.active),
            self._reassignment.reclaim_running,
            self._trading_modes.apply,
            self.reload.apply,
            self._rollouts.tick,
            self.drain.tick,
            self._remove_forgotten,
            self.desired_cache.save,
        ):
            try:
                step()
            except Exception as error:
                self._thread.failed(error)
        self.reconciliations += 1

    def start_missing(self, *, at_once: bool) -> None:
        """Schedule missing starts, and reassign accounts without a live host.

        `at_once`: no task can be on its way for them, so none is waited for.
        """
        running = self.desired_cache.running()
        for desired in running:
            if desired.host == self._host and self.schedules.rests(desired.account_id) is None:
                rested = self._pool.queries.resting(desired.account_id) is not None
                self.restarts.ensure_running(desired, at_once=at_once, rested=rested)
        of_other_hosts = [desired for desired in running if desired.failover and desired.host != self._host]
        if of_other_hosts:
            self._reassignment.fail_over(of_other_hosts)
        unplaced = [one for one in running if not one.host and self.desired_cache.task_is_lost(one)]
        if unplaced:
            self._reassignment.claim_unplaced(unplaced)

    def _remove_forgotten(self) -> None:
        """Remove the records of accounts for which `manager forget` was called."""
        for desired in self.desired_cache.ended_by(FORGOTTEN):
            if self._pool.forget(desired.account_id):
                self._pool.config_changes.kept.remove(desired.account_id)
                self._record_removed(desired.account_id)

    def _settle_once(self) -> None:
        if not self._settled:
            self._settled = self._settle()


__all__ = ["Reconciler", "ReconcilerParts", "ReportStop"]
