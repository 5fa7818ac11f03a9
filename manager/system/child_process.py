"""Starts the project's processes: command lines, detached children, exec."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO, Final

#: A stream for `Popen`: a descriptor, a constant of `subprocess`, or a file.
Stream = int | IO[bytes]

#: `umask` of `Popen` for a child that inherits this process's umask.
KEEP_UMASK: Final = -1


def module_argv(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a Python module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def manager_argv(*arguments: str) -> list[str]:
    """Return the command line of this installation's `manager`.

    If the script is not on disk, the module is run. The current directory is not on the import path in both
    cases.
    """
    program = Path(sys.executable).with_name("manager.exe" if sys.platform == "win32" else "manager")
    start = [str(program)] if program.exists() else [sys.executable, "-P", "-m", "manager.cli"]
    return [*start, *arguments]


def celery_argv(command: str, *arguments: str) -> list[str]:
    """Return the command line of a Celery command on this project's app."""
    # --quiet: an error while writing Celery's banner, as on a full disk, would end the process at its start.
    return module_argv("celery", "--quiet", "-A", "tasks", command, *arguments)


def start_detached(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path | None = None,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream,
    stderr: Stream,
    umask: int = KEEP_UMASK,
    pass_fds: Sequence[int] = (),
    bufsize: int = -1,
    user: tuple[int, int, Sequence[int]] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child in its own session.

    On Windows the child gets its own process group and no console.

    A signal that a terminal sends to this process's group, such as Ctrl-C, does not reach the child. The
    child's environment is exactly `environment`. It runs as `user` (uid, gid, further groups), by default as
    this process's user. Does not wait for the child. Raises OSError if it cannot be started.
    """
    creation_flags, new_session = 0, True
    if sys.platform == "win32":
        creation_flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
        new_session, umask = False, KEEP_UMASK
    return subprocess.Popen(
        list(argv),
        cwd=directory,
        env=dict(environment),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        umask=umask,
        pass_fds=pass_fds,
        creationflags=creation_flags,
        start_new_session=new_session,
        bufsize=bufsize,
        user=None if user is None else user[0],
        group=None if user is None else user[1],
        extra_groups=None if user is None else user[2],
    )


def run_in_place(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Replace this process by a program, which then gets all signals.

    Windows cannot replace a process: there the program runs as a child, and its exit code is returned.
    """
    if sys.platform != "win32":
        os.execve(argv[0], list(argv), dict(environment))  # noqa: S606
    return subprocess.run(list(argv), env=dict(environment), check=False).returncode


def open_log(path: Path) -> BinaryIO:
    """Open a log (mode 0600) to which a child appends its output.

    Raises OSError.
    """
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")
