"""Writing of log lines from one thread: a log that takes no more lines (a full pipe, a hung disk) stops no other thread."""

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final, Protocol

#: Lines that wait while the log takes none; lines after that are dropped and counted.
_WAITING: Final = 5_000
#: Seconds that the end of a process waits for its lines to be written.
FLUSH_SECONDS: Final = 2.0


class Target(Protocol):
    """Where lines go. No lock of `logging` or of a stream is held while it writes: an exit would wait for it."""

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


class FileTarget:
    """A file that its owner alone may read; at `max_bytes` it becomes `.1`, the earlier `.1` becomes `.2`, and so on."""

    def __init__(self, path: Path, max_bytes: int, backups: int) -> None:
        self._path, self._max_bytes, self._backups = path, max_bytes, backups
        self._fd = self._open()
        self._size = os.fstat(self._fd).st_size

    def write(self, text: str) -> None:
        length = len(text.encode(errors="replace"))
        if self._backups and self._size and self._size + length > self._max_bytes:
            self._rotate()
        _write_all(self._fd, text)
        self._size += length

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _rotate(self) -> None:
        if sys.platform == "win32":
            os.close(self._fd)  # an open file cannot be renamed there
        for number in range(self._backups - 1, 0, -1):
            with contextlib.suppress(OSError):
                Path(f"{self._path}.{number}").replace(f"{self._path}.{number + 1}")
        with contextlib.suppress(OSError):
            self._path.replace(f"{self._path}.1")
        fd = self._open()
        if sys.platform != "win32":
            os.close(self._fd)
        self._fd, self._size = fd, os.fstat(fd).st_size


def _write_all(fd: int, text: str) -> None:
    data = memoryview(text.encode(errors="replace"))
    while data:
        data = data[os.write(fd, data) :]


class WriterHandler(logging.Handler):
    """Formats each record on the thread that logs it, and writes the line from its own thread, in order.

    Never blocks: beyond a number of waiting lines it drops the newest, and says how many once lines flow again.
    """

    def __init__(self, target: Target, waiting: int = _WAITING) -> None:
        super().__init__()
        self._target = target
        self._most = waiting
        self._changed = threading.Condition(threading.Lock())
        self._lines: deque[str] = deque()
        self._dropped = 0
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
                    self._changed.wait()
                dropped, self._dropped = self._dropped, 0
                lines = list(self._lines)
                self._lines.clear()
                self._writing = True
            for line in lines:
                self._put(line)
            if dropped:
                text = f"{dropped} log lines were dropped: the log took no lines for a while"
                record = logging.LogRecord(
                    "manager.system.logs", logging.WARNING, __file__, 0, text, None, None
                )
                self._put(self.format(record) + "\n")

    def _put(self, line: str) -> None:
        # Where one line fails, as on a full disk, the next is tried all the same.
        with contextlib.suppress(BaseException):
            self._target.write(line)


_handlers: list[WriterHandler] = []


def flush(seconds: float = FLUSH_SECONDS) -> None:
    """Wait until this process's log is written, `seconds` at most: for the way out, where `os._exit` follows."""
    for handler in _handlers:
        handler.flush_within(seconds)


def _renew_locks() -> None:
    for handler in _handlers:
        handler._changed = threading.Condition(threading.Lock())


if hasattr(os, "register_at_fork"):  # another thread may have held a lock when this process was forked
    os.register_at_fork(after_in_child=_renew_locks)
