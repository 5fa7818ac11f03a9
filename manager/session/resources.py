"""Measures CPU, memory and processes of a worker's process tree.

A thread measures every few seconds, less often where measuring is expensive; the session's loop only reads
the latest figures. Reading a process's memory map blocks while that process holds it, which must not make the
worker look hung.

Memory is the proportional set size (PSS): workers are forked from one preloaded process, and the resident set
size (RSS) counts their shared pages once for each of them. The memory of a program in a control group with a
memory controller is read from the controller.
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
#: Seconds between reads of memory maps, which cost ten times as much as everything else: if the resident
#: memory has changed by more than this fraction, and if it has not.
_MEMORY_SECONDS: Final = 15.0
_STEADY_SECONDS: Final = 60.0
_STEADY_PART: Final = 0.02
#: Measuring uses at most 1/500 of one core's time, waiting excluded.
_SHARE: Final = 500
#: Fields of `/proc/PID/stat` after the name: state, user and system time, with those of ended children,
#: resident pages.
_STATE: Final = 0
_OWN_TIME: Final = slice(11, 13)
_ALL_TIME: Final = slice(11, 15)
_PAGES: Final = 21


class _Sample(NamedTuple):
    """One cheap measurement of the process tree."""

    cpu_seconds: float
    #: Processes whose memory maps are read.
    pids: list[int]
    processes: int
    #: Resident bytes of the worker's process, and of all processes.
    rss: int
    resident: int
    #: Memory of the program's control group in bytes, if known.
    grouped: int | None = None


class ResourceMeter:
    """Measures the process tree below this process.

    Call `start` and `stop` once each; `figures` is thread-safe.
    """

    def __init__(
        self,
        worker_id: str = "",
        cgroup_note: Path | None = None,
        *,
        root: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Measure `root`, by default this process.

        The file `cgroup_note` names the control group of the worker's program, once there is one.
        """
        self._worker_id = worker_id
        self._note = cgroup_note
        self._root = root or os.getpid()
        self._clock = clock
        self._process = psutil.Process(self._root)
        self._resident = 0
        self._cgroup: Path | None = None
        self._cpu: tuple[float, float] | None = None
        #: CPU seconds of the tree so far; never decreases.
        self._used = 0.0
        self._memory: int | None = None
        #: The largest measured memory in bytes; None before the first measurement.
        self.memory_peak: int | None = None
        self._memory_due = float("-inf")
        self._figures = WorkerMetrics(rss_bytes=self._process.memory_info().rss)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resources", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; does not wait for a running measurement."""
        self._stopped.set()

    def figures(self) -> WorkerMetrics:
        """Return the latest figures: always `rss_bytes`, the others once measured."""
        return self._figures

    def measure(self) -> float:
        """Measure now and return the seconds until the next measurement."""
        began = time.thread_time()
        now = self._clock()
        sample = self._read()
        cpu = sample.cpu_seconds
        # A process that ends without being waited for takes its CPU time away from the sum.
        used = max(0.0, cpu - self._cpu[1]) if self._cpu is not None else 0.0
        self._used = self._used + used if self._cpu is not None else max(self._used, cpu)
        figures = WorkerMetrics(
            rss_bytes=sample.rss, processes=sample.processes, cpu_seconds=round(self._used, 2)
        )
        if self._cpu is not None and now > self._cpu[0]:
            percent = round(100 * used / (now - self._cpu[0]), 1)
            figures = figures.updated(WorkerMetrics(cpu_percent=percent))
        first = self._cpu is None
        self._cpu = (now, cpu)
        self._read_memory(sample, now)
        if self._memory is not None:
            figures = figures.updated(WorkerMetrics(memory_bytes=self._memory))
        self._figures = figures
        return max(_SECOND_SECONDS if first else _SAMPLE_SECONDS, _SHARE * (time.thread_time() - began))

    def _read_memory(self, sample: _Sample, now: float) -> None:
        moved = abs(sample.resident - self._resident) > _STEADY_PART * self._resident
        if now < (self._memory_due if moved else self._memory_due + _STEADY_SECONDS - _MEMORY_SECONDS):
            return
        began = time.thread_time()
        self._memory = (sample.grouped or 0) + sum(map(memory_of, sample.pids))
        self.memory_peak = max(self._memory, self.memory_peak or 0)
        self._resident = sample.resident
        self._memory_due = now + max(_MEMORY_SECONDS, _SHARE * (time.thread_time() - began))

    # inside

    def _run(self) -> None:
        seconds = _FIRST_SECONDS
        while not self._stopped.wait(seconds):
            try:
                seconds = self.measure()
            except (OSError, ValueError, psutil.Error):
                seconds = _MEMORY_SECONDS  # the session does not need these figures

    def _read(self) -> _Sample:
        if sys.platform != "linux":
            return _read_psutil(self._process)
        group = self._group()
        inside = set() if group is None else set(members(group))
        times, living, pages = 0, [], {self._root: 0}
        for pid, stat in tree(self._root, inside):
            # The control group already counts these children; their parent would count them again.
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
        return _Sample(
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
            # Start the CPU interval again, because the group's earlier CPU time is not in the last sum.
            if found is not None and _value(found / "cpu.stat", "usage_usec") is not None:
                self._cgroup, self._cpu = found, None
        return self._cgroup


def memory_of(pid: int) -> int:
    """Return the proportional set size of a process in bytes.

    0 if it has ended. If that cannot be read (another user's process, or not Linux) the private memory is
    returned.
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
    """Return a control group's memory in bytes, without inactive file pages.

    None if the group has no memory controller.
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


def _read_psutil(process: psutil.Process) -> _Sample:
    cpu, pids, resident = 0.0, [], 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = one.cpu_times()
            cpu += sum(times[:4]) if sys.platform != "win32" else times.user + times.system
            resident += one.memory_info().rss
            pids.append(one.pid)
    return _Sample(cpu, pids, len(pids), process.memory_info().rss, resident)
