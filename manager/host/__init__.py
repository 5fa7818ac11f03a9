"""What runs inside a host agent: the pool of workers and all that keeps it."""

from manager.host.factory import build_pool
from manager.host.workers.pool import WorkerPoolManager

__all__ = ["WorkerPoolManager", "build_pool"]
