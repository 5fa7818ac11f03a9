"""Finds the host that carries out a command.

That is where the account is, where it is pinned, or where it fits.
"""

from dataclasses import dataclass, replace
from typing import Final

from manager.config import AccountConfig
from manager.errors import HostUnavailableError, NoHostFitsError, StartCancelledError
from manager.fleet.desired import OPERATOR_PLACED, DesiredState, DesiredStateRequest
from manager.fleet.desired_store import DesiredStore
from manager.host.reconcile.reconciler import Reconciler
from manager.host.workers.pool import WorkerPoolManager
from manager.placement.engine import Needs

#: How often a command is forwarded before it fails.
MAX_HOPS: Final = 4


@dataclass(frozen=True, slots=True)
class Forward:
    """Says that another host has to carry out the command."""

    host: str


class Router:
    """Routes the commands of one host.

    Thread-safe. Every method may raise FleetUnavailableError. Methods return `Forward`, or None if this host
    carries out the command.
    """

    def __init__(
        self, host: str, pool: WorkerPoolManager, reconciler: Reconciler, desired: DesiredStore
    ) -> None:
        self._host = host
        self._pool = pool
        self._reconciler = reconciler
        self._desired_cache = reconciler.desired_cache
        self._fleet_snapshot = reconciler.fleet_snapshot
        self._whereabouts = reconciler.whereabouts
        self._drain_state = reconciler.drain_state
        self._desired = desired

    def place(
        self,
        change: DesiredStateRequest,
        needs: Needs,
        config: AccountConfig | None,
        hops: int,
        generation: int,
    ) -> Forward | None:
        """Route a start to the account's host, its pin, or where it fits.

        Raises:
            HostUnavailableError: its worker may be alive on a silent host, or its pinned host is silent.
            NoHostFitsError: no host has room, or the command was forwarded too often.
        """
        account_id = change.account_id
        pin = needs.pin
        if pin not in {None, self._host} and not self._fleet_snapshot.live(str(pin)):
            raise HostUnavailableError(
                f"{account_id} may run on host {pin} alone (`host` in its file), and no host agent is alive "
                "there: start it with `manager host`, or change the file"
            )
        desired = self._desired.read(account_id)
        if desired is not None and desired.why in OPERATOR_PLACED and desired.host == self._host:
            # The manager that sent the move has checked the placement rules.
            self._desired_cache.clear_uncertainty(account_id)
            return None
        other = self._desired_cache.host_elsewhere(account_id, desired)
        route = self._to_uncertain_host(account_id, hops)
        if route is not None:
            return route
        # A silent host's account may start here if its lease is free: the lease decides, not the silence.
        live = other is not None and self._fleet_snapshot.live(other)
        if other is not None and live and pin is None and hops < MAX_HOPS:
            return Forward(other)
        renamed = self._fleet_snapshot.renamed(other, account_id) if other is not None and not live else None
        if renamed is not None and renamed != self._host and hops < MAX_HOPS:
            return Forward(renamed)
        # A host that this one was renamed from is not silent: its worker is known here.
        if config is not None and renamed is None:
            # Redis may have lost the desired state and still have the worker's record.
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

    def follow(self, desired: DesiredState, hops: int, config: AccountConfig | None) -> Forward | None:
        """Route a start of an account that was reassigned meanwhile.

        If its new host is silent, it is reassigned to this one. Raises HostUnavailableError, NoHostFitsError
        or StartCancelledError.
        """
        if desired.host in {"", self._host}:
            return None
        if hops >= MAX_HOPS:
            raise _too_many_hops(desired.account_id, hops)
        if self._fleet_snapshot.live(desired.host):
            return Forward(desired.host)
        if config is not None and not self._pool.has_worker_for_account(desired.account_id):
            self._refuse_uncertain(desired, config, 0)
        if not self._desired_cache.reassign_here(desired):
            raise StartCancelledError(f"{desired.account_id}: a later command overrules this start")
        return None

    def reserve(self, change: DesiredStateRequest, needs: Needs, claimed: int, hops: int) -> Forward | None:
        """Reserve room for the account here.

        Returns another host if earlier accounts have taken it. Raises NoHostFitsError if no host has room.
        """
        reason = self._fleet_snapshot.reserve_here(needs, claimed, self._pool.has_worker_for_account)
        if reason is None:
            return None
        placement = self._fleet_snapshot.place(needs, None, without=self._host)
        if placement.host is None:
            raise NoHostFitsError(f"{needs.account_id}: host {self._host}: {reason}; {placement.explain()}")
        return self._forward(change, placement.host, hops)

    def after_cancel(
        self,
        change: DesiredStateRequest,
        needs: Needs,
        generation: int,
        hops: int,
        config: AccountConfig | None,
    ) -> Forward | None:
        """Return where a cancelled start continues.

        It continues if the account was reassigned or is to leave this host. None if a stop or a later command
        cancelled it. Raises as `follow` does.
        """
        now = self._desired.read(change.account_id)
        if now is None or not now.running or now.generation != generation:
            return None
        route = self.follow(now, hops, config)
        if route is not None or not self._drain_state.moves:
            return route
        placement = self._fleet_snapshot.place(needs, None, without=self._host)
        return None if placement.host is None else self._forward(change, placement.host, hops)

    def to_current_host(
        self, account_id: str, desired: DesiredState, hops: int, command: str
    ) -> Forward | None:
        """Route a command for an account without a worker here to its live host.

        None if the account is assigned to this host or to none. `command` is for the error text. Raises
        HostUnavailableError if its host is silent.
        """
        host = desired.host or self._desired_cache.uncertain_host(account_id) or self._host
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
            f"{account_id}: host {host}, which has it, is silent: the {command} is recorded and runs when "
            "the host is back; until then its worker may trade"
        )

    def _forward(self, change: DesiredStateRequest, host: str, hops: int) -> Forward:
        """Reassign the account to another host.

        Raises NoHostFitsError if the command was forwarded too often.
        """
        if hops >= MAX_HOPS:
            raise _too_many_hops(change.account_id, hops)
        # Written first: the other host starts the account even if the forwarded task is lost.
        self._reconciler.set_desired(replace(change, host=host))
        return Forward(host)

    def _refuse_uncertain(
        self, desired: DesiredState, config: AccountConfig, generation: int, other: str | None = None
    ) -> None:
        """Raise HostUnavailableError if a silent host may have the worker.

        See `Whereabouts`.
        """
        rejection = self._whereabouts.rejection_here(desired, config, generation=generation, other=other)
        if rejection is not None:
            raise HostUnavailableError(rejection)

    def _to_uncertain_host(self, account_id: str, hops: int) -> Forward | None:
        """Return the host where the account ran when Redis lost its data.

        Raises HostUnavailableError if it is silent.
        """
        host = self._desired_cache.uncertain_host(account_id)
        if host is None:
            return None
        if not self._fleet_snapshot.live(host):
            raise HostUnavailableError(
                f"{account_id} ran on host {host} when Redis lost its data, and that host is silent: its "
                "worker may trade; the host gets the command when it is back; if it is permanently lost: "
                f"`manager move {account_id} --to {self._host} --force`"
            )
        return Forward(host) if hops < MAX_HOPS else None


def _too_many_hops(account_id: str, hops: int) -> NoHostFitsError:
    return NoHostFitsError(
        f"{account_id}: the command was forwarded {hops} times, and no host carried it out"
    )
