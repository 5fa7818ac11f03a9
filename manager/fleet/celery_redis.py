"""Celery's broker and result backend on the fleet's own connections.

By themselves kombu and Celery parse the URL differently, fail when a pool has no free connection, and end a
consumer when a server refuses a command. Here both use the address that `manager.fleet.address` parsed, wait
for a free connection, and treat a refusing server as unreachable: they reconnect.

A host agent also checks messages: its consumer subclasses the transport of its connection (`tasks.consumer`).
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

#: Connections of one kombu channel, which few threads use, and seconds to wait for a free one.
_CHANNEL_CONNECTIONS: Final = 32
_WAIT_SECONDS: Final = 10.0
#: A write that changes nothing, because an empty SETRANGE creates no key. A server that refuses writes
#: refuses it.
_PROBE: Final = ("SETRANGE", "_kombu.binding.celery.pidbox.probe", 0, "")

#: Options that Celery passes to its backend and that a connection accepts.
_CONNECTION_OPTIONS: Final = (
    *("socket_timeout", "socket_connect_timeout", "socket_keepalive", "health_check_interval"),
    *("retry_on_timeout", "client_name", "driver_info", "lib_name", "lib_version"),
)


class FleetChannel(redis_transport.Channel):
    """A channel whose connections use the address as this project parses it."""

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
        """Return a connection class that notifies the poller when it closes."""
        channel = self

        class Polled(connection_class):  # type: ignore[misc]
            def disconnect(self, *args: Any, **options: Any) -> None:
                super().disconnect(*args, **options)
                if channel._registered:
                    channel._on_connection_disconnect(self)  # type: ignore[no-untyped-call]

        return Polled


class FleetTransport(redis_transport.Transport):
    """kombu's Redis transport, for every supported form of URL."""

    Channel: Any = FleetChannel
    #: kombu then passes the URL on unparsed.
    can_parse_url = True

    def establish_connection(self) -> Any:
        """Connect, and check that the server accepts writes.

        Raises a connection error if it refuses them. kombu then backs off; without the check a consumer would
        connect, fail at its first write, and reconnect several times a second.
        """
        connection = super().establish_connection()  # type: ignore[no-untyped-call]
        try:
            self._probe()
        except (RedisError, OSError):
            self.close_connection(connection)  # type: ignore[no-untyped-call]
            raise
        return connection

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return the URL without its password, or as a plain Celery app's."""
        del mask
        return parse_redis_url(uri).celery_url.partition(";")[0] if include_password else safe_url(uri)

    def _probe(self) -> None:
        channel: Any = self._avail_channels[-1]
        try:
            channel.client.execute_command(*_PROBE)
        except ServerRefusesError:
            raise
        except redis.ResponseError:
            pass  # this user may not write the key, but the server accepts writes


class FleetBackend(RedisBackend):  # type: ignore[misc]
    """Celery's Redis result backend, for every supported form of URL."""

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
