"""Writes log lines on one thread.

A full pipe or a hung disk therefore blocks no other thread.
"""

import contextlib
import errno
import logging
import os
import sys
import threading
import time
from collections import deque
from typing import Any, Final, Protocol

from manager.system.text import counted

#: The attribute of a log record with the event's fields.
FIELDS: Final = "manager_fields"
#: Maximum number of waiting lines; further ones are dropped and counted.
_WAITING: Final = 5_000
#: Seconds between attempts to log the number of lost lines.
_AGAIN_SECONDS: Final = 1.0
_FULL: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
#: Seconds that a process waits at its end for its lines to be written.
FLUSH_SECONDS: Final = 2.0


class Target(Protocol):
    """Where lines are written.

    `write` raises OSError for a line that it could not write. It is called without a lock of `logging` or of
    a stream, because an exit would wait for that lock.
    """

    def write(self, text: str) -> None: ...


class StderrTarget:
    """The standard error stream at the time of each write."""

    def write(self, text: str) -> None:
        stream = sys.stderr
        try:
            fd = stream.fileno()
        except (AttributeError, OSError, ValueError):
            if stream is not None:
                stream.write(text)
            return
        _write_all(fd, text)


def _write_all(fd: int, text: str) -> None:
    data = memoryview(text.encode(errors="replace"))
    while data:
        data = data[os.write(fd, data) :]


class WriterHandler(logging.Handler):
    """Formats records on the logging thread; writes lines on another one.

    Never blocks or raises: it drops the newest lines if too many wait, and loses lines that the target
    refuses. When lines can be written again, one line reports how many were lost, and why.
    """

    def __init__(self, target: Target, waiting: int = _WAITING) -> None:
        super().__init__()
        self._target = target
        self._most = waiting
        self._changed = threading.Condition(threading.Lock())
        self._lines: deque[str] = deque()
        self._dropped = 0
        #: Lines that the target refused since it last accepted one, and why. Used by the writing thread only.
        self._lost = 0
        self._lost_reason = ""
        #: Lines dropped or lost since this process started.
        self.missing = 0
        self._writing = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self._process = 0
        _handlers.append(self)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
        except Exception:
            return  # a line that cannot be formatted must not end the thread that logs it
        with self._changed:
            if self._process != os.getpid():
                self._after_fork()
            if len(self._lines) >= self._most:
                self._dropped += 1
                self.missing += 1
            else:
                self._lines.append(line)
            if self._thread is None:
                self._start()
            self._changed.notify_all()

    def flush_within(self, seconds: float) -> bool:
        """Wait at most `seconds` until every line is written.

        Return whether all are.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._lines or self._writing:
                left = deadline - time.monotonic()
                if left <= 0 or self._thread is None or self._process != os.getpid():
                    return False
                self._changed.wait(left)
        return True

    def flush(self) -> None:
        """Flush in bounded time: `logging.shutdown` must end with a blocked log."""
        self.flush_within(FLUSH_SECONDS)

    def close(self) -> None:
        """Write waiting lines in bounded time and end the thread.

        A later line starts it again.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with contextlib.suppress(ValueError):
            _handlers.remove(self)
        super().close()

    def _after_fork(self) -> None:
        # Threads do not survive a fork, and the parent writes the waiting lines.
        self._lines.clear()
        self._thread, self._writing, self._dropped, self._process = None, False, 0, os.getpid()
        self._lost = self.missing = 0

    def _start(self) -> None:
        self._process = os.getpid()
        thread = threading.Thread(target=self._write, name="log-writer", daemon=True)
        with contextlib.suppress(RuntimeError, MemoryError):  # the next line tries again
            thread.start()
            self._thread = thread

    def _write(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                while not self._lines:
                    if self._closed:
                        self._thread = None
                        return
                    if not self._changed.wait(_AGAIN_SECONDS if self._lost else None):
                        break  # the target may accept lines again, although none is waiting
                dropped, self._dropped = self._dropped, 0
                lines = list(self._lines)
                self._lines.clear()
                self._writing = True
            self._report_lost()
            for line in lines:
                if not self._put(line):
                    self._lost += 1
                    self.missing += 1
            if dropped:
                text = f"{dropped} log lines were dropped: the log accepted no lines for a while"
                self._report("lines_dropped", text, dropped)

    def _put(self, line: str) -> bool:
        # A line can fail, as on a full disk; the next one is still tried.
        try:
            self._target.write(line)
        except OSError as error:
            self._lost_reason = "disk full" if error.errno in _FULL else error.strerror or str(error)
        except BaseException as error:
            self._lost_reason = f"{type(error).__name__}: {error}"
        else:
            return True
        return False

    def _report_lost(self) -> None:
        """Log how many lines were lost, if the target accepts lines again."""
        if self._lost and self._report(
            "lines_lost", f"{counted(self._lost, 'line')} lost: {self._lost_reason}", self._lost
        ):
            self._lost = 0

    def _report(self, action: str, text: str, count: int) -> bool:
        record = logging.LogRecord("manager.system.logs", logging.WARNING, __file__, 0, text, None, None)
        fields: dict[str, Any] = {"action": action, "lines": count}
        setattr(record, FIELDS, fields)
        return self._put(self.format(record) + "\n")


_handlers: list[WriterHandler] = []


def missing_lines() -> int:
    """Return how many lines of this process's log were dropped or lost."""
    return sum(handler.missing for handler in _handlers)


def flush(seconds: float = FLUSH_SECONDS) -> None:
    """Wait at most `seconds` until this process's log is written.

    Call it before `os._exit`.
    """
    for handler in _handlers:
        handler.flush_within(seconds)


def _renew_locks() -> None:
    for handler in _handlers:
        handler._changed = threading.Condition(threading.Lock())


if hasattr(os, "register_at_fork"):  # another thread may hold a lock during the fork
    os.register_at_fork(after_in_child=_renew_locks)
