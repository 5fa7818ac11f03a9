"""Stops workers whose schedule is closed, and records the rest."""

import logging
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Final

from manager.errors import ManagerError
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.recovery import Restarts
from manager.host.reconcile.schedules import AccountSchedules, mode_of
from manager.host.workers.pool import WorkerPoolManager
from manager.host.workers.slot import Rest
from manager.market.decisions import Action, Decision
from manager.models import WorkerInfo
from manager.states import TradingMode, WorkerLifecycleStatus
from manager.system import logs
from manager.system.thread_pool import ThreadPool

logger = logging.getLogger(__name__)

#: Age at which any host removes an override that has ended: its account may have no host.
_ANY_HOST_REMOVES: Final = timedelta(days=1)


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
        #: The decision in each account's record. It spares a comparison in every reconciliation.
        self._recorded: dict[str, Decision] = {}

    @property
    def in_progress(self) -> frozenset[str]:
        """The accounts whose worker is being stopped by their schedule."""
        with self._lock:
            return frozenset(self._stopping)

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

    def mode(self, account_id: str, desired: TradingMode, current: TradingMode | None) -> TradingMode:
        """Return the trading mode of the account's session now.

        The stricter of the desired mode and that of the schedule. While the schedule is unknown, the session
        keeps a stricter `current` mode, which may be the schedule's.
        """
        if current is not None and current is not desired and not self._schedules.known(account_id):
            desired = desired.stricter(current)
        return mode_of(self.decision(account_id), desired)

    def apply(self) -> None:
        """Stop the workers that rest by now. Does not wait for the stops."""
        own = [one for one in self._desired_cache.running() if one.host == self._host]
        account_ids = {desired.account_id for desired in own}
        self._schedules.forget(account_ids)
        for account_id in self._recorded.keys() - account_ids:
            del self._recorded[account_id]
        now = self._schedules.now()
        self._schedules.overrides.expire(account_ids, now)
        self._schedules.overrides.expire_old(now - _ANY_HOST_REMOVES)
        for account_id in account_ids:
            decision = self.decision(account_id)
            if decision is not None and decision.action is Action.REST:
                self._rest(account_id, decision)

    def rest_now(self, account_id: str) -> WorkerInfo | None:
        """Stop the account's worker if its schedule says so; blocks until it has ended.

        The desired state, the override and the schedule at the moment of the stop count, since this may have
        waited for another command. Returns the account's record. Raises what a stop raises.
        """
        return self._pool.rest_worker(account_id, lambda: self._rest_of(account_id))

    def _rest_of(self, account_id: str) -> Rest | None:
        """Return how the account rests now; None if it should be stopped, is moved, or runs."""
        desired = self._desired_cache.get(account_id)
        if desired is None or not desired.running or desired.host != self._host:
            return None
        decision = self.decision(account_id)
        resting = None if decision is None else decision.resting()
        if decision is None or resting is None:
            return None
        return Rest(resting, desired.generation, self._schedules.closes_positions(account_id, decision))

    def _rest(self, account_id: str, decision: Decision) -> None:
        recorded = self._pool.queries.resting(account_id)
        if recorded is not None and self._recorded.get(account_id) is decision:
            return
        if recorded == decision.resting():
            self._recorded[account_id] = decision
            return
        with self._lock:
            if account_id in self._stopping:
                return
            self._stopping.add(account_id)
        self._thread_pool.submit(self._run, account_id)

    def _run(self, account_id: str) -> None:
        try:
            if self._schedules.rests_after_read(account_id) is None:
                return
            if self._pool.queries.occupied(account_id) and (decision := self.decision(account_id)):
                logs.event(logger, logging.INFO, "schedule_closed", decision.text, account=account_id)
            self._restarts.cancel(account_id)
            self.rest_now(account_id)
        except ManagerError as error:
            logs.event(logger, logging.WARNING, "rest_failed", str(error), account=account_id)
        finally:
            with self._lock:
                self._stopping.discard(account_id)

    def _is_flat(self, account_id: str) -> bool:
        """Return whether the account has no connected session, or one without positions."""
        if not self._pool.queries.occupied(account_id):
            return True
        info = self._pool.get_worker_info(account_id)
        if info is None or info.status is not WorkerLifecycleStatus.RUNNING:
            return True
        return info.metrics.open_positions == 0


__all__ = ["Resting"]
