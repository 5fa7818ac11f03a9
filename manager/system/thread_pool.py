"""A pool of threads that survives a shortage of threads: work waits for a thread, it is neither refused nor lost."""

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

#: Threads that are started with the crew, so that there is always one to work with.
_READY: Final = 2


def bare(error: BaseException) -> BaseException:
    """Return a copy of an error without traceback, cause and context."""
    found = copy.copy(error)
    found.__cause__ = found.__context__ = found.__traceback__ = None
    return found


class ThreadPool:
    """Carries out calls on up to `size` threads.

    `concurrent.futures.ThreadPoolExecutor.submit` raises when the system grants no further thread, after it has queued
    the call: the caller takes for refused what happens later. `submit` here never raises for that reason.
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
            raise RuntimeError(f"the system grants no thread for {name}")

    @property
    def threads(self) -> list[EssentialThread]:
        with self._changed:
            return list(self._threads)

    def submit(self, call: Callable[..., T], *args: Any) -> "Future[T]":
        """Have `call(*args)` carried out; raises RuntimeError after `shutdown` alone."""
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
        """Take no more calls, and wait for those that are under way; those that wait are carried out or cancelled."""
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
                    self._grow()  # the thread that these calls wait for was not granted before
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:
                    # Without the frames of the call: futures may be kept, and frames hold all that was in hand.
                    future.set_exception(
                        error.with_traceback(None) if isinstance(error, ManagerError) else error
                    )
                else:
                    future.set_result(result)
            del future, call
