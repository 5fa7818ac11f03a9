"""What runs inside a host agent: the pool of workers and all that keeps it."""

from manager.host.assembly import build_pool
from manager.host.pool import WorkerPoolManager

__all__ = ["WorkerPoolManager", "build_pool"]
