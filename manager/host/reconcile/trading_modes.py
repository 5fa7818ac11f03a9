"""Applies trading modes, desired ones and those of schedules, to workers that trade in another one."""

import logging
import threading

from manager.errors import ManagerError
from manager.gateways import runs_programs
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.resting import Resting
from manager.host.workers.pool import WorkerPoolManager
from manager.states import TradingMode
from manager.system import logs
from manager.system.thread_pool import ThreadPool

logger = logging.getLogger(__name__)


class TradingModes:
    """Brings workers to their desired trading mode.

    A worker differs if it started meanwhile or did not answer before.
    """

    def __init__(
        self,
        pool: WorkerPoolManager,
        desired_cache: DesiredStateCache,
        resting: Resting,
        thread_pool: ThreadPool,
    ) -> None:
        self._pool = pool
        self._desired_cache = desired_cache
        self._resting = resting
        self._thread_pool = thread_pool
        self._lock = threading.Lock()
        #: Accounts whose worker is being asked to change its trading mode.
        self._changing: set[str] = set()

    def apply(self) -> None:
        """Ask every worker with another mode than desired to change it.

        Does not wait for the answers.
        """
        for record in self._pool.queries.live_records():
            desired = self._desired_cache.get(record.account_id)
            mode = self._pool.queries.mode(record.account_id)
            if desired is None or mode is None or runs_programs(record.gateway):
                continue
            target = self._resting.mode(record.account_id, desired.mode, mode)
            if mode is target:
                continue
            with self._lock:
                if record.account_id in self._changing:
                    continue
                self._changing.add(record.account_id)
            by = desired.mode_by if target is desired.mode else ""  # else the schedule changes it
            # On another thread: a worker inside a gateway call may take a while to answer.
            self._thread_pool.submit(self._apply, record.account_id, target, by)

    def _apply(self, account_id: str, mode: TradingMode, by: str) -> None:
        try:
            if self._pool.apply_mode(account_id, mode, by):
                logs.event(logger, logging.WARNING, "mode_applied", account=account_id, mode=mode)
        except ManagerError as error:
            logs.event(logger, logging.WARNING, "mode_not_applied", str(error), account=account_id, mode=mode)
        finally:
            with self._lock:
                self._changing.discard(account_id)
