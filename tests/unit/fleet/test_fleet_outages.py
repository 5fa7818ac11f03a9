"""Servers that answer but refuse: each state is named, has advice, and closes the connection."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import redis
from redis.exceptions import ResponseError
from support.servers import RedisServer

from manager.errors import FleetUnavailableError
from manager.fleet.outages import ServerRefusesError, outage_of
from manager.fleet.redis_client import open_client, translated


def error_of(url: str, command: Callable[["redis.Redis"], object]) -> str:
    client = open_client(url)
    with pytest.raises(FleetUnavailableError) as raised, translated(url):
        command(client)
    text = str(raised.value)
    assert "\n" not in text
    return text


def write(client: "redis.Redis") -> object:
    return client.set("a", "b")


def write_by_script(client: "redis.Redis") -> object:
    return client.register_script("return redis.call('SET', 'a', 'b')")()


def write_in_a_transaction(client: "redis.Redis") -> object:
    pipe = client.pipeline(transaction=True)
    pipe.set("a", "b")
    return pipe.execute()


WRITES = [write, write_by_script, write_in_a_transaction]


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("replicaof", "127.0.0.1", "1"),
            "is a read-only replica (READONLY): point MANAGER_REDIS_URL at the primary",
        ),
        (
            ("config", "set", "min-replicas-to-write", "2"),
            "too few replicas are in sync (NOREPLICAS, min-replicas-to-write)",
        ),
        (("config", "set", "maxmemory", "1"), "is out of memory (OOM)"),
    ],
)
def test_a_state_that_refuses_writes_is_named(
    redis_server: RedisServer,
    change: tuple[str, ...],
    expected: str,
    how: Callable[["redis.Redis"], object],
) -> None:
    with redis_server.client() as client:
        client.execute_command(*change)
    assert expected in error_of(redis_server.url, how)


def test_a_server_that_cannot_save_is_named(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.execute_command("config", "set", "save", "900 1")
        client.execute_command("config", "set", "appendonly", "no")
        client.set("a", "b")
        # A directory at the path of the dump file makes each save fail.
        (redis_server.directory / "dump.rdb").unlink(missing_ok=True)
        (redis_server.directory / "dump.rdb").mkdir()
        with pytest.raises(ResponseError):
            client.save()
        client.bgsave()
        for _ in range(200):
            if client.info("persistence")["rdb_last_bgsave_status"] == "err":
                break
            client.blpop(["nothing"], timeout=0.05)
    assert "cannot save to its disk (MISCONF, stop-writes-on-bgsave-error): free space" in error_of(
        redis_server.url, write
    )


def test_a_replica_without_its_primary_is_named(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.execute_command("config", "set", "replica-serve-stale-data", "no")
        client.execute_command("replicaof", "127.0.0.1", "1")
    assert "is a replica that has lost its primary" in error_of(
        redis_server.url, lambda client: client.get("a")
    )


@pytest.fixture
def cluster(short_dir: Path) -> Iterator[RedisServer]:
    directory = short_dir / "cluster"
    directory.mkdir()
    server = RedisServer(directory, "--cluster-enabled", "yes")
    yield server
    server.close()


def test_a_cluster_is_named(cluster: RedisServer) -> None:
    assert "runs as a cluster" in error_of(cluster.url, write)
    with cluster.client() as client:
        client.execute_command("cluster", "addslots", *range(8000))
    commands = [partial(redis.Redis.set, name=key, value="b") for key in ("a", "b", "c", "d")]
    texts = {error_of(cluster.url, command) for command in commands}
    assert all("cluster" in text and "sentinel://" in text for text in texts)


def test_a_clusters_database_and_a_missing_database_are_named(
    cluster: RedisServer, redis_server: RedisServer
) -> None:
    # A Valkey 9 cluster supports databases, and reports that this one does not exist.
    of_cluster = error_of(f"{cluster.url}?db=1", write)
    assert (
        "runs as a cluster, which Celery's broker cannot use" in of_cluster
        or "does not have this database" in of_cluster
    )
    text = error_of(f"{redis_server.url}?db=99", write)
    assert "does not have this database: correct the number" in text


@pytest.fixture
def crowded(short_dir: Path) -> Iterator[RedisServer]:
    directory = short_dir / "crowded"
    directory.mkdir()
    server = RedisServer(directory)
    yield server
    server.close()


def test_a_server_with_too_many_clients_is_named(crowded: RedisServer) -> None:
    with crowded.client() as held:
        held.config_set("maxclients", 1)
        text = error_of(crowded.url, write)
    assert "accepts no more connections (its maxclients is reached): raise maxclients" in text


def test_a_script_that_does_not_end_is_named(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.config_set("lua-time-limit", 10)
    endless = open_client(redis_server.url, reply_timeout=0.3)
    with pytest.raises(redis.TimeoutError):
        endless.eval("while true do end", 0)
    try:
        assert "is busy with a script that does not end (BUSY): end it with SCRIPT KILL" in error_of(
            redis_server.url, write
        )
    finally:
        with redis_server.client() as client:
            client.script_kill()


def test_a_refused_client_reconnects_and_other_errors_keep_the_connection(
    redis_server: RedisServer,
) -> None:
    client = open_client(redis_server.url)
    number = client.client_id()
    with pytest.raises(ResponseError):
        client.execute_command("nonsense")  # type: ignore[no-untyped-call]
    assert client.client_id() == number
    with redis_server.client() as other:
        other.execute_command("replicaof", "127.0.0.1", "1")
        with pytest.raises(ServerRefusesError):
            client.set("a", "b")
        other.execute_command("replicaof", "no", "one")
    assert client.client_id() != number
    assert client.set("a", "b")


@pytest.mark.parametrize(
    "text",
    [
        "WRONGTYPE Operation against a key",
        "ERR unknown command 'OOM '",
        "NOSCRIPT No matching script",
        "BUSYGROUP x",
    ],
)
def test_an_error_of_the_command_is_not_an_outage(text: str) -> None:
    assert outage_of(ResponseError(text)) is None
