"""A program that must not outlive its worker: in a process group of its own, ended with all that it started."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import psutil

from manager.gateways.jobs import join_own_job

_PR_SET_PDEATHSIG: Final = 1
#: The environment variable that every process of a program carries.
MARK: Final = "MANAGER_WORKER_ID"


class Program:
    """A running program and its children."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: BinaryIO, worker_id: str) -> None:
        self._process = process
        self._worker_id = worker_id
        self.output = output

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return how it ended (negative: by that signal); None while it runs."""
        return self._process.poll()

    def ask_to_stop(self, name: str) -> None:
        """Send the program itself, not its children, the signal that it takes for a polite stop."""
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                self._process.send_signal(signal.CTRL_BREAK_EVENT)
            else:
                number = getattr(signal, f"SIG{name.upper().removeprefix('SIG')}", signal.SIGTERM)
                self._process.send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Wait until the program itself has ended; True if it has."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill_all(self, seconds: float) -> bool:
        """Kill the program and whatever it started; True once nothing of it is left."""
        deadline = time.monotonic() + seconds
        if sys.platform == "win32":
            self._process.kill()
        else:
            # A group's id is not given to a new process while a member lives; without one there is nothing to kill.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        return self.wait(seconds) and kill_marked(self._worker_id, deadline - time.monotonic())

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.output.close()


def start_program(
    argv: Sequence[str], directory: Path | None, environment: Mapping[str, str], worker_id: str
) -> Program:
    """Start a program, marked with its worker's id, its standard output and error in one stream. Raises OSError."""
    options: dict[str, Any] = {}
    if sys.platform == "win32":
        join_own_job()
        options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    else:
        options["start_new_session"] = True
        if sys.platform == "linux":
            options["preexec_fn"] = _die_with(os.getpid())
    process = subprocess.Popen(
        list(argv),
        cwd=directory,
        env={**environment, MARK: worker_id},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )
    if process.stdout is None:
        raise OSError("its output has no pipe")
    return Program(process, cast(BinaryIO, process.stdout), worker_id)


def kill_marked(worker_id: str, seconds: float) -> bool:
    """Kill every process that a worker's program left behind, wherever it hid; True once there is none.

    The worker itself is none of them. Known by the variable that they inherited from the program.
    """
    deadline = time.monotonic() + seconds
    while True:
        left = list(_marked(worker_id))
        if not left:
            return True
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if time.monotonic() > deadline:
            return False
        psutil.wait_procs(left, timeout=max(0.0, deadline - time.monotonic()))


def _marked(worker_id: str) -> Iterator[psutil.Process]:
    pids = _pids_marked(f"{MARK}={worker_id}".encode()) if sys.platform == "linux" else psutil.pids()
    for pid in pids:
        try:
            process = psutil.Process(pid)
            if process.environ().get(MARK) == worker_id and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or another user's


def _pids_marked(mark: bytes) -> Iterator[int]:
    """Yield the processes that may have the variable: a tenth of what psutil takes, at each end of each worker."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry.name}/environ", "rb") as environ:  # noqa: PTH123
                if mark in environ.read():
                    yield int(entry.name)


def _die_with(parent: int) -> Callable[[], None]:
    """Return what a child does before it becomes the program: have the system kill it when its worker dies.

    `kill -9` of a worker would otherwise leave a program that trades and that nobody supervises.
    """
    libc = ctypes.CDLL(None)
    kill = int(getattr(signal, "SIGKILL", 9))

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, kill)
        # The worker may have died before the call above took effect.
        if os.getppid() != parent:
            os._exit(1)

    return prepare
