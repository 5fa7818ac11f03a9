"""A worker's note: a copy of its record, which it holds open.

The host agent keeps a record of each worker in the state directory. A record that was emptied, damaged or
removed while no agent ran must not make a running worker look ended. The worker therefore writes the same
record into the run directory and keeps that file open. On Linux a new agent finds the open file through
`/proc`, even after the file, the run directory or the whole state directory was removed. On other systems
the agent reads the file itself.
"""

import os
from pathlib import Path
from typing import Final

from pydantic import SecretStr

SUFFIX: Final = ".note"


def process_name(account_id: str) -> str:
    """Return the name of the worker's process on Linux: at most 15 bytes."""
    return f"wm:{account_id}"[:15]


def note_path(beat_file: Path) -> Path:
    """Return the path of the note of the worker with this heartbeat file."""
    return beat_file.with_suffix(SUFFIX)


def hold_note(beat_file: Path, text: SecretStr) -> int:
    """Write the note (mode 0600) and return its descriptor; never close it.

    The descriptor is closed on exec, so that a program of the worker is not mistaken for the worker. Raises
    OSError.
    """
    fd = os.open(note_path(beat_file), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    data = text.get_secret_value().encode()
    while data:
        data = data[os.write(fd, data) :]
    return fd
