"""Notices at once that a process has ended, whoever its parent is."""

import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable

import psutil

from manager.processes import ProcessRef

Ended = Callable[[ProcessRef], None]


class ProcessWatch:
    """Calls back when a watched process ends: on Linux from one thread over pidfds, elsewhere from one thread each.

    The callback runs on a watching thread and must be quick. A process that has ended already is reported too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[int, tuple[ProcessRef, Ended]] = {}
        self._closed = False
        if sys.platform == "linux":
            self._epoll = select.epoll()
            self._wake_read, self._wake_write = os.pipe()
            self._epoll.register(self._wake_read, select.EPOLLIN)
            self._thread = threading.Thread(target=self._run, name="process-watch", daemon=True)
            self._thread.start()

    def watch(self, process: ProcessRef, ended: Ended) -> None:
        """Call `ended(process)` once, from another thread, as soon as `process` has ended."""
        if sys.platform == "linux":
            fd = process.open_pidfd()
            if fd is not None:
                with self._lock:
                    self._watched[fd] = (process, ended)
                    self._epoll.register(fd, select.EPOLLIN)
                return
        threading.Thread(target=self._wait, args=(process, ended), name="process-watch", daemon=True).start()

    def close(self) -> None:
        """Watch no more. The processes are not touched."""
        self._closed = True
        if sys.platform == "linux":
            os.write(self._wake_write, b"x")
            self._thread.join()
            self._epoll.close()
            for fd in (self._wake_read, self._wake_write, *self._watched):
                os.close(fd)
            self._watched.clear()

    def _wait(self, process: ProcessRef, ended: Ended) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            while process.alive() and not self._closed:
                with contextlib.suppress(psutil.TimeoutExpired):
                    psutil.Process(process.pid).wait(timeout=1)
        if not self._closed:
            ended(process)

    if sys.platform == "linux":

        def _run(self) -> None:
            while not self._closed:
                for fd, _ in self._epoll.poll():
                    with self._lock:
                        found = self._watched.pop(fd, None)
                        if found is None:
                            continue
                        self._epoll.unregister(fd)
                    os.close(fd)
                    process, ended = found
                    ended(process)
