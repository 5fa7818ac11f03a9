"""The directories that a program is given: for its own files, and for what it is told."""

import contextlib
import os
import sys
from pathlib import Path

from manager.gateways.command.program_user import ProgramUser


def make_program_places(private_dir: Path, state_dir: Path | None, user: ProgramUser | None) -> None:
    """Make them, as far as the program needs them. Raises OSError.

    `private_dir` stays the worker's own; a program of another user may pass through it to that user's files.
    `state_dir` belongs to the program's user, mode 0700.
    """
    if user is not None:
        private_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        private_dir.chmod(0o711)
    if state_dir is None:
        return
    state_dir.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        state_dir.mkdir(mode=0o700)
    if not state_dir.is_dir() or state_dir.is_symlink():
        raise NotADirectoryError(None, "is not a directory", str(state_dir))
    if user is not None and sys.platform != "win32":
        # What is above it belongs to root alone, so it is this very directory.
        os.chown(state_dir, user.uid, user.gid, follow_symlinks=False)
