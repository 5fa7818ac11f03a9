"""An in-memory pool of workers, for tests of services.

It needs no Redis, Celery or process. It has the states, errors, results and metadata keys of the real pools,
and passes the same contract suite (`manager.pool.contract`). `manager.testing.fake_service` returns a service
over one.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count
from typing import Final

from manager.config import AccountConfig, config_version
from manager.errors import (
    AccountNotFoundError,
    AlreadyThereError,
    HostUnavailableError,
    ManagerError,
    NoHostFitsError,
    NoWorkerError,
    SessionHeldError,
    StartCancelledError,
    StartTimeoutError,
)
from manager.fleet.cursors import Cursor, Position
from manager.fleet.event_types import Event, EventFilter
from manager.gateways import runs_programs
from manager.models import (
    BatchResult,
    ValidationResult,
    WorkerInfo,
    WorkerMetrics,
    WorkerPlacement,
    new_worker_id,
)
from manager.placement.engine import FleetView, HostFacts, Needs
from manager.pool.arguments import check_timeout
from manager.pool.commands import CommandSpec, mode_not_supported
from manager.pool.fake_clock import FakeClock
from manager.pool.protocol import Batch, Progress, StartRequest
from manager.states import LIVE, TradingMode, WorkerLifecycleStatus, may_move
from manager.versions import __version__

_S: Final = WorkerLifecycleStatus
#: Greater than any real pid, so that a test that kills by pid hits no process.
_FIRST_PID: Final = 1 << 30
#: The id of the fake's event stream, and seconds that a watch waits before it checks whether it was closed.
_STREAM: Final = "fa4efa4e"
_WATCH_SECONDS: Final = 0.2
#: Accounts of a batch that start in parallel.
_THREADS: Final = 32


@dataclass(eq=False)
class _Slot:
    """One account.

    Each command holds `lock`, so that commands run one after the other.
    """

    account_id: str
    lock: threading.RLock = field(default_factory=threading.RLock)
    info: WorkerInfo | None = None
    request: StartRequest | None = None
    needs: Needs | None = None
    claims: tuple[str, ...] = ()
    #: Number of stops that wait for a start in progress.
    stops: int = 0
    starting: bool = False
    mode: TradingMode = TradingMode.NORMAL

    @property
    def live(self) -> bool:
        return self.info is not None and self.info.status in LIVE

    @property
    def host(self) -> str:
        return "" if self.info is None else self.info.placement.host or ""


class FakePool:
    """An in-memory `WorkerPool` with one or several fake hosts. Thread-safe.

    `hosts` are names, or `HostFacts` whose labels and capacity placement respects. `request_for` returns the
    start request of an account that is moved before its first start; `fake_service` provides one. `events`
    holds every change of a state, oldest first.
    """

    def __init__(
        self,
        *,
        hosts: Sequence[str | HostFacts] = ("fake-host",),
        clock: FakeClock | None = None,
        request_for: Callable[[str], StartRequest] | None = None,
    ) -> None:
        self.clock = clock or FakeClock()
        self.events: list[Event] = []
        self.request_for = request_for
        self._hosts = {one.name: one for one in map(_facts, hosts)}
        self._guard = threading.RLock()
        self._changed = threading.Condition(self._guard)
        self._slots: dict[str, _Slot] = {}
        self._failures: dict[str, deque[Exception]] = defaultdict(deque)
        self._seconds: dict[str, float] = {}
        self._holders: dict[str, str] = {}
        self._pids = count(_FIRST_PID)
        self._epochs = count(1)

    # scripted by a test

    def fail_next(self, account_id: str, error: Exception) -> None:
        """Make the account's next start fail with `error`, after its validation.

        Called twice, the next two starts fail.
        """
        self._failures[account_id].append(error)

    def start_takes(self, account_id: str, seconds: float) -> None:
        """Make the account's starts take `seconds` by `clock`.

        The test must advance the clock.
        """
        self._seconds[account_id] = seconds

    def end_worker(self, account_id: str, reason: str) -> WorkerInfo:
        """End the account's worker without a command, like a crash.

        The worker becomes `failed`. Raises NoWorkerError if it does not run.
        """
        with self._guard:
            slot = self._slots.get(account_id)
            if slot is None or slot.info is None or slot.info.status is not _S.RUNNING:
                raise NoWorkerError(f"{account_id} has no running worker: nothing to end")
            self._release(slot)
            return self._move(slot, _S.FAILED, reason)

    def silence(self, host: str) -> None:
        """Make a host silent.

        Its workers become `unknown`, and it carries out no commands.
        """
        self._hosts[host] = replace(self._hosts[host], live=False)

    def wake(self, host: str) -> None:
        """Make a silent host live again, with its workers unchanged."""
        self._hosts[host] = replace(self._hosts[host], live=True)

    # commands

    def start_worker(self, request: StartRequest) -> WorkerInfo:
        """See `manager.pool.protocol.WorkerPool.start_worker`."""
        slot = self._slot(request.account_id)
        with slot.lock:
            if slot.live and slot.info is not None:
                self._require_live(slot)
                return slot.info.with_(metadata=WorkerPlacement(already_running=True))
            return self._start(slot, request)

    def restart_worker(self, request: StartRequest) -> WorkerInfo:
        """See `manager.pool.protocol.WorkerPool.restart_worker`.

        An invalid configuration stops nothing.
        """
        slot = self._slot(request.account_id)
        with slot.lock:
            config = request.prepare()
            if slot.live:
                self._require_live(slot)
                self._stop(slot)
            return self._start(slot, request, config)

    def stop_worker(self, account_id: str, timeout: float | None = None) -> bool:
        """See `manager.pool.protocol.WorkerPool.stop_worker`.

        Cancels a start in progress.
        """
        check_timeout(timeout)
        with self._guard:
            slot = self._slots.get(account_id)
            if slot is None:
                raise NoWorkerError(f"{account_id} has no worker here: nothing to stop")
            present = slot.live or slot.starting
            slot.stops += 1
        self.clock.recheck()
        try:
            with slot.lock:
                if slot.info is not None and (slot.live or slot.info.status is _S.FAILED):
                    self._require_live(slot)
                    self._stop(slot)
                elif not present:
                    raise NoWorkerError(f"{account_id} has no worker here: nothing to stop")
        finally:
            with self._guard:
                slot.stops -= 1
        return True

    def move_worker(
        self, account_id: str, host: str, *, force: bool = False, needs: Needs | None = None
    ) -> WorkerInfo:
        """See `manager.pool.protocol.WorkerPool.move_worker`."""
        live = sorted(name for name, facts in self._hosts.items() if facts.live)
        if host not in live:
            raise HostUnavailableError(
                f"host {host} has no live agent (live: {', '.join(live) or 'none'}): start one there first"
            )
        slot = self._slot(account_id)
        with slot.lock:
            if slot.live and slot.host == host:
                raise AlreadyThereError(f"{account_id} is on host {host} already")
            request = slot.request or (self.request_for(account_id) if self.request_for is not None else None)
            if request is None:
                raise AccountNotFoundError(f"no account {account_id}: it was never started here")
            needs = needs or slot.needs
            refusal = None if needs is None or force else self._view(account_id).refusal(needs, host)
            if refusal is not None:
                raise NoHostFitsError(f"{account_id}: host {host}: {refusal}; nothing was done")
            config = request.prepare()
            if slot.live:
                if not force:
                    self._require_live(slot)
                self._stop(slot)
            return self._start(slot, request, config, host)

    def set_mode(self, command: CommandSpec, account_id: str) -> WorkerInfo:
        """See `manager.pool.protocol.WorkerPool.set_mode`."""
        if command.mode is None:
            raise ValueError(f"{command.name} changes no trading mode")
        with self._guard:
            slot = self._slots.get(account_id)
        if slot is None or slot.info is None:
            raise NoWorkerError(f"{account_id} never had a worker: nothing to {command.name}")
        with slot.lock:
            if runs_programs(slot.info.placement.gateway or ""):
                raise mode_not_supported(account_id, command.name)
            if slot.live:
                self._require_live(slot)
            with self._guard:
                slot.mode = command.mode
                slot.info = slot.info.with_(metadata=WorkerMetrics(trading_mode=command.mode))
                return self._current(slot.info)

    def set_mode_many(
        self,
        command: CommandSpec,
        account_ids: Sequence[str],
        progress: Progress | None = None,
        batch: Batch | None = None,
    ) -> BatchResult:
        """See `WorkerPool.set_mode_many`, and `start_many` here."""

        def change(account_id: str) -> tuple[str, WorkerInfo | str]:
            try:
                return "done", self.set_mode(command, account_id)
            except NoWorkerError as error:
                return "skipped", str(error)
            except ManagerError as error:
                return "failed", str(error)

        return self._many([(one, _stopping(change, one)) for one in account_ids], progress, batch)

    def start_many(
        self, requests: Sequence[StartRequest], progress: Progress | None = None, batch: Batch | None = None
    ) -> BatchResult:
        """See `manager.pool.protocol.WorkerPool.start_many`. Always blocks."""
        return self._many(
            [(one.account_id, _started(self.start_worker, one)) for one in requests], progress, batch
        )

    def restart_many(
        self, requests: Sequence[StartRequest], progress: Progress | None = None, batch: Batch | None = None
    ) -> BatchResult:
        """See `WorkerPool.restart_many`, and `start_many` here."""
        return self._many(
            [(one.account_id, _started(self.restart_worker, one)) for one in requests], progress, batch
        )

    def stop_many(
        self,
        account_ids: Sequence[str],
        timeout: float | None = None,
        progress: Progress | None = None,
        batch: Batch | None = None,
    ) -> BatchResult:
        """See `manager.pool.protocol.WorkerPool.stop_many`, and `start_many` here."""
        check_timeout(timeout)

        def stop(account_id: str) -> tuple[str, WorkerInfo | str]:
            try:
                self.stop_worker(account_id, timeout)
            except NoWorkerError as error:
                return "skipped", str(error)
            except ManagerError as error:
                return "failed", str(error)
            info = self.get_worker_info(account_id)
            return ("done", info) if info is not None else ("skipped", f"{account_id}: no worker was created")

        return self._many([(one, _stopping(stop, one)) for one in account_ids], progress, batch)

    # queries

    def validate_many(self, needs: Mapping[str, Needs]) -> dict[str, tuple[str, ValidationResult]] | None:
        """See `manager.pool.protocol.WorkerPool.validate_many`.

        Returns None, because the accounts run in this process.
        """
        del needs
        return None

    def watch(
        self,
        after: str = "$",
        *,
        only: EventFilter | None = None,
        idle_seconds: float | None = None,
        closed: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """See `manager.pool.protocol.WorkerPool.watch`.

        `idle_seconds` are real ones, not those of `clock`.
        """
        with self._changed:
            place = after.rpartition(":")[2]
            position = Position(len(self.events), 0) if place == "$" else Position.parse(place)
        while not closed():
            with self._changed:
                if len(self.events) <= position.ms:
                    came = self._changed.wait(_WATCH_SECONDS if idle_seconds is None else idle_seconds)
                    if not came and idle_seconds is not None:
                        return
                found = self.events[position.ms :]
            position = Position(position.ms + len(found), 0)
            yield from (event for event in found if only is None or only.matches(event))

    def stoppable(self) -> list[str]:
        """See `manager.pool.protocol.WorkerPool.stoppable`."""
        with self._guard:
            return sorted(slot.account_id for slot in self._slots.values() if slot.live)

    def recorded_needs(self, account_ids: Sequence[str]) -> Mapping[str, Needs]:
        """See `manager.pool.protocol.WorkerPool.recorded_needs`."""
        with self._guard:
            found = {one: self._slots[one].needs for one in account_ids if one in self._slots}
        return {account_id: needs for account_id, needs in found.items() if needs is not None}

    def list_workers(self) -> list[WorkerInfo]:
        """Return every worker of this pool, also ended ones, by account id."""
        with self._guard:
            slots = sorted(self._slots.values(), key=lambda slot: slot.account_id)
            return [self._current(slot.info) for slot in slots if slot.info is not None]

    def get_worker_info(self, account_id: str) -> WorkerInfo | None:
        """Return the account's worker with its current state.

        Returns None if this pool never had one.
        """
        with self._guard:
            slot = self._slots.get(account_id)
            return self._current(slot.info) if slot is not None and slot.info is not None else None

    def has_worker_for_account(self, account_id: str) -> bool:
        """Return whether the account has a worker, in any state."""
        with self._guard:
            slot = self._slots.get(account_id)
            return slot is not None and slot.live

    # inside

    def _start(
        self,
        slot: _Slot,
        request: StartRequest,
        config: AccountConfig | None = None,
        host: str | None = None,
    ) -> WorkerInfo:
        slot.starting = True
        try:
            config = config or request.prepare()
            needs = config.needs()
            with self._guard:
                if host is None:
                    placement = self._view(slot.account_id).place(needs, slot.host or None)
                    if placement.host is None:
                        raise NoHostFitsError(placement.explain())
                    host = placement.host
                self._claim(slot, config)
                slot.request, slot.needs = request, needs
                slot.info = self._created(config, request, host, slot.mode)
                self._move(slot, _S.STARTING)
            with self._undone(slot):
                self._connect(slot, config)
                return self._move(slot, _S.RUNNING)
        finally:
            slot.starting = False

    def _connect(self, slot: _Slot, config: AccountConfig) -> None:
        """Take the scripted time, and raise the scripted failure."""
        limit, seconds = config.timeout / 1000, self._seconds.get(slot.account_id, 0.0)
        cancelled = self.clock.wait(min(seconds, limit), lambda: slot.stops > 0)
        if cancelled or slot.stops:
            raise StartCancelledError(f"{slot.account_id}: a stop arrived while it was starting")
        if seconds > limit:
            raise StartTimeoutError(
                f"{slot.account_id}: no connected session after {limit:g} s "
                f"(its `timeout` is {config.timeout} ms)"
            )
        failures = self._failures[slot.account_id]
        if failures:
            raise failures.popleft()

    @contextmanager
    def _undone(self, slot: _Slot) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            with self._guard:
                self._release(slot)
                if isinstance(error, StartCancelledError):
                    self._move(slot, _S.STOPPING)
                    self._move(slot, _S.STOPPED, str(error))
                else:
                    self._move(slot, _S.FAILED, str(error))
            raise

    def _stop(self, slot: _Slot) -> None:
        with self._guard:
            if slot.info is None:
                return
            error = slot.info.error
            if slot.live:
                self._move(slot, _S.STOPPING)
            self._release(slot)
            self._move(slot, _S.STOPPED, error)

    def _created(
        self, config: AccountConfig, request: StartRequest, host: str, mode: TradingMode
    ) -> WorkerInfo:
        return WorkerInfo(
            worker_id=new_worker_id(),
            account_id=config.account_id,
            status=_S.CREATED,
            created_at=self.clock.now(),
            groups=config.groups,
            labels=config.labels,
            metadata=WorkerPlacement(
                host=host,
                pid=next(self._pids),
                gateway=config.gateway,
                epoch=next(self._epochs),
                generation=request.generation,
                restarts=0,
                last_cause=None,
                version=__version__,
                config_version=config_version(config),
                log_file="",
            ).to_dict()
            | WorkerMetrics(health="unknown", trading_mode=mode).to_dict(),
        )

    def _move(self, slot: _Slot, status: WorkerLifecycleStatus, error: str | None = None) -> WorkerInfo:
        with self._guard:
            if slot.info is None or not may_move(slot.info.status, status):
                before = None if slot.info is None else slot.info.status
                raise AssertionError(f"{slot.account_id}: {before} cannot become {status}")
            now = self.clock.now()
            if error is not None:
                error = error.removeprefix(f"{slot.account_id}: ")
            changes: dict[str, object] = {"status": status, "error": error}
            if status is _S.RUNNING:
                changes |= {
                    "started_at": now,
                    "metadata": WorkerMetrics(health="healthy", heartbeat_age_seconds=0.0),
                }
            elif status not in LIVE:
                code = 0 if status is _S.STOPPED else 1
                changes |= {"stopped_at": now, "metadata": WorkerPlacement(exit_code=code)}
            slot.info = slot.info.with_(**changes)
            self._add_event(slot.host, slot.info, now)
            return slot.info

    def _add_event(self, host: str, info: WorkerInfo, now: datetime) -> None:
        position = Position(len(self.events) + 1, 0)
        event = Event(
            id=str(position),
            time=now,
            host=host,
            account_id=info.account_id,
            worker_id=info.worker_id,
            status=str(info.status),
            error=info.error,
            type=f"worker.{info.status}",
            cursor=str(Cursor(_STREAM, position)),
        )
        self.events.append(event)
        self._changed.notify_all()

    def _claim(self, slot: _Slot, config: AccountConfig) -> None:
        """Claim the account's broker identity.

        It ensures that no two sessions have one login. Raises SessionHeldError.
        """
        claims = config.identity_claims()
        for claim in claims:
            holder = self._holders.get(claim, slot.account_id)
            if holder != slot.account_id:
                raise SessionHeldError(
                    f"{slot.account_id}: account {holder} already has the session of {claim}"
                )
        self._release(slot)
        slot.claims = claims
        self._holders |= dict.fromkeys(claims, slot.account_id)

    def _release(self, slot: _Slot) -> None:
        for claim in slot.claims:
            self._holders.pop(claim, None)
        slot.claims = ()

    def _view(self, account_id: str) -> FleetView:
        """Return the hosts and their accounts, without this account."""
        with self._guard:
            view = FleetView(self._hosts.values())
            for slot in self._slots.values():
                if slot.live and slot.needs is not None and slot.account_id != account_id:
                    view.add(slot.needs, slot.host)
            return view

    def _require_live(self, slot: _Slot) -> None:
        if slot.live and not self._hosts[slot.host].live:
            raise HostUnavailableError(
                f"{slot.account_id}: host {slot.host} is silent: its worker may trade; nothing was done"
            )

    def _current(self, info: WorkerInfo) -> WorkerInfo:
        host = info.placement.host or ""
        if info.status not in LIVE or self._hosts[host].live:
            return info
        reason = "the host agent is silent"
        return info.with_(
            status=_S.UNKNOWN, error=reason, metadata=WorkerMetrics(health="unknown", health_reason=reason)
        )

    def _slot(self, account_id: str) -> _Slot:
        with self._guard:
            return self._slots.setdefault(account_id, _Slot(account_id))

    def _many(
        self,
        commands: Sequence[tuple[str, Callable[[], tuple[str, WorkerInfo | str]]]],
        progress: Progress | None,
        batch: Batch | None,
    ) -> BatchResult:
        parts: dict[str, dict[str, WorkerInfo | str]] = {
            "done": {},
            "already": {},
            "skipped": {},
            "failed": {},
        }
        slow = any(account_id in self._seconds for account_id, _ in commands)
        # Sequential, so that events have the order of the commands; parallel if a slow start may delay
        # others.
        with ThreadPoolExecutor(_THREADS if slow else 1, thread_name_prefix="fake-batch") as threads:
            outcomes = threads.map(lambda item: item[1](), commands)
            for (account_id, _), (outcome, what) in zip(commands, outcomes, strict=True):
                parts[outcome][account_id] = what
                if progress is not None:
                    progress(account_id, outcome)
        return BatchResult.model_validate({**parts, "batch_id": "" if batch is None else batch.id})


def _facts(host: str | HostFacts) -> HostFacts:
    return HostFacts(name=host) if isinstance(host, str) else host


def _started(
    command: Callable[[StartRequest], WorkerInfo], request: StartRequest
) -> Callable[[], tuple[str, WorkerInfo | str]]:
    def run() -> tuple[str, WorkerInfo | str]:
        try:
            info = command(request)
        except ManagerError as error:
            return "failed", str(error)
        return ("already" if info.placement.already_running else "done"), info

    return run


def _stopping(
    stop: Callable[[str], tuple[str, WorkerInfo | str]], account_id: str
) -> Callable[[], tuple[str, WorkerInfo | str]]:
    return lambda: stop(account_id)
