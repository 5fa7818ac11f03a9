"""Ctrl-C, SIGTERM, SIGHUP and `manager down` as one exception, that waits where a thing must be done whole."""

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Self

#: Seconds after which an interrupt that was not taken is raised again.
_AGAIN_SECONDS: Final = 0.3
#: What `request` raises: a signal that nothing else uses.
_REQUEST: Final = int(getattr(signal, "SIGBREAK" if sys.platform == "win32" else "SIGUSR1"))
_HANGUP: Final = int(getattr(signal, "SIGHUP", 0))
#: Signals that start a polite end and never make it impatient. A terminal that closes may send SIGHUP twice:
#: from the kernel and from its shell. `manager down` may be called twice.
_POLITE: Final = frozenset({_REQUEST, _HANGUP})


class Interrupted(BaseException):
    """Raised in the main thread when the operator asks `up` to end. No Exception: nothing may catch it by chance."""


class Interrupts:
    """A context manager, for the main thread."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._holding = False
        self._ignoring = False
        self._pending = False
        self._begun = False
        #: Whether the end of the terminal is one of them: not under `nohup`.
        self.hangup = False

    def __enter__(self) -> Self:
        numbers = [int(signal.SIGINT), int(signal.SIGTERM), _REQUEST]
        if sys.platform != "win32":
            numbers.append(int(signal.SIGALRM))
            self.hangup = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
            if self.hangup:
                numbers.append(_HANGUP)
        self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        self.acknowledge()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Hold an interrupt back until the block is done: a process is started and noted, or neither."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._pending:
            self._pending = False
            raise Interrupted

    def acknowledge(self) -> None:
        """Say that an interrupt has arrived where it was meant to; the next one is a new one."""
        self._repeat(0.0)

    def ignore(self) -> None:
        """Take no further interrupt: the end is under way as fast as it can be."""
        self._ignoring = True
        self.acknowledge()

    def request(self) -> None:
        """Ask for a polite end, from any thread. Idempotent: it never makes an end impatient."""
        if sys.platform == "win32":
            _thread.interrupt_main(signal.Signals(_REQUEST))
        else:
            # To the main thread itself: it may sleep, and only a signal to it wakes it.
            signal.pthread_kill(threading.main_thread().ident or 0, _REQUEST)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._ignoring or (self._begun and number in _POLITE):
            return
        self._begun = True
        if self._holding:
            self._pending = True
            return
        # One that is raised inside a finalizer or a weak reference's callback is swallowed there: again until taken.
        self._repeat(_AGAIN_SECONDS)
        raise Interrupted

    @staticmethod
    def _repeat(seconds: float) -> None:
        if sys.platform != "win32":
            signal.setitimer(signal.ITIMER_REAL, seconds)
