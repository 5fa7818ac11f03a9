"""Queries about the Redis server: version, settings, limits, writes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from manager.fleet.outages import outage_of
from manager.fleet.redis_client import translated
from manager.fleet.timestamped import clock_seconds

#: A key that hosts and managers may write. It never exists.
_PROBE_KEY: Final = "manager:seen:doctor"


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """A server's role and its connections."""

    #: `master` or `slave`, as Redis calls them.
    role: str
    connections: int
    #: The server's `maxclients`; None where this user may not read it.
    most_connections: int | None


@dataclass(frozen=True, slots=True)
class WriteRefusal:
    """Why a server refuses writes."""

    #: As the server spells it: MISCONF, OOM, READONLY, NOREPLICAS, NOPERM, ...
    code: str
    #: The end of a sentence that begins with "it".
    what: str
    advice: str
    #: The server's own text.
    said: str


class RedisServer:
    """Queries about the server.

    Every method raises FleetUnavailableError if it cannot be reached.
    """

    def __init__(self, url: str, client: Any) -> None:
        self._url = url
        self._client = client

    def ping(self) -> dict[str, Any]:
        """Return the `INFO server` section, plus `name` and `time`.

        `time` is the server's clock in seconds since the epoch.
        """
        with translated(self._url):
            info = cast(dict[str, Any], self._client.info("server"))
            time = cast(tuple[int, int], self._client.time())
        return {**info, "time": clock_seconds(time), "name": server_name(info)}

    def settings(self) -> dict[str, str] | None:
        """Return the settings that a fleet depends on.

        Returns None where this user may not read them.
        """
        with translated(self._url):
            try:
                return {
                    name: value
                    for pattern in ("maxmemory-policy", "appendonly", "min-replicas-*")
                    for name, value in self._client.config_get(pattern).items()
                }
            except ResponseError:
                return None

    def limits(self) -> ServerLimits:
        """Return the server's role, its open connections, and how many it allows."""
        with translated(self._url):
            pipe = self._client.pipeline(transaction=False)
            pipe.info("clients")
            pipe.info("replication")
            clients, replication = pipe.execute()
            most = clients.get("maxclients")
            if most is None:
                # Redis before 7 does not report it in INFO.
                try:
                    most = self._client.config_get("maxclients").get("maxclients")
                except ResponseError:
                    most = None
        return ServerLimits(
            role=str(replication.get("role", "")),
            connections=int(clients.get("connected_clients", 0)),
            most_connections=None if most is None else int(most),
        )

    def write_refusal(self) -> WriteRefusal | None:
        """Return why the server refuses this user's writes.

        Returns None if it accepts them. Changes nothing.
        """
        try:
            # An empty SETRANGE creates no key, but Redis checks it like any write that needs memory.
            self._client.setrange(_PROBE_KEY, 0, b"")
        except (RedisError, OSError) as error:
            said = (str(error).strip().splitlines() or [""])[0][:200]
            if isinstance(error, NoPermissionError):
                return WriteRefusal("NOPERM", "does not permit this user to write", "check its ACL", said)
            outage = outage_of(error)
            if outage is None:
                with translated(self._url):
                    raise
            return WriteRefusal(outage.code, outage.what, outage.advice, said)
        return None


def server_name(info: Mapping[str, Any]) -> str:
    """Return the server's product and version from its `INFO server` section.

    Valkey reports the Redis version that it is compatible with as well.
    """
    if info.get("valkey_version"):
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', 'of unknown version')}"
