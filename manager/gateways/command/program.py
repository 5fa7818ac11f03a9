"""A program that must not outlive its worker, with everything that it starts."""

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

#: The environment variable that a program is given; most of what it starts inherits it.
MARK: Final = "MANAGER_WORKER_ID"
#: The environment variable that tells whose guard a process is; see `program_guard`.
GUARD_MARK: Final = "MANAGER_GUARD_OF"
#: Seconds between two looks at processes that were killed.
_POLL_SECONDS: Final = 0.02
#: The file in a worker's private directory that names the control group of its program.
CGROUP_NOTE: Final = "cgroup"


class Program(Protocol):
    """A running program and all that it started. Used by one thread."""

    @property
    def pid(self) -> int: ...

    @property
    def outputs(self) -> Mapping[str, BinaryIO]:
        """`stdout` and `stderr`, each in a pipe."""

    @property
    def guard_lost(self) -> bool:
        """Whether what owns the program's processes has ended before them."""

    def exit_code(self) -> int | None:
        """Return how the program itself ended (negative: by that signal); None while it runs."""

    def wake_source(self) -> socket.socket | None:
        """Return a socket that is readable once the program has ended, or what owns its processes has."""

    def ask_to_stop(self, name: str) -> None:
        """Send the signal for a polite stop."""

    def wait(self, seconds: float) -> bool:
        """Wait until the program has ended, on Linux with all that it started; True if it has."""

    def kill_all(self, seconds: float) -> bool:
        """Kill the program and whatever it started; True once nothing of it is left."""

    def processes(self) -> list[int]:
        """Return the pids of the program and of what it started, as far as they are known."""

    def left(self) -> list[str]:
        """Return what still lives of the program, for messages."""

    def stopped(self) -> list[str]:
        """Return which of its processes are stopped by a signal, for messages."""

    def close(self) -> None: ...


class PlainProgram:
    """A program without a guard: on Windows a job object owns its processes, on macOS its process group."""

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
        """Start it. Raises OSError."""
        if sys.platform == "win32":
            join_own_job()
        self._process = start_detached(
            argv,
            environment=environment,
            directory=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Unbuffered: what a buffer holds would not wake who waits for the pipe.
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

    def ask_to_stop(self, name: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                self._process.send_signal(signal.CTRL_BREAK_EVENT)
            else:
                os.killpg(self.pid, getattr(signal, f"SIG{name.upper().removeprefix('SIG')}", signal.SIGTERM))
                # A stopped process takes a signal only once it is continued.
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
            # A group's id is not given to a new process while a member lives; without one there is nothing to kill.
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
    make_directory: bool = False,
) -> Program:
    """Start a program, marked with its worker's id. Raises OSError.

    `user` is whom it runs as, if not as this process. `make_directory`: a missing directory is made.

    `keep_user`: neither the program nor what it starts may become another user (sudo, setuid files), whose processes
    this user could not kill.
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
                make_directory=make_directory,
            )
        except BaseException:
            if cgroup is not None:
                end_cgroup(cgroup, time.monotonic())
            raise
    else:
        del private_dir, keep_user
        if make_directory and directory is not None and user is None:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return PlainProgram(argv, directory, environment, worker_id, user=user, umask=umask)


def kill_marked(worker_id: str, seconds: float) -> bool:
    """Kill every process that carries the worker's mark; True once there is none.

    The worker itself is none of them. A process that changed its environment is not found: see `program_guard`.
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
    """Return the living guards of the worker's program, and the processes of the program that carry its mark."""
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
    """Yield the processes whose environment holds `text`: a tenth of psutil's time, at each end of each worker."""
    needle = text.encode()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            # One that has ended meanwhile, or another user's. No other error may be taken for "not the program's".
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
