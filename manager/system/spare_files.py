"""Reserved file descriptors for ending processes. A leaf.

Without them, a host agent that has used up its open files cannot open a pidfd, and a stop fails while the
worker trades. A search for a program's remaining processes would find none, which would count as proof of its
end.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

#: Number of reserved descriptors: enough to walk /proc, read a file there, and open a pidfd.
_SPARE: Final = 8
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE})

_lock: Final = threading.RLock()
_spare: Final[list[int]] = []
_reserving = False


def is_shortage(error: BaseException) -> bool:
    """Return whether the error means that no more files can be opened."""
    return isinstance(error, OSError) and error.errno in _SHORT


def is_own_shortage(error: BaseException | None) -> bool:
    """Return whether the error or its cause is this process's file limit."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno == errno.EMFILE:
            return True
        error = error.__cause__ or error.__context__
    return False


def raise_shortage(error: OSError) -> None:
    """Raise the error if it is a shortage of files.

    For callers that ignore other errors.
    """
    if is_shortage(error):
        raise error


def reserve_files() -> None:
    """Reserve descriptors in this process. Idempotent."""
    global _reserving  # noqa: PLW0603 - a process has one table of open files
    with _lock:
        _reserving = True
        _refill()


def with_spare(call: Callable[[], T]) -> T:
    """Return `call()`; if files are exhausted, free the reserve and retry."""
    try:
        return call()
    except OSError as error:
        if not (is_shortage(error) and _reserving):
            raise
    with _lock:
        # Refill the reserve first: files of closed connections may be available again.
        _refill()
        while _spare:
            os.close(_spare.pop())
        try:
            return call()
        finally:
            _refill()


def close_file(fd: int) -> None:
    """Close a descriptor that may come from the reserve; refill the reserve."""
    os.close(fd)
    if _reserving and len(_spare) < _SPARE:
        with _lock:
            _refill()


def _refill() -> None:
    with contextlib.suppress(OSError):
        while len(_spare) < _SPARE:
            _spare.append(os.open(os.devnull, os.O_RDONLY))


def _forget() -> None:
    # A forked child reserves its own descriptors; the inherited ones would only use up files.
    global _reserving  # noqa: PLW0603
    _reserving = False
    for fd in _spare:
        with contextlib.suppress(OSError):
            os.close(fd)
    _spare.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
