"""Stop notes: stops requested while no host agent answered.

Each one is a small file in the state directory. A host agent takes every note before it starts anything: the
stop becomes desired state, and reaches Redis when it is up.
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

#: Bytes. A note has a few hundred; a larger file is not a note.
_MAX_SIZE: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class StopNote:
    """One stop of one account."""

    account_id: str
    #: Identifies the command.
    token: str
    #: The user who asked.
    by: str
    #: Higher than that of every command known on this machine.
    generation: int
    timeout: float | None = None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse what `StopNotes.write` wrote. Raises ValueError for anything else."""
        data: Any = json.loads(text)
        try:
            note = cls(**data)
        except TypeError as error:
            raise ValueError(str(error)) from None
        if not isinstance(note.generation, int) or not 0 <= note.generation < 10**15:
            raise ValueError("its generation is not a number of milliseconds")
        return note


class StopNotes:
    """The notes of one host, one file per account.

    Safe to use from several processes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, note: StopNote) -> None:
        """Write the note so that it survives a crash of the machine.

        Raises OSError.
        """
        ensure_private_dir(self._directory)
        atomic_file.write(self._path(note.account_id), json.dumps(asdict(note)), durable=True)

    def read(self, account_id: str) -> StopNote | None:
        """Return the account's note, or None if there is none or it is unreadable."""
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
        """Return every readable note, sorted by account id."""
        found = (self.read(path.stem) for path in sorted(self._directory.glob("*.json")))
        return [note for note in found if note is not None]

    def remove(self, note: StopNote) -> None:
        """Remove the note, unless a later one has replaced it. Raises nothing."""
        if self.read(note.account_id) == note:
            with contextlib.suppress(OSError):
                self._path(note.account_id).unlink()

    def _path(self, account_id: str) -> Path:
        return self._directory / f"{account_id}.json"


class PendingStops:
    """The notes that this agent has not made desired state yet.

    `forbids_start` from any thread, the rest from one.
    """

    def __init__(self, notes: StopNotes) -> None:
        self._notes = notes
        #: Tokens of notes that became desired state but could not be removed, as on a full disk.
        self._taken: set[str] = set()

    def accounts(self) -> set[str]:
        """Return the accounts that have a note."""
        return {note.account_id for note in self._notes.read_all()}

    def forbids_start(self, account_id: str) -> bool:
        """Return whether the account has a note that is not desired state yet."""
        note = self._notes.read(account_id)
        return note is not None and note.token not in self._taken

    def untaken(self) -> list[StopNote]:
        """Return the notes that are not desired state yet."""
        return [note for note in self._notes.read_all() if note.token not in self._taken]

    def mark_taken(self, note: StopNote) -> None:
        """Note that the stop is desired state."""
        self._taken.add(note.token)

    def remove_taken(self) -> None:
        """Remove the notes that are desired state.

        Call it once that state is on disk or in Redis.
        """
        for note in self._notes.read_all():
            if note.token in self._taken:
                self._notes.remove(note)
                self._taken.discard(note.token)
