"""Rollouts and approvals over HTTP."""

from collections.abc import Iterator
from typing import Any

import pytest
from support.api import Api, problem
from support.servers import RedisServer

from manager.fleet import FleetStore
from manager.fleet.approvals import ApprovalStore
from manager.fleet.desired import DesiredStateRequest
from manager.fleet.desired_store import DesiredStore
from manager.models import WorkerInfo
from manager.placement.labels import Selection
from manager.states import WorkerLifecycleStatus
from manager.telemetry.fleet_reader import AccountRow

A, B = "account-001", "account-002"
HELD = {"state": "held", "file": "0123456789ab", "text": "login: a real account", "changes": []}


def running(account_id: str, config: Any = None) -> WorkerInfo:
    return WorkerInfo(
        worker_id=f"w-{account_id}",
        account_id=account_id,
        status=WorkerLifecycleStatus.RUNNING,
        metadata={"host": "fake-host", "generation": 1, "version": "0.1", "config": config},
    )


@pytest.fixture
def api(redis_server: RedisServer) -> Iterator[Api]:
    found = Api(redis_server, {A: {"groups": ["fx"]}, B: {}})
    store = FleetStore(redis_server.url)
    store.report_agent("fake-host", {"version": "0.2"})
    store.record("fake-host", [running(A), running(B)], {})
    desired = DesiredStore(redis_server.url)
    for account_id in (A, B):
        desired.set_desired(
            DesiredStateRequest(
                account_id=account_id, state="running", token=f"t-{account_id}", by="ops", why="start"
            )
        )
    yield found


def start(api: Api, scope: str = "configure", key: str | None = None, **body: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    with api.client(scope, *(["read"] if scope == "configure" else [])) as client:
        return client.post("/api/v1/rollouts", json={"select": {"all": True}, **body}, headers=headers)


def test_a_dry_run_writes_nothing(api: Api) -> None:
    found = start(api, dry_run=True)
    assert found.status_code == 200
    with api.client("read") as client:
        assert client.get("/api/v1/rollouts").json() == {"items": []}


def test_one_key_starts_one_rollout_and_it_is_steered(api: Api, redis_server: RedisServer) -> None:
    with api.client("configure", "operate", "read") as client:
        body = {
            "select": {"all": True},
            "to": "software",
            "max_unavailable": "50%",
            "window": "sat 00:00-12:00",
        }
        answers = [
            client.post("/api/v1/rollouts", json=body, headers={"Idempotency-Key": "rollout-key-1"})
            for _ in range(2)
        ]
        assert [one.status_code for one in answers] == [201, 200], answers[0].text
        first, again = (one.json() for one in answers)
        assert first == again
        url = f"/api/v1/rollouts/{first['id']}"
        assert [one["account_id"] for one in first["members"]] == [A, B]
        assert (first["to"], first["options"]["max_unavailable"], first["state"]) == (
            "software",
            1,
            "running",
        )
        assert first["members"][0]["canary"] is True
        for what, state in (("pause", "paused"), ("resume", "running"), ("promote", "running")):
            assert client.post(f"{url}/{what}").json()["state"] == state
        assert client.post(f"{url}/cancel").json()["state"] == "cancelled"
        problem(client.post(f"{url}/resume"), 409, "rollout_conflict")
        assert [one["id"] for one in client.get("/api/v1/rollouts").json()["items"]] == [first["id"]]
        assert client.get(url).json()["promoted"] is True


def test_a_second_rollout_over_the_same_accounts_is_a_conflict(api: Api) -> None:
    assert start(api, to="software").status_code == 201
    problem(start(api, to="software"), 409, "rollout_conflict")
    assert start(api, to="software", force=True).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        {"max_unavailable": "0"},
        {"max_unavailable": "101%"},
        {"canary": -1},
        {"canary": True},
        {"window": "never"},
        {"bake_seconds": "5m"},
        {"nonsense": 1},
        {"select": {}},
    ],
)
def test_a_wrong_rollout_is_refused(api: Api, body: dict[str, Any]) -> None:
    found = start(api, **body)
    assert found.status_code == 422, found.text


def test_an_unknown_rollout_is_not_found(api: Api) -> None:
    with api.client("configure", "read") as client:
        problem(client.get("/api/v1/rollouts/0123456789ab"), 404, "no_rollout")
        problem(client.post("/api/v1/rollouts/0123456789ab/cancel"), 404, "no_rollout")


def test_a_token_of_a_group_rolls_out_to_that_group_alone(api: Api) -> None:
    with api.client("configure", selection=Selection(("fx",))) as client:
        every = client.post("/api/v1/rollouts", json={"select": {"all": True}, "to": "software"})
        problem(every, 403, "outside_selection")
        own = client.post("/api/v1/rollouts", json={"select": {"groups": ["fx"]}, "to": "software"})
        assert own.status_code == 201
        problem(client.post(f"/api/v1/accounts/{B}/config/approve"), 403, "outside_selection")


def test_holds_are_listed_and_approved(api: Api, redis_server: RedisServer) -> None:
    held = running(A, HELD)
    FleetStore(redis_server.url).record("fake-host", [held], {})
    api.reader.changed[A] = AccountRow(A, worker=held)
    with api.client("configure", "read") as client:
        items = client.get("/api/v1/holds").json()["items"]
        assert items == [
            {"account_id": A, "version": "0123456789ab", "text": "login: a real account", "changes": []}
        ]
        stale = client.post(f"/api/v1/accounts/{A}/config/approve", json={"to": "ba9876543210"})
        problem(stale, 409, "nothing_held")
        done = client.post(f"/api/v1/accounts/{A}/config/approve", json={"to": "0123456789ab"})
        assert done.json() == {"account_id": A, "version": "0123456789ab"}
        problem(client.post(f"/api/v1/accounts/{B}/config/approve"), 409, "nothing_held")
    assert ApprovalStore(redis_server.url).versions() == {A: "0123456789ab"}
