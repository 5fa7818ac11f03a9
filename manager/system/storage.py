"""Errors of full and read-only disks, with their remedies. A leaf."""

import errno
import os
import tempfile
from pathlib import Path
from typing import Final

#: Errors that are caused by the disk and not by the caller.
_FULL: Final = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
#: Size in bytes of the test file that a writable directory must accept: one block of most file systems.
_PROBE_BYTES: Final = 4_096


def disk_refuses(error: BaseException) -> bool:
    """Return whether the error means a full, read-only or over-quota disk."""
    return isinstance(error, OSError) and (error.errno in _FULL or error.errno == errno.EROFS)


def explain(error: OSError, path: Path) -> str:
    """Return in one line why `path` cannot be written, and the remedy."""
    if error.errno == errno.ENOSPC:
        return f"the disk of {path} is full: free some space there (`df {path}` shows how much is left)"
    if error.errno in _FULL:
        return f"the disk quota for {path} is used up: free some space there, or raise the quota"
    if error.errno == errno.EROFS:
        return (
            f"{path} is on a read-only disk: see the system's log for disk errors, "
            "then mount it writable again"
        )
    return (
        f"{path} cannot be written ({error.strerror or error}): make it writable for the user that runs this"
    )


def write_problem(directory: Path) -> str | None:
    """Return why `directory` cannot be written, and the remedy.

    None if it can. Writes a small file there and removes it.
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
