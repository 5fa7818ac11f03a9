"""Room on this host for starts without a command.

Those are restarts, and accounts that were reassigned to this host.
"""

import logging

from manager.errors import ManagerError, NoHostFitsError, SessionHeldError
from manager.fleet.desired import OPERATOR_PLACED, REASSIGNED, DesiredState
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.fleet_snapshot import FleetSnapshot
from manager.host.reconcile.whereabouts import Whereabouts
from manager.host.workers.bounded_reads import BoundedConfiguration
from manager.host.workers.pool import WorkerPoolManager
from manager.system import logs

logger = logging.getLogger(__name__)


class Reservations:
    """Decides whether an account may start here. Thread-safe."""

    def __init__(
        self,
        host: str,
        pool: WorkerPoolManager,
        desired_cache: DesiredStateCache,
        fleet_snapshot: FleetSnapshot,
        whereabouts: Whereabouts,
        config_service: BoundedConfiguration,
    ) -> None:
        self._host = host
        self._pool = pool
        self._desired_cache = desired_cache
        self._fleet_snapshot = fleet_snapshot
        self._whereabouts = whereabouts
        self._config_service = config_service

    def reserve(self, desired: DesiredState) -> bool:
        """Reserve room for an account, or reassign it to a host that has room.

        Returns whether it may start here.

        Raises:
            NoHostFitsError: neither this host nor another one has room.
            SessionHeldError: its worker may be alive on a silent host.
            FleetUnavailableError: Redis cannot be used.
        """
        account_id = desired.account_id
        if desired.why in OPERATOR_PLACED:
            return True
        try:
            config = self._config_service.load_account_config(account_id, desired.apply_defaults)
        except ManagerError:
            needs = desired.placement_needs  # the start reports what is wrong with the file
        else:
            needs = config.needs()
            # A batch assigned it to this host, and the task whose start would have checked this is lost.
            rejection = self._whereabouts.rejection_here(desired, config, generation=desired.generation)
            if rejection is not None:
                raise SessionHeldError(rejection)
        reason = self._fleet_snapshot.reserve_here(needs, desired.claimed, self._pool.has_worker_for_account)
        if reason is None:
            return True
        placement = self._fleet_snapshot.place(needs, None, without=self._host)
        if placement.host is None:
            raise NoHostFitsError(f"{account_id}: host {self._host}: {reason}; {placement.explain()}")
        if self._desired_cache.reassign(desired, placement.host, REASSIGNED):
            logs.event(
                logger, logging.WARNING, "account_reassigned", reason, account=account_id, to=placement.host
            )
        return False

    def release(self, account_id: str) -> None:
        """Drop the reservation of an account whose start has ended."""
        self._fleet_snapshot.release_here(account_id)
