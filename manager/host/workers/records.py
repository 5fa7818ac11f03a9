"""Worker records on disk.

By them a new host agent finds the workers that an earlier one left running.
"""

import contextlib
import json
import logging
import shutil
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol, Self, TypeVar

from pydantic import BaseModel

from manager.config import RecoveryConfig
from manager.config.models_limits import LimitsConfig
from manager.fleet.run_types import NO_CAUSE, RunCause
from manager.models import WorkerPlacement
from manager.session.note import note_path
from manager.system import atomic_file, logs
from manager.system.processes import ProcessRef

logger = logging.getLogger(__name__)

_Section = TypeVar("_Section", bound=BaseModel)

_VERSION: Final = 2
#: Bytes. A record has a few hundred; a larger file is not a record.
_MAX_SIZE: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """One worker process and its control channel.

    The file has mode 0600: it contains the control token.
    """

    worker_id: str
    account_id: str
    #: Its lease: claims, fencing token, and time to live (seconds; 0: does not expire).
    claims: tuple[str, ...]
    epoch: int
    lease_seconds: float
    #: The desired-state generation of the command that started it.
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
    #: How often the account's worker was restarted since the last command, and the reason of the last
    #: restart.
    restarts: int = 0
    last_cause: str | None = None
    #: Groups and labels in the account's file when this worker started; commands select accounts by them.
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
        # An agent of version 0.2 rejects a record with unknown keys.
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
        """Parse what `to_json` wrote; ignores the keys of later versions.

        Raises ValueError.
        """
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
    """Finds workers by the files that they hold open.

    See `manager.host.workers.held_files.HeldFiles`.
    """

    def records(self) -> list[WorkerRecord]: ...
    def process(self, worker_id: str) -> ProcessRef | None: ...
    def note_file(self, worker_id: str) -> Path | None: ...
    def with_beat_file(self, record: WorkerRecord) -> WorkerRecord: ...


@dataclass(frozen=True, slots=True)
class NoteExtras:
    """What only the note has: an agent of version 0.2 rejects a record with unknown keys."""

    #: The worker's recovery settings and limits at its start; None if unknown.
    recovery: RecoveryConfig | None = None
    limits: LimitsConfig | None = None
    #: Who asked for its start, and why.
    origin: RunCause = NO_CAUSE


def note_of(record: WorkerRecord, home: str, extras: NoteExtras | None = None) -> str:
    """Return the text of the worker's note.

    The note is a copy of the record that the worker itself holds. `home` is the id of the state directory.
    """
    extras = extras or NoteExtras()
    settings = None if extras.recovery is None else extras.recovery.model_dump(mode="json")
    note = {"home": home, "record": record.to_json(), "recovery": settings, "origin": extras.origin}
    if extras.limits is not None:
        note["limits"] = extras.limits.to_record()
    return json.dumps(note)


def private_dir(beat_file: Path) -> Path:
    """Return the worker's private directory.

    It is removed when the worker has ended.
    """
    return beat_file.with_suffix(".d")


class RecordFiles:
    """The worker records of one host: one file for each account."""

    def __init__(self, directory: Path, notes: "Notes | None" = None) -> None:
        """`notes` finds workers whose record is lost; None disables that."""
        self._directory = directory
        self._notes = notes

    def save(self, record: WorkerRecord) -> None:
        """Write the record atomically. Raises OSError."""
        path = self._path(record.account_id)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic_file.write(path, record.to_json())

    def missing(self, record: WorkerRecord) -> bool:
        """Return whether the record's file is missing."""
        return not self._path(record.account_id).exists()

    def remove(self, record: WorkerRecord) -> None:
        """Remove the record and the worker's files from the run directory.

        Idempotent.
        """
        beat_file = record.beat_file
        if beat_file.is_relative_to(
            "/proc"
        ):  # the file was removed; the others of the worker may still exist
            beat_file = Path(record.control_address).with_suffix(".beat")
        # First: it contains the credentials of the worker's program.
        shutil.rmtree(private_dir(beat_file), ignore_errors=True)
        files = (self._path(record.account_id), beat_file, note_path(beat_file))
        for path in (*files, Path(record.control_address)):
            with contextlib.suppress(OSError):
                path.unlink()

    def load_all(self) -> list[WorkerRecord]:
        """Return the record of every worker.

        A lost record is restored from the worker's note.

        A file that is not a record is logged and ignored.
        """
        records = {record.account_id: record for record in self._load_files()}
        for record in self._notes.records() if self._notes is not None else ():
            read = records.get(record.account_id)
            # The file may be older than the running worker, if the directory was restored from a backup.
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
        """Return the record in the note of the account's running worker.

        Returns None if there is no such worker.
        """
        if self._notes is None:
            return None
        for record in reversed(self._notes.records()):
            if record.account_id == account_id:
                return self._notes.with_beat_file(record)
        return None

    def runs(self, worker_id: str) -> bool:
        """Return whether a process holds the files of this worker.

        Returns True if the search fails.
        """
        try:
            return self._notes is not None and self._notes.process(worker_id) is not None
        except OSError:
            return True

    def extras(self, record: WorkerRecord) -> NoteExtras:
        """Return what only the worker's note has; empty for a worker without a note."""
        path = note_path(record.beat_file)
        if self._notes is not None and not path.is_file():
            path = self._notes.note_file(record.worker_id) or path
        try:
            note = json.loads(path.read_text()) if path.stat().st_size <= _MAX_SIZE else None
        except (OSError, ValueError):
            return NoteExtras()
        if not isinstance(note, dict):
            return NoteExtras()
        return NoteExtras(
            _section(note, "recovery", RecoveryConfig),
            _section(note, "limits", LimitsConfig),
            RunCause.from_json(note.get("origin")),
        )

    def _restore(self, record: WorkerRecord) -> None:
        """Write the lost record of a running worker again."""
        text = "the record of a running worker was lost and is restored from the worker's note"
        try:
            self.save(record)
        except OSError as error:
            text += f", but cannot be written: {error}"
        logs.event(
            logger,
            logging.WARNING,
            "record_restored",
            text,
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
                    raise ValueError(f"its account is {record.account_id}")
            except (OSError, ValueError, KeyError, TypeError) as error:
                logs.event(
                    logger, logging.WARNING, "record_ignored", f"{path} is not a worker record: {error}"
                )
                continue
            records.append(record)
        return records

    def _path(self, account_id: str) -> Path:
        return self._directory / f"{account_id}.json"


def _section(note: Any, name: str, model: type[_Section]) -> _Section | None:
    """Return a section of a note; None if it is missing, as in notes of earlier versions, or unreadable."""
    try:
        return model.model_validate(note[name])
    except (ValueError, KeyError, TypeError):
        return None
