"""A suspended machine and a clock that is set: each is detected, logged as one line, and handled."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.reconciled_host import ReconciledHost
from support.servers import RedisServer

from manager.errors import FleetUnavailableError
from manager.fleet.desired import DesiredState
from manager.fleet.desired_store import DESIRED_KEY
from manager.host.reconcile.clock_watch import ClockWatch, Reading, read_clocks
from manager.host.reporting.publisher import Publisher
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus


class Clocks:
    """Three clocks that a test moves."""

    def __init__(self) -> None:
        self.now = Reading(100.0, 100.0, 1_000_000.0)

    def __call__(self) -> Reading:
        return self.now

    def run(self, seconds: float) -> None:
        """Advance all three clocks."""
        self.now = Reading(*(clock + seconds for clock in self.now))

    def suspend(self, seconds: float, *, wall_error: float = 0.0) -> None:
        self.now = Reading(self.now.monotonic, self.now.boot + seconds, self.now.wall + seconds + wall_error)

    def set_wall(self, seconds: float) -> None:
        self.now = self.now._replace(wall=self.now.wall + seconds)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def test_elapsed_time_is_not_reported_as_a_change(clocks: Clocks) -> None:
    watch = ClockWatch(clocks)
    for seconds in (0.0, 1.0, 600.0):
        clocks.run(seconds)
        clocks.set_wall(0.2)  # NTP at work
        assert watch.tick() == []
    assert watch.explain() is None
    assert ClockWatch(read_clocks).tick() == []


def test_a_suspend_is_distinguished_from_a_clock_that_is_set(clocks: Clocks) -> None:
    watch = ClockWatch(clocks)
    clocks.suspend(312)
    clocks.run(1)
    (change,) = watch.tick()
    assert (change.kind, change.text) == ("suspended", "this machine was suspended for 312 s")
    clocks.set_wall(3600)
    (change,) = watch.tick()
    assert (change.kind, change.text) == (
        "set_forward",
        "the clock of this machine was set forward by 3600 s",
    )
    assert "may look expired" in change.effect
    clocks.set_wall(-90)
    (change,) = watch.tick()
    assert (change.kind, change.text) == ("set_back", "the clock of this machine was set back by 90 s")
    assert "not affected" in change.effect
    assert watch.tick() == []


def test_a_clock_that_is_wrong_after_a_suspend_is_two_changes(clocks: Clocks) -> None:
    watch = ClockWatch(clocks)
    clocks.suspend(28_800, wall_error=-20)  # within the ignored drift
    assert [change.kind for change in watch.tick()] == ["suspended"]
    clocks.suspend(60, wall_error=7_200)
    assert [change.kind for change in watch.tick()] == ["suspended", "set_forward"]


def test_the_latest_change_is_reported_for_a_day(clocks: Clocks) -> None:
    watch = ClockWatch(clocks)
    clocks.suspend(312)
    watch.tick()
    clocks.run(60)
    change = watch.explain()
    assert change is not None
    assert change.to_dict() == {
        "kind": "suspended",
        "seconds": 312.0,
        "text": "this machine was suspended for 312 s",
        "age_seconds": 60.0,
    }
    clocks.run(90_000)
    assert watch.explain() is None


@pytest.fixture
def host(short_dir: Path, redis_server: RedisServer, clocks: Clocks) -> Iterator[ReconciledHost]:
    found = ReconciledHost(short_dir, redis_server.url, "h", clocks=ClockWatch(clocks))
    yield found
    found.close()


def change_unnoticed(redis_server: RedisServer, account_id: str) -> None:
    """Write desired state without a new version: only a read of everything finds it."""
    desired = DesiredState(account_id=account_id, state="stopped", generation=1)
    with redis_server.client() as client:
        client.hset(DESIRED_KEY, account_id, json.dumps(desired.to_record()))


def test_a_suspend_is_logged_and_desired_state_is_read_in_full(
    host: ReconciledHost, clocks: Clocks, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    reconciler = host.reconciler
    now = 1_000_000.0
    reconciler.tick(now)
    before = reconciler.desired_cache.redis_time()
    change_unnoticed(redis_server, "x")
    with caplog.at_level(logging.WARNING):
        clocks.set_wall(-3600)
        reconciler.tick(now + 0.1)
        assert reconciler.reconciliations == 1
        clocks.suspend(312)
        reconciler.tick(now + 0.2)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("the clock of this machine was set back by 3600 s; leases, heartbeats")
    assert lines[1].startswith("this machine was suspended for 312 s; desired state is read again now")
    assert reconciler.reconciliations == 2
    assert reconciler.desired_cache.get("x") is not None
    assert abs(reconciler.desired_cache.redis_time() - before) < 60


def test_after_a_suspend_no_worker_counts_as_hung_for_ten_seconds(
    host: ReconciledHost, clocks: Clocks
) -> None:
    reconciler, now = host.reconciler, 1_000_000.0
    reconciler.tick(now)
    assert host.pool.hang_checks == 1
    clocks.suspend(312)
    for seconds in range(1, 10):
        reconciler.tick(now + seconds)
    assert host.pool.hang_checks == 1
    reconciler.tick(now + 12)
    assert host.pool.hang_checks == 2


def test_a_tick_does_what_is_due_and_returns_when_the_next_one_is(host: ReconciledHost) -> None:
    reconciler, now = host.reconciler, 1_000_000.0
    assert reconciler.tick(now) == now + 1.0, "the next check for hung workers"
    assert (reconciler.reconciliations, host.pool.hang_checks) == (1, 1)
    reconciler.tick(now + 0.9)
    assert (reconciler.reconciliations, host.pool.hang_checks) == (1, 1)
    reconciler.tick(now + 1.0)
    assert (reconciler.reconciliations, host.pool.hang_checks) == (1, 2)
    reconciler.tick(now + 2.0)
    assert (reconciler.reconciliations, host.pool.hang_checks) == (2, 3)


class RefusingStore:
    """A store whose Redis is away at first, then refuses, then works."""

    def __init__(self, *errors: str) -> None:
        self.errors = list(errors)
        self.recorded: list[str] = []

    def record(
        self, host: str, infos: object, beats: object, *, events: object = None, mark: str = ""
    ) -> None:
        del host, infos, beats, events
        self.recorded.append(mark)

    def last_mark(self, host: str) -> str | None:
        del host
        if self.errors:
            raise FleetUnavailableError(self.errors.pop(0))
        return self.recorded[-1] if self.recorded else None

    def report_agent(self, host: str, data: object) -> tuple[None, int, str | None]:
        del host, data
        return None, 0, self.last_mark("")

    def forget_worker(self, host: str, account_id: str) -> None:
        del host, account_id

    def forget_agent(self, host: str) -> None:
        del host

    def note(self, notice: object) -> None:
        del notice

    def ensure_stream_id(self) -> None:
        pass


def test_each_state_of_redis_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    replica = "Redis at X is a read-only replica (READONLY): point MANAGER_REDIS_URL at the primary"
    full = "Redis at X is out of memory (OOM): raise maxmemory"
    store = RefusingStore(replica, replica, full, full, full, replica)
    publisher = Publisher(store, "h", dict, clock=lambda: 0.0)
    publisher.publish(WorkerInfo(worker_id="w", account_id="a", status=WorkerLifecycleStatus.RUNNING))
    with caplog.at_level(logging.INFO):
        for second in range(7):
            assert not publisher.flush(0)
            publisher.tick(float(second))
    assert publisher.flush(0)
    lines = [
        record.getMessage().partition(";")[0]
        for record in caplog.records
        if "Redis at" in record.getMessage()
    ]
    assert lines == [replica, full, replica]
