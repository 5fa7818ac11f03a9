"""What the system itself enforces of an account's limits, on this host."""

import contextlib
import logging
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from manager.config.models_limits import LimitsConfig
from manager.host.limits.control_groups import ControlGroups, find_groups
from manager.host.workers.records import WorkerRecord

logger = logging.getLogger(__name__)

#: The setting `MANAGER_LIMITS`.
LimitsSetting = Literal["auto", "cgroup", "rlimit", "off"]

#: Priority of processes that use too much CPU where no control group slows them down.
_NICE: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """How this host enforces limits."""

    #: `cgroup`, `watched` or `off`.
    name: str
    #: Why not a better one; empty if there is none.
    why: str = ""
    groups: ControlGroups | None = None

    def to_report(self) -> dict[str, Any]:
        """Return its part of the host's report."""
        controllers = [] if self.groups is None else sorted(self.groups.controllers)
        return {"mechanism": self.name, "why": self.why, "controllers": controllers}


def find_mechanism(setting: LimitsSetting) -> Mechanism:
    """Return how this host enforces limits. Reads and writes the control group of this process."""
    if setting == "off":
        return Mechanism(name="off", why="MANAGER_LIMITS is off")
    if setting == "rlimit":
        return Mechanism(name="watched", why="MANAGER_LIMITS is rlimit")
    if sys.platform != "linux":
        return Mechanism(name="watched", why="only Linux has control groups")
    groups, why = find_groups()
    return Mechanism(name="watched" if groups is None else "cgroup", why=why, groups=groups)


class Enforcement:
    """Gives workers their limits. Thread-safe; raises nothing."""

    def __init__(self, mechanism: Mechanism) -> None:
        self.mechanism = mechanism

    def at_start(self, record: WorkerRecord, limits: LimitsConfig) -> None:
        """Limit a new worker's process, before it starts any other process."""
        if self.mechanism.name == "off":
            return
        if limits.open_files is not None:
            limit_files([record.process.pid], limits.open_files)
        if self.mechanism.groups is not None:
            self.mechanism.groups.place(record.worker_id, record.process.pid, limits)

    def update(self, record: WorkerRecord, limits: LimitsConfig) -> None:
        """Give a running worker other limits. The watch lowers and raises those of open files."""
        if self.mechanism.groups is not None:
            self.mechanism.groups.update(record.worker_id, limits)

    def throttles(self, record: WorkerRecord) -> bool:
        """Return whether the kernel slows the worker down at its CPU limit."""
        groups = self.mechanism.groups
        return groups is not None and "cpu" in groups.controllers and groups.has(record.worker_id)

    def killed_for_memory(self, record: WorkerRecord) -> bool:
        """Return whether the kernel killed the worker because its memory reached its limit."""
        groups = self.mechanism.groups
        return groups is not None and groups.killed_for_memory(record.worker_id)

    def remove_others(self, worker_ids: Collection[str]) -> None:
        """Remove what ended workers left; `worker_ids` are those that live."""
        if self.mechanism.groups is not None:
            self.mechanism.groups.remove_others(worker_ids)


def limit_files(pids: Sequence[int], most: int) -> None:
    """Set the soft limit of open files of processes, as far as their hard limit allows (Linux)."""
    if sys.platform != "linux":
        return
    import resource

    for pid in pids:
        with contextlib.suppress(OSError, ValueError):
            soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            target = most if hard == resource.RLIM_INFINITY else min(most, hard)
            if soft != target:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (target, hard))


def lower_priority(pids: Sequence[int]) -> bool:
    """Give processes a lower priority; returns whether one has changed (not on Windows)."""
    changed = False
    if sys.platform != "win32":
        for pid in pids:
            with contextlib.suppress(OSError):
                if os.getpriority(os.PRIO_PROCESS, pid) < _NICE:
                    os.setpriority(os.PRIO_PROCESS, pid, _NICE)
                    changed = True
    return changed


__all__ = ["Enforcement", "LimitsSetting", "Mechanism", "find_mechanism", "limit_files", "lower_priority"]
