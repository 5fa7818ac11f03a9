"""Reading a small file that may be anything: a device, a pipe that nobody writes to, a disk full of zeros."""

import os
import stat


class NotRegularError(OSError):
    """Raised where a regular file was wanted; the text says what there is instead."""


def read_regular_file(path: str, limit: int) -> bytes:
    """Return a file's content, at most `limit` bytes and one more, by which too long a file is known.

    Raises NotRegularError or another OSError. Never waits.
    """
    # O_NONBLOCK: opening a FIFO that nobody writes to would otherwise wait for ever.
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            kind = "is a directory; a file is wanted" if stat.S_ISDIR(found.st_mode) else "is no regular file"
            raise NotRegularError(kind)
        # One byte more than it was long a moment ago: a short answer is the end. Asking for the limit each time would
        # have the system hand out and clear that much memory for every small file.
        wanted = min(found.st_size, limit) + 1
        raw = os.read(fd, wanted)
        while wanted <= len(raw) <= limit and (more := os.read(fd, limit + 1 - len(raw))):
            raw += more
    finally:
        os.close(fd)
    return raw
