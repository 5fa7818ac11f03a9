"""Secrets that a client or an account file plants are in no answer, in no log and not in Redis."""

import base64
import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from support.api import Api
from support.servers import RedisServer

from manager.api.openapi import document
from manager.testing import fake_service

#: Begins every secret of these tests.
PLANTED: Final = "planted-"
PARTS: Final = (PLANTED, base64.b64encode(PLANTED.encode()).decode().rstrip("="))
#: A token of the right form that no one has.
TOKEN: Final = f"wm_aaaaaaaa_{PLANTED}{'x' * 35}"

FILES: Final = {
    "defaults.yaml": "gateway: paper\nserver: Paper-1\n",
    "accounts/literal.yaml": f"login: 1\npassword: {PLANTED}password\noptions:\n  api_key: {PLANTED}key\n",
    "accounts/program.yaml": (
        "gateway: command\nlogin: 2\n"
        f"command: [bot, --url, 'https://user:{PLANTED}url@venue.example/?token={PLANTED}query']\n"
        f"environment:\n  API_TOKEN: {PLANTED}environment\n  HOOK: 'redis://:{PLANTED}redis@h/0'\n"
    ),
    "accounts/broken.yaml": f"login: 3\npassword: {PLANTED}broken\nno_such_key: {PLANTED}value\n",
    "accounts/no-yaml.yaml": f"login: 4\npassword: '{PLANTED}unclosed\n",
}


@pytest.fixture
def api(api_redis: RedisServer, tmp_path: Path) -> Api:
    (tmp_path / "accounts").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return Api(api_redis, service=fake_service(tmp_path))


def everything(server: RedisServer) -> str:
    """Return all keys and values in Redis as text."""
    with server.client() as client:
        found = [b" ".join(client.scan_iter())]
        for key in client.scan_iter():
            kind = client.type(key)
            if kind == b"string":
                found.append(client.get(key))
            elif kind == b"hash":
                found += [part for pair in client.hgetall(key).items() for part in pair]
            elif kind == b"stream":
                found += [part for _, one in client.xrange(key) for pair in one.items() for part in pair]
            elif kind == b"list":
                found += client.lrange(key, 0, -1)
            elif kind == b"zset":
                found += client.zrange(key, 0, -1)
            else:
                found += client.smembers(key)
    return b"\n".join(found).decode(errors="replace")


def clean(text: str) -> None:
    for part in PARTS:
        assert part not in text


def check(response: httpx2.Response, status: int | None = None) -> None:
    """Check the whole answer, and its status."""
    clean(f"{response.headers} {response.text}")
    assert response.status_code == status if status else response.status_code != 500, response.text


@pytest.fixture
def watched(
    api_redis: RedisServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Any:
    """Search logs, output and Redis after the test."""
    caplog.set_level(logging.DEBUG)
    yield
    clean(caplog.text)
    clean("".join(capfd.readouterr()))
    clean(everything(api_redis))


@pytest.mark.usefixtures("watched")
def test_secrets_of_account_files_are_in_no_answer(api: Api) -> None:
    paths = [path for path, operations in document()["paths"].items() if "get" in operations]
    with api.client() as client:
        for account_id in ("literal", "program", "broken", "no-yaml"):
            for path in paths:
                check(client.get(path.replace("{account_id}", account_id)))
            check(client.get(f"/api/v1/accounts/{account_id}/config?origin=1"), 200)
            for command in ("start", "restart", "validate", "stop"):
                place = f"/api/v1/accounts/{account_id}/{command}"
                check(client.post(place, headers={"Prefer": "wait=10"}))
        for do in ("validate", "start"):
            body = {"do": do, "select": {"all": True}, "expect": 4}
            headers = {"Idempotency-Key": f"batch-of-{do}", "Prefer": "wait=10"}
            response = client.post("/api/v1/batches", json=body, headers=headers)
            check(response, 200)
            check(client.get(response.headers["location"]), 200)
        check(client.get("/api/v1/audit/export"), 200)


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize(
    "allowed",
    [{}, {"allow_invalid": True}, {"message": "again", "allow_invalid": True}],
    ids=["whole", "invalid", "message"],
)
@pytest.mark.parametrize("name", [name for name in FILES if name != "defaults.yaml"])
def test_a_refused_push_repeats_no_secret(api: Api, name: str, allowed: Mapping[str, Any]) -> None:
    body = {"files": {name: FILES[name]}, **allowed}
    with api.client("configure") as client:
        check(client.post("/api/v1/config/push", json=body, headers={"If-None-Match": "*"}), 422)


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"Bearer {PLANTED}bearer"},
        {"Authorization": "Basic " + base64.b64encode(f"{PLANTED}user:{PLANTED}word".encode()).decode()},
        {"Authorization": f"{PLANTED}scheme"},
        {"Cookie": f"wm_session={PLANTED}cookie"},
        {"Host": f"{PLANTED}host"},
        {"Accept": f"{PLANTED}accept"},
        {"Origin": f"https://{PLANTED}origin", "Cookie": f"wm_session={PLANTED}cookie"},
    ],
)
def test_headers_are_not_repeated(api: Api, headers: dict[str, str]) -> None:
    with api.anonymous(headers) as client:
        for path in ("/api/v1/fleet", "/metrics"):
            check(client.get(path))
        check(client.post("/api/v1/accounts/literal/start"))


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize(
    "path",
    [
        f"/fleet?token={PLANTED}query",
        f"/fleet?access_token={PLANTED}query",
        f"/fleet?x={TOKEN}",
        f"/accounts?limit={PLANTED}limit",
        f"/accounts?after={PLANTED}after",
        f"/accounts?sort={PLANTED}sort",
        f"/events?after={PLANTED}after",
        f"/accounts/{TOKEN}",
        f"/accounts/{TOKEN.replace('_', '%5F')}/config",
        f"/{TOKEN}",
    ],
)
def test_secrets_in_an_address_are_not_repeated(api: Api, path: str) -> None:
    with api.client() as client, contextlib.suppress(httpx2.InvalidURL):
        check(client.get(f"/api/v1{path}"))
        check(client.post(f"/api/v1{path}"))


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/session", {"token": TOKEN}),
        ("/session", {"code": f"{PLANTED}code"}),
        ("/session", {"token": TOKEN, "code": f"{PLANTED}code"}),
        ("/session", {"password": f"{PLANTED}password"}),
        ("/tokens", {"name": f"{PLANTED} name", "scopes": [f"{PLANTED}scope"]}),
        ("/tokens", {"name": "n", "scopes": ["read"], "labels": [f"{PLANTED} label"]}),
        ("/accounts/literal/start", {"validate": f"{PLANTED}value"}),
        ("/accounts/literal/start", [f"{PLANTED}list"]),
        ("/accounts/literal/start", f"{PLANTED}text"),
        ("/accounts/literal/move", {"host": f"{PLANTED} host"}),
        ("/batches", {"do": f"{PLANTED}do", "select": {"all": True}, "expect": 1}),
        ("/config/rollback", {"version": f"{PLANTED}version"}),
    ],
)
def test_secrets_in_a_body_are_not_repeated(api: Api, path: str, body: Any) -> None:
    headers = {"Idempotency-Key": "some-key-1", "If-Match": '"1"', "Sec-Fetch-Site": "same-origin"}
    with api.client() as client:
        check(client.post(f"/api/v1{path}", json=body, headers={**headers, "X-Manager": "1"}))
        raw = f'{{"password": "{PLANTED}raw'
        sent = {**headers, "Content-Type": "application/json", "X-Manager": "1"}
        check(client.post(f"/api/v1{path}", content=raw, headers=sent))
