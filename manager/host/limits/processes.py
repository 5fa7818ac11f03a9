"""One cheap look at the processes of workers.

On Linux one pass over `/proc/*/stat` serves all workers: parent, CPU time and resident pages of every process
are in one file. Memory maps cost ten times as much and are read only where it matters; see `pss_of`.
"""

import contextlib
import os
import sys
from typing import Final, NamedTuple, Protocol

import psutil

from manager.system.processes import ProcessRef

#: Fields of `/proc/PID/stat` after the name: state, parent, times of the process and of its ended children,
#: start, resident pages.
_STATE: Final = 0
_PARENT: Final = 1
_TIMES: Final = slice(11, 15)
_START: Final = 19
_PAGES: Final = 21
_ENDED: Final = (b"Z", b"X")
#: More than a file that is read here contains.
_READ_BYTES: Final = 8192


class Tree(NamedTuple):
    """A worker's process and everything below it."""

    pids: list[int]
    cpu_seconds: float
    #: Resident bytes; counts shared pages once for each process.
    resident: int


class ProcessTable(Protocol):
    """The processes of this machine at one moment."""

    def tree(self, process: ProcessRef) -> Tree | None:
        """Return the process and its descendants; None if it has ended or cannot be read."""


class _Stat(NamedTuple):
    ended: bool
    start: int
    ticks: int
    pages: int


if sys.platform == "linux":

    class LinuxTable:
        """Every process, by one pass over `/proc`."""

        def __init__(self, root: str = "/proc") -> None:
            """Read the table. Processes that end meanwhile are left out."""
            self._stats: dict[int, _Stat] = {}
            self._children: dict[int, list[int]] = {}
            self._tick = os.sysconf("SC_CLK_TCK")
            self._page = os.sysconf("SC_PAGE_SIZE")
            for name in os.listdir(root):  # noqa: PTH208 - a third of the time of pathlib
                if not name.isdigit():
                    continue
                try:
                    stat = _read(f"{root}/{name}/stat")
                except OSError:
                    continue  # it has ended
                # The name is in parentheses and may itself contain spaces and parentheses.
                fields = stat[stat.rfind(b")") + 2 :].split()
                if len(fields) <= _PAGES:
                    continue
                pid = int(name)
                ticks = sum(map(int, fields[_TIMES]))
                ended = fields[_STATE] in _ENDED
                self._stats[pid] = _Stat(ended, int(fields[_START]), ticks, int(fields[_PAGES]))
                self._children.setdefault(int(fields[_PARENT]), []).append(pid)

        def tree(self, process: ProcessRef) -> Tree | None:
            """See `ProcessTable.tree`."""
            stat = self._stats.get(process.pid)
            # A pid alone may belong to another process by now.
            if stat is None or stat.ended or not process.start_time.endswith(f":{stat.start}"):
                return None
            pids, ticks, pages = [], 0, 0
            waiting, seen = [process.pid], {process.pid}
            while waiting:
                pid = waiting.pop()
                found = self._stats[pid]
                ticks += found.ticks  # a zombie's time is not yet in its parent's
                if not found.ended:
                    pids.append(pid)
                    pages += found.pages
                below = [child for child in self._children.get(pid, ()) if child not in seen]
                seen.update(below)
                waiting += below
            return Tree(pids, ticks / self._tick, pages * self._page)


class PsutilTable:
    """The processes of systems without `/proc`: each tree is read when it is asked for."""

    def tree(self, process: ProcessRef) -> Tree | None:
        """See `ProcessTable.tree`."""
        if not process.alive():
            return None
        pids: list[int] = []
        cpu, resident = 0.0, 0
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(process.pid)
            for one in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    times = one.cpu_times()
                    resident += one.memory_info().rss
                    cpu += times.user + times.system
                    pids.append(one.pid)
        return Tree(pids, cpu, resident) if pids else None


def _read(path: str) -> bytes:
    """Return what a small file of `/proc` contains; half of the time of `open`. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, _READ_BYTES)
    finally:
        os.close(fd)


def read_table() -> ProcessTable:
    """Return the processes of this machine."""
    if sys.platform == "linux":
        return LinuxTable()
    return PsutilTable()


def resident_of(pid: int) -> int:
    """Return the resident bytes of a process; 0 if they cannot be read."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def pss_of(pid: int) -> int | None:
    """Return the memory of a process in bytes without what it shares; 0 if it has ended.

    Linux: the proportional set size. Windows: private bytes. Others: the unique set size. None if it cannot
    be read. The resident size is never used instead: it counts shared pages in full.

    May block while the process changes its memory map.
    """
    if sys.platform != "linux":
        return _private_of(pid)
    try:
        for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        return 0
    except (OSError, ValueError):
        return None
    return None


def _private_of(pid: int) -> int | None:
    try:
        process = psutil.Process(pid)
        found = getattr(process.memory_info(), "private", None)
        return int(process.memory_full_info().uss if found is None else found)
    except psutil.NoSuchProcess:
        return 0
    except (psutil.Error, AttributeError):
        return None


def open_files_of(pid: int) -> int | None:
    """Return how many files a process has open; None if that cannot be read."""
    try:
        if sys.platform == "linux":
            directory = f"/proc/{pid}/fd"
            # Linux 6.2 and later gives the number as the size: a quarter of the time of a listing.
            return os.stat(directory).st_size or len(os.listdir(directory))  # noqa: PTH116, PTH208
        if sys.platform == "win32":
            return psutil.Process(pid).num_handles()
        return psutil.Process(pid).num_fds()
    except (OSError, psutil.Error):
        return None


def most_open(pids: list[int]) -> int | None:
    """Return the most open files of any of the processes; None if none can be read."""
    counts = [count for count in map(open_files_of, pids) if count is not None]
    return max(counts, default=None)
