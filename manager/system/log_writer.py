"""Writing of log lines from one thread.

A log that takes no more lines (a full pipe, a hung disk) stops no other thread.
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

#: The attribute of a log record that holds an event's fields.
FIELDS: Final = "manager_fields"
#: Lines that wait while the log takes none; lines after that are dropped and counted.
_WAITING: Final = 5_000
#: Seconds between two tries to say how many lines were lost, while the log takes none.
_AGAIN_SECONDS: Final = 1.0
_FULL: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
#: Seconds that the end of a process waits for its lines to be written.
FLUSH_SECONDS: Final = 2.0


class Target(Protocol):
    """Where lines go. No lock of `logging` or of a stream is held while it writes: an exit would wait for it.

    A line that cannot be written (a full disk) raises OSError; the next one is tried all the same.
    """

    def write(self, text: str) -> None: ...


class StderrTarget:
    """Standard error as it is when a line is written."""

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
    """Formats each record on the thread that logs it, and writes the line from its own thread, in order.

    Never blocks and never fails: beyond a number of waiting lines it drops the newest, and what the target
    does not take is lost. Once lines flow again, one line says how many there were, and why.
    """

    def __init__(self, target: Target, waiting: int = _WAITING) -> None:
        super().__init__()
        self._target = target
        self._most = waiting
        self._changed = threading.Condition(threading.Lock())
        self._lines: deque[str] = deque()
        self._dropped = 0
        #: Lines that the target did not take since it took one, and why. The writing thread's own.
        self._lost = 0
        self._lost_why = ""
        #: Lines that were dropped or lost in this process's time.
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
        """Wait until every line is written, `seconds` at most; False if some are not."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._lines or self._writing:
                left = deadline - time.monotonic()
                if left <= 0 or self._thread is None or self._process != os.getpid():
                    return False
                self._changed.wait(left)
        return True

    def flush(self) -> None:
        """Called by `logging.shutdown`, which must end while the log is blocked."""
        self.flush_within(FLUSH_SECONDS)

    def close(self) -> None:
        """Write what waits, in bounded time, and end the thread; a later line starts one again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with contextlib.suppress(ValueError):
            _handlers.remove(self)
        super().close()

    def _after_fork(self) -> None:
        # Threads do not survive a fork; the lines that waited belong to the parent, which writes them.
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
                        break  # there may be room again, although nobody logs
                dropped, self._dropped = self._dropped, 0
                lines = list(self._lines)
                self._lines.clear()
                self._writing = True
            self._tell_lost()
            for line in lines:
                if not self._put(line):
                    self._lost += 1
                    self.missing += 1
            if dropped:
                text = f"{dropped} log lines were dropped: the log took no lines for a while"
                self._tell("lines_dropped", text, dropped)

    def _put(self, line: str) -> bool:
        # Where one line fails, as on a full disk, the next is tried all the same.
        try:
            self._target.write(line)
        except OSError as error:
            self._lost_why = "disk full" if error.errno in _FULL else error.strerror or str(error)
        except BaseException as error:
            self._lost_why = f"{type(error).__name__}: {error}"
        else:
            return True
        return False

    def _tell_lost(self) -> None:
        """Say how many lines were lost, if the target takes lines again."""
        if self._lost and self._tell(
            "lines_lost", f"{counted(self._lost, 'line')} lost: {self._lost_why}", self._lost
        ):
            self._lost = 0

    def _tell(self, action: str, text: str, count: int) -> bool:
        record = logging.LogRecord("manager.system.logs", logging.WARNING, __file__, 0, text, None, None)
        fields: dict[str, Any] = {"action": action, "lines": count}
        setattr(record, FIELDS, fields)
        return self._put(self.format(record) + "\n")


_handlers: list[WriterHandler] = []


def missing_lines() -> int:
    """Return how many lines of this process's log were dropped or lost."""
    return sum(handler.missing for handler in _handlers)


def flush(seconds: float = FLUSH_SECONDS) -> None:
    """Wait until this process's log is written, `seconds` at most.

    For the way out, where `os._exit` follows.
    """
    for handler in _handlers:
        handler.flush_within(seconds)


def _renew_locks() -> None:
    for handler in _handlers:
        handler._changed = threading.Condition(threading.Lock())


if hasattr(os, "register_at_fork"):  # another thread may have held a lock when this process was forked
    os.register_at_fork(after_in_child=_renew_locks)
