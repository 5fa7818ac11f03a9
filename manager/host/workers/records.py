"""What a host knows of its workers on disk, so that a new agent finds those that an old one left running."""

import contextlib
import json
import logging
import shutil
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol, Self

from manager.config import RecoveryConfig
from manager.models import WorkerPlacement
from manager.session.note import note_path
from manager.system import atomic_file, logs
from manager.system.processes import ProcessRef

logger = logging.getLogger(__name__)

_VERSION: Final = 2
#: Bytes. A record is a few hundred; a larger file is not ours.
_MAX_SIZE: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """One worker process and how to reach it. Mode 0600: the control token is in it."""

    worker_id: str
    account_id: str
    #: What it holds in the fleet, with which fencing token and time to live (seconds, 0: none).
    claims: tuple[str, ...]
    epoch: int
    lease_seconds: float
    #: Of the command that it was started by.
    generation: int
    process: ProcessRef
    control_address: str
    control_token: str = field(repr=False)
    beat_file: Path
    gateway: str
    config_version: str
    software_version: str
    stop_timeout_seconds: float
    hang_after_seconds: float
    created_at: datetime
    #: How often the account's worker was started again since the last command, and why the last time.
    restarts: int = 0
    last_cause: str | None = None
    #: By which commands select the account, as its file was when this worker started.
    groups: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)

    def placement(self, host: str, log_file: Path) -> WorkerPlacement:
        """Return the metadata of the worker of this record, which runs on `host`."""
        return WorkerPlacement(
            host=host,
            pid=self.process.pid,
            gateway=self.gateway,
            epoch=self.epoch,
            generation=self.generation,
            restarts=self.restarts,
            last_cause=self.last_cause,
            version=self.software_version,
            config_version=self.config_version,
            log_file=str(log_file),
        )

    def to_json(self) -> str:
        data = asdict(self)
        # An agent of version 0.2 refuses a record with keys that it does not know.
        for name in ("groups", "labels"):
            if not data[name]:
                del data[name]
        data |= {
            "version": _VERSION,
            "beat_file": str(self.beat_file),
            "created_at": self.created_at.isoformat(),
        }
        data |= data.pop("process")
        return json.dumps(data, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote, keys of a later version left out. Raises ValueError for anything else."""
        data: Any = json.loads(text)
        process = ProcessRef.from_dict(data)
        if process is None or data.pop("version", None) != _VERSION:
            raise ValueError("not a worker record of this version")
        known = {one.name for one in fields(cls)}
        data = {key: value for key, value in data.items() if key in known}
        data |= {
            "process": process,
            "beat_file": Path(data["beat_file"]),
            "claims": tuple(data["claims"]),
            "created_at": datetime.fromisoformat(data["created_at"]),
            "groups": tuple(data.get("groups", ())),
            "labels": dict(data.get("labels", {})),
        }
        try:
            return cls(**data)
        except TypeError as error:
            raise ValueError(str(error)) from None


class Notes(Protocol):
    """Finds workers by what they hold themselves; see `manager.host.workers.held_files.HeldFiles`."""

    def records(self) -> list[WorkerRecord]: ...
    def process(self, worker_id: str) -> ProcessRef | None: ...
    def note_file(self, worker_id: str) -> Path | None: ...
    def with_beat_file(self, record: WorkerRecord) -> WorkerRecord: ...


def note_of(record: WorkerRecord, home: str, recovery: RecoveryConfig | None = None) -> str:
    """Return what the worker itself keeps of its record; `home` is the state directory's own id.

    `recovery` is how it is to be recovered. It is kept here alone: an agent of an earlier version reads no
    record with a field that it does not know.
    """
    settings = None if recovery is None else recovery.model_dump(mode="json")
    return json.dumps({"home": home, "record": record.to_json(), "recovery": settings})


def private_dir(beat_file: Path) -> Path:
    """Return the directory in which a worker may keep what nobody else may read; gone when the worker is."""
    return beat_file.with_suffix(".d")


class RecordFiles:
    """The records of one host, a file for each account."""

    def __init__(self, directory: Path, notes: "Notes | None" = None) -> None:
        """`notes` finds workers whose record is lost; see `manager.host.workers.held_files`."""
        self._directory = directory
        self._notes = notes

    def save(self, record: WorkerRecord) -> None:
        """Write the record so that a reader sees the old one or the new one, whole. Raises OSError."""
        path = self._path(record.account_id)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic_file.write(path, record.to_json())

    def missing(self, record: WorkerRecord) -> bool:
        """Say whether the account has no record on disk."""
        return not self._path(record.account_id).exists()

    def remove(self, record: WorkerRecord) -> None:
        """Drop the record and the worker's small files. Idempotent."""
        # The credentials that a program was given lie in here; they go first.
        beat_file = record.beat_file
        if beat_file.is_relative_to("/proc"):  # it was removed, but what lies beside it may not have been
            beat_file = Path(record.control_address).with_suffix(".beat")
        shutil.rmtree(private_dir(beat_file), ignore_errors=True)
        files = (self._path(record.account_id), beat_file, note_path(beat_file))
        for path in (*files, Path(record.control_address)):
            with contextlib.suppress(OSError):
                path.unlink()

    def load_all(self) -> list[WorkerRecord]:
        """Return a record of every worker: from its file, or from the note of a worker that runs without one.

        A file that is not a record is left alone and named in the log.
        """
        records = {record.account_id: record for record in self._load_files()}
        for record in self._notes.records() if self._notes is not None else ():
            read = records.get(record.account_id)
            # A file may be older than the worker that runs, as after a directory was restored from a copy.
            if read is None or (read.process != record.process and not read.process.alive()):
                self._restore(record)
                records[record.account_id] = record
        if self._notes is None:
            return list(records.values())
        return [
            self._notes.with_beat_file(record) if record.process.alive() else record
            for record in records.values()
        ]

    def lost(self, account_id: str) -> WorkerRecord | None:
        """Return the record of a worker that runs for the account, from its note; None if none does."""
        if self._notes is None:
            return None
        for record in reversed(self._notes.records()):
            if record.account_id == account_id:
                return self._notes.with_beat_file(record)
        return None

    def runs(self, worker_id: str) -> bool:
        """Return whether a process holds the files of this worker, whatever the records say; True if that cannot be seen."""
        try:
            return self._notes is not None and self._notes.process(worker_id) is not None
        except OSError:
            return True

    def recovery(self, record: WorkerRecord) -> RecoveryConfig | None:
        """Return the recovery settings that the worker was started with, from its note; None if unknown."""
        path = note_path(record.beat_file)
        if self._notes is not None and not path.is_file():
            path = self._notes.note_file(record.worker_id) or path
        try:
            if path.stat().st_size > _MAX_SIZE:
                return None
            return RecoveryConfig.model_validate(json.loads(path.read_text())["recovery"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # a worker of an earlier version, or one without a note

    def _restore(self, record: WorkerRecord) -> None:
        """Write down again the record of a worker that runs."""
        why = "the record of a worker that runs was lost; it is rebuilt from the worker's note"
        try:
            self.save(record)
        except OSError as error:
            why += f", but cannot be written: {error}"
        logs.event(
            logger,
            logging.WARNING,
            "record_rebuilt",
            why,
            account=record.account_id,
            worker=record.worker_id,
            pid=record.process.pid,
        )

    def _load_files(self) -> list[WorkerRecord]:
        records: list[WorkerRecord] = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                if path.stat().st_size > _MAX_SIZE:
                    raise ValueError("too large")
                record = WorkerRecord.from_json(path.read_text())
                if record.account_id != path.stem:
                    raise ValueError(f"it is about account {record.account_id}")
            except (OSError, ValueError, KeyError, TypeError) as error:
                logs.event(logger, logging.WARNING, "record_ignored", f"{path} is no worker record: {error}")
                continue
            records.append(record)
        return records

    def _path(self, account_id: str) -> Path:
        return self._directory / f"{account_id}.json"
