"""The fleet's Redis by URL: found from the settings, and spelt as this project or as Celery wants it."""

import sys
from urllib.parse import quote

from manager.fleet.address import RedisAddress, parse_redis_url
from manager.settings import Settings
from manager.system.state_dir import StatePaths


def fleet_address(settings: Settings) -> RedisAddress:
    """Return where MANAGER_REDIS_URL leads, else the Redis of `manager up` on this machine. Raises SettingsError."""
    url = "" if settings.redis_url is None else settings.redis_url.get_secret_value()
    if url:
        return parse_redis_url(url)
    if sys.platform == "win32":
        return parse_redis_url("redis://127.0.0.1:6379/0")
    return parse_redis_url(f"unix://{quote(str(StatePaths(settings.state_dir).redis_socket))}")


def fleet_url(settings: Settings) -> str:
    """Return the URL in its canonical form, for every client of this project.

    It may hold a password: never log it, show `safe_url` of it. Raises SettingsError if it cannot be used.
    """
    return fleet_address(settings).url


def celery_url(settings: Settings) -> str:
    """Return the same place as a plain Celery app spells it (`redis+socket://` for a Unix socket)."""
    return fleet_address(settings).celery_url


def safe_url(url: str) -> str:
    """Return `url` without its secrets and options, fit for messages. Raises SettingsError if it cannot be read."""
    address = parse_redis_url(url)
    scheme, _, rest = address.url.partition("?")[0].partition("://")
    credentials, at, place = rest.rpartition("@")
    if at:
        # A name without a password is a password in the wrong place, as often as not.
        user = f"{quote(address.username, safe='')}:" if address.password else ""
        credentials = f"{user}***@"
    if address.kind == "sentinel":
        place += f"?master={address.master}"
    return f"{scheme}://{credentials}{place}"


__all__ = ["celery_url", "fleet_address", "fleet_url", "safe_url"]
