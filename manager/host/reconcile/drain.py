"""Drains a host: its workers move or stop.

If the request says so, workers with open positions leave once they are flat.
"""

import logging
import threading
from collections.abc import Mapping
from typing import Final

from manager.errors import FleetUnavailableError, ManagerError
from manager.fleet.desired import DRAIN, DesiredState
from manager.fleet.host_report import DrainReport
from manager.fleet.hosts import DrainRequest
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.drain_state import DrainState
from manager.host.reconcile.fleet_snapshot import FleetSnapshot
from manager.host.workers.bounded_reads import BoundedConfiguration
from manager.host.workers.pool import WorkerPoolManager
from manager.placement.engine import Needs
from manager.system import logs
from manager.system.text import counted
from manager.system.thread_pool import ThreadPool

logger = logging.getLogger(__name__)

#: Workers that move or stop in parallel.
_PARALLEL: Final = 32
#: Accounts that `explain` lists with the reason why they stay.
_LISTED: Final = 10


class Drain:
    """Carries out the host's drain request.

    `tick` from the reconciler's thread, the rest from any.
    """

    def __init__(
        self,
        host: str,
        pool: WorkerPoolManager,
        desired_cache: DesiredStateCache,
        state: DrainState,
        config_service: BoundedConfiguration,
        fleet_snapshot: FleetSnapshot,
    ) -> None:
        self._host = host
        self._pool = pool
        self._desired_cache = desired_cache
        self._state = state
        self._config_service = config_service
        self._fleet_snapshot = fleet_snapshot
        self._lock = threading.Lock()
        self._leaving: set[str] = set()
        #: Why accounts stay, and the request that this is about.
        self._staying: tuple[DrainRequest | None, Mapping[str, str]] = (None, {})
        self.thread_pool = ThreadPool(_PARALLEL, "drain")

    def close(self) -> None:
        """Wait for moves and stops that have begun, and cancel the others."""
        self.thread_pool.shutdown(cancel_futures=True)

    @property
    def leaving(self) -> frozenset[str]:
        """The accounts whose worker is moving or stopping."""
        with self._lock:
            return frozenset(self._leaving)

    def tick(self) -> None:
        """Begin to move or stop every worker that may leave now.

        Does not wait for them.
        """
        request = self._state.request
        if request is None or not request.active:
            return
        staying: dict[str, str] = {}
        for desired in self._desired_cache.running():
            if desired.host != self._host:
                continue
            try:
                reason = self._begin(desired, request)
            except FleetUnavailableError as error:
                reason = str(error)
            if reason is not None:
                staying[desired.account_id] = reason
        self._staying = (request, staying)

    def explain(self) -> DrainReport | None:
        """Return the progress of the drain, or None if the host is not drained."""
        if not self._state.active:
            return None
        request, reasons = self._staying
        if request != self._state.request:
            reasons = {}
        return DrainReport(
            leaving=len(self.leaving), staying=len(reasons), why=dict(sorted(reasons.items())[:_LISTED])
        )

    def _begin(self, desired: DesiredState, request: DrainRequest) -> str | None:
        """Begin to move or stop one account.

        Returns why that is not possible now, or None.
        """
        account_id = desired.account_id
        if account_id in self.leaving:
            return None
        live = self._pool.queries.occupied(account_id)
        if live and request.when_flat and not 0 < request.deadline <= self._desired_cache.redis_time():
            open_positions = self._open_positions(account_id)
            if open_positions is None:
                return "its open positions are unknown"
            if open_positions != 0:
                return f"{counted(open_positions, 'position')} open"
        move = request.mode == "move"
        if move:
            placement = self._fleet_snapshot.reserve_elsewhere(self._needs(desired))
            if placement.host is None:
                return placement.rejection()
        elif not live:
            return None
        with self._lock:
            # Submitted before it is marked: if submit raises, the next tick tries again. The call needs this
            # lock to end.
            self.thread_pool.submit(self._leave, desired, move, live)
            self._leaving.add(account_id)
        return None

    def _leave(self, desired: DesiredState, move: bool, live: bool) -> None:
        account_id = desired.account_id
        try:
            if live:
                self._pool.stop_worker(account_id)
            if move:
                self._reassign(desired)
        except ManagerError as error:
            logs.event(logger, logging.WARNING, "drain_failed", str(error), account=account_id)
        except Exception:
            logger.exception("the drain of an account failed unexpectedly")
        finally:
            self._fleet_snapshot.release_elsewhere(account_id)
            with self._lock:
                self._leaving.discard(account_id)

    def _reassign(self, desired: DesiredState) -> None:
        # Placed a second time: the stop may have taken a minute, and the host chosen before may be gone.
        placement = self._fleet_snapshot.reserve_elsewhere(self._needs(desired))
        reassigned = placement.host is not None and self._desired_cache.reassign(
            desired, placement.host, DRAIN
        )
        logs.event(
            logger,
            logging.INFO if reassigned else logging.WARNING,
            "account_drained",
            placement.explain(),
            account=desired.account_id,
            to=placement.host if reassigned else "-",
        )

    def _open_positions(self, account_id: str) -> int | None:
        info = self._pool.get_worker_info(account_id)
        return info.metrics.open_positions if info is not None else None

    def _needs(self, desired: DesiredState) -> Needs:
        try:
            return self._config_service.load_account_config(
                desired.account_id, desired.apply_defaults
            ).needs()
        except ManagerError:
            return desired.placement_needs  # the start on the next host reports what is wrong with the file
