"""The preloaded process that workers are forked from.

Run as `python -m manager.host.forkserver FD`. A new interpreter with its imports costs a worker a quarter of
a second. A fork of this process costs a few milliseconds and shares its memory. The process has one thread
and never sees a secret: the agent sends a launch spec to the child over a socket that this process only
passes on. It ends when its agent ends; the workers keep running.

Each request is one JSON line; `fork` carries one file descriptor. Each answer is one JSON line.

The process is a child subreaper (Linux): if a worker and its program's guard are both killed, the program
becomes a child of this process, which kills it (`strays`).
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, Final, NoReturn

from manager.system.processes import prevent_core_dumps

assert sys.platform != "win32", "there is no fork on Windows"

from manager.gateways import preloaded_modules  # noqa: E402
from manager.gateways.command.program import GUARD_MARK  # noqa: E402
from manager.gateways.command.program_guard import become_subreaper, descendants  # noqa: E402

#: Modules that every worker imports. One that is missing here costs each worker its own copy in memory.
PRELOADED: Final = (
    "manager.session.entry",
    *preloaded_modules(),
    "redis.connection",
    "redis.client",
)


#: Pids of the workers that were forked here and not reaped yet.
_workers: Final[set[int]] = set()


def serve(server: socket.socket) -> None:
    """Answer requests until the agent closes its end of the socket."""
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
        # Without exit handlers: buffers of the preloaded process must not be flushed a second time.
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
    """Reap children that are not workers.

    They became ours when their parent, a worker or a guard, ended.
    """
    with contextlib.suppress(ChildProcessError):
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid in _workers:
                return  # a worker is reaped when the agent asks for its exit code
            os.waitpid(ended.si_pid, os.WNOHANG)


def _end_strays() -> list[int]:
    """Kill processes whose worker and guard were killed together.

    Returns their pids. A living guard is left alone: it ends its own descendants and then itself.
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


def _rehearse() -> None:
    """Run what every worker runs, so that they share what it creates."""
    from manager.session.rehearsal import rehearse

    try:
        rehearse()
    except Exception:
        traceback.print_exc()  # workers run without it; each needs more memory


def main() -> None:
    server = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prevent_core_dumps()
    if sys.platform == "linux":
        become_subreaper()
    for module in PRELOADED:
        importlib.import_module(module)
    _rehearse()
    gc.collect()
    gc.disable()
    # Otherwise a collection in a child writes to every shared page, and so copies it.
    gc.freeze()
    server.sendall(b'{"ready": true}\n')
    serve(server)


if __name__ == "__main__":
    main()
