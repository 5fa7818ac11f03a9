"""Turns Ctrl-C, SIGTERM, SIGHUP and `manager down` into one exception.

The exception is deferred in blocks that must not be interrupted.
"""

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Self

#: Seconds after which an interrupt that was not acknowledged is raised again.
_AGAIN_SECONDS: Final = 0.3
#: The signal that `request` sends; nothing else uses it.
_REQUEST: Final = int(getattr(signal, "SIGBREAK" if sys.platform == "win32" else "SIGUSR1"))
_HANGUP: Final = int(getattr(signal, "SIGHUP", 0))
#: Signals that start a graceful shutdown but never turn it into a forced one. A closing terminal may send
#: SIGHUP twice, from the kernel and from its shell, and a user may run `manager down` twice.
_GRACEFUL_ONLY: Final = frozenset({_REQUEST, _HANGUP})


class Interrupted(BaseException):
    """Raised in the main thread when the operator asks `up` to end.

    It is not an Exception, so that `except Exception` does not catch it.
    """


class Interrupts:
    """Context manager that handles the signals. Enter it in the main thread."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._deferring = False
        self._ignoring = False
        self._pending = False
        self._begun = False
        #: Whether SIGHUP is handled; False under `nohup`.
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
        """Defer an interrupt until the block ends.

        Otherwise an interrupt between the start of a process and its record would leave an unknown process.
        """
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self._pending:
            self._pending = False
            raise Interrupted

    def acknowledge(self) -> None:
        """Confirm that `Interrupted` was caught, so that it is not raised again."""
        self._repeat(0.0)

    def ignore(self) -> None:
        """Ignore further interrupts, because the forced shutdown has begun."""
        self._ignoring = True
        self.acknowledge()

    def request(self) -> None:
        """Request a graceful shutdown, from any thread. Idempotent."""
        if sys.platform == "win32":
            _thread.interrupt_main(signal.Signals(_REQUEST))
        else:
            # Only a signal to the main thread wakes it from a sleep.
            signal.pthread_kill(threading.main_thread().ident or 0, _REQUEST)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._ignoring or (self._begun and number in _GRACEFUL_ONLY):
            return
        self._begun = True
        if self._deferring:
            self._pending = True
            return
        # Python swallows an exception in a finalizer or weak reference callback: raise it again until
        # acknowledged.
        self._repeat(_AGAIN_SECONDS)
        raise Interrupted

    @staticmethod
    def _repeat(seconds: float) -> None:
        if sys.platform != "win32":
            signal.setitimer(signal.ITIMER_REAL, seconds)
