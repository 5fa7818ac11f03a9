"""The preloaded process that workers are forked from: `python -m manager.host.forkserver FD`.

Starting an interpreter and importing costs a worker a quarter of a second; a fork of this one costs a few
milliseconds and shares its memory. It has one thread, never sees a secret (an order goes from the agent to the child
over a socket that passes through here unread), and ends when its agent ends; the workers live on.

Each request is one JSON line with, for `fork`, one file descriptor beside it; each answer is one JSON line.

It is a child subreaper (Linux): what a worker and the guard of its program leave behind when both are killed comes to
this process, which ends it (`strays`).
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

from manager.system.processes import prevent_core_dumps

assert sys.platform != "win32", "there is no fork on Windows"

from manager.gateways import preloaded_modules  # noqa: E402
from manager.gateways.command.program import GUARD_MARK  # noqa: E402
from manager.gateways.command.program_guard import become_subreaper, descendants  # noqa: E402

#: What a worker imports sooner or later. Whatever is missing here costs every worker its own copy.
PRELOADED: Final = (
    "manager.session.entry",
    *preloaded_modules(),
    "redis.connection",
    "redis.client",
)


#: The workers that were forked here and not reaped yet.
_workers: Final[set[int]] = set()


def serve(server: socket.socket) -> None:
    """Answer requests until the agent closes its end."""
    while True:
        line, fds, _, _ = socket.recv_fds(server, 4096, 1)
        if not line:
            return
        request = json.loads(line)
        match request["op"]:
            case "fork":
                answer = _fork(server, fds[0])
            case "reap":
                answer = _reap(request["pid"])
            case _:
                answer = {"pids": _end_strays()}
        server.sendall(json.dumps(answer).encode() + b"\n")


def _fork(server: socket.socket, fd: int) -> dict[str, Any]:
    try:
        pid = os.fork()
    except OSError as error:
        os.close(fd)
        return {"error": f"fork failed: {error.strerror}"}
    if pid == 0:
        _become_worker(server, fd)
    os.close(fd)
    _workers.add(pid)
    return {"pid": pid}


def _become_worker(server: socket.socket, fd: int) -> NoReturn:
    code = 70
    try:
        server.close()
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.enable()
        from manager.session.entry import run

        with socket.socket(fileno=fd) as channel:
            code = run(channel.makefile("rb"), channel.makefile("wb"))
    finally:
        # Nothing of the preloaded process must be flushed or torn down a second time.
        os._exit(code)


def _reap(pid: int) -> dict[str, Any]:
    code = None
    with contextlib.suppress(ChildProcessError):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            _workers.discard(pid)
            code = os.waitstatus_to_exitcode(status)
    _reap_others()
    return {"code": code}


def _reap_others() -> None:
    """Collect children that are not workers: they came here when their parent, a worker or a guard, ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid in _workers:
                return  # a worker is collected when the agent asks for its exit code
            os.waitpid(ended.si_pid, os.WNOHANG)


def _end_strays() -> list[int]:
    """Kill what came here from a worker and a guard that were killed together; returns what was found.

    A guard that lives ends what is below it, and then itself: it is left alone.
    """
    if sys.platform != "linux":
        return []
    below = descendants(os.getpid(), without=_workers)
    guards = [pid for pid in below if _is_guard(pid)]
    strays = descendants(os.getpid(), without=_workers.union(guards)) if below else []
    for pid in strays:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    _reap_others()
    return strays


def _is_guard(pid: int) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return environment.startswith(f"{GUARD_MARK}=".encode())


def main() -> None:
    server = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prevent_core_dumps()
    if sys.platform == "linux":
        become_subreaper()
    for module in PRELOADED:
        importlib.import_module(module)
    gc.collect()
    gc.disable()
    # A collection in a child would otherwise write to, and so copy, every page it shares with the others.
    gc.freeze()
    server.sendall(b'{"ready": true}\n')
    serve(server)


if __name__ == "__main__":
    main()
