"""Fakes and a contract suite for tests of services that use the manager."""

from manager.pool.contract import METADATA_KEYS, PoolCase, WorkerPoolContract
from manager.pool.fake_clock import FakeClock
from manager.pool.testing import FakePool
from manager.testing.memory_configs import MemoryConfigs
from manager.testing.service import fake_service

__all__ = [
    "METADATA_KEYS",
    "FakeClock",
    "FakePool",
    "MemoryConfigs",
    "PoolCase",
    "WorkerPoolContract",
    "fake_service",
]
