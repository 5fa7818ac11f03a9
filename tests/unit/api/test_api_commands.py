"""Commands over HTTP: idempotency, waiting, scopes and selections."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.types import Message
from support.api import Api, problem
from support.servers import RedisServer
from support.waiting import eventually

from manager.aio import AsyncWorkerManagerService
from manager.api.commands import CommandRunner
from manager.api.problems import PROBLEMS
from manager.client.caller import Request, caller, new_token, note_sent, on_behalf_of
from manager.client.commands import Command
from manager.errors import CommandTimeoutError, FleetUnavailableError, HostUnavailableError, SessionHeldError
from manager.fleet.api_commands import CommandHead, CommandRecords
from manager.models import WorkerInfo
from manager.placement.labels import Selection
from manager.pool.commands import COMMANDS, MODE_COMMANDS, START, STOP
from manager.pool.protocol import StartRequest
from manager.service import WorkerManagerService
from manager.telemetry.fleet_reader import AccountRow
from manager.testing import FakePool, fake_service

WAIT = {"Prefer": "wait=30"}
START_ONE = "/api/v1/accounts/account-001/start"


def key(name: str) -> dict[str, str]:
    return {"Idempotency-Key": name}


def pool_of(api: Api) -> FakePool:
    pool = api.service.worker_pool
    assert isinstance(pool, FakePool)
    return pool


def starts(api: Api, account_id: str = "account-001") -> int:
    events = pool_of(api).events
    return sum(event.account_id == account_id and event.status == "starting" for event in events)


def test_every_command_of_the_registry_has_a_route_and_a_method(api: Api) -> None:
    paths = api.app.openapi()["paths"]
    for name in COMMANDS:
        assert "post" in paths[f"/api/v1/accounts/{{account_id}}/{name}"]
    for spec in MODE_COMMANDS:
        assert callable(getattr(AsyncWorkerManagerService, f"{spec.name.replace('-', '_')}_worker"))


def test_an_awaited_command_is_done(api: Api) -> None:
    client = api.client("operate", "read")
    response = client.post(START_ONE, headers=WAIT)
    assert response.status_code == 200
    assert response.headers["preference-applied"] == "wait=30"
    found = response.json()
    assert (found["what"], found["account_id"], found["state"], found["outcome"]) == (
        "start",
        "account-001",
        "done",
        "ok",
    )
    assert found["result"] == api.service.get_worker_info("account-001").to_dict()  # type: ignore[union-attr]
    assert found["by"] == "tester@api (testclient)"
    assert found["seconds"] >= 0
    assert client.get(response.headers["location"]).json() == found
    stopped = client.post(
        "/api/v1/accounts/account-001/stop", headers=WAIT, json={"timeout_seconds": 5}
    ).json()
    assert stopped["result"] == {"stopped": True}
    paused = client.post("/api/v1/accounts/account-001/pause", headers=WAIT).json()
    assert paused["result"]["metadata"]["trading_mode"] == "paused"


def test_without_a_preference_a_command_is_accepted(api: Api) -> None:
    response = api.client("operate").post(START_ONE)
    assert response.status_code == 202
    assert response.json()["id"] in response.headers["location"]


class Gated(FakePool):
    """A pool whose starts wait for a gate after they are sent; counts them."""

    def __init__(self, inner: FakePool) -> None:
        super().__init__()
        self.request_for = inner.request_for
        self.gate = threading.Event()
        self.count = 0

    def start_worker(self, request: StartRequest) -> WorkerInfo:
        self.count += 1
        note_sent()
        assert self.gate.wait(30)
        return super().start_worker(request)


@pytest.fixture
def gated(api_redis: RedisServer) -> tuple[Api, Gated]:
    inner = fake_service(["account-001"])
    assert isinstance(inner.worker_pool, FakePool)
    pool = Gated(inner.worker_pool)
    return Api(api_redis, service=WorkerManagerService(inner.config_service, pool, inner.validator)), pool


def test_a_command_is_accepted_once_it_is_sent(gated: tuple[Api, Gated]) -> None:
    api, pool = gated
    with api.client("operate", "read") as client:
        response = client.post(START_ONE)
        assert (response.status_code, response.json()["state"]) == (202, "accepted")
        waited = client.post(START_ONE, headers={"Prefer": "wait=0", **key(response.json()["id"])})
        assert (waited.status_code, waited.json()) == (202, response.json())
        pool.gate.set()
        place = response.headers["location"]
        eventually(lambda: client.get(place).json()["state"] == "done", what="the command is done")
    assert pool.count == 1


def test_a_request_whose_client_left_does_not_wait_for_its_command(gated: tuple[Api, Gated]) -> None:
    api, pool = gated
    arrived: list[Message] = [
        {"type": "http.request", "body": b"", "more_body": False},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return arrived.pop(0) if len(arrived) > 1 else arrived[0]

    async def send(message: Message) -> None:
        sent.append(message)

    headers = {"host": "localhost", "authorization": f"Bearer {api.token('operate')}", "prefer": "wait=60"}
    scope = {
        "type": "http",
        "method": "POST",
        "path": START_ONE,
        "raw_path": START_ONE.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
    }

    async def answered() -> int:
        await asyncio.wait_for(api.app(scope, receive, send), 30)
        pool.gate.set()
        return next(int(one["status"]) for one in sent if one["type"] == "http.response.start")

    assert asyncio.run(answered()) == 202


def test_fifty_equal_requests_are_one_command_with_equal_answers(gated: tuple[Api, Gated]) -> None:
    api, pool = gated
    with api.client("operate") as client, ThreadPoolExecutor(50) as threads:
        sent = [
            threads.submit(client.post, START_ONE, headers={**WAIT, **key("fifty-times-1")})
            for _ in range(50)
        ]
        eventually(lambda: pool.count > 0, what="the start is under way")
        pool.gate.set()
        answers = [one.result() for one in sent]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert pool.count == 1


def test_a_key_is_remembered_by_another_process_of_the_api(api: Api, api_redis: RedisServer) -> None:
    first = api.client("operate").post(START_ONE, headers={**WAIT, **key("restarted-api-1")})
    other = Api(api_redis, service=api.service)
    again = other.client("operate").post(START_ONE, headers={**WAIT, **key("restarted-api-1")})
    assert again.json() == first.json()
    assert starts(api) == 1


def test_a_key_with_another_request_is_refused(api: Api) -> None:
    client = api.client("operate")
    assert client.post(START_ONE, headers={**WAIT, **key("mismatch-1")}).status_code == 200
    for path, body in (
        (START_ONE, {"validate": False}),
        ("/api/v1/accounts/account-002/start", {}),
        ("/api/v1/accounts/account-001/stop", {}),
    ):
        problem(client.post(path, json=body, headers=key("mismatch-1")), 422, "idempotency_mismatch")
    assert (
        client.post(START_ONE, json={"validate": True}, headers={**WAIT, **key("mismatch-1")}).status_code
        == 200
    )
    assert starts(api) == 1


@pytest.mark.parametrize("name", ["short", "x" * 129, "with blank 1", "ünicode-key", "semi;colon;1", ""])
def test_a_key_that_is_not_allowed_does_nothing(api: Api, name: str) -> None:
    response = api.client("operate").post(START_ONE, headers={b"Idempotency-Key": name.encode()})
    problem(response, 422, "invalid_request")
    assert starts(api) == 0


def test_a_failed_command_is_a_problem_and_stays_one(api: Api) -> None:
    pool_of(api).fail_next(
        "account-001", SessionHeldError("account-001: held by worker w-1 on host london-2")
    )
    client = api.client("operate", "read")
    response = client.post(START_ONE, headers={**WAIT, **key("failed-once-1")})
    found = problem(response, 409, "session_held")
    assert found["command"]["state"] == "failed"
    assert found["command"]["problem"]["detail"] == found["detail"]
    again = problem(client.post(START_ONE, headers={**WAIT, **key("failed-once-1")}), 409, "session_held")
    assert again["command"] == found["command"]
    assert client.get("/api/v1/commands/failed-once-1").json() == found["command"]
    assert starts(api) == 1


@pytest.mark.parametrize(
    "error",
    [
        FleetUnavailableError("Redis is away"),
        HostUnavailableError("no host agent"),
        CommandTimeoutError("no answer"),
    ],
)
def test_a_command_with_unknown_outcome_is_sent_again_with_the_same_key(api: Api, error: Exception) -> None:
    pool_of(api).fail_next("account-001", error)
    client = api.client("operate", "read")
    name = f"sent-again-{type(error).__name__}"
    code = getattr(error, "code", "")
    problem(client.post(START_ONE, headers={**WAIT, **key(name)}), PROBLEMS[code].status, code)
    assert client.get(f"/api/v1/commands/{name}").json()["state"] == "accepted"
    assert client.post(START_ONE, headers={**WAIT, **key(name)}).status_code == 200


def test_the_outcome_of_a_command_of_another_process_is_found(api: Api, api_redis: RedisServer) -> None:
    """The API may die between sending a command and recording its outcome."""
    info = api.service.start_worker_from_config("account-002")
    answers: dict[str, Any] = {
        "lost-answer-1": info.to_wire(),
        "lost-answer-2": True,
        "lost-answer-3": SessionHeldError("held"),
        "lost-answer-4": ZeroDivisionError("oops"),
    }
    records = CommandRecords(api_redis.url)
    for name in [*answers, "lost-answer-5"]:
        records.claim(name, CommandHead(fingerprint="f", what="start", by="me", account_id="account-002"))
    client = Api(api_redis, commands=CommandRunner(records, answers.get)).client("read")
    found = {name: client.get(f"/api/v1/commands/{name}").json() for name in [*answers, "lost-answer-5"]}
    assert found["lost-answer-1"]["result"] == info.to_dict()
    assert found["lost-answer-2"]["result"] == {"stopped": True}
    assert found["lost-answer-3"]["outcome"] == "session_held"
    assert found["lost-answer-4"]["outcome"] == "internal"
    assert found["lost-answer-5"]["state"] == "accepted"


def test_an_unknown_command(api: Api) -> None:
    for name in ("never-given-1", "x", "a b c d e f"):
        problem(api.client("read").get(f"/api/v1/commands/{name}"), 404, "no_command")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("stop", {"timeout_seconds": False}),
        ("stop", {"timeout_seconds": "5"}),
        ("stop", {"timeout_seconds": -1}),
        ("stop", {"timeout": 5}),
        ("start", {"validate": 1}),
        ("start", {"validate": "true"}),
        ("start", []),
        ("restart", {"when_flat": True}),
        ("pause", {"x": 1}),
        ("move", {}),
        ("move", {"host": ""}),
        ("move", {"host": "a/b"}),
        ("move", {"host": 5}),
    ],
)
def test_a_body_with_wrong_types_does_nothing(api: Api, path: str, body: Any) -> None:
    response = api.client("operate").post(f"/api/v1/accounts/account-001/{path}", json=body)
    problem(response, 422, "invalid_request")
    assert pool_of(api).events == []


def test_errors_that_prevent_sending(api: Api) -> None:
    client = api.client("operate")
    problem(client.post("/api/v1/accounts/nobody/start"), 404, "account_not_found")
    problem(client.post("/api/v1/accounts/..bad/start"), 404, "invalid_account_id")
    problem(client.post("/api/v1/accounts/account-003/start"), 409, "account_disabled")
    problem(client.post("/api/v1/accounts/account-001/stop"), 409, "no_worker")
    problem(client.post("/api/v1/accounts/account-001/move", json={"host": "x"}), 404, "no_such_host")
    pool_of(api).silence("fake-host")
    problem(
        client.post("/api/v1/accounts/account-001/move", json={"host": "fake-host"}), 503, "host_unavailable"
    )


def test_commands_need_the_scope_operate_and_hosts_an_admin(api: Api) -> None:
    for scope in ("read", "metrics", "configure", "kill"):
        client = api.client(scope)
        for name in (*COMMANDS, "move", "validate"):
            path = f"/api/v1/accounts/account-001/{name}"
            problem(client.post(path, json={"host": "x"} if name == "move" else {}), 403, "forbidden")
    for scope in ("read", "operate", "configure", "kill"):
        client = api.client(scope)
        problem(client.post("/api/v1/hosts/h/drain", json={"confirm": "h"}), 403, "forbidden")
        problem(client.delete("/api/v1/hosts/h?confirm=h"), 403, "forbidden")
    assert pool_of(api).events == []


def test_a_token_commands_only_accounts_of_its_selection(api: Api) -> None:
    client = api.client("operate", selection=Selection(("fx",)))
    assert client.post(START_ONE, headers=WAIT).status_code == 200
    for account_id in ("account-002", "nobody"):
        found = problem(client.post(f"/api/v1/accounts/{account_id}/start"), 403, "outside_selection")
        assert found["accounts"] == [account_id]
    assert starts(api, "account-002") == 0


def test_a_check_of_an_account_starts_nothing(api: Api) -> None:
    found = api.client("operate").post("/api/v1/accounts/account-001/validate").json()
    assert (found["valid"], found["errors"]) == (True, [])
    assert pool_of(api).events == []


# batches


def batch(client: Any, name: str, **body: Any) -> Any:
    return client.post("/api/v1/batches", json=body, headers={**WAIT, **key(name)})


def test_a_batch_accounts_for_every_account(api: Api) -> None:
    client = api.client("operate", "read")
    response = batch(client, "batch-all-1", do="start", select={"all": True}, expect=3)
    assert response.status_code == 200, response.text
    found = response.json()
    assert found["counts"] == {"done": 2, "already": 0, "resting": 0, "skipped": 1, "failed": 0, "pending": 0}
    assert found["accounts"]["account-003"]["outcome"] == "skipped"
    assert found["accounts"]["account-001"]["worker"]["status"] == "running"
    assert client.get(response.headers["location"]).json() == found
    assert [one["id"] for one in client.get("/api/v1/batches").json()["items"]] == ["batch-all-1"]
    assert found["by"] == "tester@api (testclient)"
    stopped = batch(client, "batch-stop-1", do="stop", select={"accounts": ["account-001"]}, expect=1).json()
    assert stopped["counts"]["done"] == 1
    running = {"all": True, "state": "running"}
    assert batch(client, "batch-pause-1", do="pause", select=running, expect=1).json()["counts"]["done"] == 1


def test_a_batch_that_is_sent_again_acts_once(api: Api) -> None:
    client = api.client("operate")
    body: dict[str, Any] = {"do": "start", "select": {"groups": ["fx"]}, "expect": 1}
    first = batch(client, "batch-again-1", **body)
    pool_of(api).end_worker("account-001", "crash")
    assert batch(client, "batch-again-1", **body).json() == first.json()
    assert api.aio.begun == 1
    problem(batch(client, "batch-again-1", **{**body, "do": "stop"}), 422, "idempotency_mismatch")


def test_a_batch_validates_every_account_and_starts_none(api_redis: RedisServer) -> None:
    api = Api(api_redis, {"good": {}, "bad": {"gateway": "no-such"}})
    api.reader.changed["worker-only"] = AccountRow("worker-only")
    with api.client("operate", "read") as client:
        response = batch(client, "check-all-1", do="validate", select={"all": True}, expect=3)
        assert response.status_code == 200, response.text
        found = response.json()
        assert batch(client, "check-all-1", do="validate", select={"all": True}, expect=3).json() == found
    assert {one: item["outcome"] for one, item in found["accounts"].items()} == {
        "good": "done",
        "bad": "failed",
        "worker-only": "failed",
    }
    assert "no-such" in found["accounts"]["bad"]["text"]
    assert found["accounts"]["good"]["worker"] is None
    assert pool_of(api).events == []


def test_the_key_of_a_batch_opens_no_outcome_outside_the_selection(api: Api) -> None:
    body: dict[str, Any] = {"do": "start", "select": {"all": True}, "expect": 3}
    assert batch(api.client("operate"), "batch-other-1", **body).status_code == 200
    desk = api.client("operate", selection=Selection(("fx",)))
    problem(batch(desk, "batch-other-1", **body), 403, "outside_selection")


def test_a_batch_needs_its_key_and_its_number(api: Api) -> None:
    client = api.client("operate")
    body = {"do": "start", "select": {"all": True}, "expect": 3}
    problem(client.post("/api/v1/batches", json=body), 428, "idempotency_key_required")
    problem(batch(client, "no-number-1", do="start", select={"all": True}), 428, "confirmation_required")
    found = problem(
        batch(client, "wrong-number-1", do="start", select={"all": True}, expect=2), 409, "confirmation_wrong"
    )
    assert found["selected"] == 3
    assert pool_of(api).events == []
    assert batch(client, "wrong-number-1", do="start", select={"all": True}, expect=3).status_code == 200


@pytest.mark.parametrize(
    ("select", "status", "code"),
    [
        ({}, 422, "invalid_request"),
        ({"all": True, "groups": ["fx"]}, 422, "invalid_request"),
        ({"accounts": ["account-001"], "labels": ["x"]}, 422, "invalid_request"),
        ({"accounts": []}, 422, "invalid_request"),
        ({"accounts": ["account-001", "nobody"]}, 404, "account_not_found"),
        ({"accounts": ["../x"]}, 404, "invalid_account_id"),
        ({"groups": ["nothing"]}, 409, "confirmation_wrong"),
        ({"state": "running"}, 422, "invalid_request"),
    ],
)
def test_an_ambiguous_selection_does_nothing(
    api: Api, select: dict[str, Any], status: int, code: str
) -> None:
    response = batch(api.client("operate"), "unclear-1", do="start", select=select, expect=1)
    problem(response, status, code)
    assert pool_of(api).events == []


def test_a_batch_outside_the_selection_does_nothing_at_all(api: Api) -> None:
    client = api.client("operate", selection=Selection(("fx",)))
    found = problem(
        batch(client, "outside-1", do="start", select={"all": True}, expect=3), 403, "outside_selection"
    )
    assert found["accounts"] == ["account-002", "account-003"]
    assert pool_of(api).events == []
    assert batch(client, "outside-2", do="start", select={"groups": ["fx"]}, expect=1).status_code == 200


# hosts and configuration


def test_a_host_is_drained_and_resumed_with_its_name(api: Api) -> None:
    from manager.fleet import FleetStore

    store = FleetStore(api.tokens._url)
    store.report_agent("london-1", {"version": "0.2.0"})
    client = api.client("admin")
    place = "/api/v1/hosts/london-1"
    problem(client.post(f"{place}/drain", json={}), 428, "confirmation_required")
    problem(client.post(f"{place}/drain", json={"confirm": "london-2"}), 409, "confirmation_wrong")
    assert store.drain("london-1") is None
    drained = client.post(f"{place}/drain", json={"confirm": "london-1", "mode": "stop"}, headers=WAIT).json()
    assert (drained["what"], drained["host"], drained["result"]["name"]) == ("drain", "london-1", "london-1")
    drain = store.drain("london-1")
    assert drain is not None
    assert (drain.mode, drain.by) == ("stop", "tester@api (testclient)")
    assert client.post(f"{place}/resume", json={"confirm": "london-1"}, headers=WAIT).status_code == 200
    problem(client.delete(f"{place}?confirm=london-1"), 503, "host_unavailable")
    problem(client.delete(place), 428, "confirmation_required")
    problem(client.post("/api/v1/hosts/paris/drain", json={"confirm": "paris"}), 404, "no_such_host")
    assert {entry.by for entry in api.parts.audit.last(5) if entry.what == "drain"} == {
        "tester@api (testclient)"
    }


def test_a_rollback_needs_the_current_version(api: Api) -> None:
    store = api.parts.versions
    current = store.current()
    one = store.push(
        {"accounts/a.yaml": "x: 1\n"}, replaces=current[0] if current else 0, by="me", message=""
    )
    two = store.push({"accounts/a.yaml": "x: 2\n"}, replaces=one, by="me", message="")
    client, path = api.client("configure"), "/api/v1/config/rollback"
    problem(client.post(path, json={"version": one}), 428, "precondition_required")
    problem(client.post(path, json={"version": one}, headers={"If-Match": f'"{one}"'}), 409, "config_changed")
    problem(client.post(path, json={"version": one}, headers={"If-Match": "*"}), 422, "invalid_request")
    done = client.post(path, json={"version": one}, headers={"If-Match": f'"{two}"'})
    assert done.json()["version"] == two + 1
    assert store.read(two + 1).files == {"accounts/a.yaml": "x: 1\n"}
    problem(
        api.client("configure", selection=Selection(("fx",))).post(
            path, json={"version": one}, headers={"If-Match": f'"{two + 1}"'}
        ),
        403,
        "outside_selection",
    )


# on whose behalf


def test_the_id_of_a_request_is_the_id_of_its_command() -> None:
    assert Command(START, "a").token != Command(START, "a").token
    with on_behalf_of(Request(by="ana@api", token="the-key-1", command="start")):
        assert caller() == "ana@api"
        assert Command(START, "a").token == "the-key-1"
        assert Command(STOP, "a").token == Command(STOP, "a").token != "the-key-1"
    with on_behalf_of(Request(by="ana@api", token="the-key-1")):
        members = {Command(START, name).token for name in ("a", "b", "a")}
        assert len(members) == 2
        assert "the-key-1" not in members
        assert new_token("start", "a") in members
    assert "@" in caller()
    assert caller() != "ana@api"


def test_the_first_outcome_counts(api_redis: RedisServer) -> None:
    records = CommandRecords(api_redis.url)
    head = CommandHead(fingerprint="f", what="start", by="me")
    assert records.claim("first-outcome-1", head)[0]
    new, known = records.claim("first-outcome-1", CommandHead(fingerprint="g", what="stop", by="you"))
    assert (new, known.head) == (False, head)
    records.finish("first-outcome-1", {"result": 1})
    second = records.finish("first-outcome-1", {"result": 2})
    assert second is not None
    assert second.outcome == {"result": 1}
    assert records.finish("never-claimed-1", {"result": 1}) is None
    with api_redis.client() as client:
        assert 86_000 < client.ttl("manager:api:idem:first-outcome-1") <= 86_400
        client.hset("manager:api:idem:first-outcome-1", "head", "junk")
    assert records.read("first-outcome-1") is None
    assert records.claim("first-outcome-1", head)[0]
