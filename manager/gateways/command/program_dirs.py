"""The directories of a program."""

import contextlib
import os
import sys
from pathlib import Path

from manager.gateways.command.program_user import ProgramUser


def make_program_dirs(private_dir: Path, state_dir: Path | None, user: ProgramUser | None) -> None:
    """Create the directories that the program needs. Raises OSError.

    `private_dir` still belongs to the worker; a program of another user may enter it to reach its own files.
    `state_dir` belongs to the program's user and has mode 0700.
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
        # Only root can write to the parent directories, so this directory cannot have been replaced.
        os.chown(state_dir, user.uid, user.gid, follow_symlinks=False)
