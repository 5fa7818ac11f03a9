"""Fixtures for tests of a host."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.reconciled_host import MakeHost, ReconciledHost
from support.servers import RedisServer

from manager.fleet.leases import LeaseStore


@pytest.fixture
def make_host(redis_server: RedisServer, tmp_path: Path) -> Iterator[MakeHost]:
    """Make hosts of one fleet, and close them after the test."""
    LeaseStore(redis_server.url).trust()
    made: list[ReconciledHost] = []

    def make(name: str, **more: Any) -> ReconciledHost:
        made.append(ReconciledHost(tmp_path, redis_server.url, name, **more))
        return made[-1]

    yield make
    for host in made:
        host.close()
