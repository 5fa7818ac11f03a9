"""Restarts: starts without a command, with delays and a limit."""

import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Final

from manager.config import AccountConfig, RecoveryConfig
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
from manager.fleet.run_types import RunCause
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.drain_state import DrainState
from manager.host.reconcile.earlier_configs import EarlierConfigs
from manager.host.reconcile.fingerprint import account_fingerprint
from manager.host.reconcile.limit_restarts import refused_by_limit
from manager.host.reconcile.reservations import Reservations
from manager.host.reconcile.restart_policy import Blocked, RestartPolicy
from manager.host.reconcile.schedules import AccountRestsError, AccountSchedules, mode_of
from manager.host.reconcile.stop_notes import PendingStops
from manager.host.workers.bounded_reads import PATIENT_SECONDS, BoundedConfiguration
from manager.host.workers.pool import WorkerPoolManager
from manager.models import WorkerInfo
from manager.pool.protocol import StartRequest
from manager.pool.start_requests import StartRequestFactory
from manager.states import TradingMode
from manager.system import logs
from manager.system.thread_pool import ThreadPool

logger = logging.getLogger(__name__)

#: Seconds before a restart is tried again that failed because Redis was down.
_REDIS_RETRY_SECONDS: Final = 2.0
#: Seconds before a restart is tried again that waits for room, for disk space or for another worker's
#: session.
_BLOCKED_RETRY_SECONDS: Final = 5.0
#: Restarts that run in parallel.
_PARALLEL: Final = 32


class Restarts:
    """Restarts workers of one host, with a delay and a limit per account.

    Thread-safe.
    """

    def __init__(
        self,
        host: str,
        pool: WorkerPoolManager,
        desired_cache: DesiredStateCache,
        start_requests: StartRequestFactory,
        config_service: BoundedConfiguration,
        drain_state: DrainState,
        reservations: Reservations,
        pending_stops: PendingStops,
        schedules: AccountSchedules,
        earlier: EarlierConfigs,
        wake: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wake` is set when `next_due` may have become earlier.

        `clock` returns monotonic seconds.
        """
        self._drain_state = drain_state
        self._reservations = reservations
        self._pending_stops = pending_stops
        self._schedules = schedules
        self._earlier = earlier
        self._clock = clock
        self._host = host
        self._pool = pool
        self._desired_cache = desired_cache
        self._start_requests = start_requests
        self._config_service = config_service
        self._wake = wake
        self._lock = threading.RLock()
        self._policies: dict[str, RestartPolicy] = {}
        self._due: dict[str, float] = {}
        self._busy: set[str] = set()
        self._blocked: dict[str, Blocked] = {}
        self._closing = threading.Event()
        #: Recovery settings of each account when its file was last read: a file that hangs must not delay a
        #: restart.
        self._last_settings: dict[str, RecoveryConfig] = {}
        self.thread_pool = ThreadPool(_PARALLEL, "recover")

    def close(self) -> None:
        """Cancel the restarts that run, wait for them to end, and begin none."""
        self._closing.set()
        with self._lock:
            busy = list(self._busy)
        for account_id in busy:
            self._pool.cancel_start(account_id)
        self.thread_pool.shutdown(cancel_futures=True)

    @property
    def in_progress(self) -> frozenset[str]:
        """The accounts whose restart runs now."""
        with self._lock:
            return frozenset(self._busy)

    def on_exit(self, info: WorkerInfo, reason: str) -> Callable[[], None] | None:
        """Count an unexpected exit.

        Returns what schedules the restart, or None if there is to be none. The pool calls the returned
        function once it has recorded the exit.
        """
        account_id = info.account_id
        desired = self._desired_cache.get(account_id)
        if self._closing.is_set() or desired is None or not desired.running or desired.host != self._host:
            return None
        if self._schedules.rests(account_id) is not None:
            return None
        if self._takes_back(desired, reason, final=False):
            return lambda: self.schedule(account_id)
        recovery = self._recovery(account_id)
        with self._lock:
            policy = self._policy(account_id)
            refused = refused_by_limit(info, reason, policy, recovery, self._clock())
            delay = None if refused else self._next_delay(account_id)
            if delay is None:
                self._blocked[account_id] = Blocked(desired.generation, None, refused)
                return lambda: self.schedule(account_id)  # the attempt records why there is no restart
        logs.event(
            logger, logging.WARNING, "restart_scheduled", reason, account=account_id, seconds=round(delay, 2)
        )
        return lambda: self.schedule(account_id, delay)

    def ensure_running(self, desired: DesiredState, *, at_once: bool, rested: bool = False) -> None:
        """Schedule a start of an account that should run here and does not.

        Unless a task may be on its way for it. `at_once`: no task can be on its way. `rested`: it has rested
        until now, so the start is no restart: it is not counted, and no task starts it.
        """
        account_id = desired.account_id
        if self._drain_state.active:
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
        at_once = at_once or rested or desired.why in WITHOUT_TASK
        if not (at_once or tried or waiting or self._desired_cache.task_is_lost(desired)):
            return
        with self._lock:
            delay = 0.0 if rested or generation is not None else self._next_delay(account_id)
            if delay is None:
                self._blocked[account_id] = Blocked(desired.generation, None)
        self.schedule(account_id, delay or 0.0)  # without a delay left, the attempt records why

    def reset(self, account_id: str) -> None:
        """Drop the account's failures, after a command or a new configuration."""
        with self._lock:
            self._policies.pop(account_id, None)
            self._blocked.pop(account_id, None)

    def cancel(self, account_id: str) -> None:
        """Cancel a scheduled start. One that runs is not affected."""
        with self._lock:
            self._due.pop(account_id, None)

    def next_due(self) -> float | None:
        """Return when the next start is due (monotonic seconds), or None."""
        with self._lock:
            return min((due for key, due in self._due.items() if key not in self._busy), default=None)

    def schedule(self, account_id: str, delay: float = 0.0) -> None:
        """Schedule a start of the account in `delay` seconds.

        It replaces an earlier schedule.
        """
        with self._lock:
            self._due[account_id] = self._clock() + delay
        self._wake.set()

    def tick(self, now: float) -> None:
        """Begin the starts that are due at `now` (monotonic seconds).

        Does not wait for them.
        """
        if self._closing.is_set():
            return
        with self._lock:
            ready = [key for key, due in self._due.items() if due <= now and key not in self._busy]
            for account_id in ready:
                # Submitted before it is marked: if submit raises, the start stays due. The attempt needs this
                # lock to end.
                self.thread_pool.submit(self._attempt, account_id)
                del self._due[account_id]
                self._busy.add(account_id)

    def is_blocked(self, desired: DesiredState) -> bool:
        """Return whether the account is blocked and nothing has changed."""
        with self._lock:
            blocked = self._blocked.get(desired.account_id)
        if blocked is None:
            return False
        same = blocked.generation == desired.generation
        try:
            if same and (blocked.fingerprint is None or blocked.fingerprint == self._fingerprint(desired)):
                return True
        except SlowFilesError:
            return True  # it is unknown whether its files have changed
        self.reset(desired.account_id)
        return False

    def check(self, account_id: str, apply_defaults: bool, validate: bool) -> None:
        """Raise the error that a start would raise because of account files.

        Starts nothing.
        """
        self._start_requests.start_request(account_id, apply_defaults, validate).prepare()

    def validated(self, desired: DesiredState) -> AccountConfig:
        """Return the account's configuration as a start would use it.

        Raises SlowFilesError, and the error that a start would raise because of account files.
        """
        request = self._start_requests.start_request(
            desired.account_id, desired.apply_defaults, desired.validate
        )
        return self._config_service.run(desired.account_id, request.prepare, PATIENT_SECONDS)

    def start_request(self, desired: DesiredState) -> StartRequest:
        """Return a request that checks desired state again when its turn comes.

        Its `prepare` raises StartCancelledError if a stop, or a reassignment to another host, has arrived by
        then, and AccountRestsError if the account's schedule is closed.
        """
        account_id = desired.account_id
        request = self._start_requests.start_request(
            account_id, desired.apply_defaults, desired.validate, desired.generation
        )

        def prepare() -> AccountConfig:
            now = self._desired_cache.get(account_id)
            if now is not None and not now.running:
                raise StartCancelledError(f"{account_id}: a later stop ({now.by}) overrules this start")
            if self._pending_stops.forbids_start(account_id):
                raise StartCancelledError(
                    f"{account_id}: a stop on this machine (--local) overrules this start"
                )
            if now is not None and now.host not in {"", self._host}:
                raise StartCancelledError(f"{account_id}: it was reassigned to host {now.host} ({now.why})")
            config = self._earlier.to_start(desired)
            if config is None:
                # A long limit: a check may read every file of the fleet, and this thread serves this account
                # alone.
                config = self._config_service.run(account_id, request.prepare, PATIENT_SECONDS)
            self._last_settings[account_id] = config.recovery
            self._schedules.read_account(config)
            decision = self._schedules.rests_after_read(account_id)
            if decision is not None:
                raise AccountRestsError(account_id, decision)
            return config

        def trading_mode() -> TradingMode:
            now = self._desired_cache.get(account_id)
            return mode_of(self._schedules.decision(account_id), desired.mode if now is None else now.mode)

        origin = RunCause(desired.by, desired.why, desired.token, desired.at)
        return replace(request, prepare=prepare, trading_mode=trading_mode, origin=origin)

    # inside

    def _attempt(self, account_id: str) -> None:
        try:
            self._try(account_id)
        except Exception:
            logger.exception("the restart of an account failed unexpectedly")
            self.schedule(account_id, _REDIS_RETRY_SECONDS)
        finally:
            self._reservations.release(account_id)
            with self._lock:
                self._busy.discard(account_id)
            self._wake.set()

    def _try(self, account_id: str) -> None:
        desired = self._desired_cache.get(account_id)
        if self._closing.is_set() or desired is None:
            return
        if not desired.running or desired.host != self._host:
            self._pool.abandon(
                account_id, "it should no longer run on this host", stopped=not desired.running
            )
            return
        if self._drain_state.active:
            self._pool.abandon(account_id, f"host {self._host} is drained")
            return
        with self._lock:
            blocked = self._blocked.get(account_id)
        if blocked is not None and blocked.fingerprint is None:
            self._give_up(account_id, "", blocked.limit)
            return
        request = self.start_request(desired)
        generation = self._pool.queries.generation(account_id)
        try:
            if not self._pool.has_worker_for_account(account_id) and not self._reservations.reserve(desired):
                return
            if generation is not None and generation < desired.restart:
                self._earlier.keep(desired)
                self._pool.restart_worker(request)
            else:
                self._pool.recover_worker(request)
        except (FleetUnavailableError, OrphansLeftError):
            self.schedule(account_id, _REDIS_RETRY_SECONDS)  # no failure of this account, so not counted
        except (DiskRefusesError, NoHostFitsError, SessionHeldError) as error:
            self._hindered(desired, error)
        except StartCancelledError:
            return
        except ManagerError as error:
            self._failed(desired, error)
        else:
            with self._lock:
                self._policy(account_id).started(self._clock())
                self._blocked.pop(account_id, None)

    def _hindered(self, desired: DesiredState, error: ManagerError) -> None:
        """Try again later: what prevents the start passes without a command, so it is not counted."""
        account_id = desired.account_id
        # Except after a change: a new login may be another account's, and a new need one that no host meets.
        if not isinstance(error, DiskRefusesError) and self._takes_back(desired, str(error)):
            self.schedule(account_id)
            return
        self._pool.abandon(account_id, str(error))
        self.schedule(account_id, _BLOCKED_RETRY_SECONDS)

    def _failed(self, desired: DesiredState, error: ManagerError) -> None:
        account_id = desired.account_id
        if self._takes_back(desired, str(error), final=not error.retryable):
            self.schedule(account_id)
            return
        if not error.retryable:
            logs.event(
                logger, logging.ERROR, "restart_refused", str(error), account=account_id, code=error.code
            )
            try:
                fingerprint = self._fingerprint(desired)
            except SlowFilesError as slow:
                fingerprint = str(slow)  # differs from every later fingerprint, so the account is tried again
            with self._lock:
                self._blocked[account_id] = Blocked(desired.generation, fingerprint)
            self._pool.abandon(account_id, str(error))
            return
        with self._lock:
            delay = self._next_delay(account_id)
            if delay is None:
                self._blocked[account_id] = Blocked(desired.generation, None)
        if delay is None:
            self._give_up(account_id, str(error))
        else:
            logs.event(
                logger,
                logging.WARNING,
                "restart_scheduled",
                str(error),
                account=account_id,
                seconds=round(delay, 2),
            )
            self.schedule(account_id, delay)

    def _takes_back(self, desired: DesiredState, reason: str, *, final: bool = False) -> bool:
        """Return whether the account's failed restart is taken back; then its failures are forgotten."""
        back = self._earlier.take_back(desired, reason, final=final)
        if back:
            self.reset(desired.account_id)
        return back

    def _give_up(self, account_id: str, reason: str, limit: str = "") -> None:
        if limit:
            text = f"{limit}; `manager start {account_id}` starts it again"
            logs.event(logger, logging.ERROR, "limit_exceeded_again", text, account=account_id)
            self._pool.abandon(account_id, text)
            return
        info = self._pool.get_worker_info(account_id)
        reason = reason or (info.error if info is not None and info.error else "it exited")
        count = self._policy(account_id).restarts
        seconds = self._recovery(account_id).window_seconds
        text = (
            f"{reason}; given up after {count} restarts in {seconds:g} s (recovery.max_restarts): "
            f"`manager start {account_id}` tries again"
        )
        logs.event(logger, logging.ERROR, "restarts_exhausted", text, account=account_id)
        self._pool.abandon(account_id, text)

    def _next_delay(self, account_id: str) -> float | None:
        return self._policy(account_id).next_delay(self._clock(), self._recovery(account_id))

    def _policy(self, account_id: str) -> RestartPolicy:
        with self._lock:
            return self._policies.setdefault(account_id, RestartPolicy())

    def _recovery(self, account_id: str) -> RecoveryConfig:
        try:
            found = self._config_service.load_account_config(account_id).recovery
        except ManagerError:
            # The file hangs, is broken or is gone: its last known settings apply.
            return (
                self._last_settings.get(account_id)
                or self._pool.queries.recovery(account_id)
                or RecoveryConfig()
            )
        self._last_settings[account_id] = found
        return found

    def _fingerprint(self, desired: DesiredState) -> Hashable:
        return account_fingerprint(self._config_service, desired)
