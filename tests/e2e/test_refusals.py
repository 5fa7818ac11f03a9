"""A Redis that refuses commands is an outage: the same agent continues after it."""

import pytest
from support.fleet import Fleet
from support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.long]

A = "account-001"


@pytest.mark.parametrize(
    ("begin", "end", "reported"),
    [
        (("replicaof", "127.0.0.1", "1"), ("replicaof", "no", "one"), "is a read-only replica"),
        (
            ("config", "set", "min-replicas-to-write", "2"),
            ("config", "set", "min-replicas-to-write", "0"),
            "too few replicas are in sync",
        ),
    ],
)
def test_the_agent_outlives_a_redis_that_refuses(
    fleet: Fleet, begin: tuple[str, ...], end: tuple[str, ...], reported: str
) -> None:
    fleet.add_accounts(1)
    assert fleet.run_json("start", A)["status"] == "running"
    worker = fleet.workers()[A]
    with fleet.redis.client() as client:
        client.execute_command(*begin)
        # The consumer has received the error and waits to reconnect.
        eventually(lambda: "Trying again in" in fleet.log("agent"), within=20, what="the agent is refused")
        refused = fleet.run("start", A)
        assert refused.returncode == 1
        assert reported in refused.stderr + fleet.log("agent")
        client.execute_command(*end)
    eventually(
        lambda: fleet.run("restart", A).returncode == 0, within=40, what="the agent takes commands again"
    )
    assert fleet.agent is not None
    assert fleet.agent.poll() is None
    assert not worker.alive()
    assert fleet.stats()["sessions"] == 1
    assert fleet.stats()["overlaps"] == 0
    assert "Unrecoverable" not in fleet.log("agent")


def test_an_agent_that_meets_a_replica_at_its_start_waits_for_a_primary(bare_fleet: Fleet) -> None:
    fleet = bare_fleet
    fleet.start_venue()
    fleet.add_accounts(1)
    with fleet.redis.client() as client:
        client.execute_command("replicaof", "127.0.0.1", "1")
        refused = fleet.run("start", A)
        assert "is a read-only replica" in refused.stderr
        assert "Traceback" not in refused.stderr
        fleet.spawn_agent()
        eventually(lambda: "READONLY" in fleet.log("agent"), within=30, what="the agent is refused")
        client.execute_command("replicaof", "no", "one")
    fleet.await_agent()
