"""What the benchmarks share: a fleet of their own, medians, tables."""

import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.fleet import Fleet
from support.servers import RedisServer


@contextmanager
def fleet() -> Iterator[Fleet]:
    """A fleet with Redis, a paper venue and a host agent, gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="wm-"))
    (directory / "redis").mkdir()
    redis = RedisServer(directory / "redis")
    found = Fleet(directory, redis, host="bench")
    try:
        found.start_venue()
        found.start_agent()
        yield found
    finally:
        found.close()
        redis.close()
        shutil.rmtree(directory, ignore_errors=True)


def pss_megabytes(pids: Sequence[int]) -> float:
    """Return the mean proportional set size of processes: shared pages count by how many share them."""
    sizes = [int(getattr(psutil.Process(pid).memory_full_info(), "pss", 0)) for pid in pids]
    return statistics.fmean(sizes) / 1e6


def machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{psutil.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}"
    )


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)
