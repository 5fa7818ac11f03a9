from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from manager.errors import SettingsError
from manager.fleet.urls import celery_url, fleet_url, safe_url
from manager.settings import Settings


def settings(url: str | None) -> Settings:
    return Settings(redis_url=None if url is None else SecretStr(url), state_dir=Path("/s"))


@pytest.mark.parametrize(
    ("given", "ours", "celerys"),
    [
        ("redis://h:1/2", "redis://h:1/2", "redis://h:1/2"),
        (
            "rediss://u:p@h/0?ssl_cert_reqs=required",
            "rediss://u:p@h/0?ssl_cert_reqs=required",
            "rediss://u:p@h/0?ssl_cert_reqs=required",
        ),
        ("unix:///r.sock", "unix:///r.sock", "redis+socket:///r.sock"),
        ("unix:///r.sock?db=3", "unix:///r.sock?db=3", "redis+socket:///r.sock?virtual_host=3"),
        (
            "redis+socket:///r.sock?virtual_host=3",
            "unix:///r.sock?db=3",
            "redis+socket:///r.sock?virtual_host=3",
        ),
        ("unix://:pass@/r.sock", "unix://:pass@/r.sock", "redis+socket://:pass@/r.sock"),
        (None, "unix:///s/redis/redis.sock", "redis+socket:///s/redis/redis.sock"),
        ("", "unix:///s/redis/redis.sock", "redis+socket:///s/redis/redis.sock"),
    ],
)
def test_one_place_in_two_spellings(given: str | None, ours: str, celerys: str) -> None:
    assert fleet_url(settings(given)) == ours
    assert celery_url(settings(given)) == celerys


@pytest.mark.parametrize("url", ["localhost:6379", "http://h", "amqp://h", "//h", "redis://[::1"])
def test_what_is_no_redis_url_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="MANAGER_REDIS_URL"):
        fleet_url(settings(url))


@pytest.mark.parametrize(
    "password",
    ["hun#ter2", "hun?ter2", "hun/ter2", "12/hunter2", "hun\u2100ter2", "[hunter2", "hunter2:99999"],
)
def test_a_password_that_is_not_escaped_is_refused_and_not_shown(password: str) -> None:
    url = f"redis://u:{password}@h:6379/0"
    calls: tuple[Callable[[], str], ...] = (lambda: fleet_url(settings(url)), lambda: safe_url(url))
    for call in calls:
        try:
            told = call()
        except SettingsError as error:
            told = str(error)
            assert "%2F" in told
        else:
            assert told in {url, "redis://u:***@h:6379/0"}
            told = told if told != url else ""
        assert "ter2" not in told


def test_a_password_without_its_colon_is_taken_for_one() -> None:
    assert safe_url("redis://hunter2@h:1") == safe_url("redis://hunter2:@h:1") == "redis://***@h:1"


@pytest.mark.parametrize("url", ["redis://u:hunter2@h:1/2", "rediss://:hunter2@h", "unix://:hunter2@/r.sock"])
def test_a_password_is_never_in_a_safe_url(url: str) -> None:
    assert "hunter2" not in safe_url(url)
    assert "***" in safe_url(url)
