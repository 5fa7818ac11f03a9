"""The service for asyncio: `WorkerManagerService` with coroutines."""

import asyncio
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Final, ParamSpec, Self, TypeVar

from manager.config import LoadedAccount
from manager.config.check_progress import CheckProgress
from manager.errors import FleetUnavailableError
from manager.factory import get_worker_manager_service, live_view
from manager.fleet import Event
from manager.fleet.event_types import EventFilter
from manager.fleet.run_types import Run
from manager.models import BatchResult, ValidationResult, WorkerInfo
from manager.placement.labels import Selection
from manager.pool.commands import PAUSE, RESUME, CommandSpec
from manager.pool.protocol import Progress
from manager.service import WorkerManagerService
from manager.settings import load_settings
from manager.telemetry.view import FleetView
from manager.telemetry.watch import WorkersUpdate, WorkersWatch

P = ParamSpec("P")
T = TypeVar("T")

#: Concurrent starts of one service; each occupies a thread until its result arrives.
_STARTS: Final = 32
#: Concurrent stops and reads. Their threads are separate so that none waits behind a start that hangs.
_STOPS: Final = 128
_READS: Final = 16
#: Seconds that a watch of workers waits for a change before it checks whether the service was closed.
_WATCH_SECONDS: Final = 0.5
#: Seconds that the first listing of the fleet may take.
_FIRST_LISTING_SECONDS: Final = 10.0


class AsyncWorkerManagerService:
    """`WorkerManagerService` for asyncio. Use `async with`, or call `aclose`.

    Arguments, results and errors are those of `WorkerManagerService`. Each call runs on a thread of this
    service. Starts, restarts, moves and validations on hosts share `threads` threads. Stops and reads have
    separate threads, so neither waits for a start that hangs. Further calls wait without blocking the loop.
    Iterating `events` uses one more thread. Cancelling an await does not cancel the command: only its result
    is lost. `progress` callbacks run on the loop.
    """

    def __init__(
        self,
        service: WorkerManagerService | None = None,
        *,
        threads: int = _STARTS,
    ) -> None:
        """`service` is by default made from the environment's settings."""
        self.service = service or get_worker_manager_service()
        self._starts = ThreadPoolExecutor(threads, thread_name_prefix="manager-aio-start")
        self._stops = ThreadPoolExecutor(_STOPS, thread_name_prefix="manager-aio-stop")
        self._reads = ThreadPoolExecutor(_READS, thread_name_prefix="manager-aio-read")
        self._closed = False
        self._view: FleetView | None = None
        self._view_lock = threading.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Refuse new calls, end watches, await running calls."""
        self._closed = True
        if self._view is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._view.close)
        for threads in (self._starts, self._stops, self._reads):
            await asyncio.get_running_loop().run_in_executor(None, threads.shutdown)

    # one account

    async def start_worker_from_config(
        self, account_id: str, apply_defaults: bool = True, validate: bool = True
    ) -> WorkerInfo:
        return await self._start(self.service.start_worker_from_config, account_id, apply_defaults, validate)

    async def restart_worker(self, account_id: str) -> WorkerInfo:
        return await self._start(self.service.restart_worker, account_id)

    async def stop_worker(self, account_id: str, timeout: float | None = None) -> bool:
        return await self._stop(self.service.stop_worker, account_id, timeout)

    async def pause_worker(self, account_id: str) -> WorkerInfo:
        return await self._stop(self.service.pause_worker, account_id)

    async def resume_worker(self, account_id: str) -> WorkerInfo:
        return await self._stop(self.service.resume_worker, account_id)

    async def move_worker(self, account_id: str, host: str, *, force: bool = False) -> WorkerInfo:
        return await self._start(self.service.move_worker, account_id, host, force=force)

    async def get_worker_info(self, account_id: str) -> WorkerInfo | None:
        return await self._read(self.service.get_worker_info, account_id)

    async def is_worker_running(self, account_id: str) -> bool:
        return await self._read(self.service.is_worker_running, account_id)

    async def validate_config(self, account_id: str) -> ValidationResult:
        return await self._read(self.service.validate_config, account_id)

    # many accounts

    async def start_all_enabled_workers(
        self,
        apply_defaults: bool = True,
        validate: bool = True,
        group: str | Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> dict[str, WorkerInfo]:
        return await self._start(
            self.service.start_all_enabled_workers, apply_defaults, validate, group, labels
        )

    async def start_all(
        self,
        apply_defaults: bool = True,
        validate: bool = True,
        progress: Progress | None = None,
        *,
        selection: Selection | None = None,
        batch_id: str | None = None,
        wait: bool = True,
    ) -> BatchResult:
        return await self._start(
            self.service.start_all,
            apply_defaults,
            validate,
            _on_loop(progress),
            selection=selection,
            batch_id=batch_id,
            wait=wait,
        )

    async def restart_all(
        self,
        progress: Progress | None = None,
        *,
        selection: Selection | None = None,
        batch_id: str | None = None,
        wait: bool = True,
    ) -> BatchResult:
        return await self._start(
            self.service.restart_all,
            _on_loop(progress),
            selection=selection,
            batch_id=batch_id,
            wait=wait,
        )

    async def stop_all_workers(
        self,
        timeout: float | None = None,
        group: str | Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> int:
        return await self._stop(self.service.stop_all_workers, timeout, group, labels)

    async def stop_all(
        self,
        timeout: float | None = None,
        progress: Progress | None = None,
        *,
        selection: Selection | None = None,
        batch_id: str | None = None,
        wait: bool = True,
    ) -> BatchResult:
        return await self._stop(
            self.service.stop_all,
            timeout,
            _on_loop(progress),
            selection=selection,
            batch_id=batch_id,
            wait=wait,
        )

    async def pause_all(
        self,
        progress: Progress | None = None,
        *,
        selection: Selection | None = None,
        batch_id: str | None = None,
        wait: bool = True,
    ) -> BatchResult:
        return await self.set_mode_all(PAUSE, progress, selection=selection, batch_id=batch_id, wait=wait)

    async def resume_all(
        self,
        progress: Progress | None = None,
        *,
        selection: Selection | None = None,
        batch_id: str | None = None,
        wait: bool = True,
    ) -> BatchResult:
        return await self.set_mode_all(RESUME, progress, selection=selection, batch_id=batch_id, wait=wait)

    async def set_mode_all(
        self,
        command: CommandSpec,
        progress: Progress | None = None,
        *,
        selection: Selection | None = None,
        batch_id: str | None = None,
        wait: bool = True,
    ) -> BatchResult:
        return await self._stop(
            self.service.set_mode_all,
            command,
            _on_loop(progress),
            selection=selection,
            batch_id=batch_id,
            wait=wait,
        )

    async def run_many(
        self,
        command: CommandSpec,
        account_ids: Sequence[str],
        *,
        apply_defaults: bool = True,
        validate: bool = True,
        timeout: float | None = None,
        batch_id: str | None = None,
        wait: bool = True,
    ) -> BatchResult:
        call = self._start if command.starts else self._stop
        return await call(
            self.service.run_many,
            command,
            account_ids,
            apply_defaults=apply_defaults,
            validate=validate,
            timeout=timeout,
            batch_id=batch_id,
            wait=wait,
        )

    async def select(self, selection: Selection | None = None) -> dict[str, LoadedAccount | None]:
        return await self._read(self.service.select, selection)

    async def validate_all_configs(
        self, selection: Selection | None = None, progress: CheckProgress | None = None
    ) -> dict[str, ValidationResult]:
        return await self._read(self.service.validate_all_configs, selection, _on_loop(progress))

    async def not_read(self) -> dict[str, str]:
        return await self._read(self.service.not_read)

    async def validate_on_hosts(
        self,
        account_ids: Sequence[str] | None = None,
        selection: Selection | None = None,
        progress: CheckProgress | None = None,
    ) -> dict[str, tuple[str, ValidationResult]]:
        call = self.service.validate_on_hosts
        return await self._start(call, account_ids, selection, _on_loop(progress))

    async def list_workers(self, selection: Selection | None = None) -> list[WorkerInfo]:
        return await self._read(self.service.list_workers, selection)

    async def enabled_accounts(self) -> Mapping[str, bool | None]:
        return await self._read(self.service.enabled_accounts)

    async def runs(self, account_id: str, last: int | None = 50) -> list[Run]:
        return await self._read(self.service.runs, account_id, last)

    # beyond the service

    async def watch(
        self, after: str = "$", *, types: Sequence[str] = (), account_ids: Iterable[str] | None = None
    ) -> AsyncIterator[Event]:
        """Yield the fleet's events after a cursor, oldest first, each once.

        See `WorkerManagerService.watch`. Ends when the service is closed.
        """
        only = EventFilter(
            types=tuple(types), accounts=None if account_ids is None else frozenset(account_ids)
        )
        found = self.service.worker_pool.watch(after, only=only, closed=self._is_closed)
        async for event in self._blocking("manager-aio-events", partial(next, found, None), self._is_closed):
            yield event

    async def events(self, after: str = "$") -> AsyncIterator[Event]:
        """Yield as `watch` does.

        Deprecated: use `watch`, which also takes types and accounts.
        """
        warnings.warn("events() is deprecated: use watch()", DeprecationWarning, stacklevel=2)
        async for event in self.watch(after):
            yield event

    async def watch_workers(self) -> AsyncIterator[WorkersUpdate]:
        """Yield a snapshot of all workers, then changes.

        See `manager.telemetry.watch.WorkersUpdate`. A slow reader gets merged changes with each worker's
        latest state. While Redis is unavailable, workers are `unknown`. Raises FleetUnavailableError if Redis
        cannot be used when the watch begins.
        """
        view = await self._read(self._view_of_fleet)
        watch = WorkersWatch(view)
        try:
            step = partial(watch.next, _WATCH_SECONDS)
            async for update in self._blocking("manager-aio-workers", step, self._is_closed, skip=True):
                yield update
        finally:
            watch.close()

    def _is_closed(self) -> bool:
        return self._closed

    def _view_of_fleet(self) -> FleetView:
        """Return the view that all watchers of this service share."""
        with self._view_lock:
            if self._view is None:
                view = live_view(load_settings())
                if not view.start(wait_seconds=_FIRST_LISTING_SECONDS):
                    view.close()
                    raise FleetUnavailableError(
                        f"the fleet could not be listed within {_FIRST_LISTING_SECONDS:g} s: "
                        "check Redis with `manager doctor`"
                    )
                self._view = view
            return self._view

    @staticmethod
    async def _blocking(
        name: str, step: Callable[[], T | None], closed: Callable[[], bool], *, skip: bool = False
    ) -> AsyncIterator[T]:
        """Yield the results of a blocking call, repeated on a separate thread.

        None ends the iteration, or is ignored with `skip`. The call blocks nearly all the time: on a shared
        thread it would delay other calls.
        """
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        try:
            while not closed():
                found = await loop.run_in_executor(thread, step)
                if found is not None:
                    yield found
                elif not skip:
                    return
        finally:
            thread.shutdown(wait=False)

    async def _start(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _on(self._starts, partial(call, *args, **kwargs))

    async def _stop(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _on(self._stops, partial(call, *args, **kwargs))

    async def _read(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _on(self._reads, partial(call, *args, **kwargs))


async def _on(threads: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    # The thread gets the caller's context variables, one of which says on whose behalf a command is sent.
    context = copy_context()
    return await asyncio.get_running_loop().run_in_executor(threads, lambda: context.run(call))


def _on_loop(progress: Progress | None) -> Progress | None:
    if progress is None:
        return None
    loop = asyncio.get_running_loop()

    def report(account_id: str, outcome: str) -> None:
        loop.call_soon_threadsafe(progress, account_id, outcome)

    return report
