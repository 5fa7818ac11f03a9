"""A lease key vanishes while its host is silent.

No other host may treat the worker as ended.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from support.reconciled_host import ReconciledHost
from support.servers import RedisServer

from manager.client.celery_pool import CeleryWorkerPool
from manager.errors import HostUnavailableError
from manager.fleet.batches import BatchStore
from manager.fleet.desired import DRAIN, DesiredState, DesiredStateRequest
from manager.host.commands import CommandContext, Forward
from manager.host.workers.leases import LeaseRequest, claims_of
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
    found = ReconciledHost(tmp_path, redis_server.url, "b", lease_clocks=Clocks(lease=lambda: now[0]))
    found.lease_store.trust()
    found.account("x", 1)
    yield found
    found.close()


def recorded(host: ReconciledHost, status: WorkerLifecycleStatus) -> None:
    """Write the lost host's own record of its worker."""
    info = WorkerInfo(worker_id="w-1", account_id="x", status=status, metadata={"host": LOST})
    host.store.record(LOST, [info], {})


def stop(host: ReconciledHost) -> None:
    """Set the desired state to stopped."""
    host.desired.set_desired(
        DesiredStateRequest(account_id="x", state="stopped", token="t-stop", by="me", why="stop")
    )


def start(host: ReconciledHost, desired: DesiredState | None = None) -> WorkerInfo | Forward:
    """Run a start task; without `desired` the caller has only Celery."""
    host.reconciler.desired_cache.read()
    generation = desired.generation if desired is not None else 0
    return host.commands.start("x", True, True, CommandContext(token="t-start", generation=generation))


def test_a_plain_start_is_rejected_with_the_way_out(host: ReconciledHost) -> None:
    """Prevents a second session.

    The worker there trades on, cut off, and the claim looks free here.
    """
    host.set_running("x", LOST)
    with pytest.raises(
        HostUnavailableError, match=r"its lease is gone from Redis.*manager move x --to HOST --force"
    ):
        start(host)
    assert host.pool.started == []
    desired = host.desired.read("x")
    assert desired is not None
    assert desired.host == LOST, "a rejected start changes nothing"


def test_a_start_is_rejected_if_its_manager_has_overwritten_the_host(host: ReconciledHost) -> None:
    """`start-all` reassigns the accounts of a silent host before it sends."""
    host.set_running("x", LOST)
    desired = host.set_running("x", "b", token="t-start")
    with pytest.raises(HostUnavailableError, match="its lease is gone"):
        start(host, desired)
    assert host.pool.started == []


def test_reconciliation_does_not_start_it_after_a_lost_command(host: ReconciledHost) -> None:
    host.set_running("x", LOST)
    host.set_running("x", "b", token="t-2", why="drain")
    host.reconcile(3)
    assert host.pool.started == []
    assert "its lease is gone" in host.pool.abandoned["x"]


def test_a_start_does_not_follow_a_later_command_to_a_silent_host(host: ReconciledHost) -> None:
    """A later command gave the account to a host that then fell silent."""
    later = host.set_running("x", LOST, token="t-later")
    with pytest.raises(HostUnavailableError, match="its lease is gone"):
        host.router.follow(later, 0, host.configuration.load_account_config("x"))


def test_a_stop_that_its_silent_host_has_not_executed_does_not_free_it(host: ReconciledHost) -> None:
    host.set_running("x", LOST)
    recorded(host, WorkerLifecycleStatus.RUNNING)
    stop(host)
    desired = host.set_running("x", LOST, token="t-start")
    with pytest.raises(HostUnavailableError, match="its lease is gone"):
        start(host, desired)


@pytest.mark.parametrize("status", [WorkerLifecycleStatus.FAILED, WorkerLifecycleStatus.STOPPED])
def test_the_record_of_its_host_that_it_ended_frees_it(
    host: ReconciledHost, status: WorkerLifecycleStatus
) -> None:
    host.set_running("x", LOST)
    recorded(host, status)
    start(host)
    assert host.pool.started == ["x"]


def test_an_account_that_was_stopped_starts_anywhere(host: ReconciledHost) -> None:
    host.set_running("x", LOST)
    stop(host)
    start(host, host.set_running("x", LOST, token="t-start"))
    assert host.pool.started == ["x"]


def test_an_account_that_its_host_has_reassigned_starts(host: ReconciledHost) -> None:
    desired = host.set_running("x", LOST)
    desired = host.set_running("x", LOST, token="t-2")
    assert host.desired.reassign(desired, "b", DRAIN) is not None
    host.reconcile(2)
    assert host.pool.started == ["x"]


def test_an_account_that_ran_nowhere_starts(host: ReconciledHost) -> None:
    start(host)
    assert host.pool.started == ["x"]


def test_an_existing_lease_decides(host: ReconciledHost) -> None:
    host.set_running("x", LOST)
    claims = claims_of(host.configuration.load_account_config("x"), LOST)
    host.lease_store.acquire(
        claims, host=LOST, worker_id="w-1", account_id="x", ttl_seconds=0, quarantine_seconds=0
    )
    with pytest.raises(HostUnavailableError, match="has its worker on host lost"):
        start(host)


def test_an_account_without_a_host_is_not_started_beside_a_record_that_says_running(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    host = ReconciledHost(tmp_path, redis_server.url, "b", task_grace_seconds=-1.0)
    host.lease_store.trust()
    host.account("x", 1)
    recorded(host, WorkerLifecycleStatus.RUNNING)
    host.set_running("x")
    host.reconcile(2)
    assert host.pool.started == []
    recorded(host, WorkerLifecycleStatus.STOPPED)
    host.reconcile(2)
    assert host.pool.started == ["x"]
    host.close()


def test_with_failover_a_start_waits_until_the_worker_has_left(
    host: ReconciledHost, now: list[float]
) -> None:
    """The worker registers again, or leaves within half a lease's time."""
    host.account("x", 1, failover="auto")
    config = host.configuration.load_account_config("x")
    leases = host.leases
    host.set_running("x", LOST, failover=True)
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
    assert not leases.is_free(config), "the time starts again"
    now[0] += 2.0
    assert leases.is_free(config)


def test_with_failover_a_plain_start_waits_too(host: ReconciledHost, now: list[float]) -> None:
    host.account("x", 1, failover="auto")
    host.set_running("x", LOST, failover=True)
    start(host)  # the fake pool acquires no lease; this only marks the lease as missing
    config = host.configuration.load_account_config("x")
    waits: list[float] = []

    class Waiting:
        def wait(self, seconds: float) -> bool:
            waits.append(seconds)
            now[0] += seconds
            return False

        def is_set(self) -> bool:
            return False

    waiting: Any = Waiting()
    held = host.leases.acquire(
        LeaseRequest(
            config=config, worker_id="w-2", previous=None, cancelled=waiting, may_live=lambda _: False
        )
    )
    assert held.epoch > 0
    assert sum(waits) >= 2.0


def test_failover_that_was_enabled_after_the_start_does_not_apply(host: ReconciledHost) -> None:
    """The worker has a lease that does not expire, so it does not leave."""
    host.set_running("x", LOST, failover=False)
    host.account("x", 1, failover="auto")
    with pytest.raises(HostUnavailableError, match="its lease is gone"):
        start(host)


def test_a_move_without_force_is_rejected_too(host: ReconciledHost, redis_server: RedisServer) -> None:
    host.set_running("x", LOST)
    pool = CeleryWorkerPool(
        Celery(broker=redis_server.url.replace("unix", "redis+socket")),
        host.store,
        host.desired,
        host.lease_store,
        BatchStore(redis_server.url),
    )
    with pytest.raises(HostUnavailableError, match=r"may trade there.*manager move x --to b --force"):
        pool.move_worker("x", "b")


def test_a_start_is_rejected_if_redis_has_only_the_hosts_record(host: ReconciledHost) -> None:
    recorded(host, WorkerLifecycleStatus.RUNNING)
    with pytest.raises(HostUnavailableError, match="its lease is gone"):
        start(host)


def test_a_forced_move_starts_it(host: ReconciledHost) -> None:
    host.set_running("x", LOST)
    desired = host.set_running("x", "b", token="t-start", why="forced move")
    start(host, desired)
    assert host.pool.started == ["x"]
