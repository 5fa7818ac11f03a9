"""`manager doctor` on the Redis server."""

from pathlib import Path

import pytest
from pydantic import SecretStr
from support.servers import RedisServer
from support.waiting import eventually

from manager.doctor import Check, run_checks
from manager.settings import Settings


def checks(server: RedisServer, directory: Path) -> dict[str, Check]:
    found = Settings(redis_url=SecretStr(server.url), state_dir=directory, config_dir=directory)
    return {check.code: check for check in run_checks(found)}


@pytest.mark.parametrize(("most", "outcome"), [(10_000, "ok"), (2, "warning")])
def test_a_server_with_little_room_for_connections_is_named(
    redis_server: RedisServer, short_dir: Path, most: int, outcome: str
) -> None:
    with redis_server.client() as client:
        client.config_set("maxclients", most)
        check = checks(redis_server, short_dir)["redis_connections"]
    assert check.outcome == outcome
    assert f" of {most} connections in use (maxclients)" in check.found
    assert (check.advice is not None and "raise maxclients" in check.advice) == (outcome == "warning")


def test_a_replica_is_named(redis_server: RedisServer, short_dir: Path) -> None:
    assert checks(redis_server, short_dir)["redis_role"].outcome == "ok"
    with redis_server.client() as client:
        client.execute_command("replicaof", "127.0.0.1", "1")
    check = checks(redis_server, short_dir)["redis_role"]
    assert (check.outcome, check.found) == ("failure", "this Redis is a read-only replica")


def test_a_server_that_takes_no_more_connections_is_named(redis_server: RedisServer, short_dir: Path) -> None:
    with redis_server.client() as client:
        client.config_set("maxclients", 1)
        check = checks(redis_server, short_dir)["redis"]
    assert check.outcome == "failure"
    assert "accepts no more connections (its maxclients is reached)" in check.found


def test_a_server_that_accepts_writes_is_ok_and_has_no_test_keys_left(
    redis_server: RedisServer, short_dir: Path
) -> None:
    assert checks(redis_server, short_dir)["redis_writes"].outcome == "ok"
    with redis_server.client() as client:
        assert client.exists("manager:seen:doctor") == 0


@pytest.mark.parametrize(
    ("change", "code", "cure"),
    [
        (("config", "set", "maxmemory", "1"), "OOM", "raise maxmemory"),
        (("config", "set", "min-replicas-to-write", "2"), "NOREPLICAS", "bring the replicas back"),
        (("replicaof", "127.0.0.1", "1"), "READONLY", "point MANAGER_REDIS_URL at the primary"),
    ],
)
def test_refused_writes_are_called_by_name_and_the_other_checks_go_on(
    redis_server: RedisServer, short_dir: Path, change: tuple[str, ...], code: str, cure: str
) -> None:
    with redis_server.client() as client:
        client.execute_command(*change)
    found = checks(redis_server, short_dir)
    assert found["redis_writes"].outcome == "failure"
    assert f"Redis refuses writes ({code}): " in found["redis_writes"].found
    assert cure in str(found["redis_writes"].advice)
    assert "--local` works" in str(found["redis_writes"].advice)
    assert "host_agent" in found


def test_a_server_that_cannot_save_is_called_by_name(redis_server: RedisServer, short_dir: Path) -> None:
    with redis_server.client() as client:
        client.config_set("save", "900 1")
        client.config_set("appendonly", "no")
        client.set("a", "b")
        (redis_server.directory / "dump.rdb").unlink(missing_ok=True)
        (redis_server.directory / "dump.rdb").mkdir()
        client.bgsave()
        eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
    found = checks(redis_server, short_dir)
    text = " ".join(one.found for one in found.values() if one.outcome == "failure")
    assert "MISCONF" in text
    assert "stop-writes-on-bgsave-error" in text


def test_a_user_that_may_not_write_is_reported_so(redis_server: RedisServer, short_dir: Path) -> None:
    with redis_server.client() as client:
        client.execute_command(
            "acl",
            "setuser",
            "reader",
            "on",
            ">hunter2-x",
            "~*",
            "&*",
            "+@read",
            "+@connection",
            "+info",
            "+time",
        )
    url = f"unix://reader:hunter2-x@{redis_server.socket}"
    found = {
        check.code: check
        for check in run_checks(Settings(redis_url=SecretStr(url), state_dir=short_dir, config_dir=short_dir))
    }
    assert found["redis_writes"].outcome == "warning"
    assert "refuses this user's writes (NOPERM)" in found["redis_writes"].found
    assert "hunter2-x" not in str(found)
