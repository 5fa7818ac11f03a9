"""Starting again what ended unasked: when, how often, and what is not to be tried again."""

import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, Final

from manager.config import (
    AccountConfig,
    RecoveryConfig,
    config_version,
    watch_secrets,
)
from manager.errors import (
    DiskRefusesError,
    FleetUnavailableError,
    ManagerError,
    NoHostFitsError,
    OrphansLeftError,
    SessionHeldError,
    SlowFilesError,
    StartCancelledError,
)
from manager.fleet.desired import WITHOUT_TASK, DesiredState
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.restart_policy import RestartPolicy
from manager.host.workers.bounded_reads import PATIENT_SECONDS, BoundedConfiguration
from manager.host.workers.pool import WorkerPoolManager
from manager.models import WorkerInfo
from manager.pool.protocol import StartRequest
from manager.pool.start_requests import StartRequestFactory
from manager.states import TradingMode
from manager.system import logs
from manager.system.thread_pool import ThreadPool

logger = logging.getLogger(__name__)

#: Seconds between two tries of what Redis is needed for.
_AWAY_SECONDS: Final = 2.0
#: Seconds between two tries of what waits for others: for room, or for a session that somebody still has.
_OTHERS_SECONDS: Final = 5.0
#: Starts at once.
_STARTS: Final = 32


@dataclass(frozen=True, slots=True)
class _Blocked:
    """Why an account is not started again: nothing has changed since."""

    generation: int
    #: What must change: the configuration and the credential, as they were. None: only a command helps.
    fingerprint: Hashable | None


class Restarts:
    """The starts that nobody sent a task for. Thread-safe; `wake` is called when one is due earlier than before."""

    def __init__(
        self,
        host: str,
        pool: WorkerPoolManager,
        desired: DesiredStateCache,
        start_requests: StartRequestFactory,
        config_service: BoundedConfiguration,
        wake: Callable[[], None],
        draining: Callable[[], bool] = lambda: False,
        reserve_here: Callable[[DesiredState], bool] = lambda _desired: True,
        started: Callable[[str], None] = lambda _account_id: None,
        forbids_start: Callable[[str], bool] = lambda _account_id: False,
    ) -> None:
        """`draining`: the host takes no new workers, and replaces none.

        `reserve_here`: there is room for an account that has no worker here; False if another host has it by now; raises
        NoHostFitsError if nobody has room. `started` is told when a start that was admitted has ended, well or not.
        `forbids_start`: a stop was left on this machine that is not desired state yet.
        """
        self._forbids_start = forbids_start
        self._reserve_here, self._started = reserve_here, started
        self._draining = draining
        self._host = host
        self._pool = pool
        self._desired_cache = desired
        self._start_requests = start_requests
        self._config_service = config_service
        self._wake = wake
        self._lock = threading.RLock()
        self._policies: dict[str, RestartPolicy] = {}
        self._due: dict[str, float] = {}
        self._busy: set[str] = set()
        self._blocked: dict[str, _Blocked] = {}
        self._closing = threading.Event()
        #: What each account's file said of recovery when it was last read: a file that hangs must not delay a recovery.
        self._known: dict[str, RecoveryConfig] = {}
        self.crew = ThreadPool(_STARTS, "recover")

    def close(self) -> None:
        """Break off what is under way, and start nothing more."""
        self._closing.set()
        with self._lock:
            busy = list(self._busy)
        for account_id in busy:
            self._pool.cancel_start(account_id)
        self.crew.shutdown(cancel_futures=True)

    def lost(self, info: WorkerInfo, reason: str) -> Callable[[], None] | None:
        """Say what to do about a worker that ended unasked; see `WorkerPoolManager`."""
        account_id = info.account_id
        desired = self._desired_cache.of(account_id)
        if self._closing.is_set() or desired is None or not desired.running or desired.host != self._host:
            return None
        with self._lock:
            delay = self._next_delay(account_id)
            if delay is None:
                self._blocked[account_id] = _Blocked(desired.generation, None)
                return lambda: self.schedule(account_id)  # where it is given up, with the reason
        logs.event(logger, logging.WARNING, "recover", reason, account=account_id, seconds=round(delay, 2))
        return lambda: self.schedule(account_id, delay)

    def consider(self, desired: DesiredState, *, at_once: bool) -> None:
        """See that an account which should run here does; `at_once` if no task can be on its way for it."""
        account_id = desired.account_id
        if self._draining():
            return
        generation = self._pool.queries.generation(account_id)
        if generation is not None and generation >= desired.restart:
            return
        with self._lock:
            if account_id in self._due or account_id in self._busy:
                return
            tried = account_id in self._blocked
        if self.is_blocked(desired):
            return
        waiting = generation is None and self._pool.has_worker_for_account(account_id)
        at_once = at_once or desired.why in WITHOUT_TASK
        if not (at_once or tried or waiting or self._desired_cache.task_is_lost(desired)):
            return
        with self._lock:
            delay = self._next_delay(account_id) if generation is None else 0.0
            if delay is None:
                self._blocked[account_id] = _Blocked(desired.generation, None)
        self.schedule(account_id, delay or 0.0)  # if it is given up, the reason is told then

    def forget(self, account_id: str) -> None:
        """A command has come for the account: what went wrong before counts no more."""
        with self._lock:
            self._policies.pop(account_id, None)
            self._blocked.pop(account_id, None)

    def cancel(self, account_id: str) -> None:
        """Start it no more, as a stop has come."""
        with self._lock:
            self._due.pop(account_id, None)

    def next_due(self) -> float | None:
        """Return when (monotonic seconds) the next start is due; None if none is."""
        with self._lock:
            return min((due for key, due in self._due.items() if key not in self._busy), default=None)

    def schedule(self, account_id: str, delay: float = 0.0) -> None:
        """Start it after `delay` seconds."""
        with self._lock:
            self._due[account_id] = time.monotonic() + delay
        self._wake()

    def launch(self) -> None:
        """Begin what is due."""
        if self._closing.is_set():
            return
        now = time.monotonic()
        with self._lock:
            ready = [key for key, due in self._due.items() if due <= now and key not in self._busy]
            for account_id in ready:
                # Handed over first: if that fails, the start stays due. An attempt waits for this lock to end.
                self.crew.submit(self._attempt, account_id)
                del self._due[account_id]
                self._busy.add(account_id)

    def is_blocked(self, desired: DesiredState) -> bool:
        """Say whether nothing has changed since it was found that another start would not help."""
        with self._lock:
            blocked = self._blocked.get(desired.account_id)
        if blocked is None:
            return False
        same = blocked.generation == desired.generation
        try:
            if same and (blocked.fingerprint is None or blocked.fingerprint == self._fingerprint(desired)):
                return True
        except SlowFilesError:
            return True  # whether its files have changed is not known yet
        self.forget(desired.account_id)
        return False

    def check(self, account_id: str, apply_defaults: bool, validate: bool) -> None:
        """Raise what a start of the account would raise because of its files, if anything."""
        self._start_requests.start_request(account_id, apply_defaults, validate).prepare()

    def start_request(self, desired: DesiredState) -> StartRequest:
        """Return the order to start the account, which is broken off if a stop is wanted by the time it is its turn."""
        account_id = desired.account_id
        request = self._start_requests.start_request(
            account_id, desired.apply_defaults, desired.validate, desired.generation
        )

        def prepare() -> AccountConfig:
            now = self._desired_cache.of(account_id)
            if now is not None and not now.running:
                raise StartCancelledError(f"{account_id}: a later stop ({now.by}) overrules this start")
            if self._forbids_start(account_id):
                raise StartCancelledError(
                    f"{account_id}: a stop on this machine (--local) overrules this start"
                )
            if now is not None and now.host not in {"", self._host}:
                raise StartCancelledError(f"{account_id}: it is wanted on host {now.host} by now ({now.why})")
            # One thread each: a check may read every file of the fleet, and is refused only if it really hangs.
            config = self._config_service.run(account_id, request.prepare, PATIENT_SECONDS)
            self._known[account_id] = config.recovery
            return config

        def trading_mode() -> TradingMode:
            now = self._desired_cache.of(account_id)
            return desired.mode if now is None else now.mode

        return replace(request, prepare=prepare, trading_mode=trading_mode)

    # inside

    def _attempt(self, account_id: str) -> None:
        try:
            self._try(account_id)
        except Exception:
            logger.exception("a recovery met a fault of its own")
            self.schedule(account_id, _AWAY_SECONDS)
        finally:
            self._started(account_id)
            with self._lock:
                self._busy.discard(account_id)
            self._wake()

    def _try(self, account_id: str) -> None:
        desired = self._desired_cache.of(account_id)
        if self._closing.is_set() or desired is None:
            return
        if not desired.running or desired.host != self._host:
            self._pool.abandon(account_id, "it is not wanted here any more", stopped=not desired.running)
            return
        if self._draining():
            self._pool.abandon(account_id, f"host {self._host} is drained")
            return
        with self._lock:
            blocked = self._blocked.get(account_id)
        if blocked is not None and blocked.fingerprint is None:
            self._give_up(account_id, "")
            return
        request = self.start_request(desired)
        generation = self._pool.queries.generation(account_id)
        try:
            if not self._pool.has_worker_for_account(account_id) and not self._reserve_here(desired):
                return
            if generation is not None and generation < desired.restart:
                self._pool.restart_worker(request)
            else:
                self._pool.recover_worker(request)
        except (FleetUnavailableError, OrphansLeftError):
            self.schedule(account_id, _AWAY_SECONDS)  # not its fault, and not counted
        except (DiskRefusesError, NoHostFitsError, SessionHeldError) as error:
            # Neither is this; and it passes without anybody's command.
            self._pool.abandon(account_id, str(error))
            self.schedule(account_id, _OTHERS_SECONDS)
        except StartCancelledError:
            return
        except ManagerError as error:
            self._failed(desired, error)
        else:
            with self._lock:
                self._policy(account_id).started(time.monotonic())
                self._blocked.pop(account_id, None)

    def _failed(self, desired: DesiredState, error: ManagerError) -> None:
        account_id = desired.account_id
        if not error.retryable:
            logs.event(
                logger, logging.ERROR, "not_recovered", str(error), account=account_id, code=error.code
            )
            try:
                fingerprint = self._fingerprint(desired)
            except SlowFilesError as slow:
                fingerprint = str(slow)  # differs from every later one: the account is tried again then
            with self._lock:
                self._blocked[account_id] = _Blocked(desired.generation, fingerprint)
            self._pool.abandon(account_id, str(error))
            return
        with self._lock:
            delay = self._next_delay(account_id)
            if delay is None:
                self._blocked[account_id] = _Blocked(desired.generation, None)
        if delay is None:
            self._give_up(account_id, str(error))
        else:
            logs.event(
                logger, logging.WARNING, "recover", str(error), account=account_id, seconds=round(delay, 2)
            )
            self.schedule(account_id, delay)

    def _give_up(self, account_id: str, reason: str) -> None:
        info = self._pool.get_worker_info(account_id)
        reason = reason or (info.error if info is not None and info.error else "it ended")
        count = self._policy(account_id).restarts
        seconds = self._recovery(account_id).window_seconds
        text = (
            f"{reason}; given up after {count} restarts in {seconds:g} s (recovery.max_restarts): "
            f"`manager start {account_id}` tries again"
        )
        logs.event(logger, logging.ERROR, "given_up", text, account=account_id)
        self._pool.abandon(account_id, text)

    def _next_delay(self, account_id: str) -> float | None:
        return self._policy(account_id).next_delay(time.monotonic(), self._recovery(account_id))

    def _policy(self, account_id: str) -> RestartPolicy:
        with self._lock:
            return self._policies.setdefault(account_id, RestartPolicy())

    def _recovery(self, account_id: str) -> RecoveryConfig:
        try:
            found = self._config_service.load_account_config(account_id).recovery
        except ManagerError:
            # A file that hangs, is broken or gone says nothing new: what it said last counts.
            return self._known.get(account_id) or self._pool.queries.recovery(account_id) or RecoveryConfig()
        self._known[account_id] = found
        return found

    def _fingerprint(self, desired: DesiredState) -> Hashable:
        """Return what an account's files and credential are now, so that a change is noticed."""
        try:
            config = self._config_service.load_account_config(desired.account_id, desired.apply_defaults)
        except SlowFilesError:
            raise
        except ManagerError as error:
            return str(error)

        def secrets() -> Any:
            look = watch_secrets(config, self._config_service.config_dir)
            return look() if look is not None else None

        state = self._config_service.run(desired.account_id, secrets)
        return (config_version(config), hash(config.password), str(state))
