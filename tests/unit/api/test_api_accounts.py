"""Routes of a single account: placement, configuration, events."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.api import Api, problem
from support.servers import RedisServer

from manager.api.app import create_app
from manager.api.gate import MAX_BODY
from manager.fleet import FleetStore
from manager.fleet.audit import AuditTrail
from manager.fleet.config_versions import CURRENT_KEY, VERSIONS_KEY
from manager.models import WorkerInfo
from manager.placement.labels import Selection
from manager.states import WorkerLifecycleStatus
from manager.testing import fake_service

FILES = {
    "defaults.yaml": "gateway: paper\nserver: Paper-1\ndefault_risk:\n  risk_percent: 0.5\n",
    "accounts/good.yaml": (
        "login: 5001\npassword: 'env:GOOD_PASSWORD'\ngroups: [fx]\ncurrencies: [{symbol: EURUSD}]\n"
    ),
    "accounts/bad.yaml": "login: 5002\npassword: 'env:BAD_PASSWORD'\nno_such_key: 1\n",
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "accounts").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def on_files(api_redis: RedisServer, files: Path) -> Api:
    return Api(api_redis, service=fake_service(files))


def get(api: Api, path: str, **options: Any) -> Any:
    response = api.client("read", **options).get(f"/api/v1{path}")
    assert response.status_code == 200, response.text
    return response.json()


def test_an_account_with_an_invalid_file_would_run_on_no_host(on_files: Api) -> None:
    report = get(on_files, "/accounts/bad/placement")
    assert (report["host"], report["hosts"]) == (None, {})
    assert "no_such_key: unknown key" in report["reason"]
    problem(on_files.client("read").get("/api/v1/accounts/none/placement"), 404, "account_not_found")


def test_the_configuration_has_defaults_places_and_no_secrets(api_redis: RedisServer, files: Path) -> None:
    with (files / "accounts/good.yaml").open("a") as file:
        file.write("options:\n  api_key: planted-literal-key\n")
    api = Api(api_redis, service=fake_service(files))
    report = get(api, "/accounts/good/config")
    assert (report["problems"], report["origins"]) == ([], None)
    assert report["values"]["server"] == "Paper-1"
    with_origins = get(api, "/accounts/good/config?origin=1")
    origins = {one["key"]: one["origin"] for one in with_origins["origins"]}
    assert origins["server"].endswith("defaults.yaml:2")
    assert origins["login"].endswith("good.yaml:1")
    assert with_origins["version"] == report["version"]
    for text in (str(report), str(with_origins)):
        assert "GOOD_PASSWORD" not in text
        assert "planted-literal-key" not in text


def test_the_configuration_of_an_invalid_file_says_what_is_wrong(on_files: Api) -> None:
    report = get(on_files, "/accounts/bad/config?origin=1")
    assert (report["version"], report["values"], report["origins"]) == (None, None, [])
    assert "no_such_key: unknown key" in report["problems"][0]


def test_an_account_outside_the_selection_is_not_found(on_files: Api) -> None:
    only = {"selection": Selection(("fx",)), "read_selection": True}
    for path in ("config", "config/diff", "events"):
        response = on_files.client("read", **only).get(f"/api/v1/accounts/bad/{path}")
        problem(response, 404, "account_not_found")


def test_the_difference_tells_a_changed_file(on_files: Api, files: Path) -> None:
    assert get(on_files, "/accounts/good/config/diff")["state"] == "not_running"
    assert get(on_files, "/accounts/bad/config/diff")["state"] == "invalid"
    on_files.service.start_worker_from_config("good")
    report = get(on_files, "/accounts/good/config/diff")
    assert (report["state"], report["running"]) == ("current", report["file"])
    (files / "accounts/good.yaml").write_text(FILES["accounts/good.yaml"] + "server: Paper-2\n")
    report = get(on_files, "/accounts/good/config/diff")
    assert (report["state"], report["running"] != report["file"]) == ("pending", True)


# pushing

GOOD = {path: text for path, text in FILES.items() if "bad" not in path}
PUSH = "/api/v1/config/push"
FIRST = {"If-None-Match": "*"}


@pytest.fixture
def no_versions(api_redis: RedisServer) -> None:
    with api_redis.client() as client:
        client.delete(VERSIONS_KEY, CURRENT_KEY)


@pytest.mark.usefixtures("no_versions")
def test_a_push_replaces_the_version_that_was_looked_at(on_files: Api, api_redis: RedisServer) -> None:
    client = on_files.client("configure")
    body = {"files": GOOD, "message": "first"}
    problem(client.post(PUSH, json=body), 428, "precondition_required")
    problem(client.post(PUSH, json=body, headers={"If-Match": '"1"'}), 409, "config_changed")
    done = client.post(PUSH, json=body, headers=FIRST)
    assert (done.status_code, done.headers["etag"], done.json()["files"]) == (200, '"1"', 2), done.text
    problem(client.post(PUSH, json=body, headers=FIRST), 409, "config_changed")
    assert client.post(PUSH, json=body, headers={"If-Match": done.headers["etag"]}).json()["version"] == 2
    assert on_files.parts.versions.read(1).files == GOOD
    notes = [one.text for one in AuditTrail(api_redis.url).last(100) if one.what == "config push"]
    assert "version 1: first" in notes


@pytest.mark.usefixtures("no_versions")
@pytest.mark.parametrize(
    ("pushed", "words"),
    [
        (FILES, "no_such_key: unknown key"),
        ({"accounts/con.yaml": "login: 1\n"}, "accounts/<account id>.yaml"),
        ({**GOOD, "accounts/good.yaml": "login: 5001\npassword: planted-literal\n"}, "contains its password"),
    ],
)
def test_what_a_push_refuses(on_files: Api, pushed: dict[str, str], words: str) -> None:
    response = on_files.client("configure").post(PUSH, json={"files": pushed}, headers=FIRST)
    assert words in problem(response, 422, "invalid_config")["detail"]
    assert "planted-literal" not in response.text
    assert on_files.parts.versions.current() is None


LITERAL = {
    **GOOD,
    "accounts/key.yaml": "login: 5009\npassword: 'env:KEY'\ncurrencies: [{symbol: EURUSD}]\n"
    "options: {api_key: planted-key}\n",
}


@pytest.mark.usefixtures("no_versions")
@pytest.mark.parametrize(
    ("pushed", "option"), [(FILES, {"allow_invalid": True}), (LITERAL, {"allow_literals": "a test key"})]
)
def test_an_option_pushes_what_is_refused_without_it(
    on_files: Api, pushed: dict[str, str], option: dict[str, Any]
) -> None:
    client = on_files.client("configure")
    for others in ({}, {"allow_invalid": False}, {"allow_literals": None}):
        response = client.post(PUSH, json={"files": pushed, **others}, headers=FIRST)
        assert "planted-key" not in problem(response, 422, "invalid_config")["detail"]
    done = client.post(PUSH, json={"files": pushed, **option}, headers=FIRST)
    assert done.status_code == 200, done.text
    assert on_files.parts.versions.read(1).files == pushed
    trail = [(one.what, one.text) for one in on_files.parts.audit.last(100) if one.by.startswith("tester")]
    kept = [text for what, text in trail if what == "config push literals"]
    assert len(kept) == ("allow_literals" in option)
    assert all("a test key: accounts/key.yaml" in text and "planted-key" not in text for text in kept)


@pytest.mark.usefixtures("no_versions")
@pytest.mark.parametrize("reason", ["", "  ", True, 1, ["x"]])
def test_literals_need_a_reason(on_files: Api, reason: Any) -> None:
    body = {"files": LITERAL, "allow_literals": reason}
    response = on_files.client("configure").post(PUSH, json=body, headers=FIRST)
    problem(response, 422, "invalid_request")


@pytest.mark.usefixtures("no_versions")
def test_schedules_are_pushed_with_the_accounts(on_files: Api) -> None:
    client = on_files.client("configure")
    wrong = {**GOOD, "schedules.yaml": "schedules: {x: {no_such_key: 1}}\n"}
    response = client.post(PUSH, json={"files": wrong}, headers=FIRST)
    assert "schedules.yaml" in problem(response, 422, "invalid_config")["detail"]
    done = client.post(PUSH, json={"files": {**GOOD, "schedules.yaml": "{}\n"}}, headers=FIRST)
    assert (done.status_code, done.json()["files"]) == (200, 3), done.text


@pytest.mark.usefixtures("no_versions")
@pytest.mark.parametrize("path", ["../evil.yaml", "accounts/../../evil.yaml", "accounts/a/b.yaml", "/etc/x"])
def test_a_push_writes_no_other_files(on_files: Api, path: str) -> None:
    response = on_files.client("configure").post(PUSH, json={"files": {path: "x"}}, headers=FIRST)
    problem(response, 422, "invalid_request")


@pytest.mark.usefixtures("no_versions")
def test_who_may_push_and_how_much(on_files: Api) -> None:
    body = {"files": GOOD}
    operator = on_files.client("operate", "read")
    assert problem(operator.post(PUSH, json=body, headers=FIRST), 403, "forbidden")["scope"] == "configure"
    desk = on_files.client("configure", selection=Selection(("fx",)))
    problem(desk.post(PUSH, json=body, headers=FIRST), 403, "outside_selection")
    large = {"files": {**GOOD, "accounts/large.yaml": "#" * MAX_BODY}}
    response = on_files.client("configure").post(PUSH, json=large, headers=FIRST)
    assert "manager config push" in problem(response, 413, "too_large")["detail"]
    assert on_files.parts.versions.current() is None


# events


def test_events_of_one_account_only(api: Api, api_redis: RedisServer) -> None:
    store = FleetStore(api_redis.url)
    for account_id in ("account-001", "account-002"):
        for status in (WorkerLifecycleStatus.STARTING, WorkerLifecycleStatus.RUNNING):
            info = WorkerInfo(worker_id=f"w-{account_id}", account_id=account_id, status=status)
            store.record("h1", [info], {})
    api.app = create_app(replace(api.parts, events=store.stream))
    first = get(api, "/accounts/account-001/events?limit=1")
    assert [one["account_id"] for one in first["items"]] == ["account-001"]
    rest = get(api, f"/accounts/account-001/events?after={first['next']}&type=worker.*")
    assert {one["account_id"] for one in rest["items"]} == {"account-001"}
    client = api.client("read")
    problem(client.get("/api/v1/accounts/none/events"), 404, "account_not_found")
    problem(client.get("/api/v1/accounts/account-001/events?after=x"), 422, "invalid_cursor")
