"""Schedules and overrides over HTTP."""

from pathlib import Path

import pytest
from support.api import Api, problem
from support.servers import RedisServer

from manager.client.schedules import FleetSchedules
from manager.config import ConfigurationService
from manager.fleet.audit import AuditTrail
from manager.fleet.desired import DesiredStateRequest
from manager.fleet.desired_store import DesiredStore
from manager.fleet.overrides import OverrideStore

ACCOUNT = "gateway: paper\nlogin: 1\nserver: S\npassword: env:PATH\ncurrencies: [{symbol: EURUSD}]\n"
A = "account-001"


@pytest.fixture
def api(redis_server: RedisServer, tmp_path: Path) -> Api:
    (tmp_path / "accounts").mkdir()
    (tmp_path / "accounts" / f"{A}.yaml").write_text(
        f"{ACCOUNT}schedule: {{clock: Europe/London, run: [{{from: 08:00, to: 16:30}}]}}\n"
    )
    (tmp_path / "accounts" / "account-002.yaml").write_text(ACCOUNT)
    url = redis_server.url
    desired = DesiredStore(url)
    change = DesiredStateRequest(account_id=A, state="running", token="t", by="ops", why="start")
    desired.set_desired(change)
    schedules = FleetSchedules(ConfigurationService(tmp_path), OverrideStore(url), desired, AuditTrail(url))
    return Api(redis_server, {A: {}, "account-002": {}}, schedules=schedules)


def test_windows_have_utc_and_the_clock_of_the_market(api: Api) -> None:
    with api.client("read") as client:
        span = {"from": "2026-03-28T00:00:00Z", "to": "2026-03-30T00:00:00Z"}
        found = client.get(f"/api/v1/accounts/{A}/schedule", params=span).json()
    assert [(one["opens"], one["opens_wall"]) for one in found["windows"]] == [
        ("2026-03-28T08:00:00.000Z", "2026-03-28T08:00:00"),
        ("2026-03-29T07:00:00.000Z", "2026-03-29T08:00:00"),
    ]
    assert found["windows"][1]["marks"] == ["clock goes forward 1h on Sun 29 Mar 2026 01:00 UTC"]
    assert (found["schedule"], found["override"]) == ("its own", None)
    assert found["action"] in {"run", "rest"}


def test_an_account_without_a_schedule_has_no_windows(api: Api) -> None:
    with api.client("read") as client:
        found = client.get("/api/v1/accounts/account-002/schedule").json()
    assert (found["schedule"], found["windows"], found["action"]) == (None, [], "stop")


@pytest.mark.parametrize(
    "span",
    [
        {"from": "2026-03-28T00:00:00"},
        {"from": "soon"},
        {"to": "0.5"},
        {"since": "2026-03-28T00:00:00Z"},
    ],
)
def test_a_wrong_span_is_refused(api: Api, span: dict[str, str]) -> None:
    with api.client("read") as client:
        problem(client.get(f"/api/v1/accounts/{A}/schedule", params=span), 422, "invalid_request")


@pytest.mark.parametrize(
    ("span", "count"),
    [
        ({"from": "2026-03-28T00:00:00Z", "to": "2026-03-27T00:00:00Z"}, 0),
        ({"from": "2026-03-28T00:00:00Z", "to": "2029-03-27T00:00:00Z"}, 400),
        ({"from": "9999-12-31T23:59:59Z"}, 14),
        ({"to": "0001-01-01T00:00:00Z"}, 0),
        ({"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T23:59:59Z"}, 400),
    ],
)
def test_a_span_without_windows_is_empty_and_a_long_one_is_cut(
    api: Api, span: dict[str, str], count: int
) -> None:
    with api.client("read") as client:
        found = client.get(f"/api/v1/accounts/{A}/schedule", params=span)
    assert found.status_code == 200, found.text
    assert abs(len(found.json()["windows"]) - count) <= 1


def test_an_override_is_put_shown_audited_and_deleted(api: Api) -> None:
    with api.client("operate", "read") as client:
        put = client.put(
            f"/api/v1/accounts/{A}/override", json={"do": "rest", "until": "2h", "reason": "news"}
        )
        assert put.status_code == 200
        assert (put.json()["do"], put.json()["reason"]) == ("rest", "news")
        shown = client.get(f"/api/v1/accounts/{A}/schedule").json()
        assert (shown["action"], shown["override"]) == ("rest", put.json())
        assert client.delete(f"/api/v1/accounts/{A}/override").status_code == 204
        assert client.get(f"/api/v1/accounts/{A}/schedule").json()["override"] is None
        problem(client.delete(f"/api/v1/accounts/{A}/override"), 404, "no_override")
    entries = api.parts.audit.last(3)
    assert [(one.what, one.account_id, one.outcome) for one in entries] == [
        ("schedule override", A, "ok"),
        ("schedule override", A, "ok"),
        ("schedule override", A, "no_override"),
    ]
    assert all("@" in one.by for one in entries), "the token's name, not the server's user"


def test_a_wrong_end_says_what_is_allowed(api: Api) -> None:
    with api.client("operate") as client:
        answer = client.put(f"/api/v1/accounts/{A}/override", json={"do": "rest", "until": "soon"})
        assert "90m" in problem(answer, 422, "invalid_payload")["detail"]
        problem(client.put(f"/api/v1/accounts/{A}/override", json={"do": "fly"}), 422, "invalid_request")
        problem(client.put("/api/v1/accounts/none/override", json={"do": "rest"}), 404, "account_not_found")
