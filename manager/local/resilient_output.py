"""Standard output that may go away: a terminal that is closed, a pipe that nobody reads, a full disk."""

import contextlib
import os
import sys
from io import TextIOBase
from pathlib import Path
from typing import TextIO

from manager.system.storage import disk_refuses


class ResilientOutput(TextIOBase):
    """Writes to a stream, and to a log file from the moment at which the stream is gone.

    What a full disk does not take is dropped: there is room again some day. `manager up` ends a fleet after its terminal was closed. An error for its own output must not keep it from that.
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
                self._drop()
                return len(text)
            self._leave()
            with contextlib.suppress(OSError):
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            if disk_refuses(error):
                self._drop()
                return
            self._leave()
            with contextlib.suppress(OSError):
                self._stream.flush()  # what it still holds goes to the log

    def _drop(self) -> None:
        """Drop what the stream still holds: the next flush, at the end of the process too, would fail again."""
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

    def _leave(self) -> None:
        """Put the log file, or nothing at all, in the place of the output that is gone."""
        self._lost = True
        try:
            new = os.open(self._log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError:
            new = os.open(os.devnull, os.O_WRONLY)
        for fd in self._fds:
            os.dup2(new, fd)
        os.close(new)
