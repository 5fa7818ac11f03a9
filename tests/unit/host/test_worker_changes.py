"""Each change of a worker's record is one event for every subscriber, in order."""

import logging
from collections.abc import Mapping
from typing import Any

import pytest

from manager.fleet.event_types import HealthChange, ModeChange, Remark
from manager.host.workers.changes import WorkerChanged, log_change, publish_to
from manager.host.workers.slot import IllegalTransitionError, Slot
from manager.models import WorkerInfo
from manager.states import TradingMode
from manager.states import WorkerLifecycleStatus as S
from manager.system.log_writer import FIELDS


def worker(status: S = S.STARTING, **changes: Any) -> WorkerInfo:
    return WorkerInfo(worker_id="w-1", account_id="a", status=status, **changes)


class Recorder:
    """A slot with one worker, and the changes that it emitted."""

    def __init__(self, info: WorkerInfo) -> None:
        self.changes: list[WorkerChanged] = []
        self.slot = Slot("a", [self.changes.append, log_change])
        self.slot.info = info

    @property
    def path(self) -> list[tuple[str | None, str]]:
        return [(str(c.before.status) if c.before else None, str(c.after.status)) for c in self.changes]


class Sink:
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def publish(
        self, info: WorkerInfo, beat: Mapping[str, Any] | None = None, *, wait_seconds: float = 0.0
    ) -> bool:
        self.calls.append((str(info.status), (beat, wait_seconds)))
        return True

    def publish_health(self, info: WorkerInfo, change: HealthChange) -> None:
        self.calls.append((info.health, change))

    def publish_mode(self, info: WorkerInfo, change: ModeChange) -> None:
        self.calls.append((str(info.trading_mode), change))

    def publish_remark(self, info: WorkerInfo, change: Remark) -> None:
        self.calls.append((str(info.trading_mode), change))

    def flush(self, seconds: float) -> bool:
        raise AssertionError(f"a change must not block, for {seconds} s or any time")


def test_every_change_is_one_event_with_the_record_before_and_after() -> None:
    found = Recorder(worker())
    found.slot.announce()
    found.slot.set_running({"health": "healthy"}, beat={"balance": "1"})
    found.slot.update_health({"health": "degraded", "health_reason": "slow"})
    found.slot.update_health({"health": "degraded", "health_reason": "slow"})
    found.slot.move(S.STOPPING)
    found.slot.move(S.STOPPED, error=None)
    assert found.path == [
        (None, "starting"),
        ("starting", "running"),
        ("running", "running"),
        ("running", "stopping"),
        ("stopping", "stopped"),
    ]
    assert found.changes[1].beat == {"balance": "1"}
    health = found.changes[2].health
    assert health is not None
    assert (health.old, health.new, health.reason) == ("healthy", "degraded", "slow")
    assert [c.health for c in found.changes if c is not found.changes[2]] == [None] * 4
    assert found.changes[-1].after is found.slot.info


def test_a_transient_status_is_checked_and_emits_nothing() -> None:
    found = Recorder(worker())
    found.slot.move(S.STOPPED, through=S.STOPPING)
    assert found.path == [("starting", "stopped")]
    with pytest.raises(IllegalTransitionError, match="stopped may not become stopping"):
        found.slot.move(S.STOPPED, through=S.STOPPING)


def test_a_forbidden_transition_changes_and_emits_nothing() -> None:
    found = Recorder(worker(S.STOPPED))
    with pytest.raises(IllegalTransitionError):
        found.slot.move(S.RUNNING)
    assert found.slot.status is S.STOPPED
    assert found.changes == []


def test_the_sink_gets_records_with_heartbeats_and_health_as_health() -> None:
    sink = Sink()
    slot = Slot("a", [publish_to(sink)])
    slot.info = worker()
    slot.set_running({"health": "healthy"}, beat={"balance": "1"})
    slot.update_health({"health": "unhealthy"})
    assert sink.calls[0] == ("running", ({"balance": "1"}, 0.0))
    assert sink.calls[1][0] == "unhealthy"
    assert isinstance(sink.calls[1][1], HealthChange)


def test_the_sink_gets_a_change_of_the_trading_mode_once_and_as_such() -> None:
    sink = Sink()
    slot = Slot("a", [publish_to(sink)])
    slot.info = worker(S.RUNNING)
    slot.set_mode(TradingMode.PAUSED, "ops")
    assert sink.calls == [("paused", ModeChange("normal", "paused", "ops"))]
    slot.set_mode(TradingMode.PAUSED, "ops")
    assert sink.calls[1:] == [("running", (None, 0.0))], "the record is written, and no change"


@pytest.mark.parametrize(
    ("before", "change", "action"),
    [
        (S.STARTING, {"status": S.RUNNING}, "worker_started"),
        (S.STARTING, {"status": S.FAILED, "code": "start_timeout", "error": "late"}, "start_failed"),
        (S.RUNNING, {"status": S.FAILED, "error": "it died"}, "worker_ended"),
        (S.RUNNING, {"status": S.RESTARTING, "error": "it died"}, "worker_ended"),
        (S.CREATED, {"status": S.FAILED, "error": "no such file"}, None),
        (S.RUNNING, {"status": S.STOPPING}, None),
    ],
)
def test_a_change_of_state_has_at_most_one_log_line(
    caplog: pytest.LogCaptureFixture, before: S, change: dict[str, Any], action: str | None
) -> None:
    with caplog.at_level(logging.INFO, logger="manager.host.workers.changes"):
        Recorder(worker(before)).slot.move(**change)
    assert [vars(record)[FIELDS]["action"] for record in caplog.records] == ([action] if action else [])
    if change.get("error") and action:
        assert change["error"] in caplog.text


def test_an_adopted_worker_logs_no_start(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="manager.host.workers.changes"):
        Recorder(worker(metadata={"adopted": True})).slot.set_running({})
    assert caplog.records == []
