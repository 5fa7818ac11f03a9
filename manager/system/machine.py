"""What this machine is and has, for those who place accounts on it."""

from pathlib import Path
from typing import Final

import psutil

#: Where a container's limit stands, and what it uses of it: in the second version of control groups, and in the first.
_LIMITS: Final = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def memory_mb() -> tuple[int, int]:
    """Return the memory of the machine, or of the container if that has less, and what of it is free now, in megabytes."""
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    for limit_file, used_file in _LIMITS:
        limit, used = _bytes(limit_file), _bytes(used_file)
        if limit is not None and used is not None and limit < total:
            total, available = limit, min(available, max(0, limit - used))
    return total >> 20, available >> 20


def load() -> float:
    """Return how much waits to run for each processor, over the last minute."""
    return round(psutil.getloadavg()[0] / (psutil.cpu_count() or 1), 2)


def _bytes(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None  # `max`: no limit
