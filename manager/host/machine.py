"""What this machine is and has, for those who place accounts on it."""

import psutil


def memory_mb() -> tuple[int, int]:
    """Return the machine's memory and what of it is free now, in megabytes."""
    memory = psutil.virtual_memory()
    return memory.total >> 20, memory.available >> 20


def load() -> float:
    """Return how much waits to run for each processor, over the last minute."""
    return round(psutil.getloadavg()[0] / (psutil.cpu_count() or 1), 2)
