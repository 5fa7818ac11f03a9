"""Hosts that lose and regain the network: there are never two sessions."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fleet import Fleet
from support.netns import Cable, FarHost, rejection
from support.ports import free_port
from support.servers import RedisServer
from support.waiting import eventually

WHY_NOT = rejection()
pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]

A, B = "account-001", "account-002"


class Net:
    """Three hosts: one on Redis's machine, two on connections that the test can cut."""

    def __init__(self, directory: Path) -> None:
        self.cables = [Cable(1), Cable(2)]
        port = free_port()
        near = " ".join(["127.0.0.1", *(cable.near for cable in self.cables)])
        (directory / "redis").mkdir()
        self.redis = RedisServer(
            directory / "redis", "--bind", *near.split(), "--protected-mode", "no", "--port", str(port)
        )
        self.home = Fleet(directory, self.redis, "home")
        self.far = [
            FarHost(directory / name, self.redis, port, cable, name, self.home)
            for name, cable in zip(("paris", "tokyo"), self.cables, strict=True)
        ]
        try:
            self.home.start_venue()
            for host in (self.home, *self.far):
                host.spawn_agent()
            for host in (self.home, *self.far):
                host.await_agent()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for host in (*self.far, self.home):
            host.close()
        self.redis.close()
        for cable in self.cables:
            cable.close()

    def where(self, account_id: str) -> str | None:
        info = self.home.store.get_worker(account_id)
        return None if info is None or info.status != "running" else str(info.metadata["host"])


@pytest.fixture
def net(short_dir: Path) -> Iterator[Net]:
    found = Net(short_dir)
    yield found
    found.close()


def test_a_host_that_is_cut_off_keeps_its_pinned_account_and_loses_the_rest(net: Net) -> None:
    """Only Redis is cut off; workers still reach the venue and could trade."""
    paris, tokyo = net.far
    net.home.add_account(A, 5001)
    net.home.add_account(B, 5002, failover="auto")
    for account_id in (A, B):
        assert net.home.run("move", account_id, "--to", "paris").returncode == 0
    kept = paris.workers()[A]
    lost = paris.workers()[B]

    paris.cable.pull()

    eventually(lambda: net.where(B) in {"home", "tokyo"}, within=40, what="another host runs B")
    assert not lost.alive()
    assert kept.alive()
    eventually(lambda: net.home.status(A) == "unknown", within=15, what="the state of A is unknown")
    assert [host.state for host in net.home.store.hosts() if host.name == "paris"] == ["lost"]
    refused = net.home.run("start", A)
    assert refused.returncode == 1
    assert f"{A} has its worker on host paris, whose agent is silent" in refused.stderr

    paris.cable.plug()

    eventually(lambda: net.where(A) == "paris", within=60, what="A is seen again")
    assert paris.workers()[A] == kept
    assert B not in paris.workers()
    assert net.home.stats()["overlaps"] == 0
    eventually(
        lambda: net.home.run("stop", A).returncode == 0, within=60, what="paris receives commands again"
    )
    assert not kept.alive()
    assert tokyo.stats()["overlaps"] == 0


def test_a_stop_for_a_host_that_is_cut_off_happens_when_it_is_back(net: Net) -> None:
    paris, _ = net.far
    net.home.add_accounts(1)
    assert net.home.run("move", A, "--to", "paris").returncode == 0
    worker = paris.workers()[A]
    paris.cable.pull()
    eventually(lambda: net.home.status(A) == "unknown", within=20, what="paris is silent")
    result = net.home.run("stop", A)
    assert result.returncode == 1
    assert "the stop is written down and happens when it is back" in result.stderr
    paris.cable.plug()
    assert worker.wait(60)
    eventually(lambda: net.home.status(A) == "stopped", within=30, what="it is stopped")
    assert not paris.workers()


def test_only_an_operator_gives_up_a_host_that_is_lost_permanently(net: Net) -> None:
    paris, tokyo = net.far
    net.home.add_accounts(1)
    assert net.home.run("move", A, "--to", "paris").returncode == 0
    worker = paris.workers()[A]
    paris.cable.pull()
    paris.end_agent()
    worker.kill()
    eventually(lambda: net.home.status(A) == "unknown", within=20, what="paris is silent")
    assert net.home.run("move", A, "--to", "tokyo").returncode == 1
    assert net.home.run("move", A, "--to", "tokyo", "--force").returncode == 0
    assert net.where(A) == "tokyo"
    assert net.home.run("forget-host", "paris").returncode == 0
    assert tokyo.stats()["overlaps"] == 0
