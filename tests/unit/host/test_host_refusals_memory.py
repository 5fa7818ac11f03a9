"""A host's memory does not grow with commands that it refuses."""

import gc
import logging
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.reconciled_host import ReconciledHost
from support.servers import RedisServer

from manager.errors import InvalidConfigError, StopFailedError
from manager.host.commands import CommandContext

#: Bytes for each refused command.
_BOUND = 200
_FRAMES = 40
_COMMANDS, _ROUNDS = 100, 3


def _deep(frames: int, call: Callable[[], Any]) -> Any:
    """Call as Celery does: below so many frames that hold something."""
    held = bytearray(1_000)
    return _deep(frames - 1, call) if frames else (call(), held)[0]


def _growth(command: Callable[[int], None]) -> float:
    """Return the bytes that each command leaves behind, in the best of several rounds.

    An event that happens once in this process, such as an import or a filled cache, shows in one round alone.
    """
    numbers = iter(range(10_000))
    _round(command, numbers)
    tracemalloc.start()
    try:
        _round(command, numbers)
        return min(_round(command, numbers) for _ in range(_ROUNDS))
    finally:
        tracemalloc.stop()


def _round(command: Callable[[int], None], numbers: Iterator[int]) -> float:
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(_COMMANDS):
        command(next(numbers))
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    return (after - before) / _COMMANDS


@pytest.mark.long
def test_refused_stops_and_starts_leave_nothing_in_memory(redis_server: RedisServer, tmp_path: Path) -> None:
    host = ReconciledHost(tmp_path, redis_server.url, "h")
    host.account("good", 1)
    host.account("bad", 2, gateway="nonsense", volume=3)
    host.set_running("good", "h")
    host.pool.live["good"] = 1

    def cannot() -> None:
        raise StopFailedError("good: its process is still there")

    host.pool.while_stopping = cannot
    logging.disable(logging.CRITICAL)  # pytest keeps every record of a test

    def stop(number: int) -> None:
        with pytest.raises(StopFailedError):
            _deep(_FRAMES, lambda: host.commands.stop("good", 1.0, CommandContext(token=f"stop-{number}")))

    def start(number: int) -> None:
        with pytest.raises(InvalidConfigError):
            _deep(
                _FRAMES,
                lambda: host.commands.start("bad", True, True, CommandContext(token=f"start-{number}")),
            )

    try:
        assert _growth(stop) < _BOUND
        assert _growth(start) < _BOUND
    finally:
        logging.disable(logging.NOTSET)
        host.pool.while_stopping = lambda: None
        host.close()
