"""Commands on a host.

Each one is routed, recorded as desired state, and carried out. A refused command is withdrawn.
"""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from manager.config import AccountConfig, ConfigurationService
from manager.errors import (
    AccountNotFoundError,
    FleetUnavailableError,
    InvalidAccountIdError,
    ManagerError,
    NoHostFitsError,
    NotSupportedError,
    NoWorkerError,
    OverruledError,
    StartCancelledError,
    VersionMismatchError,
)
from manager.fleet.desired import FORCED_MOVE, OPERATOR_PLACED, DesiredState, DesiredStateRequest, State
from manager.fleet.desired_store import DesiredStore
from manager.fleet.host_events import HostAnnouncer
from manager.gateways import runs_programs
from manager.host.reconcile.reconciler import Reconciler
from manager.host.reconcile.schedules import AccountRestsError
from manager.host.routing import MAX_HOPS, Forward, Router
from manager.host.workers.bounded_reads import BoundedConfiguration
from manager.host.workers.fleet_leases import FleetLeases
from manager.host.workers.pool import WorkerPoolManager
from manager.market.decisions import Decision
from manager.models import WorkerInfo, WorkerMetrics, WorkerPlacement
from manager.placement.engine import Needs
from manager.pool.commands import CommandSpec, mode_not_supported
from manager.pool.protocol import StartRequest
from manager.states import TradingMode, WorkerLifecycleStatus
from manager.system import logs
from manager.system.thread_pool import without_traceback
from manager.versions import __version__, apart, work_together

logger: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CommandContext:
    """What a command carries besides its arguments."""

    #: Identifies the command: the id of its Celery task.
    token: str
    #: How often it was forwarded.
    hops: int = 0
    #: The user or program that sent it.
    by: str = "a task"
    #: The version of the manager that sent it; None: a plain Celery client sent it.
    version: str | None = None
    #: The generation that the command got when it was sent; 0: it is not recorded as desired state yet.
    generation: int = 0


class HostCommands:
    """The commands of one host. Thread-safe.

    `start`, `restart`, `stop` and `set_mode` return `Forward` if another host has to carry out the command.
    """

    def __init__(
        self,
        *,
        host: str,
        pool: WorkerPoolManager,
        reconciler: Reconciler,
        router: Router,
        config_service: ConfigurationService,
        account_files: BoundedConfiguration,
        desired: DesiredStore,
        leases: FleetLeases,
        announcer: HostAnnouncer,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """`ready` raises HostAgentError if another agent has this host's name."""
        self._ready = ready
        self._announcer = announcer
        self._host = host
        self._pool = pool
        self._reconciler = reconciler
        self._desired_cache = reconciler.desired_cache
        self._restarts = reconciler.restarts
        self._fleet_snapshot = reconciler.fleet_snapshot
        self._router = router
        self._config_service = config_service
        self._account_files = account_files
        self._desired = desired
        self._leases = leases

    def start(
        self, account_id: str, apply_defaults: bool, validate: bool, context: CommandContext
    ) -> WorkerInfo | Forward:
        """Start the account's worker.

        See `manager.pool.protocol.WorkerPool.start_worker`.
        """
        change = _desired_request(
            account_id, "start", context, apply_defaults=apply_defaults, validate=validate
        )
        return self._run(change, self._pool.start_worker, context)

    def restart(self, account_id: str, context: CommandContext) -> WorkerInfo | Forward:
        """Stop the account's worker if it runs, and start it.

        See `manager.pool.protocol.WorkerPool.restart_worker`.
        """
        change = _desired_request(account_id, "restart", context, restart=True)
        return self._run(change, self._pool.restart_worker, context)

    def stop(self, account_id: str, timeout: float | None, context: CommandContext) -> bool | Forward:
        """Stop the account's worker.

        See `manager.pool.protocol.WorkerPool.stop_worker`. Works while Redis is down.
        """
        with contextlib.suppress(FleetUnavailableError):
            self._ready()
        if context.generation == 0 and not self._knows(account_id) and not self._pool.has_account(account_id):
            raise NoWorkerError(
                f"{account_id}: no account file on host {self._host}, no worker recorded, nothing desired: "
                "nothing was stopped or recorded"
            )
        change = _desired_request(account_id, "stop", context, state="stopped", timeout=timeout)
        _, desired = self._reconciler.set_desired(change)
        if desired.running:
            raise OverruledError(
                f"{account_id}: a later {desired.why} ({desired.by}) overrules this stop: ask again if it "
                "should stop"
            )
        if not (self._pool.has_worker_for_account(account_id) or self._reconciler.knows_stop(desired)):
            route = self._router.to_current_host(account_id, desired, context.hops, "stop")
            if route is not None:
                return route
        done = self._reconciler.stop(desired)
        error = done.exception()
        if error is not None:
            # A copy: the stop and its error are remembered, and raising that error would add this task's
            # frames to it.
            raise without_traceback(error)
        return done.result()

    def set_mode(
        self, command: CommandSpec, account_id: str, context: CommandContext
    ) -> WorkerInfo | Forward:
        """Change the trading mode of the account's session.

        See `manager.pool.protocol.WorkerPool.set_mode`. The mode is recorded first, so it applies to every
        later session, and to this one even if its worker does not answer now.
        """
        self._ready()
        if command.mode is None:
            raise ValueError(f"{command.name} does not change the trading mode")
        desired = self._desired_cache.set_mode(
            account_id, command.mode, token=context.token, by=context.by, what=command.name
        )
        if desired is None:
            raise NoWorkerError(f"{account_id} never had a worker: nothing to {command.name}")
        if desired.mode is not command.mode:
            raise OverruledError(
                f"{account_id}: a later command ({desired.mode_by}) made it {desired.mode}: ask again if it "
                "should change"
            )
        if not self._pool.has_worker_for_account(account_id):
            route = self._router.to_current_host(account_id, desired, context.hops, command.name)
            if route is not None:
                return route
        try:
            return self._set_mode_here(command, account_id, context.by)
        except NotSupportedError:
            # The manager recorded the mode before the gateway was known. A program has only the normal mode.
            self._desired_cache.withdraw_mode(desired, TradingMode.NORMAL)
            raise

    def _set_mode_here(self, command: CommandSpec, account_id: str, by: str) -> WorkerInfo:
        if self._pool.has_worker_for_account(account_id):
            desired = self._desired_cache.get(account_id)
            wanted = command.mode if desired is None else desired.mode
            mode = self._reconciler.resting.mode(
                account_id, wanted or TradingMode.NORMAL, self._pool.queries.mode(account_id)
            )
            return self._pool.set_mode(command, account_id, by, mode=mode)
        config = self._try_load(account_id, True)
        if config is not None and runs_programs(config.gateway):
            raise mode_not_supported(account_id, command.name)
        info = self._pool.get_worker_info(account_id)
        info = info or WorkerInfo(worker_id="", account_id=account_id, status=WorkerLifecycleStatus.STOPPED)
        return info.with_(metadata=WorkerMetrics(trading_mode=command.mode))

    def tidy(self) -> None:
        """Run fleet-wide housekeeping. Idempotent; any host may run it."""
        forgotten = self._desired.tidy()
        if forgotten:
            logs.event(logger, logging.INFO, "desired_state_pruned", forgotten=forgotten)
        self._announcer.announce_all()

    def _run(
        self,
        change: DesiredStateRequest,
        carry_out: Callable[[StartRequest], WorkerInfo],
        context: CommandContext,
    ) -> WorkerInfo | Forward:
        self._ready()
        account_id, hops = change.account_id, context.hops
        config = self._try_load(account_id, change.apply_defaults)
        self._refuse_unknown(change, config, context)
        failover = config is not None and config.failover == "auto"
        needs = config.needs() if config is not None else Needs(account_id=account_id)
        here = self._pool.has_worker_for_account(account_id)
        change = replace(change, failover=failover, needs=needs if config is not None else None)
        try:
            _refuse_other_version(context)
            route = None if here else self._router.place(change, needs, config, hops, context.generation)
        except ManagerError as error:
            # The manager recorded the start before it was refused. The caller gets an error, so it must not
            # happen later.
            self._desired_cache.withdraw(account_id, self._reconciler.set_desired(change)[0])
            if isinstance(error, NoHostFitsError):
                # An error in its file says more than the hosts where it does not fit.
                self._restarts.check(account_id, change.apply_defaults, change.validate)
            raise
        if route is not None:
            return route
        generation, desired = self._reconciler.set_desired(replace(change, host=self._host))
        if not desired.running:
            raise StartCancelledError(
                f"{account_id}: a later stop ({desired.by}) overrules this start: ask again if it should run"
            )
        try:
            route = self._router.follow(desired, hops, config)
            if (
                route is None
                and not here
                and not (desired.why in OPERATOR_PLACED and desired.host == self._host)
            ):
                route = self._router.reserve(change, needs, desired.claimed, hops)
            if route is not None:
                return route
            if desired.why == FORCED_MOVE and config is not None:
                self._leases.remove_unreadable(config)
            return carry_out(self._restarts.start_request(desired))
        except AccountRestsError as rest:
            # Accepted: the account starts when its schedule opens.
            return self._rest(desired, rest.decision)
        except StartCancelledError:
            # Its schedule closed; a stop cancelled it; or the account was reassigned or drained, and the
            # start continues on another host.
            continued = self._rest_if_closed(desired) or self._router.after_cancel(
                change, needs, generation, hops, config
            )
            if continued is None:
                raise
            return continued
        except ManagerError:
            # The caller gets an error, so the start must not happen later.
            self._desired_cache.withdraw(account_id, generation)
            raise
        finally:
            self._fleet_snapshot.release_here(account_id)

    def _rest(self, desired: DesiredState, decision: Decision) -> WorkerInfo:
        self._restarts.cancel(desired.account_id)
        info = self._reconciler.resting.rest_now(desired.account_id)
        return info or WorkerInfo(
            worker_id="",
            account_id=desired.account_id,
            status=WorkerLifecycleStatus.STOPPED,
            metadata=WorkerPlacement(resting=decision.resting()).to_dict(),
        )

    def _rest_if_closed(self, desired: DesiredState) -> WorkerInfo | None:
        """Let the account rest if it should still run here and its schedule is closed."""
        now = self._desired_cache.get(desired.account_id)
        if now is None or not now.running or now.host != self._host:
            return None
        decision = self._reconciler.schedules.rests(desired.account_id)
        return None if decision is None else self._rest(desired, decision)

    def _refuse_unknown(
        self, change: DesiredStateRequest, config: AccountConfig | None, context: CommandContext
    ) -> None:
        """Raise AccountNotFoundError for a start of an unknown account.

        The error names the most similar id.
        """
        if config is None and context.generation == 0 and not self._knows(change.account_id):
            self._restarts.check(change.account_id, change.apply_defaults, change.validate)

    def _knows(self, account_id: str) -> bool:
        """Return whether the account may exist.

        It does if it has desired state, a worker's record or a file here. True if one of these cannot be
        read: a stop is refused only where the account certainly does not exist.
        """
        if self._pool.queries.occupied(account_id) or self._desired_cache.get(account_id) is not None:
            return True
        if self._desired_cache.uncertain_host(account_id) is not None:
            return True
        try:
            if self._desired.read(account_id) is not None:
                return True
            if self._fleet_snapshot.recorded_host(account_id) is not None:
                return True
        except FleetUnavailableError:
            return True
        return self._may_have_file(account_id)

    def _may_have_file(self, account_id: str) -> bool:
        """Return whether the account has a file here. True if that is unknown."""
        try:
            self._account_files.run(account_id, lambda: self._config_service.account_path(account_id))
        except (AccountNotFoundError, InvalidAccountIdError):
            return False
        except ManagerError:
            return True
        return True

    def _try_load(self, account_id: str, apply_defaults: bool) -> AccountConfig | None:
        try:
            return self._config_service.load_account_config(account_id, apply_defaults)
        except ManagerError:
            return None  # the start reports what is wrong with the file


def _desired_request(
    account_id: str, why: str, context: CommandContext, *, state: State = "running", **more: Any
) -> DesiredStateRequest:
    return DesiredStateRequest(
        account_id=account_id,
        state=state,
        token=context.token,
        by=context.by,
        why=why,
        given=context.generation,
        **more,
    )


def _refuse_other_version(context: CommandContext) -> None:
    """Raise VersionMismatchError if the sender's version is incompatible.

    Stops are the same in all versions.
    """
    if context.version is not None and not work_together(context.version, __version__):
        raise VersionMismatchError(
            f"manager and host do not work together: {apart(context.version, __version__)}: bring the older "
            "one up to date; `manager doctor` shows all versions"
        )


__all__ = ["MAX_HOPS", "CommandContext", "Forward", "HostCommands"]
