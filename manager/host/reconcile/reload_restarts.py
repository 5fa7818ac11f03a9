"""Restarts workers whose files have changed, one after the other, when their accounts are flat."""

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import NAMESPACE_OID, uuid5

from manager.change.rollout_store import RolloutStore
from manager.config import AccountConfig, config_version
from manager.config.program_gateways import runs_programs
from manager.errors import FleetUnavailableError
from manager.fleet.desired import RELOADED, DesiredState, DesiredStateRequest
from manager.fleet.parsing import json_object
from manager.host.reconcile.config_rollbacks import ConfigRollbacks
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.drain_state import DrainState
from manager.host.workers.config_changes import BY_FILE
from manager.host.workers.kept_configs import KeptConfig
from manager.host.workers.pool import WorkerPoolManager
from manager.host.workers.records import WorkerRecord
from manager.market.parsing import show_duration
from manager.states import WorkerHealth
from manager.system import atomic_file, logs
from manager.system.storage import explain

logger = logging.getLogger(__name__)

_ILL: Final = (WorkerHealth.DEGRADED, WorkerHealth.UNHEALTHY)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A running worker whose file needs a restart. `since` is in monotonic seconds."""

    worker_id: str
    running: KeptConfig
    config: AccountConfig
    since: float


class ReloadRestarts:
    """The restarts for changed files on this host. `tick` is for one thread, the rest for any.

    One account at a time: the next one begins when the last one has been healthy for
    `recovery.healthy_after_seconds`, or has returned to its earlier configuration. A file that changes again
    before that restarts its own account at once.
    """

    def __init__(
        self,
        host: str,
        pool: WorkerPoolManager,
        desired_cache: DesiredStateCache,
        drain_state: DrainState,
        rollbacks: ConfigRollbacks,
        rollouts: RolloutStore,
        path: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`path` is a file that remembers what waits. `clock` returns monotonic seconds."""
        self._host = host
        self._pool = pool
        self._desired_cache = desired_cache
        self._drain_state = drain_state
        self._rollbacks = rollbacks
        self._rollouts = rollouts
        self._path = path
        #: Versions of the files that changed alone and wait, also before this agent started.
        self._alone = _load(path)
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[str, _Waiting] = {}
        #: Since when the workers of unsettled restarts are healthy: worker id → monotonic seconds.
        self._healthy: dict[str, float] = {}

    def offer(self, record: WorkerRecord, running: KeptConfig, config: AccountConfig, *, alone: bool) -> str:
        """Take a change that needs a restart; return what happens and when. Empty: only a command does it.

        `alone`: no other file changed in the same look. A change of which that is unknown, because it came
        before this agent, is not taken.
        """
        reload, version = config.reload, config_version(config)
        if not alone and self._alone.get(record.account_id) != version:
            return ""
        if reload.restart == "manual" or (reload.restart == "when_flat" and runs_programs(config.gateway)):
            self.withdraw(record.account_id)
            return ""
        with self._lock:
            before = self._waiting.get(record.account_id)
            since = before.since if before is not None else self._clock()
            self._waiting[record.account_id] = _Waiting(record.worker_id, running, config, since)
            self._remember(record.account_id, version)
        if reload.restart == "at_once":
            return "it restarts now"
        latest = "" if reload.deadline is None else f", at the latest after {show_duration(reload.deadline)}"
        return f"it restarts when it has no open position{latest}"

    def withdraw(self, account_id: str) -> None:
        """Forget the account's change."""
        with self._lock:
            self._waiting.pop(account_id, None)
            self._remember(account_id, None)

    def _remember(self, account_id: str, version: str | None) -> None:
        """Save that an account waits, for a later agent. The caller holds the lock."""
        if self._alone.get(account_id) == version:
            return
        self._alone = {key: one for key, one in self._alone.items() if key != account_id}
        if version is not None:
            self._alone[account_id] = version
        try:
            atomic_file.write(self._path, json.dumps(self._alone))
        except OSError as error:
            # A later agent leaves the restart to a command.
            logs.event(logger, logging.WARNING, "config_not_kept", explain(error, self._path))

    def tick(self) -> None:
        """Settle restarts, and begin the next one that may begin."""
        self._settle()
        if self._drain_state.active:
            return
        # An account that has begun to rest settles when its schedule opens; no other one waits for that.
        unsettled = {key for key in self._rollbacks.unsettled() if not self._pool.queries.resting(key)}
        with self._lock:
            waiting = list(self._waiting.items())
        for account_id, one in waiting:
            record = self._pool.config_changes.record(account_id)
            desired = self._desired_cache.get(account_id)
            if record is None or record.worker_id != one.worker_id:
                self.withdraw(account_id)
                continue
            if desired is None or not desired.running or desired.host != self._host:
                continue
            if unsettled - {account_id}:
                continue
            if self._is_time(one, record) and self._restart(desired, one):
                self.withdraw(account_id)
                return

    def _is_time(self, one: _Waiting, record: WorkerRecord) -> bool:
        reload = one.config.reload
        if reload.restart == "at_once":
            return True
        deadline = reload.deadline_seconds
        if deadline is not None and self._clock() - one.since >= deadline:
            return True
        return self._pool.limit_actions.open_positions(record) == 0

    def _restart(self, desired: DesiredState, one: _Waiting) -> bool:
        """Ask for a restart in desired state; return whether no later command overruled it."""
        account_id, generation = desired.account_id, desired.generation + 1
        try:
            if self._rollouts.has(account_id):
                return False  # the rollout restarts it
        except FleetUnavailableError:
            return False
        if not self._rollbacks.begin(account_id, one.running, one.config, generation):
            return False
        # This agent after a restart asks with the same token: one command.
        token = f"reload-{uuid5(NAMESPACE_OID, f'{account_id}:{generation}:{one.worker_id}')}"
        request = DesiredStateRequest(
            account_id=account_id,
            state="running",
            token=token,
            by=BY_FILE,
            why=RELOADED,
            restart=True,
            host=self._host,
            apply_defaults=desired.apply_defaults,
            validate=desired.validate,
            failover=one.config.failover == "auto",
            needs=one.config.needs(),
        )
        try:
            self._desired_cache.set_unless_changed(request, desired.generation)
        except FleetUnavailableError:
            self._rollbacks.remove(account_id)
            return False
        now = self._desired_cache.get(account_id)
        if now is None or now.token != token:
            self._rollbacks.remove(account_id)
            return False
        logs.event(logger, logging.INFO, "restart_for_file", account=account_id)
        return True

    def _settle(self) -> None:
        """Forget the restarts that have succeeded, and those that a later command overruled."""
        unsettled = self._rollbacks.unsettled()
        now = self._clock()
        healthy: dict[str, float] = {}
        for account_id, rollback in unsettled.items():
            desired = self._desired_cache.get(account_id)
            if desired is None or desired.generation != rollback.generation or desired.host != self._host:
                self._rollbacks.remove(account_id)
                continue
            record = self._pool.config_changes.record(account_id)
            if record is None or record.generation != rollback.generation:
                continue
            info = self._pool.get_worker_info(account_id)
            if info is None or info.health in _ILL:
                continue
            since = healthy[record.worker_id] = self._healthy.get(record.worker_id, now)
            recovery = self._pool.queries.recovery(account_id)
            if recovery is not None and now - since >= recovery.healthy_after_seconds:
                self._rollbacks.remove(account_id)
        self._healthy = healthy


def _load(path: Path) -> dict[str, str]:
    try:
        found = json_object(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError):
        return {}
    return {key: one for key, one in found.items() if isinstance(one, str)}
