"""Fixtures of the session's tests."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.worker_bench import ENDING, Bench


@pytest.fixture
def bench(short_dir: Path) -> Iterator[Bench]:
    before = {number: signal.getsignal(number) for number in ENDING}
    yield Bench(short_dir)
    for number, handler in before.items():
        signal.signal(number, handler)
