"""Reassigns accounts to this host.

Their host is lost, the task that placed them is lost, or their worker already runs here.
"""

import contextlib
import logging

from manager.errors import FleetUnavailableError, ManagerError
from manager.fleet.desired import DesiredState
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.fleet_snapshot import FleetSnapshot
from manager.host.reconcile.recovery import Restarts
from manager.host.reconcile.whereabouts import Whereabouts
from manager.host.workers.bounded_reads import BoundedConfiguration
from manager.host.workers.fleet_leases import FleetLeases
from manager.host.workers.pool import WorkerPoolManager
from manager.system import logs

logger = logging.getLogger(__name__)


class Reassignment:
    """Finds accounts that this host must take, and reassigns them.

    Used by the reconciler's thread alone. Every method returns without an error while Redis is down.
    """

    def __init__(
        self,
        host: str,
        pool: WorkerPoolManager,
        desired_cache: DesiredStateCache,
        fleet_snapshot: FleetSnapshot,
        whereabouts: Whereabouts,
        leases: FleetLeases,
        restarts: Restarts,
        config_service: BoundedConfiguration,
    ) -> None:
        self._host = host
        self._pool = pool
        self._desired_cache = desired_cache
        self._fleet_snapshot = fleet_snapshot
        self._whereabouts = whereabouts
        self._leases = leases
        self._restarts = restarts
        self._config_service = config_service
        #: Accounts with a worker here that were assigned to another host in the last pass.
        self._misassigned: dict[str, DesiredState] = {}

    def reclaim_running(self) -> None:
        """Reassign accounts of other hosts whose worker runs here.

        That happens when a start was already running as its account was reassigned, when Redis lost a
        reassignment, or when a host was renamed. The worker must hold its lease: only the holder can have a
        session. The second pass that finds it so reassigns the account, because the worker may be about to
        stop.
        """
        records = self._pool.queries.live_records()
        misassigned = {
            record.account_id: desired
            for record in records
            if (desired := self._desired_cache.get(record.account_id)) is not None
            and desired.running
            and desired.host not in {"", self._host}
            and self._pool.queries.generation(record.account_id) is not None
        }
        unchanged = {
            key: desired for key, desired in misassigned.items() if self._misassigned.get(key) == desired
        }
        self._misassigned = misassigned
        for record in records if unchanged else ():
            desired = unchanged.get(record.account_id)
            if desired is None:
                continue
            with contextlib.suppress(FleetUnavailableError):
                holds = self._leases.holds(record.claims, record.epoch)
                if holds and self._desired_cache.reassign_here(desired):
                    self._log(desired, "its worker runs here")

    def claim_unplaced(self, candidates: list[DesiredState]) -> None:
        """Reassign accounts without a host to this one if they fit here.

        The task that placed them is lost. A host claims those for which placement chooses it.
        """
        for desired in candidates:
            account_id = desired.account_id
            try:
                # Its worker may run on a host that Redis has forgotten. Only that host can claim it.
                if self._desired_cache.uncertain_host(account_id) is not None:
                    continue
                config = self._config_service.load_account_config(account_id, desired.apply_defaults)
                if self._fleet_snapshot.place(config.needs(), None).host != self._host:
                    continue
                recorded = self._fleet_snapshot.recorded_host(account_id)
                if self._whereabouts.rejection_here(desired, config, other=recorded) is not None:
                    continue
                if self._desired_cache.reassign_here(desired):
                    self._log(desired, "its task was lost")
                    self._restarts.schedule(account_id)
            except FleetUnavailableError:
                return
            except ManagerError:
                continue  # no host can read its file; `manager doctor` reports it as missing

    def fail_over(self, candidates: list[DesiredState]) -> None:
        """Reassign accounts of lost hosts to this one.

        Only with `failover: auto`, and after the lease has expired.
        """
        for desired in candidates:
            account_id = desired.account_id
            try:
                if self._fleet_snapshot.live(desired.host) or self._pool.has_worker_for_account(account_id):
                    continue
                config = self._config_service.load_account_config(account_id, desired.apply_defaults)
                if config.failover != "auto":
                    continue
                # Hosts that see the same fleet choose the same host. If two see it differently, the first to
                # write wins.
                placement = self._fleet_snapshot.place(config.needs(), None, without=desired.host)
                if placement.host != self._host:
                    continue
                if not self._leases.is_free(config) or not self._desired_cache.reassign_here(desired):
                    continue
                self._log(desired, f"host {desired.host} is lost and the lease has expired")
                self._restarts.schedule(account_id)
            except FleetUnavailableError:
                return
            except ManagerError as error:  # of this account alone: the others are still to be reassigned
                logs.event(logger, logging.WARNING, "failover_failed", str(error), account=account_id)

    def _log(self, desired: DesiredState, reason: str) -> None:
        logs.event(
            logger,
            logging.WARNING,
            "account_reassigned",
            reason,
            account=desired.account_id,
            from_host=desired.host or "-",
            to=self._host,
        )
