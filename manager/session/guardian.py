"""A small process beside a worker whose account may move to another host: it ends the worker when the lease's time is up.

The worker stops itself well before. But it cannot while it is paused (SIGSTOP, a frozen container, a debugger) or while
a library holds the interpreter, and its session at the venue would stay open into its successor's. Where there is no
fork (Windows), the check before every call is all there is.

The guardian itself can die: the system runs out of memory, or somebody kills it. What this prevents: the guardian is gone,
nobody notices, the worker is paused, its lease's time passes, and a successor's session begins beside its own. Twice:
- The worker notices the end of its guardian at once and leaves its session; recovery starts a new pair. It does not fork
  another guardian: a process with threads and open connections must not fork.
- A timer of the kernel (`manager.session.kill_timer`, Linux) kills the worker a moment after the guardian would have, so
  that a worker which is paused when its guardian dies, or is paused together with it, ends in time as well.
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

_WORD: Final = struct.Struct("<d")
#: The guardian's end of the pipe from its worker.
_PIPE: Final = 3
#: Seconds after the guardian's moment, at which the kernel does it: only the guardian can say why.
_GRACE_SECONDS: Final = 0.1


class Guardian:
    """The worker's end: tells its guardian until when it may live, and notices when the guardian ends."""

    def __init__(self, pid: int, pipe: int, first_deadline: float) -> None:
        """`pid` is a child of this process, which reads deadlines from the other end of `pipe`."""
        self._pid = pid
        self._pipe = pipe
        self._timer = make_kill_timer()
        self._set_timer(first_deadline)

    def extend(self, deadline: float) -> None:
        """Let this process live until `deadline`, by `lease_clock`."""
        # A full pipe holds deadlines that the guardian has yet to read; a closed one is noticed by `watch`.
        with contextlib.suppress(OSError):
            os.write(self._pipe, _WORD.pack(deadline))
        self._set_timer(deadline)

    def watch(self, on_end: Callable[[str], None]) -> None:
        """Call `on_end` once, with the reason and from another thread, when the guardian ends before this process."""
        threading.Thread(target=self._await_end, args=(on_end,), name="guardian", daemon=True).start()

    def _set_timer(self, deadline: float) -> None:
        if self._timer is not None:
            with contextlib.suppress(OSError):
                self._timer.set(deadline + _GRACE_SECONDS)

    def _await_end(self, on_end: Callable[[str], None]) -> None:
        if sys.platform == "win32":
            return
        how = ""
        # Its end of the pipe closes with it, however it ends: that wakes this thread without delay.
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
            words = os.read(_PIPE, _WORD.size * 512)
            if not words:
                return  # the worker has ended
            deadline = _WORD.unpack(words[-_WORD.size :])[0]


if sys.platform == "win32":

    def start_guardian(first_deadline: float, beat: HeartbeatWriter) -> Guardian | None:
        """There is no fork here, and no guardian."""
        del first_deadline, beat
        return None

else:

    def start_guardian(first_deadline: float, beat: HeartbeatWriter) -> Guardian | None:
        """Fork a guardian that lets this process live until `first_deadline` (by `lease_clock`).

        Call it before there are threads, sockets or credentials in use: the guardian keeps a copy of this process.
        """
        worker = ProcessRef.me()
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                _keep_only(reading)
                _watch(worker, first_deadline, beat)
            finally:
                os._exit(0)
        os.close(reading)
        os.set_blocking(writing, False)
        return Guardian(pid, writing, first_deadline)

    def _keep_only(fd: int) -> None:
        """Let go of what was inherited but `fd`, which becomes `_PIPE`: an open socket here would outlive the worker's."""
        gc.disable()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Meant for the worker, where it takes its time; it has to be watched until it has ended.
            signal.signal(number, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        if fd != _PIPE:
            os.dup2(fd, _PIPE)
        os.closerange(_PIPE + 1, os.sysconf("SC_OPEN_MAX"))
