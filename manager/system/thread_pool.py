"""A thread pool in which work waits while no thread can be started."""

import copy
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from manager.errors import ManagerError
from manager.system.essential_threads import EssentialThread

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Threads that start with the pool, so that at least these exist.
_READY: Final = 2


def without_traceback(error: BaseException) -> BaseException:
    """Return a copy of an error without traceback, cause and context."""
    found = copy.copy(error)
    found.__cause__ = found.__context__ = found.__traceback__ = None
    return found


class ThreadPool:
    """Runs calls on up to `size` threads.

    `concurrent.futures.ThreadPoolExecutor.submit` queues the call and then raises if no thread can be
    started: its caller would take a call that runs later for refused. `submit` of this class never raises for
    that reason.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size, self._name = size, name
        self._changed = threading.Condition()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._idle = 0
        self._closed = False
        self._threads: list[EssentialThread] = []
        for _ in range(min(_READY, size)):
            self._grow()
        if not self._threads:
            raise RuntimeError(f"the system cannot start a thread for {name}")

    @property
    def threads(self) -> list[EssentialThread]:
        with self._changed:
            return list(self._threads)

    def submit(self, call: Callable[..., T], *args: Any) -> "Future[T]":
        """Queue `call(*args)` and return its future.

        Raises RuntimeError only after `shutdown`.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError(f"{self._name} is shut down")
            self._calls.append((future, lambda: call(*args)))
            if len(self._calls) > self._idle and len(self._threads) < self._size:
                self._grow()
            self._changed.notify()
        return future

    def shutdown(self, *, cancel_futures: bool = False) -> None:
        """Refuse new calls and wait for running ones.

        Waiting calls are run or cancelled.
        """
        with self._changed:
            self._closed = True
            if cancel_futures:
                while self._calls:
                    self._calls.popleft()[0].cancel()
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def _grow(self) -> None:
        thread = EssentialThread(f"{self._name}-{len(self._threads)}", self._work)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            thread.failed(error)
            if self._threads:
                self._threads[0].failed(error)  # for the host's report
        else:
            self._threads.append(thread)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                try:
                    while not self._calls and not self._closed:
                        self._changed.wait()
                finally:
                    self._idle -= 1
                if not self._calls:
                    return
                future, call = self._calls.popleft()
                if self._calls and not self._idle and len(self._threads) < self._size and not self._closed:
                    self._grow()  # these calls wait for a thread that could not be started earlier
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:
                    # Drop the call's frames: futures may be kept, and frames keep every local object alive.
                    future.set_exception(
                        error.with_traceback(None) if isinstance(error, ManagerError) else error
                    )
                else:
                    future.set_result(result)
            del future, call
