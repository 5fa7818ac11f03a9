"""Every operation of the OpenAPI document against every scope, and against a token with a selection."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx2
import pytest
from starlette.testclient import TestClient
from support.api import Api, problem
from support.servers import RedisServer

from manager.api.gate import OPEN
from manager.api.openapi import document
from manager.change.rollout_store import RolloutStore
from manager.change.rollouts import Member, Rollout
from manager.fleet.tokens import SCOPES
from manager.placement.labels import Selection
from manager.testing import FakePool

#: An account outside the selection of the tokens here, and values of other parameters of paths.
_VALUES = {
    "account_id": "account-002",
    "host": "fake-host",
    "version": "1",
    "rollout_id": "0123456789ab",
}
#: What any operation may require. An operation that requires something else needs an entry here.
_HEADERS = {"Idempotency-Key": "", "If-Match": '"1"'}
_BODIES: dict[str, Any] = {
    "/accounts/{account_id}/move": {"host": "fake-host"},
    "/accounts/{account_id}/override": {"do": "rest"},
    "/batches": {"do": "stop", "select": {"all": True}, "expect": 2},
    "/config/push": {"files": {"accounts/account-002.yaml": "login: 1\n"}},
    "/config/rollback": {"version": 1},
    "/hosts/{host}/drain": {"confirm": "fake-host"},
    "/hosts/{host}/resume": {"confirm": "fake-host"},
    "/rollouts": {"select": {"all": True}},
    "/tokens": {"name": "new", "scopes": ["read"]},
}


class Operation(NamedTuple):
    """An operation of the document."""

    method: str
    path: str

    @property
    def scope(self) -> str:
        """The scope that it requires; empty: any token will do."""
        if self.path.startswith("/session"):
            return ""
        if self.path.startswith("/tokens"):
            return "admin"
        if self.method == "GET":
            return "read"
        if self.path.startswith("/hosts"):
            return "admin"
        if self.path.startswith("/rollouts"):
            return "operate" if self.path.endswith(("/pause", "/resume")) else "configure"
        return "configure" if "/config" in self.path else "operate"

    def send(self, client: TestClient) -> httpx2.Response:
        path = self.path
        for name, value in _VALUES.items():
            path = path.replace(f"{{{name}}}", value)
        path = path.replace("{", "").replace("}", "")
        key = f"{self.method}-{path}-key".replace("/", ".")
        return client.request(
            self.method,
            f"/api/v1{path}",
            params={"confirm": "fake-host"} if self.method == "DELETE" and "/hosts" in path else {},
            json=_BODIES.get(self.path, {}) if self.method in {"POST", "PUT"} else None,
            headers={**_HEADERS, "Idempotency-Key": key},
        )


OPERATIONS = [
    Operation(method.upper(), path.removeprefix("/api/v1"))
    for path, operations in document()["paths"].items()
    for method in operations
    if path not in OPEN
]


@pytest.fixture(scope="module")
def bystanders(api_redis: RedisServer) -> Iterator[Api]:
    yield Api(api_redis, {"account-001": {"groups": ["fx"]}, "account-002": {}})


def events(api: Api) -> list[Any]:
    pool = api.service.worker_pool
    assert isinstance(pool, FakePool)
    return list(pool.events)


def contents(server: RedisServer) -> dict[bytes, Any]:
    """Return everything in Redis, but for when tokens were used and the trail of refusals."""
    ignored = (b"manager:api:tokens", b"manager:audit", b"manager:events")
    with server.client() as client:
        keys = [key for key in client.scan_iter() if not key.startswith(ignored)]
        return {key: client.dump(key) for key in sorted(keys)}


@pytest.mark.parametrize("operation", OPERATIONS, ids=" ".join)
def test_the_document_names_the_scope_of_an_operation(operation: Operation) -> None:
    found = document()["paths"][f"/api/v1{operation.path}"][operation.method.lower()]
    assert found.get("x-scope", "") == operation.scope


@pytest.mark.parametrize("operation", OPERATIONS, ids=" ".join)
def test_exactly_the_scope_of_an_operation_opens_it(
    bystanders: Api, api_redis: RedisServer, operation: Operation
) -> None:
    for scope in SCOPES:
        before = contents(api_redis), events(bystanders)
        with bystanders.client(scope) as client:
            response = operation.send(client)
        if operation.scope in {"", scope} or scope == "admin":
            assert response.status_code not in {401, 403, 500}, response.text
        else:
            assert problem(response, 403, "forbidden")["scope"] == operation.scope
            assert (contents(api_redis), events(bystanders)) == before
    problem(operation.send(bystanders.anonymous()), *_anonymous(operation))


def _anonymous(operation: Operation) -> tuple[int, str]:
    """Return the answer to a request without a credential. A login is one of a browser's page."""
    return (403, "csrf") if operation == ("POST", "/session") else (401, "unauthenticated")


def test_metrics_need_their_scope(bystanders: Api) -> None:
    for scope in SCOPES:
        with bystanders.client(scope) as client:
            response = client.get("/metrics")
        if scope in {"metrics", "admin"}:
            problem(response, 404, "not_found")  # this server has none
        else:
            assert problem(response, 403, "forbidden")["scope"] == "metrics"


@pytest.mark.parametrize(
    "operation",
    [one for one in OPERATIONS if one.method != "GET" and one.scope not in {"", "admin"}],
    ids=" ".join,
)
def test_outside_its_selection_a_token_does_nothing_at_all(
    api_redis: RedisServer, operation: Operation
) -> None:
    api_redis.forget()  # the keys of commands
    api = Api(api_redis, {"account-001": {"groups": ["fx"]}, "account-002": {}})
    if operation.path.startswith("/rollouts/"):
        rollout = Rollout(id=_VALUES["rollout_id"], aim="both")
        RolloutStore(api_redis.url).create(rollout, {"account-002": Member()})
    before = contents(api_redis)
    with api.client("operate", "configure", "kill", selection=Selection(("fx",))) as client:
        problem(operation.send(client), 403, "outside_selection")
    assert (contents(api_redis), events(api)) == (before, [])


@pytest.mark.parametrize(
    "operation",
    [one for one in OPERATIONS if one.method == "GET" and "{account_id}" in one.path],
    ids=" ".join,
)
def test_a_token_that_reads_its_selection_finds_no_other_account(
    bystanders: Api, operation: Operation
) -> None:
    with bystanders.client("read", selection=Selection(("fx",)), read_selection=True) as client:
        problem(operation.send(client), 404, "account_not_found")
