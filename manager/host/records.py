"""What a host knows of its workers on disk, so that a new agent finds those that an old one left running."""

import contextlib
import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

from manager import logs
from manager.processes import ProcessRef

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

    def to_json(self) -> str:
        data = asdict(self)
        data |= {
            "version": _VERSION,
            "beat_file": str(self.beat_file),
            "created_at": self.created_at.isoformat(),
        }
        data |= data.pop("process")
        return json.dumps(data, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote. Raises ValueError for anything else."""
        data: Any = json.loads(text)
        process = ProcessRef.from_dict(data)
        if process is None or data.pop("version", None) != _VERSION:
            raise ValueError("not a worker record of this version")
        del data["pid"], data["start_time"]
        data |= {
            "process": process,
            "beat_file": Path(data["beat_file"]),
            "claims": tuple(data["claims"]),
            "created_at": datetime.fromisoformat(data["created_at"]),
        }
        try:
            return cls(**data)
        except TypeError as error:
            raise ValueError(str(error)) from None


def private_dir(beat_file: Path) -> Path:
    """Return the directory in which a worker may keep what nobody else may read; gone when the worker is."""
    return beat_file.with_suffix(".d")


class RecordFiles:
    """The records of one host, a file for each account."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, record: WorkerRecord) -> None:
        """Write the record so that a reader sees the old one or the new one, whole. Raises OSError."""
        path = self._path(record.account_id)
        draft = path.with_suffix(".tmp")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(record.to_json())
        draft.replace(path)

    def remove(self, record: WorkerRecord) -> None:
        """Drop the record and the worker's small files. Idempotent."""
        # The credentials that a program was given lie in here; they go first.
        shutil.rmtree(private_dir(record.beat_file), ignore_errors=True)
        for path in (self._path(record.account_id), record.beat_file, Path(record.control_address)):
            with contextlib.suppress(OSError):
                path.unlink()

    def load_all(self) -> list[WorkerRecord]:
        """Return every record that can be read; a file that is none is left alone and named in the log."""
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
