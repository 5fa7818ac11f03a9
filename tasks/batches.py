"""Tasks on all accounts: each sends a group with one task for each account and accounts for every one of them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from celery.result import allow_join_result

from manager import wire
from manager.errors import HostUnavailableError, ManagerError
from manager.models import BatchResult, WorkerInfo
from manager.states import WorkerLifecycleStatus
from tasks.app import app, fleet_service, host_service
from tasks.payloads import BatchStartArguments, BatchStopArguments, checked

#: Batches that this agent carries out at once. Each holds a thread while its members need others: were every thread a
#: waiting batch, none would ever end.
_AT_ONCE: Final = 4

_slots: Final = threading.BoundedSemaphore(_AT_ONCE)


@app.task(name=wire.START_ALL, throws=(ManagerError,))  # type: ignore[untyped-decorator]
def start_all_enabled_workers(apply_defaults: bool = True, validate: bool = True) -> dict[str, Any]:
    """Start every enabled account.

    Returns a WorkerInfo for every account, by id. `metadata.outcome` says what became of it: `started`,
    `already_running`, `skipped` (disabled) or `failed`; `error` says why where it does not run.
    """
    given = checked(BatchStartArguments, apply_defaults=apply_defaults, validate_first=validate)
    with _one_of_few(), allow_join_result():
        return _complete(fleet_service().start_all(given.apply_defaults, given.validate_first))


@app.task(name=wire.STOP_ALL, throws=(ManagerError,))  # type: ignore[untyped-decorator]
def stop_all_workers(timeout: float | None = None) -> int:
    """Stop every worker of the fleet; returns how many. Fails, naming them, if any could not be stopped."""
    given = checked(BatchStopArguments, timeout=timeout)
    with _one_of_few(), allow_join_result():
        return fleet_service().stop_all_workers(given.timeout)


@app.task(name=wire.VALIDATE_ALL, throws=(ManagerError,))  # type: ignore[untyped-decorator]
def validate_all_configs() -> dict[str, Any]:
    """Check every account file as this host sees it; returns a ValidationResult for each account, by id."""
    return {
        account_id: result.to_dict() for account_id, result in host_service().validate_all_configs().items()
    }


@contextmanager
def _one_of_few() -> Iterator[None]:
    if not _slots.acquire(blocking=False):
        raise HostUnavailableError(
            f"{_AT_ONCE} batches are under way on this host already: wait for one to end, then ask again"
        )
    try:
        yield
    finally:
        _slots.release()


def _complete(result: BatchResult) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    for outcome, infos in (("started", result.done), ("already_running", result.already)):
        for account_id, info in infos.items():
            answer[account_id] = info.with_(metadata={"outcome": outcome}).to_dict()
    # One that was skipped may run all the same, as when its file was changed to disabled: say what is so.
    known = {info.account_id: info for info in fleet_service().list_workers()}
    for outcome, reasons, otherwise in (
        ("skipped", result.skipped, WorkerLifecycleStatus.STOPPED),
        ("failed", result.failed, WorkerLifecycleStatus.FAILED),
    ):
        for account_id, reason in reasons.items():
            info = known.get(account_id) or WorkerInfo(worker_id="", account_id=account_id, status=otherwise)
            answer[account_id] = info.with_(error=reason, metadata={"outcome": outcome}).to_dict()
    return answer
