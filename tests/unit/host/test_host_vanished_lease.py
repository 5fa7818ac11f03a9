"""A lease's key that goes by itself while its host is silent: no other host takes that for the end of the worker."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from support.keeping import ReconciledHost
from support.servers import RedisServer

from manager.client.celery_pool import CeleryWorkerPool
from manager.errors import HostUnavailableError
from manager.fleet.batches import BatchStore
from manager.fleet.desired import DRAIN, DesiredState, DesiredStateRequest
from manager.host.commands import CommandContext, Forward
from manager.host.workers.leases import claims_of
from manager.host.workers.limits import Clocks
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus

LOST = "lost"


@pytest.fixture
def now() -> list[float]:
    """The host's lease clock: one number, which a test moves on."""
    return [100.0]


@pytest.fixture
def host(redis_server: RedisServer, tmp_path: Path, now: list[float]) -> Iterator[ReconciledHost]:
    found = ReconciledHost(tmp_path, redis_server.url, "b", clocks=Clocks(lease=lambda: now[0]))
    found.lease_store.trust()
    found.account("x", 1)
    yield found
    found.close()


def recorded(host: ReconciledHost, status: WorkerLifecycleStatus) -> None:
    """Have the lost host's own record say what became of its worker."""
    info = WorkerInfo(worker_id="w-1", account_id="x", status=status, metadata={"host": LOST})
    host.store.record(LOST, [info], {})


def stop(host: ReconciledHost) -> None:
    """Have somebody command a stop."""
    host.desired.set_desired(
        DesiredStateRequest(account_id="x", state="stopped", token="t-stop", by="me", why="stop")
    )


def start(host: ReconciledHost, desired: DesiredState | None = None) -> WorkerInfo | Forward:
    """Start as a task of a manager does that has written `desired`, or of somebody who knows only Celery."""
    host.reconciler.desired_cache.read()
    generation = desired.generation if desired is not None else 0
    return host.commands.start("x", True, True, CommandContext(token="t-start", generation=generation))


def test_a_plain_start_is_refused_and_names_the_way_out(host: ReconciledHost) -> None:
    """What it prevents: the worker there trades on, cut off, and this host finds the claim free."""
    host.wanted("x", LOST)
    with pytest.raises(
        HostUnavailableError, match=r"its lease is gone from Redis.*manager move x --to HOST --force"
    ):
        start(host)
    assert host.pool.started == []
    desired = host.desired.read("x")
    assert desired is not None
    assert desired.host == LOST, "what was refused changes nothing"


def test_so_is_one_whose_manager_has_overwritten_where_it_ran(host: ReconciledHost) -> None:
    """As `start-all` places an account of a silent host on another one before it sends anything."""
    host.wanted("x", LOST)
    desired = host.wanted("x", "b", token="t-start")
    with pytest.raises(HostUnavailableError, match="its lease is gone"):
        start(host, desired)
    assert host.pool.started == []


def test_nor_is_it_started_once_that_command_is_lost(host: ReconciledHost) -> None:
    host.wanted("x", LOST)
    host.wanted("x", "b", token="t-2", why="drain")
    host.look(3)
    assert host.pool.started == []
    assert "its lease is gone" in host.pool.abandoned["x"]


def test_nor_follows_it_a_later_command_to_a_silent_host(host: ReconciledHost) -> None:
    """The command at hand was overtaken by one that gave the account to a host which fell silent."""
    later = host.wanted("x", LOST, token="t-later")
    with pytest.raises(HostUnavailableError, match="its lease is gone"):
        host.commands._follow(later, 0, host.reconciler._config_service.load_account_config("x"))


def test_a_stop_that_its_silent_host_has_not_carried_out_does_not_free_it(host: ReconciledHost) -> None:
    host.wanted("x", LOST)
    recorded(host, WorkerLifecycleStatus.RUNNING)
    stop(host)
    desired = host.wanted("x", LOST, token="t-start")
    with pytest.raises(HostUnavailableError, match="its lease is gone"):
        start(host, desired)


@pytest.mark.parametrize("status", [WorkerLifecycleStatus.FAILED, WorkerLifecycleStatus.STOPPED])
def test_the_word_of_its_host_that_it_ended_frees_it(
    host: ReconciledHost, status: WorkerLifecycleStatus
) -> None:
    host.wanted("x", LOST)
    recorded(host, status)
    start(host)
    assert host.pool.started == ["x"]


def test_an_account_that_was_stopped_starts_anywhere(host: ReconciledHost) -> None:
    host.wanted("x", LOST)
    stop(host)
    start(host, host.wanted("x", LOST, token="t-start"))
    assert host.pool.started == ["x"]


def test_an_account_that_its_host_has_handed_over_starts(host: ReconciledHost) -> None:
    desired = host.wanted("x", LOST)
    desired = host.wanted("x", LOST, token="t-2")
    assert host.desired.reassign(desired, "b", DRAIN) is not None
    host.look(2)
    assert host.pool.started == ["x"]


def test_an_account_that_ran_nowhere_starts(host: ReconciledHost) -> None:
    start(host)
    assert host.pool.started == ["x"]


def test_a_worker_whose_lease_is_there_is_the_leases_to_judge(host: ReconciledHost) -> None:
    host.wanted("x", LOST)
    claims = claims_of(host.reconciler._config_service.load_account_config("x"), LOST)
    host.lease_store.acquire(
        claims, host=LOST, worker_id="w-1", account_id="x", ttl_seconds=0, quarantine_seconds=0
    )
    with pytest.raises(HostUnavailableError, match="has its worker on host lost"):
        start(host)


def test_an_account_that_no_host_has_got_is_not_taken_from_a_host_whose_record_says_it_runs(
    host: ReconciledHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(host, WorkerLifecycleStatus.RUNNING)
    host.wanted("x")
    monkeypatch.setattr(host.reconciler.desired_cache, "task_is_lost", lambda _desired: True)
    host.look(2)
    assert host.pool.started == []
    recorded(host, WorkerLifecycleStatus.STOPPED)
    host.look(2)
    assert host.pool.started == ["x"]


def test_with_failover_a_start_waits_until_such_a_worker_has_left(
    host: ReconciledHost, now: list[float]
) -> None:
    """Its worker registers again with the next heartbeat, or has left half a lease's time after its last one."""
    host.account("x", 1, failover="auto")
    config = host.reconciler._config_service.load_account_config("x")
    leases = host.leases
    host.wanted("x", LOST, failover=True)
    assert not leases.is_free(config)
    now[0] += 1.9
    assert not leases.is_free(config)
    claims = claims_of(config, LOST)
    epoch = host.lease_store.acquire(
        claims, host=LOST, worker_id="w-1", account_id="x", ttl_seconds=2.0, quarantine_seconds=0
    )
    assert not leases.is_free(config), "it registered again"
    host.lease_store.release(claims, epoch)
    now[0] += 0.2
    assert not leases.is_free(config), "counted from the start"
    now[0] += 2.0
    assert leases.is_free(config)


def test_with_failover_a_plain_start_waits_as_well(host: ReconciledHost, now: list[float]) -> None:
    host.account("x", 1, failover="auto")
    host.wanted("x", LOST, failover=True)
    start(host)  # its pool takes no lease: what matters is that a lease is doubted from here on
    config = host.reconciler._config_service.load_account_config("x")
    waits: list[float] = []

    class Waiting:
        def wait(self, seconds: float) -> bool:
            waits.append(seconds)
            now[0] += seconds
            return False

        def is_set(self) -> bool:
            return False

    waiting: Any = Waiting()
    held = host.leases.acquire(config, "w-2", previous=None, cancelled=waiting, may_live=lambda _: False)
    assert held.epoch > 0
    assert sum(waits) >= 2.0


def test_an_account_that_may_go_over_by_now_but_was_started_before_is_not_taken(host: ReconciledHost) -> None:
    """Its worker has a lease without a time to live, whatever its file says by now: it does not leave."""
    host.wanted("x", LOST, failover=False)
    host.account("x", 1, failover="auto")
    with pytest.raises(HostUnavailableError, match="its lease is gone"):
        start(host)


def test_a_move_without_force_is_refused_too(host: ReconciledHost, redis_server: RedisServer) -> None:
    host.wanted("x", LOST)
    pool = CeleryWorkerPool(
        Celery(broker=redis_server.url.replace("unix", "redis+socket")),
        host.store,
        host.desired,
        host.lease_store,
        BatchStore(redis_server.url),
    )
    with pytest.raises(HostUnavailableError, match=r"may trade there.*manager move x --to b --force"):
        pool.move_worker("x", "b")


def test_nor_does_a_start_if_redis_has_lost_all_but_the_hosts_record(host: ReconciledHost) -> None:
    recorded(host, WorkerLifecycleStatus.RUNNING)
    with pytest.raises(HostUnavailableError, match="its lease is gone"):
        start(host)


def test_force_stays_the_operators_way(host: ReconciledHost) -> None:
    host.wanted("x", LOST)
    desired = host.wanted("x", "b", token="t-start", why="forced move")
    start(host, desired)
    assert host.pool.started == ["x"]
