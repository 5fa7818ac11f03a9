"""Restarts of workers that a limit ended, and when the watch leaves a worker alone."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pool_host import Host
from support.reconciled_host import MakeHost, ReconciledHost
from support.waiting import eventually

from manager.config import RecoveryConfig
from manager.errors import FleetUnavailableError
from manager.host import build_pool
from manager.host.limits.control_groups import ControlGroups
from manager.host.limits.enforcement import Enforcement, Mechanism
from manager.host.reconcile.limit_control import LimitControl
from manager.host.reconcile.limit_restarts import refused_by_limit
from manager.host.reconcile.restart_policy import RestartPolicy
from manager.models import WorkerInfo
from manager.states import TradingMode, WorkerLifecycleStatus

REASON = "memory 412 MB > limits.memory_mb 400"


def ended(limit: str | None = "memory_mb", **limits: Any) -> WorkerInfo:
    return WorkerInfo(
        worker_id="w",
        account_id="a",
        status=WorkerLifecycleStatus.RUNNING,
        metadata={"ended_by_limit": limit, "limits": {"memory_mb": 400, "on_exceed": "restart", **limits}},
    )


def test_excesses_count_within_the_window_alone() -> None:
    policy, config = RestartPolicy(), RecoveryConfig(window_seconds=100)
    assert [policy.exceeded(at, config) for at in (0.0, 50.0, 100.0, 160.0, 300.0)] == [1, 2, 3, 2, 1]


def test_the_third_excess_is_the_last() -> None:
    policy, config = RestartPolicy(), RecoveryConfig()
    texts = [refused_by_limit(ended(), REASON, policy, config, at) for at in (0.0, 10.0, 20.0)]
    assert texts == [
        "",
        "",
        f"{REASON}; it exceeds its limit again and again (3 times in 600 s): raise limits.memory_mb, or "
        "find why the account needs more",
    ]


def test_another_end_is_not_counted_and_a_stop_is_final() -> None:
    policy, config = RestartPolicy(), RecoveryConfig()
    for _ in range(5):
        assert refused_by_limit(ended(None), "it crashed", policy, config, 0.0) == ""
    text = refused_by_limit(ended(on_exceed="stop"), REASON, policy, config, 0.0)
    assert text.startswith(f"{REASON}; it is not restarted (limits.on_exceed is stop)")
    assert refused_by_limit(ended(), REASON, policy, config, 0.0) == ""


@pytest.fixture
def host(make_host: MakeHost) -> ReconciledHost:
    found = make_host("one", task_grace_seconds=0.0)
    found.account("a", 1)
    found.set_running("a", "one")
    found.reconcile()
    assert found.pool.started == ["a"]
    return found


def test_two_excesses_restart_the_worker_and_the_third_fails_it_until_a_command(
    host: ReconciledHost,
) -> None:
    restarts = host.reconciler.restarts
    for times in (1, 2, 3):
        recover = restarts.on_exit(ended(), REASON)
        assert recover is not None
        host.pool.live.clear()
        recover()
        restarts.tick(math.inf)
        eventually(lambda: not restarts.in_progress, what="the attempt ends")
        assert len(host.pool.started) == min(3, 1 + times)
    assert "again and again" in host.pool.abandoned["a"]
    assert host.pool.abandoned["a"].endswith("`manager start a` starts it again")
    host.reconcile(3)
    assert len(host.pool.started) == 3
    host.set_running("a", "one", token="again")
    host.reconcile(2)
    assert len(host.pool.started) == 4


def test_an_excess_counts_as_a_restart_of_recovery(host: ReconciledHost) -> None:
    host.account("a", 1, recovery={"max_restarts": 0})
    recover = host.reconciler.restarts.on_exit(ended(), REASON)
    assert recover is not None
    host.pool.live.clear()
    recover()
    host.reconciler.restarts.tick(math.inf)
    eventually(lambda: "a" in host.pool.abandoned, what="it is given up")
    assert "(recovery.max_restarts)" in host.pool.abandoned["a"]


def control_of(host: ReconciledHost) -> LimitControl:
    reconciler = host.reconciler
    return LimitControl(
        host.name, host.desired, reconciler.desired_cache, reconciler.drain_state, reconciler.restarts
    )


def test_a_worker_that_should_run_and_can_start_may_be_ended(host: ReconciledHost) -> None:
    assert control_of(host).why_not_end("a", restarts=True) is None


def test_a_worker_that_is_stopped_or_moved_is_left_alone(host: ReconciledHost) -> None:
    control = control_of(host)
    assert control.why_not_end("unknown", restarts=True) == "a command stops or moves it"
    # A command that has arrived in Redis, and not yet here.
    host.set_running("a", "two", token="moved")
    assert control.why_not_end("a", restarts=True) == "a later command arrives"
    host.reconciler.desired_cache.read()
    assert control.why_not_end("a", restarts=False) == "a command stops or moves it"


def test_a_worker_whose_file_is_invalid_goes_on(host: ReconciledHost) -> None:
    (host.config_dir / "accounts" / "a.yaml").write_text("gateway: [\n")
    found = control_of(host).why_not_end("a", restarts=True)
    assert found is not None
    assert found.startswith("it could not start again: ")
    assert control_of(host).why_not_end("a", restarts=False) is None


@pytest.mark.parametrize("failover", [True, False])
def test_without_redis_a_worker_goes_on_if_its_lease_could_be_lost(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch, failover: bool
) -> None:
    host = make_host("one", task_grace_seconds=0.0)
    host.account("a", 1)
    host.set_running("a", "one", failover=failover)
    host.reconcile()

    def refuse(account_id: str) -> None:
        raise FleetUnavailableError(f"no Redis for {account_id}")

    monkeypatch.setattr(host.desired, "read", refuse)
    found = control_of(host).why_not_end("a", restarts=True)
    assert found == (
        "Redis cannot be reached, so with failover it could not start again" if failover else None
    )


def test_a_pause_is_desired_state_until_a_person_resumes(host: ReconciledHost) -> None:
    desired = control_of(host).pause("a", token="t", by="limits.memory_mb")
    assert desired is not None
    assert (desired.mode, desired.mode_by) == (TradingMode.PAUSED, "limits.memory_mb")
    host.reconcile()
    read = host.desired.read("a")
    assert read is not None
    assert read.mode is TradingMode.PAUSED


@pytest.fixture
def grouped(short_dir: Path) -> Iterator[tuple[Host, Path]]:
    """A host whose control groups are simulated in a directory."""
    found, groups = Host(short_dir), short_dir / "unit"
    groups.mkdir()
    found.pool.close()
    mechanism = Mechanism(name="cgroup", groups=ControlGroups(groups, ["memory"]))
    found.pool = found.service.worker_pool = build_pool(
        found.settings,
        found.config_service,
        on_unexpected_exit=lambda info, reason: found.lost.append((info, reason)),
        enforcement=Enforcement(mechanism),
    )
    yield found, groups
    found.close()


@pytest.mark.parametrize("events", ["oom_kill 1\n", "oom_kill 0\n"])
def test_a_kill_by_the_kernel_for_memory_is_told_from_a_crash(
    grouped: tuple[Host, Path], events: str
) -> None:
    host, groups = grouped
    host.account("a", 1, limits={"memory_hard_mb": 600})
    process = host.process(host.start())
    (group,) = groups.iterdir()
    assert (group / "cgroup.procs").read_text() == str(process.pid)
    (group / "memory.events").write_text(events)
    process.kill()
    eventually(lambda: host.lost, what="its exit is handled")
    info, reason = host.lost[0]
    killed = "1" in events
    assert (reason == "the system killed it because its memory reached limits.memory_hard_mb 600") is killed
    assert info.placement.ended_by_limit == ("memory_hard_mb" if killed else None)
