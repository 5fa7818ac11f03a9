"""Overrides of schedules: the store, and what an operator writes with it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.servers import RedisServer

from manager.client.schedules import FleetSchedules
from manager.config import ConfigurationService
from manager.errors import InvalidPayloadError, NoOverrideError
from manager.fleet import FleetStore
from manager.fleet.audit import AuditTrail
from manager.fleet.desired import DesiredStateRequest
from manager.fleet.desired_store import DesiredStore
from manager.fleet.event_types import ModeChange, WorkerChange, change_fields
from manager.fleet.overrides import OVERRIDES_KEY, OverrideStore, override_from_json, override_to_json
from manager.market.decisions import Action, Override, OverrideKind
from manager.models import WorkerInfo, WorkerPlacement
from manager.states import WorkerLifecycleStatus

AT = datetime(2026, 12, 1, 12, tzinfo=UTC)
ACCOUNT = "gateway: paper\nlogin: 1\nserver: S\npassword: env:PATH\ncurrencies: [{symbol: EURUSD}]\n"


@pytest.fixture
def fleet(redis_server: RedisServer, tmp_path: Path) -> FleetSchedules:
    (tmp_path / "accounts").mkdir()
    (tmp_path / "accounts" / "a.yaml").write_text(f"{ACCOUNT}schedule: crypto\n")
    (tmp_path / "accounts" / "b.yaml").write_text(ACCOUNT)
    url = redis_server.url
    desired = DesiredStore(url)
    desired.set_desired(
        DesiredStateRequest(account_id="a", state="running", token="t", by="ops", why="start")
    )
    return FleetSchedules(ConfigurationService(tmp_path), OverrideStore(url), desired, AuditTrail(url))


def test_an_override_survives_its_json(redis_server: RedisServer) -> None:
    store = OverrideStore(redis_server.url)
    at = store.now()
    override = Override(
        kind=OverrideKind.REST, at=at, until=at + timedelta(hours=1), by="ops", reason="a holiday"
    )
    assert override_from_json(override_to_json(override)) == override
    store.set("a", override)
    assert store.all() == {"a": override}
    assert store.clear("a") is True
    assert store.clear("a") is False
    ended = store.get("a")
    assert ended is not None
    assert not ended.in_force(store.now())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"do":"fly"}', '{"do":"run","at":"2026-12-01","until":"2026-12-02"}', '{"do":1}']
)
def test_a_malformed_override_does_not_count(redis_server: RedisServer, text: str) -> None:
    store = OverrideStore(redis_server.url)
    redis_server.client().hset(OVERRIDES_KEY, "a", text)
    assert store.all() == {}
    assert store.get("a") is None


def test_an_override_is_audited_and_shown(fleet: FleetSchedules, redis_server: RedisServer) -> None:
    fleet.override("a", "rest", until="2h", reason="news")
    found = fleet.get("a")
    assert found.decision.action is Action.REST
    assert "news" in found.decision.text
    assert [one.account_id for one in fleet.all()] == ["a"]
    fleet.clear("a")
    assert fleet.get("a").decision.action is Action.RUN
    with pytest.raises(NoOverrideError, match="a has no override"):
        fleet.clear("a")
    entries = AuditTrail(redis_server.url).last(3)
    assert [(one.what, one.outcome) for one in entries] == [
        ("schedule override", "ok"),
        ("schedule override", "ok"),
        ("schedule override", "no_override"),
    ]
    types = [event.type for event in FleetStore(redis_server.url).events(last=20)]
    assert types.count("schedule.override") == 2


def test_a_schedule_without_a_next_change_needs_an_end(fleet: FleetSchedules) -> None:
    with pytest.raises(InvalidPayloadError, match="--until 2h"):
        fleet.override("a", "rest")
    with pytest.raises(InvalidPayloadError, match="is no time"):
        fleet.override("a", "rest", until="soon")


@pytest.mark.parametrize(
    ("before", "kind"),
    [("", "account.resting"), ("stopped", "account.resting"), ("stopping", "worker.stopped")],
)
def test_an_account_that_begins_to_rest_has_one_event_of_its_own(before: str, kind: str) -> None:
    resting = {"for": "schedule", "until": "2026-12-01T08:00:00+00:00", "text": "rests", "unmet": []}
    info = WorkerInfo(
        worker_id="w",
        account_id="a",
        status=WorkerLifecycleStatus.STOPPED,
        metadata=WorkerPlacement(resting=resting).to_dict(),
    )
    fields = change_fields("host", WorkerChange(info, before=before))
    assert fields["type"] == kind
    if kind == "account.resting":
        assert json.loads(fields["data"]) == {key: resting[key] for key in ("for", "until", "text")}


@pytest.mark.parametrize(
    ("mode", "kind"),
    [(ModeChange("normal", "paused", "ops"), ("worker.mode", "other")), (None, ("worker.running", "state"))],
)
def test_only_a_change_of_the_trading_mode_is_worker_mode(
    mode: ModeChange | None, kind: tuple[str, str]
) -> None:
    info = WorkerInfo(
        worker_id="w",
        account_id="a",
        status=WorkerLifecycleStatus.RUNNING,
        metadata={"trading_mode": "paused"},
    )
    fields = change_fields("host", WorkerChange(info, before="running", mode=mode))
    assert (fields["type"], fields["kind"], fields["status"]) == (*kind, "running")
    if mode is not None:
        assert json.loads(fields["data"]) == {"from": "normal", "to": "paused"}
