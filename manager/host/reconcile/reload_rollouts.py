"""Begins a rollout for account files that changed together."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final
from uuid import NAMESPACE_OID, uuid5

from manager.change.reload_classes import ReloadClass
from manager.change.rollout_planning import FleetState, plan_rollout
from manager.change.rollout_store import RolloutStore
from manager.change.rollouts import RolloutOptions
from manager.config import config_version
from manager.config.loaded import LoadedAccount
from manager.errors import FleetUnavailableError, RolloutConflictError
from manager.fleet import FleetStore
from manager.fleet.desired_store import DesiredStore
from manager.fleet.event_types import Notice
from manager.host.workers.config_changes import BY_FILE
from manager.models import WorkerInfo
from manager.system import logs
from manager.system.thread_pool import ThreadPool

logger = logging.getLogger(__name__)

#: Seconds after the first account: until then every host has noticed the change.
_SETTLE_SECONDS: Final = 10.0
#: Seconds until the next attempt if an account belongs to another rollout, or Redis is away.
_RETRY_SECONDS: Final = 30.0


class ReloadRollouts:
    """Begins one rollout over all accounts of the fleet whose files changed together and need a restart.

    Every host that has such an account tries; the id depends on the files, so one rollout results. `tick` is
    for one thread, `offer` for any.
    """

    def __init__(
        self,
        rollouts: RolloutStore,
        fleet: FleetStore,
        desired: DesiredStore,
        thread_pool: ThreadPool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` returns monotonic seconds."""
        self._rollouts = rollouts
        self._fleet = fleet
        self._desired = desired
        self._thread_pool = thread_pool
        self._clock = clock
        self._lock = threading.Lock()
        self._due: float | None = None

    def offer(self) -> str:
        """Take notice of an account whose file changed with others; return what happens."""
        with self._lock:
            if self._due is None:
                self._due = self._clock() + _SETTLE_SECONDS
        return "several files changed at once: a rollout restarts in steps (`manager rollout list`)"

    def tick(self, together: Mapping[str, LoadedAccount]) -> None:
        """Begin the rollout if it is due; `together` are the accounts whose files changed together."""
        with self._lock:
            if self._due is None or self._clock() < self._due:
                return
            self._due = None
        self._thread_pool.submit(self._run, dict(together))

    def begin(self, together: Mapping[str, LoadedAccount]) -> str | None:
        """Begin the rollout; return its id, or None if no account needs it or another host has begun it.

        Raises FleetUnavailableError and RolloutConflictError.
        """
        workers = self._fleet.list_workers()
        chosen = {info.account_id: together[info.account_id] for info in workers if _waits(info, together)}
        if not chosen:
            return None
        desired = self._desired.read_many(together)
        # With the generations: the same edit, made again after restarts, is another rollout.
        files = sorted(
            f"{key}:{config_version(one.config)}:{desired[key].generation if key in desired else 0}"
            for key, one in together.items()
            if one.config is not None
        )
        record = plan_rollout(
            chosen,
            "config",
            FleetState(
                {key: one for key, one in desired.items() if key in chosen},
                workers,
                self._fleet.hosts(),
                self._rollouts.now(),
            ),
            RolloutOptions(when_flat=not all(_at_once(one) for one in chosen.values())),
            by=BY_FILE,
            rollout_id=uuid5(NAMESPACE_OID, "\n".join(files)).hex[:12],
        )
        rollout = record.rollout
        if not record.restarts or not self._rollouts.create(rollout, record.members):
            return None
        data = {"rollout": rollout.id, "accounts": record.restarts, "to": rollout.aim}
        self._fleet.note(Notice(type="rollout.begun", by=BY_FILE, data=data))
        logs.event(logger, logging.INFO, "rollout_begun", rollout=rollout.id, accounts=record.restarts)
        return rollout.id

    def _run(self, together: Mapping[str, LoadedAccount]) -> None:
        try:
            self.begin(together)
        except (FleetUnavailableError, RolloutConflictError) as error:
            logs.event(logger, logging.WARNING, "rollout_waits", str(error))
            with self._lock:
                self._due = self._clock() + _RETRY_SECONDS
        except Exception:
            logger.exception("a rollout for changed files could not be begun")


def _waits(info: WorkerInfo, together: Mapping[str, LoadedAccount]) -> bool:
    """Return whether an account waits for a restart that a rollout may bring."""
    loaded = together.get(info.account_id)
    state = info.placement.config or {}
    if loaded is None or loaded.config is None or state.get("state") != "pending":
        return False
    classes = {str(one.get("class")) for one in state.get("changes") or ()}
    return loaded.config.reload.restart != "manual" and str(ReloadClass.RESTART) in classes


def _at_once(loaded: LoadedAccount) -> bool:
    return loaded.config is not None and loaded.config.reload.restart == "at_once"
