"""When a host restarts workers for changed files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.configs import config

from manager.config import AccountConfig, RecoveryConfig
from manager.config.models_reload import ReloadConfig
from manager.errors import FleetUnavailableError
from manager.fleet.desired import RELOADED, DesiredState, DesiredStateRequest
from manager.host.reconcile.config_rollbacks import ConfigRollbacks
from manager.host.reconcile.reload_restarts import ReloadRestarts
from manager.host.workers.kept_configs import KeptConfig
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus


class World:
    """One host without processes: desired state, workers and positions are what the test says."""

    def __init__(self, directory: Path) -> None:
        self.now = 0.0
        self.positions: dict[str, int | None] = {}
        self.health: dict[str, str] = {}
        self.records: dict[str, Any] = {}
        self.desired: dict[str, DesiredState] = {}
        self.at_rest: set[str] = set()
        self.rolled_out: set[str] = set()
        self.asked: list[DesiredStateRequest] = []
        self.before_write: Callable[[], None] = lambda: None
        self.drain = SimpleNamespace(active=False)
        self.rollbacks = ConfigRollbacks(directory)
        pool: Any = SimpleNamespace(
            config_changes=SimpleNamespace(record=self.records.get),
            limit_actions=SimpleNamespace(open_positions=lambda record: self.positions[record.account_id]),
            queries=SimpleNamespace(
                recovery=lambda _account_id: RecoveryConfig(), resting=lambda key: key in self.at_rest or None
            ),
            get_worker_info=self._info,
        )
        cache: Any = SimpleNamespace(get=self.desired.get, set_unless_changed=self._set)
        drain: Any = self.drain
        rollouts: Any = SimpleNamespace(has=lambda account_id: account_id in self.rolled_out)
        self.path = directory / "reload.json"
        self.restarts = ReloadRestarts(
            "h", pool, cache, drain, self.rollbacks, rollouts, self.path, lambda: self.now
        )

    def running(self, account_id: str, positions: int | None = 0, **reload: Any) -> str:
        """Start an account and change its file; return what is said of it."""
        self.positions[account_id] = positions
        self.records[account_id] = SimpleNamespace(account_id=account_id, worker_id="w", generation=1)
        self.desired[account_id] = DesiredState(
            account_id=account_id, state="running", generation=1, host="h"
        )
        return self.restarts.offer(
            self.records[account_id],
            KeptConfig.of("w", config(account_id=account_id)),
            changed(account_id, **reload),
            alone=True,
        )

    def restarted(self, account_id: str) -> None:
        """Replace the worker, as the reconciler does for desired state."""
        generation = self.desired[account_id].generation
        self.records[account_id] = SimpleNamespace(
            account_id=account_id, worker_id=f"w-{generation}", generation=generation
        )

    def _info(self, account_id: str) -> WorkerInfo:
        return WorkerInfo(
            worker_id=self.records[account_id].worker_id,
            account_id=account_id,
            status=WorkerLifecycleStatus.RUNNING,
            metadata={"health": self.health.get(account_id, "healthy")},
        )

    def _set(self, request: DesiredStateRequest, generation: int) -> None:
        self.before_write()
        self.asked.append(request)
        before = self.desired[request.account_id]
        if before.generation == generation:
            self.desired[request.account_id] = replace(
                before, generation=generation + 1, why=request.why, token=request.token
            )


def changed(account_id: str, gateway: str = "paper", **reload: Any) -> AccountConfig:
    update = {"login": 77, "gateway": gateway, "reload": ReloadConfig(**reload)}
    return config(account_id=account_id).model_copy(update=update)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_flat_account_restarts_once(world: World) -> None:
    assert world.running("a") == "it restarts when it has no open position"
    world.restarts.tick()
    world.restarts.tick()
    (request,) = world.asked
    assert (request.account_id, request.restart, request.why, request.by) == (
        "a",
        True,
        RELOADED,
        "account file",
    )


@pytest.mark.parametrize("positions", [1, None])
def test_open_or_unknown_positions_are_waited_for(world: World, positions: int | None) -> None:
    world.running("a", positions)
    world.now = 1e6
    world.restarts.tick()
    assert world.asked == []
    world.positions["a"] = 0
    world.restarts.tick()
    assert len(world.asked) == 1


def test_a_deadline_counts_from_the_first_change(world: World) -> None:
    said = world.running("a", 1, deadline="4h")
    assert said == "it restarts when it has no open position, at the latest after 4h"
    world.now = 4 * 3600 - 1
    world.running("a", 1, deadline="4h")
    world.restarts.tick()
    assert world.asked == []
    world.now += 1
    world.restarts.tick()
    assert len(world.asked) == 1


def test_at_once_waits_for_nothing(world: World) -> None:
    assert world.running("a", 3, restart="at_once") == "it restarts now"
    world.restarts.tick()
    assert len(world.asked) == 1


def test_only_a_command_restarts_manual_accounts_and_programs_of_unknown_positions(world: World) -> None:
    world.running("a")
    record = world.records["a"]
    kept = KeptConfig.of("w", config(account_id="a"))
    assert world.restarts.offer(record, kept, changed("a", restart="manual"), alone=True) == ""
    world.restarts.tick()
    assert world.restarts.offer(record, kept, changed("a", "command"), alone=True) == ""
    world.restarts.tick()
    assert world.asked == []
    assert world.restarts.offer(record, kept, changed("a", "command", restart="at_once"), alone=True) != ""


def test_one_account_at_a_time_and_the_next_when_the_last_one_is_healthy(world: World) -> None:
    for account_id in ("a", "b"):
        world.running(account_id)
    world.restarts.tick()
    world.restarted("a")
    for seconds, health in ((0, "healthy"), (59, "degraded"), (30, "healthy"), (59, "healthy")):
        world.now += seconds
        world.health["a"] = health
        world.restarts.tick()
        assert [one.account_id for one in world.asked] == ["a"]
    world.now += 1
    world.restarts.tick()
    assert [one.account_id for one in world.asked] == ["a", "b"]
    assert world.rollbacks.unsettled().keys() == {"b"}


def test_an_account_that_begins_to_rest_meanwhile_holds_up_nobody(world: World) -> None:
    for account_id in ("a", "b"):
        world.running(account_id)
    world.restarts.tick()
    world.at_rest.add("a")
    world.restarts.tick()
    assert [one.account_id for one in world.asked] == ["a", "b"]
    assert world.rollbacks.unsettled().keys() == {"a", "b"}


def test_a_restart_that_was_taken_back_lets_the_next_one_begin(world: World) -> None:
    for account_id in ("a", "b"):
        world.running(account_id)
    world.restarts.tick()
    assert world.rollbacks.failed("a", 2, "refused", lambda: changed("a"), final=True)
    world.restarts.tick()
    assert [one.account_id for one in world.asked] == ["a", "b"]


def test_a_command_that_comes_first_beats_the_file(world: World) -> None:
    world.running("a")

    def stopped() -> None:
        world.desired["a"] = replace(world.desired["a"], state="stopped", generation=2, token="ops")

    world.before_write = stopped
    world.restarts.tick()
    assert world.rollbacks.find("a") is None
    assert world.desired["a"].token == "ops"
    world.restarts.tick()
    assert len(world.asked) == 1, "it no longer runs: its file is for its next start"


def test_a_command_after_the_restart_settles_it(world: World) -> None:
    world.running("a")
    world.restarts.tick()
    world.desired["a"] = replace(world.desired["a"], generation=3)
    world.restarts.tick()
    assert world.rollbacks.find("a") is None


def test_a_rollout_restarts_its_own_accounts(world: World) -> None:
    world.running("a")
    world.rolled_out.add("a")
    world.restarts.tick()
    assert world.asked == []
    world.rolled_out.clear()
    world.restarts.tick()
    assert len(world.asked) == 1


def test_a_later_agent_knows_what_changed_alone_and_takes_nothing_else(tmp_path: Path) -> None:
    World(tmp_path).running("a", positions=1)
    later = World(tmp_path)
    record: Any = SimpleNamespace(account_id="a", worker_id="w", generation=1)
    kept = KeptConfig.of("w", config(account_id="a"))
    assert later.restarts.offer(record, kept, changed("a"), alone=False) != ""
    assert later.restarts.offer(record, kept, changed("a", deadline="4h"), alone=False) == "", "another file"
    other: Any = SimpleNamespace(account_id="b", worker_id="w", generation=1)
    assert later.restarts.offer(other, kept, changed("b"), alone=False) == ""
    later.restarts.withdraw("a")
    assert World(tmp_path).restarts.offer(record, kept, changed("a"), alone=False) == ""


@pytest.mark.parametrize("content", ["", "[]", "\xff", '{"a": 1}'])
def test_a_broken_memory_is_an_empty_one(tmp_path: Path, content: str) -> None:
    (tmp_path / "reload.json").write_bytes(content.encode("latin-1"))
    record: Any = SimpleNamespace(account_id="a", worker_id="w", generation=1)
    kept = KeptConfig.of("w", config(account_id="a"))
    assert World(tmp_path).restarts.offer(record, kept, changed("a"), alone=False) == ""


def test_redis_away_and_a_drain_delay_it(world: World) -> None:
    def away() -> None:
        raise FleetUnavailableError("Redis is away")

    world.running("a")
    world.before_write = away
    world.restarts.tick()
    assert world.rollbacks.find("a") is None
    world.before_write = lambda: None
    world.drain.active = True
    world.restarts.tick()
    assert world.asked == []
    world.drain.active = False
    world.restarts.tick()
    assert len(world.asked) == 1


def test_a_worker_that_was_replaced_meanwhile_has_read_its_file(world: World) -> None:
    world.running("a")
    world.desired["a"] = replace(world.desired["a"], generation=2)
    world.restarted("a")
    world.restarts.tick()
    assert world.asked == []
