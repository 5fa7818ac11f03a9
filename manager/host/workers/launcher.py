"""How worker processes come to be: forked from a preloaded process, or a fresh interpreter each."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, cast

from manager.errors import StartFailedError
from manager.session.title import ROOM
from manager.system.child_process import module_argv, open_log, start_detached
from manager.system.environment import clean_environment
from manager.system.processes import CORE_LIMIT, ProcessRef

#: Seconds that the preloaded process may take to import what it preloads.
_PRELOAD_SECONDS: Final = 60.0
#: Seconds that one fork may take; it is a few milliseconds unless the machine is out of memory.
_FORK_SECONDS: Final = 20.0
#: Seconds that the question how a worker ended may take: its end is accounted for without the answer.
_EXIT_CODE_SECONDS: Final = 1.0
#: The same while the preloaded process has left such a question unanswered.
_SILENT_SECONDS: Final = 0.01


@dataclass(frozen=True, slots=True)
class Launched:
    """A new worker process that waits for its order on `writer` and answers on `reader`."""

    process: ProcessRef
    reader: BinaryIO
    writer: BinaryIO

    def close(self) -> None:
        for stream in (self.reader, self.writer):
            with contextlib.suppress(OSError):
                stream.close()


class Launcher(Protocol):
    def preload(self) -> None:
        """Do ahead what the first launch would otherwise wait for. Idempotent."""

    def launch(self) -> Launched:
        """Make a worker process. It does nothing until it is given its order. Raises StartFailedError."""

    def exit_code(self, process: ProcessRef) -> int | None:
        """Return how a process that has ended ended (negative: by that signal); None if that cannot be known."""

    def end_strays(self) -> list[int]:
        """Kill what a worker and the guard of its program left behind when both were killed; returns what was found."""

    def close(self) -> None:
        """Give up what is needed to launch. Workers that run are not touched."""


def make_launcher(method: str, log_file: Path) -> Launcher:
    """Return the launcher for `fork` or `spawn`; `log_file` gets what a new process says before it has its own log."""
    if sys.platform != "win32" and method == "fork":
        return ForkLauncher(log_file)
    return SpawnLauncher(log_file)


class SpawnLauncher:
    """A fresh interpreter for each worker: the only way on Windows, and the slow way elsewhere."""

    def __init__(self, log_file: Path) -> None:
        self._log_file = log_file
        self._children: dict[ProcessRef, subprocess.Popen[bytes]] = {}

    def preload(self) -> None:
        return

    def launch(self) -> Launched:
        try:
            with open_log(self._log_file) as log:
                child = start_detached(
                    module_argv("manager.session", ROOM),
                    environment=_environment(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                )
        except OSError as error:
            raise StartFailedError(f"no process could be made for the worker: {error}") from None
        process = ProcessRef.of(child.pid)
        if process is None or child.stdin is None or child.stdout is None:
            raise StartFailedError(
                f"the worker process ended at once with code {child.wait()}; see {self._log_file}"
            )
        self._children[process] = child
        return Launched(process, cast(BinaryIO, child.stdout), cast(BinaryIO, child.stdin))

    def exit_code(self, process: ProcessRef) -> int | None:
        child = self._children.pop(process, None)
        return None if child is None else child.wait()

    def end_strays(self) -> list[int]:
        return []  # they go to the init process, and are known by their environment and control group alone

    def close(self) -> None:
        # Somebody must wait for each, or those that end while this process goes on stay as zombies.
        for child in self._children.values():
            threading.Thread(target=child.wait, name="reap", daemon=True).start()
        self._children.clear()


if sys.platform != "win32":

    class ForkLauncher:
        """Forks each worker from a preloaded process, which is started at the first use and again if it dies."""

        def __init__(self, log_file: Path) -> None:
            self._log_file = log_file
            self._lock = threading.Lock()
            #: Bytes read of the next answer, and answers that nobody waits for any more.
            self._read = b""
            self._owed = 0
            #: Whether the preloaded process has left a question unanswered: no end of a worker waits for it then.
            self._silent = False
            self._server: subprocess.Popen[bytes] | None = None
            self._socket: socket.socket | None = None

        def preload(self) -> None:
            """Start the preloaded process now. Raises OSError if it cannot."""
            with self._lock:
                self._connection()

        def launch(self) -> Launched:
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    answer = self._ask({"op": "fork"}, (theirs.fileno(),))
                if "pid" not in answer:
                    raise StartFailedError(f"no process could be made for the worker: {answer.get('error')}")
                process = ProcessRef.of(answer["pid"])
                if process is None:
                    raise StartFailedError("the worker process ended before it could be given its order")
                return Launched(process, ours.makefile("rb"), ours.makefile("wb"))
            finally:
                # The streams made from it keep it open for as long as they are.
                ours.close()

        def exit_code(self, process: ProcessRef) -> int | None:
            # A fork under way, or a preloaded process that hangs, must not hold up the news of an end.
            seconds = _SILENT_SECONDS if self._silent else _EXIT_CODE_SECONDS
            if not self._lock.acquire(timeout=seconds):
                self._silent = True
                return None
            try:
                connection = self._socket
                if self._server is None or connection is None or self._server.poll() is not None:
                    return None  # its parent is gone: the system has reaped it and nobody knows
                self._catch_up(connection, seconds)
                connection.sendall(json.dumps({"op": "reap", "pid": process.pid}).encode())
                self._owed += 1
                code = self._answer(connection, seconds).get("code")
            except (OSError, ValueError):
                self._silent = True
                return None
            finally:
                self._lock.release()
            return code if isinstance(code, int) else None

        def end_strays(self) -> list[int]:
            with self._lock:
                if self._server is None or self._server.poll() is not None:
                    return []
            try:
                pids = self._ask({"op": "strays"}).get("pids")
            except StartFailedError:
                return []
            return pids if isinstance(pids, list) else []

        def close(self) -> None:
            with self._lock:
                self._drop()

        def _ask(self, request: Mapping[str, Any], fds: tuple[int, ...] = ()) -> dict[str, Any]:
            with self._lock:
                try:
                    connection = self._connection()
                    self._catch_up(connection, _FORK_SECONDS)
                    socket.send_fds(connection, [json.dumps(request).encode()], list(fds))
                    self._owed += 1
                    return self._answer(connection, _FORK_SECONDS)
                except (OSError, ValueError) as error:
                    self._drop()
                    raise StartFailedError(
                        f"the preloaded process cannot be used ({error}); see {self._log_file}"
                    ) from None

        def _catch_up(self, connection: socket.socket, seconds: float) -> None:
            """Read the answers that came too late, as it reads one question at a time. Raises OSError."""
            if self._owed:
                self._answer(connection, seconds)

        def _answer(self, connection: socket.socket, seconds: float) -> dict[str, Any]:
            """Return the answer to the last question; those to earlier ones, given up as too late, are passed over.

            Raises OSError if it does not come in time, or if the preloaded process has ended.
            """
            deadline = time.monotonic() + seconds
            while True:
                line, newline, rest = self._read.partition(b"\n")
                if newline:
                    self._read = rest
                    self._owed -= 1
                    if self._owed == 0:
                        self._silent = False
                        answer: dict[str, Any] = json.loads(line)
                        return answer
                    continue
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                more = connection.recv(65_536)
                if not more:
                    raise OSError("it ended")
                self._read += more

        def _connection(self) -> socket.socket:
            if self._socket is not None:
                if self._server is not None and self._server.poll() is None:
                    return self._socket
                self._drop()
            ours, theirs = socket.socketpair()
            with theirs, open_log(self._log_file) as log:
                self._server = start_detached(
                    module_argv("manager.host.forkserver", str(theirs.fileno()), ROOM),
                    environment=_environment(),
                    stdout=log,
                    stderr=log,
                    pass_fds=[theirs.fileno()],
                )
            self._socket, self._read, self._owed = ours, b"", 1
            self._answer(ours, _PRELOAD_SECONDS)
            return ours

        def _drop(self) -> None:
            if self._socket is not None:
                self._socket.close()
            self._socket, self._read, self._owed, self._silent = None, b"", 0, False
            if self._server is not None:
                # It ends by itself once its socket is closed; one that does not has hung.
                try:
                    self._server.wait(timeout=2)
                except subprocess.TimeoutExpired:
                    self._server.kill()
                    self._server.wait()
                self._server = None


def _environment() -> dict[str, str]:
    """Return a worker's environment: none of the agent's own, where an operator keeps `env:` passwords."""
    extra = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    extra |= {name: os.environ[name] for name in ("PYTHONPATH", CORE_LIMIT) if name in os.environ}
    return clean_environment(extra)
