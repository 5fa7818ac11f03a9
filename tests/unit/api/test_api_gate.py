"""What every request passes: host, size, media types, tokens, sessions, CSRF checks, limits, headers."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from pydantic import ValidationError
from support.api import Api, problem
from support.servers import RedisServer

from manager.api.gate import MAX_BODY
from manager.api.limits import RATES, Rate, RateLimiter, scaled
from manager.api.problems import ProblemError
from manager.settings import Settings

FLEET = "/api/v1/fleet"
SESSION = "/api/v1/session"
#: Headers that a page of this server sends with each request.
OWN_PAGE = {"X-Manager": "1", "Sec-Fetch-Site": "same-origin"}


def test_every_answer_has_the_security_headers(api: Api) -> None:
    for response in (api.client().get(FLEET), api.anonymous().get(FLEET), api.anonymous().get("/healthz")):
        headers = response.headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert headers["manager-version"]
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8700", ""]
)
def test_a_foreign_host_is_refused_also_with_a_valid_token(api: Api, host: str) -> None:
    """DNS rebinding: a page of another name whose address now is this server's."""
    problem(api.client().get(FLEET, headers={"Host": host}), 421, "unknown_host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8700", "127.0.0.1:1", "[::1]:8700"])
def test_names_of_this_machine_are_answered(api: Api, host: str) -> None:
    assert api.client().get(FLEET, headers={"Host": host}).status_code == 200


def test_an_invalid_token_gets_no_data(api: Api) -> None:
    good = api.token()
    for authorization in (
        "",
        "Bearer",
        "Bearer x",
        f"Basic {good}",
        f"Bearer {good}x",
        f"Bearer {good[:-1]}",
    ):
        response = api.anonymous({"Authorization": authorization} if authorization else {}).get(FLEET)
        problem(response, 401, "unauthenticated")
        assert response.headers["www-authenticate"] == "Bearer"
        assert good not in response.text
    problem(api.anonymous().get("/api/v1/nothing"), 401, "unauthenticated")


def test_an_expired_token_is_reported_as_expired(api: Api, api_redis: RedisServer) -> None:
    import json

    text = api.token(expires_seconds=100)
    with api_redis.client() as client:
        key, token_id = "manager:api:tokens", text[3:11]
        record = json.loads(client.hget(key, token_id) or b"")
        client.hset(key, token_id, json.dumps({**record, "expires": 1}))
    problem(api.anonymous({"Authorization": f"Bearer {text}"}).get(FLEET), 401, "token_expired")


@pytest.mark.parametrize("query", ["token={}", "access_token={}", "x={}", "x=%77m{rest}"])
def test_a_token_in_the_url_is_refused_also_with_a_valid_header(api: Api, query: str) -> None:
    text = api.token()
    response = api.client().get(f"{FLEET}?{query.format(text, rest=text[2:])}")
    problem(response, 401, "unauthenticated")
    assert text not in response.text


def test_a_revoked_token_is_refused_at_once_here(api: Api) -> None:
    client, admin = api.client("read"), api.client("admin")
    assert client.get(FLEET).status_code == 200
    token_id = client.headers["authorization"].split("_")[1]
    assert admin.delete(f"/api/v1/tokens/{token_id}").status_code == 204
    problem(client.get(FLEET), 401, "unauthenticated")
    problem(admin.delete(f"/api/v1/tokens/{token_id}"), 404, "not_found")


def test_large_bodies_are_refused_by_declared_and_by_actual_size(api: Api) -> None:
    client = api.client()
    headers = {"Content-Type": "application/json"}
    problem(client.post("/api/v1/tokens", content=b" " * (MAX_BODY + 1), headers=headers), 413, "too_large")

    def chunks() -> Iterator[bytes]:
        for _ in range(MAX_BODY // 65_536 + 1):
            yield b" " * 65_536

    problem(client.post("/api/v1/tokens", content=chunks(), headers=headers), 413, "too_large")


@pytest.mark.parametrize(
    "media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_only_json_is_accepted(api: Api, media: str) -> None:
    response = api.client().post("/api/v1/tokens", content="{}", headers={"Content-Type": media})
    problem(response, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("accept", "status"), [("text/html", 406), ("application/json;q=0.5, text/html", 200), ("*/*", 200)]
)
def test_only_json_is_answered(api: Api, accept: str, status: int) -> None:
    assert api.client().get(FLEET, headers={"Accept": accept}).status_code == status


# sessions


def log_in(api: Api, **body: Any) -> tuple[Any, str]:
    client = api.anonymous(OWN_PAGE)
    response = client.post(SESSION, json=body)
    assert response.status_code == 200, response.text
    return client, response.headers["set-cookie"]


def test_a_code_opens_one_session_with_every_scope(api: Api) -> None:
    code = api.sessions.new_code("ana@desk")
    client, cookie = log_in(api, code=code)
    assert {"HttpOnly", "Path=/", "SameSite=strict"} <= {part.strip() for part in cookie.split(";")}
    assert "Secure" not in cookie
    who = client.get(SESSION).json()
    assert (who["name"], who["kind"]) == ("ana@desk", "session")
    assert "admin" in who["scopes"]
    problem(api.anonymous(OWN_PAGE).post(SESSION, json={"code": code}), 401, "unauthenticated")


def test_with_tls_the_cookie_is_secure(api_redis: RedisServer) -> None:
    api = Api(api_redis, secure_cookies=True)
    _, cookie = log_in(api, code=api.sessions.new_code("ana@desk"))
    assert "Secure" in cookie


def test_a_session_ends_with_a_logout_and_with_its_token(api: Api) -> None:
    text = api.token("read")
    client, _ = log_in(api, token=text)
    cookie = client.cookies["wm_session"]
    assert client.get(FLEET).status_code == 200
    assert client.delete(SESSION).status_code == 204
    problem(api.anonymous({"Cookie": f"wm_session={cookie}"}).get(FLEET), 401, "unauthenticated")
    client, _ = log_in(api, token=text)
    api.client("admin").delete(f"/api/v1/tokens/{text[3:11]}")
    problem(client.get(FLEET), 401, "unauthenticated")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Manager": "1"},
        {"Sec-Fetch-Site": "same-origin"},
        {"X-Manager": "1", "Sec-Fetch-Site": "cross-site"},
        {"X-Manager": "1", "Sec-Fetch-Site": "same-site"},
        {"X-Manager": "1", "Origin": "https://evil.example"},
        {"X-Manager": "1", "Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
        {"X-Manager": "1", "Origin": "null"},
    ],
)
def test_a_cookie_alone_sends_no_command(api: Api, headers: dict[str, str]) -> None:
    client, _ = log_in(api, code=api.sessions.new_code("ana@desk"))
    foreign = api.anonymous({**headers, "Cookie": f"wm_session={client.cookies['wm_session']}"})
    body = {"name": "a", "scopes": ["admin"]}
    problem(foreign.post("/api/v1/tokens", json=body), 403, "csrf")
    problem(foreign.delete(SESSION), 403, "csrf")
    assert foreign.get(FLEET).status_code == 200


def test_a_page_of_this_server_sends_commands_with_its_cookie(api: Api) -> None:
    client, _ = log_in(api, code=api.sessions.new_code("ana@desk"))
    own = api.anonymous(
        {
            "X-Manager": "1",
            "Origin": "http://localhost:8700",
            "Cookie": f"wm_session={client.cookies['wm_session']}",
        }
    )
    assert own.post("/api/v1/tokens", json={"name": "a", "scopes": ["read"]}).status_code == 201


def test_a_login_from_another_site_is_refused(api: Api) -> None:
    code = api.sessions.new_code("ana@desk")
    problem(api.anonymous().post(SESSION, json={"code": code}), 403, "csrf")


@pytest.mark.parametrize("body", [{}, {"code": "a", "token": "b"}, {"code": 1}, {"code": "a", "more": 1}])
def test_a_malformed_login_is_invalid(api: Api, body: dict[str, Any]) -> None:
    problem(api.anonymous(OWN_PAGE).post(SESSION, json=body), 422, "invalid_request")


# limits


def test_five_failed_logins_a_minute_and_no_more(api_redis: RedisServer) -> None:
    now = [1000.0]
    api = Api(api_redis, limiter=RateLimiter({**RATES, "address": Rate(1e6, 10**6)}, lambda: now[0]))
    client = api.anonymous(OWN_PAGE)
    for _ in range(5):
        problem(client.post(SESSION, json={"code": "wrong"}), 401, "unauthenticated")
    response = client.post(SESSION, json={"code": api.sessions.new_code("ana@desk")})
    problem(response, 429, "rate_limited")
    assert int(response.headers["retry-after"]) <= 12
    now[0] += 12
    assert client.post(SESSION, json={"code": api.sessions.new_code("ana@desk")}).status_code == 200


def test_valid_tokens_of_one_address_do_not_share_its_rate(api_redis: RedisServer) -> None:
    now = [1000.0]
    api = Api(api_redis, limiter=RateLimiter({**RATES, "address": Rate(0.001, 3)}, lambda: now[0]))
    clients = [api.client("read") for _ in range(5)]
    assert [one.get(FLEET).status_code for one in clients] == [200] * 5
    for _ in range(3):
        problem(api.anonymous({"Authorization": "Bearer wrong"}).get(FLEET), 401, "unauthenticated")
    problem(api.anonymous({"Authorization": "Bearer wrong"}).get(FLEET), 429, "rate_limited")
    problem(api.client("read").get(FLEET), 429, "rate_limited")
    for _ in range(3):
        api.parts.authenticator._clock = partial(float, now[0] + 1e6)  # each is checked again
        now[0] += 1
        assert [one.get(FLEET).status_code for one in clients] == [200] * 5


def test_a_token_has_its_own_rate(api_redis: RedisServer) -> None:
    now = [1000.0]
    limiter = RateLimiter({**RATES, "address": Rate(1e6, 10**6), "read": Rate(2, 3)}, lambda: now[0])
    api = Api(api_redis, limiter=limiter)
    one, other = api.client("read"), api.client("read")
    assert [one.get(FLEET).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert other.get(FLEET).status_code == 200
    response = one.get(FLEET)
    assert response.headers["ratelimit-policy"] == '"read";q=3;w=2'
    assert response.headers["ratelimit"].startswith('"read";r=0')
    now[0] += 0.5
    assert one.get(FLEET).status_code == 200


def test_an_address_without_a_token_has_a_rate(api_redis: RedisServer) -> None:
    now = [1000.0]
    api = Api(api_redis, limiter=RateLimiter(RATES, lambda: now[0]))
    client = api.anonymous()
    statuses = [client.get(FLEET).status_code for _ in range(25)]
    assert statuses == [401] * 20 + [429] * 5
    good = api.client("read")
    now[0] += 0.06
    assert good.get(FLEET).status_code == 200
    assert [client.get(FLEET).status_code for _ in range(2)] == [401, 429]


def test_the_limiter_remembers_a_bounded_number() -> None:
    limiter = RateLimiter({"read": Rate(1, 2)}, lambda: 0.0)
    for number in range(20_000):
        limiter.take("read", str(number))
    assert len(limiter._buckets) == 10_000
    limiter.take("read", "19999")
    with pytest.raises(ProblemError):
        limiter.take("read", "19999")


def test_a_factor_scales_every_rate_but_that_of_failed_logins() -> None:
    more, less = scaled(10.0), scaled(0.001)
    assert more["read"] == Rate(500, 1000)
    assert more["bulk"] == Rate(10, 30)
    assert more["login"] == less["login"] == RATES["login"]
    assert less["bulk"] == Rate(0.001, 1)
    assert scaled(1.0) == RATES


# other origins

DESK = "https://desk.example.com"


def test_only_named_origins_may_read_answers(api_redis: RedisServer) -> None:
    api = Api(api_redis, origins=(DESK,))
    client = api.client("read")
    for path in (FLEET, "/api/v1/nothing"):
        allowed = client.get(path, headers={"Origin": DESK}).headers
        assert allowed["access-control-allow-origin"] == DESK
        assert "access-control-allow-credentials" not in allowed
    for origin in ("https://evil.example", f"{DESK}.evil.example", "null", "http://desk.example.com"):
        assert "access-control-allow-origin" not in client.get(FLEET, headers={"Origin": origin}).headers
    refused = api.anonymous().get(FLEET, headers={"Origin": DESK})
    problem(refused, 401, "unauthenticated")
    assert refused.headers["access-control-allow-origin"] == DESK


def test_a_browser_may_ask_before_a_command_of_a_named_origin(api_redis: RedisServer) -> None:
    def ask(api: Api, origin: str) -> Any:
        headers = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, idempotency-key, prefer",
        }
        return api.anonymous().options("/api/v1/batches", headers=headers)

    api = Api(api_redis, origins=(DESK,))
    answer = ask(api, DESK)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, DESK)
    assert ask(api, "https://evil.example").status_code == 400
    assert "access-control-allow-origin" not in ask(Api(api_redis), DESK).headers


def test_a_session_of_a_named_origin_commands_nothing(api_redis: RedisServer) -> None:
    api = Api(api_redis, origins=(DESK,))
    own, _ = log_in(api, code=api.sessions.new_code("ana@desk"))
    headers = {"Cookie": f"wm_session={own.cookies['wm_session']}", "Origin": DESK, "X-Manager": "1"}
    problem(api.anonymous(headers).post("/api/v1/tokens", json={}), 403, "csrf")


def test_a_wrong_origin_is_a_wrong_setting() -> None:
    assert Settings(api_origins=f"{DESK}, http://[::1]:8080").api_origins == (DESK, "http://[::1]:8080")
    for wrong in ("*", "desk.example.com", f"{DESK}/", "file://x"):
        with pytest.raises(ValidationError, match="is not an origin"):
            Settings(api_origins=wrong)
