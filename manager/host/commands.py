"""Commands as a host carries them out: placed, written down as desired state, done, and taken back if refused."""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from manager.config import AccountConfig, ConfigurationService
from manager.errors import (
    FleetUnavailableError,
    HostUnavailableError,
    ManagerError,
    NoHostFitsError,
    NotSupportedError,
    NoWorkerError,
    OverruledError,
    StartCancelledError,
    VersionMismatchError,
)
from manager.fleet.desired import BY_HAND, FORCED_MOVE, DesiredState, DesiredStateRequest, DesiredStore, State
from manager.gateways import runs_programs
from manager.host.reconcile.fleet_snapshot import FleetSnapshot
from manager.host.reconcile.reconciler import Reconciler
from manager.host.workers.fleet_leases import FleetLeases
from manager.host.workers.pool import WorkerPoolManager
from manager.models import WorkerInfo
from manager.placement.engine import Needs
from manager.pool.commands import CommandSpec, mode_not_supported
from manager.pool.protocol import StartRequest
from manager.states import TradingMode, WorkerLifecycleStatus
from manager.system import logs
from manager.system.thread_pool import bare
from manager.versions import __version__, apart, work_together

logger: Final = logging.getLogger(__name__)

#: How often a command is passed on before the host that has it says that it is lost.
MAX_HOPS: Final = 4


@dataclass(frozen=True, slots=True)
class Forward:
    """The answer of a command that another host has to carry out: which one."""

    host: str


@dataclass(frozen=True, slots=True)
class CommandContext:
    """What is known of a command beside its arguments."""

    #: Identifies the command: a Celery task's id.
    token: str
    #: How often it was passed on.
    hops: int = 0
    #: Who asked.
    by: str = "a task"
    #: The version of the manager that sent it; None: it was no manager of ours, and speaks Celery alone.
    version: str | None = None
    #: The generation that the command was given when it was sent; 0: nobody has written it down yet.
    generation: int = 0


class HostCommands:
    """The commands of one host. Every method may be called from any thread.

    Each of start, restart, stop and set_mode returns `Forward` if another host has to carry it out.
    """

    def __init__(
        self,
        *,
        host: str,
        pool: WorkerPoolManager,
        reconciler: Reconciler,
        config_service: ConfigurationService,
        desired: DesiredStore,
        fleet_snapshot: FleetSnapshot,
        leases: FleetLeases,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """`ready` raises HostAgentError if another agent has this host's name."""
        self._ready = ready
        self._host = host
        self._pool = pool
        self._reconciler = reconciler
        self._config_service = config_service
        self._desired = desired
        self._fleet_snapshot = fleet_snapshot
        self._leases = leases

    def start(
        self, account_id: str, apply_defaults: bool, validate: bool, context: CommandContext
    ) -> WorkerInfo | Forward:
        """Start the account's worker; see `manager.pool.protocol.WorkerPool.start_worker`."""
        change = _desired_request(
            account_id, "start", context, apply_defaults=apply_defaults, validate=validate
        )
        return self._run(change, self._pool.start_worker, context)

    def restart(self, account_id: str, context: CommandContext) -> WorkerInfo | Forward:
        """Stop the account's worker if it runs, and start it; see `manager.pool.protocol.WorkerPool.restart_worker`."""
        change = _desired_request(account_id, "restart", context, restart=True)
        return self._run(change, self._pool.restart_worker, context)

    def stop(self, account_id: str, timeout: float | None, context: CommandContext) -> bool | Forward:
        """Stop the account's worker; see `manager.pool.protocol.WorkerPool.stop_worker`. Works while Redis is away."""
        with contextlib.suppress(FleetUnavailableError):
            self._ready()
        if context.generation == 0 and not self._knows(account_id) and not self._pool.has_account(account_id):
            raise NoWorkerError(
                f"{account_id}: no account file on host {self._host}, no worker recorded, nothing desired: "
                "nothing was stopped or written down"
            )
        change = _desired_request(account_id, "stop", context, state="stopped", timeout=timeout)
        _, desired = self._reconciler.set_desired(change)
        if desired.running:
            raise OverruledError(
                f"{account_id}: a later {desired.why} ({desired.by}) overrules this stop: ask again if it should stop"
            )
        if not (self._pool.has_worker_for_account(account_id) or self._reconciler.knows_stop(desired)):
            route = self._route(account_id, desired, context.hops)
            if route is not None:
                return route
        done = self._reconciler.stop(desired)
        error = done.exception()
        if error is not None:
            # A copy: the keeper remembers the stop, and raising its own error would add this task's frames to it.
            raise bare(error)
        return done.result()

    def set_mode(
        self, command: CommandSpec, account_id: str, context: CommandContext
    ) -> WorkerInfo | Forward:
        """Change how the account's session trades; see `manager.pool.protocol.WorkerPool.set_mode`.

        Written down first: it holds for every later session, and for this one even if its worker does not answer now.
        """
        self._ready()
        if command.mode is None:
            raise ValueError(f"{command.name} changes no trading mode")
        cache = self._reconciler.desired_cache
        desired = cache.set_mode(
            account_id, command.mode, token=context.token, by=context.by, what=command.name
        )
        if desired is None:
            raise NoWorkerError(f"{account_id} never had a worker: nothing to {command.name}")
        if desired.mode is not command.mode:
            raise OverruledError(
                f"{account_id}: a later command ({desired.mode_by}) made it {desired.mode}: ask again if it should change"
            )
        if not self._pool.has_worker_for_account(account_id):
            route = self._route(account_id, desired, context.hops, command.name)
            if route is not None:
                return route
        try:
            return self._set_mode_here(command, account_id, context.by)
        except NotSupportedError:
            # The manager wrote it down before it could know. A program has no other mode than this.
            cache.withdraw_mode(desired, TradingMode.NORMAL)
            raise

    def _set_mode_here(self, command: CommandSpec, account_id: str, by: str) -> WorkerInfo:
        if self._pool.has_worker_for_account(account_id):
            return self._pool.set_mode(command, account_id, by)
        config = self._peek(account_id, True)
        if config is not None and runs_programs(config.gateway):
            raise mode_not_supported(account_id, command.name)
        info = self._pool.get_worker_info(account_id)
        info = info or WorkerInfo(worker_id="", account_id=account_id, status=WorkerLifecycleStatus.STOPPED)
        return info.with_(metadata={"trading_mode": command.mode})

    def tidy(self) -> None:
        """Do what is due for the whole fleet now and then. Whoever does it; twice does no harm."""
        forgotten = self._desired.tidy()
        if forgotten:
            logs.event(logger, logging.INFO, "tidied", forgotten=forgotten)

    def _run(
        self,
        change: DesiredStateRequest,
        carry_out: Callable[[StartRequest], WorkerInfo],
        context: CommandContext,
    ) -> WorkerInfo | Forward:
        self._ready()
        account_id, hops = change.account_id, context.hops
        config = self._peek(account_id, change.apply_defaults)
        self._refuse_unknown(change, config, context)
        failover = config is not None and config.failover == "auto"
        needs = config.needs() if config is not None else Needs(account_id=account_id)
        here = self._pool.has_worker_for_account(account_id)
        change = replace(change, failover=failover, needs=needs if config is not None else None)
        try:
            _refuse_strangers(context)
            route = None if here else self._place(change, needs, config, hops, context.generation)
        except ManagerError as error:
            # The manager wrote it down before anybody could know: the caller is told no, and it must not happen.
            self._reconciler.desired_cache.withdraw(account_id, self._reconciler.set_desired(change)[0])
            if isinstance(error, NoHostFitsError):
                # What is wrong with its file says more than where it would not fit.
                self._reconciler.restarts.check(account_id, change.apply_defaults, change.validate)
            raise
        if route is not None:
            return route
        generation, desired = self._reconciler.set_desired(replace(change, host=self._host))
        if not desired.running:
            raise StartCancelledError(
                f"{account_id}: a later stop ({desired.by}) overrules this start: ask again if it should run"
            )
        try:
            route = self._follow(desired, hops, config)
            if route is None and not here and not (desired.why in BY_HAND and desired.host == self._host):
                route = self._reserve(change, needs, desired.claimed, hops)
            if route is not None:
                return route
            if desired.why == FORCED_MOVE and config is not None:
                self._leases.remove_unreadable(config)
            return carry_out(self._reconciler.restarts.start_request(desired))
        except StartCancelledError:
            # By a stop; or because its account was given to another host, or is to leave this one: it goes on there.
            route = self._route_after_cancel(change, needs, generation, hops, config)
            if route is None:
                raise
            return route
        except ManagerError:
            # The caller hears that it did not happen, so it must not happen later either.
            self._reconciler.desired_cache.withdraw(account_id, generation)
            raise
        finally:
            self._fleet_snapshot.done(account_id)

    def _route_after_cancel(
        self,
        change: DesiredStateRequest,
        needs: Needs,
        generation: int,
        hops: int,
        config: AccountConfig | None,
    ) -> Forward | None:
        """Return where a cancelled start continues: the account was reassigned, or is to leave this host.

        None if a stop or a later command cancelled it. Raises as `_follow` does.
        """
        now = self._desired.read(change.account_id)
        if now is None or not now.running or now.generation != generation:
            return None
        route = self._follow(now, hops, config)
        if route is not None or not self._reconciler.drain.moves:
            return route
        placement = self._fleet_snapshot.place(needs, None, without=self._host)
        return None if placement.host is None else self._forward(change, placement.host, hops)

    def _follow(self, desired: DesiredState, hops: int, config: AccountConfig | None) -> Forward | None:
        """Return where the account is, if another live host got it meanwhile; take it from a silent host.

        Raises HostUnavailableError, NoHostFitsError or StartCancelledError.
        """
        if desired.host in {"", self._host}:
            return None
        if hops >= MAX_HOPS:
            raise _lost_its_way(desired.account_id, hops)
        if self._fleet_snapshot.live(desired.host):
            return Forward(desired.host)
        if config is not None and not self._pool.has_worker_for_account(desired.account_id):
            self._refuse_uncertain(desired, config, 0)
        if not self._reconciler.desired_cache.reassign_here(desired):
            raise StartCancelledError(f"{desired.account_id}: a later command overrules this start")
        return None

    def _reserve(self, change: DesiredStateRequest, needs: Needs, claimed: int, hops: int) -> Forward | None:
        """Reserve room for the account here; return another host if earlier accounts have taken it.

        Raises NoHostFitsError if no host has room.
        """
        why = self._fleet_snapshot.reserve_here(needs, claimed, self._pool.has_worker_for_account)
        if why is None:
            return None
        placement = self._fleet_snapshot.place(needs, None, without=self._host)
        if placement.host is None:
            raise NoHostFitsError(f"{needs.account_id}: host {self._host}: {why}; {placement.explain()}")
        return self._forward(change, placement.host, hops)

    def _refuse_unknown(
        self, change: DesiredStateRequest, config: AccountConfig | None, context: CommandContext
    ) -> None:
        """Raise AccountNotFoundError, with the likely id, for a start of an account that nothing knows."""
        if config is None and context.generation == 0 and not self._knows(change.account_id):
            self._reconciler.restarts.check(change.account_id, change.apply_defaults, change.validate)

    def _knows(self, account_id: str) -> bool:
        """Say whether there may be such an account: by desired state, a worker's record, or its file here.

        Whatever cannot be read now may know it: a stop is refused only where that is certain.
        """
        wanted = self._reconciler.desired_cache
        if self._pool.queries.occupied(account_id) or wanted.of(account_id) is not None:
            return True
        if wanted.uncertain_host(account_id) is not None:
            return True
        try:
            if self._desired.read(account_id) is not None:
                return True
            if self._fleet_snapshot.recorded_host(account_id) is not None:
                return True
        except FleetUnavailableError:
            return True
        return self._reconciler.has_file(account_id)

    def _peek(self, account_id: str, apply_defaults: bool) -> AccountConfig | None:
        try:
            return self._config_service.load_account_config(account_id, apply_defaults)
        except ManagerError:
            return None  # carrying it out will tell

    def _place(
        self,
        change: DesiredStateRequest,
        needs: Needs,
        config: AccountConfig | None,
        hops: int,
        generation: int,
    ) -> Forward | None:
        """Return the account's host if it is another one: where it is, its pin, or where it fits.

        Raises HostUnavailableError or NoHostFitsError.
        """
        account_id = change.account_id
        pin = needs.pin
        if pin not in {None, self._host} and not self._fleet_snapshot.live(str(pin)):
            raise HostUnavailableError(
                f"{account_id} may run on host {pin} alone (`host` in its file), and no host agent is alive there: "
                "start it with `manager host`, or change the file"
            )
        desired = self._desired.read(account_id)
        if desired is not None and desired.why in BY_HAND and desired.host == self._host:
            # Whoever sent that has looked at the rules.
            self._reconciler.desired_cache.certain(account_id)
            return None
        other = self._reconciler.desired_cache.host_elsewhere(account_id, desired)
        route = self._uncertain_host(account_id, hops)
        if route is not None:
            return route
        # A silent one's account is taken here if its lease is free: the lease tells, not the silence.
        there = other is not None and self._fleet_snapshot.live(other)
        if other is not None and there and pin is None and hops < MAX_HOPS:
            return Forward(other)
        renamed = self._fleet_snapshot.renamed(other, account_id) if other is not None and not there else None
        if renamed is not None and renamed != self._host and hops < MAX_HOPS:
            return Forward(renamed)
        # A host that has this one's new name is not a silent one: its worker is known here.
        if config is not None and renamed is None:
            # Where Redis has lost what is wanted as well, the host's record may still be there.
            recorded = self._fleet_snapshot.recorded_host(account_id) if desired is None else None
            nothing = DesiredState(account_id=account_id, state="stopped", generation=0)
            self._refuse_uncertain(desired or nothing, config, generation, recorded)
        mine = desired is not None and desired.host == self._host
        placement = self._fleet_snapshot.place(needs, self._host if mine or hops else None)
        if placement.host is None:
            raise NoHostFitsError(
                f"{placement.explain()}: `manager place {account_id} --explain` shows what it needs"
            )
        return None if placement.host == self._host else self._forward(change, placement.host, hops)

    def _forward(self, change: DesiredStateRequest, host: str, hops: int) -> Forward:
        """Reassign the account to another host. Raises NoHostFitsError if the command was forwarded too often."""
        if hops >= MAX_HOPS:
            raise _lost_its_way(change.account_id, hops)
        # Written first: the other host takes it as its own, and does it even if the task is lost on the way.
        self._reconciler.set_desired(replace(change, host=host))
        return Forward(host)

    def _refuse_uncertain(
        self, desired: DesiredState, config: AccountConfig, generation: int, other: str | None = None
    ) -> None:
        """Raise HostUnavailableError if the account's worker may live on a silent host; see `Whereabouts`."""
        why = self._reconciler.whereabouts.rejection_here(desired, config, generation=generation, other=other)
        if why is not None:
            raise HostUnavailableError(why)

    def _uncertain_host(self, account_id: str, hops: int) -> Forward | None:
        """Return the host where the account ran when Redis lost its data. Raises HostUnavailableError if it is silent."""
        host = self._reconciler.desired_cache.uncertain_host(account_id)
        if host is None:
            return None
        if not self._fleet_snapshot.live(host):
            raise HostUnavailableError(
                f"{account_id} ran on host {host} when Redis lost its data, and that host is silent: its worker may "
                f"trade; it is asked when the host is back; if it is lost for good: `manager move {account_id} --to "
                f"{self._host} --force`"
            )
        return Forward(host) if hops < MAX_HOPS else None

    def _route(self, account_id: str, desired: DesiredState, hops: int, what: str = "stop") -> Forward | None:
        """Return the live host that has the account, or None if it is this one or none has it.

        Raises HostUnavailableError if the account's host is silent.
        """
        host = desired.host or self._reconciler.desired_cache.uncertain_host(account_id) or self._host
        if host == self._host or hops >= MAX_HOPS:
            return None
        if self._fleet_snapshot.live(host):
            return Forward(host)
        renamed = self._fleet_snapshot.renamed(host, account_id)
        if renamed == self._host:
            return None
        if renamed is not None:
            return Forward(renamed)
        raise HostUnavailableError(
            f"{account_id}: host {host}, which has it, is silent: the {what} is written down and happens when it "
            "is back; until then its worker may trade"
        )


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


def _refuse_strangers(context: CommandContext) -> None:
    """Raise VersionMismatchError if who sent this may mean something else by it. A stop means the same in all versions."""
    if context.version is not None and not work_together(context.version, __version__):
        raise VersionMismatchError(
            f"manager and host do not work together: {apart(context.version, __version__)}: bring the older one up to date; "
            "`manager doctor` shows all versions"
        )


def _lost_its_way(account_id: str, hops: int) -> NoHostFitsError:
    return NoHostFitsError(f"{account_id}: it was passed on {hops} times, and no host has kept it")
