"""What `manager doctor` says of the server itself."""

from pathlib import Path

import pytest
from pydantic import SecretStr
from support.servers import RedisServer

from manager.doctor import Check, run_checks
from manager.settings import Settings


def checks(server: RedisServer, directory: Path) -> dict[str, Check]:
    found = Settings(redis_url=SecretStr(server.url), state_dir=directory, config_dir=directory)
    return {check.name: check for check in run_checks(found)}


@pytest.mark.parametrize(("most", "outcome"), [(10_000, "ok"), (2, "warning")])
def test_a_server_with_little_room_for_connections_is_named(
    redis_server: RedisServer, short_dir: Path, most: int, outcome: str
) -> None:
    with redis_server.client() as client:
        client.config_set("maxclients", most)
        check = checks(redis_server, short_dir)["redis connections"]
    assert check.outcome == outcome
    assert f" of {most} connections in use (maxclients)" in check.found
    assert (check.advice is not None and "raise maxclients" in check.advice) == (outcome == "warning")


def test_a_replica_is_named(redis_server: RedisServer, short_dir: Path) -> None:
    assert "redis role" not in checks(redis_server, short_dir)
    with redis_server.client() as client:
        client.execute_command("replicaof", "127.0.0.1", "1")
    check = checks(redis_server, short_dir)["redis role"]
    assert (check.outcome, check.found) == ("failure", "this Redis is a read-only replica")


def test_a_server_that_takes_no_more_connections_is_named(redis_server: RedisServer, short_dir: Path) -> None:
    with redis_server.client() as client:
        client.config_set("maxclients", 1)
        check = checks(redis_server, short_dir)["redis"]
    assert check.outcome == "failure"
    assert "takes no more connections (its maxclients is reached)" in check.found
