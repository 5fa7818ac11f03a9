"""Atomic writes: a reader sees either the old or the new content. A leaf."""

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
import time
from pathlib import Path
from typing import Final

#: Age in seconds from which a draft counts as left behind by a process that died while writing.
_LEFT_AFTER: Final = 3_600.0
_DRAFT: Final = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
#: Errors of file systems that cannot sync a directory.
_NO_DIRECTORY_SYNC: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM})


def write(path: Path, data: str | bytes, *, mode: int = 0o600, durable: bool = False) -> Path:
    """Replace the file at `path` atomically with `data` and return the path.

    The new file has `mode` (less the umask), and replaces a symbolic link at `path` instead of following it.
    Concurrent writers of one path are safe: the last one wins. Text is written as UTF-8. With `durable` the
    file survives a power failure after this returns, at the cost of two syncs to disk.

    Raises:
        OSError: The file could not be written and is unchanged; the error names `path`.
    """
    raw = data.encode() if isinstance(data, str) else data
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        # An unguessable name and O_EXCL: in a shared directory a planted link could redirect the write.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(draft, flags, mode), "wb") as file:
            file.write(raw)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
        if durable:
            _sync_directory(path.parent)
    except OSError as error:
        _discard(draft)
        if error.errno is None:
            raise
        # The draft's name would mean nothing to a reader of the message.
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        _discard(draft)
        raise
    return path


def remove_left_drafts(directory: Path, *, older_than_seconds: float = _LEFT_AFTER) -> None:
    """Remove drafts of processes that died while writing. Raises nothing."""
    before = time.time() - older_than_seconds
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if not _DRAFT.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(found.st_mode) and found.st_mtime < before:
                    os.unlink(entry.path)  # noqa: PTH108 - the entry has the path as text


def _discard(draft: Path) -> None:
    with contextlib.suppress(OSError):
        draft.unlink()


def _sync_directory(directory: Path) -> None:
    """Sync a rename to disk.

    Without it a power failure may bring the old file back.
    """
    if sys.platform == "win32":
        return  # a directory cannot be opened there, and NTFS journals the rename
    try:
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
