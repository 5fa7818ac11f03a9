"""The fleet's Redis by URL: found from the settings, and spelt as redis-py or as kombu wants it."""

import sys
from collections.abc import Mapping
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlencode, urlsplit

from manager.errors import SettingsError
from manager.paths import StatePaths
from manager.settings import Settings

_SCHEMES = ("redis", "rediss", "unix", "redis+socket")

_NO_URL = (
    "MANAGER_REDIS_URL cannot be read as redis://USER:PASSWORD@HOST:PORT/0: in a password, / # ? @ : and % are written as "
    "%2F %23 %3F %40 %3A and %25"
)


def fleet_url(settings: Settings) -> str:
    """Return the URL for redis-py: MANAGER_REDIS_URL, else the Redis of `manager up` on this machine.

    It may hold a password: never log it, show `safe_url` of it. Raises SettingsError if it is no Redis URL.
    """
    if settings.redis_url is None or not settings.redis_url.get_secret_value():
        if sys.platform == "win32":
            return "redis://127.0.0.1:6379/0"
        return f"unix://{quote(str(StatePaths(settings.state_dir).redis_socket))}"
    url = settings.redis_url.get_secret_value()
    parts = _split(url)
    if parts.scheme not in _SCHEMES:
        raise SettingsError(
            f"MANAGER_REDIS_URL: {parts.scheme or 'no'} scheme; use redis://, rediss:// or unix://"
        )
    if parts.scheme != "redis+socket":
        return url
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    if "virtual_host" in query:
        query["db"] = query.pop("virtual_host")
    return _socket_url("unix", parts.netloc, parts.path, query)


def celery_url(settings: Settings) -> str:
    """Return the same place as Celery's broker and result backend spell it (`redis+socket://` for a Unix socket)."""
    url = fleet_url(settings)
    parts = _split(url)
    if parts.scheme != "unix":
        return url
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    if "db" in query:
        query["virtual_host"] = query.pop("db")
    return _socket_url("redis+socket", parts.netloc, unquote(parts.path), query)


def safe_url(url: str) -> str:
    """Return `url` with any password replaced by `***`, fit for messages."""
    parts = _split(url)
    if "@" not in parts.netloc:
        return url.partition("?")[0]
    credentials, _, place = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    # A name without a password is a password in the wrong place, as often as not.
    return f"{parts.scheme}://{f'{user}:' if password else ''}***@{place}{parts.path}"


def _socket_url(scheme: str, netloc: str, path: str, query: Mapping[str, str]) -> str:
    # urlunsplit drops the slashes of an empty network location, and kombu then takes the scheme for a module.
    return f"{scheme}://{netloc}{path}" + (f"?{urlencode(query)}" if query else "")


def _split(url: str) -> SplitResult:
    """Take a URL apart. Raises SettingsError, whose text holds nothing of it: what cannot be read may be a password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise SettingsError(_NO_URL) from None
    if parts.scheme in ("redis", "rediss") and (not parts.hostname or "@" in parts.path + parts.fragment):
        raise SettingsError(_NO_URL)
    return parts
