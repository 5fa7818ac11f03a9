"""Waiting for a condition with a deadline, never for a fixed time."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(probe: Callable[[], T], *, within: float = 10.0, what: str = "") -> T:
    """Call `probe` until its result is truthy, and return that.

    Fails with the last result after `within` seconds.
    """
    deadline = time.monotonic() + within
    pause = threading.Event()
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {within:g} s: {what or probe} (last answer: {answer!r})")
        pause.wait(0.01)
