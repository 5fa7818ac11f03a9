"""Memory and load of this machine, for placement."""

from pathlib import Path
from typing import Final

import psutil

#: Files with a container's memory limit and usage: control groups version 2, then version 1.
_LIMITS: Final = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def memory_mb() -> tuple[int, int]:
    """Return total and available memory in MiB; of the container if less."""
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    for limit_file, used_file in _LIMITS:
        limit, used = _bytes(limit_file), _bytes(used_file)
        if limit is not None and used is not None and limit < total:
            total, available = limit, min(available, max(0, limit - used))
    return total >> 20, available >> 20


def load() -> float:
    """Return the load average of the last minute per processor."""
    return round(psutil.getloadavg()[0] / (psutil.cpu_count() or 1), 2)


def _bytes(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None  # `max`: no limit
