"""A file lock, which the system releases when its process dies."""

import contextlib
import os
import sys
from pathlib import Path

from manager.system.storage import disk_refuses

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


class FileLock:
    """Locks a file and writes the holder's pid to it, for messages."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self) -> bool:
        """Acquire the lock without waiting.

        Return False if another process holds it. If the file exists, this works on a full or read-only disk
        too, without writing the pid. Raises OSError if the file cannot be opened.
        """
        fd = self._open()
        try:
            if sys.platform == "win32":
                # Lock bytes beyond the pid's text, which other processes read.
                os.lseek(fd, 64, os.SEEK_SET)
                msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
                os.lseek(fd, 0, os.SEEK_SET)
            else:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return False
        with contextlib.suppress(OSError):
            # Overwrite before truncating: a full disk still has the file's present blocks.
            length = os.write(fd, f"{os.getpid()}\n".encode())
            os.ftruncate(fd, length)
        self._fd = fd
        return True

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            if sys.platform == "win32" or not disk_refuses(error):
                raise
            if not self._path.exists():
                raise
            return os.open(self._path, os.O_RDONLY)  # sufficient for flock

    def renew(self) -> bool:
        """Create and lock the file again if it was removed.

        Return False if another process locked it. Returns True without a lock on that path if no file can be
        created now. Does nothing while the lock is not held.
        """
        if self._fd is None or self._named():
            return True
        old, self._fd = self._fd, None
        try:
            taken = self.acquire()
        except OSError:
            taken, self._fd = True, old
        else:
            if taken:
                os.close(old)
            else:
                self._fd = old
        return taken

    def _named(self) -> bool:
        if self._fd is None:
            return False
        try:
            found, ours = self._path.stat(), os.fstat(self._fd)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)

    def held(self) -> bool:
        """Return whether another process holds the lock now."""
        if not self._path.exists():
            return False
        if self.acquire():
            self.release()
            return False
        return True

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def holder(self) -> int | None:
        """Return the pid in the file: the holder's, if the lock is held."""
        with contextlib.suppress(OSError, ValueError):
            return int(self._path.read_text().strip())
        return None
