"""File descriptors in reserve, for what must work when no further file may be opened: ending a process. A leaf.

What this prevents: a host agent that has used up its open files cannot look at a process or open a pidfd, so that a stop
fails while the worker trades; or a search for what a program left running sees nothing, and is taken for proof.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

#: Descriptors in reserve: enough to walk through directories of the system, read a file there, and open a pidfd.
_SPARE: Final = 8
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE})

_lock: Final = threading.RLock()
_spare: Final[list[int]] = []
_reserving = False


def is_shortage(error: BaseException) -> bool:
    """Return whether the error says that no further file may be opened."""
    return isinstance(error, OSError) and error.errno in _SHORT


def is_own_shortage(error: BaseException | None) -> bool:
    """Return whether this process has used up its open files, by an error or by what caused it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno == errno.EMFILE:
            return True
        error = error.__cause__ or error.__context__
    return False


def raise_shortage(error: OSError) -> None:
    """Raise the error if it is a shortage of files; for callers that may ignore every other error."""
    if is_shortage(error):
        raise error


def reserve_files() -> None:
    """Keep descriptors in reserve from now on, in this process. Idempotent."""
    global _reserving  # noqa: PLW0603 - a process has one table of open files
    with _lock:
        _reserving = True
        _refill()


def with_spare(call: Callable[[], T]) -> T:
    """Return what `call` returns; if it fails for want of files, call it once more with the reserve set free."""
    try:
        return call()
    except OSError as error:
        if not (is_shortage(error) and _reserving):
            raise
    with _lock:
        # What was used up before, by a connection that is open no more, comes back first.
        _refill()
        while _spare:
            os.close(_spare.pop())
        try:
            return call()
        finally:
            _refill()


def close_file(fd: int) -> None:
    """Close a descriptor that `with_spare` may have given; the reserve gets it back."""
    os.close(fd)
    if _reserving and len(_spare) < _SPARE:
        with _lock:
            _refill()


def _refill() -> None:
    with contextlib.suppress(OSError):
        while len(_spare) < _SPARE:
            _spare.append(os.open(os.devnull, os.O_RDONLY))


def _forget() -> None:
    # A forked child that wants a reserve asks for one; what it inherited is only in its way.
    global _reserving  # noqa: PLW0603
    _reserving = False
    for fd in _spare:
        with contextlib.suppress(OSError):
            os.close(fd)
    _spare.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
