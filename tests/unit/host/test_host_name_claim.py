"""One host's name is one agent's, whoever starts when: a real Redis, real processes."""

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
    """Agents of one name, on one Redis."""

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


def test_of_many_that_start_in_one_moment_one_has_the_name(agents: Agents) -> None:
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


def test_an_agent_that_lives_keeps_its_name_however_long_it_takes_to_be_ready(agents: Agents) -> None:
    first = agents.agent("home-a")
    first.take()
    first.start()
    with pytest.raises(HostAgentError, match="named h is alive already"):
        agents.agent("home-b", machine="another").take()
    first.ensure()
    assert agents.lost == []


def test_a_copied_state_directory_makes_no_second_agent(agents: Agents) -> None:
    """Both hold the lock of a directory with one id: what tells is that the first one's process lives."""
    first = agents.agent("home-a")
    first.take()
    first.start()
    with pytest.raises(HostAgentError):
        agents.agent("home-a").take()
    assert agents.lost == []


def test_the_claim_of_an_agent_that_was_killed_here_is_taken_at_once(agents: Agents) -> None:
    new = agents.agent("home-b", fresh=3_600)
    left = {**dead_process(), "machine": "this", "home": "home-a", "space": process_space()}
    agents.names.claim("h", "token-of-the-dead", left)
    new.take()
    new.ensure()


def test_so_is_that_of_an_ended_container_with_the_same_state_directory(agents: Agents) -> None:
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
def test_one_that_may_live_is_waited_out_and_refused_only_if_it_renews(
    agents: Agents, left: dict[str, Any]
) -> None:
    """In another machine, or another container, nobody here can see whether the process lives."""
    agents.names.claim("h", "token-of-another", {**dead_process(), **left})
    agents.agent("home-a", fresh=1.0).take()
    agents.names.release("h", "token-of-another")
    with agents.server.client() as client:
        assert client.exists(claim_key("h")), "what is another's by now is not given up"


def test_an_agent_whose_name_was_taken_while_it_was_paused_stands_down(agents: Agents) -> None:
    first = agents.agent("home-a", fresh=5.0)
    first.take()
    with agents.server.client() as client:
        client.hset(claim_key("h"), "at", 1)  # as after a pause: it renewed nothing
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


def test_without_redis_at_its_start_it_stands_down_if_another_has_the_name_meanwhile(agents: Agents) -> None:
    agents.server.stop()
    first = agents.agent("home-a")
    first.take()
    agents.server.start()
    agents.names.claim("h", "token-of-another", {"machine": "another"})
    with pytest.raises(HostAgentError, match="alive already"):
        first.ensure()
    first.start()

    def stood_down() -> bool:
        agents.names.claim("h", "token-of-another", {"machine": "another"})  # the other one renews
        return bool(agents.lost)

    eventually(stood_down)
    with pytest.raises(HostAgentError):
        first.ensure()


def test_a_claim_edited_into_nonsense_keeps_nobody_out(agents: Agents) -> None:
    with agents.server.client() as client:
        client.set(claim_key("h"), "nonsense")
    agents.agent().take()


def test_an_agent_that_ends_gives_its_name_up(agents: Agents) -> None:
    first = agents.agent("home-a", fresh=3_600)
    first.take()
    first.close()
    agents.made.clear()
    agents.agent("home-b", machine="another", fresh=3_600).take()
