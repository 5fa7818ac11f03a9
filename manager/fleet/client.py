"""How this project opens a Redis client: bounded in every wait, and failing with one kind of error."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    RedisError,
)
from redis.retry import Retry

from manager.errors import FleetUnavailableError
from manager.fleet.urls import safe_url

#: Seconds. A Redis on the same continent connects in a tenth of this; longer waits only hold the caller up.
CONNECT_TIMEOUT: Final = 2.0
#: Seconds that one reply may take.
REPLY_TIMEOUT: Final = 3.0


def open_client(url: str, *, reply_timeout: float = REPLY_TIMEOUT) -> "redis.Redis":
    """Return a client for `url`. Connects at the first command, waits boundedly, and does not retry by itself."""
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=reply_timeout,
        health_check_interval=10,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        **({} if url.startswith("unix") else {"socket_keepalive": True}),
    )


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn any trouble with Redis into FleetUnavailableError: what, where, and what to do next."""
    try:
        yield
    except AuthenticationError as error:
        raise FleetUnavailableError(
            f"Redis at {safe_url(url)} refuses the login ({error}): check user and password in MANAGER_REDIS_URL"
        ) from None
    except NoPermissionError as error:
        raise FleetUnavailableError(
            f"Redis at {safe_url(url)} does not permit this user what was asked ({error}): check its ACL"
        ) from None
    except BusyLoadingError:
        raise FleetUnavailableError(
            f"Redis at {safe_url(url)} is still loading its data: try again in a moment"
        ) from None
    except (RedisError, OSError) as error:
        # By its text: within a script or a pipeline, and by version of Redis, it comes as one error or another.
        if "maxmemory" in str(error):
            raise FleetUnavailableError(
                f"Redis at {safe_url(url)} is out of memory (OOM) and takes nothing new: give it more (maxmemory), or find "
                "out what fills it; workers that run go on"
            ) from None
        here = "is the fleet up? `manager up` starts one here; MANAGER_REDIS_URL names one elsewhere"
        there = "does it run there, and may this machine reach it?"
        raise FleetUnavailableError(
            f"Redis at {safe_url(url)} cannot be used ({_short(error)}): {here if url.startswith('unix') else there}"
        ) from None


def _short(error: Exception) -> str:
    text = str(error).strip().rstrip(".") or type(error).__name__
    return text.splitlines()[0]
