"""Runs on disk that are not safely in Redis yet: one file for each run.

The file is written before the worker's record is removed, so that the end of a worker is never lost with the
agent: either the next agent finds the record, or it finds the run.
"""

import contextlib
import logging
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from manager.fleet.run_types import RUNS_KEPT, Run
from manager.system import atomic_file, logs

logger = logging.getLogger(__name__)

#: Runs that are kept at most, as Redis keeps no more either. The oldest are dropped first, and before them
#: those that Redis has.
MAX_WAITING: Final = RUNS_KEPT
#: Bytes. The file of a run has about a thousand.
_MAX_SIZE: Final = 65_536


class RunSpool:
    """The runs that wait, in memory and in `directory`. Thread-safe."""

    def __init__(self, directory: Path, most: int = MAX_WAITING) -> None:
        """Load the runs that an earlier agent left."""
        self._directory = directory
        self._most = most
        self._lock = threading.Lock()
        #: Why runs are in memory only; None if they are on disk.
        self._trouble: str | None = None
        self._runs = {run.worker_id: run for run in _load(directory)}
        #: Runs that Redis has, although they are not confirmed yet.
        self._written: set[str] = set()
        self._drop_excess()

    def add(self, run: Run) -> None:
        """Keep a run until `remove`. The first run with a worker id stays: it knows most."""
        with self._lock:
            if run.worker_id in self._runs:
                return
            self._runs[run.worker_id] = run
            self._save(run)
            self._drop_excess()

    def remove(self, worker_ids: Iterable[str]) -> None:
        with self._lock:
            for worker_id in worker_ids:
                self._discard(worker_id)

    def set_written(self, worker_ids: Iterable[str]) -> None:
        """Note that Redis has these runs, and perhaps not those of an earlier call."""
        with self._lock:
            self._written = set(worker_ids)

    def waiting(self) -> list[Run]:
        """Return the runs that are kept, in the order in which they ended."""
        with self._lock:
            return list(self._runs.values())

    def _save(self, run: Run) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            atomic_file.write(self._path(run.worker_id), run.model_dump_json())
        except OSError as error:
            # It is written to Redis from memory, and is lost only if this agent dies before that.
            text = f"{error}; runs that have ended wait in memory until Redis has them"
            if self._trouble != text:
                logs.event(logger, logging.ERROR, "run_not_saved", text, account=run.account_id)
            self._trouble = text
        else:
            self._trouble = None

    def _drop_excess(self) -> None:
        excess = max(0, len(self._runs) - self._most)
        dropped = sorted(self._runs, key=lambda one: one not in self._written)[:excess] if excess else []
        for worker_id in dropped:
            self._discard(worker_id)
        lost = len(set(dropped) - self._written)
        if lost:
            text = f"Redis has not taken them and more than {self._most} wait"
            logs.event(logger, logging.WARNING, "runs_dropped", text, runs=lost)

    def _discard(self, worker_id: str) -> None:
        self._runs.pop(worker_id, None)
        with contextlib.suppress(OSError):
            self._path(worker_id).unlink()

    def _path(self, worker_id: str) -> Path:
        return self._directory / f"{worker_id}.json"


def _load(directory: Path) -> list[Run]:
    """Return the runs in the directory, oldest first; removes files that are not runs."""
    found: list[Run] = []
    for path in directory.glob("*.json"):
        try:
            run = Run.from_json(path.read_bytes()) if path.stat().st_size <= _MAX_SIZE else None
        except OSError as error:
            logs.event(logger, logging.WARNING, "run_ignored", str(error))
            continue
        if run is None or run.worker_id != path.stem:
            logs.event(logger, logging.WARNING, "run_ignored", f"{path} is not a run; removed")
            with contextlib.suppress(OSError):
                path.unlink()
        else:
            found.append(run)
    return sorted(found, key=lambda run: run.ended_at)
