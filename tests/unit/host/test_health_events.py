"""Health changes are events with a reason, at a bounded rate."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.pool_host import Host
from support.servers import RedisServer
from support.waiting import eventually

from manager.fleet import FleetStore
from manager.fleet.event_types import HealthChange, ModeChange, Remark, WorkerChange
from manager.host import build_pool
from manager.host.reporting.health_changes import BURST, SPAN_SECONDS, HealthChanges
from manager.host.reporting.outbox import Outbox
from manager.models import WorkerInfo, utc_now
from manager.states import WorkerLifecycleStatus as S

#: The events of a worker that starts, becomes degraded, and recovers.
WELL, ILL, ILLER = "healthy", "degraded", "unhealthy"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Sink:
    """Stores what would become events, in their order."""

    def __init__(self) -> None:
        self.explain: list[str | tuple[str, str, str | None]] = []

    def publish(
        self, info: WorkerInfo, beat: Mapping[str, Any] | None = None, *, wait_seconds: float = 0.0
    ) -> bool:
        del beat, wait_seconds
        self.explain.append(str(info.status))
        return True

    def publish_health(self, info: WorkerInfo, change: HealthChange) -> None:
        assert (info.status, info.metadata["health"]) == ("running", change.new)
        self.explain.append((change.old, change.new, change.reason))

    def publish_mode(self, info: WorkerInfo, change: ModeChange) -> None:
        raise AssertionError(f"{info.account_id}: {change} is no change of health")

    def publish_remark(self, info: WorkerInfo, change: Remark) -> None:
        raise AssertionError(f"{info.account_id}: {change} is no change of health")

    def flush(self, seconds: float) -> bool:
        del seconds
        return True


@pytest.fixture
def host(short_dir: Path) -> Iterator[Host]:
    found = Host(short_dir)
    yield found
    found.close()


def with_sink(host: Host) -> Sink:
    """Give the host's pool a sink."""
    sink = Sink()
    host.pool.close()
    host.pool = build_pool(host.settings, host.config_service, sink=sink)
    host.service.worker_pool = host.pool
    return sink


def test_every_health_change_is_one_event_with_its_reason(host: Host) -> None:
    sink = with_sink(host)
    host.account("a", 1, health={"unhealthy_after_seconds": 1})
    host.start()

    def published(*expected: tuple[str, str]) -> bool:
        host.pool.end_hung_workers()
        return [one[:2] for one in sink.explain if isinstance(one, tuple)] == list(expected)

    assert published()
    host.fault(1, "trading_disabled", on=["check"], count=15)
    eventually(lambda: published((WELL, ILL)))
    eventually(lambda: published((WELL, ILL), (ILL, ILLER)))
    eventually(lambda: published((WELL, ILL), (ILL, ILLER), (ILLER, WELL)))
    reasons = [one[2] for one in sink.explain if isinstance(one, tuple)]
    assert reasons[0]
    assert reasons[2] is None
    host.service.stop_worker("a")
    stopped = host.service.get_worker_info("a")
    assert stopped is not None
    assert stopped.health == "unknown"


def test_a_worker_that_exits_as_unhealthy_has_a_health_event_first(host: Host) -> None:
    sink = with_sink(host)
    host.account("a", 1, health={"unhealthy_after_seconds": 1}, recovery={"restart_unhealthy": True})
    host.start()
    host.fault(1, "trading_disabled", on=["check"])

    # No hang check runs here: the exit handler reads the last heartbeat.
    eventually(lambda: host.status() == "failed", within=15)

    assert [one if isinstance(one, str) else one[:2] for one in sink.explain] == [
        "starting",
        "running",
        (WELL, ILLER),
        "failed",
    ]


def test_a_new_agent_publishes_the_current_health(host: Host) -> None:
    host.account("a", 1)
    host.start()
    host.fault(1, "trading_disabled", on=["check"])
    eventually(lambda: _health(host) == ILL)
    host.pool.close()
    host.new_pool()
    sink = with_sink(host)

    (adopted,) = host.pool.adopt()

    assert (adopted.status, adopted.metadata["health"]) == ("running", ILL)
    host.pool.end_hung_workers()
    assert sink.explain == ["running"]  # with that health: there is no change


def _health(host: Host) -> str:
    info = host.service.get_worker_info("a")
    return "" if info is None else str(info.health)


def test_a_flapping_health_is_bounded_and_ends_with_the_right_value() -> None:
    clock = Clock()
    changes = HealthChanges(WELL, clock)
    published = []
    for second in range(600):
        clock.now += 1
        published.append(
            changes.update(ILL if second % 2 == 0 else WELL, "no tick" if second % 2 == 0 else None)
        )
    found = [one for one in published if one is not None]
    assert len(found) <= 3 * BURST
    assert [(one.old, one.new) for one in found[:2]] == [(WELL, ILL), (ILL, WELL)]
    assert sum(one.untold for one in found) > 250
    # The last change is always reported, and nothing after it.
    clock.now += SPAN_SECONDS
    last = changes.update(ILLER, "no tick")
    assert last is not None
    assert (last.new, last.reason) == (ILLER, "no tick")
    assert changes.update(ILLER, "no tick") is None


def test_an_invalid_health_changes_nothing() -> None:
    changes = HealthChanges(WELL, Clock())
    for nonsense in (None, 7, "splendid", ["healthy"]):
        assert changes.update(nonsense, None) is None


def test_a_health_change_is_a_stream_entry_and_keeps_the_heartbeat(
    redis_server: RedisServer,
) -> None:
    store = FleetStore(redis_server.url)
    info = WorkerInfo(
        worker_id="w-1",
        account_id="a",
        status=S.RUNNING,
        started_at=utc_now(),
        metadata={"host": "h", "health": WELL},
    )
    store.record("h", [info], {"a": {"worker_id": "w-1", "health": WELL}})
    ill = info.with_(metadata={"health": ILL, "health_reason": "no tick"})
    store.record("h", [ill], {}, events=[WorkerChange(ill, 0.0, HealthChange(WELL, ILL, "no tick", 3))])

    first, second = store.events()
    assert (first.kind, first.status, first.health, first.health_before) == ("state", "running", WELL, None)
    assert (second.kind, second.status, second.error) == ("health", "running", None)
    assert (second.health_before, second.health, second.reason, second.untold) == (WELL, ILL, "no tick", 3)
    assert second.to_dict()["health"] == ILL
    assert store.beat("h", "a") is not None
    store.close()


def test_a_health_change_does_not_drop_the_first_heartbeat() -> None:
    outbox = Outbox()
    info = WorkerInfo(worker_id="w-1", account_id="a", status=S.RUNNING)
    outbox.add(info, {"worker_id": "w-1"})
    outbox.add(info, None, HealthChange(WELL, ILL, "no tick"))
    batch = outbox.next()
    assert batch is not None
    assert batch.beats == {"a": {"worker_id": "w-1"}}
    assert [change.health is not None for change in batch.changes] == [False, True]
