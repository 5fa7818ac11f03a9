"""Runs each stop once per generation, however often it arrives."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from manager.errors import ManagerError
from manager.fleet.desired import STOP, DesiredState
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.recovery import Restarts
from manager.host.workers.pool import WorkerPoolManager
from manager.system.thread_pool import ThreadPool, without_traceback

#: Seconds before a stop that left its worker alive is tried again.
_RETRY_SECONDS: Final = 10.0
#: Stops that are remembered, so that one which arrives a second time does not run a second time.
_REMEMBERED: Final = 10_000


class Stops:
    """The stops of one host.

    Thread-safe, except that `stop_undesired` is for one thread.
    """

    def __init__(
        self,
        pool: WorkerPoolManager,
        desired_cache: DesiredStateCache,
        restarts: Restarts,
        thread_pool: ThreadPool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._desired_cache = desired_cache
        self._restarts = restarts
        self._thread_pool = thread_pool
        self._clock = clock
        self._lock = threading.Lock()
        self._stops: OrderedDict[str, Future[bool]] = OrderedDict()
        self._latest: dict[str, str] = {}
        #: Since when (monotonic seconds) a worker is known to be alive after its stop has ended.
        self._ineffective_since: dict[str, float] = {}

    def stop(self, desired: DesiredState) -> "Future[bool]":
        """Stop the account's worker without waiting for it.

        A stop of the same generation is returned, not repeated.
        """
        account_id, key = desired.account_id, _key(desired)
        self._restarts.cancel(account_id)
        with self._lock:
            found = self._stops.get(key)
            # A stop that has ended answers for this one, unless the account has a worker again.
            if found is None or (found.done() and self._pool.has_worker_for_account(account_id)):
                found = self._thread_pool.submit(self._run, account_id, desired.timeout)
                self._stops[key] = found
                # Later stops of this account have this generation or a later one, so an earlier one is not
                # needed.
                before = self._latest.get(account_id, key)
                if before != key and before in self._stops and self._stops[before].done():
                    del self._stops[before]
                self._latest[account_id] = key
                while len(self._stops) > _REMEMBERED and next(iter(self._stops.values())).done():
                    self._stops.popitem(last=False)
        return found

    def knows(self, desired: DesiredState) -> bool:
        """Return whether a stop of this generation was submitted already."""
        with self._lock:
            return _key(desired) in self._stops

    def stop_undesired(self) -> "list[Future[bool]]":
        """Stop every worker of this host whose account should be stopped.

        Does not wait.
        """
        undesired = [
            desired
            for account_id in self._pool.queries.live_accounts()
            if (desired := self._desired_cache.get(account_id)) is not None and not desired.running
        ]
        # A worker that failed before its stop arrived without a task is recorded as stopped, and an account
        # that rested rests no more. A refused start is not desired either, but its failure must stay visible:
        # no command asked for a stop.
        undesired += [
            desired
            for account_id in self._pool.queries.failed_or_resting()
            if (desired := self._desired_cache.get(account_id)) is not None
            and not desired.running
            and desired.why == STOP
        ]
        keys = {_key(desired) for desired in undesired}
        self._ineffective_since = {key: at for key, at in self._ineffective_since.items() if key in keys}
        return [self.stop(desired) for desired in undesired if not self._waits_for_retry(desired)]

    def _run(self, account_id: str, timeout: float | None) -> bool:
        try:
            return self._pool.stop_worker(account_id, timeout)
        except ManagerError as error:
            # The stop is remembered, and its error with it: without the frames that the traceback refers to.
            raise without_traceback(error) from None

    def _waits_for_retry(self, desired: DesiredState) -> bool:
        """Return whether a stop without effect must not be retried yet.

        Such a stop has ended with its worker still alive.
        """
        key, now = _key(desired), self._clock()
        with self._lock:
            before = self._stops.get(key)
            if before is None or not before.done():
                return False
            since = self._ineffective_since.setdefault(key, now)
            if now - since < _RETRY_SECONDS:
                return True
            del self._ineffective_since[key]
            return False


def _key(desired: DesiredState) -> str:
    return f"{desired.account_id}:{desired.generation}"
