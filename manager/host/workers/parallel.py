"""Runs one command for many accounts on threads of this process."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from manager.errors import ManagerError, NoWorkerError
from manager.models import BatchResult, WorkerInfo, start_part
from manager.pool.protocol import Progress, StartRequest

T = TypeVar("T")

_THREADS: Final = 32


def run_requests(
    command: Callable[[StartRequest], WorkerInfo], requests: Sequence[StartRequest], progress: Progress | None
) -> BatchResult:
    """Run a start or restart for each request. Blocks until all are done."""

    def run_one(request: StartRequest) -> tuple[str, WorkerInfo | str]:
        try:
            info = command(request)
        except ManagerError as error:
            return "failed", str(error)
        return start_part(info), info

    return _run([(request.account_id, request) for request in requests], run_one, progress)


def run_for_accounts(
    command: Callable[[str], WorkerInfo | None], account_ids: Sequence[str], progress: Progress | None
) -> BatchResult:
    """Run a command for each account that has a worker.

    The others are skipped. Blocks until all are done.

    An account for which `command` returns None is skipped too: its record is gone.
    """

    def run_one(account_id: str) -> tuple[str, WorkerInfo | str]:
        try:
            info = command(account_id)
        except NoWorkerError as error:
            return "skipped", str(error)
        except ManagerError as error:
            return "failed", str(error)
        return ("done", info) if info is not None else ("skipped", "its record is gone")

    return _run([(account_id, account_id) for account_id in account_ids], run_one, progress)


def _run(
    items: Sequence[tuple[str, T]],
    run_one: Callable[[T], tuple[str, WorkerInfo | str]],
    progress: Progress | None,
) -> BatchResult:
    """Call `run_one` for each (account, item).

    It returns the field of the result, and the account's entry there.
    """
    parts: dict[str, dict[str, Any]] = {
        "done": {},
        "already": {},
        "resting": {},
        "skipped": {},
        "failed": {},
    }
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="batch") as threads:
        outcomes = threads.map(lambda item: run_one(item[1]), items)
        for (account_id, _), (outcome, entry) in zip(items, outcomes, strict=True):
            parts[outcome][account_id] = entry
            if progress is not None:
                progress(account_id, outcome)
    return BatchResult(**parts)
