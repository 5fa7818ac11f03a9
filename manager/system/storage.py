"""Disks that take no more data: what is wrong, in one line with the cure, and whether a directory can be written. A leaf."""

import errno
import os
import tempfile
from pathlib import Path
from typing import Final

#: What the system says when it is the disk, not the caller, that keeps a file from being written.
_FULL: Final = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
#: Bytes that must fit for a directory to count as writable: one block of most file systems.
_PROBE_BYTES: Final = 4_096


def disk_refuses(error: BaseException) -> bool:
    """Return whether the error says that a disk is full, over its quota or read-only."""
    return isinstance(error, OSError) and (error.errno in _FULL or error.errno == errno.EROFS)


def explain(error: OSError, path: Path) -> str:
    """Return what keeps `path` from being written, and the cure, in one line."""
    if error.errno == errno.ENOSPC:
        return f"the disk of {path} is full: free some space there (`df {path}` shows how much is left)"
    if error.errno in _FULL:
        return f"the disk quota for {path} is used up: free some space there, or raise the quota"
    if error.errno == errno.EROFS:
        return f"{path} is on a read-only disk: see the system's log for disk errors, then mount it writable again"
    return (
        f"{path} cannot be written ({error.strerror or error}): make it writable for the user that runs this"
    )


def why_not_writable(directory: Path) -> str | None:
    """Return why nothing can be written in `directory`, and the cure; None if a small file can be written.

    Writes a small file there and removes it.
    """
    try:
        fd, name = tempfile.mkstemp(prefix=".probe-", dir=directory)
    except OSError as error:
        return explain(error, directory)
    try:
        os.write(fd, b"\0" * _PROBE_BYTES)
        os.fsync(fd)
    except OSError as error:
        return explain(error, directory)
    finally:
        os.close(fd)
        Path(name).unlink(missing_ok=True)
    return None
