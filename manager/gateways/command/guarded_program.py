"""The worker's side of a guarded program (Linux).

See `manager.gateways.command.program_guard`.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import psutil

assert sys.platform == "linux", "only Linux has child subreapers"

from manager.gateways.command import program_guard  # noqa: E402
from manager.gateways.command.cgroups import end_cgroup  # noqa: E402
from manager.gateways.command.process_tree import tree  # noqa: E402
from manager.gateways.command.program import GUARD_MARK  # noqa: E402
from manager.gateways.command.program_guard import (  # noqa: E402
    become_subreaper,
    descendants,
    kill_descendants,
)
from manager.gateways.command.program_user import ProgramUser  # noqa: E402
from manager.system.child_process import start_detached  # noqa: E402
from manager.system.processes import ordinary_core_limit  # noqa: E402

#: Seconds within which the guard must start the program or report why it cannot.
_START_SECONDS: Final = 20.0
#: Part of the time for killing after which the worker itself kills, because the guard does not answer.
_GUARD_PART: Final = 0.5
_POLL_SECONDS: Final = 0.02
#: Seconds within which a guard without processes ends.
_EXIT_SECONDS: Final = 5.0


class GuardedProgram:
    """A program and its descendants. Used by one thread, like its gateway."""

    def __init__(
        self,
        argv: Sequence[str],
        directory: Path | None,
        environment: Mapping[str, str],
        worker_id: str,
        *,
        cgroup: Path | None,
        keep_user: bool,
        user: ProgramUser | None = None,
        umask: int = 0o022,
        open_files: int | None = None,
        make_directory: bool = False,
    ) -> None:
        """Start the program.

        Raises OSError if the guard or the program cannot be started.
        """
        # If the guard is killed, its processes become children of this process, which kills them.
        become_subreaper()
        #: Children that do not belong to the program, such as the failover guardian.
        self._others = set(descendants(os.getpid()))
        self._cgroup = cgroup
        self._received = b""
        self._started: int | None = None
        self._failure: Mapping[str, Any] | None = None
        self._code: int | None = None
        self._empty = False
        ours, self._guard = _start_guard(worker_id)
        self._channel: socket.socket | None = ours
        self.outputs: Mapping[str, BinaryIO] = {
            "stdout": cast(BinaryIO, self._guard.stdout),
            "stderr": cast(BinaryIO, self._guard.stderr),
        }
        self._send(
            {
                "op": "start",
                "argv": list(argv),
                "directory": None if directory is None else str(directory),
                "environment": dict(environment),
                "umask": umask,
                "user": None if user is None else [user.uid, user.gid, list(user.groups)],
                "make_directory": make_directory,
                "open_files": open_files,
                "core_limit": ordinary_core_limit(),
                "cgroup": None if cgroup is None else str(cgroup),
                "keep_user": keep_user,
            }
        )
        self._pump(_START_SECONDS, lambda: self._started is not None or self._failure is not None)
        if self._started is None:
            raise self._start_error(argv[0])
        self.pid = self._started

    @property
    def guard_pid(self) -> int:
        return self._guard.pid

    def exit_code(self) -> int | None:
        """Return the exit code (negative: signal), or None while it runs."""
        self._pump(0.0, lambda: False)
        return self._code

    @property
    def guard_lost(self) -> bool:
        """Whether the guard ended before the program's processes."""
        return self._channel is None and not self._empty

    def wake_source(self) -> socket.socket | None:
        """Return a socket that is readable when the guard has sent an event.

        `exit_code` reads it.
        """
        return self._channel

    def send_stop_signal(self, name: str) -> None:
        """Send the stop signal to the program and its descendants.

        A shell or `npm start` in front of a bot does not pass the signal on. Stopped processes (SIGSTOP) are
        continued; they handle the signal before other code runs.
        """
        number = getattr(signal, f"SIG{name.upper().removeprefix('SIG')}", signal.SIGTERM)
        self._wake_guard()
        if self.guard_lost:
            _send_signal(self._tree(), int(number))
            _send_signal(self._tree(), signal.SIGCONT)
        self._send({"op": "signal", "number": int(number)})

    def wait(self, seconds: float) -> bool:
        """Wait until the program and its descendants have ended.

        Returns whether they have.
        """
        deadline = time.monotonic() + seconds
        self._pump(seconds, lambda: self._empty)
        while self.guard_lost and not self._empty:
            self._empty = not self._tree()
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        return self._empty

    def kill_all(self, seconds: float) -> bool:
        """Kill the program and its descendants; returns whether all have ended."""
        deadline = time.monotonic() + seconds
        self._wake_guard()
        self._send({"op": "kill"})
        self._pump(seconds * _GUARD_PART, lambda: self._empty)
        if self._empty:
            return True
        if self._cgroup is not None:
            end_cgroup(self._cgroup, deadline)
        # A guard that does not answer is killed last. Otherwise its descendants would look like
        # other children of this process.
        while self._guard.poll() is None:
            if kill_descendants(self._guard.pid) == 0:
                self._guard.kill()
                self._guard.wait()
            elif time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return self._end_orphans(deadline)

    def processes(self) -> list[int]:
        """Return the pids of the program and its descendants."""
        return self._tree()

    def left(self) -> list[str]:
        """Return the live processes as `name (pid N)`, for messages."""
        return [_named(pid) for pid in self._tree()]

    def stopped(self) -> list[str]:
        """Return the stopped processes (SIGSTOP) of the program as `name (pid N)`."""
        # Called every few seconds while the program runs, so it uses the cheap `tree`.
        below = tree(os.getpid(), self._others)
        return [_named(pid) for pid, stat in below if stat[0] == b"T" and pid != self._guard.pid]

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        for output in self.outputs.values():
            with contextlib.suppress(OSError):
                output.close()
        # A guard that still has processes continues to kill them.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(_EXIT_SECONDS if self._empty else 0)

    # internal

    def _start_error(self, program: str) -> OSError:
        """End the guard; returns why the program was not started."""
        self.kill_all(_START_SECONDS)
        self.close()
        failure = self._failure or {
            "errno": 0,
            "text": "its guard process ended during the start",
            "file": program,
        }
        return OSError(failure["errno"], failure["text"], failure["file"])

    def _tree(self) -> list[int]:
        return [pid for pid in descendants(os.getpid(), self._others) if pid != self._guard.pid]

    def _end_orphans(self, deadline: float) -> bool:
        """Kill the processes of a guard that was killed.

        Returns whether all have ended.
        """
        while left := self._tree():
            _send_signal(left, signal.SIGKILL)
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        self._empty = True
        return True

    def _wake_guard(self) -> None:
        """Continue the guard in case it is stopped (SIGSTOP)."""
        if self._guard.poll() is None:
            self._guard.send_signal(signal.SIGCONT)

    def _send(self, request: Mapping[str, Any]) -> None:
        if self._channel is not None:
            with contextlib.suppress(OSError):
                self._channel.sendall(json.dumps(request).encode() + b"\n")

    def _pump(self, seconds: float, done: Callable[[], bool]) -> None:
        """Read events of the guard until `done()`, for at most `seconds`.

        At least the available ones.
        """
        deadline = time.monotonic() + seconds
        while self._channel is not None:
            left = 0.0 if done() else max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self._channel], [], [], left)
            if not readable:
                return
            try:
                data = self._channel.recv(65_536)
            except OSError:
                data = b""
            if not data:
                self._channel.close()
                self._channel = None
            *lines, self._received = (self._received + data).split(b"\n")
            for line in lines:
                self._note(json.loads(line))

    def _note(self, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "started":
                self._started = event["pid"]
            case "failed":
                self._failure = event
            case "exited":
                self._code = event["code"]
            case "empty":
                self._empty = True


def _start_guard(worker_id: str) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start a guard process; returns its channel and the process.

    Raises OSError.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        guard = start_detached(
            [sys.executable, "-I", "-S", program_guard.__file__, str(theirs.fileno()), worker_id],
            environment={GUARD_MARK: worker_id},
            directory=Path("/"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Unbuffered: data in a buffer would not wake a reader that waits for the pipe.
            bufsize=0,
            pass_fds=[theirs.fileno()],
        )
    return ours, guard


def _send_signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _named(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return f"pid {pid}"
