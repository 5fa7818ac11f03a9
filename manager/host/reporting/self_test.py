"""Detects a host agent that no longer receives messages.

A Celery consumer can lose its connection and stay alive without receiving anything. So each agent sends
itself a small message through the broker and expects to receive it.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from manager.system import logs
from manager.system.essential_threads import EssentialThread
from manager.system.spare_files import is_own_shortage

logger = logging.getLogger(__name__)

#: Intervals without a received message, while sending works, after which the test has failed.
_FAILED_AFTER: Final = 6
#: With this many commands running, all task threads may be busy, so a missing message proves nothing.
_BUSY: Final = 32


class SelfTest:
    """Records sent and received test messages.

    Thread-safe; times are monotonic seconds.
    """

    def __init__(self, interval_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.interval = interval_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._received_at: float | None = None
        self._missing_since: float | None = None
        self._commands = 0
        #: Since when no message could be sent because this process has no free file descriptor.
        self._out_of_files_since: float | None = None

    def sent(self) -> None:
        """Record that a message was sent."""
        with self._lock:
            self._out_of_files_since = None
            if self._missing_since is None or self._commands >= _BUSY:
                self._missing_since = self._clock()

    def not_sent(self, error: BaseException) -> None:
        """Record that a message could not be sent."""
        with self._lock:
            if not is_own_shortage(error):
                self._out_of_files_since = None  # Redis is down: another process cannot reach it either
            elif self._out_of_files_since is None:
                self._out_of_files_since = self._clock()

    def out_of_files(self) -> bool:
        """Return whether sending failed for six intervals for lack of files.

        This process has no free file descriptor. A new process starts with an empty table of open files, so
        it can send.
        """
        failed = self.failed()  # about messages that were sent before
        with self._lock:
            since = self._out_of_files_since
            return since is not None and (failed or self._clock() - since > self.interval * _FAILED_AFTER)

    def received(self) -> None:
        """Record that a message was received."""
        with self._lock:
            self._received_at = self._clock()
            self._missing_since = None

    def begin_command(self) -> None:
        """Count a command that occupies a task thread until `end_command`."""
        with self._lock:
            self._commands += 1

    def end_command(self) -> None:
        with self._lock:
            self._commands -= 1

    @property
    def received_seconds_ago(self) -> float | None:
        """Seconds since a message was received, or None if none was."""
        with self._lock:
            return None if self._received_at is None else self._clock() - self._received_at

    def failed(self) -> bool:
        """Return whether no message was received for six intervals of sending."""
        with self._lock:
            if self._missing_since is None or self._commands >= _BUSY:
                return False
            return self._clock() - self._missing_since > self.interval * _FAILED_AFTER

    @property
    def seconds(self) -> float:
        """How long messages must be missing until the test has failed."""
        return self.interval * _FAILED_AFTER


class SelfTestSender:
    """Sends a test message per interval on its own thread.

    `start` and `close` once each.
    """

    def __init__(
        self,
        self_test: SelfTest,
        send: Callable[[], None],
        *,
        on_failed: Callable[[float], None],
        on_out_of_files: Callable[[], None],
    ) -> None:
        """`on_failed` gets the seconds for which no message was received."""
        self._self_test = self_test
        self._send = send
        self._on_failed = on_failed
        self._on_out_of_files = on_out_of_files
        self._closed = threading.Event()
        self.thread = EssentialThread("self-test", self._run)

    def start(self) -> None:
        self.thread.start()

    def close(self) -> None:
        """End the thread after the send that is under way. Does not wait for it."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._self_test.interval):
            try:
                self._send()
            except Exception as error:
                logs.event(logger, logging.DEBUG, "self_test_unsent", str(error))
                self._self_test.not_sent(error)
            else:
                self._self_test.sent()
            if self._self_test.out_of_files() and not self._closed.is_set():
                self._on_out_of_files()
            if self._self_test.failed() and not self._closed.is_set():
                self._on_failed(self._self_test.seconds)
