"""Builds a reconciler from its parts, each one before those that use it."""

import threading
import time
from collections.abc import Callable

from manager.change.rollout_store import RolloutStore
from manager.config.exchanges import ExchangeCalendars
from manager.errors import ManagerError
from manager.fleet import FleetStore
from manager.fleet.approvals import ApprovalStore
from manager.fleet.desired_store import DesiredStore
from manager.host.limits.enforcement import Enforcement
from manager.host.limits.watch import LimitWatch
from manager.host.reconcile.clock_watch import ClockWatch
from manager.host.reconcile.config_holds import ConfigHolds
from manager.host.reconcile.config_rollbacks import ConfigRollbacks
from manager.host.reconcile.config_sweep import SWEEP_SECONDS, ConfigSweep
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.drain import Drain
from manager.host.reconcile.drain_state import DrainState
from manager.host.reconcile.earlier_configs import EarlierConfigs
from manager.host.reconcile.fleet_snapshot import FleetSnapshot
from manager.host.reconcile.limit_control import LimitControl
from manager.host.reconcile.overrides import OverrideCache
from manager.host.reconcile.reassignment import Reassignment
from manager.host.reconcile.reconciler import Reconciler, ReconcilerParts
from manager.host.reconcile.recovery import Restarts
from manager.host.reconcile.reload import ConfigReload
from manager.host.reconcile.reload_restarts import ReloadRestarts
from manager.host.reconcile.reload_rollouts import ReloadRollouts
from manager.host.reconcile.reservations import Reservations
from manager.host.reconcile.resting import Resting
from manager.host.reconcile.rollouts import RolloutSteps
from manager.host.reconcile.schedules import AccountSchedules
from manager.host.reconcile.stop_notes import PendingStops
from manager.host.reconcile.stops import Stops
from manager.host.reconcile.trading_modes import TradingModes
from manager.host.reconcile.whereabouts import Whereabouts
from manager.host.workers.bounded_reads import BoundedConfiguration
from manager.host.workers.fleet_leases import FleetLeases
from manager.host.workers.pool import WorkerPoolManager
from manager.placement.engine import HostFacts
from manager.pool.start_requests import StartRequestFactory
from manager.system.thread_pool import ThreadPool

#: Stops that run in parallel. They have their own threads, so that none waits behind starts.
_PARALLEL_STOPS = 128


def build_reconciler(
    *,
    host: str,
    pool: WorkerPoolManager,
    start_requests: StartRequestFactory,
    config_service: BoundedConfiguration,
    desired: DesiredStore,
    desired_cache: DesiredStateCache,
    store: FleetStore,
    leases: FleetLeases,
    drain_state: DrainState,
    overrides: OverrideCache,
    approvals: ApprovalStore,
    rollouts: RolloutStore,
    calendars: ExchangeCalendars,
    pending_stops: PendingStops,
    reload_seconds: float = SWEEP_SECONDS,
    enforcement: Enforcement | None = None,
    facts: Callable[[], HostFacts],
    report_stop: Callable[[str, bool | ManagerError], None],
    record_removed: Callable[[str], None] = lambda _account_id: None,
    settle: Callable[[], bool] = lambda: True,
    clocks: ClockWatch | None = None,
    clock: Callable[[], float] = time.monotonic,
    epoch: Callable[[], float] | None = None,
) -> Reconciler:
    """Return the host's reconciler, not started.

    `clock` returns monotonic seconds, `epoch` seconds since 1970 (None: by Redis's clock). `facts` describes
    this host for placement, except for whether it is drained. Without `enforcement`
    no limit is watched. `reload_seconds` pass between two looks at the account files. See `Reconciler` for
    the callbacks.
    """
    wake = threading.Event()
    fleet_snapshot = FleetSnapshot(host, store, desired_cache, drain_state, facts, clock)
    whereabouts = Whereabouts(host, fleet_snapshot, leases)
    reservations = Reservations(host, pool, desired_cache, fleet_snapshot, whereabouts, config_service)
    sweep = ConfigSweep(config_service, clock, reload_seconds)
    schedules = AccountSchedules(
        config_service,
        sweep,
        overrides,
        calendars,
        lambda: {one.account_id: one.apply_defaults for one in desired_cache.running() if one.host == host},
        epoch or desired_cache.redis_time,
    )
    rollbacks = ConfigRollbacks(pool.config_changes.paths.previous_dir)
    restarts = Restarts(
        host,
        pool,
        desired_cache,
        start_requests,
        config_service,
        drain_state,
        reservations,
        pending_stops,
        schedules,
        EarlierConfigs(pool, config_service, rollbacks),
        wake,
        clock,
    )
    rollout_threads = ThreadPool(1, "rollout")
    stop_threads = ThreadPool(_PARALLEL_STOPS, "stop")
    limits = None
    if enforcement is not None:
        control = LimitControl(host, desired, desired_cache, drain_state, restarts)
        limits = LimitWatch(pool.limit_actions, enforcement, control)
    resting = Resting(host, pool, desired_cache, schedules, restarts, stop_threads)
    parts = ReconcilerParts(
        desired_cache=desired_cache,
        drain_state=drain_state,
        fleet_snapshot=fleet_snapshot,
        whereabouts=whereabouts,
        restarts=restarts,
        stops=Stops(pool, desired_cache, restarts, stop_threads, clock),
        stop_threads=stop_threads,
        trading_modes=TradingModes(pool, desired_cache, resting, stop_threads),
        reload=ConfigReload(
            host,
            pool.config_changes,
            desired_cache,
            sweep,
            config_service,
            restarts.validated,
            ReloadRestarts(
                host,
                pool,
                desired_cache,
                drain_state,
                rollbacks,
                rollouts,
                pool.config_changes.paths.reload_file,
                clock,
            ),
            ReloadRollouts(rollouts, store, desired, rollout_threads, clock),
            rollbacks,
            ConfigHolds(approvals, rollbacks, pool.get_worker_info),
            clock,
        ),
        rollouts=RolloutSteps(host, rollouts, store, desired, rollout_threads),
        schedules=schedules,
        resting=resting,
        limits=limits,
        reassignment=Reassignment(
            host, pool, desired_cache, fleet_snapshot, whereabouts, leases, restarts, config_service
        ),
        drain=Drain(host, pool, desired_cache, drain_state, config_service, fleet_snapshot),
        wake=wake,
    )
    return Reconciler(
        parts,
        host=host,
        pool=pool,
        desired=desired,
        leases=leases,
        report_stop=report_stop,
        record_removed=record_removed,
        settle=settle,
        clocks=clocks or ClockWatch(),
        clock=clock,
    )
