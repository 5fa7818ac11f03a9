"""An in-memory pool of workers, for tests of services.

It needs no Redis, Celery or process. It has the states, errors, results and metadata keys of the real pools,
and passes the same contract suite (`manager.pool.contract`). `manager.testing.fake_service` returns a service
over one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from manager.errors import (
    AccountNotFoundError,
    AlreadyThereError,
    HostUnavailableError,
    ManagerError,
    NoHostFitsError,
    NoWorkerError,
)
from manager.fleet.event_types import Event, EventFilter
from manager.fleet.run_types import Run
from manager.gateways import runs_programs
from manager.models import (
    BatchResult,
    ValidationResult,
    WorkerInfo,
    WorkerMetrics,
    WorkerPlacement,
    start_part,
)
from manager.placement.engine import HostFacts, Needs
from manager.pool.arguments import check_timeout
from manager.pool.commands import CommandSpec, mode_not_supported
from manager.pool.fake_clock import FakeClock
from manager.pool.fake_events import FakeEvents
from manager.pool.fake_workers import FakeWorkers
from manager.pool.protocol import Batch, Progress, StartRequest
from manager.states import WorkerLifecycleStatus

#: Accounts of a batch that start in parallel.
_THREADS: Final = 32


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
        self.request_for = request_for
        self._stream = FakeEvents()
        self.events = self._stream.events
        self._workers = FakeWorkers(hosts, self.clock, self._stream)

    # scripted by a test

    def fail_next(self, account_id: str, error: Exception) -> None:
        """Make the account's next start fail with `error`, after its validation.

        Called twice, the next two starts fail.
        """
        self._workers.failures[account_id].append(error)

    def start_takes(self, account_id: str, seconds: float) -> None:
        """Make the account's starts take `seconds` by `clock`.

        The test must advance the clock.
        """
        self._workers.seconds[account_id] = seconds

    def end_worker(self, account_id: str, reason: str) -> WorkerInfo:
        """End the account's worker without a command, like a crash.

        The worker becomes `failed`. Raises NoWorkerError if it does not run.
        """
        return self._workers.end(account_id, reason)

    def silence(self, host: str) -> None:
        """Make a host silent.

        Its workers become `unknown`, and it carries out no commands.
        """
        self._workers.set_live(host, False)

    def wake(self, host: str) -> None:
        """Make a silent host live again, with its workers unchanged."""
        self._workers.set_live(host, True)

    # commands

    def start_worker(self, request: StartRequest) -> WorkerInfo:
        """See `manager.pool.protocol.WorkerPool.start_worker`."""
        slot = self._workers.slot(request.account_id)
        with slot.lock:
            if slot.live and slot.info is not None:
                self._workers.require_live(slot)
                return slot.info.with_(metadata=WorkerPlacement(already_running=True))
            return self._workers.start(slot, request)

    def restart_worker(self, request: StartRequest) -> WorkerInfo:
        """See `manager.pool.protocol.WorkerPool.restart_worker`.

        An invalid configuration stops nothing.
        """
        slot = self._workers.slot(request.account_id)
        with slot.lock:
            config = request.prepare()
            if slot.live:
                self._workers.require_live(slot)
                self._workers.stop(slot)
            return self._workers.start(slot, request, config)

    def stop_worker(self, account_id: str, timeout: float | None = None) -> bool:
        """See `manager.pool.protocol.WorkerPool.stop_worker`.

        Cancels a start in progress.
        """
        check_timeout(timeout)
        with self._workers.guard:
            slot = self._workers.slots.get(account_id)
            if slot is None:
                raise NoWorkerError(f"{account_id} has no worker here: nothing to stop")
            present = slot.live or slot.starting
            slot.stops += 1
        self.clock.recheck()
        try:
            with slot.lock:
                if slot.info is not None and (slot.live or slot.info.status is WorkerLifecycleStatus.FAILED):
                    self._workers.require_live(slot)
                    self._workers.stop(slot)
                elif not present:
                    raise NoWorkerError(f"{account_id} has no worker here: nothing to stop")
        finally:
            with self._workers.guard:
                slot.stops -= 1
        return True

    def move_worker(
        self, account_id: str, host: str, *, force: bool = False, needs: Needs | None = None
    ) -> WorkerInfo:
        """See `manager.pool.protocol.WorkerPool.move_worker`."""
        live = sorted(name for name, facts in self._workers.hosts.items() if facts.live)
        if host not in live:
            raise HostUnavailableError(
                f"host {host} has no live agent (live: {', '.join(live) or 'none'}): start one there first"
            )
        slot = self._workers.slot(account_id)
        with slot.lock:
            if slot.live and slot.host == host:
                raise AlreadyThereError(f"{account_id} is on host {host} already")
            request = slot.request or (self.request_for(account_id) if self.request_for is not None else None)
            if request is None:
                raise AccountNotFoundError(f"no account {account_id}: it was never started here")
            needs = needs or slot.needs
            refusal = None if needs is None or force else self._workers.view(account_id).refusal(needs, host)
            if refusal is not None:
                raise NoHostFitsError(f"{account_id}: host {host}: {refusal}; nothing was done")
            config = request.prepare()
            if slot.live:
                if not force:
                    self._workers.require_live(slot)
                self._workers.stop(slot)
            return self._workers.start(slot, request, config, host)

    def set_mode(self, command: CommandSpec, account_id: str) -> WorkerInfo:
        """See `manager.pool.protocol.WorkerPool.set_mode`."""
        if command.mode is None:
            raise ValueError(f"{command.name} changes no trading mode")
        with self._workers.guard:
            slot = self._workers.slots.get(account_id)
        if slot is None or slot.info is None:
            raise NoWorkerError(f"{account_id} never had a worker: nothing to {command.name}")
        with slot.lock:
            if runs_programs(slot.info.placement.gateway or ""):
                raise mode_not_supported(account_id, command.name)
            if slot.live:
                self._workers.require_live(slot)
            with self._workers.guard:
                slot.mode = command.mode
                slot.info = slot.info.with_(metadata=WorkerMetrics(trading_mode=command.mode))
                return self._workers.current(slot.info)

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

    def validate_many(
        self, needs: Mapping[str, Needs], progress: Progress | None = None
    ) -> dict[str, tuple[str, ValidationResult]] | None:
        """See `manager.pool.protocol.WorkerPool.validate_many`.

        Returns None, because the accounts run in this process.
        """
        del needs, progress
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
        return self._stream.watch(after, only, idle_seconds, closed)

    def runs(self, account_id: str, last: int | None = None) -> list[Run]:
        """See `manager.pool.protocol.WorkerPool.runs`."""
        with self._workers.guard:
            return [run for run in reversed(self._workers.runs) if run.account_id == account_id][:last]

    def stoppable(self) -> list[str]:
        """See `manager.pool.protocol.WorkerPool.stoppable`."""
        with self._workers.guard:
            return sorted(slot.account_id for slot in self._workers.slots.values() if slot.live)

    def recorded_needs(self, account_ids: Sequence[str]) -> Mapping[str, Needs]:
        """See `manager.pool.protocol.WorkerPool.recorded_needs`."""
        with self._workers.guard:
            found = {one: self._workers.slots[one].needs for one in account_ids if one in self._workers.slots}
        return {account_id: needs for account_id, needs in found.items() if needs is not None}

    def list_workers(self) -> list[WorkerInfo]:
        """Return every worker of this pool, also ended ones, by account id."""
        with self._workers.guard:
            slots = sorted(self._workers.slots.values(), key=lambda slot: slot.account_id)
            return [self._workers.current(slot.info) for slot in slots if slot.info is not None]

    def get_worker_info(self, account_id: str) -> WorkerInfo | None:
        """Return the account's worker with its current state.

        Returns None if this pool never had one.
        """
        with self._workers.guard:
            slot = self._workers.slots.get(account_id)
            return self._workers.current(slot.info) if slot is not None and slot.info is not None else None

    def has_worker_for_account(self, account_id: str) -> bool:
        """Return whether the account has a worker, in any state."""
        with self._workers.guard:
            slot = self._workers.slots.get(account_id)
            return slot is not None and slot.live

    def _many(
        self,
        commands: Sequence[tuple[str, Callable[[], tuple[str, WorkerInfo | str]]]],
        progress: Progress | None,
        batch: Batch | None,
    ) -> BatchResult:
        parts: dict[str, dict[str, WorkerInfo | str]] = {
            "done": {},
            "already": {},
            "resting": {},
            "skipped": {},
            "failed": {},
        }
        slow = any(account_id in self._workers.seconds for account_id, _ in commands)
        # Sequential, so that events have the order of the commands; parallel if a slow start may delay
        # others.
        with ThreadPoolExecutor(_THREADS if slow else 1, thread_name_prefix="fake-batch") as threads:
            outcomes = threads.map(lambda item: item[1](), commands)
            for (account_id, _), (outcome, what) in zip(commands, outcomes, strict=True):
                parts[outcome][account_id] = what
                if progress is not None:
                    progress(account_id, outcome)
        return BatchResult.model_validate({**parts, "batch_id": "" if batch is None else batch.id})


def _started(
    command: Callable[[StartRequest], WorkerInfo], request: StartRequest
) -> Callable[[], tuple[str, WorkerInfo | str]]:
    def run() -> tuple[str, WorkerInfo | str]:
        try:
            info = command(request)
        except ManagerError as error:
            return "failed", str(error)
        return start_part(info), info

    return run


def _stopping(
    stop: Callable[[str], tuple[str, WorkerInfo | str]], account_id: str
) -> Callable[[], tuple[str, WorkerInfo | str]]:
    return lambda: stop(account_id)
