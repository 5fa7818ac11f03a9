"""The guardian process, which kills its worker when the lease expires.

Workers whose account may fail over to another host have one. A worker stops itself well before its lease
expires. It cannot while it is paused (SIGSTOP, a frozen container, a debugger) or while a library holds the
interpreter. Its session would then overlap with its successor's. On Windows, which has no fork, the check
before every call is the only protection.

The guardian itself can die, for example when the system runs out of memory. Two measures cover that:
- The worker notices the guardian's end at once and closes its session; recovery starts a new worker and
  guardian. The worker does not fork another guardian: a process with threads and open connections must not
  fork.
- A kernel timer (`manager.session.kill_timer`, Linux) kills the worker shortly after the guardian would have.
  It covers a worker that is paused when its guardian dies, or together with it.
"""

import contextlib
import gc
import os
import select
import signal
import struct
import sys
import threading
from collections.abc import Callable
from typing import Final

from manager.session.heartbeat_file import HeartbeatWriter
from manager.session.kill_timer import make_kill_timer
from manager.session.lease import lease_clock
from manager.system.processes import ProcessRef

_DEADLINE: Final = struct.Struct("<d")
#: The guardian's end of the pipe from its worker.
_PIPE: Final = 3
#: Seconds after the guardian's deadline at which the kernel kills: only the guardian can record the reason.
_GRACE_SECONDS: Final = 0.1


class Guardian:
    """The worker's side: sends deadlines and notices the guardian's end."""

    def __init__(self, pid: int, pipe: int, first_deadline: float) -> None:
        """Use the child process `pid`, which reads deadlines from `pipe`."""
        self._pid = pid
        self._pipe = pipe
        self._timer = make_kill_timer()
        self._set_timer(first_deadline)

    def extend(self, deadline: float) -> None:
        """Let this process live until `deadline`, by `lease_clock`."""
        # A full pipe holds deadlines that the guardian will read; `watch` notices a closed one.
        with contextlib.suppress(OSError):
            os.write(self._pipe, _DEADLINE.pack(deadline))
        self._set_timer(deadline)

    def watch(self, on_end: Callable[[str], None]) -> None:
        """Call `on_end` with the reason, on another thread, if the guardian ends."""
        threading.Thread(target=self._await_end, args=(on_end,), name="guardian", daemon=True).start()

    def _set_timer(self, deadline: float) -> None:
        if self._timer is not None:
            with contextlib.suppress(OSError):
                self._timer.set(deadline + _GRACE_SECONDS)

    def _await_end(self, on_end: Callable[[str], None]) -> None:
        if sys.platform == "win32":
            return
        how = ""
        # The guardian's end of the pipe closes however it ends, which wakes this thread at once.
        poll = select.poll()
        poll.register(self._pipe, 0)
        while not poll.poll():
            pass
        with contextlib.suppress(ChildProcessError):
            _, status = os.waitpid(self._pid, 0)
            how = f" (exit code {os.waitstatus_to_exitcode(status)})"
        on_end(f"its guardian process ended{how}: without it a pause could outlast the lease")


def _watch(worker: ProcessRef, deadline: float, beat: HeartbeatWriter) -> None:
    while True:
        left = deadline - lease_clock()
        if left <= 0:
            beat.catch_up()
            beat.exit_reason("its lease could not be renewed in time, and it did not stop by itself")
            worker.kill()
            return
        readable, _, _ = select.select([_PIPE], [], [], left)
        if readable:
            data = os.read(_PIPE, _DEADLINE.size * 512)
            if not data:
                return  # the worker has ended
            deadline = _DEADLINE.unpack(data[-_DEADLINE.size :])[0]


if sys.platform == "win32":

    def start_guardian(first_deadline: float, beat: HeartbeatWriter) -> Guardian | None:
        """Return None: Windows has no fork."""
        del first_deadline, beat
        return None

else:

    def start_guardian(first_deadline: float, beat: HeartbeatWriter) -> Guardian | None:
        """Fork a guardian that kills this process at `first_deadline`.

        The deadline is in seconds of `lease_clock` and can be extended.

        Call it before this process has threads, sockets or credentials: the guardian is a copy of the
        process.
        """
        worker = ProcessRef.me()
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                _close_all_except(reading)
                _watch(worker, first_deadline, beat)
            finally:
                os._exit(0)
        os.close(reading)
        os.set_blocking(writing, False)
        return Guardian(pid, writing, first_deadline)

    def _close_all_except(fd: int) -> None:
        """Close every inherited descriptor except `fd`, which becomes `_PIPE`.

        An inherited socket would otherwise stay open after the worker closed it.
        """
        gc.disable()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # The signal is for the worker, which may take time to stop and must be watched until it ends.
            signal.signal(number, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        if fd != _PIPE:
            os.dup2(fd, _PIPE)
        os.closerange(_PIPE + 1, os.sysconf("SC_OPEN_MAX"))
