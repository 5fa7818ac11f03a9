"""A private log file that is rotated by size and reopened if moved.

Other programs move and remove log files while they are written (logrotate, `rm -r logs`). Without reopening,
a worker would write for days to an unlinked file, and `manager logs` would show nothing.
"""

import contextlib
import os
import sys
from pathlib import Path

from manager.system.private_dirs import ensure_private_dir


class FileTarget:
    """Writes to `path`.

    At `max_bytes` the file becomes `.1`, the earlier `.1` becomes `.2`, and so on. Used by one thread.
    `write` raises OSError if it could not write the whole line.
    """

    def __init__(self, path: Path, max_bytes: int, backups: int, also_fd: int | None = None) -> None:
        """Create the directory and open the file.

        Raises OSError that names the path. The descriptor `also_fd` (2: standard error) is redirected to the
        current file, after each rotation too.
        """
        self._path, self._max_bytes, self._backups = path, max_bytes, backups
        self._also_fd = also_fd
        self._size = 0
        #: Whether the last line is incomplete, for example because the disk was full.
        self._torn = False
        self._fd = -1
        self._replace(self._open())

    def write(self, text: str) -> None:
        data = text.encode(errors="replace")
        self._follow_name()
        if self._backups and self._size and self._size + len(data) > self._max_bytes:
            self._rotate()
        self._append(b"\n" + data if self._torn else data)

    def close(self) -> None:
        """Close the file. Idempotent; a later `write` opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                written = os.write(self._fd, left)
                left = left[written:]
                self._size += written
        finally:
            if len(left) < len(data):
                self._torn = bool(left)

    def _open(self) -> int:
        ensure_private_dir(self._path.parent)
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(fd).st_size
        return fd

    def _named(self) -> bool:
        """Return whether the path still names the open file."""
        try:
            found = self._path.stat()
        except OSError:
            return False
        ours = os.fstat(self._fd)
        return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)

    def _follow_name(self) -> None:
        if self._fd < 0:
            self._replace(self._open())
        if self._named():
            return
        # If no new file can be created, write to the open one: it may still exist under another name.
        with contextlib.suppress(OSError):
            self._replace(self._open())

    def _replace(self, fd: int) -> None:
        old, self._fd = self._fd, fd
        self._torn = False
        if self._also_fd is not None:
            with contextlib.suppress(OSError):
                os.dup2(fd, self._also_fd)
        if old >= 0:
            os.close(old)

    def _rotate(self) -> None:
        if not self._named():
            return  # the path names another file, which must not be renamed
        if sys.platform == "win32":
            self.close()  # an open file cannot be renamed there
        for number in range(self._backups - 1, 0, -1):
            with contextlib.suppress(OSError):
                Path(f"{self._path}.{number}").replace(f"{self._path}.{number + 1}")
        with contextlib.suppress(OSError):
            self._path.replace(f"{self._path}.1")
        self._drop_older()
        with contextlib.suppress(OSError):
            self._replace(self._open())

    def _drop_older(self) -> None:
        """Remove rotated files that a larger setting has left."""
        number = self._backups + 1
        with contextlib.suppress(OSError):
            while True:
                os.unlink(f"{self._path}.{number}")  # noqa: PTH108
                number += 1
