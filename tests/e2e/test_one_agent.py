"""Only one agent runs per host name, whenever the second one starts."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fleet import SIGSTOP, Fleet
from support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.long]


@pytest.fixture
def namesake(bare_fleet: Fleet, short_dir: Path) -> Iterator[Fleet]:
    """A second host agent with the same host name and its own state directory."""
    directory = short_dir / "n"
    directory.mkdir()
    found = Fleet(directory, bare_fleet.redis, bare_fleet.host, beside=bare_fleet)
    yield found
    found.close()


def start(fleet: Fleet) -> "subprocess.Popen[bytes]":
    fleet.spawn_agent()
    assert fleet.agent is not None
    return fleet.agent


def test_of_two_agents_that_start_in_one_moment_one_is_refused(bare_fleet: Fleet, namesake: Fleet) -> None:
    agents = {fleet: start(fleet) for fleet in (bare_fleet, namesake)}
    eventually(lambda: any(agent.poll() for agent in agents.values()), within=30)
    (refused,) = [fleet for fleet, agent in agents.items() if agent.poll()]
    assert f"a host agent named {bare_fleet.host} is alive already" in refused.log("agent")
    (left,) = [fleet for fleet, agent in agents.items() if agent.poll() is None]
    left.await_agent()
    assert agents[left].poll() is None


def recorded(fleet: Fleet) -> str | None:
    """Return the status that the host recorded.

    Readers get `unknown` until its agent has announced itself.
    """
    info = fleet.store.recorded(fleet.host, "account-001")
    return None if info is None else str(info.status)


def test_an_agent_that_is_busy_with_a_missed_stop_has_its_name(fleet: Fleet, namesake: Fleet) -> None:
    """It has not announced itself yet, so only its claim on the name exists."""
    fleet.add_account("account-001", 5001, execution={"interval_seconds": 0.5, "stop_timeout_seconds": 6})
    fleet.run_json("start", "account-001")
    worker = fleet.workers()["account-001"]
    fleet.end_agent()
    fleet.run("stop", "account-001")
    worker.signal(SIGSTOP)
    fleet.store.forget_agent(fleet.host)  # as after a long time without an agent

    first = start(fleet)
    eventually(lambda: recorded(fleet) == "stopping", within=30)
    assert not fleet.store.hosts()[0].live, "it is busy"
    second = start(namesake)

    assert second.wait(timeout=30) != 0
    assert "is alive already" in namesake.log("agent")
    fleet.await_agent()
    assert first.poll() is None
    assert not worker.alive()
