"""Standard output that survives closed terminals and full disks."""

import contextlib
import os
import sys
from io import TextIOBase
from pathlib import Path
from typing import TextIO

from manager.system.storage import disk_refuses


class ResilientOutput(TextIOBase):
    """Writes to a stream, and to a log file after the stream was closed.

    `manager up` must stop the fleet after its terminal was closed, so an error of its output must not end
    it. Text that a full disk does not accept is dropped.
    """

    def __init__(self, stream: TextIO, log_file: Path) -> None:
        self._stream = stream
        self._log_file = log_file
        self._lost = False
        self._fds = [stream.fileno()]
        if sys.stderr is not None and sys.stderr is not stream:
            with contextlib.suppress(OSError, ValueError):
                if os.isatty(sys.stderr.fileno()):
                    self._fds.append(sys.stderr.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def isatty(self) -> bool:
        return not self._lost and self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError as error:
            if disk_refuses(error):
                self._discard()
                return len(text)
            self._switch_to_log()
            with contextlib.suppress(OSError):
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            if disk_refuses(error):
                self._discard()
                return
            self._switch_to_log()
            with contextlib.suppress(OSError):
                self._stream.flush()  # the buffered text goes to the log

    def _discard(self) -> None:
        """Drop the buffered text, which would fail again at the next flush or at exit."""
        fd = self._stream.fileno()
        kept = os.dup(fd)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, fd)
            with contextlib.suppress(OSError):
                self._stream.flush()
        finally:
            os.dup2(kept, fd)
            os.close(kept)
            os.close(nowhere)

    def _switch_to_log(self) -> None:
        """Replace the closed output with the log file, or with /dev/null."""
        self._lost = True
        try:
            new = os.open(self._log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError:
            new = os.open(os.devnull, os.O_WRONLY)
        for fd in self._fds:
            os.dup2(new, fd)
        os.close(new)
