"""A small process beside a worker whose account may move to another host: it ends the worker when the lease's time is up.

The worker stops itself well before. But it cannot while it is paused (SIGSTOP, a frozen container, a debugger) or while
a library holds the interpreter, and its session at the venue would stay open into its successor's. Where there is no
fork (Windows), the check before every call is all there is.
"""

import contextlib
import gc
import os
import select
import signal
import struct
import sys
from collections.abc import Callable
from typing import Final

from manager.processes import ProcessRef
from manager.session.beat import BeatWriter
from manager.session.lease import lease_clock

_WORD: Final = struct.Struct("<d")
#: The guardian's end of the pipe from its worker.
_PIPE: Final = 3


def _watch(worker: ProcessRef, deadline: float, beat: BeatWriter) -> None:
    while True:
        left = deadline - lease_clock()
        if left <= 0:
            beat.catch_up()
            beat.last_words("its lease could not be renewed in time, and it did not stop by itself")
            worker.kill()
            return
        readable, _, _ = select.select([_PIPE], [], [], left)
        if readable:
            words = os.read(_PIPE, _WORD.size * 512)
            if not words:
                return  # the worker has ended
            deadline = _WORD.unpack(words[-_WORD.size :])[0]


if sys.platform == "win32":

    def start_guardian(first_deadline: float, beat: BeatWriter) -> Callable[[float], None] | None:
        """There is no fork here, and no guardian."""
        del first_deadline, beat
        return None

else:

    def start_guardian(first_deadline: float, beat: BeatWriter) -> Callable[[float], None] | None:
        """Fork a guardian; returns what tells it until when (by `lease_clock`) this process may live.

        Call it before there are threads, sockets or credentials in use: the guardian keeps a copy of this process.
        """
        worker = ProcessRef.me()
        reading, writing = os.pipe()
        if os.fork() == 0:
            try:
                _keep_only(reading)
                _watch(worker, first_deadline, beat)
            finally:
                os._exit(0)
        os.close(reading)
        os.set_blocking(writing, False)

        def extend(deadline: float) -> None:
            # A full pipe holds deadlines that the guardian has yet to read; a closed one has nobody who would.
            with contextlib.suppress(OSError):
                os.write(writing, _WORD.pack(deadline))

        return extend

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
