"""Reading the fleet: stable pages, filters, entity tags and scopes."""

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from threading import Semaphore
from typing import Any

import pytest
from support.api import Api, problem
from support.servers import RedisServer
from support.waiting import eventually

from manager.api.limits import RateLimiter
from manager.doctor import Check
from manager.fleet.desired import DesiredState
from manager.fleet.run_types import Run
from manager.models import WorkerInfo
from manager.placement.labels import Selection
from manager.pool.testing import FakePool
from manager.states import TradingMode, WorkerLifecycleStatus
from manager.telemetry.fleet_reader import AccountFile, AccountRow, FleetListing

READS = (
    *("/fleet", "/accounts", "/workers", "/hosts", "/audit", "/audit/export", "/batches"),
    *("/config/versions", "/doctor", "/accounts/account-001", "/accounts/account-001/runs"),
)


def account(account_id: str, **changes: Any) -> AccountRow:
    worker = WorkerInfo(
        worker_id=f"w-{account_id}",
        account_id=account_id,
        status=WorkerLifecycleStatus.RUNNING,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        metadata={"host": "london-1", "health": "healthy", "currency": "USD", **changes},
    )
    return AccountRow(account_id, worker, None, AccountFile(enabled=True, groups=("fx",)))


def state(accounts: dict[str, AccountRow]) -> FleetListing:
    return FleetListing(
        as_of=datetime(2026, 1, 1, tzinfo=UTC),
        cursor="5-0",
        version="7",
        accounts={key: accounts[key] for key in sorted(accounts)},
        hosts={},
    )


def pages(client: Any, path: str) -> list[dict[str, Any]]:
    """Return all pages of a list."""
    found = [client.get(path).json()]
    while found[-1]["next"] is not None:
        joint = "&" if "?" in path else "?"
        found.append(client.get(f"{path}{joint}after={found[-1]['next']}").json())
    return found


@pytest.mark.parametrize(
    "sort", ["account_id", "-account_id", "attention", "state", "-equity", "equity", "-started_at"]
)
def test_every_account_is_on_exactly_one_page(api: Api, sort: str) -> None:
    accounts = {f"a-{n:03}": account(f"a-{n:03}", equity=str(n % 7)) for n in range(95)}
    api.reader.fixed = state(accounts)
    found = pages(api.client("read"), f"/api/v1/accounts?limit=10&sort={sort}")
    ids = [one["account_id"] for page in found for one in page["items"]]
    assert sorted(ids) == sorted(accounts)
    assert [len(page["items"]) for page in found] == [10] * 9 + [5]
    assert {page["total"] for page in found} == {95}
    if sort == "-account_id":
        assert ids == sorted(accounts, reverse=True)
    if sort == "-equity":
        equities = [
            int(one["figures"]["equity"]) if one["figures"] else 0 for p in found for one in p["items"]
        ]
        assert equities == sorted(equities, reverse=True)


def test_accounts_that_stay_are_seen_exactly_once_while_others_come_and_go(api: Api) -> None:
    chance = random.Random(1)
    accounts = {f"a-{n:04}": account(f"a-{n:04}") for n in range(5000)}
    staying = set(chance.sample(sorted(accounts), 4400))
    client = api.client("read")
    ids: list[str] = []
    after = ""
    for turn in range(1000):
        api.reader.fixed = state(accounts)
        page = client.get(f"/api/v1/accounts?limit=100{after}").json()
        ids += [one["account_id"] for one in page["items"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
        for gone in chance.sample(sorted(set(accounts) - staying), 3):
            del accounts[gone]
        for number in range(10):
            name = f"a-{chance.randrange(5000):04}-{turn}-{number}"
            accounts[name] = account(name)
    assert sorted(one for one in ids if one in staying) == sorted(staying)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    "after", ["x", "W10", "bnVsbA", "WyJhIiwxLCJiIl0", "%00", "WyJhY2NvdW50X2lkIiwxLCJiIl0", "é"]
)
def test_a_malformed_cursor_is_refused(api: Api, after: str) -> None:
    api.reader.fixed = state({"a": account("a"), "b": account("b")})
    problem(api.client("read").get(f"/api/v1/accounts?after={after}"), 404, "not_found")


def test_a_cursor_belongs_to_its_sort_order(api: Api) -> None:
    api.reader.fixed = state({"a": account("a"), "b": account("b")})
    client = api.client("read")
    following = client.get("/api/v1/accounts?limit=1").json()["next"]
    problem(client.get(f"/api/v1/accounts?limit=1&sort=-equity&after={following}"), 404, "not_found")


def test_the_link_header_leads_to_the_next_page(api: Api) -> None:
    api.reader.fixed = state({"a": account("a"), "b": account("b")})
    client = api.client("read")
    first = client.get("/api/v1/accounts?limit=1&group=fx")
    link = first.headers["link"]
    assert link.endswith('rel="next"')
    second = client.get(link.partition("<")[2].partition(">")[0])
    assert [one["account_id"] for one in second.json()["items"]] == ["b"]
    assert "link" not in second.headers


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("state=failed", ["b"]),
        ("state=none", ["c"]),
        ("health=degraded", ["a"]),
        ("want=running", ["b"]),
        ("host=london-2", ["b"]),
        ("group=fx", ["a"]),
        ("group=fx&group=metals", ["a", "b"]),
        ("label=desk", ["b"]),
        ("label=desk=london", ["b"]),
        ("label=desk=paris", []),
        ("q=B", ["b"]),
        ("attention=critical", ["b"]),
        ("attention=warning", ["a"]),
        ("sort=attention", ["b", "a", "c"]),
    ],
)
def test_filters(api: Api, query: str, ids: list[str]) -> None:
    a = account("a", health="degraded")
    b = account("b", host="london-2")
    assert b.worker is not None
    b = AccountRow(
        "b",
        b.worker.with_(status=WorkerLifecycleStatus.FAILED),
        DesiredState(account_id="b", state="running", generation=5, by="ana@desk", why="start", at=1000),
        AccountFile(enabled=True, groups=("metals",), labels={"desk": "london"}),
    )
    api.reader.fixed = state({"a": a, "b": b, "c": AccountRow("c")})
    found = api.client("read").get(f"/api/v1/accounts?{query}").json()
    assert [one["account_id"] for one in found["items"]] == ids


def test_a_worker_equals_the_output_of_ps(api: Api) -> None:
    info = api.service.start_worker_from_config("account-001")
    client = api.client("read")
    assert client.get("/api/v1/workers/account-001").json() == info.to_dict()
    listed = client.get("/api/v1/workers").json()
    assert listed["items"] == [info.to_dict()]
    problem(client.get("/api/v1/workers/account-002"), 404, "not_found")
    problem(client.get("/api/v1/accounts/..%2F..%2Fetc"), 404, "not_found")
    problem(client.get("/api/v1/accounts/nobody"), 404, "account_not_found")


def test_an_entity_tag_saves_the_body_until_something_changes(api: Api) -> None:
    api.reader.fixed = state({"a": account("a")})
    client = api.client("read")
    for path in ("/fleet", "/accounts", "/workers", "/hosts", "/accounts/a", "/workers/a"):
        first = client.get(f"/api/v1{path}")
        tag = first.headers["etag"]
        assert tag == 'W/"7"'
        again = client.get(f"/api/v1{path}", headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
    api.reader.fixed = replace(api.reader.fixed, version="8")
    assert client.get("/api/v1/fleet", headers={"If-None-Match": tag}).status_code == 200


def test_an_answer_has_its_time_and_large_ones_are_compressed(api: Api) -> None:
    api.reader.fixed = state({f"a-{n}": account(f"a-{n}") for n in range(100)})
    response = api.client("read").get("/api/v1/accounts", headers={"Accept-Encoding": "gzip"})
    assert response.headers["content-encoding"] == "gzip"
    assert response.json()["as_of"] == "2026-01-01T00:00:00.000Z"
    assert response.json()["cursor"] == "5-0"


def test_a_page_that_is_kept_is_for_those_who_ask_for_the_same_and_may(api: Api) -> None:
    api.reader.fixed = state({"a": account("a"), "b": AccountRow("b")})
    reader = api.client("read")
    limited = api.client("read", selection=Selection(("fx",)), read_selection=True)

    def ids(client: Any, path: str) -> list[str]:
        return [one["account_id"] for one in client.get(f"/api/v1{path}").json()["items"]]

    for _ in range(2):
        assert ids(reader, "/accounts") == ["a", "b"]
        assert ids(limited, "/accounts") == ["a"]
        assert ids(reader, "/workers") == ["a"]
        assert ids(reader, "/accounts?sort=-account_id") == ["b", "a"]
        assert ids(reader, "/accounts?limit=1") == ["a"]
    assert len(api.reader.fixed.pages) == 5
    for number in range(30):
        reader.get(f"/api/v1/accounts?q={number}")
    assert len(api.reader.fixed.pages) == 16


def test_the_summary_counts_and_sums_by_currency(api: Api) -> None:
    accounts = {
        "a": account("a", balance="10.10", equity="10.00", open_positions=1),
        "b": account("b", balance="0.20", equity="junk", open_positions=True),
        "c": account("c", currency="EUR", balance="NaN"),
        "d": AccountRow("d"),
    }
    api.reader.fixed = state(accounts)
    found = api.client("read").get("/api/v1/fleet").json()
    assert found["accounts"] == 4
    assert found["status"] == {"running": 3, "none": 1}
    usd = found["currencies"]["USD"]
    assert (usd["balance"], usd["equity"], usd["accounts"]) == ("10.30", "10.00", 2)
    assert found["currencies"]["EUR"]["balance"] == "0"


def test_reading_needs_the_scope_read(api: Api) -> None:
    for scope in ("metrics", "operate", "configure", "kill"):
        client = api.client(scope)
        for path in READS:
            found = problem(client.get(f"/api/v1{path}"), 403, "forbidden")
            assert found["scope"] == "read"
    for scope in ("read", "admin"):
        client = api.client(scope)
        for path in READS:
            assert client.get(f"/api/v1{path}").status_code == 200, path


def test_a_token_may_be_limited_to_reading_its_selection(api: Api) -> None:
    client = api.client("read", selection=Selection(("fx",)), read_selection=True)
    assert [one["account_id"] for one in client.get("/api/v1/accounts").json()["items"]] == ["account-001"]
    assert client.get("/api/v1/fleet").json()["accounts"] == 1
    problem(client.get("/api/v1/accounts/account-002"), 404, "account_not_found")
    whole = api.client("read", selection=Selection(("fx",)))
    assert whole.get("/api/v1/fleet").json()["accounts"] == 3


def test_tokens_are_for_admins_and_their_secrets_are_shown_once(api: Api) -> None:
    problem(api.client("operate", "read").get("/api/v1/tokens"), 403, "forbidden")
    client = api.client("admin")
    body = {"name": "grafana", "scopes": ["read"], "groups": ["fx"]}
    made = client.post("/api/v1/tokens", json=body)
    assert made.status_code == 201
    text = made.json()["token"]
    assert api.anonymous({"Authorization": f"Bearer {text}"}).get("/api/v1/session").json()["groups"] == [
        "fx"
    ]
    listed = client.get("/api/v1/tokens")
    assert text not in listed.text
    assert made.json()["id"] in listed.text
    problem(client.post("/api/v1/tokens", json={**body, "logs": 1}), 422, "invalid_request")
    problem(client.post("/api/v1/tokens", json={**body, "expires_seconds": False}), 422, "invalid_request")


def test_the_trail_is_paged_from_its_end_and_exported_from_its_beginning(api_redis: RedisServer) -> None:
    api = Api(api_redis)
    with api_redis.client() as client:
        client.delete("manager:audit")
    for number in range(25):
        api.parts.audit.note("stop", by="=ana@desk", account_id=f"account-{number % 5:03}", text=str(number))
    client = api.client("read")
    found = pages(client, "/api/v1/audit?limit=10&what=stop")
    assert [one["text"] for page in found for one in page["items"]] == [str(n) for n in reversed(range(25))]
    one = client.get("/api/v1/audit?account=account-003").json()["items"]
    assert {entry["account_id"] for entry in one} == {"account-003"}
    assert one[0]["time"].endswith("Z")
    lines = client.get("/api/v1/audit/export?what=stop").text.splitlines()
    assert [json.loads(line)["text"] for line in lines] == [str(n) for n in range(25)]
    rows = client.get("/api/v1/audit/export?form=csv&what=stop").text.splitlines()
    assert len(rows) == 26
    assert "'=ana@desk" in rows[1]


def test_an_accounts_runs_are_paged_newest_first(api: Api) -> None:
    """Each worker of the account is one run, whatever ended it."""
    started = []
    for number in range(7):
        started.append(api.service.start_worker_from_config("account-001").worker_id)
        if number == 3:
            pool = api.service.worker_pool
            assert isinstance(pool, FakePool)
            pool.end_worker("account-001", "crashed")
        api.service.stop_worker("account-001")
    found = pages(api.client("read"), "/api/v1/accounts/account-001/runs?limit=3")
    assert [len(page["items"]) for page in found] == [3, 3, 1]
    assert {page["total"] for page in found} == {7}
    runs = [one for page in found for one in page["items"]]
    assert sorted(one["worker_id"] for one in runs) == sorted(started)
    assert [(one["status"], one["reason"]) for one in runs if one["worker_id"] == started[3]] == [
        ("failed", "crashed")
    ]
    assert {one["account_id"] for one in runs} == {"account-001"}
    moments = [one["ended_at"] for one in runs]
    assert moments == sorted(moments, reverse=True)
    assert set(runs[0]) == set(Run.model_fields)
    problem(api.client("read").get("/api/v1/accounts/nobody/runs"), 404, "account_not_found")
    wrong = "/api/v1/accounts/account-001/runs?after=x"
    problem(api.client("read").get(wrong), 404, "not_found")


def test_versions_of_the_configuration(api_redis: RedisServer) -> None:
    api = Api(api_redis)
    store = api.parts.versions
    current = store.current()
    before = current[0] if current else 0
    one = store.push({"accounts/a.yaml": "x: 1\n"}, replaces=before, by="ana@desk", message="first")
    two = store.push({"accounts/a.yaml": "x: 2\n"}, replaces=one, by="ana@desk", message="second")
    client = api.client("read")
    listed = client.get("/api/v1/config/versions").json()
    assert listed["current"] == two
    assert [entry["version"] for entry in listed["items"]][:2] == [two, one]
    assert client.get(f"/api/v1/config/versions/{one}").json()["files"] == {"accounts/a.yaml": "x: 1\n"}
    lines = client.get(f"/api/v1/config/diff?from={one}&to={two}").json()["lines"]
    assert any(line.startswith("+x: 2") for line in lines)
    problem(client.get("/api/v1/config/versions/999999"), 404, "no_config_version")


def test_requests_for_the_checks_share_one_run(api_redis: RedisServer) -> None:
    begun, end = Semaphore(0), threading.Event()

    def doctor() -> list[Check]:
        begun.release()
        assert end.wait(30)
        return []

    class Counting(RateLimiter):
        taken = 0

        def take(self, kind: str, who: str, count: float = 1.0) -> None:
            self.taken += kind == "read"

    limiter = Counting()
    api = Api(api_redis, doctor=doctor, limiter=limiter)
    with api.client("read") as client, ThreadPoolExecutor(20) as threads:
        first = threads.submit(client.get, "/api/v1/doctor")
        assert begun.acquire(timeout=30)
        others = [threads.submit(client.get, "/api/v1/doctor") for _ in range(19)]
        eventually(lambda: limiter.taken == 20, what="every request is admitted")
        assert client.get("/api/v1/session").status_code == 200
        end.set()
        assert {one.result().status_code for one in [first, *others]} == {200}
        again = client.get("/api/v1/doctor")
    assert again.json() == {"ok": True, "checks": []}
    assert begun.acquire(timeout=30), "a later request is another run"
    assert not begun.acquire(blocking=False)


def test_readiness_needs_no_token(api_redis: RedisServer) -> None:
    from manager.errors import FleetUnavailableError

    def away() -> None:
        raise FleetUnavailableError("Redis is away")

    assert Api(api_redis).anonymous().get("/api/v1/readyz").json() == {"status": "ok"}
    api = Api(api_redis, ready=away)
    problem(api.anonymous().get("/readyz"), 503, "fleet_unavailable")
    assert api.anonymous().get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("desired", "running", "shown"),
    [("normal", "normal", "normal"), ("normal", "waiting", "waiting"), ("paused", "normal", "paused")],
)
def test_the_stricter_mode_of_desired_state_and_worker_is_shown(
    desired: str, running: str, shown: str
) -> None:
    worker = WorkerInfo(
        worker_id="w",
        account_id="a",
        status=WorkerLifecycleStatus.RUNNING,
        metadata={"trading_mode": running},
    )
    state = DesiredState(account_id="a", state="running", generation=1, mode=TradingMode(desired))
    assert AccountRow("a", worker, state).mode == shown


def test_a_resting_account_says_so_until_it_has_a_worker() -> None:
    resting: dict[str, Any] = {"for": "schedule", "until": None, "text": "rests", "unmet": []}
    for status, found in ((WorkerLifecycleStatus.STOPPED, resting), (WorkerLifecycleStatus.RUNNING, None)):
        info = WorkerInfo(worker_id="w", account_id="a", status=status, metadata={"resting": resting})
        assert AccountRow("a", info).resting == found
