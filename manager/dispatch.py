"""From a command to a task and back: the pool of everyone who is not the host agent itself."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final
from uuid import uuid4

from celery import group, states
from celery.exceptions import TimeoutError as ResultTimeoutError
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from manager import wire
from manager.errors import (
    CommandTimeoutError,
    FleetUnavailableError,
    HostUnavailableError,
    ManagerError,
    NoWorkerError,
)
from manager.fleet import FleetStore, safe_url
from manager.models import BatchResult, WorkerInfo
from manager.pool import Progress, StartOrder
from manager.states import LIVE, WorkerLifecycleStatus

#: Seconds between two looks at the results of a batch.
_POLL_SECONDS: Final = 0.05
#: Seconds that a caller waits beyond a stop's own timeout.
_STOP_MARGIN: Final = 15.0
#: How Celery's own words begin for a result backend that went away while somebody waited for a result.
_BACKEND_GONE: Final = "Retry limit exceeded"
#: Results read in one round trip.
_RESULTS_AT_ONCE: Final = 500


class CeleryWorkerPool:
    """Sends commands to the host agents as Celery tasks, and reads what they recorded from Redis."""

    def __init__(self, app: Any, store: FleetStore, *, command_timeout_seconds: float = 180.0) -> None:
        self._app = app
        self._store = store
        self._timeout = command_timeout_seconds

    def start_worker(self, order: StartOrder) -> WorkerInfo:
        """See `manager.pool.WorkerPool.start_worker`. The files are read by the host, not here.

        Raises HostUnavailableError if no agent is there to do it, CommandTimeoutError if none answered in time.
        """
        return WorkerInfo.from_dict(self._ask(wire.START_WORKER, order.account_id, _flags(order)))

    def restart_worker(self, order: StartOrder) -> WorkerInfo:
        """See `manager.pool.WorkerPool.restart_worker`."""
        return WorkerInfo.from_dict(self._ask(wire.RESTART_WORKER, order.account_id, {}))

    def stop_worker(self, account_id: str, timeout: float | None = None) -> bool:
        """See `manager.pool.WorkerPool.stop_worker`."""
        # A stop never expires: one that was sent is meant, however late it arrives.
        wait = self._timeout if timeout is None else max(self._timeout, timeout + _STOP_MARGIN)
        return bool(
            self._ask(wire.STOP_WORKER, account_id, {"timeout": timeout}, expires=False, wait_seconds=wait)
        )

    def start_many(self, orders: Sequence[StartOrder], progress: Progress | None = None) -> BatchResult:
        """See `manager.pool.WorkerPool.start_many`: one Celery group with a task for each account."""
        hosts = self._queues([order.account_id for order in orders])
        tasks = {
            order.account_id: self._signature(
                wire.START_WORKER, order.account_id, _flags(order), hosts.get(order.account_id)
            )
            for order in orders
        }
        return self._batch(tasks, self._timeout, _started, progress)

    def stop_many(
        self, account_ids: Sequence[str], timeout: float | None = None, progress: Progress | None = None
    ) -> BatchResult:
        """See `manager.pool.WorkerPool.stop_many`: one Celery group with a task for each account."""
        hosts = self._queues(account_ids)
        tasks = {
            account_id: self._signature(
                wire.STOP_WORKER, account_id, {"timeout": timeout}, hosts.get(account_id), expires=False
            )
            for account_id in account_ids
        }
        wait = self._timeout if timeout is None else max(self._timeout, timeout + _STOP_MARGIN)
        return self._batch(tasks, wait, self._stopped, progress)

    def list_workers(self) -> list[WorkerInfo]:
        """Return every recorded worker of the fleet as it is now."""
        return self._store.list_workers()

    def get_worker_info(self, account_id: str) -> WorkerInfo | None:
        """Return the account's worker as it is now, or None."""
        return self._store.get_worker(account_id)

    def has_worker_for_account(self, account_id: str) -> bool:
        """Say whether the account may have a worker process; a silent host's worker counts."""
        info = self._store.get_worker(account_id)
        return info is not None and (info.status in LIVE or info.status is WorkerLifecycleStatus.UNKNOWN)

    # inside

    def _ask(
        self,
        task: str,
        account_id: str,
        kwargs: Mapping[str, Any],
        *,
        expires: bool = True,
        wait_seconds: float | None = None,
    ) -> Any:
        queue = self._queues([account_id]).get(account_id)
        wait = self._timeout if wait_seconds is None else wait_seconds
        with self._translated():
            result = self._signature(task, account_id, kwargs, queue, expires=expires).apply_async()
            try:
                return result.get(timeout=wait)
            except ResultTimeoutError:
                raise CommandTimeoutError(
                    f"{account_id}: no answer to {task} within {wait:g} s (task {result.id}): it may still be "
                    f"carried out; `manager info {account_id}` shows what is so, `manager doctor` looks for the cause"
                ) from None
            finally:
                _forget(result)

    def _signature(
        self,
        task: str,
        account_id: str,
        kwargs: Mapping[str, Any],
        queue: str | None,
        *,
        expires: bool = True,
    ) -> Any:
        options: dict[str, Any] = {"queue": queue or wire.SHARED_QUEUE, "task_id": str(uuid4())}
        if expires:
            options["expires"] = self._timeout
        return self._app.signature(task, args=[account_id], kwargs=dict(kwargs), options=options)

    def _queues(self, account_ids: Sequence[str]) -> dict[str, str]:
        """Return for each account with a worker on a live host that host's queue. Raises if no host is live."""
        live = {host.name for host in self._store.hosts() if host.live}
        if not live:
            raise HostUnavailableError(
                f"no host agent is alive on {safe_url(self._store.url)}: start one with `manager up` (this machine) "
                "or `manager host`"
            )
        if len(account_ids) == 1:
            found = self._store.get_worker(account_ids[0])
            workers = [found] if found else []
        else:
            workers = self._store.list_workers()
        places = {info.account_id: info.metadata.get("host") for info in workers}
        return {
            account: wire.host_queue(str(places[account]))
            for account in account_ids
            if places.get(account) in live
        }

    def _batch(
        self,
        tasks: Mapping[str, Any],
        wait_seconds: float,
        sort: Callable[[str, Any], tuple[str, Any]],
        progress: Progress | None,
    ) -> BatchResult:
        parts: dict[str, dict[str, Any]] = {"done": {}, "already": {}, "skipped": {}, "failed": {}}
        if not tasks:
            return BatchResult()
        with self._translated():
            results = group(list(tasks.values()), app=self._app).apply_async()
            waiting = dict(zip((result.id for result in results.results), tasks, strict=True))
            try:
                for task_id, outcome in self._results(set(waiting), wait_seconds):
                    account_id = waiting.pop(task_id)
                    part, what = sort(account_id, outcome)
                    parts[part][account_id] = what
                    if progress is not None:
                        progress(account_id, part)
            finally:
                for result in results.results:
                    _forget(result)
        for task_id, account_id in waiting.items():
            parts["failed"][account_id] = (
                f"{account_id}: no answer within {wait_seconds:g} s (task {task_id}); it may still be carried out"
            )
            if progress is not None:
                progress(account_id, "failed")
        return BatchResult(**parts)

    def _results(self, task_ids: set[str], wait_seconds: float) -> Iterator[tuple[str, Any]]:
        """Yield (task id, value or exception) as they come, many for one round trip, until the time is over."""
        backend = self._app.backend
        deadline = time.monotonic() + wait_seconds
        while task_ids:
            found = False
            pending = sorted(task_ids)
            for first in range(0, len(pending), _RESULTS_AT_ONCE):
                some = pending[first : first + _RESULTS_AT_ONCE]
                raw = backend.mget([backend.get_key_for_task(task_id) for task_id in some])
                for task_id, value in zip(some, raw, strict=True):
                    if not value:
                        continue
                    meta = backend.decode_result(value)
                    if meta["status"] not in states.READY_STATES:
                        continue
                    task_ids.discard(task_id)
                    found = True
                    failed = meta["status"] in states.EXCEPTION_STATES
                    yield task_id, backend.exception_to_python(meta["result"]) if failed else meta["result"]
            if not task_ids or time.monotonic() >= deadline:
                return
            if not found:
                time.sleep(_POLL_SECONDS)

    def _stopped(self, account_id: str, outcome: Any) -> tuple[str, Any]:
        if isinstance(outcome, NoWorkerError):
            return "skipped", str(outcome)
        if isinstance(outcome, BaseException):
            return "failed", _text(outcome)
        info = self._store.get_worker(account_id)
        if info is None:
            return "skipped", f"{account_id}: its record is gone"
        return "done", info

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ManagerError:
            raise
        except (OperationalError, RedisError, OSError) as error:
            raise self._unavailable(str(error)) from None
        except RuntimeError as error:
            if not str(error).strip().startswith(_BACKEND_GONE):
                raise
            raise self._unavailable("it went away while the answer was waited for") from None

    def _unavailable(self, why: str) -> FleetUnavailableError:
        return FleetUnavailableError(
            f"Redis at {safe_url(self._store.url)} cannot be used ({why}): the command may or may not have been "
            "sent; `manager ps` shows what is so once Redis is back"
        )


def _forget(result: Any) -> None:
    # Now, and not whenever the object is collected: then, with Redis away, its traceback would go to stderr.
    with suppress(RuntimeError, RedisError, OSError):
        result.backend.remove_pending_result(result)


def _flags(order: StartOrder) -> dict[str, bool]:
    return {"apply_defaults": order.apply_defaults, "validate": order.validate}


def _started(account_id: str, outcome: Any) -> tuple[str, Any]:
    if isinstance(outcome, BaseException):
        return "failed", _text(outcome)
    info = WorkerInfo.from_dict(outcome)
    return ("already" if info.metadata.get("already_running") else "done"), info


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
