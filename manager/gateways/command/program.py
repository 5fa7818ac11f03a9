"""Starts programs that must not outlive their worker."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final, Protocol, cast

import psutil

from manager.gateways.command.cgroups import end_cgroup, make_cgroup
from manager.gateways.command.program_user import ProgramUser
from manager.gateways.command.windows_job import join_own_job
from manager.system.child_process import start_detached

#: Environment variable of the program with its worker's ID; most descendants inherit it.
MARK: Final = "MANAGER_WORKER_ID"
#: Environment variable of a guard with its worker's ID; see `program_guard`.
GUARD_MARK: Final = "MANAGER_GUARD_OF"
#: Seconds between two checks of killed processes.
_POLL_SECONDS: Final = 0.02
#: The file in a worker's private directory that names the control group of its program.
CGROUP_NOTE: Final = "cgroup"


class Program(Protocol):
    """A running program and its descendants. Used by one thread."""

    @property
    def pid(self) -> int: ...

    @property
    def outputs(self) -> Mapping[str, BinaryIO]:
        """The pipes `stdout` and `stderr`."""

    @property
    def guard_lost(self) -> bool:
        """Whether the owner of the program's processes ended before them."""

    def exit_code(self) -> int | None:
        """Return the exit code (negative: signal), or None while it runs."""

    def wake_source(self) -> socket.socket | None:
        """Return a socket that is readable once the program or its owner ended."""

    def send_stop_signal(self, name: str) -> None:
        """Send the stop signal; `name` may begin with SIG."""

    def wait(self, seconds: float) -> bool:
        """Wait until the program has ended, on Linux with its descendants.

        Returns whether it has.
        """

    def kill_all(self, seconds: float) -> bool:
        """Kill the program and its descendants; returns whether all have ended."""

    def processes(self) -> list[int]:
        """Return the known pids of the program and its descendants."""

    def left(self) -> list[str]:
        """Return the live processes of the program, for messages."""

    def stopped(self) -> list[str]:
        """Return the processes that are stopped by a signal, for messages."""

    def close(self) -> None: ...


class PlainProgram:
    """A program without a guard.

    A job object (Windows) or process group (macOS) owns its processes.
    """

    guard_lost = False

    def __init__(
        self,
        argv: Sequence[str],
        directory: Path | None,
        environment: Mapping[str, str],
        worker_id: str,
        *,
        user: ProgramUser | None = None,
        umask: int = 0o022,
    ) -> None:
        """Start the program. Raises OSError."""
        if sys.platform == "win32":
            join_own_job()
        self._process = start_detached(
            argv,
            environment=environment,
            directory=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Unbuffered: data in a buffer would not wake a reader that waits for the pipe.
            bufsize=0,
            umask=umask,
            user=None if user is None else (user.uid, user.gid, user.groups),
        )
        self._worker_id = worker_id
        self.pid = self._process.pid
        self.outputs: Mapping[str, BinaryIO] = {
            "stdout": cast(BinaryIO, self._process.stdout),
            "stderr": cast(BinaryIO, self._process.stderr),
        }
        self._wake_read, self._wake_write = socket.socketpair()
        threading.Thread(target=self._await_end, name="program", daemon=True).start()

    def _await_end(self) -> None:
        self._process.wait()
        self._wake_write.close()

    def wake_source(self) -> socket.socket | None:
        return self._wake_read

    def exit_code(self) -> int | None:
        return self._process.poll()

    def send_stop_signal(self, name: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                self._process.send_signal(signal.CTRL_BREAK_EVENT)
            else:
                os.killpg(self.pid, getattr(signal, f"SIG{name.upper().removeprefix('SIG')}", signal.SIGTERM))
                # A stopped process handles a signal only after it is continued.
                os.killpg(self.pid, signal.SIGCONT)

    def wait(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill_all(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        if sys.platform == "win32":
            self._process.kill()
        else:
            # The system does not reuse a group's ID while the group has a member.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        return self.wait(seconds) and kill_marked(self._worker_id, deadline - time.monotonic())

    def processes(self) -> list[int]:
        return marked(self._worker_id)[1]

    def stopped(self) -> list[str]:
        with contextlib.suppress(psutil.Error):
            if psutil.Process(self.pid).status() == psutil.STATUS_STOPPED:
                return [f"pid {self.pid}"]
        return []

    def left(self) -> list[str]:
        return [f"pid {pid}" for pid in marked(self._worker_id)[1]]

    def close(self) -> None:
        for output in self.outputs.values():
            with contextlib.suppress(OSError):
                output.close()
        self._wake_read.close()


def start_program(
    argv: Sequence[str],
    directory: Path | None,
    environment: Mapping[str, str],
    worker_id: str,
    *,
    private_dir: Path,
    keep_user: bool = False,
    user: ProgramUser | None = None,
    umask: int = 0o022,
    open_files: int | None = None,
    make_directory: bool = False,
) -> Program:
    """Start a program, marked with its worker's ID. Raises OSError.

    `user` is the program's user, or None for this process's user. With `make_directory`, a missing directory
    is created. With `keep_user`, the program and its descendants cannot become another user (sudo, setuid
    files), because this user could not kill such processes. `open_files` is its soft limit of open files
    (Linux).
    """
    environment = {**environment, MARK: worker_id}
    if sys.platform == "linux":
        from manager.gateways.command.guarded_program import GuardedProgram

        cgroup = make_cgroup(worker_id)
        if cgroup is not None:
            private_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            (private_dir / CGROUP_NOTE).write_text(str(cgroup))
        try:
            return GuardedProgram(
                argv,
                directory,
                environment,
                worker_id,
                cgroup=cgroup,
                keep_user=keep_user,
                user=user,
                umask=umask,
                open_files=open_files,
                make_directory=make_directory,
            )
        except BaseException:
            if cgroup is not None:
                end_cgroup(cgroup, time.monotonic())
            raise
    else:
        del private_dir, keep_user, open_files
        if make_directory and directory is not None and user is None:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return PlainProgram(argv, directory, environment, worker_id, user=user, umask=umask)


def kill_marked(worker_id: str, seconds: float) -> bool:
    """Kill all processes with the worker's mark.

    Returns whether all have ended.

    The worker itself has no mark. A process that changed its environment is not found: see `program_guard`.
    """
    deadline = time.monotonic() + seconds
    while True:
        _, pids = marked(worker_id)
        if not pids:
            return True
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)


def marked(worker_id: str) -> tuple[list[int], list[int]]:
    """Return the live guards and the marked processes of a program."""
    guards: list[int] = []
    program: list[int] = []
    found = _environments(worker_id) if sys.platform == "linux" else _psutil_environments()
    for pid, environment in found:
        if environment.get(GUARD_MARK) == worker_id:
            guards.append(pid)
        elif environment.get(MARK) == worker_id:
            program.append(pid)
    return guards, program


def _environments(text: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Yield the processes whose environment contains `text`.

    Ten times as fast as psutil.
    """
    needle = text.encode()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            # A process that has ended, or of another user. Other errors must not hide a process of the
            # program.
            with (
                contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError),
                open(f"/proc/{entry.name}/environ", "rb") as environ,  # noqa: PTH123
            ):
                content = environ.read()
                if needle in content:
                    pairs = (part.partition(b"=") for part in content.split(b"\0"))
                    yield int(entry.name), {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def _psutil_environments() -> Iterator[tuple[int, Mapping[str, str]]]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process.pid, process.environ()
