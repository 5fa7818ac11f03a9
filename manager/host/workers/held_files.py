"""Worker processes found by the files that they hold open, where the host's records of them are lost.

Every worker holds two files of the run directory for as long as it lives: its heartbeat file, and its note (see
`manager.session.note`). The system shows both under `/proc`, removed files too. Such a process is provably a worker of
this state directory, whatever became of the directory itself.

What this prevents: the records vanish while no agent runs; the next agent calls the account ended, answers a stop with
"nothing to stop", frees the lease of a paused worker, and starts a second session beside the first.
"""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
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
#: Bytes. A note is a few hundred; a larger file is not ours.
_MAX_SIZE: Final = 65_536
#: Seconds that one search serves. Only an agent that starts finds workers it has no record of, so an answer of a moment
#: ago is as good; a thousand refused stops must not cost a thousand searches.
_FRESH_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A file of the run directory that a process holds open."""

    process: ProcessRef
    #: The file's own name, as `w-1234.beat`.
    name: str
    #: Where it can be read while the process lives, even if it was removed.
    path: Path
    #: Whether it has no name in the run directory any more.
    removed: bool


class HeldFiles:
    """Looks for the workers of one state directory. Thread-safe.

    Raises OSError if no further file may be opened: what cannot be looked at must not count as ended.
    """

    def __init__(self, run_dir: Path, home: str) -> None:
        """`home` is the state directory's own id."""
        self._run_dir = run_dir
        self._home = home
        self._lock = threading.Lock()
        self._found: list[HeldFile] = []
        self._until = 0.0
        self._records: list[WorkerRecord] = []
        self._records_until = 0.0

    def records(self) -> list[WorkerRecord]:
        """Return a record for each worker that lives and holds its note, the one with the greatest epoch last."""
        with self._lock:
            if time.monotonic() >= self._records_until:
                found: dict[ProcessRef, WorkerRecord] = {}
                for path, holder in self._notes():
                    record = self._read(path, holder)
                    if record is not None:
                        found[record.process] = record
                self._records = sorted(found.values(), key=lambda record: record.epoch)
                self._records_until = time.monotonic() + _FRESH_SECONDS
            records = list(self._records)
        return [record for record in records if record.process.alive()]

    def process(self, worker_id: str) -> ProcessRef | None:
        """Return the process that holds this worker's files; None if none does, or if the system cannot show it."""
        names = {worker_id + _BEAT_SUFFIX, worker_id + SUFFIX}
        with self._lock:
            found = self._held()
        for held in found:
            if held.name in names and held.process.alive():
                return held.process
        return None

    def note_file(self, worker_id: str) -> Path | None:
        """Return where the note of a living worker can be read, also a removed one; None if nowhere."""
        with self._lock:
            found = self._held()
        name = worker_id + SUFFIX
        return next((held.path for held in found if held.name == name and held.process.alive()), None)

    def with_beat_file(self, record: WorkerRecord) -> WorkerRecord:
        """Return the record with its heartbeat file where it can be read, if that was removed from the run directory."""
        with self._lock:
            if record.beat_file.exists():
                return record
            for held in self._held():
                if held.process == record.process and held.name == record.beat_file.name:
                    return replace(record, beat_file=held.path)
        return record

    # inside, under the lock

    def _notes(self) -> Iterator[tuple[Path, ProcessRef | None]]:
        with contextlib.suppress(OSError):
            for path in sorted(self._run_dir.glob(f"*{SUFFIX}")):
                yield path, None
        for held in self._held():
            if held.removed and held.name.endswith(SUFFIX):
                yield held.path, held.process

    def _read(self, path: Path, holder: ProcessRef | None) -> WorkerRecord | None:
        """Return the note's record if its very process still runs and is a worker of this state directory."""
        try:
            if path.stat().st_size > _MAX_SIZE:
                raise ValueError("too large")
            data = json.loads(with_spare(path.read_text))
            record = WorkerRecord.from_json(data["record"])
            ours = data["home"] == self._home or _same_files(record.process)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logs.event(logger, logging.WARNING, "note_ignored", f"{path} is not a worker's note: {error}")
            return None
        # A note that is read through a process must be about that process: a child may hold a copy for a moment.
        if not ours or holder not in {None, record.process} or not record.process.alive():
            return None
        return record

    def _held(self) -> list[HeldFile]:
        if time.monotonic() >= self._until:
            self._found = with_spare(lambda: list(_search(self._run_dir)))
            self._until = time.monotonic() + _FRESH_SECONDS
        return self._found


def _search(run_dir: Path) -> Iterator[HeldFile]:
    """Go through the open files of every process that this user may look into."""
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
        # A process that ends meanwhile, or is another user's.
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
    """Say whether the process sees the same file system as this one, so that one path is one directory."""
    if sys.platform != "linux":
        return False
    try:
        return (_PROC / str(process.pid) / "ns/mnt").readlink() == (_PROC / "self/ns/mnt").readlink()
    except OSError:
        return False
