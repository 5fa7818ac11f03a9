"""A control group for each worker's program, where this process may make one (Linux, cgroup v2).

A process cannot leave its control group without the rights to another one, and `cgroup.kill` ends a whole group in one
step. That holds even after the guard of the program was killed. Without the rights, the guard alone owns the program.
"""

import contextlib
import os
import sys
import time
from functools import cache
from pathlib import Path
from typing import Final

from manager.system.spare_files import raise_shortage

#: Seconds between two looks at a group whose processes were killed.
_POLL_SECONDS: Final = 0.01
_PREFIX: Final = "worker-manager."


def make_cgroup(worker_id: str) -> Path | None:
    """Return a new control group below this process's own one; None where that is not possible."""
    own = _own_cgroup()
    if own is None:
        return None
    directory = own / f"{_PREFIX}{worker_id}"
    try:
        directory.mkdir(exist_ok=True)
        # Without `cgroup.kill` (before Linux 5.14) the group brings nothing that the guard does not have.
        if not (directory / "cgroup.kill").exists():
            directory.rmdir()
            return None
    except OSError:
        return None
    return directory


def cgroup_of(worker_id: str, note: Path | None) -> Path | None:
    """Return the control group of a worker's program: as `note` names it, or where this process would make it."""
    name = f"{_PREFIX}{worker_id}"
    try:
        noted = Path("" if note is None else note.read_text())
    except OSError as error:
        raise_shortage(error)
    else:
        # A file that somebody else could change must not have us kill another group.
        if noted.name == name and noted.is_dir():
            return noted
    own = _own_cgroup()
    return own / name if own is not None and (own / name).is_dir() else None


def members(directory: Path) -> list[int]:
    """Return the pids in the control group and those below it; none if the group is gone.

    Raises OSError if no further file may be opened: then nothing is known.
    """
    found: list[int] = []
    for path, _, _ in os.walk(directory, onerror=raise_shortage):
        try:
            found += map(int, (Path(path) / "cgroup.procs").read_text().split())
        except OSError as error:
            raise_shortage(error)
    return found


def end_cgroup(directory: Path, deadline: float) -> bool:
    """Kill what is in the control group and remove it; True once it is empty. `deadline`: `time.monotonic()`."""
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
    """Return the directory of this process's cgroup v2, or None if there is none or it is not writable."""
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
