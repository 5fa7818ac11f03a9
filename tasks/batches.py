"""Tasks for all accounts: each sends a task per account."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from celery.result import allow_join_result

from manager import wire
from manager.errors import FleetUnavailableError, HostUnavailableError, ManagerError
from manager.models import BatchResult, WorkerInfo, WorkerPlacement
from manager.pool.batches import stopped_count
from manager.pool.commands import MODE_COMMANDS, CommandSpec
from manager.states import WorkerLifecycleStatus
from tasks.app import app, fleet_service, host_service, record_refusal
from tasks.arguments import checked
from tasks.payloads import BatchStartArguments, BatchStopArguments, SelectionArguments

#: Maximum number of concurrent batches of this agent. Each occupies a thread while its tasks need others: if
#: every thread waited for a batch, none would ever end.
_CONCURRENT: Final = 4

_slots: Final = threading.BoundedSemaphore(_CONCURRENT)


@app.task(name=wire.START_ALL, bind=True, throws=(ManagerError,))  # type: ignore[untyped-decorator]
def start_all_enabled_workers(
    self: Any,
    apply_defaults: bool = True,
    validate: bool = True,
    group: str | list[str] | None = None,
    labels: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Start every enabled account, or those with the groups and labels.

    An account is selected if it has any of the groups and all of the labels.

    Returns a WorkerInfo for every account, by id. `metadata.outcome` is `started`, `already_running`,
    `resting` (its schedule starts it later), `skipped` (disabled), `failed`, or `pending` (unknown, as after
    an outage of Redis). `error` is the reason if the worker does not run. The task's id is the batch's id;
    `manager batch ID` shows the progress.
    """
    given = checked(
        self,
        BatchStartArguments,
        apply_defaults=apply_defaults,
        validate_first=validate,
        group=group,
        labels=labels,
    )
    with _batch_slot(self), allow_join_result():
        result = fleet_service().start_all(
            given.apply_defaults,
            given.validate_first,
            selection=given.selection,
            batch_id=self.request.id,
        )
        return _complete(result, "started")


@app.task(name=wire.RESTART_ALL, bind=True, throws=(ManagerError,))  # type: ignore[untyped-decorator]
def restart_all_workers(
    self: Any, group: str | list[str] | None = None, labels: dict[str, str] | None = None
) -> dict[str, Any]:
    """Restart every (selected) worker with the current configuration.

    Returns a WorkerInfo for every account, by id. `metadata.outcome` is `restarted`, `skipped` (no worker),
    `failed` or `pending` (unknown).
    """
    given = checked(self, SelectionArguments, group=group, labels=labels)
    with _batch_slot(self), allow_join_result():
        result = fleet_service().restart_all(selection=given.selection, batch_id=self.request.id)
        return _complete(result, "restarted")


@app.task(name=wire.STOP_ALL, bind=True, throws=(ManagerError,))  # type: ignore[untyped-decorator]
def stop_all_workers(
    self: Any,
    timeout: float | None = None,
    group: str | list[str] | None = None,
    labels: dict[str, str] | None = None,
) -> int:
    """Stop every (selected) worker and return how many were stopped.

    Raises StopFailedError that names the workers that did not stop.
    """
    given = checked(self, BatchStopArguments, timeout=timeout, group=group, labels=labels)
    with _batch_slot(self), allow_join_result():
        result = fleet_service().stop_all(given.timeout, selection=given.selection, batch_id=self.request.id)
        return stopped_count(result)


def _mode_batch(command: CommandSpec) -> Any:
    @app.task(name=command.batch_task, bind=True, throws=(ManagerError,))  # type: ignore[untyped-decorator]
    def set_mode_all(
        self: Any, group: str | list[str] | None = None, labels: dict[str, str] | None = None
    ) -> dict[str, Any]:
        given = checked(self, SelectionArguments, group=group, labels=labels)
        with _batch_slot(self), allow_join_result():
            result = fleet_service().set_mode_all(
                command, selection=given.selection, batch_id=self.request.id
            )
            return _complete(result, command.done)

    set_mode_all.__doc__ = (
        f"{command.summary} Returns a WorkerInfo for every account that has a worker, by id."
    )
    return set_mode_all


#: Command name → its task that changes the trading mode of all or selected accounts.
mode_batches = {command.name: _mode_batch(command) for command in MODE_COMMANDS}


@app.task(name=wire.VALIDATE_ALL, bind=True, throws=(ManagerError,))  # type: ignore[untyped-decorator]
def validate_all_configs(
    self: Any, group: str | list[str] | None = None, labels: dict[str, str] | None = None
) -> dict[str, Any]:
    """Validate every (selected) account file on this host.

    Return account id → ValidationResult.
    """
    given = checked(self, SelectionArguments, group=group, labels=labels)
    results = host_service().validate_all_configs(selection=given.selection)
    return {account_id: result.to_wire() for account_id, result in results.items()}


@contextmanager
def _batch_slot(task: Any) -> Iterator[None]:
    if not _slots.acquire(blocking=False):
        text = (
            f"{_CONCURRENT} batches already run on this host: wait for one to end, then send the task again"
        )
        raise record_refusal(task, HostUnavailableError(text))
    try:
        yield
    finally:
        _slots.release()


def _complete(result: BatchResult, done: str) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    for outcome, infos in (
        (done, result.done),
        ("already_running", result.already),
        ("resting", result.resting),
    ):
        for account_id, info in infos.items():
            answer[account_id] = info.with_(metadata=WorkerPlacement(outcome=outcome)).to_wire()
    # A skipped account may still run, for example after its file was changed to disabled: report its actual
    # state.
    known: dict[str, WorkerInfo] = {}
    with suppress(FleetUnavailableError):
        known = {info.account_id: info for info in fleet_service().list_workers()}
    unknown = dict.fromkeys(
        result.pending, f"unknown: {result.trouble}; check with `manager batch {result.batch_id}`"
    )
    for outcome, reasons, otherwise in (
        ("skipped", result.skipped, WorkerLifecycleStatus.STOPPED),
        ("failed", result.failed, WorkerLifecycleStatus.FAILED),
        ("pending", unknown, WorkerLifecycleStatus.UNKNOWN),
    ):
        for account_id, reason in reasons.items():
            info = known.get(account_id) or WorkerInfo(worker_id="", account_id=account_id, status=otherwise)
            answer[account_id] = info.with_(error=reason, metadata=WorkerPlacement(outcome=outcome)).to_wire()
    return answer
