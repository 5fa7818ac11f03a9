"""Only one agent has a host's name, in any order of starts. Redis and the processes are real."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support.servers import RedisServer
from support.waiting import eventually

from manager.errors import FleetUnavailableError, HostAgentError
from manager.fleet.host_names import HostNames
from manager.fleet.keys import claim_key
from manager.host.name_claim import NameClaim, process_space
from manager.system.processes import ProcessRef


class Agents:
    """Agents with the same name on one Redis."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.made: list[NameClaim] = []
        self.lost: list[str] = []
        self.names = HostNames(server.url, 5.0)

    def agent(self, home: str = "home-a", machine: str = "this", fresh: float = 5.0) -> NameClaim:
        self.made.append(NameClaim(self.server.url, "h", home, machine, self.lost.append, fresh))
        return self.made[-1]

    def close(self) -> None:
        for claim in self.made:
            claim.close()


@pytest.fixture
def agents(redis_server: RedisServer) -> Iterator[Agents]:
    found = Agents(redis_server)
    yield found
    found.close()


def dead_process() -> dict[str, Any]:
    """Return a process of this machine that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = ProcessRef.of(child.pid)
    assert process is not None
    child.communicate(b"\n")
    return process.to_dict()


def test_of_many_agents_that_start_together_one_gets_the_name(agents: Agents) -> None:
    claims = [agents.agent(f"home-{n}") for n in range(6)]
    outcomes: list[str] = []
    together = threading.Barrier(len(claims))

    def start(claim: NameClaim) -> None:
        together.wait()
        try:
            claim.take()
            claim.start()
            outcomes.append("has it")
        except HostAgentError:
            outcomes.append("refused")

    threads = [threading.Thread(target=start, args=(claim,)) for claim in claims]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["has it"] + ["refused"] * 5


def test_a_living_agent_keeps_its_name_while_it_starts_slowly(agents: Agents) -> None:
    first = agents.agent("home-a")
    first.take()
    first.start()
    with pytest.raises(HostAgentError, match="named h is alive already"):
        agents.agent("home-b", machine="another").take()
    first.ensure()
    assert agents.lost == []


def test_a_copied_state_directory_does_not_allow_a_second_agent(agents: Agents) -> None:
    """Both lock a directory with the same id; only the living process of the first one differs."""
    first = agents.agent("home-a")
    first.take()
    first.start()
    with pytest.raises(HostAgentError):
        agents.agent("home-a").take()
    assert agents.lost == []


def test_the_claim_of_an_agent_that_was_killed_here_is_replaced_at_once(agents: Agents) -> None:
    new = agents.agent("home-b", fresh=3_600)
    left = {**dead_process(), "machine": "this", "home": "home-a", "space": process_space()}
    agents.names.claim("h", "token-of-the-dead", left)
    new.take()
    new.ensure()


def test_the_claim_of_an_ended_container_with_the_same_state_directory_is_replaced(agents: Agents) -> None:
    left = {**ProcessRef.me().to_dict(), "machine": "this", "home": "home-a", "space": "pid:[1]"}
    agents.names.claim("h", "token-of-the-dead", left)
    agents.agent("home-a", fresh=3_600).take()


@pytest.mark.parametrize(
    "left",
    [
        {"machine": "another", "home": "home-a"},
        {"machine": "this", "home": "home-b", "space": "pid:[1]"},
        {},
    ],
)
def test_a_claim_that_may_be_stale_is_refused_only_if_it_is_renewed(
    agents: Agents, left: dict[str, Any]
) -> None:
    """Whether a process of another machine or container lives cannot be seen here."""
    agents.names.claim("h", "token-of-another", {**dead_process(), **left})
    agents.agent("home-a", fresh=1.0).take()
    agents.names.release("h", "token-of-another")
    with agents.server.client() as client:
        assert client.exists(claim_key("h")), "a name that another agent has is not released"


def test_an_agent_that_lost_its_name_while_it_was_paused_is_notified(agents: Agents) -> None:
    first = agents.agent("home-a", fresh=5.0)
    first.take()
    with agents.server.client() as client:
        client.hset(claim_key("h"), "at", 1)  # as after a pause without renewals
    agents.agent("home-b", machine="another", fresh=5.0).take()
    first.start()
    eventually(lambda: agents.lost)
    assert "every host needs its own MANAGER_HOST" in agents.lost[0]
    with pytest.raises(HostAgentError):
        first.ensure()


def test_without_redis_the_name_is_claimed_as_soon_as_it_is_back(agents: Agents) -> None:
    agents.server.stop()
    first = agents.agent("home-a")
    first.take()
    with pytest.raises(FleetUnavailableError):
        first.ensure()
    agents.server.start()
    first.ensure()
    with pytest.raises(HostAgentError):
        second = agents.agent("home-b", machine="another")
        first.start()
        second.take()


def test_an_agent_started_without_redis_is_notified_if_another_has_the_name(agents: Agents) -> None:
    agents.server.stop()
    first = agents.agent("home-a")
    first.take()
    agents.server.start()
    agents.names.claim("h", "token-of-another", {"machine": "another"})
    with pytest.raises(HostAgentError, match="alive already"):
        first.ensure()
    first.start()

    def stood_down() -> bool:
        agents.names.claim("h", "token-of-another", {"machine": "another"})  # the other agent renews
        return bool(agents.lost)

    eventually(stood_down)
    with pytest.raises(HostAgentError):
        first.ensure()


def test_an_unreadable_claim_is_replaced(agents: Agents) -> None:
    with agents.server.client() as client:
        client.set(claim_key("h"), "nonsense")
    agents.agent().take()


def test_an_agent_that_ends_releases_its_name(agents: Agents) -> None:
    first = agents.agent("home-a", fresh=3_600)
    first.take()
    first.close()
    agents.made.clear()
    agents.agent("home-b", machine="another", fresh=3_600).take()
