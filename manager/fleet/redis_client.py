"""Redis clients with bounded waits and one kind of error."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

from manager.errors import FleetUnavailableError
from manager.fleet.address import parse_redis_url
from manager.fleet.outages import outage_of
from manager.fleet.pools import CONNECTIONS, make_pool, shared_pool
from manager.fleet.urls import safe_url

#: Seconds. A connection within one continent takes a tenth of this; a longer wait only blocks the caller.
CONNECT_TIMEOUT: Final = 2.0
#: Timeout of one reply, in seconds.
REPLY_TIMEOUT: Final = 3.0

#: Texts with which servers refuse a database number.
_NO_DATABASE: Final = ("DB index is out of range", "invalid DB index")


def open_client(url: str, *, reply_timeout: float = REPLY_TIMEOUT) -> "redis.Redis":
    """Return a client for `url`.

    It connects at the first command and does not retry. The clients of a process share one pool. A thread
    waits up to `reply_timeout` seconds for a free connection.
    """
    address = parse_redis_url(url)
    pool = shared_pool(
        address,
        reply_timeout,
        lambda: make_pool(
            address,
            size=CONNECTIONS,
            wait_seconds=reply_timeout,
            socket_connect_timeout=CONNECT_TIMEOUT,
            socket_timeout=reply_timeout,
            socket_keepalive=True,
            health_check_interval=10,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        ),
    )
    return redis.Redis(connection_pool=pool)


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn redis-py's errors into FleetUnavailableError.

    Its text says what happened, where, and what to do next.
    """
    try:
        yield
    except AuthenticationError as error:
        raise FleetUnavailableError(
            f"Redis at {safe_url(url)} refuses the login ({error}): "
            "check user and password in MANAGER_REDIS_URL"
        ) from None
    except NoPermissionError as error:
        raise FleetUnavailableError(
            f"Redis at {safe_url(url)} does not permit this user the command ({error}): check its ACL"
        ) from None
    except MasterNotFoundError:
        raise FleetUnavailableError(
            f"Redis at {safe_url(url)}: no Sentinel names a primary: a failover is under way, the Sentinels "
            "cannot be reached, or they do not know the name after master=; try again in a moment"
        ) from None
    except (RedisError, OSError) as error:
        outage = outage_of(error)
        if outage is not None:
            raise FleetUnavailableError(f"Redis at {safe_url(url)} {outage.what}: {outage.advice}") from None
        if any(words in str(error) for words in _NO_DATABASE):
            raise FleetUnavailableError(
                f"Redis at {safe_url(url)} does not have this database: correct the number at the end of "
                "MANAGER_REDIS_URL"
            ) from None
        here = "is the fleet up? `manager up` starts one here; MANAGER_REDIS_URL names another one"
        there = "is it running there, and can this machine reach it?"
        advice = here if url.startswith("unix") else there
        raise FleetUnavailableError(
            f"Redis at {safe_url(url)} cannot be used ({_short(error)}): {advice}"
        ) from None


def _short(error: Exception) -> str:
    text = str(error).strip().rstrip(".") or type(error).__name__
    return text.splitlines()[0]
