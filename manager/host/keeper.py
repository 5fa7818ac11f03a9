"""Makes what is so what is wanted, on threads of its own: neither Celery nor Redis need be there for it.

Every two seconds, at the start, and when a stop is handed over: desired against actual, for this host's accounts. In
between it starts again what ended unasked, at once and then ever more slowly, and ends what hangs.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, replace
from typing import Any, Final

from manager import logs
from manager.config import (
    AccountConfig,
    ConfigurationService,
    RecoveryConfig,
    config_version,
    watch_credential,
)
from manager.errors import (
    FleetUnavailableError,
    ManagerError,
    StartCancelledError,
)
from manager.fleet import FleetStore
from manager.fleet.desired import Desired, DesiredStore, Snapshot, Wish
from manager.host.leasing import FleetLeases
from manager.host.memory import Memory
from manager.host.pool import WorkerPoolManager
from manager.host.recovery import RestartPolicy
from manager.models import WorkerInfo
from manager.pool import StartOrder
from manager.validation import OrderBook

logger = logging.getLogger(__name__)

#: Seconds between two looks at what is wanted, and between two looks for workers that hang.
_LOOK_SECONDS: Final = 2.0
_HANG_SECONDS: Final = 1.0
#: Seconds after which everything is read even if nothing seems to have changed.
_READ_ALL_SECONDS: Final = 30.0
#: Milliseconds that a start is left to the task that was sent for it, before the keeper thinks the task lost.
_TASK_GRACE_MS: Final = 30_000
#: Seconds between two tries of what Redis is needed for.
_AWAY_SECONDS: Final = 2.0
#: Seconds before a stop that failed is tried again.
_STOP_AGAIN_SECONDS: Final = 10.0
#: Seconds between two writes of what is remembered, while commands come.
_SAVE_SECONDS: Final = 0.2
#: Seconds that the agent's start waits for the stops that it missed.
_MISSED_STOPS_SECONDS: Final = 30.0
#: Starts and stops at once. Stops have threads of their own: they never wait behind starts.
_STARTS: Final = 32
_STOPS: Final = 128
#: Stops that are remembered, so that one which comes a second way is not carried out a second time.
_STOPS_KEPT: Final = 10_000

#: Told how a stop ended that came as a nudge: the command's token, and True or the error.
Answer = Callable[[str, "bool | ManagerError"], None]


@dataclass(frozen=True, slots=True)
class _Blocked:
    """Why an account is not started again: nothing has changed since."""

    generation: int
    #: What must change: the configuration and the credential, as they were. None: only a command helps.
    fingerprint: Hashable | None


class Keeper:
    """One host's reconciler. `start` and `close` once each; everything else from any thread."""

    def __init__(
        self,
        *,
        host: str,
        pool: WorkerPoolManager,
        orders: OrderBook,
        config_service: ConfigurationService,
        desired: DesiredStore,
        store: FleetStore,
        leases: FleetLeases,
        memory: Memory,
        answer: Answer,
    ) -> None:
        self._host = host
        self._pool = pool
        self._orders = orders
        self._config_service = config_service
        self._desired = desired
        self._store = store
        self._leases = leases
        self._memory = memory
        self._answer = answer
        self._lock = threading.RLock()
        self._known: dict[str, Desired] = {}
        self._version: int | None = None
        self._read_all_at = 0.0
        #: Redis's clock less ours, milliseconds.
        self._clock_offset: float | None = None
        self._policies: dict[str, RestartPolicy] = {}
        self._due: dict[str, float] = {}
        self._busy: set[str] = set()
        self._blocked: dict[str, _Blocked] = {}
        self._stops: OrderedDict[str, Future[bool]] = OrderedDict()
        #: Accounts that ran on another host when Redis lost that: who knows whether they still do?
        self._uncertain: dict[str, str] = {}
        self._unsaved = False
        self._told_broken: frozenset[str] = frozenset()
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._starting = ThreadPoolExecutor(_STARTS, thread_name_prefix="recover")
        self._stopping = ThreadPoolExecutor(_STOPS, thread_name_prefix="stop")
        self._threads = [
            threading.Thread(target=self._run, name="keeper", daemon=True),
            threading.Thread(target=self._hear, name="nudges", daemon=True),
        ]
        #: What is wrong on this host, for readers; None if nothing is.
        self.trouble: str | None = None

    # life

    def start(self) -> None:
        """Carry out the stops that were missed, then begin to keep; what should run is started right away."""
        self._known = self._memory.load()
        self._read()
        self._believe_workers()
        missed = self._stop_unwanted()
        if missed:
            wait_for(missed, timeout=_MISSED_STOPS_SECONDS)
        self._reconcile(at_once=True)
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Keep no more. Starts of its own that are under way are broken off; what runs goes on."""
        self._closing.set()
        self._wake.set()
        with self._lock:
            busy = list(self._busy)
        for account_id in busy:
            self._pool.cancel_start(account_id)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._starting.shutdown(cancel_futures=True)
        self._stopping.shutdown()
        self._save()

    # commands

    def wish(self, wish: Wish) -> tuple[int, Desired]:
        """Write a command's wish down, in Redis and here. Raises FleetUnavailableError, but never for a stop."""
        try:
            generation, desired = self._desired.desire(wish)
        except FleetUnavailableError:
            if wish.state != "stopped":
                raise
            generation, desired = self._wish_without_redis(wish)
        with self._lock:
            self._know(desired)
            if desired.running:
                self._forget_trouble(wish.account_id)
            self._unsaved = True
        self._wake.set()
        return generation, desired

    def withdraw(self, account_id: str, generation: int) -> None:
        """Take back what was refused. Without Redis it stays wanted, and is tried again."""
        try:
            self._desired.withdraw(account_id, generation)
            desired = self._desired.read(account_id)
        except FleetUnavailableError as error:
            logs.event(logger, logging.WARNING, "withdraw_failed", str(error), account=account_id)
            return
        if desired is not None:
            with self._lock:
                self._known[account_id] = desired

    def wanted(self, account_id: str) -> Desired | None:
        """Return what this host knows to be wanted of the account."""
        with self._lock:
            return self._known.get(account_id)

    def order(self, wanted: Desired) -> StartOrder:
        """Return the order to start the account, which is broken off if a stop is wanted by the time it is its turn."""
        account_id = wanted.account_id
        order = self._orders.order(account_id, wanted.apply_defaults, wanted.validate, wanted.generation)

        def prepare() -> AccountConfig:
            now = self.wanted(account_id)
            if now is not None and not now.running:
                raise StartCancelledError(f"{account_id}: a later stop ({now.by}) overrules this start")
            return order.prepare()

        return replace(order, prepare=prepare)

    def uncertain_host(self, account_id: str) -> str | None:
        """Return the host where the account ran when Redis lost its records, until `certain` is called; else None."""
        with self._lock:
            return self._uncertain.get(account_id)

    def certain(self, account_id: str) -> None:
        """Note that the account's host is back, or that somebody took the account from it."""
        with self._lock:
            self._uncertain.pop(account_id, None)

    def stop(self, account_id: str, token: str, timeout: float | None = None) -> "Future[bool]":
        """Stop the account's worker; the same token is the same stop, however often and whichever way it comes."""
        with self._lock:
            self._due.pop(account_id, None)
            found = self._stops.get(token)
            if found is None:
                found = self._stopping.submit(self._pool.stop_worker, account_id, timeout)
                self._stops[token] = found
                self._forget_stops()
        return found

    def knows_stop(self, token: str) -> bool:
        """Say whether a stop with this token was handed over already."""
        with self._lock:
            return token in self._stops

    def lost(self, info: WorkerInfo, reason: str) -> Callable[[], None] | None:
        """Say what to do about a worker that ended unasked; see `WorkerPoolManager.on_unexpected_exit`."""
        account_id = info.account_id
        with self._lock:
            wanted = self._known.get(account_id)
            if self._closing.is_set() or wanted is None or not wanted.running or wanted.host != self._host:
                return None
            delay = self._next_delay(account_id)
            if delay is None:
                self._blocked[account_id] = _Blocked(wanted.generation, None)
                return lambda: self._schedule(account_id, 0.0)  # where it is given up, with the reason
        logs.event(logger, logging.WARNING, "recover", reason, account=account_id, seconds=round(delay, 2))
        return lambda: self._schedule(account_id, delay)

    # the loop

    def _run(self) -> None:
        next_look = time.monotonic() + _LOOK_SECONDS
        next_hang = next_save = time.monotonic()
        while not self._closing.is_set():
            now = time.monotonic()
            try:
                self._launch(now)
                if self._unsaved and now >= next_save:
                    next_save = now + _SAVE_SECONDS
                    self._save()
                if now >= next_hang:
                    next_hang = now + _HANG_SECONDS
                    self._pool.end_hung_workers()
                if now >= next_look:
                    next_look = now + _LOOK_SECONDS
                    self._leases.tend()
                    self._read()
                    self._stop_unwanted()
                    self._reconcile()
                    self._unsaved = True
            except Exception:
                logger.exception("the keeper met a fault of its own and goes on")
            with self._lock:
                due = min(self._due.values(), default=next_look)
            if self._unsaved:
                due = min(due, next_save)
            self._wake.wait(max(0.0, min(next_look, next_hang, due) - time.monotonic()))
            self._wake.clear()

    def _hear(self) -> None:
        """Take stops that must not wait in a queue of tasks."""
        while not self._closing.is_set():
            try:
                nudge = self._desired.next_nudge(self._host, 1)
                if nudge is None:
                    continue
                wish = Wish(
                    account_id=nudge.account_id, state="stopped", token=nudge.token, by=nudge.by, why="stop"
                )
                generation, desired = self.wish(wish)
                if desired.running or generation != desired.generation:
                    continue  # something later was asked since; its task tells the caller
                token = nudge.token
                self.stop(nudge.account_id, token, nudge.timeout).add_done_callback(
                    lambda done, token=token: self._answered(token, done)  # type: ignore[misc]
                )
            except FleetUnavailableError:
                self._closing.wait(_AWAY_SECONDS / 2)
            except Exception:
                logger.exception("a nudge could not be heard")
                self._closing.wait(1.0)

    def _answered(self, token: str, done: "Future[bool]") -> None:
        error = done.exception()
        if error is None or isinstance(error, ManagerError):
            self._answer(token, error or True)

    # desired state

    def _read(self) -> None:
        now = time.monotonic()
        known = self._version if now < self._read_all_at else None
        try:
            snapshot = self._desired.snapshot(known)
            if snapshot is not None:
                self._merge(snapshot)
                self._version = snapshot.version
                self._read_all_at = now + _READ_ALL_SECONDS
        except FleetUnavailableError:
            self._version = None  # as it was known here; whatever Redis says when it is back is read whole

    def _merge(self, snapshot: Snapshot) -> None:
        """Take what Redis says, and tell it what it has forgotten."""
        with self._lock:
            self._clock_offset = snapshot.now - time.monotonic() * 1000
            forgotten = [
                desired
                for desired in self._known.values()
                if (there := snapshot.desired.get(desired.account_id)) is None
                or there.generation < desired.generation
            ]
        for desired in forgotten:
            if desired.host != self._host:
                # Its lease may be lost too, and a host that is cut off cannot register it again in time.
                if desired.running and not desired.failover:
                    with self._lock:
                        self._uncertain[desired.account_id] = desired.host
            elif self._desired.restore(desired):
                logs.event(
                    logger,
                    logging.WARNING,
                    "desired_restored",
                    "Redis had lost what was wanted of the account",
                    account=desired.account_id,
                    state=desired.state,
                    generation=desired.generation,
                )
        new = snapshot.broken - self._told_broken
        self._told_broken = snapshot.broken
        for account_id in sorted(new):
            logs.event(
                logger,
                logging.ERROR,
                "desired_broken",
                "what is wanted of it cannot be read in Redis (edited by hand?): nothing is done until a command",
                account=account_id,
            )
        with self._lock:
            for desired in snapshot.desired.values():
                self._know(desired)

    def _know(self, desired: Desired) -> None:
        before = self._known.get(desired.account_id)
        if before is None or before.generation <= desired.generation:
            self._known[desired.account_id] = desired

    def _believe_workers(self) -> None:
        """Take a worker that was found running as proof that it is wanted, where neither Redis nor memory knows."""
        for record in self._pool.live_records():
            with self._lock:
                if record.generation == 0 or record.account_id in self._known:
                    continue
                self._known[record.account_id] = Desired(
                    account_id=record.account_id,
                    state="running",
                    generation=record.generation,
                    host=self._host,
                    by=f"worker {record.worker_id}",
                    why="found running",
                    failover=record.lease_seconds > 0,
                )
                self._version = None  # so that Redis is told

    def _wish_without_redis(self, wish: Wish) -> tuple[int, Desired]:
        with self._lock:
            before = self._known.get(wish.account_id)
            least = int(time.time() * 1000)
            generation = max(least, before.generation + 1 if before is not None else 0)
            return generation, Desired(
                account_id=wish.account_id,
                state=wish.state,
                generation=generation,
                restart=before.restart if before is not None else 0,
                host=before.host if before is not None and before.host else self._host,
                by=wish.by,
                why=wish.why,
                at=least,
            )

    def _save(self) -> None:
        with self._lock:
            self._unsaved = False
            mine = [desired for desired in self._known.values() if desired.host == self._host]
        self.trouble = self._memory.save(sorted(mine, key=lambda desired: desired.account_id))

    # desired against actual

    def _stop_unwanted(self) -> "list[Future[bool]]":
        stops: list[Future[bool]] = []
        for account_id in self._pool.live_accounts():
            wanted = self.wanted(account_id)
            if wanted is not None and not wanted.running:
                stops.append(self._stop_again(account_id, f"wanted:{account_id}:{wanted.generation}"))
        return stops

    def _stop_again(self, account_id: str, token: str) -> "Future[bool]":
        with self._lock:
            before = self._stops.get(token)
            if before is not None and before.done():
                # It failed, or something was started past us; either way it is still there.
                pause = int(time.monotonic() / _STOP_AGAIN_SECONDS)
                token = f"{token}:{pause}"
        return self.stop(account_id, token)

    def _reconcile(self, *, at_once: bool = False) -> None:
        with self._lock:
            running = [desired for desired in self._known.values() if desired.running]
        live = set(self._pool.live_accounts())
        elsewhere: list[Desired] = []
        for desired in running:
            if desired.host != self._host:
                if desired.failover and desired.account_id not in live:
                    elsewhere.append(desired)
                continue
            generation = self._pool.generation(desired.account_id)
            if generation is not None and generation >= desired.restart:
                continue
            with self._lock:
                tried = desired.account_id in self._blocked
            if generation is None and self._is_blocked(desired):
                continue
            restarting = generation is None and desired.account_id in live
            if not (at_once or tried or restarting or self._task_is_lost(desired)):
                continue
            with self._lock:
                if desired.account_id in self._due or desired.account_id in self._busy:
                    continue
                delay = self._next_delay(desired.account_id) if generation is None else 0.0
                if delay is None:
                    self._blocked[desired.account_id] = _Blocked(desired.generation, None)
                    continue
            self._schedule(desired.account_id, delay)
        if elsewhere:
            self._take_over(elsewhere)

    def _task_is_lost(self, desired: Desired) -> bool:
        with self._lock:
            if self._clock_offset is None:
                return True
            age = time.monotonic() * 1000 + self._clock_offset - desired.at
        return age > _TASK_GRACE_MS

    def _take_over(self, candidates: list[Desired]) -> None:
        """Take the accounts of lost hosts whose files allow that, once their leases' time is over."""
        try:
            live = {state.name for state in self._store.hosts() if state.live}
            for desired in candidates:
                if desired.host in live or self._is_blocked(desired):
                    continue
                config = self._config_service.load_account_config(desired.account_id, desired.apply_defaults)
                if config.failover != "auto" or config.host not in (None, self._host):
                    continue
                if not self._leases.free(config) or not self._desired.take_over(desired, self._host):
                    continue
                logs.event(
                    logger,
                    logging.WARNING,
                    "take_over",
                    "its host is lost and its lease's time is over",
                    account=desired.account_id,
                    lost_host=desired.host,
                )
                with self._lock:
                    self._known[desired.account_id] = replace(desired, host=self._host)
                self._schedule(desired.account_id, 0.0)
        except FleetUnavailableError:
            return
        except ManagerError as error:
            logs.event(logger, logging.WARNING, "take_over_failed", str(error))

    # starting again

    def _schedule(self, account_id: str, delay: float) -> None:
        with self._lock:
            self._due[account_id] = time.monotonic() + delay
        self._wake.set()

    def _launch(self, now: float) -> None:
        with self._lock:
            ready = [key for key, due in self._due.items() if due <= now and key not in self._busy]
            for account_id in ready:
                del self._due[account_id]
                self._busy.add(account_id)
        for account_id in ready:
            self._starting.submit(self._attempt, account_id)

    def _attempt(self, account_id: str) -> None:
        try:
            self._try(account_id)
        except Exception:
            logger.exception("a recovery met a fault of its own")
            self._schedule(account_id, _AWAY_SECONDS)
        finally:
            with self._lock:
                self._busy.discard(account_id)
            self._wake.set()

    def _try(self, account_id: str) -> None:
        wanted = self.wanted(account_id)
        if self._closing.is_set() or wanted is None:
            return
        if not wanted.running or wanted.host != self._host:
            self._pool.abandon(account_id, "it is not wanted here any more")
            return
        with self._lock:
            blocked = self._blocked.get(account_id)
        if blocked is not None and blocked.fingerprint is None:
            self._give_up(account_id, "")
            return
        order = self.order(wanted)
        generation = self._pool.generation(account_id)
        try:
            if generation is not None and generation < wanted.restart:
                self._pool.restart_worker(order)
            else:
                self._pool.recover_worker(order)
        except FleetUnavailableError:
            self._schedule(account_id, _AWAY_SECONDS)  # not its fault, and not counted
        except StartCancelledError:
            return
        except ManagerError as error:
            self._failed(wanted, error)
        else:
            with self._lock:
                self._policy(account_id).started(time.monotonic())
                self._blocked.pop(account_id, None)

    def _failed(self, wanted: Desired, error: ManagerError) -> None:
        account_id = wanted.account_id
        if not error.retryable:
            logs.event(
                logger, logging.ERROR, "not_recovered", str(error), account=account_id, code=error.code
            )
            with self._lock:
                self._blocked[account_id] = _Blocked(wanted.generation, self._fingerprint(wanted))
            self._pool.abandon(account_id, str(error))
            return
        with self._lock:
            delay = self._next_delay(account_id)
            if delay is None:
                self._blocked[account_id] = _Blocked(wanted.generation, None)
        if delay is None:
            self._give_up(account_id, str(error))
        else:
            logs.event(
                logger, logging.WARNING, "recover", str(error), account=account_id, seconds=round(delay, 2)
            )
            self._schedule(account_id, delay)

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
            return self._config_service.load_account_config(account_id).recovery
        except ManagerError:
            return RecoveryConfig()

    def _forget_trouble(self, account_id: str) -> None:
        self._policies.pop(account_id, None)
        self._blocked.pop(account_id, None)

    def _is_blocked(self, desired: Desired) -> bool:
        with self._lock:
            blocked = self._blocked.get(desired.account_id)
        if blocked is None:
            return False
        same = blocked.generation == desired.generation
        if same and (blocked.fingerprint is None or blocked.fingerprint == self._fingerprint(desired)):
            return True
        with self._lock:
            self._forget_trouble(desired.account_id)
        return False

    def _fingerprint(self, desired: Desired) -> Hashable:
        """Return what an account's files and credential are now, so that a change is noticed."""
        try:
            config = self._config_service.load_account_config(desired.account_id, desired.apply_defaults)
        except ManagerError as error:
            return str(error)
        look = watch_credential(config.password, self._config_service.config_dir)
        state: Any = look() if look is not None else None
        return (config_version(config), hash(config.password), str(state))

    def _forget_stops(self) -> None:
        while len(self._stops) > _STOPS_KEPT and next(iter(self._stops.values())).done():
            self._stops.popitem(last=False)


__all__ = ["Answer", "Keeper"]
