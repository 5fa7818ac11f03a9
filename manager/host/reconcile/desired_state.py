"""What this host knows to be wanted of accounts: read from Redis, told to a Redis that lost it, remembered on disk."""

import logging
import threading
import time
from dataclasses import replace
from typing import Final

from manager.errors import FleetUnavailableError
from manager.fleet.desired import FORGOTTEN, DesiredState, DesiredStateRequest
from manager.fleet.desired_store import DesiredSnapshot, DesiredStore
from manager.host.reconcile.desired_state_file import DesiredStateFile
from manager.host.workers.modes import reported_mode
from manager.host.workers.records import WorkerRecord
from manager.states import TradingMode
from manager.system import logs

logger = logging.getLogger(__name__)

#: Seconds after which everything is read even if nothing seems to have changed.
_READ_ALL_SECONDS: Final = 30.0
#: Milliseconds that a start is left to the task that was sent for it, before the task counts as lost.
_TASK_GRACE_MS: Final = 30_000


class DesiredStateCache:
    """One host's view of desired state. Thread-safe; every method but `set_desired` works while Redis is away."""

    def __init__(self, host: str, store: DesiredStore, desired_state_file: DesiredStateFile) -> None:
        self._host = host
        self._desired = store
        self._desired_state_file = desired_state_file
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._version: int | None = None
        self._read_all_at = 0.0
        #: Redis's clock less ours, milliseconds.
        self._clock_offset: float | None = None
        #: What is known, and accounts that ran on another host when Redis lost that: who knows whether they still do?
        self._known, self._uncertain = desired_state_file.load()
        #: Generation and host of what this host gave to others: Redis may lose that before they have seen it.
        self._handed: dict[str, tuple[int, str]] = {}
        self._told_broken: frozenset[str] = frozenset()
        #: Whether there is something that `save` has not written.
        self.unsaved = False
        #: What keeps it from being written; None if nothing does.
        self.trouble: str | None = None

    def set_desired(self, change: DesiredStateRequest) -> tuple[int, DesiredState]:
        """Write a command's wish down, in Redis and here. Raises FleetUnavailableError, but never for a stop."""
        try:
            generation, desired = self._desired.set_desired(replace(change, writer=self._host))
        except FleetUnavailableError:
            if change.state != "stopped":
                raise
            with self._lock:
                desired = self._without_redis(change)
            generation = desired.generation
        with self._lock:
            self._know(desired)
            self.unsaved = True
        return generation, desired

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
        """Take back a mode that was refused. Raises FleetUnavailableError."""
        self._desired.withdraw_mode(desired, mode)
        now = self._desired.read(desired.account_id)
        if now is not None:
            with self._lock:
                self._know(now)
                self.unsaved = True

    def stop_locally(
        self, change: DesiredStateRequest, *, least_generation: int = 0, here: bool = False
    ) -> DesiredState:
        """Note a stop that did not come through Redis; it is told at the next `read`. `here`: the worker is on this host."""
        with self._lock:
            desired = self._without_redis(change)
            generation = max(desired.generation, least_generation)
            desired = replace(desired, generation=generation, host=self._host if here else desired.host)
            self._know(desired)
            self._version = None
            self.unsaved = True
        return desired

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
                self._know(desired)
                self.unsaved = True

    def host_elsewhere(self, account_id: str, there: DesiredState | None) -> str | None:
        """Return the other host whose the account is, as Redis (`there`) or else this host knows; None if none is."""
        with self._lock:
            known = self._known.get(account_id)
            if known is not None and known.host and (there is None or not there.host):
                self._doubt(known)
        host = there.host if there is not None else ""
        return host if host not in {"", self._host} else None

    def of(self, account_id: str) -> DesiredState | None:
        """Return what this host knows to be wanted of the account."""
        with self._lock:
            return self._known.get(account_id)

    def wants_stopped(self, account_id: str) -> bool:
        """Say whether this host knows that the account should be stopped."""
        desired = self.of(account_id)
        return desired is not None and not desired.running

    def running(self) -> list[DesiredState]:
        """Return what should run, on whichever host."""
        with self._lock:
            return [desired for desired in self._known.values() if desired.running]

    def forgotten(self) -> list[str]:
        """Return the accounts whose records a person has cleared."""
        with self._lock:
            return [
                one.account_id for one in self._known.values() if one.why == FORGOTTEN and not one.running
            ]

    def uncertain_host(self, account_id: str) -> str | None:
        """Return the host where the account ran when Redis lost its records, until `certain` is called; else None."""
        with self._lock:
            return self._uncertain.get(account_id)

    def certain(self, account_id: str) -> None:
        """Note that the account's host is back, or that somebody took the account from it."""
        with self._lock:
            self._uncertain.pop(account_id, None)

    def task_is_lost(self, desired: DesiredState) -> bool:
        """Say whether the task that was sent for a start should long have arrived."""
        with self._lock:
            if self._clock_offset is None:
                return True
            age = time.monotonic() * 1000 + self._clock_offset - desired.at
        return age > _TASK_GRACE_MS

    def reassign_here(self, desired: DesiredState) -> bool:
        """Make an account of another host this host's; False if it has gone elsewhere. Raises FleetUnavailableError."""
        return self._give(desired, self._host, "")

    def reassign(self, desired: DesiredState, host: str, why: str) -> bool:
        """Give an account of this host, which has no worker here any more, to another one. Raises FleetUnavailableError."""
        return self._give(desired, host, why)

    def redis_time(self) -> float:
        """Return the time, in seconds since the epoch, by Redis's clock where that is known."""
        with self._lock:
            offset = self._clock_offset
        return time.time() if offset is None else (time.monotonic() * 1000 + offset) / 1000

    def read(self) -> None:
        """Learn what has changed in Redis, if it is there."""
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

    def read_all_next(self) -> None:
        """Have the next `read` take everything, and Redis's time: our clock stood still, as in a suspend."""
        self._version, self._read_all_at = None, 0.0

    def believe(self, workers: list[WorkerRecord]) -> None:
        """Take a worker that was found running as proof that it is wanted, where neither Redis nor memory knows."""
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
                self._version = None  # so that Redis is told

    def save(self) -> None:
        """Write what is known to this host's memory; `trouble` says whether that went well."""
        with self._saving:
            with self._lock:
                self.unsaved = False
                known, uncertain = list(self._known.values()), dict(self._uncertain)
            self.trouble = self._desired_state_file.save(
                sorted(known, key=lambda desired: desired.account_id), uncertain
            )

    @property
    def saved(self) -> bool:
        """Whether a restart of this host would know what `save` was called for last."""
        return self._desired_state_file.safe

    def outlasts_restart(self, desired: DesiredState) -> bool:
        """Return whether the next host agent of this state directory will know of this command."""
        if self._desired_state_file.safe:
            return True
        try:
            there = self._desired.read(desired.account_id)
        except FleetUnavailableError:
            return False
        return there is not None and there.generation >= desired.generation

    # inside

    def _give(self, desired: DesiredState, host: str, why: str) -> bool:
        given = self._desired.reassign(desired, host, why)
        if given is None:
            return False
        with self._lock:
            self._know(given)
            if host != self._host:
                self._handed[given.account_id] = (given.generation, host)
            self.unsaved = True
        return True

    def _merge(self, snapshot: DesiredSnapshot) -> None:
        """Take what Redis says, and tell it what it has forgotten."""
        with self._lock:
            self._clock_offset = snapshot.now - time.monotonic() * 1000
            forgotten = [
                desired
                for desired in self._known.values()
                if (there := snapshot.desired.get(desired.account_id)) is None
                or there.generation < desired.generation
            ]
            modes = [
                desired
                for desired in self._known.values()
                if (there := snapshot.desired.get(desired.account_id)) is not None
                and there.generation >= desired.generation
                and there.mode_at < desired.mode_at
                and desired.host == self._host
            ]
            for desired in forgotten:
                if not (desired.running or desired.host or desired.account_id in self._uncertain):
                    del self._known[desired.account_id]  # nobody ever had it
        for desired in forgotten:
            if desired.host != self._host and desired.account_id not in self._handed:
                with self._lock:
                    self._doubt(desired)
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
        for desired in modes:
            if self._desired.restore(desired):
                logs.event(
                    logger,
                    logging.WARNING,
                    "mode_restored",
                    "Redis had lost how the account is to trade",
                    account=desired.account_id,
                    mode=desired.mode,
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

    def _know(self, desired: DesiredState) -> None:
        before = self._known.get(desired.account_id)
        if before is not None and before.generation > desired.generation:
            self._known[desired.account_id] = before.with_newest_mode(desired)
            return
        desired = desired.with_newest_mode(before)
        if self._handed.get(desired.account_id) != (desired.generation, desired.host):
            self._handed.pop(desired.account_id, None)
        # Of the same generation it was refused and taken back, or handed over.
        later = before is not None and before.generation < desired.generation
        if before is not None and later and before.host and not desired.host:
            # A command that came after Redis had lost where the account is: it is there all the same.
            self._doubt(before)
            if before.host == self._host:
                desired = replace(desired, host=self._host)
        if desired.host:
            self._uncertain.pop(desired.account_id, None)
        self._known[desired.account_id] = desired

    def _doubt(self, desired: DesiredState) -> None:
        """Remember where an account ran whose lease Redis may have lost as well.

        A worker that is paused, or cut off with its host, cannot register again in time. Where failover is allowed it
        has ended by itself by then.
        """
        if desired.running and desired.host != self._host and not desired.failover:
            self._uncertain[desired.account_id] = desired.host
            self.unsaved = True

    def _without_redis(self, change: DesiredStateRequest) -> DesiredState:
        """Return what a wish comes to that Redis cannot be told. The caller holds the lock."""
        before = self._known.get(change.account_id)
        now = int(time.time() * 1000)
        return DesiredState(
            account_id=change.account_id,
            state=change.state,
            generation=max(now, before.generation + 1 if before is not None else 0),
            restart=before.restart if before is not None else 0,
            host=before.host if before is not None and before.host else self._host,
            by=change.by,
            why=change.why,
            timeout=change.timeout,
            at=now,
        ).with_newest_mode(before)
