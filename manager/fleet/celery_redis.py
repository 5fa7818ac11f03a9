"""Celery's two ways to Redis, broker and result backend, over the connections that the fleet's own clients use.

kombu and Celery would each read the URL in their own way, fail when a pool has no free connection, and end a consumer
when a server refuses. Here both take the address as `manager.fleet.address` reads it, wait for a connection, and treat a
server that refuses as one that is away: they connect again.

A host agent checks messages on top of this: the consumer subclasses its connection's transport (`tasks.consumer`).
"""

from typing import Any, Final

import redis
from celery.backends.redis import RedisBackend
from kombu.transport import redis as redis_transport
from redis.exceptions import RedisError

from manager.fleet.address import parse_redis_url
from manager.fleet.outages import ServerRefusesError
from manager.fleet.pools import make_pool
from manager.fleet.urls import safe_url

#: Connections of one of kombu's channels, which few threads use, and seconds to wait for one.
_CHANNEL_CONNECTIONS: Final = 32
_WAIT_SECONDS: Final = 10.0
#: A write that changes nothing: setting no bytes makes no key. Every server that refuses writes refuses it.
_PROBE: Final = ("SETRANGE", "_kombu.binding.celery.pidbox.probe", 0, "")

#: What Celery hands its backend that a connection takes.
_CONNECTION_OPTIONS: Final = (
    *("socket_timeout", "socket_connect_timeout", "socket_keepalive", "health_check_interval"),
    *("retry_on_timeout", "client_name", "driver_info", "lib_name", "lib_version"),
)


class FleetChannel(redis_transport.Channel):
    """A channel whose connections lead where the URL does as this project reads it."""

    def _get_pool(self, asynchronous: bool = False) -> redis.ConnectionPool:
        address = parse_redis_url(self.connection.client.hostname)
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=address.db)
        options = {
            "socket_timeout": self.socket_timeout,
            "socket_connect_timeout": self.socket_connect_timeout,
            "socket_keepalive": self.socket_keepalive,
            "health_check_interval": self.health_check_interval,
        }
        pool = make_pool(
            address,
            size=_CHANNEL_CONNECTIONS,
            wait_seconds=_WAIT_SECONDS,
            adapt=self._polled if asynchronous else None,
            **options,
        )
        # kombu closes these with the channel.
        manager = getattr(pool, "sentinel_manager", None)
        if asynchronous:
            self._async_sentinel_manager = manager
        else:
            self._sentinel_manager = manager
        return pool

    def _polled(self, connection_class: Any) -> Any:
        """Return a class of connections that tell the channel's poller when they close."""
        channel = self

        class Polled(connection_class):  # type: ignore[misc]
            def disconnect(self, *args: Any, **options: Any) -> None:
                super().disconnect(*args, **options)
                if channel._registered:
                    channel._on_connection_disconnect(self)  # type: ignore[no-untyped-call]

        return Polled


class FleetTransport(redis_transport.Transport):
    """kombu's Redis transport for the fleet's one URL, in every form that a fleet may have."""

    Channel: Any = FleetChannel
    #: kombu hands the URL over as it is.
    can_parse_url = True

    def establish_connection(self) -> Any:
        """Connect. Raises a connection error if the server refuses writes, so that kombu's growing pause applies.

        Without this a consumer would connect, be refused at its first write, and begin again several times a second.
        """
        connection = super().establish_connection()  # type: ignore[no-untyped-call]
        try:
            self._probe()
        except (RedisError, OSError):
            self.close_connection(connection)  # type: ignore[no-untyped-call]
            raise
        return connection

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return the URL without its password, or as a plain Celery app spells it."""
        del mask
        return parse_redis_url(uri).celery_url.partition(";")[0] if include_password else safe_url(uri)

    def _probe(self) -> None:
        channel: Any = self._avail_channels[-1]
        try:
            channel.client.execute_command(*_PROBE)
        except ServerRefusesError:
            raise
        except redis.ResponseError:
            pass  # a user who may not write there; the server itself takes writes


class FleetBackend(RedisBackend):  # type: ignore[misc]
    """Celery's result backend on Redis, for the fleet's one URL in every form that it may have."""

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:
        address = parse_redis_url(url)
        return {**defaults, "db": address.db, "address": address}

    def _get_pool(self, **params: Any) -> redis.ConnectionPool:
        return make_pool(
            params["address"],
            size=self.max_connections or _CHANNEL_CONNECTIONS,
            wait_seconds=_WAIT_SECONDS,
            **{name: params[name] for name in _CONNECTION_OPTIONS if params.get(name) is not None},
        )

    def as_uri(self, include_password: bool = False) -> str:
        return str(self.url) if include_password else safe_url(self.url)


__all__ = ["FleetBackend", "FleetChannel", "FleetTransport"]
