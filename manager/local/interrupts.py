"""Ctrl-C, SIGTERM and SIGHUP as one exception, that waits where a thing must be done whole."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Self

#: Seconds after which an interrupt that was not taken is raised again.
_AGAIN_SECONDS: Final = 0.3


class Interrupted(BaseException):
    """Raised in the main thread when the operator asks `up` to end. No Exception: nothing may catch it by chance."""


class Interrupts:
    """A context manager, for the main thread."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._holding = False
        self._ignoring = False
        self._pending = False

    def __enter__(self) -> Self:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if sys.platform != "win32":
            numbers += [signal.SIGHUP, signal.SIGALRM]
        self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        self.taken()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold an interrupt back until the block is done: a process is started and noted, or neither."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._pending:
            self._pending = False
            raise Interrupted

    def taken(self) -> None:
        """Say that an interrupt has arrived where it was meant to; the next one is a new one."""
        self._repeat(0.0)

    def ignore(self) -> None:
        """Take no further interrupt: the end is under way as fast as it can be."""
        self._ignoring = True
        self.taken()

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._ignoring:
            return
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
