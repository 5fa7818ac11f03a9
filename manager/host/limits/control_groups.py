"""A control group for each limited worker (Linux, cgroup v2), below the group of the agent's service.

The kernel allows controllers below a group only if that group itself has no process. The agent must therefore
be in its own group, beside those of the workers: systemd 254 and later does that for a unit with
`DelegateSubgroup=agent`. This module never moves the agent: an older systemd could not start a unit again if
its group had controllers below it.

    <unit>/agent          the agent, its fork server, workers without such limits
    <unit>/w-<worker id>  a limited worker; its program's own group lies below
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from manager.config.models_limits import LimitsConfig
from manager.system import logs

logger = logging.getLogger(__name__)

#: The name of the agent's group, as the systemd unit gives it.
_AGENT_GROUP: Final = "agent"
_PREFIX: Final = "w-"
#: Controllers that limits use.
_CONTROLLERS: Final = ("memory", "cpu", "pids")
#: Microseconds of a period of `cpu.max`.
_PERIOD: Final = 100_000
#: `pids.max` counts threads: it only ends fork bombs, and this host counts the processes itself.
_THREADS_PER_PROCESS: Final = 32
_LEAST_THREADS: Final = 512
_MIB: Final = 1 << 20


class ControlGroups:
    """The control groups of one host's limited workers. Thread-safe."""

    def __init__(
        self, base: Path, controllers: Collection[str], make: Callable[[Path], None] = Path.mkdir
    ) -> None:
        """Use groups below `base`, which may give them `controllers`. `make` creates a group."""
        self._base = base
        self.controllers = frozenset(controllers)
        self._make = make
        #: Held while a group is created and filled: an empty group may be removed at any other time.
        self._lock = threading.Lock()

    def place(self, worker_id: str, pid: int, limits: LimitsConfig) -> bool:
        """Put a new worker into its group, with its limits.

        Returns whether it is in it. Without a limit that a group can enforce none is made.
        """
        if not self.settings(limits):
            return False
        group = self._group(worker_id)
        try:
            with self._lock:
                if not group.is_dir():
                    self._make(group)
                self._write(group, self.settings(limits))
                (group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            text = f"{group}: {error.strerror or error}; its limits are watched instead"
            logs.event(logger, logging.WARNING, "cgroup_failed", text, worker=worker_id)
            return False
        return True

    def update(self, worker_id: str, limits: LimitsConfig) -> None:
        """Change the limits of a running worker that has a group. Raises nothing."""
        group = self._group(worker_id)
        if not group.is_dir():
            return
        none = {f"{name}.max": "max" for name in self.controllers}
        try:
            self._write(group, none | self.settings(limits))
        except OSError as error:
            text = f"{group}: {error.strerror or error}"
            logs.event(logger, logging.WARNING, "cgroup_failed", text, worker=worker_id)

    def has(self, worker_id: str) -> bool:
        """Return whether the worker has a group."""
        return self._group(worker_id).is_dir()

    def settings(self, limits: LimitsConfig) -> dict[str, str]:
        """Return the files of a group and their contents, for the limits that it can enforce."""
        found: dict[str, str] = {}
        if limits.memory_hard_mb is not None and "memory" in self.controllers:
            found["memory.max"] = str(limits.memory_hard_mb * _MIB)
            found["memory.oom.group"] = "1"
        if limits.cpu_percent is not None and limits.on_exceed == "throttle" and "cpu" in self.controllers:
            found["cpu.max"] = f"{max(1000, int(limits.cpu_percent * _PERIOD / 100))} {_PERIOD}"
        if limits.processes is not None and "pids" in self.controllers:
            found["pids.max"] = str(max(_LEAST_THREADS, limits.processes * _THREADS_PER_PROCESS))
        return found

    def killed_for_memory(self, worker_id: str) -> bool:
        """Return whether the kernel killed a process of the worker because its memory reached the limit."""
        with contextlib.suppress(OSError, ValueError):
            for line in (self._group(worker_id) / "memory.events").read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill" and int(count) > 0:
                    return True
        return False

    def remove_others(self, worker_ids: Collection[str]) -> None:
        """Remove the empty groups of all workers but these. Raises nothing.

        A group with a process stays: the kernel refuses to remove it.
        """
        kept = {f"{_PREFIX}{worker_id}" for worker_id in worker_ids}
        with contextlib.suppress(OSError), self._lock:
            for group in self._base.glob(f"{_PREFIX}*"):
                if group.name not in kept:
                    _remove(group)

    def _group(self, worker_id: str) -> Path:
        return self._base / f"{_PREFIX}{worker_id}"

    @staticmethod
    def _write(group: Path, settings: dict[str, str]) -> None:
        for name, value in settings.items():
            (group / name).write_text(value)


def _remove(group: Path) -> None:
    with contextlib.suppress(OSError):
        for below in group.iterdir():
            if below.is_dir():
                _remove(below)
        group.rmdir()


def find_groups(
    mounts: Path = Path("/proc/self/mountinfo"), membership: Path = Path("/proc/self/cgroup")
) -> tuple[ControlGroups | None, str]:
    """Return the control groups that this process may use; else None and why not."""
    try:
        mount = next(line.split()[4] for line in mounts.read_text().splitlines() if " - cgroup2 " in line)
        own = next(
            line.split(":", 2)[2] for line in membership.read_text().splitlines() if line.startswith("0::")
        )
    except (OSError, StopIteration, IndexError):
        return None, "this system has no cgroup v2"
    directory = Path(mount) / own.lstrip("/")
    if directory.name != _AGENT_GROUP:
        return None, (
            f"the agent is not in a control group `{_AGENT_GROUP}` of a delegated unit: install it with "
            "`manager service install`, on systemd 254 or later"
        )
    base = directory.parent
    try:
        if (base / "cgroup.procs").read_text().strip():
            return None, (
                f"other processes are in {base} itself: stop the service and its workers, then start it again"
            )
        offered = (base / "cgroup.controllers").read_text().split()
        missing = [name for name in _CONTROLLERS if name not in offered]
        for name in _CONTROLLERS:
            if name in offered:
                (base / "cgroup.subtree_control").write_text(f"+{name}")
    except OSError as error:
        return None, f"{base} is not delegated to the agent's user ({error.strerror or error})"
    if len(missing) == len(_CONTROLLERS):
        return None, f"{base} has none of the controllers {', '.join(_CONTROLLERS)}"
    why = f"{base} lacks the controllers {', '.join(missing)}" if missing else ""
    return ControlGroups(base, [name for name in _CONTROLLERS if name in offered]), why


__all__ = ["ControlGroups", "find_groups"]
