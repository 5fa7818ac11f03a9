"""Bounded connection pools to the fleet's Redis.

A thread waits for a free connection; redis-py's default pool would fail.
"""

import weakref
from collections.abc import Callable
from threading import Lock
from typing import Any, Final

from redis.backoff import NoBackoff
from redis.connection import BlockingConnectionPool, Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from manager.fleet.address import RedisAddress
from manager.fleet.outages import refusal_aware

#: Connections that one process opens at most for the fleet's records. Each command needs one for about a
#: millisecond, so many more threads can share them. The limit keeps a fleet of many processes below the
#: server's own.
CONNECTIONS: Final = 128

#: Timeout of one Sentinel's answer.
_SENTINEL_SECONDS: Final = 1.0
#: Every new connection asks a Sentinel for the primary, and a burst of threads does so at once.
_SENTINEL_CONNECTIONS: Final = 1024
_SENTINEL_PORT: Final = 26379
_PORT: Final = 6379


class BlockingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """A blocking pool of connections to the primary that the Sentinels name."""


def make_pool(
    address: RedisAddress,
    *,
    size: int,
    wait_seconds: float,
    adapt: Callable[[Any], Any] | None = None,
    **options: Any,
) -> BlockingConnectionPool:
    """Return a pool of at most `size` connections to `address`.

    A thread waits up to `wait_seconds` for a free connection. `adapt` may replace the connection class.
    `options` are redis-py's options of a connection.
    """
    classes = {
        ("tcp", False): Connection,
        ("tcp", True): SSLConnection,
        ("unix", False): UnixDomainSocketConnection,
        ("sentinel", False): SentinelManagedConnection,
        ("sentinel", True): SentinelManagedSSLConnection,
    }
    connection_class: Any = refusal_aware(classes[address.kind, address.tls])
    options |= {
        "db": address.db,
        "connection_class": connection_class if adapt is None else adapt(connection_class),
        "max_connections": size,
        "timeout": wait_seconds,
        **dict(address.tls_options),
    }
    if address.username or address.password:
        options |= {"username": address.username or None, "password": address.password}
    if address.kind == "unix":
        for name in ("socket_keepalive", "socket_connect_timeout"):
            options.pop(name, None)
        return BlockingConnectionPool(path=address.path, **options)  # type: ignore[no-untyped-call]
    if address.kind == "tcp":
        ((host, port),) = address.places
        return BlockingConnectionPool(host=host, port=port or _PORT, **options)  # type: ignore[no-untyped-call]
    return BlockingSentinelPool(address.master, _sentinels(address), **options)  # type: ignore[no-untyped-call]


def sentinel_options(address: RedisAddress) -> dict[str, Any]:
    """Return redis-py's options for connections to the Sentinels."""
    login = {"username": address.sentinel_username or None, "password": address.sentinel_password}
    return {
        "socket_timeout": _SENTINEL_SECONDS,
        "socket_connect_timeout": _SENTINEL_SECONDS,
        "max_connections": _SENTINEL_CONNECTIONS,
        **(login if address.sentinel_username or address.sentinel_password else {}),
        **({"ssl": True, **dict(address.tls_options)} if address.tls else {}),
    }


def _sentinels(address: RedisAddress) -> Sentinel:
    places = [(host, port or _SENTINEL_PORT) for host, port in address.places]
    options = {**sentinel_options(address), "retry": Retry(NoBackoff(), 0)}
    return Sentinel(places, sentinel_kwargs=options)  # type: ignore[no-untyped-call]


_shared: "weakref.WeakValueDictionary[tuple[RedisAddress, float], BlockingConnectionPool]" = (
    weakref.WeakValueDictionary()
)
_lock: Final = Lock()


def shared_pool(
    address: RedisAddress, reply_timeout: float, make: Callable[[], BlockingConnectionPool]
) -> BlockingConnectionPool:
    """Return this process's pool for the address.

    `make` creates it if there is none. The pool lives as long as its clients.
    """
    with _lock:
        pool = _shared.get((address, reply_timeout))
        if pool is None:
            pool = _shared[address, reply_timeout] = make()
        return pool
