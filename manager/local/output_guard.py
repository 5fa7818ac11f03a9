"""Output of `manager up` that cannot be written (a full disk, a closed pipe) must not end what supervises the fleet."""

import contextlib
from typing import IO, Any


class GuardedOutput:
    """A text stream that drops what its target does not take. Everything else is the target's own."""

    def __init__(self, target: IO[str]) -> None:
        self._target = target

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._target.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._target.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)
