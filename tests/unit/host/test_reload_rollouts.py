"""Rollouts that hosts begin for files that changed together."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.configs import GOOD, Directory
from support.servers import RedisServer
from support.waiting import eventually

from manager.change.rollout_store import RolloutStore
from manager.change.rollouts import RolloutState
from manager.config.loaded import LoadedAccount
from manager.errors import RolloutConflictError
from manager.fleet import FleetStore
from manager.fleet.desired import DesiredStateRequest
from manager.fleet.desired_store import DesiredStore
from manager.host.reconcile.reload_rollouts import ReloadRollouts
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus
from manager.system.thread_pool import ThreadPool

RESTART = [{"key": "login", "class": "restart"}]


class Fleet:
    """Accounts that run, with files that have changed."""

    def __init__(self, url: str, directory: Path) -> None:
        self.directory = Directory(directory)
        self.store, self.desired, self.rollouts = FleetStore(url), DesiredStore(url), RolloutStore(url)
        self.store.report_agent("h", {"version": "0.3"})
        self.now = 0.0
        self.pools: list[ThreadPool] = []
        self.reload = self.host()

    def host(self) -> ReloadRollouts:
        self.pools.append(ThreadPool(1, f"rollout-{len(self.pools)}"))
        return ReloadRollouts(self.rollouts, self.store, self.desired, self.pools[-1], lambda: self.now)

    def account(self, account_id: str, more: str = "", **state: Any) -> LoadedAccount:
        """Write an account's file and the record of its worker."""
        self.directory.write(account_id, GOOD + more)
        request = DesiredStateRequest(
            account_id=account_id, state="running", token=account_id, by="ops", why="start", host="h"
        )
        self.desired.set_desired(request)
        config = {"state": "pending", "changes": RESTART, **state}
        info = WorkerInfo(
            worker_id=f"w-{account_id}",
            account_id=account_id,
            status=WorkerLifecycleStatus.RUNNING,
            metadata={"host": "h", "generation": 1, "config": config, "config_version": "0123456789ab"},
        )
        self.store.record("h", [info], {})
        return self.directory.service.read_account(account_id)


@pytest.fixture
def fleet(redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    found = Fleet(redis_server.url, tmp_path)
    yield found
    for pool in found.pools:
        pool.shutdown()


def test_hosts_begin_one_rollout_over_the_accounts_that_need_a_restart(fleet: Fleet) -> None:
    together = {key: fleet.account(key) for key in ("a", "b")}
    together["live"] = fleet.account("live", changes=[{"key": "default_risk", "class": "live"}])
    together["held"] = fleet.account("held", state="held")
    together["manual"] = fleet.account("manual", "reload: {restart: manual}\n")
    fleet.account("another")
    rollout_id = fleet.reload.begin(together)
    assert rollout_id is not None
    assert fleet.host().begin(together) is None, "another host has the same files"
    rollout, members = fleet.rollouts.read(rollout_id)
    assert (rollout.by, rollout.aim, set(members)) == ("account file", "config", {"a", "b"})
    assert rollout.options.when_flat


def test_the_same_edit_after_restarts_is_another_rollout_and_after_a_cancel_it_is_not(fleet: Fleet) -> None:
    together = {key: fleet.account(key) for key in ("a", "b")}
    first = fleet.reload.begin(together)
    assert first is not None
    rollout, _ = fleet.rollouts.read(first)
    assert fleet.rollouts.write(rollout, replace(rollout, state=RolloutState.CANCELLED), {})
    assert fleet.reload.begin(together) is None, "a person has cancelled it"
    again = DesiredStateRequest(
        account_id="a", state="running", token="again", by="ops", why="restart", restart=True, host="h"
    )
    fleet.desired.set_desired(again)
    assert fleet.reload.begin(together) not in (None, first)


def test_accounts_that_restart_at_once_wait_for_no_closed_positions(fleet: Fleet) -> None:
    together = {key: fleet.account(key, "reload: {restart: at_once}\n") for key in ("a", "b")}
    rollout_id = fleet.reload.begin(together)
    assert rollout_id is not None
    assert not fleet.rollouts.read(rollout_id)[0].options.when_flat


def test_an_account_of_another_rollout_is_waited_for(fleet: Fleet) -> None:
    first = {key: fleet.account(key) for key in ("a", "b")}
    assert fleet.reload.begin(first)
    changed = {key: fleet.account(key, "groups: [fx]\n") for key in ("a", "c")}
    with pytest.raises(RolloutConflictError):
        fleet.reload.begin(changed)
    fleet.reload.offer()
    fleet.now = 10.0
    fleet.reload.tick(changed)
    eventually(lambda: fleet.reload._due == 40.0, what="it is tried again half a minute later")


def test_nobody_to_restart_is_no_rollout(fleet: Fleet) -> None:
    assert fleet.reload.begin({"a": fleet.account("a", state="invalid")}) is None
    assert fleet.rollouts.newest(1) == []


def test_it_begins_ten_seconds_after_the_first_account(fleet: Fleet) -> None:
    together = {key: fleet.account(key) for key in ("a", "b")}
    assert "a rollout restarts in steps" in fleet.reload.offer()
    fleet.now = 9.9
    fleet.reload.tick(together)
    fleet.reload.offer()
    assert fleet.rollouts.newest(1) == []
    fleet.now = 10.0
    fleet.reload.tick(together)
    (rollout,) = eventually(lambda: fleet.rollouts.newest(1), what="it begins")
    assert rollout.state is RolloutState.RUNNING
