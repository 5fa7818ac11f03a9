"""Reads a small file safely; its path may name a device or a pipe."""

import os
import stat


class NotRegularError(OSError):
    """Raised when a path is not a regular file; the text says what it is."""


def read_regular_file(path: str, limit: int) -> bytes:
    """Return a file's content; `limit` + 1 bytes if it is longer than `limit`.

    Raises NotRegularError or another OSError. Never waits.
    """
    # O_NONBLOCK: opening a FIFO without a writer would otherwise block forever.
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            kind = (
                "is a directory; it must be a file"
                if stat.S_ISDIR(found.st_mode)
                else "is not a regular file"
            )
            raise NotRegularError(kind)
        # One byte more than its size: a shorter read is the end of the file. Reading with the limit would
        # allocate and clear that much memory for every small file.
        size = min(found.st_size, limit) + 1
        raw = os.read(fd, size)
        while size <= len(raw) <= limit and (more := os.read(fd, limit + 1 - len(raw))):
            raw += more
    finally:
        os.close(fd)
    return raw
