"""Reports the end of a process at once, also of one that is not a child."""

import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable
from typing import Final

import psutil

from manager.system.essential_threads import EssentialThread
from manager.system.processes import ProcessRef

Ended = Callable[[ProcessRef], None]

#: Seconds between polls of processes that have no pidfd.
_POLL_SECONDS: Final = 0.2


class ProcessWatch:
    """Calls back when a watched process ends.

    Linux uses one thread with pidfds, other systems one thread per process. The callback runs on such a
    thread and must be quick; if it raises it is called again until it succeeds. A process that has already
    ended is reported too. If no pidfd or thread is available, the process is polled: a shortage delays the
    report and never loses it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[int, tuple[ProcessRef, Ended]] = {}
        #: Processes that are polled.
        self._polled: list[tuple[ProcessRef, Ended]] = []
        #: Ended processes whose callback has not succeeded yet.
        self._owed: list[tuple[ProcessRef, Ended]] = []
        self._closed = False
        self._woken = threading.Event()
        if sys.platform == "linux":
            self._epoll = select.epoll()
            self._wake_read, self._wake_write = os.pipe()
            os.set_blocking(self._wake_read, False)
            os.set_blocking(self._wake_write, False)
            self._epoll.register(self._wake_read, select.EPOLLIN)
        self.thread = EssentialThread("process-watch", self._run)
        self.thread.start()

    def watch(self, process: ProcessRef, ended: Ended) -> None:
        """Call `ended(process)` once, on another thread, when `process` has ended.

        Raises nothing.
        """
        try:
            if sys.platform == "linux":
                self._watch_pidfd(process, ended)
            else:
                threading.Thread(
                    target=self._wait, args=(process, ended), name="process-watch", daemon=True
                ).start()
        except (OSError, RuntimeError, MemoryError) as error:
            self.thread.failed(error)
            with self._lock:
                self._polled.append((process, ended))
            self._wake()

    def close(self) -> None:
        """End watching. The processes are not affected."""
        self._closed = True
        self._wake()
        self.thread.join()
        if sys.platform == "linux":
            self._epoll.close()
            for fd in (self._wake_read, self._wake_write, *self._watched):
                os.close(fd)
            self._watched.clear()

    def _run(self) -> None:
        while not self._closed:
            self._await()
            if self._closed:
                return
            self._poll()
            with self._lock:
                owed = list(self._owed)
            for entry in owed:
                self._call(entry)

    def _call(self, entry: tuple[ProcessRef, Ended]) -> None:
        process, ended = entry
        try:
            ended(process)
        except BaseException as error:
            self.thread.failed(error)  # the entry stays, so the call is repeated
        else:
            with self._lock:
                self._owed.remove(entry)

    def _poll(self) -> None:
        """Poll processes without a pidfd or thread, and try to get one."""
        with self._lock:
            polled = list(self._polled)
        for entry in polled:
            process, ended = entry
            try:
                if sys.platform == "linux":
                    self._watch_pidfd(process, ended)
                elif process.alive():
                    continue
                else:
                    with self._lock:
                        self._owed.append(entry)
            except (OSError, RuntimeError, MemoryError):
                continue  # not known yet: poll again
            with self._lock:
                self._polled.remove(entry)

    def _wait(self, process: ProcessRef, ended: Ended) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            while process.alive() and not self._closed:
                with contextlib.suppress(psutil.TimeoutExpired):
                    psutil.Process(process.pid).wait(timeout=1)
        if not self._closed:
            with self._lock:
                self._owed.append((process, ended))
            self._wake()

    if sys.platform == "linux":

        def _watch_pidfd(self, process: ProcessRef, ended: Ended) -> None:
            """Watch the process by a pidfd.

            Raises OSError, and changes nothing, if that fails.
            """
            fd = process.open_pidfd()
            if fd is None:
                with self._lock:
                    self._owed.append((process, ended))
                self._wake()
                return
            with self._lock:
                try:
                    self._epoll.register(fd, select.EPOLLIN)
                except BaseException:
                    os.close(fd)
                    raise
                self._watched[fd] = (process, ended)

        def _wake(self) -> None:
            with contextlib.suppress(OSError):  # a full pipe has woken the thread
                os.write(self._wake_write, b"x")

        def _await(self) -> None:
            with self._lock:
                waiting = bool(self._polled or self._owed)
            for fd, _ in self._epoll.poll(_POLL_SECONDS if waiting else None):
                if fd == self._wake_read:
                    with contextlib.suppress(OSError):
                        os.read(fd, 4096)
                    continue
                with self._lock:
                    found = self._watched.pop(fd, None)
                    if found is None:
                        continue
                    self._owed.append(found)
                    self._epoll.unregister(fd)
                os.close(fd)

    else:

        def _wake(self) -> None:
            self._woken.set()

        def _await(self) -> None:
            with self._lock:
                waiting = bool(self._polled or self._owed)
            self._woken.wait(_POLL_SECONDS if waiting else None)
            self._woken.clear()


__all__ = ["Ended", "ProcessWatch"]
