"""Stops workers whose schedule is closed, and records the rest."""

import logging
import threading
from dataclasses import replace

from manager.errors import ManagerError
from manager.fleet.desired import DesiredState
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.recovery import Restarts
from manager.host.reconcile.schedules import AccountSchedules
from manager.host.workers.pool import WorkerPoolManager
from manager.market.decisions import Action, Decision
from manager.models import WorkerInfo
from manager.system import logs
from manager.system.thread_pool import ThreadPool

logger = logging.getLogger(__name__)


class Resting:
    """Applies the schedules of one host's accounts to its workers.

    `apply` is for one thread, the rest is thread-safe.
    """

    def __init__(
        self,
        host: str,
        pool: WorkerPoolManager,
        desired_cache: DesiredStateCache,
        schedules: AccountSchedules,
        restarts: Restarts,
        thread_pool: ThreadPool,
    ) -> None:
        self._host = host
        self._pool = pool
        self._desired_cache = desired_cache
        self._schedules = schedules
        self._restarts = restarts
        self._thread_pool = thread_pool
        self._lock = threading.Lock()
        #: Accounts whose worker is being stopped by their schedule.
        self._stopping: set[str] = set()

    def decision(self, account_id: str) -> Decision | None:
        """Return what the account does now, or None if it has no schedule.

        A resting account that may stay connected until it is flat is close-only while it has positions.
        """
        decision = self._schedules.decision(account_id)
        if decision is None or decision.action is not Action.REST:
            return decision
        if self._schedules.waits_flat(account_id, decision) and not self._is_flat(account_id):
            return replace(decision, action=Action.CLOSE_ONLY)
        return decision

    def apply(self) -> None:
        """Stop the workers that rest by now. Does not wait for the stops."""
        own = [one for one in self._desired_cache.running() if one.host == self._host]
        self._schedules.forget({desired.account_id for desired in own})
        now = self._schedules.now()
        for desired in own:
            self._schedules.overrides.expire(desired.account_id, now)
            decision = self.decision(desired.account_id)
            if decision is not None and decision.action is Action.REST:
                self._rest(desired, decision)

    def rest_now(self, desired: DesiredState, decision: Decision) -> WorkerInfo | None:
        """Stop the account's worker as its schedule says; blocks until it has ended.

        Returns the account's record. Raises what a stop raises.
        """
        self._restarts.cancel(desired.account_id)
        return self._pool.rest_worker(
            desired.account_id,
            decision.resting() or {},
            desired.generation,
            close_positions=self._schedules.closes_positions(desired.account_id, decision),
        )

    def _rest(self, desired: DesiredState, decision: Decision) -> None:
        account_id = desired.account_id
        if self._pool.queries.resting(account_id) == decision.resting():
            return
        with self._lock:
            if account_id in self._stopping:
                return
            self._stopping.add(account_id)
        self._thread_pool.submit(self._run, desired, decision)

    def _run(self, desired: DesiredState, decision: Decision) -> None:
        try:
            if self._pool.queries.occupied(desired.account_id):
                logs.event(logger, logging.INFO, "schedule_closed", decision.text, account=desired.account_id)
            self.rest_now(desired, decision)
        except ManagerError as error:
            logs.event(logger, logging.WARNING, "rest_failed", str(error), account=desired.account_id)
        finally:
            with self._lock:
                self._stopping.discard(desired.account_id)

    def _is_flat(self, account_id: str) -> bool:
        """Return whether the account has no worker, or a worker without positions."""
        if not self._pool.queries.occupied(account_id):
            return True
        info = self._pool.get_worker_info(account_id)
        return info is not None and info.metrics.open_positions == 0


__all__ = ["Resting"]
