"""Reconciliation loop: starts, stops and adopts workers until they match the desired state.

It runs on its own threads and keeps working while Redis or Celery is down.

Every two seconds, at the start, and when a stop is handed over: desired against actual, for this host's accounts. In
between it starts again what ended unasked, at once and then ever more slowly, and ends what hangs.
"""

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from manager.config import ConfigurationService
from manager.errors import (
    AccountNotFoundError,
    FleetUnavailableError,
    InvalidAccountIdError,
    ManagerError,
    NoHostFitsError,
    SessionHeldError,
)
from manager.fleet import FleetStore
from manager.fleet.desired import BY_HAND, REASSIGNED, STOP, DesiredState, DesiredStateRequest, DesiredStore
from manager.gateways import runs_programs
from manager.host.reconcile.clock_watch import ClockWatch
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.desired_state_file import DesiredStateFile
from manager.host.reconcile.drain import Drain
from manager.host.reconcile.fleet_snapshot import FleetSnapshot
from manager.host.reconcile.recovery import Restarts
from manager.host.reconcile.whereabouts import Whereabouts
from manager.host.workers.bounded_reads import BoundedConfiguration
from manager.host.workers.fleet_leases import FleetLeases
from manager.host.workers.pool import WorkerPoolManager
from manager.placement.engine import HostFacts
from manager.pool.start_requests import StartRequestFactory
from manager.states import TradingMode
from manager.system import logs
from manager.system.essential_threads import EssentialThread
from manager.system.thread_pool import ThreadPool, bare

logger = logging.getLogger(__name__)

#: Seconds between two looks at what is wanted, and between two looks for workers that hang.
_LOOK_SECONDS: Final = 2.0
_HANG_SECONDS: Final = 1.0
#: Seconds that a wait takes too long if this process was held up itself; its workers get as long to show that they live.
_HELD_UP_SECONDS: Final = 10.0
#: Seconds between two tries to hear while Redis is away.
_AWAY_SECONDS: Final = 1.0
#: Seconds before a stop that failed is tried again.
_STOP_AGAIN_SECONDS: Final = 10.0
#: Seconds between two writes of what is remembered, while commands come.
_SAVE_SECONDS: Final = 0.2
#: Seconds that the agent's start waits for the stops that it missed.
_MISSED_STOPS_SECONDS: Final = 30.0
#: Stops at once; they have threads of their own, and never wait behind starts.
_STOPS: Final = 128
#: Stops that are remembered, so that one which comes a second way is not carried out a second time.
_STOPS_KEPT: Final = 10_000

#: Told how a stop ended that came as a nudge: the command's token, and True or the error.
Answer = Callable[[str, "bool | ManagerError"], None]


class Reconciler:
    """One host's reconciler. `start` and `close` once each; everything else from any thread."""

    def __init__(
        self,
        *,
        host: str,
        pool: WorkerPoolManager,
        start_requests: StartRequestFactory,
        config_service: ConfigurationService,
        desired: DesiredStore,
        store: FleetStore,
        leases: FleetLeases,
        desired_state_file: DesiredStateFile,
        answer: Answer,
        me: Callable[[], HostFacts],
        drain_memory: Path,
        settle: Callable[[], bool] = lambda: True,
        clocks: ClockWatch | None = None,
    ) -> None:
        """`me` is this host as placement sees it, but for whether it is drained.

        `settle` corrects what Redis still says of workers that this host does not have; it is called until it says that
        nothing is left to correct.
        """
        #: Says whether a stop was left on this machine that is not desired state yet; see `manager.host.local_control`.
        self.forbids_start: Callable[[str], bool] = lambda _account_id: False
        #: Told of an account whose record this host has dropped.
        self.forgotten: Callable[[str], None] = lambda _account_id: None
        self._settle, self._settled = settle, False
        self.clocks = clocks or ClockWatch()
        self._host = host
        self._pool = pool
        # Files are read on the threads of this class too, where one that hangs would delay every account.
        self._config_service = BoundedConfiguration(config_service)
        self._files = config_service
        self._desired = desired
        self._store = store
        self._leases = leases
        self._answer = answer
        self._closing = threading.Event()
        self._wake = threading.Event()
        self.desired_cache = DesiredStateCache(host, desired, desired_state_file)
        self.drain = Drain(
            host,
            pool,
            self.desired_cache,
            store,
            self._config_service,
            lambda: self.fleet_snapshot,
            drain_memory,
        )
        self.fleet_snapshot = FleetSnapshot(
            host, store, self.desired_cache, lambda: replace(me(), draining=self.drain.active)
        )
        self.restarts = Restarts(
            host,
            pool,
            self.desired_cache,
            start_requests,
            self._config_service,
            self._wake.set,
            lambda: self.drain.active,
            self._reserve_here,
            self.fleet_snapshot.done,
            self._forbidden,
        )
        self.whereabouts = Whereabouts(host, self.fleet_snapshot, leases)
        self._lock = threading.Lock()
        self._stops: OrderedDict[str, Future[bool]] = OrderedDict()
        self._last_stops: dict[str, str] = {}
        #: Accounts whose worker is being asked to change its trading mode.
        self._changing: set[str] = set()
        #: Since when (monotonic) a worker is there whose stop has ended.
        self._vain_since: dict[str, float] = {}
        #: Accounts that had a worker here at the last look, and were wanted on another host.
        self._strays: dict[str, DesiredState] = {}
        #: Until when (monotonic) workers that give no sign of life are given time.
        self._patient_until = 0.0
        #: How often desired and actual were compared.
        self.looks = 0
        self._stopping = ThreadPool(_STOPS, "stop")
        self._loop = EssentialThread("keeper", self._run)
        self._ear = EssentialThread("nudges", self._hear)

    # life

    def start(self) -> None:
        """Carry out the stops that were missed, then begin to keep; what should run is started right away."""
        self.desired_cache.read()
        self.drain.read()
        self.desired_cache.believe(self._pool.queries.live_records())
        missed = self._stop_unwanted()
        if missed:
            wait_for(missed, timeout=_MISSED_STOPS_SECONDS)
        self._reconcile(at_once=True)
        self._loop.start()
        self._ear.start()

    def close(self) -> None:
        """Keep no more. Starts of its own that are under way are broken off; what runs goes on."""
        self._closing.set()
        self._wake.set()
        self.restarts.close()
        self._loop.join()
        self._ear.join()
        self._stopping.shutdown()
        self.drain.close()
        self.desired_cache.save()

    @property
    def threads(self) -> list[EssentialThread]:
        """Every thread that the host's promises rest on."""
        crews = (self._stopping, self.restarts.crew, self.drain.crew)
        return [self._loop, self._ear, *(thread for crew in crews for thread in crew.threads)]

    # commands

    def set_desired(self, change: DesiredStateRequest) -> tuple[int, DesiredState]:
        """Write a command's wish down, in Redis and here. Raises FleetUnavailableError, but never for a stop."""
        generation, desired = self.desired_cache.set_desired(change)
        if desired.running:
            self.restarts.forget(change.account_id)
        self._wake.set()
        return generation, desired

    def stop(self, desired: DesiredState) -> "Future[bool]":
        """Stop the account's worker: once for each generation, however often and whichever way that comes here."""
        account_id, key = desired.account_id, _key(desired)
        self.restarts.cancel(account_id)
        with self._lock:
            found = self._stops.get(key)
            # One that has ended stands for this one, unless there is something to stop again.
            if found is None or (found.done() and self._pool.has_worker_for_account(account_id)):
                found = self._stopping.submit(self._stop_worker, account_id, desired.timeout)
                self._stops[key] = found
                # Whatever comes for this account later is of this generation or a later one.
                before = self._last_stops.get(account_id, key)
                if before != key and before in self._stops and self._stops[before].done():
                    del self._stops[before]
                self._last_stops[account_id] = key
                while len(self._stops) > _STOPS_KEPT and next(iter(self._stops.values())).done():
                    self._stops.popitem(last=False)
        return found

    def _stop_worker(self, account_id: str, timeout: float | None) -> bool:
        try:
            return self._pool.stop_worker(account_id, timeout)
        except ManagerError as error:
            # The error is kept with the stop for as long as that is remembered: without the frames that it refers to.
            raise bare(error) from None

    def stop_locally(self, change: DesiredStateRequest, least_generation: int = 0) -> "Future[bool]":
        """Stop an account by a command that did not come through Redis; works while Redis is away, or hangs."""
        here = self._pool.queries.occupied(change.account_id)
        desired = self.desired_cache.stop_locally(change, least_generation=least_generation, here=here)
        self._wake.set()
        return self.stop(desired)

    def _forbidden(self, account_id: str) -> bool:
        return self.forbids_start(account_id)

    def has_file(self, account_id: str) -> bool:
        """Say whether the account has a file here, or whether that cannot be said now."""
        try:
            self._config_service.run(account_id, partial(self._files.account_path, account_id))
        except (AccountNotFoundError, InvalidAccountIdError):
            return False
        except ManagerError:
            return True
        return True

    def knows_stop(self, desired: DesiredState) -> bool:
        """Say whether this stop was handed over already."""
        with self._lock:
            return _key(desired) in self._stops

    # the loops

    def _run(self) -> None:
        next_look = time.monotonic() + _LOOK_SECONDS
        next_hang = next_save = time.monotonic()
        while not self._closing.is_set():
            now = time.monotonic()
            try:
                if self._clocks_changed():
                    next_look = now
                self.restarts.launch()
                if self.desired_cache.unsaved and now >= next_save:
                    next_save = now + _SAVE_SECONDS
                    self.desired_cache.save()
                if now >= next_hang:
                    next_hang = now + _HANG_SECONDS
                    if now >= self._patient_until:
                        self._pool.end_hung_workers()
                if now >= next_look:
                    next_look = now + _LOOK_SECONDS
                    self._look()
            except BaseException as error:
                self._loop.failed(error)
            due = self.restarts.next_due()
            moments = [next_look, next_hang, *([due] if due is not None else [])]
            if self.desired_cache.unsaved:
                moments.append(next_save)
            self._sleep(max(0.0, min(moments) - time.monotonic()))

    def _sleep(self, seconds: float) -> None:
        """Wait until there is something to do; whoever was held up meanwhile, as with a machine, is patient with workers.

        Only what the wait took too long counts: a Redis that hangs holds a look up, and workers that hang are ended then too.
        """
        began = time.monotonic()
        self._wake.wait(seconds)
        self._wake.clear()
        now = time.monotonic()
        held_up = now - began - seconds
        if held_up > _HELD_UP_SECONDS:
            self._patient_until = now + _HELD_UP_SECONDS
            logs.event(
                logger,
                logging.WARNING,
                "held_up",
                f"this host agent did not run for {held_up:.0f} s (paused, or the machine is overloaded); workers get "
                f"{_HELD_UP_SECONDS:g} s to show that they run",
            )

    def _clocks_changed(self) -> bool:
        """Log a suspend of this machine, or a setting of its clock; returns whether everything is to be compared now."""
        changes = self.clocks.tick()
        for change in changes:
            logs.event(
                logger,
                logging.WARNING,
                change.kind,
                f"{change.text}; {change.effect}",
                seconds=round(change.seconds, 1),
            )
        suspended = any(change.kind == "suspended" for change in changes)
        if suspended:
            self._patient_until = time.monotonic() + _HELD_UP_SECONDS
            self.desired_cache.read_all_next()
        return suspended

    def _look(self) -> None:
        """Compare desired state with actual state. A step that fails keeps no later step from being taken."""
        was_draining = self.drain.active
        for step in (
            self._leases.retry_releases,
            self._settle_once,
            self.desired_cache.read,
            self.drain.read,
            self._stop_unwanted,
            lambda: self._reconcile(at_once=was_draining and not self.drain.active),
            self._keep_what_runs,
            self._apply_modes,
            self.drain.look,
            self._forget,
            self.desired_cache.save,
        ):
            try:
                step()
            except Exception as error:
                self._loop.failed(error)
        self.looks += 1

    def _forget(self) -> None:
        """Drop the records of accounts that a person has had forgotten."""
        for account_id in self.desired_cache.forgotten():
            if self._pool.forget(account_id):
                self.forgotten(account_id)

    def _settle_once(self) -> None:
        if not self._settled:
            self._settled = self._settle()

    def _hear(self) -> None:
        """Take stops that must not wait in a queue of tasks."""
        while not self._closing.is_set():
            try:
                urgent_stop = self._desired.next_urgent_stop(self._host, 1)
                if urgent_stop is None:
                    continue
                change = DesiredStateRequest(
                    account_id=urgent_stop.account_id,
                    state="stopped",
                    token=urgent_stop.token,
                    by=urgent_stop.by,
                    why="stop",
                )
                generation, desired = self.set_desired(change)
                if desired.running or generation != desired.generation:
                    continue  # something later was asked since; its task tells the caller
                token = urgent_stop.token
                self.stop(desired).add_done_callback(
                    lambda done, token=token: self._answered(token, done)  # type: ignore[misc]
                )
            except FleetUnavailableError:
                self._closing.wait(_AWAY_SECONDS)
            except BaseException as error:
                self._ear.failed(error)
                self._closing.wait(_AWAY_SECONDS)

    def _answered(self, token: str, done: "Future[bool]") -> None:
        error = done.exception()
        if error is None or isinstance(error, ManagerError):
            self._answer(token, error or True)

    # desired against actual

    def _stop_unwanted(self) -> "list[Future[bool]]":
        unwanted = [
            desired
            for account_id in self._pool.queries.live_accounts()
            if (desired := self.desired_cache.of(account_id)) is not None and not desired.running
        ]
        # One that failed before its stop came here, without a task: it is recorded as stopped. A start that was
        # refused is not desired either, but nobody has asked for a stop.
        unwanted += [
            desired
            for account_id in self._pool.queries.failed_accounts()
            if (desired := self.desired_cache.of(account_id)) is not None
            and not desired.running
            and desired.why == STOP
        ]
        keys = {_key(desired) for desired in unwanted}
        self._vain_since = {key: since for key, since in self._vain_since.items() if key in keys}
        return [self.stop(desired) for desired in unwanted if not self._stopped_in_vain(desired)]

    def _stopped_in_vain(self, desired: DesiredState) -> bool:
        """Say whether its stop has ended a while ago, with its worker still there: it is tried again, but not all the time."""
        key, now = _key(desired), time.monotonic()
        with self._lock:
            before = self._stops.get(key)
            if before is None or not before.done():
                return False
            since = self._vain_since.setdefault(key, now)
            if now - since < _STOP_AGAIN_SECONDS:
                return True
            del self._vain_since[key]
            return False

    def _reconcile(self, *, at_once: bool = False) -> None:
        running = self.desired_cache.running()
        for desired in running:
            if desired.host == self._host:
                self.restarts.consider(desired, at_once=at_once)
        lost = [desired for desired in running if desired.failover and desired.host != self._host]
        if lost:
            self._take_over(lost)
        homeless = [one for one in running if not one.host and self.desired_cache.task_is_lost(one)]
        if homeless:
            self._take_in(homeless)

    def _keep_what_runs(self) -> None:
        """Take back accounts whose worker runs here, with a lease that is its own, while another host is to have them.

        A start that was under way when its account was given to another host, a Redis that has lost a hand-over, or a
        host that has another name now. Whoever holds the lease is the only one who can have a session.
        """
        strays = {
            record.account_id: desired
            for record in self._pool.queries.live_records()
            if (desired := self.desired_cache.of(record.account_id)) is not None
            and desired.running
            and desired.host not in {"", self._host}
            and self._pool.queries.generation(record.account_id) is not None
        }
        settled = {key: desired for key, desired in strays.items() if self._strays.get(key) == desired}
        self._strays = strays
        for record in self._pool.queries.live_records() if settled else ():
            desired = settled.get(record.account_id)
            if desired is None:
                continue
            with contextlib.suppress(FleetUnavailableError):
                if self._leases.holds(record.claims, record.epoch) and self.desired_cache.reassign_here(
                    desired
                ):
                    logs.event(
                        logger,
                        logging.WARNING,
                        "taken_back",
                        "its worker runs here",
                        account=record.account_id,
                        from_host=desired.host,
                    )

    def _apply_modes(self) -> None:
        """Have every worker trade as is desired: one that was started meanwhile, or did not answer when it was asked."""
        for record in self._pool.queries.live_records():
            desired = self.desired_cache.of(record.account_id)
            mode = self._pool.queries.mode(record.account_id)
            if desired is None or mode in {None, desired.mode} or runs_programs(record.gateway):
                continue
            with self._lock:
                if record.account_id in self._changing:
                    continue
                self._changing.add(record.account_id)
            # On a thread of its own: a worker that is inside a call may take a while to answer.
            self._stopping.submit(self._apply_mode, record.account_id, desired.mode)

    def _apply_mode(self, account_id: str, mode: TradingMode) -> bool:
        try:
            applied = self._pool.apply_mode(account_id, mode)
        except ManagerError as error:
            logs.event(logger, logging.WARNING, "mode_not_applied", str(error), account=account_id, mode=mode)
            return False
        else:
            if applied:
                logs.event(logger, logging.WARNING, "mode_applied", account=account_id, mode=mode)
            return applied
        finally:
            with self._lock:
                self._changing.discard(account_id)

    def _reserve_here(self, desired: DesiredState) -> bool:
        """Say whether an account may start here to which no command has just come; if not, it was handed on.

        Raises NoHostFitsError if it was not, as nobody else can have it either, SessionHeldError if its worker may live
        on a silent host, FleetUnavailableError.
        """
        account_id = desired.account_id
        if desired.why in BY_HAND:
            return True
        try:
            config = self._config_service.load_account_config(account_id, desired.apply_defaults)
        except ManagerError:
            needs = desired.tenant  # its start will tell what is wrong with its file
        else:
            needs = config.needs()
            # A batch gave it to this host, and the task that would have looked is lost.
            uncertain = self.whereabouts.rejection_here(desired, config, generation=desired.generation)
            if uncertain is not None:
                raise SessionHeldError(uncertain)
        why = self.fleet_snapshot.reserve_here(needs, desired.claimed, self._pool.has_worker_for_account)
        if why is None:
            return True
        placement = self.fleet_snapshot.place(needs, None, without=self._host)
        if placement.host is None:
            raise NoHostFitsError(f"{account_id}: host {self._host}: {why}; {placement.explain()}")
        if self.desired_cache.reassign(desired, placement.host, REASSIGNED):
            logs.event(logger, logging.WARNING, "handed_on", why, account=account_id, to=placement.host)
        return False

    def _take_in(self, candidates: list[DesiredState]) -> None:
        """Take accounts that no host has got, as the task that was to bring them to one is lost: those placed here."""
        for desired in candidates:
            account_id = desired.account_id
            try:
                # Of one that may have its worker on a host which Redis has forgotten that host is to say.
                if self.desired_cache.uncertain_host(account_id) is not None:
                    continue
                config = self._config_service.load_account_config(account_id, desired.apply_defaults)
                if self.fleet_snapshot.place(config.needs(), None).host != self._host:
                    continue
                there = self.fleet_snapshot.recorded_host(account_id)
                if self.whereabouts.rejection_here(desired, config, other=there) is not None:
                    continue
                if self.desired_cache.reassign_here(desired):
                    logs.event(
                        logger,
                        logging.WARNING,
                        "taken_in",
                        "its task was lost on the way",
                        account=account_id,
                    )
                    self.restarts.schedule(account_id)
            except FleetUnavailableError:
                return
            except ManagerError:
                continue  # no host can read its file: `manager doctor` names it as missing

    def _take_over(self, candidates: list[DesiredState]) -> None:
        """Take the accounts of lost hosts whose files allow that, once their leases' time is over."""
        for desired in candidates:
            account_id = desired.account_id
            try:
                if self.fleet_snapshot.live(desired.host) or self._pool.has_worker_for_account(account_id):
                    continue
                config = self._config_service.load_account_config(account_id, desired.apply_defaults)
                if config.failover != "auto":
                    continue
                # Every host that looks sees the same fleet and so chooses the same one; should two see it differently,
                # one of them writes first.
                if self.fleet_snapshot.place(config.needs(), None, without=desired.host).host != self._host:
                    continue
                if not self._leases.is_free(config) or not self.desired_cache.reassign_here(desired):
                    continue
                logs.event(
                    logger,
                    logging.WARNING,
                    "take_over",
                    "its host is lost and its lease's time is over",
                    account=account_id,
                    lost_host=desired.host,
                )
                self.restarts.schedule(account_id)
            except FleetUnavailableError:
                return
            except ManagerError as error:  # of this account alone: the others are lost as well
                logs.event(logger, logging.WARNING, "take_over_failed", str(error), account=account_id)


def _key(desired: DesiredState) -> str:
    return f"{desired.account_id}:{desired.generation}"


__all__ = ["Answer", "Reconciler"]
