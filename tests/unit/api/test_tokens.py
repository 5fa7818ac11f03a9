"""API tokens and sessions: hashing, expiry and revocation."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from support.servers import RedisServer

from manager.cli.token import _SCOPES
from manager.cli.token import token as token_command
from manager.errors import InvalidPayloadError
from manager.fleet.api_sessions import SessionStore
from manager.fleet.audit import AuditTrail
from manager.fleet.tokens import SCOPES, TOKENS_KEY, USED_KEY, TokenStore
from manager.placement.labels import Selection


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Any]:
    with redis_server.client() as found:
        yield found


@pytest.fixture
def store(redis_server: RedisServer) -> TokenStore:
    return TokenStore(redis_server.url)


def test_a_token_is_verified_and_its_secret_is_not_kept(store: TokenStore, client: Any) -> None:
    created, text = store.create("grafana", ["read"], by="ana@desk", selection=Selection(("fx",), ("a=b",)))
    assert len(text) == len("wm_") + 8 + 1 + 43
    found = store.verify(text).token
    assert found is not None
    assert (found.id, found.name, found.scopes) == (created.id, "grafana", frozenset({"read"}))
    assert found.selection == Selection(("fx",), ("a=b",))
    kept = b"".join(v for key in client.keys() for v in client.hgetall(key).values())  # noqa: SIM118
    assert text[-43:].encode() not in kept
    assert text.encode() not in kept


@pytest.mark.parametrize("change", ["", "x", "wm_", "short", " "])
def test_a_malformed_token_is_unknown(store: TokenStore, change: str) -> None:
    _, text = store.create("a", ["read"], by="me")
    assert store.verify(change).refused == "unknown"
    assert store.verify(text + change).refused == ("unknown" if change else "")
    assert store.verify(text[:-1] + ("a" if text[-1] != "a" else "b")).refused == "unknown"


def test_a_revoked_token_is_refused_and_a_late_use_does_not_bring_it_back(store: TokenStore) -> None:
    created, text = store.create("a", ["read"], by="me")
    assert store.revoke(created.id)
    store._note_use(created.id, None, 1.0)
    assert store.verify(text).refused == "unknown"
    assert store.list() == []
    assert not store.revoke(created.id)


def test_a_token_expires_by_redis_clock(store: TokenStore, client: Any) -> None:
    created, text = store.create("a", ["read"], by="me", expires_seconds=1000)
    record = json.loads(client.hget(TOKENS_KEY, created.id))
    client.hset(TOKENS_KEY, created.id, json.dumps({**record, "expires": client.time()[0] - 1}))
    assert store.verify(text).refused == "expired"
    assert store.get(created.id).refused == "expired"


def test_the_last_use_is_noted_at_most_once_a_minute(store: TokenStore, client: Any) -> None:
    created, text = store.create("a", ["read"], by="me")
    store.verify(text)
    first = client.hget(USED_KEY, created.id)
    client.hset(USED_KEY, created.id, str(int(first) - 30))
    store.verify(text)
    assert int(client.hget(USED_KEY, created.id)) == int(first) - 30
    client.hset(USED_KEY, created.id, str(int(first) - 61))
    store.verify(text)
    assert int(client.hget(USED_KEY, created.id)) >= int(first)
    assert store.list()[0].last_used is not None


@pytest.mark.parametrize(
    "record",
    [
        "[]",
        "{",
        '{"name": "a"}',
        '{"name": 1, "created": 1}',
        '{"name": "a", "created": "x"}',
        '{"name": "a", "created": 1, "expires": "soon"}',
    ],
)
def test_a_malformed_record_allows_nothing(store: TokenStore, client: Any, record: str) -> None:
    _, text = store.create("a", ["admin"], by="me")
    client.hset(TOKENS_KEY, text[3:11], record)
    assert store.verify(text).refused == "unknown"
    assert store.list() == []


@pytest.mark.parametrize(
    ("name", "scopes", "labels", "seconds"),
    [
        ("", ["read"], (), None),
        ("a b", ["read"], (), None),
        ("a", [], (), None),
        ("a", ["root"], (), None),
        ("a", ["read"], ("=x",), None),
        ("a", ["read"], (), 0),
        ("a", ["read"], (), float("nan")),
    ],
)
def test_a_token_with_wrong_arguments_is_not_created(
    store: TokenStore, name: str, scopes: list[str], labels: tuple[str, ...], seconds: float | None
) -> None:
    with pytest.raises(InvalidPayloadError):
        store.create(name, scopes, by="me", selection=Selection((), labels), expires_seconds=seconds)


def test_admin_has_every_scope_and_others_have_their_own(store: TokenStore) -> None:
    admin, _ = store.create("a", ["admin"], by="me")
    reader, _ = store.create("b", ["read"], by="me")
    assert all(admin.allows(scope) for scope in SCOPES)
    assert [scope for scope in SCOPES if reader.allows(scope)] == ["read"]


def test_a_code_opens_one_session(redis_server: RedisServer, client: Any) -> None:
    sessions = SessionStore(redis_server.url)
    code = sessions.new_code("ana@desk")
    assert 0 < client.ttl(client.keys("manager:api:code:*")[0]) <= 60
    assert sessions.use_code(code) == "ana@desk"
    assert sessions.use_code(code) is None
    secret, _ = sessions.open("ana@desk", "abcdefgh")
    found = sessions.verify(secret)
    assert found is not None
    assert (found.name, found.token_id) == ("ana@desk", "abcdefgh")
    (key,) = client.keys("manager:api:session:*")
    assert secret.encode() not in key + client.get(key)
    assert client.ttl(key) <= 3600
    sessions.end(secret)
    assert sessions.verify(secret) is None


def test_a_session_ends_after_its_lifetime_although_it_is_used(
    redis_server: RedisServer, client: Any
) -> None:
    sessions = SessionStore(redis_server.url)
    secret, _ = sessions.open("ana@desk")
    (key,) = client.keys("manager:api:session:*")
    now = client.time()[0]
    client.set(key, json.dumps({"name": "a", "token_id": "", "expires": now + 500, "used": now - 100}))
    assert sessions.verify(secret) is not None
    assert client.ttl(key) <= 500
    client.set(key, json.dumps({"name": "a", "token_id": "", "expires": now - 1, "used": now}))
    assert sessions.verify(secret) is None


def test_the_command_line_creates_lists_and_revokes(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANAGER_REDIS_URL", redis_server.url)
    run = CliRunner()
    arguments = ["create", "--name", "desk", "--scope", "operate", "--group", "fx", "-l", "desk=london"]
    created = json.loads(run.invoke(token_command, [*arguments, "--json"]).stdout)
    verdict = TokenStore(redis_server.url).verify(created["token"])
    assert verdict.token is not None
    assert verdict.token.expires is not None
    listed = run.invoke(token_command, ["list"]).stdout
    assert created["id"] in listed
    assert created["token"] not in listed
    assert run.invoke(token_command, ["revoke", created["id"]], standalone_mode=False).return_value == 0
    assert run.invoke(token_command, ["revoke", created["id"]], standalone_mode=False).return_value == 1
    trail = AuditTrail(redis_server.url).last(10)
    assert [entry.what for entry in trail] == ["token create", "token revoke"]
    assert not any(created["token"].rpartition("_")[2] in entry.text for entry in trail)


@pytest.mark.parametrize("lifetime", ["0d", "90", "d", "-1d", "1y"])
def test_a_malformed_lifetime_is_wrong_usage(lifetime: str) -> None:
    arguments = ["create", "--name", "a", "--scope", "read", "--expires", lifetime]
    assert CliRunner().invoke(token_command, arguments).exit_code == 2


def test_the_command_line_knows_every_scope() -> None:
    assert tuple(SCOPES) == _SCOPES
