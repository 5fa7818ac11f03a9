"""What a worker, with every process below it, uses of its machine: CPU, memory, number of processes.

A thread measures it every few seconds, and more rarely where measuring is expensive: the session's loop only
reads the latest figures. Reading a process's memory map can block for as long as that process holds it, and
must not make the worker look hung.

Memory is the proportional set size (PSS): workers are forked from one preloaded process, and the resident set
(RSS) counts the pages that they share once for each of them. A program in a control group with a memory
controller is measured by that.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from manager.gateways.command.cgroups import cgroup_of, members
from manager.gateways.command.process_tree import tree
from manager.models import WorkerMetrics

#: Seconds before the first measurement, before the second, and between later ones.
_FIRST_SECONDS: Final = 1.0
_SECOND_SECONDS: Final = 4.0
_SAMPLE_SECONDS: Final = 10.0
#: Seconds between two looks at memory maps, which cost ten times as much as all the rest: where the resident
#: memory has changed by more than this part of it, and where it has not.
_MEMORY_SECONDS: Final = 15.0
_STEADY_SECONDS: Final = 60.0
_STEADY_PART: Final = 0.02
#: Measuring takes at most one part in so many of one core's time; waiting for the system is not counted.
_SHARE: Final = 500
#: Of a process's `stat`, after the name: state, user and system time, those of ended children, resident size.
_STATE: Final = 0
_OWN_TIME: Final = slice(11, 13)
_ALL_TIME: Final = slice(11, 15)
_PAGES: Final = 21


class _Look(NamedTuple):
    """What one cheap look at the tree shows."""

    cpu_seconds: float
    #: Processes whose memory maps are to be read.
    pids: list[int]
    processes: int
    #: Of the worker's own process, and the sum of all.
    rss: int
    resident: int
    #: The program's control group's, where that is known.
    grouped: int | None = None


class ResourceMeter:
    """Measures the tree below this process. `start` and `stop` once each; `figures` from any thread."""

    def __init__(
        self,
        worker_id: str = "",
        cgroup_note: Path | None = None,
        *,
        root: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`cgroup_note` names the control group of the worker's program, once there is one."""
        self._worker_id = worker_id
        self._note = cgroup_note
        self._root = root or os.getpid()
        self._clock = clock
        self._process = psutil.Process(self._root)
        self._resident = 0
        self._cgroup: Path | None = None
        self._cpu: tuple[float, float] | None = None
        self._memory: int | None = None
        self._memory_due = float("-inf")
        self._figures = WorkerMetrics(rss_bytes=self._process.memory_info().rss)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resources", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Measure no more; does not wait for a measurement that is under way."""
        self._stopped.set()

    def figures(self) -> WorkerMetrics:
        """Return the latest figures: `rss_bytes` always, the others once they are measured."""
        return self._figures

    def measure(self) -> float:
        """Measure now; returns the seconds until the next measurement is due."""
        began = time.thread_time()
        now = self._clock()
        look = self._read()
        cpu = look.cpu_seconds
        figures = WorkerMetrics(rss_bytes=look.rss, processes=look.processes)
        if self._cpu is not None and now > self._cpu[0]:
            # A process that leaves without being waited for takes its time along: never less than nothing.
            used = max(0.0, cpu - self._cpu[1])
            percent = round(100 * used / (now - self._cpu[0]), 1)
            figures = figures.updated(WorkerMetrics(cpu_percent=percent))
        first = self._cpu is None
        self._cpu = (now, cpu)
        self._read_memory(look, now)
        if self._memory is not None:
            figures = figures.updated(WorkerMetrics(memory_bytes=self._memory))
        self._figures = figures
        return max(_SECOND_SECONDS if first else _SAMPLE_SECONDS, _SHARE * (time.thread_time() - began))

    def _read_memory(self, look: _Look, now: float) -> None:
        moved = abs(look.resident - self._resident) > _STEADY_PART * self._resident
        if now < (self._memory_due if moved else self._memory_due + _STEADY_SECONDS - _MEMORY_SECONDS):
            return
        began = time.thread_time()
        self._memory = (look.grouped or 0) + sum(map(memory_of, look.pids))
        self._resident = look.resident
        self._memory_due = now + max(_MEMORY_SECONDS, _SHARE * (time.thread_time() - began))

    # inside

    def _run(self) -> None:
        seconds = _FIRST_SECONDS
        while not self._stopped.wait(seconds):
            try:
                seconds = self.measure()
            except (OSError, ValueError, psutil.Error):
                seconds = _MEMORY_SECONDS  # figures for people: the session goes on without them

    def _read(self) -> _Look:
        if sys.platform != "linux":
            return _read_psutil(self._process)
        group = self._group()
        inside = set() if group is None else set(members(group))
        times, living, pages = 0, [], {self._root: 0}
        for pid, stat in tree(self._root, inside):
            # What a control group counts must not be counted again by the parent that waited for it.
            times += sum(map(int, stat[_OWN_TIME if group is not None else _ALL_TIME]))
            if stat[_STATE] not in (b"Z", b"X"):
                living.append(pid)
                pages[pid] = int(stat[_PAGES])
        cpu = times / os.sysconf("SC_CLK_TCK")
        memory = None
        if group is not None:
            cpu += (_value(group / "cpu.stat", "usage_usec") or 0) / 1e6
            memory = cgroup_memory(group)
        page = os.sysconf("SC_PAGE_SIZE")
        return _Look(
            cpu,
            living if memory is not None else [*living, *inside],
            len(living) + len(inside),
            pages[self._root] * page,
            sum(pages.values()) * page + (memory or 0),
            memory,
        )

    def _group(self) -> Path | None:
        if self._cgroup is None and self._note is not None and self._note.exists():
            found = cgroup_of(self._worker_id, self._note)
            # Before its CPU time counts, it must be known how much that is.
            if found is not None and _value(found / "cpu.stat", "usage_usec") is not None:
                self._cgroup, self._cpu = found, None
        return self._cgroup


def memory_of(pid: int) -> int:
    """Return the memory of one process in bytes, shared pages by how many share them; 0 if it has ended.

    Where that is not readable (another user's process) or not known (not Linux) it is the private part alone.
    """
    if sys.platform != "linux":
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(pid).memory_info()
            return int(getattr(found, "private", found.rss))
        return 0
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123 - a third of the time of pathlib
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    with contextlib.suppress(OSError, ValueError):
        resident, shared = Path(f"/proc/{pid}/statm").read_bytes().split()[1:3]
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    return 0


def cgroup_memory(directory: Path) -> int | None:
    """Return the memory of a control group, without file pages that the system can give up at once.

    None where the group has no memory controller.
    """
    try:
        current = int((directory / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return max(0, current - (_value(directory / "memory.stat", "inactive_file") or 0))


def _value(path: Path, key: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    return None


def _read_psutil(process: psutil.Process) -> _Look:
    cpu, pids, resident = 0.0, [], 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = one.cpu_times()
            cpu += sum(times[:4]) if sys.platform != "win32" else times.user + times.system
            resident += one.memory_info().rss
            pids.append(one.pid)
    return _Look(cpu, pids, len(pids), process.memory_info().rss, resident)
