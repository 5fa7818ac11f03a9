"""Orphans: processes of its program that a dead worker left running."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import psutil

from manager.gateways import may_leave_programs
from manager.gateways.command.cgroups import cgroup_of, members
from manager.gateways.command.program import CGROUP_NOTE, marked
from manager.host.workers.records import WorkerRecord, private_dir
from manager.system import logs

logger = logging.getLogger(__name__)

#: Seconds for killed processes to be gone.
_KILL_SECONDS: Final = 2.0
#: Seconds between two passes over the processes.
_PASS_SECONDS: Final = 0.02


def end_orphans(
    record: WorkerRecord, strays: Callable[[], Sequence[int]] = tuple, seconds: float = _KILL_SECONDS
) -> list[str]:
    """Kill a dead worker's orphans.

    Returns those that survive `seconds`, by name and pid.

    Call it once the worker has provably ended, before its lease is released or the next worker starts:
    orphans may still trade. `strays` kills and returns processes whose worker and guard were killed together,
    which the fork server adopts.
    """
    if not may_leave_programs(record.gateway):
        return []
    note = private_dir(record.beat_file) / CGROUP_NOTE
    return end_program(record.worker_id, record.account_id, note, strays, seconds)


def end_program(
    worker_id: str,
    account_id: str,
    cgroup_note: Path | None = None,
    strays: Callable[[], Sequence[int]] = tuple,
    seconds: float = _KILL_SECONDS,
) -> list[str]:
    """Kill the orphans of a worker whose gateway is unknown.

    See `end_orphans`.
    """
    deadline = time.monotonic() + seconds
    while left := _kill_once(worker_id, cgroup_note, strays):
        if time.monotonic() > deadline:
            names = sorted(_named(pid) for pid in left)
            logs.event(
                logger,
                logging.CRITICAL,
                "orphans_left",
                f"processes of its program could not be killed and may still trade: {', '.join(names)}; "
                "kill them on this host",
                account=account_id,
                worker=worker_id,
            )
            return names
        time.sleep(_PASS_SECONDS)
    return []


def _kill_once(worker_id: str, cgroup_note: Path | None, strays: Callable[[], Sequence[int]]) -> set[int]:
    """Kill what is left of the program once; returns the pids that were found."""
    found = set(strays())
    guards, program = marked(worker_id)
    for pid in program:
        _kill(pid)
    if sys.platform == "linux":
        from manager.gateways.command.program_guard import (
            descendants,
            kill_cgroup,
            kill_descendants,
            remove_cgroup,
        )

        for guard in guards:
            # The guard kills its descendants and then ends. A guard that was suspended must be resumed for
            # that.
            _resume(guard)
            kill_descendants(guard)
            found.update(descendants(guard))
        cgroup = cgroup_of(worker_id, cgroup_note)
        if cgroup is not None:
            kill_cgroup(str(cgroup))
            found.update(members(cgroup))
            remove_cgroup(str(cgroup))
    return found.union(guards, program)


def _resume(pid: int) -> None:
    with contextlib.suppress(psutil.Error):
        psutil.Process(pid).resume()


def _kill(pid: int) -> None:
    with contextlib.suppress(psutil.Error):
        psutil.Process(pid).kill()


def _named(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return f"pid {pid}"
