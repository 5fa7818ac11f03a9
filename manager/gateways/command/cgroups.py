"""A control group for each worker's program (Linux, cgroup v2).

A process cannot leave its control group without write access to another one, and `cgroup.kill` kills a whole
group at once, even after the program's guard was killed. Without a control group, the guard alone owns the
program.
"""

import contextlib
import os
import sys
import time
from functools import cache
from pathlib import Path
from typing import Final

from manager.system.spare_files import raise_shortage

#: Seconds between two checks of a killed group.
_POLL_SECONDS: Final = 0.01
_PREFIX: Final = "worker-manager."


def make_cgroup(worker_id: str) -> Path | None:
    """Create a control group below that of this process.

    Returns None if that is not possible.
    """
    own = _own_cgroup()
    if own is None:
        return None
    directory = own / f"{_PREFIX}{worker_id}"
    try:
        directory.mkdir(exist_ok=True)
        # Without `cgroup.kill` (before Linux 5.14) the group has no advantage over the guard.
        if not (directory / "cgroup.kill").exists():
            directory.rmdir()
            return None
    except OSError:
        return None
    return directory


def cgroup_of(worker_id: str, note: Path | None) -> Path | None:
    """Return the control group of a worker's program.

    The file `note` contains its path; otherwise the default path is used. None if neither exists.
    """
    name = f"{_PREFIX}{worker_id}"
    try:
        noted = Path("" if note is None else note.read_text())
    except OSError as error:
        raise_shortage(error)
    else:
        # A changed file must not make the manager kill another group.
        if noted.name == name and noted.is_dir():
            return noted
    own = _own_cgroup()
    return own / name if own is not None and (own / name).is_dir() else None


def members(directory: Path) -> list[int]:
    """Return the pids in the control group and the groups below it.

    Empty if the group does not exist.

    Raises OSError if no file can be opened, because the result would be incomplete.
    """
    found: list[int] = []
    for path, _, _ in os.walk(directory, onerror=raise_shortage):
        try:
            found += map(int, (Path(path) / "cgroup.procs").read_text().split())
        except OSError as error:
            raise_shortage(error)
    return found


def end_cgroup(directory: Path, deadline: float) -> bool:
    """Kill the processes of the control group and remove it.

    Returns whether it is empty.

    Blocks until `deadline` (`time.monotonic()` seconds) at most.
    """
    if sys.platform == "linux":
        from manager.gateways.command.program_guard import kill_cgroup, remove_cgroup

        while members(directory):
            kill_cgroup(str(directory))
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        remove_cgroup(str(directory))
    return True


@cache
def _own_cgroup() -> Path | None:
    """Return the writable cgroup v2 directory of this process, or None."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        mount = next(line.split()[4] for line in lines if " - cgroup2 " in line)
        own = next(
            line.split(":", 2)[2]
            for line in Path("/proc/self/cgroup").read_text().splitlines()
            if line.startswith("0::")
        )
        directory = Path(mount + own)
        if os.access(directory / "cgroup.procs", os.W_OK):
            return directory
    return None
