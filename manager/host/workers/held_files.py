"""Finds worker processes by the files that they hold open.

Every worker holds two files of the run directory open while it lives: its heartbeat file and its note (see
`manager.session.note`). Linux shows both under `/proc`, even after they were removed. A process that holds
them is provably a worker of this state directory.

The failure that this prevents: the records vanish while no agent runs. The next agent reports the account as
ended, answers a stop with "nothing to stop", releases the lease of a suspended worker, and starts a second
session.
"""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from manager.host.workers.records import WorkerRecord
from manager.session.note import SUFFIX
from manager.system import logs
from manager.system.processes import ProcessRef
from manager.system.spare_files import raise_shortage, with_spare

logger = logging.getLogger(__name__)

_PROC: Final = Path("/proc")
_DELETED: Final = " (deleted)"
_BEAT_SUFFIX: Final = ".beat"
#: Bytes. A note has a few hundred; a larger file is not a note.
_MAX_SIZE: Final = 65_536
#: Seconds for which the result of a search is reused: a thousand rejected stops must not cost a thousand
#: searches. Workers without a record appear only while an agent starts, so a short delay does no harm.
_CACHE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A file of the run directory that a process holds open."""

    process: ProcessRef
    #: The file name, such as `w-1234.beat`.
    name: str
    #: A path under `/proc`, readable while the process lives, even if the file was removed.
    path: Path
    #: Whether the file was removed from the run directory.
    removed: bool


class HeldFiles:
    """Finds the workers of one state directory. Thread-safe.

    Every method raises OSError if this process may open no further file: a worker that cannot be inspected
    must not count as ended.
    """

    def __init__(self, run_dir: Path, home: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`home` is the id of the state directory."""
        self._clock = clock
        self._run_dir = run_dir
        self._home = home
        self._lock = threading.Lock()
        self._found: list[HeldFile] = []
        self._until = 0.0
        self._records: list[WorkerRecord] = []
        self._records_until = 0.0

    def records(self) -> list[WorkerRecord]:
        """Return the records of live workers that hold their note, by epoch."""
        with self._lock:
            if self._clock() >= self._records_until:
                found: dict[ProcessRef, WorkerRecord] = {}
                for path, holder in self._notes():
                    record = self._read(path, holder)
                    if record is not None:
                        found[record.process] = record
                self._records = sorted(found.values(), key=lambda record: record.epoch)
                self._records_until = self._clock() + _CACHE_SECONDS
            records = list(self._records)
        return [record for record in records if record.process.alive()]

    def process(self, worker_id: str) -> ProcessRef | None:
        """Return the process that holds this worker's files, or None.

        It is always None on a system without `/proc`.
        """
        names = {worker_id + _BEAT_SUFFIX, worker_id + SUFFIX}
        with self._lock:
            found = self._held()
        for held in found:
            if held.name in names and held.process.alive():
                return held.process
        return None

    def note_file(self, worker_id: str) -> Path | None:
        """Return a readable path of a live worker's note, even if it was removed.

        Returns None if there is none.
        """
        with self._lock:
            found = self._held()
        name = worker_id + SUFFIX
        return next((held.path for held in found if held.name == name and held.process.alive()), None)

    def with_beat_file(self, record: WorkerRecord) -> WorkerRecord:
        """Return the record with a readable path of its heartbeat file.

        That path is under `/proc` if the file was removed.
        """
        with self._lock:
            if record.beat_file.exists():
                return record
            for held in self._held():
                if held.process == record.process and held.name == record.beat_file.name:
                    return replace(record, beat_file=held.path)
        return record

    def _notes(self) -> Iterator[tuple[Path, ProcessRef | None]]:
        with contextlib.suppress(OSError):
            for path in sorted(self._run_dir.glob(f"*{SUFFIX}")):
                yield path, None
        for held in self._held():
            if held.removed and held.name.endswith(SUFFIX):
                yield held.path, held.process

    def _read(self, path: Path, holder: ProcessRef | None) -> WorkerRecord | None:
        """Return the note's record if its process is a live worker of this host."""
        try:
            if path.stat().st_size > _MAX_SIZE:
                raise ValueError("too large")
            data = json.loads(with_spare(path.read_text))
            record = WorkerRecord.from_json(data["record"])
            ours = data["home"] == self._home or _same_files(record.process)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logs.event(logger, logging.WARNING, "note_ignored", f"{path} is not a worker's note: {error}")
            return None
        # A note that was read through a process must name that process: a child may briefly hold a copy.
        if not ours or holder not in {None, record.process} or not record.process.alive():
            return None
        return record

    def _held(self) -> list[HeldFile]:
        if self._clock() >= self._until:
            self._found = with_spare(lambda: list(_search(self._run_dir)))
            self._until = self._clock() + _CACHE_SECONDS
        return self._found


def _search(run_dir: Path) -> Iterator[HeldFile]:
    """Yield the files of `run_dir` that the processes of this user hold open."""
    if sys.platform != "linux":
        return
    prefix = os.path.realpath(run_dir) + "/"
    try:
        pids = [entry.name for entry in _PROC.iterdir() if entry.name.isdecimal()]
    except OSError as error:
        raise_shortage(error)
        return
    for pid in pids:
        if int(pid) == os.getpid():
            continue
        directory = _PROC / pid / "fd"
        # The process may end during the search, or belong to another user.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            process: ProcessRef | None = None
            for fd in directory.iterdir():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                    target = str(fd.readlink())
                    if not target.startswith(prefix):
                        continue
                    name = target.removeprefix(prefix)
                    removed = name.endswith(_DELETED)
                    name = name.removesuffix(_DELETED)
                    process = process or ProcessRef.of(int(pid))
                    if process is not None and name.endswith((_BEAT_SUFFIX, SUFFIX)):
                        yield HeldFile(process, name, fd, removed)


def _same_files(process: ProcessRef) -> bool:
    """Return whether the process shares this process's mount namespace.

    Within one namespace, equal paths are equal files.
    """
    if sys.platform != "linux":
        return False
    try:
        return (_PROC / str(process.pid) / "ns/mnt").readlink() == (_PROC / "self/ns/mnt").readlink()
    except OSError:
        return False
