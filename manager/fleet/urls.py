"""The URL of the fleet's Redis, for clients, Celery and messages."""

import sys
from urllib.parse import quote

from manager.fleet.address import RedisAddress, parse_redis_url
from manager.settings import Settings
from manager.system.state_dir import StatePaths


def fleet_address(settings: Settings) -> RedisAddress:
    """Return the address in MANAGER_REDIS_URL, or the local default.

    The default is the Redis that `manager up` starts on this machine. Raises SettingsError if the URL cannot
    be used.
    """
    url = "" if settings.redis_url is None else settings.redis_url.get_secret_value()
    if url:
        return parse_redis_url(url)
    if sys.platform == "win32":
        return parse_redis_url("redis://127.0.0.1:6379/0")
    return parse_redis_url(f"unix://{quote(str(StatePaths(settings.state_dir).redis_socket))}")


def fleet_url(settings: Settings) -> str:
    """Return the canonical URL, for this project's clients.

    It may hold a password: never log it, show `safe_url` of it. Raises SettingsError if it cannot be used.
    """
    return fleet_address(settings).url


def celery_url(settings: Settings) -> str:
    """Return the URL for a plain Celery app.

    For a Unix socket it begins with `redis+socket://`.
    """
    return fleet_address(settings).celery_url


def safe_url(url: str) -> str:
    """Return `url` without its secrets and options, for messages.

    Raises SettingsError if it cannot be parsed.
    """
    address = parse_redis_url(url)
    scheme, _, rest = address.url.partition("?")[0].partition("://")
    credentials, at, place = rest.rpartition("@")
    if at:
        # A user name without a password is often a misplaced password: hide it too.
        user = f"{quote(address.username, safe='')}:" if address.password else ""
        credentials = f"{user}***@"
    if address.kind == "sentinel":
        place += f"?master={address.master}"
    return f"{scheme}://{credentials}{place}"


__all__ = ["celery_url", "fleet_address", "fleet_url", "safe_url"]
