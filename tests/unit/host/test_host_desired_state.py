"""A host's view of desired state while Redis loses data, returns, and is edited from outside."""

from pathlib import Path
from typing import Any

import pytest
from support.servers import RedisServer

from manager.errors import FleetUnavailableError
from manager.fleet.desired import DesiredStateRequest
from manager.fleet.desired_store import DESIRED_KEY, DesiredStore
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.desired_state_file import DesiredStateFile


def change(state: Any, token: str, host: str = "", **more: Any) -> DesiredStateRequest:
    return DesiredStateRequest(
        account_id="a", state=state, token=token, by="me", why="start", host=host, **more
    )


class Fleet:
    def __init__(self, server: RedisServer, directory: Path) -> None:
        self.server = server
        self.store = DesiredStore(server.url)
        self.directory = directory

    def host(self, name: str) -> DesiredStateCache:
        return DesiredStateCache(name, self.store, DesiredStateFile(self.directory / f"{name}.json"))

    def forget(self) -> None:
        self.server.forget()


@pytest.fixture
def fleet(redis_server: RedisServer, tmp_path: Path) -> Fleet:
    return Fleet(redis_server, tmp_path)


def test_state_that_redis_lost_is_restored_by_the_accounts_host(fleet: Fleet) -> None:
    one, two = fleet.host("one"), fleet.host("two")
    one.set_desired(change("running", "t1", "one"))
    two.read()
    fleet.forget()
    two.read()
    assert fleet.store.read("a") is None, "another host does not restore it"
    one.read()
    found = fleet.store.read("a")
    assert found is not None
    assert (found.state, found.host) == ("running", "one")


def test_a_stop_after_the_loss_overrules_the_restored_state(fleet: Fleet) -> None:
    one = fleet.host("one")
    one.set_desired(change("running", "t1", "one"))
    fleet.forget()
    fleet.store.set_desired(change("stopped", "t2"))
    one.read()
    desired = one.get("a")
    assert desired is not None
    assert (desired.state, desired.host) == ("stopped", "one"), "this host still has to stop it"


def test_the_host_of_an_account_is_known_when_redis_has_lost_it(fleet: Fleet) -> None:
    """Its host may be cut off for longer than a quarantine: no other host may start the account meanwhile."""
    one, two = fleet.host("one"), fleet.host("two")
    one.set_desired(change("running", "t1", "one"))
    two.read()
    two.save()
    fleet.forget()
    fleet.store.set_desired(change("running", "t2"))  # by a manager that knows no host
    # Before and after the next read, and in an agent that was restarted.
    assert two.host_elsewhere("a", fleet.store.read("a")) is None
    assert two.uncertain_host("a") == "one"
    later = fleet.host("two")
    later.read()
    assert later.uncertain_host("a") == "one"
    # Its host takes the command: nothing is uncertain any more.
    one.set_desired(change("running", "t2", "one"))
    later.read()
    assert later.uncertain_host("a") is None
    assert later.host_elsewhere("a", fleet.store.read("a")) == "one"


def test_an_account_with_failover_has_no_uncertain_host(fleet: Fleet) -> None:
    one, two = fleet.host("one"), fleet.host("two")
    one.set_desired(change("running", "t1", "one", failover=True))
    two.read()
    fleet.forget()
    two.read()
    assert two.uncertain_host("a") is None


def test_a_stop_without_redis_is_recorded_here_and_written_to_redis_later(fleet: Fleet) -> None:
    one = fleet.host("one")
    one.set_desired(change("running", "t1", "one"))
    fleet.server.stop()
    with pytest.raises(FleetUnavailableError):
        one.set_desired(change("running", "t2"))
    _, desired = one.set_desired(change("stopped", "t3"))
    assert desired.state == "stopped"
    one.save()
    fleet.server.start()
    again = fleet.host("one")
    again.read()
    found = fleet.store.read("a")
    assert found is not None
    assert found.state == "stopped"


def test_an_unreadable_record_is_restored_by_its_host(fleet: Fleet) -> None:
    one = fleet.host("one")
    one.set_desired(change("running", "t1", "one"))
    with fleet.server.client() as client:
        client.hset(DESIRED_KEY, "a", "nonsense")
        client.hset(DESIRED_KEY, "stranger", "nonsense")
        client.incr("manager:desired:version")
    one.read()
    assert fleet.store.desired_accounts() == ["a"]
    assert one.get("stranger") is None
