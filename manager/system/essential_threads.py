"""Threads that survive failures, and detection of dead ones."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from manager.system import logs

logger = logging.getLogger(__name__)

#: Shortest and longest pause in seconds before a failed loop is entered again.
_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 2.0
#: Seconds for which a failure is reported, and minimum seconds between log lines about failures.
_REPORTED_SECONDS: Final = 30.0
_LOG_SECONDS: Final = 5.0


class EssentialThread:
    """Runs `loop` until it returns, and again whenever it raises.

    A loop that catches its own errors reports them with `failed`. Call `start` and `join` once each.
    """

    def __init__(self, name: str, loop: Callable[[], None]) -> None:
        self.name = name
        self._loop = loop
        self._started = False
        self._finished = False
        self._failures = 0
        self._failed_at = 0.0
        self._logged_at = float("-inf")
        self._reason = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread. Raises RuntimeError if the system cannot start one."""
        self._thread.start()
        self._started = True

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended; return at once if it never started."""
        if self._started:
            self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def dead(self) -> bool:
        """Whether the thread has ended although its loop has not."""
        return self._started and not self._finished and not self._thread.is_alive()

    @property
    def trouble(self) -> str | None:
        """The latest failure within the last 30 seconds; None if there is none."""
        if self.dead:
            return f"thread {self.name} of the host agent has died"
        if not self._failures or time.monotonic() - self._failed_at > _REPORTED_SECONDS:
            return None
        return (
            f"thread {self.name} of the host agent failed {self._failures} times, last with: {self._reason}"
        )

    def failed(self, error: BaseException) -> None:
        """Count and log a failure after which the thread continues.

        Raises nothing.
        """
        try:
            self._failures += 1
            self._failed_at = time.monotonic()
            self._reason = f"{type(error).__name__}: {error}"
            if self._failed_at - self._logged_at >= _LOG_SECONDS:
                self._logged_at = self._failed_at
                logger.error(
                    "thread %s failed (%d failures so far) and continues",
                    self.name,
                    self._failures,
                    exc_info=error,
                )
        except BaseException:
            return  # logging can fail for want of memory or files; the failure is counted

    def _run(self) -> None:
        pause = _PAUSE_SECONDS
        while True:
            began = time.monotonic()
            try:
                self._loop()
            except BaseException as error:
                self.failed(error)
            else:
                self._finished = True
                return
            if time.monotonic() - began > _LONGEST_PAUSE_SECONDS:
                pause = _PAUSE_SECONDS
            with contextlib.suppress(BaseException):
                self._ended.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


class ThreadGuard:
    """Watches essential threads on another thread.

    Calls `lost` with the name of a dead one.
    """

    def __init__(
        self, threads: Callable[[], list[EssentialThread]], lost: Callable[[str], None], seconds: float = 1.0
    ) -> None:
        self._threads, self._lost, self._seconds = threads, lost, seconds
        self._closed = threading.Event()
        self.thread = EssentialThread("thread-guard", self._watch)

    def start(self) -> None:
        self.thread.start()

    def close(self) -> None:
        self._closed.set()

    def check(self) -> None:
        """Call `lost` if a thread has died, the guard's own included.

        The thread that publishes calls this too, so that the guard's death is detected.
        """
        for thread in [*self._threads(), self.thread]:
            if thread.dead and not self._closed.is_set():
                self._lost(thread.name)
                return

    def trouble(self) -> str | None:
        """The failure of the first thread that has one; None if all are well."""
        return next((text for thread in self._threads() if (text := thread.trouble) is not None), None)

    def _watch(self) -> None:
        while not self._closed.wait(self._seconds):
            self.check()


def log_lost(name: str) -> None:
    """Log that the agent exits because a thread has died."""
    logs.event(
        logger,
        logging.CRITICAL,
        "thread_lost",
        f"thread {name} has died; exiting with code 75 so that the supervisor restarts this agent. "
        "Running workers are not affected.",
    )
