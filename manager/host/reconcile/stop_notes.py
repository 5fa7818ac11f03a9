"""Stops that a person asked for on this machine while no host agent could be asked: small files in the state directory.

A host agent takes each note before it starts anything: the stop becomes desired state, and Redis is told when it is there.
"""

import contextlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from manager.system import atomic_file, logs
from manager.system.private_dirs import ensure_private_dir

logger = logging.getLogger(__name__)

#: Bytes. A note is a few hundred; a larger file is not ours.
_MAX_SIZE: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class StopNote:
    """One stop of one account."""

    account_id: str
    #: Identifies the command.
    token: str
    #: Who asked.
    by: str
    #: Later than every command that this machine knew of.
    generation: int
    timeout: float | None = None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `StopNotes.write` wrote. Raises ValueError for anything else."""
        data: Any = json.loads(text)
        try:
            note = cls(**data)
        except TypeError as error:
            raise ValueError(str(error)) from None
        if not isinstance(note.generation, int) or not 0 <= note.generation < 10**15:
            raise ValueError("its generation is not a time")
        return note


class StopNotes:
    """The notes of one host, a file for each account. Every process of the host may use them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, note: StopNote) -> None:
        """Write the note so that it survives a crash of the machine. Raises OSError."""
        ensure_private_dir(self._directory)
        atomic_file.write(self._path(note.account_id), json.dumps(asdict(note)), durable=True)

    def read(self, account_id: str) -> StopNote | None:
        """Return the account's note; None if there is none that can be read."""
        path = self._path(account_id)
        try:
            if path.stat().st_size > _MAX_SIZE:
                raise ValueError("too large")
            note = StopNote.from_json(path.read_text())
            if note.account_id != account_id:
                raise ValueError(f"it is about account {note.account_id}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logs.event(logger, logging.WARNING, "stop_note_ignored", f"{path} is not a stop note: {error}")
            return None
        return note

    def read_all(self) -> list[StopNote]:
        """Return every note that can be read, by account id."""
        found = (self.read(path.stem) for path in sorted(self._directory.glob("*.json")))
        return [note for note in found if note is not None]

    def remove(self, note: StopNote) -> None:
        """Remove the note, unless a later one has replaced it. Raises nothing."""
        if self.read(note.account_id) == note:
            with contextlib.suppress(OSError):
                self._path(note.account_id).unlink()

    def _path(self, account_id: str) -> Path:
        return self._directory / f"{account_id}.json"
