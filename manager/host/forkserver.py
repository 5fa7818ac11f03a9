"""The preloaded process that workers are forked from: `python -m manager.host.forkserver FD`.

Starting an interpreter and importing costs a worker a quarter of a second; a fork of this one costs a few
milliseconds and shares its memory. It has one thread, never sees a secret (an order goes from the agent to the child
over a socket that passes through here unread), and ends when its agent ends; the workers live on.

Each request is one JSON line with, for `fork`, one file descriptor beside it; each answer is one JSON line.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
from typing import Any, Final, NoReturn

assert sys.platform != "win32", "there is no fork on Windows"

#: What a worker imports sooner or later. Whatever is missing here costs every worker its own copy.
PRELOADED: Final = (
    "manager.session.entry",
    "manager.gateways.paper",
    "manager.gateways.command",
    "redis.connection",
    "redis.client",
)


def serve(server: socket.socket) -> None:
    """Answer requests until the agent closes its end."""
    while True:
        line, fds, _, _ = socket.recv_fds(server, 4096, 1)
        if not line:
            return
        request = json.loads(line)
        if request["op"] == "fork":
            answer = _fork(server, fds[0])
        else:
            answer = _reap(request["pid"])
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
    with contextlib.suppress(ChildProcessError):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return {"code": os.waitstatus_to_exitcode(status)}
    return {"code": None}


def main() -> None:
    server = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
