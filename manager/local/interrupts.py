"""Ctrl-C, SIGTERM and SIGHUP as one exception, that waits where a thing must be done whole."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self


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
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
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

    def ignore(self) -> None:
        """Take no further interrupt: the end is under way as fast as it can be."""
        self._ignoring = True

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._ignoring:
            return
        if self._holding:
            self._pending = True
            return
        raise Interrupted
