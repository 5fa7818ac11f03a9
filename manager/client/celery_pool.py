"""The `WorkerPool` that sends commands as Celery tasks.

Every process except host agents uses it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from manager import wire
from manager.client.batch_sender import BatchSender
from manager.client.commands import Command, error_text, unchecked
from manager.client.results import TaskResults
from manager.client.sender import AccountFiles, Sender, may_have_process
from manager.errors import (
    AccountNotFoundError,
    AlreadyThereError,
    FleetUnavailableError,
    HostUnavailableError,
    InvalidConfigError,
    ManagerError,
    NoHostFitsError,
)
from manager.fleet import FleetStore
from manager.fleet.audit import AuditTrail
from manager.fleet.batches import BatchRecord, BatchStore
from manager.fleet.desired import FORCED_MOVE, MOVE
from manager.fleet.desired_store import DesiredStore
from manager.fleet.event_types import Event, EventFilter
from manager.fleet.leases import LeaseStore
from manager.models import BatchResult, ValidationResult, WorkerInfo
from manager.placement.engine import Needs
from manager.pool.arguments import check_account_id, check_flags, check_timeout
from manager.pool.commands import RESTART, START, STOP, CommandSpec
from manager.pool.protocol import Batch, Progress, StartRequest
from manager.telemetry.event_watch import watch_events
from manager.versions import at_least

#: Seconds that a caller waits in addition to a stop's timeout.
_STOP_MARGIN: Final = 15.0
#: Accounts that one task validates.
_VALIDATED_PER_TASK: Final = 500


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
        self._leases = leases
        self._batches = batches
        self._timeout = command_timeout_seconds
        self._results = TaskResults(app, store)
        self._sender = Sender(app, store, desired, self._results, audit, account_files)
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

        `force` is for a host that is lost for good: the account's lease is revoked without proof that its
        worker has ended. If that worker still trades, there are two sessions until its next heartbeat is
        refused.

        Raises HostUnavailableError if `host` is silent, or if the present host is (without `force`);
        RuntimeErrors as start and stop do.
        """
        why = FORCED_MOVE if force else MOVE
        try:
            self._prepare_move(account_id, host, force=force, needs=needs)
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

    def _prepare_move(self, account_id: str, host: str, *, force: bool, needs: Needs | None) -> None:
        """Check a move, and stop the account's worker on its present host."""
        if not self._sender.knows(account_id):
            raise AccountNotFoundError(
                f"no account {account_id}: it has no file on this machine, no worker and nothing desired; "
                "nothing was done"
            )
        hosts = self._store.hosts()
        live = {state.name for state in hosts if state.live}
        if host not in live:
            known = ", ".join(sorted(live)) or "none"
            raise HostUnavailableError(
                f"host {host} has no live agent (live: {known}): start one there first"
            )
        info = self.get_worker_info(account_id)
        here = info.placement.host if info is not None else None
        present = may_have_process(info)
        if here == host and present:
            raise AlreadyThereError(f"{account_id} is on host {host} already")
        why = None if needs is None or force else self._sender.fleet_view(hosts).refusal(needs, host)
        if why is not None:
            raise NoHostFitsError(f"{account_id}: host {host}: {why}; nothing was done")
        if not present and not force:
            self._refuse_uncertain(account_id, host, info, live)
        if present and (here in live or not force):
            self.stop_worker(account_id)
        if force and (here not in live or not present):
            for holder in self._leases.holders():
                if holder.account_id == account_id:
                    self._leases.revoke(holder.claim)

    def _refuse_uncertain(
        self, account_id: str, host: str, info: WorkerInfo | None, live: Collection[str]
    ) -> None:
        """Refuse to move an account that may run on a silent host.

        This is for a host whose records Redis has lost.
        """
        desired = self._desired.read(account_id)
        if desired is None or not desired.running or desired.host in {"", host} or desired.host in live:
            return
        if info is not None and info.placement.host == desired.host:
            return  # the host has recorded its end
        raise HostUnavailableError(
            f"{account_id} should run on host {desired.host}, whose agent is silent, and Redis has no record "
            "of its worker, which may trade there: start the agent there; if the machine is lost for good, "
            f"`manager move {account_id} --to {host} --force`"
        )

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

    def validate_many(self, needs: Mapping[str, Needs]) -> dict[str, tuple[str, ValidationResult]]:
        """See `manager.pool.protocol.WorkerPool.validate_many`.

        Raises HostUnavailableError if no host is live.
        """
        hosts, workers = self._store.snapshot(None)
        if not any(host.live for host in hosts):
            raise self._sender.no_live_host()
        account_hosts = self._sender.account_hosts(workers, list(needs))
        view = self._sender.fleet_view(hosts)
        by_host: dict[str, list[str]] = {}
        found: dict[str, tuple[str, ValidationResult]] = {}
        for account_id, required in needs.items():
            placement = view.place(required, account_hosts.get(account_id, ("", False))[0] or None)
            if placement.host is None:
                found[account_id] = ("", unchecked(account_id, placement.explain()))
            else:
                by_host.setdefault(placement.host, []).append(account_id)
        tasks: dict[str, tuple[str, list[str]]] = {}
        old = {host.name for host in hosts if not at_least(host.report.version, "0.2")}
        with self._results.translated():
            for host, account_ids in by_host.items():
                if host in old:  # its version validates one account per task
                    tasks |= {
                        self._sender.send(wire.VALIDATE_CONFIG, one, host): (host, [one])
                        for one in account_ids
                    }
                    continue
                for first in range(0, len(account_ids), _VALIDATED_PER_TASK):
                    some = account_ids[first : first + _VALIDATED_PER_TASK]
                    tasks[self._sender.send(wire.VALIDATE_CONFIGS, some, host)] = (host, some)
            for task_id, answer in self._results.collect(set(tasks), self._timeout):
                host, some = tasks.pop(task_id)
                for account_id in some:
                    if isinstance(answer, BaseException):
                        result = unchecked(
                            account_id, f"host {host} could not validate it: {error_text(answer)}"
                        )
                    else:
                        result = ValidationResult.from_dict(answer if host in old else answer[account_id])
                    found[account_id] = (host, result)
        for task_id, (host, some) in tasks.items():
            text = f"host {host} did not answer within {self._timeout:g} s (task {task_id})"
            found |= {account_id: (host, unchecked(account_id, text)) for account_id in some}
        return found

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
