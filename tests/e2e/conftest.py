from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fleet import Fleet
from support.servers import RedisServer


@pytest.fixture
def bare_fleet(short_dir: Path, redis_server: RedisServer) -> Iterator[Fleet]:
    """A fleet's directories and Redis; the test starts the agents itself."""
    fleet = Fleet(short_dir, redis_server)
    yield fleet
    fleet.close()


@pytest.fixture
def fleet(bare_fleet: Fleet) -> Fleet:
    """A fleet with a paper venue and a host agent, and no accounts yet."""
    bare_fleet.start_venue()
    bare_fleet.start_agent()
    return bare_fleet
