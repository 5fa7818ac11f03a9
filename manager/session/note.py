"""A worker's note on itself: a second copy of its host's record, which the worker holds open while it lives.

The host agent keeps a record of each worker in the state directory. A record that was emptied, damaged or removed while
no agent ran must not make a running worker look ended. The worker therefore writes the same record into the run
directory and keeps that file open. On Linux a new agent finds the open file through `/proc`, even after the file, the run
directory or the whole state directory was removed. Elsewhere the agent reads the file itself.
"""

import os
from pathlib import Path
from typing import Final

from pydantic import SecretStr

SUFFIX: Final = ".note"


def process_name(account_id: str) -> str:
    """Return what a worker of the account calls its process on Linux; the system keeps 15 bytes."""
    return f"wm:{account_id}"[:15]


def note_path(beat_file: Path) -> Path:
    """Return where the worker with this beat file keeps its note."""
    return beat_file.with_suffix(SUFFIX)


def hold_note(beat_file: Path, text: SecretStr) -> int:
    """Write the note, mode 0600, and return its open descriptor, which the worker never closes. Raises OSError.

    The descriptor is closed on exec, so that no program of the worker can be taken for the worker.
    """
    fd = os.open(note_path(beat_file), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    data = text.get_secret_value().encode()
    while data:
        data = data[os.write(fd, data) :]
    return fd
