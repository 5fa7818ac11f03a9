"""redis-py, kombu, Celery and Flower connect to the one parsed MANAGER_REDIS_URL."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.connection import ConnectionPool

from manager.client.celery_app import sender_app
from manager.errors import SettingsError
from manager.fleet.address import parse_redis_url
from manager.fleet.redis_client import open_client
from manager.fleet.urls import celery_url, fleet_url, safe_url
from manager.settings import Settings


def settings(url: str | None) -> Settings:
    return Settings(redis_url=None if url is None else SecretStr(url), state_dir=Path("/s"))


@pytest.mark.parametrize(
    ("given", "ours", "celerys"),
    [
        ("redis://h:1/2", "redis://h:1/2", "redis://h:1/2"),
        ("redis://h", "redis://h/0", "redis://h/0"),
        ("redis://h:1/", "redis://h:1/0", "redis://h:1/0"),
        ("REDIS://H:1/2", "redis://h:1/2", "redis://h:1/2"),
        (" redis://h:1/2\r\n", "redis://h:1/2", "redis://h:1/2"),
        ("'redis://h:1/2'", "redis://h:1/2", "redis://h:1/2"),
        ('"redis://h:1/2"\n', "redis://h:1/2", "redis://h:1/2"),
        ("valkey://h:1/2", "redis://h:1/2", "redis://h:1/2"),
        ("redis://h:1?db=2", "redis://h:1/2", "redis://h:1/2"),
        ("redis://h:1/2?db=2", "redis://h:1/2", "redis://h:1/2"),
        ("redis://h?username=u&password=p%40q", "redis://u:p%40q@h/0", "redis://u:p%40q@h/0"),
        ("redis://u:p%2Fq%23%40@h:1/0", "redis://u:p%2Fq%23%40@h:1/0", "redis://u:p%2Fq%23%40@h:1/0"),
        ("redis://u:a;b@h:1/0", "redis://u:a%3Bb@h:1/0", "redis://u:a%3Bb@h:1/0"),
        ("redis://[::1]:1/0", "redis://[::1]:1/0", "redis://[::1]:1/0"),
        ("rediss://h/0", "rediss://h/0?ssl_cert_reqs=required", "rediss://h/0?ssl_cert_reqs=required"),
        ("tls://h/0", "rediss://h/0?ssl_cert_reqs=required", "rediss://h/0?ssl_cert_reqs=required"),
        (
            "redis://h/0?ssl=true",
            "rediss://h/0?ssl_cert_reqs=required",
            "rediss://h/0?ssl_cert_reqs=required",
        ),
        (
            "rediss://u:p@h/0?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=/ca.crt",
            "rediss://u:p@h/0?ssl_cert_reqs=required&ssl_ca_certs=/ca.crt",
            "rediss://u:p@h/0?ssl_cert_reqs=required&ssl_ca_certs=/ca.crt",
        ),
        ("unix:///r.sock", "unix:///r.sock", "redis+socket:///r.sock"),
        ("unix:///r.sock?db=3", "unix:///r.sock?db=3", "redis+socket:///r.sock?virtual_host=3"),
        (
            "redis+socket:///r.sock?virtual_host=3",
            "unix:///r.sock?db=3",
            "redis+socket:///r.sock?virtual_host=3",
        ),
        ("unix://:pass@/r.sock", "unix://:pass@/r.sock", "redis+socket://:pass@/r.sock"),
        (
            "sentinel://u:p@h1:26379,h2,h3:3/1?master=m",
            "sentinel://u:p@h1:26379,h2,h3:3/1?master=m",
            "sentinel://u:p@h1:26379/1;sentinel://u:p@h2/1;sentinel://u:p@h3:3/1",
        ),
        (
            "sentinel://u:p@h1:1/0;sentinel://u:p@h2:2/0?master_name=m",
            "sentinel://u:p@h1:1,h2:2/0?master=m",
            "sentinel://u:p@h1:1/0;sentinel://u:p@h2:2/0",
        ),
        ("redis+sentinel://h1:1/m/3", "sentinel://h1:1/3?master=m", "sentinel://h1:1/3"),
        (None, "unix:///s/redis/redis.sock", "redis+socket:///s/redis/redis.sock"),
        ("", "unix:///s/redis/redis.sock", "redis+socket:///s/redis/redis.sock"),
    ],
)
def test_every_spelling_of_an_address_is_parsed_alike(given: str | None, ours: str, celerys: str) -> None:
    assert fleet_url(settings(given)) == ours
    assert celery_url(settings(given)) == celerys
    assert fleet_url(settings(ours)) == ours


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("localhost:6379", "no scheme"),
        ("//h", "no scheme"),
        ("http://h", "http://"),
        ("amqp://h", "amqp://"),
        ("redis://[::1", "cannot be read"),
        ("redis:///0", "cannot be read"),
        ("redis://h:0/0", "cannot be read"),
        ("redis://h:99999/0", "cannot be read"),
        ("redis-cli -u redis://h", "white space"),
        ("redis://a:1/0;redis://b:1/0", "several servers"),
        ("redis://a:1,b:2/0", "several hosts"),
        ("redis://h/production", "a number"),
        ("redis://h/-1", "a number"),
        ("redis://h/1?db=2", "two database numbers"),
        ("redis://u:p@h/0?password=q", "two values for the password"),
        ("redis://h/0?socket_timeout=5", "socket_timeout"),
        ("redis://h/0?max_connections=5", "max_connections"),
        ("redis://h/0?credential_provider=os:system", "credential_provider"),
        ("redis://h/0?decode_responses=true", "decode_responses"),
        ("redis://h/0?ssl_cert_reqs=required", "ssl_cert_reqs needs TLS"),
        ("redis://h/0?ssl=maybe", "ssl must be true or false"),
        ("rediss://h/0?ssl=false", "ssl contradicts"),
        ("rediss://h/0?ssl_cert_reqs=some", "ssl_cert_reqs must be required, optional or none"),
        ("rediss://h/0?ssl_certfile=/c", "both ssl_certfile and ssl_keyfile"),
        ("rediss://h/0?ssl_ca_certs=", "ssl_ca_certs is empty"),
        ("redis://h/0?master=m", "master needs sentinel://"),
        ("unix://r.sock", "three slashes"),
        ("sentinel://h1,h2/0", "exactly one group name"),
    ],
)
def test_an_unsupported_url_is_refused_with_one_line_that_names_the_part(url: str, named: str) -> None:
    with pytest.raises(SettingsError, match="MANAGER_REDIS_URL") as raised:
        fleet_url(settings(url))
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "verified"),
    [
        ("", ssl.CERT_REQUIRED),
        *(
            (f"?ssl_cert_reqs={text}", ssl.CERT_REQUIRED)
            for text in ("required", "CERT_REQUIRED", "cert_required")
        ),
        *((f"?ssl_cert_reqs={text}", ssl.CERT_OPTIONAL) for text in ("optional", "CERT_OPTIONAL")),
        *((f"?ssl_cert_reqs={text}", ssl.CERT_NONE) for text in ("none", "CERT_NONE", "None")),
    ],
)
def test_every_library_verifies_alike(given: str, verified: ssl.VerifyMode) -> None:
    for connection in every_connection(f"rediss://u:p%40@h:7/3{given}"):
        assert connection.cert_reqs == verified
        assert (connection.host, connection.port, connection.db) == ("h", 7, 3)
        assert (connection.username, connection.password) == ("u", "p@")
        assert connection.check_hostname is (verified != ssl.CERT_NONE)


def test_every_library_uses_the_certificates_and_the_socket() -> None:
    url = "rediss://h/0?ssl_ca_certs=/a%20b/100%2525.crt&ssl_certfile=/c&ssl_keyfile=/k&ssl_check_hostname=false"
    for connection in every_connection(url):
        assert (connection.ca_certs, connection.certfile, connection.keyfile) == (
            "/a b/100%25.crt",
            "/c",
            "/k",
        )
        assert connection.check_hostname is False
    for connection in every_connection("unix://:p@/a%20b/r.sock?db=3"):
        assert (connection.path, connection.password, connection.db) == ("/a b/r.sock", "p", 3)


def every_connection(url: str) -> list[Any]:
    """Return unopened connections: of the fleet's client, both of the broker's, and the result backend's."""
    app = sender_app(url)
    channel_class = app.connection().get_transport_cls().Channel
    channel = object.__new__(channel_class)
    channel.connection = type("C", (), {"client": app.connection()})()
    pools: list[ConnectionPool] = [
        open_client(url).connection_pool,
        channel._get_pool(),
        channel._get_pool(asynchronous=True),
        app.backend.client.connection_pool,
    ]
    return [pool.make_connection() for pool in pools]


@pytest.mark.parametrize(
    "password",
    [
        "hun#ter2",
        "hun?ter2",
        "hun/ter2",
        "12/hunter2",
        "12?hunter2",
        "hun\u2100ter2",
        "[hunter2",
        "hunter2:99999",
    ],
)
def test_an_unescaped_password_is_refused_and_not_shown(password: str) -> None:
    url = f"redis://u:{password}@h:6379/0"
    calls: tuple[Callable[[], str], ...] = (lambda: fleet_url(settings(url)), lambda: safe_url(url))
    for call in calls:
        try:
            shown = call()
        except SettingsError as error:
            shown = str(error)
            assert "%2F" in shown
        else:
            # A colon in a password needs no escape.
            assert password == "hunter2:99999"
            assert shown in {"redis://u:hunter2%3A99999@h:6379/0", "redis://u:***@h:6379/0"}
            shown = shown if "***" in shown else ""
        assert "ter2" not in shown


@pytest.mark.parametrize(
    "url",
    [
        "redis://h/hunter2",
        "redis://h/0?hunter2",
        "redis://h/0?password=hunter2&password=x",
        "redis://u:x@h/0?password=hunter2",
        "redis://h/0?credential=hunter2",
        "redis://u:hunter2@a,b/0",
        "redis://u:hunter2@a/0;redis://u:hunter2@b/0",
        "rediss://h/0?ssl_cert_reqs=hunter2",
        "sentinel://u:hunter2@a,b/0",
        "u:hunter2@h:6379",
        "redis://h/0#hunter2",
        "hunter2 redis://h",
    ],
)
def test_a_refusal_quotes_no_value(url: str) -> None:
    with pytest.raises(SettingsError) as raised:
        fleet_url(settings(url))
    assert "hunter2" not in str(raised.value)


def test_a_user_name_without_a_password_is_hidden_too() -> None:
    assert safe_url("redis://hunter2@h:1") == safe_url("redis://hunter2:@h:1") == "redis://***@h:1/0"


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:hunter2@h:1/2",
        "rediss://:hunter2@h",
        "unix://:hunter2@/r.sock",
        "redis://h/0?password=hunter2",
        "sentinel://u:hunter2@h1,h2/0?master=m&sentinel_password=hunter2",
    ],
)
def test_a_password_is_never_in_a_safe_url(url: str) -> None:
    assert "hunter2" not in safe_url(url)
    assert "***" in safe_url(url)
    assert "hunter2" not in repr(parse_redis_url(url))
    app = sender_app(url)
    shown = app.connection().as_uri() + app.backend.as_uri() + repr(app.connection())
    assert "hunter2" not in shown
