"""Desired state as this host knows it.

It is read from Redis, written back to a Redis that lost it, and saved on disk.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from manager.errors import FleetUnavailableError
from manager.fleet.desired import DesiredState, DesiredStateRequest
from manager.fleet.desired_store import DesiredSnapshot, DesiredStore
from manager.host.reconcile.desired_state_file import DesiredStateFile
from manager.host.reconcile.desired_state_rules import is_newer, without_redis
from manager.host.reconcile.redis_clock import RedisClock
from manager.host.workers.modes import reported_mode
from manager.host.workers.records import WorkerRecord
from manager.states import TradingMode
from manager.system import logs

logger = logging.getLogger(__name__)

#: Seconds after which everything is read even if the version in Redis has not changed.
_READ_ALL_SECONDS: Final = 30.0
#: Seconds after which the task that was sent for a start counts as lost.
_TASK_GRACE_SECONDS: Final = 30.0


class DesiredStateCache:
    """One host's view of desired state.

    Thread-safe; methods that do not name FleetUnavailableError never raise it.
    """

    def __init__(
        self,
        host: str,
        store: DesiredStore,
        desired_state_file: DesiredStateFile,
        *,
        task_grace_seconds: float = _TASK_GRACE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load the saved state.

        `clock` returns monotonic seconds; `task_grace_seconds`: see `task_is_lost`.
        """
        self._host = host
        self._desired = store
        self._task_grace_seconds = task_grace_seconds
        self._clock = clock
        self._desired_state_file = desired_state_file
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._version: int | None = None
        self._read_all_at = 0.0
        self._redis_clock = RedisClock(clock)
        #: Desired state by account, and the other hosts where accounts ran when Redis lost that. They may
        #: still run there.
        self._known, self._uncertain = desired_state_file.load()
        #: Generation and new host of accounts that this host reassigned: Redis may lose that before the new
        #: host reads it.
        self._reassigned: dict[str, tuple[int, str]] = {}
        self._logged_unreadable: frozenset[str] = frozenset()
        #: Whether something has changed since the last `save`.
        self.unsaved = False
        #: Why the last `save` failed, or None if it did not.
        self.trouble: str | None = None

    def set_desired(self, change: DesiredStateRequest) -> tuple[int, DesiredState]:
        """Record what a command asks for, in Redis and here.

        Returns its generation and the state now desired. Raises FleetUnavailableError, except for a stop:
        that is recorded here, and in Redis once it is back.
        """
        try:
            generation, desired = self._desired.set_desired(replace(change, writer=self._host))
        except FleetUnavailableError:
            if change.state != "stopped":
                raise
            with self._lock:
                desired = without_redis(change, self._known.get(change.account_id), self._host)
            generation = desired.generation
        with self._lock:
            self._know(desired)
            self.unsaved = True
        return generation, desired

    def set_unless_changed(self, change: DesiredStateRequest, generation: int) -> None:
        """Record a change, unless a command after `generation` was recorded in Redis.

        Raises FleetUnavailableError; then nothing is recorded.
        """
        request = replace(change, writer=self._host, given=generation + 1)
        _, desired = self._desired.set_desired(request)
        with self._lock:
            self._know(desired)
            self.unsaved = True

    def set_mode(
        self, account_id: str, mode: TradingMode, *, token: str, by: str, what: str
    ) -> DesiredState | None:
        """See `DesiredStore.set_mode`. Raises FleetUnavailableError."""
        desired = self._desired.set_mode(account_id, mode, token=token, by=by, what=what)
        if desired is not None:
            with self._lock:
                self._know(desired)
                self.unsaved = True
        return desired

    def withdraw_mode(self, desired: DesiredState, mode: TradingMode) -> None:
        """Withdraw a mode that was refused. Raises FleetUnavailableError."""
        self._desired.withdraw_mode(desired, mode)
        now = self._desired.read(desired.account_id)
        if now is not None:
            with self._lock:
                self._know(now)
                self.unsaved = True

    def stop_locally(
        self, change: DesiredStateRequest, *, least_generation: int = 0, here: bool = False
    ) -> DesiredState:
        """Record a stop that did not come through Redis; `read` writes it there.

        The generation is at least `least_generation`. `here`: the account's worker runs on this host.
        """
        with self._lock:
            desired = without_redis(change, self._known.get(change.account_id), self._host)
            generation = max(desired.generation, least_generation)
            desired = replace(desired, generation=generation, host=self._host if here else desired.host)
            self._know(desired)
            self._version = None
            self.unsaved = True
        return desired

    def withdraw(self, account_id: str, generation: int) -> None:
        """Withdraw a start that was refused.

        While Redis is down it stays desired, and this host tries it again.
        """
        try:
            self._desired.withdraw(account_id, generation)
            desired = self._desired.read(account_id)
        except FleetUnavailableError as error:
            logs.event(logger, logging.WARNING, "withdraw_failed", str(error), account=account_id)
            return
        if desired is not None:
            with self._lock:
                self._know(desired)
                self.unsaved = True

    def host_elsewhere(self, account_id: str, there: DesiredState | None) -> str | None:
        """Return the other host that the account is assigned to, or None.

        `there` is the desired state in Redis. If this host knows an assignment that Redis has lost, the
        account is uncertain from here on.
        """
        with self._lock:
            known = self._known.get(account_id)
            if known is not None and known.host and (there is None or not there.host):
                self._mark_uncertain(known)
        host = there.host if there is not None else ""
        return host if host not in {"", self._host} else None

    def get(self, account_id: str) -> DesiredState | None:
        """Return the account's desired state, or None if this host knows none."""
        with self._lock:
            return self._known.get(account_id)

    def should_be_stopped(self, account_id: str) -> bool:
        """Return whether the account's desired state is `stopped`."""
        desired = self.get(account_id)
        return desired is not None and not desired.running

    def running(self) -> list[DesiredState]:
        """Return the accounts that should run, on any host."""
        with self._lock:
            return [desired for desired in self._known.values() if desired.running]

    def ended_by(self, why: str) -> list[DesiredState]:
        """Return the accounts that should not run, because of `why`."""
        with self._lock:
            return [one for one in self._known.values() if one.why == why and not one.running]

    def uncertain_host(self, account_id: str) -> str | None:
        """Return where the account ran when Redis lost its data.

        None if the account's present host is known. It is unknown until `clear_uncertainty`, or until a host
        claims the account.
        """
        with self._lock:
            return self._uncertain.get(account_id)

    def clear_uncertainty(self, account_id: str) -> None:
        """Drop the uncertain host of an account that an operator moved."""
        with self._lock:
            self._uncertain.pop(account_id, None)

    def task_is_lost(self, desired: DesiredState) -> bool:
        """Return whether the task for a start is overdue by the grace time."""
        now = self._redis_clock.milliseconds()
        return now is None or now - desired.at > self._task_grace_seconds * 1000

    def reassign_here(self, desired: DesiredState) -> bool:
        """Reassign an account to this host.

        Returns False if it was changed meanwhile. Raises FleetUnavailableError.
        """
        return self._reassign(desired, self._host, "")

    def reassign(self, desired: DesiredState, host: str, why: str) -> bool:
        """Reassign an account of this host to another host.

        The account must have no worker here. Returns False if it was changed meanwhile. Raises
        FleetUnavailableError.
        """
        return self._reassign(desired, host, why)

    def redis_time(self) -> float:
        """Return seconds since the epoch by Redis's clock.

        This machine's clock is used while Redis's is unknown.
        """
        now = self._redis_clock.milliseconds()
        return time.time() if now is None else now / 1000

    def read(self) -> None:
        """Read what has changed in Redis, and write back what it has lost.

        Does nothing while Redis is down.
        """
        now = self._clock()
        known = self._version if now < self._read_all_at else None
        try:
            snapshot = self._desired.snapshot(known)
            if snapshot is not None:
                self._merge(snapshot)
                self._version = snapshot.version
                self._read_all_at = now + _READ_ALL_SECONDS
        except FleetUnavailableError:
            self._version = None  # read everything once Redis is back

    def invalidate(self, suspended_seconds: float) -> None:
        """Make the next `read` read everything, Redis's clock included.

        Needed after a suspend of so many seconds, during which our clock stood still.
        """
        self._redis_clock.advance(suspended_seconds)
        self._version, self._read_all_at = None, 0.0

    def adopt_running(self, workers: list[WorkerRecord]) -> None:
        """Record running workers without known desired state as desired.

        Neither Redis nor this host's file has a desired state for them.
        """
        for record in workers:
            with self._lock:
                if record.generation == 0 or record.account_id in self._known:
                    continue
                self._known[record.account_id] = DesiredState(
                    account_id=record.account_id,
                    state="running",
                    generation=record.generation,
                    host=self._host,
                    by=f"worker {record.worker_id}",
                    why="found running",
                    failover=record.lease_seconds > 0,
                    mode=reported_mode(record),
                )
                self._version = None  # so that `read` writes it to Redis

    def save(self) -> None:
        """Write the desired state file.

        Raises nothing; `trouble` is the error, or None.
        """
        with self._saving:
            with self._lock:
                self.unsaved = False
                known, uncertain = list(self._known.values()), dict(self._uncertain)
            self.trouble = self._desired_state_file.save(
                sorted(known, key=lambda desired: desired.account_id), uncertain
            )

    def restore_file(self) -> None:
        """Write the desired state file again if it was deleted."""
        if self._desired_state_file.missing:
            self.save()

    @property
    def saved(self) -> bool:
        """Whether an agent that starts now would find what was last saved."""
        return self._desired_state_file.safe

    def outlasts_restart(self, desired: DesiredState) -> bool:
        """Return whether the next host agent will know this command.

        It reads the state directory and Redis.
        """
        if self._desired_state_file.safe:
            return True
        try:
            there = self._desired.read(desired.account_id)
        except FleetUnavailableError:
            return False
        return there is not None and there.generation >= desired.generation

    def _reassign(self, desired: DesiredState, host: str, why: str) -> bool:
        reassigned = self._desired.reassign(desired, host, why)
        if reassigned is None:
            return False
        with self._lock:
            self._know(reassigned)
            if host != self._host:
                self._reassigned[reassigned.account_id] = (reassigned.generation, host)
            self.unsaved = True
        return True

    def _merge(self, snapshot: DesiredSnapshot) -> None:
        """Apply what Redis has, after writing back what it has lost."""
        self._redis_clock.set(snapshot.now)
        with self._lock:
            lost = [one for one in self._known.values() if is_newer(one, snapshot)]
            lost_modes = [
                one
                for one in self._known.values()
                if not is_newer(one, snapshot)
                and snapshot.desired[one.account_id].mode_at < one.mode_at
                and one.host == self._host
            ]
            for desired in lost:
                if not (desired.running or desired.host or desired.account_id in self._uncertain):
                    del self._known[desired.account_id]  # no host ever had it
        self._restore(lost, lost_modes)
        self._log_unreadable(snapshot)
        with self._lock:
            for desired in snapshot.desired.values():
                self._know(desired)

    def _restore(self, lost: list[DesiredState], lost_modes: list[DesiredState]) -> None:
        for desired in lost:
            if desired.host != self._host and desired.account_id not in self._reassigned:
                with self._lock:
                    self._mark_uncertain(desired)
            elif self._desired.restore(desired):
                logs.event(
                    logger,
                    logging.WARNING,
                    "desired_restored",
                    "Redis had lost the desired state of the account",
                    account=desired.account_id,
                    state=desired.state,
                    generation=desired.generation,
                )
        for desired in lost_modes:
            if self._desired.restore(desired):
                logs.event(
                    logger,
                    logging.WARNING,
                    "mode_restored",
                    "Redis had lost the trading mode of the account",
                    account=desired.account_id,
                    mode=desired.mode,
                )

    def _log_unreadable(self, snapshot: DesiredSnapshot) -> None:
        new = snapshot.broken - self._logged_unreadable
        self._logged_unreadable = snapshot.broken
        for account_id in sorted(new):
            logs.event(
                logger,
                logging.ERROR,
                "desired_unreadable",
                "its desired state in Redis cannot be read (edited outside the manager?); nothing is done "
                "for the account until a command for it",
                account=account_id,
            )

    def _know(self, desired: DesiredState) -> None:
        before = self._known.get(desired.account_id)
        if before is not None and before.generation > desired.generation:
            self._known[desired.account_id] = before.with_newest_mode(desired)
            return
        desired = desired.with_newest_mode(before)
        if self._reassigned.get(desired.account_id) != (desired.generation, desired.host):
            self._reassigned.pop(desired.account_id, None)
        # The same generation again means that it was withdrawn or reassigned.
        later = before is not None and before.generation < desired.generation
        if before is not None and later and before.host and not desired.host:
            # A command arrived after Redis had lost the account's host. The account is still there.
            self._mark_uncertain(before)
            if before.host == self._host:
                desired = replace(desired, host=self._host)
        if desired.host:
            self._uncertain.pop(desired.account_id, None)
        self._known[desired.account_id] = desired

    def _mark_uncertain(self, desired: DesiredState) -> None:
        """Remember the host of an account whose lease Redis may have lost as well.

        The caller holds the lock. A worker that is paused or cut off cannot register its lease again in time.
        With failover there is no uncertainty: such a worker has ended itself by then.
        """
        if desired.running and desired.host != self._host and not desired.failover:
            self._uncertain[desired.account_id] = desired.host
            self.unsaved = True
