"""The `WorkerPool` that sends commands as Celery tasks.

Every process except host agents uses it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from manager import wire
from manager.client.batch_sender import BatchSender
from manager.client.commands import Command
from manager.client.moves import Moves
from manager.client.remote_validation import RemoteValidation
from manager.client.results import TaskResults
from manager.client.sender import AccountFiles, Sender, may_have_process
from manager.errors import (
    FleetUnavailableError,
    InvalidConfigError,
    ManagerError,
)
from manager.fleet import FleetStore
from manager.fleet.audit import AuditTrail
from manager.fleet.batches import BatchRecord, BatchStore
from manager.fleet.desired import FORCED_MOVE, MOVE
from manager.fleet.desired_store import DesiredStore
from manager.fleet.event_types import Event, EventFilter
from manager.fleet.leases import LeaseStore
from manager.fleet.run_types import Run
from manager.models import BatchResult, ValidationResult, WorkerInfo
from manager.placement.engine import Needs
from manager.pool.arguments import check_account_id, check_flags, check_timeout
from manager.pool.commands import RESTART, START, STOP, CommandSpec
from manager.pool.protocol import Batch, Progress, StartRequest
from manager.telemetry.event_watch import watch_events

#: Seconds that a caller waits in addition to a stop's timeout.
_STOP_MARGIN: Final = 15.0


class CeleryWorkerPool:
    """Sends Celery tasks to host agents, and reads their records."""

    def __init__(
        self,
        app: Any,
        store: FleetStore,
        desired: DesiredStore,
        leases: LeaseStore,
        batches: BatchStore,
        *,
        command_timeout_seconds: float = 180.0,
        audit: AuditTrail | None = None,
        account_files: AccountFiles | None = None,
    ) -> None:
        """`account_files`: see `manager.client.sender.Sender`."""
        self._app = app
        self._store = store
        self._desired = desired
        self._batches = batches
        self._timeout = command_timeout_seconds
        self._results = TaskResults(app, store)
        self._sender = Sender(app, store, desired, self._results, audit, account_files)
        self._moves = Moves(store, desired, leases, self._sender, self.stop_worker)
        self._validation = RemoteValidation(store, self._results, self._sender)
        self.batch_sender = BatchSender(app, store, desired, batches, self._results, self._sender)

    def start_worker(self, request: StartRequest) -> WorkerInfo:
        """See `manager.pool.protocol.WorkerPool.start_worker`.

        The host reads the account's files.

        Raises:
            HostUnavailableError: no live host can run the account.
            CommandTimeoutError: no answer came in time; the command may still be carried out.
        """
        self._check(request, START.name)
        return WorkerInfo.from_dict(self._ask(self._start(request, START)))

    def restart_worker(self, request: StartRequest) -> WorkerInfo:
        """See `manager.pool.protocol.WorkerPool.restart_worker`."""
        self._check(request, RESTART.name)
        return WorkerInfo.from_dict(self._ask(self._start(request, RESTART)))

    def stop_worker(self, account_id: str, timeout: float | None = None) -> bool:
        """See `manager.pool.protocol.WorkerPool.stop_worker`.

        Desired state is written first, so a failure after that delays the stop but does not lose it.
        """
        timeout = check_timeout(timeout)
        return bool(self._ask(self._stop(check_account_id(account_id), timeout), self._stop_wait(timeout)))

    def move_worker(
        self, account_id: str, host: str, *, force: bool = False, needs: Needs | None = None
    ) -> WorkerInfo:
        """Stop the account's worker on its present host and start it on `host`.

        `force` is for a host that is permanently lost: the account's lease is revoked without proof that its
        worker has ended. If that worker still trades, there are two sessions until its next heartbeat is
        refused.

        Raises HostUnavailableError if `host` is silent, or if the present host is (without `force`);
        RuntimeErrors as start and stop do.
        """
        why = FORCED_MOVE if force else MOVE
        try:
            self._moves.prepare(account_id, host, force=force, needs=needs)
        except FleetUnavailableError:
            raise
        except ManagerError as error:
            self._sender.note_refusal(why, account_id, error, host)
            raise
        request = Command(START, account_id, why=why, host=host, queue=wire.host_queue(host))
        return WorkerInfo.from_dict(self._ask(request))

    def note_refusal(self, what: str, account_id: str, error: ManagerError) -> None:
        """Record that the caller's own checks refused a command.

        Raises nothing.
        """
        self._sender.note_refusal(what, account_id, error)

    def start_many(
        self, requests: Sequence[StartRequest], progress: Progress | None = None, batch: Batch | None = None
    ) -> BatchResult:
        """See `manager.pool.protocol.WorkerPool.start_many`.

        Sends one Celery group with a task for each account.
        """
        return self._start_many(requests, START, progress, batch)

    def restart_many(
        self, requests: Sequence[StartRequest], progress: Progress | None = None, batch: Batch | None = None
    ) -> BatchResult:
        """See `manager.pool.protocol.WorkerPool.restart_many`.

        Sends one Celery group with a task for each account.
        """
        return self._start_many(requests, RESTART, progress, batch)

    def stop_many(
        self,
        account_ids: Sequence[str],
        timeout: float | None = None,
        progress: Progress | None = None,
        batch: Batch | None = None,
    ) -> BatchResult:
        """See `manager.pool.protocol.WorkerPool.stop_many`.

        Sends one Celery group with a task for each account.
        """
        timeout = check_timeout(timeout)
        commands = [self._stop(check_account_id(account_id), timeout) for account_id in account_ids]
        if batch is not None:
            self._record_failed(STOP.name, batch)
        return self.batch_sender.run(commands, self._stop_wait(timeout), progress, batch)

    def set_mode(self, command: CommandSpec, account_id: str) -> WorkerInfo:
        """See `manager.pool.protocol.WorkerPool.set_mode`.

        Desired state is written first, so the mode applies even if no host answers.
        """
        return WorkerInfo.from_dict(self._ask(Command(command, check_account_id(account_id))))

    def set_mode_many(
        self,
        command: CommandSpec,
        account_ids: Sequence[str],
        progress: Progress | None = None,
        batch: Batch | None = None,
    ) -> BatchResult:
        """See `manager.pool.protocol.WorkerPool.set_mode_many`.

        Sends one Celery group with a task for each account.
        """
        commands = [Command(command, check_account_id(account_id)) for account_id in account_ids]
        return self.batch_sender.run(commands, self._timeout, progress, batch)

    def batch_result(self, batch_id: str) -> tuple[BatchRecord, BatchResult]:
        """Return a batch and its outcomes so far.

        Accounts without one are `pending`. Raises NoBatchError if the batch does not exist or is more than a
        day old.
        """
        return self.batch_sender.result(batch_id)

    def answer_of(self, token: str) -> Any:
        """Return the answer to the command with this id, a value or an exception; None while there is none.

        Answers are kept for a day. Raises FleetUnavailableError if Redis cannot be used.
        """
        with self._results.translated():
            return next((answer for _, answer in self._results.collect({token}, 0.0)), None)

    def validate_many(
        self, needs: Mapping[str, Needs], progress: Progress | None = None
    ) -> dict[str, tuple[str, ValidationResult]]:
        """See `manager.pool.protocol.WorkerPool.validate_many`.

        Raises HostUnavailableError if no host is live.
        """
        return self._validation.validate(needs, self._timeout, progress)

    def batches(self, count: int) -> list[BatchRecord]:
        """Return the `count` newest batches, newest first."""
        found = (self._batches.read(batch_id) for batch_id in self._batches.newest(count))
        return [record for record in found if record is not None]

    def watch(
        self,
        after: str = "$",
        *,
        only: EventFilter | None = None,
        idle_seconds: float | None = None,
        closed: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """See `manager.pool.protocol.WorkerPool.watch`."""
        return watch_events(self._store.stream, after, only=only, idle_seconds=idle_seconds, closed=closed)

    def runs(self, account_id: str, last: int | None = None) -> list[Run]:
        """See `manager.pool.protocol.WorkerPool.runs`."""
        return self._store.runs.of(account_id, last)

    def stoppable(self) -> list[str]:
        """See `manager.pool.protocol.WorkerPool.stoppable`."""
        found = {info.account_id for info in self._store.list_workers() if may_have_process(info)}
        return sorted(found | set(self._desired.desired_accounts()))

    def recorded_needs(self, account_ids: Sequence[str]) -> Mapping[str, Needs]:
        """See `manager.pool.protocol.WorkerPool.recorded_needs`."""
        return {key: one.placement_needs for key, one in self._desired.read_many(account_ids).items()}

    def list_workers(self) -> list[WorkerInfo]:
        """Return the current state of every recorded worker of the fleet."""
        return self._store.list_workers()

    def get_worker_info(self, account_id: str) -> WorkerInfo | None:
        """Return the account's worker with its current state, or None."""
        return self._store.get_worker(account_id)

    def has_worker_for_account(self, account_id: str) -> bool:
        """Return whether the account may have a worker process.

        A worker on a silent host counts.
        """
        return may_have_process(self._store.get_worker(account_id))

    # inside

    def _start_many(
        self,
        requests: Sequence[StartRequest],
        spec: CommandSpec,
        progress: Progress | None,
        batch: Batch | None,
    ) -> BatchResult:
        """Send the requests that the caller's own validator accepts."""
        refused: dict[str, str] = {}
        for request in requests:
            try:
                self._check(request, spec.name)
            except ManagerError as error:
                refused[request.account_id] = str(error)
        batch = batch or Batch()
        self._record_failed(spec.name, batch)
        batch = replace(
            batch, settled={**batch.settled, **{key: ("failed", text) for key, text in refused.items()}}
        )
        commands = [self._start(request, spec) for request in requests if request.account_id not in refused]
        result = self.batch_sender.run(commands, self._timeout, progress, batch)
        if progress is not None:
            for account_id in refused:
                progress(account_id, "failed")
        return result.model_copy(update={"failed": {**refused, **result.failed}})

    @staticmethod
    def _start(request: StartRequest, spec: CommandSpec) -> Command:
        check_account_id(request.account_id)
        check_flags(apply_defaults=request.apply_defaults, validate=request.validate)
        flags = {"apply_defaults": request.apply_defaults, "validate": request.validate}
        return Command(
            spec,
            request.account_id,
            {} if spec.restart else flags,
            needs=request.needs,
            failover=request.failover,
        )

    @staticmethod
    def _stop(account_id: str, timeout: float | None) -> Command:
        return Command(STOP, account_id, {"timeout": timeout})

    def _check(self, request: StartRequest, what: str) -> None:
        """Run the caller's own validator, if there is one. Raises its error."""
        if request.check is None:
            return
        try:
            request.check()
        except ManagerError as error:
            self._sender.note_refusal(what, request.account_id, error)
            raise

    def _record_failed(self, what: str, batch: Batch) -> None:
        """Record the accounts of a batch that failed before the sending.

        Writes to the audit trail.
        """
        for account_id, (outcome, text) in batch.settled.items():
            if outcome == "failed":
                self._sender.note_refusal(what, account_id, InvalidConfigError(text))

    def _ask(self, command: Command, wait_seconds: float | None = None) -> Any:
        return self._sender.ask(command, self._timeout if wait_seconds is None else wait_seconds)

    def _stop_wait(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else max(self._timeout, timeout + _STOP_MARGIN)
