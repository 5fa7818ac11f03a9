"""A real Redis with a replica and a Sentinel, on loopback."""

import subprocess
from pathlib import Path
from typing import Final

import redis

from support.ports import free_port
from support.servers import RedisServer, redis_binary
from support.waiting import eventually

MASTER: Final = "fleet"
#: The user with which the replica reads from the primary.
_REPLICA_USER: Final = "replica"


class SentinelRedis:
    """A primary and a replica.

    Replaces a `RedisServer` in a fleet (it has `url` and `client`).
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.servers = [self._server(index) for index in range(2)]
        primary, replica = self.servers
        with primary.client() as client:
            client.execute_command(
                "acl", "setuser", _REPLICA_USER, "on", "nopass", "+psync", "+replconf", "+ping"
            )
        with replica.client() as client:
            client.config_set("masteruser", _REPLICA_USER)
            client.config_set("masterauth", "any")
            client.execute_command("replicaof", "127.0.0.1", str(self._port_of(primary)))
            eventually(
                lambda: client.info("replication").get("master_link_status") == "up",
                within=20,
                what="the replica is in step",
            )
        # A Sentinel promotes no replica whose link was down for more than ten times `down-after` before that,
        # as after `lose_the_last_writes` and two commands.
        conf = directory / "sentinel.conf"
        conf.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {self._port_of(primary)} 1\n"
            f"sentinel down-after-milliseconds {MASTER} 2000\n"
            f"sentinel failover-timeout {MASTER} 2000\n"
        )
        self._sentinel = subprocess.Popen(
            [redis_binary(), str(conf), "--sentinel"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.url = f"sentinel://127.0.0.1:{self.port}/0?master={MASTER}"
        with redis.Redis(port=self.port) as client:
            eventually(
                lambda: self._knows_the_replica(client), within=20, what="the Sentinel knows both servers"
            )

    @property
    def primary(self) -> RedisServer:
        return self.servers[0]

    @property
    def replica(self) -> RedisServer:
        return self.servers[1]

    def client(self) -> "redis.Redis":
        """Return a client of the initial primary."""
        return self.primary.client()

    def lose_the_last_writes(self) -> None:
        """Disconnect the replica, so that it misses all writes from now on."""
        with self.primary.client() as client:
            client.execute_command("acl", "setuser", _REPLICA_USER, "off")
            client.execute_command("client", "kill", "type", "replica")
            assert client.info("replication")["connected_slaves"] == 0

    def fail_over(self) -> None:
        """Kill the primary and wait until the replica is promoted."""
        self.primary.process.kill()
        self.primary.process.wait(timeout=20)
        self.await_promotion()

    def await_promotion(self) -> None:
        with redis.Redis(port=self.port) as client:
            port = self._port_of(self.replica)

            def promoted() -> bool:
                state = client.sentinel_masters()[MASTER]
                return state["port"] == port and state["is_master"] and not state["is_sdown"]

            eventually(promoted, within=30, what="the replica is promoted")

    def close(self) -> None:
        self._sentinel.kill()
        self._sentinel.wait(timeout=20)
        for server in self.servers:
            server.close()

    def _server(self, index: int) -> RedisServer:
        directory = self.directory / f"server-{index}"
        directory.mkdir()
        return RedisServer(
            directory, "--port", str(free_port()), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"
        )

    @staticmethod
    def _port_of(server: RedisServer) -> int:
        with server.client() as client:
            return int(client.config_get("port")["port"])

    @staticmethod
    def _knows_the_replica(client: "redis.Redis") -> bool:
        try:
            found = client.sentinel_slaves(MASTER)
        except redis.RedisError:
            return False
        return len(found) == 1
