"""High availability: Redis with Sentinel, and a failover that loses the last writes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fleet import Fleet
from support.sentinel import SentinelRedis
from support.waiting import eventually

from manager.fleet.desired_store import DesiredStore
from manager.fleet.leases import LeaseStore

pytestmark = [pytest.mark.e2e, pytest.mark.long]


@pytest.fixture
def group(short_dir: Path) -> Iterator[SentinelRedis]:
    directory = short_dir / "redis"
    directory.mkdir()
    servers = SentinelRedis(directory)
    yield servers
    servers.close()


@pytest.fixture
def fleet(short_dir: Path, group: SentinelRedis) -> Iterator[Fleet]:
    redis: Any = group
    found = Fleet(short_dir, redis)
    found.start_venue()
    found.start_agent()
    yield found
    found.close()


def test_a_failover_that_loses_the_last_writes_loses_no_stop_and_makes_no_second_session(
    fleet: Fleet, group: SentinelRedis
) -> None:
    stopped, kept, new, later = fleet.add_accounts(4)
    assert fleet.run("start", stopped, kept).returncode == 0
    fleet.await_ticks()
    group.lose_the_last_writes()
    assert fleet.run("stop", stopped).returncode == 0
    assert fleet.run("start", new).returncode == 0
    workers = fleet.workers()
    assert set(workers) == {kept, new}
    with group.replica.client() as client:
        assert client.hexists(f"manager:host:{fleet.host}:workers", new) == 0  # the write is lost

    group.fail_over()

    # The host writes again what the new primary lacks: the record, the lease and the desired state.
    desired, leases = DesiredStore(group.url), LeaseStore(group.url)
    eventually(lambda: fleet.status(new) == "running", within=30, what="its record is written again")
    eventually(
        lambda: {holder.account_id for holder in leases.holders()} == {kept, new},
        within=15,
        what="the leases are registered again, and the stopped account has none",
    )

    def desired_state(account_id: str) -> str | None:
        found = desired.read(account_id)
        return None if found is None else found.state

    eventually(
        lambda: desired_state(stopped) == "stopped" and desired_state(new) == "running",
        within=15,
        what="the desired state is written again",
    )
    # Broker, result backend and fleet state follow the new primary; no new session starts during the
    # quarantine.
    assert fleet.run("start", later, timeout=90).returncode == 0
    fleet.await_ticks()
    assert fleet.status(stopped) == "stopped"
    assert {account: ref for account, ref in fleet.workers().items() if account in workers} == workers
    stats = fleet.stats()
    assert (stats["sessions"], stats["overlaps"]) == (3, 0)
    assert "quarantine" in fleet.log("agent")
    assert fleet.agent is not None
    assert fleet.agent.poll() is None
    assert "min-replicas-to-write is 0 although Sentinel" in fleet.run("doctor").stdout
