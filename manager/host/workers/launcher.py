"""Launchers of worker processes.

One forks each worker from a preloaded process; the other starts a fresh interpreter for each.
"""

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

#: Seconds for the preloaded process to import its modules.
_PRELOAD_SECONDS: Final = 60.0
#: Seconds for one fork; it takes milliseconds unless the machine is out of memory.
_FORK_SECONDS: Final = 20.0
#: Seconds for the request of an exit code; after that the exit is handled without it.
_EXIT_CODE_SECONDS: Final = 1.0
#: The same while an earlier such request is unanswered.
_UNANSWERED_SECONDS: Final = 0.01


@dataclass(frozen=True, slots=True)
class Launched:
    """A new worker process.

    It reads its launch specification from `writer` and reports on `reader`.
    """

    process: ProcessRef
    reader: BinaryIO
    writer: BinaryIO

    def close(self) -> None:
        for stream in (self.reader, self.writer):
            with contextlib.suppress(OSError):
                stream.close()


class Launcher(Protocol):
    """Creates worker processes."""

    def preload(self) -> None:
        """Prepare the first launch. Idempotent."""

    def launch(self) -> Launched:
        """Create a worker process, which waits for its launch specification.

        Raises StartFailedError.
        """

    def exit_code(self, process: ProcessRef) -> int | None:
        """Return the exit code of an ended process, or None if it is unknown.

        A negative code is the number of a signal.
        """

    def preloaded_pid(self) -> int | None:
        """Return the pid of the process that workers are forked from; None if there is none now."""

    def end_strays(self) -> list[int]:
        """Kill processes whose worker and guard were killed together.

        Returns their pids.
        """

    def close(self) -> None:
        """Release the resources of the launcher. Running workers are not affected."""


def make_launcher(method: str, log_file: Path) -> Launcher:
    """Return the launcher for `fork` or `spawn`.

    `log_file` receives the output of new processes until they open their own logs.
    """
    if sys.platform != "win32" and method == "fork":
        return ForkLauncher(log_file)
    return SpawnLauncher(log_file)


class SpawnLauncher:
    """Starts a fresh interpreter for each worker.

    This is the only way on Windows, and slower than fork on other systems.
    """

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
            raise StartFailedError(f"the worker process could not be created: {error}") from None
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

    def preloaded_pid(self) -> int | None:
        return None

    def end_strays(self) -> list[int]:
        return []  # the init process adopts them; only their environment and control group identify them

    def close(self) -> None:
        # A process that this one does not wait for becomes a zombie when it ends.
        for child in self._children.values():
            threading.Thread(target=child.wait, name="reap", daemon=True).start()
        self._children.clear()


if sys.platform != "win32":

    class ForkLauncher:
        """Forks each worker from a preloaded process.

        That process is started on first use, and restarted if it dies.
        """

        def __init__(self, log_file: Path) -> None:
            self._log_file = log_file
            self._lock = threading.Lock()
            #: The received part of the next reply.
            self._received = b""
            #: Requests without a reply so far, ones that timed out included.
            self._pending = 0
            #: Whether a request of an exit code is unanswered: then the exits of workers do not wait for one.
            self._unanswered = False
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
                    reply = self._request({"op": "fork"}, (theirs.fileno(),))
                if "pid" not in reply:
                    raise StartFailedError(f"the worker process could not be created: {reply.get('error')}")
                process = ProcessRef.of(reply["pid"])
                if process is None:
                    raise StartFailedError(
                        "the worker process ended before it received its launch specification"
                    )
                return Launched(process, ours.makefile("rb"), ours.makefile("wb"))
            finally:
                # The two streams keep the socket open.
                ours.close()

        def exit_code(self, process: ProcessRef) -> int | None:
            # A running fork, or a hung preloaded process, must not delay the handling of an exit.
            seconds = _UNANSWERED_SECONDS if self._unanswered else _EXIT_CODE_SECONDS
            if not self._lock.acquire(timeout=seconds):
                self._unanswered = True
                return None
            try:
                connection = self._socket
                if self._server is None or connection is None or self._server.poll() is not None:
                    return None  # the parent is gone, and the exit code with it
                self._skip_late_replies(connection, seconds)
                connection.sendall(json.dumps({"op": "reap", "pid": process.pid}).encode())
                self._pending += 1
                code = self._reply(connection, seconds).get("code")
            except (OSError, ValueError):
                self._unanswered = True
                return None
            finally:
                self._lock.release()
            return code if isinstance(code, int) else None

        def preloaded_pid(self) -> int | None:
            server = self._server
            return None if server is None else server.pid

        def end_strays(self) -> list[int]:
            with self._lock:
                if self._server is None or self._server.poll() is not None:
                    return []
            try:
                pids = self._request({"op": "strays"}).get("pids")
            except StartFailedError:
                return []
            return pids if isinstance(pids, list) else []

        def close(self) -> None:
            with self._lock:
                self._drop()

        def _request(self, request: Mapping[str, Any], fds: tuple[int, ...] = ()) -> dict[str, Any]:
            with self._lock:
                try:
                    connection = self._connection()
                    self._skip_late_replies(connection, _FORK_SECONDS)
                    socket.send_fds(connection, [json.dumps(request).encode()], list(fds))
                    self._pending += 1
                    return self._reply(connection, _FORK_SECONDS)
                except (OSError, ValueError) as error:
                    self._drop()
                    raise StartFailedError(
                        f"the preloaded process cannot be used ({error}); see {self._log_file}"
                    ) from None

        def _skip_late_replies(self, connection: socket.socket, seconds: float) -> None:
            """Read the replies that came too late: it handles one request at a time.

            Raises OSError.
            """
            if self._pending:
                self._reply(connection, seconds)

        def _reply(self, connection: socket.socket, seconds: float) -> dict[str, Any]:
            """Return the reply to the last request.

            Skips replies to earlier requests that timed out.

            Raises OSError on a timeout, or if the preloaded process has ended.
            """
            deadline = time.monotonic() + seconds
            while True:
                line, newline, rest = self._received.partition(b"\n")
                if newline:
                    self._received = rest
                    self._pending -= 1
                    if self._pending == 0:
                        self._unanswered = False
                        reply: dict[str, Any] = json.loads(line)
                        return reply
                    continue
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                more = connection.recv(65_536)
                if not more:
                    raise OSError("it has ended")
                self._received += more

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
            self._socket, self._received, self._pending = ours, b"", 1
            self._reply(ours, _PRELOAD_SECONDS)
            return ours

        def _drop(self) -> None:
            if self._socket is not None:
                self._socket.close()
            self._socket, self._received, self._pending, self._unanswered = None, b"", 0, False
            if self._server is not None:
                # It ends once its socket is closed, unless it hangs.
                try:
                    self._server.wait(timeout=2)
                except subprocess.TimeoutExpired:
                    self._server.kill()
                    self._server.wait()
                self._server = None


def _environment() -> dict[str, str]:
    """Return a worker's environment, without the agent's variables.

    Operators put `env:` passwords there.
    """
    extra = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    extra |= {name: os.environ[name] for name in ("PYTHONPATH", CORE_LIMIT) if name in os.environ}
    return clean_environment(extra)
