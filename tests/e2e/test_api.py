"""The HTTP API over a real fleet: commands that survive its death, and what it must not do."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.api_process import ApiProcess
from support.fleet import PASSWORD, Fleet
from support.waiting import eventually

from manager.fleet.audit import AuditTrail
from manager.fleet.desired_store import DesiredStore
from manager.fleet.tokens import TokenStore
from manager.placement.labels import Selection

pytestmark = [pytest.mark.e2e, pytest.mark.long]
WAIT = {"Prefer": "wait=60"}


@pytest.fixture
def api(fleet: Fleet) -> ApiProcess:
    fleet.add_accounts(3)
    return ApiProcess(fleet)


def test_one_key_is_one_start_through_restarts_of_the_api_and_of_redis(fleet: Fleet, api: ApiProcess) -> None:
    headers = {**WAIT, "Idempotency-Key": "one-start-1"}

    def start() -> Any:
        with api.client() as client:
            return client.post("/accounts/account-001/start", headers=headers)

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: start(), range(50)))
    assert {one.status_code for one in answers} == {200}, answers[0].text
    assert len({one.text for one in answers}) == 1
    desired = DesiredStore(fleet.redis_url).read("account-001")
    assert desired is not None
    worker = fleet.workers()["account-001"]
    api.kill()
    fleet.redis.restart()
    api.start()
    assert start().text == answers[0].text
    after = DesiredStore(fleet.redis_url).read("account-001")
    assert after is not None
    assert (after.generation, fleet.workers()["account-001"]) == (desired.generation, worker)
    with api.client() as client:
        response = client.post("/accounts/account-001/stop", headers=headers)
    assert response.json()["code"] == "idempotency_mismatch"
    asked = [entry for entry in AuditTrail(fleet.redis_url).last(100) if entry.stage == "asked"]
    assert [(entry.what, entry.command, entry.by) for entry in asked] == [
        ("start", "one-start-1", "tester@api (127.0.0.1)")
    ]


def test_an_accepted_command_outlives_the_api_and_its_outcome_is_found(fleet: Fleet, api: ApiProcess) -> None:
    with api.client() as client:
        response = client.post("/accounts/account-002/start", headers={"Idempotency-Key": "outlives-1"})
    assert response.status_code == 202
    api.kill()
    eventually(lambda: fleet.status("account-002") == "running", within=30, what="the command is carried out")
    api.start()
    with api.client() as client:
        found = client.get("/commands/outlives-1").json()
        assert (found["state"], found["result"]["account_id"]) == ("done", "account-002")
        again = client.post("/accounts/account-002/start", headers={**WAIT, "Idempotency-Key": "outlives-1"})
        assert again.json() == found


def test_without_the_api_everything_else_continues(fleet: Fleet, api: ApiProcess) -> None:
    body = {"do": "start", "select": {"all": True}, "expect": 3}
    with api.client() as client:
        sent = client.post("/batches", json=body, headers={"Idempotency-Key": "killed-after-1"})
    assert sent.status_code == 202, sent.text
    api.kill()
    accounts = [f"account-00{number}" for number in (1, 2, 3)]
    eventually(
        lambda: [fleet.status(one) for one in accounts] == ["running"] * 3,
        within=30,
        what="the batch is done",
    )
    stays, crashes = fleet.workers()["account-001"], fleet.workers()["account-002"]
    crashes.kill()
    assert fleet.run("stop", "account-003").returncode == 0
    assert fleet.run("start", "account-003").returncode == 0
    eventually(
        lambda: fleet.status("account-002") == "running" and fleet.workers()["account-002"] != crashes,
        within=30,
        what="the host restarts a worker that crashed",
    )
    fleet.await_ticks()
    assert fleet.workers()["account-001"] == stays
    assert stays.alive()
    api.start()
    with api.client() as client:
        assert client.get("/batches/killed-after-1").json()["counts"]["pending"] == 0
        events = client.get("/events?type=batch.*").json()["items"]
    assert [(one["type"], one["command"]) for one in events] == [
        ("batch.begun", "killed-after-1"),
        ("batch.done", "killed-after-1"),
    ]


def test_a_batch_and_what_the_fleet_shows_of_it(fleet: Fleet, api: ApiProcess) -> None:
    with api.client() as client:
        body: dict[str, Any] = {"do": "start", "select": {"all": True}, "expect": 3}
        response = client.post("/batches", json=body, headers={**WAIT, "Idempotency-Key": "batch-start-1"})
        assert response.status_code == 200, response.text
        assert response.json()["counts"]["done"] == 3
        workers = fleet.workers()
        again = client.post("/batches", json=body, headers={**WAIT, "Idempotency-Key": "batch-start-1"})
        assert again.json()["accounts"].keys() == response.json()["accounts"].keys()
        assert fleet.workers() == workers
        assert client.get("/batches").json()["items"][0]["counts"]["done"] == 3

        def running() -> bool:
            return bool(client.get("/fleet").json()["status"] == {"running": 3})

        eventually(running, within=10, what="the summary counts three running workers")
        page = client.get("/accounts?limit=2").json()
        assert (page["total"], len(page["items"]), page["next"] is not None) == (3, 2, True)

        def account() -> Any:
            return client.get("/accounts/account-001").json()

        eventually(lambda: account()["want"] == "running", within=10, what="the view has the desired state")
        assert (account()["status"], account()["desired"]["by"]) == ("running", "tester@api (127.0.0.1)")
        placement = client.get("/accounts/account-001/placement").json()
        assert placement["host"] == fleet.host
        assert client.post("/accounts/account-001/validate").json()["valid"] is True
        assert client.get("/doctor").json()["checks"]
        outside = TokenStore(fleet.redis_url)
        selection = outside.create("desk", ["operate"], by="t", selection=Selection(("nobody",)))[1]
        with api.client(selection) as other:
            refused = other.post("/accounts/account-001/stop")
        assert refused.json()["code"] == "outside_selection"
        body = {"do": "stop", "select": {"all": True}, "expect": 3}
        stopped = client.post("/batches", json=body, headers={**WAIT, "Idempotency-Key": "batch-stop-1"})
        assert stopped.json()["counts"]["done"] == 3
    text = api.log()
    assert PASSWORD not in text
    assert api.token not in text


def test_it_is_not_ready_during_an_outage_of_redis_and_recovers(fleet: Fleet, api: ApiProcess) -> None:
    with api.client() as client:
        assert client.get("/fleet").json()["stale_seconds"] is None
        fleet.redis.stop()
        eventually(lambda: client.get("/readyz").status_code == 503, within=15, what="it is not ready")
        assert client.get("/healthz").status_code == 200
        refused = client.post("/accounts/account-001/start", headers=WAIT)
        assert (refused.status_code, refused.json()["code"]) == (503, "fleet_unavailable")
        fleet.redis.start()
        eventually(lambda: client.get("/readyz").status_code == 200, within=30, what="it is ready again")
        assert client.post("/accounts/account-001/start", headers=WAIT).status_code == 200


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"MANAGER_API_ADDRESS": "0.0.0.0"}, "MANAGER_API_TLS_CERT"),
        ({"MANAGER_API_ADDRESS": "::"}, "MANAGER_API_PROXY"),
        ({"MANAGER_API_ADDRESS": "192.0.2.1"}, "unencrypted"),
        ({"MANAGER_API_TLS_CERT": "/nonexistent/cert.pem"}, "belong together"),
        (
            {"MANAGER_API_TLS_CERT": "/nonexistent/cert.pem", "MANAGER_API_TLS_KEY": "/nonexistent/key.pem"},
            "cannot be read",
        ),
    ],
)
def test_it_does_not_listen_where_tokens_would_be_seen(
    bare_fleet: Fleet, environment: dict[str, str], words: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "manager.cli", "api"],
        env={**bare_fleet.environment, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert done.stdout == ""


def test_it_ends_cleanly_and_a_second_one_on_its_port_does_not_start(bare_fleet: Fleet) -> None:
    api = ApiProcess(bare_fleet)
    port = api.url.rpartition(":")[2]
    second = subprocess.run(
        [sys.executable, "-m", "manager.cli", "api", "--port", port],
        env=bare_fleet.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (second.returncode, len(second.stderr.splitlines())) == (1, 1)
    assert "MANAGER_API_PORT" in second.stderr
    api.process.terminate()
    assert api.process.wait(timeout=20) == 0
