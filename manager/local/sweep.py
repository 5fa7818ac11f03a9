"""Ends workers without their host agent, by the records on disk: the last resort that leaves nothing trading."""

import contextlib
import signal
import time
from dataclasses import dataclass, field
from typing import Final

from manager.host.workers.held_files import HeldFiles
from manager.host.workers.orphans import end_orphans
from manager.host.workers.records import RecordFiles, WorkerRecord
from manager.system.state_dir import StatePaths

#: Seconds within which a killed worker must be gone.
_KILL_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class SweepResult:
    """Accounts whose workers were to end."""

    #: Those whose processes have provably ended.
    ended: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    #: Of those that were asked politely, the ones that had to be killed.
    forced: list[str] = field(default_factory=list)


def _records(paths: StatePaths) -> RecordFiles:
    """Return the records of this machine, which are rebuilt for workers that run without one."""
    home = ""
    with contextlib.suppress(OSError):  # no agent ever used this state directory
        home = paths.home
    return RecordFiles(paths.workers_dir, HeldFiles(paths.run_dir, home))


def live_workers(paths: StatePaths) -> list[WorkerRecord]:
    """Return the workers of this machine whose process lives."""
    return [record for record in _records(paths).load_all() if record.process.alive()]


def end_workers(paths: StatePaths, *, polite: bool) -> SweepResult:
    """End every worker of this machine: by SIGTERM first if `polite`, by SIGKILL in any case.

    Only for when no host agent runs: it would count the workers as lost.
    """
    files = _records(paths)
    records = live_workers(paths)
    swept = SweepResult()
    if polite:
        for record in records:
            record.process.signal(signal.SIGTERM)
        began = time.monotonic()
        for record in records:
            record.process.wait(max(0.0, began + record.stop_timeout_seconds - time.monotonic()))
    for record in records:
        if record.process.kill() and polite:
            swept.forced.append(record.account_id)
    for record in records:
        if record.process.wait(_KILL_SECONDS) and not end_orphans(record):
            files.remove(record)
            swept.ended.append(record.account_id)
        else:
            swept.left.append(record.account_id)
    return swept
