"""Ends workers by their records on disk, when no host agent runs."""

import contextlib
import signal
import time
from dataclasses import dataclass, field
from typing import Final

from manager.host.workers.held_files import HeldFiles
from manager.host.workers.orphans import end_orphans
from manager.host.workers.records import RecordFiles, WorkerRecord
from manager.system.state_dir import StatePaths

#: Seconds in which a killed worker must end.
_KILL_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The accounts of a sweep by outcome."""

    #: All processes have ended.
    ended: list[str] = field(default_factory=list)
    #: A process may still run.
    left: list[str] = field(default_factory=list)
    #: Killed because they did not end after SIGTERM; a subset of the two above.
    forced: list[str] = field(default_factory=list)


def _records(paths: StatePaths) -> RecordFiles:
    """Return this machine's records; they include running workers without one."""
    home = ""
    with contextlib.suppress(OSError):  # fails if no agent ever used this state directory
        home = paths.home
    return RecordFiles(paths.workers_dir, HeldFiles(paths.run_dir, home))


def live_workers(paths: StatePaths) -> list[WorkerRecord]:
    """Return the records of this machine's running workers."""
    return [record for record in _records(paths).load_all() if record.process.alive()]


def end_workers(paths: StatePaths, *, graceful: bool) -> SweepResult:
    """End every worker of this machine with SIGKILL, after SIGTERM if `graceful`.

    Blocks. Call it only while no host agent runs, because an agent would restart the workers.
    """
    files = _records(paths)
    records = live_workers(paths)
    swept = SweepResult()
    if graceful:
        for record in records:
            record.process.signal(signal.SIGTERM)
        began = time.monotonic()
        for record in records:
            record.process.wait(max(0.0, began + record.stop_timeout_seconds - time.monotonic()))
    for record in records:
        if record.process.kill() and graceful:
            swept.forced.append(record.account_id)
    for record in records:
        if record.process.wait(_KILL_SECONDS) and not end_orphans(record):
            files.remove(record)
            swept.ended.append(record.account_id)
        else:
            swept.left.append(record.account_id)
    return swept
