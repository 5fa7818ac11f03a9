"""The host agent: worker pool, reconciler and reporting to Redis."""

from manager.host.factory import build_pool
from manager.host.workers.pool import WorkerPoolManager

__all__ = ["WorkerPoolManager", "build_pool"]
